//! Commits of flushes: atomic, repeatable, fenced, in order.

use std::sync::Arc;
use std::time::Duration;

use flightcluster_catalog::{
    ClaimProducer, Error, File, FlushCommit, NewFile, ProducerClaim, ProducerPosition,
    ReplaceCause, ReplaceFiles, SchemaVersion, SequenceNumber, SnapshotId, TableId,
};

use super::producers::claim_of;
use super::{Subject, commit, content, create, file, flush_of, life, register, schema};

pub async fn a_flush_adds_files_and_moves_watermarks_in_one_snapshot(catalog: Subject) {
    let (a, b) = (create(&catalog, "a").await, create(&catalog, "b").await);
    let ingester = register(&catalog, "ingester-0").await;
    let names = [a.name.clone(), b.name.clone()];
    let before = catalog.snapshot(&names).await.unwrap();

    let files = vec![file(a.id, "a.parquet", 1, 3), file(b.id, "b.parquet", 4, 9)];
    let committed = catalog
        .commit_flush(flush_of(&ingester, files))
        .await
        .unwrap();

    assert_eq!(committed.snapshot, SnapshotId(before.id.0 + 1));
    assert!(committed.dropped_tables.is_empty());
    let after = catalog.snapshot(&names).await.unwrap();
    assert_eq!(after.id, committed.snapshot);
    for (table, path, watermark) in [
        (&after.tables[0], "a.parquet", 3),
        (&after.tables[1], "b.parquet", 9),
    ] {
        assert_eq!(table.files.len(), 1);
        assert_eq!(table.files[0].file.path, path);
        assert_eq!(table.files[0].begin_snapshot, committed.snapshot);
        assert_eq!(table.watermark(ingester.id), SequenceNumber(watermark));
    }
    // What was read before does not change.
    assert!(before.tables.iter().all(|table| table.files.is_empty()));
}

pub async fn a_file_comes_back_as_it_was_committed(catalog: Subject) {
    let table = create(&catalog, "t").await;
    catalog
        .evolve_table(table.id, SchemaVersion(1), schema("second"))
        .await
        .unwrap();
    let ingester = register(&catalog, "ingester-0").await;
    let new = NewFile {
        table: table.id,
        path: "default, 'x'/t/date=2026-11-21/ä \"b\" \\.parquet".to_owned(),
        size_bytes: 5_000_000_000,
        rows: 4_000_000_000,
        schema_version: SchemaVersion(2),
        first_sequence: SequenceNumber(11),
        last_sequence: SequenceNumber(13),
        time_range_nanos: Some((i64::MIN, -1)),
        sorted: true,
    };
    let committed = commit(&catalog, &ingester, new.clone()).await;
    let snapshot = catalog.snapshot(&[table.name]).await.unwrap();
    let [
        File {
            id,
            ingester: writer,
            file,
            begin_snapshot,
        },
    ] = &snapshot.tables[0].files[..]
    else {
        panic!("one file expected: {snapshot:?}");
    };
    assert!(*id > 0);
    assert_eq!(*writer, Some(ingester.id));
    assert_eq!(*file, new);
    assert_eq!(*begin_snapshot, committed.snapshot);
}

pub async fn a_path_that_could_not_be_read_again_changes_nothing(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    for path in ["tab\there", "line\nbreak"] {
        let flush = flush_of(&ingester, vec![file(table.id, path, 1, 1)]);
        let error = catalog.commit_flush(flush).await.unwrap_err();
        assert!(matches!(error, Error::Store { .. }), "{error}");
    }
    assert_eq!(content(&catalog, &table).await, (vec![], vec![]));
}

/// Its object may have been deleted as an orphan, so long ago that this is forgotten.
pub async fn a_flush_that_comes_too_late_changes_nothing(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    let now = catalog.time().await.unwrap().millis;
    let until = |millis| FlushCommit {
        valid_until_millis: Some(millis),
        ..flush_of(&ingester, vec![file(table.id, "x", 1, 3)])
    };
    let refused = catalog.commit_flush(until(now - 1000)).await;
    assert!(
        matches!(&refused, Err(Error::FileGivenUp { path }) if path == "x"),
        "{refused:?}"
    );
    assert_eq!(content(&catalog, &table).await, (vec![], vec![]));
    catalog.commit_flush(until(now + 60_000)).await.unwrap();
    assert_eq!(content(&catalog, &table).await.0, ["x"]);
}

/// The answer was lost, and the process slept until its file was replaced, deleted and forgotten.
pub async fn a_late_repeat_of_a_forgotten_flush_adds_nothing(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    let now = catalog.time().await.unwrap().millis;
    let late = FlushCommit {
        valid_until_millis: Some(now - 1000),
        ..flush_of(&ingester, vec![file(table.id, "x", 1, 3)])
    };
    // The catalog does not know it by the number of its log's end: it is told from others by that.
    let first = FlushCommit {
        valid_until_millis: Some(now + 60_000),
        durable: SequenceNumber(3),
        ..late.clone()
    };
    catalog.commit_flush(first).await.unwrap();
    let names = [table.name.clone()];
    let input = catalog.snapshot(&names).await.unwrap().tables[0].files[0].id;
    let replaced = ReplaceFiles {
        table: table.id,
        inputs: vec![input],
        outputs: vec![file(table.id, "y", 1, 3)],
        removed_rows: 0,
        cause: ReplaceCause::Compaction,
        valid_until_millis: None,
        retention: None,
    };
    catalog.replace_files(replaced).await.unwrap();
    catalog.garbage_deleted(&["x".to_owned()]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    catalog.forget_history(Duration::ZERO).await.unwrap();
    let answer = catalog.commit_flush(late).await.unwrap();
    assert_eq!(answer.dropped_tables, []);
    let watermarks = vec![(ingester.id.0, 3)];
    let content = content(&catalog, &table).await;
    assert_eq!(content, (vec!["y".to_owned()], watermarks));
}

pub async fn a_repeated_flush_gets_the_same_answer_and_adds_nothing(catalog: Subject) {
    let (table, gone) = (create(&catalog, "t").await, create(&catalog, "gone").await);
    let ingester = register(&catalog, "ingester-0").await;
    catalog.drop_table(&gone.name, false, None).await.unwrap();
    let mut flush = flush_of(
        &ingester,
        vec![
            file(table.id, "x", 1, 3),
            file(table.id, "y", 4, 5),
            file(gone.id, "z", 6, 6),
        ],
    );
    let first = catalog.commit_flush(flush.clone()).await.unwrap();
    commit(&catalog, &ingester, file(table.id, "later", 7, 8)).await;
    let before = catalog
        .snapshot(std::slice::from_ref(&table.name))
        .await
        .unwrap();

    // The order in which things are listed says nothing.
    flush.files.reverse();
    flush.watermarks.reverse();
    let again = catalog.commit_flush(flush).await.unwrap();

    assert_eq!(again, first);
    assert_eq!(again.dropped_tables, [gone.id]);
    assert_eq!(catalog.snapshot(&[table.name]).await.unwrap(), before);
}

pub async fn a_repeat_with_more_files_adds_only_the_new_ones(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    let first = commit(&catalog, &ingester, file(table.id, "x", 1, 3)).await;
    let files = vec![file(table.id, "x", 1, 3), file(table.id, "y", 4, 5)];
    let second = catalog
        .commit_flush(flush_of(&ingester, files))
        .await
        .unwrap();
    assert!(second.snapshot > first.snapshot);
    let (paths, watermarks) = content(&catalog, &table).await;
    assert_eq!(paths, ["x", "y"]);
    assert_eq!(watermarks, [(ingester.id.0, 5)]);
}

pub async fn watermarks_and_producers_never_move_backwards(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    for (path, last, producer) in [("late", 9, 100), ("early", 4, 99)] {
        let mut flush = flush_of(&ingester, vec![file(table.id, path, last, last)]);
        flush.producers = vec![ProducerPosition {
            table: table.id,
            producer: "p".to_owned(),
            sequence: producer,
        }];
        catalog.commit_flush(flush).await.unwrap();
    }
    let (paths, watermarks) = content(&catalog, &table).await;
    assert_eq!(paths, ["late", "early"]);
    assert_eq!(watermarks, [(ingester.id.0, 9)]);
    let request = ClaimProducer {
        producer: "p".to_owned(),
        ..claim_of(&ingester, table.id)
    };
    let position = Some(100);
    let claim = catalog.claim_producer(request).await.unwrap();
    assert_eq!(claim, ProducerClaim::Held { position });
}

pub async fn a_flush_to_a_dropped_table_reports_it_and_keeps_the_rest(catalog: Subject) {
    let (live, gone) = (
        create(&catalog, "live").await,
        create(&catalog, "gone").await,
    );
    let ingester = register(&catalog, "ingester-0").await;
    catalog.drop_table(&gone.name, false, None).await.unwrap();
    let mut flush = flush_of(
        &ingester,
        vec![file(gone.id, "gone", 1, 2), file(live.id, "live", 3, 4)],
    );
    flush.producers = vec![ProducerPosition {
        table: gone.id,
        producer: "p".to_owned(),
        sequence: 1,
    }];
    let committed = catalog.commit_flush(flush).await.unwrap();
    assert_eq!(committed.dropped_tables, [gone.id]);
    assert_eq!(content(&catalog, &live).await.0, ["live"]);
    let registration = catalog
        .register_ingester(life("ingester-0", ""))
        .await
        .unwrap();
    assert_eq!(registration.watermarks, [(live.id, SequenceNumber(4))]);
}

pub async fn a_live_table_is_not_taken_for_dropped(catalog: Subject) {
    let (live, gone) = (
        create(&catalog, "live").await,
        create(&catalog, "gone").await,
    );
    let ingester = register(&catalog, "ingester-0").await;
    catalog.drop_table(&gone.name, false, None).await.unwrap();
    let without_files = |tables: &[TableId]| FlushCommit {
        watermarks: tables.iter().map(|id| (*id, SequenceNumber(4))).collect(),
        without_files: tables.to_vec(),
        ..flush_of(&ingester, vec![])
    };
    let refused = catalog.commit_flush(without_files(&[gone.id, live.id]));
    let refused = refused.await;
    assert!(
        matches!(&refused, Err(Error::TableExists(id)) if *id == format!("id {}", live.id)),
        "{refused:?}"
    );
    assert_eq!(content(&catalog, &live).await, (vec![], vec![]));
    let forgotten = catalog.commit_flush(without_files(&[gone.id])).await;
    assert_eq!(forgotten.unwrap().dropped_tables, [gone.id]);
}

pub async fn a_flush_to_a_table_the_catalog_never_had_changes_nothing(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    let before = catalog
        .snapshot(std::slice::from_ref(&table.name))
        .await
        .unwrap();
    let files = vec![file(table.id, "x", 1, 2), file(TableId(4711), "y", 3, 4)];
    let refused = catalog.commit_flush(flush_of(&ingester, files)).await;
    assert!(matches!(refused, Err(Error::TableNotFound(name)) if name.contains("4711")));
    assert_eq!(catalog.snapshot(&[table.name]).await.unwrap(), before);
}

pub async fn a_path_used_for_two_files_changes_nothing(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    commit(&catalog, &ingester, file(table.id, "x", 1, 2)).await;
    let before = catalog
        .snapshot(std::slice::from_ref(&table.name))
        .await
        .unwrap();
    let files = vec![file(table.id, "new", 3, 3), file(table.id, "x", 4, 5)];
    let refused = catalog.commit_flush(flush_of(&ingester, files)).await;
    assert!(matches!(refused, Err(Error::Store { .. })), "{refused:?}");
    assert_eq!(catalog.snapshot(&[table.name]).await.unwrap(), before);
    catalog.ping().await.unwrap();
}

pub async fn snapshot_ids_grow_in_commit_order_of_two_flushers(catalog: Subject) {
    const FLUSHES: u64 = 25;
    let table = create(&catalog, "t").await;
    let ingesters = [
        register(&catalog, "ingester-0").await,
        register(&catalog, "ingester-1").await,
    ];
    let mut flushers = Vec::new();
    for ingester in ingesters {
        let (catalog, table) = (Arc::clone(&catalog), table.id);
        flushers.push(tokio::spawn(async move {
            let mut ids = Vec::new();
            for n in 1..=FLUSHES {
                let path = format!("{}-{n}", ingester.name);
                ids.push(
                    commit(&catalog, &ingester, file(table, &path, n, n))
                        .await
                        .snapshot,
                );
            }
            ids
        }));
    }
    let mut all = Vec::new();
    for flusher in flushers {
        let ids = flusher.await.unwrap();
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        all.extend(ids);
    }
    all.sort_unstable();
    assert!(
        all.windows(2).all(|pair| pair[1].0 == pair[0].0 + 1),
        "gap or repeat: {all:?}"
    );

    let snapshot = catalog.snapshot(&[table.name]).await.unwrap();
    assert_eq!(Some(&snapshot.id), all.last());
    let files = &snapshot.tables[0].files;
    assert_eq!(files.len() as u64, 2 * FLUSHES);
    assert!(files.is_sorted_by(|a, b| a.id < b.id && a.begin_snapshot < b.begin_snapshot));
    assert!(
        snapshot.tables[0]
            .watermarks
            .iter()
            .all(|(_, last)| last.0 == FLUSHES)
    );
}
