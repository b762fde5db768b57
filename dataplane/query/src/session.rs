//! The engine's set-up: memory, scratch disk, the one object store, functions and planner options.
//!
//! Made once. A query clones the template, which shares the functions and rules, and puts its own
//! catalog in.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use datafusion::catalog::CatalogProviderList;
use datafusion::common::plan_datafusion_err;
use datafusion::datasource::object_store::{ObjectStoreRegistry, ObjectStoreUrl};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionStateDefaults;
use datafusion::execution::cache::Cache as _;
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{FairSpillPool, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use object_store::ObjectStore;
use url::Url;

use crate::Error;
use crate::catalogs::NoCatalogs;
use crate::cooperative::CooperativeJoins;
use crate::floats::FloatsSkipNothing;
use crate::footers::Footers;
use crate::statement::PUBLIC;
use crate::width;

/// The object store of all stored files, under a name of ours: no other URL leads anywhere.
pub(crate) const STORE_URL: &str = "fc://store/";

/// How many consumers an out-of-memory message names.
const NAMED_CONSUMERS: usize = 5;

/// [`STORE_URL`] as the engine wants it.
pub(crate) fn store_url() -> ObjectStoreUrl {
    ObjectStoreUrl::parse(STORE_URL).expect("the constant is a URL of scheme and host only")
}

/// What the template is made of.
pub(crate) struct SessionOptions<'a> {
    pub(crate) threads: usize,
    pub(crate) batch_rows: usize,
    pub(crate) memory_bytes: usize,
    pub(crate) spill_dir: &'a Path,
    pub(crate) spill_bytes: u64,
    pub(crate) footers: Arc<Footers>,
    pub(crate) store: Arc<dyn ObjectStore>,
}

/// Builds the state every query starts from.
pub(crate) fn template(options: SessionOptions<'_>) -> Result<SessionState, DataFusionError> {
    let runtime = runtime_env(&options)?;
    // Table and file format factories are left out on purpose: they are what CREATE EXTERNAL TABLE,
    // COPY and paths in FROM need, and those reach the local file system.
    Ok(SessionStateBuilder::new()
        .with_config(config(options.threads, options.batch_rows))
        .with_runtime_env(runtime)
        .with_catalog_list(Arc::new(NoCatalogs))
        .with_expr_planners(SessionStateDefaults::default_expr_planners())
        .with_scalar_functions(SessionStateDefaults::default_scalar_functions())
        .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_table_function_list(SessionStateDefaults::default_table_functions())
        .with_physical_optimizer_rule(Arc::new(FloatsSkipNothing))
        .with_physical_optimizer_rule(Arc::new(CooperativeJoins))
        .build())
}

/// The state of one query: the template with its catalog, default database and clock.
pub(crate) fn session(
    template: &SessionState,
    database: &str,
    catalogs: Arc<dyn CatalogProviderList>,
) -> SessionState {
    let mut state = template.clone();
    state.register_catalog_list(catalogs);
    database.clone_into(&mut state.config_mut().options_mut().catalog.default_catalog);
    state.mark_start_execution();
    state
}

/// The state for rows that take so many bytes in memory: with fewer rows in a batch, when they are wide.
/// `None` when it is as it should be.
pub(crate) fn fitted(state: &SessionState, row_bytes: u64) -> Option<SessionState> {
    let usual = state.config().batch_size();
    let bytes = width::of_batch(&*state.runtime_env().memory_pool);
    let rows = width::rows(bytes, row_bytes, usual).max(width::FEWEST_ROWS);
    (rows < usual).then(|| {
        let mut state = state.clone();
        *state.config_mut() = state.config().clone().with_batch_size(rows);
        state
    })
}

fn config(threads: usize, batch_rows: usize) -> SessionConfig {
    let mut config = SessionConfig::new()
        .with_target_partitions(threads)
        .with_batch_size(batch_rows)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true);
    let options = config.options_mut();
    PUBLIC.clone_into(&mut options.catalog.default_schema);
    // A VARCHAR of CREATE TABLE is stored as Utf8: readers of the files know it, views few do.
    options.sql_parser.map_string_types_to_utf8view = false;
    // Without a zone TIMESTAMP WITH TIME ZONE would silently lose it.
    options.execution.time_zone = Some("+00:00".to_owned());
    // Places in the text, for messages.
    options.sql_parser.collect_spans = true;
    config
}

fn runtime_env(options: &SessionOptions<'_>) -> Result<Arc<RuntimeEnv>, DataFusionError> {
    let named = NonZeroUsize::new(NAMED_CONSUMERS).unwrap_or(NonZeroUsize::MIN);
    let pool = TrackConsumersPool::new(FairSpillPool::new(options.memory_bytes), named);
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![
            options.spill_dir.to_path_buf(),
        ]))
        .with_max_temp_directory_size(options.spill_bytes);
    let footers = &options.footers;
    let cache = CacheManagerConfig::default()
        .with_metadata_cache_limit(footers.cache_limit())
        .with_file_metadata_cache(Some(Arc::clone(footers) as _));
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(pool))
        .with_disk_manager_builder(disk)
        .with_cache_manager(cache)
        .with_object_store_registry(Arc::new(OneStore(Arc::clone(&options.store))))
        .build_arc()
}

/// Makes the scratch directory.
pub(crate) fn create_spill_dir(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|source| Error::Start {
        doing: "creating the scratch directory",
        source,
    })
}

/// Knows [`STORE_URL`] and nothing else, not even `file://`.
#[derive(Debug)]
struct OneStore(Arc<dyn ObjectStore>);

impl ObjectStoreRegistry for OneStore {
    fn register_store(
        &self,
        _url: &Url,
        _store: Arc<dyn ObjectStore>,
    ) -> Option<Arc<dyn ObjectStore>> {
        None
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>, DataFusionError> {
        if url.scheme() == "fc" && url.host_str() == Some("store") {
            return Ok(Arc::clone(&self.0));
        }
        Err(plan_datafusion_err!(
            "files outside the cluster's store can't be read: {url}"
        ))
    }
}
