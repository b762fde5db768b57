//! The label of a log: a small file that says which log the directory holds and what it has seen.
//!
//! A directory of segments alone can't tell that it is empty because it is new from empty because the
//! volume was exchanged, nor that it is an old copy of itself. The label names the log for ever, and
//! the catalog knows that name. It also keeps the newest state of the catalog that the log relied on:
//! a catalog that does not know that state was restored from a backup.
//!
//! Written whole beside the old one, synced and renamed, so that there is always one that is right.
//!
//! Of one that is damaged or was deleted the segments tell the name and the last life, but nothing tells the
//! state of the catalog. So a damaged label is not made anew before its operator says so.

use std::io;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

use crate::disk::{Disk, replace};
use crate::error::Error;
use crate::format::Reader;

/// Name of the file.
const FILE: &str = "label";

const MAGIC: [u8; 8] = *b"FCLOG\0\r\n";
const VERSION: u16 = 1;
const BYTES: usize = 60;

/// Names a log for ever. Random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LogId(pub Uuid);

impl std::fmt::Display for LogId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A state of the catalog, as the catalog names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogState {
    /// Number of the snapshot; from 1.
    pub snapshot: u64,
    /// When that snapshot was made, milliseconds since the Unix epoch. Tells it from one of the same
    /// number that was made after a restore.
    pub created_at_millis: i64,
}

/// What the label of a log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label {
    /// Which log it is.
    pub id: LogId,
    /// The last life of the ingester that wrote to it; 0 before the first.
    pub epoch: u64,
    /// The newest state of the catalog that the log relied on.
    pub catalog: Option<CatalogState>,
}

impl Label {
    /// That of a log that nothing was written to.
    pub(crate) fn new() -> Self {
        Self {
            id: LogId(Uuid::new_v4()),
            epoch: 0,
            catalog: None,
        }
    }

    fn encode(&self) -> [u8; BYTES] {
        let mut out = Vec::with_capacity(BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0_u16.to_le_bytes());
        out.extend_from_slice(&(BYTES as u32).to_le_bytes());
        out.extend_from_slice(self.id.0.as_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        let (snapshot, created) = self
            .catalog
            .map_or((0, 0), |state| (state.snapshot, state.created_at_millis));
        out.extend_from_slice(&snapshot.to_le_bytes());
        out.extend_from_slice(&created.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(&out);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes.get(16..BYTES)?);
        let id = LogId(Uuid::from_bytes(reader.array()?));
        let (epoch, snapshot) = (reader.u64()?, reader.u64()?);
        let created_at_millis = reader.u64()? as i64;
        if bytes.len() != BYTES || whole_version(bytes)? > VERSION {
            return None;
        }
        let catalog = (snapshot > 0).then_some(CatalogState {
            snapshot,
            created_at_millis,
        });
        Some(Self { id, epoch, catalog })
    }

    /// Reads the label of a directory with these files; `None` when it has none.
    pub(crate) fn read(
        disk: &dyn Disk,
        directory: &Path,
        names: &[String],
    ) -> Result<Option<Self>, Error> {
        if !names.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let file = directory.join(FILE);
        let bytes = disk.read(&file).map_err(|source| Error::Segment {
            doing: "read",
            file: file.clone(),
            source: Arc::new(source),
        })?;
        match whole_version(&bytes) {
            Some(found) if found > VERSION => Err(Error::UnknownVersion {
                file,
                offset: MAGIC.len() as u64,
                what: "format version",
                found: found.into(),
            }),
            _ => match Self::decode(&bytes) {
                Some(label) => Ok(Some(label)),
                None => Err(Error::DamagedLabel { file }),
            },
        }
    }

    /// Puts this label in the place of the one before, durably. Blocking.
    pub(crate) fn write(&self, disk: &dyn Disk, directory: &Path) -> io::Result<()> {
        replace(disk, &directory.join(FILE), &self.encode())
    }
}

/// The version of a label that is as it was written, also of one this release does not know: magic, version,
/// length and the checksum at the end are in the same places in every version. So a damaged version is not
/// taken for a newer one.
fn whole_version(bytes: &[u8]) -> Option<u16> {
    let mut reader = Reader(bytes.strip_prefix(&MAGIC)?);
    let (version, _, length) = (reader.u16()?, reader.u16()?, reader.u32()?);
    let (covered, crc) = bytes.split_last_chunk()?;
    let whole =
        bytes.len() == length as usize && crc32c::crc32c(covered) == u32::from_le_bytes(*crc);
    whole.then_some(version)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_label_reads_back_and_a_changed_byte_is_noticed() {
        let label = Label {
            epoch: 7,
            catalog: Some(CatalogState {
                snapshot: 99,
                created_at_millis: -3,
            }),
            ..Label::new()
        };
        let bytes = label.encode();
        assert_eq!(Label::decode(&bytes).unwrap(), label);
        assert_eq!(Label::decode(&Label::new().encode()).unwrap().catalog, None);
        for at in 0..BYTES {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Label::decode(&changed), None, "byte {at}");
        }
    }
}
