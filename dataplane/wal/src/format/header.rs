//! The beginning of a segment, in all its versions. Today's code writes version 2.
//!
//! Version 2 added the id of the log and the life of its writer; the records behind the header are
//! those of version 1.

use super::{MAGIC, Reader, version};
use crate::label::LogId;
use crate::record::SequenceNumber;
use uuid::Uuid;

/// The version this module writes, and the newest it reads.
pub(crate) const VERSION: u16 = 2;

const CRC_BYTES: usize = 4;
/// Bytes of a header of version 1 before the name.
const FIXED_BYTES_V1: usize = 58;
/// Log id and epoch.
const ADDED_BYTES_V2: usize = 24;

/// The beginning of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) segment: u64,
    /// Sequence number of the first batch that is written to this segment.
    pub(crate) first_sequence: SequenceNumber,
    pub(crate) ingester_id: u64,
    pub(crate) ingester_name: String,
    pub(crate) created_at_millis: i64,
    /// Random; part of every record's checksum, so that bytes of another segment (or bytes a client
    /// made to look like a record) are never taken for a record of this one.
    pub(crate) salt: u64,
    /// The log it belongs to and the life of the writer; unknown in version 1.
    pub(crate) log: Option<(LogId, u64)>,
}

impl Header {
    /// Bytes of a header with this name, of the version that takes most.
    pub(crate) fn encoded_bytes(ingester_name: &str) -> usize {
        FIXED_BYTES_V1 + ADDED_BYTES_V2 + ingester_name.len() + CRC_BYTES
    }

    /// The bytes of version 2, or of version 1 when the log is not known.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let name = self.ingester_name.as_bytes();
        let name = &name[..name.len().min(usize::from(u16::MAX))];
        let added = self.log.map_or(0, |_| ADDED_BYTES_V2);
        let length = FIXED_BYTES_V1 + added + name.len() + CRC_BYTES;
        let mut out = Vec::with_capacity(length);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.log.map_or(1, |_| VERSION).to_le_bytes());
        out.extend_from_slice(&0_u16.to_le_bytes());
        out.extend_from_slice(&(length as u32).to_le_bytes());
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.first_sequence.0.to_le_bytes());
        out.extend_from_slice(&self.ingester_id.to_le_bytes());
        out.extend_from_slice(&self.created_at_millis.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        if let Some((log, epoch)) = &self.log {
            out.extend_from_slice(log.0.as_bytes());
            out.extend_from_slice(&epoch.to_le_bytes());
        }
        out.extend_from_slice(&(name.len() as u16).to_le_bytes());
        out.extend_from_slice(name);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header and says how long it is; `None` when it is short or its checksum is wrong.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, usize)> {
        let version = version(bytes)?;
        let mut reader = Reader(bytes.get(12..)?);
        let length = reader.u32()? as usize;
        let segment = reader.u64()?;
        let first_sequence = SequenceNumber(reader.u64()?);
        let ingester_id = reader.u64()?;
        let created_at_millis = reader.u64()? as i64;
        let salt = reader.u64()?;
        let log = match version {
            1 => None,
            VERSION => Some((LogId(Uuid::from_bytes(reader.array()?)), reader.u64()?)),
            _ => return None,
        };
        let name_length = usize::from(reader.u16()?);
        let name = reader.take(name_length)?;
        let crc = reader.u32()?;
        let covered = FIXED_BYTES_V1 + log.map_or(0, |_| ADDED_BYTES_V2) + name_length;
        if length != covered + CRC_BYTES || crc32c::crc32c(bytes.get(..covered)?) != crc {
            return None;
        }
        let ingester_name = String::from_utf8(name.to_vec()).ok()?;
        let header = Self {
            segment,
            first_sequence,
            ingester_id,
            ingester_name,
            created_at_millis,
            salt,
            log,
        };
        Some((header, length))
    }
}
