//! Another Postgres server, or another state of its data, behind the same address.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod causes;
#[allow(dead_code, reason = "the contract itself is run elsewhere")]
mod contract;
mod postgres_server;

use std::sync::Arc;
use std::time::Duration;

use causes::chain;
use contract::{Subject, commit, content, create, file, life, ready, register};
use flightcluster_catalog::sql::{PostgresOptions, SqlCatalog};
use flightcluster_catalog::{
    Catalog as _, Epoch, Error, IngesterCheck, OpenTables, RegisterIngester,
};
use postgres_server::Server;

async fn open(server: &Server) -> Subject {
    Arc::new(SqlCatalog::open_postgres(server.options()).await.unwrap())
}

/// What is lost here makes no new state of the catalog: which tables are open, and numbers of rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_lost_answered_commits_fences_every_ingester_and_gives_no_number_twice() {
    let mut server = Server::start();
    let (loser, other) = (open(&server).await, open(&server).await);
    let table = create(&loser, "t").await;
    let registered = loser.register_ingester(life("ingester-0", "u")).await;
    let registered = registered.unwrap();
    ready(&loser, &registered).await;
    let (id, epoch) = (registered.ingester.id, registered.ingester.epoch);
    let untouched = register(&other, "ingester-1").await;
    server.kill();
    server.copy();
    server.restart();

    // A server that only restarted has everything.
    let opened = OpenTables {
        ingester: id,
        epoch,
        tables: vec![table.id],
        number: 1,
        are_all: false,
        producers: Vec::new(),
    };
    loser.open_tables(opened).await.unwrap();
    let first = loser.take_orders(id, epoch, 10).await.unwrap();
    assert_eq!(first, 1);

    server.kill();
    server.set_back();
    server.restart();
    // Whoever asks first: the process that knows what is lost, and before it does anything else.
    let databases = loser.list_databases().await.unwrap();
    assert_eq!(databases.len(), 1);
    for (catalog, id, epoch) in [(&loser, id, epoch), (&other, untouched.id, untouched.epoch)] {
        let check = IngesterCheck {
            ingester: id,
            epoch,
            seen: registered.newest,
        };
        let answer = catalog.check_ingester(check).await;
        assert!(matches!(answer, Err(Error::Fenced { .. })), "{answer:?}");
        let answer = catalog.take_orders(id, epoch, 1).await;
        assert!(matches!(answer, Err(Error::Fenced { .. })), "{answer:?}");
    }
    let mut again = life("ingester-0", "u");
    again.log.epoch = epoch;
    again.log.seen = Some(registered.newest);
    let again = begin(&loser, again).await;
    let next = loser.take_orders(id, again, 1).await.unwrap();
    assert!(next > first + 9, "{next} was given before");
    // It is dealt with once.
    loser.create_database("d", false).await.unwrap();
    server.kill();
    server.restart();
    let after = loser.take_orders(id, again, 1).await.unwrap();
    assert_eq!(after, next + 1);
    let asked = other.ingesters_of(table.id).await.unwrap();
    assert_eq!(asked.len(), 2, "any of them may have rows: {asked:?}");
}

/// Calls that begin at once don't end in that order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_at_once_over_new_connections_are_not_taken_for_lost() {
    let server = Server::start();
    let catalog = open(&server).await;
    let ingester = register(&catalog, "ingester-0").await;
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
    for round in 0..10 {
        let writes = futures::future::join_all((0..30).map(|n| {
            let (name, catalog) = (format!("d{round}_{n}"), Arc::clone(&catalog));
            async move { catalog.create_database(&name, false).await.unwrap() }
        }));
        writes.await;
        sqlx::raw_sql(end_all)
            .execute(&mut server.connect().await)
            .await
            .unwrap();
        catalog.list_databases().await.unwrap();
    }
    catalog
        .take_orders(ingester.id, ingester.epoch, 1)
        .await
        .unwrap();
}

async fn begin(catalog: &Subject, request: RegisterIngester) -> Epoch {
    let registered = catalog.register_ingester(request).await.unwrap();
    ready(catalog, &registered).await;
    registered.ingester.epoch
}

/// The states that a flush made are lost, and others get their numbers before anybody looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_relied_on_a_lost_commit_is_refused() {
    let mut server = Server::start();
    let catalog = open(&server).await;
    let table = create(&catalog, "t").await;
    let registered = catalog.register_ingester(life("ingester-0", "u")).await;
    let registered = registered.unwrap();
    ready(&catalog, &registered).await;
    server.kill();
    server.copy();
    server.restart();
    let lost = commit(&catalog, &registered.ingester, file(table.id, "lost", 1, 1)).await;
    server.kill();
    server.set_back();
    server.restart();
    let stranger = open(&server).await;
    for name in ["a", "b", "c"] {
        stranger.create_database(name, false).await.unwrap();
    }
    assert!(content(&catalog, &table).await.0.is_empty());
    let mut request = life("ingester-0", "u");
    request.log.epoch = registered.ingester.epoch;
    request.log.seen = Some(lost.stamp());
    let refused = catalog.register_ingester(request).await.unwrap_err();
    assert!(matches!(refused, Error::RolledBack { .. }), "{refused}");
    assert!(refused.to_string().contains("catalog readmit"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_not_read_and_is_named_until_it_is_promoted() {
    let mut server = Server::start();
    let options = PostgresOptions {
        timeout: Duration::from_secs(2),
        ..server.options()
    };
    let catalog = SqlCatalog::open_postgres(options.clone()).await.unwrap();
    server.kill();
    server.be_standby(true);
    server.restart();
    for answer in [
        SqlCatalog::open_postgres(options).await.map(drop),
        catalog.list_databases().await.map(drop),
        catalog.create_database("d", false).await.map(drop),
    ] {
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        let text = chain(&error);
        assert!(
            text.contains("a standby that takes no writes; name the primary"),
            "{text}"
        );
    }
    server.kill();
    server.be_standby(false);
    server.restart();
    catalog.create_database("d", false).await.unwrap();
    assert_eq!(catalog.list_databases().await.unwrap().len(), 2);
}

/// A load balancer whose server is gone accepts connections and closes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_ends_in_the_middle_is_unavailable_and_not_broken() {
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = proxy.local_addr().unwrap().port();
    let accepting = tokio::spawn(async move { while proxy.accept().await.is_ok() {} });
    let files = tempfile::TempDir::new().unwrap();
    let url_file = files.path().join("url");
    for mode in ["prefer", "verify-full"] {
        let url = format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode={mode}");
        std::fs::write(&url_file, url).unwrap();
        let options = PostgresOptions {
            url_file: url_file.clone(),
            password_file: None,
            ca_file: None,
            allow_insecure: false,
            max_connections: 2,
            timeout: Duration::from_secs(2),
        };
        let error = SqlCatalog::open_postgres(options).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    }
    accepting.abort();
}

async fn run(server: &Server, statements: &'static str) {
    sqlx::raw_sql(statements)
        .execute(&mut server.connect().await)
        .await
        .unwrap();
}

const END_ALL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";

/// As a copy of before an upgrade has it.
const OLDER: &str = "DROP TABLE histories, layouts, writers; \
                     ALTER TABLE restores DROP COLUMN fenced; \
                     ALTER TABLE ingesters DROP COLUMN readmitted; \
                     DELETE FROM migrations WHERE version >= 14";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_with_an_older_layout_is_noticed_and_brought_up_to_date() {
    let server = Server::start();
    let catalog = open(&server).await;
    let ingester = register(&catalog, "ingester-0").await;
    run(&server, OLDER).await;
    run(&server, END_ALL).await;
    assert_eq!(catalog.list_databases().await.unwrap().len(), 1);
    let answer = catalog.take_orders(ingester.id, ingester.epoch, 1).await;
    assert!(matches!(answer, Err(Error::Fenced { .. })), "{answer:?}");
    catalog.create_database("d", false).await.unwrap();
    run(&server, END_ALL).await;
    assert_eq!(catalog.list_databases().await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_can_not_be_used_is_named_with_the_cure() {
    let server = Server::start();
    let patient = PostgresOptions {
        timeout: Duration::from_secs(2),
        ..server.options()
    };
    let other = SqlCatalog::open_postgres(patient).await.unwrap();
    let rights = "CREATE ROLE worker LOGIN; \
                  GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker";
    run(&server, rights).await;
    let url_file = server.data().with_file_name("worker");
    let url = format!("postgres:///postgres?host={}&user=worker", server.socket());
    std::fs::write(&url_file, url).unwrap();
    let options = PostgresOptions {
        url_file,
        timeout: Duration::from_secs(2),
        ..server.options()
    };
    let catalog = SqlCatalog::open_postgres(options).await.unwrap();
    run(&server, OLDER).await;
    run(&server, END_ALL).await;
    let error = catalog.list_databases().await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{}", chain(&error));
    assert!(chain(&error).contains("right CREATE"), "{}", chain(&error));
    run(&server, "DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    run(&server, END_ALL).await;
    let error = other.list_databases().await.unwrap_err();
    let text = chain(&error);
    assert!(matches!(error, Error::Unavailable { .. }), "{text}");
    assert!(text.contains("holds no catalog"), "{text}");
}

/// A process that rests has an old row as soon as the clock is ahead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_far_ahead_makes_nobody_believe_in_lost_commits() {
    let server = Server::start();
    let catalog = open(&server).await;
    let ingester = register(&catalog, "ingester-0").await;
    // Found before the real one.
    let ahead = "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS \
                 $$ SELECT pg_catalog.clock_timestamp() + INTERVAL '365 days' $$; \
                 ALTER DATABASE postgres SET search_path = public, pg_catalog";
    run(&server, ahead).await;
    let other = open(&server).await;
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    other.forget_history(week).await.unwrap();
    run(&server, END_ALL).await;
    let taken = catalog.take_orders(ingester.id, ingester.epoch, 1).await;
    assert_eq!(taken.unwrap(), 1);
}

/// It left its own row locked, as one does that was numbering rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_died_holds_up_its_own_process_and_no_other() {
    let server = Server::start();
    let catalog = open(&server).await;
    let mut dead = server.connect().await;
    let left = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '6s'; \
                UPDATE writers SET number = number";
    sqlx::raw_sql(left).execute(&mut dead).await.unwrap();
    let other = open(&server).await;
    let waiting = tokio::spawn({
        let catalog = Arc::clone(&catalog);
        async move { catalog.create_database("mine", false).await }
    });
    let blocked = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let mut asking = server.connect().await;
    while sqlx::query_scalar::<_, i64>(blocked)
        .fetch_one(&mut asking)
        .await
        .unwrap()
        == 0
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let soon = tokio::time::timeout(
        Duration::from_secs(4),
        other.create_database("theirs", false),
    );
    soon.await.unwrap().unwrap();
    assert!(!waiting.is_finished());
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_too_long_for_a_lock_ends_no_other_connection() {
    let server = Server::start();
    let options = PostgresOptions {
        timeout: Duration::from_millis(1500),
        ..server.options()
    };
    let catalog = SqlCatalog::open_postgres(options).await.unwrap();
    catalog.list_databases().await.unwrap();
    let mut asking = server.connect().await;
    let reader = "SELECT pid FROM pg_stat_activity
                  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
                    AND query NOT LIKE 'BEGIN%' AND state = 'idle' ORDER BY pid";
    let before: Vec<i32> = sqlx::query_scalar(reader)
        .fetch_all(&mut asking)
        .await
        .unwrap();
    let mut long = server.connect().await;
    let begun = "BEGIN; SELECT value FROM counters WHERE kind = 'snapshot' FOR UPDATE";
    sqlx::raw_sql(begun).execute(&mut long).await.unwrap();
    let late = catalog.create_database("d", false).await;
    assert!(matches!(late, Err(Error::Unavailable { .. })), "{late:?}");
    catalog.list_databases().await.unwrap();
    let after: Vec<i32> = sqlx::query_scalar(reader)
        .fetch_all(&mut asking)
        .await
        .unwrap();
    let kept = before.iter().filter(|pid| after.contains(pid)).count();
    assert_eq!((before.len(), kept), (2, 1), "{before:?} {after:?}");
}
