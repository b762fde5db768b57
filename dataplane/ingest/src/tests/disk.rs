//! Disks that fail or stand still, under the whole ingester.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use flightcluster_wal::{DirectoryLock, Disk, SegmentFile, Space};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::*;

/// The real disk, whose syncs of files fail or wait when told.
#[derive(Debug, Clone, Default)]
pub(crate) struct TestDisk {
    fails: Arc<AtomicBool>,
    /// Whoever has it holds the syncs back.
    pub(crate) gate: Arc<Mutex<()>>,
    syncing: Arc<Notify>,
}

struct TestFile {
    file: Box<dyn SegmentFile>,
    disk: TestDisk,
}

impl TestDisk {
    /// Completes when a sync has begun since the last time.
    pub(crate) async fn sync_begins(&self) {
        self.syncing.notified().await;
    }

    fn wrap(&self, file: Box<dyn SegmentFile>) -> Box<dyn SegmentFile> {
        let disk = self.clone();
        Box::new(TestFile { file, disk })
    }
}

impl Disk for TestDisk {
    fn create_directory(&self, directory: &Path) -> io::Result<()> {
        RealDisk.create_directory(directory)
    }

    fn lock(&self, file: &Path) -> io::Result<Option<DirectoryLock>> {
        RealDisk.lock(file)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(directory)
    }

    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(file)
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        RealDisk.create(file).map(|file| self.wrap(file))
    }

    fn reopen(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        RealDisk.reopen(file).map(|file| self.wrap(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        RealDisk.remove(file)
    }

    fn space(&self, directory: &Path) -> io::Result<Space> {
        RealDisk.space(directory)
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        RealDisk.sync_directory(directory)
    }
}

impl SegmentFile for TestFile {
    fn append(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.file.append(parts)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.syncing.notify_one();
        let _held_back = self.disk.gate.lock();
        if self.disk.fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("the device reports an error"));
        }
        self.file.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }
}

#[tokio::test]
async fn a_failed_sync_ends_the_ingester_and_a_restart_has_what_was_acknowledged() {
    let world = World::new().await;
    let disk = TestDisk::default();
    let options = IngestOptions {
        disk: Arc::new(disk.clone()),
        ..world.options()
    };
    let ingest = Ingest::open(options).await.unwrap();
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..3).await.unwrap();
    disk.fails.store(true, Ordering::SeqCst);
    let error = write(&writer, [3]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unavailable);
    assert_eq!(ingest.fatal().await.category(), "wal");
    let error = write(&writer, [4]).await.unwrap_err();
    assert_eq!(error.category(), "out_of_service");
    drop((writer, ingest));

    let ingest = world.open().await;
    let mut numbers = world.numbers(&ingest, &readings()).await;
    // The one that was refused may be there: it had been written.
    numbers.retain(|number| *number != 3);
    assert_eq!(numbers, [0, 1, 2]);
}

#[tokio::test]
async fn a_log_past_its_budget_is_flushed_and_takes_writes_again() {
    let mut world = World::new().await;
    world.config.wal_bytes = ByteSize(64 << 10);
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    let (mut taken, mut refusals) = (0, 0);
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while taken < 40 {
        assert!(
            std::time::Instant::now() < end,
            "no room after {taken} batches"
        );
        match write(&writer, taken * 1000..(taken + 1) * 1000).await {
            Ok(_) => taken += 1,
            Err(error) => {
                assert_eq!(error.fault(), crate::Fault::ResourceExhausted, "{error}");
                assert!(error.retry_after().is_some());
                refusals += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    assert!(refusals > 0, "320 kB fit in 64 kB");
    let all: Vec<i64> = (0..40_000).collect();
    assert_eq!(world.numbers(&ingest, &readings()).await, all);
    // Until then a truncation may be under way, which keeps the log locked.
    ingest.drain().await.unwrap();
    drop((writer, ingest));
    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, all);
}
