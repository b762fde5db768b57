//! What goes into the log and comes out of it.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;

/// Largest record, in bytes of all its messages. Far above the largest Flight message; keeps every
/// length of the format inside 32 bits.
pub(crate) const MAX_RECORD_BYTES: usize = 1 << 30;

/// Longest producer id in bytes.
const MAX_PRODUCER_BYTES: usize = 1024;

/// The place of a record in the log: 1, 2, 3, … without gaps. 0 means "nothing".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SequenceNumber(pub u64);

impl SequenceNumber {
    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for SequenceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Where the log holds a record, for as long as it is not truncated and this process has it open. By default
/// nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    pub(crate) segment: u64,
    /// Of the record's frame.
    pub(crate) offset: u64,
    /// From there to the end of its body.
    pub(crate) bytes: u32,
}

impl Place {
    /// Bytes the record takes in the log.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.bytes.into()
    }
}

/// A durable record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub sequence: SequenceNumber,
    /// Where it is.
    pub place: Place,
}

/// What is read of a record by its place. The schema is not with it: who kept the place has to know that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The table it belongs to.
    pub table: u64,
    /// Who sent it.
    pub producer: Option<Producer>,
    /// See [`Record::order`].
    pub order: Option<i64>,
    /// Its dictionaries, then the batch.
    pub messages: Vec<Message>,
}

/// One Arrow IPC message as it came in: flatbuffer header and body, without framing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The flatbuffer (`FlightData.data_header`).
    pub header: Bytes,
    /// The buffers (`FlightData.data_body`); empty for messages that have none.
    pub body: Bytes,
}

/// The schema a record was written with. Stored once per segment and table.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaDefinition {
    /// Which schema of the table this is.
    pub version: u32,
    /// The Arrow IPC schema message.
    pub ipc: Bytes,
}

/// Who sent a record, for exactly-once retries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Producer {
    /// The id the producer chose.
    pub id: String,
    /// The producer's own number of this batch.
    pub sequence: u64,
}

/// A record to be made durable.
#[derive(Debug, Clone)]
pub struct Append {
    pub(crate) table: u64,
    pub(crate) schema: Arc<SchemaDefinition>,
    pub(crate) rows: u64,
    pub(crate) stamp_nanos: i64,
    pub(crate) producer: Option<Producer>,
    pub(crate) order: Option<i64>,
    pub(crate) messages: Vec<Message>,
    pub(crate) body_bytes: usize,
    pub(crate) body_crc: u32,
}

impl Append {
    /// Prepares a record; the checksum over the messages is computed here, on the caller's thread.
    ///
    /// - `stamp_nanos`: when the batch was accepted, nanoseconds since the Unix epoch. The log keeps
    ///   it and does not look at it.
    /// - `messages`: everything needed to read the batch with `schema` alone: its dictionaries, then
    ///   the batch.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`] over 1 GiB, or with a producer id over 1 KiB.
    pub fn new(
        table: u64,
        schema: Arc<SchemaDefinition>,
        rows: u64,
        stamp_nanos: i64,
        producer: Option<Producer>,
        messages: Vec<Message>,
    ) -> Result<Self, Error> {
        let body_bytes: usize = messages.iter().map(|m| m.header.len() + m.body.len()).sum();
        let largest = body_bytes.max(schema.ipc.len());
        let producer_bytes = producer.as_ref().map_or(0, |p| p.id.len());
        if largest > MAX_RECORD_BYTES || producer_bytes > MAX_PRODUCER_BYTES {
            return Err(Error::RecordTooLarge {
                bytes: largest + producer_bytes,
            });
        }
        let body_crc = messages.iter().fold(0, |crc, message| {
            let crc = crc32c::crc32c_append(crc, &message.header);
            crc32c::crc32c_append(crc, &message.body)
        });
        Ok(Self {
            table,
            schema,
            rows,
            stamp_nanos,
            producer,
            order: None,
            messages,
            body_bytes,
            body_crc,
        })
    }

    /// The same record of rows that are numbered, `first` being the number of the first.
    #[must_use]
    pub fn with_order(mut self, first: i64) -> Self {
        self.order = Some(first);
        self
    }

    /// Bytes of the messages; what the record takes on disk but for a few dozen bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body_bytes
    }
}

/// A record read back from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its number.
    pub sequence: SequenceNumber,
    /// The table it belongs to.
    pub table: u64,
    /// The schema of its messages.
    pub schema: Arc<SchemaDefinition>,
    /// Rows in its messages, as the writer said.
    pub rows: u64,
    /// When it was accepted, nanoseconds since the Unix epoch.
    pub stamp_nanos: i64,
    /// Who sent it.
    pub producer: Option<Producer>,
    /// The number of its first row, when its rows are numbered; the others count on. The log keeps it
    /// and does not look at it.
    pub order: Option<i64>,
    /// Its dictionaries, then the batch. They share the memory of the whole segment: copy what is to
    /// be kept.
    pub messages: Vec<Message>,
}
