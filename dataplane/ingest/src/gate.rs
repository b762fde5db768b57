//! The schema gate: what a Parquet file can't give back is normalised or refused before it reaches
//! the log. A type that passes here is kept exactly: type, values, nulls and field metadata.
//!
//! | incoming | stored |
//! |---|---|
//! | run-end encoded | its values |
//! | dictionary of string or binary views | dictionary of plain strings or binary |
//! | dictionary with keys of 8 or 16 bits | dictionary with keys of 32 bits |
//! | dictionary of anything but strings, binary, integers and floats of 32 or 64 bits | its values |
//! | decimal of 32 bits with a precision of 1 | the same decimal in 64 bits |
//! | union, month-day-nano interval | refused |
//! | decimal with a negative scale, or a scale above the precision | refused |
//! | struct without fields | refused |
//! | value of a decimal with more digits than its type | its batch is refused (`digits`) |
//! | everything else | as it is |
//!
//! What is refused is told here; the types of the rest, and why they are so, are those of
//! [`flightcluster_keys::stored_type`].

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, Fields, IntervalUnit, Schema, SchemaRef};
use flightcluster_keys::stored_field;

use crate::error::Error;

/// The schema rows of `schema` are stored with.
///
/// # Errors
/// [`Error::UnsupportedType`] with the column and its type, [`Error::DuplicateColumn`],
/// [`Error::NoColumns`], [`Error::Key`] for a name that is reserved.
pub fn normalise_schema(schema: &Schema) -> Result<Schema, Error> {
    if schema.fields().is_empty() {
        return Err(Error::NoColumns);
    }
    check_names("", schema.fields())?;
    flightcluster_keys::check_names(schema).map_err(Error::Key)?;
    for field in schema.fields() {
        check_field("", field)?;
    }
    let fields: Fields = schema.fields().iter().map(stored_field).collect();
    Ok(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Brings a batch into its normalised schema.
pub(crate) fn normalise_batch(batch: RecordBatch, to: &SchemaRef) -> Result<RecordBatch, Error> {
    if batch.schema_ref() == to {
        return Ok(batch);
    }
    let columns = batch.columns().iter().zip(to.fields());
    let columns = columns.map(|(column, field)| convert(column, field.name(), field.data_type()));
    let columns = columns.collect::<Result<Vec<_>, Error>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(to), columns, &options)
        .map_err(|source| Error::EncodeBatch { source })
}

/// Casts a column, refusing values that do not fit.
pub(crate) fn convert(column: &ArrayRef, name: &str, to: &DataType) -> Result<ArrayRef, Error> {
    if column.data_type() == to {
        return Ok(Arc::clone(column));
    }
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(column, to, &options).map_err(|source| Error::Values {
        column: name.to_owned(),
        expected: to.clone(),
        source,
    })
}

fn check_names(path: &str, fields: &Fields) -> Result<(), Error> {
    let mut names = std::collections::HashSet::new();
    match fields.iter().find(|field| !names.insert(field.name())) {
        Some(twice) => Err(Error::DuplicateColumn {
            column: join(path, twice.name()),
        }),
        None => Ok(()),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Refuses a column that can't be kept, at any depth. `path` is that of what it is in.
fn check_field(path: &str, field: &Field) -> Result<(), Error> {
    check_type(&join(path, field.name()), field.data_type())
}

fn check_type(path: &str, data_type: &DataType) -> Result<(), Error> {
    if let Some(reason) = unsupported(data_type) {
        let column = path.to_owned();
        return Err(Error::UnsupportedType {
            column,
            data_type: data_type.clone(),
            reason,
        });
    }
    match data_type {
        DataType::RunEndEncoded(_, values) => check_type(path, values.data_type()),
        DataType::Dictionary(_, values) => check_type(path, values),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => check_field(path, item),
        DataType::Struct(fields) => {
            check_names(path, fields)?;
            fields.iter().try_for_each(|field| check_field(path, field))
        }
        _ => Ok(()),
    }
}

fn unsupported(data_type: &DataType) -> Option<&'static str> {
    match data_type {
        DataType::Union(..) => Some("send one column for each type of the union"),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            Some("send a duration, or a year-month or day-time interval")
        }
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale)
            if *scale < 0 =>
        {
            Some("the scale is negative, send scale 0")
        }
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale)
            if scale.unsigned_abs() > *precision =>
        {
            Some("the scale is larger than the precision")
        }
        DataType::Struct(fields) if fields.is_empty() => Some("the struct has no fields"),
        _ => None,
    }
}
