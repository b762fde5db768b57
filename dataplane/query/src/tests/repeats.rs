//! A statement that comes again, to whatever server.

use super::fixture::Cluster;
use crate::ExecuteOptions;

#[tokio::test]
async fn a_repeated_insert_with_the_same_key_stores_its_rows_once() {
    let cluster = Cluster::start().await;
    cluster.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    for _ in 0..2 {
        let plan = cluster.plan("INSERT INTO t VALUES (1), (2)").await.unwrap();
        let options = ExecuteOptions {
            idempotency_key: Some(77),
            ..ExecuteOptions::default()
        };
        assert_eq!(
            cluster.engine.execute_update(plan, options).await.unwrap(),
            2
        );
    }
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 2);
}

/// The first run may have stored a part, in batches that were cut differently.
#[tokio::test]
async fn only_rows_that_stand_in_the_statement_can_be_told_to_be_stored_by_a_repeat() {
    let cluster = Cluster::start().await;
    cluster.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    let told = [
        "INSERT INTO t VALUES (1), (2)",
        "INSERT INTO t (id) VALUES (3)",
        "INSERT INTO t SELECT 4",
        "INSERT INTO t SELECT x + 1 FROM (VALUES (5), (6)) AS v (x)",
    ];
    let refused = [
        "INSERT INTO t SELECT id FROM t",
        "INSERT INTO t SELECT value FROM generate_series(1, 3)",
        "INSERT INTO t SELECT 1 UNION ALL SELECT 2",
    ];
    for (number, sql) in (0..).zip(told.into_iter().chain(refused)) {
        let run = async || {
            let options = ExecuteOptions {
                idempotency_key: Some(number),
                ..ExecuteOptions::default()
            };
            let plan = cluster.plan(sql).await.unwrap();
            cluster.engine.execute_update(plan, options).await
        };
        let first = run().await.unwrap();
        let rows = cluster.number("SELECT count(*) FROM t").await;
        assert_eq!(
            run().await.ok(),
            told.contains(&sql).then_some(first),
            "{sql}"
        );
        assert_eq!(
            cluster.number("SELECT count(*) FROM t").await,
            rows,
            "{sql}"
        );
    }
}
