//! Where data and metadata are kept: `storage` and `catalog`.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{DurationText, duration};

/// Local state and the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// Directory for everything this process keeps on disk. The default of `flightcluster
    /// standalone` is `flightcluster` in the user's data directory (`~/.local/share`).
    #[schemars(extend("format" = "path"))]
    pub data_dir: PathBuf,
    /// Where the Parquet files are.
    pub object_store: ObjectStoreConfig,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./flightcluster-data"),
            object_store: ObjectStoreConfig::default(),
        }
    }
}

/// The store of the Parquet files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectStoreConfig {
    /// Kind of store: local (a directory), embedded (served by the catalog process on its internal
    /// port), s3, gcs, azure, or memory (lost at exit, for tests).
    pub kind: ObjectStoreKind,
    /// Directory of a local or embedded store. Unset: `objects` below the data directory.
    #[schemars(extend("format" = "path"))]
    pub path: Option<PathBuf>,
    /// Bucket (s3, gcs) or container (azure).
    pub bucket: Option<String>,
    /// Path inside the bucket all objects are put below.
    pub prefix: Option<String>,
    /// Region of the bucket (s3).
    pub region: Option<String>,
    /// URL of the service, for everything that isn't the cloud's own.
    pub endpoint: Option<String>,
    /// Allows an `http` endpoint. Objects and signatures then travel in plaintext.
    pub allow_http: bool,
    /// Puts the bucket into the path of the URL instead of the host name (s3), as most self-hosted
    /// stores want it.
    pub path_style: bool,
    /// File with the access key id (s3) or account name (azure). Unset: the identity of the machine
    /// or pod.
    #[schemars(extend("format" = "path"))]
    pub access_key_id_file: Option<PathBuf>,
    /// File with the secret access key (s3), account key (azure) or service account JSON (gcs).
    #[schemars(extend("format" = "path"))]
    pub secret_access_key_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that signed the endpoint's certificate. Those that the
    /// machine trusts are trusted as well.
    #[schemars(extend("format" = "path"))]
    pub ca_file: Option<PathBuf>,
    /// Longest time one attempt of a request to s3, gcs or azure may take, with its body. Raise it
    /// when 8 MiB need longer on the way there.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub request_timeout: Duration,
}

impl Default for ObjectStoreConfig {
    fn default() -> Self {
        Self {
            kind: ObjectStoreKind::default(),
            path: None,
            bucket: None,
            prefix: None,
            region: None,
            endpoint: None,
            allow_http: false,
            path_style: false,
            access_key_id_file: None,
            secret_access_key_file: None,
            ca_file: None,
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// Kind of object store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectStoreKind {
    /// A directory of this machine, or a volume shared by all processes.
    #[default]
    Local,
    /// A directory of the catalog process, served to the others on the internal port.
    Embedded,
    /// Amazon S3 or a store with its API.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
    /// Memory of this process, lost at exit.
    Memory,
}

impl ObjectStoreKind {
    /// The name used in files and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Embedded => "embedded",
            Self::S3 => "s3",
            Self::Gcs => "gcs",
            Self::Azure => "azure",
            Self::Memory => "memory",
        }
    }
}

/// Copies of the catalog in the object store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BackupConfig {
    /// Whether the process that keeps the catalog (standalone, the catalog process, ingesters on
    /// Postgres) backs it up.
    pub enabled: bool,
    /// Time from one backup to the next.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Most backups that are kept.
    pub keep_count: u32,
    /// Time a backup is kept. The newest is kept always.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub keep_for: Duration,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_secs(60 * 60),
            keep_count: 48,
            keep_for: Duration::from_secs(7 * 24 * 60 * 60),
        }
    }
}

/// Where the catalog is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CatalogConfig {
    /// URL of the catalog process, such as `https://catalog:17002`. Unset, as is
    /// `postgres_url_file`: a SQLite file of this process, `catalog/catalog.sqlite` below the data
    /// directory.
    pub url: Option<String>,
    /// File with the URL of a Postgres database, `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, that
    /// this process keeps the catalog in. Every process of a cluster may do so; no catalog process
    /// is needed then. Off this machine the server is verified (`sslmode=verify-full`).
    #[schemars(extend("format" = "path"))]
    pub postgres_url_file: Option<PathBuf>,
    /// File with the password for Postgres, when the URL has none.
    #[schemars(extend("format" = "path"))]
    pub postgres_password_file: Option<PathBuf>,
    /// File with the certificates (PEM) of the authorities that the certificate of Postgres may be
    /// from. Unset: the public ones.
    #[schemars(extend("format" = "path"))]
    pub postgres_ca_file: Option<PathBuf>,
    /// Accepts a Postgres URL whose `sslmode` sends the catalog in plaintext or to a server nobody
    /// verified.
    pub postgres_allow_insecure: bool,
    /// Most connections this process has to Postgres: one writes, the others read.
    pub postgres_max_connections: u32,
    /// Copies of the catalog in the object store.
    pub backup: BackupConfig,
    /// Time one catalog call may take. While the catalog is away, calls wait this long for it to be back.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub request_timeout: Duration,
}

impl Default for CatalogConfig {
    fn default() -> Self {
        Self {
            url: None,
            postgres_url_file: None,
            postgres_password_file: None,
            postgres_ca_file: None,
            postgres_allow_insecure: false,
            postgres_max_connections: 5,
            backup: BackupConfig::default(),
            request_timeout: Duration::from_secs(10),
        }
    }
}
