//! The records of a segment, behind its header until the end of the file or the first zeros. They are
//! the same in versions 1 and 2.
//!
//! All numbers are little endian. See `docs/reference/wal-format.md` for the layout in a table.

use bytes::Bytes;

use super::Reader;
use crate::record::{Append, Message, Producer, SequenceNumber};

/// Bytes in front of every record's head.
pub(crate) const FRAME_BYTES: usize = 16;

const KIND_SCHEMA: u8 = 1;
const KIND_BATCH: u8 = 2;
const KIND_MARK: u8 = 3;
/// All of them.
pub(crate) const KINDS: std::ops::RangeInclusive<u8> = KIND_SCHEMA..=KIND_MARK;

const ATTRIBUTE_PRODUCER_ID: u16 = 1;
const ATTRIBUTE_PRODUCER_SEQUENCE: u16 = 2;
/// Not to be skipped: rows without it would be older than all others, or newer.
const ATTRIBUTE_ORDER: u16 = 3;
/// Attributes from here on may be skipped by a reader that does not know them.
const ATTRIBUTE_OPTIONAL: u16 = 0x8000;

/// A record as it is in the file.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) content: Content,
    /// Bytes the record takes in the file.
    pub(crate) bytes: usize,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// The schema that batches of this segment call `slot`.
    Schema {
        slot: u32,
        table: u64,
        version: u32,
        ipc: Bytes,
    },
    Batch {
        slot: u32,
        table: u64,
        sequence: SequenceNumber,
        rows: u64,
        stamp_nanos: i64,
        producer: Option<Producer>,
        order: Option<i64>,
        messages: Vec<Message>,
    },
    /// Says only that everything before it was on disk.
    Mark,
}

/// Why there is no usable record at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// The bytes are not what was written, or not all there.
    Broken(&'static str),
    /// The bytes are right but of a newer release.
    Unknown { what: &'static str, found: u32 },
}

/// Appends the frame and head of a schema record to `out`; the body is the schema itself.
pub(crate) fn encode_schema(
    out: &mut Vec<u8>,
    salt: u64,
    synced_up_to: u64,
    slot: u32,
    table: u64,
    schema: &crate::SchemaDefinition,
) {
    let start = begin(out, KIND_SCHEMA, slot, synced_up_to);
    out.extend_from_slice(&table.to_le_bytes());
    out.extend_from_slice(&schema.version.to_le_bytes());
    finish(
        out,
        start,
        salt,
        schema.ipc.len(),
        crc32c::crc32c(&schema.ipc),
    );
}

/// Appends the frame and head of a batch record to `out`; the body is header and body of each
/// message, one after the other.
pub(crate) fn encode_batch(
    out: &mut Vec<u8>,
    salt: u64,
    synced_up_to: u64,
    slot: u32,
    sequence: SequenceNumber,
    append: &Append,
) {
    let start = begin(out, KIND_BATCH, slot, synced_up_to);
    out.extend_from_slice(&append.table.to_le_bytes());
    out.extend_from_slice(&sequence.0.to_le_bytes());
    out.extend_from_slice(&append.rows.to_le_bytes());
    out.extend_from_slice(&append.stamp_nanos.to_le_bytes());
    let attributes = append.producer.as_ref().map_or(0, |_| 2) + append.order.map_or(0, |_| 1);
    out.extend_from_slice(&u16::to_le_bytes(attributes));
    if let Some(producer) = &append.producer {
        push_attribute(out, ATTRIBUTE_PRODUCER_ID, producer.id.as_bytes());
        let sequence = producer.sequence.to_le_bytes();
        push_attribute(out, ATTRIBUTE_PRODUCER_SEQUENCE, &sequence);
    }
    if let Some(order) = append.order {
        push_attribute(out, ATTRIBUTE_ORDER, &order.to_le_bytes());
    }
    out.extend_from_slice(&(append.messages.len() as u32).to_le_bytes());
    for message in &append.messages {
        out.extend_from_slice(&(message.header.len() as u32).to_le_bytes());
        out.extend_from_slice(&(message.body.len() as u32).to_le_bytes());
    }
    finish(out, start, salt, append.body_bytes, append.body_crc);
}

/// Appends a mark to `out`.
pub(crate) fn encode_mark(out: &mut Vec<u8>, salt: u64, synced_up_to: u64) {
    let start = begin(out, KIND_MARK, 0, synced_up_to);
    finish(out, start, salt, 0, 0);
}

fn push_attribute(out: &mut Vec<u8>, tag: u16, value: &[u8]) {
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(value);
}

fn begin(out: &mut Vec<u8>, kind: u8, slot: u32, synced_up_to: u64) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    out.extend_from_slice(&[kind, 0, 0, 0]);
    out.extend_from_slice(&slot.to_le_bytes());
    out.extend_from_slice(&synced_up_to.to_le_bytes());
    start
}

fn finish(out: &mut [u8], start: usize, salt: u64, body_bytes: usize, body_crc: u32) {
    let head_bytes = out.len() - start - FRAME_BYTES;
    out[start..start + 4].copy_from_slice(&((head_bytes + body_bytes) as u32).to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&(head_bytes as u32).to_le_bytes());
    out[start + 8..start + 12].copy_from_slice(&body_crc.to_le_bytes());
    let crc = head_crc(salt, &out[start..start + 12], &out[start + FRAME_BYTES..]);
    out[start + 12..start + 16].copy_from_slice(&crc.to_le_bytes());
}

fn head_crc(salt: u64, lengths: &[u8], head: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, lengths), head)
}

/// A checked head: its bytes behind kind, slot and `synced`, and where the body is.
struct Head<'a> {
    kind: u8,
    slot: u32,
    rest: Reader<'a>,
    body: std::ops::Range<usize>,
    body_crc: u32,
}

/// Finds a head whose checksum is right at `offset`.
fn read_head(segment: &[u8], offset: usize, salt: u64) -> Result<Head<'_>, &'static str> {
    const SHORT: &str = "the record is cut short";
    let frame = segment
        .get(offset..offset.saturating_add(FRAME_BYTES))
        .ok_or(SHORT)?;
    let mut lengths = Reader(frame);
    let mut next = || lengths.u32().ok_or(SHORT);
    let (length, head_bytes, body_crc, crc) =
        (next()? as usize, next()? as usize, next()?, next()?);
    let head_start = offset + FRAME_BYTES;
    let end = head_start.checked_add(length).ok_or(SHORT)?;
    if head_bytes > length || end > segment.len() {
        return Err(SHORT);
    }
    let head = &segment[head_start..head_start + head_bytes];
    if head_crc(salt, &frame[..12], head) != crc {
        return Err("the checksum of the record's head is wrong");
    }
    let mut rest = Reader(head);
    let mut common = || Some((rest.u8()?, rest.take(3)?, rest.u32()?, rest.u64()?));
    let (kind, _, slot, _) = common().ok_or(SHORT)?;
    Ok(Head {
        kind,
        slot,
        rest,
        body: head_start + head_bytes..end,
        body_crc,
    })
}

/// Reads the record at `offset` of a segment.
pub(crate) fn decode(segment: &Bytes, offset: usize, salt: u64) -> Result<Frame, Unusable> {
    let head = read_head(segment, offset, salt).map_err(Unusable::Broken)?;
    let body = segment.slice(head.body.clone());
    if crc32c::crc32c(&body) != head.body_crc {
        return Err(Unusable::Broken(
            "the checksum of the record's body is wrong",
        ));
    }
    let bytes = head.body.end - offset;
    let content = match head.kind {
        KIND_SCHEMA => decode_schema(head, body),
        KIND_BATCH => return decode_batch(head, &body, bytes),
        KIND_MARK => Some(Content::Mark),
        found => {
            return Err(Unusable::Unknown {
                what: "record kind",
                found: found.into(),
            });
        }
    };
    let content = content.ok_or(Unusable::Broken("the record's head is too short"))?;
    Ok(Frame { content, bytes })
}

fn decode_schema(mut head: Head<'_>, ipc: Bytes) -> Option<Content> {
    let (table, version) = (head.rest.u64()?, head.rest.u32()?);
    Some(Content::Schema {
        slot: head.slot,
        table,
        version,
        ipc,
    })
}

fn decode_batch(mut head: Head<'_>, body: &Bytes, bytes: usize) -> Result<Frame, Unusable> {
    let short = || Unusable::Broken("the record's head is too short");
    let rest = &mut head.rest;
    let mut next = || rest.u64().ok_or_else(short);
    let (table, sequence, rows, stamp) = (next()?, next()?, next()?, next()?);
    let Attributes { producer, order } = decode_attributes(rest)?;
    let messages = decode_messages(rest, body).ok_or(Unusable::Broken(
        "the lengths of the record's messages do not add up",
    ))?;
    let content = Content::Batch {
        slot: head.slot,
        table,
        sequence: SequenceNumber(sequence),
        rows,
        stamp_nanos: stamp as i64,
        producer,
        order,
        messages,
    };
    Ok(Frame { content, bytes })
}

/// What a batch record may have besides.
struct Attributes {
    producer: Option<Producer>,
    order: Option<i64>,
}

fn decode_attributes(rest: &mut Reader<'_>) -> Result<Attributes, Unusable> {
    let short = || Unusable::Broken("the record's attributes are cut short");
    let (mut id, mut sequence, mut order) = (None, None, None);
    for _ in 0..rest.u16().ok_or_else(short)? {
        let tag = rest.u16().ok_or_else(short)?;
        let length = rest.u32().ok_or_else(short)? as usize;
        let value = rest.take(length).ok_or_else(short)?;
        match tag {
            ATTRIBUTE_PRODUCER_ID => id = String::from_utf8(value.to_vec()).ok(),
            ATTRIBUTE_PRODUCER_SEQUENCE => sequence = Reader(value).u64(),
            ATTRIBUTE_ORDER => {
                let value = Reader(value).u64().ok_or_else(short)?;
                order = Some(value as i64);
            }
            ATTRIBUTE_OPTIONAL.. => {}
            found => {
                return Err(Unusable::Unknown {
                    what: "attribute",
                    found: found.into(),
                });
            }
        }
    }
    let producer = id.zip(sequence);
    let producer = producer.map(|(id, sequence)| Producer { id, sequence });
    Ok(Attributes { producer, order })
}

fn decode_messages(rest: &mut Reader<'_>, body: &Bytes) -> Option<Vec<Message>> {
    let count = rest.u32()?;
    let mut messages = Vec::new();
    let mut at = 0_usize;
    for _ in 0..count {
        let (header_bytes, body_bytes) = (rest.u32()? as usize, rest.u32()? as usize);
        let body_at = at.checked_add(header_bytes)?;
        let end = body_at.checked_add(body_bytes)?;
        if end > body.len() {
            return None;
        }
        messages.push(Message {
            header: body.slice(at..body_at),
            body: body.slice(body_at..end),
        });
        at = end;
    }
    (at == body.len()).then_some(messages)
}
