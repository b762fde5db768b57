//! Joins the parts to the metrics: what they report as it happens, and what is looked up from time
//! to time.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flightcluster_config::{Config, MALLOC_CONF_ENV};
use flightcluster_ingest::{Ingest, Observer};
use flightcluster_objectstore::{CacheStats, CachedStore};
use flightcluster_query::{Engine, FooterStats};
use flightcluster_telemetry::metrics::{
    CacheMetrics, FooterMetrics, IngestMetrics, Metrics, WalMetrics,
};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// How often gauges are looked up. Prometheus commonly scrapes every 15 to 60 seconds.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);

/// A name of our own that does not answer within this time does not answer.
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// The options jemalloc was built with (`.cargo/config.toml`).
const BUILT_IN_MALLOC_CONF: &str = "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0";

/// Makes the allocator follow the configuration. It reads its options before `main`, so a process
/// that was started with others starts itself again, once, under the same process id.
pub(crate) fn apply_malloc(wanted: &str) -> anyhow::Result<()> {
    // What the environment says is the owner's word, be it ours from before or not.
    if wanted == BUILT_IN_MALLOC_CONF || std::env::var_os(MALLOC_CONF_ENV).is_some() {
        return Ok(());
    }
    let program = std::env::current_exe().context("can't find the program itself")?;
    let error = std::process::Command::new(program)
        .args(std::env::args_os().skip(1))
        .env(MALLOC_CONF_ENV, wanted)
        .exec();
    Err(error).context("can't start again with the malloc settings of the configuration")
}

/// Registers what the allocator knows.
pub(crate) fn watch_memory(metrics: &Metrics) {
    use tikv_jemalloc_ctl::{epoch, stats};
    // The figures are those of the last refresh, which `epoch` does.
    let refreshed = |read: fn() -> tikv_jemalloc_ctl::Result<usize>| {
        move || {
            epoch::advance().ok()?;
            u64::try_from(read().ok()?).ok()
        }
    };
    let memory = &metrics.process.memory;
    memory.add("jemalloc_allocated", refreshed(stats::allocated::read));
    memory.add("jemalloc_resident", refreshed(stats::resident::read));
}

/// Writes what the ingester reports into the metrics.
#[derive(Debug)]
pub(crate) struct IngestObserver {
    /// Of the write-ahead log.
    pub(crate) wal: WalMetrics,
    /// Of the buffer and flushes.
    pub(crate) ingest: IngestMetrics,
}

impl Observer for IngestObserver {
    fn wal_synced(&self, took: Duration, bytes: u64, _records: u64) {
        self.wal.fsync.observe(took.as_secs_f64());
        self.wal.written.inc_by(bytes);
    }

    fn wal_limit(&self, bytes: u64) {
        self.wal.limit.set(gauge(bytes));
    }

    fn wal_size(&self, segments: u64, bytes: u64) {
        self.wal.segments.set(gauge(segments));
        self.wal.bytes.set(gauge(bytes));
    }

    fn flushed(&self, took: Duration, rows: u64, file_bytes: u64, _files: u64) {
        self.ingest.flush.observe(took.as_secs_f64());
        self.ingest.flushed_rows.inc_by(rows);
        self.ingest.flushed_bytes.inc_by(file_bytes);
    }

    fn flush_failed(&self, _category: &'static str) {
        self.ingest.flush_failures.inc();
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Looks the gauges up until `stop`.
pub(crate) fn sample(
    metrics: &Metrics,
    ingest: Option<Arc<Ingest>>,
    engine: Option<Engine>,
    cache: Option<CachedStore>,
    stop: CancellationToken,
) {
    let metrics = metrics.clone();
    let mut cached = CacheStats::default();
    let mut footers = FooterStats::default();
    let mut ticks = tokio::time::interval(SAMPLE_INTERVAL);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            if let Some(ingest) = &ingest {
                let statistics = ingest.statistics();
                let held = statistics.buffered_bytes + statistics.retained_bytes;
                metrics.ingest.buffer_bytes.set(gauge(held));
                metrics
                    .ingest
                    .buffer_rows
                    .set(gauge(statistics.buffered_rows));
                metrics
                    .ingest
                    .spilled_bytes
                    .set(gauge(statistics.spilled_bytes));
                let age = statistics.oldest_age.unwrap_or_default();
                metrics.ingest.unflushed_age.set(gauge(age.as_secs()));
            }
            if let Some(engine) = &engine {
                let stats = engine.stats();
                metrics.query.running.set(gauge(stats.running as u64));
                metrics.query.queued.set(gauge(stats.queued as u64));
                count_footers(&metrics.query.footers, footers, stats.footers);
                footers = stats.footers;
            }
            if let Some(cache) = &cache {
                let now = cache.stats();
                count_cache(&metrics.query.cache, cached, now);
                cached = now;
            }
        }
    });
}

fn count_cache(metrics: &CacheMetrics, before: CacheStats, now: CacheStats) {
    let CacheStats {
        memory_hit_bytes,
        disk_hit_bytes,
        miss_bytes,
        memory_bytes,
        disk_bytes,
        damaged,
    } = now;
    let since = |now: u64, before: u64| now.saturating_sub(before);
    let hits = since(memory_hit_bytes, before.memory_hit_bytes);
    metrics.memory_hits.inc_by(hits);
    let hits = since(disk_hit_bytes, before.disk_hit_bytes);
    metrics.disk_hits.inc_by(hits);
    metrics.misses.inc_by(since(miss_bytes, before.miss_bytes));
    metrics.damaged.inc_by(since(damaged, before.damaged));
    metrics.memory.set(gauge(memory_bytes));
    metrics.disk.set(gauge(disk_bytes));
}

fn count_footers(metrics: &FooterMetrics, before: FooterStats, now: FooterStats) {
    let FooterStats {
        hits,
        misses,
        bytes,
    } = now;
    metrics.hits.inc_by(hits.saturating_sub(before.hits));
    metrics.misses.inc_by(misses.saturating_sub(before.misses));
    metrics.memory.set(gauge(bytes));
}

/// Tells gRPC health checks what `/ready` tells, for the whole server and for Flight.
pub(crate) async fn report_health(reporter: HealthReporter, mut ready: watch::Receiver<bool>) {
    loop {
        let status = match *ready.borrow_and_update() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for name in ["", "arrow.flight.protocol.FlightService"] {
            reporter.set_service_status(name, status).await;
        }
        if ready.changed().await.is_err() {
            return;
        }
    }
}

/// Dials the address this server tells others. A name that does not lead here is the commonest
/// mistake of a hand-made set-up, and nothing else would show it.
pub(crate) async fn check_advertised(config: &Config, bound: Option<SocketAddr>) {
    let (Some(host), Some(bound)) = (&config.server.advertise_host, bound) else {
        return;
    };
    let port = config.server.advertise_port.unwrap_or(bound.port());
    let dialed = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect((host.as_str(), port)));
    let problem = match dialed.await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {DIAL_TIMEOUT:?}"),
    };
    tracing::warn!(
        host,
        port,
        error = problem,
        "the advertised address does not lead here; clients may not reach this server by it \
         (settings server.advertise_host, advertise_port)"
    );
}

#[cfg(test)]
mod tests {
    use flightcluster_telemetry::metrics::BuildLabels;

    use super::*;

    #[test]
    fn each_count_of_the_cache_is_what_was_added_to_its_own_metric() {
        let metrics = Metrics::new(BuildLabels {
            version: "1",
            revision: "1",
        });
        let before = CacheStats::default();
        let between = CacheStats {
            memory_hit_bytes: 1000,
            disk_hit_bytes: 2000,
            miss_bytes: 3000,
            damaged: 4000,
            memory_bytes: 5000,
            disk_bytes: 6000,
        };
        let after = CacheStats {
            memory_hit_bytes: 1010,
            disk_hit_bytes: 2020,
            miss_bytes: 3030,
            damaged: 4040,
            // These are what there is, and go down too.
            memory_bytes: 50,
            disk_bytes: 60,
        };
        count_cache(&metrics.query.cache, before, between);
        count_cache(&metrics.query.cache, between, after);
        let text = metrics.exposition().encode();
        for sample in [
            "flightcluster_cache_memory_hit_bytes_total 1010",
            "flightcluster_cache_disk_hit_bytes_total 2020",
            "flightcluster_cache_miss_bytes_total 3030",
            "flightcluster_cache_damaged_blocks_total 4040",
            "flightcluster_cache_memory_bytes 50",
            "flightcluster_cache_disk_bytes 60",
        ] {
            assert!(text.lines().any(|line| line == sample), "{sample}: {text}");
        }
    }
}
