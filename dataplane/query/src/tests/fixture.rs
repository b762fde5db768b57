//! A cluster in one process: the real catalog on SQLite, files in memory, and ingesters that hold
//! rows, flush them to Parquet, forget them or fail when told to. Long because every test plays in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arrow_array::{Array, ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::execution::FunctionRegistry as _;
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{
    Catalog, CreateTable, Epoch, FlushCommit, IfExists, Ingester, LogId, LogState, NewFile,
    RegisterIngester, Registration, SequenceNumber, Table, TableId, TableName,
};
use flightcluster_config::{ByteSize, QueryConfig};
use flightcluster_keys::Key;
use futures::future::pending;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;

use super::reads::CountedStore;
use super::shapes::{shape, time_range};
use super::upserts;
use crate::rewrite::{Rewriter, RewriterOptions};
use crate::{
    Access, BatchStream, Budget, Engine, EngineOptions, Error, ExecuteOptions, Patience, Plan,
    QueryRequest, RecentRows, RecentRowsError, StatementKey, TableWriter, decode_schema,
    encode_schema,
};

pub(super) const DATABASE: &str = "demo";

/// What an ingester does with the next question for fresh rows.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fault {
    /// Does not answer.
    Unreachable,
    /// Flushes everything and forgets it before it answers: the question is too old then.
    FlushAndForget,
    /// Gives rows of another schema.
    Nonsense,
    /// Takes the question, and never says anything.
    Silent,
    /// Gives eight megabytes of rows, and then no more.
    BreaksOff,
}

#[derive(Debug)]
struct Held {
    registration: Registration,
    next: u64,
    rows: Vec<(SequenceNumber, TableId, RecordBatch)>,
    forgotten: BTreeMap<TableId, SequenceNumber>,
    faults: Vec<Fault>,
    questions: usize,
}

/// All ingesters of the cluster.
#[derive(Debug)]
pub(super) struct Ingesters {
    catalog: Arc<dyn Catalog>,
    store: Arc<dyn ObjectStore>,
    held: Mutex<BTreeMap<String, Held>>,
    /// Flushes of the fixture and of statements are one at a time, as an ingester's are.
    flushing: tokio::sync::Mutex<()>,
    meanwhile: Mutex<Option<CreateTable>>,
    /// Order numbers that were given to rows of tables with a primary key.
    pub(super) orders: AtomicI64,
}

impl Ingesters {
    pub(super) async fn register(&self, name: &str) {
        let url = format!("https://{name}.internal:17002");
        let log = LogState {
            id: LogId(uuid::Uuid::new_v4()),
            empty: true,
            epoch: Epoch(0),
            seen: None,
        };
        let request = RegisterIngester {
            name: name.to_owned(),
            url,
            log,
            opens_tables: false,
        };
        let registration = self.catalog.register_ingester(request).await.unwrap();
        let held = Held {
            registration,
            next: 1,
            rows: Vec::new(),
            forgotten: BTreeMap::new(),
            faults: Vec::new(),
            questions: 0,
        };
        self.held.lock().insert(name.to_owned(), held);
    }

    /// Somebody else creates a table when the next rows are about to be written.
    pub(super) fn meanwhile(&self, request: CreateTable) {
        *self.meanwhile.lock() = Some(request);
    }

    pub(super) fn write(&self, ingester: &str, table: &Table, batch: RecordBatch) {
        let mut all = self.held.lock();
        let held = all.get_mut(ingester).unwrap();
        let batch = upserts::numbered(table, batch, &self.orders);
        held.rows.push((SequenceNumber(held.next), table.id, batch));
        held.next += 1;
    }

    pub(super) fn fail(&self, ingester: &str, faults: &[Fault]) {
        self.held.lock().get_mut(ingester).unwrap().faults = faults.to_vec();
    }

    pub(super) fn questions(&self, ingester: &str) -> usize {
        self.held.lock()[ingester].questions
    }

    /// Writes the rows of a table to a file and commits it; the rows stay in memory.
    pub(super) async fn flush(&self, ingester: &str, table: &TableName) {
        let _one_at_a_time = self.flushing.lock().await;
        let table = self.catalog.table(table).await.unwrap().unwrap();
        let (registration, rows) = {
            let mut all = self.held.lock();
            let held = all.get_mut(ingester).unwrap();
            let done = held
                .registration
                .watermarks
                .iter()
                .find(|(id, _)| *id == table.id);
            let done = done.map_or(SequenceNumber(0), |(_, sequence)| *sequence);
            let rows: Vec<(SequenceNumber, RecordBatch)> = held
                .rows
                .iter()
                .filter(|(sequence, id, _)| *id == table.id && *sequence > done)
                .map(|(sequence, _, batch)| (*sequence, batch.clone()))
                .collect();
            (held.registration.clone(), rows)
        };
        let Some((last, _)) = rows.last() else { return };
        let path = format!(
            "{}/{}-{}-{last}.parquet",
            table.name.table, ingester, table.id
        );
        let schema = decode_schema(&table.schema).unwrap();
        // The other ingester is of an older release.
        let sorted = ingester == "a" && Key::of(&table.options).unwrap().is_some();
        let rows_of = rows.iter().map(|row| &row.1);
        let (schema, batches) = upserts::kept(&table, (schema, sorted), rows_of);
        let mut bytes = Vec::new();
        // Of every column: whatever is asked, no filter may lose a row.
        let filters = WriterProperties::builder()
            .set_bloom_filter_enabled(true)
            .set_bloom_filter_fpp(0.001);
        let mut writer =
            ArrowWriter::try_new(&mut bytes, Arc::clone(&schema), Some(filters.build())).unwrap();
        let mut count = 0;
        for batch in &batches {
            writer.write(batch).unwrap();
            count += batch.num_rows() as u64;
        }
        writer.close().unwrap();
        let size_bytes = bytes.len() as u64;
        self.store
            .put(&Path::from(path.clone()), bytes.into())
            .await
            .unwrap();
        let file = NewFile {
            table: table.id,
            path,
            size_bytes,
            rows: count,
            schema_version: table.schema_version,
            first_sequence: rows[0].0,
            last_sequence: *last,
            time_range_nanos: time_range(&rows),
            sorted,
        };
        let commit = FlushCommit {
            seen: None,
            durable: SequenceNumber(0),
            ingester: registration.ingester.id,
            epoch: registration.ingester.epoch,
            files: vec![file],
            watermarks: vec![(table.id, *last)],
            producers: Vec::new(),
            valid_until_millis: None,
            without_files: vec![],
        };
        self.catalog.commit_flush(commit).await.unwrap();
        let mut all = self.held.lock();
        let watermarks = &mut all.get_mut(ingester).unwrap().registration.watermarks;
        watermarks.retain(|(id, _)| *id != table.id);
        watermarks.push((table.id, *last));
    }

    /// Drops the flushed rows of a table from memory.
    pub(super) fn forget(&self, ingester: &str, table: TableId) {
        let mut all = self.held.lock();
        let held = all.get_mut(ingester).unwrap();
        let flushed = held
            .registration
            .watermarks
            .iter()
            .find(|(id, _)| *id == table)
            .unwrap()
            .1;
        held.rows
            .retain(|(sequence, id, _)| *id != table || *sequence > flushed);
        held.forgotten.insert(table, flushed);
    }

    pub(super) async fn drain(&self, ingester: &str) {
        let who = self.held.lock()[ingester].registration.ingester.clone();
        self.catalog
            .drain_ingester(who.id, who.epoch)
            .await
            .unwrap();
    }
}

#[async_trait]
impl RecentRows for Ingesters {
    async fn recent_rows(
        &self,
        ingester: &Ingester,
        table: &Table,
        schema: SchemaRef,
        after: SequenceNumber,
        projection: Option<&[usize]>,
        budget: &Budget,
    ) -> Result<Vec<RecordBatch>, RecentRowsError> {
        let fault = {
            let mut all = self.held.lock();
            let held = all.get_mut(&ingester.name).unwrap();
            held.questions += 1;
            (!held.faults.is_empty()).then(|| held.faults.remove(0))
        };
        let name = ingester.name.clone();
        match fault {
            Some(fault @ (Fault::Unreachable | Fault::Silent | Fault::BreaksOff)) => {
                let mut source = "connection refused".into();
                if matches!(fault, Fault::Silent) {
                    let silent = budget.silence().in_time(pending::<()>()).await;
                    source = silent.unwrap_err().into();
                }
                if matches!(fault, Fault::BreaksOff) {
                    let column: ArrayRef = Arc::new(Int64Array::from(vec![0; 1 << 20]));
                    budget.take(&RecordBatch::try_from_iter([("x", column)]).unwrap())?;
                }
                let url = ingester.url.clone();
                return Err(RecentRowsError::Unreachable {
                    ingester: name,
                    url,
                    source,
                });
            }
            Some(Fault::Nonsense) => {
                let column: ArrayRef = Arc::new(StringArray::from(vec!["nonsense"]));
                return Ok(vec![RecordBatch::try_from_iter([("x", column)]).unwrap()]);
            }
            Some(Fault::FlushAndForget) => {
                self.flush(&name, &table.name).await;
                self.forget(&name, table.id);
            }
            None => {}
        }
        let all = self.held.lock();
        let held = &all[&name];
        let lost = held.forgotten.get(&table.id).copied().unwrap_or_default();
        if after < lost {
            return Err(RecentRowsError::TooOld {
                ingester: name,
                after,
            });
        }
        let mine = held
            .rows
            .iter()
            .filter(|(seq, id, _)| *id == table.id && *seq > after);
        // As if they came over the network.
        mine.map(|(_, _, batch)| {
            let batch = shape(batch, &schema, projection);
            budget.take(&batch).map(|()| batch)
        })
        .collect()
    }
}

/// Puts rows into the memory of ingester `a`.
#[derive(Debug)]
pub(super) struct Writer {
    ingesters: Arc<Ingesters>,
    seen: Mutex<HashMap<u128, u64>>,
}

#[async_trait]
impl TableWriter for Writer {
    async fn append(
        &self,
        table: &TableName,
        key: Option<StatementKey>,
        mut rows: BatchStream,
    ) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
        let seen = key.and_then(|key| self.seen.lock().get(&key.number).copied());
        match (seen, key) {
            (Some(count), Some(key)) if key.is_one_batch => return Ok(count),
            (Some(_), _) => return Err("begun before".into()),
            (None, _) => {}
        }
        let meanwhile = self.ingesters.meanwhile.lock().take();
        if let Some(request) = meanwhile {
            self.ingesters.catalog.create_table(request).await?;
        }
        let table = self
            .ingesters
            .catalog
            .table(table)
            .await?
            .ok_or("no such table")?;
        let schema = decode_schema(&table.schema)?;
        let mut count = 0;
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            assert_eq!(
                batch.schema(),
                schema,
                "rows come in the schema of the table"
            );
            count += batch.num_rows() as u64;
            self.ingesters.write("a", &table, batch);
        }
        assert!(count > 0, "a writer is not called without rows");
        if let Some(key) = key {
            self.seen.lock().insert(key.number, count);
        }
        Ok(count)
    }

    async fn flush(&self, table: TableId) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for table in self.ingesters.catalog.tables_by_id(&[table]).await? {
            for ingester in ["a", "b"] {
                self.ingesters.flush(ingester, &table.name).await;
            }
        }
        Ok(())
    }
}

/// A cluster with ingesters `a` and `b`.
pub(super) struct Cluster {
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) ingesters: Arc<Ingesters>,
    pub(super) store: Arc<CountedStore>,
    pub(super) engine: Engine,
    pub(super) directory: TempDir,
    /// How often SQL called `tick(x)`, which gives x back.
    pub(super) ticks: Arc<AtomicU64>,
}

pub(super) fn config() -> QueryConfig {
    QueryConfig {
        task_threads: 2,
        ..QueryConfig::default()
    }
}

impl Cluster {
    pub(super) async fn start() -> Self {
        Self::with(config(), 256 * 1024 * 1024).await
    }

    pub(super) async fn with(config: QueryConfig, memory_bytes: u64) -> Self {
        Self::built(config, memory_bytes, Duration::from_secs(3600)).await
    }

    /// One in which what a deletion writes has to be committed so soon.
    pub(super) async fn committing_within(time: Duration) -> Self {
        Self::built(config(), 256 * 1024 * 1024, time).await
    }

    async fn built(config: QueryConfig, memory_bytes: u64, commit_within: Duration) -> Self {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("catalog.sqlite");
        let catalog: Arc<dyn Catalog> = Arc::new(SqlCatalog::open_sqlite(&file).await.unwrap());
        catalog.create_database(DATABASE, true).await.unwrap();
        let counted = Arc::new(CountedStore::default());
        let store: Arc<dyn ObjectStore> = Arc::clone(&counted) as _;
        let ingesters = Arc::new(Ingesters {
            catalog: Arc::clone(&catalog),
            store: Arc::clone(&store),
            held: Mutex::default(),
            flushing: tokio::sync::Mutex::default(),
            meanwhile: Mutex::default(),
            orders: AtomicI64::new(1),
        });
        ingesters.register("a").await;
        ingesters.register("b").await;
        let writer = Writer {
            ingesters: Arc::clone(&ingesters),
            seen: Mutex::default(),
        };
        let rewriter = Rewriter::new(RewriterOptions {
            store: Arc::clone(&store),
            threads: 1,
            memory_bytes: 64 << 20,
            spill_dir: directory.path().join("rewrite"),
            target_bytes: 1 << 30,
            max_row_group_rows: 1000,
            properties: |_, _, pairs, rows| {
                let properties = WriterProperties::builder().set_key_value_metadata(Some(pairs));
                Ok(properties.set_max_row_group_row_count(Some(rows)).build())
            },
        });
        let spill_bytes = config.spill_bytes.map_or(1 << 40, ByteSize::as_u64);
        let options = EngineOptions {
            config,
            catalog: Arc::clone(&catalog),
            store,
            recent: Arc::clone(&ingesters) as Arc<dyn RecentRows>,
            writer: Some(Arc::new(writer)),
            rewriter: rewriter.unwrap(),
            memory_bytes,
            spill_dir: directory.path().join("spill"),
            spill_bytes,
            commit_within,
            delete_lease: Duration::from_secs(60),
        };
        let patience = Patience {
            total: Duration::from_millis(200),
            first_wait: Duration::from_millis(1),
            silence: Duration::from_millis(300),
            partial_silence: Duration::from_millis(100),
        };
        let engine = Engine::with_patience(options, patience).unwrap();
        let ticks = Arc::new(AtomicU64::new(0));
        let mut cluster = Self {
            catalog,
            ingesters,
            store: counted,
            engine,
            directory,
            ticks,
        };
        cluster.register_tick();
        cluster
    }

    /// Changes the patience with ingesters, before the engine is used.
    pub(super) fn be_patient(&mut self, patience: Patience) {
        let inner = Arc::get_mut(&mut self.engine.inner).unwrap();
        inner.fetch.patience = patience;
    }

    /// Adds a function to SQL, before the engine is used.
    pub(super) fn register(&mut self, function: ScalarUDF) {
        let inner = Arc::get_mut(&mut self.engine.inner).unwrap();
        inner.template.register_udf(Arc::new(function)).unwrap();
    }

    fn register_tick(&mut self) {
        let ticks = Arc::clone(&self.ticks);
        let tick = Arc::new(move |arguments: &[ColumnarValue]| {
            ticks.fetch_add(1, Ordering::Relaxed);
            Ok(arguments[0].clone())
        });
        let number = DataType::Int64;
        let volatile = Volatility::Volatile;
        self.register(create_udf(
            "tick",
            vec![number.clone()],
            number,
            volatile,
            tick,
        ));
    }

    pub(super) async fn create(&self, name: &str, schema: &Schema) -> Table {
        let request = Self::creation(name, schema);
        self.catalog.create_table(request).await.unwrap()
    }

    pub(super) fn creation(name: &str, schema: &Schema) -> CreateTable {
        CreateTable {
            name: TableName::public(DATABASE, name),
            schema: encode_schema(schema).unwrap(),
            options: BTreeMap::new(),
            if_exists: IfExists::Fail,
            create_database: true,
            unpublished: None,
            seen: None,
        }
    }

    /// A table `t(id, city)` whose rows 1, 2, … are spread over files and the memory of both
    /// ingesters: flushed and forgotten, flushed and still in memory, and only in memory.
    pub(super) async fn spread(&self) -> Table {
        let table = self.create("t", &points_schema()).await;
        let name = table.name.clone();
        self.ingesters.write("a", &table, points(1..=100));
        self.ingesters.flush("a", &name).await;
        self.ingesters.forget("a", table.id);
        self.ingesters.write("a", &table, points(101..=200));
        self.ingesters.flush("a", &name).await;
        self.ingesters.write("a", &table, points(201..=250));
        self.ingesters.write("b", &table, points(251..=290));
        self.ingesters.flush("b", &name).await;
        self.ingesters.write("b", &table, points(291..=300));
        table
    }

    pub(super) fn request(sql: &str) -> QueryRequest {
        QueryRequest {
            database: DATABASE.to_owned(),
            sql: sql.to_owned(),
            parameters: None,
            named: false,
            access: Access::everything(),
            read_only: false,
            as_of: None,
            partial: false,
        }
    }

    pub(super) async fn plan(&self, sql: &str) -> Result<Plan, Error> {
        self.engine.plan(Self::request(sql)).await
    }

    pub(super) async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>, Error> {
        let plan = self.plan(sql).await?;
        self.run(plan).await
    }

    pub(super) async fn bound(
        &self,
        sql: &str,
        values: RecordBatch,
    ) -> Result<Vec<RecordBatch>, Error> {
        let request = QueryRequest {
            parameters: Some(values),
            ..Self::request(sql)
        };
        let plan = self.engine.plan(request).await?;
        self.run(plan).await
    }

    /// Runs a plan; checks on the way that what was announced is what comes.
    pub(super) async fn run(&self, plan: Plan) -> Result<Vec<RecordBatch>, Error> {
        let schema = plan.schema();
        let batches: Vec<RecordBatch> = self
            .engine
            .execute(plan, ExecuteOptions::default())
            .try_collect()
            .await?;
        for batch in &batches {
            assert_eq!(batch.schema(), schema, "announced and streamed schema");
            assert!(batch.num_rows() > 0, "no empty batches");
        }
        Ok(batches)
    }

    pub(super) async fn update(&self, sql: &str) -> Result<u64, Error> {
        let plan = self.plan(sql).await?;
        assert!(plan.is_update(), "{sql}");
        self.engine
            .execute_update(plan, ExecuteOptions::default())
            .await
    }

    /// The result as a table of text.
    pub(super) async fn text(&self, sql: &str) -> String {
        let batches = self
            .query(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        pretty_format_batches(&batches).unwrap().to_string()
    }

    /// Removes a stored object behind the catalog's back.
    pub(super) async fn delete(&self, path: &str) {
        self.ingesters
            .store
            .delete(&Path::from(path))
            .await
            .unwrap();
    }

    /// The one number a query gives.
    pub(super) async fn number(&self, sql: &str) -> i64 {
        let batches = self
            .query(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        int64s(&batches, 0)[0]
    }
}

/// A column of whole numbers.
pub(super) fn int64s(batches: &[RecordBatch], column: usize) -> Vec<i64> {
    batches
        .iter()
        .flat_map(|batch| {
            let column = batch
                .column(column)
                .as_any()
                .downcast_ref::<Int64Array>()
                .unwrap();
            assert_eq!(column.null_count(), 0);
            column.values().to_vec()
        })
        .collect()
}

pub(super) fn points_schema() -> Schema {
    Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("city", DataType::Utf8, true),
    ])
}

/// Rows of [`points_schema`]: the city of an odd id is Brno, of an even one Praha.
pub(super) fn points(ids: std::ops::RangeInclusive<i64>) -> RecordBatch {
    let city = |id| if id % 2 == 0 { "Praha" } else { "Brno" };
    let cities: StringArray = ids.clone().map(|id| Some(city(id))).collect();
    let ids: Int64Array = ids.map(Some).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(cities)];
    RecordBatch::try_new(Arc::new(points_schema()), columns).unwrap()
}

/// One row of values.
pub(super) fn row<'a>(values: impl IntoIterator<Item = (&'a str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        values.into_iter().map(|(name, value)| (name, value, true)),
    )
    .unwrap()
}
