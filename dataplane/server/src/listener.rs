//! Accepts connections and serves HTTP/2 and HTTP/1.1 on them, with or without TLS, until told to
//! stop; then lets running calls finish.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use flightcluster_telemetry::metrics::{ConnectionMetrics, GaugeGuard, ListenerLabels};
use flightcluster_tls::{AcceptError, TlsAcceptor};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::call::Peer;
use crate::linger::Lingering;
use crate::windows::Windows;

/// An HTTP/1.1 client that does not finish its request is dropped after this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nobody has asked anything is closed after this; clients open another one
/// when they need it.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// HTTP/2 settings. Clients of the C++ library send frames as large as we allow: 1 MiB frames and
/// larger windows than the default (see [`Windows`]) raise the throughput of uploads by half.
const MAX_FRAME_BYTES: u32 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// JDBC turns every unknown URL parameter into a header, and JWTs are long: the transport's 16 KiB
/// are not enough.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// A dead peer is noticed after about the sum of both.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// One port.
pub struct Listener {
    /// The bound socket.
    pub socket: TcpListener,
    /// TLS, if this port has it.
    pub tls: Option<TlsAcceptor>,
    /// What is served.
    pub router: Router,
    /// Calls a connection may have open at once.
    pub max_concurrent_streams: u32,
    /// What clients may send before it is looked at; shared by the ports of a process.
    pub windows: Windows,
    /// What it is called in metrics.
    pub name: &'static str,
    /// Where connections are counted.
    pub metrics: ConnectionMetrics,
}

impl Listener {
    /// Serves until all is over.
    pub async fn serve(self, stop: Stop) {
        let Self {
            socket,
            tls,
            router,
            max_concurrent_streams,
            windows,
            name,
            metrics,
        } = self;
        let connection = Arc::new(Connection {
            tls,
            router,
            max_concurrent_streams,
            windows,
            name,
            metrics,
        });
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = stop.close.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let connection = Arc::clone(&connection);
                    // Who connects while we drain is told so by an answer, and goes when we close.
                    let leave = match stop.drain.is_cancelled() {
                        true => stop.close.clone(),
                        false => stop.drain.clone(),
                    };
                    let end = stop.end.clone();
                    connections.spawn(async move {
                        tokio::select! {
                            () = connection.run(stream, peer, leave) => {}
                            () = end.cancelled() => {}
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: wait for some to be closed.
                    tracing::warn!(error = %error, "can't accept connections");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(socket);
        connections.close();
        connections.wait().await;
    }
}

/// What ends a listener, in this order.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Clients with a connection are told to open another one, elsewhere if they can; the socket
    /// still accepts.
    pub drain: CancellationToken,
    /// The socket is closed.
    pub close: CancellationToken,
    /// Calls that still run are cut off.
    pub end: CancellationToken,
}

/// What every connection of a port shares.
struct Connection {
    tls: Option<TlsAcceptor>,
    router: Router,
    max_concurrent_streams: u32,
    windows: Windows,
    name: &'static str,
    metrics: ConnectionMetrics,
}

impl Connection {
    async fn run(&self, stream: TcpStream, peer: SocketAddr, leave: CancellationToken) {
        // Small messages must not wait for the acknowledgement of earlier ones.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(error = %error, %peer, "can't set TCP_NODELAY");
        }
        match flightcluster_tls::accept(stream, self.tls.as_ref()).await {
            Ok(stream) => self.serve(stream, peer, leave).await,
            Err(error) => self.refused(&error, peer),
        }
    }

    fn refused(&self, error: &AcceptError, peer: SocketAddr) {
        match error {
            AcceptError::TlsOnPlaintext => {
                self.metrics.tls_on_plaintext.inc();
            }
            AcceptError::PlaintextOnTls => {
                self.metrics.plaintext_on_tls.inc();
            }
            AcceptError::NotTls { .. }
            | AcceptError::Closed
            | AcceptError::Timeout
            | AcceptError::Read(_)
            | AcceptError::Handshake(_) => {}
        }
        // Port scans and the checks of load balancers are not worth a line each.
        if !error.is_worth_a_log_line() {
            return;
        }
        tracing::warn!(%peer, error = %crate::status::chain(error), "connection refused");
    }

    async fn serve<S>(&self, stream: S, peer: SocketAddr, leave: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let labels = ListenerLabels {
            listener: self.name,
        };
        let _open = GaugeGuard::new(&self.metrics.open.get_or_create(&labels));
        let window = self.windows.take();
        let router = self.router.clone();
        let asked = CancellationToken::new();
        let first = asked.clone();
        let service = tower::service_fn(move |request: http::Request<Incoming>| {
            first.cancel();
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(Peer { address: peer });
            router.clone().oneshot(request)
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_frame_size(MAX_FRAME_BYTES)
            .initial_stream_window_size(window.bytes.min(STREAM_WINDOW_BYTES))
            .initial_connection_window_size(window.bytes)
            .max_concurrent_streams(self.max_concurrent_streams)
            .max_header_list_size(MAX_HEADER_BYTES)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_TIMEOUT);
        let io = TokioIo::new(Lingering::new(stream));
        let connection = builder.serve_connection(io, TowerToHyperService::new(service));
        let mut connection = std::pin::pin!(connection);
        let mut silent = std::pin::pin!(tokio::time::sleep(FIRST_REQUEST_TIMEOUT));
        let mut leaving = false;
        let result = loop {
            tokio::select! {
                result = connection.as_mut() => break result,
                () = leave.cancelled(), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = silent.as_mut(), if !silent.is_elapsed() => {
                    // Asked only now: a condition of the branch would be as old as the connection.
                    if !asked.is_cancelled() {
                        tracing::debug!(%peer, "connection closed: it asked nothing");
                        return;
                    }
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%peer, error = %error, "connection ended with an error");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use flightcluster_telemetry::metrics::{BuildLabels, Metrics};
    use http_body_util::{BodyExt as _, Empty};
    use hyper::client::conn::http2;
    use tokio::io::{AsyncReadExt as _, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    /// Five times [`FIRST_REQUEST_TIMEOUT`].
    const LONG: Duration = Duration::from_secs(300);

    /// A connection to a server that answers everything after a long time.
    fn connect() -> DuplexStream {
        let answer = || async {
            tokio::time::sleep(LONG).await;
            "done"
        };
        let build = BuildLabels {
            version: "0",
            revision: "0",
        };
        let connection = Connection {
            tls: None,
            router: Router::new().fallback(answer),
            max_concurrent_streams: 10,
            windows: Windows::new(1 << 30),
            name: "test",
            metrics: Metrics::new(build).connections,
        };
        let (client, server) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let peer = SocketAddr::from(([127, 0, 0, 1], 1));
            connection
                .serve(server, peer, CancellationToken::new())
                .await;
        });
        client
    }

    /// A call may last as long as it needs, and the connection is there for the next one.
    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_something_was_asked_stays_open() {
        let io = TokioIo::new(connect());
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..2 {
            let request = http::Request::get("http://server/").body(Empty::<&[u8]>::new());
            let answer = sender.send_request(request.unwrap()).await.unwrap();
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.to_bytes(), "done");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_on_which_nothing_is_asked_is_closed() {
        let began = Instant::now();
        let mut stream = connect();
        assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(began.elapsed(), FIRST_REQUEST_TIMEOUT);
    }
}
