//! Who may connect and who is let in: `tls` and `auth`.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{DurationText, duration};

/// TLS of the public port. It is on as soon as a certificate is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate chain, leaf first. Unset: the public port is plaintext.
    #[schemars(extend("format" = "path"))]
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the private key of the certificate.
    #[schemars(extend("format" = "path"))]
    pub key_file: Option<PathBuf>,
    /// PEM file with the authorities client certificates are checked against.
    #[schemars(extend("format" = "path"))]
    pub client_ca_file: Option<PathBuf>,
    /// Whether clients show a certificate: none asks for none, optional checks one that is shown,
    /// required refuses clients without one.
    pub client_auth: ClientAuth,
    /// Lowest TLS version accepted.
    pub minimum_version: TlsVersion,
    /// How often the files are looked at for a new certificate, key or authority.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub reload_interval: Duration,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificate_file: None,
            key_file: None,
            client_ca_file: None,
            client_auth: ClientAuth::None,
            minimum_version: TlsVersion::Tls12,
            reload_interval: Duration::from_secs(5),
        }
    }
}

impl TlsConfig {
    /// Whether the public port speaks TLS.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.certificate_file.is_some() && self.key_file.is_some()
    }
}

/// Whether clients of the public port show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    None,
    /// A certificate that is shown is checked.
    Optional,
    /// A connection without a valid certificate is refused.
    Required,
}

/// A TLS protocol version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Who is let in on the public port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// How callers prove who they are: none lets everyone do everything (loopback only), token asks
    /// for a token of the token files on every call.
    pub mode: AuthMode,
    /// YAML file with the tokens (name, SHA-256, permissions, expiry), as `flightcluster token
    /// create` prints them.
    #[schemars(extend("format" = "path"))]
    pub token_file: Option<PathBuf>,
    /// More token files; all of them count together.
    #[schemars(extend("format" = "path"))]
    pub token_files: Vec<PathBuf>,
    /// Allows beyond loopback what is refused otherwise: no authentication at all, or tokens sent in
    /// plaintext.
    pub allow_insecure: bool,
    /// How often the token files are looked at for changes.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub reload_interval: Duration,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            mode: AuthMode::None,
            token_file: None,
            token_files: Vec::new(),
            allow_insecure: false,
            reload_interval: Duration::from_secs(2),
        }
    }
}

impl AuthConfig {
    /// Every token file: `token_file` first, then `token_files`.
    #[must_use]
    pub fn all_token_files(&self) -> Vec<PathBuf> {
        self.token_file
            .iter()
            .chain(&self.token_files)
            .cloned()
            .collect()
    }
}

/// How callers of the public port prove who they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AuthMode {
    /// Nobody is asked; everyone may do everything.
    #[default]
    None,
    /// A token in the `authorization` header of every call.
    Token,
}
