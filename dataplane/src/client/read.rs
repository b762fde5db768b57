//! Opens the files that `flightcluster put` uploads: Parquet, CSV, Arrow IPC, newline-delimited JSON.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use arrow::csv;
use arrow::ipc::reader::{FileReader, StreamReader};
use arrow::json;
use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, SchemaRef};
use flightcluster_query::with_masks;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Rows a message: big enough to be fast, small enough for a smooth progress bar.
const BATCH_ROWS: usize = 65_536;

/// Rows of a CSV or JSON file looked at to find the types of its columns.
const INFER_ROWS: usize = 10_000;

/// First bytes of an Arrow IPC file; a stream starts otherwise.
const ARROW_FILE_MAGIC: &[u8] = b"ARROW1";

/// A file opened for upload.
pub(crate) struct Rows {
    /// Schema of every batch.
    pub(crate) schema: SchemaRef,
    /// Its batches.
    pub(crate) batches: Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>,
    /// How many rows there are, where the format tells.
    pub(crate) total_rows: Option<u64>,
}

/// Opens `path` by the ending of its name.
pub(crate) fn open(path: &Path) -> anyhow::Result<Rows> {
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or_default();
    let open = match ending.to_ascii_lowercase().as_str() {
        "parquet" | "pq" => open_parquet,
        "csv" => open_csv,
        "arrow" | "arrows" | "ipc" | "feather" => open_arrow,
        "ndjson" | "jsonl" | "json" => open_json,
        _ => bail!(
            "{}: unknown file type; known are .parquet, .csv, .arrow, .ndjson",
            path.display()
        ),
    };
    let file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
    open(file).with_context(|| format!("can't read {}", path.display()))
}

fn open_parquet(file: File) -> anyhow::Result<Rows> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let total_rows = u64::try_from(builder.metadata().file_metadata().num_rows()).ok();
    let reader = builder.with_batch_size(BATCH_ROWS).build()?;
    Ok(Rows {
        schema: arrow_array::RecordBatchReader::schema(&reader),
        // The reader leaves out nulls of lists of a fixed size, which a server would refuse.
        batches: Box::new(reader.map(|batch| batch.and_then(with_masks))),
        total_rows,
    })
}

fn open_csv(mut file: File) -> anyhow::Result<Rows> {
    let format = csv::reader::Format::default().with_header(true);
    let (schema, _) = format.infer_schema(BufReader::new(&file), Some(INFER_ROWS))?;
    file.rewind()?;
    let schema = Arc::new(schema);
    let reader = csv::ReaderBuilder::new(Arc::clone(&schema))
        .with_header(true)
        .with_batch_size(BATCH_ROWS)
        .build_buffered(BufReader::new(file))?;
    Ok(Rows {
        schema,
        batches: Box::new(reader),
        total_rows: None,
    })
}

fn open_json(file: File) -> anyhow::Result<Rows> {
    let mut reader = BufReader::new(file);
    let (schema, _) = json::reader::infer_json_schema(&mut reader, Some(INFER_ROWS))?;
    reader.rewind()?;
    let schema = Arc::new(schema);
    let reader = json::ReaderBuilder::new(Arc::clone(&schema))
        .with_batch_size(BATCH_ROWS)
        .build(reader)?;
    Ok(Rows {
        schema,
        batches: Box::new(reader),
        total_rows: None,
    })
}

fn open_arrow(mut file: File) -> anyhow::Result<Rows> {
    let mut magic = Vec::new();
    std::io::Read::by_ref(&mut file)
        .take(ARROW_FILE_MAGIC.len() as u64)
        .read_to_end(&mut magic)?;
    file.rewind()?;
    if magic == ARROW_FILE_MAGIC {
        let reader = FileReader::try_new_buffered(file, None)?;
        return Ok(Rows {
            schema: reader.schema(),
            batches: Box::new(reader),
            total_rows: None,
        });
    }
    let reader = StreamReader::try_new_buffered(file, None)?;
    Ok(Rows {
        schema: reader.schema(),
        batches: Box::new(reader),
        total_rows: None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use arrow_array::{
        Array as _, ArrayRef, FixedSizeListArray, Int64Array, StringArray, StructArray,
    };
    use arrow_schema::{DataType, Field, Schema};

    use super::*;

    fn sample() -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("n", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int64Array::from(vec![1, 2])),
                Arc::new(StringArray::from(vec!["a", "b"])),
            ],
        )
        .unwrap()
    }

    fn rows_of(path: &Path) -> RecordBatch {
        let rows = open(path).unwrap();
        let batches: Vec<_> = rows.batches.map(Result::unwrap).collect();
        arrow::compute::concat_batches(&rows.schema, &batches).unwrap()
    }

    #[test]
    fn every_format_gives_the_same_rows() {
        let folder = tempfile::tempdir().unwrap();
        let batch = sample();
        let path = |name: &str| folder.path().join(name);

        let mut csv = arrow::csv::Writer::new(File::create(path("a.csv")).unwrap());
        csv.write(&batch).unwrap();
        drop(csv);
        let mut json =
            arrow::json::LineDelimitedWriter::new(File::create(path("a.ndjson")).unwrap());
        json.write(&batch).unwrap();
        json.finish().unwrap();
        let file = File::create(path("a.arrow")).unwrap();
        let mut ipc = arrow::ipc::writer::FileWriter::try_new(file, &batch.schema()).unwrap();
        ipc.write(&batch).unwrap();
        ipc.finish().unwrap();
        let file = File::create(path("b.arrows")).unwrap();
        let mut ipc = arrow::ipc::writer::StreamWriter::try_new(file, &batch.schema()).unwrap();
        ipc.write(&batch).unwrap();
        ipc.finish().unwrap();
        let file = File::create(path("a.parquet")).unwrap();
        let mut parquet = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        parquet.write(&batch).unwrap();
        parquet.close().unwrap();

        for name in ["a.csv", "a.ndjson", "a.arrow", "b.arrows", "a.parquet"] {
            assert_eq!(rows_of(&path(name)), batch, "{name}");
        }
    }

    /// The Parquet reader leaves such a list without the nulls that its items have. No server takes that.
    #[test]
    fn a_list_of_a_fixed_size_below_a_null_struct_is_a_valid_array() {
        let folder = tempfile::tempdir().unwrap();
        let item = Arc::new(Field::new("item", DataType::Int64, false));
        let items = Arc::new(Int64Array::from(vec![0, 0, 3, 4]));
        let pairs = FixedSizeListArray::new(item, 2, items, None);
        let fields = vec![Field::new("pair", pairs.data_type().clone(), false)];
        let nulls = Some(vec![false, true].into());
        let structs = StructArray::new(fields.into(), vec![Arc::new(pairs)], nulls);
        let column: ArrayRef = Arc::new(structs);
        let batch = RecordBatch::try_from_iter_with_nullable([("c", column, true)]).unwrap();
        let path = folder.path().join("a.parquet");
        let file = File::create(&path).unwrap();
        let mut parquet = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        parquet.write(&batch).unwrap();
        parquet.close().unwrap();

        let found = rows_of(&path);
        found.column(0).to_data().validate_full().unwrap();
        assert_eq!(found, batch);
    }

    #[test]
    fn an_unknown_ending_is_explained() {
        let error = open(Path::new("rows.xlsx")).err().unwrap().to_string();
        assert!(error.contains(".parquet"), "{error}");
    }
}
