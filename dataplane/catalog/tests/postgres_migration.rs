//! A catalog of an earlier layout in Postgres, whose migration is killed before every statement that changes
//! the layout, and in every commit: the connection or the process that migrates, and in some of these places
//! the server. The next start goes on with what was reached, and what comes out is what a migration without
//! kills makes of it.
//!
//! A kill is at a place, not at a time: triggers in the database wait there for a lock the test holds.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod causes;
#[allow(dead_code, reason = "the contract itself is run elsewhere")]
mod contract;
mod older_layout;
mod postgres_server;

use std::sync::Arc;
use std::time::Duration;

use causes::chain;
use contract::{Subject, commit, content, create, file, flush_of, register};
use flightcluster_catalog::sql::{PostgresOptions, SqlCatalog};
use flightcluster_catalog::{
    Error, FlushCommit, JobKind, JoinUpload, Lease, LiveFiles, ProducerPosition, ReplaceCause,
    ReplaceFiles, TableName, UploadState,
};
use older_layout::{all_of, run, version};
use postgres_server::Server;
use sqlx::PgConnection;

const HOUR: Duration = Duration::from_secs(3600);

/// The step of a migration that commits it; those before are its statements that change the layout.
const COMMIT: i64 = 1000;

/// The lock migrations wait for where they are to be killed.
const LOCK: i64 = 42;

/// Makes migrations stop at a place of `stops.wanted` or later: before each statement that changes the
/// layout, and in the commit, when everything is written. `layout` is the one that is complete.
const STOPS: &str = "
    CREATE SCHEMA stops;
    CREATE TABLE stops.wanted (layout BIGINT, step BIGINT);
    INSERT INTO stops.wanted VALUES (1000, 0);
    CREATE FUNCTION stops.stop(layout BIGINT, step BIGINT) RETURNS VOID LANGUAGE plpgsql AS $$
    BEGIN
        IF EXISTS (SELECT 1 FROM stops.wanted w WHERE (stop.layout, stop.step) >= (w.layout, w.step)) THEN
            PERFORM set_config('lock_timeout', '0', true);
            PERFORM set_config('application_name', format('at %s.%s', layout, step), true);
            PERFORM pg_advisory_xact_lock(42);
        END IF;
    END $$;
    CREATE FUNCTION stops.in_commit() RETURNS TRIGGER LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM stops.stop(NEW.version - 1, 1000);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER in_commit AFTER INSERT ON migrations DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION stops.in_commit();
    CREATE FUNCTION stops.before_statement() RETURNS EVENT_TRIGGER LANGUAGE plpgsql AS $$
    DECLARE
        step BIGINT := COALESCE(NULLIF(current_setting('stops.step', true), ''), '0')::BIGINT + 1;
    BEGIN
        PERFORM set_config('stops.step', step::TEXT, true);
        PERFORM stops.stop((SELECT MAX(version) FROM public.migrations), step);
    END $$;
    CREATE EVENT TRIGGER before_statement ON ddl_command_start
        EXECUTE FUNCTION stops.before_statement();";

/// What is killed in the middle of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kill {
    /// The connection, by an administrator or a proxy.
    Connection,
    /// The server, as by a power failure.
    Server,
    /// The process that migrates. Its session goes on until it has nothing more to do.
    Process,
}

/// A server with a catalog of an earlier layout, in a database that others are copied from.
struct Old {
    server: Server,
    layout: i64,
}

impl Old {
    async fn new(layout: i64, backup: &[u8]) -> Self {
        let server = Server::start();
        let options = server.database("old", "template0").await;
        older_layout::make(&mut connect(&options).await, layout, backup).await;
        Self { server, layout }
    }

    /// As the program of its time wrote it.
    async fn of_layout_1() -> Self {
        Self::new(1, include_bytes!("backups/layout-1.jsonl.zst")).await
    }

    /// The first layout with uploads, with something of all it has.
    async fn of_layout_4() -> Self {
        let (_server, options) = postgres_server::shared().await;
        let catalog = SqlCatalog::open_postgres(options).await.unwrap();
        fill(&(Arc::new(catalog.clone()) as Subject)).await;
        Self::new(4, &catalog.back_up().await.unwrap().bytes).await
    }

    /// A copy of it, with its options.
    async fn copy(&self, name: &str) -> PostgresOptions {
        self.server.database(name, "old").await
    }
}

async fn connect(options: &PostgresOptions) -> PgConnection {
    use sqlx::Connection as _;
    let url = std::fs::read_to_string(&options.url_file).unwrap();
    PgConnection::connect(url.trim()).await.unwrap()
}

/// Puts something into every table of layout 4 but `restores`, which later ones have.
async fn fill(catalog: &Subject) {
    catalog
        .create_database("Ünïcode 日本", false)
        .await
        .unwrap();
    let table = create(catalog, "kept").await;
    let dropped = create(catalog, "dropped").await;
    let (first, second) = (
        register(catalog, "ingester-0").await,
        register(catalog, "ingester-1").await,
    );
    commit(catalog, &first, file(dropped.id, "d", 1, 1)).await;
    catalog
        .drop_table(&dropped.name, false, None)
        .await
        .unwrap();
    for n in [2, 3] {
        commit(catalog, &first, file(table.id, &format!("small{n}"), n, n)).await;
    }
    let which = LiveFiles {
        table: table.id,
        below_bytes: None,
        before_nanos: None,
        limit: 10,
    };
    let small = catalog.live_files(which).await.unwrap();
    let compaction = ReplaceFiles {
        table: table.id,
        inputs: small.iter().map(|file| file.id).collect(),
        outputs: vec![file(table.id, "a", 2, 3)],
        removed_rows: 0,
        cause: ReplaceCause::Compaction,
        valid_until_millis: None,
        retention: None,
    };
    catalog.replace_files(compaction).await.unwrap();
    let lease = Lease {
        job: JobKind::Rewrite,
        table: Some(table.id),
        holder: "ingester-0".to_owned(),
        time: HOUR,
    };
    assert!(catalog.lease(lease).await.unwrap());
    let claim = contract::producers::claim_of(&second, table.id);
    let producer = claim.producer.clone();
    catalog.claim_producer(claim).await.unwrap();
    let mut timed = file(table.id, "b", 1, 9);
    timed.time_range_nanos = Some((i64::MIN, i64::MAX));
    let flush = FlushCommit {
        producers: vec![ProducerPosition {
            table: table.id,
            producer,
            sequence: u64::MAX,
        }],
        ..flush_of(&second, vec![timed])
    };
    catalog.commit_flush(flush).await.unwrap();
    let started = catalog.start_upload("u-1", &table.name, HOUR).await;
    assert_eq!(started.unwrap().state, UploadState::Open);
    let join = JoinUpload {
        id: "u-1".to_owned(),
        target: table.name.clone(),
        ingester: second.id,
        epoch: second.epoch,
        schema: contract::schema("of the stream"),
        ttl: HOUR,
    };
    let staging = catalog.join_upload(join).await.unwrap();
    commit(catalog, &second, file(staging.id, "u", 10, 19)).await;
}

/// Migrates with kills, and compares with a migration without. Returns the places of the kills.
async fn is_finished_after(mut old: Old, kill: Kill) -> Vec<(i64, i64)> {
    let whole = old.copy("whole").await;
    SqlCatalog::open_postgres(whole.clone()).await.unwrap();
    let killed = old.copy("killed").await;
    run(&mut connect(&killed).await, STOPS.to_owned()).await;
    let mut places = Vec::new();
    let mut wanted = (0, 0);
    while let Some(place) = kill_at(&mut old.server, &killed, wanted, kill).await {
        places.push(place);
        wanted = match (kill, place) {
            // Each takes a second: after the first statement of a migration, and in its commit.
            (Kill::Server, (layout, COMMIT)) => (layout + 1, 2),
            (Kill::Server, (layout, _)) => (layout, COMMIT),
            (Kill::Connection | Kill::Process, (layout, step)) => (layout, step + 1),
        };
    }
    let mut c = connect(&killed).await;
    run(&mut c, "DROP SCHEMA stops CASCADE".to_owned()).await;
    let (with, without) = (
        all_of(&mut c).await,
        all_of(&mut connect(&whole).await).await,
    );
    for (what, expected) in &without {
        assert_eq!(with.get(what), Some(expected), "{what}");
    }
    assert_eq!(with.len(), without.len());
    is_usable(&killed).await;
    // None of the commits was left out.
    let commits: Vec<_> = places.iter().filter(|(_, step)| *step == COMMIT).collect();
    let layouts = old.layout..version(&mut c).await;
    assert!(
        commits.iter().map(|(layout, _)| *layout).eq(layouts),
        "{places:?}"
    );
    places
}

/// Opens the catalog and kills that at the first place from `wanted` on; returns the place, and nothing when
/// there is none and the catalog was opened.
async fn kill_at(
    server: &mut Server,
    options: &PostgresOptions,
    wanted: (i64, i64),
    kill: Kill,
) -> Option<(i64, i64)> {
    let mut c = connect(options).await;
    let want = format!(
        "SELECT pg_advisory_lock({LOCK}); UPDATE stops.wanted SET layout = {}, step = {}",
        wanted.0, wanted.1
    );
    run(&mut c, want).await;
    let opening = tokio::spawn(SqlCatalog::open_postgres(options.clone()));
    let Some((session, place)) = stopped(&mut c, &opening).await else {
        let opened = opening.await.unwrap();
        opened.unwrap_or_else(|error| panic!("from {wanted:?} on: {}", chain(&error)));
        return None;
    };
    if kill == Kill::Process {
        opening.abort();
        assert!(opening.await.unwrap_err().is_cancelled());
        // What its session still does it does now, and its locks are gone with it.
        run(
            &mut c,
            format!("SELECT pg_advisory_unlock({LOCK}); SELECT pg_advisory_lock({LOCK})"),
        )
        .await;
    } else {
        if kill == Kill::Connection {
            let ended: bool = sqlx::query_scalar("SELECT pg_terminate_backend($1, 60000)")
                .bind(session)
                .fetch_one(&mut c)
                .await
                .unwrap();
            assert!(ended, "{place:?}");
        } else {
            server.kill();
            server.restart();
            c = connect(options).await;
        }
        // Who starts the process waits for the server and opens the catalog again.
        let error = opening.await.unwrap().unwrap_err();
        assert!(
            matches!(error, Error::Unavailable { .. }),
            "{place:?}: {}",
            chain(&error)
        );
    }
    // All of a migration or nothing, and only a commit that was sent may take effect.
    let (layout, step) = place;
    let committed = kill == Kill::Process && step == COMMIT;
    assert_eq!(
        version(&mut c).await,
        layout + i64::from(committed),
        "{place:?}"
    );
    Some(place)
}

/// Waits until a migration stops; returns the session it is in, and where. Nothing when it goes through.
async fn stopped(
    c: &mut PgConnection,
    opening: &tokio::task::JoinHandle<Result<SqlCatalog, Error>>,
) -> Option<(i32, (i64, i64))> {
    let waiting = "SELECT pid, split_part(substr(application_name, 4), '.', 1)::BIGINT,
                          split_part(application_name, '.', 2)::BIGINT
                   FROM pg_stat_activity
                   WHERE application_name LIKE 'at %' AND wait_event = 'advisory'";
    let found = async {
        while !opening.is_finished() {
            let found: Option<(i32, i64, i64)> = sqlx::query_as(waiting)
                .fetch_optional(&mut *c)
                .await
                .unwrap();
            if let Some((session, layout, step)) = found {
                return Some((session, (layout, step)));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        None
    };
    let found = tokio::time::timeout(Duration::from_secs(120), found).await;
    found.expect("the migration neither stops nor ends")
}

/// What clients and processes find in a catalog that was migrated, and that they go on with it.
async fn is_usable(options: &PostgresOptions) {
    let catalog = SqlCatalog::open_postgres(options.clone()).await.unwrap();
    assert_eq!(catalog.examine().await.unwrap().problems, [""; 0]);
    let catalog: Subject = Arc::new(catalog);
    let kept = TableName::public("default", "kept");
    let table = catalog.table(&kept).await.unwrap().unwrap();
    assert_eq!(content(&catalog, &table).await.0, ["a", "b"]);
    let ingester = register(&catalog, "ingester-0").await;
    assert_eq!(ingester.epoch.0, 2);
    commit(&catalog, &ingester, file(table.id, "next", 20, 29)).await;
    assert_eq!(content(&catalog, &table).await.0, ["a", "b", "next"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_whose_connection_is_killed_anywhere_is_finished_later() {
    let places = is_finished_after(Old::of_layout_1().await, Kill::Connection).await;
    // Files are copied into another table by it.
    let of_upkeep = places.iter().filter(|(layout, _)| *layout == 2).count();
    assert!(of_upkeep > 20, "{places:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_whose_process_is_killed_anywhere_is_finished_later() {
    is_finished_after(Old::of_layout_4().await, Kill::Process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_whose_server_is_killed_is_finished_later() {
    is_finished_after(Old::of_layout_4().await, Kill::Server).await;
}

/// What the tests above begin with has something of everything.
#[tokio::test]
async fn the_older_catalog_has_rows_in_every_table() {
    let old = Old::of_layout_4().await;
    let all = all_of(&mut connect(&old.copy("looked_at").await).await).await;
    let rows = all.iter().filter(|(what, _)| what.starts_with("rows of "));
    let empty: Vec<_> = rows.filter(|(_, rows)| rows.is_empty()).collect();
    assert!(empty.is_empty(), "{empty:?}");
}
