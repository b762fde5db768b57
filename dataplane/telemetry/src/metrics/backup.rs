//! The metrics of backups of the catalog.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::declare::Declarer;

/// Backups of the catalog.
#[derive(Debug, Clone)]
pub struct BackupMetrics {
    /// When the newest one was made, seconds since the Unix epoch.
    pub newest: Gauge,
    /// Attempts that failed.
    pub failures: Counter,
}

impl BackupMetrics {
    pub(super) fn declare(declare: &mut Declarer) -> Self {
        Self {
            newest: declare.gauge(
                "flightcluster_catalog_backup_newest_timestamp_seconds",
                "When the newest backup of the catalog was made; 0 before this process looked",
            ),
            failures: declare.counter(
                "flightcluster_catalog_backup_failures_total",
                "Attempts to back up the catalog that failed",
            ),
        }
    }
}
