//! Which rows of a snapshot a deletion takes away.
//!
//! # Tables with a primary key
//! Of those the newest row of each key is judged, as a query sees it, and with it go all older ones of its
//! key: a file judged by itself would lose the newer row and show the older one again. Only keys whose
//! newest row has an order number from before the statement are judged; a write that began later stays,
//! and so does nothing that is older than what is taken away: the ingesters have put every row with such
//! a number into files before the snapshot was taken.
//!
//! When the condition looks at the key alone it is the same for all rows of a key, and files are judged by
//! themselves after all, with the order number as a part of the condition; no keys are kept in memory then.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_schema::SchemaRef;
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::functions_aggregate::count::count_all;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execute_stream;
use flightcluster_catalog::{File, Table, TableSnapshot};
use flightcluster_keys::ORDER_COLUMN;
use futures::TryStreamExt as _;

use super::Deletion;
use super::keys::{HasKey, Keys};
use crate::Error;
use crate::engine::Inner;
use crate::provider::{Keyed, StoredTable};
use crate::recent::View;
use crate::schema::decode_schema;
use crate::{session, width};

/// What is known of a file before it is written again.
pub(super) struct Counted {
    /// Rows that go.
    pub(super) rows: u64,
    /// Whether some of its rows may be expired, which are not counted.
    pub(super) some_expired: bool,
}

/// Tells which rows of the files of a snapshot go.
pub(super) struct Judge<'a> {
    inner: &'a Inner,
    deletion: &'a Deletion,
    /// Runs the plans.
    state: Arc<SessionState>,
    table: &'a Table,
    /// Of the table as its users see it.
    schema: SchemaRef,
    keyed: Option<Keyed>,
    /// True for the rows that go; `None` when all do.
    condition: Option<Expr>,
    /// The rows with these keys go, not those the condition is true for.
    keys: Option<Arc<Keys>>,
    /// The same as one condition over the columns of a file.
    pub(super) remove: Option<Arc<dyn PhysicalExpr>>,
    /// How many rows the statement deletes, if that is known and not the sum over the files.
    pub(super) deleted: Option<u64>,
}

impl<'a> Judge<'a> {
    pub(super) async fn of(
        inner: &'a Inner,
        deletion: &'a Deletion,
        held: &'a TableSnapshot,
    ) -> Result<Self, Error> {
        let schema = decode_schema(&held.table.schema)?;
        let row_bytes = width::of_row_of(&held.files, &schema);
        let fitted = session::fitted(&deletion.state, row_bytes);
        let mut judge = Self {
            inner,
            deletion,
            state: fitted.map_or_else(|| Arc::clone(&deletion.state), Arc::new),
            table: &held.table,
            keyed: Keyed::of(&held.table, &schema)?,
            schema,
            condition: deletion.condition.clone(),
            keys: None,
            remove: None,
            deleted: None,
        };
        if let (Some(keyed), Some(last)) = (judge.keyed.clone(), deletion.last_order) {
            let relation = Some(deletion.relation.clone());
            let order = Expr::Column(Column::new(relation, ORDER_COLUMN));
            let known = order.lt_eq(lit(last));
            judge.condition = Some(match judge.condition.take() {
                Some(condition) => condition.and(known),
                None => known,
            });
            if deletion.looks_at(&keyed) {
                judge.deleted = Some(judge.count(&held.files).await?);
            } else {
                let keys = Arc::new(judge.find(&keyed, &held.files).await?);
                judge.deleted = Some(keys.len());
                judge.remove = Some(Arc::new(HasKey(Arc::clone(&keys))));
                judge.keys = Some(keys);
                return Ok(judge);
            }
        }
        judge.remove = judge.physical()?;
        Ok(judge)
    }

    /// How many rows of a file go.
    pub(super) async fn matching(&self, file: &File) -> Result<Counted, Error> {
        let one = std::slice::from_ref(file);
        let some_expired = self.provider(one)?.may_be_expired(file);
        let rows = match (&self.keys, &self.keyed, &self.condition) {
            (Some(keys), Some(keyed), _) => self.count_those(keyed, keys, one).await?,
            (_, _, None) if !some_expired => file.file.rows,
            _ => self.count(one).await?,
        };
        Ok(Counted { rows, some_expired })
    }

    /// The keys whose newest rows in these files the condition is true for.
    async fn find(&self, keyed: &Keyed, files: &[File]) -> Result<Keys, Error> {
        let pool = Arc::clone(&self.state.runtime_env().memory_pool);
        let none = Keys::new(&keyed.schema, keyed.columns.clone(), &pool);
        let none = none.map_err(|error| self.sorted(error))?;
        let condition = self.condition.clone().unwrap_or_else(|| lit(true));
        let rows = self.scan(files)?.filter(condition);
        let rows = rows.and_then(|rows| rows.project(self.key_columns(keyed)));
        let add = |keys: &mut Keys, batch: &RecordBatch| keys.insert(batch.columns());
        self.fold(rows, none, add).await
    }

    /// How many rows of these files have one of the keys.
    async fn count_those(
        &self,
        keyed: &Keyed,
        keys: &Arc<Keys>,
        files: &[File],
    ) -> Result<u64, Error> {
        let rows = self.scan(files)?.project(self.key_columns(keyed));
        let keys = Arc::clone(keys);
        let add = move |sum: &mut u64, batch: &RecordBatch| {
            *sum += keys.count(batch.columns())?;
            Ok(())
        };
        self.fold(rows, 0, add).await
    }

    /// For how many rows of these files, as a query sees them, the condition is true.
    async fn count(&self, files: &[File]) -> Result<u64, Error> {
        let condition = self.condition.clone().unwrap_or_else(|| lit(true));
        let rows = self.scan(files)?.filter(condition);
        let count = rows.and_then(|rows| rows.aggregate(Vec::<Expr>::new(), vec![count_all()]));
        let add = |sum: &mut u64, batch: &RecordBatch| {
            let counts = batch.column(0).as_primitive::<Int64Type>().values();
            *sum += counts.iter().map(|count| count.unsigned_abs()).sum::<u64>();
            Ok(())
        };
        self.fold(count, 0, add).await
    }

    fn key_columns(&self, keyed: &Keyed) -> Vec<Expr> {
        let relation = &self.deletion.relation;
        let column = |at: &usize| {
            let name = self.schema.field(*at).name();
            Expr::Column(Column::new(Some(relation.clone()), name))
        };
        keyed.columns.iter().map(column).collect()
    }

    fn provider(&self, files: &[File]) -> Result<StoredTable, Error> {
        let view = View::of_files(self.table, files, self.deletion.now_nanos);
        let table = StoredTable::new(self.table, Arc::clone(&self.schema), Arc::new(view))?;
        Ok(table.with_orders())
    }

    fn scan(&self, files: &[File]) -> Result<LogicalPlanBuilder, Error> {
        let source = provider_as_source(Arc::new(self.provider(files)?));
        let scan = LogicalPlanBuilder::scan(self.deletion.relation.clone(), source, None);
        scan.map_err(|error| self.inner.sorter.sort("planning", error))
    }

    /// Runs a plan on the threads of queries and adds its batches up.
    async fn fold<T: Send + 'static>(
        &self,
        plan: Result<LogicalPlanBuilder, DataFusionError>,
        mut sum: T,
        add: impl Fn(&mut T, &RecordBatch) -> Result<(), DataFusionError> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let sorter = self.inner.sorter;
        let plan = plan.and_then(LogicalPlanBuilder::build);
        let plan = plan.map_err(|error| sorter.sort("planning", error))?;
        let state = Arc::clone(&self.state);
        let work = async move {
            let all = async move {
                let plan = state.create_physical_plan(&plan).await?;
                let mut rows = execute_stream(plan, state.task_ctx())?;
                while let Some(batch) = rows.try_next().await? {
                    add(&mut sum, &batch)?;
                }
                Ok(sum)
            };
            all.await.map_err(|error| sorter.sort("running", error))
        };
        self.inner.compute.run(work).await
    }

    /// The condition over the columns of a file.
    fn physical(&self) -> Result<Option<Arc<dyn PhysicalExpr>>, Error> {
        let Some(condition) = &self.condition else {
            return Ok(None);
        };
        let schema = self.keyed.as_ref().map(|keyed| &keyed.schema);
        let relation = self.deletion.relation.clone();
        let columns = DFSchema::try_from_qualified_schema(relation, schema.unwrap_or(&self.schema));
        let condition = columns
            .and_then(|columns| self.state.create_physical_expr(condition.clone(), &columns));
        condition.map(Some).map_err(|error| self.sorted(error))
    }

    fn sorted(&self, error: DataFusionError) -> Error {
        self.inner.sorter.sort("planning", error)
    }
}
