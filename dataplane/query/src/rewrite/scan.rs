//! The rows of some files, sorted, in one stream.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
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
use flightcluster_keys::{COLUMN_TYPE_KEY, time_column};
use object_store::path::Path;

use crate::masks::Masking;
use crate::provider::Keyed;
use crate::session::store_url;

/// What [`COLUMN_TYPE_KEY`] says of a tag.
const TAG_COLUMN: &str = "iox::column_type::tag";

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
        .with_expr_adapter(Some(Arc::new(Masking)))
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
    let tags = (0..schema.fields().len()).filter(|at| is_tag(schema.field(*at)));
    let key = |at: usize| {
        let column = Arc::new(Column::new(schema.field(at).name(), at));
        PhysicalSortExpr::new(column, SortOptions::default())
    };
    tags.chain([time]).map(key).collect()
}

fn is_tag(field: &Field) -> bool {
    let mark = field.metadata().get(COLUMN_TYPE_KEY);
    mark.is_some_and(|mark| mark == TAG_COLUMN) && is_text(field.data_type())
}

/// What tags are; nobody gains from an order by a list or a struct.
fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        _ => false,
    }
}
