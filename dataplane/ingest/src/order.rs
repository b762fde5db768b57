//! Order numbers for the rows of tables with a primary key.
//!
//! # Guarantees
//! A batch gets its numbers after its write began and before it is queued for the log, so before it is
//! acknowledged. Numbers grow with the calls to the catalog, of whatever ingester: a write that begins
//! after another was acknowledged has higher ones. No clock takes part.
//!
//! # Deletions
//! A deletion reads the last number that was given, and then asks every ingester for its rows.
//! [`Orders::given_are_stored`] waits there for the writes whose numbers were given before, so that what
//! the deletion looks at has every row with such a number, for ever.
//!
//! # Cost
//! One call for all batches that wait at the moment it begins. All of them have begun, none is
//! acknowledged: any order among them is right.

use std::sync::Arc;

use flightcluster_catalog as catalog;
use parking_lot::Mutex;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, oneshot};

use crate::error::Error;
use crate::fatal::Fatal;
use crate::ingest::Core;
use crate::table::failed;

/// What a waiting batch is told: the number of its first row.
type Answer = Result<i64, Arc<catalog::Error>>;

/// Who gets numbers next.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    /// Batches that wait: how many rows they have.
    waiting: Mutex<Vec<(u64, oneshot::Sender<Answer>)>>,
    /// Whoever has it asks for everybody; handed on in the order of asking.
    turn: tokio::sync::Mutex<()>,
    /// Read by each write from before its numbers are taken until its rows can be read, or never will.
    under_way: Arc<RwLock<()>>,
}

/// A write between the taking of its numbers and the end of its log record.
pub(crate) type Ordered = OwnedRwLockReadGuard<()>;

impl Orders {
    /// To be held by a write that is going to take numbers, until the end of its log record.
    pub(crate) async fn begin(&self) -> Ordered {
        Arc::clone(&self.under_way).read_owned().await
    }

    /// Waits until every write that may have numbers by now can be read, or never will. Those that begin
    /// meanwhile wait for it.
    pub(crate) async fn given_are_stored(&self) {
        drop(self.under_way.write().await);
    }

    /// Takes numbers for `rows` rows; returns the first.
    ///
    /// - Errors: [`Error::Catalog`]; [`Error::OutOfService`] when a younger process has this name.
    /// - Cancellation: numbers may be lost; others that wait are not held up.
    pub(crate) async fn take(&self, core: &Core, rows: u64) -> Result<i64, Error> {
        loop {
            let (sender, mut receiver) = oneshot::channel();
            self.waiting.lock().push((rows, sender));
            let _turn = self.turn.lock().await;
            let answer = match receiver.try_recv() {
                Ok(answer) => answer,
                // Its caller left while it asked for us.
                Err(TryRecvError::Closed) => continue,
                Err(TryRecvError::Empty) => {
                    self.take_for_all(core).await;
                    match receiver.try_recv() {
                        Ok(answer) => answer,
                        Err(_) => continue,
                    }
                }
            };
            return answer.map_err(|error| self.refused(core, error));
        }
    }

    async fn take_for_all(&self, core: &Core) {
        let group = std::mem::take(&mut *self.waiting.lock());
        let sum = group.iter().map(|(rows, _)| rows).sum();
        let (id, epoch) = (core.ingester.id, core.ingester.epoch);
        let taken = core.catalog.take_orders(id, epoch, sum).await;
        let mut taken = taken.map_err(Arc::new);
        for (rows, waiting) in group {
            let answer = taken.as_ref().copied().map_err(Arc::clone);
            // Numbers of a caller that has left are lost.
            let _ = waiting.send(answer);
            if let Ok(first) = &mut taken {
                *first = first.saturating_add_unsigned(rows);
            }
        }
    }

    fn refused(&self, core: &Core, error: Arc<catalog::Error>) -> Error {
        if matches!(*error, catalog::Error::Fenced { .. }) {
            let fatal = Fatal::Fenced(error);
            core.fatal.set(fatal.clone());
            return Error::OutOfService(fatal);
        }
        failed("numbering the rows")(error)
    }
}
