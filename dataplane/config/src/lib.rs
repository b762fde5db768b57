//! Every setting of the data plane: its type, default, unit, where its value came from, and what
//! makes a set of values safe to start with.
//!
//! [`Config`] is the one source: the reference page, the commented sample, the environment names and
//! the checks come from its types and doc comments. The operator writes the data plane's ConfigMap
//! with [`to_yaml_minimal`]. This crate reads configuration files and nothing else: certificates and token
//! files belong to the crates that use them.

mod engine;
mod listen;
mod load;
mod malloc;
mod print;
mod problem;
mod reference;
mod role;
mod security;
mod setting;
mod storage;
mod suggest;
mod units;
mod upkeep;
mod validate;
mod yaml;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use engine::{IngestConfig, LogConfig, LogFormat, QueryConfig};
pub use listen::{AdminConfig, InternalConfig, InternalTlsConfig, ServerConfig};
pub use load::{FlagValue, LoadOptions, Loaded, load, process_env};
pub use malloc::{
    GLIBC_TUNABLES_ENV, MALLOC_CONF_ENV, MallocConfig, MallocPreset, malloc_conf, malloc_env,
};
pub use print::{to_yaml_full, to_yaml_minimal};
pub use problem::{Error, Origin, Problem, Problems};
pub use reference::{reference_page, sample};
pub use role::{Role, UnknownRole};
pub use security::{AuthConfig, AuthMode, ClientAuth, TlsConfig, TlsVersion};
pub use setting::{ENV_PREFIX, Kind, Section, Setting, sections, settings};
pub use storage::{BackupConfig, CatalogConfig, ObjectStoreConfig, ObjectStoreKind, StorageConfig};
pub use units::{
    ByteSize, UnitError, duration, format_duration, optional_duration, parse_duration,
};
pub use upkeep::{UpkeepConfig, UpkeepPlace};
pub use validate::is_loopback;

/// The whole configuration of a data plane process.
///
/// `Config::default()` is a process on loopback without TLS or authentication. Secrets are never
/// values of settings: settings name files that hold them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The public Flight SQL port.
    pub server: ServerConfig,
    /// The port the processes of a cluster use among themselves.
    pub internal: InternalConfig,
    /// Health and metrics over plain HTTP, without authentication.
    pub admin: AdminConfig,
    /// TLS of the public port.
    pub tls: TlsConfig,
    /// Who is let in on the public port.
    pub auth: AuthConfig,
    /// Local state and the object store.
    pub storage: StorageConfig,
    /// Where the catalog is.
    pub catalog: CatalogConfig,
    /// Write-ahead log, buffer and flush.
    pub ingest: IngestConfig,
    /// Limits of the query engine.
    pub query: QueryConfig,
    /// Compaction of small files, deletion of objects nobody reads, scan for orphans.
    pub upkeep: UpkeepConfig,
    /// Log output.
    pub log: LogConfig,
    /// How freed memory is given back to the system.
    pub malloc: MallocConfig,
}
