//! Whether this process is still the present life of its ingester, and on the catalog it knows.
//!
//! Asked every [`INTERVAL`] beside the flusher. A process that was paused asks before it takes or
//! acknowledges anything more: while it stood still another may have taken over. When the catalog can't
//! be asked, an ingester that did not stand still goes on, as it goes on without flushing: what it takes
//! is in its log. One that did refuses until it knows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flightcluster_catalog::{self as catalog, IngesterCheck, SnapshotStamp, TableId};
use flightcluster_wal::CatalogState;
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::debug;

use crate::error::Error;
use crate::fatal::Fatal;
use crate::flusher::chain;
use crate::ingest::Core;
use crate::table::failed;

/// Time between two questions.
const INTERVAL: Duration = Duration::from_secs(2);
/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(3);
/// When nothing was asked for this long, the process stood still.
const PAUSED: Duration = Duration::from_secs(8);

/// What is known of the catalog.
#[derive(Debug)]
pub(crate) struct Current {
    /// One question at a time. When the last one ended.
    asked: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    asked: Instant,
    /// It stood still, and has no answer since.
    doubtful: bool,
    newest: SnapshotStamp,
    /// Tables up to this were there in a state that the log remembers.
    covered: TableId,
}

impl Known {
    fn is_doubtful(&self, now: Instant) -> bool {
        self.doubtful || now.saturating_duration_since(self.asked) > PAUSED
    }
}

impl Current {
    pub(crate) fn new(newest: SnapshotStamp, now: Instant) -> Self {
        Self {
            asked: tokio::sync::Mutex::default(),
            known: Mutex::new(Known {
                asked: now,
                doubtful: false,
                newest,
                covered: TableId(0),
            }),
        }
    }

    /// The newest state of the catalog that this process saw.
    pub(crate) fn newest(&self) -> SnapshotStamp {
        self.known.lock().newest
    }

    /// Notes a state of the catalog.
    pub(crate) fn saw(&self, stamp: SnapshotStamp) {
        let mut known = self.known.lock();
        if known.newest.snapshot < stamp.snapshot {
            known.newest = stamp;
        }
    }
}

/// A state of the catalog as the log keeps it.
pub(crate) fn catalog_state(stamp: SnapshotStamp) -> CatalogState {
    CatalogState {
        snapshot: stamp.snapshot.0,
        created_at_millis: stamp.created_at_millis,
    }
}

/// Asks until it is aborted or the ingester is out of service.
pub(crate) async fn run(core: Arc<Core>) {
    while core.fatal.get().is_none() {
        sleep(INTERVAL).await;
        let _one = core.current.asked.lock().await;
        if let Err(error) = core.ask().await {
            debug!(error = %chain(&error), "can't ask whether this ingester may go on");
        }
    }
}

impl Core {
    /// Before a write, and before it is acknowledged: asks, if the process stood still since it asked last.
    ///
    /// # Errors
    /// [`Error::OutOfService`] when it must not go on; [`Error::Catalog`] when it stood still and can't
    /// learn whether it may.
    pub(crate) async fn check_current(&self) -> Result<(), Error> {
        if self.is_doubtful() {
            let _one = self.current.asked.lock().await;
            if self.is_doubtful() {
                self.ask().await?;
            }
        }
        match self.fatal.get() {
            Some(fatal) => Err(Error::OutOfService(fatal)),
            None => Ok(()),
        }
    }

    /// Makes the log remember a state of the catalog that has the table, before rows of it are
    /// acknowledged: table numbers may be given again by a catalog that was restored from a backup.
    ///
    /// # Errors
    /// [`Error::Catalog`], [`Error::OutOfService`]; [`Error::Wal`] when the log can't note it.
    pub(crate) async fn cover(&self, table: TableId) -> Result<(), Error> {
        if table <= self.current.known.lock().covered {
            return Ok(());
        }
        let _one = self.current.asked.lock().await;
        if table <= self.current.known.lock().covered {
            return Ok(());
        }
        self.ask().await?;
        let state = catalog_state(self.current.newest());
        let wal = self.wal()?;
        let noted = spawn_blocking(move || wal.remember(state)).await;
        noted.map_err(|_| Error::Cancelled)?.map_err(Error::Wal)?;
        let mut known = self.current.known.lock();
        known.covered = known.covered.max(table);
        Ok(())
    }

    fn is_doubtful(&self) -> bool {
        self.current.known.lock().is_doubtful(self.clock.now())
    }

    /// Asks the catalog once and draws the consequences.
    pub(crate) async fn ask(&self) -> Result<(), Error> {
        let check = IngesterCheck {
            ingester: self.ingester.id,
            epoch: self.ingester.epoch,
            seen: self.current.newest(),
        };
        // Before the question: its failure must not make a pause look like a catalog that is away.
        {
            let mut known = self.current.known.lock();
            known.doubtful = known.is_doubtful(self.clock.now());
        }
        let answer = timeout(ANSWER, self.catalog.check_ingester(check)).await;
        self.current.known.lock().asked = self.clock.now();
        match answer {
            Ok(Ok(newest)) => {
                self.current.saw(newest);
                self.current.known.lock().doubtful = false;
                Ok(())
            }
            Ok(Err(error)) => Err(self.catalog_failed("checking the ingester", error)),
            Err(elapsed) => Err(failed("checking the ingester")(
                catalog::Error::Unavailable {
                    place: "the catalog".to_owned(),
                    source: Box::new(elapsed),
                },
            )),
        }
    }

    /// Tells a refusal that ends this process from a failure that may pass.
    pub(crate) fn catalog_failed(&self, doing: &'static str, error: catalog::Error) -> Error {
        let fatal = match error {
            catalog::Error::Fenced { .. } => Fatal::Fenced(Arc::new(error)),
            catalog::Error::RolledBack { .. } => Fatal::RolledBack(Arc::new(error)),
            other => return failed(doing)(other),
        };
        self.fatal.set(fatal.clone());
        Error::OutOfService(fatal)
    }
}
