//! Rewriting files: every row and every type stays, rows are sorted, failures leave nothing.

use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeListBuilder, Int32Builder, ListBuilder, MapBuilder, StringBuilder,
};
use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, FixedSizeBinaryArray, Int64Array,
    IntervalDayTimeArray, IntervalYearMonthArray, NullArray, RecordBatch, StringArray, StructArray,
    TimestampNanosecondArray,
};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit};
use arrow_select::concat::concat_batches;
use flightcluster_catalog::{
    File, NewFile, SchemaVersion, SequenceNumber, SnapshotId, Table, TableId, TableName,
};
use flightcluster_keys::{FORMAT, FORMAT_KEY};
use futures::TryStreamExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::encode_schema;
use crate::rewrite::{RewriteRequest, Rewriter, RewriterOptions, Rewritten};

pub(super) const MIB: u64 = 1 << 20;

pub(super) struct Place {
    store: Arc<InMemory>,
    rewriter: Rewriter,
    _folder: TempDir,
}

fn properties(
    _: &Table,
    _: &Schema,
    metadata: Vec<KeyValue>,
    rows: usize,
) -> Result<WriterProperties, ParquetError> {
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(rows))
        .set_key_value_metadata(Some(metadata))
        .build())
}

impl Place {
    pub(super) fn new(memory_bytes: u64, target_bytes: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let store = Arc::new(InMemory::new());
        let rewriter = Rewriter::new(RewriterOptions {
            store: Arc::clone(&store) as Arc<dyn ObjectStore>,
            threads: 1,
            memory_bytes,
            spill_dir: folder.path().join("scratch"),
            target_bytes,
            max_row_group_rows: 100_000,
            properties,
        })
        .unwrap();
        Self {
            store,
            rewriter,
            _folder: folder,
        }
    }

    /// Stores a batch as a file of the catalog.
    pub(super) async fn file(&self, n: u64, batch: &RecordBatch) -> File {
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
        writer.write(batch).unwrap();
        // As every file of ours: so no file has exactly the schema of its table.
        let format = KeyValue::new(FORMAT_KEY.to_owned(), FORMAT.to_string());
        writer.append_key_value_metadata(format);
        writer.close().unwrap();
        let path = format!("db/7/input-{n}.parquet");
        let size_bytes = bytes.len() as u64;
        let location = Path::parse(&path).unwrap();
        self.store.put(&location, bytes.into()).await.unwrap();
        File {
            id: n,
            ingester: None,
            file: NewFile {
                table: TableId(7),
                path,
                size_bytes,
                rows: batch.num_rows() as u64,
                schema_version: SchemaVersion(1),
                first_sequence: SequenceNumber(10 * n),
                last_sequence: SequenceNumber(10 * n + 5),
                time_range_nanos: None,
                sorted: false,
            },
            begin_snapshot: SnapshotId(n),
        }
    }

    pub(super) async fn rewrite(&self, request: RewriteRequest) -> Rewritten {
        let never = CancellationToken::new();
        self.rewriter.rewrite(request, never).await.unwrap()
    }

    pub(super) async fn read(&self, file: &NewFile) -> RecordBatch {
        let path = Path::parse(&file.path).unwrap();
        let bytes = self.store.get(&path).await.unwrap().bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, file.size_bytes);
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let group = reader.metadata().row_group(0);
        assert!(matches!(
            group.column(0).compression(),
            Compression::ZSTD(_)
        ));
        let schema = Arc::clone(reader.schema());
        let batches: Result<Vec<_>, _> = reader.build().unwrap().collect();
        let batch = concat_batches(&schema, &batches.unwrap()).unwrap();
        assert_eq!(batch.num_rows() as u64, file.rows);
        // The reader puts what the file says of itself among the metadata of the schema.
        let mut metadata = schema.metadata().clone();
        metadata.retain(|key, _| !key.starts_with("flightcluster."));
        let schema = Schema::new_with_metadata(schema.fields().clone(), metadata);
        RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec()).unwrap()
    }

    async fn objects(&self) -> usize {
        let listed: Vec<_> = self.store.list(None).try_collect().await.unwrap();
        listed.len()
    }
}

pub(super) fn table(schema: &SchemaRef) -> Table {
    Table {
        id: TableId(7),
        name: TableName::public("db", "t"),
        schema: encode_schema(schema).unwrap(),
        schema_version: SchemaVersion(3),
        options: Default::default(),
        database_options: Default::default(),
        created_at_millis: 0,
    }
}

fn request(schema: &SchemaRef, files: Vec<File>) -> RewriteRequest {
    RewriteRequest {
        table: table(schema),
        files,
        keep_from_nanos: None,
        remove: None,
    }
}

fn times(values: &[i64]) -> ArrayRef {
    Arc::new(TimestampNanosecondArray::from(values.to_vec()))
}

fn words() -> ArrayRef {
    let words = [Some("short"), None, Some("longer than twelve bytes")];
    Arc::new(StringArray::from(words.to_vec()))
}

fn ints() -> ArrayRef {
    Arc::new(Int64Array::from(vec![Some(1), None, Some(100)]))
}

fn plain_types() -> Vec<ArrayRef> {
    use DataType::*;
    use TimeUnit::*;
    let mut types = vec![
        Int8,
        Int16,
        Int32,
        Int64,
        UInt8,
        UInt16,
        UInt32,
        UInt64,
        Float16,
        Float32,
        Float64,
        Boolean,
        Decimal32(9, 2),
        Decimal64(18, 3),
        Decimal128(38, 0),
        Decimal256(76, 20),
        Date64,
        Time64(Microsecond),
        Time64(Nanosecond),
    ];
    for unit in [Second, Millisecond, Microsecond, Nanosecond] {
        for zone in [None, Some("UTC"), Some("Europe/Prague"), Some("+02:00")] {
            types.push(Timestamp(unit, zone.map(Into::into)));
        }
        types.push(Duration(unit));
    }
    let mut columns: Vec<_> = types.iter().map(|to| cast(&ints(), to).unwrap()).collect();
    let small = cast(&ints(), &Int32).unwrap();
    for to in [Date32, Time32(Second), Time32(Millisecond)] {
        columns.push(cast(&small, &to).unwrap());
    }
    for to in [Utf8, LargeUtf8, Utf8View, Binary, LargeBinary, BinaryView] {
        columns.push(cast(&words(), &to).unwrap());
    }
    for keys in [Int32, Int64, UInt32, UInt64] {
        let to = Dictionary(Box::new(keys), Box::new(Utf8));
        columns.push(cast(&words(), &to).unwrap());
    }
    for values in [Binary, LargeUtf8, Int64, Float64] {
        let all: ArrayRef = match values {
            Binary | LargeUtf8 => cast(&words(), &values).unwrap(),
            _ => cast(&ints(), &values).unwrap(),
        };
        let keys = arrow_array::Int32Array::from(vec![Some(2), None, Some(0)]);
        columns.push(Arc::new(
            DictionaryArray::<Int32Type>::try_new(keys, all).unwrap(),
        ));
    }
    columns
}

fn odd_types() -> Vec<ArrayRef> {
    let fixed = [Some([1_u8, 2, 3]), None, Some([4, 5, 6])].into_iter();
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 3).unwrap();
    let months = IntervalYearMonthArray::from(vec![Some(14), None, Some(-1)]);
    let days: ArrayRef = {
        let value = arrow_array::types::IntervalDayTime::new(3, 500);
        Arc::new(IntervalDayTimeArray::from(vec![
            Some(value),
            None,
            Some(value),
        ]))
    };
    assert_eq!(days.data_type(), &DataType::Interval(IntervalUnit::DayTime));
    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.values().append_value("x");
    lists.values().append_null();
    lists.append(true);
    lists.append(false);
    lists.values().append_value("y");
    lists.append(true);
    let list: ArrayRef = Arc::new(lists.finish());
    let item = match list.data_type() {
        DataType::List(item) => Arc::clone(item),
        other => panic!("{other}"),
    };
    let other_lists = [
        DataType::LargeList(Arc::clone(&item)),
        DataType::ListView(Arc::clone(&item)),
        DataType::LargeListView(item),
    ];
    let mut pairs = FixedSizeListBuilder::new(Int32Builder::new(), 2);
    for (a, b, valid) in [
        (Some(1), None, true),
        (None, None, false),
        (Some(3), Some(4), true),
    ] {
        pairs.values().append_option(a);
        pairs.values().append_option(b);
        pairs.append(valid);
    }
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("a");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.keys().append_value("b");
    map.values().append_value(7);
    map.append(true).unwrap();
    let fields = Fields::from(vec![
        Field::new("inner", DataType::Utf8, true),
        Field::new("always", DataType::Boolean, false),
    ]);
    let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true, false, true]));
    let nulls = Some(vec![true, true, false].into());
    let record = StructArray::new(fields, vec![words(), flags], nulls);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(fixed),
        Arc::new(months),
        days,
        Arc::new(NullArray::new(3)),
        Arc::clone(&list),
        Arc::new(pairs.finish()),
        Arc::new(map.finish()),
        Arc::new(record),
    ];
    columns.extend(other_lists.iter().map(|to| cast(&list, to).unwrap()));
    columns
}

/// What a value is, whatever its layout: dictionaries and list offsets may differ.
fn shown(batch: &RecordBatch) -> String {
    datafusion::arrow::util::pretty::pretty_format_batches(std::slice::from_ref(batch))
        .unwrap()
        .to_string()
}

#[tokio::test]
async fn every_type_survives_with_and_without_sorting() {
    for column in plain_types().into_iter().chain(odd_types()) {
        for timed in [false, true] {
            let place = Place::new(64 * MIB, MIB);
            let key = [("iox::column::type", "iox::column_type::field::float")];
            let key = key.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let value = Field::new("Väl ue", column.data_type().clone(), true);
            let mut fields = vec![value.with_metadata(key.into())];
            let mut columns = vec![Arc::clone(&column)];
            if timed {
                let to = DataType::Timestamp(TimeUnit::Nanosecond, None);
                fields.push(Field::new("time", to, false));
                columns.push(times(&[1, 2, 3]));
            }
            let of = [("source".to_owned(), "test".to_owned())];
            let schema: SchemaRef = Arc::new(Schema::new_with_metadata(fields, of.into()));
            let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
            let (late, early) = (batch.slice(1, 2), batch.slice(0, 1));
            // In the order of the files, or in that of the times.
            let files = match timed {
                false => vec![place.file(1, &early).await, place.file(2, &late).await],
                true => vec![place.file(1, &late).await, place.file(2, &early).await],
            };
            let rewritten = place.rewrite(request(&schema, files)).await;
            let [output] = &rewritten.outputs[..] else {
                panic!("one output expected: {rewritten:?}");
            };
            let read = place.read(output).await;
            assert_eq!(read.schema(), schema, "{}", column.data_type());
            assert_eq!(shown(&read), shown(&batch), "{}", column.data_type());
            assert_eq!(
                read.column(0).logical_null_count(),
                column.logical_null_count()
            );
        }
    }
}

/// The Parquet reader leaves nulls out of lists of a fixed size below structs that are null. Arrays without
/// them can't be sorted.
#[tokio::test]
async fn lists_of_a_fixed_size_below_null_structs_survive_sorting() {
    let column = crate::masks::tests::column();
    let to = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("c", column.data_type().clone(), true),
        Field::new("time", to, false),
    ]));
    let columns = vec![column, times(&[2, 1])];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let place = Place::new(64 * MIB, MIB);
    let files = vec![place.file(1, &batch).await];
    let rewritten = place.rewrite(request(&schema, files)).await;
    let [output] = &rewritten.outputs[..] else {
        panic!("one output expected: {rewritten:?}");
    };
    let read = crate::with_masks(place.read(output).await).unwrap();
    let backwards = arrow_array::UInt32Array::from(vec![1, 0]);
    let expected = arrow_select::take::take_record_batch(&batch, &backwards).unwrap();
    assert_eq!(read, expected);
}

fn rows_schema() -> SchemaRef {
    let tag = [(
        "iox::column::type".to_owned(),
        "iox::column_type::tag".to_owned(),
    )];
    let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    Arc::new(Schema::new(vec![
        Field::new("host", dictionary, true).with_metadata(tag.into()),
        Field::new(
            "time",
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            true,
        ),
        Field::new("id", DataType::Int64, false),
    ]))
}

/// Rows `from..to`: hosts and times in no order.
fn some_rows(from: i64, to: i64) -> RecordBatch {
    let hosts = (from..to).map(|id| match id % 5 {
        0 => None,
        n => Some(format!("host-{n}")),
    });
    let hosts: StringArray = hosts.collect();
    let schema = rows_schema();
    let hosts = cast(&hosts, schema.field(0).data_type()).unwrap();
    let moments: Vec<_> = (from..to).map(|id| id * 7919 % 10_007).collect();
    let ids: Int64Array = (from..to).collect();
    RecordBatch::try_new(schema, vec![hosts, times(&moments), Arc::new(ids)]).unwrap()
}

fn ids(batch: &RecordBatch) -> Vec<i64> {
    let column = batch.column_by_name("id").unwrap();
    let column = column.as_any().downcast_ref::<Int64Array>().unwrap();
    column.values().to_vec()
}

#[tokio::test]
async fn rows_are_sorted_by_tags_and_time_over_several_outputs_of_the_target_size() {
    let place = Place::new(64 * MIB, 200_000);
    let mut files = Vec::new();
    for n in 0..20 {
        files.push(
            place
                .file(n as u64, &some_rows(n * 5000, (n + 1) * 5000))
                .await,
        );
    }
    let rewritten = place.rewrite(request(&rows_schema(), files)).await;
    assert!(rewritten.outputs.len() > 2, "{}", rewritten.outputs.len());
    assert_eq!(rewritten.removed_rows, 0);
    let (mut found, mut keys) = (Vec::new(), Vec::new());
    for output in &rewritten.outputs {
        assert!(output.size_bytes < 600_000, "{}", output.size_bytes);
        assert_eq!(output.schema_version, SchemaVersion(3));
        assert_eq!(output.first_sequence, SequenceNumber(0));
        assert_eq!(output.last_sequence, SequenceNumber(195));
        let batch = place.read(output).await;
        let hosts = cast(batch.column(0), &DataType::Utf8).unwrap();
        let hosts = hosts
            .as_any()
            .downcast_ref::<StringArray>()
            .unwrap()
            .clone();
        let moments = batch.column(1).as_any();
        let moments = moments.downcast_ref::<TimestampNanosecondArray>().unwrap();
        let range = (
            *moments.values().iter().min().unwrap(),
            *moments.values().iter().max().unwrap(),
        );
        assert_eq!(output.time_range_nanos, Some(range));
        let host = |at| hosts.is_valid(at).then(|| hosts.value(at).to_owned());
        keys.extend((0..batch.num_rows()).map(|at| (host(at), moments.value(at))));
        found.extend(ids(&batch));
    }
    assert!(keys.is_sorted());
    found.sort_unstable();
    assert_eq!(found, (0..100_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn more_rows_than_memory_go_to_scratch_and_large_outputs_go_in_parts() {
    let place = Place::new(24 * MIB, 1 << 40);
    let text = |n: i64| -> ArrayRef {
        // Text that does not compress: larger than a part, and than the memory while sorting.
        let words = (0..40_000_u64).map(|at| {
            let mut word = String::new();
            for k in 0..16_u64 {
                let seed = (n as u64) << 40 | at << 8 | k;
                let hash = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
                word.push_str(&format!(
                    "{:016x}",
                    hash.wrapping_mul(0xbf58_476d_1ce4_e5b9)
                ));
            }
            word
        });
        Arc::new(StringArray::from_iter_values(words))
    };
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new(
            "time",
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            false,
        ),
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, false),
    ]));
    let (mut files, mut bytes) = (Vec::new(), 0);
    for n in 0..4_i64 {
        let all: Vec<i64> = (n * 40_000..(n + 1) * 40_000).collect();
        let moments: Vec<_> = all.iter().map(|id| -id).collect();
        let columns = vec![
            times(&moments),
            Arc::new(Int64Array::from(all)) as ArrayRef,
            text(n),
        ];
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        bytes += batch.get_array_memory_size();
        files.push(place.file(n as u64, &batch).await);
    }
    assert!(bytes > 30 * MIB as usize, "{bytes}");
    let rewritten = place.rewrite(request(&schema, files)).await;
    let [output] = &rewritten.outputs[..] else {
        panic!("one output expected: {}", rewritten.outputs.len());
    };
    assert!(output.size_bytes > 9 * MIB, "{}", output.size_bytes);
    let read = place.read(output).await;
    assert_eq!(ids(&read), (0..160_000).rev().collect::<Vec<_>>());
}

#[tokio::test]
async fn files_of_older_schemas_get_nulls_for_the_columns_they_lack() {
    let place = Place::new(64 * MIB, MIB);
    let old = some_rows(0, 10).project(&[2]).unwrap();
    let files = vec![
        place.file(1, &old).await,
        place.file(2, &some_rows(10, 20)).await,
    ];
    let rewritten = place.rewrite(request(&rows_schema(), files)).await;
    let read = place.read(&rewritten.outputs[0]).await;
    assert_eq!(read.schema(), rows_schema());
    let mut found = ids(&read);
    found.sort_unstable();
    assert_eq!(found, (0..20).collect::<Vec<_>>());
    assert_eq!(read.column(1).null_count(), 10);
    // A row without a time must not be skipped by time.
    assert_eq!(rewritten.outputs[0].time_range_nanos, None);
}

#[tokio::test]
async fn rows_that_are_too_old_are_left_out_and_counted() {
    let place = Place::new(64 * MIB, MIB);
    let files = vec![place.file(1, &some_rows(0, 1000)).await];
    let moments = |ids: Vec<i64>| ids.into_iter().map(|id| id * 7919 % 10_007);
    let from = 5000;
    let young = moments((0..1000).collect())
        .filter(|at| *at >= from)
        .count();
    let mut request = request(&rows_schema(), files);
    request.keep_from_nanos = Some(from);
    let rewritten = place.rewrite(request.clone()).await;
    assert_eq!(rewritten.removed_rows, 1000 - young as u64);
    let read = place.read(&rewritten.outputs[0]).await;
    assert_eq!(read.num_rows(), young);
    assert!(moments(ids(&read)).all(|at| at >= from));
    request.keep_from_nanos = Some(i64::MAX);
    let nothing = place.rewrite(request).await;
    assert_eq!((nothing.outputs.len(), nothing.removed_rows), (0, 1000));
}

#[tokio::test]
async fn a_file_with_other_rows_than_the_catalog_says_is_not_rewritten() {
    let place = Place::new(64 * MIB, MIB);
    let mut file = place.file(1, &some_rows(0, 100)).await;
    file.file.rows = 101;
    let never = CancellationToken::new();
    let refused = place
        .rewriter
        .rewrite(request(&rows_schema(), vec![file]), never);
    let error = refused.await.unwrap_err();
    assert_eq!(error.category(), "rows");
    assert_eq!(place.objects().await, 1);
}

#[tokio::test]
async fn a_missing_file_fails_the_rewrite_and_leaves_nothing() {
    // Outputs so small that some are complete before the missing file is reached.
    let place = Place::new(64 * MIB, 1);
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    let plain = |batch: RecordBatch| {
        let columns = vec![Arc::clone(batch.column(2))];
        RecordBatch::try_new(Arc::clone(&schema), columns).unwrap()
    };
    let first = place.file(1, &plain(some_rows(0, 100))).await;
    let mut missing = place.file(2, &plain(some_rows(100, 200))).await;
    missing.file.path = "db/7/missing.parquet".to_owned();
    let never = CancellationToken::new();
    let failed = place
        .rewriter
        .rewrite(request(&schema, vec![first, missing]), never);
    assert_eq!(failed.await.unwrap_err().category(), "read");
    assert_eq!(place.objects().await, 2);
}

#[tokio::test]
async fn told_to_stop_it_leaves_nothing() {
    let place = Place::new(64 * MIB, MIB);
    let files = vec![place.file(1, &some_rows(0, 100)).await];
    let stop = CancellationToken::new();
    stop.cancel();
    let stopped = place.rewriter.rewrite(request(&rows_schema(), files), stop);
    assert_eq!(stopped.await.unwrap_err().category(), "stopped");
    assert_eq!(place.objects().await, 1);
}
