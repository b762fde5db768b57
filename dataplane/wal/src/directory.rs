//! The directory of a log: its lock and the names of its segments.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{DirectoryLock, Disk};
use crate::error::Error;
use crate::recover::{Identity, Recovery};

const LOCK_FILE: &str = "lock";
const EXTENSION: &str = ".wal";

/// A log directory that this process alone may use.
pub struct WalDirectory {
    pub(crate) path: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    /// Released when the log is closed, by the process' end at the latest.
    _lock: DirectoryLock,
}

impl std::fmt::Debug for WalDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalDirectory")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl WalDirectory {
    /// Creates the directory when it is missing and takes its lock. Blocking.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it, [`Error::Directory`] when it can't be used.
    pub fn lock(path: impl Into<PathBuf>, disk: Arc<dyn Disk>) -> Result<Self, Error> {
        let path = path.into();
        let failed = |doing| {
            let directory = path.clone();
            move |source| Error::Directory {
                doing,
                directory,
                source: Arc::new(source),
            }
        };
        disk.create_directory(&path).map_err(failed("create"))?;
        let lock = disk.lock(&path.join(LOCK_FILE)).map_err(failed("lock"))?;
        let lock = lock.ok_or_else(|| Error::Locked {
            directory: path.clone(),
        })?;
        Ok(Self {
            path,
            disk,
            _lock: lock,
        })
    }

    /// Looks at the segments and prepares replay. Blocking; changes nothing.
    ///
    /// # Errors
    /// [`Error::MissingSegment`], [`Error::Directory`].
    pub fn recover(self, identity: Identity) -> Result<Recovery, Error> {
        let numbers = self.segment_numbers()?;
        for pair in numbers.windows(2) {
            if pair[1] != pair[0] + 1 {
                return Err(Error::MissingSegment {
                    file: self.segment_path(pair[0] + 1),
                });
            }
        }
        Ok(Recovery::new(self, numbers, identity))
    }

    pub(crate) fn segment_path(&self, number: u64) -> PathBuf {
        segment_path(&self.path, number)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.disk.sync_directory(&self.path)
    }

    /// Numbers of the segments, growing. Files with other names are left alone.
    fn segment_numbers(&self) -> Result<Vec<u64>, Error> {
        let names = self
            .disk
            .list(&self.path)
            .map_err(|source| Error::Directory {
                doing: "list",
                directory: self.path.clone(),
                source: Arc::new(source),
            })?;
        let parse = |name: &String| name.strip_suffix(EXTENSION)?.parse().ok();
        let mut numbers: Vec<u64> = names.iter().filter_map(parse).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// Twenty digits, so that names sort as numbers.
pub(crate) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}{EXTENSION}"))
}
