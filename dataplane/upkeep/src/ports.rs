//! What upkeep needs from others.

use std::time::Duration;

use async_trait::async_trait;
use flightcluster_catalog::{File, NewFile, Table};
use tokio_util::sync::CancellationToken;

/// Why files could not be rewritten; any cause will do.
pub type RewriteFailure = Box<dyn std::error::Error + Send + Sync>;

/// New files with the rows of old ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The new files, complete in the object store.
    pub outputs: Vec<NewFile>,
    /// Rows that were left out because they are too old.
    pub removed_rows: u64,
}

/// Reads files and writes their rows into new ones.
#[async_trait]
pub trait Rewriter: Send + Sync + std::fmt::Debug + 'static {
    /// Rewrites files of a table. Commits nothing.
    ///
    /// - `keep_from_nanos`: rows whose time is before are left out.
    /// - Errors: nothing is left in the object store, as far as it can be removed. Also when `stop`
    ///   says so.
    async fn rewrite(
        &self,
        table: &Table,
        files: &[File],
        keep_from_nanos: Option<i64>,
        stop: &CancellationToken,
    ) -> Result<Rewritten, RewriteFailure>;

    /// Whether the times the catalog keeps of the table's files are those of its time column. If not, rows
    /// of it do not expire.
    fn has_times(&self, table: &Table) -> bool;
}

/// Is told what happens, for metrics. Must not block.
pub trait Observer: Send + Sync + std::fmt::Debug + 'static {
    /// Files (and their bytes) took the place of others, and expired rows were left out.
    fn compacted(&self, took: Duration, inputs: (u64, u64), outputs: (u64, u64), expired_rows: u64);

    /// So many files, with so many rows, ended because all of their rows are expired.
    fn expired(&self, files: u64, rows: u64);

    /// A compaction was given up because its inputs were no longer live.
    fn compaction_lost(&self);

    /// Objects were deleted, and some could not be.
    fn garbage_deleted(&self, deleted: u64, failed: u64);

    /// So many objects wait for deletion.
    fn garbage_waiting(&self, objects: u64);

    /// The scan found so many objects (and bytes) that nobody knows.
    fn orphans(&self, objects: u64, bytes: u64);

    /// A job failed; it is tried again in the next round.
    fn failed(&self, job: &'static str);
}
