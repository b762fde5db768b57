//! The past: a state is read whole, as it was, or refused.

use std::time::Duration;

use flightcluster_catalog::{
    AsOf, Error, FileChoice, FinishUpload, IfExists, JoinUpload, LiveFiles, NewFile, NotReadable,
    ReplaceCause, ReplaceFiles, SchemaVersion, SnapshotId, SnapshotRequest, Table, TableName,
};

use super::{Subject, commit, create, file, register, request, schema};

const NOW: Duration = Duration::ZERO;

async fn newest(catalog: &Subject) -> SnapshotId {
    catalog.snapshot(&[]).await.unwrap().id
}

/// The paths of the files of a table in a state.
async fn paths(catalog: &Subject, table: &Table, at: SnapshotId) -> Result<Vec<String>, Error> {
    let whole = SnapshotRequest::whole(std::slice::from_ref(&table.name));
    let past = catalog.read_past(at, whole).await?;
    assert_eq!((past.id, past.ingesters.len()), (at, 0));
    let files = past.tables.into_iter().flat_map(|held| held.files);
    Ok(files.map(|file| file.file.path).collect())
}

/// Puts one file in the place of all of a table.
async fn compact(catalog: &Subject, table: &Table, output: NewFile) {
    let which = LiveFiles {
        table: table.id,
        below_bytes: None,
        before_nanos: None,
        limit: 1000,
    };
    let files = catalog.live_files(which).await.unwrap();
    let request = ReplaceFiles {
        table: table.id,
        inputs: files.iter().map(|file| file.id).collect(),
        outputs: vec![output],
        removed_rows: 0,
        cause: ReplaceCause::Compaction,
        valid_until_millis: None,
        retention: None,
    };
    catalog.replace_files(request).await.unwrap();
}

fn gone<T: std::fmt::Debug>(answer: Result<T, Error>) -> SnapshotId {
    match answer {
        Err(Error::NotReadable {
            why: NotReadable::Gone,
            edge,
            ..
        }) => edge.snapshot,
        other => panic!("{other:?}"),
    }
}

pub async fn a_past_state_is_whole_or_refused(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    let mut states = vec![(newest(&catalog).await, vec![])];
    for (n, all) in [(1, vec!["f1"]), (2, vec!["f1", "f2"])] {
        let path = format!("f{n}");
        commit(&catalog, &ingester, file(table.id, &path, 3 * n - 2, 3 * n)).await;
        states.push((newest(&catalog).await, all));
    }
    compact(&catalog, &table, file(table.id, "both", 1, 6)).await;
    states.push((newest(&catalog).await, vec!["both"]));
    commit(&catalog, &ingester, file(table.id, "f3", 7, 9)).await;
    states.push((newest(&catalog).await, vec!["both", "f3"]));
    catalog.drop_table(&table.name, false, None).await.unwrap();
    states.push((newest(&catalog).await, vec![]));
    for (at, expected) in &states {
        assert_eq!(
            paths(&catalog, &table, *at).await.unwrap(),
            *expected,
            "{at}"
        );
        let stamp = catalog.resolve_as_of(AsOf::Snapshot(*at)).await.unwrap();
        assert_eq!(stamp.snapshot, *at);
    }
    // What compaction left is deleted; the objects of the dropped table not yet.
    let of_compaction = ["f1".to_owned(), "f2".to_owned()];
    catalog.garbage_deleted(&of_compaction).await.unwrap();
    for (at, expected) in &states {
        if *at < states[3].0 {
            assert_eq!(gone(paths(&catalog, &table, *at).await), states[3].0);
            let resolved = catalog.resolve_as_of(AsOf::Snapshot(*at)).await;
            assert_eq!(gone(resolved), states[3].0);
        } else {
            assert_eq!(
                paths(&catalog, &table, *at).await.unwrap(),
                *expected,
                "{at}"
            );
        }
    }
    let due = catalog.due_garbage(NOW, 100).await.unwrap();
    let due: Vec<String> = due.into_iter().map(|garbage| garbage.path).collect();
    catalog.garbage_deleted(&due).await.unwrap();
    // The present is always left.
    let last = newest(&catalog).await;
    assert_eq!(gone(paths(&catalog, &table, states[4].0).await), last);
    assert!(paths(&catalog, &table, last).await.unwrap().is_empty());
    let to_come = catalog
        .read_past(SnapshotId(last.0 + 1), SnapshotRequest::default())
        .await;
    assert!(
        matches!(to_come, Err(Error::NotReadable { why: NotReadable::ToCome, edge, .. })
            if edge.snapshot == last),
        "{to_come:?}"
    );
    let never = catalog
        .resolve_as_of(AsOf::Snapshot(SnapshotId(u64::MAX)))
        .await;
    assert!(matches!(never, Err(Error::NotReadable { .. })), "{never:?}");
}

pub async fn a_past_state_has_the_tables_and_schemas_of_then(catalog: Subject) {
    let first = create(&catalog, "t").await;
    let made = newest(&catalog).await;
    let second = catalog
        .evolve_table(first.id, SchemaVersion(1), schema("second"))
        .await;
    let evolved = newest(&catalog).await;
    let replacing = request(first.name.clone(), IfExists::Replace);
    let other = catalog.create_table(replacing).await.unwrap();
    let replaced = newest(&catalog).await;
    catalog.drop_table(&first.name, false, None).await.unwrap();
    let dropped = newest(&catalog).await;
    let at = async |at: SnapshotId| {
        let whole = SnapshotRequest::whole(std::slice::from_ref(&first.name));
        let past = catalog.read_past(at, whole).await.unwrap();
        past.tables.into_iter().map(|held| held.table).next()
    };
    assert_eq!(at(SnapshotId(made.0 - 1)).await, None);
    assert_eq!(at(made).await, Some(first.clone()));
    assert_eq!(at(evolved).await, Some(second.unwrap()));
    assert_eq!(at(replaced).await, Some(other));
    assert_eq!(at(dropped).await, None);
}

pub async fn no_state_has_rows_of_columns_that_come_later(catalog: Subject) {
    let target = create(&catalog, "t").await;
    let ingester = register(&catalog, "i-0").await;
    let hour = Duration::from_secs(3600);
    catalog.start_upload("u", &target.name, hour).await.unwrap();
    let join = JoinUpload {
        id: "u".to_owned(),
        target: target.name.clone(),
        ingester: ingester.id,
        epoch: ingester.epoch,
        schema: schema("of the stream"),
        ttl: hour,
    };
    let staging = catalog.join_upload(join).await.unwrap();
    commit(&catalog, &ingester, file(staging.id, "x", 1, 4)).await;
    catalog.seal_upload("u").await.unwrap();
    let before = newest(&catalog).await;
    let finish = FinishUpload {
        id: "u".to_owned(),
        staging_version: staging.schema_version,
        target: Some((target.id, target.schema_version)),
        schema: Some(schema("wider")),
        forget_times: false,
    };
    catalog.finish_upload(finish).await.unwrap();
    let after = newest(&catalog).await;
    for id in before.0..=after.0 {
        let whole = SnapshotRequest::whole(std::slice::from_ref(&target.name));
        let past = catalog.read_past(SnapshotId(id), whole).await.unwrap();
        let held = &past.tables[0];
        for file in &held.files {
            assert!(
                file.file.schema_version <= held.table.schema_version,
                "{id}: {held:?}"
            );
        }
    }
    assert_eq!(paths(&catalog, &target, after).await.unwrap(), ["x"]);
}

pub async fn the_files_of_a_past_state_are_chosen_as_those_of_the_present(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    for (n, times) in [
        (1, Some((0, 10))),
        (2, None),
        (3, Some((20, 30))),
        (4, Some((5, 25))),
    ] {
        let timed = NewFile {
            time_range_nanos: times,
            ..file(table.id, &format!("f{n}"), n, n)
        };
        commit(&catalog, &ingester, timed).await;
    }
    let at = newest(&catalog).await;
    let chosen = async |choice: FileChoice| {
        let tables = vec![(table.name.clone(), choice)];
        let request = SnapshotRequest { tables };
        let now = catalog.read_snapshot(request.clone()).await;
        let past = catalog.read_past(at, request).await.unwrap();
        let (past, now) = (&past.tables[0], now.unwrap());
        let mut paths: Vec<String> = past.files.iter().map(|f| f.file.path.clone()).collect();
        if newest(&catalog).await == at {
            assert_eq!(
                (&past.files, past.files_left_out),
                (&now.tables[0].files, now.tables[0].files_left_out)
            );
        }
        paths.sort();
        (paths.join(" "), past.files_left_out)
    };
    let between = |from_nanos, to_nanos| FileChoice::Between {
        from_nanos,
        to_nanos,
    };
    for _ in 0..2 {
        for (choice, paths, left_out) in [
            (FileChoice::All, "f1 f2 f3 f4", false),
            (FileChoice::AtMost(4), "f1 f2 f3 f4", false),
            (FileChoice::AtMost(3), "", true),
            (between(11, 19), "f2 f4", false),
            (between(10, 20), "f1 f2 f3 f4", false),
            (between(26, 40), "f2 f3", false),
        ] {
            assert_eq!(
                chosen(choice).await,
                (paths.to_owned(), left_out),
                "{choice:?}"
            );
        }
        // The same once they have ended.
        compact(&catalog, &table, file(table.id, "all", 1, 4)).await;
    }
}

pub async fn a_time_is_the_last_state_made_by_then(catalog: Subject) {
    let mut made = Vec::new();
    for n in 0..5 {
        create(&catalog, &format!("t{n}")).await;
        let stamp = catalog
            .resolve_as_of(AsOf::Snapshot(newest(&catalog).await))
            .await;
        made.push(stamp.unwrap());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    for pair in made.windows(2) {
        let (this, next) = (pair[0], pair[1]);
        for millis in [this.created_at_millis, next.created_at_millis - 1] {
            let found = catalog.resolve_as_of(AsOf::Millis(millis)).await.unwrap();
            assert_eq!(found, this);
        }
    }
    // Now is a time, and stays the same: what comes later has a later one.
    let last = made[4];
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = AsOf::Millis(i64::try_from(now.as_millis()).unwrap());
    assert_eq!(catalog.resolve_as_of(now).await.unwrap(), last);
    create(&catalog, "later").await;
    assert_eq!(catalog.resolve_as_of(now).await.unwrap(), last);
    let future = catalog
        .resolve_as_of(AsOf::Millis(last.created_at_millis + 600_000))
        .await;
    assert!(
        matches!(
            future,
            Err(Error::NotReadable {
                why: NotReadable::ToCome,
                ..
            })
        ),
        "{future:?}"
    );
    gone(catalog.resolve_as_of(AsOf::Millis(1)).await);
}

pub async fn what_history_forgot_can_not_be_read(catalog: Subject) {
    let table = create(&catalog, "empty").await;
    let there = newest(&catalog).await;
    catalog.drop_table(&table.name, false, None).await.unwrap();
    let after = newest(&catalog).await;
    create(&catalog, "t").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    catalog.forget_history(NOW).await.unwrap();
    // The table has no files; that it was there is forgotten all the same.
    for at in [there, after] {
        assert_eq!(
            gone(paths(&catalog, &table, at).await),
            newest(&catalog).await
        );
    }
}

pub async fn states_are_listed_with_their_tables(catalog: Subject) {
    let table = create(&catalog, "t").await;
    let ingester = register(&catalog, "ingester-0").await;
    commit(&catalog, &ingester, file(table.id, "f1", 1, 3)).await;
    compact(&catalog, &table, file(table.id, "f2", 1, 3)).await;
    catalog
        .evolve_table(table.id, SchemaVersion(1), schema("second"))
        .await
        .unwrap();
    catalog
        .create_table(request(table.name.clone(), IfExists::Replace))
        .await
        .unwrap();
    catalog.drop_table(&table.name, false, None).await.unwrap();
    let records = catalog.list_snapshots(100).await.unwrap();
    let listed: Vec<(&str, Option<&TableName>)> = records
        .iter()
        .map(|record| (record.cause.as_str(), record.table.as_ref()))
        .collect();
    let name = Some(&table.name);
    assert_eq!(
        listed,
        [
            ("drop_table", name),
            ("replace_table", name),
            ("evolve_table", name),
            ("compaction", name),
            ("flush", None),
            ("register_ingester", None),
            ("create_table", name),
            ("create_database", None),
        ]
    );
    let ids: Vec<u64> = records
        .iter()
        .map(|record| record.stamp.snapshot.0)
        .collect();
    let last = newest(&catalog).await.0;
    assert_eq!(ids, (1..=last).rev().collect::<Vec<_>>());
    assert_eq!(catalog.list_snapshots(2).await.unwrap(), records[..2]);
    catalog.garbage_deleted(&["f1".to_owned()]).await.unwrap();
    // Those that can't be read are not listed.
    assert_eq!(catalog.list_snapshots(100).await.unwrap(), records[..4]);
}
