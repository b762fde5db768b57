//! How many rows a query handles at once, so that a batch of wide rows is not larger than others.
//!
//! The engine counts batches in rows. With rows of some KiB, 8,192 of them are more than a query may have.
//! What a row takes is estimated: columns of fixed width are known, of the rest it is what the files have,
//! several times over for the compression and whichever columns are read, and what fresh rows take. Pure.

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use arrow_schema::{DataType, Schema};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool};
use flightcluster_catalog::File;

/// Most bytes of a batch.
const BATCH_BYTES: u64 = 8 << 20;

/// Batches that would fill the memory of all queries.
const BATCHES_IN_MEMORY: u64 = 64;

/// Fewest rows: handling fewer at once costs more than it saves.
pub(crate) const FEWEST_ROWS: usize = 16;

/// Rows that are wide wherever they are: so many fill a batch.
const FEW_ROWS: u64 = 1024;

/// Bytes in memory for one in a file.
const COMPRESSION: u64 = 4;

/// About what a Parquet file says of itself and of each column: most of a small file.
const OF_FILE: u64 = 1 << 10;
const OF_COLUMN: u64 = 512;

/// Most batches of fresh rows that are looked at: there may be one for each row.
const SAMPLES: usize = 16;

/// Share of the memory of all queries that the inputs of a merge may take.
const SHARE: u64 = 4;

/// Batches that an input of a merge has in memory: one that is merged, one that waits, one that is read.
const BATCHES_OF_INPUT: u64 = 3;

/// Bytes of a batch of a query.
pub(crate) fn of_batch(pool: &dyn MemoryPool) -> u64 {
    limit(pool).map_or(BATCH_BYTES, |bytes| {
        BATCH_BYTES.min(bytes / BATCHES_IN_MEMORY)
    })
}

/// Bytes of a batch of each of so many inputs of a merge.
pub(crate) fn of_input(pool: &dyn MemoryPool, inputs: usize) -> u64 {
    limit(pool).map_or(BATCH_BYTES, |bytes| {
        bytes / SHARE / BATCHES_OF_INPUT / (inputs as u64).max(1)
    })
}

fn limit(pool: &dyn MemoryPool) -> Option<u64> {
    match pool.memory_limit() {
        MemoryLimit::Finite(bytes) => Some(bytes as u64),
        MemoryLimit::Infinite | MemoryLimit::Unknown => None,
    }
}

/// How many rows of so many bytes each are a batch of `bytes`, at most `most`; 0 when not even one is.
pub(crate) fn rows(bytes: u64, of_row: u64, most: usize) -> usize {
    usize::try_from(bytes / of_row.max(1)).map_or(most, |rows| rows.min(most))
}

/// Whether rows of so many bytes each are wide even when they are few.
pub(crate) fn is_wide(row: u64, batch_bytes: u64) -> bool {
    row > batch_bytes / FEW_ROWS
}

/// About how many bytes in memory a row of these files takes.
pub(crate) fn of_row_of(files: &[File], schema: &Schema) -> u64 {
    let columns: Vec<usize> = (0..schema.fields().len()).collect();
    of_row(schema, &columns, files.iter(), &[])
}

/// About how many bytes in memory the columns of a row take. Of the fresh rows some batches are looked at.
pub(crate) fn of_row<'a>(
    schema: &Schema,
    columns: &[usize],
    files: impl Iterator<Item = &'a File>,
    fresh: &[&RecordBatch],
) -> u64 {
    let widths = columns
        .iter()
        .map(|at| width(schema.field(*at).data_type()));
    let fixed = widths.clone().flatten().sum::<usize>() as u64;
    if widths.clone().all(|width| width.is_some()) {
        return fixed;
    }
    let about_itself = OF_FILE + OF_COLUMN * schema.fields().len() as u64;
    let of_files = files.map(|file| {
        let bytes = file.file.size_bytes.saturating_sub(about_itself);
        (file.file.rows, bytes.saturating_mul(COMPRESSION))
    });
    let step = fresh.len().div_ceil(SAMPLES).max(1);
    let of_fresh = fresh
        .iter()
        .step_by(step)
        .map(|batch| (batch.num_rows() as u64, taken(batch)));
    fixed + average(of_files).max(average(of_fresh))
}

fn average(rows_and_bytes: impl Iterator<Item = (u64, u64)>) -> u64 {
    let (rows, bytes) = rows_and_bytes.fold((0_u64, 0_u64), |(rows, bytes), of_one| {
        (
            rows.saturating_add(of_one.0),
            bytes.saturating_add(of_one.1),
        )
    });
    bytes / rows.max(1)
}

/// Bytes of the values of varying width, not of the buffers they are in: those may be shared.
fn taken(batch: &RecordBatch) -> u64 {
    let of_column = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8View => column.as_string_view().total_bytes_len(),
        DataType::BinaryView => column.as_binary_view().total_bytes_len(),
        _ => column.to_data().get_slice_memory_size().unwrap_or(0),
    };
    let columns = batch.columns().iter();
    let varying = columns.filter(|column| width(column.data_type()).is_none());
    varying.map(of_column).sum::<usize>() as u64
}

/// Bytes of a value, if all values have as many.
fn width(data_type: &DataType) -> Option<usize> {
    match data_type {
        DataType::Null | DataType::Boolean => Some(1),
        DataType::FixedSizeBinary(width) => usize::try_from(*width).ok(),
        DataType::FixedSizeList(value, length) => {
            Some(width(value.data_type())?.saturating_mul(usize::try_from(*length).ok()?))
        }
        DataType::Struct(fields) => fields.iter().map(|field| width(field.data_type())).sum(),
        DataType::Dictionary(key, _) => key.primitive_width(),
        other => other.primitive_width(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{DictionaryArray, Int32Array, Int64Array, StringArray};
    use arrow_schema::Field;
    use datafusion::execution::memory_pool::{GreedyMemoryPool, UnboundedMemoryPool};
    use flightcluster_catalog::{NewFile, SchemaVersion, SequenceNumber, SnapshotId, TableId};

    use super::*;

    fn file(rows: u64, size_bytes: u64) -> File {
        File {
            id: 1,
            ingester: None,
            file: NewFile {
                table: TableId(1),
                path: String::new(),
                size_bytes,
                rows,
                schema_version: SchemaVersion(1),
                first_sequence: SequenceNumber(1),
                last_sequence: SequenceNumber(1),
                time_range_nanos: None,
                sorted: false,
            },
            begin_snapshot: SnapshotId(1),
        }
    }

    #[test]
    fn a_row_takes_what_its_columns_do_and_texts_what_files_and_fresh_rows_have() {
        let item = Field::new("item", DataType::Float32, true);
        let vector = DataType::FixedSizeList(Arc::new(item), 1024);
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("text", DataType::Utf8View, true),
            Field::new("vector", vector, true),
        ]);
        let about_itself = OF_FILE + 3 * OF_COLUMN;
        let files = [90_000, 110_000].map(|bytes| file(1000, about_itself + bytes));
        let row = |columns: &[usize], fresh: &[RecordBatch]| {
            let fresh: Vec<_> = fresh.iter().collect();
            of_row(&schema, columns, files.iter(), &fresh)
        };
        let texts = |text: &str, rows| {
            let texts: ArrayRef = Arc::new(StringArray::from_iter_values(vec![text; rows]));
            RecordBatch::try_from_iter([("text", texts)]).unwrap()
        };
        let wide = [texts(&"x".repeat(5_000), 1)];
        // Numbers are as wide as they are, whatever else is in the files.
        assert_eq!(row(&[0], &wide), 8);
        assert_eq!(row(&[0, 2], &[]), 8 + 4096);
        assert_eq!(row(&[0, 1], &[]), 8 + 4 * 100);
        let found = row(&[0, 1], &wide);
        assert!((5_000..5_100).contains(&found), "{found}");
        assert_eq!(of_row(&schema, &[1], [].iter(), &[]), 0);
        // Small files are mostly about themselves, and one row of many has their buffers too.
        let small = [file(2, 2_000)];
        assert_eq!(of_row(&schema, &[1], small.iter(), &[]), 0);
        let number: ArrayRef = Arc::new(Int64Array::from(vec![7]));
        let words = StringArray::from_iter_values((0..5_000).map(|n| n.to_string()));
        let tag = DictionaryArray::new(Int32Array::from(vec![3]), Arc::new(words));
        let tagged = [("number", number), ("tag", Arc::new(tag) as ArrayRef)];
        let tagged = [RecordBatch::try_from_iter(tagged).unwrap()];
        assert_eq!(row(&[1], &tagged), 4 * 100);
        let all = texts("short", 10_000);
        let slices: Vec<_> = (0..1_000).map(|at| all.slice(at, 1)).collect();
        let found = row(&[1], &slices);
        assert_eq!(found, 4 * 100);
    }

    #[test]
    fn a_batch_has_fewer_rows_the_wider_they_are_and_as_many_as_usual_when_they_are_narrow() {
        assert_eq!(rows(1 << 20, 100, 8192), 8192);
        assert_eq!(rows(1 << 20, 1024, 8192), 1024);
        assert_eq!(rows(1 << 20, 2 << 20, 8192), 0);
        assert_eq!(rows(1 << 20, 0, 8192), 8192);
    }

    #[test]
    fn batches_are_a_small_part_of_the_memory_and_the_inputs_of_a_merge_a_quarter() {
        let pool = GreedyMemoryPool::new(120 << 20);
        assert_eq!(of_batch(&pool), (120 << 20) / 64);
        assert_eq!(of_batch(&GreedyMemoryPool::new(64 << 30)), BATCH_BYTES);
        assert_eq!(of_input(&pool, 10), 1 << 20);
        assert_eq!(of_input(&UnboundedMemoryPool::default(), 10), BATCH_BYTES);
    }
}
