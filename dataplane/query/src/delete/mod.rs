//! `DELETE` and `TRUNCATE`: files with such rows are written again without them.
//!
//! # Flow
//! of a table with a primary key: read the last order number of a row → all ingesters that may have rows of
//! the table in no file put them into files → the table is leased, so that compaction leaves it alone →
//! snapshot → of a table with a primary key: judge its newest rows ([`judge`]) → for each file: count the
//! rows the condition is true for, and write it again when there are some and others → one commit puts the new files in the place of the old ones. When one of
//! the old ones was replaced meanwhile all the same, or the new ones are too old to be named, begin again with a
//! new snapshot.
//!
//! # Guarantees
//! - Every row that was acknowledged before the statement began is judged. Of those that come while it
//!   runs, the ones that are in files of the snapshot are judged, the others stay. Of a table with a primary
//!   key all that come while it runs stay, and no older row of a key comes back.
//! - A query sees the table before or after the statement, never in between; one that began before goes
//!   on with the old files.
//! - A row for which the condition is false or null stays.
//! - The number of rows is exact. A statement that fails changed nothing, unless the catalog did not
//!   answer the commit.
//!
//! # Cancellation
//! A statement that is cancelled, or whose caller leaves, removes what it had written. Once the commit is
//! on its way it is not taken back.

mod attempt;
mod judge;
mod keys;
mod lease;

use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::common::{DFSchema, TableReference};
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use flightcluster_catalog::{Error as CatalogError, SchemaVersion, TableId, TableName};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, info};

use crate::Error;
use crate::engine::Inner;
use crate::execute::Control;
use crate::plan::Ready;
use crate::provider::{Keyed, StoredTable};
use crate::sort::Sorter;
use crate::times::TimeColumn;
use attempt::Attempt;
use lease::TableLease;

/// Attempts when others replace the same files all the time.
const ATTEMPTS: usize = 10;

/// Which rows of which table go.
#[derive(Debug, Clone)]
pub(crate) struct Deletion {
    name: TableName,
    table: TableId,
    /// The schema the condition was planned with.
    schema: Arc<DFSchema>,
    version: SchemaVersion,
    time: Option<TimeColumn>,
    /// How the condition calls the table.
    relation: TableReference,
    /// All rows go without one.
    condition: Option<Expr>,
    /// The table has a primary key.
    keyed: bool,
    /// The highest order number of the rows that are judged, of a table with a primary key.
    last_order: Option<i64>,
    state: Arc<SessionState>,
    /// When the statement was planned, nanoseconds since the Unix epoch.
    now_nanos: i64,
}

impl Deletion {
    /// Takes the condition out of the plan that reads the rows.
    pub(crate) fn of(
        name: TableName,
        rows: Ready,
        label: &str,
        sorter: Sorter,
    ) -> Result<Self, Error> {
        let refused = |what: &str, cure| Error::Unsupported {
            statement: format!("{label}{what}"),
            cure,
        };
        let (condition, scan) = match rows.plan {
            LogicalPlan::Filter(filter) => {
                (Some(filter.predicate), Arc::unwrap_or_clone(filter.input))
            }
            plan => (None, plan),
        };
        let LogicalPlan::TableScan(scan) = scan else {
            return Err(refused("", "write DELETE FROM table WHERE condition"));
        };
        if condition.as_ref().is_some_and(has_subquery) {
            let cure = "query the values first and list them in the condition";
            return Err(refused(" with a subquery", cure));
        }
        if condition.as_ref().is_some_and(Expr::is_volatile) {
            let cure = "which rows go has to be the same each time it is asked";
            return Err(refused(" with random() or another volatile function", cure));
        }
        let provider = source_as_provider(&scan.source);
        let provider = provider.map_err(|error| sorter.sort("planning", error))?;
        let Some(table) = provider.downcast_ref::<StoredTable>() else {
            let cure = "only tables of schema public have rows that can be deleted";
            return Err(refused("", cure));
        };
        Ok(Self {
            name,
            table: table.id(),
            schema: Arc::clone(&scan.projected_schema),
            version: table.version(),
            time: table.time_column().cloned(),
            relation: scan.table_name,
            condition,
            keyed: table.keyed().is_some(),
            last_order: None,
            state: rows.state,
            now_nanos: rows.views.first().now_nanos(),
        })
    }

    /// Deletes the rows; returns how many.
    pub(crate) async fn run(mut self, inner: &Arc<Inner>, control: &Control) -> Result<u64, Error> {
        let Some(writer) = &inner.writer else {
            return Err(Error::NoWriter);
        };
        let place = inner.admission.admit().await?;
        control.admitted();
        let simplified = self
            .condition
            .take()
            .map(|condition| self.simplified(condition));
        let simplified = simplified.transpose();
        self.condition = simplified.map_err(|error| inner.sorter.sort("planning", error))?;
        if self.keyed {
            // Before the flush, which then has every row with such a number.
            let last = inner.catalog.last_order().await;
            let doing = "reading the last number of a row";
            self.last_order = Some(last.map_err(|source| Error::from_catalog(doing, source))?);
        }
        let flushed = writer.flush(self.table).await;
        flushed.map_err(|source| Error::Write {
            table: self.name.to_string(),
            source,
        })?;
        let stop = CancellationToken::new();
        // The work is a task of its own: when this call is dropped it still takes back what it wrote.
        let _stopped_with_us = stop.clone().drop_guard();
        let work = work(Arc::clone(inner), self, stop, place).instrument(Span::current());
        let ended = tokio::spawn(work).await;
        inner.compute.outcome(ended)
    }

    /// Whether the condition is the same for all rows of a key.
    fn looks_at(&self, keyed: &Keyed) -> bool {
        let condition = self.condition.as_ref();
        let columns = condition.map(Expr::column_refs).unwrap_or_default();
        columns.into_iter().all(|column| {
            let mut key = keyed.columns.iter();
            key.any(|at| *keyed.schema.field(*at).name() == column.name)
        })
    }

    /// The condition with what is the same for all rows computed once: `now()` is one moment.
    fn simplified(&self, condition: Expr) -> Result<Expr, DataFusionError> {
        let start = self.state.execution_props().query_execution_start_time;
        let context = SimplifyContext::builder()
            .with_schema(Arc::clone(&self.schema))
            .with_config_options(Arc::clone(self.state.config_options()))
            .with_query_execution_start_time(start)
            .build();
        ExprSimplifier::new(context).simplify(condition)
    }
}

/// Attempts until one is not overtaken.
async fn work(
    inner: Arc<Inner>,
    deletion: Deletion,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
) -> Result<u64, Error> {
    let catalog = Arc::clone(&inner.catalog);
    let mut lease = TableLease::take(catalog, deletion.table, inner.delete_lease, &stop).await?;
    let mut number = 1;
    let result = loop {
        let attempt = Attempt::new(&inner, &deletion, &stop);
        match attempt.run(&mut lease).await {
            Err(Error::Catalog { source, .. })
                if number < ATTEMPTS
                    && matches!(
                        *source,
                        CatalogError::FilesChanged { .. } | CatalogError::FileGivenUp { .. }
                    ) =>
            {
                info!(table = %deletion.name, number, error = %source, "came too late, deleting again");
                number += 1;
            }
            result => break result,
        }
    };
    lease.give_back().await;
    result
}

fn has_subquery(expression: &Expr) -> bool {
    let mut found = false;
    // The closure never fails.
    let _ = expression.apply(|part| {
        found |= matches!(
            part,
            Expr::Exists(_)
                | Expr::InSubquery(_)
                | Expr::ScalarSubquery(_)
                | Expr::SetComparison(_)
        );
        Ok(TreeNodeRecursion::Continue)
    });
    found
}
