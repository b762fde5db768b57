//! What an acknowledgement means, and what happens when the disk fails.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::task::Poll;

use proptest::prelude::*;

use super::*;

/// Invariant 1 of the architecture: nothing is acknowledged before the log is on disk.
#[tokio::test]
async fn an_append_completes_only_after_its_sync_returned() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    let outcomes = Outcomes::default();
    disk.hold_syncs(true);
    let syncs = disk
        .log()
        .iter()
        .filter(|entry| entry.starts_with("sync "))
        .count();
    let record = append(1);
    let reservation = wal.reserve(&record).await.unwrap();
    let mut pending = wal
        .enqueue(reservation, record, outcomes.completion())
        .unwrap();

    disk.wait_for(|log| {
        log.iter()
            .filter(|entry| entry.starts_with("sync "))
            .count()
            > syncs
    });
    let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut pending).poll(cx))).await;
    assert!(
        polled.is_pending(),
        "acknowledged while the sync was still running"
    );
    assert_eq!(
        outcomes.get(),
        [],
        "completed while the sync was still running"
    );

    disk.hold_syncs(false);
    assert_eq!(pending.await.unwrap(), SequenceNumber(1));
    assert_eq!(outcomes.get(), [Ok(1)]);
    assert_records(&replay(&disk.after_power_cut(|| false)).unwrap(), 1..=1);
}

#[tokio::test]
async fn records_that_arrive_during_a_sync_share_the_next_one() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    let outcomes = Outcomes::default();
    let appends = |log: &[String]| {
        log.iter()
            .filter(|entry| entry.starts_with("append"))
            .count()
    };
    let before = appends(&disk.log());
    disk.hold_syncs(true);
    let mut pending = Vec::new();
    for number in 1..=20 {
        let record = append(number);
        let reservation = wal.reserve(&record).await.unwrap();
        pending.push(
            wal.enqueue(reservation, record, outcomes.completion())
                .unwrap(),
        );
        if number == 1 {
            disk.wait_for(|log| appends(log) > before + 1);
        }
    }
    disk.hold_syncs(false);
    for pending in pending {
        pending.await.unwrap();
    }
    assert_eq!(
        outcomes.get(),
        (1..=20).map(Ok).collect::<Vec<_>>(),
        "completions are in order"
    );
    assert_eq!(
        appends(&disk.log()) - before,
        4,
        "two groups: started and done each"
    );
    drop(wal);
    assert_records(&replay(&disk).unwrap(), 1..=20);
}

#[tokio::test]
async fn a_record_waits_for_others_no_longer_than_a_sync_takes() {
    let disk = FakeDisk::default();
    let hour = WalOptions {
        group_commit_window: Duration::from_secs(3600),
        ..options()
    };
    let wal = open(&disk, hour);
    let logged = disk.log().len();
    disk.hold_syncs(true);
    let mut pending = Vec::new();
    for number in 1..=4 {
        let record = append(number);
        let reservation = wal.reserve(&record).await.unwrap();
        pending.push(wal.enqueue(reservation, record, Box::new(|_| {})).unwrap());
        if number == 1 {
            // The others are to be one group.
            let is_sync = |entry: &String| entry.starts_with("sync ");
            disk.wait_for(|log| log[logged..].iter().any(is_sync));
        }
    }
    disk.hold_syncs(false);
    for pending in pending {
        pending.await.unwrap();
    }
    // The last group was of several records, and only one comes.
    let alone = tokio::time::timeout(Duration::from_secs(60), write(&wal, 5..=5));
    alone.await.unwrap();
}

#[tokio::test]
async fn a_failed_sync_poisons_the_log_until_restart() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=2).await;
    disk.fail("sync", ErrorKind::Other);
    let outcomes = Outcomes::default();
    let error = wal
        .append(append(3), outcomes.completion())
        .await
        .unwrap_err();
    assert_eq!(error.category(), "poisoned");
    assert_eq!(outcomes.get(), [Err("poisoned")]);

    let error = wal
        .append(append(3), outcomes.completion())
        .await
        .unwrap_err();
    assert_eq!(
        error.category(),
        "poisoned",
        "later syncs would succeed, but must not be tried"
    );
    assert_eq!(wal.poisoned().unwrap().category(), "poisoned");
    drop(wal);
    assert_records(&replay(&disk).unwrap(), 1..=2);

    let wal = open(&disk, options());
    write(&wal, 3..=4).await;
    assert_records(
        &replay(&disk.after_power_cut(|| false)).unwrap_or_default(),
        1..=4,
    );
}

#[tokio::test]
async fn a_failed_write_poisons_the_log() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=1).await;
    disk.fail("append", ErrorKind::Other);
    let error = wal.append(append(2), Box::new(|_| {})).await.unwrap_err();
    assert_eq!(error.category(), "poisoned");
    drop(wal);
    assert_records(&replay(&disk).unwrap(), 1..=1);
}

#[tokio::test]
async fn a_full_disk_refuses_without_harm_and_recovers() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=1).await;
    disk.fail("append", ErrorKind::StorageFull);
    let outcomes = Outcomes::default();
    let error = wal
        .append(append(2), outcomes.completion())
        .await
        .unwrap_err();
    assert_eq!(error.category(), "full");
    assert_eq!(outcomes.get(), [Err("full")]);
    assert_records(&replay(&disk.copy()).unwrap(), 1..=1);

    write(&wal, 2..=3).await;
    drop(wal);
    assert_records(&replay(&disk).unwrap(), 1..=3);
}

#[tokio::test]
async fn a_full_disk_that_can_not_be_put_back_poisons() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=1).await;
    disk.fail("append", ErrorKind::StorageFull);
    disk.fail("truncate", ErrorKind::Other);
    let error = wal.append(append(2), Box::new(|_| {})).await.unwrap_err();
    assert_eq!(error.category(), "poisoned");
}

#[tokio::test]
async fn a_disk_that_is_full_at_rotation_refuses_and_recovers() {
    let disk = FakeDisk::default();
    let wal = open(
        &disk,
        WalOptions {
            segment_bytes: 10,
            ..options()
        },
    );
    write(&wal, 1..=1).await;
    disk.fail("create", ErrorKind::StorageFull);
    let error = wal.append(append(2), Box::new(|_| {})).await.unwrap_err();
    assert_eq!(error.category(), "full");
    write(&wal, 2..=3).await;
    drop(wal);
    assert_records(&replay(&disk).unwrap(), 1..=3);
}

/// Found by the history checker (seed 12209). A process was killed between a write and its sync, the sync
/// of the next one failed, and the one after that read the rows from memory: they were never on the disk.
#[tokio::test]
async fn rows_whose_sync_failed_at_a_start_outlive_a_power_cut_once_they_were_shown() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=3).await;
    disk.hold_syncs(true);
    let record = append(4);
    let reservation = wal.reserve(&record).await.unwrap();
    let before = disk.log().len();
    let _pending = wal.enqueue(reservation, record, Box::new(|_| {})).unwrap();
    disk.wait_for(|log| log[before..].iter().any(|entry| entry.starts_with("sync ")));
    let killed = disk.copy();
    disk.hold_syncs(false);

    let failing = replayed_and_opened(&killed, "sync");
    assert_eq!(failing.unwrap_err().category(), "segment");
    let third = killed.copy();
    let (records, wal) = replayed_and_opened(&third, "").unwrap();
    assert_records(&records, 1..=4);
    write(&wal, 5..=5).await;
    for kept in [false, true] {
        let left = third.after_power_cut(|| kept);
        assert_records(&replay(&left).unwrap(), 1..=5);
    }
}

#[tokio::test]
async fn a_start_that_fails_anywhere_leaves_the_segment_as_it_was() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=3).await;
    drop(wal);
    let segment = disk.files().pop().unwrap();
    let content = disk.content(&segment);
    for operation in ["create", "append", "sync", "rename", "sync_directory"] {
        let error = replayed_and_opened(&disk, operation).unwrap_err();
        assert_eq!(error.category(), "segment", "{operation}");
        assert_eq!(disk.content(&segment), content, "{operation}");
        for kept in [false, true] {
            let left = disk.after_power_cut(|| kept);
            assert_records(&replay(&left).unwrap(), 1..=3);
        }
    }
}

/// Reads a log and opens it for writing, while the next operation of this kind fails.
fn replayed_and_opened(
    disk: &FakeDisk,
    failing: &'static str,
) -> Result<(Vec<Record>, Wal), Error> {
    let mut recovery = recovery(disk)?;
    let mut records = Vec::new();
    while let Some(record) = recovery.next_record()? {
        records.push(record);
    }
    if !failing.is_empty() {
        disk.fail(failing, ErrorKind::Other);
    }
    let wal = recovery.finish(options(), Arc::new(NoObserver))?;
    Ok((records, wal))
}

#[tokio::test]
async fn everything_queued_behind_a_refused_record_is_refused() {
    let disk = FakeDisk::default();
    let wal = open(
        &disk,
        WalOptions {
            group_commit_max_bytes: 1,
            ..options()
        },
    );
    let outcomes = Outcomes::default();
    disk.hold_syncs(true);
    let mut pending = Vec::new();
    for number in 1..=5 {
        let record = append(number);
        let reservation = wal.reserve(&record).await.unwrap();
        pending.push(
            wal.enqueue(reservation, record, outcomes.completion())
                .unwrap(),
        );
    }
    disk.wait_for(|log| {
        log.iter()
            .filter(|entry| entry.starts_with("append 0"))
            .count()
            == 4
    });
    disk.fail("append", ErrorKind::StorageFull);
    disk.hold_syncs(false);
    for pending in pending {
        let _ = pending.await;
    }
    let full = Err("full");
    assert_eq!(outcomes.get(), [Ok(1), full, full, full, full]);
}

#[tokio::test]
async fn an_append_waits_for_room_in_the_queue() {
    let disk = FakeDisk::default();
    let wal = open(
        &disk,
        WalOptions {
            queue_bytes: 1,
            ..options()
        },
    );
    let record = append(1);
    let reservation = wal.reserve(&record).await.unwrap();
    let next = append(2);
    let mut waiting = Box::pin(wal.reserve(&next));
    let polled = poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx))).await;
    assert!(polled.is_pending());
    wal.enqueue(reservation, record, Box::new(|_| {}))
        .unwrap()
        .await
        .unwrap();
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_panicking_completion_poisons_instead_of_hanging() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    let result = wal
        .append(append(1), Box::new(|_| panic!("on purpose")))
        .await;
    assert!(matches!(
        result.unwrap_err().category(),
        "closed" | "poisoned"
    ));
    let error = loop {
        match wal.append(append(2), Box::new(|_| {})).await {
            Err(error) if error.category() == "poisoned" => break error,
            _ => tokio::task::yield_now().await,
        }
    };
    assert!(error.to_string().contains("completion"), "{error}");
}

#[test]
fn a_second_process_is_told_that_the_directory_is_taken() {
    let directory = tempfile::tempdir().unwrap();
    let first = WalDirectory::lock(directory.path().join("wal"), Arc::new(RealDisk)).unwrap();
    let second = WalDirectory::lock(directory.path().join("wal"), Arc::new(RealDisk));
    assert_eq!(second.unwrap_err().category(), "locked");
    drop(first);
    WalDirectory::lock(directory.path().join("wal"), Arc::new(RealDisk)).unwrap();
}

#[tokio::test]
async fn the_real_disk_keeps_records_over_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/wal");
    for round in 0..3_u64 {
        let locked = WalDirectory::lock(&path, Arc::new(RealDisk)).unwrap();
        let mut recovery = locked.recover(identity()).unwrap();
        let mut records = Vec::new();
        while let Some(record) = recovery.next_record().unwrap() {
            records.push(record);
        }
        assert_records(&records, 1..=round * 30);
        let small = WalOptions {
            segment_bytes: 300,
            ..options()
        };
        let wal = recovery.finish(small, Arc::new(NoObserver)).unwrap();
        write(&wal, round * 30 + 1..=(round + 1) * 30).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Power is cut at a random moment with random pages of unsynced data lost: what was
    /// acknowledged is there, what is there is a prefix, and the log can be used again.
    #[test]
    fn a_power_cut_keeps_what_was_acknowledged(
        acknowledged in 0_u64..12,
        unsynced in 0_u64..6,
        segment_bytes in 50_u64..2000,
        marks in any::<bool>(),
        pages in proptest::collection::vec(any::<bool>(), 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let disk = FakeDisk::default();
        let after = runtime.block_on(async {
            let mark_after = if marks { Duration::ZERO } else { Duration::MAX };
            let wal = open(&disk, WalOptions { segment_bytes, mark_after, ..options() });
            write(&wal, 1..=acknowledged).await;
            let numbers = acknowledged + 1..=acknowledged + unsynced;
            power_cut_before_the_sync(&disk, &wal, numbers, &pages).await
        });
        let records = replay(&after).unwrap();
        prop_assert!(records.len() as u64 >= acknowledged);
        assert_records(&records, 1..=records.len() as u64);

        let next = records.len() as u64 + 1;
        runtime.block_on(async {
            let wal = open(&after, options());
            write(&wal, next..=next + 2).await;
        });
        assert_records(&replay(&after.after_power_cut(|| false)).unwrap(), 1..=next + 2);
    }
}

use std::future::Future as _;
use std::pin::Pin;
