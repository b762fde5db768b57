//! The ingesters of the cluster, asked to put rows into files: the one of this process by a call, the
//! others over the internal port.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use flightcluster_catalog::{Catalog, Ingester, TableId};
use flightcluster_ingest::Ingest;
use futures::future::try_join_all;

use crate::status::Failure;

/// The way to ingesters of other processes. Each is asked in the life it is named with.
///
/// - Errors: any, when that life did not say that it has the rows in files.
#[async_trait]
pub trait FlushPeers: Send + Sync + fmt::Debug + 'static {
    /// Asks for [`Ingest::flush_upload`].
    async fn flush_upload(&self, ingester: &Ingester, staging: TableId) -> Result<(), Failure>;

    /// Asks for [`Ingest::flush_table`].
    async fn flush_table(&self, ingester: &Ingester, table: TableId) -> Result<(), Failure>;
}

/// The way to all ingesters.
#[derive(Debug)]
pub struct Ingesters {
    /// Where they are listed.
    pub catalog: Arc<dyn Catalog>,
    /// The one in this process, if there is one.
    pub local: Option<Arc<Ingest>>,
    /// The way to all others.
    pub peers: Arc<dyn FlushPeers>,
}

impl Ingesters {
    /// Puts every row of a table that is acknowledged by now into a file.
    ///
    /// An ingester that has none is not asked, and may be down: what it acknowledges from now on is
    /// written later.
    ///
    /// - Errors: an ingester that may have such rows can't be reached, or can't flush. Others may have.
    pub async fn flush_table(&self, table: TableId) -> Result<(), Failure> {
        let ingesters = self.catalog.ingesters_of(table).await?;
        let flushes = ingesters.iter().map(|ingester| async move {
            match self.local(ingester) {
                Some(local) => Ok(local.flush_table(ingester.epoch, table).await?),
                None => self.peers.flush_table(ingester, table).await,
            }
        });
        try_join_all(flushes).await.map(drop)
    }

    /// Puts all that an ingester has of an upload into files.
    pub(crate) async fn flush_upload(
        &self,
        ingester: &Ingester,
        staging: TableId,
    ) -> Result<(), Failure> {
        match self.local(ingester) {
            Some(local) => Ok(local.flush_upload(ingester.epoch, staging).await?),
            None => self.peers.flush_upload(ingester, staging).await,
        }
    }

    fn local(&self, ingester: &Ingester) -> Option<&Arc<Ingest>> {
        let local = self.local.as_ref();
        local.filter(|local| local.ingester().id == ingester.id)
    }
}
