//! Replay of files that are not as they were written.

use proptest::prelude::*;

use super::*;

/// A log of one segment: each record its own group. Without a span, as releases that did not know it leave
/// one: then any end may be that of a segment that was not finished.
fn log_of(records: u64) -> FakeDisk {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let disk = FakeDisk::default();
    runtime.block_on(async {
        let wal = open(&disk, options());
        write(&wal, 1..=records).await;
        // As after a kill: without the mark of a clean end.
        disk.without(&span())
    })
}

/// Offset of each record's end, and of the header's end as the first.
fn record_ends(disk: &FakeDisk, records: u64) -> Vec<usize> {
    let data = disk.content(&segment(1));
    let disk = disk.without(&span());
    let mut ends = vec![];
    let mut found = 0;
    for length in 0..=data.len() {
        let cut = disk.with(&segment(1), data[..length].to_vec());
        if replay(&cut).unwrap().len() == found && found <= records as usize {
            ends.push(length);
            found += 1;
        }
    }
    ends
}

#[test]
fn a_segment_cut_anywhere_gives_the_whole_records_before_the_cut() {
    let disk = log_of(5);
    let data = disk.content(&segment(1));
    let mut most = 0;
    for length in 0..=data.len() {
        let cut = disk.with(&segment(1), data[..length].to_vec());
        let records = replay(&cut).unwrap();
        assert!(records.len() >= most, "a longer file gave fewer records");
        most = records.len();
        assert_records(&records, 1..=most as u64);

        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let wal = open(&cut, options());
            write(&wal, most as u64 + 1..=most as u64 + 1).await;
        });
        assert_records(&replay(&cut).unwrap(), 1..=most as u64 + 1);
    }
    assert_eq!(most, 5);
}

/// Every bit of every byte: replay gives only right records, and damage of a group that a later one
/// proves to have been on disk is an error.
#[test]
fn a_flipped_bit_never_gives_a_wrong_record() {
    let disk = log_of(4);
    let data = disk.content(&segment(1));
    let last_start = record_ends(&disk, 4)[3];
    let mut refused = 0;
    for at in 0..data.len() {
        for bit in 0..8 {
            let mut flipped = data.clone();
            flipped[at] ^= 1 << bit;
            match replay(&disk.with(&segment(1), flipped)) {
                Ok(records) => {
                    assert!(
                        at >= last_start,
                        "damage at {at} of synced data was not noticed"
                    );
                    assert_records(&records, 1..=3);
                }
                Err(error) => {
                    let category = error.category();
                    assert!(matches!(category, "damaged" | "unknown_version"), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused >= last_start * 8);
}

#[test]
fn damage_is_named_with_file_and_offset_and_changes_nothing() {
    let disk = log_of(4);
    let data = disk.content(&segment(1));
    let second = record_ends(&disk, 4)[1];
    let mut flipped = data.clone();
    flipped[second + 40] ^= 1;
    let damaged = disk.with(&segment(1), flipped.clone());
    let error = recovery(&damaged)
        .unwrap()
        .finish(options(), Arc::new(NoObserver))
        .unwrap_err();
    let Error::Damaged { file, offset, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!((file, *offset), (&segment(1), second as u64));
    assert!(error.to_string().contains("restore the volume"), "{error}");
    assert_eq!(damaged.content(&segment(1)), flipped);
    assert_eq!(damaged.files().len(), 1);
}

#[tokio::test]
async fn a_clean_end_makes_damage_of_the_last_record_visible() {
    let disk = FakeDisk::default();
    let wal = open(&disk, options());
    write(&wal, 1..=3).await;
    let length = disk.content(&segment(1)).len();
    drop(wal);
    let mut data = disk.content(&segment(1));
    assert!(data.len() > length, "no mark");
    data[length - 1] ^= 1;
    let error = replay(&disk.with(&segment(1), data)).unwrap_err();
    assert_eq!(error.category(), "damaged");
}

#[test]
fn zeros_behind_the_last_record_are_cut() {
    let disk = log_of(3);
    let mut data = disk.content(&segment(1));
    data.resize(data.len() + 5000, 0);
    assert_records(&replay(&disk.with(&segment(1), data)).unwrap(), 1..=3);
}

#[test]
fn a_torn_record_in_front_of_a_later_one_of_the_same_group_is_cut() {
    // One group of three records: the machine stopped before the sync, the first page is lost.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let disk = FakeDisk::default();
    let before = runtime.block_on(async {
        let wal = open(&disk, options());
        write(&wal, 1..=1).await;
        let before = disk.content(&segment(1)).len();
        let logged = disk.log().len();
        disk.hold_syncs(true);
        let mut pending = Vec::new();
        for number in 2..=4 {
            let record = append(number);
            let reservation = wal.reserve(&record).await.unwrap();
            pending.push(wal.enqueue(reservation, record, Box::new(|_| {})).unwrap());
            if number == 2 {
                // The sync of this record, not the one before: 3 and 4 are to be one group.
                let is_sync = |entry: &String| entry.starts_with("sync ");
                disk.wait_for(|log| log[logged..].iter().any(is_sync));
            }
        }
        disk.hold_syncs(false);
        for pending in pending {
            pending.await.unwrap();
        }
        before
    });
    let mut data = disk.content(&segment(1));
    let third = record_ends(&disk, 4)[2];
    data[third + 20] ^= 1;
    // Records 3 and 4 are one group; the mark behind them would prove the sync, so cut it off.
    let fourth = record_ends(&disk, 4)[4];
    data.truncate(fourth);
    assert!(third > before);
    assert_records(&replay(&disk.with(&segment(1), data)).unwrap(), 1..=2);
}

#[test]
fn a_segment_of_a_newer_release_is_refused() {
    let disk = log_of(2);
    let mut data = disk.content(&segment(1));
    data[8] = 3;
    let error = replay(&disk.with(&segment(1), data)).unwrap_err();
    let Error::UnknownVersion {
        found: 3,
        what: "format version",
        ..
    } = error
    else {
        panic!("{error}")
    };
}

#[test]
fn a_log_of_another_ingester_is_refused() {
    let disk = log_of(1);
    let other = Identity {
        ingester_id: 8,
        ..identity()
    };
    let directory = WalDirectory::lock(DIRECTORY, Arc::new(disk)).unwrap();
    let error = directory.recover(other).unwrap().next_record().unwrap_err();
    assert_eq!(error.category(), "other_ingester");
    assert!(error.to_string().contains("ingester-0 (id 7)"), "{error}");
}

#[test]
fn a_log_older_than_the_files_is_refused() {
    let disk = log_of(3);
    let ahead = Identity {
        known: SequenceNumber(4),
        ..identity()
    };
    let directory = WalDirectory::lock(DIRECTORY, Arc::new(disk)).unwrap();
    let recovery = directory.recover(ahead).unwrap();
    let error = recovery
        .finish(options(), Arc::new(NoObserver))
        .unwrap_err();
    assert_eq!(error.category(), "behind");
}

#[tokio::test]
async fn a_new_log_continues_after_the_rows_in_files() {
    let disk = FakeDisk::default();
    let known = Identity {
        known: SequenceNumber(41),
        ..identity()
    };
    let directory = WalDirectory::lock(DIRECTORY, Arc::new(disk)).unwrap();
    let wal = directory
        .recover(known)
        .unwrap()
        .finish(options(), Arc::new(NoObserver))
        .unwrap();
    let sequence = wal.append(append(1), Box::new(|_| {})).await.unwrap();
    assert_eq!(sequence, SequenceNumber(42));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        let disk = log_of(1);
        let _ = replay(&disk.with(&segment(1), data.clone()));
        let mut behind_header = disk.content(&segment(1));
        behind_header.truncate(80);
        behind_header.extend(data);
        let _ = replay(&disk.with(&segment(1), behind_header));
    }

    /// A client may send a body that looks like a record: it is never taken for one.
    #[test]
    fn a_body_that_looks_like_a_record_is_no_evidence(cut in 1_usize..100) {
        let inner = log_of(2);
        let fake = Bytes::from(inner.content(&segment(1)));
        let disk = FakeDisk::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let wal = open(&disk, options());
            write(&wal, 1..=1).await;
            let schema = Arc::new(SchemaDefinition { version: 1, ipc: Bytes::new() });
            let messages = vec![Message { header: Bytes::new(), body: fake.clone() }];
            let record = Append::new(1, schema, 1, 0, None, messages).unwrap();
            wal.append(record, Box::new(|_| {})).await.unwrap();
            let mut data = disk.content(&segment(1));
            data.truncate(data.len() - cut.min(fake.len() - 1));
            assert_records(&replay(&disk.with(&segment(1), data)).unwrap(), 1..=1);
        });
    }
}
