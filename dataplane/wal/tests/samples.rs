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
            messages: vec![],
        },
    ]
}

async fn write_sample(directory: &Path) {
    let locked = WalDirectory::lock(directory, Arc::new(RealDisk)).unwrap();
    let options = WalOptions {
        segment_bytes: 250,
        budget_bytes: 1 << 20,
        group_commit_window: Duration::ZERO,
        group_commit_max_bytes: 1 << 20,
        queue_bytes: 1 << 20,
    };
    let recovery = locked.recover(identity()).unwrap();
    let wal = recovery.finish(options, Arc::new(NoObserver)).unwrap();
    for Record {
        sequence,
        table,
        schema,
        rows,
        stamp_nanos,
        producer,
        messages,
    } in sample_records()
    {
        let append = Append::new(table, schema, rows, stamp_nanos, producer, messages).unwrap();
        assert_eq!(
            wal.append(append, Box::new(|_| {})).await.unwrap(),
            sequence
        );
    }
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

fn copy_of(version: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(samples(version)).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

fn check(version: &str) {
    assert_eq!(read(copy_of(version).path()), sample_records());
}

#[test]
fn version_1_is_read() {
    check("v1");
}

#[tokio::test]
async fn version_2_is_read() {
    let directory = samples("v2");
    if std::env::var_os("UPDATE_EXPECT").is_some() && !directory.exists() {
        write_sample(&directory).await;
    }
    check("v2");
    let copy = copy_of("v2");
    let label = WalDirectory::lock(copy.path(), Arc::new(RealDisk))
        .unwrap()
        .label();
    assert_eq!(label.epoch, 3);
    assert_eq!(label.catalog, Some(identity().catalog));
}

#[tokio::test]
async fn what_is_written_today_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    write_sample(directory.path()).await;
    assert_eq!(read(directory.path()), sample_records());
}
