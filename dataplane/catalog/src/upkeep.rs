//! The values of upkeep: files that take the place of others, objects to be deleted, producers to be
//! forgotten, leased jobs.
//!
//! Upkeep changes which files hold the rows of a table, never (but for what somebody asked to be
//! removed) which rows there are. What decides and does the work lives elsewhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{NewFile, SnapshotId, Table, TableId, TableName};

/// Why files take the place of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplaceCause {
    /// Many small files become few large ones.
    Compaction,
    /// Somebody deleted rows.
    Delete,
    /// Rows are older than the table keeps them.
    Retention,
}

impl ReplaceCause {
    /// The name of the cause, as in `system.compactions` and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Compaction => "compaction",
            Self::Delete => "delete",
            Self::Retention => "retention",
        }
    }

    /// The cause of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Compaction, Self::Delete, Self::Retention]
            .into_iter()
            .find(|cause| cause.as_str() == name)
    }
}

/// New files in place of live ones, all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaceFiles {
    /// The table all of them belong to.
    pub table: TableId,
    /// Catalog ids of the files that end; each must be live. In any order.
    pub inputs: Vec<u64>,
    /// The files that begin; none when no row is left. Their sequence numbers are the lowest and
    /// highest of the inputs: of several ingesters, so they put rows into no order.
    pub outputs: Vec<NewFile>,
    /// Rows of the inputs that are on purpose in no output. The catalog refuses a request whose
    /// numbers of rows don't add up.
    pub removed_rows: u64,
    /// What for.
    pub cause: ReplaceCause,
    /// Until when this may be applied, by the time of the catalog; see
    /// [`FlushCommit::valid_until_millis`](crate::FlushCommit::valid_until_millis). Without outputs there is
    /// no need for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until_millis: Option<i64>,
    /// The value of [`RETENTION`](crate::RETENTION) that holds for the table, when it decided which rows go:
    /// by another one they may have to stay. A catalog of an older release does not look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<String>,
}

/// What a replacement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesReplaced {
    /// The first snapshot with the outputs and without the inputs.
    pub snapshot: SnapshotId,
}

/// A replacement that was carried out, with its sums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// The table; its name may be another table's by now.
    pub table: TableId,
    /// The name of the table.
    pub name: TableName,
    /// What for.
    pub cause: ReplaceCause,
    /// The snapshot it made.
    pub snapshot: SnapshotId,
    /// Files that ended.
    pub input_files: u64,
    /// Their bytes.
    pub input_bytes: u64,
    /// Their rows.
    pub input_rows: u64,
    /// Files that began.
    pub output_files: u64,
    /// Their bytes.
    pub output_bytes: u64,
    /// Their rows.
    pub output_rows: u64,
    /// When, milliseconds since the Unix epoch.
    pub committed_at_millis: i64,
}

/// Which live files of a table are asked for. Limits that are given hold together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveFiles {
    /// The table.
    pub table: TableId,
    /// Only files smaller than this many bytes.
    pub below_bytes: Option<u64>,
    /// Only files whose every row is older than this, nanoseconds since the Unix epoch. Files
    /// without a time range are never among them.
    pub before_nanos: Option<i64>,
    /// At most this many, the oldest first.
    pub limit: u32,
}

/// A table with files to compact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallFiles {
    /// The table.
    pub table: Table,
    /// How many small files it has.
    pub files: u64,
}

/// An object nobody reads any more, or will not soon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Garbage {
    /// Its path in the object store.
    pub path: String,
    /// When it was queued, milliseconds since the Unix epoch.
    pub queued_at_millis: i64,
}

/// How much waits for deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GarbageQueue {
    /// Objects in the queue.
    pub objects: u64,
    /// When the oldest was queued, milliseconds since the Unix epoch.
    pub oldest_millis: Option<i64>,
}

/// A kind of work only one process should do at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Rewriting the files of one table.
    Rewrite,
    /// Deleting objects from the queue.
    GarbageCollection,
    /// Comparing the object store with the catalog.
    OrphanScan,
    /// Forgetting rows of the catalog nobody reads.
    History,
}

impl JobKind {
    /// The name of the kind.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rewrite => "rewrite",
            Self::GarbageCollection => "garbage_collection",
            Self::OrphanScan => "orphan_scan",
            Self::History => "history",
        }
    }
}

/// A request for a job. A lease saves double work; it protects nothing, because its holder may be
/// paused: what must not happen twice is checked by the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The kind of job.
    pub job: JobKind,
    /// On which table; `None` for a job on everything.
    pub table: Option<TableId>,
    /// Who asks; who asks again under the same name keeps the job.
    pub holder: String,
    /// How long it may take by the catalog's clock; zero gives the job back.
    pub time: Duration,
}

/// The time of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogTime {
    /// Milliseconds since the Unix epoch.
    pub millis: i64,
    /// Cleared for an hour after its clock jumped: nothing is to go for good by its age then.
    pub is_settled: bool,
}

impl CatalogTime {
    /// The moment `time` later, in milliseconds since the Unix epoch.
    #[must_use]
    pub fn millis_after(&self, time: Duration) -> i64 {
        let time = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        self.millis.saturating_add(time)
    }
}

/// What was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryForgotten {
    /// Snapshots.
    pub snapshots: u64,
    /// Dropped tables.
    pub tables: u64,
    /// Schema versions no file has.
    pub schema_versions: u64,
    /// Records of replacements, of deleted objects and of leases.
    pub records: u64,
}

/// The id of the producer by which a statement is recognised when its ticket, of this number, is redeemed
/// again. Ids of clients' producers have a slash after their owner, this one has none.
#[must_use]
pub fn statement_producer(ticket: u128) -> String {
    format!("statement-{ticket:032x}")
}

/// Which producers [`Catalog::expire_producers`](crate::Catalog::expire_producers) forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerExpiry {
    /// Those that were not used for so long.
    pub unused_for: Duration,
    /// The same of statements, see [`statement_producer`].
    pub statements_unused_for: Duration,
    /// Claims and positions to forget at most, of clients and of statements: so many of each.
    pub limit: u32,
}
