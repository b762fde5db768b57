//! What the window of the group commit costs and gives: acknowledged records a second, records in a sync
//! and times until the acknowledgement, by window, number of writers and disk.
//!
//! Each writer sends its next record a random pause after the one before was acknowledged. The mean of the
//! pauses is nothing, what a client needs for an answer and the next batch, or so much that hardly two
//! writers know of each other. Disks are the one of this machine, and the same with syncs that take as much
//! longer as those of network volumes do. Windows take turns within a round, so that a busy machine slows
//! all of them; a figure is the median of the rounds.
//!
//! Run by `make bench-log`.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flightcluster_config::IngestConfig;
use flightcluster_wal::{
    Append, CatalogState, DirectoryLock, Disk, Identity, Message, Observer, RealDisk,
    SchemaDefinition, SegmentFile, SequenceNumber, Space, Wal, WalDirectory, WalOptions,
};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

const WINDOWS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
];
const WRITERS: [usize; 5] = [1, 4, 16, 64, 256];
const PAUSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(100),
];
const SLOWER_SYNCS: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(2),
    Duration::from_millis(10),
];
const ROUNDS: usize = 3;
const MEASURED: Duration = Duration::from_millis(700);
/// About a hundred rows of four columns.
const RECORD_BYTES: usize = 4096;

/// The disk of this machine with syncs of segments that take longer.
#[derive(Debug)]
struct SlowDisk(Duration);

struct SlowFile(Box<dyn SegmentFile>, Duration);

impl SegmentFile for SlowFile {
    fn append(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.0.append(parts)
    }

    fn sync(&mut self) -> io::Result<()> {
        std::thread::sleep(self.1);
        self.0.sync()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.truncate(length)
    }
}

impl Disk for SlowDisk {
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
        Ok(Box::new(SlowFile(RealDisk.create(file)?, self.0)))
    }

    fn reopen(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(SlowFile(RealDisk.reopen(file)?, self.0)))
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

#[derive(Debug, Default)]
struct Syncs(AtomicU64);

impl Observer for Syncs {
    fn synced(&self, _took: Duration, _bytes: u64, _records: u64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// What was acknowledged in one run, and how.
struct Run {
    records_per_second: f64,
    records_per_sync: f64,
    median: Duration,
    slowest_hundredth: Duration,
}

fn record() -> Append {
    let schema = Arc::new(SchemaDefinition {
        version: 1,
        ipc: Bytes::from_static(b"schema"),
    });
    let message = Message {
        header: Bytes::from_static(b"header"),
        body: Bytes::from_static(&[7; RECORD_BYTES]),
    };
    Append::new(1, schema, 100, 0, None, vec![message]).expect("a record of this size is allowed")
}

fn open(directory: &Path, window: Duration, disk: SlowDisk, syncs: Arc<Syncs>) -> Wal {
    let identity = Identity {
        ingester_id: 1,
        ingester_name: "bench".to_owned(),
        epoch: 1,
        known: SequenceNumber(0),
        catalog: CatalogState {
            snapshot: 1,
            created_at_millis: 0,
        },
    };
    let options = WalOptions {
        group_commit_window: window,
        ..WalOptions::from(&IngestConfig::default())
    };
    WalDirectory::lock(directory, Arc::new(disk))
        .and_then(|directory| directory.recover(identity))
        .and_then(|recovery| recovery.finish(options, syncs))
        .expect("an empty directory is a log")
}

async fn measure(window: Duration, writers: usize, pause: Duration, slower: Duration) -> Run {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let syncs = Arc::new(Syncs::default());
    let wal = Arc::new(open(
        directory.path(),
        window,
        SlowDisk(slower),
        Arc::clone(&syncs),
    ));
    let began = Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let wal = Arc::clone(&wal);
            tokio::spawn(async move {
                let mut pauses = StdRng::seed_from_u64(writer as u64);
                let mut times = Vec::new();
                while began.elapsed() < MEASURED {
                    let sent = Instant::now();
                    wal.append(record(), Box::new(|_| {}))
                        .await
                        .expect("durable");
                    times.push(sent.elapsed());
                    if !pause.is_zero() {
                        tokio::time::sleep(pauses.random_range(Duration::ZERO..2 * pause)).await;
                    }
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a writer ends"));
    }
    let took = began.elapsed();
    times.sort_unstable();
    let records = times.len() as f64;
    Run {
        records_per_second: records / took.as_secs_f64(),
        records_per_sync: records / syncs.0.load(Ordering::Relaxed) as f64,
        median: times[times.len() / 2],
        slowest_hundredth: times[times.len() * 99 / 100],
    }
}

fn median(runs: &[Run], figure: impl Fn(&Run) -> f64) -> f64 {
    let mut figures: Vec<f64> = runs.iter().map(figure).collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn table(slower: Duration, pause: Duration) {
    println!("\nsyncs {slower:?} slower, writers pause {pause:?}");
    println!("writers  window   records/s  records/sync  median ms  p99 ms");
    for writers in WRITERS {
        let mut runs: [Vec<Run>; WINDOWS.len()] = Default::default();
        for _ in 0..ROUNDS {
            for (window, found) in WINDOWS.iter().zip(&mut runs) {
                found.push(measure(*window, writers, pause, slower).await);
            }
        }
        for (window, found) in WINDOWS.iter().zip(&runs) {
            println!(
                "{writers:>7}  {:>6}  {:>10.0}  {:>12.1}  {:>9.2}  {:>6.2}",
                format!("{window:?}"),
                median(found, |run| run.records_per_second),
                median(found, |run| run.records_per_sync),
                median(found, |run| 1000.0 * run.median.as_secs_f64()),
                median(found, |run| 1000.0 * run.slowest_hundredth.as_secs_f64()),
            );
        }
    }
}

#[tokio::main]
async fn main() {
    for pause in PAUSES {
        for slower in SLOWER_SYNCS {
            table(slower, pause).await;
        }
    }
}
