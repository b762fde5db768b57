//! A table of the catalog as the engine reads it: its Parquet files and its fresh rows, in one.
//!
//! Of a table with a primary key the newest row of each key. Files whose keys can be nowhere else
//! ([`crate::overlap`]) are read as those of any table; the rest goes through
//! [`crate::newest::NewestExec`].

mod lanes;
mod shared;

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{Statistics, internal_datafusion_err};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalExpr};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExecBuilder;
use datafusion::physical_plan::union::UnionExec;
use flightcluster_catalog::{File, SchemaVersion, Table, TableId, TableName};
use flightcluster_keys::{Key, storage_schema};
use object_store::path::Path;

use crate::Error;
use crate::masks::Masking;
use crate::newest::sort_keys;
use crate::overlap::{FreshTimes, Split, split};
use crate::past::Past;
use crate::recent::{FreshRows, View};
use crate::session::store_url;
use crate::texts;
use crate::times::{TimeColumn, TimeRange, nanos_in, rows_from};

/// A stored table in the schema it had when the query was planned.
///
/// A scan takes its files and fresh rows from the [`View`], which is filled between planning and
/// running. Files written before a column was added lack it: the reader gives nulls.
#[derive(Debug, Clone)]
pub(crate) struct StoredTable {
    id: TableId,
    name: TableName,
    version: SchemaVersion,
    schema: SchemaRef,
    /// What scans give: `schema`, or the same with texts as views.
    given: SchemaRef,
    time: Option<TimeColumn>,
    /// Rows with a time before this, in nanoseconds since the Unix epoch, are expired.
    expired_before: Option<i64>,
    /// Of a table with a primary key.
    keyed: Option<Keyed>,
    view: Arc<View>,
}

/// What files and fresh rows of a table with a primary key hold.
#[derive(Debug, Clone)]
pub(crate) struct Keyed {
    /// The columns of the table, then the order.
    pub(crate) schema: SchemaRef,
    /// Places of the key's columns, the time first.
    pub(crate) columns: Vec<usize>,
    /// Place of the order.
    pub(crate) order: usize,
}

impl Keyed {
    /// What `table`, whose schema is `schema`, has of this; `None` when it has no key.
    ///
    /// # Errors
    /// [`Error::Key`] for a table this release can't read.
    pub(crate) fn of(table: &Table, schema: &SchemaRef) -> Result<Option<Self>, Error> {
        let key = Key::of(&table.options).map_err(Error::Key)?;
        let keyed = key.map(|key| {
            Ok(Self {
                schema: SchemaRef::new(storage_schema(schema)),
                columns: key.places(schema).map_err(Error::Key)?,
                order: schema.fields().len(),
            })
        });
        keyed.transpose()
    }

    /// The order of rows in files that are sorted: by key and, within a key, newest first.
    pub(crate) fn ordering(&self) -> Option<LexOrdering> {
        let column = |at: usize| -> Arc<dyn PhysicalExpr> {
            Arc::new(Column::new(self.schema.field(at).name(), at))
        };
        let keys = self.columns.iter().map(|at| column(*at));
        sort_keys(keys, column(self.order))
    }
}

impl StoredTable {
    /// `schema` is that of `table`, maybe with more nulls allowed.
    ///
    /// # Errors
    /// [`Error::Key`] for a table this release can't read.
    pub(crate) fn new(table: &Table, schema: SchemaRef, view: Arc<View>) -> Result<Self, Error> {
        Ok(Self {
            keyed: Keyed::of(table, &schema)?,
            id: table.id,
            name: table.name.clone(),
            version: table.schema_version,
            time: TimeColumn::of(&schema, table.schema_version),
            given: Arc::clone(&schema),
            schema,
            expired_before: table.expired_before(view.now_nanos()),
            view,
        })
    }

    /// The same table with the orders of its rows as a column, if it has a primary key.
    pub(crate) fn with_orders(mut self) -> Self {
        if let Some(keyed) = &self.keyed {
            self.schema = Arc::clone(&keyed.schema);
            self.given = Arc::clone(&keyed.schema);
        }
        self
    }

    /// The same table with texts as views; `None` when it has no texts.
    pub(crate) fn with_views(&self) -> Option<Self> {
        let given = texts::with_views(&self.schema)?;
        Some(Self {
            given,
            ..self.clone()
        })
    }

    pub(crate) fn id(&self) -> TableId {
        self.id
    }

    /// The past it is of; `None` for the present.
    pub(crate) fn past(&self) -> Option<Past> {
        self.view.past()
    }

    pub(crate) fn name(&self) -> &TableName {
        &self.name
    }

    /// Which of its schemas it has here.
    pub(crate) fn version(&self) -> SchemaVersion {
        self.version
    }

    /// The schema that files and fresh rows are read in.
    pub(crate) fn storage_schema(&self) -> SchemaRef {
        let keyed = self.keyed.as_ref();
        Arc::clone(keyed.map_or(&self.schema, |keyed| &keyed.schema))
    }

    pub(crate) fn keyed(&self) -> Option<&Keyed> {
        self.keyed.as_ref()
    }

    pub(crate) fn time_column(&self) -> Option<&TimeColumn> {
        self.time.as_ref()
    }

    /// The times rows that pass these filters can have, and that are not expired.
    pub(crate) fn times(&self, filters: &[Expr]) -> TimeRange {
        let Some(time) = &self.time else {
            return TimeRange::ALL;
        };
        let kept = self.expired_before.map_or(TimeRange::ALL, TimeRange::since);
        time.range(filters).and(kept)
    }

    /// The column by which rows expire, and the first moment that is not expired, when they do.
    pub(crate) fn expiry(&self) -> Option<(&TimeColumn, i64)> {
        self.time.as_ref().zip(self.expired_before)
    }

    /// Whether some rows of a file may be expired.
    pub(crate) fn may_be_expired(&self, file: &File) -> bool {
        let times = file.file.time_range_nanos;
        self.expiry()
            .is_some_and(|(_, from)| times.is_none_or(|(low, _)| low < from))
    }

    /// A scan of files without the expired rows, which some of them have.
    fn unexpired(
        &self,
        state: &dyn Session,
        (files, schema): (&[&File], &SchemaRef),
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let Some((time, from)) = self.expiry() else {
            return self.files(state, (files, schema), projection, None);
        };
        let all = || (0..schema.fields().len()).collect();
        let mut columns: Vec<usize> = projection.cloned().unwrap_or_else(all);
        let wanted = columns.len();
        let at = columns.iter().position(|column| *column == time.at);
        let at = at.unwrap_or_else(|| {
            columns.push(time.at);
            wanted
        });
        // The limit is of rows that are left, which nobody knows here.
        let scan = self.files(state, (files, schema), Some(&columns), None)?;
        let kept = time.not_before(at, &scan.schema(), from)?;
        let filter = FilterExecBuilder::new(kept, scan);
        let filter = filter.apply_projection(Some((0..wanted).collect()))?;
        Ok(Arc::new(filter.build()?))
    }

    /// All rows of files that are not expired, in `schema`.
    fn stored(
        &self,
        state: &dyn Session,
        (files, schema): (Vec<&File>, &SchemaRef),
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Vec<Arc<dyn ExecutionPlan>>, DataFusionError> {
        // Files without expired rows are read as if there were no retention: counts stay exact.
        let (some_expired, whole): (Vec<_>, Vec<_>) = files
            .into_iter()
            .partition(|file| self.may_be_expired(file));
        let mut parts: Vec<Arc<dyn ExecutionPlan>> = Vec::with_capacity(3);
        if !whole.is_empty() {
            parts.push(self.files(state, (&whole, schema), projection, limit)?);
        }
        if !some_expired.is_empty() {
            parts.push(self.unexpired(state, (&some_expired, schema), projection)?);
        }
        Ok(parts)
    }

    /// A scan of `files` in `schema`, in this order as far as each partition goes.
    fn files(
        &self,
        state: &dyn Session,
        (files, schema): (&[&File], &SchemaRef),
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let scan = self.scan_of(state, (files, schema, None), projection, limit)?;
        Ok(DataSourceExec::from_data_source(scan.build()))
    }

    /// With a condition, rows that do not pass may be left out.
    fn scan_of(
        &self,
        state: &dyn Session,
        (files, schema, condition): (&[&File], &SchemaRef, Option<Arc<dyn PhysicalExpr>>),
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<FileScanConfigBuilder, DataFusionError> {
        let rows: u64 = files.iter().map(|file| file.file.rows).sum();
        let parts = files
            .iter()
            .map(|file| self.file(file, schema))
            .collect::<Result<Vec<_>, _>>()?;
        let groups = deal(parts, state.config().target_partitions());
        // Files never change under their path, so a footer read once serves all later queries.
        let runtime = state.runtime_env();
        let reader = CachedParquetFileReaderFactory::new(
            runtime.object_store(store_url())?,
            runtime.cache_manager.get_file_metadata_cache(),
        );
        let mut source = ParquetSource::new(Arc::clone(schema))
            .with_parquet_file_reader_factory(Arc::new(reader));
        if let Some(condition) = condition {
            source = source.with_predicate(condition);
        }
        Ok(FileScanConfigBuilder::new(store_url(), Arc::new(source))
            .with_expr_adapter(Some(Arc::new(Masking)))
            .with_file_groups(groups)
            .with_statistics(statistics_of(rows, schema))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit))
    }

    fn file(&self, file: &File, schema: &Schema) -> Result<PartitionedFile, DataFusionError> {
        let mut statistics = statistics_of(file.file.rows, schema);
        if let Some(time) = &self.time {
            time.describe(&mut statistics, file);
        }
        let statistics = Arc::new(statistics);
        let mut part = PartitionedFile::new("", file.file.size_bytes).with_statistics(statistics);
        // Parsed, not made from text: the path in the catalog is already in its encoded form.
        part.object_meta.location = Path::parse(&file.file.path)
            .map_err(|error| DataFusionError::ObjectStore(Box::new(error.into())))?;
        Ok(part)
    }

    fn fresh(
        &self,
        fresh: &FreshRows,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let places = projection
            .map(|columns| {
                columns
                    .iter()
                    .map(|column| fresh.columns.binary_search(column))
                    .collect::<Result<Vec<_>, _>>()
            })
            .transpose()
            .map_err(|_| internal_datafusion_err!("a needed column was not fetched"))?;
        let batches = self.unexpired_batches(fresh)?;
        let source = MemorySourceConfig::try_new(&batches, Arc::clone(&fresh.schema), places)?
            .with_limit(limit);
        Ok(DataSourceExec::from_data_source(source))
    }

    fn unexpired_batches(
        &self,
        fresh: &FreshRows,
    ) -> Result<Vec<Vec<RecordBatch>>, DataFusionError> {
        let Some((time, from)) = self.expiry() else {
            return Ok(fresh.batches.clone());
        };
        let at = fresh.columns.binary_search(&time.at);
        let at = at.map_err(|_| internal_datafusion_err!("the time column was not fetched"))?;
        let unexpired = |batch: &RecordBatch| rows_from(batch.clone(), at, from);
        let of_ingester = |batches: &Vec<RecordBatch>| batches.iter().map(unexpired).collect();
        let batches: Result<_, ArrowError> = fresh.batches.iter().map(of_ingester).collect();
        Ok(batches?)
    }
}

/// The number of rows is exact: files never change. `count(*)` is answered from it.
fn statistics_of(rows: u64, schema: &Schema) -> Statistics {
    let rows = usize::try_from(rows).map_or(Precision::Absent, Precision::Exact);
    Statistics::new_unknown(schema).with_num_rows(rows)
}

impl StoredTable {
    /// The rows of a table with a primary key: files whose keys are nowhere else as they are, of all
    /// others and the fresh rows the newest of each key.
    fn keyed_parts(
        &self,
        state: &dyn Session,
        keyed: &Keyed,
        (files, fresh): (Vec<&File>, &FreshRows),
        (projection, times): (Option<&Vec<usize>>, TimeRange),
        limit: Option<usize>,
    ) -> Result<Vec<Arc<dyn ExecutionPlan>>, DataFusionError> {
        let Split { mut clean, shared } = split(&files, &self.fresh_times(fresh));
        if let Some(order) = fresh.first_read {
            order.sort(&mut clean);
        }
        let mut parts = self.stored(state, (clean, &self.given), projection, limit)?;
        if !shared.is_empty() || !fresh.batches.is_empty() {
            let newest = self.newest(state, keyed, (shared, fresh), (projection, times))?;
            parts.push(self.given(newest, projection)?);
        }
        Ok(parts)
    }

    /// Rows that were read in `schema`, in the schema that scans give.
    fn given(
        &self,
        rows: Arc<dyn ExecutionPlan>,
        projection: Option<&Vec<usize>>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        if Arc::ptr_eq(&self.given, &self.schema) {
            return Ok(rows);
        }
        let given = match projection {
            Some(columns) => SchemaRef::new(self.given.project(columns)?),
            None => Arc::clone(&self.given),
        };
        texts::cast_rows(rows, &given)
    }

    fn fresh_times(&self, fresh: &FreshRows) -> FreshTimes {
        if fresh.batches.is_empty() {
            return FreshTimes::of(Some(Vec::new()));
        }
        let times = self.time.as_ref().and_then(|time| {
            let at = fresh.columns.binary_search(&time.at).ok()?;
            let mut times = Vec::new();
            for batch in fresh.batches.iter().flatten() {
                times.extend(nanos_in(batch.column(at))?);
            }
            Some(times)
        });
        FreshTimes::of(times)
    }
}

/// All rows of the parts.
fn union(
    parts: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Option<Arc<dyn ExecutionPlan>>, DataFusionError> {
    Ok(match parts.len() {
        0 | 1 => parts.into_iter().next(),
        _ => Some(UnionExec::try_new(parts)?),
    })
}

#[async_trait]
impl TableProvider for StoredTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.given)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let (table, fresh) = self.view.rows(self.id).ok_or_else(|| {
            internal_datafusion_err!("fresh rows of {} were not fetched", self.name)
        })?;
        if table.files_left_out {
            return Err(internal_datafusion_err!(
                "the files of {} were not listed",
                self.name
            ));
        }
        let times = self.times(filters);
        let mut files: Vec<&File> = table.files.iter().collect();
        files.retain(|file| times.may_hold(file));
        let mut parts = match &self.keyed {
            Some(keyed) => {
                let asked = (projection, times);
                self.keyed_parts(state, keyed, (files, &fresh), asked, limit)?
            }
            None => {
                if let Some(order) = fresh.first_read {
                    order.sort(&mut files);
                }
                let mut parts = self.stored(state, (files, &self.given), projection, limit)?;
                if !fresh.batches.is_empty() {
                    let fresh = self.fresh(&fresh, projection, limit)?;
                    parts.push(self.given(fresh, projection)?);
                }
                parts
            }
        };
        if parts.len() > 1 {
            return UnionExec::try_new(parts);
        }
        let Some(only) = parts.pop() else {
            let schema = match projection {
                Some(columns) => SchemaRef::new(self.given.project(columns)?),
                None => Arc::clone(&self.given),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        };
        Ok(only)
    }

    /// Files and their row groups and pages are skipped by the filters, which does not replace
    /// filtering.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// Deals files to at most `count` partitions in turn, so that each begins with the first ones.
fn deal(files: Vec<PartitionedFile>, count: usize) -> Vec<FileGroup> {
    let count = count.clamp(1, files.len().max(1));
    let mut groups = vec![Vec::with_capacity(files.len().div_ceil(count)); count];
    for (number, file) in files.into_iter().enumerate() {
        groups[number % count].push(file);
    }
    groups.into_iter().map(FileGroup::new).collect()
}
