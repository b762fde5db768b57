//! What an ingester asks another one: actions of the internal port, both ends of them.
//!
//! This is the adapter of [`flightcluster_ingest::Peers`]. Bodies are JSON.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::Action;
use async_trait::async_trait;
use bytes::Bytes;
use flightcluster_catalog::{Epoch, Ingester, IngesterId, TableId};
use flightcluster_ingest::{Ingest, PeerError};
use serde::{Deserialize, Serialize};

use crate::call::pass_on_request_id;
use crate::peers::Peers;
use crate::status::{ErrorCode, Failure};

/// Time for an answer. The owner waits for batches on their way to its disk, nothing else.
const TIMEOUT: Duration = Duration::from_secs(5);

const RELEASE_PRODUCER: &str = "release-producer";

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

impl PeerIngesters {
    /// The one answer to an action.
    async fn ask(&self, url: &str, action: &str, body: Vec<u8>) -> Result<Bytes, Failure> {
        let mut request = tonic::Request::new(Action {
            r#type: action.to_owned(),
            body: body.into(),
        });
        pass_on_request_id(&mut request);
        let failed = |status: tonic::Status| Failure::from_peer(url, &status);
        let mut client = self.0.client(url)?;
        let response = client.do_action(request).await.map_err(failed)?;
        let answer = response.into_inner().message().await.map_err(failed)?;
        let nothing = || Failure::new(ErrorCode::Internal, format!("{url} answered nothing"));
        Ok(answer.ok_or_else(nothing)?.body)
    }
}

/// Answers an action another ingester asks for.
pub(crate) async fn answer(ingest: &Ingest, action: &Action) -> Result<Bytes, Failure> {
    let answer = match action.r#type.as_str() {
        RELEASE_PRODUCER => release_producer(ingest, &action.body).await?,
        other => {
            let message = format!("the internal port has no action {other:?}");
            return Err(Failure::new(ErrorCode::Unimplemented, message));
        }
    };
    serde_json::to_vec(&answer)
        .map(Bytes::from)
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("answer to a peer: {error}")))
}

async fn release_producer(ingest: &Ingest, body: &[u8]) -> Result<Released, Failure> {
    let asked: ReleaseProducer = serde_json::from_slice(body).map_err(|error| {
        let message = format!("question of a peer: {error}");
        Failure::new(ErrorCode::InvalidCommand, message)
    })?;
    // Addresses are given again to other pods.
    if asked.ingester != ingest.ingester().id {
        let message = "another ingester answers here now";
        return Err(Failure::new(ErrorCode::IngesterUnavailable, message));
    }
    let position = ingest
        .release_producer(asked.epoch, asked.table, &asked.producer)
        .await?;
    Ok(Released { position })
}
