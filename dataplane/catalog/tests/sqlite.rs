//! The catalog in SQLite: the contract, durability, layout versions, the deletion queue.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod causes;
mod contract;
mod later;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use causes::chain;
use contract::{
    Subject, commit, content, create, file, flush_of, life, log, ready, register, request,
};
use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{
    Catalog as _, CreateTable, Error, IfExists, LogState, RegisterIngester, SnapshotId,
    SnapshotStamp, TableName,
};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

struct Fixture {
    catalog: Subject,
    directory: TempDir,
}

impl Fixture {
    fn file(&self) -> PathBuf {
        self.directory.path().join("catalog/deep/catalog.sqlite")
    }

    /// A connection beside the catalog's own.
    async fn connect(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.file());
        SqliteConnection::connect_with(&options).await.unwrap()
    }
}

async fn open() -> Fixture {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("catalog/deep/catalog.sqlite");
    let catalog = Arc::new(SqlCatalog::open_sqlite(&path).await.unwrap());
    Fixture { catalog, directory }
}

mod sqlite_catalog {
    crate::contract::contract!(crate::open);
}

async fn open_later() -> Fixture {
    let mut fixture = open().await;
    later::grow_sqlite(&fixture.file(), later::READABLE).await;
    let reopened = SqlCatalog::open_sqlite(&fixture.file()).await.unwrap();
    fixture.catalog = Arc::new(reopened);
    fixture
}

mod sqlite_catalog_of_a_later_layout {
    crate::contract::contract!(crate::open_later);
}

#[tokio::test]
async fn everything_is_there_after_a_drop_without_close() {
    let fixture = open().await;
    let table = create(&fixture.catalog, "t").await;
    let ingester = register(&fixture.catalog, "ingester-0").await;
    commit(&fixture.catalog, &ingester, file(table.id, "x", 1, 3)).await;
    let names = [table.name.clone()];
    let before = fixture.catalog.snapshot(&names).await.unwrap();
    let path = fixture.file();

    // A copy of the files while they are open is what a killed process leaves.
    let copy = TempDir::new().unwrap();
    for name in ["catalog.sqlite", "catalog.sqlite-wal"] {
        std::fs::copy(path.with_file_name(name), copy.path().join(name)).unwrap();
    }
    for path in [copy.path().join("catalog.sqlite"), path] {
        let reopened = SqlCatalog::open_sqlite(&path).await.unwrap();
        assert_eq!(reopened.snapshot(&names).await.unwrap(), before);
        let registration = reopened
            .register_ingester(life("ingester-0", ""))
            .await
            .unwrap();
        assert_eq!(registration.ingester.epoch.0, 2);
        assert_eq!(registration.watermarks.len(), 1);
        reopened.close().await;
    }
}

/// What a process before this one could not sync looks as if it were on disk, until it is written again.
#[tokio::test]
async fn a_log_that_is_found_is_written_to_its_volume_again() {
    let fixture = open().await;
    create(&fixture.catalog, "t").await;
    let log = fixture.file().with_file_name("catalog.sqlite-wal");
    let before = std::fs::read(&log).unwrap();
    // More than is written at once, so that the places of the parts matter.
    let mut long = before.clone();
    long.resize(before.len() + (1 << 20), 7);
    std::fs::write(&log, &long).unwrap();
    let file = std::fs::File::open(&log).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let other = SqlCatalog::open_sqlite(&fixture.file()).await.unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    assert!(modified > SystemTime::UNIX_EPOCH, "it was not written");
    assert!(std::fs::read(&log).unwrap() == long, "it was changed");
    assert_eq!(other.list_tables(None).await.unwrap().len(), 1);
}

/// Files come in texts of 65,536 ids each.
#[tokio::test]
async fn files_of_several_texts_are_all_read_and_in_order() {
    let fixture = open().await;
    let table = create(&fixture.catalog, "t").await;
    let ingester = register(&fixture.catalog, "ingester-0").await;
    let mut paths = Vec::new();
    for next in [1, 65_534, 2 * 65_536 - 2] {
        sqlx::query("UPDATE counters SET value = $1 WHERE kind = 'file'")
            .bind(next)
            .execute(&mut fixture.connect().await)
            .await
            .unwrap();
        let path = |n| format!("{next}-{n}");
        let file = |n: u64| file(table.id, &path(n), n, n);
        let flush = flush_of(&ingester, (1..=5).map(file).collect());
        fixture.catalog.commit_flush(flush).await.unwrap();
        paths.extend((1..=5).map(path));
    }
    assert_eq!(content(&fixture.catalog, &table).await.0, paths);
}

#[tokio::test]
async fn commits_are_synced_and_references_are_checked() {
    let fixture = open().await;
    let mut connection = fixture.connect().await;
    let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(mode, "wal");
    // A file of a schema version the table never had breaks a reference.
    let table = create(&fixture.catalog, "t").await;
    let ingester = register(&fixture.catalog, "ingester-0").await;
    let mut wrong = file(table.id, "x", 1, 1);
    wrong.schema_version.0 = 9;
    let refused = fixture
        .catalog
        .commit_flush(flush_of(&ingester, vec![wrong]))
        .await;
    assert!(
        matches!(&refused, Err(error @ Error::Store { .. }) if chain(error).contains("FOREIGN"))
    );
    assert_eq!(content(&fixture.catalog, &table).await, (vec![], vec![]));
}

#[tokio::test]
async fn a_layout_that_has_no_place_for_this_program_is_refused_with_the_cure() {
    let fixture = open().await;
    let mut connection = fixture.connect().await;
    let newest: i64 = sqlx::query_scalar("SELECT MAX(version) FROM migrations")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    later::grow_sqlite(&fixture.file(), later::UNREADABLE).await;
    let error = SqlCatalog::open_sqlite(&fixture.file()).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains(&format!("layout {}", newest + 1)), "{text}");
    assert!(text.contains(&format!("up to {newest}:")), "{text}");
    assert!(text.contains("start a newer program"), "{text}");
    // Of before there was a record.
    sqlx::query("INSERT INTO migrations (version, name, applied_at_millis) VALUES (99, 'x', 0)")
        .execute(&mut connection)
        .await
        .unwrap();
    let error = SqlCatalog::open_sqlite(&fixture.file()).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("layout 99"), "{text}");
    let versions: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM migrations")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(versions, newest + 2);
}

/// A newer process brings the layout up to date while this one works.
#[tokio::test]
async fn a_living_catalog_goes_on_when_its_layout_becomes_a_later_one() {
    let fixture = open().await;
    let file = fixture.file();
    let later = later::grow_sqlite(&file, later::READABLE);
    later::works_while(&fixture.catalog, later).await;
}

#[tokio::test]
async fn a_path_that_is_no_database_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("catalog.sqlite");
    std::fs::write(
        &path,
        "this is a text file, and long enough to have a database header".repeat(9),
    )
    .unwrap();
    let error = SqlCatalog::open_sqlite(&path).await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{}", chain(&error));
    let error = SqlCatalog::open_sqlite(&path.join("below-a-file"))
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("catalog.sqlite"),
        "{}",
        chain(&error)
    );
}

/// A catalog of the first layout, with rows in every table that later layouts make anew.
const FIRST_LAYOUT: &str = "
    INSERT INTO counters VALUES ('snapshot', 5), ('database', 1), ('table', 2), ('file', 2),
                                ('ingester', 1);
    INSERT INTO snapshots VALUES (1, 10, 'create_database'), (2, 20, 'create_table'),
                                 (3, 30, 'create_table'), (4, 40, 'flush'), (5, 50, 'drop_table');
    INSERT INTO databases VALUES (1, 'default', 10, 1);
    INSERT INTO tables VALUES (1, 1, 'public', 'kept', 1, '{}', 20, 2, NULL),
                              (2, 1, 'public', 'gone', 1, '{}', 30, 3, 5);
    INSERT INTO schema_versions VALUES (1, 1, x'01', 2), (2, 1, x'02', 3);
    INSERT INTO ingesters VALUES (1, 'ingester-0', 'https://i:17002', 1, 'active', 40);
    INSERT INTO files VALUES (1, 1, 1, 'kept.parquet', 100, 3, 1, 1, 3, -5, 5, 4, NULL),
                             (2, 2, 1, 'gone.parquet', 200, 4, 1, 4, 7, NULL, NULL, 4, 5);
    INSERT INTO watermarks VALUES (1, 1, 3);
    INSERT INTO flushes VALUES (x'ff', 1, 4, '[]', 40);
    INSERT INTO gc_queue VALUES ('gone.parquet', 2, 5, 86400050);";

#[tokio::test]
async fn a_catalog_of_the_first_layout_keeps_its_files_and_its_queue() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("catalog.sqlite");
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut old = SqliteConnection::connect_with(&options).await.unwrap();
    let layout = include_str!("../src/sql/migrations/0001_initial.sql").replace("{bytes}", "BLOB");
    let layout = layout.replace(
        "INSERT INTO counters (kind, value)
VALUES ('snapshot', 0), ('database', 0), ('table', 0), ('file', 0), ('ingester', 0);",
        "",
    );
    let applied = "CREATE TABLE migrations (version BIGINT PRIMARY KEY, name TEXT NOT NULL,
                                            applied_at_millis BIGINT NOT NULL);
                   INSERT INTO migrations VALUES (1, 'initial', 0);";
    for statements in [layout.as_str(), applied, FIRST_LAYOUT] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()))
            .execute(&mut old)
            .await
            .unwrap();
    }
    old.close().await.unwrap();

    let catalog = SqlCatalog::open_sqlite(&path).await.unwrap();
    let snapshot = catalog
        .snapshot(&[TableName::public("default", "kept")])
        .await
        .unwrap();
    let [kept] = &snapshot.tables[0].files[..] else {
        panic!("one file expected: {snapshot:?}");
    };
    assert_eq!(kept.ingester.map(|id| id.0), Some(1));
    assert_eq!(kept.file.path, "kept.parquet");
    assert_eq!(kept.file.time_range_nanos, Some((-5, 5)));
    assert_eq!(snapshot.tables[0].watermarks.len(), 1);
    let garbage = catalog.due_garbage(Duration::ZERO, 10).await.unwrap();
    assert_eq!(garbage.len(), 1);
    assert_eq!(garbage[0].path, "gone.parquet");
    assert_eq!(garbage[0].queued_at_millis, 50);
}

#[tokio::test]
async fn a_forgotten_repeat_still_adds_nothing() {
    let fixture = open().await;
    let table = create(&fixture.catalog, "t").await;
    let ingester = register(&fixture.catalog, "ingester-0").await;
    let flush = flush_of(&ingester, vec![file(table.id, "x", 1, 3)]);
    let first = fixture.catalog.commit_flush(flush.clone()).await.unwrap();
    sqlx::query("DELETE FROM flushes")
        .execute(&mut fixture.connect().await)
        .await
        .unwrap();
    let again = fixture.catalog.commit_flush(flush).await.unwrap();
    assert!(again.snapshot > first.snapshot);
    assert_eq!(content(&fixture.catalog, &table).await.0, ["x"]);
}

/// Its openings may be lost with what it misses, so that its list is not to be believed, nor that of another one.
#[tokio::test]
async fn all_ingesters_are_asked_for_all_tables_once_a_log_is_newer_than_the_file() {
    let fixture = open().await;
    let catalog = &fixture.catalog;
    let keeps_a_list = |name: &str| RegisterIngester {
        log: LogState {
            empty: true,
            ..log(name)
        },
        ..life(name, "")
    };
    let table = create(catalog, "t").await;
    let mut ids = Vec::new();
    for name in ["ingester-0", "ingester-1"] {
        let registered = catalog.register_ingester(keeps_a_list(name)).await.unwrap();
        ready(catalog, &registered).await;
        ids.push(registered);
    }
    let closed = || async {
        let names = std::slice::from_ref(&table.name);
        catalog.snapshot(names).await.unwrap().tables[0]
            .closed
            .clone()
    };
    assert_eq!(closed().await.len(), 2, "nobody has rows of it");
    let newer = SnapshotStamp {
        snapshot: SnapshotId(ids[1].newest.snapshot.0 + 1000),
        ..ids[1].newest
    };
    let refused = catalog
        .register_ingester(RegisterIngester {
            log: LogState {
                seen: Some(newer),
                epoch: ids[0].ingester.epoch,
                ..log("ingester-0")
            },
            ..life("ingester-0", "")
        })
        .await;
    assert!(matches!(refused, Err(Error::RolledBack { .. })));
    assert_eq!(closed().await, []);
    // One that goes on is believed again, the refused one is not.
    ready(catalog, &ids[1]).await;
    assert_eq!(closed().await, [ids[1].ingester.id]);
}

#[tokio::test]
async fn calls_whose_caller_left_are_carried_out_and_leave_the_connection_clean() {
    let fixture = open().await;
    let table = create(&fixture.catalog, "t").await;
    let ingester = register(&fixture.catalog, "ingester-0").await;
    for n in 1..=50_u64 {
        let flush = flush_of(&ingester, vec![file(table.id, &format!("f{n}"), n, n)]);
        let call = fixture.catalog.commit_flush(flush);
        // Polled once, so that the call has begun, then dropped.
        let left = tokio::time::timeout(Duration::ZERO, call).await;
        assert!(left.is_err() || left.unwrap().is_ok());
    }
    let last = flush_of(&ingester, vec![file(table.id, "last", 51, 51)]);
    fixture.catalog.commit_flush(last).await.unwrap();
    assert_eq!(content(&fixture.catalog, &table).await.0.len(), 51);
}

#[tokio::test]
async fn a_locked_database_is_unavailable_and_recovers() {
    let fixture = open().await;
    let mut other = fixture.connect().await;
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut other)
        .await
        .unwrap();
    let refused = fixture.catalog.create_database("d", false).await;
    assert!(
        matches!(&refused, Err(Error::Unavailable { place, .. }) if place.contains("catalog.sqlite")),
        "{refused:?}"
    );
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    fixture.catalog.create_database("d", false).await.unwrap();
}

/// Prints what planning costs; the numbers go into no assertion because machines differ.
#[tokio::test]
async fn planning_a_table_of_ten_thousand_files_reads_them_all() {
    let fixture = open().await;
    let (table, other) = (
        create(&fixture.catalog, "t").await,
        create(&fixture.catalog, "o").await,
    );
    let ingester = register(&fixture.catalog, "ingester-0").await;
    let start = Instant::now();
    for flush in 0..20_u64 {
        let files = (1..=500)
            .flat_map(|n| {
                let n = flush * 500 + n;
                [
                    file(table.id, &format!("t{n}"), n, n),
                    file(other.id, &format!("o{n}"), n, n),
                ]
            })
            .collect();
        fixture
            .catalog
            .commit_flush(flush_of(&ingester, files))
            .await
            .unwrap();
    }
    println!("20 commits of 1,000 files each: {:?}", start.elapsed());
    let names = [table.name];
    for _ in 0..3 {
        let start = Instant::now();
        let snapshot = fixture.catalog.snapshot(&names).await.unwrap();
        println!("snapshot of 10,000 of 20,000 files: {:?}", start.elapsed());
        assert_eq!(snapshot.tables[0].files.len(), 10_000);
    }
}

#[tokio::test]
async fn a_table_that_was_not_published_within_a_day_is_dropped() {
    let fixture = open().await;
    let unpublished = async |hidden: &str| {
        let name = TableName::public("default", "t");
        let request = CreateTable {
            unpublished: Some(hidden.to_owned()),
            seen: None,
            ..request(name, IfExists::Fail)
        };
        fixture.catalog.create_table(request).await.unwrap().id
    };
    let published = create(&fixture.catalog, "kept").await.id;
    let (old, young) = (unpublished("old").await, unpublished("young").await);
    let age = "UPDATE tables SET created_at_millis = created_at_millis - $1 WHERE id IN ($2, $3)";
    sqlx::query(age)
        .bind(25 * 60 * 60 * 1000_i64)
        .bind(i64::try_from(old.0).unwrap())
        .bind(i64::try_from(published.0).unwrap())
        .execute(&mut fixture.connect().await)
        .await
        .unwrap();
    let next = unpublished("next").await;
    let ids = [published, old, young, next];
    let left = fixture.catalog.tables_by_id(&ids).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|table| table.id).collect();
    assert_eq!(left, [published, young, next]);
}
