//! Tests of the whole log on a disk in memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod budget;
mod damage;
mod durability;
mod fake;
mod identity;
mod marks;
mod messages;
mod places;
mod segments;
mod span;
mod spares;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use crate::*;
use fake::FakeDisk;

const DIRECTORY: &str = "/wal";
const STATE: CatalogState = CatalogState {
    snapshot: 5,
    created_at_millis: 1000,
};

fn identity() -> Identity {
    Identity {
        ingester_id: 7,
        ingester_name: "ingester-0".to_owned(),
        epoch: 1,
        known: SequenceNumber(0),
        catalog: STATE,
    }
}

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: 1 << 20,
        budget_bytes: 0,
        group_commit_window: Duration::ZERO,
        group_commit_max_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        // Tests that don't want marks are not to meet one.
        mark_after: Duration::MAX,
    }
}

fn recovery(disk: &FakeDisk) -> Result<Recovery, Error> {
    WalDirectory::lock(DIRECTORY, Arc::new(disk.clone()))?.recover(identity())
}

fn open(disk: &FakeDisk, options: WalOptions) -> Wal {
    recovery(disk)
        .unwrap()
        .finish(options, Arc::new(NoObserver))
        .unwrap()
}

/// Everything a fresh process would find.
fn replay(disk: &FakeDisk) -> Result<Vec<Record>, Error> {
    let mut recovery = recovery(disk)?;
    let mut records = Vec::new();
    while let Some(record) = recovery.next_record()? {
        records.push(record);
    }
    Ok(records)
}

/// A record that is unlike every other: its content follows from `number`.
fn append(number: u64) -> Append {
    let version = 1 + (number / 3) as u32;
    let schema = SchemaDefinition {
        version,
        ipc: Bytes::from(format!("schema {version}")),
    };
    let producer = number.is_multiple_of(2).then(|| Producer {
        id: format!("producer-{number}"),
        sequence: number * 10,
    });
    let message = |name: &str, bytes: usize| Message {
        header: Bytes::from(format!("{name} {number}")),
        body: Bytes::from(vec![number as u8; bytes]),
    };
    let messages = vec![
        message("dictionary", 3),
        message("batch", number as usize % 50),
    ];
    let stamp = number as i64 - 5;
    let append = Append::new(
        number % 2 + 1,
        Arc::new(schema),
        number + 100,
        stamp,
        producer,
        messages,
    )
    .unwrap();
    match number % 3 {
        0 => append.with_order(1 - (number as i64) * 1_000_000),
        _ => append,
    }
}

fn is_record(record: &Record, number: u64) -> bool {
    let expected = append(number);
    let found = (
        record.table,
        &record.schema,
        record.rows,
        record.stamp_nanos,
    );
    record.sequence == SequenceNumber(number)
        && found
            == (
                expected.table,
                &expected.schema,
                expected.rows,
                expected.stamp_nanos,
            )
        && record.producer == expected.producer
        && record.order == expected.order
        && record.messages == expected.messages
}

fn assert_records(records: &[Record], numbers: std::ops::RangeInclusive<u64>) {
    let wanted: Vec<u64> = numbers.collect();
    let found: Vec<u64> = records.iter().map(|record| record.sequence.0).collect();
    assert_eq!(found, wanted);
    for record in records {
        assert!(is_record(record, record.sequence.0), "{record:?}");
    }
}

/// Appends records one group each.
async fn write(wal: &Wal, numbers: std::ops::RangeInclusive<u64>) {
    for number in numbers {
        let sequence = wal.append(append(number), Box::new(|_| {})).await.unwrap();
        assert_eq!(sequence, SequenceNumber(number));
    }
}

/// What is left when the power is cut while records are on their way to the disk; `pages` says, again and
/// again, which of what was not synced is.
async fn power_cut_before_the_sync(
    disk: &FakeDisk,
    wal: &Wal,
    numbers: std::ops::RangeInclusive<u64>,
    pages: &[bool],
) -> FakeDisk {
    // Before they are held: one that waits already is not logged again.
    let before = disk.log().len();
    disk.hold_syncs(true);
    let mut pending = Vec::new();
    for number in numbers {
        let record = append(number);
        let reservation = wal.reserve(&record).await.unwrap();
        pending.push(wal.enqueue(reservation, record, Box::new(|_| {})).unwrap());
    }
    if !pending.is_empty() {
        disk.wait_for(|log| log[before..].iter().any(|entry| entry.starts_with("sync ")));
    }
    let mut kept = pages.iter().cycle();
    let after = disk.after_power_cut(|| *kept.next().unwrap());
    disk.hold_syncs(false);
    after
}

fn segment(number: u64) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{number:020}.wal"))
}

/// The file that tells which segments there are.
fn span() -> PathBuf {
    Path::new(DIRECTORY).join("span")
}

/// Collects the outcomes of completions in the order they were called.
#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<Vec<Result<u64, &'static str>>>>);

impl Outcomes {
    fn completion(&self) -> Completion {
        let outcomes = Arc::clone(&self.0);
        Box::new(move |result| {
            let outcome = result
                .map(|stored| stored.sequence.0)
                .map_err(Error::category);
            outcomes.lock().unwrap().push(outcome);
        })
    }

    fn get(&self) -> Vec<Result<u64, &'static str>> {
        self.0.lock().unwrap().clone()
    }
}
