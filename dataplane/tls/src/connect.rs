//! Opening connections, as the connector of a `tonic` endpoint or any other HTTP client.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

use crate::accept::SEND_BUFFER_BYTES;
use crate::config::ALPN_H2;

/// Opens connections to the host and port of a URI, with TLS or without.
///
/// - The host of the URI is the name the server's certificate must have; the scheme decides
///   nothing, only the port when none is given (443 or 80).
/// - Time limits are the caller's: `Endpoint::connect_timeout`.
#[derive(Clone)]
pub struct Connector {
    tls: Option<TlsConnector>,
}

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URI names no host.
    #[error("the address {uri} has no host; write it as https://host:port")]
    NoHost {
        /// The address.
        uri: Uri,
    },
    /// The host is no name a certificate could have.
    #[error("the host {host:?} is neither a DNS name nor an IP address")]
    ServerName {
        /// The host.
        host: String,
        /// What the parser found.
        source: rustls_pki_types::InvalidDnsNameError,
    },
    /// The name cannot be resolved or nothing listens there.
    #[error("connecting to {host}:{port}")]
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// The handshake failed: wrong CA, wrong name, a certificate refused by either side.
    #[error("TLS handshake with {host}:{port}")]
    Handshake {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// What rustls found, or the alert of the server.
        source: io::Error,
    },
    /// The server does not speak HTTP/2.
    #[error("{host}:{port} does not offer HTTP/2 by ALPN; is it a gRPC port?")]
    NoHttp2 {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
}

impl ConnectError {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NoHost { .. } | Self::ServerName { .. } => "connect_address",
            Self::Tcp { .. } => "connect_tcp",
            Self::Handshake { .. } => "connect_handshake",
            Self::NoHttp2 { .. } => "connect_no_http2",
        }
    }
}

/// An opened connection.
#[derive(Debug)]
pub enum ConnectedStream {
    /// Without TLS.
    Plain(TcpStream),
    /// With TLS, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connections with TLS by `config`, whose ALPN must be `h2` alone
/// ([`client_config`](crate::client_config) sees to it).
pub fn connector(config: Arc<ClientConfig>) -> Connector {
    Connector {
        tls: Some(TlsConnector::from(config)),
    }
}

/// Connections without TLS.
pub fn plain_connector() -> Connector {
    Connector { tls: None }
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<TokioIo<ConnectedStream>, ConnectError> {
        let Some(host) = uri.host() else {
            return Err(ConnectError::NoHost { uri });
        };
        // Literal IPv6 addresses are in brackets in a URI and nowhere else.
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let default_port = if self.tls.is_some() { 443 } else { 80 };
        let port = uri.port_u16().unwrap_or(default_port);
        let failed = |source| ConnectError::Tcp {
            host: host.clone(),
            port,
            source,
        };
        let tcp = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(failed)?;
        // Small requests must not wait for the acknowledgement of earlier ones.
        tcp.set_nodelay(true).map_err(failed)?;
        let Some(tls) = self.tls else {
            return Ok(TokioIo::new(ConnectedStream::Plain(tcp)));
        };
        let name =
            ServerName::try_from(host.clone()).map_err(|source| ConnectError::ServerName {
                host: host.clone(),
                source,
            })?;
        let raise = |session: &mut ClientConnection| {
            session.set_buffer_limit(Some(SEND_BUFFER_BYTES));
        };
        let stream =
            tls.connect_with(name, tcp, raise)
                .await
                .map_err(|source| ConnectError::Handshake {
                    host: host.clone(),
                    port,
                    source,
                })?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            return Err(ConnectError::NoHttp2 { host, port });
        }
        Ok(TokioIo::new(ConnectedStream::Tls(Box::new(stream))))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<ConnectedStream>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector")
            .field("tls", &self.tls.is_some())
            .finish()
    }
}

impl AsyncRead for ConnectedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for ConnectedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_write_vectored(context, slices),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(plain) => plain.is_write_vectored(),
            Self::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}
