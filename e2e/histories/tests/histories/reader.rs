//! A querier: the real engine over a catalog, a store and ingesters that are somewhere else.
//!
//! An engine is expensive to make and cheap to use, so one serves every history of a thread, one
//! after the other; [`Reader::enter`] changes the world it looks at.

use std::array::from_fn;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Decimal128Type, Float64Type, Int64Type};
use arrow_array::{Array as _, Float64Array, Int64Array, RecordBatch, new_null_array};
use arrow_cast::cast;
use arrow_schema::{DataType, SchemaRef};
use async_trait::async_trait;
use flightcluster_catalog::*;
use flightcluster_config::QueryConfig;
use flightcluster_ingest::Ingest;
use flightcluster_query::rewrite::{Rewriter, RewriterOptions};
use flightcluster_query::{
    Access, BatchStream, Budget, Engine, EngineOptions, Error, ExecuteOptions, Missing, Patience,
    Plan, QueryRequest, RecentRows, RecentRowsError, StatementKey, TableWriter,
};
use flightcluster_server::{FreshRows, Ingesters, Peers};
use futures::TryStreamExt as _;
use object_store::ObjectStore;
use parking_lot::Mutex;

use crate::broken::Broken;
use crate::catalog::{self, LossyCatalog};
use crate::history::{Answer, Row};
use crate::life::{Life, Port};
use crate::peers::OtherIngesters;
use crate::program::MOST_NODES;
use crate::shape::{AMOUNT_SCALE, nest_of};
use crate::store::{self, LossyStore};
use crate::upkeep::Workshop;
use crate::world::DAY;

/// An answer soon, or none: what is tested is that an answer is right.
const PATIENCE: Patience = Patience {
    total: Duration::from_millis(15),
    first_wait: Duration::from_millis(1),
    silence: Duration::from_secs(30),
    partial_silence: Duration::from_secs(5),
};
/// How often a query is planned again because a column has become wider.
const PLANNED_AGAIN: usize = 3;
const MEMORY_BYTES: u64 = 256 << 20;
pub(crate) const DATABASE: &str = "history";

/// An ingester that answers, as long as its life lasts.
pub(crate) type Running = (Arc<Life>, Arc<Ingest>);

/// What a reader looks at.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) catalog: catalog::Line,
    pub(crate) store: store::Line,
    /// The processes that run, the newest life of each ingester last.
    pub(crate) running: Arc<Mutex<Vec<Running>>>,
    /// Trouble of the reader itself.
    pub(crate) life: Arc<Life>,
    pub(crate) broken: Option<Broken>,
    /// Before each question memory is short: unflushed rows are read from the log, by queries and by flushes.
    pub(crate) spills: bool,
}

/// Asks the ingesters of the world of the moment.
#[derive(Debug, Default)]
struct Tails {
    surroundings: Mutex<Option<Surroundings>>,
    peers: Mutex<Option<Arc<Peers>>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Reader {
    engine: Engine,
    catalog: Arc<LossyCatalog>,
    store: Arc<LossyStore>,
    tails: Arc<Tails>,
    /// One for each node; expensive as well.
    workshops: [Workshop; MOST_NODES],
    /// Queries that met a wider column than they were planned with.
    planned_again: AtomicU64,
}

impl Reader {
    pub(crate) fn new(spill: &Path) -> Self {
        let (catalog, store) = (Arc::<LossyCatalog>::default(), Arc::<LossyStore>::default());
        let tails = Arc::<Tails>::default();
        let config = QueryConfig {
            task_threads: 1,
            ..QueryConfig::default()
        };
        let rewriter = Rewriter::new(RewriterOptions {
            store: Arc::clone(&store) as Arc<dyn ObjectStore>,
            threads: 1,
            memory_bytes: MEMORY_BYTES,
            spill_dir: spill.join("rewrite"),
            target_bytes: MEMORY_BYTES,
            max_row_group_rows: 1000,
            properties: flightcluster_ingest::file_properties,
        });
        let options = EngineOptions {
            config,
            catalog: Arc::clone(&catalog) as Arc<dyn Catalog>,
            store: Arc::clone(&store) as Arc<dyn ObjectStore>,
            recent: Arc::clone(&tails) as Arc<dyn RecentRows>,
            writer: Some(Arc::clone(&tails) as Arc<dyn TableWriter>),
            rewriter: rewriter.unwrap(),
            memory_bytes: MEMORY_BYTES,
            spill_dir: spill.to_owned(),
            spill_bytes: MEMORY_BYTES,
            commit_within: DAY,
            delete_lease: Duration::from_secs(60),
        };
        let engine = Engine::with_patience(options, PATIENCE).unwrap();
        Self {
            engine,
            catalog,
            store,
            tails,
            planned_again: AtomicU64::new(0),
            workshops: from_fn(|node| Workshop::new(&spill.join(node.to_string()))),
        }
    }

    /// How many queries were planned again since the last call.
    pub(crate) fn planned_again(&self) -> u64 {
        self.planned_again.swap(0, Ordering::Relaxed)
    }

    /// What the processes of a node rewrite files with.
    pub(crate) fn workshop(&self, node: usize) -> &Workshop {
        &self.workshops[node]
    }

    /// From now on everything is read from there.
    pub(crate) fn enter(&self, surroundings: Surroundings) {
        self.catalog.set(surroundings.catalog.clone());
        self.store.set(surroundings.store.clone());
        *self.tails.surroundings.lock() = Some(surroundings);
    }

    /// From now on the catalog is another process.
    pub(crate) fn reach(&self, catalog: &Arc<dyn Catalog>) {
        self.catalog.reach(catalog);
        if let Some(surroundings) = self.tails.surroundings.lock().as_mut() {
            surroundings.catalog.inner = Arc::clone(catalog);
        }
    }

    /// All rows of a table, or why there is no answer.
    pub(crate) async fn rows(&self, table: &str) -> Result<Answer, String> {
        let sql = format!("SELECT * FROM {table}");
        Ok(answer(&self.query(sql, None).await?))
    }

    /// All rows of a table but the fresh ones of ingesters that can't be reached, and the names of those.
    pub(crate) async fn rows_that_are_there(
        &self,
        table: &TableName,
    ) -> Result<(Answer, Vec<String>), String> {
        let sql = format!("SELECT * FROM {}", table.table);
        let (batches, missing) = self.query_as(sql, None, true).await?;
        let of_it = |missing: &Missing| missing.tables.contains(table);
        let missing = missing.into_iter().filter(of_it);
        let mut missing: Vec<String> = missing.map(|missing| missing.ingester).collect();
        if self.broken() == Some(Broken::MarkIncomplete) {
            missing.pop();
        }
        Ok((answer(&batches), missing))
    }

    fn broken(&self) -> Option<Broken> {
        let surroundings = self.tails.surroundings.lock();
        surroundings.as_ref().and_then(|world| world.broken)
    }

    /// The same in a state of the past.
    pub(crate) async fn rows_at(&self, table: &str, at: SnapshotId) -> Result<Answer, String> {
        let sql = format!("SELECT * FROM {table}");
        let at = flightcluster_query::AsOf::Asked(AsOf::Snapshot(at));
        Ok(answer(&self.query(sql, Some(at)).await?))
    }

    /// How many rows a table has.
    pub(crate) async fn count(&self, table: &str) -> Result<u64, String> {
        let batches = self
            .query(format!("SELECT count(*) AS n FROM {table}"), None)
            .await?;
        Ok(integers(&batches[0], "n").value(0) as u64)
    }

    /// Key and value of all rows of a table that pass a condition.
    pub(crate) async fn values(&self, table: &str, pass: &str) -> Result<Vec<(i64, i64)>, String> {
        let sql = format!("SELECT id, value FROM {table} WHERE {pass}");
        let batches = self.query(sql, None).await?;
        let pairs = batches.iter().flat_map(|batch| {
            let (keys, values) = (integers(batch, "id"), integers(batch, "value"));
            keys.values()
                .to_vec()
                .into_iter()
                .zip(values.values().to_vec())
        });
        Ok(pairs.collect())
    }

    /// Deletes the rows of a table that pass a condition; returns how many.
    pub(crate) async fn delete(&self, table: &str, pass: &str) -> Result<u64, String> {
        let sql = format!("DELETE FROM {table} WHERE {pass}");
        let plan = self.plan(request(sql)).await?;
        let deleted = self.engine.execute_update(plan, ExecuteOptions::default());
        deleted.await.map_err(|error| format!("{error:?}"))
    }

    async fn query(
        &self,
        sql: String,
        as_of: Option<flightcluster_query::AsOf>,
    ) -> Result<Vec<RecordBatch>, String> {
        let (batches, _) = self.query_as(sql, as_of, false).await?;
        Ok(batches)
    }

    async fn query_as(
        &self,
        sql: String,
        as_of: Option<flightcluster_query::AsOf>,
        partial: bool,
    ) -> Result<(Vec<RecordBatch>, Vec<Missing>), String> {
        let mut again = PLANNED_AGAIN;
        loop {
            let plan = self.plan(QueryRequest {
                read_only: true,
                as_of,
                partial,
                ..request(sql.clone())
            });
            let plan = plan.await?;
            match self.run(plan, partial).await {
                // As a client does that is told so.
                Err(Error::ColumnWidened { .. }) if again > 0 => {
                    again -= 1;
                    self.planned_again.fetch_add(1, Ordering::Relaxed);
                }
                rows => return rows.map_err(|error| format!("{error:?}")),
            }
        }
    }

    async fn run(
        &self,
        plan: Plan,
        partial: bool,
    ) -> Result<(Vec<RecordBatch>, Vec<Missing>), Error> {
        let options = ExecuteOptions::default();
        let (rows, missing) = match partial {
            true => self.engine.execute_partial(plan, options).await?,
            false => (self.engine.execute(plan, options), vec![]),
        };
        Ok((rows.try_collect().await?, missing))
    }

    async fn plan(&self, request: QueryRequest) -> Result<Plan, String> {
        let plan = self.engine.plan(request).await;
        plan.map_err(|error| format!("{error:?}"))
    }
}

fn request(sql: String) -> QueryRequest {
    QueryRequest {
        database: DATABASE.to_owned(),
        sql,
        parameters: None,
        named: false,
        access: Access::everything(),
        read_only: false,
        as_of: None,
        partial: false,
    }
}

fn answer(batches: &[RecordBatch]) -> Answer {
    // Without a row nothing depends on the columns.
    let has = |batch: &RecordBatch| batch.column_by_name("extra").is_some();
    let type_of =
        |batch: &RecordBatch, name| batch.column_by_name(name).unwrap().data_type().clone();
    Answer {
        has_extra: batches.iter().all(has),
        types: { batches.iter() }
            .find(|batch| batch.num_rows() > 0)
            .map(|batch| ["value", "measure", "amount", "nest"].map(|name| type_of(batch, name))),
        rows: batches.iter().flat_map(rows_of).collect(),
    }
}

/// A column of whole numbers, of whatever type.
fn integers(batch: &RecordBatch, name: &str) -> Int64Array {
    let column = cast(batch.column_by_name(name).unwrap(), &DataType::Int64).unwrap();
    column.as_primitive::<Int64Type>().clone()
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let (keys, values) = (integers(batch, "id"), integers(batch, "value"));
    let measures = cast(batch.column_by_name("measure").unwrap(), &DataType::Float64).unwrap();
    let measures: &Float64Array = measures.as_primitive::<Float64Type>();
    let amounts = DataType::Decimal128(38, AMOUNT_SCALE);
    let amounts = cast(batch.column_by_name("amount").unwrap(), &amounts).unwrap();
    let amounts = amounts.as_primitive::<Decimal128Type>();
    let nested = numbers_in_lists(batch);
    let extra = { batch.column_by_name("extra") }.map(|_| integers(batch, "extra"));
    let integer = |of: &Int64Array, at| of.is_valid(at).then(|| of.value(at));
    let row = |at: usize| Row {
        key: keys.value(at),
        value: integer(&values, at),
        measure: { measures.is_valid(at) }.then(|| measures.value(at).to_bits()),
        amount: { amounts.is_valid(at) }.then(|| amounts.value(at)),
        nested: nested[at],
        extra: extra.as_ref().and_then(|extra| integer(extra, at)),
    };
    (0..batch.num_rows()).map(row).collect()
}

/// The numbers in the lists of a batch, which have one or are null; their types may be any of those that grow.
fn numbers_in_lists(batch: &RecordBatch) -> Vec<Option<i64>> {
    let lists = cast(
        batch.column_by_name("nest").unwrap(),
        &nest_of(DataType::Int64),
    )
    .unwrap();
    let lists = lists.as_list::<i32>();
    let numbers = lists.values().as_struct().column(0);
    let numbers = numbers.as_primitive::<Int64Type>();
    let number = |at: usize| {
        let first = lists.value_offsets()[at] as usize;
        assert!(
            lists.is_null(at) || lists.value_length(at) == 1,
            "{lists:?}"
        );
        (lists.is_valid(at) && numbers.is_valid(first)).then(|| numbers.value(first))
    };
    (0..lists.len()).map(number).collect()
}

/// What [`Broken::LosesNested`] makes of fresh rows: what is in lists is cast to a type it does not fit, and back.
fn without_wide_items(batch: RecordBatch) -> RecordBatch {
    let mut columns = batch.columns().to_vec();
    if let Some((at, field)) = batch.schema().column_with_name("nest")
        && *field.data_type() == nest_of(DataType::Int64)
    {
        let narrow = cast(&columns[at], &nest_of(DataType::Int32)).unwrap();
        columns[at] = cast(&narrow, field.data_type()).unwrap();
    }
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

/// What [`Broken::CastsBack`] makes of fresh rows.
fn cast_back(batch: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let column = |field: &arrow_schema::FieldRef| match batch.column_by_name(field.name()) {
        // Nothing can be cast to the type of no values.
        Some(column) if *field.data_type() != DataType::Null => {
            cast(column, field.data_type()).unwrap()
        }
        _ => new_null_array(field.data_type(), batch.num_rows()),
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).unwrap()
}

#[async_trait]
impl RecentRows for Tails {
    async fn recent_rows(
        &self,
        ingester: &Ingester,
        table: &Table,
        schema: SchemaRef,
        after: SequenceNumber,
        projection: Option<&[usize]>,
        budget: &Budget,
    ) -> Result<Vec<RecordBatch>, RecentRowsError> {
        let unreachable = || RecentRowsError::Unreachable {
            ingester: ingester.name.clone(),
            url: ingester.url.clone(),
            source: "not there".into(),
        };
        let surroundings = self.surroundings.lock().clone().ok_or_else(unreachable)?;
        let broken = surroundings.broken;
        let of_this = |(_, ingest): &&(_, Arc<Ingest>)| ingest.ingester().id == ingester.id;
        // A name that still points to the process that was replaced.
        let stale = surroundings.life.chance(6) == 0;
        let ask = async {
            // Looked up when the question arrives, not when it is sent.
            let found = {
                let running = surroundings.running.lock();
                let mut all = running.iter().filter(of_this);
                if stale { all.next() } else { all.next_back() }.cloned()
            };
            let (life, ingest) = found.ok_or_else(unreachable)?;
            if surroundings.spills {
                ingest.spill_all();
            }
            let mut asked = ingester.clone();
            if broken == Some(Broken::NoEpochCheck) {
                asked.epoch = ingest.ingester().epoch;
            }
            let peers = Arc::clone(
                self.peers
                    .lock()
                    .get_or_insert_with(|| Arc::new(Peers::new(None))),
            );
            let local = Arc::clone(&ingest);
            let fresh = FreshRows {
                local: Some(ingest),
                peers,
            };
            let of_the_life_asked = local.ingester().epoch == asked.epoch;
            let cast_back = || -> Option<Vec<RecordBatch>> {
                let rows = local.recent(table.id, after).ok()?.read_all().ok()?;
                let schema = match projection {
                    Some(columns) => Arc::new(schema.project(columns).ok()?),
                    None => Arc::clone(&schema),
                };
                Some(
                    rows.iter()
                        .map(|(_, batch)| cast_back(batch, &schema))
                        .collect(),
                )
            };
            let wanted = Arc::clone(&schema);
            let answer = fresh.recent_rows(&asked, table, wanted, after, projection, budget);
            let answer = answer.await;
            if life.is_dead() {
                return Err(unreachable());
            }
            match answer {
                Err(RecentRowsError::TooOld { .. }) if broken == Some(Broken::TooOldIsEmpty) => {
                    Ok(vec![])
                }
                Err(RecentRowsError::TooOld { .. })
                    if broken == Some(Broken::CastsBack) && of_the_life_asked =>
                {
                    cast_back().ok_or_else(unreachable)
                }
                Ok(rows) if broken == Some(Broken::LosesNested) => {
                    Ok(rows.into_iter().map(without_wide_items).collect())
                }
                answer => answer,
            }
        };
        surroundings.life.pass(Port::Recent, unreachable, ask).await
    }
}

/// A deletion asks all ingesters for their rows; nobody inserts by SQL.
#[async_trait]
impl TableWriter for Tails {
    async fn append(
        &self,
        _: &TableName,
        _: Option<StatementKey>,
        _: BatchStream,
    ) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
        Err("nobody inserts".into())
    }

    async fn flush(&self, table: TableId) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let surroundings = self
            .surroundings
            .lock()
            .clone()
            .ok_or("there is no world")?;
        let peers = OtherIngesters {
            running: Arc::clone(&surroundings.running),
            life: Arc::clone(&surroundings.life),
            broken: surroundings.broken,
        };
        let ingesters = Ingesters {
            catalog: Arc::new(LossyCatalog::new(surroundings.catalog)),
            local: None,
            peers: Arc::new(peers),
        };
        Ok(ingesters.flush_table(table).await?)
    }
}
