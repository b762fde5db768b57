//! Replacing files, deleting objects, leases, forgetting.

use std::sync::Arc;
use std::time::Duration;

use flightcluster_catalog::{
    Error, FilesReplaced, Ingester, JobKind, Lease, LiveFiles, NewFile, OptionsOf, RETENTION,
    ReplaceCause, ReplaceFiles, SchemaVersion, SequenceNumber, SetOptions, SnapshotId,
    SnapshotStamp, Table, TableId,
};

use super::{Subject, commit, content, create, file, flush_of, register, schema};

const NOW: Duration = Duration::ZERO;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A table with files `f1`, `f2`, … of 3 rows each.
async fn table_of_files(catalog: &Subject, name: &str, files: u64) -> (Table, Ingester, Vec<u64>) {
    let table = create(catalog, name).await;
    let ingester = register(catalog, "ingester-0").await;
    for n in 1..=files {
        let path = format!("{name}/f{n}");
        commit(catalog, &ingester, file(table.id, &path, 3 * n - 2, 3 * n)).await;
    }
    let ids = ids(catalog, table.id).await;
    (table, ingester, ids)
}

fn live_files(table: TableId) -> LiveFiles {
    LiveFiles {
        table,
        below_bytes: None,
        before_nanos: None,
        limit: 1000,
    }
}

async fn ids(catalog: &Subject, table: TableId) -> Vec<u64> {
    let files = catalog.live_files(live_files(table)).await.unwrap();
    files.into_iter().map(|file| file.id).collect()
}

fn compaction(table: TableId, inputs: &[u64], outputs: Vec<NewFile>) -> ReplaceFiles {
    ReplaceFiles {
        table,
        inputs: inputs.to_vec(),
        outputs,
        removed_rows: 0,
        cause: ReplaceCause::Compaction,
        valid_until_millis: None,
        retention: None,
    }
}

async fn due(catalog: &Subject, grace: Duration) -> Vec<String> {
    let due = catalog.due_garbage(grace, 100).await.unwrap();
    due.into_iter().map(|garbage| garbage.path).collect()
}

pub async fn files_take_the_place_of_others_in_one_snapshot(catalog: Subject) {
    let (table, ingester, ids) = table_of_files(&catalog, "t", 3).await;
    let names = [table.name.clone()];
    let before = catalog.snapshot(&names).await.unwrap();

    let request = compaction(table.id, &ids[..2], vec![file(table.id, "t/new", 1, 6)]);
    let replaced = catalog.replace_files(request).await.unwrap();

    let after = catalog.snapshot(&names).await.unwrap();
    assert_eq!(after.id, replaced.snapshot);
    assert_eq!(after.id.0, before.id.0 + 1);
    let (paths, watermarks) = content(&catalog, &table).await;
    assert_eq!(paths, ["t/f3", "t/new"]);
    // What is in files did not change, so neither did what queries ask the ingester for.
    assert_eq!(watermarks, [(ingester.id.0, 9)]);
    let new = &after.tables[0].files[1];
    assert_eq!(new.ingester, None);
    assert_eq!(new.begin_snapshot, replaced.snapshot);
    assert_eq!(new.file.last_sequence, SequenceNumber(6));
    assert_eq!(due(&catalog, NOW).await, ["t/f1", "t/f2"]);
    // What was read before does not change.
    assert_eq!(before.tables[0].files.len(), 3);
}

pub async fn a_repeated_replacement_gets_the_same_answer_and_changes_nothing(catalog: Subject) {
    let (table, _, ids) = table_of_files(&catalog, "t", 3).await;
    let outputs = vec![file(table.id, "t/a", 1, 4), file(table.id, "t/b", 5, 9)];
    let mut request = compaction(table.id, &ids, outputs);
    let first = catalog.replace_files(request.clone()).await.unwrap();
    let before = catalog
        .snapshot(std::slice::from_ref(&table.name))
        .await
        .unwrap();
    request.inputs.reverse();
    request.outputs.reverse();
    let again: FilesReplaced = catalog.replace_files(request.clone()).await.unwrap();
    assert_eq!(again, first);
    // A repeat that says it differently (its record is of no use) finds its outputs.
    request.cause = ReplaceCause::Delete;
    assert_eq!(catalog.replace_files(request).await.unwrap(), first);
    assert_eq!(catalog.snapshot(&[table.name]).await.unwrap(), before);

    // Nothing left is an answer too.
    let (other, _, ids) = table_of_files(&catalog, "other", 1).await;
    let everything = ReplaceFiles {
        removed_rows: 3,
        cause: ReplaceCause::Delete,
        ..compaction(other.id, &ids, vec![])
    };
    let first = catalog.replace_files(everything.clone()).await.unwrap();
    assert_eq!(catalog.replace_files(everything).await.unwrap(), first);
    assert!(content(&catalog, &other).await.0.is_empty());
}

/// Its caller stood still for so long that some of its outputs were replaced and deleted, and the record of it was
/// forgotten. Told that it came too late, it would remove the others, which are live.
pub async fn a_late_repeat_is_known_by_any_output_that_is_left(catalog: Subject) {
    let now = catalog.time().await.unwrap().millis;
    // One is left. Of many, one that the catalog does not ask for together with the first.
    for (name, count, left) in [("first", 3, 0), ("middle", 3, 1), ("many", 1001, 1000)] {
        let (table, ingester, _) = table_of_files(&catalog, name, 0).await;
        commit(&catalog, &ingester, file(table.id, name, 1, 3 * count)).await;
        let inputs = ids(&catalog, table.id).await;
        let path = |n: u64| format!("{name}/out{n}");
        let outputs = (0..count).map(|n| file(table.id, &path(n), 3 * n + 1, 3 * n + 3));
        let mut request = compaction(table.id, &inputs, outputs.collect());
        request.valid_until_millis = Some(now + 600_000);
        let first = catalog.replace_files(request.clone()).await.unwrap();

        let all = LiveFiles {
            limit: 2000,
            ..live_files(table.id)
        };
        let live = catalog.live_files(all).await.unwrap();
        let replaced = live.iter().filter(|live| live.file.path != path(left));
        let replaced: Vec<u64> = replaced.map(|live| live.id).collect();
        let next = file(table.id, &format!("{name}/next"), 1, 3 * (count - 1));
        let next = compaction(table.id, &replaced, vec![next]);
        catalog.replace_files(next).await.unwrap();
        let garbage = catalog.due_garbage(NOW, 2000).await.unwrap();
        let garbage: Vec<String> = garbage.into_iter().map(|due| due.path).collect();
        assert_eq!(garbage.len() as u64, count);
        catalog.garbage_deleted(&garbage).await.unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        assert!(catalog.forget_history(NOW).await.unwrap().records > 0);

        let before = content(&catalog, &table).await;
        assert_eq!(
            catalog.replace_files(request).await.unwrap(),
            first,
            "{name}"
        );
        assert_eq!(content(&catalog, &table).await, before);
    }
}

pub async fn a_file_that_is_no_longer_live_is_not_replaced(catalog: Subject) {
    let (table, _, ids) = table_of_files(&catalog, "t", 3).await;
    let first = compaction(table.id, &ids[..2], vec![file(table.id, "t/ab", 1, 6)]);
    catalog.replace_files(first).await.unwrap();
    let before = catalog
        .snapshot(std::slice::from_ref(&table.name))
        .await
        .unwrap();
    let late = compaction(table.id, &ids[1..], vec![file(table.id, "t/bc", 4, 9)]);
    let refused = catalog.replace_files(late).await;
    assert!(matches!(refused, Err(Error::FilesChanged { table: id }) if id == table.id));
    // Nor a file of another table, nor one that never was.
    let (other, _, others) = table_of_files(&catalog, "other", 1).await;
    for inputs in [&others[..], &[4711]] {
        let wrong = compaction(table.id, inputs, vec![file(table.id, "t/x", 1, 3)]);
        let refused = catalog.replace_files(wrong).await;
        assert!(matches!(refused, Err(Error::FilesChanged { .. })));
    }
    let after = catalog.snapshot(&[table.name]).await.unwrap();
    assert_eq!(after.tables[0].files, before.tables[0].files);
    assert_eq!(content(&catalog, &other).await.0, ["other/f1"]);
    assert_eq!(due(&catalog, NOW).await, ["t/f1", "t/f2"]);
}

/// Its outputs may have been deleted as orphans, so long ago that this is forgotten.
pub async fn a_replacement_that_comes_too_late_changes_nothing(catalog: Subject) {
    let (table, _, ids) = table_of_files(&catalog, "t", 3).await;
    let names = [table.name.clone()];
    let before = catalog.snapshot(&names).await.unwrap();
    let now = catalog.time().await.unwrap().millis;
    let until = |millis| ReplaceFiles {
        valid_until_millis: Some(millis),
        ..compaction(table.id, &ids[..2], vec![file(table.id, "t/new", 1, 6)])
    };
    let refused = catalog.replace_files(until(now - 1000)).await;
    assert!(
        matches!(&refused, Err(Error::FileGivenUp { path }) if path == "t/new"),
        "{refused:?}"
    );
    assert_eq!(catalog.snapshot(&names).await.unwrap(), before);
    assert!(due(&catalog, NOW).await.is_empty());

    let done = catalog.replace_files(until(now + 60_000)).await.unwrap();
    assert_eq!(content(&catalog, &table).await.0, ["t/f3", "t/new"]);
    // Its answer was lost, and the repeat comes when its time is over.
    let late = catalog.replace_files(until(now - 1000)).await.unwrap();
    assert_eq!(late, done);
    // It stores nothing that could be gone.
    let emptied = ReplaceFiles {
        removed_rows: 3,
        cause: ReplaceCause::Retention,
        valid_until_millis: Some(now - 1000),
        ..compaction(table.id, &ids[2..], vec![])
    };
    catalog.replace_files(emptied).await.unwrap();
    assert_eq!(content(&catalog, &table).await.0, ["t/new"]);
}

pub async fn two_replacements_of_one_file_do_not_both_happen(catalog: Subject) {
    for round in 0..10_u64 {
        let name = format!("t{round}");
        let (table, _, ids) = table_of_files(&catalog, &name, 2).await;
        let request = |who: &str| {
            let output = file(table.id, &format!("{name}/{who}"), 1, 6);
            compaction(table.id, &ids, vec![output])
        };
        let (a, b) = tokio::join!(
            catalog.replace_files(request("a")),
            catalog.replace_files(request("b"))
        );
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
        assert_eq!(content(&catalog, &table).await.0.len(), 1);
    }
}

pub async fn rows_go_by_the_retention_that_holds_when_they_go(catalog: Subject) {
    let (table, _, ids) = table_of_files(&catalog, "t", 2).await;
    let set = |of: &OptionsOf, value: Option<&str>| {
        let changes = [(RETENTION.to_owned(), value.map(str::to_owned))].into();
        let request = SetOptions {
            of: of.clone(),
            changes,
            seen: None,
            id: None,
        };
        let catalog = Arc::clone(&catalog);
        async move { catalog.set_options(request).await.unwrap() }
    };
    let decided_by = |retention: &str, input: u64| ReplaceFiles {
        removed_rows: 3,
        cause: ReplaceCause::Retention,
        retention: Some(retention.to_owned()),
        ..compaction(table.id, &[input], vec![])
    };
    let of_table = OptionsOf::Table(table.name.clone());
    let of_database = OptionsOf::Database(table.name.database.clone());
    let before = content(&catalog, &table).await;

    // By the former value of the table, or of its database, nothing goes.
    for (of, now) in [
        (&of_table, Some("30d")),
        (&of_table, Some("forever")),
        (&of_table, None),
        (&of_database, Some("30d")),
    ] {
        set(of, Some("1d")).await;
        set(of, now).await;
        let late = catalog.replace_files(decided_by("1d", ids[0])).await;
        assert!(
            matches!(late, Err(Error::RetentionChanged { table: id }) if id == table.id),
            "{late:?}"
        );
        assert_eq!(content(&catalog, &table).await, before);
    }
    // By the value that holds, and whatever was not decided by one.
    let first = decided_by("30d", ids[0]);
    let ended = catalog.replace_files(first.clone()).await.unwrap();
    let unasked = ReplaceFiles {
        retention: None,
        ..decided_by("", ids[1])
    };
    catalog.replace_files(unasked).await.unwrap();
    // A repeat is answered, whatever holds by now.
    set(&of_database, None).await;
    assert_eq!(catalog.replace_files(first).await.unwrap(), ended);
}

pub async fn rows_that_do_not_add_up_change_nothing(catalog: Subject) {
    let (table, _, ids) = table_of_files(&catalog, "t", 2).await;
    let (other, ..) = table_of_files(&catalog, "other", 1).await;
    let before = catalog
        .snapshot(std::slice::from_ref(&table.name))
        .await
        .unwrap();
    let short = compaction(table.id, &ids, vec![file(table.id, "t/short", 1, 5)]);
    let long = compaction(table.id, &ids, vec![file(table.id, "t/long", 1, 7)]);
    let astray = compaction(table.id, &ids, vec![file(other.id, "t/astray", 1, 6)]);
    let silent = ReplaceFiles {
        removed_rows: 5,
        ..compaction(table.id, &ids, vec![])
    };
    for wrong in [short, long, astray, silent] {
        let refused = catalog.replace_files(wrong).await;
        assert!(matches!(refused, Err(Error::Store { .. })), "{refused:?}");
    }
    assert_eq!(catalog.snapshot(&[table.name]).await.unwrap(), before);
    assert!(due(&catalog, NOW).await.is_empty());
}

pub async fn files_of_a_dropped_table_are_not_replaced(catalog: Subject) {
    let (table, _, ids) = table_of_files(&catalog, "t", 2).await;
    catalog.drop_table(&table.name, false, None).await.unwrap();
    let late = compaction(table.id, &ids, vec![file(table.id, "t/new", 1, 6)]);
    let refused = catalog.replace_files(late).await;
    assert!(matches!(refused, Err(Error::TableNotFound(_))));
    assert_eq!(
        catalog
            .unknown_paths(&["t/new".into()])
            .await
            .unwrap()
            .len(),
        1
    );
}

pub async fn live_files_are_found_by_size_and_age(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    for (n, (size, times)) in [
        (10, Some((1, 5))),
        (20, Some((2, 9))),
        (30, None),
        (40, Some((-7, -6))),
    ]
    .into_iter()
    .enumerate()
    {
        let n = n as u64 + 1;
        let new = NewFile {
            size_bytes: size,
            time_range_nanos: times,
            ..file(table.id, &format!("f{n}"), n, n)
        };
        commit(&catalog, &ingester, new).await;
    }
    let found = async |below_bytes, before_nanos, limit| {
        let which = LiveFiles {
            table: table.id,
            below_bytes,
            before_nanos,
            limit,
        };
        let files = catalog.live_files(which).await.unwrap();
        files
            .into_iter()
            .map(|file| file.file.path)
            .collect::<Vec<_>>()
    };
    assert_eq!(found(None, None, 10).await, ["f1", "f2", "f3", "f4"]);
    assert_eq!(found(None, None, 2).await, ["f1", "f2"]);
    assert_eq!(found(Some(30), None, 10).await, ["f1", "f2"]);
    // A row at the limit is not older than it; a file that does not know its times is never old.
    assert_eq!(found(None, Some(9), 10).await, ["f1", "f4"]);
    assert_eq!(found(None, Some(10), 10).await, ["f1", "f2", "f4"]);
    assert_eq!(found(Some(20), Some(10), 10).await, ["f1"]);
}

pub async fn tables_with_many_small_files_are_found(catalog: Subject) {
    let (few, ..) = table_of_files(&catalog, "few", 2).await;
    let (many, _, ids) = table_of_files(&catalog, "many", 4).await;
    table_of_files(&catalog, "one", 1).await;
    let found = async |below, min| {
        let found = catalog.small_files(below, min).await.unwrap();
        let counts = found.into_iter().map(|small| (small.table.id, small.files));
        counts.collect::<Vec<_>>()
    };
    assert_eq!(found(2000, 2).await, [(many.id, 4), (few.id, 2)]);
    assert_eq!(found(1000, 1).await, []);
    let output = NewFile {
        size_bytes: 5000,
        ..file(many.id, "many/new", 1, 12)
    };
    catalog
        .replace_files(compaction(many.id, &ids, vec![output]))
        .await
        .unwrap();
    assert_eq!(found(2000, 2).await, [(few.id, 2)]);
}

pub async fn garbage_waits_its_time_and_is_never_a_live_file(catalog: Subject) {
    let (table, _, ids) = table_of_files(&catalog, "t", 2).await;
    let request = compaction(table.id, &ids, vec![file(table.id, "t/new", 1, 6)]);
    catalog.replace_files(request).await.unwrap();
    assert!(due(&catalog, DAY).await.is_empty());
    assert_eq!(due(&catalog, NOW).await, ["t/f1", "t/f2"]);
    assert_eq!(catalog.due_garbage(NOW, 1).await.unwrap().len(), 1);
    assert_eq!(catalog.garbage_queue().await.unwrap().objects, 2);
    // Told that a live file's object is gone, the catalog does not believe it.
    catalog
        .garbage_deleted(&["t/f1".into(), "t/new".into()])
        .await
        .unwrap();
    assert_eq!(due(&catalog, NOW).await, ["t/f2"]);
    assert_eq!(content(&catalog, &table).await.0, ["t/new"]);
    let queue = catalog.garbage_queue().await.unwrap();
    assert_eq!(queue.objects, 1);
    assert!(queue.oldest_millis.is_some());
}

pub async fn files_of_dropped_tables_become_garbage(catalog: Subject) {
    let (table, ingester, _) = table_of_files(&catalog, "t", 1).await;
    table_of_files(&catalog, "other", 1).await;
    assert!(due(&catalog, NOW).await.is_empty());
    catalog.drop_table(&table.name, false, None).await.unwrap();
    let late = flush_of(
        &register(&catalog, &ingester.name).await,
        vec![file(table.id, "late", 4, 4)],
    );
    catalog.commit_flush(late.clone()).await.unwrap();
    catalog.commit_flush(late).await.unwrap();
    let mut queued = due(&catalog, NOW).await;
    queued.sort();
    assert_eq!(queued, ["late", "t/f1"]);
}

pub async fn a_path_that_was_given_up_can_not_be_committed(catalog: Subject) {
    let (table, ingester, _) = table_of_files(&catalog, "t", 1).await;
    let paths = ["t/slow".to_owned(), "t/f1".to_owned()];
    // A file of the catalog is never an orphan.
    assert_eq!(catalog.condemn_paths(&paths).await.unwrap(), 1);
    assert_eq!(catalog.condemn_paths(&paths).await.unwrap(), 0);
    assert_eq!(due(&catalog, NOW).await, ["t/slow"]);
    for gone in [false, true] {
        if gone {
            catalog.garbage_deleted(&paths[..1]).await.unwrap();
        }
        let slow = flush_of(&ingester, vec![file(table.id, "t/slow", 4, 5)]);
        let refused = catalog.commit_flush(slow).await;
        assert!(
            matches!(&refused, Err(Error::FileGivenUp { path }) if path == "t/slow"),
            "{refused:?}"
        );
    }
    assert_eq!(
        content(&catalog, &table).await,
        (vec!["t/f1".to_owned()], vec![(ingester.id.0, 3)])
    );
    // The object is found once more: it is deleted once more.
    assert_eq!(catalog.condemn_paths(&paths).await.unwrap(), 1);
    assert_eq!(due(&catalog, NOW).await, ["t/slow"]);
}

pub async fn unknown_paths_are_told_from_files_and_garbage(catalog: Subject) {
    let (table, _, ids) = table_of_files(&catalog, "t", 2).await;
    let request = compaction(table.id, &ids[..1], vec![file(table.id, "t/new", 1, 3)]);
    catalog.replace_files(request).await.unwrap();
    let paths = ["b", "t/f1", "t/f2", "t/new", "a"].map(str::to_owned);
    assert_eq!(catalog.unknown_paths(&paths).await.unwrap(), ["b", "a"]);
    // What was deleted and is there all the same is unknown again.
    catalog.garbage_deleted(&["t/f1".into()]).await.unwrap();
    assert_eq!(
        catalog.unknown_paths(&paths).await.unwrap(),
        ["b", "t/f1", "a"]
    );
}

pub async fn a_job_has_one_holder_until_its_time_is_over(catalog: Subject) {
    let table = create(&catalog, "t").await.id;
    let lease = async |job, table, holder: &str, time| {
        let holder = holder.to_owned();
        let lease = Lease {
            job,
            table,
            holder,
            time,
        };
        catalog.lease(lease).await.unwrap()
    };
    let rewrite = JobKind::Rewrite;
    assert!(lease(rewrite, Some(table), "a", DAY).await);
    assert!(lease(rewrite, Some(table), "a", DAY).await);
    assert!(!lease(rewrite, Some(table), "b", DAY).await);
    assert!(lease(rewrite, None, "b", DAY).await);
    assert!(lease(JobKind::OrphanScan, None, "c", DAY).await);
    // Given back.
    assert!(lease(rewrite, Some(table), "a", NOW).await);
    assert!(lease(rewrite, Some(table), "b", NOW).await);
    assert!(lease(rewrite, Some(table), "a", DAY).await);
}

pub async fn replacements_are_listed_newest_first(catalog: Subject) {
    let (table, _, ids) = table_of_files(&catalog, "t", 3).await;
    let first = compaction(table.id, &ids[..2], vec![file(table.id, "t/new", 1, 6)]);
    catalog.replace_files(first).await.unwrap();
    let second = ReplaceFiles {
        removed_rows: 3,
        cause: ReplaceCause::Retention,
        ..compaction(table.id, &ids[2..], vec![])
    };
    let second = catalog.replace_files(second).await.unwrap();
    let listed = catalog.list_replacements("default", 10).await.unwrap();
    let causes: Vec<_> = listed.iter().map(|listed| listed.cause).collect();
    assert_eq!(causes, [ReplaceCause::Retention, ReplaceCause::Compaction]);
    assert_eq!(listed[0].snapshot, second.snapshot);
    assert_eq!(listed[1].name, table.name);
    assert_eq!((listed[1].input_files, listed[1].input_rows), (2, 6));
    assert_eq!((listed[1].output_files, listed[1].output_bytes), (1, 1006));
    assert_eq!(
        catalog.list_replacements("default", 1).await.unwrap(),
        listed[..1]
    );
    assert!(
        catalog
            .list_replacements("nobody", 9)
            .await
            .unwrap()
            .is_empty()
    );
}

pub async fn history_is_forgotten_and_what_is_readable_stays(catalog: Subject) {
    let (table, ingester, ids) = table_of_files(&catalog, "t", 2).await;
    let (gone, ..) = table_of_files(&catalog, "gone", 1).await;
    let ingester = register(&catalog, &ingester.name).await;
    catalog
        .evolve_table(table.id, SchemaVersion(1), schema("second"))
        .await
        .unwrap();
    let output = NewFile {
        schema_version: SchemaVersion(2),
        ..file(table.id, "t/new", 1, 6)
    };
    catalog
        .replace_files(compaction(table.id, &ids, vec![output]))
        .await
        .unwrap();
    catalog.drop_table(&gone.name, false, None).await.unwrap();
    let before = catalog
        .snapshot(std::slice::from_ref(&table.name))
        .await
        .unwrap();
    // Nothing is old enough.
    assert_eq!(
        catalog.forget_history(DAY).await.unwrap(),
        Default::default()
    );

    // Snapshots are older than "now" only from the next millisecond on.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let forgotten = catalog.forget_history(NOW).await.unwrap();
    assert!(forgotten.snapshots > 0, "{forgotten:?}");
    // Objects that wait for deletion keep their files, schemas and tables.
    assert_eq!((forgotten.tables, forgotten.schema_versions), (0, 0));
    let waiting = due(&catalog, NOW).await;
    catalog.garbage_deleted(&waiting).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let forgotten = catalog.forget_history(NOW).await.unwrap();
    assert_eq!((forgotten.tables, forgotten.schema_versions), (1, 2));
    assert_eq!(
        catalog
            .snapshot(std::slice::from_ref(&table.name))
            .await
            .unwrap(),
        before
    );
    // A log that saw nothing newer than a forgotten state is none of another catalog.
    let mut idle = super::life(&ingester.name, "");
    idle.log.seen = Some(SnapshotStamp {
        snapshot: SnapshotId(before.id.0 - 1),
        created_at_millis: 1,
    });
    let ingester = catalog.register_ingester(idle).await.unwrap().ingester;

    // An ingester that comes late with rows of the dropped table is told so.
    let late = flush_of(&ingester, vec![file(gone.id, "late", 9, 9)]);
    let committed = catalog.commit_flush(late).await.unwrap();
    assert_eq!(committed.dropped_tables, [gone.id]);
    let next = NewFile {
        schema_version: SchemaVersion(2),
        ..file(table.id, "t/f9", 10, 11)
    };
    commit(&catalog, &ingester, next).await;
    assert_eq!(content(&catalog, &table).await.0, ["t/new", "t/f9"]);
}
