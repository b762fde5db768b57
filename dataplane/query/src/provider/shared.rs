//! The scan of what may hold several rows of a key: the newest row of each.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::catalog::Session;
use datafusion::common::internal_datafusion_err;
use datafusion::datasource::memory::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};
use flightcluster_catalog::File;

use super::lanes::Lanes;
use super::{Keyed, StoredTable, union};
use crate::newest::NewestExec;
use crate::recent::FreshRows;
use crate::times::TimeRange;
use crate::width;

/// So many rows of a batch, or so many bytes, are merged fast.
const MANY_ROWS: usize = 256;
const MANY_BYTES: u64 = 512 << 10;

/// What all parts of such a scan read.
struct Reading<'a> {
    state: &'a dyn Session,
    keyed: &'a Keyed,
    fresh: &'a FreshRows,
    /// Places of the columns in what files hold, sorted.
    columns: Vec<usize>,
    /// Rows of a batch, where many inputs are merged.
    rows: usize,
}

impl Reading<'_> {
    /// Where a column of the table is in what is read.
    fn place(&self, column: usize) -> Result<usize, DataFusionError> {
        let place = self.columns.binary_search(&column);
        place.map_err(|_| internal_datafusion_err!("a column of the key is not read"))
    }

    fn keys(&self) -> Result<Vec<usize>, DataFusionError> {
        let keys = self.keyed.columns.iter();
        keys.map(|column| self.place(*column)).collect()
    }
}

impl StoredTable {
    /// The newest row of each key in some files and the fresh rows, which may have the times given.
    pub(super) fn newest(
        &self,
        state: &dyn Session,
        keyed: &Keyed,
        (files, fresh): (Vec<&File>, &FreshRows),
        (projection, times): (Option<&Vec<usize>>, TimeRange),
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let wanted = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let read = wanted.iter().chain(&keyed.columns).chain([&keyed.order]);
        let columns: BTreeSet<usize> = read.copied().collect();
        let columns: Vec<usize> = columns.into_iter().collect();
        let timed = self
            .time
            .as_ref()
            .is_some_and(|time| keyed.columns[0] == time.at);
        let mut lanes = match timed {
            true => Lanes::of(files),
            false => Lanes::loose(files),
        };
        let mut most = state.config().target_partitions();
        let pool = &state.runtime_env().memory_pool;
        let sorted: Vec<&File> = lanes.sorted.iter().flatten().copied().collect();
        let row = width::of_row(&keyed.schema, &columns, sorted.iter().copied(), &[]);
        let usual = state.config().batch_size();
        let fewest = width::FEWEST_ROWS.min(usual);
        let (mut parts, rows) = loop {
            let parts = lanes.parts(times, most);
            let bytes = width::of_input(&**pool, lanes.sorted.len() * parts.len());
            let rows = width::rows(bytes, row, usual);
            // Fewer threads rather than very small batches.
            let many = rows >= MANY_ROWS.min(usual) || (rows >= fewest && bytes >= MANY_BYTES);
            if many || most <= 1 {
                break (parts, rows);
            }
            most /= 2;
        };
        // A sort has some batches in memory, a merge some of each input.
        if rows < fewest {
            lanes = Lanes::loose(sorted.into_iter().chain(lanes.loose).collect());
            parts = lanes.parts(times, most);
        }
        let reading = Reading {
            state,
            keyed,
            fresh,
            columns,
            rows: rows.max(fewest),
        };
        let parts = parts.into_iter();
        let parts = parts.map(|times| self.newest_of(&reading, &lanes, times));
        let parts = parts
            .filter_map(Result::transpose)
            .collect::<Result<Vec<_>, _>>()?;
        let newest = union(parts)?
            .ok_or_else(|| internal_datafusion_err!("there is nothing to look for keys in"))?;
        let columns = wanted.iter().map(|at| {
            let name = self.schema.field(*at).name();
            let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, reading.place(*at)?));
            Ok((column, name.clone()))
        });
        let columns = columns.collect::<Result<Vec<_>, DataFusionError>>()?;
        Ok(Arc::new(ProjectionExec::try_new(columns, newest)?))
    }

    /// The newest row of each key with one of these times.
    fn newest_of(
        &self,
        reading: &Reading<'_>,
        lanes: &Lanes<'_>,
        times: TimeRange,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>, DataFusionError> {
        let kept = self.expired_before.map_or(TimeRange::ALL, TimeRange::since);
        let unexpired = times.and(kept);
        let (mut inputs, mut in_lanes, mut whole) = (Vec::new(), Vec::new(), true);
        for lane in &lanes.sorted {
            let before = inputs.len();
            for file in lane.iter().filter(|file| unexpired.may_hold(file)) {
                whole &= unexpired.holds_all_of(file);
                inputs.push(self.sorted(reading, file, unexpired)?);
            }
            if inputs.len() > before {
                in_lanes.push(inputs.len() - before);
            }
        }
        let filter = match whole {
            true => None,
            false => self.within(reading, unexpired)?,
        };
        inputs.extend(self.loose(reading, lanes, times)?);
        if inputs.is_empty() {
            return Ok(None);
        }
        let order = reading.place(reading.keyed.order)?;
        let lanes = (in_lanes, filter);
        let newest = NewestExec::try_new(inputs, lanes, (reading.keys()?, order), reading.rows)?;
        Ok(Some(Arc::new(newest)))
    }

    /// The rows of a sorted file, in order, maybe without some that have other times.
    fn sorted(
        &self,
        reading: &Reading<'_>,
        file: &File,
        times: TimeRange,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let schema = &reading.keyed.schema;
        let skipped = match (times.holds_all_of(file), &self.time) {
            (false, Some(time)) => time.within(time.at, schema, times)?,
            _ => None,
        };
        let files = (&[file][..], schema, skipped);
        let scan = self.scan_of(reading.state, files, Some(&reading.columns), None)?;
        let scan = scan.with_output_ordering(Vec::from_iter(reading.keyed.ordering()));
        // In one piece: the engine would read pieces of it at once and merge them row by row.
        let scan = scan
            .with_output_partitioning(Some(Partitioning::UnknownPartitioning(1)))
            .with_batch_size(Some(reading.rows));
        Ok(DataSourceExec::from_data_source(scan.build()))
    }

    /// The rows with one of these times that are to be sorted, if there can be any.
    fn loose(
        &self,
        reading: &Reading<'_>,
        lanes: &Lanes<'_>,
        times: TimeRange,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>, DataFusionError> {
        let files = lanes.loose.iter().copied();
        let files: Vec<&File> = files.filter(|file| times.may_hold(file)).collect();
        // Never a limit: a row that is read may not be the newest. All rows of a key expire at once.
        let (files, columns) = ((files, &reading.keyed.schema), Some(&reading.columns));
        let mut parts = self.stored(reading.state, files, columns, None)?;
        if !reading.fresh.batches.is_empty() {
            parts.push(self.fresh(reading.fresh, columns, None)?);
        }
        let Some(rows) = union(parts)? else {
            return Ok(None);
        };
        let filter = self.within(reading, times)?;
        Ok(Some(match filter {
            Some(filter) => Arc::new(FilterExec::try_new(filter, rows)?),
            None => rows,
        }))
    }

    /// Whether a row that is read has one of these times.
    fn within(
        &self,
        reading: &Reading<'_>,
        times: TimeRange,
    ) -> Result<Option<Arc<dyn PhysicalExpr>>, DataFusionError> {
        let Some(time) = &self.time else {
            return Ok(None);
        };
        let schema = reading.keyed.schema.project(&reading.columns)?;
        time.within(reading.place(time.at)?, &schema, times)
    }
}
