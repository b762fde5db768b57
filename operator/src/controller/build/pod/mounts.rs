//! Files in a pod: where they come from and under which paths the data plane finds them.
//!
//! Configuration, keys and certificates come in one projected volume. It is mounted whole, without
//! `subPath`, so that a renewed certificate and a changed token file appear in running pods.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, EmptyDirVolumeSource, KeyToPath, ProjectedVolumeSource, SecretProjection,
    Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::controller::build::config_map::{CONFIG_KEY, config_files};
use crate::controller::validate::{
    Auth, ObjectStore, POSTGRES_URL, Tls, ValidatedCluster, ValidatedRole, Volume as RoleVolume,
};

/// Where the data plane keeps what it writes.
pub const DATA_DIRECTORY: &str = "/var/lib/flightcluster";
/// The volume at [`DATA_DIRECTORY`].
pub const DATA_VOLUME: &str = "data";
/// Where configuration, keys and certificates are.
const CONFIG_DIRECTORY: &str = "/etc/flightcluster";
/// The volume at [`CONFIG_DIRECTORY`].
const CONFIG_VOLUME: &str = "config";
/// Where libraries put short-lived files, on a root file system that can't be written.
const TEMPORARY_DIRECTORY: &str = "/tmp";
/// The volume at [`TEMPORARY_DIRECTORY`].
const TEMPORARY_VOLUME: &str = "tmp";
/// Readable by the process through its group, by nobody else, writable by nobody.
const FILE_MODE: i32 = 0o440;

/// The key of a Secret with the access key id of an object store.
pub const ACCESS_KEY_ID: &str = "access-key-id";
/// The key of a Secret with the secret access key of an object store.
pub const SECRET_ACCESS_KEY: &str = "secret-access-key";
/// The key of a Secret with the JSON of a service account of Google.
pub const SERVICE_ACCOUNT_KEY: &str = "service-account.json";
/// The key of a Secret with the key of a storage account of Azure.
pub const ACCOUNT_KEY: &str = "account-key";
/// The key of the ConfigMap with the name of that storage account.
pub const ACCOUNT_NAME: &str = "account-name";
/// The key of a Secret with certificates of authorities.
pub const CA: &str = "ca.crt";

/// The configuration file.
pub(super) fn config_file() -> PathBuf {
    file(CONFIG_KEY)
}

/// A file of the certificate that clients see.
pub(crate) fn tls_file(key: &str) -> PathBuf {
    file(&format!("tls/{key}"))
}

/// A file of the certificate of the pods' own traffic.
pub(crate) fn internal_tls_file(key: &str) -> PathBuf {
    file(&format!("internal-tls/{key}"))
}

/// The token file of a Secret.
pub(crate) fn token_file(secret: &str) -> PathBuf {
    file(&format!("tokens/{secret}/tokens.yaml"))
}

/// The key that tickets are signed with.
pub(crate) fn signing_key_file() -> PathBuf {
    file("signing-key/key")
}

/// A credential of the object store.
pub(crate) fn object_store_file(key: &str) -> PathBuf {
    file(&format!("object-store/{key}"))
}

/// A file for the connection to Postgres.
pub(crate) fn postgres_file(key: &str) -> PathBuf {
    file(&format!("postgres/{key}"))
}

fn file(path: &str) -> PathBuf {
    PathBuf::from(CONFIG_DIRECTORY).join(path)
}

/// Builds the mounts of the container.
pub(super) fn volume_mounts() -> Vec<VolumeMount> {
    let mount = |volume: &str, path: &str, read_only: Option<bool>| VolumeMount {
        name: volume.to_owned(),
        mount_path: path.to_owned(),
        read_only,
        ..VolumeMount::default()
    };
    vec![
        mount(CONFIG_VOLUME, CONFIG_DIRECTORY, Some(true)),
        mount(DATA_VOLUME, DATA_DIRECTORY, None),
        mount(TEMPORARY_VOLUME, TEMPORARY_DIRECTORY, None),
    ]
}

/// Builds the volumes of a role's pod; a persistent one comes from the StatefulSet.
pub(super) fn volumes(cluster: &ValidatedCluster, role: &ValidatedRole) -> Vec<Volume> {
    let config = Volume {
        name: CONFIG_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(FILE_MODE),
            sources: Some(sources(cluster, role)),
        }),
        ..Volume::default()
    };
    let mut volumes = vec![config, empty_directory(TEMPORARY_VOLUME, None)];
    if let RoleVolume::Scratch { size } = &role.volume {
        volumes.push(empty_directory(DATA_VOLUME, Some(Quantity(size.clone()))));
    }
    volumes
}

fn empty_directory(name: &str, size_limit: Option<Quantity>) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit,
            medium: None,
        }),
        ..Volume::default()
    }
}

fn sources(cluster: &ValidatedCluster, role: &ValidatedRole) -> Vec<VolumeProjection> {
    let names = &cluster.names;
    let mut sources = vec![
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: names.role(role.role),
                items: Some(config_items(cluster, role)),
                ..ConfigMapProjection::default()
            }),
            ..VolumeProjection::default()
        },
        secret(
            &names.internal_tls_secret(),
            &["tls.crt", "tls.key", "ca.crt"],
            "internal-tls/",
        ),
    ];
    if let ObjectStore::Bucket(bucket) = &cluster.object_store {
        let keys = bucket.spec.credential_keys();
        let credentials = bucket.spec.credentials_secret().into_iter();
        sources.extend(credentials.map(|name| secret(name, keys, "object-store/")));
        let ca = bucket.spec.ca_secret().into_iter();
        sources.extend(ca.map(|name| secret(name, &[CA], "object-store/ca/")));
    }
    if let Some(postgres) = &cluster.postgres {
        let key = postgres.url_key.as_deref().unwrap_or(POSTGRES_URL);
        sources.push(secret(&postgres.secret_name, &[key], "postgres/"));
        let ca = postgres.ca_secret.iter();
        sources.extend(ca.map(|name| secret(name, &[CA], "postgres/ca/")));
    }
    if !role.role.is_public() {
        return sources;
    }
    sources.push(secret(
        &names.signing_key_secret(),
        &["key"],
        "signing-key/",
    ));
    let certificate = match &cluster.tls {
        Tls::Disabled => None,
        Tls::SelfSigned { .. } => Some(names.public_tls_secret()),
        Tls::Secret { name, .. } => Some(name.clone()),
    };
    sources.extend(certificate.map(|name| secret(&name, &["tls.crt", "tls.key"], "tls/")));
    if let Auth::Token { secrets } = &cluster.auth {
        let own = names.admin_token_secret();
        for name in std::iter::once(&own).chain(secrets) {
            sources.push(secret(name, &["tokens.yaml"], &format!("tokens/{name}/")));
        }
    }
    sources
}

/// The files of the ConfigMap: the configuration, and what it names beside Secrets.
fn config_items(cluster: &ValidatedCluster, role: &ValidatedRole) -> Vec<KeyToPath> {
    let files = config_files(cluster, role).into_keys();
    files
        .map(|key| match key.as_str() {
            CONFIG_KEY => item(CONFIG_KEY, ""),
            other => item(other, "object-store/"),
        })
        .collect()
}

fn secret(name: &str, keys: &[&str], directory: &str) -> VolumeProjection {
    VolumeProjection {
        secret: Some(SecretProjection {
            name: name.to_owned(),
            items: Some(keys.iter().map(|key| item(key, directory)).collect()),
            ..SecretProjection::default()
        }),
        ..VolumeProjection::default()
    }
}

fn item(key: &str, directory: &str) -> KeyToPath {
    KeyToPath {
        key: key.to_owned(),
        path: format!("{directory}{key}"),
        mode: None,
    }
}
