//! Metrics of upkeep: compaction, deletion, orphans.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::declare::Declarer;
use super::{JobLabels, call_seconds};

/// Compaction and deletion.
#[derive(Debug, Clone)]
pub struct UpkeepMetrics {
    /// Seconds of one compaction.
    pub compaction: Histogram,
    /// Compactions given up because somebody else was first.
    pub lost: Counter,
    /// Files compacted.
    pub input_files: Counter,
    /// Their bytes.
    pub input_bytes: Counter,
    /// Files compaction wrote.
    pub output_files: Counter,
    /// Their bytes.
    pub output_bytes: Counter,
    /// Files that ended because all of their rows were expired.
    pub expired_files: Counter,
    /// Expired rows that are in no file any more.
    pub expired_rows: Counter,
    /// Objects deleted.
    pub deleted: Counter,
    /// Deletions that failed.
    pub delete_failures: Counter,
    /// Objects that wait for deletion.
    pub waiting: Gauge,
    /// Objects nobody knows.
    pub orphan_objects: Gauge,
    /// Their bytes.
    pub orphan_bytes: Gauge,
    /// Jobs that failed.
    pub failures: Family<JobLabels, Counter>,
}

impl UpkeepMetrics {
    pub(super) fn declare(declare: &mut Declarer) -> Self {
        Self {
            compaction: declare.histogram(
                "flightcluster_compaction_duration_seconds",
                "Time of one compaction, from the first file read to the catalog commit",
                call_seconds,
            ),
            lost: declare.counter(
                "flightcluster_compaction_lost_total",
                "Compactions given up because their files had been replaced or dropped meanwhile",
            ),
            input_files: declare.counter(
                "flightcluster_compaction_input_files_total",
                "Files that compaction replaced",
            ),
            input_bytes: declare.counter(
                "flightcluster_compaction_input_bytes_total",
                "Bytes of the files that compaction replaced",
            ),
            output_files: declare.counter(
                "flightcluster_compaction_output_files_total",
                "Files that compaction wrote",
            ),
            output_bytes: declare.counter(
                "flightcluster_compaction_output_bytes_total",
                "Bytes of the files that compaction wrote",
            ),
            expired_files: declare.counter(
                "flightcluster_retention_expired_files_total",
                "Files that ended because all of their rows were older than the table keeps them",
            ),
            expired_rows: declare.counter(
                "flightcluster_retention_expired_rows_total",
                "Rows older than their table keeps them that are in no file any more",
            ),
            deleted: declare.counter(
                "flightcluster_gc_deleted_objects_total",
                "Objects deleted because no file of the catalog has them any more",
            ),
            delete_failures: declare.counter(
                "flightcluster_gc_delete_failures_total",
                "Deletions of objects that failed; they are tried again",
            ),
            waiting: declare.gauge(
                "flightcluster_gc_waiting_objects",
                "Objects that wait for their deletion",
            ),
            orphan_objects: declare.gauge(
                "flightcluster_orphan_objects",
                "Objects in the store that the catalog does not know, by the last scan",
            ),
            orphan_bytes: declare.gauge(
                "flightcluster_orphan_bytes",
                "Bytes of the objects in the store that the catalog does not know",
            ),
            failures: declare.counters(
                "flightcluster_upkeep_failures_total",
                "Jobs of upkeep that failed; they are tried again in the next round",
            ),
        }
    }
}
