//! One layer of an image: a tar file of files, folders and links with fixed owners and times.

use std::fs::{self, File};
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::sha256_of_file;

/// Who owns a file in an image.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    /// Numeric user id.
    pub user: u64,
    /// Numeric group id.
    pub group: u64,
}

impl Owner {
    /// User and group 0.
    pub const ROOT: Self = Self { user: 0, group: 0 };
    /// The user of the product's containers; the number that distroless images use for `nonroot`.
    pub const NONROOT: Self = Self {
        user: 65532,
        group: 65532,
    };
}

/// A finished layer on disk.
#[derive(Debug)]
pub struct Layer {
    pub(super) path: PathBuf,
    /// Digest of the file as it is stored.
    pub(super) digest: String,
    /// Digest of the tar inside, which stays the same when the file is compressed.
    pub(super) content_digest: String,
    pub(super) size_bytes: u64,
    compressed: bool,
}

impl Layer {
    /// Compresses the layer in place, for archives that travel. It takes about a second for 100 MB.
    pub fn compress(self) -> Result<Self> {
        let path = self.path.with_extension("gz");
        let output = File::create(&path).context("creating a compressed layer")?;
        // The system's gzip: it is compiled with optimisation also when this program is not.
        let status = Command::new("gzip")
            .args(["-n", "-1", "-c"])
            .arg(&self.path)
            .stdout(Stdio::from(output))
            .status()
            .context("starting gzip")?;
        ensure!(
            status.success(),
            "compressing {} ended with {status}",
            self.path.display()
        );
        fs::remove_file(&self.path).context("removing the uncompressed layer")?;
        Ok(Self {
            digest: sha256_of_file(&path)?,
            size_bytes: fs::metadata(&path).context("reading a layer's size")?.len(),
            content_digest: self.content_digest,
            compressed: true,
            path,
        })
    }

    pub(super) fn media_type(&self) -> &'static str {
        if self.compressed {
            "application/vnd.oci.image.layer.v1.tar+gzip"
        } else {
            "application/vnd.oci.image.layer.v1.tar"
        }
    }
}

/// Writes a layer entry by entry. Paths are relative to the image's root, without a leading slash.
pub struct LayerBuilder {
    path: PathBuf,
    tar: tar::Builder<BufWriter<File>>,
}

impl LayerBuilder {
    /// Starts a layer in the file `path`.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            tar: tar::Builder::new(BufWriter::new(file)),
        })
    }

    /// Adds an empty folder.
    pub fn folder(&mut self, name: &str, mode: u32, owner: Owner) -> Result<()> {
        let mut header = header(tar::EntryType::Directory, mode, owner);
        header.set_size(0);
        self.append(&mut header, &format!("{name}/"), &mut std::io::empty())
    }

    /// Adds a file with the given content.
    pub fn bytes(&mut self, name: &str, mode: u32, owner: Owner, content: &[u8]) -> Result<()> {
        let mut header = header(tar::EntryType::Regular, mode, owner);
        header.set_size(content.len() as u64);
        self.append(&mut header, name, &mut &*content)
    }

    /// Adds an executable from this machine, owned by root.
    pub fn program(&mut self, name: &str, source: &Path) -> Result<()> {
        let mut file =
            File::open(source).with_context(|| format!("opening {}", source.display()))?;
        let size = file.metadata().context("reading a program's size")?.len();
        let mut header = header(tar::EntryType::Regular, 0o755, Owner::ROOT);
        header.set_size(size);
        self.append(&mut header, name, &mut file)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, name: &str, target: &str) -> Result<()> {
        let mut header = header(tar::EntryType::Symlink, 0o777, Owner::ROOT);
        header.set_size(0);
        self.tar
            .append_link(&mut header, name, target)
            .with_context(|| format!("adding the link {name} to a layer"))
    }

    /// Adds an entry of another tar file with its own mode, owner and kind.
    pub(super) fn entry<R: Read>(
        &mut self,
        name: &Path,
        entry: &mut tar::Entry<'_, R>,
    ) -> Result<()> {
        let mut header = entry.header().clone();
        header.set_mtime(0);
        let result = match entry.link_name().context("reading a link")? {
            Some(target) => self.tar.append_link(&mut header, name, target),
            None => self.tar.append_data(&mut header, name, entry),
        };
        result.with_context(|| format!("adding {} to a layer", name.display()))
    }

    /// Ends the layer and computes its digest.
    pub fn finish(self) -> Result<Layer> {
        let file = self.tar.into_inner().context("finishing a layer")?;
        drop(file.into_inner().context("flushing a layer")?);
        let digest = sha256_of_file(&self.path)?;
        Ok(Layer {
            size_bytes: fs::metadata(&self.path)
                .context("reading a layer's size")?
                .len(),
            content_digest: digest.clone(),
            digest,
            compressed: false,
            path: self.path,
        })
    }

    fn append(
        &mut self,
        header: &mut tar::Header,
        name: &str,
        content: &mut dyn Read,
    ) -> Result<()> {
        self.tar
            .append_data(header, name, content)
            .with_context(|| format!("adding {name} to a layer"))
    }
}

fn header(kind: tar::EntryType, mode: u32, owner: Owner) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.user);
    header.set_gid(owner.group);
    // A fixed time makes the same content the same bytes.
    header.set_mtime(0);
    header
}
