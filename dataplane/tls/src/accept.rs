//! Accepting a connection: recognising what the client speaks, then the handshake.
//!
//! The two mismatches users meet most are told apart by the first bytes and explained where the
//! owner of the server looks, its log: the client's own messages are of no help ("first record does
//! not look like a TLS handshake", "Socket closed", "Ssl handshake failed … wrong version").

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::peer::PeerIdentity;
use crate::prefixed::Prefixed;

/// Longest time from accepting a connection to the end of its handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// rustls holds this much before it makes the writer wait. Its default of 64 KiB costs a fifth of
/// the throughput of large streams.
pub(crate) const SEND_BUFFER_BYTES: usize = 1 << 20;

/// First bytes of a TLS connection: a handshake record of version 3.x.
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];

/// First bytes of HTTP requests; `PRI ` begins HTTP/2.
const HTTP_STARTS: [&[u8; 4]; 10] = [
    b"PRI ", b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"DELE", b"PATC", b"CONN", b"TRAC",
];

/// An accepted connection.
#[derive(Debug)]
pub enum Stream<IO> {
    /// Without TLS.
    Plain(Prefixed<IO>),
    /// With TLS, after the handshake.
    Tls(Box<TlsStream<Prefixed<IO>>>),
}

/// Why a connection was not accepted; the text is what the log should say.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// A client without TLS on a port with TLS.
    #[error(
        "client speaks plaintext on a TLS port: use grpc+tls:// (or https://) and the cluster's CA \
         in the client, or remove tls.certificate_file from the server"
    )]
    PlaintextOnTls,
    /// A client with TLS on a port without.
    #[error(
        "client speaks TLS on a plaintext port: use grpc:// (or http://) in the client, or set \
         tls.certificate_file and tls.key_file on the server"
    )]
    TlsOnPlaintext,
    /// Neither TLS nor HTTP on a port with TLS.
    #[error("client sent neither TLS nor HTTP, first bytes {first:02x?}")]
    NotTls {
        /// The first bytes.
        first: Vec<u8>,
    },
    /// The client left before it sent anything that tells what it speaks; TCP probes do.
    #[error("client closed the connection before sending anything")]
    Closed,
    /// The client took too long.
    #[error("client did not finish the handshake within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    /// Reading failed.
    #[error("reading the first bytes of a connection")]
    Read(#[source] io::Error),
    /// The handshake failed: wrong CA, no or a wrong client certificate, no common version.
    #[error("TLS handshake failed")]
    Handshake(#[source] io::Error),
}

impl AcceptError {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::PlaintextOnTls => "plaintext_on_tls",
            Self::TlsOnPlaintext => "tls_on_plaintext",
            Self::NotTls { .. } => "not_tls",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Read(_) => "read",
            Self::Handshake(_) => "handshake",
        }
    }

    /// Whether somebody should be told: not for probes that only open and close a connection.
    pub fn is_worth_a_log_line(&self) -> bool {
        !matches!(self, Self::Closed)
    }
}

/// Recognises what the client of a fresh connection speaks and, with an acceptor, does the TLS
/// handshake.
///
/// - Waits for the client's first bytes, in plaintext too: every HTTP client speaks first.
/// - Errors: [`AcceptError`]; the connection is closed by dropping it.
/// - Takes at most [`HANDSHAKE_TIMEOUT`]: run it in a task of its own, not in the accept loop.
pub async fn accept<IO>(io: IO, acceptor: Option<&TlsAcceptor>) -> Result<Stream<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    timeout(HANDSHAKE_TIMEOUT, accept_unbounded(io, acceptor))
        .await
        .unwrap_or(Err(AcceptError::Timeout))
}

async fn accept_unbounded<IO>(
    mut io: IO,
    acceptor: Option<&TlsAcceptor>,
) -> Result<Stream<IO>, AcceptError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (prefix, length) = first_bytes(&mut io).await?;
    let first = &prefix[..length];
    let is_tls = first.starts_with(&TLS_HANDSHAKE);
    let io = Prefixed::new(prefix, length, io);
    match acceptor {
        None if is_tls => Err(AcceptError::TlsOnPlaintext),
        None => Ok(Stream::Plain(io)),
        Some(_) if HTTP_STARTS.iter().any(|start| *start == first) => {
            Err(AcceptError::PlaintextOnTls)
        }
        Some(_) if !is_tls => Err(AcceptError::NotTls {
            first: first.to_vec(),
        }),
        Some(acceptor) => {
            let raise = |session: &mut rustls::ServerConnection| {
                session.set_buffer_limit(Some(SEND_BUFFER_BYTES));
            };
            let stream = acceptor
                .accept_with(io, raise)
                .await
                .map_err(AcceptError::Handshake)?;
            Ok(Stream::Tls(Box::new(stream)))
        }
    }
}

async fn first_bytes<IO: AsyncRead + Unpin>(io: &mut IO) -> Result<([u8; 4], usize), AcceptError> {
    let mut prefix = [0; 4];
    let mut length = 0;
    while length < prefix.len() {
        match io.read(&mut prefix[length..]).await {
            Ok(0) if length == 0 => return Err(AcceptError::Closed),
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if length == 0 && error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(AcceptError::Closed);
            }
            Err(error) => return Err(AcceptError::Read(error)),
        }
    }
    Ok((prefix, length))
}

impl<IO> Stream<IO> {
    /// The connection itself, for its addresses and options.
    pub fn get_ref(&self) -> &IO {
        match self {
            Self::Plain(plain) => plain.get_ref(),
            Self::Tls(tls) => tls.get_ref().0.get_ref(),
        }
    }

    /// Who the client is by its certificate; `None` without TLS or without a client certificate.
    pub fn peer(&self) -> Option<PeerIdentity> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => {
                let certificates = tls.get_ref().1.peer_certificates()?;
                certificates.first().and_then(PeerIdentity::read)
            }
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Stream<IO> {
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

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Stream<IO> {
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
