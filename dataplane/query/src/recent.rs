//! What one query sees: the tables of a catalog snapshot and, on top, the fresh rows of the
//! ingesters.
//!
//! # Flow
//! A [`View`] is made from the snapshot taken while planning. When the query runs, the fresh rows
//! above the watermarks of that snapshot are fetched once, from the ingesters that may have any, for all
//! its tables at once, reduced to the columns the plan needs. If an ingester no longer holds them, or does not answer, a new
//! snapshot of the same tables is taken and the rows are asked for again, for a short while.
//!
//! The snapshot of planning does not list the files of tables that have very many. When the plan is
//! there, its filters say which times are wanted; a new snapshot then lists the files of those.
//!
//! # Guarantees
//! - Files and fresh rows always belong to one snapshot: a row is seen once, in a file or fresh.
//! - The schema of a table stays what it was when the query was planned, also if a later snapshot
//!   has more columns. When a column it reads has another type there, the query fails and is to be
//!   planned again: values may be there that the type of before can't hold.
//! - All fresh rows or an error; of an ingester that can't be reached none, if the caller asked for that
//!   and is told ([`crate::partial`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_schema::{ArrowError, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::logical_expr::{Expr, LogicalPlan, SortExpr};
use flightcluster_catalog::{
    Catalog, File, Ingester, SchemaVersion, SequenceNumber, Snapshot, SnapshotId, SnapshotRequest,
    Table, TableId, TableName, TableSnapshot,
};
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::RwLock;
use tracing::warn;

use crate::Error;
use crate::attempts::{Attempt, Patience};
use crate::partial::{self, Lost, Missing};
use crate::past::Past;
use crate::ports::{Budget, RecentRows, Silence};
use crate::provider::StoredTable;
use crate::schema::check_types;
use crate::sort::Sorter;
use crate::times::TimeRange;
use crate::width;

/// The state of the tables for one query.
#[derive(Debug)]
pub(crate) struct View {
    state: RwLock<State>,
    /// When the query was planned, nanoseconds since the Unix epoch: what is expired then, it does not
    /// see. In the past, the moment that was asked for.
    now_nanos: i64,
    /// Set for a state of the past: it has no fresh rows.
    past: Option<Past>,
}

#[derive(Debug)]
struct State {
    snapshot: Arc<Snapshot>,
    fresh: BTreeMap<TableId, FreshRows>,
    /// What the fresh rows take of the memory of all queries; given back with them.
    _budgets: Vec<Budget>,
}

/// What came of an attempt.
enum Fetched {
    /// Fresh rows, the memory they take, and what the answer will lack.
    Rows(BTreeMap<TableId, FreshRows>, Vec<Budget>, Vec<Lost>),
    /// Another attempt is due because of this; what came is fetched again, and was let go of.
    Again(Box<Lost>),
}

/// How a view was filled.
#[derive(Debug, Default)]
pub(crate) struct Filled {
    /// How many new snapshots it took.
    pub(crate) replans: u64,
    /// What it lacks.
    pub(crate) missing: Vec<Missing>,
}

/// The rows of a table that an ingester gave, and the memory they take.
struct Given {
    table: TableId,
    ingester: String,
    batches: Vec<RecordBatch>,
    budget: Budget,
}

/// The fresh rows of one table.
#[derive(Debug, Clone)]
pub(crate) struct FreshRows {
    /// Which columns of the table they have, ascending.
    pub(crate) columns: Vec<usize>,
    /// Their schema.
    pub(crate) schema: SchemaRef,
    /// One list per ingester that has any.
    pub(crate) batches: Vec<Vec<RecordBatch>>,
    /// Which files are best read first.
    pub(crate) first_read: Option<FirstRead>,
}

/// Which files a plan is best served by first: it wants only the first rows by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstRead {
    Oldest,
    Newest,
}

impl FirstRead {
    /// Files of unknown times come first: the others can be skipped because of them, not they.
    pub(crate) fn sort(self, files: &mut [&File]) {
        match self {
            Self::Oldest => files.sort_by_key(|file| file.file.time_range_nanos),
            Self::Newest => files.sort_by_key(|file| {
                let times = file.file.time_range_nanos;
                times.map(|(low, high)| Reverse((high, low)))
            }),
        }
    }
}

/// What a plan reads of one table.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    name: TableName,
    version: SchemaVersion,
    schema: SchemaRef,
    columns: BTreeSet<usize>,
    /// Of all scans of the table together.
    times: TimeRange,
    first_read: Option<FirstRead>,
    /// Whether later rows take the place of earlier ones.
    has_key: bool,
}

/// What a plan reads of one state, by table.
pub(crate) type Needs = BTreeMap<TableId, Need>;

impl View {
    pub(crate) fn new(snapshot: Snapshot, now_nanos: i64) -> Self {
        let state = State {
            snapshot: Arc::new(snapshot),
            fresh: BTreeMap::new(),
            _budgets: Vec::new(),
        };
        Self {
            state: RwLock::new(state),
            now_nanos,
            past: None,
        }
    }

    /// A state of the past.
    pub(crate) fn of_past(snapshot: Snapshot, past: Past) -> Self {
        Self {
            past: Some(past),
            ..Self::new(snapshot, past.nanos())
        }
    }

    /// Some files of a table and nothing else.
    pub(crate) fn of_files(table: &Table, files: &[File], now_nanos: i64) -> Self {
        let last = files.iter().map(|file| file.begin_snapshot).max();
        let held = TableSnapshot {
            table: table.clone(),
            files: files.to_vec(),
            files_left_out: false,
            watermarks: Vec::new(),
            closed: Vec::new(),
        };
        let snapshot = Snapshot {
            id: last.unwrap_or_default(),
            tables: vec![held],
            ingesters: Vec::new(),
        };
        let nothing = FreshRows {
            columns: Vec::new(),
            schema: SchemaRef::new(Schema::empty()),
            batches: Vec::new(),
            first_read: None,
        };
        let state = State {
            snapshot: Arc::new(snapshot),
            fresh: BTreeMap::from([(table.id, nothing)]),
            _budgets: Vec::new(),
        };
        Self {
            state: RwLock::new(state),
            now_nanos,
            past: None,
        }
    }

    /// Which past it is; `None` for the present.
    pub(crate) fn past(&self) -> Option<Past> {
        self.past
    }

    pub(crate) fn now_nanos(&self) -> i64 {
        self.now_nanos
    }

    pub(crate) fn snapshot_id(&self) -> SnapshotId {
        self.state.read().snapshot.id
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.state.read().snapshot)
    }

    /// The files of a table and its fresh rows, of one snapshot; `None` before the fresh rows of
    /// this table were fetched.
    pub(crate) fn rows(&self, table: TableId) -> Option<(TableSnapshot, FreshRows)> {
        let state = self.state.read();
        let files = state
            .snapshot
            .tables
            .iter()
            .find(|held| held.table.id == table)?
            .clone();
        Some((files, state.fresh.get(&table)?.clone()))
    }

    /// About how many bytes in memory a row takes of what is needed, where it takes most; but for tables
    /// that take no more than `batch_bytes` as a whole, unless a join that repeats their rows would make
    /// a batch of far more.
    pub(crate) fn row_bytes(&self, needs: &Needs, batch_bytes: u64) -> u64 {
        let state = self.state.read();
        let tables = state.snapshot.tables.iter().filter_map(|held| {
            let need = needs.get(&held.table.id)?;
            let fresh = state.fresh.get(&held.table.id)?.batches.iter();
            let fresh: Vec<&RecordBatch> = fresh.flatten().collect();
            let columns: Vec<usize> = need.columns.iter().copied().collect();
            let row = width::of_row(&need.schema, &columns, held.files.iter(), &fresh);
            let in_files: u64 = held.files.iter().map(|file| file.file.rows).sum();
            let in_memory: usize = fresh.iter().map(|batch| batch.num_rows()).sum();
            let all = row.saturating_mul(in_files.saturating_add(in_memory as u64));
            (all > batch_bytes || width::is_wide(row, batch_bytes)).then_some(row)
        });
        tables.max().unwrap_or(0)
    }
}

/// The views of one statement. Two of them are never of the same past.
#[derive(Debug, Clone)]
pub(crate) struct Views(Vec<Arc<View>>);

impl Views {
    /// Only that of the statement itself.
    pub(crate) fn of(first: Arc<View>) -> Self {
        Self(vec![first])
    }

    /// Adds that of some tables.
    pub(crate) fn add(&mut self, view: Arc<View>) {
        self.0.push(view);
    }

    /// That of the statement itself.
    pub(crate) fn first(&self) -> &View {
        &self.0[0]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &View> {
        self.0.iter().map(AsRef::as_ref)
    }
}

/// Which columns of which tables a plan reads, of the present and of each past it looks at.
pub(crate) fn needs(plan: &LogicalPlan) -> Result<BTreeMap<Option<Past>, Needs>, DataFusionError> {
    let mut all: BTreeMap<Option<Past>, Needs> = BTreeMap::new();
    let mut first = Vec::new();
    plan.apply_with_subqueries(|node| {
        let scan = match node {
            LogicalPlan::TableScan(scan) => scan,
            LogicalPlan::Sort(sort) if sort.fetch.is_some() => {
                first.extend(sort.expr.first().and_then(first_rows));
                return Ok(TreeNodeRecursion::Continue);
            }
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        let provider = source_as_provider(&scan.source)?;
        if let Some(table) = provider.downcast_ref::<StoredTable>() {
            let times = table.times(&scan.filters);
            let needs = all.entry(table.past()).or_default();
            let need = needs.entry(table.id()).or_insert_with(|| Need {
                name: table.name().clone(),
                version: table.version(),
                schema: table.storage_schema(),
                columns: BTreeSet::new(),
                times,
                first_read: None,
                has_key: table.keyed().is_some(),
            });
            need.times = need.times.or(times);
            // Sorts come before what they sort. Should it be the sort of another table, the files are
            // read in another order, no more.
            let wanted = table.time_column().and_then(|time| {
                let sort = first.iter().find(|(name, _)| time.is(name));
                sort.map(|(_, order)| *order)
            });
            need.first_read = need.first_read.or(wanted);
            if let Some(keyed) = table.keyed() {
                // Also for a count: which rows are the newest is known by them.
                need.columns.extend(&keyed.columns);
                need.columns.insert(keyed.order);
            }
            match &scan.projection {
                Some(columns) => need.columns.extend(columns),
                None => need.columns.extend(0..need.schema.fields().len()),
            }
            // By which rows are left out.
            need.columns.extend(table.expiry().map(|(time, _)| time.at));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(all)
}

/// The column a sort begins with, and which end of it.
fn first_rows(sort: &SortExpr) -> Option<(String, FirstRead)> {
    let Expr::Column(column) = &sort.expr else {
        return None;
    };
    let order = match sort.asc {
        true => FirstRead::Oldest,
        false => FirstRead::Newest,
    };
    Some((column.name.clone(), order))
}

/// Fetches fresh rows for a query.
#[derive(Debug, Clone)]
pub(crate) struct Fetch {
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) recent: Arc<dyn RecentRows>,
    pub(crate) patience: Patience,
    pub(crate) sorter: Sorter,
    /// The memory of all queries.
    pub(crate) memory: Arc<dyn MemoryPool>,
}

impl Fetch {
    /// Fills `view` with the fresh rows of `needs`. A view of the past has no ingesters to ask. With `partial`
    /// it may lack those of ingesters that can't be reached, and says so.
    pub(crate) async fn fill(
        &self,
        view: &View,
        needs: &Needs,
        partial: bool,
    ) -> Result<Filled, Error> {
        let deadline = Instant::now() + self.patience.total;
        let mut wait = self.patience.first_wait;
        let mut replans = 0;
        if lacks_files(&view.snapshot(), needs) {
            let listed = self.new_snapshot(view.past, needs).await?;
            view.state.write().snapshot = Arc::new(listed);
        }
        loop {
            let snapshot = view.snapshot();
            let attempt = Attempt {
                partial,
                until: deadline.checked_sub(wait),
                replanned: replans > 0,
            };
            let first = match self.fetch(&snapshot, needs, attempt).await? {
                Fetched::Rows(fresh, budgets, lost) => {
                    let missing =
                        partial::without(lost).map_err(|lost| lost.into_error(partial))?;
                    *view.state.write() = State {
                        snapshot,
                        fresh,
                        _budgets: budgets,
                    };
                    return Ok(Filled { replans, missing });
                }
                Fetched::Again(first) => first,
            };
            warn!(ingester = first.ingester.name, replans, error = %first.problem, "taking a new snapshot");
            tokio::time::sleep(wait).await;
            wait *= 2;
            replans += 1;
            view.state.write().snapshot = Arc::new(self.new_snapshot(view.past, needs).await?);
        }
    }

    /// All fresh rows, or those of the ingesters that give them if the attempt is the last and asked for
    /// that. Any other attempt ends at the first loss, so that the rows of the others are not sent for nothing.
    async fn fetch(
        &self,
        snapshot: &Snapshot,
        needs: &Needs,
        attempt: Attempt,
    ) -> Result<Fetched, Error> {
        let mut calls = Vec::new();
        let mut fresh = BTreeMap::new();
        for (id, need) in needs {
            let held = find(snapshot, *id, &need.name)?;
            let columns = columns_to_fetch(need);
            let schema = need
                .schema
                .project(&columns)
                .map(SchemaRef::new)
                .map_err(|source| Error::WrongSchema { source })?;
            check_types(&held.table, need.version, &schema)?;
            // The rows of a key can't be done without.
            let silence = match attempt.partial && !need.has_key {
                true => self.patience.partial_silence,
                false => self.patience.silence,
            };
            let closed = |ingester: &&Ingester| held.closed.contains(&ingester.id);
            for ingester in snapshot.ingesters.iter().filter(|each| !closed(each)) {
                let after = held.watermark(ingester.id);
                let budget = Budget::of(&self.memory, Silence::up_to(silence));
                let place = calls.len();
                let call = self.ask(ingester, &held.table, need, after, columns.clone(), budget);
                calls.push(call.map(move |answer| (place, answer)));
            }
            fresh.insert(
                *id,
                FreshRows {
                    columns,
                    schema,
                    batches: Vec::new(),
                    first_read: need.first_read,
                },
            );
        }
        let mut calls: FuturesUnordered<_> = calls.into_iter().collect();
        let (mut answers, mut lost) = (Vec::new(), Vec::new());
        while let Some((place, answer)) = calls.next().await {
            match answer {
                Ok(given) => answers.push((place, given)),
                Err(problem) => {
                    let problem = problem.retryable(self.sorter)?;
                    if !attempt.is_last_for(&problem) {
                        return Ok(Fetched::Again(Box::new(problem)));
                    }
                    if !attempt.partial {
                        return Err(problem.into_error(false));
                    }
                    lost.push(problem);
                }
            }
        }
        // In the order of the ingesters, whoever was first.
        answers.sort_by_key(|(place, _)| *place);
        let mut budgets = Vec::new();
        for (_, given) in answers {
            let Given {
                table,
                ingester,
                batches,
                budget,
            } = given;
            budgets.push(budget);
            let Some(rows) = fresh.get_mut(&table) else {
                continue;
            };
            let batches = batches
                .into_iter()
                .filter(|batch| batch.num_rows() > 0)
                .map(|batch| in_schema(batch, &rows.schema))
                .collect::<Result<Vec<_>, ArrowError>>()
                .map_err(|source| Error::IngesterAnswer {
                    ingester,
                    source: source.into(),
                })?;
            if !batches.is_empty() {
                rows.batches.push(batches);
            }
        }
        Ok(Fetched::Rows(fresh, budgets, lost))
    }

    async fn ask(
        &self,
        ingester: &Ingester,
        table: &Table,
        need: &Need,
        after: SequenceNumber,
        columns: Vec<usize>,
        budget: Budget,
    ) -> Result<Given, Lost> {
        let all = columns.len() == need.schema.fields().len();
        let projection = (!all).then_some(columns.as_slice());
        let batches = self
            .recent
            .recent_rows(
                ingester,
                table,
                Arc::clone(&need.schema),
                after,
                projection,
                &budget,
            )
            .await
            .map_err(|problem| Lost {
                table: need.name.clone(),
                has_key: need.has_key,
                ingester: ingester.clone(),
                problem,
            })?;
        Ok(Given {
            table: table.id,
            ingester: ingester.name.clone(),
            batches,
            budget,
        })
    }

    async fn new_snapshot(&self, past: Option<Past>, needs: &Needs) -> Result<Snapshot, Error> {
        let tables = needs.values();
        let tables = tables.map(|need| (need.name.clone(), need.times.choice()));
        let request = SnapshotRequest {
            tables: tables.collect(),
        };
        read(self.catalog.as_ref(), past, request).await
    }
}

/// Reads a state: the present one, or that of the past.
pub(crate) async fn read(
    catalog: &dyn Catalog,
    past: Option<Past>,
    request: SnapshotRequest,
) -> Result<Snapshot, Error> {
    let read = match past {
        None => catalog.read_snapshot(request).await,
        Some(past) => catalog.read_past(past.snapshot, request).await,
    };
    read.map_err(|source| Error::from_catalog("taking a snapshot", source))
}

/// Whether a needed table has so many files that planning went on without them.
fn lacks_files(snapshot: &Snapshot, needs: &Needs) -> bool {
    let mut held = snapshot.tables.iter();
    held.any(|held| held.files_left_out && needs.contains_key(&held.table.id))
}

/// The table with this id: one of the same name that was created later is another table.
fn find<'a>(
    snapshot: &'a Snapshot,
    id: TableId,
    name: &TableName,
) -> Result<&'a TableSnapshot, Error> {
    let held = snapshot.tables.iter().find(|held| held.table.name == *name);
    match held {
        Some(held) if held.table.id == id => Ok(held),
        Some(_) => Err(Error::TableReplaced {
            table: name.to_string(),
        }),
        None => Err(Error::TableNotFound {
            table: name.to_string(),
            similar: None,
        }),
    }
}

/// The needed columns, or one cheap column when only the number of rows counts: a batch without
/// columns does not survive every transport.
fn columns_to_fetch(need: &Need) -> Vec<usize> {
    if !need.columns.is_empty() {
        return need.columns.iter().copied().collect();
    }
    let fixed = need
        .schema
        .fields()
        .iter()
        .position(|field| field.data_type().is_primitive());
    vec![fixed.unwrap_or(0)]
}

/// The same rows under the table's own field names, nullability and metadata.
fn in_schema(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref() == schema {
        return Ok(batch);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)
}
