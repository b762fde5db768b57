//! `FlightData` messages to record batches, one at a time, with every check on.
//!
//! A [`StreamDecoder`] takes the messages of one DoPut, DoExchange or DoGet stream. With each batch
//! it hands out the bytes as they came, so that a log can store them without encoding again.
//!
//! Left to others: reading the stream, its time limits, and whether the schema suits a table.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch};
use arrow_buffer::{Buffer, MutableBuffer};
use arrow_flight::{FlightData, FlightDescriptor};
use arrow_ipc::reader::{read_dictionary, read_record_batch};
use arrow_ipc::{DictionaryBatch, Message, MessageHeader};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use bytes::Bytes;

use crate::guard;

/// A body at a multiple of this address is read in place, another one is copied first: what the widest
/// values (decimals, views) need.
pub const BODY_ALIGNMENT: usize = 16;

/// What a stream may cost.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Bytes of one message: header, body and metadata together.
    pub max_message_bytes: usize,
    /// Bytes the compressed body of one message may grow to.
    pub max_decompressed_bytes: usize,
    /// Bytes of all dictionaries of a stream together.
    pub max_dictionary_bytes: usize,
}

impl Default for DecodeLimits {
    /// 64 MiB a message (ADBC sends 16 MB batches, pyarrow 32 MB), grown at most fourfold.
    fn default() -> Self {
        Self {
            max_message_bytes: 64 << 20,
            max_decompressed_bytes: 256 << 20,
            max_dictionary_bytes: 64 << 20,
        }
    }
}

/// A message as it came over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    /// The flatbuffer message, without framing.
    pub header: Bytes,
    /// The body the header describes, maybe compressed.
    pub body: Bytes,
}

/// A batch with the bytes it came from.
#[derive(Debug, Clone)]
pub struct DecodedBatch {
    /// The batch, fully validated, in the schema of the stream.
    pub batch: RecordBatch,
    /// The bytes as they came, which decode alone given the schema; `None` when the schema holds
    /// dictionaries, whose values are in other messages.
    pub raw: Option<RawMessage>,
    /// The application's bytes on this message.
    pub app_metadata: Bytes,
}

/// What one message brought.
#[derive(Debug, Clone)]
pub enum Decoded {
    /// The schema of the stream.
    Schema {
        /// The schema as the client declared it.
        schema: SchemaRef,
        /// The application's bytes on this message.
        app_metadata: Bytes,
    },
    /// A record batch, maybe of no rows.
    Batch(DecodedBatch),
    /// Dictionary values for later batches.
    Dictionary,
    /// No Arrow data; only application bytes, maybe none, and maybe the descriptor.
    Metadata(Bytes),
}

/// Why a message was refused; all of them are the sender's doing. The stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The message is over the limit.
    #[error(
        "a message of {bytes} bytes is over the limit of {max_bytes}; send batches with fewer rows"
    )]
    MessageTooLarge {
        /// Bytes received.
        bytes: usize,
        /// Bytes allowed.
        max_bytes: usize,
    },
    /// The header is no Arrow message.
    #[error("the data header is not an arrow ipc message")]
    Header {
        /// What the flatbuffer verifier found.
        source: flatbuffers::InvalidFlatbuffer,
    },
    /// The message is in a format before 0.15 or after ours.
    #[error("arrow ipc metadata version {version} is not supported; use V5 or V4")]
    Version {
        /// Number in the header.
        version: i16,
    },
    /// The data are big-endian.
    #[error("the data are not little-endian; convert them before sending")]
    Endianness,
    /// The message is neither schema, dictionary nor record batch.
    #[error("message kind {kind} does not belong in a flight stream")]
    Kind {
        /// Number in the header.
        kind: u8,
    },
    /// A part is missing that the format requires.
    #[error("the message lacks the {what}")]
    Missing {
        /// The part.
        what: &'static str,
    },
    /// There is a body but no header that describes it.
    #[error("the message has a body of {bytes} bytes but no data header")]
    BodyWithoutHeader {
        /// Bytes of the body.
        bytes: usize,
    },
    /// Data came before the schema.
    #[error("the first data message must hold the schema")]
    NoSchema,
    /// A second, different schema came.
    #[error("the schema changed within the stream; open a new stream for another schema")]
    SchemaChanged,
    /// A number is negative.
    #[error("the {what} in the message is {value}")]
    Number {
        /// What is counted.
        what: &'static str,
        /// The number received.
        value: i64,
    },
    /// A count is larger than the bytes received could hold.
    #[error("the message claims {count} {what}, at most {max} are possible; send smaller batches")]
    Implausible {
        /// What is counted.
        what: &'static str,
        /// The claim.
        count: u64,
        /// The limit.
        max: u64,
    },
    /// A type has a negative size.
    #[error("the type of field {field:?} has a negative size")]
    NegativeSize {
        /// Name of the field.
        field: String,
    },
    /// A buffer does not lie inside the body.
    #[error("buffer {index} lies outside the body of {body_bytes} bytes")]
    BufferOutsideBody {
        /// Position of the buffer in the header.
        index: usize,
        /// Bytes of the body.
        body_bytes: usize,
    },
    /// The buffers claim more bytes than the body has.
    #[error("the buffers of the message overlap")]
    BuffersOverlap,
    /// The compression is unknown.
    #[error("compression codec {codec} is not known; use lz4 or zstd, or none")]
    Codec {
        /// Number in the header.
        codec: i8,
    },
    /// The body would grow too large.
    #[error(
        "the body would decompress to {bytes} bytes, over the limit of {max_bytes}; send batches \
         with fewer rows"
    )]
    DecompressedTooLarge {
        /// Bytes announced.
        bytes: u64,
        /// Bytes allowed.
        max_bytes: usize,
    },
    /// A compressed buffer does not hold what it announces.
    #[error("buffer {index} does not decompress to the {announced} bytes it announces")]
    DecompressedLength {
        /// Position of the buffer in the header.
        index: usize,
        /// Bytes announced.
        announced: u64,
    },
    /// A compressed buffer is not LZ4.
    #[error("decompressing buffer {index} as lz4")]
    Lz4 {
        /// Position of the buffer in the header.
        index: usize,
        /// What the decompressor found.
        source: std::io::Error,
    },
    /// The dictionaries of the stream became too large.
    #[error(
        "the dictionaries of the stream hold {bytes} bytes, over the limit of {max_bytes}; send \
         the columns without dictionaries"
    )]
    DictionariesTooLarge {
        /// Bytes held.
        bytes: usize,
        /// Bytes allowed.
        max_bytes: usize,
    },
    /// The Arrow reader refused the content.
    #[error("decoding the {what} of the message")]
    Arrow {
        /// Kind of message.
        what: &'static str,
        /// What the reader found.
        source: ArrowError,
    },
    /// The Arrow reader panicked on the content.
    #[error("the {what} of the message is malformed")]
    Panicked {
        /// Kind of message.
        what: &'static str,
    },
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::MessageTooLarge { .. }
            | Self::DecompressedTooLarge { .. }
            | Self::DictionariesTooLarge { .. } => "message_too_large",
            Self::NoSchema | Self::SchemaChanged => "message_order",
            Self::Version { .. } | Self::Endianness | Self::Codec { .. } => "message_unsupported",
            Self::Header { .. }
            | Self::Kind { .. }
            | Self::Missing { .. }
            | Self::BodyWithoutHeader { .. }
            | Self::Number { .. }
            | Self::Implausible { .. }
            | Self::NegativeSize { .. }
            | Self::BufferOutsideBody { .. }
            | Self::BuffersOverlap
            | Self::DecompressedLength { .. }
            | Self::Lz4 { .. }
            | Self::Arrow { .. }
            | Self::Panicked { .. } => "message_malformed",
        }
    }

    /// Whether the message was refused for its size, not its content.
    pub fn is_too_large(&self) -> bool {
        self.category() == "message_too_large"
    }
}

/// Decodes the messages of one stream in order.
///
/// - Guarantees: never panics on what it is given; what it allocates is bounded by
///   [`DecodeLimits`]; batches are fully validated (offsets, UTF-8, nulls).
/// - After an error the decoder is in no defined state: end the stream.
#[derive(Debug)]
pub struct StreamDecoder {
    limits: DecodeLimits,
    descriptor: Option<FlightDescriptor>,
    schema: Option<SchemaRef>,
    has_dictionaries: bool,
    dictionaries: HashMap<i64, ArrayRef>,
    dictionary_bytes: HashMap<i64, usize>,
}

/// Whether a message comes before the first batch: a schema, a dictionary, or metadata alone. It is
/// false for a batch, and for what can't be read.
#[must_use]
pub fn is_before_batches(message: &FlightData) -> bool {
    if message.data_header.is_empty() {
        return message.data_body.is_empty();
    }
    guard::message(&message.data_header).is_ok_and(|header| {
        let kind = header.header_type();
        kind == MessageHeader::Schema || kind == MessageHeader::DictionaryBatch
    })
}

/// Memory that decoding a message takes beside the message itself: a copy of its body, if that lies at
/// an odd address, or else of those of its buffers that do; or what the body says it grows to. At most what the
/// limits allow.
#[must_use]
pub fn decoding_bytes(message: &FlightData, limits: &DecodeLimits) -> u64 {
    let Ok(header) = guard::message(&message.data_header) else {
        return 0;
    };
    let batch = header.header_as_record_batch();
    let values = || header.header_as_dictionary_batch()?.data();
    let Some(batch) = batch.or_else(values) else {
        return 0;
    };
    if batch.compression().is_none() {
        let whole = message.data_body.len() as u64;
        return match is_aligned(&message.data_body) {
            true => guard::odd_bytes(&batch).min(whole),
            false => whole,
        };
    }
    let grown = guard::announced_bytes(&batch, &message.data_body);
    grown.min(limits.max_decompressed_bytes as u64)
}

impl StreamDecoder {
    /// Starts with nothing known of the stream.
    pub fn new(limits: DecodeLimits) -> Self {
        Self {
            limits,
            descriptor: None,
            schema: None,
            has_dictionaries: false,
            dictionaries: HashMap::new(),
            dictionary_bytes: HashMap::new(),
        }
    }

    /// Takes the next message.
    ///
    /// - Errors: [`Error`], always the sender's doing.
    pub fn push(&mut self, message: FlightData) -> Result<Decoded, Error> {
        let FlightData {
            flight_descriptor,
            data_header,
            app_metadata,
            data_body,
        } = message;
        let bytes = data_header.len() + app_metadata.len() + data_body.len();
        let max_bytes = self.limits.max_message_bytes;
        if bytes > max_bytes {
            return Err(Error::MessageTooLarge { bytes, max_bytes });
        }
        if self.descriptor.is_none() {
            self.descriptor = flight_descriptor;
        }
        if data_header.is_empty() {
            return match data_body.len() {
                0 => Ok(Decoded::Metadata(app_metadata)),
                bytes => Err(Error::BodyWithoutHeader { bytes }),
            };
        }
        let header = guard::message(&data_header)?;
        match header.header_type() {
            MessageHeader::Schema => self.schema_message(&data_header, app_metadata),
            MessageHeader::DictionaryBatch => self.dictionary_message(&header, data_body),
            MessageHeader::RecordBatch => {
                let batch = self.batch_message(&header, &data_body)?;
                let raw = (!self.has_dictionaries).then(|| RawMessage {
                    header: data_header.clone(),
                    body: data_body,
                });
                Ok(Decoded::Batch(DecodedBatch {
                    batch,
                    raw,
                    app_metadata,
                }))
            }
            other => Err(Error::Kind { kind: other.0 }),
        }
    }

    /// The descriptor of the stream: that of the first message that had one.
    pub fn descriptor(&self) -> Option<&FlightDescriptor> {
        self.descriptor.as_ref()
    }

    /// The schema, once its message has come.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    /// Bytes of the dictionaries it keeps.
    pub fn dictionary_bytes(&self) -> u64 {
        let bytes = self.dictionary_bytes.values().map(|bytes| *bytes as u64);
        bytes.fold(0, u64::saturating_add)
    }

    fn schema_message(&mut self, header: &[u8], app_metadata: Bytes) -> Result<Decoded, Error> {
        let schema = Arc::new(guard::read_schema_message(header)?);
        match &self.schema {
            Some(known) if *known != schema => return Err(Error::SchemaChanged),
            _ => {}
        }
        self.has_dictionaries = has_dictionaries(&schema);
        self.schema = Some(Arc::clone(&schema));
        Ok(Decoded::Schema {
            schema,
            app_metadata,
        })
    }

    fn batch_message(&self, header: &Message<'_>, body: &Bytes) -> Result<RecordBatch, Error> {
        let schema = self.schema.as_ref().ok_or(Error::NoSchema)?;
        let batch = header.header_as_record_batch().ok_or(Error::Missing {
            what: "record batch",
        })?;
        guard::check_batch(&batch, body, self.limits.max_decompressed_bytes)?;
        let body = aligned(body.clone());
        guard::caught("record batch", || {
            let schema = Arc::clone(schema);
            read_record_batch(
                &body,
                batch,
                schema,
                &self.dictionaries,
                None,
                &header.version(),
            )
        })
    }

    fn dictionary_message(&mut self, header: &Message<'_>, body: Bytes) -> Result<Decoded, Error> {
        let schema = Arc::clone(self.schema.as_ref().ok_or(Error::NoSchema)?);
        let dictionary = header
            .header_as_dictionary_batch()
            .ok_or(Error::Missing { what: "dictionary" })?;
        let values = dictionary.data().ok_or(Error::Missing {
            what: "dictionary values",
        })?;
        let plain_bytes = guard::check_batch(&values, &body, self.limits.max_decompressed_bytes)?;
        self.charge(&dictionary, body.len().max(plain_bytes))?;
        let body = aligned(body);
        guard::caught("dictionary", || {
            let known = &mut self.dictionaries;
            read_dictionary(&body, dictionary, &schema, known, &header.version())
        })?;
        Ok(Decoded::Dictionary)
    }

    /// Counts a dictionary by its whole body, which its values keep alive.
    fn charge(&mut self, dictionary: &DictionaryBatch<'_>, bytes: usize) -> Result<(), Error> {
        let held = self.dictionary_bytes.entry(dictionary.id()).or_default();
        *held = if dictionary.isDelta() {
            held.saturating_add(bytes)
        } else {
            bytes
        };
        let bytes = self
            .dictionary_bytes
            .values()
            .fold(0usize, |sum, n| sum.saturating_add(*n));
        let max_bytes = self.limits.max_dictionary_bytes;
        if bytes > max_bytes {
            return Err(Error::DictionariesTooLarge { bytes, max_bytes });
        }
        Ok(())
    }
}

/// The body as a buffer; a body at an odd address is copied once as a whole, which costs less than
/// copying each of its buffers and keeps unions readable.
fn aligned(body: Bytes) -> Buffer {
    if is_aligned(&body) {
        return Buffer::from(body);
    }
    let mut copy = MutableBuffer::with_capacity(body.len());
    copy.extend_from_slice(&body);
    copy.into()
}

fn is_aligned(body: &[u8]) -> bool {
    body.as_ptr().align_offset(BODY_ALIGNMENT) == 0
}

/// Whether any column, at any depth, is a dictionary.
pub(crate) fn has_dictionaries(schema: &Schema) -> bool {
    schema
        .flattened_fields()
        .iter()
        .any(|field| matches!(field.data_type(), DataType::Dictionary(_, _)))
}

#[cfg(test)]
mod tests;
