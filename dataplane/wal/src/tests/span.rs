//! Segments that are missing at one of the ends of the log.

use std::io::ErrorKind;

use proptest::prelude::*;

use super::*;

fn small() -> WalOptions {
    WalOptions {
        segment_bytes: 400,
        ..options()
    }
}

/// A log of several segments, of which `removed` records are in files, as a kill leaves it.
async fn log_without(removed: u64) -> FakeDisk {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=30).await;
    wal.truncate_up_to(SequenceNumber(removed)).unwrap();
    let killed = disk.copy();
    assert!(killed.files().len() > 3);
    killed
}

fn without_all(disk: &FakeDisk, files: &[PathBuf]) -> FakeDisk {
    let copy = disk.copy();
    files.iter().fold(copy, |disk, file| disk.without(file))
}

/// A removal may be undone when the power goes, and later ones not: a sync that succeeds does not tell which names the
/// disk knows after one that failed.
#[tokio::test]
async fn a_segment_that_was_removed_and_came_back_is_removed_again() {
    let disk = FakeDisk::default();
    let wal = open(&disk, small());
    write(&wal, 1..=30).await;
    let before = disk.copy();
    wal.truncate_up_to(SequenceNumber(12)).unwrap();
    let killed = disk.copy();
    let mut gone = before.files();
    gone.retain(|file| !killed.files().contains(file));
    assert!(gone.len() > 2);
    let span = gone[0].with_file_name("span");
    // As it was killed, but for segments that came back.
    let with = |came_back: &[&PathBuf]| {
        let disk = before.with(&span, killed.content(&span));
        let gone = gone.iter().filter(|file| !came_back.contains(file));
        gone.fold(disk, |disk, file| disk.without(file))
    };

    let (first, last) = (&gone[0], &gone[gone.len() - 1]);
    let came_back = with(&[first]);
    assert_eq!(replay(&came_back).unwrap(), replay(&killed).unwrap());
    let wal = open(&came_back, small());
    write(&wal, 31..=32).await;
    drop(wal);
    assert!(!came_back.files().contains(first));
    assert_eq!(replay(&came_back).unwrap().last().unwrap().sequence.0, 32);

    // One that fits to the others is read.
    let joined = replay(&with(&[last])).unwrap();
    assert!(joined.len() > replay(&killed).unwrap().len());
    assert_eq!(replay(&with(&[first, last])).unwrap(), joined);

    // A segment that is needed has to be there all the same.
    let needed = killed.files();
    replay(&with(&[first]).without(&needed[1])).unwrap_err();
    // And without a note nothing tells that none is missing.
    let error = replay(&with(&[first]).without(&span)).unwrap_err();
    assert_eq!(error.category(), "missing_segment");
}

/// Whatever somebody takes away, nobody goes on without it.
#[tokio::test]
async fn segments_that_are_missing_at_either_end_are_an_error() {
    for removed in [0, 12] {
        let disk = log_without(removed).await;
        let files = disk.files();
        for count in 1..=files.len() {
            let (oldest, newest) = (&files[..count], &files[files.len() - count..]);
            for gone in [oldest, newest] {
                let error = replay(&without_all(&disk, gone)).unwrap_err();
                let text = error.to_string();
                let Error::MissingEnd { file } = error else {
                    panic!("{text}")
                };
                assert_eq!(file, gone[0]);
                assert!(
                    text.contains("although the log was not done with it; put the file back"),
                    "{text}"
                );
                assert_eq!(
                    replay(&disk.copy()).unwrap().last().unwrap().sequence.0,
                    30,
                    "put back, it is as before"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_end_that_is_missing_is_noticed_without_the_label_too() {
    let disk = log_without(0).await;
    let label = Path::new(DIRECTORY).join("label");
    let files = disk.files();
    let newest = disk.without(&label).without(files.last().unwrap());
    assert_eq!(replay(&newest).unwrap_err().category(), "missing_end");
}

/// The header is synced before it is noted that the segment is there.
#[tokio::test]
async fn a_segment_that_was_there_is_not_taken_for_an_unfinished_one() {
    let disk = log_without(0).await;
    let last = disk.files().pop().unwrap();
    let header = [disk.content(&last)[..60].to_vec(), vec![]];
    let zeros = [20, 8000].map(|length| vec![0; length]);
    for bytes in header.into_iter().chain(zeros) {
        let error = replay(&disk.with(&last, bytes)).unwrap_err();
        assert_eq!(error.category(), "damaged");
    }
}

/// Before that the label of the new life would be there without a span of it.
#[tokio::test]
async fn the_segments_are_noted_before_the_label_tells_of_a_life() {
    let disk = log_without(0).await;
    let directory = WalDirectory::lock(DIRECTORY, Arc::new(disk.clone())).unwrap();
    let later = Identity {
        epoch: 2,
        ..identity()
    };
    disk.fail("create label.new", ErrorKind::Other);
    let recovery = directory.recover(later).unwrap();
    let error = recovery
        .finish(small(), Arc::new(NoObserver))
        .map(drop)
        .unwrap_err();
    assert_eq!(error.category(), "directory");
    let files = disk.files();
    assert_records(&replay(&disk.copy()).unwrap(), 1..=30);
    let without = disk.without(files.last().unwrap());
    assert_eq!(replay(&without).unwrap_err().category(), "missing_end");
}

/// It leaves the file as it was, and the label tells of its life. Its epoch is lower where an old backup of the
/// catalog was restored again.
#[tokio::test]
async fn a_span_from_before_the_life_of_an_older_release_does_not_count() {
    for epoch in [0, 2] {
        let before = log_without(0).await;
        let disk = before.copy();
        let directory = WalDirectory::lock(DIRECTORY, Arc::new(disk.clone())).unwrap();
        let other = Identity {
            epoch,
            ..identity()
        };
        let recovery = directory.recover(other).unwrap();
        let wal = recovery.finish(small(), Arc::new(NoObserver)).unwrap();
        write(&wal, 31..=40).await;
        wal.truncate_up_to(SequenceNumber(30)).unwrap();
        let left = disk.with(&span(), before.content(&span()));
        let records = replay(&left).unwrap();
        assert_records(&records, records[0].sequence.0..=40);
        assert!(records[0].sequence.0 > 12);
    }
}

#[tokio::test]
async fn a_log_of_an_older_release_has_no_span_and_gets_one() {
    let disk = log_without(0).await.without(&span());
    assert_records(&replay(&disk.copy()).unwrap(), 1..=30);
    drop(open(&disk, small()));
    let error = replay(&disk.without(&segment(1))).unwrap_err();
    assert_eq!(error.category(), "missing_end");
}

/// Every byte of it, and every length: what the message says is done, and all is back.
#[tokio::test]
async fn a_damaged_span_costs_no_row() {
    let disk = log_without(0).await;
    let right = disk.content(&span());
    let flipped = (0..right.len() * 8).map(|bit| {
        let mut bytes = right.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let cut = (0..right.len()).map(|length| right[..length].to_vec());
    for bytes in flipped.chain(cut) {
        let damaged = disk.with(&span(), bytes.clone());
        let error = replay(&damaged).unwrap_err();
        assert_eq!(error.category(), "damaged_span");
        let text = error.to_string();
        assert!(
            text.contains("span /wal/span") && text.contains("move this one file away"),
            "{text}"
        );
        assert_eq!(damaged.content(&span()), bytes, "nothing is changed");
        assert_records(&replay(&damaged.without(&span())).unwrap(), 1..=30);
    }
}

#[tokio::test]
async fn a_segment_that_can_not_be_noted_takes_no_record() {
    let operations = [
        "create span.new",
        "append span.new",
        "sync span.new",
        "rename span.new",
        "sync_directory",
    ];
    let one_each = WalOptions {
        segment_bytes: 10,
        ..options()
    };
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        for operation in operations {
            let disk = FakeDisk::default();
            let wal = open(&disk, one_each.clone());
            write(&wal, 1..=1).await;
            match operation {
                "sync_directory" => disk.fail_after("rename span.new", operation, kind),
                _ => disk.fail(operation, kind),
            }
            let outcomes = Outcomes::default();
            let refused = wal.append(append(2), outcomes.completion()).await;
            refused.unwrap_err();
            let kept = if kind == ErrorKind::StorageFull {
                assert_eq!(outcomes.get(), [Err("full")], "{operation}");
                write(&wal, 2..=3).await;
                1..=3
            } else {
                assert_eq!(outcomes.get(), [Err("poisoned")], "{operation}");
                1..=1
            };
            for page in [true, false] {
                let left = disk.after_power_cut(|| page);
                assert_records(&replay(&left).unwrap(), kept.clone());
            }
        }
    }
}

const OF_NOTE: [&str; 5] = ["create", "append", "sync", "rename", "sync_directory"];

#[tokio::test]
async fn nothing_is_removed_that_can_not_be_noted() {
    for operation in OF_NOTE {
        let disk = FakeDisk::default();
        let wal = open(&disk, small());
        write(&wal, 1..=30).await;
        let files = disk.files();
        disk.fail(operation, ErrorKind::Other);
        let error = wal.truncate_up_to(SequenceNumber(30)).unwrap_err();
        assert_eq!(error.category(), "directory");
        assert!(error.to_string().contains("note the segments"), "{error}");
        assert_eq!(disk.files(), files, "{operation}");
        for kept in [true, false] {
            let left = disk.after_power_cut(|| kept);
            assert_records(&replay(&left).unwrap(), 1..=30);
        }
        wal.truncate_up_to(SequenceNumber(30)).unwrap();
        assert_eq!(wal.size().0, 1);
    }
}

/// To remove segments is what makes room.
#[tokio::test]
async fn without_room_for_the_note_segments_are_removed_all_the_same() {
    for operation in OF_NOTE {
        let disk = FakeDisk::default();
        let wal = open(&disk, small());
        write(&wal, 1..=30).await;
        disk.fail(operation, ErrorKind::StorageFull);
        // There is none for the second attempt either.
        disk.fail_after("remove span.new", "create span.new", ErrorKind::StorageFull);
        let truncated = wal.truncate_up_to(SequenceNumber(20)).unwrap();
        assert!(truncated.segments > 2, "{operation}");
        let names = disk.list(Path::new(DIRECTORY)).unwrap();
        assert!(!names.contains(&"span".to_owned()), "{names:?}");
        for kept in [true, false] {
            let left = disk.after_power_cut(|| kept);
            let records = replay(&left).unwrap();
            assert_records(&records, records[0].sequence.0..=30);
            assert!(records[0].sequence.0 <= 21);
        }
        write(&wal, 31..=40).await;
        wal.truncate_up_to(SequenceNumber(30)).unwrap();
        let killed = disk.copy();
        let first = killed.files().remove(0);
        let error = replay(&killed.without(&first)).unwrap_err();
        assert_eq!(error.category(), "missing_end", "{operation}");
        assert_eq!(replay(&killed).unwrap().last().unwrap().sequence.0, 40);
    }
}

/// A segment may be closed while older ones are removed, all of whose records are in files as well.
#[tokio::test]
async fn a_segment_that_is_closed_meanwhile_is_not_removed_without_a_note() {
    let disk = FakeDisk::default();
    let one_each = WalOptions {
        segment_bytes: 10,
        ..options()
    };
    let wal = Arc::new(open(&disk, one_each));
    write(&wal, 1..=5).await;
    disk.hold(Some("rename 0"));
    let truncating = std::thread::spawn({
        let wal = Arc::clone(&wal);
        move || wal.truncate_up_to(SequenceNumber(5)).unwrap()
    });
    disk.wait_for(|log| {
        log.last()
            .is_some_and(|entry| entry.starts_with("rename 0"))
    });
    // Closes the segment of the fifth.
    write(&wal, 6..=6).await;
    disk.hold(None);
    assert_eq!(truncating.join().unwrap().segments, 4);
    assert_records(&replay(&disk.copy()).unwrap(), 5..=6);
    assert_eq!(wal.truncate_up_to(SequenceNumber(5)).unwrap().segments, 1);
    assert_records(&replay(&disk.copy()).unwrap(), 6..=6);
}

/// What somebody does to a log.
#[derive(Debug, Clone)]
enum Step {
    Write(u64),
    /// This part, in sixteenths, of what was written is in files.
    Truncate(u64),
    Restart,
    /// The next operation of this kind fails.
    Fail(usize),
    PowerCut(Vec<bool>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pages = proptest::collection::vec(any::<bool>(), 1..40);
    let step = prop_oneof![
        4 => (1_u64..12).prop_map(Step::Write),
        3 => (0_u64..=16).prop_map(Step::Truncate),
        1 => Just(Step::Restart),
        1 => (0_usize..5).prop_map(Step::Fail),
        1 => pages.prop_map(Step::PowerCut),
    ];
    proptest::collection::vec(step, 1..14)
}

/// Opens a log whose start may meet a failure that was told before.
fn open_again(disk: &FakeDisk) -> Wal {
    for _ in 0..10 {
        let opened = recovery(disk).and_then(|recovery| {
            let observer = Arc::new(NoObserver);
            recovery.finish(small(), observer)
        });
        match opened {
            Ok(wal) => return wal,
            Err(error) => assert!(
                matches!(error.category(), "directory" | "segment"),
                "{error}"
            ),
        }
    }
    panic!("it does not start");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// After failures, kills and power cuts a log with all its segments starts, and one without a segment that
    /// has a row that is in no file does not.
    #[test]
    fn no_segment_with_rows_can_go_unseen(steps in steps()) {
        const OPERATIONS: [&str; 5] = ["create", "append", "sync ", "rename", "sync_directory"];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut disk = FakeDisk::default();
            let mut wal = Some(open_again(&disk));
            let (mut acknowledged, mut in_files) = (0, 0);
            for step in steps {
                match step {
                    Step::Write(records) => for number in acknowledged + 1..=acknowledged + records {
                        let written = wal.as_ref().unwrap().append(append(number), Box::new(|_| {})).await;
                        match written {
                            Ok(sequence) => acknowledged = sequence.0,
                            Err(_) => break,
                        }
                    },
                    Step::Truncate(part) => {
                        in_files = in_files.max(acknowledged * part / 16);
                        let _ = wal.as_ref().unwrap().truncate_up_to(SequenceNumber(in_files));
                    }
                    Step::Fail(which) => disk.fail(OPERATIONS[which], ErrorKind::Other),
                    Step::Restart | Step::PowerCut(_) => {
                        if let Step::PowerCut(pages) = &step {
                            let mut kept = pages.iter().cycle();
                            disk = disk.after_power_cut(|| *kept.next().unwrap());
                        }
                        drop(wal.take());
                        let records = replay(&disk.copy()).unwrap();
                        let first = records.first().map_or(acknowledged + 1, |record| record.sequence.0);
                        assert!(first <= in_files + 1 || first == acknowledged + 1);
                        assert!(first + records.len() as u64 > acknowledged);
                        wal = Some(open_again(&disk));
                        // What was not acknowledged may be there.
                        acknowledged = acknowledged.max(first + records.len() as u64 - 1);
                    }
                }
            }
            let killed = disk.copy();
            for file in killed.files() {
                let alone = killed.files().into_iter().filter(|other| *other != file);
                let alone = without_all(&killed, &alone.collect::<Vec<_>>()).without(&span());
                let holds = |record: &Record| (in_files + 1..=acknowledged).contains(&record.sequence.0);
                if replay(&alone).unwrap().iter().any(holds) {
                    let error = replay(&killed.without(&file)).unwrap_err();
                    let category = error.category();
                    assert!(matches!(category, "missing_end" | "missing_segment"), "{error}");
                }
            }
        });
    }
}
