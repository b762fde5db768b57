//! The span of a log: a small file that says which segments the log consists of.
//!
//! A directory of segments tells that one in the middle is missing, but not that there was an older or a newer
//! one. So the newest is noted before a record is written to it, and the oldest that is needed before older
//! ones are removed. There may be more segments than noted, when a process ended in between, never fewer.
//!
//! Releases that do not know the file leave it as it is. It counts only when it is of the last life that
//! wrote to the log, or of one that was about to.
//!
//! On a full volume segments are removed without a note, or the volume would stay full: the file goes first, and is
//! written again when there is room.

use std::io;
use std::path::Path;

use uuid::Uuid;

use crate::disk::{Disk, remove_if_there};
use crate::error::Error;
use crate::format::Reader;
use crate::label::{Label, LogId};
use crate::small_file::SmallFile;

const FILE: SmallFile = SmallFile {
    name: "span",
    magic: *b"FCSPAN\r\n",
    version: 1,
    damaged: |file| Error::DamagedSpan { file },
};

/// Which segments a log must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Of which log.
    pub(crate) log: LogId,
    /// The life of the ingester that wrote this.
    pub(crate) epoch: u64,
    /// Number of the oldest segment; of the one to come in a log that has none.
    pub(crate) oldest: u64,
    /// Number of the newest segment; less than the oldest in a log that has none.
    pub(crate) newest: u64,
}

impl Span {
    /// Reads the span of a directory with these files and this label; `None` when it has none that counts.
    pub(crate) fn read(
        disk: &dyn Disk,
        directory: &Path,
        names: &[String],
    ) -> Result<Option<Self>, Error> {
        FILE.read(disk, directory, names, Self::decode)
    }

    /// Whether it tells of the log with this label as it is, whose newest segment is this one. After the life of a
    /// release that knows no spans the label tells of another life.
    ///
    /// A life that ended between span and label has begun no segment. A later epoch alone would not do: epochs
    /// begin again where an old backup of the catalog is restored a second time.
    pub(crate) fn counts_for(&self, label: &Label, newest: Option<u64>) -> bool {
        let had_no_segment = newest.is_none_or(|newest| newest <= self.newest);
        let was_about_to_write = self.epoch > label.epoch && had_no_segment;
        self.log == label.id && (self.epoch == label.epoch || was_about_to_write)
    }

    /// Removes the file, durably. Blocking.
    pub(crate) fn remove(disk: &dyn Disk, directory: &Path) -> io::Result<()> {
        remove_if_there(disk, &directory.join(FILE.name))?;
        disk.sync_directory(directory)
    }

    /// Puts this span in the place of the one before, durably. Blocking.
    pub(crate) fn write(&self, disk: &dyn Disk, directory: &Path) -> io::Result<()> {
        FILE.write(disk, directory, &self.encode())
    }

    /// The first segment that should be there and is not among these, which are in order.
    pub(crate) fn missing(&self, numbers: &[u64]) -> Option<u64> {
        (self.oldest..=self.newest).find(|number| numbers.binary_search(number).is_err())
    }

    fn encode(&self) -> Vec<u8> {
        let numbers = [self.epoch, self.oldest, self.newest];
        let mut content = self.log.0.as_bytes().to_vec();
        content.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
        content
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let mut reader = Reader(content);
        let log = LogId(Uuid::from_bytes(reader.array()?));
        let (epoch, oldest, newest) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let span = Self {
            log,
            epoch,
            oldest,
            newest,
        };
        reader.0.is_empty().then_some(span)
    }
}
