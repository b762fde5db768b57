//! rustls configurations made once and used for the life of the process.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use crate::files::{self, Error};
use crate::identity::Identity;
use crate::verify::{Current, CurrentClients};

/// ALPN name of HTTP/2, which gRPC needs.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN name of HTTP/1.1.
pub const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Whether a server asks its clients for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// It does not.
    #[default]
    None,
    /// It does, and a client without one is let in; a certificate that is sent must be right.
    Optional,
    /// A client without a certificate signed by the CA is refused.
    Required,
}

/// Lowest protocol version a server accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

const ALL_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];
const ONLY_TLS13: &[&SupportedProtocolVersion] = &[&TLS13];

/// Makes the configuration of a server; `alpn` lists protocols, preferred first.
///
/// - Errors: [`Error::NoCa`] when clients are to be verified but the identity has no CA.
/// - Sessions are not resumed when clients are verified: a resumed session would skip the check
///   against a CA that has been replaced meanwhile.
pub fn server_config(
    identity: &Arc<Identity>,
    client_auth: ClientAuth,
    min_version: MinVersion,
    alpn: &[&[u8]],
) -> Result<Arc<ServerConfig>, Error> {
    let versions = match min_version {
        MinVersion::Tls12 => ALL_VERSIONS,
        MinVersion::Tls13 => ONLY_TLS13,
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(identity.provider()))
        .with_protocol_versions(versions)
        .map_err(Error::Versions)?;
    let builder = match client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional | ClientAuth::Required => {
            require_ca(identity, "verifying client certificates")?;
            let mandatory = client_auth == ClientAuth::Required;
            let identity = Arc::clone(identity);
            builder.with_client_cert_verifier(Arc::new(CurrentClients {
                identity,
                mandatory,
            }))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Current(Arc::clone(identity))));
    if client_auth != ClientAuth::None {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Makes the configuration with which a node calls another: presents the identity, checks the
/// server against its CA, speaks HTTP/2. Never resumes a session, so that every connection is
/// checked with the current CA.
///
/// - Errors: [`Error::NoCa`].
pub fn client_config(identity: &Arc<Identity>) -> Result<Arc<ClientConfig>, Error> {
    require_ca(identity, "verifying servers")?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(identity.provider()))
        .with_protocol_versions(ALL_VERSIONS)
        .map_err(Error::Versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Current(Arc::clone(identity))))
        .with_client_cert_resolver(Arc::new(Current(Arc::clone(identity))));
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// Makes the configuration of a client that has no certificate and trusts the CAs in one file,
/// read once: for the command line.
pub fn ca_client_config(ca: &Path) -> Result<Arc<ClientConfig>, Error> {
    let roots = files::roots(ca, &files::read("CA certificate", ca)?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(ALL_VERSIONS)
        .map_err(Error::Versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

fn require_ca(identity: &Identity, purpose: &'static str) -> Result<(), Error> {
    match identity.files().ca {
        Some(_) => Ok(()),
        None => Err(Error::NoCa { purpose }),
    }
}
