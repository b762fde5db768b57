//! Blocks as files of a directory that is nobody else's.
//!
//! # Format
//! One file for each block, called after a hash of its key: `FCBLOCK1`, the checksum (CRC-32C) of the
//! rest, bytes of the object, time of its last change (milliseconds since the Unix epoch), number of the
//! block, length of the path, path, bytes of the block. Numbers are little-endian. Nothing is synced:
//! what a crash leaves in pieces has the wrong checksum.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::lru::Lru;
use super::{Block, Key};

const MAGIC: &[u8; 8] = b"FCBLOCK1";
/// Magic, checksum, and the numbers after it.
const HEADER_BYTES: usize = 8 + 4 + 8 + 8 + 8 + 4;
/// Blocks that wait for the disk; more are not kept there.
const WRITES: usize = 32;

#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    files: Mutex<Lru<u64, ()>>,
    writes: Arc<Semaphore>,
    temporary: AtomicU64,
    hits: AtomicU64,
    damaged: AtomicU64,
    /// The last write failed.
    failing: AtomicBool,
}

impl Disk {
    /// Makes the directory and finds the blocks in it; what is too much or in pieces is removed.
    pub(super) fn open(directory: PathBuf, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            match entry.file_name().to_str().and_then(number_of) {
                Some(number) => found.push((metadata.modified()?, number, metadata.len())),
                None if metadata.is_file() => fs::remove_file(entry.path())?,
                None => {}
            }
        }
        found.sort_unstable();
        let mut files = Lru::new(limit);
        for (_, number, bytes) in found {
            for gone in files.insert(number, (), bytes) {
                fs::remove_file(directory.join(name_of(gone)))?;
            }
        }
        Ok(Self(Arc::new(Inner {
            directory,
            files: Mutex::new(files),
            writes: Arc::new(Semaphore::new(WRITES)),
            temporary: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        })))
    }

    /// Bytes read, bytes held, damaged blocks found.
    pub(super) fn stats(&self) -> (u64, u64, u64) {
        (
            self.0.hits.load(Ordering::Relaxed),
            self.0.files.lock().bytes(),
            self.0.damaged.load(Ordering::Relaxed),
        )
    }

    /// The block, if it is here and whole.
    pub(super) async fn read(&self, key: &Key) -> Option<Block> {
        let number = hash(key);
        self.0.files.lock().get(&number)?;
        let (this, key) = (self.clone(), key.clone());
        let read = tokio::task::spawn_blocking(move || this.read_file(number, &key)).await;
        read.ok().flatten()
    }

    fn read_file(&self, number: u64, key: &Key) -> Option<Block> {
        let path = self.0.directory.join(name_of(number));
        // Gone meanwhile, or the disk fails: the store has it.
        let file = fs::read(&path).ok()?;
        match decode(Bytes::from(file), key) {
            Decoded::Block(block) => {
                let bytes = block.bytes.len() as u64;
                self.0.hits.fetch_add(bytes, Ordering::Relaxed);
                Some(block)
            }
            // Another block with the same hash.
            Decoded::Other => None,
            Decoded::Damaged => {
                self.0.damaged.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(path = %path.display(), "a cached block is damaged and is fetched again");
                self.0.files.lock().remove(&number);
                // It is not listed any more, and will be overwritten.
                let _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Keeps a block, soon or not at all.
    pub(super) fn write(&self, key: &Key, block: &Block) {
        let Ok(place) = Arc::clone(&self.0.writes).try_acquire_owned() else {
            return;
        };
        let (this, key, block) = (self.clone(), key.clone(), block.clone());
        tokio::task::spawn_blocking(move || {
            let _place = place;
            match this.write_file(&key, &block) {
                Ok(()) => this.0.failing.store(false, Ordering::Relaxed),
                Err(error) => {
                    // Once, not for each block of a full disk.
                    if !this.0.failing.swap(true, Ordering::Relaxed) {
                        let directory = this.0.directory.display().to_string();
                        tracing::warn!(directory, %error, "a block can't be cached on disk");
                    }
                }
            }
        });
    }

    fn write_file(&self, key: &Key, block: &Block) -> io::Result<()> {
        let number = hash(key);
        let file = encode(key, block);
        let length = file.len() as u64;
        let turn = self.0.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.0.directory.join(format!("{turn}.new"));
        let path = self.0.directory.join(name_of(number));
        let written = fs::write(&temporary, file).and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            // What can't be written may not be removable either; the next start tries again.
            let _ = fs::remove_file(&temporary);
            return written;
        }
        let gone = self.0.files.lock().insert(number, (), length);
        for number in gone {
            remove(&self.0.directory.join(name_of(number)))?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) async fn settle(&self) {
        let all = self.0.writes.acquire_many(WRITES as u32).await;
        drop(all);
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

fn name_of(number: u64) -> String {
    format!("{number:016x}.block")
}

fn number_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".block")?, 16).ok()
}

fn encode(key: &Key, block: &Block) -> Vec<u8> {
    let (path, number) = key;
    let mut file = Vec::with_capacity(HEADER_BYTES + path.len() + block.bytes.len());
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&[0; 4]);
    file.extend_from_slice(&block.object_bytes.to_le_bytes());
    file.extend_from_slice(&block.modified_millis.to_le_bytes());
    file.extend_from_slice(&number.to_le_bytes());
    // Paths are far shorter; a longer one would not be found again.
    file.extend_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
    file.extend_from_slice(path.as_bytes());
    file.extend_from_slice(&block.bytes);
    let checksum = crc32c::crc32c(&file[12..]);
    file[8..12].copy_from_slice(&checksum.to_le_bytes());
    file
}

enum Decoded {
    Block(Block),
    Other,
    Damaged,
}

fn decode(file: Bytes, key: &Key) -> Decoded {
    let whole = file.len() >= HEADER_BYTES
        && file[..8] == *MAGIC
        && file[8..12] == crc32c::crc32c(&file[12..]).to_le_bytes();
    if !whole {
        return Decoded::Damaged;
    }
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&file[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let begin = HEADER_BYTES + key.0.len();
    let same = number(28) == key.1
        && file[36..40] == u32::try_from(key.0.len()).unwrap_or(u32::MAX).to_le_bytes()
        && file.get(HEADER_BYTES..begin) == Some(key.0.as_bytes());
    if !same {
        return Decoded::Other;
    }
    Decoded::Block(Block {
        object_bytes: number(12),
        modified_millis: number(20).cast_signed(),
        bytes: file.slice(begin..),
    })
}
