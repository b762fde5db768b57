//! Every metric of both binaries, declared here and nowhere else.
//!
//! [`Metrics`] belongs to the data plane, [`OperatorMetrics`] to the operator, [`ProcessMetrics`] to
//! both. Names begin with `flightcluster_` and end with their unit; counters end with `_total`.
//! Label values are chosen in code, never by users, so the number of series is bounded. The structs
//! are cheap to clone and the clones count together. The reference page is generated from the
//! declarations.

mod backup;
mod declare;
mod guard;
mod query;
mod reference;
mod upkeep;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

pub use backup::BackupMetrics;
use declare::Declarer;
pub use declare::{Declaration, HistogramFamily, Labels, MemoryMetrics};
pub use guard::{GaugeGuard, RpcCall};
pub use query::{CacheMetrics, FooterMetrics, QueryMetrics};
pub use reference::reference_page;
pub use upkeep::UpkeepMetrics;

/// Defines a set of labels and the names of them.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: &'static str,)+
        }

        impl Labels for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($field)),+];
        }
    };
}

labels!(
    /// What was built.
    BuildLabels {
        /// Version of the package.
        version,
        /// Commit it was built from.
        revision
    }
);
labels!(
    /// A kind of memory.
    KindLabels {
        /// The kind, such as `rss`.
        kind
    }
);
labels!(
    /// A method that is called.
    MethodLabels {
        /// Name of the method, such as `DoGet` or `commit_flush`.
        method
    }
);
labels!(
    /// A method and how its call ended.
    MethodCodeLabels {
        /// Name of the method, such as `DoGet`.
        method,
        /// Name of the gRPC code, such as `Ok` or `Unavailable`.
        code
    }
);
labels!(
    /// A port of the process.
    ListenerLabels {
        /// The port: `public` or `internal`.
        listener
    }
);
labels!(
    /// A certificate in use.
    NameLabels {
        /// What it is for, such as `public` or `internal`.
        name
    }
);
labels!(
    /// Why something was refused.
    ReasonLabels {
        /// The reason, such as `expired_token`.
        reason
    }
);
labels!(
    /// How a reconciliation ended.
    OutcomeLabels {
        /// One of `applied`, `waiting`, `skipped`, `failed`, `abandoned`.
        outcome
    }
);
labels!(
    /// A step of a reconciliation.
    StepLabels {
        /// One of `dereference`, `validate`, `build`, `apply`, `observe`, `status`.
        step
    }
);
labels!(
    /// A kind of failure.
    CategoryLabels {
        /// Category of the error.
        category
    }
);
labels!(
    /// A job of upkeep.
    JobLabels {
        /// Name of the job, such as `compaction`.
        job
    }
);

impl From<&'static str> for KindLabels {
    fn from(kind: &'static str) -> Self {
        Self { kind }
    }
}

/// Calls and tails: from a cache hit to a long query.
fn call_seconds() -> Histogram {
    Histogram::new([
        0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
        300.0,
    ])
}

/// Disk syncs: from an NVMe cache to a disk in trouble.
fn sync_seconds() -> Histogram {
    Histogram::new([
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0,
    ])
}

/// The metrics as they are handed out.
#[derive(Debug, Clone)]
pub struct Exposition(Arc<Registry>);

impl Exposition {
    /// Media type of [`Exposition::encode`].
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// All metrics in the OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.0).expect("writing to a text never fails");
        text
    }
}

/// Metrics every process has.
#[derive(Debug, Clone)]
pub struct ProcessMetrics {
    /// Panics caught or not; each is a bug.
    pub panics: Counter,
    /// Memory by kind.
    pub memory: MemoryMetrics,
}

impl ProcessMetrics {
    fn declare(declare: &mut Declarer, build: BuildLabels) -> Self {
        let info = declare.gauges::<BuildLabels>(
            "flightcluster_build_info",
            "Always 1; the labels say what was built",
        );
        info.get_or_create(&build).set(1);
        let start = declare.gauge(
            "flightcluster_process_start_time_seconds",
            "When the process started, in seconds since 1970",
        );
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        start.set(i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX));
        Self {
            panics: declare.counter(
                "flightcluster_panics_total",
                "Panics of any thread or task; each one is a bug",
            ),
            memory: declare.memory::<KindLabels>(
                (
                    "flightcluster_memory_bytes",
                    "Memory by kind: rss is what the system counts, jemalloc_allocated and \
                     jemalloc_resident what the allocator counts, the others are pools inside of it",
                ),
                (
                    "flightcluster_memory_limit_bytes",
                    "Smallest memory limit in force: control group or machine",
                ),
            ),
        }
    }
}

/// Calls of clients and peers.
#[derive(Debug, Clone)]
pub struct RpcMetrics {
    /// Calls begun.
    pub started: Family<MethodLabels, Counter>,
    /// Calls ended.
    pub finished: Family<MethodCodeLabels, Counter>,
    /// Seconds from begin to end.
    pub duration: HistogramFamily<MethodCodeLabels>,
    /// Calls that are running.
    pub open: Family<MethodLabels, Gauge>,
    /// Bytes of messages that came in.
    pub received: Family<MethodLabels, Counter>,
    /// Bytes of messages that went out.
    pub sent: Family<MethodLabels, Counter>,
    /// Sum of `open`.
    running: Gauge,
}

impl RpcMetrics {
    fn declare(declare: &mut Declarer) -> Self {
        Self {
            started: declare.counters(
                "flightcluster_rpc_started_total",
                "Calls that began, by method",
            ),
            finished: declare.counters(
                "flightcluster_rpc_finished_total",
                "Calls that ended, by method and gRPC code; Cancelled when the client left",
            ),
            duration: declare.histograms(
                "flightcluster_rpc_duration_seconds",
                "Time from the begin of a call to the end of its stream",
                call_seconds,
            ),
            open: declare.gauges("flightcluster_rpc_open", "Calls whose stream is open"),
            received: declare.counters(
                "flightcluster_rpc_received_bytes_total",
                "Bytes of the messages clients sent",
            ),
            sent: declare.counters(
                "flightcluster_rpc_sent_bytes_total",
                "Bytes of the messages sent to clients",
            ),
            running: Gauge::default(),
        }
    }

    /// Counts bytes of messages that came in.
    pub fn add_received(&self, method: &'static str, bytes: u64) {
        let labels = MethodLabels { method };
        self.received.get_or_create(&labels).inc_by(bytes);
    }

    /// Whether any call is running.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.running.get() > 0
    }

    /// Counts the begin of a call, and its end when the returned guard is finished or dropped.
    #[must_use]
    pub fn start(&self, method: &'static str) -> RpcCall {
        RpcCall::start(self.clone(), method)
    }
}

/// Connections and what is wrong with them.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    /// Connections that are open.
    pub open: Family<ListenerLabels, Gauge>,
    /// TLS clients on a plaintext port.
    pub tls_on_plaintext: Counter,
    /// Plaintext clients on a TLS port.
    pub plaintext_on_tls: Counter,
    /// When a certificate ends, in seconds since 1970.
    pub certificate_not_after: Family<NameLabels, Gauge>,
    /// Calls that were not let in.
    pub auth_failures: Family<ReasonLabels, Counter>,
}

impl ConnectionMetrics {
    fn declare(declare: &mut Declarer) -> Self {
        Self {
            open: declare.gauges(
                "flightcluster_connections_open",
                "Connections that are open",
            ),
            tls_on_plaintext: declare.counter(
                "flightcluster_tls_on_plaintext_total",
                "Connections that began with TLS on a plaintext port",
            ),
            plaintext_on_tls: declare.counter(
                "flightcluster_plaintext_on_tls_total",
                "Connections that began in plaintext on a TLS port",
            ),
            certificate_not_after: declare.gauges(
                "flightcluster_certificate_not_after_timestamp_seconds",
                "When a certificate in use ends, in seconds since 1970",
            ),
            auth_failures: declare.counters(
                "flightcluster_auth_failures_total",
                "Calls refused because of their credentials, by reason",
            ),
        }
    }
}

/// Write-ahead log.
#[derive(Debug, Clone)]
pub struct WalMetrics {
    /// Seconds of a sync to disk.
    pub fsync: Histogram,
    /// Bytes appended.
    pub written: Counter,
    /// Segment files on disk.
    pub segments: Gauge,
    /// Their bytes.
    pub bytes: Gauge,
    /// Bytes they may have.
    pub limit: Gauge,
}

impl WalMetrics {
    fn declare(declare: &mut Declarer) -> Self {
        Self {
            fsync: declare.histogram(
                "flightcluster_wal_fsync_duration_seconds",
                "Time of one group sync of the write-ahead log to disk",
                sync_seconds,
            ),
            written: declare.counter(
                "flightcluster_wal_written_bytes_total",
                "Bytes appended to the write-ahead log",
            ),
            segments: declare.gauge(
                "flightcluster_wal_segments",
                "Segment files of the write-ahead log",
            ),
            bytes: declare.gauge(
                "flightcluster_wal_size_bytes",
                "Bytes of the segment files of the write-ahead log",
            ),
            limit: declare.gauge(
                "flightcluster_wal_limit_bytes",
                "Bytes the write-ahead log may take; past them writes are refused",
            ),
        }
    }
}

/// Buffer and flush of an ingester.
#[derive(Debug, Clone)]
pub struct IngestMetrics {
    /// Bytes in the buffer.
    pub buffer_bytes: Gauge,
    /// Rows in the buffer.
    pub buffer_rows: Gauge,
    /// Bytes that rows in no file took in memory before they left it.
    pub spilled_bytes: Gauge,
    /// Seconds the oldest of the rows that are in no file waits.
    pub unflushed_age: Gauge,
    /// Seconds of a flush.
    pub flush: Histogram,
    /// Rows flushed.
    pub flushed_rows: Counter,
    /// Bytes of the files written.
    pub flushed_bytes: Counter,
    /// Flushes that failed and are tried again.
    pub flush_failures: Counter,
}

impl IngestMetrics {
    fn declare(declare: &mut Declarer) -> Self {
        Self {
            buffer_bytes: declare.gauge(
                "flightcluster_ingest_buffer_bytes",
                "Bytes acknowledged and not yet released from memory",
            ),
            buffer_rows: declare.gauge(
                "flightcluster_ingest_buffer_rows",
                "Rows acknowledged and in no file yet",
            ),
            spilled_bytes: declare.gauge(
                "flightcluster_ingest_spilled_bytes",
                "Bytes of rows in no file that left memory and are read from the write-ahead log, as large as they were there",
            ),
            unflushed_age: declare.gauge(
                "flightcluster_ingest_unflushed_age_seconds",
                "Age of the oldest acknowledged row that is in no file yet; 0 when there is none",
            ),
            flush: declare.histogram(
                "flightcluster_flush_duration_seconds",
                "Time of one flush, from the buffer to the catalog commit",
                call_seconds,
            ),
            flushed_rows: declare.counter(
                "flightcluster_flush_rows_total",
                "Rows written to Parquet files",
            ),
            flushed_bytes: declare.counter(
                "flightcluster_flush_bytes_total",
                "Bytes of the Parquet files written",
            ),
            flush_failures: declare.counter(
                "flightcluster_flush_failures_total",
                "Flushes that failed; they are tried again",
            ),
        }
    }
}

/// Calls to the catalog.
#[derive(Debug, Clone)]
pub struct CatalogMetrics {
    /// Seconds of a call.
    pub calls: HistogramFamily<MethodLabels>,
    /// Calls that failed.
    pub failures: Family<MethodLabels, Counter>,
}

impl CatalogMetrics {
    fn declare(declare: &mut Declarer) -> Self {
        Self {
            calls: declare.histograms(
                "flightcluster_catalog_call_duration_seconds",
                "Time of one call to the catalog, by method",
                call_seconds,
            ),
            failures: declare.counters(
                "flightcluster_catalog_call_failures_total",
                "Calls to the catalog that failed, by method",
            ),
        }
    }
}

/// All metrics of the data plane.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Of the process.
    pub process: ProcessMetrics,
    /// Calls.
    pub rpc: RpcMetrics,
    /// Connections, certificates, credentials.
    pub connections: ConnectionMetrics,
    /// Write-ahead log.
    pub wal: WalMetrics,
    /// Buffer and flush.
    pub ingest: IngestMetrics,
    /// Catalog.
    pub catalog: CatalogMetrics,
    /// Backups of the catalog.
    pub backup: BackupMetrics,
    /// Queries.
    pub query: QueryMetrics,
    /// Compaction and deletion.
    pub upkeep: UpkeepMetrics,
    exposition: Exposition,
}

impl Metrics {
    /// The metrics of one process; a second set counts apart from the first.
    #[must_use]
    pub fn new(build: BuildLabels) -> Self {
        Self::declare(build).0
    }

    fn declare(build: BuildLabels) -> (Self, Vec<Declaration>) {
        let mut declare = Declarer::default();
        let process = ProcessMetrics::declare(&mut declare, build);
        let rpc = RpcMetrics::declare(&mut declare);
        let connections = ConnectionMetrics::declare(&mut declare);
        let wal = WalMetrics::declare(&mut declare);
        let ingest = IngestMetrics::declare(&mut declare);
        let catalog = CatalogMetrics::declare(&mut declare);
        let backup = BackupMetrics::declare(&mut declare);
        let query = QueryMetrics::declare(&mut declare);
        let upkeep = UpkeepMetrics::declare(&mut declare);
        let exposition = Exposition(Arc::new(declare.registry));
        let metrics = Self {
            process,
            rpc,
            connections,
            wal,
            ingest,
            catalog,
            backup,
            query,
            upkeep,
            exposition,
        };
        (metrics, declare.declarations)
    }

    /// The metrics as they are handed out.
    #[must_use]
    pub fn exposition(&self) -> Exposition {
        self.exposition.clone()
    }
}

/// All metrics of the operator.
#[derive(Debug, Clone)]
pub struct OperatorMetrics {
    /// Of the process.
    pub process: ProcessMetrics,
    /// Reconciliations ended.
    pub reconciles: Family<OutcomeLabels, Counter>,
    /// Seconds of a reconciliation.
    pub reconcile_duration: HistogramFamily<OutcomeLabels>,
    /// Reconciliations that failed, by what went wrong.
    pub reconcile_failures: Family<CategoryLabels, Counter>,
    /// Seconds of a step.
    pub step_duration: HistogramFamily<StepLabels>,
    /// 1 while the custom resource definitions are missing.
    pub crd_missing: Gauge,
    /// 1 while this process is the leader.
    pub leader: Gauge,
    exposition: Exposition,
}

impl OperatorMetrics {
    /// The metrics of one process; a second set counts apart from the first.
    #[must_use]
    pub fn new(build: BuildLabels) -> Self {
        Self::declare(build).0
    }

    fn declare(build: BuildLabels) -> (Self, Vec<Declaration>) {
        let mut declare = Declarer::default();
        let process = ProcessMetrics::declare(&mut declare, build);
        let reconciles = declare.counters(
            "flightcluster_operator_reconcile_total",
            "Reconciliations that ended, by outcome",
        );
        let reconcile_duration = declare.histograms(
            "flightcluster_operator_reconcile_duration_seconds",
            "Time of one reconciliation",
            call_seconds as fn() -> Histogram,
        );
        let reconcile_failures = declare.counters(
            "flightcluster_operator_reconcile_failures_total",
            "Reconciliations that failed, by what went wrong",
        );
        let step_duration = declare.histograms(
            "flightcluster_operator_step_duration_seconds",
            "Time of one step of a reconciliation",
            call_seconds as fn() -> Histogram,
        );
        let crd_missing = declare.gauge(
            "flightcluster_operator_crd_missing",
            "1 while a custom resource definition the operator needs is missing",
        );
        let leader = declare.gauge(
            "flightcluster_operator_leader",
            "1 while this process is the leader",
        );
        let exposition = Exposition(Arc::new(declare.registry));
        let metrics = Self {
            process,
            reconciles,
            reconcile_duration,
            reconcile_failures,
            step_duration,
            crd_missing,
            leader,
            exposition,
        };
        (metrics, declare.declarations)
    }

    /// The metrics as they are handed out.
    #[must_use]
    pub fn exposition(&self) -> Exposition {
        self.exposition.clone()
    }
}
