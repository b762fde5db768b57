//! The few file operations the log needs, as a trait, so that tests can put a disk there that fails,
//! forgets and keeps a record of the order.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What the kernel reads at once to write a part of it.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Keeps a directory locked until it is dropped.
pub type DirectoryLock = Box<dyn Send + Sync>;

/// File operations. Blocking; all paths are absolute or relative to the process.
pub trait Disk: Send + Sync + fmt::Debug + 'static {
    /// Creates a directory with its parents, durably; fine when it exists.
    fn create_directory(&self, directory: &Path) -> io::Result<()>;

    /// Takes the exclusive lock file `file`; `None` when another process holds it.
    fn lock(&self, file: &Path) -> io::Result<Option<DirectoryLock>>;

    /// Names of the files in a directory, in any order.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// The whole content of a file.
    fn read(&self, file: &Path) -> io::Result<Vec<u8>>;

    /// A part of a file, whole.
    fn read_at(&self, file: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let content = self.read(file)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let part = content.get(start..start.saturating_add(bytes));
        part.map(<[u8]>::to_vec)
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Creates a file that must not exist. Durable only after [`SegmentFile::sync`] and
    /// [`Disk::sync_directory`].
    fn create(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>>;

    /// Opens a file that exists, to be written over from its beginning. What it held stays behind what
    /// is written, until [`SegmentFile::truncate`].
    fn reopen(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>>;

    /// Gives a file another name, in the place of the file that may have it. Durable only after
    /// [`Disk::sync_directory`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. Durable only after [`Disk::sync_directory`].
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// How large the volume of a directory is, and how much of it is free.
    fn space(&self, directory: &Path) -> io::Result<Space>;

    /// Makes creations and removals in a directory durable.
    fn sync_directory(&self, directory: &Path) -> io::Result<()>;
}

/// Bytes of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of them.
    pub total_bytes: u64,
    /// Those this process may still use.
    pub free_bytes: u64,
}

/// A segment file open for writing, one append behind the other.
pub trait SegmentFile: Send {
    /// Writes all of `parts`, in order, behind what was written before. After an error part of them may
    /// be written, and only [`SegmentFile::truncate`] says where the next ones go.
    fn append(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Makes data and length durable (`fdatasync`).
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file to `length` bytes; the next append goes there. Not durable until synced.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// Puts a file with this content in the place of the one before, durably: written beside it, synced,
/// renamed, and the directory synced. Until then the one before stays as it is.
pub(crate) fn replace(disk: &dyn Disk, file: &Path, content: &[u8]) -> io::Result<()> {
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    // What an attempt before left behind.
    remove_if_there(disk, fresh)?;
    let mut open = disk.create(fresh)?;
    open.append(&mut [IoSlice::new(content)])?;
    open.sync()?;
    drop(open);
    disk.rename(fresh, file)?;
    disk.sync_directory(file.parent().unwrap_or(Path::new(".")))
}

/// Removes a file; fine when there is none. Durable only after [`Disk::sync_directory`].
pub(crate) fn remove_if_there(disk: &dyn Disk, file: &Path) -> io::Result<()> {
    match disk.remove(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Creates a directory and its missing parents, each durable in its own parent. So is the first that is there: who
/// created it may have ended before it synced that.
fn create_directory(
    directory: &Path,
    sync_directory: &dyn Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let parent = match directory.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    if directory.is_dir() {
        return match sync_directory(parent) {
            // It is somebody else's, who made this one for us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            synced => synced,
        };
    }
    create_directory(parent, sync_directory)?;
    match std::fs::create_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(parent),
    }
}

/// The disk of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        create_directory(directory, &|directory| self.sync_directory(directory))
    }

    fn lock(&self, file: &Path) -> io::Result<Option<DirectoryLock>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(file)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(std::fs::TryLockError::WouldBlock) => Ok(None),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(file)
    }

    fn read_at(&self, file: &Path, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let mut part = vec![0; bytes];
        File::open(file)?.read_exact_at(&mut part, offset)?;
        Ok(part)
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = OpenOptions::new().create_new(true).write(true).open(file)?;
        Ok(Box::new(RealFile {
            file,
            written: 0,
            length: 0,
        }))
    }

    fn reopen(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = OpenOptions::new().write(true).open(file)?;
        let length = file.metadata()?.len();
        Ok(Box::new(RealFile {
            file,
            written: 0,
            length,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        std::fs::remove_file(file)
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        let volume = rustix::fs::statvfs(directory)?;
        Ok(Space {
            total_bytes: volume.f_blocks.saturating_mul(volume.f_frsize),
            free_bytes: volume.f_bavail.saturating_mul(volume.f_frsize),
        })
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        File::open(directory)?.sync_all()
    }
}

/// An open file; its cursor is behind what was written.
struct RealFile {
    file: File,
    /// Bytes written since it was opened.
    written: u64,
    /// Of the file, when it was opened or cut.
    length: u64,
}

impl RealFile {
    /// Zeros that fill the page in which an append over older bytes ends. A page of which only a part is
    /// written has to be read first, and may not be in memory.
    fn padding(&self, bytes: u64) -> &'static [u8] {
        static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
        let end = self.written + bytes;
        let padded = end.next_multiple_of(PAGE_BYTES).min(self.length);
        &ZEROS[..padded.saturating_sub(end) as usize]
    }
}

impl SegmentFile for RealFile {
    fn append(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        let padding = self.padding(bytes);
        if padding.is_empty() {
            write_all(&mut self.file, parts)?;
        } else {
            let mut parts = parts.to_vec();
            parts.push(IoSlice::new(padding));
            write_all(&mut self.file, &mut parts)?;
            self.file.seek(SeekFrom::Start(self.written + bytes))?;
        }
        self.written += bytes;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::Start(length))?;
        (self.written, self.length) = (length, length);
        Ok(())
    }
}

fn write_all(file: &mut File, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Drop leading empty parts: writing only those would return 0 and look like a full disk.
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        match file.write_vectored(parts) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut parts, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_directory_is_durable_also_when_somebody_else_made_it() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let wal = data.join("wal");
        let synced = RefCell::new(Vec::new());
        let sync = |directory: &Path| {
            synced.borrow_mut().push(directory.to_owned());
            Ok(())
        };
        // As by a process that ended before it synced.
        std::fs::create_dir(&data).unwrap();
        create_directory(&wal, &sync).unwrap();
        assert!(wal.is_dir());
        let expected = [folder.path().to_owned(), data.clone()];
        assert_eq!(synced.take(), expected);
        create_directory(&wal, &sync).unwrap();
        assert_eq!(synced.take(), [data]);
        // A parent that only root may open.
        let refused = |_: &Path| Err(io::ErrorKind::PermissionDenied.into());
        create_directory(&wal, &refused).unwrap();
        create_directory(&wal.join("new"), &refused).unwrap_err();
    }
}
