//! Checks that stand between foreign bytes and the Arrow IPC reader.
//!
//! The reader of arrow-ipc asserts and unwraps on headers that pass flatbuffer verification: buffers
//! outside the body, negative counts, types with missing parts, unaligned unions. What can end
//! the process (huge allocations) is refused here before it is reached; what only panics is
//! refused here where that is cheap, and otherwise caught by [`caught`] and turned into an error.
//! Catching needs unwinding panics, which every profile of this workspace has.

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow_ipc::{CompressionType, Message, MetadataVersion, RecordBatch};
use arrow_schema::{ArrowError, DataType, Fields, Schema};
use flatbuffers::VerifierOptions;
use lz4_flex::frame::FrameDecoder;

use crate::decode::{BODY_ALIGNMENT, Error};

/// Rows (and items of nested columns) a message may claim without bytes to show for them: columns
/// of nulls, run-end encodings and batches without columns need none.
const FREE_ROWS: u64 = 1 << 20;

/// Verifies the flatbuffer of a message header.
///
/// A flatbuffer is a graph: one small table or string may be referred to many times and so grow
/// when it is read. Bounding the size of the expanded tree by the length of the header bounds what
/// reading it allocates. Eight times is far above what encoders make: they share only the tables
/// that describe layouts.
pub(crate) fn message(header: &[u8]) -> Result<Message<'_>, Error> {
    let options = VerifierOptions {
        max_apparent_size: header.len().saturating_mul(8),
        ..VerifierOptions::default()
    };
    let message = arrow_ipc::root_as_message_with_opts(&options, header)
        .map_err(|source| Error::Header { source })?;
    match message.version() {
        MetadataVersion::V4 | MetadataVersion::V5 => Ok(message),
        other => Err(Error::Version { version: other.0 }),
    }
}

/// Body length an encapsulated message announces.
pub(crate) fn body_length(header: &[u8]) -> Result<u64, Error> {
    let length = message(header)?.bodyLength();
    u64::try_from(length).map_err(|_| Error::Number {
        what: "body length",
        value: length,
    })
}

/// Reads the schema out of a schema message.
pub(crate) fn read_schema_message(header: &[u8]) -> Result<Schema, Error> {
    let message = message(header)?;
    let encoded = message.header_as_schema().ok_or(Error::Kind {
        kind: message.header_type().0,
    })?;
    if !encoded.endianness().equals_to_target_endianness() {
        return Err(Error::Endianness);
    }
    if encoded.fields().is_none() {
        return Err(Error::Missing {
            what: "fields of the schema",
        });
    }
    let schema = caught("schema", || {
        Ok::<_, ArrowError>(arrow_ipc::convert::fb_to_schema(encoded))
    })?;
    check_fields(schema.fields())?;
    Ok(schema)
}

/// Checks the numbers of a record batch header against the body they describe.
///
/// Afterwards every buffer lies inside the body, all buffers together are no larger than it, no
/// count is negative, lengths are plausible, and decompressing stays under `max_decompressed`.
/// Returns the bytes of all buffers once decompressed.
pub(crate) fn check_batch(
    batch: &RecordBatch<'_>,
    body: &[u8],
    max_decompressed: usize,
) -> Result<usize, Error> {
    let buffer_bytes = check_buffers(batch, body)?;
    let plain_bytes = match batch.compression() {
        Some(compression) => {
            check_codec(compression.codec())?;
            decompressed_bytes(batch, compression.codec(), body, max_decompressed)?
        }
        None => buffer_bytes,
    };
    let max_items = FREE_ROWS.max(plain_bytes.saturating_mul(8));
    check_items("rows", batch.length(), max_items)?;
    for node in batch.nodes().iter().flatten() {
        let length = check_items("items of a column", node.length(), max_items)?;
        check_items("nulls of a column", node.null_count(), length)?;
    }
    for count in batch.variadicBufferCounts().iter().flatten() {
        let buffers = batch.buffers().map_or(0, |buffers| buffers.len()) as u64;
        check_items("data buffers of a view column", count, buffers)?;
    }
    Ok(usize::try_from(plain_bytes).unwrap_or(usize::MAX))
}

/// Bytes of the buffers that begin at an odd place of a body, of which some have to be copied to be read.
pub(crate) fn odd_bytes(batch: &RecordBatch<'_>) -> u64 {
    let buffers = batch.buffers().into_iter().flatten();
    let odd = buffers.filter(|buffer| buffer.offset() % BODY_ALIGNMENT as i64 != 0);
    odd.map(|buffer| u64::try_from(buffer.length()).unwrap_or(0))
        .fold(0, u64::saturating_add)
}

/// Runs a part of the Arrow IPC reader; a panic inside becomes an error.
pub(crate) fn caught<T, E>(
    what: &'static str,
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, Error>
where
    ArrowError: From<E>,
{
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(Error::Arrow {
            what,
            source: source.into(),
        }),
        Err(_) => Err(Error::Panicked { what }),
    }
}

fn check_buffers(batch: &RecordBatch<'_>, body: &[u8]) -> Result<u64, Error> {
    let mut total = 0u64;
    for (index, buffer) in batch.buffers().iter().flatten().enumerate() {
        let outside = Error::BufferOutsideBody {
            index,
            body_bytes: body.len(),
        };
        let (Ok(offset), Ok(length)) = (
            u64::try_from(buffer.offset()),
            u64::try_from(buffer.length()),
        ) else {
            return Err(outside);
        };
        if offset
            .checked_add(length)
            .is_none_or(|end| end > body.len() as u64)
        {
            return Err(outside);
        }
        total = total.saturating_add(length);
    }
    // Shared ranges would be copied once for each buffer that is not aligned.
    if total > body.len() as u64 {
        return Err(Error::BuffersOverlap);
    }
    Ok(total)
}

fn check_codec(codec: CompressionType) -> Result<(), Error> {
    match codec {
        CompressionType::LZ4_FRAME | CompressionType::ZSTD => Ok(()),
        other => Err(Error::Codec { codec: other.0 }),
    }
}

/// Sums the lengths a compressed body announces; the reader allocates them up front. For ZSTD it
/// stops there, for LZ4 it goes on to the end of the frame, so that is measured.
fn decompressed_bytes(
    batch: &RecordBatch<'_>,
    codec: CompressionType,
    body: &[u8],
    max: usize,
) -> Result<u64, Error> {
    let mut total = 0u64;
    for (index, buffer) in batch.buffers().iter().flatten().enumerate() {
        let (start, length) = (buffer.offset() as usize, buffer.length() as usize);
        if length == 0 {
            continue;
        }
        let (prefix, content) = body
            .get(start..start + length)
            .and_then(|bytes| bytes.split_first_chunk::<8>())
            .ok_or(Error::BufferOutsideBody {
                index,
                body_bytes: body.len(),
            })?;
        let announced = match i64::from_le_bytes(*prefix) {
            // The format's mark for "stored as it is".
            -1 => content.len() as u64,
            plain => {
                let plain = u64::try_from(plain).map_err(|_| Error::Number {
                    what: "decompressed length",
                    value: plain,
                })?;
                if codec == CompressionType::LZ4_FRAME && plain <= max as u64 {
                    measure_lz4(index, content, plain)?;
                }
                plain
            }
        };
        total = total.saturating_add(announced);
        if total > max as u64 {
            return Err(Error::DecompressedTooLarge {
                bytes: total,
                max_bytes: max,
            });
        }
    }
    Ok(total)
}

/// The lengths a compressed body announces, whatever they are worth: decoding checks them.
pub(crate) fn announced_bytes(batch: &RecordBatch<'_>, body: &[u8]) -> u64 {
    let announced = |(offset, length): (i64, i64)| {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        let (prefix, content) = body.get(start..end)?.split_first_chunk::<8>()?;
        let plain = u64::try_from(i64::from_le_bytes(*prefix));
        // A negative one is the format's mark for "stored as it is".
        Some(plain.unwrap_or(content.len() as u64))
    };
    let buffers = batch.buffers();
    let buffers = buffers.iter().flatten();
    let lengths = buffers.filter_map(|buffer| announced((buffer.offset(), buffer.length())));
    lengths.fold(0, u64::saturating_add)
}

/// Decompresses into nothing, at most one byte further than announced.
fn measure_lz4(index: usize, content: &[u8], announced: u64) -> Result<(), Error> {
    let mut frame = FrameDecoder::new(content).take(announced + 1);
    match io::copy(&mut frame, &mut io::sink()) {
        Ok(found) if found == announced || content.is_empty() => Ok(()),
        Ok(_) => Err(Error::DecompressedLength { index, announced }),
        Err(source) => Err(Error::Lz4 { index, source }),
    }
}

fn check_items(what: &'static str, value: i64, max: u64) -> Result<u64, Error> {
    let count = u64::try_from(value).map_err(|_| Error::Number { what, value })?;
    if count > max {
        return Err(Error::Implausible { what, count, max });
    }
    Ok(count)
}

/// Refuses types whose sizes are negative; the reader multiplies with them.
fn check_fields(fields: &Fields) -> Result<(), Error> {
    fields
        .iter()
        .try_for_each(|field| check_type(field.name(), field.data_type()))
}

fn check_type(field: &str, data_type: &DataType) -> Result<(), Error> {
    let negative = || Error::NegativeSize {
        field: field.to_owned(),
    };
    match data_type {
        DataType::FixedSizeBinary(size) if *size < 0 => Err(negative()),
        DataType::FixedSizeList(_, size) if *size < 0 => Err(negative()),
        DataType::FixedSizeList(item, _)
        | DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _)
        | DataType::RunEndEncoded(_, item) => check_type(item.name(), item.data_type()),
        DataType::Struct(fields) => check_fields(fields),
        DataType::Union(fields, _) => fields
            .iter()
            .try_for_each(|(_, field)| check_type(field.name(), field.data_type())),
        DataType::Dictionary(_, values) => check_type(field, values),
        _ => Ok(()),
    }
}
