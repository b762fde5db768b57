//! The segment that is written to: creation, of a spare if there is one, and its end.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::warn;

use crate::disk::{Disk, SegmentFile};
use crate::format::header::Header;
use crate::record::{SchemaDefinition, SequenceNumber};
use crate::spares::{Spare, remove_spare};
use crate::wal::Shared;

pub(crate) struct ActiveSegment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Box<dyn SegmentFile>,
    /// End of what is written and synced.
    pub(crate) length: u64,
    /// Bytes of the file when it was opened: what is behind `length` is of an older segment.
    reused_bytes: u64,
    pub(crate) salt: u64,
    pub(crate) holds_batches: bool,
    /// The span tells of it.
    pub(crate) is_noted: bool,
    /// Nothing behind the last group says that it was synced.
    pub(crate) is_unmarked: bool,
    pub(crate) slots: HashMap<(u64, Arc<SchemaDefinition>), u32>,
}

impl ActiveSegment {
    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.length.max(self.reused_bytes)
    }

    /// Cuts off what the file still holds of an older segment, durably.
    pub(crate) fn cut_rest(&mut self) -> io::Result<()> {
        match self.length < self.reused_bytes {
            true => self.cut(),
            false => Ok(()),
        }
    }

    /// Cuts off what is behind the records, durably.
    pub(crate) fn cut(&mut self) -> io::Result<()> {
        self.file.truncate(self.length)?;
        self.reused_bytes = 0;
        self.file.sync()
    }
}

/// Creates a segment with its header, of a spare if there is one; file and directory entry are durable on
/// success.
pub(crate) fn create_segment(
    shared: &Shared,
    number: u64,
    first_sequence: SequenceNumber,
) -> io::Result<ActiveSegment> {
    let path = shared.directory.segment_path(number);
    let salt = RandomState::new().hash_one((number, std::process::id()));
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let header = Header {
        segment: number,
        first_sequence,
        ingester_id: shared.identity.ingester_id,
        ingester_name: shared.identity.ingester_name.clone(),
        created_at_millis: i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX),
        salt,
        log: Some((shared.directory.id, shared.identity.epoch)),
    }
    .encode();
    let disk = shared.directory.disk.as_ref();
    let reused = shared
        .take_spare()
        .and_then(|spare| reuse(disk, &spare, &header, &path));
    let (file, reused_bytes) = match reused {
        Some(reused) => reused,
        None => (create(shared, &header, &path)?, 0),
    };
    let synced = shared.directory.sync();
    synced.inspect_err(|_| remove_unfinished(shared, &path))?;
    let length = header.len() as u64;
    Ok(ActiveSegment {
        number,
        path,
        file,
        length,
        reused_bytes,
        salt,
        holds_batches: false,
        is_noted: false,
        is_unmarked: false,
        slots: HashMap::new(),
    })
}

/// A new file with this header.
fn create(shared: &Shared, header: &[u8], path: &Path) -> io::Result<Box<dyn SegmentFile>> {
    let mut file = shared.directory.disk.create(path)?;
    write_header(file.as_mut(), header).inspect_err(|_| remove_unfinished(shared, path))?;
    Ok(file)
}

/// A spare with this header, and its bytes; `None` when it can't be used. Then it is dropped, and nothing
/// is lost with it: it was no part of the log yet. When it has the name of a segment in spite of an error,
/// the file that is created instead finds that.
fn reuse(
    disk: &dyn Disk,
    spare: &Spare,
    header: &[u8],
    path: &Path,
) -> Option<(Box<dyn SegmentFile>, u64)> {
    match write_over(disk, &spare.path, header, path) {
        Ok(file) => Some((file, spare.bytes)),
        Err(error) => {
            let file = spare.path.display();
            warn!(%file, error = %error, "can't write over a spare segment, creating a new file");
            // It would take room that nobody counts.
            remove_spare(disk, &spare.path);
            None
        }
    }
}

/// Gives a spare this header, and then the name of a segment: it has that only when it begins like one.
fn write_over(
    disk: &dyn Disk,
    spare: &Path,
    header: &[u8],
    path: &Path,
) -> io::Result<Box<dyn SegmentFile>> {
    let mut file = disk.reopen(spare)?;
    write_header(file.as_mut(), header)?;
    disk.rename(spare, path)?;
    Ok(file)
}

fn write_header(file: &mut dyn SegmentFile, header: &[u8]) -> io::Result<()> {
    file.append(&mut [IoSlice::new(header)])?;
    file.sync()
}

/// After a failed sync the next process may read a header that is not on the disk, and build on it. This
/// is the best that can be done.
fn remove_unfinished(shared: &Shared, path: &Path) {
    let removed = shared.directory.disk.remove(path);
    if let Err(error) = removed.and_then(|()| shared.directory.sync()) {
        warn!(file = %path.display(), error = %error, "can't remove an unfinished segment");
    }
}
