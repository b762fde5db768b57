//! The rows of an upload appear in one snapshot, or never.

use std::time::Duration;

use flightcluster_catalog::{
    Error, FileChoice, FinishUpload, IfExists, Ingester, JoinUpload, NewFile, SnapshotRequest,
    Table, TableName, Upload, UploadState,
};

use super::{Subject, commit, content, create, file, flush_of, register, request, schema};

const HOUR: Duration = Duration::from_secs(3600);
const ID: &str = "7f3a";

fn name(table: &str) -> TableName {
    TableName::public("default", table)
}

async fn start(catalog: &Subject, table: &str) -> Upload {
    catalog.start_upload(ID, &name(table), HOUR).await.unwrap()
}

fn joining(ingester: &Ingester, table: &str) -> JoinUpload {
    JoinUpload {
        id: ID.to_owned(),
        target: name(table),
        ingester: ingester.id,
        epoch: ingester.epoch,
        schema: schema("of the stream"),
        ttl: HOUR,
    }
}

async fn join(catalog: &Subject, ingester: &Ingester, table: &str) -> Table {
    catalog.join_upload(joining(ingester, table)).await.unwrap()
}

/// The end of an upload into `target` as it is now.
async fn finish(catalog: &Subject, table: &str) -> Result<Upload, Error> {
    let sealed = catalog.seal_upload(ID).await?;
    let target = catalog.table(&name(table)).await?;
    let request = FinishUpload {
        id: ID.to_owned(),
        staging_version: sealed.staging.map(|s| s.schema_version).unwrap_or_default(),
        target: target.map(|table| (table.id, table.schema_version)),
        schema: None,
        forget_times: false,
    };
    catalog.finish_upload(request).await
}

fn ended<T: std::fmt::Debug>(result: Result<T, Error>, as_state: UploadState) {
    match result {
        Err(Error::UploadEnded { state, .. }) if state == as_state => {}
        other => panic!("{other:?}"),
    }
}

/// S3-21
pub async fn an_upload_appears_in_one_snapshot(catalog: Subject) {
    let target = create(&catalog, "t").await;
    let (a, b) = (
        register(&catalog, "i-0").await,
        register(&catalog, "i-1").await,
    );
    commit(&catalog, &a, file(target.id, "before", 1, 2)).await;
    assert_eq!(start(&catalog, "t").await.state, UploadState::Open);
    let staging = join(&catalog, &a, "t").await;
    assert_eq!(staging.schema, target.schema);
    assert_eq!(join(&catalog, &b, "t").await, staging);
    commit(&catalog, &a, file(staging.id, "x", 3, 4)).await;
    commit(&catalog, &b, file(staging.id, "y", 1, 7)).await;
    assert_eq!(content(&catalog, &target).await.0, ["before"]);

    let sealed = catalog.seal_upload(ID).await.unwrap();
    assert_eq!(sealed.state, UploadState::Finishing);
    assert_eq!(sealed.ingesters, [a.clone(), b.clone()]);
    ended(
        catalog.join_upload(joining(&a, "t")).await,
        UploadState::Finishing,
    );
    let finished = finish(&catalog, "t").await.unwrap();
    assert_eq!((finished.state, finished.rows), (UploadState::Finished, 9));
    let (paths, watermarks) = content(&catalog, &target).await;
    assert_eq!(paths, ["before", "x", "y"]);
    // The logs of the ingesters know the target's rows as before.
    assert_eq!(watermarks, [(a.id.0, 2)]);
    // A repeat, and rows that come too late.
    assert_eq!(finish(&catalog, "t").await.unwrap(), finished);
    let late = flush_of(&a, vec![file(staging.id, "late", 8, 8)]);
    let late = catalog.commit_flush(late).await.unwrap();
    assert_eq!(late.dropped_tables, [staging.id]);
    ended(catalog.abort_upload(ID).await, UploadState::Finished);
    assert_eq!(content(&catalog, &target).await.0, paths);
    assert_eq!(catalog.list_tables(None).await.unwrap().len(), 1);
}

pub async fn times_of_another_column_are_forgotten(catalog: Subject) {
    let target = create(&catalog, "t").await;
    let ingester = register(&catalog, "i-0").await;
    let timed = |table, path, n| NewFile {
        time_range_nanos: Some((1, 2)),
        ..file(table, path, n, n)
    };
    commit(&catalog, &ingester, timed(target.id, "own", 1)).await;
    start(&catalog, "t").await;
    let staging = join(&catalog, &ingester, "t").await;
    commit(&catalog, &ingester, timed(staging.id, "x", 2)).await;
    catalog.seal_upload(ID).await.unwrap();
    let request = FinishUpload {
        id: ID.to_owned(),
        staging_version: staging.schema_version,
        target: Some((target.id, target.schema_version)),
        schema: None,
        forget_times: true,
    };
    catalog.finish_upload(request).await.unwrap();
    let ranges = async |choice| {
        let tables = vec![(target.name.clone(), choice)];
        let snapshot = catalog.read_snapshot(SnapshotRequest { tables }).await;
        let files = snapshot.unwrap().tables.remove(0).files;
        let ranges = files
            .into_iter()
            .map(|f| (f.file.path, f.file.time_range_nanos));
        ranges.collect::<Vec<_>>()
    };
    let (own, moved) = (("own".to_owned(), Some((1, 2))), ("x".to_owned(), None));
    assert_eq!(ranges(FileChoice::All).await, [own, moved.clone()]);
    // Of no known time: always read.
    let elsewhere = FileChoice::Between {
        from_nanos: 5,
        to_nanos: 6,
    };
    assert_eq!(ranges(elsewhere).await, [moved]);
}

pub async fn an_upload_makes_its_table(catalog: Subject) {
    let ingester = register(&catalog, "i-0").await;
    start(&catalog, "new").await;
    let staging = join(&catalog, &ingester, "new").await;
    assert_eq!(staging.schema, schema("of the stream"));
    commit(&catalog, &ingester, file(staging.id, "x", 1, 4)).await;
    assert!(catalog.table(&name("new")).await.unwrap().is_none());
    assert_eq!(finish(&catalog, "new").await.unwrap().rows, 4);
    let made = catalog.table(&name("new")).await.unwrap().unwrap();
    assert_eq!(made.schema, staging.schema);
    assert_eq!(content(&catalog, &made).await.0, ["x"]);
    // Nothing was written: nothing is made.
    catalog
        .start_upload("empty", &name("none"), HOUR)
        .await
        .unwrap();
    catalog.seal_upload("empty").await.unwrap();
    let request = FinishUpload {
        id: "empty".to_owned(),
        staging_version: Default::default(),
        target: None,
        schema: None,
        forget_times: false,
    };
    let finished = catalog.finish_upload(request).await.unwrap();
    assert_eq!((finished.state, finished.rows), (UploadState::Finished, 0));
    assert!(catalog.table(&name("none")).await.unwrap().is_none());
}

pub async fn an_upload_ends_only_in_the_table_that_was_looked_at(catalog: Subject) {
    let ingester = register(&catalog, "i-0").await;
    start(&catalog, "t").await;
    let staging = join(&catalog, &ingester, "t").await;
    commit(&catalog, &ingester, file(staging.id, "x", 1, 4)).await;
    catalog.seal_upload(ID).await.unwrap();
    let request = FinishUpload {
        id: ID.to_owned(),
        staging_version: staging.schema_version,
        target: None,
        schema: None,
        forget_times: false,
    };
    let target = create(&catalog, "t").await;
    let refused = catalog.finish_upload(request.clone()).await;
    assert!(
        matches!(refused, Err(Error::SchemaChanged { .. })),
        "{refused:?}"
    );
    let widened = FinishUpload {
        target: Some((target.id, target.schema_version)),
        schema: Some(schema("with new columns")),
        ..request
    };
    assert_eq!(catalog.finish_upload(widened).await.unwrap().rows, 4);
    let target = catalog.table(&target.name).await.unwrap().unwrap();
    assert_eq!(target.schema, schema("with new columns"));
    let snapshot = catalog.snapshot(&[target.name]).await.unwrap();
    let file = &snapshot.tables[0].files[0].file;
    assert_eq!(
        (file.table, file.schema_version),
        (target.id, target.schema_version)
    );
}

pub async fn an_aborted_upload_leaves_nothing(catalog: Subject) {
    let target = create(&catalog, "t").await;
    let ingester = register(&catalog, "i-0").await;
    start(&catalog, "t").await;
    let staging = join(&catalog, &ingester, "t").await;
    commit(&catalog, &ingester, file(staging.id, "x", 1, 4)).await;
    for _ in 0..2 {
        catalog.abort_upload(ID).await.unwrap();
    }
    ended(finish(&catalog, "t").await, UploadState::Aborted);
    ended(
        catalog.join_upload(joining(&ingester, "t")).await,
        UploadState::Aborted,
    );
    assert!(content(&catalog, &target).await.0.is_empty());
    assert!(
        catalog
            .tables_by_id(&[staging.id])
            .await
            .unwrap()
            .is_empty()
    );
}

pub async fn an_abandoned_upload_expires(catalog: Subject) {
    create(&catalog, "t").await;
    let ingester = register(&catalog, "i-0").await;
    start(&catalog, "t").await;
    let short = JoinUpload {
        ttl: Duration::ZERO,
        ..joining(&ingester, "t")
    };
    let staging = catalog.join_upload(short).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    ended(catalog.seal_upload(ID).await, UploadState::Expired);
    assert_eq!(catalog.expire_uploads().await.unwrap(), 1);
    assert_eq!(catalog.expire_uploads().await.unwrap(), 0);
    ended(
        catalog.join_upload(joining(&ingester, "t")).await,
        UploadState::Expired,
    );
    assert!(
        catalog
            .tables_by_id(&[staging.id])
            .await
            .unwrap()
            .is_empty()
    );
}

pub async fn streams_of_other_uploads_and_tables_are_refused(catalog: Subject) {
    let ingester = register(&catalog, "i-0").await;
    let unknown = catalog.join_upload(joining(&ingester, "t")).await;
    assert!(
        matches!(unknown, Err(Error::UploadNotFound(_))),
        "{unknown:?}"
    );
    start(&catalog, "t").await;
    let other = catalog.join_upload(joining(&ingester, "u")).await;
    assert!(
        matches!(&other, Err(Error::UploadTarget { target, .. }) if *target == name("t")),
        "{other:?}"
    );
    let younger = register(&catalog, "i-0").await;
    let stale = catalog.join_upload(joining(&ingester, "t")).await;
    assert!(matches!(stale, Err(Error::Fenced { .. })), "{stale:?}");
    join(&catalog, &younger, "t").await;
}

/// The rows of an upload are prepared for the key its table has when it begins.
pub async fn an_upload_inherits_the_key_of_its_table(catalog: Subject) {
    let keyed = |key: &str, if_exists| {
        let options = [("primary_key".to_owned(), key.to_owned())];
        let mut request = request(name("t"), if_exists);
        request.options = options.into();
        request
    };
    let first = keyed("a", IfExists::Fail);
    catalog.create_table(first.clone()).await.unwrap();
    let ingester = register(&catalog, "i-0").await;
    start(&catalog, "t").await;
    let staging = join(&catalog, &ingester, "t").await;
    assert_eq!(staging.options, first.options);
    commit(&catalog, &ingester, file(staging.id, "x", 1, 4)).await;
    catalog
        .create_table(keyed("b", IfExists::Replace))
        .await
        .unwrap();
    let refused = finish(&catalog, "t").await;
    assert!(
        matches!(refused, Err(Error::UploadKey { .. })),
        "{refused:?}"
    );
    catalog.drop_table(&name("t"), false, None).await.unwrap();
    assert_eq!(finish(&catalog, "t").await.unwrap().rows, 4);
    let made = catalog.table(&name("t")).await.unwrap().unwrap();
    assert_eq!(made.options, first.options);
}
