//! Places, time, memory and leaving.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flightcluster_config::{ByteSize, QueryConfig};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::fixture::{Cluster, config, points, points_schema};
use crate::{BatchStream, Error, ExecuteOptions};

/// Runs for hours and gives rows all the time.
const ENDLESS: &str = "SELECT tick(a.value * b.value) AS v \
    FROM generate_series(1, 10000) AS a CROSS JOIN generate_series(1, 10000000) AS b";

/// Runs for hours before its first row.
const SILENT: &str = "SELECT sum(tick(a.value * b.value)) \
    FROM generate_series(1, 10000) AS a CROSS JOIN generate_series(1, 10000000) AS b";

async fn one_at_a_time(queue_length: u32) -> Cluster {
    let config = QueryConfig {
        max_concurrent_queries: 1,
        queue_length,
        ..config()
    };
    Cluster::with(config, 256 * 1024 * 1024).await
}

async fn begin(cluster: &Cluster, sql: &str, request_id: &str) -> BatchStream {
    let plan = cluster.plan(sql).await.unwrap();
    let request_id = request_id.to_owned();
    cluster.engine.execute(
        plan,
        ExecuteOptions {
            request_id,
            ..ExecuteOptions::default()
        },
    )
}

/// Tasks of an ended query are dropped by their threads, which may take a moment.
async fn all_memory_is_given_back(cluster: &Cluster) {
    while cluster.engine.stats().memory_reserved_bytes > 0 {
        tokio::task::yield_now().await;
    }
}

/// S2-9, S4-20: the place of a query is free again only when its task is gone.
#[tokio::test]
async fn s2_9_dropping_the_stream_ends_the_computing() {
    let cluster = one_at_a_time(8).await;
    let computed = Arc::clone(&cluster.ticks);
    for (sql, rows_come) in [(ENDLESS, true), (SILENT, false)] {
        let before = computed.load(Ordering::Relaxed);
        let mut rows = begin(&cluster, sql, "first").await;
        if rows_come {
            assert!(rows.next().await.unwrap().unwrap().num_rows() > 0);
        }
        // What the query before left behind may still count: this one must have begun as well.
        while cluster.engine.stats().running == 0 || computed.load(Ordering::Relaxed) == before {
            assert!(rows.next().now_or_never().is_none() || rows_come);
            tokio::task::yield_now().await;
        }
        drop(rows);
        let next = tokio::time::timeout(Duration::from_secs(60), cluster.number("SELECT 7")).await;
        assert_eq!(next.expect("the place is free again"), 7);
    }
    let stats = cluster.engine.stats();
    assert_eq!(
        (stats.running, stats.queued, stats.cancelled_total),
        (0, 0, 2)
    );
    all_memory_is_given_back(&cluster).await;
    // The tasks below that of the query end at their next turn.
    let stands_still = async {
        loop {
            let before = computed.load(Ordering::Relaxed);
            cluster.number("SELECT 7").await;
            if computed.load(Ordering::Relaxed) == before {
                return;
            }
        }
    };
    let limit = Duration::from_secs(60);
    let ended = tokio::time::timeout(limit, stands_still).await;
    ended.expect("nothing computes any more");
}

#[tokio::test]
async fn a_silent_query_is_cancelled_by_its_request_id() {
    let cluster = one_at_a_time(8).await;
    let rows = begin(&cluster, SILENT, "slow-one").await;
    let running = tokio::spawn(rows.try_collect::<Vec<_>>());
    while cluster.engine.stats().running == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.engine.cancel("another"), 0);
    assert_eq!(cluster.engine.cancel("slow-one"), 1);
    assert!(matches!(running.await.unwrap(), Err(Error::Cancelled)));
    assert_eq!(cluster.number("SELECT 7").await, 7);
}

#[tokio::test]
async fn the_deadline_ends_a_query_also_while_it_waits() {
    let cluster = one_at_a_time(8).await;
    let soon = || Some(Instant::now() + Duration::from_millis(50));
    let plan = cluster.plan(SILENT).await.unwrap();
    let options = ExecuteOptions {
        deadline: soon(),
        ..ExecuteOptions::default()
    };
    let late = cluster
        .engine
        .execute(plan, options)
        .try_collect::<Vec<_>>()
        .await;
    assert!(matches!(late, Err(Error::DeadlineExceeded)));

    let mut first = begin(&cluster, ENDLESS, "first").await;
    first.next().await.unwrap().unwrap();
    let plan = cluster.plan("SELECT 1").await.unwrap();
    let options = ExecuteOptions {
        deadline: soon(),
        ..ExecuteOptions::default()
    };
    let late = cluster
        .engine
        .execute(plan, options)
        .try_collect::<Vec<_>>()
        .await;
    assert!(matches!(late, Err(Error::DeadlineExceeded)));
    assert_eq!(cluster.engine.stats().queued, 0);
}

#[tokio::test]
async fn the_configured_timeout_counts_from_the_first_poll() {
    let timeout = Some(Duration::from_millis(50));
    let cluster = Cluster::with(
        QueryConfig {
            timeout,
            ..config()
        },
        256 * 1024 * 1024,
    )
    .await;
    let late = cluster.query(SILENT).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded)));
}

#[tokio::test]
async fn a_query_waits_for_its_turn_and_one_too_many_is_refused() {
    let cluster = one_at_a_time(1).await;
    let mut first = begin(&cluster, ENDLESS, "first").await;
    first.next().await.unwrap().unwrap();
    let mut second = begin(&cluster, "SELECT 2", "second").await;
    assert!(second.next().now_or_never().is_none());
    assert_eq!(cluster.engine.stats().queued, 1);

    let refused = cluster.query("SELECT 3").await.unwrap_err();
    assert!(
        matches!(
            refused,
            Error::QueueFull {
                running: 1,
                waiting: 1
            }
        ),
        "{refused:?}"
    );
    assert_eq!(cluster.engine.stats().rejected_total, 1);

    drop(first);
    assert_eq!(second.next().await.unwrap().unwrap().num_rows(), 1);
    assert!(second.next().await.is_none());
}

#[tokio::test]
async fn a_stream_that_is_not_polled_takes_no_place() {
    let cluster = one_at_a_time(1).await;
    let rows = begin(&cluster, ENDLESS, "first").await;
    assert_eq!(cluster.engine.stats().running, 0);
    assert_eq!(cluster.number("SELECT 7").await, 7);
    drop(rows);
}

#[tokio::test]
async fn a_caller_that_reads_slowly_holds_up_the_query_and_not_the_memory() {
    let cluster = one_at_a_time(1).await;
    let mut rows = begin(&cluster, ENDLESS, "first").await;
    for _ in 0..20 {
        rows.next().await.unwrap().unwrap();
    }
    assert!(cluster.engine.stats().memory_reserved_bytes < 64 * 1024 * 1024);
}

#[tokio::test]
async fn too_little_memory_is_told_with_the_setting_that_helps() {
    let cluster = Cluster::with(config(), 2 * 1024 * 1024).await;
    let sql = "SELECT count(*) FROM (SELECT value, array_agg(value) \
               FROM generate_series(1, 300000) GROUP BY value)";
    let error = cluster.query(sql).await.unwrap_err();
    assert_eq!(error.category(), "memory_exhausted", "{error:?}");
    assert!(
        error.to_string().contains("query.memory_bytes = 2097152"),
        "{error}"
    );
    all_memory_is_given_back(&cluster).await;
    assert_eq!(
        cluster
            .number("SELECT count(*) FROM generate_series(1, 100)")
            .await,
        100
    );
}

#[tokio::test]
async fn a_sort_larger_than_memory_goes_to_the_scratch_disk_and_leaves_nothing_there() {
    let cluster = Cluster::with(config(), 24 * 1024 * 1024).await;
    let sql = "EXPLAIN ANALYZE SELECT value, repeat('x', 100) AS text \
               FROM generate_series(1, 200000) ORDER BY text, value DESC";
    let plan = cluster.text(sql).await;
    let spills = plan
        .split("spill_count=")
        .skip(1)
        .filter(|rest| !rest.starts_with('0'))
        .count();
    assert!(spills > 0, "{plan}");
    let spill = cluster.directory.path().join("spill");
    let mut left = Vec::new();
    for directory in std::fs::read_dir(&spill).unwrap() {
        left.extend(std::fs::read_dir(directory.unwrap().path()).unwrap());
    }
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_query_that_needs_more_scratch_disk_than_there_is_fails_and_names_the_setting() {
    let config = QueryConfig {
        spill_bytes: Some(ByteSize(1024 * 1024)),
        ..config()
    };
    let cluster = Cluster::with(config, 24 * 1024 * 1024).await;
    let sql = "SELECT value, repeat('x', 100) AS text \
               FROM generate_series(1, 200000) ORDER BY text, value DESC";
    let error = cluster.query(sql).await.unwrap_err();
    assert_eq!(error.category(), "scratch_exhausted", "{error:?}");
    assert!(error.to_string().contains("query.spill_bytes"), "{error}");
    all_memory_is_given_back(&cluster).await;
}

#[tokio::test]
async fn fresh_rows_count_as_memory_of_the_query_until_it_ends() {
    let cluster = Cluster::with(config(), 2 * 1024 * 1024).await;
    let table = cluster.create("t", &points_schema()).await;
    cluster.ingesters.write("a", &table, points(1..=40_000));
    let sql = "SELECT city FROM t WHERE id > 0 LIMIT 40000";
    let mut rows = begin(&cluster, sql, "fits").await;
    rows.next().await.unwrap().unwrap();
    let held = cluster.engine.stats().memory_reserved_bytes;
    assert!(held > 500_000, "{held}");
    drop(rows);
    all_memory_is_given_back(&cluster).await;

    for _ in 0..5 {
        cluster.ingesters.write("b", &table, points(1..=40_000));
    }
    let error = cluster.query(sql).await.unwrap_err();
    assert_eq!(error.category(), "memory_exhausted", "{error:?}");
    all_memory_is_given_back(&cluster).await;
}

#[tokio::test]
async fn running_queries_are_listed() {
    let cluster = Cluster::start().await;
    let mut rows = begin(&cluster, ENDLESS, "busy").await;
    rows.next().await.unwrap().unwrap();
    let sql = "SELECT request_id, running FROM system.queries WHERE sql LIKE '%CROSS JOIN%'";
    let listed = cluster.text(sql).await;
    assert!(listed.contains("| busy       | true    |"), "{listed}");
    drop(rows);
    assert_eq!(
        cluster.number("SELECT count(*) FROM system.queries").await,
        0
    );
}

#[tokio::test]
async fn small_batches_are_joined() {
    let cluster = Cluster::start().await;
    let table = cluster.spread().await;
    for id in 301..=400 {
        cluster
            .ingesters
            .write("a", &table, super::fixture::points(id..=id));
    }
    let batches = cluster.query("SELECT id FROM t").await.unwrap();
    assert!(batches.len() < 60, "{} batches for 400 rows", batches.len());
    assert_eq!(
        batches.iter().map(|batch| batch.num_rows()).sum::<usize>(),
        400
    );
}

#[test]
fn an_engine_may_be_dropped_inside_a_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let cluster = Cluster::start().await;
        let mut rows = begin(&cluster, ENDLESS, "first").await;
        rows.next().await.unwrap().unwrap();
        drop(cluster);
        drop(rows);
    });
}

#[tokio::test]
async fn all_futures_and_values_may_move_between_threads() {
    fn movable<T: Send>(value: T) -> T {
        value
    }
    let cluster = Cluster::start().await;
    let plan = movable(cluster.engine.plan(Cluster::request("SELECT 1")))
        .await
        .unwrap();
    let update = movable(cluster.engine.clone());
    let update = movable(update.execute_update(movable(plan), ExecuteOptions::default())).await;
    assert_eq!(update.unwrap_err().category(), "unsupported");
}
