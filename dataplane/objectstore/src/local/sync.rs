//! The system calls that make files and directories durable, behind a trait for tests.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Syncs to the disk. Each call returns after the disk has said so.
pub(super) trait Disk: Debug + Send + Sync + 'static {
    /// Content and length of a file.
    fn sync_file(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Debug)]
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn sync_file(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// Creates a directory and its missing parents, each durable in its own parent.
pub(super) fn create_directories(path: &Path, disk: &dyn Disk) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    create_directories(parent, disk)?;
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    disk.sync_directory(if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    })
}
