//! The engine: what it is made of, and its door for callers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datafusion::execution::session_state::SessionState;
use flightcluster_catalog::Catalog;
use flightcluster_config::QueryConfig;
use object_store::ObjectStore;

use crate::admission::Admission;
use crate::attempts::Patience;
use crate::compute::Compute;
use crate::execute::{execute, execute_partial};
use crate::footers::{FooterStats, Footers};
use crate::partial::Missing;
use crate::plan::{Plan, QueryRequest, plan};
use crate::ports::{RecentRows, TableWriter};
use crate::recent::Fetch;
use crate::rewrite::Rewriter;
use crate::running::Running;
use crate::session::{SessionOptions, create_spill_dir, template};
use crate::sort::Sorter;
use crate::update;
use crate::{BatchStream, Error, Functions};

/// Queries that run at once on each thread when the configuration leaves it open: some wait for
/// the object store while others compute.
const QUERIES_PER_THREAD: usize = 4;

/// Memory a query should at least have when the configuration leaves the number of queries open.
const BYTES_PER_QUERY: u64 = 64 * 1024 * 1024;

/// What an [`Engine`] is made of.
#[derive(Debug)]
pub struct EngineOptions {
    /// Limits.
    pub config: QueryConfig,
    /// Where tables, files and watermarks are looked up.
    pub catalog: Arc<dyn Catalog>,
    /// Where the files of the catalog are read from.
    pub store: Arc<dyn ObjectStore>,
    /// Where rows are that are in no file yet.
    pub recent: Arc<dyn RecentRows>,
    /// Where `INSERT` and `CREATE TABLE … AS` put rows; without it they are refused.
    pub writer: Option<Arc<dyn TableWriter>>,
    /// What `DELETE` writes files with.
    pub rewriter: Rewriter,
    /// Memory of all queries together, in bytes. Takes the place of `config.memory_bytes`, which
    /// may be 0 for "a part of what there is".
    pub memory_bytes: u64,
    /// Directory for what does not fit in memory; created when missing. What an earlier process
    /// left there is not removed.
    pub spill_dir: PathBuf,
    /// Most bytes all queries together may have there.
    pub spill_bytes: u64,
    /// For how long the files `DELETE` writes may wait for the commit that names them.
    pub commit_within: Duration,
    /// How long `DELETE` has a table for itself before it asks again, and waits for one that others have.
    pub delete_lease: Duration,
}

/// How a plan is run.
#[derive(Debug, Clone, Default)]
pub struct ExecuteOptions {
    /// The id of the call, for [`Engine::cancel`] and `system.queries`.
    pub request_id: String,
    /// When the caller gives up. Bounds waiting, planning and the whole stream. `query.timeout` of
    /// the configuration counts too, from the first poll.
    pub deadline: Option<Instant>,
    /// Handed to the writer, which stores the rows of a repeated statement once.
    pub idempotency_key: Option<u128>,
}

/// Numbers for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineStats {
    /// Queries that run.
    pub running: usize,
    /// Queries that wait for their turn.
    pub queued: usize,
    /// Queries that may run at once.
    pub max_concurrent: usize,
    /// Bytes the operators of all queries hold now.
    pub memory_reserved_bytes: u64,
    /// Bytes they may hold.
    pub memory_limit_bytes: u64,
    /// Panics caught since the start.
    pub panics_total: u64,
    /// Queries ended before their last row since the start: cancelled, or the caller left.
    pub cancelled_total: u64,
    /// Queries refused because too many waited since the start.
    pub rejected_total: u64,
    /// Snapshots taken anew because an ingester had no longer, or did not give, its rows.
    pub replans_total: u64,
    /// Footers of stored files kept in memory.
    pub footers: FooterStats,
}

/// Plans and runs statements. Clones are the same engine.
///
/// Computing happens on threads of its own. May be dropped anywhere; running queries then end with
/// [`Error::Cancelled`].
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) inner: Arc<Inner>,
}

/// What all calls share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) writer: Option<Arc<dyn TableWriter>>,
    pub(crate) rewriter: Rewriter,
    pub(crate) template: SessionState,
    footers: Arc<Footers>,
    pub(crate) compute: Compute,
    pub(crate) admission: Admission,
    pub(crate) running: Arc<Running>,
    pub(crate) fetch: Fetch,
    pub(crate) sorter: Sorter,
    pub(crate) timeout: Option<Duration>,
    pub(crate) commit_within: Duration,
    pub(crate) delete_lease: Duration,
    replans: AtomicU64,
}

impl Inner {
    pub(crate) fn count_replans(&self, replans: u64) {
        self.replans.fetch_add(replans, Ordering::Relaxed);
    }
}

impl Engine {
    /// Starts the query threads and makes the scratch directory.
    ///
    /// # Errors
    /// [`Error::Start`] when a thread or the directory can't be made.
    pub fn new(options: EngineOptions) -> Result<Self, Error> {
        Self::with_patience(options, Patience::default())
    }

    /// [`Engine::new`] with another patience with ingesters that do not answer.
    ///
    /// # Errors
    /// [`Error::Start`] when a thread or the directory can't be made.
    pub fn with_patience(options: EngineOptions, patience: Patience) -> Result<Self, Error> {
        let EngineOptions {
            config,
            catalog,
            store,
            recent,
            writer,
            rewriter,
            memory_bytes,
            spill_dir,
            spill_bytes,
            commit_within,
            delete_lease,
        } = options;
        create_spill_dir(&spill_dir)?;
        let kept = Arc::clone(&store);
        let sorter = Sorter { memory_bytes };
        let compute = Compute::new(usize::from(config.task_threads))?;
        let batch_rows = (config.batch_rows as usize).max(1);
        let footers = Footers::new(config.footer_cache_bytes.as_usize());
        let template = template(SessionOptions {
            threads: compute.threads(),
            batch_rows,
            memory_bytes: usize::try_from(memory_bytes).unwrap_or(usize::MAX),
            spill_dir: &spill_dir,
            spill_bytes,
            footers: Arc::clone(&footers),
            store,
        })
        .map_err(|error| sorter.sort("starting", error))?;
        let max_running = max_running(&config, compute.threads(), memory_bytes);
        let inner = Inner {
            fetch: Fetch {
                catalog: Arc::clone(&catalog),
                recent,
                patience,
                sorter,
                memory: Arc::clone(&template.runtime_env().memory_pool),
            },
            catalog,
            store: kept,
            writer,
            rewriter,
            template,
            footers,
            compute,
            admission: Admission::new(max_running, config.queue_length as usize),
            running: Arc::default(),
            sorter,
            timeout: config.timeout,
            commit_within,
            delete_lease,
            replans: AtomicU64::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Plans one statement: syntax, names, types and rights are checked, nothing is read or
    /// changed. Cheap enough to describe a statement to a client.
    ///
    /// # Errors
    /// The caller's mistakes, the catalog's failures, [`Error::Panic`].
    pub async fn plan(&self, request: QueryRequest) -> Result<Plan, Error> {
        Box::pin(plan(&self.inner, request)).await
    }

    /// Runs a plan.
    ///
    /// - Shape: batches of exactly [`Plan::schema`], none empty, at most about `query.batch_rows`
    ///   rows, fewer of wide ones, unless an operator makes more of one. A statement that changes something does so and
    ///   gives no batch.
    /// - Lazy: nothing happens before the first poll, also not the waiting for a place among the
    ///   running queries. An error is the last item.
    /// - Cancellation: dropping the stream ends everything the query does, down to reads of the
    ///   object store.
    pub fn execute(&self, plan: Plan, options: ExecuteOptions) -> BatchStream {
        execute(Arc::clone(&self.inner), plan, options)
    }

    /// Runs a query as [`Engine::execute`] does, but without the fresh rows of ingesters that can't be
    /// reached, and says which they are; nothing is missing of what they have in files.
    ///
    /// - Not lazy: it waits for a place among the running queries, and for the fresh rows, before it
    ///   returns. What is missing is known then; nothing goes missing later.
    ///
    /// # Errors
    /// Those of [`Engine::execute`]. [`Error::IngesterUnavailable`] if the rows would be of a table with a
    /// primary key. [`Error::Partial`] for a statement that changes something.
    pub async fn execute_partial(
        &self,
        plan: Plan,
        options: ExecuteOptions,
    ) -> Result<(BatchStream, Vec<Missing>), Error> {
        Box::pin(execute_partial(Arc::clone(&self.inner), plan, options)).await
    }

    /// Runs a statement that changes something; returns how many rows it wrote or took away, 0
    /// for those that do neither.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a query. [`Error::Write`] when rows could not be made durable;
    /// rows of earlier batches may have been.
    pub async fn execute_update(&self, plan: Plan, options: ExecuteOptions) -> Result<u64, Error> {
        Box::pin(update::run(Arc::clone(&self.inner), plan, options)).await
    }

    /// Ends the waiting and running statements of a request with [`Error::Cancelled`]; returns how
    /// many there were.
    pub fn cancel(&self, request_id: &str) -> usize {
        self.inner.running.cancel(request_id)
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let inner = &self.inner;
        EngineStats {
            running: inner.admission.running(),
            queued: inner.admission.waiting(),
            max_concurrent: inner.admission.max_running(),
            memory_reserved_bytes: inner.template.runtime_env().memory_pool.reserved() as u64,
            memory_limit_bytes: inner.sorter.memory_bytes,
            panics_total: inner.compute.panics(),
            cancelled_total: inner.running.cancelled(),
            rejected_total: inner.admission.rejected(),
            replans_total: inner.replans.load(Ordering::Relaxed),
            footers: inner.footers.stats(),
        }
    }

    /// What `DELETE` writes files with, for upkeep in the same process: both share threads and memory.
    #[must_use]
    pub fn rewriter(&self) -> Rewriter {
        self.inner.rewriter.clone()
    }

    /// The functions SQL may use.
    #[must_use]
    pub fn functions(&self) -> Functions {
        Functions::of(&self.inner.template)
    }
}

fn max_running(config: &QueryConfig, threads: usize, memory_bytes: u64) -> usize {
    if config.max_concurrent_queries > 0 {
        return config.max_concurrent_queries as usize;
    }
    let by_memory = usize::try_from(memory_bytes / BYTES_PER_QUERY).unwrap_or(usize::MAX);
    threads
        .saturating_mul(QUERIES_PER_THREAD)
        .min(by_memory)
        .max(1)
}
