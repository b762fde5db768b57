//! Segments that are not needed any more, kept to be written over.
//!
//! To write over a file costs less than to make one grow: its blocks are there, and a sync has no
//! metadata to write (`docs/decisions/0018-segments-are-written-over.md`).
//!
//! What such a file held is no record of its next segment, because the salt is another one. Spares are
//! known to this process only; the next one removes them before it writes anything.

use std::path::{Path, PathBuf};

use tracing::warn;

use crate::disk::{Disk, remove_if_there};

const PREFIX: &str = "spare-";
/// Part of the log's limit that spares may take.
const SHARE: u64 = 8;
/// No more than this is kept.
const MOST_BYTES: u64 = 512 << 20;

/// A file to be written over.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) path: PathBuf,
    /// Its length.
    pub(crate) bytes: u64,
}

/// The spares of a log, the last one used the first to be used again: most of it is in memory still.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    files: Vec<Spare>,
    most_bytes: u64,
    least_file_bytes: u64,
}

impl Spares {
    /// For a log of at most `limit_bytes` with segments of `segment_bytes`.
    pub(crate) fn new(limit_bytes: u64, segment_bytes: u64) -> Self {
        Self {
            files: Vec::new(),
            most_bytes: (limit_bytes / SHARE).min(MOST_BYTES),
            least_file_bytes: segment_bytes / 2,
        }
    }

    /// Whether a segment of this length is worth keeping and there is room for it.
    pub(crate) fn wants(&self, bytes: u64) -> bool {
        bytes >= self.least_file_bytes && self.bytes() + bytes <= self.most_bytes
    }

    /// Keeps a file whose new name is durable.
    pub(crate) fn put(&mut self, spare: Spare) {
        self.files.push(spare);
    }

    pub(crate) fn take(&mut self) -> Option<Spare> {
        self.files.pop()
    }

    /// Bytes of all of them.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|spare| spare.bytes).sum()
    }
}

/// The name of segment `number` when it is a spare.
pub(crate) fn spare_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{number:020}"))
}

/// Removes what a process before has kept, of the files with these names. What can't be removed costs
/// nothing but its room.
pub(crate) fn remove_leftovers(disk: &dyn Disk, directory: &Path, names: &[String]) {
    let leftovers = names.iter().filter(|name| name.starts_with(PREFIX));
    let mut removed = false;
    for name in leftovers {
        removed |= remove_spare(disk, &directory.join(name));
    }
    // Some file systems have the room only then. Nothing relies on it: the next process removes them too.
    if removed && let Err(error) = disk.sync_directory(directory) {
        warn!(directory = %directory.display(), error = %error, "can't sync the removal of spare segments");
    }
}

/// Removes a spare and says whether that went well. One that stays takes room until the next process.
pub(crate) fn remove_spare(disk: &dyn Disk, file: &Path) -> bool {
    let removed = remove_if_there(disk, file);
    if let Err(error) = &removed {
        warn!(file = %file.display(), error = %error, "can't remove a spare segment");
    }
    removed.is_ok()
}
