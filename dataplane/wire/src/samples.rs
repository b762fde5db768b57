//! Batches of every kind of column for tests.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::builder::{BinaryViewBuilder, StringViewBuilder};
use arrow_array::types::*;
use arrow_array::*;
use arrow_buffer::{NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, FieldRef, Fields, Schema, TimeUnit, UnionFields};

/// Every third value is null.
fn nulls(rows: usize) -> NullBuffer {
    (0..rows)
        .map(|row| row % 3 != 1)
        .collect::<Vec<bool>>()
        .into()
}

pub(crate) fn texts(rows: usize) -> ArrayRef {
    let text = |row| (row % 3 != 1).then(|| format!("text number {row} längere Zeile"));
    Arc::new((0..rows).map(text).collect::<StringArray>())
}

pub(crate) fn dictionary(rows: usize) -> ArrayRef {
    let keys = (0..rows).map(|row| (row % 3 != 1).then_some((row % 4) as i32));
    let values: ArrayRef = Arc::new(StringArray::from(vec!["oslo", "paris", "rome", "ulm"]));
    Arc::new(DictionaryArray::new(keys.collect::<Int32Array>(), values))
}

fn item(data_type: &DataType) -> FieldRef {
    let metadata = HashMap::from([("unit".to_owned(), "m/s".to_owned())]);
    Arc::new(Field::new("item", data_type.clone(), true).with_metadata(metadata))
}

fn list(child: ArrayRef, rows: usize) -> ArrayRef {
    let offsets = OffsetBuffer::<i32>::from_lengths(std::iter::repeat_n(2, rows));
    Arc::new(ListArray::new(
        item(child.data_type()),
        offsets,
        child,
        Some(nulls(rows)),
    ))
}

fn list_view(child: ArrayRef, rows: usize) -> ArrayRef {
    // Rows overlap and go backwards.
    let offsets: ScalarBuffer<i32> = (0..rows).rev().map(|row| row as i32).collect();
    let sizes: ScalarBuffer<i32> = (0..rows).map(|row| (row % 3) as i32).collect();
    let item = item(child.data_type());
    Arc::new(ListViewArray::new(
        item,
        offsets,
        sizes,
        child,
        Some(nulls(rows)),
    ))
}

fn struct_of(columns: Vec<(&str, ArrayRef)>, rows: usize) -> ArrayRef {
    let fields: Fields = columns
        .iter()
        .map(|(name, array)| Field::new(*name, array.data_type().clone(), true))
        .collect();
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    Arc::new(StructArray::new(fields, arrays, Some(nulls(rows))))
}

fn map(values: ArrayRef, rows: usize) -> ArrayRef {
    let keys: ArrayRef = Arc::new(Int32Array::from_iter_values(0..2 * rows as i32));
    let fields = Fields::from(vec![
        Field::new("keys", DataType::Int32, false),
        Field::new("values", values.data_type().clone(), true),
    ]);
    let entries = StructArray::new(fields.clone(), vec![keys, values], None);
    let offsets = OffsetBuffer::<i32>::from_lengths(std::iter::repeat_n(2, rows));
    let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
    Arc::new(MapArray::new(
        field,
        offsets,
        entries,
        Some(nulls(rows)),
        false,
    ))
}

fn union(rows: usize, dense: bool) -> ArrayRef {
    let children = vec![
        dictionary(rows),
        Arc::new(Int64Array::from(vec![7; rows])) as ArrayRef,
    ];
    let fields: UnionFields = [(3i8, "tag"), (5, "number")]
        .into_iter()
        .zip(&children)
        .map(|((id, name), child)| {
            (
                id,
                Arc::new(Field::new(name, child.data_type().clone(), true)),
            )
        })
        .collect();
    let ids = (0..rows)
        .map(|row| if row % 2 == 0 { 3 } else { 5 })
        .collect();
    let offsets = dense.then(|| (0..rows as i32).collect());
    Arc::new(UnionArray::try_new(fields, ids, offsets, children).unwrap())
}

fn runs(rows: usize) -> ArrayRef {
    let runs = rows.div_ceil(4);
    let ends = (1..=runs).map(|run| (run * 4).min(rows) as i32);
    let ends = Int32Array::from_iter_values(ends);
    Arc::new(RunArray::<Int32Type>::try_new(&ends, &texts(runs)).unwrap())
}

fn to(array: &ArrayRef, data_type: DataType) -> ArrayRef {
    cast(array, &data_type).unwrap()
}

fn flat_columns(rows: usize) -> Vec<(&'static str, ArrayRef)> {
    let int: ArrayRef = Arc::new(Int32Array::new(
        (0..rows as i32).collect(),
        Some(nulls(rows)),
    ));
    let long = to(&int, DataType::Int64);
    let small: ArrayRef = Arc::new(Int8Array::from_iter(
        (0..rows).map(|row| (row % 3 != 1).then_some(row as i8)),
    ));
    let mut string_views = StringViewBuilder::new();
    let mut binary_views = BinaryViewBuilder::new();
    for row in 0..rows {
        string_views.append_option((row % 3 != 1).then(|| format!("a view of text, row {row}")));
        binary_views.append_value(vec![row as u8; row % 20]);
    }
    vec![
        ("null", Arc::new(NullArray::new(rows))),
        (
            "bool",
            Arc::new(
                (0..rows)
                    .map(|row| Some(row % 2 == 0))
                    .collect::<BooleanArray>(),
            ),
        ),
        ("int8", small),
        ("int32", Arc::clone(&int)),
        ("uint64", to(&int, DataType::UInt64)),
        ("float16", to(&int, DataType::Float16)),
        ("float64", to(&int, DataType::Float64)),
        ("date", to(&int, DataType::Date32)),
        ("time", to(&long, DataType::Time64(TimeUnit::Nanosecond))),
        (
            "zoned",
            to(
                &long,
                DataType::Timestamp(TimeUnit::Nanosecond, Some("Asia/Tokyo".into())),
            ),
        ),
        (
            "duration",
            to(&long, DataType::Duration(TimeUnit::Millisecond)),
        ),
        (
            "interval",
            Arc::new(IntervalMonthDayNanoArray::from(vec![
                IntervalMonthDayNano::new(1, 2, 3);
                rows
            ])),
        ),
        ("decimal32", to(&int, DataType::Decimal32(9, 2))),
        ("decimal64", to(&int, DataType::Decimal64(18, 2))),
        ("decimal128", to(&int, DataType::Decimal128(20, 2))),
        ("decimal256", to(&int, DataType::Decimal256(40, 2))),
        ("utf8", texts(rows)),
        ("large_utf8", to(&texts(rows), DataType::LargeUtf8)),
        ("binary", to(&texts(rows), DataType::Binary)),
        ("large_binary", to(&texts(rows), DataType::LargeBinary)),
        ("utf8_view", Arc::new(string_views.finish())),
        ("binary_view", Arc::new(binary_views.finish())),
        (
            "fixed_binary",
            Arc::new(FixedSizeBinaryArray::try_from_iter((0..rows).map(|r| [r as u8; 5])).unwrap()),
        ),
        ("dictionary", dictionary(rows)),
        ("runs", runs(rows)),
    ]
}

fn nested_columns(rows: usize) -> Vec<(&'static str, ArrayRef)> {
    let views = to(&texts(2 * rows), DataType::Utf8View);
    let deep = struct_of(vec![("tag", dictionary(rows)), ("run", runs(rows))], rows);
    vec![
        ("list", list(texts(2 * rows), rows)),
        (
            "large_list",
            to(
                &list(dictionary(2 * rows), rows),
                DataType::LargeList(item(dictionary(1).data_type())),
            ),
        ),
        ("list_of_dictionary", list(dictionary(2 * rows), rows)),
        ("list_view", list_view(dictionary(2 * rows), rows)),
        (
            "large_list_view",
            to(
                &list_view(Arc::clone(&views), rows),
                DataType::LargeListView(item(&DataType::Utf8View)),
            ),
        ),
        (
            "fixed_list",
            Arc::new(FixedSizeListArray::new(
                item(&DataType::Utf8View),
                2,
                Arc::clone(&views),
                Some(nulls(rows)),
            )),
        ),
        ("struct", Arc::clone(&deep)),
        (
            "list_of_struct",
            list(
                struct_of(vec![("inner", dictionary(2 * rows))], 2 * rows),
                rows,
            ),
        ),
        ("map", map(dictionary(2 * rows), rows)),
        ("sparse_union", union(rows, false)),
        ("dense_union", union(rows, true)),
        (
            "dictionary_of_views",
            Arc::new(DictionaryArray::new(
                UInt8Array::from_iter_values((0..rows).map(|row| (row % 2) as u8)),
                to(&texts(2), DataType::Utf8View),
            )),
        ),
    ]
}

/// One column of every kind, with metadata on fields and schema; `rows` of at least 1.
pub(crate) fn wide(rows: usize) -> RecordBatch {
    let columns: Vec<_> = flat_columns(rows)
        .into_iter()
        .chain(nested_columns(rows))
        .collect();
    batch(columns)
}

pub(crate) fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array)| {
            let metadata = HashMap::from([("iox::column::type".to_owned(), (*name).to_owned())]);
            Field::new(*name, array.data_type().clone(), true).with_metadata(metadata)
        })
        .collect();
    let metadata = HashMap::from([("made-by".to_owned(), "test".to_owned())]);
    let schema = Schema::new_with_metadata(fields, metadata);
    let arrays = columns.into_iter().map(|(_, array)| array).collect();
    RecordBatch::try_new(Arc::new(schema), arrays).unwrap()
}
