//! The rounds of upkeep: what is done, in which order, how often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flightcluster_catalog::{Catalog, JobKind, Lease, TableId};
use flightcluster_config::UpkeepConfig;
use object_store::ObjectStore;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::choose::Policy;
use crate::error::{Error, chain};
use crate::ports::{Observer, Rewriter};

/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What an [`Upkeep`] is made of.
#[derive(Debug)]
pub struct UpkeepOptions {
    /// How often and how much.
    pub config: UpkeepConfig,
    /// Where files, queue and leases are.
    pub catalog: Arc<dyn Catalog>,
    /// Where the objects are.
    pub store: Arc<dyn ObjectStore>,
    /// Reads and writes files.
    pub rewriter: Arc<dyn Rewriter>,
    /// Is told what happens.
    pub observer: Arc<dyn Observer>,
    /// Name for leases. The same in the next life of the process, which takes up at once what the last
    /// one held when it died.
    pub holder: String,
    /// For how long an object may wait for the commit that names it.
    pub commit_within: Duration,
}

/// Upkeep of all tables.
#[derive(Debug)]
pub struct Upkeep {
    pub(crate) config: UpkeepConfig,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) rewriter: Arc<dyn Rewriter>,
    pub(crate) observer: Arc<dyn Observer>,
    holder: String,
    pub(crate) commit_within: Duration,
}

impl Upkeep {
    /// Upkeep that has not begun: nothing happens before a call.
    #[must_use]
    pub fn new(options: UpkeepOptions) -> Self {
        let UpkeepOptions {
            config,
            catalog,
            store,
            rewriter,
            observer,
            holder,
            commit_within,
        } = options;
        Self {
            config,
            catalog,
            store,
            rewriter,
            observer,
            holder,
            commit_within,
        }
    }

    /// Does rounds until `stop`. A failed round is followed by longer and longer pauses.
    pub async fn run(&self, stop: CancellationToken) {
        let mut pause = self.config.interval;
        let mut scanned = Instant::now();
        loop {
            // Two processes that start together should not go on together.
            let wait = tokio::time::sleep(self.jittered(pause));
            if stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
            let mut healthy = self.round(&stop).await;
            if scanned.elapsed() >= self.config.orphan_interval {
                let scan = self.scan_orphans(&stop).await;
                healthy &= self.note(JobKind::OrphanScan.as_str(), scan);
                scanned = Instant::now();
            }
            pause = match healthy {
                true => self.config.interval,
                false => (pause * 2).min(LONGEST_PAUSE).max(self.config.interval),
            };
        }
    }

    /// One round: retention, compaction, deletion, forgetting. Whether nothing failed.
    async fn round(&self, stop: &CancellationToken) -> bool {
        // First: what goes altogether need not be compacted.
        let expired = self.expire(stop).await;
        let mut healthy = self.note("retention", expired);
        let compacted = self.compact(stop).await;
        healthy &= self.note("compaction", compacted);
        let collected = self.collect_garbage(stop).await;
        healthy &= self.note(JobKind::GarbageCollection.as_str(), collected);
        let forgotten = self.forget_history().await;
        healthy & self.note(JobKind::History.as_str(), forgotten)
    }

    /// Lets the catalog forget what nobody can ask for any more.
    ///
    /// # Errors
    /// [`Error::Catalog`].
    pub async fn forget_history(&self) -> Result<(), Error> {
        let job = (JobKind::History, None);
        if !self.lease(job, self.config.lease).await? {
            return Ok(());
        }
        let forgotten = self.catalog.forget_history(self.config.history()).await;
        self.give_back(job).await;
        let forgotten = forgotten.map_err(Error::catalog("forgetting old history"))?;
        debug!(?forgotten, "forgot old history");
        Ok(())
    }

    fn note<T>(&self, job: &'static str, result: Result<T, Error>) -> bool {
        let Err(error) = result else { return true };
        warn!(job, error = %chain(&error), "a job of upkeep failed, will retry");
        self.observer.failed(job);
        false
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy {
            min_files: self.config.compaction_min_files as usize,
            max_files: self.config.compaction_max_files as usize,
            target_bytes: self.config.compaction_target_bytes.as_u64(),
        }
    }

    /// Takes a job, or keeps it.
    pub(crate) async fn lease(
        &self,
        (job, table): (JobKind, Option<TableId>),
        time: Duration,
    ) -> Result<bool, Error> {
        let holder = self.holder.clone();
        let lease = Lease {
            job,
            table,
            holder,
            time,
        };
        let leased = self.catalog.lease(lease).await;
        leased.map_err(Error::catalog("leasing a job"))
    }

    /// Gives a job back. When that fails the lease ends by itself.
    pub(crate) async fn give_back(&self, job: (JobKind, Option<TableId>)) {
        if let Err(error) = self.lease(job, Duration::ZERO).await {
            debug!(error = %chain(&error), "can't give a lease back");
        }
    }

    /// The pause, up to a tenth shorter, by the name of this process.
    fn jittered(&self, pause: Duration) -> Duration {
        let seed: u32 = self.holder.bytes().map(u32::from).sum();
        pause - pause / 1000 * (seed % 100)
    }
}
