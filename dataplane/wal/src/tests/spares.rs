//! Segments that are written over older ones.

use std::io::{ErrorKind, IoSlice};

use proptest::prelude::*;

use super::*;

fn small() -> WalOptions {
    WalOptions {
        segment_bytes: 400,
        ..options()
    }
}

/// A log that has spares, and how many records it was given.
async fn with_spares(disk: &FakeDisk) -> (Wal, u64) {
    let wal = open(disk, small());
    write(&wal, 1..=30).await;
    wal.truncate_up_to(SequenceNumber(30)).unwrap();
    assert!(spares(disk).len() > 3, "{:?}", disk.log());
    (wal, 30)
}

fn spares(disk: &FakeDisk) -> Vec<String> {
    let names = disk.list(Path::new(DIRECTORY)).unwrap();
    names
        .into_iter()
        .filter(|name| name.starts_with("spare-"))
        .collect()
}

/// What was done to segments and spares from entry `start` of the log on, without their numbers.
fn done(disk: &FakeDisk, start: usize) -> Vec<String> {
    let log = disk.log();
    let done = log[start..]
        .iter()
        .filter_map(|entry| entry.strip_suffix(" done"));
    let mut kept = Vec::new();
    let mut of_span = false;
    for entry in done {
        // The sync of the directory after the span got its name is part of it.
        let is_its_last = of_span && entry.starts_with("sync_directory");
        of_span = entry.ends_with("span.new");
        if !of_span && !is_its_last {
            kept.push(entry.split(['0', ' ']).next().unwrap().to_owned());
        }
    }
    kept
}

#[tokio::test]
async fn a_spare_is_a_segment_when_it_begins_like_one_and_its_name_is_durable() {
    let disk = FakeDisk::default();
    let (wal, written) = with_spares(&disk).await;
    let start = disk.log().len();
    write(&wal, written + 1..=written + 12).await;
    let done = done(&disk, start);
    let reopened = done.iter().position(|entry| entry == "reopen").unwrap();
    // What the segment before still held of an older one goes before another follows it.
    if reopened > 2 {
        assert_eq!(
            done[reopened - 2..reopened],
            ["truncate", "sync"],
            "{done:?}"
        );
    }
    let expected = [
        "reopen",
        "append",
        "sync",
        "rename",
        "sync_directory",
        "append",
        "sync",
    ];
    assert_eq!(done[reopened..reopened + 7], expected);
    assert!(!done.contains(&"create".to_owned()), "{done:?}");
}

#[tokio::test]
async fn what_a_segment_held_before_is_never_read_again() {
    let disk = FakeDisk::default();
    let (wal, mut written) = with_spares(&disk).await;
    for _ in 0..40 {
        write(&wal, written + 1..=written + 1).await;
        written += 1;
        let killed = replay(&disk.copy()).unwrap();
        assert_records(&killed, killed[0].sequence.0..=written);
        let power_cut = replay(&disk.after_power_cut(|| false)).unwrap();
        assert_records(&power_cut, killed[0].sequence.0..=written);
    }
    drop(wal);
    let first = replay(&disk.copy()).unwrap()[0].sequence.0;
    let wal = open(&disk, small());
    write(&wal, written + 1..=written + 3).await;
    drop(wal);
    assert_records(&replay(&disk).unwrap(), first..=written + 3);
}

#[tokio::test]
async fn a_file_whose_removal_may_not_be_durable_is_not_written_over() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=30).await;
    disk.fail_after("rename 0", "sync_directory", ErrorKind::Other);
    wal.truncate_up_to(SequenceNumber(10)).unwrap_err();
    let start = disk.log().len();
    write(&wal, 31..=40).await;
    let done = done(&disk, start);
    assert!(done.contains(&"create".to_owned()), "{done:?}");
    assert!(!done.contains(&"reopen".to_owned()), "{done:?}");
}

#[tokio::test]
async fn a_segment_whose_removal_was_not_synced_is_removed_and_leaves_no_spare() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=30).await;
    let (segments, bytes) = wal.size();
    disk.fail_after("rename 0", "sync_directory", ErrorKind::Other);
    wal.truncate_up_to(SequenceNumber(30)).unwrap_err();
    assert_eq!(wal.size(), (segments, bytes), "it counts until it is gone");
    let renamed = spares(&disk);
    assert_eq!(renamed.len(), 1);
    disk.fail("remove spare-", ErrorKind::Other);
    wal.truncate_up_to(SequenceNumber(30)).unwrap_err();
    let truncated = wal.truncate_up_to(SequenceNumber(30)).unwrap();
    assert_eq!(truncated.segments, segments - 1);
    let kept = spares(&disk);
    assert!(!kept.is_empty() && !kept.contains(&renamed[0]), "{kept:?}");
    write(&wal, 31..=40).await;
    drop(wal);
    let records = replay(&disk.after_power_cut(|| false)).unwrap();
    assert_records(&records, records[0].sequence.0..=40);
}

#[tokio::test]
async fn a_segment_that_can_not_be_a_spare_is_removed() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=30).await;
    let (segments, _) = wal.size();
    disk.fail("rename 0", ErrorKind::PermissionDenied);
    let truncated = wal.truncate_up_to(SequenceNumber(30)).unwrap();
    assert_eq!(truncated.segments, segments - 1);
    assert_eq!(spares(&disk).len() as u64, segments - 2);
}

/// What can go wrong with a spare that is to be written over.
const FAILING: [&str; 4] = [
    "reopen spare-",
    "append spare-",
    "sync spare-",
    "rename spare-",
];

#[tokio::test]
async fn a_spare_that_can_not_be_used_again_is_dropped_for_a_new_file() {
    for failing in FAILING {
        let disk = FakeDisk::default();
        let (wal, written) = with_spares(&disk).await;
        let before = spares(&disk).len();
        disk.fail(failing, ErrorKind::PermissionDenied);
        let start = disk.log().len();
        write(&wal, written + 1..=written + 12).await;
        let done = done(&disk, start);
        let count = |wanted: &str| done.iter().filter(|entry| *entry == wanted).count();
        assert_eq!(count("create"), 1, "{failing}: {done:?}");
        assert!(count("sync_directory") > 1, "another spare was used");
        let used = count("sync_directory");
        assert_eq!(spares(&disk).len(), before - used, "{failing}: {done:?}");
        assert!(wal.poisoned().is_none());
        drop(wal);
        let records = replay(&disk.after_power_cut(|| false)).unwrap();
        assert_records(&records, records[0].sequence.0..=written + 12);
    }
}

/// Its error may have come after it was done.
#[tokio::test]
async fn a_spare_that_has_the_name_of_a_segment_in_spite_of_an_error_is_not_taken_for_a_new_file() {
    let disk = FakeDisk::default();
    let (wal, written) = with_spares(&disk).await;
    disk.fail("rename spare-", ErrorKind::Other);
    disk.fail("create", ErrorKind::AlreadyExists);
    let mut stored = written;
    let error = loop {
        match wal.append(append(stored + 1), Box::new(|_| {})).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < written + 20);
    };
    assert_eq!(error.category(), "poisoned");
}

#[tokio::test]
async fn the_next_process_removes_spares_also_those_that_failed_and_stayed() {
    for failing in FAILING {
        let disk = FakeDisk::default();
        let (wal, written) = with_spares(&disk).await;
        disk.fail(failing, ErrorKind::Other);
        disk.fail("remove spare-", ErrorKind::Other);
        write(&wal, written + 1..=written + 12).await;
        let killed = disk.copy();
        assert_ne!(spares(&killed), [""; 0], "{failing}");
        let first = replay(&killed).unwrap()[0].sequence.0;
        let wal = open(&killed, small());
        assert_eq!(spares(&killed), [""; 0], "{failing}");
        write(&wal, written + 13..=written + 14).await;
        drop(wal);
        assert_records(&replay(&killed).unwrap(), first..=written + 14);
    }
}

/// A start writes span and label, the last segment anew and the header of the next one.
#[tokio::test]
async fn a_log_with_spares_on_a_full_volume_starts() {
    let disk = FakeDisk::default();
    let (wal, written) = with_spares(&disk).await;
    for broken_off in [None, Some("append")] {
        let killed = disk.copy();
        killed.set_volume(killed.used_bytes());
        if let Some(operation) = broken_off {
            // Another process was there and found no room.
            killed.fail(operation, ErrorKind::StorageFull);
            recovery(&killed)
                .unwrap()
                .finish(small(), Arc::new(NoObserver))
                .unwrap_err();
        }
        let locked = WalDirectory::lock(DIRECTORY, Arc::new(killed.clone())).unwrap();
        assert_eq!(spares(&killed), [""; 0], "gone with the lock");
        let other = Identity {
            epoch: 2,
            ..identity()
        };
        let recovery = locked.recover(other).unwrap();
        let wal = recovery.finish(small(), Arc::new(NoObserver)).unwrap();
        write(&wal, written + 1..=written + 1).await;
    }
    drop(wal);
}

#[tokio::test]
async fn spares_make_room_on_a_full_volume_before_a_write_is_refused() {
    let disk = FakeDisk::default();
    let (wal, written) = with_spares(&disk).await;
    let (before, used) = (spares(&disk).len(), disk.used_bytes());
    // A sixteenth is kept free: there is room for one record when all spares are gone.
    disk.set_volume((used - 300) / 15 * 16);
    write(&wal, written + 1..=written + 1).await;
    assert!(spares(&disk).len() < before);
    disk.set_volume(used / 10);
    let error = wal
        .append(append(written + 2), Box::new(|_| {}))
        .await
        .unwrap_err();
    assert_eq!(error.category(), "full");
    assert_eq!(spares(&disk), [""; 0]);
}

#[tokio::test]
async fn log_and_spares_together_stay_below_the_limit() {
    let disk = FakeDisk::default();
    let options = WalOptions {
        segment_bytes: 400,
        budget_bytes: 4000,
        ..options()
    };
    let wal = open(&disk, options);
    let mut written = 0;
    for _ in 0..3 {
        // As much as it takes.
        while wal
            .append(append(written + 1), Box::new(|_| {}))
            .await
            .is_ok()
        {
            written += 1;
            assert!(disk.used_bytes() <= 4500, "{}", disk.used_bytes());
        }
        assert!(written > 5);
        wal.truncate_up_to(SequenceNumber(written)).unwrap();
        assert_eq!(spares(&disk).len(), 1, "an eighth of the limit");
    }
}

#[test]
fn the_real_disk_writes_over_a_file_and_cuts_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    std::fs::write(&old, vec![7; 10_000]).unwrap();
    let mut file = RealDisk.reopen(&old).unwrap();
    let write = |file: &mut Box<dyn SegmentFile>, byte: u8, bytes: usize| {
        file.append(&mut [IoSlice::new(&[]), IoSlice::new(&vec![byte; bytes])])
            .unwrap();
        file.sync().unwrap();
    };
    write(&mut file, 1, 100);
    RealDisk.rename(&old, &new).unwrap();
    write(&mut file, 2, 5000);
    let content = std::fs::read(&new).unwrap();
    let expected = [(1, 100), (2, 5000), (0, 8192 - 5100), (7, 10_000 - 8192)];
    assert_eq!(
        content,
        bytes_of(&expected),
        "up to the end of the page there are zeros"
    );
    write(&mut file, 3, 4000);
    let expected = [(1, 100), (2, 5000), (3, 4000), (0, 900)];
    assert_eq!(
        std::fs::read(&new).unwrap(),
        bytes_of(&expected),
        "the file does not grow"
    );
    file.truncate(5100).unwrap();
    write(&mut file, 4, 1);
    let expected = [(1, 100), (2, 5000), (4, 1)];
    assert_eq!(std::fs::read(&new).unwrap(), bytes_of(&expected));
}

fn bytes_of(parts: &[(u8, usize)]) -> Vec<u8> {
    parts
        .iter()
        .flat_map(|(byte, bytes)| vec![*byte; *bytes])
        .collect()
}

#[tokio::test]
async fn the_real_disk_keeps_records_over_restarts_and_truncations() {
    let directory = tempfile::tempdir().unwrap();
    let mut written = 0;
    let mut truncated = 0;
    for _ in 0..4 {
        let locked = WalDirectory::lock(directory.path(), Arc::new(RealDisk)).unwrap();
        let mut recovery = locked.recover(identity()).unwrap();
        let mut records = Vec::new();
        while let Some(record) = recovery.next_record().unwrap() {
            records.push(record);
        }
        let first = records
            .first()
            .map_or(written + 1, |record| record.sequence.0);
        assert!(first <= truncated + 1);
        assert_records(&records, first..=written);
        let large = WalOptions {
            segment_bytes: 2000,
            ..options()
        };
        let wal = recovery.finish(large, Arc::new(NoObserver)).unwrap();
        for _ in 0..4 {
            write(&wal, written + 1..=written + 20).await;
            written += 20;
            truncated = written - 5;
            wal.truncate_up_to(SequenceNumber(truncated)).unwrap();
        }
        let names = std::fs::read_dir(directory.path()).unwrap();
        let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
        assert!(names.into_iter().any(|name| name.starts_with("spare-")));
    }
}

/// Each looks like the head of a record behind the last one: to compute the checksum of each by itself takes
/// minutes. See `format/evidence.rs` for what is found in spite of them.
#[tokio::test]
async fn data_that_looks_like_long_heads_does_not_hold_up_a_start() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=3).await;
    let killed = disk.copy();
    drop(wal);
    let mut data = killed.content(&segment(1));
    let whole = data.len();
    let head_bytes = 1 << 20;
    let numbers = [head_bytes, head_bytes, 0, 0, 1, 0, whole as u32 + 1, 0];
    let frame: Vec<u8> = numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect();
    data.extend(frame.repeat((32 << 20) / frame.len()));
    let tail = killed.with(&segment(1), data);
    assert_records(&replay(&tail).unwrap(), 1..=3);
    drop(open(&tail, options()));
    assert_eq!(tail.content(&segment(1)).len(), whole);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// As with new files: what was acknowledged is there and nothing that was not written, although the
    /// pages that were lost hold an older segment.
    #[test]
    fn a_power_cut_keeps_what_was_acknowledged_over_older_segments(
        old in 5_u64..30,
        acknowledged in 0_u64..12,
        unsynced in 0_u64..6,
        segment_bytes in 100_u64..1000,
        marks in any::<bool>(),
        pages in proptest::collection::vec(any::<bool>(), 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let disk = FakeDisk::default();
        let last = old + acknowledged;
        let after = runtime.block_on(async {
            let mark_after = if marks { Duration::ZERO } else { Duration::MAX };
            let wal = open(&disk, WalOptions { segment_bytes, mark_after, ..options() });
            write(&wal, 1..=old).await;
            wal.truncate_up_to(SequenceNumber(old)).unwrap();
            write(&wal, old + 1..=last).await;
            power_cut_before_the_sync(&disk, &wal, last + 1..=last + unsynced, &pages).await
        });
        let records = replay(&after).unwrap();
        let first = records.first().map_or(last + 1, |record| record.sequence.0);
        prop_assert!(first <= old + 1);
        let end = records.last().map_or(last, |record| record.sequence.0);
        prop_assert!(end >= last);
        assert_records(&records, first..=end);

        runtime.block_on(async {
            let wal = open(&after, options());
            write(&wal, end + 1..=end + 3).await;
        });
        assert_records(&replay(&after.after_power_cut(|| false)).unwrap(), first..=end + 3);
    }
}
