//! Where the process listens and how it behaves towards its callers: `server`, `internal`, `admin`.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, DurationText, duration};

/// The public Flight SQL port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Name of this process, unique and stable in a cluster: an ingester is known by it. Unset: the
    /// host name; a standalone process is then `standalone`.
    pub node_name: Option<String>,
    /// Address or host name the public port listens on. Anything but loopback needs `auth` and
    /// `tls`.
    pub listen_host: String,
    /// Public port; 0 takes any free one.
    pub listen_port: u16,
    /// Host name clients reach this process by, which `put-location` tells them. Unset: it is not
    /// named, and clients keep their connection.
    pub advertise_host: Option<String>,
    /// Port clients reach this process by. Unset: the port it listens on.
    pub advertise_port: Option<u16>,
    /// Largest message accepted from a client, in bytes.
    pub max_message_bytes: ByteSize,
    /// Concurrent calls per client connection.
    #[schemars(range(max = 2_147_483_647_u32))]
    pub max_concurrent_streams: u32,
    /// Silence on a result stream after which an empty batch is sent, so that proxies keep it open.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub stream_keepalive_interval: Duration,
    /// Time a client may neither read nor write on a stream before it is ended with
    /// `DeadlineExceeded`.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub stream_idle_timeout: Duration,
    /// Time after SIGTERM in which new calls are still answered, with `Unavailable`, so that load
    /// balancers notice.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub drain_window: Duration,
    /// Time running streams get to finish after the drain window, before they are cut.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub shutdown_timeout: Duration,
    /// Time a ticket can be redeemed after `GetFlightInfo`. Ingesters remember the `INSERT` of a ticket for
    /// this time and a day: give all processes the same.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub ticket_ttl: Duration,
    /// File with the key tickets and handles are signed with (32 random bytes), the same for all
    /// queriers. Unset: a random key per process, good for one process only.
    #[schemars(extend("format" = "path"))]
    pub signing_key_file: Option<PathBuf>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            node_name: None,
            listen_host: "127.0.0.1".to_owned(),
            listen_port: 17001,
            advertise_host: None,
            advertise_port: None,
            max_message_bytes: ByteSize::mib(64),
            max_concurrent_streams: 1024,
            stream_keepalive_interval: Duration::from_secs(5),
            stream_idle_timeout: Duration::from_secs(60),
            drain_window: Duration::from_secs(2),
            shutdown_timeout: Duration::from_secs(30),
            ticket_ttl: Duration::from_secs(15 * 60),
            signing_key_file: None,
        }
    }
}

impl ServerConfig {
    /// The configured node name, else the host name, else `localhost`.
    #[must_use]
    pub fn node_name(&self) -> String {
        let host_name = || {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
            let name = name.trim();
            (!name.is_empty()).then(|| name.to_owned())
        };
        self.node_name
            .clone()
            .or_else(host_name)
            .unwrap_or_else(|| "localhost".to_owned())
    }
}

/// The port the processes of a cluster use among themselves: catalog, objects, ingester tails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InternalConfig {
    /// Opens the internal port. The roles querier, ingester and catalog need it.
    pub enabled: bool,
    /// Address or host name the internal port listens on. Anything but loopback needs
    /// `internal.tls`.
    pub listen_host: String,
    /// Internal port; 0 takes any free one.
    pub listen_port: u16,
    /// URL the other processes reach this one by, such as `https://pod.service:17002`. Unset: made
    /// from the address it listens on.
    pub advertise_url: Option<String>,
    /// Mutual TLS between the processes; also used when this one calls another.
    pub tls: InternalTlsConfig,
    /// Allows the internal port in plaintext beyond loopback, and plaintext `http` to the catalog.
    /// Everyone who reaches the port can then read and destroy all data.
    pub allow_insecure: bool,
}

impl Default for InternalConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            listen_host: "127.0.0.1".to_owned(),
            listen_port: 17002,
            advertise_url: None,
            tls: InternalTlsConfig::default(),
            allow_insecure: false,
        }
    }
}

/// Mutual TLS of the internal port: all three files, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InternalTlsConfig {
    /// PEM file with the certificate chain of this process, leaf first, for serving and calling.
    #[schemars(extend("format" = "path"))]
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the private key of the certificate.
    #[schemars(extend("format" = "path"))]
    pub key_file: Option<PathBuf>,
    /// PEM file with the authorities the certificates of the other processes are checked against.
    #[schemars(extend("format" = "path"))]
    pub ca_file: Option<PathBuf>,
}

impl InternalTlsConfig {
    /// Whether all three files are named.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.certificate_file.is_some() && self.key_file.is_some() && self.ca_file.is_some()
    }
}

/// The plaintext, unauthenticated port with `/startup`, `/ready`, `/live` and `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address or host name the admin port listens on; kubelets and Prometheus must reach it.
    pub listen_host: String,
    /// Admin port; 0 takes any free one.
    pub listen_port: u16,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen_host: "127.0.0.1".to_owned(),
            listen_port: 17101,
        }
    }
}
