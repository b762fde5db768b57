//! How much of its volume the log may take.
//!
//! A log grows while flushes fail. It stops in time: a full volume would also stop the flushes, and
//! with them the only way to get smaller.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, Space};
use crate::error::Error;

/// Share of the volume when nothing is configured: half, so that as much is left for the files of a
/// process that keeps them on the same volume.
const SHARE: u64 = 2;
/// Part of the volume that is left free.
const SPARE_SHARE: u64 = 16;
/// No more than this is left free.
const MOST_SPARE_BYTES: u64 = 256 << 20;
/// A closed segment is the smallest thing that can be freed: the log is at least this many.
const SEGMENTS: u64 = 4;

/// The limits of a log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    /// Bytes of all segments.
    pub(crate) limit_bytes: u64,
}

impl Budget {
    /// `configured`: bytes, 0 for a share of the volume.
    pub(crate) fn new(configured: u64, disk: &dyn Disk, directory: &Path) -> Self {
        let share = || match disk.space(directory) {
            Ok(space) => space.total_bytes / SHARE,
            // It can't be known; writes that find no space are refused all the same.
            Err(_) => u64::MAX,
        };
        let limit_bytes = match configured {
            0 => share(),
            bytes => bytes,
        };
        Self { limit_bytes }
    }

    /// The largest segment, so that closed ones can be freed before the limit is reached.
    pub(crate) fn segment_bytes(&self, configured: u64) -> u64 {
        configured.min(self.limit_bytes / SEGMENTS)
    }

    /// Refuses `bytes` more when the log has `used` already.
    pub(crate) fn check_log(&self, used: u64, bytes: u64, directory: &Path) -> Result<(), Error> {
        if used.saturating_add(bytes) <= self.limit_bytes {
            return Ok(());
        }
        Err(Error::OverBudget {
            directory: directory.to_owned(),
            used_bytes: used,
            limit_bytes: self.limit_bytes,
        })
    }

    /// Refuses `bytes` more when too little of the volume would be left free.
    pub(crate) fn check_volume(disk: &dyn Disk, bytes: u64, directory: &Path) -> Result<(), Error> {
        let Ok(Space {
            total_bytes,
            free_bytes,
        }) = disk.space(directory)
        else {
            return Ok(());
        };
        let spare = (total_bytes / SPARE_SHARE).min(MOST_SPARE_BYTES);
        if free_bytes >= spare.saturating_add(bytes) {
            return Ok(());
        }
        let problem = format!("{free_bytes} bytes are free, {spare} are kept free");
        Err(Error::Full {
            directory: directory.to_owned(),
            source: Arc::new(io::Error::new(io::ErrorKind::StorageFull, problem)),
        })
    }
}
