//! The catalog in Postgres: the contract, restarts in the middle of commits, several processes,
//! what is refused at the start.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod causes;
mod contract;
mod later;
mod postgres_server;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causes::chain;
use contract::{Subject, commit, content, create, file, flush_of, register};
use flightcluster_catalog::sql::{PostgresOptions, SqlCatalog};
use flightcluster_catalog::{AsOf, Catalog as _, Error, FileChoice, NewFile, SnapshotRequest};
use postgres_server::Server;

struct Fixture {
    catalog: Subject,
    server: Server,
}

async fn open() -> Fixture {
    let server = Server::start();
    let catalog = Arc::new(SqlCatalog::open_postgres(server.options()).await.unwrap());
    Fixture { catalog, server }
}

/// An empty catalog on the server that tests share.
struct Shared {
    catalog: Subject,
    options: PostgresOptions,
    _server: Arc<Server>,
}

async fn open_shared() -> Shared {
    let (server, options) = postgres_server::shared().await;
    let catalog = Arc::new(SqlCatalog::open_postgres(options.clone()).await.unwrap());
    Shared {
        catalog,
        options,
        _server: server,
    }
}

mod postgres_catalog {
    crate::contract::contract!(crate::open_shared);
}

async fn open_later() -> Shared {
    let mut shared = open_shared().await;
    later::grow_postgres(&shared.options, later::READABLE).await;
    let reopened = SqlCatalog::open_postgres(shared.options.clone()).await;
    shared.catalog = Arc::new(reopened.unwrap());
    shared
}

mod postgres_catalog_of_a_later_layout {
    crate::contract::contract!(crate::open_later);
}

/// A newer process brings the layout up to date while this one works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_living_catalog_goes_on_when_its_layout_becomes_a_later_one() {
    let shared = open_shared().await;
    let later = later::grow_postgres(&shared.options, later::READABLE);
    later::works_while(&shared.catalog, later).await;
}

async fn refusal(server: &Server) -> String {
    let error = SqlCatalog::open_postgres(server.options())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{}", chain(&error));
    chain(&error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_and_doubles_no_acknowledged_commit() {
    let mut fixture = open().await;
    let table = create(&fixture.catalog, "t").await;
    let ingester = register(&fixture.catalog, "ingester-0").await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let (catalog, id) = (Arc::clone(&fixture.catalog), table.id);
    let (count, mut counted) = tokio::sync::watch::channel(0_u64);
    let writer = tokio::spawn(async move {
        let mut n = 0_u64;
        while stopped.try_recv().is_err() {
            n += 1;
            let flush = flush_of(&ingester, vec![file(id, &format!("f{n}"), n, n)]);
            // As the ingester does: an answer that is not known is asked for again.
            while let Err(error) = catalog.commit_flush(flush.clone()).await {
                assert!(
                    matches!(error, Error::Unavailable { .. }),
                    "{}",
                    chain(&error)
                );
            }
            count.send_replace(n);
        }
        n
    });
    for round in 1..=3_u64 {
        counted.wait_for(|n| *n >= round * 20).await.unwrap();
        fixture.server.kill();
        fixture.server.restart();
    }
    let before = *counted.borrow();
    counted.wait_for(|n| *n > before + 5).await.unwrap();
    stop.send(()).unwrap();
    let written = writer.await.unwrap();
    let (paths, watermarks) = content(&fixture.catalog, &table).await;
    assert_eq!(u64::try_from(paths.len()).unwrap(), written);
    assert_eq!(paths.iter().collect::<BTreeSet<_>>().len(), paths.len());
    assert_eq!(watermarks[0].1, written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_commit_at_once_get_snapshot_ids_in_commit_order() {
    let fixture = open().await;
    let table = create(&fixture.catalog, "t").await;
    let mut writers = Vec::new();
    for name in ["ingester-0", "ingester-1"] {
        let other = SqlCatalog::open_postgres(fixture.server.options())
            .await
            .unwrap();
        let other: Subject = Arc::new(other);
        let ingester = register(&other, name).await;
        let (id, table_name) = (table.id, table.name.clone());
        writers.push(tokio::spawn(async move {
            for n in 1..=30 {
                let path = format!("{}-{n}", ingester.name);
                let committed = commit(&other, &ingester, file(id, &path, n, n)).await;
                // What this snapshot shows is complete: nobody commits below it later.
                let seen = other
                    .snapshot(std::slice::from_ref(&table_name))
                    .await
                    .unwrap();
                assert!(seen.id >= committed.snapshot);
                let below = |files: &[flightcluster_catalog::File]| {
                    files
                        .iter()
                        .filter(|file| file.begin_snapshot <= seen.id)
                        .map(|file| file.id)
                        .collect::<Vec<_>>()
                };
                let again = other
                    .snapshot(std::slice::from_ref(&table_name))
                    .await
                    .unwrap();
                assert_eq!(below(&seen.tables[0].files), below(&again.tables[0].files));
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(content(&fixture.catalog, &table).await.0.len(), 60);
}

#[tokio::test]
async fn a_life_that_began_elsewhere_fences_the_one_before() {
    let fixture = open().await;
    let table = create(&fixture.catalog, "t").await;
    let stale = register(&fixture.catalog, "ingester-0").await;
    let other = SqlCatalog::open_postgres(fixture.server.options())
        .await
        .unwrap();
    let other: Subject = Arc::new(other);
    let fresh = register(&other, "ingester-0").await;
    let late = fixture
        .catalog
        .commit_flush(flush_of(&stale, vec![file(table.id, "stale", 1, 1)]))
        .await;
    assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
    commit(&other, &fresh, file(table.id, "fresh", 1, 1)).await;
    assert_eq!(content(&fixture.catalog, &table).await.0, ["fresh"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_start_together_set_the_tables_up_once() {
    let server = Server::start();
    let starts: Vec<_> = (0..6)
        .map(|_| tokio::spawn(SqlCatalog::open_postgres(server.options())))
        .collect();
    for start in starts {
        let catalog = start.await.unwrap().unwrap();
        assert_eq!(catalog.list_databases().await.unwrap().len(), 1);
    }
}

/// A process that is stopped in a transaction holds the lock every writer needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_writer_is_waited_for_and_does_not_block_the_others_for_ever() {
    let fixture = open().await;
    let mut frozen = fixture.server.connect().await;
    // The first statements of a commit, as `sql::postgres` sends them, then silence.
    let begun = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '2s'; \
                 SELECT value FROM counters WHERE kind = 'snapshot' FOR UPDATE";
    sqlx::raw_sql(begun).execute(&mut frozen).await.unwrap();
    fixture.catalog.create_database("d", false).await.unwrap();
    let text = fixture.catalog.list_databases().await.unwrap();
    assert_eq!(text.len(), 2);
}

/// A flush of many files may take long; a write must not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_commit_does_not_hold_orders_up() {
    let fixture = open().await;
    let other = SqlCatalog::open_postgres(fixture.server.options())
        .await
        .unwrap();
    let ingester = register(&fixture.catalog, "ingester-0").await;
    let (id, epoch) = (ingester.id, ingester.epoch);
    let mut long = fixture.server.connect().await;
    let begun = "BEGIN; SELECT value FROM counters WHERE kind = 'snapshot' FOR UPDATE";
    sqlx::raw_sql(begun).execute(&mut long).await.unwrap();
    for turn in 0..4 {
        let catalog: &dyn flightcluster_catalog::Catalog = match turn % 2 {
            0 => fixture.catalog.as_ref(),
            _ => &other,
        };
        let first =
            tokio::time::timeout(Duration::from_secs(5), catalog.take_orders(id, epoch, 10));
        assert_eq!(first.await.unwrap().unwrap(), 1 + 10 * turn);
    }
}

/// Not a statement like it: what the server did for the catalog's own.
#[tokio::test]
async fn the_files_of_a_time_are_found_by_the_index() {
    const LENGTH: i64 = 1_000_000_000;
    let fixture = open().await;
    let table = create(&fixture.catalog, "t").await;
    let ingester = register(&fixture.catalog, "ingester-0").await;
    for flush in 0..4_u64 {
        let files = (1..=1000_u64).map(|n| {
            let n = flush * 1000 + n;
            let begin = i64::try_from(n).unwrap() * LENGTH;
            NewFile {
                time_range_nanos: Some((begin, begin + LENGTH - 1)),
                ..file(table.id, &format!("f{n}"), n, n)
            }
        });
        let flush = flush_of(&ingester, files.collect());
        fixture.catalog.commit_flush(flush).await.unwrap();
    }
    let mut connection = fixture.server.connect().await;
    // What the server does by itself within a minute; the counters begin anew.
    for statement in ["ANALYZE", "SELECT pg_stat_reset()"] {
        let done = sqlx::query(statement).execute(&mut connection).await;
        done.unwrap();
    }
    let between = FileChoice::Between {
        from_nanos: 2000 * LENGTH,
        to_nanos: 2003 * LENGTH - 1,
    };
    let request = SnapshotRequest {
        tables: vec![(table.name.clone(), between)],
    };
    let snapshot = fixture.catalog.read_snapshot(request).await.unwrap();
    assert_eq!(snapshot.tables[0].files.len(), 3);
    let found = "SELECT i.idx_scan, i.idx_tup_read, t.seq_scan FROM pg_stat_user_indexes i \
                 JOIN pg_stat_user_tables t USING (relid) WHERE i.indexrelname = 'files_live_by_time'";
    // A server counts a moment later.
    let counted = async {
        loop {
            let row: (i64, i64, i64) = sqlx::query_as(found)
                .fetch_one(&mut connection)
                .await
                .unwrap();
            if row.0 > 0 || row.2 > 0 {
                break row;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let counted = tokio::time::timeout(Duration::from_secs(60), counted).await;
    let (scans, read, of_all) = counted.unwrap();
    assert!(scans > 0);
    assert_eq!(of_all, 0, "the whole table was read");
    assert!(
        read < 20,
        "{read} entries of the index were read for 3 files"
    );
}

#[tokio::test]
async fn a_server_that_would_lose_commits_is_refused() {
    let server = Server::start_with(&["fsync=off"]);
    assert!(refusal(&server).await.contains("fsync = off"));
}

#[tokio::test]
async fn commits_are_on_disk_whatever_the_default_of_the_server_is() {
    let server = Server::start_with(&["synchronous_commit=off"]);
    let catalog = SqlCatalog::open_postgres(server.options()).await.unwrap();
    let before: String = wal_flushed(&server).await;
    catalog.create_database("d", false).await.unwrap();
    // With synchronous_commit off the log would be flushed by a background process, later.
    assert_ne!(wal_flushed(&server).await, before);
}

/// How far the log of the server is on disk.
async fn wal_flushed(server: &Server) -> String {
    sqlx::query_scalar("SELECT pg_current_wal_flush_lsn()::text")
        .fetch_one(&mut server.connect().await)
        .await
        .unwrap()
}

/// A process whose own clock is wrong writes nothing down that is old, or in the future, for the others.
#[tokio::test]
async fn the_time_is_that_of_the_server() {
    let server = Server::start();
    // Found before the real one: the server's clock, as seen here, is a year ahead of ours.
    let ahead = "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
                 $$ SELECT pg_catalog.clock_timestamp() + INTERVAL '365 days' $$; \
                 ALTER DATABASE postgres SET search_path = public, pg_catalog";
    sqlx::raw_sql(ahead)
        .execute(&mut server.connect().await)
        .await
        .unwrap();
    let catalog = SqlCatalog::open_postgres(server.options()).await.unwrap();
    let catalog: Subject = Arc::new(catalog);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let year = 365 * 24 * 60 * 60 * 1000;
    let expected = i64::try_from(since.as_millis()).unwrap() + year;
    let table = create(&catalog, "t").await;
    let state = catalog.snapshot(&[]).await.unwrap().id;
    let stamp = catalog.resolve_as_of(AsOf::Snapshot(state)).await.unwrap();
    let time = catalog.time().await.unwrap();
    assert!(time.is_settled);
    for millis in [
        table.created_at_millis,
        stamp.created_at_millis,
        time.millis,
    ] {
        assert!(
            millis.abs_diff(expected) < 600_000,
            "{millis} is not about {expected}"
        );
    }
}

#[tokio::test]
async fn a_layout_that_has_no_place_for_this_program_is_refused_with_the_cure() {
    let fixture = open().await;
    later::grow_postgres(&fixture.server.options(), later::UNREADABLE).await;
    let text = refusal(&fixture.server).await;
    assert!(text.contains("start a newer program"), "{text}");
}

#[tokio::test]
async fn a_user_that_may_not_create_tables_can_use_them() {
    let fixture = open().await;
    let table = create(&fixture.catalog, "t").await;
    let rights = "CREATE ROLE worker LOGIN; \
                  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker";
    sqlx::raw_sql(rights)
        .execute(&mut fixture.server.connect().await)
        .await
        .unwrap();
    let url = format!(
        "postgres:///postgres?host={}&user=worker",
        fixture.server.socket()
    );
    std::fs::write(fixture.server.url_file(), url).unwrap();
    let catalog = SqlCatalog::open_postgres(fixture.server.options())
        .await
        .unwrap();
    let catalog: Subject = Arc::new(catalog);
    let ingester = register(&catalog, "ingester-0").await;
    commit(&catalog, &ingester, file(table.id, "x", 1, 1)).await;
    assert_eq!(content(&catalog, &table).await.0, ["x"]);
}

#[tokio::test]
async fn a_changed_password_is_read_again_and_a_wrong_one_is_named_without_showing_it() {
    let mut server = Server::start();
    let roles = "CREATE ROLE keeper LOGIN SUPERUSER PASSWORD 'first-Secret'";
    sqlx::raw_sql(roles)
        .execute(&mut server.connect().await)
        .await
        .unwrap();
    let by_password = "local all keeper scram-sha-256\nlocal all all trust\n";
    std::fs::write(server.data().join("pg_hba.conf"), by_password).unwrap();
    server.kill();
    server.restart();
    let admin_url = std::fs::read_to_string(server.url_file()).unwrap();
    let url = |password: &str| {
        let url = format!(
            "postgres:///postgres?user=keeper&password={password}&host={}",
            server.socket()
        );
        std::fs::write(server.url_file(), url).unwrap();
    };
    url("wrong-Secret");
    let text = refusal(&server).await;
    assert!(text.contains("password authentication failed"), "{text}");
    assert!(!text.contains("Secret"), "{text}");
    url("first-Secret");
    let options = server.options();
    let catalog = SqlCatalog::open_postgres(options).await.unwrap();
    assert!(!format!("{catalog:?}").contains("Secret"));
    std::fs::write(server.url_file(), admin_url).unwrap();
    let change = "ALTER ROLE keeper PASSWORD 'second-Secret'; \
                  SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'keeper'";
    sqlx::raw_sql(change)
        .execute(&mut server.connect().await)
        .await
        .unwrap();
    url("second-Secret");
    catalog.create_database("d", false).await.unwrap();
    assert_eq!(catalog.list_databases().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_server_that_nobody_verifies_is_refused_beyond_this_machine() {
    let server = Server::start();
    for (url, word) in [
        (
            "postgres://u:hidden@db.example/c?sslmode=disable",
            "verify-full",
        ),
        (
            "postgres://u:hidden@db.example/c?sslmode=require",
            "verify-full",
        ),
        (
            "postgres://u:hidden@db.example/c?sslmode=verify-ca",
            "verify-full",
        ),
        ("mysql://u:hidden@db.example/c", "does not hold a URL"),
        ("hidden", "does not hold a URL"),
    ] {
        std::fs::write(server.url_file(), url).unwrap();
        let text = refusal(&server).await;
        assert!(text.contains(word), "{url}: {text}");
        assert!(!text.contains("hidden"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_within_the_time() {
    let mut server = Server::start();
    let options = flightcluster_catalog::sql::PostgresOptions {
        timeout: Duration::from_secs(2),
        ..server.options()
    };
    let catalog = SqlCatalog::open_postgres(options.clone()).await.unwrap();
    server.kill();
    let started = std::time::Instant::now();
    for answer in [
        catalog.list_databases().await.map(|_| ()),
        catalog.create_database("d", false).await.map(|_| ()),
        SqlCatalog::open_postgres(options).await.map(|_| ()),
    ] {
        assert!(
            matches!(answer, Err(Error::Unavailable { .. })),
            "{answer:?}"
        );
    }
    assert!(started.elapsed() < Duration::from_secs(9));
    server.restart();
    catalog.create_database("d", false).await.unwrap();
}
