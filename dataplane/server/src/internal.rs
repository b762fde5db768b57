//! The Flight service of the internal port: what pods ask each other. Fresh rows by DoGet, forwarded
//! uploads by DoPut, questions between ingesters by DoAction. Who gets here has a certificate of the cluster; nobody else is let in.
//!
//! The catalog and the embedded object store answer on the same port over HTTP; see
//! [`flightcluster_catalog::remote`] and the crate `flightcluster_objectstore`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo,
    HandshakeRequest, HandshakeResponse, PollInfo, PutResult, SchemaResult, Ticket,
};
use arrow_schema::SchemaRef;
use flightcluster_ingest::Ingest;
use flightcluster_query::ports::RecentRowsError;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::asked;
use crate::call::RequestId;
use crate::gate::Gate;
use crate::put::read_inbox;
use crate::receive::Inbox;
use crate::recent::{LocalRows, RecentRequest};
use crate::status::{ErrorCode, Failure, chain};
use crate::stream::respond;
use crate::writes::{PutTarget, Writes};

/// Well below the silence after which a querier gives a partial answer without this ingester: reads from the log
/// wait for each other.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// What an ingester offers its peers.
#[derive(Debug)]
pub struct InternalService {
    /// The ingester of this process.
    pub ingest: Arc<Ingest>,
    /// Uploads into it.
    pub writes: Arc<dyn Writes>,
    /// Closed while starting and stopping; fresh rows and answers are given out until the very end.
    pub gate: Arc<Gate>,
    /// Where clients reach its public port, if the settings say.
    pub location: Option<String>,
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn request_id<T>(request: &Request<T>) -> String {
    request
        .extensions()
        .get::<RequestId>()
        .map_or_else(String::new, |id| id.as_str().to_owned())
}

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Failure::new(
        ErrorCode::Unimplemented,
        "the internal port does not offer this call",
    )
    .into_status(""))
}

#[tonic::async_trait]
impl FlightService for InternalService {
    type HandshakeStream = BoxStream<HandshakeResponse>;
    type ListFlightsStream = BoxStream<FlightInfo>;
    type DoGetStream = BoxStream<FlightData>;
    type DoPutStream = BoxStream<PutResult>;
    type DoExchangeStream = BoxStream<FlightData>;
    type DoActionStream = BoxStream<arrow_flight::Result>;
    type ListActionsStream = BoxStream<ActionType>;

    async fn do_get(
        &self,
        request: Request<Ticket>,
    ) -> Result<Response<BoxStream<FlightData>>, Status> {
        let id = request_id(&request);
        let asked: RecentRequest = serde_json::from_slice(&request.get_ref().ticket)
            .map_err(|error| Status::invalid_argument(format!("internal ticket: {error}")))?;
        let schema = flightcluster_ingest::schema::decode_schema(&asked.schema)
            .map_err(|error| Status::invalid_argument(chain(&error)))?;
        if asked.ingester != self.ingest.ingester().id {
            return Err(Status::out_of_range("another ingester answers here now"));
        }
        let rows = LocalRows::of(
            &self.ingest,
            asked.epoch,
            asked.table,
            SchemaRef::clone(&schema),
            asked.after,
            asked.projection.as_deref(),
        )
        .map_err(|error| match error {
            RecentRowsError::TooOld { .. } => Status::out_of_range(error.to_string()),
            RecentRowsError::Unreachable { .. }
            | RecentRowsError::BadAnswer { .. }
            | RecentRowsError::MemoryExhausted { .. } => Status::internal(chain(&error)),
        })?;
        let schema = match &asked.projection {
            Some(columns) => Arc::new(
                schema
                    .project(columns)
                    .map_err(|error| Status::invalid_argument(error.to_string()))?,
            ),
            None => schema,
        };
        // One that was let go of meanwhile is asked for again, as one that can't be read.
        let failed =
            |error: RecentRowsError| Failure::new(ErrorCode::IngesterUnavailable, chain(&error));
        let pieces = futures::stream::try_unfold(rows, move |mut rows| async move {
            let piece = rows.next().await.map_err(failed)?;
            Ok::<_, Failure>(piece.map(|(batches, _)| (batches, rows)))
        });
        let batches = pieces
            .map_ok(|batches| futures::stream::iter(batches.into_iter().map(Ok)))
            .try_flatten()
            .boxed();
        let messages =
            respond(schema, batches, KEEPALIVE).map_err(|failure| failure.into_status(&id))?;
        Ok(Response::new(
            messages
                .map(move |message| message.map_err(|failure| failure.into_status(&id)))
                .boxed(),
        ))
    }

    async fn do_put(
        &self,
        request: Request<Streaming<FlightData>>,
    ) -> Result<Response<BoxStream<PutResult>>, Status> {
        let id = request_id(&request);
        self.gate
            .enter()
            .map_err(|failure| failure.into_status(&id))?;
        let inbox = request.extensions().get::<Inbox>().cloned();
        let mut messages = read_inbox(request.into_inner(), inbox);
        let Some(first) = messages.next().await.transpose()? else {
            return Err(Status::invalid_argument("the upload is empty"));
        };
        let command = first
            .flight_descriptor
            .as_ref()
            .map(|descriptor| descriptor.cmd.clone());
        let target: PutTarget = serde_json::from_slice(&command.unwrap_or_default())
            .map_err(|error| Status::invalid_argument(format!("internal put target: {error}")))?;
        let messages = futures::stream::once(std::future::ready(Ok(first)))
            .chain(messages.map(|message| message.map_err(Failure::of_client_stream)))
            .boxed();
        let acks = self
            .writes
            .put(target, messages)
            .await
            .map_err(|failure| failure.into_status(&id))?;
        let results = acks.map(move |ack| match ack {
            Ok(ack) => Ok(PutResult {
                app_metadata: crate::put::ack_metadata(&ack),
            }),
            Err(failure) => Err(failure.into_status(&id)),
        });
        Ok(Response::new(results.boxed()))
    }

    /// Answers at once: how a peer finds out whether this one is there.
    async fn list_actions(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<Self::ListActionsStream>, Status> {
        self.gate
            .enter()
            .map_err(|failure| failure.into_status(&request_id(&request)))?;
        Ok(Response::new(futures::stream::empty().boxed()))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        not_here()
    }

    async fn list_flights(
        &self,
        _: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        not_here()
    }

    async fn get_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        not_here()
    }

    async fn poll_flight_info(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<PollInfo>, Status> {
        not_here()
    }

    async fn get_schema(
        &self,
        _: Request<FlightDescriptor>,
    ) -> Result<Response<SchemaResult>, Status> {
        not_here()
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        not_here()
    }

    async fn do_action(
        &self,
        request: Request<Action>,
    ) -> Result<Response<Self::DoActionStream>, Status> {
        // All but one are answered until the very end, as fresh rows are.
        let id = request_id(&request);
        let body = asked::answer(self, request.get_ref())
            .await
            .map_err(|failure| failure.into_status(&id))?;
        let answer = futures::stream::once(std::future::ready(Ok(arrow_flight::Result { body })));
        Ok(Response::new(answer.boxed()))
    }
}
