//! Snapshots: complete, consistent, told apart by their ids.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flightcluster_catalog::{IfExists, SchemaVersion, Snapshot, SnapshotId, TableName};

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
    catalog.drop_table(&table.name, false).await.unwrap();
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
