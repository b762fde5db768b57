//! Bytes of objects kept near: in memory, then on disk.
//!
//! A [`CachedStore`] reads objects in blocks and keeps them. Objects never change under their path, so
//! a block is right for ever; blocks that nobody asks for make room for others.
//!
//! # Flow
//! range → blocks → memory → being fetched by somebody else → disk → the store, neighbouring blocks in
//! one request. What comes from the store or the disk goes into memory, what comes from the store onto
//! the disk too, in the background.
//!
//! # Guarantees
//! - A block is fetched once however many readers ask at the same time. A reader that gives up or fails
//!   leaves the work to the next.
//! - Memory and disk hold no more bytes than their limits; on disk a few writes under way come on top.
//! - A block on disk is served only with its own key and checksum. What is damaged is removed and
//!   fetched again. The disk failing makes reads slower, never wrong.
//!
//! Only reads of ranges are cached, for that is how queries read; all else goes to the store.

mod disk;
mod lru;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use disk::Disk;
use lru::Lru;

/// Bytes of a block. A column of a row group has about this size or more; over a network, waiting for
/// the first byte takes as long as the transfer of this many.
const BLOCK_BYTES: u64 = 512 * 1024;

/// Neighbouring blocks of one request.
const RUN_BLOCKS: usize = 16;

/// Requests of one read that run at once.
const REQUESTS: usize = 8;

/// How much a [`CachedStore`] may keep.
#[derive(Debug, Clone, Default)]
pub struct CacheOptions {
    /// Bytes of blocks in memory.
    pub memory_bytes: u64,
    /// Directory and bytes of blocks on disk.
    pub disk: Option<(PathBuf, u64)>,
}

/// What a cache did since the start, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStats {
    /// Bytes asked for that were in memory, or on their way for another reader.
    pub memory_hit_bytes: u64,
    /// Bytes read from disk.
    pub disk_hit_bytes: u64,
    /// Bytes read from the store.
    pub miss_bytes: u64,
    /// Bytes in memory now.
    pub memory_bytes: u64,
    /// Bytes on disk now.
    pub disk_bytes: u64,
    /// Blocks on disk that were damaged.
    pub damaged: u64,
}

/// A block of an object: its path and the number of the block.
type Key = (Arc<str>, u64);

/// The bytes of a block, and what its object was said to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    bytes: Bytes,
    object_bytes: u64,
    modified_millis: i64,
}

/// An object store whose ranges are kept. Clones share what they keep.
#[derive(Debug, Clone)]
pub struct CachedStore {
    inner: Arc<dyn ObjectStore>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    memory: Mutex<Lru<Key, Block>>,
    fetching: Mutex<HashMap<Key, watch::Receiver<Option<Block>>>>,
    disk: Option<Disk>,
    memory_hits: AtomicU64,
    misses: AtomicU64,
}

impl CachedStore {
    /// Keeps what is read from `inner`. Takes over what an earlier process left on disk.
    ///
    /// # Errors
    /// The directory can't be made or read.
    pub fn new(inner: Arc<dyn ObjectStore>, options: CacheOptions) -> std::io::Result<Self> {
        let disk = match options.disk {
            Some((directory, bytes)) if bytes > 0 => Some(Disk::open(directory, bytes)?),
            _ => None,
        };
        let shared = Shared {
            memory: Mutex::new(Lru::new(options.memory_bytes)),
            fetching: Mutex::default(),
            disk,
            memory_hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        };
        Ok(Self {
            inner,
            shared: Arc::new(shared),
        })
    }

    /// Numbers for metrics.
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let shared = &self.shared;
        let mut stats = CacheStats {
            memory_hit_bytes: shared.memory_hits.load(Ordering::Relaxed),
            miss_bytes: shared.misses.load(Ordering::Relaxed),
            memory_bytes: shared.memory.lock().bytes(),
            ..CacheStats::default()
        };
        if let Some(disk) = &shared.disk {
            (stats.disk_hit_bytes, stats.disk_bytes, stats.damaged) = disk.stats();
        }
        stats
    }

    /// The blocks of an object by number.
    async fn blocks(&self, location: &Path, wanted: Vec<u64>) -> Result<BTreeMap<u64, Block>> {
        let path: Arc<str> = location.as_ref().into();
        let mut found = BTreeMap::new();
        loop {
            let missing: Vec<u64> = wanted
                .iter()
                .copied()
                .filter(|number| !found.contains_key(number))
                .collect();
            if missing.is_empty() {
                return Ok(found);
            }
            let (mut claims, mut awaited) = (Vec::new(), Vec::new());
            for number in missing {
                match self.shared.claim((Arc::clone(&path), number)) {
                    Claimed::Present(block) => {
                        found.insert(number, block);
                    }
                    Claimed::Fetching(block) => awaited.push((number, block)),
                    Claimed::Ours(claim) => claims.push(claim),
                }
            }
            // Our own first: two readers never wait for each other.
            if !claims.is_empty() {
                found.extend(self.clone().work_off(location.clone(), claims).await?);
            }
            for (number, mut block) in awaited {
                // Whoever fetched it gave up when there is none: the next round is ours.
                if let Ok(block) = block.wait_for(Option::is_some).await
                    && let Some(block) = block.clone()
                {
                    self.shared.count_memory(&block);
                    found.insert(number, block);
                }
            }
        }
    }

    /// Reads the blocks of our claims. In a task, for others wait for them while our reader may do
    /// something else for long, such as giving rows to a slow client. It ends with the reader.
    async fn work_off(self, location: Path, claims: Vec<Claim>) -> Result<BTreeMap<u64, Block>> {
        let work = async move {
            let mut found = BTreeMap::new();
            let mut runs = self.after_disk(claims, &mut found).await;
            let mut fetched = stream::iter(runs.drain(..))
                .map(|run| self.fetch(&location, run))
                .buffer_unordered(REQUESTS);
            while let Some(blocks) = fetched.try_next().await? {
                found.extend(blocks);
            }
            Ok(found)
        };
        let task = AbortOnDropHandle::new(tokio::spawn(work.in_current_span()));
        task.await
            .unwrap_or_else(|source| Err(object_store::Error::JoinError { source }))
    }

    /// Takes from disk what is there, and makes runs of neighbours of the rest.
    async fn after_disk(
        &self,
        claims: Vec<Claim>,
        found: &mut BTreeMap<u64, Block>,
    ) -> Vec<Vec<Claim>> {
        let mut runs: Vec<Vec<Claim>> = Vec::new();
        for claim in claims {
            let kept = match &self.shared.disk {
                Some(disk) => disk.read(&claim.key).await,
                None => None,
            };
            if let Some(block) = kept {
                found.insert(claim.key.1, block.clone());
                claim.fulfil(block, false);
                continue;
            }
            match runs.last_mut() {
                Some(run)
                    if run.len() < RUN_BLOCKS
                        && run.last().is_some_and(|last| last.key.1 + 1 == claim.key.1) =>
                {
                    run.push(claim);
                }
                _ => runs.push(vec![claim]),
            }
        }
        runs
    }

    /// Reads neighbouring blocks. Those beyond the end of the object are empty.
    async fn fetch(&self, location: &Path, run: Vec<Claim>) -> Result<Vec<(u64, Block)>> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(Vec::new());
        };
        let range = first.key.1 * BLOCK_BYTES..(last.key.1 + 1) * BLOCK_BYTES;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            ..GetOptions::default()
        };
        let result = self.inner.get_opts(location, options).await?;
        let (object_bytes, modified) = (result.meta.size, result.meta.last_modified);
        let bytes = result.bytes().await?;
        let expected = range.end.min(object_bytes).saturating_sub(range.start);
        if bytes.len() as u64 != expected {
            return Err(object_store::Error::Generic {
                store: "cache",
                source: format!(
                    "{location}: asked for {range:?} of {object_bytes} bytes, got {}",
                    bytes.len()
                )
                .into(),
            });
        }
        self.shared.misses.fetch_add(expected, Ordering::Relaxed);
        let mut blocks = Vec::with_capacity(run.len());
        for claim in run {
            let begin = claim.key.1 * BLOCK_BYTES - range.start;
            let end = (begin + BLOCK_BYTES).min(bytes.len() as u64);
            let block = Block {
                // A copy: a slice would keep the whole answer in memory as long as one block of it.
                bytes: Bytes::copy_from_slice(&bytes[begin.min(end) as usize..end as usize]),
                object_bytes,
                modified_millis: modified.timestamp_millis(),
            };
            blocks.push((claim.key.1, block.clone()));
            claim.fulfil(block, true);
        }
        Ok(blocks)
    }

    /// Reads ranges that are not empty, all their blocks at once.
    async fn read(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<(Bytes, Block)>> {
        let mut wanted: Vec<u64> = ranges
            .iter()
            .flat_map(|range| range.start / BLOCK_BYTES..=(range.end - 1) / BLOCK_BYTES)
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        let blocks = self.blocks(location, wanted).await?;
        ranges.iter().map(|range| join(range, &blocks)).collect()
    }
}

/// The bytes of a range, cut off at the end of the object, and one of its blocks.
fn join(range: &Range<u64>, blocks: &BTreeMap<u64, Block>) -> Result<(Bytes, Block)> {
    let (first, last) = (range.start / BLOCK_BYTES, (range.end - 1) / BLOCK_BYTES);
    let mut parts = Vec::new();
    for (number, block) in blocks.range(first..=last) {
        let base = number * BLOCK_BYTES;
        let length = block.bytes.len() as u64;
        let begin = range.start.saturating_sub(base).min(length);
        let end = (range.end - base).min(length);
        parts.push(block.bytes.slice(begin as usize..end as usize));
    }
    let Some(block) = blocks
        .get(&first)
        .filter(|block| range.start < block.object_bytes)
    else {
        return Err(object_store::Error::Generic {
            store: "cache",
            source: format!("range {range:?} begins after the end of the object").into(),
        });
    };
    let bytes = match parts.as_slice() {
        [only] => only.clone(),
        parts => {
            let mut bytes = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
            bytes.freeze()
        }
    };
    Ok((bytes, block.clone()))
}

enum Claimed {
    Present(Block),
    Fetching(watch::Receiver<Option<Block>>),
    Ours(Claim),
}

/// The right and duty to fetch a block. Dropped unfulfilled, it goes to whoever waits.
struct Claim {
    key: Key,
    sender: watch::Sender<Option<Block>>,
    shared: Arc<Shared>,
}

impl Claim {
    fn fulfil(self, block: Block, from_store: bool) {
        self.shared
            .memory
            .lock()
            .insert(self.key.clone(), block.clone(), block.bytes.len() as u64);
        if let Some(disk) = self.shared.disk.as_ref().filter(|_| from_store) {
            disk.write(&self.key, &block);
        }
        self.sender.send_replace(Some(block));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.shared.fetching.lock().remove(&self.key);
    }
}

impl Shared {
    fn claim(self: &Arc<Self>, key: Key) -> Claimed {
        let mut fetching = self.fetching.lock();
        if let Some(block) = self.memory.lock().get(&key) {
            self.count_memory(&block);
            return Claimed::Present(block);
        }
        if let Some(block) = fetching.get(&key) {
            return Claimed::Fetching(block.clone());
        }
        let (sender, receiver) = watch::channel(None);
        fetching.insert(key.clone(), receiver);
        Claimed::Ours(Claim {
            key,
            sender,
            shared: Arc::clone(self),
        })
    }

    fn count_memory(&self, block: &Block) {
        let bytes = block.bytes.len() as u64;
        self.memory_hits.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The range of a read that may be served from blocks.
fn plain_range(options: &GetOptions) -> Option<Range<u64>> {
    let GetOptions {
        if_match: None,
        if_none_match: None,
        if_modified_since: None,
        if_unmodified_since: None,
        range: Some(GetRange::Bounded(range)),
        version: None,
        head: false,
        ..
    } = options
    else {
        return None;
    };
    (range.start < range.end).then(|| range.clone())
}

impl fmt::Display for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (cached)", self.inner)
    }
}

#[async_trait]
impl ObjectStore for CachedStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let Some(range) = plain_range(&options) else {
            return self.inner.get_opts(location, options).await;
        };
        let mut read = self.read(location, std::slice::from_ref(&range)).await?;
        let Some((bytes, block)) = read.pop() else {
            return self.inner.get_opts(location, options).await;
        };
        let end = range.start + bytes.len() as u64;
        let modified: DateTime<Utc> =
            DateTime::from_timestamp_millis(block.modified_millis).unwrap_or_default();
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed()),
            meta: ObjectMeta {
                location: location.clone(),
                last_modified: modified,
                size: block.object_bytes,
                e_tag: None,
                version: None,
            },
            range: range.start..end,
            attributes: Default::default(),
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if ranges.iter().any(Range::is_empty) {
            return self.inner.get_ranges(location, ranges).await;
        }
        let read = self.read(location, ranges).await?;
        Ok(read.into_iter().map(|(bytes, _)| bytes).collect())
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests;
