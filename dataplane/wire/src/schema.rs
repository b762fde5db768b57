//! The wire schema: the one function that says how a schema looks to a client, so that what is
//! announced (FlightInfo, GetSchema, prepare) and what is streamed cannot differ. Also schema
//! bytes and schema fingerprints.
//!
//! Left to others: turning columns into that shape ([`mod@crate::conform`]).

use std::sync::Arc;

use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_schema::{
    ArrowError, DataType, Field, FieldRef, Fields, IntervalUnit, Schema, TimeUnit, UnionFields,
    UnionMode,
};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::guard;

/// Key of the schema's metadata that marks a partial answer. Only a server that answers sets it.
pub const PARTIAL_MARK: &str = "flightcluster.partial";

/// How columns are laid out for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Layouts every Flight client reads: no dictionaries, views, run-ends or narrow decimals.
    #[default]
    Plain,
    /// Columns as the query engine holds them; the client asked for it.
    Native,
}

/// Why schema bytes were refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The schema could not be written.
    #[error("writing the schema as arrow ipc")]
    Write(#[source] ArrowError),
    /// The bytes are no encapsulated schema message.
    #[error("reading an arrow ipc schema")]
    Read(#[source] crate::decode::Error),
    /// The bytes end before the announced length, or have no length.
    #[error("the schema message is shorter than the length it announces")]
    Truncated,
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Write(_) => "schema_write",
            Self::Read(_) => "schema_read",
            Self::Truncated => "schema_truncated",
        }
    }
}

/// Returns the schema a client sees for `schema`.
///
/// [`Encoding::Native`] changes nothing. [`Encoding::Plain`] replaces, at every depth:
/// dictionaries and run-end encodings by their values, `Utf8View` by `Utf8`, `BinaryView` by
/// `Binary`, list views by lists, 32- and 64-bit decimals by 128-bit ones. Names, nullability and
/// metadata of fields and schema stay, but for [`PARTIAL_MARK`]: a table that was made of a partial answer
/// has it, and what is read of it may be complete.
pub fn wire_schema(schema: &Schema, encoding: Encoding) -> Schema {
    let fields = match encoding {
        Encoding::Native => schema.fields().clone(),
        Encoding::Plain => schema.fields().iter().map(plain_field).collect(),
    };
    let mut metadata = schema.metadata().clone();
    metadata.remove(PARTIAL_MARK);
    Schema::new_with_metadata(fields, metadata)
}

/// Writes `schema` as one encapsulated Arrow IPC message, the form of `SchemaResult` and of the
/// `schema` fields in Flight SQL.
pub fn schema_bytes(schema: &Schema) -> Result<Bytes, Error> {
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(false);
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        schema,
        &mut tracker,
        &options,
    );
    let mut out = Vec::new();
    write_message(&mut out, encoded, &options).map_err(Error::Write)?;
    Ok(out.into())
}

/// Reads what [`schema_bytes`] and other Arrow libraries write, with or without the continuation
/// marker. Never panics on foreign bytes.
pub fn schema_from_bytes(bytes: &[u8]) -> Result<Schema, Error> {
    const CONTINUATION: [u8; 4] = [0xff; 4];
    let rest = bytes.strip_prefix(&CONTINUATION).unwrap_or(bytes);
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(Error::Truncated)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Error::Truncated)?;
    let header = rest.get(..length).ok_or(Error::Truncated)?;
    guard::read_schema_message(header).map_err(Error::Read)
}

/// A number that stays the same as long as names, types and nullability of all fields do, across
/// processes and releases. Metadata does not count: clients compare schemas without it.
pub fn fingerprint(schema: &Schema) -> u64 {
    let mut hash = Sha256::new();
    // Changes when the way schemas are hashed changes.
    hash.update([1u8]);
    hash_fields(&mut hash, schema.fields());
    let digest = hash.finalize();
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

fn plain_field(field: &FieldRef) -> FieldRef {
    let plain = plain_type(field.data_type());
    if plain == *field.data_type() {
        return Arc::clone(field);
    }
    Arc::new(
        Field::new(field.name(), plain, field.is_nullable())
            .with_metadata(field.metadata().clone()),
    )
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::List(item) | DataType::ListView(item) => DataType::List(plain_field(item)),
        DataType::LargeList(item) | DataType::LargeListView(item) => {
            DataType::LargeList(plain_field(item))
        }
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain_field(item), *size),
        DataType::Map(entries, sorted) => DataType::Map(plain_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(plain_field).collect()),
        DataType::Union(fields, mode) => {
            let plain: UnionFields = fields
                .iter()
                .map(|(id, field)| (id, plain_field(field)))
                .collect();
            DataType::Union(plain, *mode)
        }
        other => other.clone(),
    }
}

fn hash_fields(hash: &mut Sha256, fields: &Fields) {
    hash_number(hash, fields.len() as u64);
    for field in fields {
        hash_field(hash, field);
    }
}

fn hash_field(hash: &mut Sha256, field: &Field) {
    hash_text(hash, field.name());
    hash.update([u8::from(field.is_nullable())]);
    hash_type(hash, field.data_type());
}

/// Every type has a tag of its own that never changes; parameters follow it.
fn hash_type(hash: &mut Sha256, data_type: &DataType) {
    hash.update([type_tag(data_type)]);
    match data_type {
        DataType::Timestamp(unit, zone) => {
            hash.update([unit_tag(unit)]);
            hash_text(hash, zone.as_deref().unwrap_or(""));
        }
        DataType::Time32(unit) | DataType::Time64(unit) | DataType::Duration(unit) => {
            hash.update([unit_tag(unit)]);
        }
        DataType::Interval(unit) => hash.update([match unit {
            IntervalUnit::YearMonth => 0u8,
            IntervalUnit::DayTime => 1,
            IntervalUnit::MonthDayNano => 2,
        }]),
        DataType::FixedSizeBinary(width) => hash.update(width.to_be_bytes()),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => hash_field(hash, item),
        DataType::FixedSizeList(item, size) => {
            hash.update(size.to_be_bytes());
            hash_field(hash, item);
        }
        DataType::Struct(fields) => hash_fields(hash, fields),
        DataType::Map(entries, sorted) => {
            hash.update([u8::from(*sorted)]);
            hash_field(hash, entries);
        }
        DataType::Union(fields, mode) => {
            hash.update([u8::from(*mode == UnionMode::Dense)]);
            hash_number(hash, fields.len() as u64);
            for (id, field) in fields.iter() {
                hash.update(id.to_be_bytes());
                hash_field(hash, field);
            }
        }
        DataType::Dictionary(keys, values) => {
            hash_type(hash, keys);
            hash_type(hash, values);
        }
        DataType::RunEndEncoded(ends, values) => {
            hash_field(hash, ends);
            hash_field(hash, values);
        }
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            hash.update(precision.to_be_bytes());
            hash.update(scale.to_be_bytes());
        }
        _ => {}
    }
}

fn hash_text(hash: &mut Sha256, text: &str) {
    hash_number(hash, text.len() as u64);
    hash.update(text.as_bytes());
}

fn hash_number(hash: &mut Sha256, number: u64) {
    hash.update(number.to_be_bytes());
}

fn unit_tag(unit: &TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    }
}

fn type_tag(data_type: &DataType) -> u8 {
    match data_type {
        DataType::Null => 0,
        DataType::Boolean => 1,
        DataType::Int8 => 2,
        DataType::Int16 => 3,
        DataType::Int32 => 4,
        DataType::Int64 => 5,
        DataType::UInt8 => 6,
        DataType::UInt16 => 7,
        DataType::UInt32 => 8,
        DataType::UInt64 => 9,
        DataType::Float16 => 10,
        DataType::Float32 => 11,
        DataType::Float64 => 12,
        DataType::Timestamp(_, None) => 13,
        DataType::Timestamp(_, Some(_)) => 14,
        DataType::Date32 => 15,
        DataType::Date64 => 16,
        DataType::Time32(_) => 17,
        DataType::Time64(_) => 18,
        DataType::Duration(_) => 19,
        DataType::Interval(_) => 20,
        DataType::Binary => 21,
        DataType::FixedSizeBinary(_) => 22,
        DataType::LargeBinary => 23,
        DataType::BinaryView => 24,
        DataType::Utf8 => 25,
        DataType::LargeUtf8 => 26,
        DataType::Utf8View => 27,
        DataType::List(_) => 28,
        DataType::ListView(_) => 29,
        DataType::FixedSizeList(_, _) => 30,
        DataType::LargeList(_) => 31,
        DataType::LargeListView(_) => 32,
        DataType::Struct(_) => 33,
        DataType::Union(_, _) => 34,
        DataType::Dictionary(_, _) => 35,
        DataType::Decimal32(_, _) => 36,
        DataType::Decimal64(_, _) => 37,
        DataType::Decimal128(_, _) => 38,
        DataType::Decimal256(_, _) => 39,
        DataType::Map(_, _) => 40,
        DataType::RunEndEncoded(_, _) => 41,
    }
}

#[cfg(test)]
mod tests;
