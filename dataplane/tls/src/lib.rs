//! TLS for every port and every connection between nodes: identity from files with reload, server
//! and client configurations that always use the current one, and accepting and opening
//! connections.
//!
//! - One [`Identity`] is a certificate chain, its key and optionally the CA that peers are checked
//!   against. [`Identity::watch`] replaces it when the files change; connections that are open
//!   keep what they were opened with, every new handshake uses the new material. Nothing is
//!   restarted and no configuration is rebuilt.
//! - The cryptography is aws-lc-rs, passed explicitly: no process-wide default is set or needed.
//!
//! Left to others: what a peer may do once it is known (`auth`), making certificates (operator).

mod accept;
mod config;
mod connect;
mod files;
mod identity;
mod peer;
mod prefixed;
mod verify;

pub use accept::{AcceptError, HANDSHAKE_TIMEOUT, Stream, accept};
pub use config::{
    ALPN_H2, ALPN_HTTP1, ClientAuth, MinVersion, ca_client_config, client_config, server_config,
};
pub use connect::{ConnectError, ConnectedStream, Connector, connector, plain_connector};
pub use files::{Error, Files};
pub use identity::{Identity, Reload, Warning, not_after};
pub use peer::PeerIdentity;
pub use prefixed::Prefixed;
pub use rustls::{ClientConfig, ServerConfig};
pub use tokio_rustls::TlsAcceptor;

#[cfg(test)]
mod tests;
