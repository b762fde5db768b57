//! Rotation, truncation and what a segment holds on its own.

use super::*;

fn small() -> WalOptions {
    WalOptions {
        segment_bytes: 400,
        ..options()
    }
}

#[tokio::test]
async fn every_segment_replays_alone() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=40).await;
    drop(wal);
    let files = disk.files();
    assert!(files.len() > 5);
    let mut all = Vec::new();
    for file in &files {
        let mut alone = disk.without(&span());
        for other in files.iter().filter(|other| *other != file) {
            alone = alone.without(other);
        }
        all.extend(replay(&alone).unwrap());
    }
    assert_records(&all, 1..=40);
}

#[tokio::test]
async fn truncation_removes_whole_segments_and_keeps_the_rest() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=40).await;
    let (segments, bytes) = wal.size();
    assert_eq!(segments as usize, disk.files().len());
    assert_eq!(
        bytes as usize,
        disk.files()
            .iter()
            .map(|f| disk.content(f).len())
            .sum::<usize>()
    );

    assert_eq!(
        wal.truncate_up_to(SequenceNumber(0)).unwrap(),
        Truncated::default()
    );
    let truncated = wal.truncate_up_to(SequenceNumber(20)).unwrap();
    assert!(truncated.segments > 0);
    assert_eq!(
        wal.size(),
        (segments - truncated.segments, bytes - truncated.bytes)
    );
    let left = replay(&disk.copy()).unwrap();
    assert!(left[0].sequence <= SequenceNumber(21));
    assert_records(&left, left[0].sequence.0..=40);

    wal.truncate_up_to(SequenceNumber(40)).unwrap();
    assert_eq!(wal.size().0, 1, "the active segment stays");
    drop(wal);
    let wal = open(&disk, small());
    write(&wal, 41..=42).await;
    wal.truncate_up_to(SequenceNumber(40)).unwrap();
    drop(wal);
    assert_records(&replay(&disk).unwrap()[..], 41..=42);
}

#[tokio::test]
async fn each_removal_is_durable_before_the_next() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=30).await;
    let before = disk.log().len();
    wal.truncate_up_to(SequenceNumber(30)).unwrap();
    let done: Vec<_> = disk.log()[before..]
        .iter()
        .filter(|entry| entry.ends_with("done"))
        .cloned()
        .collect();
    let (noted, removed) = done.split_at(6);
    assert!(noted[4].starts_with("rename span.new "), "{noted:?}");
    assert!(noted[5].starts_with("sync_directory "), "{noted:?}");
    assert!(removed.len() > 4);
    for pair in removed.chunks(2) {
        assert!(pair[0].starts_with("rename 0"), "{pair:?}");
        assert!(pair[1].starts_with("sync_directory "), "{pair:?}");
    }
}

#[tokio::test]
async fn a_removal_whose_sync_failed_does_not_stop_later_ones() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=30).await;
    disk.fail_after("rename 0", "sync_directory", std::io::ErrorKind::Other);
    assert!(wal.truncate_up_to(SequenceNumber(30)).is_err());
    wal.truncate_up_to(SequenceNumber(30)).unwrap();
    assert_eq!(wal.size().0, 1);
}

/// Found by the history checker: a process is killed while it makes a segment, the power fails while
/// the next process makes the one after it, and only the second one is on the disk.
#[tokio::test]
async fn a_segment_whose_creation_was_interrupted_is_durable_before_the_next() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    disk.fail("sync_directory", std::io::ErrorKind::Other);
    disk.fail("remove", std::io::ErrorKind::Other);
    for number in 1.. {
        if wal.append(append(number), Box::new(|_| ())).await.is_err() {
            break;
        }
    }
    drop(wal);
    let killed = disk.copy();
    drop(open(&killed, small()));
    let log = killed.log();
    let at = |wanted: &str| {
        log.iter()
            .position(|line| line.starts_with(wanted))
            .unwrap()
    };
    let renamed = at("rename 00000000000000000002.wal.new done");
    let created = at("create 00000000000000000003.wal");
    let synced = log[renamed..created]
        .iter()
        .any(|line| line.starts_with("sync_directory") && line.ends_with("done"));
    assert!(synced, "{log:?}");
}

/// Found by the history checker: the header is in the page cache and not on the disk, the next process
/// takes it for good, and after a power cut the log is refused.
#[tokio::test]
async fn a_segment_that_could_not_be_made_durable_is_removed() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    let first = disk.files();
    disk.fail("sync_directory", std::io::ErrorKind::Other);
    for number in 1.. {
        if wal.append(append(number), Box::new(|_| ())).await.is_err() {
            break;
        }
    }
    drop(wal);
    assert_eq!(disk.files(), first);
}

#[tokio::test]
async fn a_new_segment_is_durable_before_a_record_is_written_to_it() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=10).await;
    drop(wal);
    let log = disk.log();
    let second = "00000000000000000002.wal";
    let start = log
        .iter()
        .position(|entry| *entry == format!("create {second}"))
        .unwrap();
    let done: Vec<_> = log[start..]
        .iter()
        .filter(|entry| entry.ends_with("done"))
        .take(11)
        .collect();
    let expected = [
        "create 0",
        "append 0",
        "sync 0",
        "sync_directory ",
        "remove span.new",
        "create span.new",
        "append span.new",
        "sync span.new",
        "rename span.new",
        "sync_directory ",
        "append 0",
    ];
    for (entry, expected) in done.iter().zip(expected) {
        assert!(entry.starts_with(expected), "{done:?}");
    }
}

#[tokio::test]
async fn a_missing_segment_in_the_middle_is_an_error() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=30).await;
    drop(wal);
    let error = replay(&disk.without(&segment(2))).unwrap_err();
    let text = error.to_string();
    let Error::MissingSegment { file } = error else {
        panic!("{error}")
    };
    assert_eq!(file, segment(2));
    assert!(text.contains("although newer ones exist"), "{text}");
}

#[tokio::test]
async fn a_segment_cut_in_the_middle_of_the_log_is_an_error() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=30).await;
    drop(wal);
    let data = disk.content(&segment(2));
    for length in 0..data.len() {
        let error = replay(&disk.with(&segment(2), data[..length].to_vec())).unwrap_err();
        assert!(
            matches!(error.category(), "damaged" | "sequence_gap"),
            "{length}: {error}"
        );
    }
}

#[tokio::test]
async fn the_last_segment_of_an_earlier_run_counts_as_complete() {
    let disk = FakeDisk::default();
    drop(open(&disk, options()));
    let wal = open(&disk, options());
    write(&wal, 1..=2).await;
    let killed = disk.copy();
    drop(wal);
    let wal = open(&killed, options());
    write(&wal, 3..=3).await;
    let mut data = killed.content(&segment(2));
    let last = data.len() - 1;
    data[last] ^= 1;
    let error = replay(&killed.with(&segment(2), data)).unwrap_err();
    assert_eq!(error.category(), "damaged");
}

#[tokio::test]
async fn files_of_others_in_the_directory_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    let locked = WalDirectory::lock(directory.path(), Arc::new(RealDisk)).unwrap();
    drop(
        locked
            .recover(identity())
            .unwrap()
            .finish(options(), Arc::new(NoObserver))
            .unwrap(),
    );
    assert_eq!(
        std::fs::read(directory.path().join("notes.txt")).unwrap(),
        b"mine"
    );
}
