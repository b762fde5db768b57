//! In which type the values of a column are stored, where Parquet files can't give back the one they came in.
//!
//! Which types are refused is left to those who take rows and make tables.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef};

/// The type values of `data_type` are stored in, at any depth; most are stored in their own.
///
/// Run ends become their values, and so do dictionaries of which Parquet readers can't make one again. Small
/// keys of a dictionary become 32 bits: each batch may have its own 100 words, and a file holds many batches.
/// A decimal of one digit in 32 bits becomes one of 64: the Parquet library describes it as a number of 64
/// bits, and then can't write one of 32.
#[must_use]
pub fn stored_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::RunEndEncoded(_, values) => stored_type(values.data_type()),
        DataType::Dictionary(keys, values) => match dictionary_values(values) {
            Some(values) => DataType::Dictionary(dictionary_keys(keys), Box::new(values)),
            None => stored_type(values),
        },
        DataType::Decimal32(1, scale) => DataType::Decimal64(1, *scale),
        DataType::List(item) => DataType::List(stored_field(item)),
        DataType::LargeList(item) => DataType::LargeList(stored_field(item)),
        DataType::ListView(item) => DataType::ListView(stored_field(item)),
        DataType::LargeListView(item) => DataType::LargeListView(stored_field(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(stored_field(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(stored_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(stored_field).collect()),
        other => other.clone(),
    }
}

/// The same column, with the type its values are stored in.
#[must_use]
pub fn stored_field(field: &FieldRef) -> FieldRef {
    let stored = stored_type(field.data_type());
    if stored == *field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(Field::clone(field).with_data_type(stored))
}

/// The values of a dictionary as they are stored; `None`: as no dictionary.
fn dictionary_values(values: &DataType) -> Option<DataType> {
    use DataType::*;
    match values {
        Utf8View => Some(Utf8),
        BinaryView => Some(Binary),
        Utf8 | LargeUtf8 | Binary | LargeBinary | Float32 | Float64 => Some(values.clone()),
        _ if values.is_integer() => Some(values.clone()),
        _ => None,
    }
}

fn dictionary_keys(keys: &DataType) -> Box<DataType> {
    Box::new(match keys {
        DataType::Int8 | DataType::Int16 | DataType::UInt8 | DataType::UInt16 => DataType::Int32,
        wide => wide.clone(),
    })
}
