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

use uuid::Uuid;

use crate::disk::Disk;
use crate::error::Error;
use crate::format::Reader;
use crate::small_file::SmallFile;

const FILE: SmallFile = SmallFile {
    name: "label",
    magic: *b"FCLOG\0\r\n",
    version: 1,
    damaged: |file| Error::DamagedLabel { file },
};

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

    fn encode(&self) -> Vec<u8> {
        let (snapshot, created) = self
            .catalog
            .map_or((0, 0), |state| (state.snapshot, state.created_at_millis));
        let mut content = self.id.0.as_bytes().to_vec();
        content.extend_from_slice(&self.epoch.to_le_bytes());
        content.extend_from_slice(&snapshot.to_le_bytes());
        content.extend_from_slice(&created.to_le_bytes());
        content
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let mut reader = Reader(content);
        let id = LogId(Uuid::from_bytes(reader.array()?));
        let (epoch, snapshot) = (reader.u64()?, reader.u64()?);
        let created_at_millis = reader.u64()? as i64;
        let catalog = (snapshot > 0).then_some(CatalogState {
            snapshot,
            created_at_millis,
        });
        let label = Self { id, epoch, catalog };
        reader.0.is_empty().then_some(label)
    }

    /// Reads the label of a directory with these files; `None` when it has none.
    pub(crate) fn read(
        disk: &dyn Disk,
        directory: &Path,
        names: &[String],
    ) -> Result<Option<Self>, Error> {
        FILE.read(disk, directory, names, Self::decode)
    }

    /// Puts this label in the place of the one before, durably. Blocking.
    pub(crate) fn write(&self, disk: &dyn Disk, directory: &Path) -> io::Result<()> {
        FILE.write(disk, directory, &self.encode())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_label_reads_back() {
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
        assert_eq!(Label::decode(&bytes[1..]), None);
        assert_eq!(Label::decode(&Label::new().encode()).unwrap().catalog, None);
    }
}
