//! Metrics of queries and of the stored files they keep near.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use super::call_seconds;
use super::declare::Declarer;

/// Queries.
#[derive(Debug, Clone)]
pub struct QueryMetrics {
    /// Seconds of a query, waiting included.
    pub duration: Histogram,
    /// Queries that wait.
    pub queued: Gauge,
    /// Queries that run.
    pub running: Gauge,
    /// Rows of results.
    pub rows: Counter,
    /// Answers that lack rows.
    pub partial: Counter,
    /// What became of bytes of stored files that queries asked for.
    pub cache: CacheMetrics,
    /// What became of footers of stored files that queries asked for.
    pub footers: FooterMetrics,
}

/// Footers of stored files kept in memory.
#[derive(Debug, Clone)]
pub struct FooterMetrics {
    /// Found in memory.
    pub hits: Counter,
    /// Read from their file.
    pub misses: Counter,
    /// Bytes in memory.
    pub memory: Gauge,
}

impl FooterMetrics {
    fn declare(declare: &mut Declarer) -> Self {
        Self {
            hits: declare.counter(
                "flightcluster_footer_cache_hits_total",
                "Footers of stored files that queries found in memory",
            ),
            misses: declare.counter(
                "flightcluster_footer_cache_misses_total",
                "Footers of stored files that queries did not find in memory",
            ),
            memory: declare.gauge(
                "flightcluster_footer_cache_bytes",
                "Bytes of footers of stored files kept in memory, see `query.footer_cache_bytes`",
            ),
        }
    }
}

/// Stored files kept near.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    /// Bytes found in memory.
    pub memory_hits: Counter,
    /// Bytes found on disk.
    pub disk_hits: Counter,
    /// Bytes read from the object store.
    pub misses: Counter,
    /// Damaged blocks found on disk.
    pub damaged: Counter,
    /// Bytes in memory.
    pub memory: Gauge,
    /// Bytes on disk.
    pub disk: Gauge,
}

impl CacheMetrics {
    fn declare(declare: &mut Declarer) -> Self {
        Self {
            memory_hits: declare.counter(
                "flightcluster_cache_memory_hit_bytes_total",
                "Bytes of stored files that queries found in memory",
            ),
            disk_hits: declare.counter(
                "flightcluster_cache_disk_hit_bytes_total",
                "Bytes of stored files that queries found in the cache on disk",
            ),
            misses: declare.counter(
                "flightcluster_cache_miss_bytes_total",
                "Bytes of stored files that had to be read from the object store",
            ),
            damaged: declare.counter(
                "flightcluster_cache_damaged_blocks_total",
                "Blocks in the cache on disk that were damaged and read again",
            ),
            memory: declare.gauge(
                "flightcluster_cache_memory_bytes",
                "Bytes of stored files kept in memory",
            ),
            disk: declare.gauge(
                "flightcluster_cache_disk_bytes",
                "Bytes of stored files kept in the cache on disk",
            ),
        }
    }
}

impl QueryMetrics {
    pub(super) fn declare(declare: &mut Declarer) -> Self {
        Self {
            duration: declare.histogram(
                "flightcluster_query_duration_seconds",
                "Time of one query from its first question to its last batch, waiting included",
                call_seconds,
            ),
            queued: declare.gauge(
                "flightcluster_query_queued",
                "Queries that wait for their turn",
            ),
            running: declare.gauge("flightcluster_query_running", "Queries that run"),
            rows: declare.counter("flightcluster_query_rows_total", "Rows queries returned"),
            partial: declare.counter(
                "flightcluster_query_partial_total",
                "Answers without the rows of an ingester that could not be reached, for callers who asked for \
                 them",
            ),
            cache: CacheMetrics::declare(declare),
            footers: FooterMetrics::declare(declare),
        }
    }
}
