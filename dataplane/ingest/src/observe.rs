//! What metrics can learn: events as they happen and figures on demand.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use flightcluster_catalog::SequenceNumber;

/// Events. Called on the threads that do the work: must be quick.
pub trait Observer: Send + Sync + fmt::Debug + 'static {
    /// A group of `records` in `bytes` of the write-ahead log was written and synced in `took`.
    fn wal_synced(&self, took: Duration, bytes: u64, records: u64) {
        let _ = (took, bytes, records);
    }

    /// The write-ahead log may take this many bytes on disk; told once.
    fn wal_limit(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The write-ahead log now has this many segments and bytes on disk.
    fn wal_size(&self, segments: u64, bytes: u64) {
        let _ = (segments, bytes);
    }

    /// A flush was committed, with its encoding and upload in `took`.
    fn flushed(&self, took: Duration, rows: u64, file_bytes: u64, files: u64) {
        let _ = (took, rows, file_bytes, files);
    }

    /// A flush failed, whole or for one table; see [`crate::Error::category`].
    fn flush_failed(&self, category: &'static str) {
        let _ = category;
    }

    /// A write was refused; see [`crate::Error::category`].
    fn refused(&self, category: &'static str) {
        let _ = category;
    }

    /// A repeated batch was acknowledged again.
    fn duplicate(&self) {}
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// Hands the events of the log on.
#[derive(Debug)]
pub(crate) struct WalEvents(pub(crate) Arc<dyn Observer>);

impl flightcluster_wal::Observer for WalEvents {
    fn synced(&self, took: Duration, bytes: u64, records: u64) {
        self.0.wal_synced(took, bytes, records);
    }

    fn limited(&self, bytes: u64) {
        self.0.wal_limit(bytes);
    }

    fn sized(&self, segments: u64, bytes: u64) {
        self.0.wal_size(segments, bytes);
    }
}

/// Figures of an ingester at one moment.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Bytes in memory of durable rows that are in no file yet, and of handles of those that left memory.
    pub buffered_bytes: u64,
    /// Durable rows that are in no file yet, in memory or not.
    pub buffered_rows: u64,
    /// Bytes that rows in no file took in memory before they left it: only the log has them.
    pub spilled_bytes: u64,
    /// Bytes of rows that are in files and still in memory for queries that began earlier.
    pub retained_bytes: u64,
    /// Age of the oldest row that is in no file yet.
    pub oldest_age: Option<Duration>,
    /// Tables with rows in memory.
    pub tables: u64,
    /// The newest durable sequence number.
    pub durable_sequence: SequenceNumber,
    /// Flushes committed since the start.
    pub flushes: u64,
    /// Flushes failed since the start.
    pub flush_failures: u64,
    /// Rows flushed since the start.
    pub flushed_rows: u64,
    /// Bytes of the files of those flushes.
    pub flushed_file_bytes: u64,
    /// Seconds spent in committed flushes since the start.
    pub flush_seconds: f64,
    /// Repeated batches that were acknowledged again.
    pub duplicates: u64,
    /// Segments of the write-ahead log.
    pub wal_segments: u64,
    /// Their bytes.
    pub wal_bytes: u64,
    /// Why the last flush failed; cleared by the next that succeeds.
    pub last_error: Option<String>,
    /// New writes are refused because the process is going away.
    pub draining: bool,
    /// The ingester can't go on; see [`crate::Ingest::fatal`].
    pub fatal: bool,
}
