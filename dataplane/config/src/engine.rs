//! How much and how fast: `ingest`, `query` and `log`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, DurationText, duration, optional_duration};

/// Write-ahead log, buffer and flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// Size in bytes at which a segment of the write-ahead log is closed and a new one begun.
    pub wal_segment_bytes: ByteSize,
    /// Bytes the write-ahead log may take on disk; past them writes are refused until flushes have freed
    /// some. 0 takes half of the volume.
    pub wal_bytes: ByteSize,
    /// Longest time the first write of a group waits for others before they are synced to disk together.
    /// It never waits longer than the last sync took; alone it does not wait.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub group_commit_window: Duration,
    /// Bytes after which a group is synced to disk without waiting for the window to end.
    pub group_commit_max_bytes: ByteSize,
    /// Buffered bytes of a table at which it is written to Parquet; a quarter of `buffer_bytes` when that
    /// is less.
    pub flush_bytes: ByteSize,
    /// Age of the oldest buffered row at which its table is written to Parquet.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub flush_interval: Duration,
    /// Time rows may be overdue for a file, because flushing fails, before writes to their table are refused
    /// with `PERSIST_LAG`; and to all tables, when nothing could be stored for that long. Until then they are
    /// in the write-ahead log, on one volume. 0 sets no limit.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub persist_lag: Duration,
    /// Bytes of all tables that are in memory and in no file yet, with the batches on their way in, at
    /// which writers wait for flushes. While flushes fail the oldest rows leave memory instead and are read
    /// from the write-ahead log, until that is full. 0 takes a fifth of the memory limit of the container
    /// or machine, at most 512 MiB.
    pub buffer_bytes: ByteSize,
    /// Time flushed rows stay in memory, for queries that began before the flush. One that asks for them
    /// later is planned again.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub flushed_grace: Duration,
    /// Largest row group of a Parquet file, in rows.
    pub max_row_group_rows: u32,
    /// Time in which a repeated batch of a producer is recognised. Positions of producers that
    /// write nothing for twice as long are forgotten.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub producer_window: Duration,
    /// Time after which an upload of several streams is given up when no stream of it begins and
    /// nobody finishes it.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub upload_ttl: Duration,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            wal_segment_bytes: ByteSize::mib(64),
            wal_bytes: ByteSize(0),
            group_commit_window: Duration::from_millis(10),
            group_commit_max_bytes: ByteSize::mib(8),
            flush_bytes: ByteSize::mib(128),
            flush_interval: Duration::from_secs(30),
            // An outage of hours is ridden out, as far as the log has room. One that nobody mended in a day is one
            // nobody knows of, and every further row would be lost with the volume.
            persist_lag: Duration::from_secs(24 * 3600),
            buffer_bytes: ByteSize(0),
            flushed_grace: Duration::from_secs(5),
            max_row_group_rows: 131_072,
            producer_window: Duration::from_secs(7 * 24 * 3600),
            upload_ttl: Duration::from_secs(3600),
        }
    }
}

/// Limits of the query engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueryConfig {
    /// Threads that run queries; 0 takes one per core.
    pub task_threads: u16,
    /// Queries that run at once; 0 decides by threads and memory.
    pub max_concurrent_queries: u32,
    /// Queries that wait for their turn; more are refused with `Unavailable` (`QUEUE_FULL`).
    pub queue_length: u32,
    /// Memory of all queries together, in bytes; 0 takes 60 % of the memory limit of the container
    /// or machine.
    pub memory_bytes: ByteSize,
    /// Memory for blocks of stored files, in bytes; 0 keeps none. Unset: 10 % of the memory limit
    /// where the files come over a network, none where the operating system keeps them.
    pub cache_memory_bytes: Option<ByteSize>,
    /// Disk for blocks of stored files, below the data directory, in bytes; 0 keeps none. Unset: where
    /// the files come over a network, a quarter of what is free at the start, at most 16 GiB.
    pub cache_disk_bytes: Option<ByteSize>,
    /// Memory for the footers of Parquet files, in bytes.
    pub footer_cache_bytes: ByteSize,
    /// Disk for what queries can't keep in memory, below the data directory, in bytes. A query that
    /// needs more fails with `ResourceExhausted`. Unset: half of what is free at the start.
    pub spill_bytes: Option<ByteSize>,
    /// Rows of a batch inside the engine.
    pub batch_rows: u32,
    /// Time a query may run. Unset: as long as its caller waits.
    #[serde(with = "optional_duration")]
    #[schemars(with = "Option<DurationText>")]
    pub timeout: Option<Duration>,
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            task_threads: 0,
            max_concurrent_queries: 0,
            queue_length: 64,
            memory_bytes: ByteSize(0),
            cache_memory_bytes: None,
            cache_disk_bytes: None,
            footer_cache_bytes: ByteSize(64 << 20),
            spill_bytes: None,
            batch_rows: 8192,
            timeout: None,
        }
    }
}

/// Log output, on standard error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Format of the lines: json for machines, pretty for people, auto is pretty on a terminal and
    /// json elsewhere.
    pub format: LogFormat,
    /// What is logged: a level (error, warn, info, debug, trace), optionally per module, such as
    /// `info,flightcluster_wal=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Auto,
            filter: "info".to_owned(),
        }
    }
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Pretty,
}
