//! The queries that wait or run, by the request they belong to: to list and to cancel them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Longest text of a statement kept for the list, in characters.
const SQL_CHARS: usize = 4096;

/// One query that waits or runs.
#[derive(Debug, Clone)]
pub(crate) struct RunningQuery {
    pub(crate) request_id: String,
    pub(crate) database: String,
    pub(crate) sql: String,
    pub(crate) began_at: SystemTime,
    pub(crate) began: Instant,
    /// Whether it has left the queue.
    pub(crate) admitted: bool,
    cancel: CancellationToken,
}

/// All queries of this process.
#[derive(Debug, Default)]
pub(crate) struct Running {
    queries: Mutex<BTreeMap<u64, RunningQuery>>,
    next: AtomicU64,
    cancelled: AtomicU64,
}

impl Running {
    /// Lists a query until the answer is dropped.
    pub(crate) fn enter(
        self: &Arc<Self>,
        request_id: &str,
        database: &str,
        sql: &str,
    ) -> RunningGuard {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let cancel = CancellationToken::new();
        let query = RunningQuery {
            request_id: request_id.to_owned(),
            database: database.to_owned(),
            sql: sql.chars().take(SQL_CHARS).collect(),
            began_at: SystemTime::now(),
            began: Instant::now(),
            admitted: false,
            cancel: cancel.clone(),
        };
        self.queries.lock().insert(id, query);
        RunningGuard {
            all: Arc::clone(self),
            id,
            cancel,
            finished: AtomicBool::new(false),
        }
    }

    /// Cancels the queries of a request and says how many there were.
    pub(crate) fn cancel(&self, request_id: &str) -> usize {
        let queries = self.queries.lock();
        let of_request = queries
            .values()
            .filter(|query| query.request_id == request_id);
        of_request.map(|query| query.cancel.cancel()).count()
    }

    /// The queries of a database, oldest first.
    pub(crate) fn list(&self, database: &str) -> Vec<RunningQuery> {
        let queries = self.queries.lock();
        queries
            .values()
            .filter(|query| query.database == database)
            .cloned()
            .collect()
    }

    /// How many queries ended before their last row, by a cancel or because the caller left.
    pub(crate) fn cancelled(&self) -> u64 {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Keeps a query on the list.
#[derive(Debug)]
pub(crate) struct RunningGuard {
    all: Arc<Running>,
    id: u64,
    cancel: CancellationToken,
    finished: AtomicBool,
}

impl RunningGuard {
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Notes that the query has left the queue.
    pub(crate) fn admitted(&self) {
        if let Some(query) = self.all.queries.lock().get_mut(&self.id) {
            query.admitted = true;
        }
    }

    /// Notes that the query came to its end, well or with an error; else it counts as cancelled.
    pub(crate) fn finish(&self) {
        self.finished.store(true, Ordering::Relaxed);
    }
}

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.all.queries.lock().remove(&self.id);
        if !self.finished.load(Ordering::Relaxed) {
            self.all.cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}
