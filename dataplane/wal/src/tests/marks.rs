//! Marks: what says of the last group that it was on disk.

use std::io::ErrorKind;
use std::sync::mpsc::{self, Receiver, Sender};

use super::*;

const MARK_BYTES: usize = 32;

/// Tells the size of the log each time it changed.
#[derive(Debug)]
struct Sizes(Sender<u64>);

impl Observer for Sizes {
    fn sized(&self, _: u64, bytes: u64) {
        // Nobody listens any more when the log is dropped.
        let _ = self.0.send(bytes);
    }
}

/// A log that marks a group as soon as no record waits, and the sizes it tells.
fn open_marking(disk: &FakeDisk) -> (Wal, Receiver<u64>) {
    let (sender, sizes) = mpsc::channel();
    let options = WalOptions {
        mark_after: Duration::ZERO,
        ..options()
    };
    let wal = recovery(disk).unwrap();
    (wal.finish(options, Arc::new(Sizes(sender))).unwrap(), sizes)
}

fn ends_with_mark(segment: &[u8]) -> bool {
    const KIND_MARK: u8 = 3;
    let start = segment.len() - MARK_BYTES;
    let head = &segment[start + 16..];
    head[0] == KIND_MARK && head[8..] == (start as u64).to_le_bytes()
}

/// Waits until the last group is marked durably.
fn wait_for_mark(disk: &FakeDisk, sizes: &Receiver<u64>) {
    while !ends_with_mark(&disk.after_power_cut(|| false).content(&segment(1))) {
        sizes.recv_timeout(Duration::from_secs(20)).unwrap();
    }
}

/// The disk does so when the append that gets this completion was synced, before it is answered: so it
/// concerns the mark.
fn then(disk: &FakeDisk, action: impl FnOnce(&FakeDisk) + Send + 'static) -> Completion {
    let disk = disk.clone();
    Box::new(move |_| action(&disk))
}

#[tokio::test]
async fn damage_of_the_last_group_of_a_process_killed_while_idle_is_not_cut() {
    let disk = FakeDisk::default();
    let (wal, sizes) = open_marking(&disk);
    write(&wal, 1..=2).await;
    wait_for_mark(&disk, &sizes);
    let third = disk.content(&segment(1)).len();
    write(&wal, 3..=3).await;
    wait_for_mark(&disk, &sizes);
    let killed = disk.copy();
    let data = killed.content(&segment(1));
    let mark = data.len() - MARK_BYTES;
    for at in third..mark {
        for bit in 0..8 {
            let mut flipped = data.clone();
            flipped[at] ^= 1 << bit;
            let damaged = killed.with(&segment(1), flipped.clone());
            let error = recovery(&damaged)
                .unwrap()
                .finish(options(), Arc::new(NoObserver))
                .unwrap_err();
            assert_eq!(error.category(), "damaged", "byte {at}");
            assert_eq!(damaged.content(&segment(1)), flipped, "it was cut");
        }
    }
    // The mark itself may be torn or damaged: nothing is lost with it.
    for length in mark..data.len() {
        let torn = killed.with(&segment(1), data[..length].to_vec());
        assert_records(&replay(&torn).unwrap(), 1..=3);
        let mut flipped = data.clone();
        flipped[length] ^= 1;
        let damaged = killed.with(&segment(1), flipped);
        assert_records(&replay(&damaged).unwrap(), 1..=3);
    }
}

#[tokio::test]
async fn a_group_that_is_torn_behind_a_mark_is_cut() {
    let disk = FakeDisk::default();
    let (wal, sizes) = open_marking(&disk);
    write(&wal, 1..=3).await;
    wait_for_mark(&disk, &sizes);
    let marked = disk.content(&segment(1)).len();
    let torn = power_cut_before_the_sync(&disk, &wal, 4..=4, &[true, false, true]).await;
    assert!(
        torn.content(&segment(1)).len() > marked,
        "nothing was written"
    );
    assert_records(&replay(&torn).unwrap(), 1..=3);
    let wal = open(&torn, options());
    write(&wal, 4..=4).await;
    assert_records(&replay(&torn.after_power_cut(|| false)).unwrap(), 1..=4);
}

#[tokio::test]
async fn a_group_is_marked_once() {
    let disk = FakeDisk::default();
    let (wal, sizes) = open_marking(&disk);
    write(&wal, 1..=1).await;
    wait_for_mark(&disk, &sizes);
    let marked = disk.content(&segment(1));
    drop(wal);
    assert_eq!(disk.content(&segment(1)), marked, "marked again at the end");
}

#[tokio::test]
async fn a_record_that_comes_while_a_mark_is_synced_follows_it() {
    let disk = FakeDisk::default();
    let (wal, _sizes) = open_marking(&disk);
    let held = then(&disk, |disk| disk.hold_syncs(true));
    let before = disk.log().len();
    wal.append(append(1), held).await.unwrap();
    // The record's, and that of the mark.
    let syncs = |log: &[String]| {
        let begun = log[before..]
            .iter()
            .filter(|line| line.starts_with("sync 0"));
        begun.filter(|line| !line.ends_with("done")).count()
    };
    disk.wait_for(|log| syncs(log) == 2);
    let record = append(2);
    let reservation = wal.reserve(&record).await.unwrap();
    let pending = wal.enqueue(reservation, record, Box::new(|_| {})).unwrap();
    disk.hold_syncs(false);
    assert_eq!(pending.await.unwrap(), SequenceNumber(2));
    assert_records(&replay(&disk.after_power_cut(|| false)).unwrap(), 1..=2);
}

#[tokio::test]
async fn a_mark_that_finds_no_space_harms_nothing() {
    let disk = FakeDisk::default();
    let (wal, sizes) = open_marking(&disk);
    let full = then(&disk, |disk| disk.fail("append", ErrorKind::StorageFull));
    wal.append(append(1), full).await.unwrap();
    let cut = |line: &String| line.starts_with("truncate ") && line.ends_with("done");
    disk.wait_for(|log| log.iter().any(cut));
    assert_records(&replay(&disk.copy()).unwrap(), 1..=1);
    write(&wal, 2..=3).await;
    wait_for_mark(&disk, &sizes);
    assert_records(&replay(&disk.after_power_cut(|| false)).unwrap(), 1..=3);
}

/// The next group would be in the same page as the mark or behind it, and a later sync does not write what
/// an earlier one lost.
#[tokio::test]
async fn a_mark_that_fails_poisons_the_log() {
    for operation in ["append", "sync"] {
        let disk = FakeDisk::default();
        let (wal, _sizes) = open_marking(&disk);
        let failing = then(&disk, move |disk| disk.fail(operation, ErrorKind::Other));
        wal.append(append(1), failing).await.unwrap();
        disk.wait_for(|log| log.iter().any(|line| line.starts_with("truncate ")));
        let error = wal.append(append(2), Box::new(|_| {})).await.unwrap_err();
        assert_eq!(error.category(), "poisoned");
        drop(wal);
        for left in [disk.copy(), disk.after_power_cut(|| false)] {
            assert_records(&replay(&left).unwrap(), 1..=1);
        }
    }
}
