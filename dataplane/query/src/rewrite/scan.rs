//! The rows of some files, sorted, in one stream.

use std::sync::Arc;

use arrow_schema::{DataType, Schema, SchemaRef};
use datafusion::arrow::compute::SortOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::DataSourceExec;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::error::DataFusionError;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use flightcluster_catalog::File;
use object_store::path::Path;

use crate::provider::Keyed;
use crate::session::store_url;

/// Field metadata that says what a column is, as InfluxDB clients know it.
const COLUMN_TYPE_KEY: &str = "iox::column::type";
const TIMESTAMP_COLUMN: &str = "iox::column_type::timestamp";
const TAG_COLUMN: &str = "iox::column_type::tag";
/// The time column of tables that don't say.
const TIME_COLUMN: &str = "time";

/// All rows of the files in the schema given: of a table with a primary key by time, the rest of the
/// key, and newest first; else by tags and time where the table has them, by time where it has no tags,
/// else in the order of the files. Columns a file lacks are null.
pub(super) fn rows(
    state: &SessionState,
    files: &[File],
    schema: &SchemaRef,
    keyed: Option<&Keyed>,
) -> Result<SendableRecordBatchStream, DataFusionError> {
    let parts = files.iter().map(part).collect::<Result<Vec<_>, _>>()?;
    let source = ParquetSource::new(Arc::clone(schema));
    let scan = FileScanConfigBuilder::new(store_url(), Arc::new(source))
        .with_file_groups(vec![FileGroup::new(parts)])
        .build();
    let scan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(scan);
    let order = match keyed {
        Some(keyed) => keyed.ordering(),
        None => LexOrdering::new(sort_keys(schema)),
    };
    let sorted = match order {
        Some(order) => Arc::new(SortExec::new(order, scan)),
        None => scan,
    };
    sorted.execute(0, state.task_ctx())
}

fn part(file: &File) -> Result<PartitionedFile, DataFusionError> {
    let mut part = PartitionedFile::new("", file.file.size_bytes);
    // Parsed, not made from text: the path in the catalog is already in its encoded form.
    part.object_meta.location = Path::parse(&file.file.path)
        .map_err(|error| DataFusionError::ObjectStore(Box::new(error.into())))?;
    Ok(part)
}

fn sort_keys(schema: &Schema) -> Vec<PhysicalSortExpr> {
    let Some(time) = time_column(schema) else {
        return Vec::new();
    };
    let tags = (0..schema.fields().len())
        .filter(|at| is_marked(schema, *at, TAG_COLUMN) && is_text(schema.field(*at).data_type()));
    let key = |at: usize| {
        let column = Arc::new(Column::new(schema.field(at).name(), at));
        PhysicalSortExpr::new(column, SortOptions::default())
    };
    tags.chain([time]).map(key).collect()
}

/// What tags are; nobody gains from an order by a list or a struct.
fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        _ => false,
    }
}

fn is_marked(schema: &Schema, at: usize, mark: &str) -> bool {
    let found = schema.field(at).metadata().get(COLUMN_TYPE_KEY);
    found.is_some_and(|found| found == mark)
}

/// The column by whose range queries skip files: one marked as timestamp, else one called `time`.
/// Flushes choose it the same way.
pub(crate) fn time_column(schema: &Schema) -> Option<usize> {
    let timestamp = |at: &usize| matches!(schema.field(*at).data_type(), DataType::Timestamp(..));
    let mut columns = (0..schema.fields().len()).filter(timestamp);
    let named = || schema.index_of(TIME_COLUMN).ok().filter(timestamp);
    columns
        .find(|at| is_marked(schema, *at, TIMESTAMP_COLUMN))
        .or_else(named)
}
