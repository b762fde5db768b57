//! Container images without a container engine: layers and archives written by hand.
//!
//! An archive is an OCI image layout in one tar file, with the `manifest.json` of `docker save`
//! beside it, so containerd, podman, docker, kind and skopeo all read it. Which images exist and
//! what is in them is in [`catalogue`]; the Debian files under the product are in [`base`].

pub mod base;
pub mod catalogue;
mod layer;

use std::fs::{self, File};
use std::io::{BufWriter, Read};
use std::path::Path;

use anyhow::{Context, Result};
use aws_lc_rs::digest::{self, SHA256};
use serde_json::{Value, json};

pub use layer::{Layer, LayerBuilder, Owner};

/// What a container of an image runs as; the layers hold the files.
#[derive(Debug, Clone, Default)]
pub struct ImageConfig {
    /// The full name with tag, for example `localhost/busybox:1`.
    pub name: String,
    /// The command line.
    pub entrypoint: Vec<String>,
    /// `uid:gid`, empty for root.
    pub user: String,
    /// `NAME=value` lines.
    pub environment: Vec<String>,
    /// The folder a container starts in, empty for `/`.
    pub working_folder: String,
    /// Ports for documentation, for example `17001/tcp`.
    pub ports: Vec<String>,
    /// OCI annotations such as `org.opencontainers.image.title`.
    pub labels: Vec<(String, String)>,
}

/// Writes `layers`, lowest first, as an image archive to `path`, replacing what is there.
///
/// - Shape: an OCI image layout with one manifest; the same input gives the same bytes.
/// - Errors: a file could not be read or written; `path` is then not replaced.
pub fn write_archive(path: &Path, config: &ImageConfig, layers: &[Layer]) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    let file =
        File::create(&unfinished).with_context(|| format!("creating {}", unfinished.display()))?;
    let mut archive = tar::Builder::new(BufWriter::new(file));
    for layer in layers {
        let mut content = File::open(&layer.path).context("opening a layer")?;
        append(
            &mut archive,
            &blob_path(&layer.digest),
            layer.size_bytes,
            &mut content,
        )?;
    }
    let config_digest = append_blob(&mut archive, &config_document(config, layers))?;
    let manifest = manifest_document(&config_digest, layers);
    let manifest_digest = append_blob(&mut archive, &manifest)?;
    for (name, document) in [
        ("index.json", index_document(config, &manifest_digest)),
        (
            "manifest.json",
            docker_document(config, &config_digest, layers),
        ),
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
    ] {
        let bytes = document.to_string().into_bytes();
        append(
            &mut archive,
            name,
            bytes.len() as u64,
            &mut bytes.as_slice(),
        )?;
    }
    let file = archive.into_inner().context("finishing the archive")?;
    file.into_inner().context("flushing the archive")?;
    fs::rename(&unfinished, path).with_context(|| format!("replacing {}", path.display()))
}

/// Digest and size of a document that was put into an archive.
struct Blob {
    digest: String,
    size_bytes: usize,
}

fn append_blob(archive: &mut tar::Builder<BufWriter<File>>, document: &Value) -> Result<Blob> {
    let bytes = document.to_string().into_bytes();
    let blob = Blob {
        digest: sha256(&bytes),
        size_bytes: bytes.len(),
    };
    append(
        archive,
        &blob_path(&blob.digest),
        bytes.len() as u64,
        &mut bytes.as_slice(),
    )?;
    Ok(blob)
}

fn append(
    archive: &mut tar::Builder<BufWriter<File>>,
    name: &str,
    size_bytes: u64,
    content: &mut dyn Read,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive
        .append_data(&mut header, name, content)
        .with_context(|| format!("writing {name} into the image archive"))
}

fn config_document(config: &ImageConfig, layers: &[Layer]) -> Value {
    let ports: serde_json::Map<_, _> = config
        .ports
        .iter()
        .map(|port| (port.clone(), json!({})))
        .collect();
    let labels: serde_json::Map<_, _> = config
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), json!(value)))
        .collect();
    json!({
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "User": config.user,
            "Env": config.environment,
            "Entrypoint": config.entrypoint,
            "WorkingDir": config.working_folder,
            "ExposedPorts": ports,
            "Labels": labels,
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|layer| &layer.content_digest).collect::<Vec<_>>(),
        },
    })
}

fn manifest_document(config: &Blob, layers: &[Layer]) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config.digest,
            "size": config.size_bytes,
        },
        "layers": layers.iter().map(|layer| json!({
            "mediaType": layer.media_type(),
            "digest": layer.digest,
            "size": layer.size_bytes,
        })).collect::<Vec<_>>(),
    })
}

fn index_document(config: &ImageConfig, manifest: &Blob) -> Value {
    let tag = config
        .name
        .rsplit_once(':')
        .map_or("latest", |(_, tag)| tag);
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest.digest,
            "size": manifest.size_bytes,
            "platform": {"architecture": architecture(), "os": "linux"},
            "annotations": {
                "io.containerd.image.name": config.name,
                "org.opencontainers.image.ref.name": tag,
            },
        }],
    })
}

fn docker_document(config: &ImageConfig, config_blob: &Blob, layers: &[Layer]) -> Value {
    json!([{
        "Config": blob_path(&config_blob.digest),
        "RepoTags": [config.name],
        "Layers": layers.iter().map(|layer| blob_path(&layer.digest)).collect::<Vec<_>>(),
    }])
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// The name of this machine's architecture in image documents.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest_text(digest::digest(&SHA256, bytes).as_ref())
}

/// The digest of a file as `sha256:…`.
fn sha256_of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut context = digest::Context::new(&SHA256);
    let mut chunk = vec![0; 1 << 20];
    loop {
        let read = file
            .read(&mut chunk)
            .with_context(|| format!("reading {}", path.display()))?;
        if read == 0 {
            return Ok(digest_text(context.finish().as_ref()));
        }
        context.update(&chunk[..read]);
    }
}

fn digest_text(digest: &[u8]) -> String {
    let mut text = String::from("sha256:");
    for byte in digest {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;

    use super::*;

    fn sample(folder: &Path) -> BTreeMap<String, Vec<u8>> {
        let mut layer = LayerBuilder::create(&folder.join("layer.tar")).unwrap();
        layer.folder("tmp", 0o1777, Owner::ROOT).unwrap();
        layer
            .bytes("etc/motd", 0o644, Owner::ROOT, b"hello")
            .unwrap();
        let layers = [layer.finish().unwrap()];
        let config = ImageConfig {
            name: "localhost/sample:7".to_owned(),
            user: "65532:65532".to_owned(),
            ..ImageConfig::default()
        };
        let path = folder.join("sample.tar");
        write_archive(&path, &config, &layers).unwrap();
        let mut archive = tar::Archive::new(File::open(path).unwrap());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (name, content)
        });
        entries.collect()
    }

    #[test]
    fn every_digest_of_an_archive_leads_to_the_bytes_it_names() {
        let folder = tempfile::tempdir().unwrap();
        let files = sample(folder.path());
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifest_digest = index["manifests"][0]["digest"].as_str().unwrap();
        let manifest = &files[&blob_path(manifest_digest)];
        assert_eq!(sha256(manifest), manifest_digest);
        let manifest: Value = serde_json::from_slice(manifest).unwrap();
        let config_digest = manifest["config"]["digest"].as_str().unwrap();
        let config: Value = serde_json::from_slice(&files[&blob_path(config_digest)]).unwrap();
        assert_eq!(config["config"]["User"], "65532:65532");
        let layer = &manifest["layers"][0];
        let content = &files[&blob_path(layer["digest"].as_str().unwrap())];
        assert_eq!(content.len() as u64, layer["size"].as_u64().unwrap());
        assert_eq!(config["rootfs"]["diff_ids"][0], sha256(content));
    }

    #[test]
    fn the_same_content_gives_the_same_archive() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(sample(first.path()), sample(second.path()));
    }

    #[test]
    fn engines_that_read_docker_archives_find_the_name() {
        let folder = tempfile::tempdir().unwrap();
        let files = sample(folder.path());
        let manifest: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "localhost/sample:7");
        assert!(files.contains_key(manifest[0]["Config"].as_str().unwrap()));
    }

    #[test]
    fn a_compressed_layer_keeps_the_digest_of_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let mut layer = LayerBuilder::create(&folder.path().join("layer.tar")).unwrap();
        layer
            .bytes("zeros", 0o644, Owner::ROOT, &[0; 100_000])
            .unwrap();
        let plain = layer.finish().unwrap();
        let content_digest = plain.content_digest.clone();
        let compressed = plain.compress().unwrap();
        assert_eq!(compressed.content_digest, content_digest);
        assert_ne!(compressed.digest, content_digest);
        assert!(compressed.size_bytes < 10_000, "{}", compressed.size_bytes);
    }
}
