//! What is kept, what is not, and that nothing else is ever served.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use object_store::ObjectStoreExt as _;
use object_store::memory::InMemory;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use super::*;

/// A store that counts its reads and lets them through one by one when told.
#[derive(Debug)]
struct Slow {
    inner: InMemory,
    reads: AtomicU64,
    gate: Semaphore,
}

impl fmt::Display for Slow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("slow")
    }
}

#[async_trait]
impl ObjectStore for Slow {
    async fn put_opts(&self, to: &Path, bytes: PutPayload, o: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(to, bytes, o).await
    }
    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(to, options).await
    }
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let _turn = self.gate.acquire().await.unwrap();
        self.inner.get_opts(location, options).await
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

const OBJECT_BYTES: u64 = 5 * BLOCK_BYTES + 1000;

struct World {
    store: Arc<Slow>,
    path: Path,
    bytes: Vec<u8>,
}

impl World {
    async fn new() -> Self {
        let store = Arc::new(Slow {
            inner: InMemory::new(),
            reads: AtomicU64::new(0),
            gate: Semaphore::new(100),
        });
        let bytes: Vec<u8> = (0..OBJECT_BYTES).map(|at| (at * 31 / 7) as u8).collect();
        let path = Path::from("db/1/a.parquet");
        store.put(&path, bytes.clone().into()).await.unwrap();
        Self { store, path, bytes }
    }

    fn cache(&self, memory_bytes: u64, disk: Option<(&TempDir, u64)>) -> CachedStore {
        let disk = disk.map(|(folder, bytes)| (folder.path().join("cache"), bytes));
        let options = CacheOptions { memory_bytes, disk };
        CachedStore::new(Arc::clone(&self.store) as _, options).unwrap()
    }

    /// Reads a range both ways and compares.
    async fn check(&self, cache: &CachedStore, range: Range<u64>) {
        let end = range.end.min(OBJECT_BYTES);
        let expected = &self.bytes[range.start as usize..end as usize];
        let one = cache.get_range(&self.path, range.clone()).await.unwrap();
        assert!(one == expected, "{range:?}");
        let many = [range.clone(), 0..1, range];
        let many = cache.get_ranges(&self.path, &many).await.unwrap();
        assert!(many[0] == expected && many[1] == self.bytes[..1] && many[2] == expected);
    }

    fn reads(&self) -> u64 {
        self.store.reads.swap(0, Ordering::Relaxed)
    }
}

#[tokio::test]
async fn what_was_read_once_is_not_read_again() {
    let world = World::new().await;
    let cache = world.cache(1 << 30, None);
    world.check(&cache, 0..OBJECT_BYTES).await;
    assert_eq!(world.reads(), 1, "neighbouring blocks are one request");
    let edge = BLOCK_BYTES;
    for range in [
        0..1,
        edge - 1..edge + 1,
        edge..edge * 3,
        OBJECT_BYTES - 8..OBJECT_BYTES,
    ] {
        world.check(&cache, range).await;
    }
    world
        .check(&cache, OBJECT_BYTES - 8..OBJECT_BYTES + BLOCK_BYTES / 2)
        .await;
    assert_eq!(world.reads(), 0);
    let stats = cache.stats();
    assert_eq!(
        (stats.miss_bytes, stats.memory_bytes),
        (OBJECT_BYTES, OBJECT_BYTES)
    );
    assert!(stats.memory_hit_bytes > OBJECT_BYTES);
    let meta = cache
        .get_opts(&world.path, GetOptions::new().with_range(Some(5..9_u64)))
        .await;
    assert_eq!(meta.unwrap().meta.size, OBJECT_BYTES);
}

#[tokio::test]
async fn memory_and_disk_hold_no_more_than_their_limits() {
    let world = World::new().await;
    let folder = TempDir::new().unwrap();
    let cache = world.cache(2 * BLOCK_BYTES, Some((&folder, 3 * BLOCK_BYTES)));
    for number in 0..5 {
        world
            .check(&cache, number * BLOCK_BYTES..(number + 1) * BLOCK_BYTES)
            .await;
        assert!(cache.stats().memory_bytes <= 2 * BLOCK_BYTES);
        cache.shared.disk.as_ref().unwrap().settle().await;
        let files = std::fs::read_dir(folder.path().join("cache")).unwrap();
        let bytes: u64 = files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes <= 3 * BLOCK_BYTES);
        assert_eq!(cache.stats().disk_bytes, bytes);
    }
}

#[tokio::test]
async fn a_block_on_disk_serves_the_next_process_and_a_damaged_one_nobody() {
    let world = World::new().await;
    let folder = TempDir::new().unwrap();
    let cache = world.cache(0, Some((&folder, 1 << 30)));
    world.check(&cache, 0..OBJECT_BYTES).await;
    cache.shared.disk.as_ref().unwrap().settle().await;
    world.reads();
    world.check(&cache, 0..OBJECT_BYTES).await;
    assert_eq!(world.reads(), 0, "the disk has all of it");

    let cache = world.cache(0, Some((&folder, 1 << 30)));
    world.check(&cache, 0..OBJECT_BYTES).await;
    assert_eq!(world.reads(), 0, "another process finds it");
    let files = std::fs::read_dir(folder.path().join("cache")).unwrap();
    for (number, file) in files.enumerate() {
        let path = file.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        match number {
            0 => bytes.truncate(20),
            1 => bytes.truncate(bytes.len() - 1),
            2 => bytes.clear(),
            _ => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
    world.check(&cache, 0..OBJECT_BYTES).await;
    assert!(world.reads() > 0);
    assert_eq!(cache.stats().damaged, 6);
}

#[tokio::test]
async fn bytes_are_counted_where_they_were_found() {
    let world = World::new().await;
    let folder = TempDir::new().unwrap();
    let read = async |cache: &CachedStore, blocks: Range<u64>| {
        let range = blocks.start * BLOCK_BYTES..blocks.end * BLOCK_BYTES;
        cache.get_range(&world.path, range).await.unwrap();
        cache.shared.disk.as_ref().unwrap().settle().await;
        let stats = cache.stats();
        [
            stats.memory_hit_bytes,
            stats.disk_hit_bytes,
            stats.miss_bytes,
        ]
        .map(|bytes| bytes / BLOCK_BYTES)
    };
    let cache = world.cache(1 << 30, Some((&folder, 1 << 30)));
    assert_eq!(read(&cache, 0..3).await, [0, 0, 3]);
    assert_eq!(read(&cache, 1..3).await, [2, 0, 3]);
    let stats = cache.stats();
    let files: Vec<_> = std::fs::read_dir(folder.path().join("cache"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    let on_disk: u64 = files
        .iter()
        .map(|path| path.metadata().unwrap().len())
        .sum();
    assert_eq!(
        (stats.memory_bytes, stats.disk_bytes),
        (3 * BLOCK_BYTES, on_disk)
    );
    assert!(on_disk > stats.memory_bytes, "keys and checksums too");
    assert_eq!(stats.damaged, 0);

    let next = world.cache(1 << 30, Some((&folder, 1 << 30)));
    assert_eq!(read(&next, 0..4).await, [0, 3, 1]);
    assert_eq!(read(&next, 0..2).await, [2, 3, 1]);
    assert_eq!(next.stats().damaged, 0);

    std::fs::write(&files[0], "damaged").unwrap();
    let last = world.cache(1 << 30, Some((&folder, 1 << 30)));
    assert_eq!(read(&last, 0..4).await, [0, 3, 1]);
    assert_eq!(last.stats().damaged, 1);
}

#[tokio::test]
async fn a_block_of_another_key_is_not_served_though_its_file_has_the_name() {
    let world = World::new().await;
    let folder = TempDir::new().unwrap();
    let cache = world.cache(0, Some((&folder, 1 << 30)));
    world.check(&cache, 0..BLOCK_BYTES * 2).await;
    cache.shared.disk.as_ref().unwrap().settle().await;
    let files = std::fs::read_dir(folder.path().join("cache")).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 2);
    std::fs::copy(&files[0], &files[1]).unwrap();
    world.check(&cache, 0..BLOCK_BYTES * 2).await;
}

#[tokio::test]
async fn readers_of_the_same_block_at_the_same_time_fetch_it_once() {
    let world = World::new().await;
    let cache = world.cache(1 << 30, None);
    world.store.gate.forget_permits(100);
    let readers: Vec<_> = (0..20)
        .map(|number| {
            let (cache, path) = (cache.clone(), world.path.clone());
            tokio::spawn(async move { cache.get_range(&path, number..BLOCK_BYTES).await })
        })
        .collect();
    while world.store.reads.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    // The one whose read is under way gives up: another one takes over.
    readers[0].abort();
    world.store.gate.add_permits(1);
    for (number, reader) in readers.into_iter().enumerate().skip(1) {
        let bytes = tokio::time::timeout(Duration::from_secs(30), reader).await;
        assert!(bytes.unwrap().unwrap().unwrap() == world.bytes[number..BLOCK_BYTES as usize]);
    }
    assert!((1..=2).contains(&world.reads()));
}

#[tokio::test]
async fn an_object_that_is_not_there_is_an_error_for_every_reader_and_is_not_remembered() {
    let world = World::new().await;
    let cache = world.cache(1 << 30, None);
    let path = Path::from("db/1/later.parquet");
    for _ in 0..2 {
        let missing = cache.get_range(&path, 0..10).await;
        assert!(matches!(missing, Err(object_store::Error::NotFound { .. })));
    }
    world.store.put(&path, vec![7; 10].into()).await.unwrap();
    assert_eq!(cache.get_range(&path, 0..10).await.unwrap(), vec![7; 10]);
    let beyond = cache.get_range(&path, 10..20).await;
    assert!(beyond.is_err(), "{beyond:?}");
}

/// Such as one whose client takes no rows at the moment.
#[tokio::test]
async fn a_reader_that_is_busy_elsewhere_holds_nobody_up() {
    let world = World::new().await;
    let cache = world.cache(1 << 30, None);
    let busy = cache.get_range(&world.path, 0..10);
    let mut busy = std::pin::pin!(busy);
    assert!(futures::poll!(&mut busy).is_pending());
    let other = world.check(&cache, 0..20);
    tokio::time::timeout(Duration::from_secs(10), other)
        .await
        .unwrap();
    assert_eq!(world.reads(), 1);
    assert_eq!(busy.await.unwrap(), &world.bytes[..10]);
}

#[tokio::test]
async fn a_reader_that_is_gone_leaves_its_blocks_to_the_others() {
    let world = World::new().await;
    let cache = world.cache(1 << 30, None);
    world.store.gate.forget_permits(100);
    let mut gone = Box::pin(cache.get_range(&world.path, 0..10));
    assert!(futures::poll!(&mut gone).is_pending());
    while world.store.reads.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    drop(gone);
    world.store.gate.add_permits(100);
    world.check(&cache, 0..20).await;
    assert_eq!(world.reads(), 2);
}
