//! Order numbers for the rows of tables with a primary key.
//!
//! # Guarantees
//! A batch gets its numbers after its write began and before it is queued for the log, so before it is
//! acknowledged. Numbers grow with the calls to the catalog, of whatever ingester: a write that begins
//! after another was acknowledged has higher ones. No clock takes part.
//!
//! # Cost
//! One call for all batches that wait at the moment it begins. All of them have begun, none is
//! acknowledged: any order among them is right.

use std::sync::Arc;

use flightcluster_catalog as catalog;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

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
}

impl Orders {
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
