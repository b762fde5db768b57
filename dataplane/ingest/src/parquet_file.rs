//! Rows of one table as one Parquet file.
//!
//! ZSTD, rows in sequence order or, of a table with a primary key, sorted by it, row groups of bounded
//! size, the Arrow schema embedded. The key-value metadata says whose rows they are, so that a file
//! explains itself without the catalog (`docs/reference/data-files.md`).

use arrow_array::RecordBatch;
use arrow_schema::{ArrowError, Schema, SchemaRef};
use bytes::Bytes;
use flightcluster_catalog::{IngesterId, SchemaVersion, SequenceNumber, Table, TableId};
use flightcluster_keys::{
    FORMAT, FORMAT_KEY, Key, NewestSorted, TABLE_KEY, storage_schema, time_column, widen_range,
};
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, Encoding, Type, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use crate::adapt::complete;
use crate::buffer::Row;
use crate::error::Error;
use crate::parts::Parts;

/// Sorted rows are put together so many at a time.
const SORTED_ROWS: usize = 8192;

/// An encoded file, not stored yet.
#[derive(Debug)]
pub(crate) struct EncodedFile {
    /// In pieces as [`Parts`] makes them.
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) rows: u64,
    pub(crate) first_sequence: SequenceNumber,
    pub(crate) last_sequence: SequenceNumber,
    pub(crate) schema_version: SchemaVersion,
    pub(crate) time_range_nanos: Option<(i64, i64)>,
    /// By the primary key of the table.
    pub(crate) sorted: bool,
}

/// Encodes rows (at least one, in sequence order) in the current schema of their table. CPU-bound.
///
/// Of a table with a primary key the file has the orders too, and of each key only the newest row: the
/// others are of no use to anybody once a file holds a newer one. So a file holds a key once. Its rows are
/// sorted by key, so that queries need only merge it with others.
///
/// # Errors
/// [`Error::EncodeFile`], [`Error::Key`]. A panic of the encoder is the caller's to catch.
pub(crate) fn encode(
    table: &Table,
    (schema, key): (&SchemaRef, Option<&Key>),
    ingester: IngesterId,
    rows: &[Row],
    max_row_group_rows: usize,
) -> Result<EncodedFile, Error> {
    let failed = |source| Error::EncodeFile {
        table: table.name.clone(),
        source,
    };
    let (schema, contents) = contents(table, (schema, key), rows)?;
    let sequences = rows.iter().map(|row| row.sequence);
    let first_sequence = sequences.clone().min().unwrap_or_default();
    let last_sequence = sequences.max().unwrap_or_default();
    let metadata = [
        (FORMAT_KEY, FORMAT.to_string()),
        (TABLE_KEY, table.id.to_string()),
        (
            "flightcluster.schema_version",
            table.schema_version.to_string(),
        ),
        ("flightcluster.ingester_id", ingester.to_string()),
        ("flightcluster.first_sequence", first_sequence.to_string()),
        ("flightcluster.last_sequence", last_sequence.to_string()),
    ];
    let metadata = metadata.map(|(key, value)| KeyValue::new(key.to_owned(), value));
    let properties = file_properties(table, &schema, metadata.to_vec(), max_row_group_rows);
    let properties = properties.map_err(failed)?;
    let mut writer = ArrowWriter::try_new(
        Parts::default(),
        SchemaRef::clone(&schema),
        Some(properties),
    )
    .map_err(failed)?;
    let time_column = time_column(&schema);
    let mut time_range = Some((i64::MAX, i64::MIN));
    let mut count = 0;
    for batch in contents.batches() {
        let batch = batch.map_err(|source| Error::EncodeBatch { source })?;
        writer.write(&batch).map_err(failed)?;
        count += batch.num_rows() as u64;
        time_range = time_column.and_then(|at| widen_range(time_range?, batch.column(at)));
    }
    Ok(EncodedFile {
        pieces: writer.into_inner().map_err(failed)?.into_pieces(),
        rows: count,
        first_sequence,
        last_sequence,
        schema_version: table.schema_version,
        time_range_nanos: time_range.filter(|(low, high)| low <= high),
        sorted: matches!(contents, Contents::Sorted(_)),
    })
}

/// What goes into a file.
enum Contents {
    AsTheyCame(Vec<RecordBatch>),
    Sorted(NewestSorted),
}

impl Contents {
    fn batches(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + '_> {
        match self {
            Self::AsTheyCame(batches) => Box::new(batches.iter().cloned().map(Ok)),
            Self::Sorted(rows) => Box::new(rows.batches(SORTED_ROWS)),
        }
    }
}

/// What goes into the file, and its schema.
fn contents(
    table: &Table,
    (schema, key): (&SchemaRef, Option<&Key>),
    rows: &[Row],
) -> Result<(SchemaRef, Contents), Error> {
    let schema = match key {
        Some(_) => SchemaRef::new(storage_schema(schema)),
        None => SchemaRef::clone(schema),
    };
    let batches = rows
        .iter()
        .map(|row| complete(&table.name, &row.batch, &schema))
        .collect::<Result<Vec<_>, _>>()?;
    let Some(key) = key else {
        return Ok((schema, Contents::AsTheyCame(batches)));
    };
    let keys = key.places(&schema).map_err(Error::Key)?;
    // The last column of the storage schema.
    let order = schema.fields().len() - 1;
    let sorted = NewestSorted::of(&batches, &keys, order);
    let sorted = sorted.map_err(|source| Error::EncodeBatch { source })?;
    Ok((schema, Contents::Sorted(sorted)))
}

/// Where a file goes: `<database>/<table id>/<uuid>.parquet`; the uuid sorts by time.
pub(crate) fn path(database: &str, table: TableId) -> object_store::path::Path {
    let name = format!("{}.parquet", uuid::Uuid::now_v7());
    object_store::path::Path::from_iter([database, &table.to_string(), &name])
}

/// How often a Bloom filter says that a value may be there which is not.
const FALSE_POSITIVES: f64 = 0.01;

/// Values a Bloom filter begins with room for, at most: about 2 MiB while its row group is written.
const MOST_VALUES: u64 = 1 << 20;

/// How a file of a table is written in `schema`, by whomever.
///
/// Texts and bytes get a dictionary, which tags are made for. Numbers don't: a column of times or
/// measurements has as many values as rows, and building its dictionary only to give it up cost a
/// third of all encoding. Integers and times are stored as differences, which regular ones need
/// almost no bytes for. Bloom filters are written of the columns that the table's options name; each is
/// as large as what its row group holds needs.
///
/// # Errors
/// When the schema has no Parquet form.
pub fn file_properties(
    table: &Table,
    schema: &Schema,
    metadata: Vec<KeyValue>,
    max_row_group_rows: usize,
) -> Result<WriterProperties, ParquetError> {
    let max_row_group_rows = max_row_group_rows.max(1);
    let filtered: Vec<&str> = table.bloom_filters().collect();
    let values = MOST_VALUES.min(max_row_group_rows as u64);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(max_row_group_rows))
        .set_created_by(format!("flightcluster {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(metadata));
    for column in ArrowSchemaConverter::new().convert(schema)?.columns() {
        let path = column.path().clone();
        // Of nested columns queries can't use one.
        if let [name] = path.parts()
            && filtered.contains(&name.as_str())
        {
            properties = properties
                .set_column_bloom_filter_enabled(path.clone(), true)
                .set_column_bloom_filter_fpp(path.clone(), FALSE_POSITIVES)
                .set_column_bloom_filter_max_ndv(path.clone(), values);
        }
        properties = match column.physical_type() {
            Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY => {
                properties.set_column_dictionary_enabled(path, true)
            }
            Type::INT32 | Type::INT64 => {
                properties.set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
            }
            _ => properties,
        };
    }
    Ok(properties.build())
}
