//! The way from one ingester to another, through calls that get lost.

use std::sync::Arc;

use async_trait::async_trait;
use flightcluster_catalog::{Ingester, TableId};
use flightcluster_ingest::{PeerError, Peers};
use flightcluster_server::FlushPeers;
use flightcluster_server::status::{ErrorCode, Failure};
use parking_lot::Mutex;

use crate::broken::Broken;
use crate::life::{Life, Port};
use crate::reader::Running;
use crate::world::alive;

/// The other ingesters, as one process reaches them.
#[derive(Debug)]
pub(crate) struct OtherIngesters {
    pub(crate) running: Arc<Mutex<Vec<Running>>>,
    pub(crate) life: Arc<Life>,
    pub(crate) broken: Option<Broken>,
}

impl OtherIngesters {
    /// The newest life of an ingester.
    fn find(&self, ingester: &Ingester) -> Option<Running> {
        let of_it = |(_, ingest): &&Running| ingest.ingester().id == ingester.id;
        self.running.lock().iter().rfind(of_it).cloned()
    }
}

#[async_trait]
impl FlushPeers for OtherIngesters {
    async fn flush_upload(&self, ingester: &Ingester, staging: TableId) -> Result<(), Failure> {
        let lost = || Failure::new(ErrorCode::IngesterUnavailable, "not there");
        let ask = async {
            let (life, ingest) = self.find(ingester).ok_or_else(lost)?;
            if self.broken != Some(Broken::UploadNotFlushed) {
                let flush = ingest.flush_upload(ingester.epoch, staging);
                alive(&life, flush).await.ok_or_else(lost)??;
            }
            if life.is_dead() {
                return Err(lost());
            }
            Ok(())
        };
        self.life.pass(Port::Peer, lost, ask).await
    }

    async fn flush_table(&self, ingester: &Ingester, table: TableId) -> Result<(), Failure> {
        let lost = || Failure::new(ErrorCode::IngesterUnavailable, "not there");
        let ask = async {
            let found = self.find(ingester).filter(|(life, _)| !life.is_dead());
            if found.is_none() && self.broken == Some(Broken::DeletesWithoutTheLost) {
                return Ok(());
            }
            let (life, ingest) = found.ok_or_else(lost)?;
            let flush = ingest.flush_table(ingester.epoch, table);
            alive(&life, flush).await.ok_or_else(lost)??;
            Ok(())
        };
        self.life.pass(Port::Peer, lost, ask).await
    }
}

#[async_trait]
impl Peers for OtherIngesters {
    async fn release_producer(
        &self,
        owner: &Ingester,
        table: TableId,
        producer: &str,
    ) -> Result<Option<u64>, PeerError> {
        let lost = || PeerError::from("not there");
        let ask = async {
            let (life, ingest) = self.find(owner).ok_or_else(lost)?;
            let answer = ingest
                .release_producer(owner.epoch, table, producer)
                .await?;
            if life.is_dead() {
                return Err(lost());
            }
            let silent = self.broken == Some(Broken::PositionNotHandedOver);
            Ok(answer.filter(|_| !silent))
        };
        self.life.pass(Port::Peer, lost, ask).await
    }
}
