//! The way from one ingester to another, through calls that get lost.

use std::sync::Arc;

use async_trait::async_trait;
use flightcluster_catalog::{Ingester, TableId};
use flightcluster_ingest::{Ingest, PeerError, Peers};
use parking_lot::Mutex;

use crate::broken::Broken;
use crate::life::{Life, Port};
use crate::reader::Running;

/// The other ingesters, as one process reaches them.
#[derive(Debug)]
pub(crate) struct OtherIngesters {
    pub(crate) running: Arc<Mutex<Vec<Running>>>,
    pub(crate) life: Arc<Life>,
    pub(crate) broken: Option<Broken>,
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
            let of_owner = |(_, ingest): &&(_, Arc<Ingest>)| ingest.ingester().id == owner.id;
            let found = self.running.lock().iter().rfind(of_owner).cloned();
            let (life, ingest) = found.ok_or_else(lost)?;
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
