//! What every call gets, whatever it is: a request id, a log span, counters, the client's time
//! limit over the whole stream, an end for clients that stop reading, and a clean answer when our
//! code panics.
//!
//! It works on HTTP requests and bodies, in front of the gRPC services, so that no method can
//! forget it. Authentication is the service's business.
//!
//! # Trouble
//! `the client did not read for …` (code `STALLED`): the call was ended and its memory freed because
//! the client took nothing for `server.stream_idle_timeout`.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use flightcluster_telemetry::metrics::{RpcCall, RpcMetrics};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Sleep;
use tonic::Code;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span, error_span};

use crate::receive::{Inbox, ReceiveBudget};
use crate::status::{ErrorCode, Failure};

/// Header and trailer that name a call in logs and errors.
const REQUEST_ID: &str = "x-request-id";

/// Path of the Flight methods.
const FLIGHT_SERVICE: &str = "/arrow.flight.protocol.FlightService/";

tokio::task_local! {
    /// The id of the call that is being worked on.
    static REQUEST_ID_OF_CALL: Arc<str>;
}

/// Gives a request to another pod the id of the call it is made for.
pub(crate) fn pass_on_request_id<T>(request: &mut tonic::Request<T>) {
    let id = REQUEST_ID_OF_CALL.try_with(Arc::clone).ok();
    if let Some(id) = id.and_then(|id| id.parse().ok()) {
        request.metadata_mut().insert(REQUEST_ID, id);
    }
}

/// Longest request id taken over from a client, in characters.
const MAX_REQUEST_ID: usize = 64;

/// The id of a call: the client's own, or made here.
#[derive(Debug, Clone)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(headers: &HeaderMap) -> Self {
        let given = headers
            .get(REQUEST_ID)
            .and_then(|value| value.to_str().ok());
        let usable = |id: &&str| {
            !id.is_empty() && id.len() <= MAX_REQUEST_ID && id.chars().all(|c| c.is_ascii_graphic())
        };
        match given.filter(usable) {
            Some(id) => Self(id.into()),
            None => Self(uuid::Uuid::new_v4().simple().to_string().into()),
        }
    }
}

/// Who is at the other end of the connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Address of the client, or of the proxy before it.
    pub address: std::net::SocketAddr,
}

/// Decides by the headers of a Flight call whether it is let in.
pub type Admission = Arc<dyn Fn(&HeaderMap) -> Result<(), Failure> + Send + Sync>;

/// Puts [`CallService`] in front of a service.
#[derive(Clone)]
pub struct CallLayer {
    /// Where calls are counted.
    pub metrics: RpcMetrics,
    /// How long a client may leave a response unread.
    pub idle_timeout: Duration,
    /// Asked before anything of a Flight call's body is read, so that strangers can't make the
    /// server hold messages for them. `None` lets everyone in.
    pub admission: Option<Admission>,
    /// Where messages on their way in have room.
    pub receive: ReceiveBudget,
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CallService {
            inner,
            layer: self.clone(),
        }
    }
}

/// See the module documentation.
#[derive(Clone)]
pub struct CallService<S> {
    inner: S,
    layer: CallLayer,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = std::convert::Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let id = RequestId::of(request.headers());
        let method = method_of(request.uri().path());
        let deadline = deadline_of(request.headers());
        // Of the highest level, so that lines of every level carry the request id.
        let span = error_span!(
            "call",
            request_id = id.as_str(),
            method,
            peer = request
                .extensions()
                .get::<Peer>()
                .map(|peer| peer.address.to_string()),
            identity = tracing::field::Empty,
        );
        request.extensions_mut().insert(id.clone());
        let id_of_call = id.clone();
        let call = Call::begin(&self.layer, method, id, span.clone());
        if let Err(failure) = self.layer.admit(&request) {
            let status = failure.into_status(call.id.as_str());
            let response = call.watch(status.into_http(), deadline);
            return std::future::ready(Ok(response)).boxed();
        }
        let received = Received {
            metrics: self.layer.metrics.clone(),
            method,
            bytes: 0,
        };
        let is_flight = is_flight(&request);
        let inbox = (method == "DoPut").then(Inbox::default);
        if let Some(inbox) = &inbox {
            request.extensions_mut().insert(inbox.clone());
        }
        let receive = &self.layer.receive;
        let request = request.map(|body| {
            let body = Body::new(CountedBody { body, received });
            match is_flight {
                true => receive.admit(body, inbox, call.id.as_str()),
                false => body,
            }
        });
        let answer = self.inner.call(request);
        let work = async move {
            let answer = AssertUnwindSafe(within(deadline, answer))
                .catch_unwind()
                .await;
            let response = match answer {
                Ok(Some(Ok(response))) => response,
                Ok(None) => deadline_failure().into_status(call.id.as_str()).into_http(),
                Err(panic) => call.panic_failure(&*panic).into_http(),
            };
            Ok(call.watch(response, deadline))
        };
        let id = Arc::clone(&id_of_call.0);
        REQUEST_ID_OF_CALL.scope(id, work.instrument(span)).boxed()
    }
}

impl CallLayer {
    fn admit(&self, request: &Request<Body>) -> Result<(), Failure> {
        match &self.admission {
            Some(admission) if is_flight(request) => admission(request.headers()),
            _ => Ok(()),
        }
    }
}

fn is_flight(request: &Request<Body>) -> bool {
    request.uri().path().starts_with(FLIGHT_SERVICE)
}

/// Counts the bytes of a request when it ends.
struct Received {
    metrics: RpcMetrics,
    method: &'static str,
    bytes: u64,
}

impl Drop for Received {
    fn drop(&mut self) {
        self.metrics.add_received(self.method, self.bytes);
    }
}

/// The body of a request on its way in.
struct CountedBody {
    body: Body,
    received: Received,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.received.bytes += data.len() as u64;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The RPC a path names; bounded, for metric labels.
fn method_of(path: &str) -> &'static str {
    const METHODS: [&str; 10] = [
        "Handshake",
        "ListFlights",
        "GetFlightInfo",
        "PollFlightInfo",
        "GetSchema",
        "DoGet",
        "DoPut",
        "DoExchange",
        "DoAction",
        "ListActions",
    ];
    match path.strip_prefix(FLIGHT_SERVICE) {
        Some(name) => METHODS
            .into_iter()
            .find(|known| *known == name)
            .unwrap_or("unknown"),
        None if path.starts_with("/grpc.health.") => "Health",
        None if path.starts_with("/catalog/") => "catalog",
        None if path.starts_with("/objects/") => "objects",
        None => "http",
    }
}

fn deadline_of(headers: &HeaderMap) -> Option<Instant> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let timeout = flightcluster_wire::headers::parse_grpc_timeout(text).ok()?;
    Instant::now().checked_add(timeout)
}

async fn within<F: Future>(deadline: Option<Instant>, work: F) -> Option<F::Output> {
    match deadline {
        Some(at) => tokio::time::timeout_at(at.into(), work).await.ok(),
        None => Some(work.await),
    }
}

fn deadline_failure() -> Failure {
    Failure::new(
        ErrorCode::DeadlineExceeded,
        "the time limit of the call is over",
    )
}

/// One call from its first to its last byte; counted when it is dropped.
struct Call {
    counted: Option<RpcCall>,
    idle_timeout: Duration,
    method: &'static str,
    id: RequestId,
    span: Span,
    began: Instant,
    /// `None` until it is known: a call dropped before its status went out was cancelled.
    code: Option<Code>,
}

impl Call {
    fn begin(layer: &CallLayer, method: &'static str, id: RequestId, span: Span) -> Self {
        Self {
            counted: Some(layer.metrics.start(method)),
            idle_timeout: layer.idle_timeout,
            method,
            id,
            span,
            began: Instant::now(),
            code: None,
        }
    }

    fn panic_failure(&self, panic: &(dyn Any + Send)) -> tonic::Status {
        // Counted and logged with its place by the panic hook; here it gets its request id.
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("panic without text");
        tracing::error!(panic = text, "call panicked");
        Failure::new(ErrorCode::Internal, text).into_status(self.id.as_str())
    }

    /// Names the call in the response and follows its body to the end.
    fn watch(mut self, mut response: Response<Body>, deadline: Option<Instant>) -> Response<Body> {
        if let Ok(id) = HeaderValue::from_str(self.id.as_str()) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        let is_grpc = response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if !is_grpc {
            self.code = Some(if response.status().is_server_error() {
                Code::Unknown
            } else {
                Code::Ok
            });
        }
        if let Some(code) = code_of(response.headers()) {
            // Every failure of ours has a code of its own. This one is of the transport: the request
            // was no Flight message, or its client went away before it was read.
            if code == Code::Internal && !response.headers().contains_key("x-fc-code") {
                let failure = Failure::new(
                    ErrorCode::InvalidCommand,
                    "the request is not the message this method takes",
                );
                self.code = Some(failure.code.grpc());
                return failure.into_status(self.id.as_str()).into_http();
            }
            self.code = Some(code);
            return response;
        }
        response.map(|body| Body::new(WatchedBody::new(self, body, deadline, is_grpc)))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        if let Some(counted) = self.counted.take() {
            counted.finish(code_name(code));
        }
        let seconds = self.began.elapsed().as_secs_f64();
        let code = code_name(code);
        self.span.in_scope(|| match self.method {
            // Probes and the calls among pods would drown those of users.
            "Health" | "http" | "catalog" | "objects" => {
                tracing::debug!(code, seconds, "call ended");
            }
            _ => tracing::info!(code, seconds, "call ended"),
        });
    }
}

/// The name of a gRPC code as metrics and logs show it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "Ok",
        Code::Cancelled => "Cancelled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

fn code_of(headers: &HeaderMap) -> Option<Code> {
    let code = headers.get("grpc-status")?;
    Some(Code::from_bytes(code.as_bytes()))
}

/// The part of a response body that the watchdog may take away.
struct Unread {
    body: Option<Body>,
    /// When the client's connection last asked for something.
    polled: Instant,
    /// The transport has what was there and has not asked since.
    waiting_for_client: bool,
}

/// A response body that ends in time, survives panics and reports how it ended.
struct WatchedBody {
    call: Call,
    unread: Arc<Mutex<Unread>>,
    deadline: Option<Pin<Box<Sleep>>>,
    is_grpc: bool,
    watchdog: Option<tokio::task::JoinHandle<()>>,
    ended: bool,
}

impl WatchedBody {
    fn new(call: Call, body: Body, deadline: Option<Instant>, is_grpc: bool) -> Self {
        let unread = Arc::new(Mutex::new(Unread {
            body: Some(body),
            polled: Instant::now(),
            waiting_for_client: false,
        }));
        // Uploading clients commonly read no answer until they have sent everything; whether they
        // still send is watched where it is read.
        let watched = is_grpc && !matches!(call.method, "DoPut" | "DoExchange");
        let watchdog =
            watched.then(|| tokio::spawn(watch_idle(Arc::clone(&unread), call.idle_timeout)));
        Self {
            call,
            unread,
            deadline: deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into()))),
            is_grpc,
            watchdog,
            ended: false,
        }
    }

    fn end_with(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let status = failure.into_status(self.call.id.as_str());
        self.end_with_status(&status)
    }

    fn end_with_status(
        &mut self,
        status: &tonic::Status,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.ended = true;
        self.unread.lock().body = None;
        if !self.is_grpc {
            return Poll::Ready(Some(Err(axum::Error::new(status.clone()))));
        }
        self.call.code = Some(status.code());
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            return Poll::Ready(Some(Err(axum::Error::new(status.clone()))));
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn poll_inner(&mut self, cx: &mut Context<'_>) -> Inner {
        let id = Arc::clone(&self.call.id.0);
        let mut unread = self.unread.lock();
        unread.polled = Instant::now();
        let Some(body) = unread.body.as_mut() else {
            return Inner::Stalled;
        };
        let poll = || REQUEST_ID_OF_CALL.sync_scope(id, || Pin::new(body).poll_frame(cx));
        let polled = std::panic::catch_unwind(AssertUnwindSafe(poll));
        unread.waiting_for_client = matches!(polled, Ok(Poll::Ready(Some(Ok(_)))));
        match polled {
            Ok(poll) => Inner::Polled(poll),
            Err(panic) => Inner::Panicked(panic),
        }
    }
}

enum Inner {
    Polled(Poll<Option<Result<Frame<Bytes>, axum::Error>>>),
    Panicked(Box<dyn Any + Send>),
    Stalled,
}

/// Drops a body that the client leaves unread: what the query holds is freed at once, the client
/// learns it when it reads on.
async fn watch_idle(unread: Arc<Mutex<Unread>>, idle_timeout: Duration) {
    loop {
        let since = {
            let unread = unread.lock();
            if unread.body.is_none() {
                return;
            }
            unread.polled
        };
        tokio::time::sleep_until((since + idle_timeout).into()).await;
        let body = {
            let mut unread = unread.lock();
            let idle = unread.waiting_for_client && unread.polled.elapsed() >= idle_timeout;
            if idle {
                unread.body.take()
            } else {
                if !unread.waiting_for_client {
                    // We are the slow side: look again after another whole interval.
                    unread.polled = Instant::now();
                }
                None
            }
        };
        // Dropped outside the lock: a query's clean-up may take a while.
        drop(body);
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let _entered = self.call.span.clone().entered();
        if let Some(deadline) = self.deadline.as_mut()
            && deadline.as_mut().poll(cx).is_ready()
        {
            return self.end_with(deadline_failure());
        }
        let polled = match self.poll_inner(cx) {
            Inner::Polled(polled) => ready!(polled),
            Inner::Panicked(panic) => {
                let status = self.call.panic_failure(&*panic);
                return self.end_with_status(&status);
            }
            Inner::Stalled => {
                let text = format!(
                    "the client did not read for {:?}; the call was ended",
                    self.call.idle_timeout
                );
                return self.end_with(Failure::new(ErrorCode::Stalled, text));
            }
        };
        match &polled {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if let Some(counted) = &self.call.counted {
                        counted.add_sent(data.len() as u64);
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.call.code = code_of(trailers).or(self.call.code);
                }
            }
            Some(Err(_)) => self.call.code = Some(Code::Unknown),
            None => self.ended = true,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.abort();
        }
        self.unread.lock().body = None;
    }
}

#[cfg(test)]
mod tests;
