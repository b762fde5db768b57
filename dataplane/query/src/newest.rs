//! The plan node that keeps the newest row of each key.
//!
//! It asks for what it needs and leaves the rest to the engine: rows of a key in one partition, sorted
//! by key and, within a key, newest first. The engine puts repartitioning and sorting below it, which
//! may spill and count as memory of the query. Files that are sorted already are inputs of their own,
//! in lanes of files that follow each other: they are merged, which copies little where they have no
//! times in common ([`flightcluster_keys::Merge`]).
//!
//! # What passes
//! A filter that only looks at columns of the key passes: it lets all rows of a key through or none. Any
//! other would hide a newer row and leave an older one; limits and statistics count rows that are not
//! there. All of these stop here, by the defaults of the trait. Filters that change while the query runs
//! stop too: nobody has shown that they may pass.
//!
//! A filter that passes is applied right below, or to the rows of lanes as they come. A scan of files takes
//! filters to skip some of what it reads, gives rows that do not pass all the same, and yet tells the engine that a column which is compared with
//! a constant is constant: the sort would leave that column of the key out, and rows of other keys would
//! come between those of one.

mod merging;

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
    ExecutionPlanProperties as _, InputDistributionRequirements, Partitioning, PlanProperties,
    ReplaceChildrenOptions, SendableRecordBatchStream,
};
use flightcluster_keys::Newest;
use futures::{StreamExt as _, TryStreamExt as _, future};

/// Keeps the newest row of each key.
#[derive(Debug, Clone)]
pub(crate) struct NewestExec {
    /// The files of all lanes, then at most one input that is in no lane.
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    /// How many inputs each lane has. Within a lane no key is there twice.
    lanes: Vec<usize>,
    /// What rows of lanes must pass. Not a node below: the engine would spread its rows over threads and
    /// merge them again, row by row.
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Places of the key's columns in the inputs, the time first.
    keys: Vec<usize>,
    /// Place of the order.
    order: usize,
    /// Most rows of a batch that a merge gives.
    rows: usize,
    properties: Arc<PlanProperties>,
}

impl NewestExec {
    /// `lanes` says how many of the inputs are in each lane, and what their rows must pass, which looks at
    /// columns of the key only; there may be one more input, and there must be one. With lanes all is
    /// one partition, else as many as the input has. Then come the places of the key's columns and of the
    /// order, and how many rows a merge gives at once.
    pub(crate) fn try_new(
        inputs: Vec<Arc<dyn ExecutionPlan>>,
        (lanes, filter): (Vec<usize>, Option<Arc<dyn PhysicalExpr>>),
        (keys, order): (Vec<usize>, usize),
        rows: usize,
    ) -> Result<Self> {
        let first = inputs.first();
        let first =
            first.ok_or_else(|| internal_datafusion_err!("NewestExec has at least one input"))?;
        let partitioning = match lanes.is_empty() {
            true => first.output_partitioning().clone(),
            false => Partitioning::UnknownPartitioning(1),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(first.schema()),
            partitioning,
            EmissionType::Incremental,
            first.boundedness(),
        );
        Ok(Self {
            inputs,
            lanes,
            filter,
            keys,
            order,
            rows,
            properties: Arc::new(properties),
        })
    }

    fn with_inputs(&self, inputs: Vec<Arc<dyn ExecutionPlan>>) -> Result<Self> {
        if inputs.len() != self.inputs.len() {
            return Err(internal_datafusion_err!("NewestExec lost an input"));
        }
        let lanes = (self.lanes.clone(), self.filter.clone());
        Self::try_new(inputs, lanes, (self.keys.clone(), self.order), self.rows)
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
        let schema = self.schema();
        Arc::new(Column::new(schema.field(at).name(), at))
    }

    fn name_of(&self, at: usize) -> String {
        self.schema().field(at).name().clone()
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
        write!(f, "NewestExec: key=[{}], order={order}", keys.join(", "))?;
        if !self.lanes.is_empty() {
            write!(f, ", sorted={:?}", self.lanes)?;
        }
        match &self.filter {
            Some(filter) => write!(f, ", filter={filter}"),
            None => Ok(()),
        }
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
        self.inputs.iter().collect()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        match &self.filter {
            Some(filter) => f(filter),
            None => Ok(TreeNodeRecursion::Continue),
        }
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.input_distribution_requirements().into_per_child()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let keys = self.keys.iter().map(|at| self.column(*at)).collect();
        InputDistributionRequirements::new(match self.lanes.is_empty() {
            true => vec![Distribution::KeyPartitioned(keys)],
            false => vec![Distribution::SinglePartition; self.inputs.len()],
        })
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let keys = self.keys.iter().map(|at| self.column(*at));
        let order = sort_keys(keys, self.column(self.order));
        vec![order.map(OrderingRequirements::from); self.inputs.len()]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![self.lanes.is_empty(); self.inputs.len()]
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(self.with_inputs(children)?))
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
        let keys: HashSet<usize> = self.keys.iter().copied().collect();
        let mut description = FilterDescription::new();
        for input in &self.inputs {
            let keys = keys.clone();
            description = description.with_child(match phase {
                FilterPushdownPhase::Pre => {
                    ChildFilterDescription::from_child_with_allowed_indices(&filters, keys, input)?
                }
                FilterPushdownPhase::Post => ChildFilterDescription::all_unsupported(&filters),
            });
        }
        Ok(description)
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
        let in_lanes: usize = self.lanes.iter().sum();
        let (mut of_lanes, mut of_loose) = (Vec::new(), Vec::new());
        let mut applied = Vec::with_capacity(result.parent_filters.len());
        for parent in result.parent_filters {
            if !self.may_pass(&parent.filter) {
                applied.push(parent.all());
                continue;
            }
            applied.push(PushedDown::Yes);
            let (lanes, loose) = parent.child_results.split_at(in_lanes);
            if lanes.iter().any(|below| matches!(below, PushedDown::No)) {
                of_lanes.push(Arc::clone(&parent.filter));
            }
            if loose.iter().any(|below| matches!(below, PushedDown::No)) {
                of_loose.push(parent.filter);
            }
        }
        let propagation = FilterPushdownPropagation::with_parent_pushdown_result(applied);
        if of_lanes.is_empty() && of_loose.is_empty() {
            return Ok(propagation);
        }
        let mut inputs = self.inputs.clone();
        if let Some(loose) = inputs.get_mut(in_lanes).filter(|_| !of_loose.is_empty()) {
            *loose = Arc::new(FilterExec::try_new(
                conjunction(of_loose),
                Arc::clone(loose),
            )?);
        }
        let mut node = self.with_inputs(inputs)?;
        if !of_lanes.is_empty() {
            node.filter = Some(conjunction(of_lanes.into_iter().chain(node.filter)));
        }
        Ok(propagation.with_updated_node(Arc::new(node)))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        if !self.lanes.is_empty() {
            return merging::start(self, &context);
        }
        let mut newest = Newest::new(&schema, self.keys.clone())?;
        let sorted = self.inputs[0].execute(partition, context)?;
        let rows = sorted.map(move |batch| Ok(newest.take(&batch?)?));
        let rows = rows.try_filter(|batch| future::ready(batch.num_rows() > 0));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
    }
}
