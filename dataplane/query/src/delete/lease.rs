//! The lease of a table while rows are deleted from it.
//!
//! Compaction and other deletions leave a leased table alone, so that none has to do its work twice. What
//! must not go wrong does not hang on it: the commit checks that the files are still there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flightcluster_catalog::{Catalog, JobKind, Lease, TableId};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::Error;

/// Pauses between two questions for the lease; they double from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A lease, or the decision to go on without.
#[derive(Debug)]
pub(super) struct TableLease {
    catalog: Arc<dyn Catalog>,
    table: TableId,
    /// Each statement is a holder of its own.
    holder: String,
    /// How long it is: one that is not given back, because the process died, keeps others waiting no
    /// longer. And how long another holder is waited for; then the work begins without the lease.
    time: Duration,
    asked: Option<Instant>,
}

impl TableLease {
    /// Takes the lease, waits for it, or goes on without it after a while.
    pub(super) async fn take(
        catalog: Arc<dyn Catalog>,
        table: TableId,
        time: Duration,
        stop: &CancellationToken,
    ) -> Result<Self, Error> {
        let holder = format!("delete-{}", uuid::Uuid::new_v4().simple());
        let mut lease = Self {
            catalog,
            table,
            holder,
            time,
            asked: None,
        };
        let began = Instant::now();
        let mut pause = PAUSES.0;
        while !lease.ask(time).await? {
            if began.elapsed() > time {
                info!(
                    table = table.0,
                    "the table is being rewritten all the time, deleting all the same"
                );
                return Ok(lease);
            }
            let wait = tokio::time::sleep(pause);
            let waited = stop.run_until_cancelled(wait).await;
            waited.ok_or(Error::Cancelled)?;
            pause = (pause * 2).min(PAUSES.1);
        }
        lease.asked = Some(Instant::now());
        Ok(lease)
    }

    /// Makes the lease longer when a part of it is over.
    pub(super) async fn keep(&mut self) -> Result<(), Error> {
        let Some(asked) = self.asked.filter(|asked| asked.elapsed() > self.time / 4) else {
            return Ok(());
        };
        let kept = self.ask(self.time).await?;
        debug!(table = self.table.0, kept, held = ?asked.elapsed(), "asked for a lease again");
        self.asked = kept.then(Instant::now);
        Ok(())
    }

    /// Lets others at the table. When that fails the lease ends by itself.
    pub(super) async fn give_back(self) {
        if self.asked.is_some()
            && let Err(error) = self.ask(Duration::ZERO).await
        {
            debug!(table = self.table.0, %error, "can't give a lease back");
        }
    }

    async fn ask(&self, time: Duration) -> Result<bool, Error> {
        let lease = Lease {
            job: JobKind::Rewrite,
            table: Some(self.table),
            holder: self.holder.clone(),
            time,
        };
        let leased = self.catalog.lease(lease).await;
        leased.map_err(|source| Error::from_catalog("leasing a table", source))
    }
}
