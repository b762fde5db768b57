//! The plan node that keeps the newest row of each key.
//!
//! It asks for what it needs and leaves the rest to the engine: rows of a key in one partition, sorted
//! by key and, within a key, newest first. The engine puts repartitioning and sorting below it, which
//! may spill and count as memory of the query.
//!
//! # What passes
//! A filter that only looks at columns of the key passes: it lets all rows of a key through or none. Any
//! other would hide a newer row and leave an older one; limits and statistics count rows that are not
//! there. All of these stop here, by the defaults of the trait. Filters that change while the query runs
//! stop too: nobody has shown that they may pass.
//!
//! A filter that passes is applied right below. A scan of files takes filters to skip some of what it reads,
//! gives rows that do not pass all the same, and yet tells the engine that a column which is compared with
//! a constant is constant: the sort would leave that column of the key out, and rows of other keys would
//! come between those of one.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::common::config::ConfigOptions;
use datafusion::common::internal_datafusion_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::utils::{collect_columns, conjunction};
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalExpr, PhysicalSortExpr,
};
use datafusion::physical_expr_common::physical_expr::is_volatile;
use datafusion::physical_plan::execution_plan::EmissionType;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::filter_pushdown::{
    ChildFilterDescription, ChildPushdownResult, FilterDescription, FilterPushdownPhase,
    FilterPushdownPropagation, PushedDown,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, Distribution, ExecutionPlan,
    ExecutionPlanProperties as _, InputDistributionRequirements, PlanProperties,
    ReplaceChildrenOptions, SendableRecordBatchStream,
};
use flightcluster_keys::Newest;
use futures::{StreamExt as _, TryStreamExt as _, future};

/// Keeps the newest row of each key.
#[derive(Debug, Clone)]
pub(crate) struct NewestExec {
    input: Arc<dyn ExecutionPlan>,
    /// Places of the key's columns in the input, the time first.
    keys: Vec<usize>,
    /// Place of the order.
    order: usize,
    properties: Arc<PlanProperties>,
}

impl NewestExec {
    pub(crate) fn new(input: Arc<dyn ExecutionPlan>, keys: Vec<usize>, order: usize) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(input.schema()),
            input.output_partitioning().clone(),
            EmissionType::Incremental,
            input.boundedness(),
        );
        Self {
            input,
            keys,
            order,
            properties: Arc::new(properties),
        }
    }

    /// Whether a filter lets all rows of a key through or none.
    fn may_pass(&self, filter: &Arc<dyn PhysicalExpr>) -> bool {
        let columns = collect_columns(filter);
        let of_key = columns
            .iter()
            .all(|column| self.keys.contains(&column.index()));
        of_key && !is_volatile(filter)
    }

    fn column(&self, at: usize) -> Arc<dyn PhysicalExpr> {
        let schema = self.input.schema();
        Arc::new(Column::new(schema.field(at).name(), at))
    }

    fn name_of(&self, at: usize) -> String {
        self.input.schema().field(at).name().clone()
    }
}

/// The order in which [`Newest`] wants its rows.
pub(crate) fn sort_keys(
    keys: impl Iterator<Item = Arc<dyn PhysicalExpr>>,
    order: Arc<dyn PhysicalExpr>,
) -> Option<LexOrdering> {
    let key = |column| PhysicalSortExpr::new(column, SortOptions::default());
    let newest_first = SortOptions {
        descending: true,
        nulls_first: false,
    };
    let order = PhysicalSortExpr::new(order, newest_first);
    LexOrdering::new(keys.map(key).chain([order]))
}

impl DisplayAs for NewestExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<_> = self.keys.iter().map(|at| self.name_of(*at)).collect();
        let order = self.name_of(self.order);
        write!(f, "NewestExec: key=[{}], order={order}", keys.join(", "))
    }
}

impl ExecutionPlan for NewestExec {
    fn name(&self) -> &str {
        "NewestExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.input_distribution_requirements().into_per_child()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let keys = self.keys.iter().map(|at| self.column(*at)).collect();
        InputDistributionRequirements::new(vec![Distribution::KeyPartitioned(keys)])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let keys = self.keys.iter().map(|at| self.column(*at));
        let order = sort_keys(keys, self.column(self.order));
        vec![order.map(OrderingRequirements::from)]
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.pop()) {
            (Some(input), None) => Ok(Arc::new(Self::new(input, self.keys.clone(), self.order))),
            _ => Err(internal_datafusion_err!("NewestExec has one input")),
        }
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
        self.replace_children(children, options)
    }

    fn gather_filters_for_pushdown(
        &self,
        phase: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        let child = match phase {
            FilterPushdownPhase::Pre => {
                let keys: HashSet<usize> = self.keys.iter().copied().collect();
                let input = &self.input;
                ChildFilterDescription::from_child_with_allowed_indices(&filters, keys, input)?
            }
            FilterPushdownPhase::Post => ChildFilterDescription::all_unsupported(&filters),
        };
        Ok(FilterDescription::new().with_child(child))
    }

    fn handle_child_pushdown_result(
        &self,
        phase: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        if phase != FilterPushdownPhase::Pre {
            return Ok(FilterPushdownPropagation::if_all(result));
        }
        let mut pending = Vec::new();
        let mut applied = Vec::with_capacity(result.parent_filters.len());
        for parent in result.parent_filters {
            let below = parent.all();
            if matches!(below, PushedDown::No) && self.may_pass(&parent.filter) {
                pending.push(parent.filter);
                applied.push(PushedDown::Yes);
            } else {
                applied.push(below);
            }
        }
        let propagation = FilterPushdownPropagation::with_parent_pushdown_result(applied);
        if pending.is_empty() {
            return Ok(propagation);
        }
        let filter = FilterExec::try_new(conjunction(pending), Arc::clone(&self.input))?;
        let node = Self::new(Arc::new(filter), self.keys.clone(), self.order);
        Ok(propagation.with_updated_node(Arc::new(node)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let mut newest = Newest::new(&schema, self.keys.clone())?;
        let sorted = self.input.execute(partition, context)?;
        let rows = sorted.map(move |batch| Ok(newest.take(&batch?)?));
        let rows = rows.try_filter(|batch| future::ready(batch.num_rows() > 0));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
