//! What an ingester is asked by other pods: actions of the internal port, both ends of them.
//!
//! This is the adapter of [`flightcluster_ingest::Peers`] and [`FlushPeers`]. Bodies are JSON.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::Action;
use async_trait::async_trait;
use bytes::Bytes;
use flightcluster_catalog::{Epoch, Ingester, IngesterId, TableId};
use flightcluster_ingest::{Ingest, PeerError};
use flightcluster_query::time_text;
use serde::{Deserialize, Serialize};

use crate::call::pass_on_request_id;
use crate::ingesters::FlushPeers;
use crate::internal::InternalService;
use crate::peers::Peers;
use crate::status::{ErrorCode, Failure};

/// Time for an answer. The owner waits for batches on their way to its disk, nothing else.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Time to tell a location: a client waits for the slowest ingester.
const LOCATION_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for a flush: of all the rows an ingester may hold, into a slow store.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

const RELEASE_PRODUCER: &str = "release-producer";
const FLUSH_UPLOAD: &str = "flush-upload";
const FLUSH_TABLE: &str = "flush-table";
const PUBLIC_LOCATION: &str = "public-location";

/// Asks an ingester to take no more batches of a producer.
#[derive(Debug, Serialize, Deserialize)]
struct ReleaseProducer {
    ingester: IngesterId,
    epoch: Epoch,
    table: TableId,
    producer: String,
}

/// How far the producer came there, as far as that ingester knows.
#[derive(Debug, Serialize, Deserialize)]
struct Released {
    position: Option<u64>,
}

/// Asks an ingester to put all it has of an upload into files.
#[derive(Debug, Serialize, Deserialize)]
struct FlushUpload {
    ingester: IngesterId,
    epoch: Epoch,
    staging: TableId,
}

/// Asks an ingester to put all acknowledged rows of a table into files.
#[derive(Debug, Serialize, Deserialize)]
struct FlushTable {
    ingester: IngesterId,
    epoch: Epoch,
    table: TableId,
}

/// Asks an ingester where clients reach it.
#[derive(Debug, Serialize, Deserialize)]
struct AskLocation {
    ingester: IngesterId,
}

/// The location of its public port, if its settings name one.
#[derive(Debug, Serialize, Deserialize)]
struct PublicLocation {
    location: Option<String>,
}

/// The other ingesters of the cluster.
#[derive(Debug)]
pub struct PeerIngesters(pub Arc<Peers>);

#[async_trait]
impl flightcluster_ingest::Peers for PeerIngesters {
    async fn release_producer(
        &self,
        owner: &Ingester,
        table: TableId,
        producer: &str,
    ) -> Result<Option<u64>, PeerError> {
        let body = serde_json::to_vec(&ReleaseProducer {
            ingester: owner.id,
            epoch: owner.epoch,
            table,
            producer: producer.to_owned(),
        })?;
        let call = self.ask(&owner.url, RELEASE_PRODUCER, body);
        let answer = tokio::time::timeout(TIMEOUT, call).await??;
        let released: Released = serde_json::from_slice(&answer)?;
        Ok(released.position)
    }
}

#[async_trait]
impl FlushPeers for PeerIngesters {
    async fn flush_upload(&self, ingester: &Ingester, staging: TableId) -> Result<(), Failure> {
        let question = FlushUpload {
            ingester: ingester.id,
            epoch: ingester.epoch,
            staging,
        };
        self.flush(ingester, FLUSH_UPLOAD, &question, "of the upload")
            .await
    }

    async fn flush_table(&self, ingester: &Ingester, table: TableId) -> Result<(), Failure> {
        let question = FlushTable {
            ingester: ingester.id,
            epoch: ingester.epoch,
            table,
        };
        self.flush(ingester, FLUSH_TABLE, &question, "that are in no file")
            .await
    }
}

impl PeerIngesters {
    /// The location of an ingester's public port; `None` when its settings name none.
    ///
    /// - Errors: it can't be reached, or takes no new calls.
    pub(crate) async fn location(&self, ingester: &Ingester) -> Result<Option<String>, Failure> {
        let question = AskLocation {
            ingester: ingester.id,
        };
        let body = serde_json::to_vec(&question)
            .map_err(|error| Failure::new(ErrorCode::Internal, format!("question: {error}")))?;
        let call = self.ask(&ingester.url, PUBLIC_LOCATION, body);
        let answer = match tokio::time::timeout(LOCATION_TIMEOUT, call).await {
            Ok(Ok(answer)) => answer,
            // It is of a release that does not know the question.
            Ok(Err(failure)) if failure.code == ErrorCode::Unimplemented => return Ok(None),
            Ok(Err(failure)) => return Err(failure),
            Err(_) => {
                let message = format!("ingester {} does not answer", ingester.name);
                return Err(Failure::new(ErrorCode::IngesterUnavailable, message));
            }
        };
        let answer: PublicLocation = serde_json::from_slice(&answer).map_err(|error| {
            let message = format!("location of ingester {}: {error}", ingester.name);
            Failure::new(ErrorCode::Internal, message)
        })?;
        Ok(answer.location)
    }

    async fn flush<Q: Serialize + Sync>(
        &self,
        ingester: &Ingester,
        action: &str,
        question: &Q,
        rows: &str,
    ) -> Result<(), Failure> {
        let body = serde_json::to_vec(question)
            .map_err(|error| Failure::new(ErrorCode::Internal, format!("question: {error}")))?;
        let call = self.ask(&ingester.url, action, body);
        let Ok(answer) = tokio::time::timeout(FLUSH_TIMEOUT, call).await else {
            let message = format!(
                "ingester {} takes too long to flush; it was heard of last at {}",
                ingester.name,
                time_text(ingester.seen_at_millis)
            );
            return Err(Failure::new(ErrorCode::IngesterUnavailable, message));
        };
        answer.map(drop).map_err(|failure| Failure {
            message: format!(
                "ingester {} may have rows {rows}; it was heard of last at {}: {}",
                ingester.name,
                time_text(ingester.seen_at_millis),
                failure.message
            ),
            ..failure
        })
    }

    /// The one answer to an action.
    async fn ask(&self, url: &str, action: &str, body: Vec<u8>) -> Result<Bytes, Failure> {
        let mut request = tonic::Request::new(Action {
            r#type: action.to_owned(),
            body: body.into(),
        });
        pass_on_request_id(&mut request);
        let failed = |status: tonic::Status| Failure::from_peer(url, &status);
        let mut client = self.0.client(url)?;
        let answer = self.0.answer(url, client.do_action(request));
        let response = answer.await.map_err(failed)?;
        let answer = response.into_inner().message().await.map_err(failed)?;
        let nothing = || Failure::new(ErrorCode::Internal, format!("{url} answered nothing"));
        Ok(answer.ok_or_else(nothing)?.body)
    }
}

/// Answers an action another pod asks for.
pub(crate) async fn answer(asked: &InternalService, action: &Action) -> Result<Bytes, Failure> {
    let ingest = asked.ingest.as_ref();
    let answer = match action.r#type.as_str() {
        RELEASE_PRODUCER => serde_json::to_vec(&release_producer(ingest, &action.body).await?),
        FLUSH_UPLOAD => serde_json::to_vec(&flush_upload(ingest, &action.body).await?),
        FLUSH_TABLE => serde_json::to_vec(&flush_table(ingest, &action.body).await?),
        PUBLIC_LOCATION => serde_json::to_vec(&public_location(asked, &action.body)?),
        other => {
            let message = format!("the internal port has no action {other:?}");
            return Err(Failure::new(ErrorCode::Unimplemented, message));
        }
    };
    answer
        .map(Bytes::from)
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("answer to a peer: {error}")))
}

async fn release_producer(ingest: &Ingest, body: &[u8]) -> Result<Released, Failure> {
    let asked: ReleaseProducer = read(body)?;
    check_name(ingest, asked.ingester)?;
    let position = ingest
        .release_producer(asked.epoch, asked.table, &asked.producer)
        .await?;
    Ok(Released { position })
}

async fn flush_upload(ingest: &Ingest, body: &[u8]) -> Result<(), Failure> {
    let asked: FlushUpload = read(body)?;
    check_name(ingest, asked.ingester)?;
    Ok(ingest.flush_upload(asked.epoch, asked.staging).await?)
}

async fn flush_table(ingest: &Ingest, body: &[u8]) -> Result<(), Failure> {
    let asked: FlushTable = read(body)?;
    check_name(ingest, asked.ingester)?;
    Ok(ingest.flush_table(asked.epoch, asked.table).await?)
}

fn public_location(service: &InternalService, body: &[u8]) -> Result<PublicLocation, Failure> {
    let asked: AskLocation = read(body)?;
    check_name(&service.ingest, asked.ingester)?;
    // Nobody is sent to one that stops.
    service.gate.enter()?;
    let location = service.location.clone();
    Ok(PublicLocation { location })
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("question of a peer: {error}");
        Failure::new(ErrorCode::InvalidCommand, message)
    })
}

/// Addresses are given again to other pods.
fn check_name(ingest: &Ingest, asked: IngesterId) -> Result<(), Failure> {
    if asked == ingest.ingester().id {
        return Ok(());
    }
    let message = "another ingester answers here now";
    Err(Failure::new(ErrorCode::IngesterUnavailable, message))
}
