//! `DELETE` and `TRUNCATE`: files with such rows are written again without them.
//!
//! # Flow
//! all ingesters put their rows of the table into files → the table is leased, so that compaction leaves
//! it alone → snapshot → for each file: count the rows the condition is true for, and write it again when
//! there are some and others → one commit puts the new files in the place of the old ones. When one of
//! the old ones was replaced meanwhile all the same, begin again with a new snapshot.
//!
//! # Guarantees
//! - Every row that was acknowledged before the statement began is judged. Of those that come while it
//!   runs, the ones that are in files of the snapshot are judged, the others stay.
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
use crate::provider::StoredTable;
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
        if table.keyed().is_some() {
            // Judged file by file, an older row of a key would come back.
            let cure = "write newer rows of its keys, or create the table anew";
            return Err(refused(" from a table with a primary key", cure));
        }
        Ok(Self {
            name,
            table: table.id(),
            schema: Arc::clone(&scan.projected_schema),
            version: table.version(),
            time: table.time_column().cloned(),
            relation: scan.table_name,
            condition,
            state: rows.state,
            now_nanos: rows.view.now_nanos(),
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
    let mut lease = TableLease::take(Arc::clone(&inner.catalog), deletion.table, &stop).await?;
    let mut number = 1;
    let result = loop {
        let attempt = Attempt::new(&inner, &deletion, &stop);
        match attempt.run(&mut lease).await {
            Err(Error::Catalog { source, .. })
                if number < ATTEMPTS && matches!(*source, CatalogError::FilesChanged { .. }) =>
            {
                info!(table = %deletion.name, number, "files were replaced, deleting again");
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
