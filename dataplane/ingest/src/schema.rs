//! Arrow schemas as the bytes the catalog and the log keep: one encapsulated Arrow IPC message.

use std::sync::Arc;

use arrow_ipc::convert::try_schema_from_ipc_buffer;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use flightcluster_catalog::SchemaBytes;

use crate::error::Error;

const CONTINUATION: [u8; 4] = [0xff; 4];
const ALIGNMENT: usize = 8;

/// Encodes a schema with everything in it: names, types, nullability and all metadata.
#[must_use]
pub fn encode_schema(schema: &Schema) -> SchemaBytes {
    // Gives dictionaries their ids, in the order in which `message` expects them.
    let mut tracker = DictionaryTracker::new(false);
    let options = IpcWriteOptions::default();
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut tracker,
        &options,
    );
    let message = encoded.ipc_message;
    let padded = message.len().next_multiple_of(ALIGNMENT);
    let mut bytes = Vec::with_capacity(ALIGNMENT + padded);
    bytes.extend_from_slice(&CONTINUATION);
    bytes.extend_from_slice(&(padded as u32).to_le_bytes());
    bytes.extend_from_slice(&message);
    bytes.resize(ALIGNMENT + padded, 0);
    SchemaBytes(bytes)
}

/// Decodes what [`encode_schema`] (or any Arrow implementation) wrote.
///
/// # Errors
/// [`Error::UnreadableSchema`] when the bytes are no schema message.
pub fn decode_schema(bytes: &SchemaBytes) -> Result<SchemaRef, Error> {
    let schema = try_schema_from_ipc_buffer(&bytes.0);
    schema
        .map(Arc::new)
        .map_err(|source| Error::UnreadableSchema { source })
}

/// Whether a column of this schema is or holds a dictionary.
pub(crate) fn has_dictionary(schema: &Schema) -> bool {
    fn of(data_type: &DataType) -> bool {
        matches!(data_type, DataType::Dictionary(..))
            || nested_fields(data_type)
                .into_iter()
                .any(|field| of(field.data_type()))
    }
    schema.fields().iter().any(|field| of(field.data_type()))
}

/// The fields directly inside a type.
pub(crate) fn nested_fields(data_type: &DataType) -> Vec<&Field> {
    match data_type {
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _)
        | DataType::RunEndEncoded(_, field) => vec![field],
        DataType::Struct(fields) => fields.iter().map(AsRef::as_ref).collect(),
        _ => vec![],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_schema_keeps_types_nullability_and_metadata() {
        let key = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
        let schema = Schema::new(vec![
            Field::new("host", dictionary, true)
                .with_metadata([key("iox::column::type", "iox::column_type::tag")].into()),
            Field::new("level", DataType::Float64, false),
        ])
        .with_metadata([key("source", "sensor")].into());
        let bytes = encode_schema(&schema);
        assert_eq!(bytes.0[..4], CONTINUATION);
        assert_eq!(bytes.0.len() % ALIGNMENT, 0);
        assert_eq!(*decode_schema(&bytes).unwrap(), schema);
    }

    #[test]
    fn bytes_that_are_no_schema_are_an_error() {
        for bytes in [vec![], vec![1, 2, 3], vec![255; 64], vec![0; 64]] {
            assert!(decode_schema(&SchemaBytes(bytes)).is_err());
        }
    }
}
