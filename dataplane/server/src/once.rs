//! Remembers what a statement with effects answered, by the number of its ticket: a client that
//! redeems a ticket twice, or retries after a broken connection, does not run it twice.
//!
//! The memory is this process's and bounded; across processes the rows of an `INSERT` are
//! recognised by the ingester through the same number.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::status::Failure;

/// Tickets remembered. They live for minutes, and few carry statements with effects.
const CAPACITY: usize = 10_000;

type Cell = Arc<OnceCell<u64>>;

/// Executions by ticket number.
#[derive(Debug, Default)]
pub(crate) struct OnceEach(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    cells: HashMap<u128, Cell>,
    order: VecDeque<u128>,
}

impl OnceEach {
    /// Runs `work` unless it succeeded before under this number; callers with the same number wait
    /// for each other. A failure is not remembered.
    pub(crate) async fn run(
        &self,
        number: u128,
        work: impl Future<Output = Result<u64, Failure>>,
    ) -> Result<u64, Failure> {
        let cell = self.cell(number);
        cell.get_or_try_init(|| work).await.copied()
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
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::status::ErrorCode;

    #[tokio::test]
    async fn the_same_number_runs_once() {
        let (once, runs) = (OnceEach::default(), AtomicU64::new(0));
        let work = || async { Ok(runs.fetch_add(1, Ordering::SeqCst) + 10) };
        let (first, second) = tokio::join!(once.run(1, work()), once.run(1, work()));
        assert_eq!((first.unwrap(), second.unwrap()), (10, 10));
        assert_eq!(once.run(2, work()).await.unwrap(), 11);
    }

    #[tokio::test]
    async fn a_failure_may_be_retried() {
        let once = OnceEach::default();
        let failed = once
            .run(1, async { Err(Failure::new(ErrorCode::Internal, "x")) })
            .await;
        assert!(failed.is_err());
        assert_eq!(once.run(1, async { Ok(5) }).await.unwrap(), 5);
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
