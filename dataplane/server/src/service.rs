//! The public Flight service: one function per RPC, each a few lines. Authenticates, lets the part
//! that knows answer, and turns failures into statuses.
//!
//! It implements `FlightService` itself: the Flight SQL trait of the library refuses tickets that
//! are not protobuf and hard-codes PollFlightInfo, GetSchema and ListFlights as unimplemented.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::metadata::SqlInfoData;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use flightcluster_auth::{Authenticator, Credential};
use flightcluster_catalog::Catalog;
use flightcluster_config::ServerConfig;
use flightcluster_query::Engine;
use flightcluster_telemetry::metrics::QueryMetrics;
use flightcluster_wire::{SigningKey, headers};
use futures::{Stream, StreamExt as _};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::caller::{Caller, request_id};
use crate::gate::Gate;
use crate::locations::PutLocations;
use crate::once::OnceEach;
use crate::receive::Inbox;
use crate::status::{ErrorCode, Failure};
use crate::uploads::Uploads;
use crate::writes::Writes;

/// What the service works with once the process is ready.
#[derive(Debug)]
pub struct Backends {
    /// Databases, tables and snapshots.
    pub catalog: Arc<dyn Catalog>,
    /// SQL; missing on a pure ingester.
    pub engine: Option<Engine>,
    /// Uploads; missing where nothing can be written.
    pub writes: Option<Arc<dyn Writes>>,
    /// Uploads of several streams.
    pub uploads: Uploads,
    /// Where clients reach the ingesters.
    pub put_locations: PutLocations,
}

impl Backends {
    /// The query engine, or a failure that says where there is one.
    pub(crate) fn engine(&self) -> Result<&Engine, Failure> {
        self.engine.as_ref().ok_or_else(|| {
            let message = "this server is an ingester and answers no queries; \
                           connect to the query service of the cluster";
            Failure::new(ErrorCode::WrongRole, message)
        })
    }

    /// The place for uploads, or a failure that says where there is one.
    pub(crate) fn writes(&self) -> Result<&Arc<dyn Writes>, Failure> {
        self.writes.as_ref().ok_or_else(|| {
            let message = "this server takes no uploads; connect to an ingester";
            Failure::new(ErrorCode::WrongRole, message)
        })
    }
}

/// What the service needs from the start; the rest comes with [`FlightServer::ready`].
#[derive(Debug)]
pub struct FlightServerOptions {
    /// Limits and times.
    pub settings: ServerConfig,
    /// Who is let in.
    pub authenticator: Arc<Authenticator>,
    /// Signs tickets; the same on every pod of a cluster.
    pub key: SigningKey,
    /// Closed while starting and stopping.
    pub gate: Arc<Gate>,
    /// Where queries are counted.
    pub metrics: QueryMetrics,
}

/// The public Flight service. Cheap to share; all its state but the memory of executed tickets is
/// elsewhere.
pub struct FlightServer {
    pub(crate) settings: ServerConfig,
    pub(crate) key: SigningKey,
    pub(crate) sql_info: SqlInfoData,
    /// Statements with effects that ran through a ticket, so that they run once.
    pub(crate) executed: OnceEach,
    pub(crate) metrics: QueryMetrics,
    authenticator: Arc<Authenticator>,
    gate: Arc<Gate>,
    backends: OnceLock<Backends>,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl FlightServer {
    /// A service that refuses calls until [`FlightServer::ready`] and an open gate.
    ///
    /// # Errors
    /// Only by a bug in the tables of SQL information.
    pub fn new(options: FlightServerOptions) -> Result<Self, Failure> {
        let FlightServerOptions {
            settings,
            authenticator,
            key,
            gate,
            metrics,
        } = options;
        Ok(Self {
            settings,
            key,
            sql_info: crate::sql_info::sql_info()?,
            executed: OnceEach::default(),
            metrics,
            authenticator,
            gate,
            backends: OnceLock::new(),
        })
    }

    /// Gives the service what it works with. The gate is opened by the caller.
    pub fn ready(&self, backends: Backends) {
        // A second call changes nothing: a process starts once.
        let _ = self.backends.set(backends);
    }

    pub(crate) fn backends(&self) -> Result<&Backends, Failure> {
        self.backends.get().ok_or_else(|| {
            Failure::new(
                ErrorCode::NotReady,
                "this server is starting; retry shortly",
            )
        })
    }

    /// Lets a call in: known caller, open gate.
    fn enter<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = Caller::of(request, &self.authenticator)
            .map_err(|failure| failure.into_status(&request_id(request)))?;
        self.gate
            .enter()
            .map_err(|failure| failure.into_status(&caller.request_id))?;
        Ok(caller)
    }
}

/// Names the call in whatever failure a stream ends with.
fn named<T: Send + 'static>(
    stream: impl Stream<Item = Result<T, Failure>> + Send + 'static,
    request_id: String,
) -> Response<BoxStream<T>> {
    Response::new(
        stream
            .map(move |item| item.map_err(|failure| failure.into_status(&request_id)))
            .boxed(),
    )
}

#[tonic::async_trait]
impl FlightService for FlightServer {
    type HandshakeStream = BoxStream<HandshakeResponse>;
    type ListFlightsStream = BoxStream<FlightInfo>;
    type DoGetStream = BoxStream<FlightData>;
    type DoPutStream = BoxStream<PutResult>;
    type DoExchangeStream = BoxStream<FlightData>;
    type DoActionStream = BoxStream<arrow_flight::Result>;
    type ListActionsStream = BoxStream<ActionType>;

    /// Trades `Basic` credentials (the password is the token) or a bearer token for the
    /// `authorization` header to send from then on.
    async fn handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        self.enter(&request)?;
        let metadata: &http::HeaderMap = request.metadata().as_ref();
        let authorization = metadata.get_all(headers::AUTHORIZATION);
        let bearer = Credential::from_headers(authorization.iter().map(|value| value.as_bytes()))
            .ok()
            .and_then(|token| MetadataValue::try_from(format!("Bearer {}", token.expose())).ok());
        let answer = HandshakeResponse::default();
        let mut response =
            Response::new(futures::stream::once(std::future::ready(Ok(answer))).boxed());
        if let Some(mut bearer) = bearer {
            bearer.set_sensitive(true);
            response.metadata_mut().insert("authorization", bearer);
        }
        Ok(response as Response<Self::HandshakeStream>)
    }

    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        let caller = self.enter(&request)?;
        let id = caller.request_id.clone();
        let flights = self
            .flights(&caller, &request.into_inner().expression)
            .await;
        let flights = flights.map_err(|failure| failure.into_status(&id))?;
        Ok(named(
            futures::stream::iter(flights.into_iter().map(Ok)),
            id,
        ))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let caller = self.enter(&request)?;
        let info = self.flight_info(&caller, request.into_inner()).await;
        info.map(Response::new)
            .map_err(|failure| failure.into_status(&caller.request_id))
    }

    /// Planning is quick and the work is done by DoGet, so the answer is complete at once.
    async fn poll_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        let caller = self.enter(&request)?;
        let info = self
            .flight_info(&caller, request.into_inner())
            .await
            .map_err(|failure| failure.into_status(&caller.request_id))?;
        Ok(Response::new(PollInfo {
            info: Some(info),
            progress: Some(1.0),
            ..PollInfo::default()
        }))
    }

    async fn get_schema(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        let caller = self.enter(&request)?;
        let schema = self.schema(&caller, request.into_inner()).await;
        schema
            .map(Response::new)
            .map_err(|failure| failure.into_status(&caller.request_id))
    }

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<Self::DoGetStream>, Status> {
        let caller = self.enter(&request)?;
        let id = caller.request_id.clone();
        let messages = self.get(&caller, request.into_inner()).await;
        Ok(named(
            messages.map_err(|failure| failure.into_status(&id))?,
            id,
        ))
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoPutStream>, Status> {
        let caller = self.enter(&request)?;
        let id = caller.request_id.clone();
        let inbox = request.extensions().get::<Inbox>().cloned();
        let results = self.put(caller, request.into_inner(), inbox).await;
        Ok(named(
            results.map_err(|failure| failure.into_status(&id))?,
            id,
        ))
    }

    async fn do_exchange(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        let caller = self.enter(&request)?;
        let message = "DoExchange is not offered; upload with DoPut and query with SQL";
        Err(Failure::new(ErrorCode::Unimplemented, message).into_status(&caller.request_id))
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        let caller = self.enter(&request)?;
        let id = caller.request_id.clone();
        let answer = self.action(&caller, request.into_inner()).await;
        let answer = answer.map_err(|failure| failure.into_status(&id))?;
        let result = answer.body.map(|body| Ok(arrow_flight::Result { body }));
        let mut response = named(futures::stream::iter(result), id);
        if let Some(Ok(cookie)) = answer.cookie.map(|cookie| cookie.parse()) {
            response.metadata_mut().insert(headers::SET_COOKIE, cookie);
        }
        Ok(response)
    }

    async fn list_actions(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        let caller = self.enter(&request)?;
        let actions = crate::actions::offered().map(Ok);
        Ok(named(futures::stream::iter(actions), caller.request_id))
    }
}
