//! Statement parameters: single values from JSON or protobuf, record batches bound by Flight SQL,
//! and the bytes both become inside a ticket (an Arrow IPC stream).
//!
//! Left to others: matching parameters with the placeholders of a statement (`query`).

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, NullArray, RecordBatch, StringArray,
    UInt64Array,
};
use arrow_flight::FlightData;
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{ArrowError, Field, Schema};
use arrow_select::concat::concat_batches;
use bytes::{Buf, Bytes};

use crate::decode::{self, DecodeLimits, Decoded, StreamDecoder};
use crate::guard;

/// One parameter value as JSON and protobuf can carry it.
#[derive(Debug, Clone, PartialEq)]
pub enum ParamValue {
    /// No value; its type is the Arrow Null type.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer that fits 64 bits signed.
    Int(i64),
    /// An integer above the signed range.
    UInt(u64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// Text.
    Text(String),
}

/// Parameters with their names, in the order they were given.
pub type NamedParams = Vec<(String, ParamValue)>;

/// Metadata of a batch whose columns are in no order of the statement, only named. Batches of Flight
/// SQL clients lack it: their columns are in order, and their names are whatever the driver made up.
/// It stays with the batch inside a ticket.
const NAMED: &str = "flightcluster.named_parameters";

/// Why parameters could not be turned into bytes or back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The values do not form a batch, or the batch could not be written.
    #[error("writing the parameters as arrow ipc")]
    Write(#[source] ArrowError),
    /// The bytes are cut off or do not frame messages.
    #[error("the parameter bytes end inside a message")]
    Truncated,
    /// A message inside the bytes is refused.
    #[error("reading the parameters from arrow ipc")]
    Read(#[source] decode::Error),
    /// There is no schema message.
    #[error("the parameter bytes hold no schema")]
    NoSchema,
    /// The batches do not fit together.
    #[error("joining the batches of parameters")]
    Join(#[source] ArrowError),
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Write(_) => "params_write",
            Self::Truncated => "params_truncated",
            Self::Read(_) => "params_read",
            Self::NoSchema => "params_no_schema",
            Self::Join(_) => "params_join",
        }
    }
}

/// Puts named values into a batch of one row, one column for each, named as the parameter.
///
/// - Shape: no parameters give one row with no columns. The batch is known to [`are_named`].
pub fn named_to_batch(params: &[(String, ParamValue)]) -> Result<RecordBatch, Error> {
    let columns = params.iter().map(|(name, value)| (name, column(value)));
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns
        .map(|(name, array)| (Field::new(name, array.data_type().clone(), true), array))
        .unzip();
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(1));
    let metadata = [(NAMED.to_owned(), "true".to_owned())].into();
    let schema = Schema::new_with_metadata(fields, metadata);
    RecordBatch::try_new_with_options(Arc::new(schema), arrays, &options).map_err(Error::Write)
}

/// Whether the parameters were given by name, so that the order of the columns says nothing: see
/// [`named_to_batch`].
#[must_use]
pub fn are_named(params: &RecordBatch) -> bool {
    params.schema_ref().metadata().contains_key(NAMED)
}

/// Writes a batch of parameters (one or more rows) as an Arrow IPC stream.
pub fn batch_to_bytes(batch: &RecordBatch) -> Result<Bytes, Error> {
    let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).map_err(Error::Write)?;
    writer.write(batch).map_err(Error::Write)?;
    writer.into_inner().map(Bytes::from).map_err(Error::Write)
}

/// Reads back what [`batch_to_bytes`] wrote; several batches in the stream are joined.
///
/// - Errors: [`Error`] when the bytes are no such stream. Never panics on foreign bytes.
pub fn batch_from_bytes(bytes: Bytes, limits: DecodeLimits) -> Result<RecordBatch, Error> {
    let mut decoder = StreamDecoder::new(limits);
    let mut batches = Vec::new();
    let mut rest = bytes;
    while let Some(message) = next_message(&mut rest)? {
        if let Decoded::Batch(decoded) = decoder.push(message).map_err(Error::Read)? {
            batches.push(decoded.batch);
        }
    }
    let schema = decoder.schema().ok_or(Error::NoSchema)?;
    concat_batches(schema, &batches).map_err(Error::Join)
}

/// Takes one encapsulated message off the front: continuation, length, metadata, body.
fn next_message(rest: &mut Bytes) -> Result<Option<FlightData>, Error> {
    const CONTINUATION: u32 = u32::MAX;
    if rest.is_empty() {
        return Ok(None);
    }
    let mut length = rest.try_get_u32_le().map_err(|_| Error::Truncated)?;
    if length == CONTINUATION {
        length = rest.try_get_u32_le().map_err(|_| Error::Truncated)?;
    }
    if length == 0 {
        rest.clear();
        return Ok(None);
    }
    let header = take(rest, u64::from(length))?;
    let body_length = guard::body_length(&header).map_err(Error::Read)?;
    let body = take(rest, body_length)?;
    Ok(Some(FlightData {
        data_header: header,
        data_body: body,
        ..FlightData::default()
    }))
}

fn take(rest: &mut Bytes, length: u64) -> Result<Bytes, Error> {
    let length = usize::try_from(length).map_err(|_| Error::Truncated)?;
    if length > rest.len() {
        return Err(Error::Truncated);
    }
    Ok(rest.split_to(length))
}

fn column(value: &ParamValue) -> ArrayRef {
    match value {
        ParamValue::Null => Arc::new(NullArray::new(1)),
        ParamValue::Bool(value) => Arc::new(BooleanArray::from(vec![*value])),
        ParamValue::Int(value) => Arc::new(Int64Array::from(vec![*value])),
        ParamValue::UInt(value) => Arc::new(UInt64Array::from(vec![*value])),
        ParamValue::Float(value) => Arc::new(Float64Array::from(vec![*value])),
        ParamValue::Text(value) => Arc::new(StringArray::from(vec![value.as_str()])),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn sample() -> NamedParams {
        vec![
            ("none".into(), ParamValue::Null),
            ("flag".into(), ParamValue::Bool(true)),
            ("small".into(), ParamValue::Int(-7)),
            ("big".into(), ParamValue::UInt(u64::MAX)),
            ("ratio".into(), ParamValue::Float(0.5)),
            (
                "name".into(),
                ParamValue::Text("'; DROP TABLE t; --".into()),
            ),
        ]
    }

    #[test]
    fn named_values_survive_the_way_through_bytes() {
        let batch = named_to_batch(&sample()).unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (1, 6));
        let bytes = batch_to_bytes(&batch).unwrap();
        let back = batch_from_bytes(bytes, DecodeLimits::default()).unwrap();
        assert_eq!(back, batch);
        assert!(are_named(&back) && are_named(&back.slice(0, 1)));
    }

    #[test]
    fn columns_of_a_client_are_in_order_and_not_named() {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
        let batch = RecordBatch::try_from_iter([("2", column)]).unwrap();
        let bytes = batch_to_bytes(&batch).unwrap();
        let back = batch_from_bytes(bytes, DecodeLimits::default()).unwrap();
        assert!(!are_named(&back));
    }

    #[test]
    fn no_parameters_are_one_row_without_columns() {
        let batch = named_to_batch(&[]).unwrap();
        let bytes = batch_to_bytes(&batch).unwrap();
        let back = batch_from_bytes(bytes, DecodeLimits::default()).unwrap();
        assert_eq!((back.num_rows(), back.num_columns()), (1, 0));
    }

    #[test]
    fn several_batches_are_joined_in_order() {
        let batch = named_to_batch(&[("a".into(), ParamValue::Int(1))]).unwrap();
        let mut writer = StreamWriter::try_new(Vec::new(), batch.schema_ref()).unwrap();
        writer.write(&batch).unwrap();
        writer.write(&batch).unwrap();
        let bytes = Bytes::from(writer.into_inner().unwrap());
        assert_eq!(
            batch_from_bytes(bytes, DecodeLimits::default())
                .unwrap()
                .num_rows(),
            2
        );
    }

    #[test]
    fn a_cut_stream_is_an_error_at_every_length() {
        let bytes = batch_to_bytes(&named_to_batch(&sample()).unwrap()).unwrap();
        let whole = batch_from_bytes(bytes.clone(), DecodeLimits::default()).unwrap();
        for end in 0..bytes.len() {
            if let Ok(batch) = batch_from_bytes(bytes.slice(..end), DecodeLimits::default()) {
                // Cut between messages: fewer rows, never wrong ones.
                assert!(batch.num_rows() == 0 || batch == whole);
            }
        }
    }

    proptest! {
        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = batch_from_bytes(Bytes::from(bytes), DecodeLimits::default());
        }
    }
}
