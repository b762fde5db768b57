//! Remembers what a statement with effects answered, by the number of its ticket: a client that
//! redeems a ticket twice, or retries after a broken connection, does not run it twice.
//!
//! The memory is this process's and bounded. Across processes the ingesters recognise the first batch
//! of an `INSERT` by the same number, which is a producer of its own; of every other statement the catalog
//! keeps that it was begun, and what it came to ([`Once::in_cluster`]).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flightcluster_catalog::{BeginStatement, Catalog, StatementProgress};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tracing::warn;

use crate::status::{ErrorCode, Failure};

/// Tickets remembered. They live for minutes, and few carry statements with effects.
const CAPACITY: usize = 10_000;

type Cell = Arc<Execution>;

/// What a ticket says about doing its statement once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Once {
    /// Tells it from any other ticket.
    pub(crate) number: u128,
    /// When it ends, in Unix milliseconds.
    pub(crate) expires_at_millis: u64,
}

impl Once {
    /// Does `work` unless any process of the cluster began it before, and answers what it came to.
    ///
    /// - Errors: those of `work`, which is not done again; [`ErrorCode::InvalidTicket`] when it was begun
    ///   elsewhere, and what became of it is not known: it runs, it failed, or its process ended.
    pub(crate) async fn in_cluster(
        self,
        catalog: &dyn Catalog,
        work: impl Future<Output = Result<u64, Failure>>,
    ) -> Result<u64, Failure> {
        let id = format!("{:032x}", self.number);
        let request = BeginStatement {
            id: id.clone(),
            run: format!("{:032x}", rand::random::<u128>()),
            expires_at_millis: i64::try_from(self.expires_at_millis).unwrap_or(i64::MAX),
        };
        match catalog.begin_statement(request).await? {
            StatementProgress::Begun => {}
            StatementProgress::Ended { rows } => return Ok(rows),
            StatementProgress::BegunBefore => {
                return Err(Failure::new(
                    ErrorCode::InvalidTicket,
                    "the statement of this ticket was begun before, and what became of it is not known: \
                     see what it has done, and ask for a new ticket if it is to run again",
                ));
            }
        }
        let rows = work.await?;
        if let Err(error) = catalog.end_statement(&id, rows).await {
            // A repeat elsewhere is refused, not done.
            warn!(%error, "can't note that a statement is done");
        }
        Ok(rows)
    }
}

/// Executions by ticket number.
#[derive(Debug, Default)]
pub(crate) struct OnceEach(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    cells: HashMap<u128, Cell>,
    order: VecDeque<u128>,
}

#[derive(Debug, Default)]
struct Execution {
    begun: AtomicBool,
    outcome: OnceCell<Result<u64, Failure>>,
}

impl OnceEach {
    /// Runs `work` unless it ran before under this number, and answers what it came to; callers with
    /// the same number wait for each other.
    ///
    /// A failure is remembered too: the rows of an `INSERT … SELECT` may be stored in part, and a
    /// second run would meet another snapshot. For the same reason a run that was dropped in the
    /// middle is not begun again.
    pub(crate) async fn run(
        &self,
        number: u128,
        work: impl Future<Output = Result<u64, Failure>>,
    ) -> Result<u64, Failure> {
        let execution = self.cell(number);
        let once = async {
            if execution.begun.swap(true, Ordering::SeqCst) {
                return Err(Failure::new(
                    ErrorCode::InvalidTicket,
                    "the statement of this ticket was begun and broken off: see what it has done, \
                     and ask for a new ticket if it is to run again",
                ));
            }
            work.await
        };
        execution.outcome.get_or_init(|| once).await.clone()
    }

    fn cell(&self, number: u128) -> Cell {
        let mut memory = self.0.lock();
        if let Some(cell) = memory.cells.get(&number) {
            return Arc::clone(cell);
        }
        if memory.order.len() >= CAPACITY
            && let Some(oldest) = memory.order.pop_front()
        {
            memory.cells.remove(&oldest);
        }
        let cell = Cell::default();
        memory.cells.insert(number, Arc::clone(&cell));
        memory.order.push_back(number);
        cell
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[tokio::test]
    async fn the_same_number_runs_once() {
        let (once, runs) = (OnceEach::default(), AtomicU64::new(0));
        let work = || async { Ok(runs.fetch_add(1, Ordering::SeqCst) + 10) };
        let (first, second) = tokio::join!(once.run(1, work()), once.run(1, work()));
        assert_eq!((first.unwrap(), second.unwrap()), (10, 10));
        assert_eq!(once.run(2, work()).await.unwrap(), 11);
    }

    #[tokio::test]
    async fn a_failure_is_answered_again_and_nothing_runs() {
        let once = OnceEach::default();
        let failed = async { Err(Failure::new(ErrorCode::Overloaded, "full")) };
        assert!(once.run(1, failed).await.is_err());
        let again = once.run(1, async { panic!("runs twice") }).await;
        assert_eq!(again.unwrap_err().message, "full");
    }

    #[tokio::test]
    async fn a_run_that_was_dropped_is_not_begun_again() {
        let once = OnceEach::default();
        {
            let dropped = once.run(1, std::future::pending());
            tokio::pin!(dropped);
            assert!(futures::poll!(dropped).is_pending());
        }
        let again = once.run(1, async { panic!("runs twice") }).await;
        assert_eq!(again.unwrap_err().code, ErrorCode::InvalidTicket);
    }

    #[tokio::test]
    async fn the_memory_is_bounded() {
        let once = OnceEach::default();
        for number in 0..(CAPACITY as u128 + 5) {
            once.run(number, async { Ok(0) }).await.unwrap();
        }
        assert_eq!(once.0.lock().cells.len(), CAPACITY);
    }
}
