//! Batches as Arrow IPC messages, for the log.
//!
//! A record stands alone: its dictionaries, then one batch, readable with the schema of
//! [`crate::schema::encode_schema`] and nothing else.

use std::collections::HashMap;

use arrow_array::RecordBatch;
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::writer::{
    DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions,
};
use arrow_ipc::{MessageHeader, root_as_message};
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use flightcluster_wal::Message;

/// Encodes a batch with all its dictionaries.
pub(crate) fn encode_batch(batch: &RecordBatch) -> Result<Vec<Message>, ArrowError> {
    let generator = IpcDataGenerator::default();
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(false);
    // Hands out the dictionary ids the schema was encoded with.
    let schema = batch.schema();
    generator.schema_to_bytes_with_dictionary_tracker(&schema, &mut tracker, &options);
    let mut context = IpcWriteContext::default();
    let (dictionaries, rows) = generator.encode(batch, &mut tracker, &options, &mut context)?;
    let message = |EncodedData {
                       ipc_message,
                       arrow_data,
                   }| Message {
        header: Bytes::from(ipc_message),
        body: Bytes::from(arrow_data),
    };
    Ok(dictionaries
        .into_iter()
        .chain([rows])
        .map(message)
        .collect())
}

/// Reads a record back. The batch owns its memory: nothing of `messages` stays alive.
pub(crate) fn decode_batch(
    schema: &SchemaRef,
    messages: &[Message],
) -> Result<RecordBatch, ArrowError> {
    let mut dictionaries = HashMap::new();
    for message in messages {
        let header = root_as_message(&message.header)
            .map_err(|error| ArrowError::IpcError(format!("not a message: {error}")))?;
        let version = header.version();
        match header.header_type() {
            MessageHeader::DictionaryBatch => {
                let dictionary = header.header_as_dictionary_batch().ok_or_else(incomplete)?;
                let body = owned(&message.body);
                read_dictionary(&body, dictionary, schema, &mut dictionaries, &version)?;
            }
            MessageHeader::RecordBatch => {
                let rows = header.header_as_record_batch().ok_or_else(incomplete)?;
                let (body, schema) = (owned(&message.body), SchemaRef::clone(schema));
                return read_record_batch(&body, rows, schema, &dictionaries, None, &version);
            }
            _ => return Err(incomplete()),
        }
    }
    Err(incomplete())
}

/// Whether a message as it came in is a batch of this many rows.
pub(crate) fn is_batch_of(message: &Message, rows: usize) -> bool {
    let header = root_as_message(&message.header).ok();
    let batch = header.and_then(|header| header.header_as_record_batch());
    batch.is_some_and(|batch| usize::try_from(batch.length()) == Ok(rows))
}

/// A copy in memory aligned for Arrow, so that arrays need not copy again.
fn owned(bytes: &Bytes) -> Buffer {
    let mut buffer = MutableBuffer::with_capacity(bytes.len());
    buffer.extend_from_slice(bytes);
    buffer.into()
}

fn incomplete() -> ArrowError {
    ArrowError::IpcError("the record is not dictionaries and one batch".to_owned())
}
