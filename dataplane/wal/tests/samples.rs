//! Every version of the segment format ever written is read by today's code.
//!
//! The files below `samples` were written by the release that introduced their version. When a
//! directory is missing, `UPDATE_EXPECT=1` writes it with today's code; a directory that exists is
//! never written again.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flightcluster_wal::*;

fn samples(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/samples")
        .join(version)
}

fn identity() -> Identity {
    let ingester_name = "sample-ingester".to_owned();
    Identity {
        ingester_id: 11,
        ingester_name,
        epoch: 3,
        known: SequenceNumber(41),
        catalog: CatalogState {
            snapshot: 17,
            created_at_millis: 1_700_000_000_123,
        },
    }
}

fn sample_records() -> Vec<Record> {
    let schema = |version: u32, text: &'static str| {
        Arc::new(SchemaDefinition {
            version,
            ipc: Bytes::from_static(text.as_bytes()),
        })
    };
    let message = |header: &'static str, body: &'static str| Message {
        header: Bytes::from_static(header.as_bytes()),
        body: Bytes::from_static(body.as_bytes()),
    };
    vec![
        Record {
            sequence: SequenceNumber(42),
            table: 3,
            schema: schema(1, "schema of the readings"),
            rows: 1000,
            stamp_nanos: 1_700_000_000_123_456_789,
            producer: None,
            order: None,
            messages: vec![message("one header", "one body")],
        },
        Record {
            sequence: SequenceNumber(43),
            table: 5,
            schema: schema(7, "schema of the flights"),
            rows: 2,
            stamp_nanos: -1,
            producer: Some(Producer {
                id: "übertrager".to_owned(),
                sequence: u64::MAX,
            }),
            order: None,
            messages: vec![message("dictionary", "words"), message("batch", "")],
        },
        Record {
            sequence: SequenceNumber(44),
            table: 3,
            schema: schema(2, "schema of the readings, with one more column"),
            rows: 0,
            stamp_nanos: 0,
            producer: Some(Producer {
                id: String::new(),
                sequence: 0,
            }),
            order: None,
            messages: vec![],
        },
    ]
}

/// The same records with numbered rows, but for one.
fn numbered_records() -> Vec<Record> {
    let mut records = sample_records();
    records[0].order = Some(1 << 50);
    records[1].order = Some(-2);
    records
}

/// A log with segments of about one record.
fn open(directory: &Path) -> Wal {
    let locked = WalDirectory::lock(directory, Arc::new(RealDisk)).unwrap();
    let options = WalOptions {
        segment_bytes: 250,
        budget_bytes: 1 << 20,
        group_commit_window: Duration::ZERO,
        group_commit_max_bytes: 1 << 20,
        queue_bytes: 1 << 20,
        mark_after: Duration::MAX,
    };
    let recovery = locked.recover(identity()).unwrap();
    recovery.finish(options, Arc::new(NoObserver)).unwrap()
}

async fn append(wal: &Wal, records: Vec<Record>) {
    for Record {
        sequence,
        table,
        schema,
        rows,
        stamp_nanos,
        producer,
        order,
        messages,
    } in records
    {
        let append = Append::new(table, schema, rows, stamp_nanos, producer, messages).unwrap();
        let append = match order {
            Some(first) => append.with_order(first),
            None => append,
        };
        assert_eq!(
            wal.append(append, Box::new(|_| {})).await.unwrap(),
            sequence
        );
    }
}

async fn write_sample(directory: &Path, records: Vec<Record>) {
    let wal = open(directory);
    append(&wal, records).await;
    drop(wal);
    std::fs::remove_file(directory.join("lock")).unwrap();
}

fn read(directory: &Path) -> Vec<Record> {
    let locked = WalDirectory::lock(directory, Arc::new(RealDisk)).unwrap();
    let mut recovery = locked.recover(identity()).unwrap();
    let mut records = Vec::new();
    while let Some(record) = recovery.next_record().unwrap() {
        records.push(record);
    }
    records
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn copy_of(version: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    copy(&samples(version), directory.path());
    directory
}

fn check(version: &str, records: &[Record]) {
    assert_eq!(read(copy_of(version).path()), records);
}

/// A sample that is missing is written with today's code.
async fn write_missing(version: &str, records: Vec<Record>) {
    let directory = samples(version);
    if std::env::var_os("UPDATE_EXPECT").is_some() && !directory.exists() {
        write_sample(&directory, records).await;
    }
}

#[test]
fn version_1_is_read() {
    check("v1", &sample_records());
}

/// Segments of version 1 do not name their log: it gets another name, and nobody knows the one before.
#[test]
fn version_1_is_read_also_when_the_label_it_got_is_damaged() {
    let copy = copy_of("v1");
    let lock = || WalDirectory::lock(copy.path(), Arc::new(RealDisk));
    let label = copy.path().join("label");
    drop(lock().unwrap());
    let mut bytes = std::fs::read(&label).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&label, bytes).unwrap();
    let error = lock().unwrap_err();
    assert_eq!(error.category(), "damaged_label");
    std::fs::rename(&label, copy.path().join("label.damaged")).unwrap();
    assert_eq!(read(copy.path()), sample_records());
}

#[tokio::test]
async fn version_2_is_read() {
    write_missing("v2", sample_records()).await;
    check("v2", &sample_records());
    let copy = copy_of("v2");
    let label = WalDirectory::lock(copy.path(), Arc::new(RealDisk))
        .unwrap()
        .label();
    assert_eq!(label.epoch, 3);
    assert_eq!(label.catalog, Some(identity().catalog));
}

#[tokio::test]
async fn numbered_rows_are_read() {
    write_missing("numbered", numbered_records()).await;
    check("numbered", &numbered_records());
}

/// The span was added after version 2 of the segments.
#[tokio::test]
async fn a_span_is_read_and_tells_of_every_segment() {
    write_missing("span", sample_records()).await;
    check("span", &sample_records());
    for segment in 1..=3 {
        let copy = copy_of("span");
        std::fs::remove_file(copy.path().join(format!("{segment:020}.wal"))).unwrap();
        let locked = WalDirectory::lock(copy.path(), Arc::new(RealDisk)).unwrap();
        let error = locked.recover(identity()).map(drop).unwrap_err();
        let expected = if segment == 2 {
            "missing_segment"
        } else {
            "missing_end"
        };
        assert_eq!(error.category(), expected);
    }
}

/// What a segment has that was written over an older one: a record, and behind it what was there before.
fn record_over_older_ones() -> Record {
    let mut record = sample_records().remove(0);
    record.sequence = SequenceNumber(45);
    record.schema = Arc::new(SchemaDefinition {
        version: 3,
        ipc: Bytes::from_static(b"new"),
    });
    record.messages.truncate(0);
    record
}

/// Segments are written over since a release that left their format as it was.
#[tokio::test]
async fn a_segment_over_an_older_one_is_read_up_to_its_end() {
    let directory = samples("over-older");
    if std::env::var_os("UPDATE_EXPECT").is_some() && !directory.exists() {
        let alive = tempfile::tempdir().unwrap();
        let wal = open(alive.path());
        // What is written is filled up to the end of its page: the older segment has to be longer.
        let mut older = sample_records();
        older[1].messages[0].body = Bytes::from("older ".repeat(900));
        append(&wal, older).await;
        wal.truncate_up_to(SequenceNumber(43)).unwrap();
        append(&wal, vec![record_over_older_ones()]).await;
        // As a crash leaves it: at its end a log cuts what is behind its last record.
        copy(alive.path(), &directory);
        drop(wal);
        std::fs::remove_file(directory.join("lock")).unwrap();
    }
    let last = std::fs::read(directory.join("00000000000000000004.wal")).unwrap();
    let older = b"older older";
    assert!(last.windows(older.len()).any(|bytes| bytes == older));
    let expected = [sample_records().remove(2), record_over_older_ones()];
    check("over-older", &expected);
}

#[tokio::test]
async fn what_is_written_today_reads_back() {
    for records in [sample_records(), numbered_records()] {
        let directory = tempfile::tempdir().unwrap();
        write_sample(directory.path(), records.clone()).await;
        assert_eq!(read(directory.path()), records);
    }
}
