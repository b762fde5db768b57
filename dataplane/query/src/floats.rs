//! Keeps files, row groups and pages from being skipped by the range of a floating point column.
//!
//! For the engine NaN is larger than every other number, so `value > 5` and `ORDER BY value DESC` find
//! rows with NaN. The ranges in Parquet files leave NaN out, as the format demands: by them, a row
//! group with 1.5 and NaN has no row above 5. Comparisons with such columns are therefore taken out of
//! what files are skipped by; the rows are filtered as ever.

use std::sync::Arc;

use arrow_schema::{DataType, Schema};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult as _, TreeNode as _};
use datafusion::datasource::memory::DataSourceExec;
use datafusion::datasource::physical_plan::{
    FileScanConfigBuilder, FileSource as _, ParquetSource,
};
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, lit};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

/// The rule; runs when all filters have arrived at the files.
#[derive(Debug)]
pub(crate) struct FloatsSkipNothing;

impl PhysicalOptimizerRule for FloatsSkipNothing {
    fn name(&self) -> &str {
        "floats_skip_nothing"
    }

    fn schema_check(&self) -> bool {
        true
    }

    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| {
            Ok(match without_floats(plan.as_ref()) {
                Some(scan) => Transformed::yes(scan),
                None => Transformed::no(plan),
            })
        })
        .data()
    }
}

/// The same scan with another predicate, if it has one that names a floating point column.
fn without_floats(plan: &dyn ExecutionPlan) -> Option<Arc<dyn ExecutionPlan>> {
    let scan = plan.downcast_ref::<DataSourceExec>()?;
    let (config, source) = scan.downcast_to_file_source::<ParquetSource>()?;
    let predicate = &source.filter()?;
    let schema = config.file_schema();
    if !names_float(predicate, schema) {
        return None;
    }
    let source = source.with_predicate(kept(predicate, schema));
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source));
    Some(DataSourceExec::from_data_source(config.build()))
}

/// A predicate that is true for every row the given one is true for.
fn kept(predicate: &Arc<dyn PhysicalExpr>, schema: &Schema) -> Arc<dyn PhysicalExpr> {
    if !names_float(predicate, schema) {
        return Arc::clone(predicate);
    }
    match predicate.downcast_ref::<BinaryExpr>() {
        Some(both) if matches!(both.op(), Operator::And | Operator::Or) => {
            let (left, right) = (kept(both.left(), schema), kept(both.right(), schema));
            Arc::new(BinaryExpr::new(left, *both.op(), right))
        }
        _ => lit(true),
    }
}

fn names_float(expression: &Arc<dyn PhysicalExpr>, schema: &Schema) -> bool {
    collect_columns(expression).iter().any(|column| {
        let field = schema.field_with_name(column.name());
        field.map_or(true, |field| is_float(field.data_type()))
    })
}

fn is_float(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_float(values),
        DataType::RunEndEncoded(_, values) => is_float(values.data_type()),
        data_type => data_type.is_floating() || data_type.is_nested(),
    }
}
