//! An ingester with its log, a catalog, a store, and the query engine, in one process.

use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::*;
use flightcluster_config::{IngestConfig, QueryConfig};
use flightcluster_ingest::{Clock, Ingest, IngestOptions, NoObserver, NoPeers};
use flightcluster_query::rewrite::{Rewriter, RewriterOptions};
use flightcluster_query::{
    Access, BatchStream, Budget, Engine, EngineOptions, ExecuteOptions, Plan, QueryRequest,
    RecentRows, RecentRowsError, StatementKey, TableWriter,
};
use flightcluster_server::{FreshRows, Peers};
use flightcluster_wal::RealDisk;
use futures::TryStreamExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parking_lot::Mutex;

const MEMORY_BYTES: u64 = 256 << 20;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
pub(crate) const DATABASE: &str = "types";

/// The ingester of the moment, as the engine reaches it.
#[derive(Debug, Default)]
struct Running(Mutex<Option<Arc<Ingest>>>);

#[async_trait]
impl RecentRows for Running {
    async fn recent_rows(
        &self,
        ingester: &Ingester,
        table: &Table,
        schema: SchemaRef,
        after: SequenceNumber,
        projection: Option<&[usize]>,
        budget: &Budget,
    ) -> Result<Vec<RecordBatch>, RecentRowsError> {
        let fresh = FreshRows {
            local: self.0.lock().clone(),
            peers: Arc::new(Peers::new(None)),
        };
        let rows = fresh.recent_rows(ingester, table, schema, after, projection, budget);
        rows.await
    }
}

/// A deletion asks the ingester for its rows; nobody inserts by SQL.
#[async_trait]
impl TableWriter for Running {
    async fn append(
        &self,
        _: &TableName,
        _: Option<StatementKey>,
        _: BatchStream,
    ) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
        Err("nobody inserts".into())
    }

    async fn flush(&self, table: TableId) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let ingest = self.0.lock().clone().ok_or("no ingester runs")?;
        Ok(ingest.flush_table(ingest.ingester().epoch, table).await?)
    }
}

/// See the module.
pub(crate) struct World {
    directory: tempfile::TempDir,
    catalog: Arc<dyn Catalog>,
    store: Arc<dyn ObjectStore>,
    running: Arc<Running>,
    engine: Engine,
}

impl World {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("catalog.sqlite");
        let catalog: Arc<dyn Catalog> = Arc::new(SqlCatalog::open_sqlite(&file).await.unwrap());
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let running = Arc::<Running>::default();
        let engine = engine(&catalog, &store, &running, directory.path());
        let world = Self {
            directory,
            catalog,
            store,
            running,
            engine,
        };
        world.restart().await;
        world
    }

    pub(crate) fn table(name: &str) -> TableName {
        TableName::public(DATABASE, name)
    }

    pub(crate) fn ingest(&self) -> Arc<Ingest> {
        self.running.0.lock().clone().unwrap()
    }

    /// Ends the ingester as a crash would, and begins another one on its log.
    pub(crate) async fn restart(&self) {
        drop(self.running.0.lock().take());
        let options = IngestOptions {
            config: IngestConfig {
                // Nothing is flushed unless the test says so.
                flush_interval: DAY,
                group_commit_window: Duration::ZERO,
                ..IngestConfig::default()
            },
            catalog: Arc::clone(&self.catalog),
            store: Arc::clone(&self.store),
            node_name: "ingester-0".to_owned(),
            internal_url: String::new(),
            wal_dir: self.directory.path().join("wal"),
            disk: Arc::new(RealDisk),
            observer: Arc::new(NoObserver),
            clock: Clock::system(),
            peers: Arc::new(NoPeers),
            commit_within: DAY,
            ticket_ttl: Duration::from_secs(900),
        };
        let ingest = Ingest::open(options).await.unwrap();
        *self.running.0.lock() = Some(ingest);
    }

    pub(crate) async fn plan(&self, sql: String) -> Result<Plan, String> {
        let request = QueryRequest {
            database: DATABASE.to_owned(),
            sql,
            parameters: None,
            named: false,
            access: Access::everything(),
            read_only: false,
            as_of: None,
            partial: false,
        };
        let plan = self.engine.plan(request).await;
        plan.map_err(|error| format!("{error:?}"))
    }

    /// What a query answers, and the schema it announced.
    pub(crate) async fn query(&self, sql: String) -> Result<(SchemaRef, Vec<RecordBatch>), String> {
        let plan = self.plan(sql).await?;
        let schema = plan.schema();
        let rows = self.engine.execute(plan, ExecuteOptions::default());
        let rows = rows.try_collect().await;
        Ok((schema, rows.map_err(|error| format!("{error:?}"))?))
    }

    pub(crate) async fn update(&self, sql: String) -> Result<u64, String> {
        let plan = self.plan(sql).await?;
        let done = self.engine.execute_update(plan, ExecuteOptions::default());
        done.await.map_err(|error| format!("{error:?}"))
    }

    /// The live files of a table.
    pub(crate) async fn files(&self, name: &str) -> (Table, Vec<NewFile>) {
        let snapshot = self.catalog.snapshot(&[Self::table(name)]).await.unwrap();
        let of = snapshot.tables.into_iter().next().unwrap();
        (
            of.table,
            of.files.into_iter().map(|file| file.file).collect(),
        )
    }

    pub(crate) async fn object(&self, file: &NewFile) -> Bytes {
        let path = Path::parse(&file.path).unwrap();
        self.store.get(&path).await.unwrap().bytes().await.unwrap()
    }

    /// Puts the bytes of a file of another world into the store, and the file into the catalog.
    pub(crate) async fn add_file(&self, file: NewFile, bytes: Bytes) {
        let path = Path::parse(&file.path).unwrap();
        self.store.put(&path, bytes.into()).await.unwrap();
        let ingest = self.ingest();
        let commit = FlushCommit {
            seen: None,
            durable: SequenceNumber(0),
            ingester: ingest.ingester().id,
            epoch: ingest.ingester().epoch,
            files: vec![file],
            watermarks: vec![],
            producers: vec![],
            valid_until_millis: None,
            without_files: vec![],
        };
        self.catalog.commit_flush(commit).await.unwrap();
    }

    pub(crate) async fn drop_table(&self, name: &str) {
        let _gone = self.update(format!("DROP TABLE {name}")).await;
    }
}

fn engine(
    catalog: &Arc<dyn Catalog>,
    store: &Arc<dyn ObjectStore>,
    running: &Arc<Running>,
    directory: &std::path::Path,
) -> Engine {
    let rewriter = Rewriter::new(RewriterOptions {
        store: Arc::clone(store),
        threads: 1,
        memory_bytes: MEMORY_BYTES,
        spill_dir: directory.join("rewrite"),
        target_bytes: MEMORY_BYTES,
        max_row_group_rows: 1000,
        properties: flightcluster_ingest::file_properties,
    });
    let options = EngineOptions {
        config: QueryConfig {
            task_threads: 1,
            ..QueryConfig::default()
        },
        catalog: Arc::clone(catalog),
        store: Arc::clone(store),
        recent: Arc::clone(running) as Arc<dyn RecentRows>,
        writer: Some(Arc::clone(running) as Arc<dyn TableWriter>),
        rewriter: rewriter.unwrap(),
        memory_bytes: MEMORY_BYTES,
        spill_dir: directory.join("spill"),
        spill_bytes: MEMORY_BYTES,
        commit_within: DAY,
        delete_lease: Duration::from_secs(60),
    };
    Engine::new(options).unwrap()
}
