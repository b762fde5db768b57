//! Where the Parquet files are: a directory, the catalog process, or a cloud.
//!
//! [`open`] gives the store that the configuration names, behind the one trait of `object_store`.
//! [`DurableLocal`] adds the syncs that make a local directory survive a power failure, [`remote`]
//! serves a store to the other pods and calls it from there, the cloud stores are those of
//! `object_store`. [`CachedStore`] keeps what queries read, [`check`] proves at start that the store can be used.
//!
//! What the files hold and which of them are live is not known here: that is the catalog's business.
//!
//! # TLS
//! `object_store` brings a second rustls provider into the build. The binary must make its own the
//! default before any store is opened (`CryptoProvider::install_default`), else the cloud clients
//! take the other one.

pub mod cache;
mod check;
mod cloud;
pub mod local;
pub mod remote;
mod signatures;

use std::path::PathBuf;
use std::sync::Arc;

use flightcluster_config::{ObjectStoreConfig, ObjectStoreKind, StorageConfig};
use object_store::ObjectStore;
use object_store::memory::InMemory;

pub use cache::{CacheOptions, CacheStats, CachedStore};
pub use check::{CheckError, check};
pub use local::DurableLocal;
pub use remote::{RemoteEndpoint, RemoteStore, router};

/// Directory of a local store below the data directory, when the configuration names none.
const DEFAULT_DIRECTORY: &str = "objects";

/// Why a store can't be opened. Always the configuration or the machine, nothing was changed but
/// perhaps a directory created.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting the kind of store needs is missing.
    #[error("storage.object_store.{setting} is needed for kind {kind}")]
    Missing {
        /// The setting, without its section.
        setting: &'static str,
        /// The kind of store.
        kind: &'static str,
    },
    /// A file with a credential or certificates can't be read.
    #[error("can't read storage.object_store.{setting} {}", path.display())]
    Credential {
        /// The setting, without its section.
        setting: &'static str,
        /// The file it names.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file of authorities holds no certificate.
    #[error(
        "storage.object_store.ca_file {} holds no certificate; expected PEM, beginning with \
         -----BEGIN CERTIFICATE-----", path.display()
    )]
    Authorities {
        /// The file.
        path: PathBuf,
    },
    /// The settings with the key of a GCS service account don't make a store.
    #[error(
        "can't set up the object store ({place}) with storage.object_store.secret_access_key_file {}; \
         expected the JSON key of a service account, as the cloud gives it for download", path.display()
    )]
    ServiceAccount {
        /// Which store, as [`place`] says it.
        place: String,
        /// The file of the key.
        path: PathBuf,
        /// The cause.
        source: object_store::Error,
    },
    /// What should be the key of an Azure account can't be one.
    #[error(
        "can't set up the object store ({place}) with storage.object_store.secret_access_key_file {}; \
         expected a key of the storage account: base64, without its name or a connection string", path.display()
    )]
    AccountKey {
        /// Which store, as [`place`] says it.
        place: String,
        /// The file of the key.
        path: PathBuf,
        /// The cause.
        source: object_store::Error,
    },
    /// The directory of a local store can't be created or used.
    #[error("can't use the object directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The settings don't make a store.
    #[error("can't set up the object store ({place})")]
    Build {
        /// Which store, as [`place`] says it.
        place: String,
        /// The cause.
        source: object_store::Error,
    },
    /// The catalog process that serves the objects has no usable address.
    #[error("can't call the object store of the catalog process at {url:?}")]
    Remote {
        /// The URL as configured.
        url: String,
        /// The cause.
        source: remote::SetupError,
    },
}

impl Error {
    /// A bounded label for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing_setting",
            Self::Credential { .. } => "credential",
            Self::Authorities { .. } => "authorities",
            Self::ServiceAccount { .. } => "service_account",
            Self::AccountKey { .. } => "account_key",
            Self::Directory { .. } => "directory",
            Self::Build { .. } => "build",
            Self::Remote { .. } => "remote",
        }
    }
}

/// Opens the store the configuration names. Does not contact it; [`check`] does.
///
/// `remote` is the process that serves an `embedded` store; without it this process has the
/// directory itself. Other kinds ignore it.
pub fn open(
    storage: &StorageConfig,
    remote: Option<RemoteEndpoint>,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let config = &storage.object_store;
    match (config.kind, remote) {
        (ObjectStoreKind::Memory, _) => Ok(Arc::new(InMemory::new())),
        (ObjectStoreKind::Embedded, Some(endpoint)) => {
            let url = endpoint.url.clone();
            let store = RemoteStore::new(endpoint);
            Ok(Arc::new(
                store.map_err(|source| Error::Remote { url, source })?,
            ))
        }
        (ObjectStoreKind::Local | ObjectStoreKind::Embedded, _) => {
            let store = DurableLocal::open(&directory(storage))?;
            store.log_leftovers();
            Ok(Arc::new(store))
        }
        (ObjectStoreKind::S3, _) => cloud::s3(config),
        (ObjectStoreKind::Gcs, _) => cloud::gcs(config),
        (ObjectStoreKind::Azure, _) => cloud::azure(config),
    }
}

/// The directory of a local or embedded store.
fn directory(storage: &StorageConfig) -> PathBuf {
    match &storage.object_store.path {
        Some(path) => path.clone(),
        None => storage.data_dir.join(DEFAULT_DIRECTORY),
    }
}

/// Names a store for people: its kind and where it is, without secrets.
#[must_use]
pub fn place(storage: &StorageConfig, remote: Option<&RemoteEndpoint>) -> String {
    let config = &storage.object_store;
    match (config.kind, remote) {
        (ObjectStoreKind::Memory, _) => "memory of this process".to_owned(),
        (ObjectStoreKind::Embedded, Some(endpoint)) => {
            format!("objects of the catalog process at {}", endpoint.url)
        }
        (ObjectStoreKind::Local | ObjectStoreKind::Embedded, _) => {
            format!("directory {}", directory(storage).display())
        }
        (ObjectStoreKind::S3, _) => cloud_place("S3 bucket", config),
        (ObjectStoreKind::Gcs, _) => cloud_place("GCS bucket", config),
        (ObjectStoreKind::Azure, _) => cloud_place("Azure container", config),
    }
}

fn cloud_place(what: &str, config: &ObjectStoreConfig) -> String {
    let mut place = format!("{what} {:?}", config.bucket.as_deref().unwrap_or(""));
    for (name, value) in [
        ("prefix", &config.prefix),
        ("region", &config.region),
        ("endpoint", &config.endpoint),
    ] {
        if let Some(value) = value {
            place.push_str(&format!(", {name} {value}"));
        }
    }
    place
}
