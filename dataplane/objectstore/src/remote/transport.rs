//! Sending requests to the serving process: connection, time limits, repeats.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::ACCEPT;
use object_store::path::Path;
use object_store::{Error, Result};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::protocol::{Kind, PREFIX, PeerError, Refusal, STORE};

/// Pauses before the second and third attempt: enough for a listener that restarts.
const RETRY_PAUSES: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(500)];

/// Longest wait for a TCP and TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Bodies sent at once. More would wait at the server for their turn and fill the window of the
/// connection meanwhile, so that those whose turn it is could not go on.
const PARALLEL_UPLOADS: usize = 4;

/// Slowest network and disk, 1 MiB/s, that a `put` is still waited for.
const TIME_PER_MEBIBYTE: Duration = Duration::from_secs(1);

/// A connection that answers no ping for this long is given up, and with it the uploads on it.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes the server may send ahead per stream and in all: the defaults (64 KiB) would make every
/// read of a large object wait for the network's round trip.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;

/// The process that serves the objects.
#[derive(Clone)]
pub struct RemoteEndpoint {
    /// Base URL of its internal port, such as `https://catalog:17002`.
    pub url: String,
    /// TLS for `https` URLs; its resolver and verifier may change with rotated certificates.
    pub tls: Option<Arc<ClientConfig>>,
    /// Longest wait for the beginning of an answer and between two pieces of it. Uploads take as
    /// long as they take, watched by pings.
    pub timeout: Duration,
}

impl fmt::Debug for RemoteEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteEndpoint")
            .field("url", &self.url)
            .field("tls", &self.tls.is_some())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// Why an endpoint can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Not a URL.
    #[error("it is not a URL")]
    Url(#[from] url::ParseError),
    /// Neither http nor https.
    #[error("it must begin with https:// (or http:// for tests on one machine)")]
    Scheme,
    /// An https URL without TLS configuration.
    #[error("it is https, but no certificates are configured (internal.tls)")]
    NoTls,
    /// TLS can't be set up.
    #[error("can't set up TLS")]
    Tls(#[from] rustls::Error),
    /// The HTTP client can't be set up.
    #[error("can't set up the HTTP client")]
    Client(#[from] reqwest::Error),
}

/// Why a call got no usable answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("can't reach the object store at {place}")]
    Unreachable {
        place: String,
        source: reqwest::Error,
    },
    #[error("no answer from the object store at {place} within {timeout:?}")]
    Timeout { place: String, timeout: Duration },
    #[error("the answer of the object store at {place} was cut off or is too long")]
    CutOff { place: String },
    #[error("can't understand the answer of the object store at {place}")]
    Unreadable {
        place: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::Generic {
            store: STORE,
            source: Box::new(error),
        }
    }
}

/// Calls one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Transport {
    client: Client,
    base: Url,
    /// The base, for messages.
    pub(super) place: Arc<str>,
    pub(super) timeout: Duration,
    uploads: Arc<Semaphore>,
}

impl Transport {
    /// Waits until one more body may be sent; hold the answer until it has been.
    pub(super) async fn upload_permit(&self) -> Result<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.uploads).acquire_owned().await;
        permit.map_err(|closed| Error::Generic {
            store: STORE,
            source: closed.into(),
        })
    }

    pub(super) fn new(endpoint: RemoteEndpoint) -> Result<Self, SetupError> {
        let RemoteEndpoint { url, tls, timeout } = endpoint;
        let base = Url::parse(&url)?;
        if !["http", "https"].contains(&base.scheme()) || base.cannot_be_a_base() {
            return Err(SetupError::Scheme);
        }
        let tls = match tls {
            Some(tls) => ClientConfig::clone(&tls),
            None if base.scheme() == "https" => return Err(SetupError::NoTls),
            None => no_tls()?,
        };
        let place = url.trim_end_matches('/').into();
        Ok(Self {
            client: client(tls)?,
            base,
            place,
            timeout,
            uploads: Arc::new(Semaphore::new(PARALLEL_UPLOADS)),
        })
    }

    /// Begins a request to a path below the prefix.
    pub(super) fn request<'a>(
        &self,
        method: Method,
        segments: impl IntoIterator<Item = &'a str>,
    ) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(PREFIX.split('/'))
                .extend(segments);
        }
        self.client.request(method, url).header(ACCEPT, "*/*")
    }

    /// Begins a request about one object.
    pub(super) fn object(&self, method: Method, location: &Path) -> RequestBuilder {
        self.request(
            method,
            std::iter::once("data").chain(location.as_ref().split('/')),
        )
    }

    /// Sends a request that may be sent again, and again when it got no answer within `limit`.
    pub(super) async fn send_repeatable(
        &self,
        path: &str,
        limit: Duration,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<Response> {
        for pause in RETRY_PAUSES {
            match self.send_in_time(limit, build()).await {
                Err(error @ (CallError::Unreachable { .. } | CallError::Timeout { .. })) => {
                    tracing::debug!(path, %error, "repeating an object store call");
                    tokio::time::sleep(pause).await;
                }
                Ok(response) => return self.accept(path, response).await,
                Err(error) => return Err(error.into()),
            }
        }
        self.send_once(path, limit, build()).await
    }

    /// Sends a request once and waits for the answer up to `limit`.
    pub(super) async fn send_once(
        &self,
        path: &str,
        limit: Duration,
        request: RequestBuilder,
    ) -> Result<Response> {
        let response = self.send_in_time(limit, request).await?;
        self.accept(path, response).await
    }

    /// Sends a request once, without a limit: the caller may still be producing the body.
    pub(super) async fn send_streaming(
        &self,
        path: &str,
        request: RequestBuilder,
    ) -> Result<Response> {
        let response = request
            .send()
            .await
            .map_err(|source| self.unreachable(source))?;
        self.accept(path, response).await
    }

    async fn send_in_time(
        &self,
        limit: Duration,
        request: RequestBuilder,
    ) -> Result<Response, CallError> {
        match tokio::time::timeout(limit, request.send()).await {
            Ok(sent) => sent.map_err(|source| self.unreachable(source)),
            Err(_) => Err(self.timed_out(limit)),
        }
    }

    /// Time for a request that carries `bytes`, and for the other side to put them on its disk.
    pub(super) fn limit_for(&self, bytes: usize) -> Duration {
        let mebibytes = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        self.timeout + TIME_PER_MEBIBYTE.saturating_mul(mebibytes)
    }

    /// Passes a good answer on and turns any other into the error it tells of.
    async fn accept(&self, path: &str, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let kind = Kind::of(response.headers());
        let body = tokio::time::timeout(self.timeout, response.bytes()).await;
        let body = body.ok().and_then(Result::ok).unwrap_or_default();
        Err(match (serde_json::from_slice::<Refusal>(&body), kind) {
            (Ok(refusal), _) => refusal.into_error(path),
            (Err(_), Some(kind)) => {
                let message = format!("{} says so", self.place);
                Refusal { kind, message }.into_error(path)
            }
            (Err(_), None) => self
                .unreadable(PeerError(format!(
                    "HTTP status {status}, is it a catalog process?"
                )))
                .into(),
        })
    }

    pub(super) fn unreachable(&self, error: reqwest::Error) -> CallError {
        CallError::Unreachable {
            place: self.place.to_string(),
            source: error.without_url(),
        }
    }

    pub(super) fn timed_out(&self, timeout: Duration) -> CallError {
        CallError::Timeout {
            place: self.place.to_string(),
            timeout,
        }
    }

    pub(super) fn cut_off(&self) -> CallError {
        CallError::CutOff {
            place: self.place.to_string(),
        }
    }

    pub(super) fn unreadable(
        &self,
        error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> CallError {
        CallError::Unreadable {
            place: self.place.to_string(),
            source: error.into(),
        }
    }
}

/// A client for plaintext needs some TLS configuration too: given one, it does not ask for a
/// process-wide provider.
fn no_tls() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

fn client(mut tls: ClientConfig) -> Result<Client, reqwest::Error> {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Client::builder()
        .use_preconfigured_tls(tls)
        .http2_prior_knowledge()
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
}
