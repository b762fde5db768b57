//! Casting batches to the announced schema.
#![allow(clippy::unwrap_used, reason = "tests")]

use arrow_array::builder::StringViewBuilder;
use arrow_array::{Int32Array, Int64Array, StringArray};
use arrow_schema::Schema;

use super::*;
use crate::samples;
use crate::schema::{Encoding, wire_schema};

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

#[test]
fn every_column_is_cast_to_its_plain_type_and_keeps_its_values() {
    let batch = samples::wide(60);
    let plain = Arc::new(wire_schema(batch.schema_ref(), Encoding::Plain));
    let whole = conform(&batch, &plain).unwrap();
    assert_eq!(whole.schema(), plain);
    assert_eq!(whole.num_rows(), 60);
    let texts = |name: &str| {
        whole
            .column_by_name(name)
            .unwrap()
            .as_string::<i32>()
            .clone()
    };
    let expected = samples::dictionary(60);
    for (row, key) in expected
        .as_dictionary::<arrow_array::types::Int32Type>()
        .keys()
        .iter()
        .enumerate()
    {
        let value = key.map(|key| ["oslo", "paris", "rome", "ulm"][key as usize]);
        let column = texts("dictionary");
        assert_eq!(column.is_valid(row).then(|| column.value(row)), value);
    }
    assert_eq!(texts("runs").value(3), "text number 0 längere Zeile");
}

#[test]
fn slices_give_the_same_rows_as_the_whole() {
    let batch = samples::wide(60);
    let plain = Arc::new(wire_schema(batch.schema_ref(), Encoding::Plain));
    let whole = conform(&batch, &plain).unwrap();
    for (offset, length) in [(0, 60), (1, 7), (13, 40), (59, 1), (60, 0)] {
        let part = conform(&batch.slice(offset, length), &plain).unwrap();
        assert_eq!(part, whole.slice(offset, length), "{offset}+{length}");
    }
}

#[test]
fn a_batch_that_fits_is_not_copied() {
    let batch = samples::batch(vec![("a", samples::texts(5))]);
    let same = conform(&batch, batch.schema_ref()).unwrap();
    assert!(Arc::ptr_eq(batch.column(0), same.column(0)));
    let renamed = schema(vec![Field::new("b", DataType::Utf8, true)]);
    let renamed = conform(&batch, &renamed).unwrap();
    assert!(Arc::ptr_eq(batch.column(0), renamed.column(0)));
    assert_eq!(renamed.schema_ref().field(0).name(), "b");
}

#[test]
fn nullability_may_be_tightened_unless_there_are_nulls() {
    let announced = schema(vec![Field::new("a", DataType::Int64, false)]);
    let full = samples::batch(vec![("a", Arc::new(Int64Array::from(vec![1, 2])))]);
    assert_eq!(conform(&full, &announced).unwrap().schema(), announced);
    let holes = samples::batch(vec![("a", Arc::new(Int64Array::from(vec![Some(1), None])))]);
    assert!(matches!(conform(&holes, &announced), Err(Error::Batch(_))));
}

#[test]
fn a_value_that_does_not_fit_is_an_error_that_names_the_column() {
    let batch = samples::batch(vec![("big", Arc::new(Int64Array::from(vec![i64::MAX])))]);
    let announced = schema(vec![Field::new("big", DataType::Int32, true)]);
    let error = conform(&batch, &announced).unwrap_err();
    assert!(
        matches!(&error, Error::Cast { column, .. } if column == "big"),
        "{error}"
    );
}

#[test]
fn another_number_of_columns_is_an_error() {
    let batch = samples::batch(vec![("a", Arc::new(Int32Array::from(vec![1])))]);
    let error = conform(&batch, &schema(vec![])).unwrap_err();
    assert!(matches!(
        error,
        Error::Columns {
            found: 1,
            expected: 0
        }
    ));
}

#[test]
fn a_column_that_would_overflow_its_offsets_is_refused_before_it_is_made() {
    // 3,000 views of the same megabyte.
    let value = "m".repeat(1 << 20);
    let mut builder = StringViewBuilder::new();
    let block = builder.append_block(value.as_bytes().into());
    for _ in 0..3000 {
        builder.try_append_view(block, 0, 1 << 20).unwrap();
    }
    let views: ArrayRef = Arc::new(builder.finish());
    let values: ArrayRef = Arc::new(StringArray::from(vec![value.as_str()]));
    let keys = Int32Array::from(vec![0; 3000]);
    let dictionary: ArrayRef = Arc::new(arrow_array::DictionaryArray::new(keys, values));
    for column in [views, dictionary] {
        let batch = samples::batch(vec![("huge", column)]);
        let plain = Arc::new(wire_schema(batch.schema_ref(), Encoding::Plain));
        let error = conform(&batch, &plain).unwrap_err();
        assert!(
            matches!(&error, Error::TooLarge { column, .. } if column == "huge"),
            "{error}"
        );
    }
}
