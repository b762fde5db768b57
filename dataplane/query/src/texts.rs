//! Reads texts as Arrow's views where a plan filters, groups or counts by them, which is faster; nobody
//! outside sees a view.
//!
//! The types of a statement are settled twice: first with the types of its tables, which gives the schema
//! its callers are told, then with views in place of texts, which gives the plan that runs. The last step
//! of a query casts its batches to the schema that was told. Whatever would make the second plan answer
//! anything else, or hold on to more memory, keeps the first.
//!
//! A view points into the buffer it was read from, a whole page of a file. Steps that keep rows would keep
//! such pages, and count one as often as they have batches of it: below a full sort, a join or a window
//! texts stay as they are.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{
    Transformed, TransformedResult as _, TreeNode as _, TreeNodeRecursion,
};
use datafusion::common::{Column, DFSchema, ExprSchema as _};
use datafusion::datasource::{provider_as_source, source_as_provider};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, FetchType, Limit, LogicalPlan, Projection, SkipType, TableScan,
    TableScanBuilder, cast,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{self, CastExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use crate::plan::analyze;
use crate::provider::StoredTable;

/// Functions that answer the type of what they are given.
const TELLING: [&str; 3] = ["arrow_typeof", "arrow_field", "arrow_metadata"];

/// Aggregates that keep copies of texts or none, not the batches they came in.
const COPYING: [&str; 7] = [
    "count",
    "min",
    "max",
    "first_value",
    "last_value",
    "string_agg",
    "approx_distinct",
];

/// Rows a sort may keep with the pages they were read from: one batch or two.
const FEW_ROWS: usize = 10_000;

/// The schema with views in place of texts; `None` when it has no texts.
pub(crate) fn with_views(schema: &Schema) -> Option<SchemaRef> {
    if !schema.fields().iter().any(|field| is_text(field)) {
        return None;
    }
    let fields = schema.fields().iter().map(|field| {
        let view = view_of(field.data_type());
        view.map_or_else(
            || Arc::clone(field),
            |view| Arc::new(Field::clone(field).with_data_type(view)),
        )
    });
    let fields: Vec<_> = fields.collect();
    Some(SchemaRef::new(Schema::new_with_metadata(
        fields,
        schema.metadata().clone(),
    )))
}

/// The large types have none: functions answer wider numbers for them than for views.
fn view_of(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Utf8 => Some(DataType::Utf8View),
        DataType::Binary => Some(DataType::BinaryView),
        _ => None,
    }
}

fn is_text(field: &Field) -> bool {
    view_of(field.data_type()).is_some()
}

/// The same rows in `schema`, which differs in nothing but types.
pub(crate) fn cast_rows(
    rows: Arc<dyn ExecutionPlan>,
    schema: &Schema,
) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
    let found = rows.schema();
    let columns = schema.fields().iter().enumerate().map(|(at, field)| {
        let mut column: Arc<dyn PhysicalExpr> =
            Arc::new(expressions::Column::new(field.name(), at));
        if found.field(at).data_type() != field.data_type() {
            let cast = CastExpr::new_with_target_field(column, Arc::clone(field), None);
            column = Arc::new(cast);
        }
        (column, field.name().clone())
    });
    Ok(Arc::new(ProjectionExec::try_new(columns, rows)?))
}

/// `plan` with views in place of texts, its types open; `None` where views don't pay, or their use could
/// be noticed.
pub(crate) fn open(plan: &LogicalPlan, state: &SessionState) -> Option<LogicalPlan> {
    let options = &state.config_options().execution.parquet;
    let mut shape = Shape::default();
    let fits = options.schema_force_view_types && shape.read(plan, false).is_some();
    if !fits || !shape.works_on_texts || looks_at_types(plan) {
        return None;
    }
    // A failure is none of the statement, which can be planned without views.
    switch(plan.clone()).ok()
}

/// What [`open`] gave with its types settled; `None` when its answer is not that of `told`, the plan
/// without views.
pub(crate) fn settled(
    open: LogicalPlan,
    told: &LogicalPlan,
    state: &SessionState,
) -> Option<LogicalPlan> {
    let settled = analyze(open, state).ok()?;
    let (told, found) = (told.schema().fields(), settled.schema().fields());
    let mut pairs = told.iter().zip(found);
    let same = told.len() == found.len() && pairs.all(|(told, found)| may_stand_for(found, told));
    same.then_some(settled)
}

/// Whether a cast makes the one column of the other.
fn may_stand_for(found: &Field, told: &Field) -> bool {
    let (found_type, told_type) = (found.data_type(), told.data_type());
    let type_fits = found_type == told_type || view_of(told_type).as_ref() == Some(found_type);
    type_fits && found.name() == told.name()
}

/// Whether a sort for this limit keeps few rows.
fn is_low(limit: &Limit) -> bool {
    match (limit.get_skip_type(), limit.get_fetch_type()) {
        (Ok(SkipType::Literal(skip)), Ok(FetchType::Literal(Some(fetch)))) => {
            skip.saturating_add(fetch) <= FEW_ROWS
        }
        _ => false,
    }
}

/// What is found on a walk through a plan.
#[derive(Default)]
struct Shape {
    /// It filters, groups or aggregates by a text.
    works_on_texts: bool,
}

/// Whether rows of files flow out of a step, as they were read.
type Raw = bool;

impl Shape {
    /// Looks at a plan, of which only few rows are wanted if it is `limited`; `None` for one with
    /// a step that keeps rows.
    fn read(&mut self, plan: &LogicalPlan, limited: bool) -> Option<Raw> {
        match plan {
            LogicalPlan::TableScan(_) => Some(true),
            LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => Some(false),
            LogicalPlan::Projection(projection) => self.read(&projection.input, limited),
            LogicalPlan::SubqueryAlias(alias) => self.read(&alias.input, limited),
            LogicalPlan::Analyze(analyze) => self.read(&analyze.input, limited),
            LogicalPlan::Limit(limit) => self.read(&limit.input, is_low(limit)),
            LogicalPlan::Filter(filter) => {
                self.works_on_texts |= names_text(&filter.predicate, &filter.input);
                self.read(&filter.input, false)
            }
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().map(|input| self.read(input, false));
                let raw: Vec<Raw> = inputs.collect::<Option<_>>()?;
                Some(raw.contains(&true))
            }
            // The first rows are kept without the rest of their batches.
            LogicalPlan::Sort(sort) => {
                let raw = self.read(&sort.input, false)?;
                (limited || !raw).then_some(raw)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                self.works_on_texts |= input.schema().fields().iter().any(|field| is_text(field));
                self.read(input, false)?;
                Some(false)
            }
            _ => None,
        }
    }

    fn aggregate(&mut self, aggregate: &Aggregate) -> Option<Raw> {
        let Aggregate {
            input,
            group_expr,
            aggr_expr,
            ..
        } = aggregate;
        for expression in aggr_expr {
            if names_text(expression, input) && !keeps_copies(expression) {
                return None;
            }
        }
        let mut all = group_expr.iter().chain(aggr_expr);
        self.works_on_texts |= all.any(|expression| names_text(expression, input));
        self.read(input, false)?;
        Some(false)
    }
}

fn names_text(expression: &Expr, input: &LogicalPlan) -> bool {
    let schema = input.schema();
    expression.column_refs().into_iter().any(|column| {
        let field = schema.field_from_column(column);
        field.is_ok_and(|field| is_text(field))
    })
}

fn keeps_copies(aggregate: &Expr) -> bool {
    !contains(aggregate, |part| match part {
        Expr::AggregateFunction(function) => !COPYING.contains(&function.func.name()),
        _ => false,
    })
}

/// Whether an answer depends on the types of what is read; also of a plan within an expression, into which
/// nobody looked.
fn looks_at_types(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply(|node| {
        node.apply_expressions(|expression| {
            found |= contains(expression, |part| match part {
                Expr::ScalarFunction(function) => TELLING.contains(&function.func.name()),
                Expr::ScalarSubquery(_)
                | Expr::InSubquery(_)
                | Expr::SetComparison(_)
                | Expr::Exists(_)
                | Expr::OuterReferenceColumn(..) => true,
                _ => false,
            });
            Ok(TreeNodeRecursion::Continue)
        })
    });
    found || walked.is_err()
}

fn contains(expression: &Expr, is_it: impl Fn(&Expr) -> bool) -> bool {
    expression.exists(|part| Ok(is_it(part))).unwrap_or(true)
}

/// The plan with views in place of the texts of stored tables up to the first aggregates, which give texts
/// again: the groups of a large answer share one buffer, which views would keep whole. Types that follow
/// from those of tables are open.
fn switch(plan: LogicalPlan) -> Result<LogicalPlan, DataFusionError> {
    let told = Arc::clone(plan.schema());
    let plan = plan.map_children(|input| Ok(Transformed::yes(switch(input)?)));
    match plan.data()? {
        LogicalPlan::TableScan(scan) => scan_views(scan),
        step @ (LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_)) => {
            give(step.recompute_schema()?, &told)
        }
        step => step.recompute_schema(),
    }
}

fn scan_views(scan: TableScan) -> Result<LogicalPlan, DataFusionError> {
    let provider = source_as_provider(&scan.source)?;
    let table = provider.downcast_ref::<StoredTable>();
    let Some(table) = table.and_then(StoredTable::with_views) else {
        return Ok(LogicalPlan::TableScan(scan));
    };
    let scan = TableScanBuilder::new(scan.table_name, provider_as_source(Arc::new(table)))
        .with_projection(scan.projection)
        .with_filters(scan.filters)
        .with_fetch(scan.fetch)
        .with_statistics_requests(scan.statistics_requests)
        .build()?;
    Ok(LogicalPlan::TableScan(scan))
}

/// The rows of `plan` with the types of `told`.
fn give(plan: LogicalPlan, told: &DFSchema) -> Result<LogicalPlan, DataFusionError> {
    let schema = Arc::clone(plan.schema());
    let mut casts = false;
    let columns = schema
        .iter()
        .zip(told.fields())
        .map(|((relation, field), told)| {
            let column = Expr::Column(Column::new(relation.cloned(), field.name()));
            if field.data_type() == told.data_type() {
                return column;
            }
            casts = true;
            cast(column, told.data_type().clone()).alias_qualified(relation.cloned(), field.name())
        });
    let columns: Vec<Expr> = columns.collect();
    if !casts {
        return Ok(plan);
    }
    Ok(LogicalPlan::Projection(Projection::try_new(
        columns,
        Arc::new(plan),
    )?))
}
