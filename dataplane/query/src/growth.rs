//! Refuses filters that grow beyond measure on their way down the plan.
//!
//! The optimizer moves a filter below the steps that compute its columns, and puts what they compute
//! in place of their names. `x + x AS x` doubles the filter, and a chain of 40 such steps makes a
//! short statement run out of time and memory before its first row. What a filter would become is
//! added up here from the leaves of the plan, without building it.

use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::{TreeNode as _, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Distinct, Expr, JoinType, LogicalPlan};

use crate::Error;
use crate::sort::Sorter;

/// Columns a filter may name once it has arrived at the leaves. Planning takes about a millisecond for
/// each in a debug build.
const MAX_TERMS: usize = 10_000;

/// Refuses a plan with a filter that would become too large.
pub(crate) fn check_growth(plan: &LogicalPlan, sorter: Sorter) -> Result<(), Error> {
    let mut largest = 0;
    columns(plan, &mut largest).map_err(|error| sorter.sort("measuring filters", error))?;
    if largest <= MAX_TERMS {
        return Ok(());
    }
    Err(Error::Plan {
        message: format!(
            "a filter names columns that are computed in many steps from each other: written out, it \
             has more than {MAX_TERMS} terms; write one of the steps into a table"
        ),
        location: None,
    })
}

/// How many columns of the leaves each column of `plan` becomes in a filter above it; `largest` is
/// that of the largest filter so far.
fn columns(plan: &LogicalPlan, largest: &mut usize) -> Result<Vec<usize>, DataFusionError> {
    plan.apply_subqueries(|subquery| {
        columns(subquery, largest)?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    let mut inputs = Vec::new();
    for input in plan.inputs() {
        inputs.push((input.schema(), columns(input, largest)?));
    }
    let here = plan.schema().fields().len();
    let first = || {
        inputs
            .first()
            .map_or_else(Vec::new, |(_, terms)| terms.clone())
    };
    let mut terms = match plan {
        LogicalPlan::Projection(projection) => {
            let terms = projection.expr.iter().map(|part| terms_of(part, &inputs));
            terms.collect::<Result<Vec<_>, _>>()?
        }
        LogicalPlan::Aggregate(aggregate) => {
            let terms = aggregate
                .group_expr
                .iter()
                .map(|part| terms_of(part, &inputs));
            let terms = terms.collect::<Result<Vec<_>, _>>()?;
            match aggregate.group_expr.as_slice() {
                // One expression for many columns.
                [Expr::GroupingSet(_)] => vec![terms.into_iter().max().unwrap_or(1); here],
                _ => terms,
            }
        }
        LogicalPlan::Filter(filter) => {
            *largest = terms_of(&filter.predicate, &inputs)?.max(*largest);
            first()
        }
        LogicalPlan::Join(join) => {
            if let Some(filter) = &join.filter {
                *largest = terms_of(filter, &inputs)?.max(*largest);
            }
            match join.join_type {
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    inputs.pop().map_or_else(Vec::new, |(_, terms)| terms)
                }
                _ => inputs
                    .iter()
                    .flat_map(|(_, terms)| terms.iter().copied())
                    .collect(),
            }
        }
        LogicalPlan::Union(_) => (0..here)
            .map(|at| {
                let terms = inputs.iter().filter_map(|(_, terms)| terms.get(at));
                terms.copied().max().unwrap_or(1)
            })
            .collect(),
        LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Repartition(_)
        | LogicalPlan::Window(_)
        | LogicalPlan::Distinct(Distinct::All(_)) => first(),
        // A filter stays above these.
        _ => Vec::new(),
    };
    // What an aggregate or a window computes is no part of a filter below it.
    terms.resize(here, 1);
    Ok(terms)
}

/// How many columns of the leaves stand in an expression over `inputs`.
fn terms_of(
    expression: &Expr,
    inputs: &[(&DFSchemaRef, Vec<usize>)],
) -> Result<usize, DataFusionError> {
    let mut sum = 0_usize;
    expression.apply(|part| {
        if let Expr::Column(column) = part {
            let found = inputs.iter().find_map(|(schema, terms)| {
                let at = schema.maybe_index_of_column(column)?;
                terms.get(at).copied()
            });
            sum = sum.saturating_add(found.unwrap_or(1));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(sum)
}
