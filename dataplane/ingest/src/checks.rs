//! Whether the table of a stream is still there: the catalog is asked now and then while rows come.
//!
//! A call waits for a catalog that is slow or away; a stream does not, for a while.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flightcluster_catalog::{self as catalog, Table};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::error::Error;
use crate::flusher::chain;
use crate::ingest::Core;
use crate::table::failed;

/// How often a stream asks the catalog whether its table is still there.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait for that answer: a call waits for a catalog that is away, but a stream goes on without it.
const CHECK_ANSWER: Duration = Duration::from_millis(500);
/// An answer that takes longer than this does not come, or is out of date: the question is asked anew.
const CHECK_ABANDON: Duration = Duration::from_secs(30);
/// How long a stream goes on while the catalog can't be asked: longer than a restart of it takes.
const CHECK_GRACE: Duration = Duration::from_secs(60);

/// What is known of whether the table is still there.
#[derive(Debug)]
pub(crate) struct Checks {
    /// When the last question was asked.
    asked: Instant,
    /// When the last one was asked whose answer was that it is.
    seen: Instant,
    /// The answer to the last question, until somebody has looked at it.
    answer: Option<AbortOnDropHandle<Result<Option<Table>, catalog::Error>>>,
}

impl Checks {
    /// The table was there at `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            asked: now,
            seen: now,
            answer: None,
        }
    }

    /// Finds out whether the table was dropped. An answer that comes too late for the write that asked for it
    /// counts for the next one.
    pub(crate) async fn check(&mut self, core: &Core, table: &Table) -> Result<(), Error> {
        if core.buffer.is_dropped(table.id) {
            return Err(Error::TableNotFound(table.name.clone()));
        }
        let now = core.clock.now();
        let age = now.duration_since(self.asked);
        match &self.answer {
            Some(_) if age >= CHECK_ABANDON => self.answer = None,
            // That there was none is no reason to refuse a later write: it may ask itself.
            Some(answer) if answer.is_finished() => self.read_answer(table, false).await?,
            _ => {}
        }
        // Behind the grace nothing goes on without an answer.
        let must_know = now.duration_since(self.seen) >= CHECK_GRACE;
        match &self.answer {
            Some(_) if must_know => {}
            // One write has waited for it.
            Some(_) => return Ok(()),
            None if age < CHECK_INTERVAL && !must_know => return Ok(()),
            None => {
                let (catalog, name) = (Arc::clone(&core.catalog), table.name.clone());
                let asked = tokio::spawn(async move { catalog.table(&name).await });
                self.answer = Some(AbortOnDropHandle::new(asked));
                self.asked = now;
            }
        }
        if must_know {
            return self.read_answer(table, true).await;
        }
        if let Ok(read) = timeout(CHECK_ANSWER, self.read_answer(table, false)).await {
            return read;
        }
        let waited_seconds = CHECK_ANSWER.as_secs_f64();
        warn!(table = %table.name, waited_seconds, "can't check table, no answer");
        Ok(())
    }

    /// Waits for the answer and draws its consequences. Cancelled, it leaves the answer to the next write.
    async fn read_answer(&mut self, asked_for: &Table, must_know: bool) -> Result<(), Error> {
        let Some(answer) = &mut self.answer else {
            return Ok(());
        };
        let found = answer.await.unwrap_or_else(|error| {
            Err(catalog::Error::Store {
                doing: "asking for a table",
                source: Box::new(error),
            })
        });
        self.answer = None;
        let refusal = match found {
            Ok(Some(table)) if table.id == asked_for.id => {
                self.seen = self.asked;
                return Ok(());
            }
            Ok(_) => Error::TableNotFound(asked_for.name.clone()),
            Err(error) if !must_know => {
                warn!(table = %asked_for.name, error = %chain(&error), "can't check table");
                return Ok(());
            }
            Err(error) => failed("checking that the table exists")(error),
        };
        // The next write asks at once: it must not be taken because a question was asked just now.
        self.asked = self.seen;
        Err(refusal)
    }
}
