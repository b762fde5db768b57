//! Snapshots: complete, consistent, told apart by their ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flightcluster_catalog::{
    FileChoice, IfExists, SchemaVersion, Snapshot, SnapshotId, SnapshotRequest, TableName,
    TableSnapshot,
};

use super::{Subject, create, file, flush_of, register, request, schema};

pub async fn a_snapshot_holds_the_known_tables_in_the_order_asked(catalog: Subject) {
    let (a, b) = (create(&catalog, "a").await, create(&catalog, "b").await);
    let names = [
        b.name.clone(),
        TableName::public("default", "unknown"),
        a.name.clone(),
    ];
    let snapshot = catalog.snapshot(&names).await.unwrap();
    let found: Vec<_> = snapshot
        .tables
        .into_iter()
        .map(|table| table.table)
        .collect();
    assert_eq!(found, [b, a]);
    assert!(catalog.snapshot(&[]).await.unwrap().tables.is_empty());
}

pub async fn every_visible_change_makes_a_new_snapshot(catalog: Subject) {
    let mut last = newest(&catalog).await;
    let mut check = async |what: &str, changes: bool| {
        let now = newest(&catalog).await;
        assert_eq!(now > last, changes, "{what}: {last} -> {now}");
        last = now;
    };
    catalog.create_database("d", false).await.unwrap();
    check("create database", true).await;
    catalog.create_database("d", true).await.unwrap();
    check("keep database", false).await;
    let table = create(&catalog, "t").await;
    check("create table", true).await;
    catalog
        .create_table(request(table.name.clone(), IfExists::Keep))
        .await
        .unwrap();
    check("keep table", false).await;
    catalog
        .create_table(request(table.name.clone(), IfExists::Fail))
        .await
        .unwrap_err();
    check("refused table", false).await;
    catalog
        .evolve_table(table.id, SchemaVersion(1), schema("2"))
        .await
        .unwrap();
    check("evolve", true).await;
    let ingester = register(&catalog, "ingester-0").await;
    check("register", true).await;
    let flush = flush_of(&ingester, vec![file(table.id, "f", 1, 1)]);
    catalog.commit_flush(flush.clone()).await.unwrap();
    check("flush", true).await;
    catalog.commit_flush(flush).await.unwrap();
    check("repeated flush", false).await;
    catalog
        .drain_ingester(ingester.id, ingester.epoch)
        .await
        .unwrap();
    check("drain", true).await;
    catalog
        .drain_ingester(ingester.id, ingester.epoch)
        .await
        .unwrap();
    check("repeated drain", false).await;
    catalog.drop_table(&table.name, false, None).await.unwrap();
    check("drop", true).await;
}

async fn newest(catalog: &Subject) -> SnapshotId {
    catalog.snapshot(&[]).await.unwrap().id
}

/// Two ingesters commit one row to each of two tables per flush, readers check that what they see
/// is a state between two commits.
pub async fn snapshots_are_consistent_while_ingesters_commit(catalog: Subject) {
    const FLUSHES: u64 = 30;
    let (a, b) = (create(&catalog, "a").await, create(&catalog, "b").await);
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..2 {
        let (catalog, done) = (Arc::clone(&catalog), Arc::clone(&done));
        let names = [a.name.clone(), b.name.clone()];
        readers.push(tokio::spawn(async move {
            let mut last = SnapshotId(0);
            let mut reads = 0_u64;
            loop {
                let finished = done.load(Ordering::Acquire);
                let snapshot = catalog.snapshot(&names).await.unwrap();
                assert!(
                    snapshot.id >= last,
                    "went back from {last} to {}",
                    snapshot.id
                );
                last = snapshot.id;
                check_consistent(&snapshot);
                reads += 1;
                if finished {
                    return reads;
                }
            }
        }));
    }
    let mut writers = Vec::new();
    for name in ["ingester-0", "ingester-1"] {
        let ingester = register(&catalog, name).await;
        let (catalog, a, b) = (Arc::clone(&catalog), a.id, b.id);
        writers.push(tokio::spawn(async move {
            for n in 1..=FLUSHES {
                let files = vec![
                    file(a, &format!("a-{}-{n}", ingester.name), n, n),
                    file(b, &format!("b-{}-{n}", ingester.name), n, n),
                ];
                catalog
                    .commit_flush(flush_of(&ingester, files))
                    .await
                    .unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.await.unwrap() >= 1);
    }
    let end = catalog.snapshot(&[a.name, b.name]).await.unwrap();
    assert!(
        end.tables
            .iter()
            .all(|table| table.files.len() as u64 == 2 * FLUSHES)
    );
}

/// Both tables hold the same flushes, and watermarks say exactly what the files hold.
fn check_consistent(snapshot: &Snapshot) {
    let [a, b] = &snapshot.tables[..] else {
        panic!("two tables expected");
    };
    assert_eq!(a.watermarks, b.watermarks);
    for table in [a, b] {
        for file in &table.files {
            assert!(file.begin_snapshot <= snapshot.id);
        }
        let in_files: u64 = table.files.iter().map(|file| file.file.rows).sum();
        let by_watermarks: u64 = table.watermarks.iter().map(|(_, last)| last.0).sum();
        assert_eq!(in_files, by_watermarks);
    }
}

pub async fn a_snapshot_of_a_time_range_holds_the_files_that_may_have_such_rows(catalog: Subject) {
    let table = create(&catalog, "times").await;
    let ingester = register(&catalog, "writer").await;
    let ranges = [
        ("a", Some((0, 9))),
        ("b", Some((10, 19))),
        ("long", Some((5, 95))),
        ("unknown", None),
        ("c", Some((90, 99))),
        ("ends", Some((i64::MIN, i64::MAX))),
    ];
    let files = ranges.iter().zip(1..).map(|((path, range), number)| {
        let mut file = file(table.id, path, number, number);
        file.time_range_nanos = *range;
        file
    });
    let commit = flush_of(&ingester, files.collect());
    catalog.commit_flush(commit).await.unwrap();
    let everywhere = ["ends", "unknown"];
    for (from_nanos, to_nanos, more) in [
        (0, 4, vec!["a"]),
        (9, 10, vec!["a", "b", "long"]),
        (20, 89, vec!["long"]),
        (95, 95, vec!["c", "long"]),
        (96, i64::MAX, vec!["c"]),
        (i64::MIN, -1, vec![]),
        (i64::MIN, i64::MAX, vec!["a", "b", "c", "long"]),
    ] {
        let choice = FileChoice::Between {
            from_nanos,
            to_nanos,
        };
        let chosen = chosen(&catalog, &table.name, choice).await;
        let mut expected: Vec<_> = everywhere.into_iter().chain(more).collect();
        expected.sort_unstable();
        assert_eq!(paths(&chosen), expected, "{from_nanos} to {to_nanos}");
        assert_eq!(chosen.watermark(ingester.id).0, 6, "that of all files");
        assert!(!chosen.files_left_out);
    }
}

pub async fn a_snapshot_of_few_files_has_all_or_none(catalog: Subject) {
    let table = create(&catalog, "few").await;
    let ingester = register(&catalog, "writer").await;
    let files = ["a", "b", "c"].iter().zip(1..);
    let files = files.map(|(path, number)| file(table.id, path, number, number));
    let commit = flush_of(&ingester, files.collect());
    catalog.commit_flush(commit).await.unwrap();
    for (most, expected) in [(0, 0), (2, 0), (3, 3), (u32::MAX, 3)] {
        let chosen = chosen(&catalog, &table.name, FileChoice::AtMost(most)).await;
        assert_eq!(chosen.files.len(), expected, "at most {most}");
        assert_eq!(chosen.files_left_out, expected == 0);
        assert_eq!(chosen.watermark(ingester.id).0, 3);
    }
}

async fn chosen(catalog: &Subject, name: &TableName, choice: FileChoice) -> TableSnapshot {
    let request = SnapshotRequest {
        tables: vec![(name.clone(), choice)],
    };
    catalog
        .read_snapshot(request)
        .await
        .unwrap()
        .tables
        .remove(0)
}

fn paths(table: &TableSnapshot) -> Vec<&str> {
    let mut paths: Vec<_> = table
        .files
        .iter()
        .map(|file| file.file.path.as_str())
        .collect();
    paths.sort_unstable();
    paths
}
