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
//! | everything else | as it is |
//!
//! Why small keys grow: each batch may have its own 100 words, and a file holds many batches. Read
//! together they have more words than a key of 8 bits can count, and can't be read at all.
//!
//! Why a decimal of one digit grows: the Parquet library describes it as a number of 64 bits, and then can't
//! write one of 32.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{DataType, Field, FieldRef, IntervalUnit, Schema, SchemaRef};

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
    let fields = schema
        .fields()
        .iter()
        .map(|field| normalise_field("", field));
    let fields = fields.collect::<Result<Vec<_>, Error>>()?;
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

fn check_names(path: &str, fields: &arrow_schema::Fields) -> Result<(), Error> {
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

fn normalise_field(path: &str, field: &FieldRef) -> Result<FieldRef, Error> {
    let path = join(path, field.name());
    let data_type = normalise_type(&path, field.data_type())?;
    if data_type == *field.data_type() {
        return Ok(Arc::clone(field));
    }
    Ok(Arc::new(Field::clone(field).with_data_type(data_type)))
}

fn normalise_type(path: &str, data_type: &DataType) -> Result<DataType, Error> {
    if let Some(reason) = unsupported(data_type) {
        let column = path.to_owned();
        return Err(Error::UnsupportedType {
            column,
            data_type: data_type.clone(),
            reason,
        });
    }
    let field = |field: &FieldRef| normalise_field(path, field);
    Ok(match data_type {
        DataType::RunEndEncoded(_, values) => normalise_type(path, values.data_type())?,
        DataType::Dictionary(keys, values) => {
            let plain = normalise_type(path, values)?;
            match dictionary_values(values, &plain) {
                Some(values) => DataType::Dictionary(dictionary_keys(keys), Box::new(values)),
                None => plain,
            }
        }
        DataType::Decimal32(1, scale) => DataType::Decimal64(1, *scale),
        DataType::List(item) => DataType::List(field(item)?),
        DataType::LargeList(item) => DataType::LargeList(field(item)?),
        DataType::ListView(item) => DataType::ListView(field(item)?),
        DataType::LargeListView(item) => DataType::LargeListView(field(item)?),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(field(item)?, *size),
        DataType::Map(entries, sorted) => DataType::Map(field(entries)?, *sorted),
        DataType::Struct(fields) => {
            check_names(path, fields)?;
            DataType::Struct(fields.iter().map(field).collect::<Result<_, _>>()?)
        }
        other => other.clone(),
    })
}

/// The value type of the stored dictionary, `None` when the values are stored plain because Parquet
/// readers can't make a dictionary of them again.
fn dictionary_values(values: &DataType, plain: &DataType) -> Option<DataType> {
    use DataType::*;
    match values {
        Utf8View => Some(Utf8),
        BinaryView => Some(Binary),
        Utf8 | LargeUtf8 | Binary | LargeBinary | Float32 | Float64 => Some(plain.clone()),
        _ if values.is_integer() => Some(plain.clone()),
        _ => None,
    }
}

fn dictionary_keys(keys: &DataType) -> Box<DataType> {
    Box::new(match keys {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        wide => wide.clone(),
    })
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
