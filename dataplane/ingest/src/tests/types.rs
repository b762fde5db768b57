//! Every Arrow type: kept exactly, normalised, or refused, from the stream through buffer, log and
//! file.

use std::sync::Arc;

use arrow_array::builder::{
    FixedSizeListBuilder, Int32Builder, ListBuilder, MapBuilder, StringBuilder,
};
use arrow_array::types::{
    Int8Type, Int16Type, Int32Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array as _, BinaryViewArray, BooleanArray, Decimal32Array, Decimal128Array, DictionaryArray,
    FixedSizeBinaryArray, Int32RunArray, IntervalDayTimeArray, IntervalMonthDayNanoArray,
    IntervalYearMonthArray, LargeListViewArray, ListViewArray, NullArray, StringArray,
    StringViewArray, StructArray, TimestampMicrosecondArray, UnionArray, new_null_array,
};
use arrow_buffer::{IntervalDayTime, IntervalMonthDayNano, ScalarBuffer};
use arrow_cast::cast;
use arrow_schema::{Fields, IntervalUnit, TimeUnit, UnionFields};
use flightcluster_keys::METADATA_KEY;

use super::*;

enum Fate {
    Kept,
    Becomes(DataType),
    Refused,
}

fn ints() -> ArrayRef {
    Arc::new(Int64Array::from(vec![Some(1), None, Some(100)]))
}

fn words() -> ArrayRef {
    Arc::new(StringArray::from(vec![
        Some("short"),
        None,
        Some("longer than twelve bytes"),
    ]))
}

fn as_type(array: &ArrayRef, to: DataType) -> ArrayRef {
    let cast = cast(array, &to).unwrap();
    assert_eq!(cast.data_type(), &to);
    assert_eq!(cast.logical_null_count(), 1);
    cast
}

fn dictionary<K: arrow_array::types::ArrowDictionaryKeyType>(values: ArrayRef) -> ArrayRef
where
    K::Native: TryFrom<u8>,
    <K::Native as TryFrom<u8>>::Error: std::fmt::Debug,
{
    let key = |n: u8| K::Native::try_from(n).unwrap();
    let keys = [Some(key(0)), None, Some(key(2))].into_iter();
    let keys = arrow_array::PrimitiveArray::<K>::from_iter(keys);
    Arc::new(DictionaryArray::<K>::try_new(keys, values).unwrap())
}

fn runs(values: ArrayRef) -> ArrayRef {
    let ends = arrow_array::Int32Array::from(vec![1, 2, 3]);
    Arc::new(Int32RunArray::try_new(&ends, values.as_ref()).unwrap())
}

fn list_of(values: ArrayRef, name: &str, make: impl Fn(Arc<Field>) -> DataType) -> ArrayRef {
    let item = Arc::new(Field::new(name, values.data_type().clone(), true));
    let offsets = arrow_buffer::OffsetBuffer::new(ScalarBuffer::from(vec![0, 2, 2, 3]));
    let nulls = arrow_buffer::NullBuffer::from(vec![true, false, true]);
    let list = arrow_array::ListArray::new(Arc::clone(&item), offsets, values, Some(nulls));
    cast(&list, &make(item)).unwrap()
}

fn struct_of(values: ArrayRef) -> ArrayRef {
    let fields = Fields::from(vec![
        Field::new("inner", values.data_type().clone(), true),
        Field::new("always", DataType::Boolean, false),
    ]);
    let flags = Arc::new(BooleanArray::from(vec![true, false, true])) as ArrayRef;
    let nulls = arrow_buffer::NullBuffer::from(vec![true, true, false]);
    Arc::new(StructArray::new(fields, vec![values, flags], Some(nulls)))
}

fn map() -> ArrayRef {
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("a");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(false).unwrap();
    map.keys().append_value("b");
    map.values().append_value(7);
    map.append(true).unwrap();
    Arc::new(map.finish())
}

fn union() -> ArrayRef {
    let fields = [(0, Arc::new(Field::new("a", DataType::Int64, true)))];
    let fields: UnionFields = fields.into_iter().collect();
    let ids = ScalarBuffer::from(vec![0_i8, 0, 0]);
    Arc::new(UnionArray::try_new(fields, ids, None, vec![ints()]).unwrap())
}

fn numeric_types() -> Vec<(ArrayRef, Fate)> {
    use DataType::*;
    let types = [
        Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float16, Float32, Float64,
    ];
    let mut cases: Vec<_> = types
        .into_iter()
        .map(|to| (as_type(&ints(), to), Fate::Kept))
        .collect();
    cases.push((as_type(&ints(), Boolean), Fate::Kept));
    for decimal in [
        Decimal32(9, 2),
        Decimal64(18, 3),
        Decimal128(38, 0),
        Decimal128(20, 10),
    ] {
        cases.push((as_type(&ints(), decimal), Fate::Kept));
    }
    cases.push((as_type(&ints(), Decimal256(76, 20)), Fate::Kept));
    let digits = || vec![Some(1), None, Some(-9)];
    for scale in [0, 1] {
        let digit = Decimal32Array::from(digits());
        let digit = digit.with_precision_and_scale(1, scale).unwrap();
        cases.push((Arc::new(digit), Fate::Becomes(Decimal64(1, scale))));
    }
    let negative = Decimal128Array::from(vec![Some(1), None, Some(3)]);
    let negative = negative.with_precision_and_scale(10, -2).unwrap();
    cases.push((Arc::new(negative), Fate::Refused));
    cases
}

fn time_types() -> Vec<(ArrayRef, Fate)> {
    use DataType::*;
    use TimeUnit::*;
    let mut cases = Vec::new();
    for unit in [Second, Millisecond, Microsecond, Nanosecond] {
        for zone in [None, Some("UTC"), Some("Europe/Prague"), Some("+02:00")] {
            let timestamp = Timestamp(unit, zone.map(Into::into));
            cases.push((as_type(&ints(), timestamp), Fate::Kept));
        }
        cases.push((as_type(&ints(), Duration(unit)), Fate::Kept));
    }
    let days = as_type(&as_type(&ints(), Int32), Date32);
    cases.push((days, Fate::Kept));
    cases.push((as_type(&ints(), Date64), Fate::Kept));
    for time in [Time32(Second), Time32(Millisecond)] {
        cases.push((as_type(&as_type(&ints(), Int32), time), Fate::Kept));
    }
    for time in [Time64(Microsecond), Time64(Nanosecond)] {
        cases.push((as_type(&ints(), time), Fate::Kept));
    }
    let months = IntervalYearMonthArray::from(vec![Some(14), None, Some(-1)]);
    let day_time = IntervalDayTime::new(3, 500);
    let days = IntervalDayTimeArray::from(vec![Some(day_time), None, Some(day_time)]);
    let nano = IntervalMonthDayNano::new(1, 2, 3);
    let nanos = IntervalMonthDayNanoArray::from(vec![Some(nano), None, Some(nano)]);
    assert_eq!(nanos.data_type(), &Interval(IntervalUnit::MonthDayNano));
    cases.push((Arc::new(months), Fate::Kept));
    cases.push((Arc::new(days), Fate::Kept));
    cases.push((Arc::new(nanos), Fate::Refused));
    cases
}

fn byte_types() -> Vec<(ArrayRef, Fate)> {
    use DataType::*;
    let types = [Utf8, LargeUtf8, Utf8View, Binary, LargeBinary, BinaryView];
    let mut cases: Vec<_> = types
        .into_iter()
        .map(|to| (as_type(&words(), to), Fate::Kept))
        .collect();
    let fixed = [Some([1_u8, 2, 3]), None, Some([4, 5, 6])].into_iter();
    let fixed = FixedSizeBinaryArray::try_from_sparse_iter_with_size(fixed, 3).unwrap();
    cases.push((Arc::new(fixed), Fate::Kept));
    cases.push((Arc::new(NullArray::new(3)), Fate::Kept));
    cases
}

fn dictionary_types() -> Vec<(ArrayRef, Fate)> {
    use DataType::*;
    let all_words: ArrayRef = Arc::new(StringArray::from(vec![
        "a",
        "b",
        "longer than twelve bytes",
    ]));
    let all_ints: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let with_keys = |values: DataType| Dictionary(Box::new(Int32), Box::new(values));
    let mut cases: Vec<(ArrayRef, Fate)> = vec![
        (
            dictionary::<Int8Type>(Arc::clone(&all_words)),
            Fate::Becomes(with_keys(Utf8)),
        ),
        (
            dictionary::<Int16Type>(Arc::clone(&all_words)),
            Fate::Becomes(with_keys(Utf8)),
        ),
        (dictionary::<Int32Type>(Arc::clone(&all_words)), Fate::Kept),
        (dictionary::<Int64Type>(Arc::clone(&all_words)), Fate::Kept),
        (
            dictionary::<UInt8Type>(Arc::clone(&all_words)),
            Fate::Becomes(with_keys(Utf8)),
        ),
        (
            dictionary::<UInt16Type>(Arc::clone(&all_words)),
            Fate::Becomes(with_keys(Utf8)),
        ),
        (dictionary::<UInt32Type>(Arc::clone(&all_words)), Fate::Kept),
        (dictionary::<UInt64Type>(Arc::clone(&all_words)), Fate::Kept),
    ];
    for values in [
        Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64, Float32, Float64,
    ] {
        cases.push((
            dictionary::<Int32Type>(cast(&all_ints, &values).unwrap()),
            Fate::Kept,
        ));
    }
    for values in [
        Float16,
        Decimal128(20, 2),
        Decimal32(9, 2),
        Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        Timestamp(TimeUnit::Second, None),
        Date64,
        Duration(TimeUnit::Second),
        Time64(TimeUnit::Nanosecond),
    ] {
        let array = dictionary::<Int32Type>(cast(&all_ints, &values).unwrap());
        cases.push((array, Fate::Becomes(values)));
    }
    for (values, fate) in [
        (LargeUtf8, Fate::Kept),
        (Binary, Fate::Kept),
        (LargeBinary, Fate::Kept),
        (Utf8View, Fate::Becomes(with_keys(Utf8))),
        (BinaryView, Fate::Becomes(with_keys(Binary))),
    ] {
        cases.push((
            dictionary::<Int32Type>(cast(&all_words, &values).unwrap()),
            fate,
        ));
    }
    let fixed = FixedSizeBinaryArray::try_from_iter(["abc", "def", "ghi"].into_iter()).unwrap();
    cases.push((
        dictionary::<Int8Type>(Arc::new(fixed)),
        Fate::Becomes(FixedSizeBinary(3)),
    ));
    let flags: ArrayRef = Arc::new(BooleanArray::from(vec![true, false, true]));
    cases.push((dictionary::<Int8Type>(flags), Fate::Becomes(Boolean)));
    cases
}

fn run_types() -> Vec<(ArrayRef, Fate)> {
    let views: ArrayRef = Arc::new(StringViewArray::from(vec![Some("a"), None, Some("b")]));
    let bytes: ArrayRef = Arc::new(BinaryViewArray::from_iter([Some(b"a"), None, Some(b"b")]));
    vec![
        (runs(ints()), Fate::Becomes(DataType::Int64)),
        (runs(words()), Fate::Becomes(DataType::Utf8)),
        (runs(views), Fate::Becomes(DataType::Utf8View)),
        (runs(bytes), Fate::Becomes(DataType::BinaryView)),
    ]
}

fn nested_types() -> Vec<(ArrayRef, Fate)> {
    let mut fixed = FixedSizeListBuilder::new(Int32Builder::new(), 2);
    for values in [Some([Some(1), None]), None, Some([Some(3), Some(4)])] {
        values
            .unwrap_or([None, None])
            .into_iter()
            .for_each(|v| fixed.values().append_option(v));
        fixed.append(values.is_some());
    }
    let mut lists = ListBuilder::new(ListBuilder::new(StringBuilder::new()));
    lists.values().values().append_value("x");
    lists.values().append(true);
    lists.values().append(false);
    lists.append(true);
    lists.append(false);
    lists.append(true);
    let list_view = list_of(ints(), "item", DataType::ListView);
    let large_view = list_of(ints(), "item", DataType::LargeListView);
    assert!(list_view.as_any().is::<ListViewArray>());
    assert!(large_view.as_any().is::<LargeListViewArray>());
    let all_words: ArrayRef = Arc::new(StringArray::from(vec!["a", "b", "c"]));
    let empty = StructArray::new_empty_fields(3, None);
    let list_of_runs = list_of(ints(), "item", DataType::List);
    let run_item = Field::new("item", runs(ints()).data_type().clone(), true);
    let dictionary_list = list_of(dictionary::<Int32Type>(all_words), "l", DataType::List);
    vec![
        (list_of(words(), "item", DataType::List), Fate::Kept),
        (list_of(words(), "element", DataType::List), Fate::Kept),
        (list_of(ints(), "l", DataType::LargeList), Fate::Kept),
        (list_view, Fate::Kept),
        (large_view, Fate::Kept),
        (Arc::new(fixed.finish()), Fate::Kept),
        (Arc::new(lists.finish()), Fate::Kept),
        (dictionary_list, Fate::Kept),
        (map(), Fate::Kept),
        (struct_of(words()), Fate::Kept),
        (struct_of(map()), Fate::Kept),
        (
            list_of(struct_of(ints()), "item", DataType::List),
            Fate::Kept,
        ),
        (struct_of(Arc::new(NullArray::new(3))), Fate::Kept),
        (
            struct_of(runs(ints())),
            Fate::Becomes(struct_of(ints()).data_type().clone()),
        ),
        (
            new_null_array(&DataType::List(Arc::new(run_item)), 3),
            Fate::Becomes(list_of_runs.data_type().clone()),
        ),
        (Arc::new(empty.clone()), Fate::Refused),
        (struct_of(Arc::new(empty)), Fate::Refused),
        (union(), Fate::Refused),
    ]
}

fn all_types() -> Vec<(ArrayRef, Fate)> {
    let groups = [
        numeric_types(),
        time_types(),
        byte_types(),
        dictionary_types(),
        run_types(),
        nested_types(),
    ];
    groups.into_iter().flatten().collect()
}

fn one_column(column: &ArrayRef) -> RecordBatch {
    let key = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    let field = Field::new("Väl ue", column.data_type().clone(), true)
        .with_metadata([key("iox::column::type", "iox::column_type::field::float")].into());
    let schema = Schema::new(vec![field]).with_metadata([key("source", "test")].into());
    RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(column)]).unwrap()
}

/// The batch a query must see for a stored column.
fn expected(column: &ArrayRef, fate: &Fate) -> Option<RecordBatch> {
    match fate {
        Fate::Kept => Some(one_column(column)),
        Fate::Becomes(to) => Some(one_column(&cast(column, to).unwrap())),
        Fate::Refused => None,
    }
}

fn assert_same(found: &[RecordBatch], expected: &RecordBatch, place: &str) {
    assert_eq!(found.len(), 1, "{place}");
    let column_type = expected.column(0).data_type();
    assert_eq!(
        found[0].schema().fields(),
        expected.schema().fields(),
        "{place}"
    );
    // Files have metadata of their own besides.
    let source = found[0].schema_ref().metadata().get("source").cloned();
    assert_eq!(source.as_deref(), Some("test"), "{place} {column_type}");
    assert_eq!(
        found[0].column(0),
        expected.column(0),
        "{place} {column_type}"
    );
}

/// S0-12, S0-11: types and field metadata come back as they were sent, from every place rows can be.
#[tokio::test]
async fn every_type_is_kept_normalised_or_refused_as_documented() {
    let world = World::new().await;
    let ingest = world.open().await;
    let cases = all_types();
    assert!(cases.len() > 90, "{}", cases.len());
    let name = |at: usize| TableName::public("demo", format!("t{at}"));
    for (at, (column, fate)) in cases.iter().enumerate() {
        let batch = one_column(column);
        let mode = TableMode::CreateOrAppend;
        let table = ingest.writer(&name(at), &batch.schema(), mode, true).await;
        let Some(expected) = expected(column, fate) else {
            let error = table.unwrap_err();
            let text = error.to_string();
            assert_eq!(error.category(), "unsupported_type", "{text}");
            assert!(
                text.contains("Väl ue") && text.contains("can't be stored"),
                "{text}"
            );
            continue;
        };
        let table = table.unwrap_or_else(|error| panic!("{}: {error}", column.data_type()));
        let sent = raw(&batch);
        table.write(batch, Some(sent), None).await.unwrap();
        assert_same(&world.query(&ingest, &name(at)).await, &expected, "buffer");
    }
    drop(ingest);

    let ingest = world.open().await;
    let check = async |ingest: &Ingest, place: &str| {
        for (at, (column, fate)) in cases.iter().enumerate() {
            if let Some(expected) = expected(column, fate) {
                assert_same(&world.query(ingest, &name(at)).await, &expected, place);
            }
        }
    };
    check(&ingest, "replay").await;
    ingest.flush().await.unwrap();
    assert_eq!(ingest.statistics().buffered_rows, 0);
    check(&ingest, "file").await;
}

/// Of 4,294,967,297 the Parquet library keeps the last 32 bits in a column of nine digits: 1.
#[tokio::test]
async fn a_decimal_with_more_digits_than_its_type_is_refused_before_the_log() {
    let world = World::new().await;
    let ingest = world.open().await;
    let of = |value: i128| {
        let array = Decimal128Array::from(vec![Some(value), None]);
        one_column(&(Arc::new(array.with_precision_and_scale(9, 2).unwrap()) as ArrayRef))
    };
    let (good, bad) = (of(-999_999_999), of((1 << 32) + 1));
    let mode = TableMode::CreateOrAppend;
    let table = ingest.writer(&readings(), &good.schema(), mode, true).await;
    let table = table.unwrap();
    let sent = raw(&bad);
    let refused = table.write(bad, Some(sent), None).await.unwrap_err();
    assert_eq!(refused.category(), "values");
    let text = "values of column \"Väl ue\" can't be stored as Decimal128(9, 2)";
    assert_eq!(refused.to_string(), text);
    table.write(good.clone(), None, None).await.unwrap();
    ingest.flush().await.unwrap();
    assert_same(&world.query(&ingest, &readings()).await, &good, "file");
}

/// Rows that come twice, first in another order: the file has the later ones, by key.
#[tokio::test]
async fn every_type_is_sorted_into_the_files_of_tables_with_a_key() {
    let world = World::new().await;
    let ingest = world.open().await;
    let name = |at: usize| TableName::public("demo", format!("t{at}"));
    let key = (METADATA_KEY.to_owned(), r#"["id", "time"]"#.to_owned());
    let (mut cases, mut kept) = (all_types(), 0);
    cases.retain(|(_, fate)| !matches!(fate, Fate::Refused));
    for (at, (column, _)) in cases.iter().enumerate() {
        let batch = |ids: Vec<i64>| {
            let times = TimestampMicrosecondArray::from_iter_values(ids.iter().map(|id| id * 10));
            let columns = [
                ("v", Arc::clone(column), true),
                ("id", Arc::new(Int64Array::from(ids)) as ArrayRef, false),
                ("time", Arc::new(times) as ArrayRef, false),
            ];
            let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
            let schema = Schema::clone(batch.schema_ref()).with_metadata([key.clone()].into());
            batch.with_schema(Arc::new(schema)).unwrap()
        };
        let mode = TableMode::CreateOrAppend;
        let schema = batch(vec![1, 2, 3]).schema();
        let writer = ingest.writer(&name(at), &schema, mode, true).await.unwrap();
        for ids in [vec![30, 10, 20], vec![10, 20, 30]] {
            writer.write(batch(ids), None, None).await.unwrap();
        }
    }
    ingest.flush().await.unwrap();
    for (at, (column, fate)) in cases.iter().enumerate() {
        let files = world.files(&name(at)).await;
        assert!(files[0].file.sorted && files.len() == 1);
        let rows = world.read_file(&files[0].file.path).await;
        let Some(expected) = expected(column, fate) else {
            continue;
        };
        assert_eq!(
            rows[0].column(0),
            expected.column(0),
            "{}",
            column.data_type()
        );
        let orders = rows[0].column(3).as_primitive::<Int64Type>();
        assert!(orders.values().is_sorted() && rows[0].num_rows() == 3);
        kept += 1;
    }
    assert!(kept > 80, "{kept}");
}

/// Each batch has few words, all batches together more than a key of 8 bits can count.
#[tokio::test]
async fn small_dictionaries_of_many_batches_can_be_read_together() {
    let world = World::new().await;
    let ingest = world.open().await;
    let batch = |from: usize| {
        let words = (from..from + 100)
            .map(|n| format!("word {n}"))
            .collect::<Vec<_>>();
        let words: DictionaryArray<Int8Type> = words.iter().map(String::as_str).collect();
        RecordBatch::try_from_iter([("word", Arc::new(words) as ArrayRef)]).unwrap()
    };
    let mode = TableMode::CreateOrAppend;
    let table = ingest
        .writer(&readings(), &batch(0).schema(), mode, true)
        .await
        .unwrap();
    for from in [0, 100, 200] {
        table
            .write(batch(from), Some(raw(&batch(from))), None)
            .await
            .unwrap();
    }
    ingest.flush().await.unwrap();
    let rows = world.query(&ingest, &readings()).await;
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 300);
    let last = cast(rows[0].column(0), &DataType::Utf8).unwrap();
    assert_eq!(last.as_string::<i32>().value(299), "word 299");
}
