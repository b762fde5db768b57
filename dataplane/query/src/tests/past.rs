//! The past: a snapshot answers as it did then, is whole or refused, and can't be changed.

use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use flightcluster_catalog::{AsOf as State, SchemaVersion, SnapshotId, TableName};

use super::fixture::{Cluster, DATABASE, int64s, points, points_schema};
use crate::{AsOf, Error, Past, QueryRequest, encode_schema};

/// The newest state.
async fn newest(cluster: &Cluster) -> u64 {
    cluster.catalog.snapshot(&[]).await.unwrap().id.0
}

/// Makes one file of all files of a table.
async fn compact(cluster: &Cluster, table: &str) {
    let name = TableName::public(DATABASE, table);
    let table = cluster.catalog.table(&name).await.unwrap().unwrap();
    let catalog = std::sync::Arc::clone(&cluster.catalog);
    super::deleting::compact(catalog, cluster.engine.rewriter(), table.id).await;
}

/// A query of which every table is as of this.
async fn back_then(cluster: &Cluster, sql: &str, as_of: AsOf) -> Result<Vec<RecordBatch>, Error> {
    let request = QueryRequest {
        as_of: Some(as_of),
        ..Cluster::request(sql)
    };
    let plan = cluster.engine.plan(request).await?;
    // As a ticket carries it to another server.
    let known = AsOf::Known(plan.past().unwrap());
    let rows = cluster.run(plan).await?;
    let again = QueryRequest {
        as_of: Some(known),
        ..Cluster::request(sql)
    };
    let again = cluster.run(cluster.engine.plan(again).await?).await?;
    let count = |rows: &[RecordBatch]| rows.iter().map(RecordBatch::num_rows).sum::<usize>();
    assert_eq!(count(&rows), count(&again));
    Ok(rows)
}

fn version(id: u64) -> AsOf {
    AsOf::Asked(State::Snapshot(SnapshotId(id)))
}

/// The ids of the table `t` at a snapshot, by each of the ways to ask.
async fn ids(cluster: &Cluster, id: u64) -> Vec<i64> {
    let sql = "SELECT id FROM t ORDER BY id";
    let ids = int64s(&back_then(cluster, sql, version(id)).await.unwrap(), 0);
    let count = back_then(cluster, "SELECT count(*) FROM t", version(id)).await;
    assert_eq!(int64s(&count.unwrap(), 0), [ids.len() as i64]);
    for sql in [
        format!("SELECT id FROM t FOR SYSTEM_VERSION AS OF {id} ORDER BY t.id"),
        format!("SELECT id FROM T for version as of {id} ORDER BY t.id"),
        format!("SELECT x.id FROM demo.public.t VERSION AS OF {id} AS x ORDER BY x.id"),
        format!(
            "WITH c AS (SELECT * FROM \"t\" VERSION AS OF {id} x) SELECT id FROM c ORDER BY id"
        ),
    ] {
        let rows = cluster.query(&sql).await;
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert_eq!(int64s(&rows, 0), ids, "{sql}");
    }
    ids
}

fn range(ids: std::ops::RangeInclusive<i64>) -> Vec<i64> {
    ids.collect()
}

/// A table with a state for each thing that can happen to it, and what those hold.
async fn history() -> (Cluster, Vec<(u64, Vec<i64>)>) {
    let cluster = Cluster::start().await;
    let table = cluster.create("t", &points_schema()).await;
    let mut states = vec![(newest(&cluster).await, Vec::new())];
    for last in [10, 20, 30] {
        cluster
            .ingesters
            .write("a", &table, points(last - 9..=last));
        cluster.ingesters.flush("a", &table.name).await;
        states.push((newest(&cluster).await, range(1..=last)));
    }
    // In no file: not in the snapshot.
    cluster.ingesters.write("b", &table, points(31..=35));
    states.push((newest(&cluster).await, range(1..=30)));
    cluster.update("DELETE FROM t WHERE id <= 5").await.unwrap();
    states.push((newest(&cluster).await, range(6..=35)));
    compact(&cluster, "t").await;
    states.push((newest(&cluster).await, range(6..=35)));
    cluster
        .update("CREATE OR REPLACE TABLE t AS SELECT id, city FROM t WHERE id > 30")
        .await
        .unwrap();
    cluster.ingesters.flush("a", &table.name).await;
    states.push((newest(&cluster).await, range(31..=35)));
    cluster.update("DROP TABLE t").await.unwrap();
    (cluster, states)
}

#[tokio::test]
async fn a_snapshot_answers_as_it_did_then() {
    let (cluster, states) = history().await;
    assert!(cluster.query("SELECT * FROM t").await.is_err());
    for (id, rows) in &states {
        assert_eq!(ids(&cluster, *id).await, *rows, "snapshot {id}");
    }
    // No ingester was asked for what is in no file.
    let (old, new) = (states[1].0, states[3].0);
    let sql = format!(
        "SELECT id FROM t FOR VERSION AS OF {new} EXCEPT SELECT id FROM t VERSION AS OF {old} ORDER BY 1"
    );
    assert_eq!(
        int64s(&cluster.query(&sql).await.unwrap(), 0),
        range(11..=30)
    );
    // What the table says comes before what the call says; both may say the same.
    for call in [old, new] {
        let sql =
            format!("SELECT n.id FROM t o JOIN t VERSION AS OF {new} n USING (id) ORDER BY 1");
        let rows = back_then(&cluster, &sql, version(call)).await.unwrap();
        let last = if call == old { 10 } else { 30 };
        assert_eq!(int64s(&rows, 0), range(1..=last));
    }
    // Of before the table, and of after it.
    for id in [states[0].0 - 1, newest(&cluster).await] {
        let error = back_then(&cluster, "SELECT * FROM t", version(id)).await;
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains(&format!("demo.public.t is not in snapshot {id}")),
            "{error}"
        );
        let error = cluster
            .query(&format!("SELECT * FROM t VERSION AS OF {id}"))
            .await;
        assert!(
            matches!(error, Err(Error::NotInSnapshot { .. })),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn the_schema_is_that_of_the_snapshot() {
    let cluster = Cluster::start().await;
    let table = cluster.create("t", &points_schema()).await;
    cluster.ingesters.write("a", &table, points(1..=3));
    cluster.ingesters.flush("a", &table.name).await;
    let before = newest(&cluster).await;
    let mut fields: Vec<_> = points_schema().fields().iter().cloned().collect();
    fields.push(Field::new("height", DataType::Float64, true).into());
    let wider = encode_schema(&Schema::new(fields)).unwrap();
    cluster
        .catalog
        .evolve_table(table.id, SchemaVersion(1), wider)
        .await
        .unwrap();
    let after = newest(&cluster).await;
    for (id, columns) in [(before, 2), (after, 3)] {
        let rows = back_then(&cluster, "SELECT * FROM t", version(id))
            .await
            .unwrap();
        assert_eq!(rows[0].num_columns(), columns, "snapshot {id}");
    }
}

#[tokio::test]
async fn a_time_means_the_last_snapshot_made_by_then() {
    let (cluster, states) = history().await;
    let records = cluster.catalog.list_snapshots(1000).await.unwrap();
    for (id, rows) in &states[1..] {
        let record = records.iter().find(|record| record.stamp.snapshot.0 == *id);
        let at = record.unwrap().stamp.created_at_millis;
        // Others may have been made in the same millisecond.
        let by_then = records
            .iter()
            .filter(|record| record.stamp.created_at_millis <= at)
            .map(|record| record.stamp.snapshot.0)
            .max();
        if by_then != Some(*id) {
            continue;
        }
        let time = crate::past::time_text(at);
        let as_of = AsOf::parse(&time).unwrap();
        assert_eq!(as_of, AsOf::Asked(State::Millis(at)));
        let sql = "SELECT id FROM t ORDER BY id";
        let found = back_then(&cluster, sql, as_of).await.unwrap();
        assert_eq!(int64s(&found, 0), *rows);
        for written in [
            "FOR SYSTEM_TIME AS OF",
            "FOR TIMESTAMP AS OF",
            "TIMESTAMP AS OF TIMESTAMP",
        ] {
            let sql = format!("SELECT id FROM t {written} '{time}' ORDER BY id");
            assert_eq!(
                int64s(&cluster.query(&sql).await.unwrap(), 0),
                *rows,
                "{sql}"
            );
        }
    }
    for (time, why) in [
        (
            "2999-01-01T00:00:00Z",
            "2999-01-01T00:00:00Z is still to come; the newest is snapshot",
        ),
        (
            "1999-01-01",
            "1999-01-01T00:00:00Z is no longer kept; the oldest that can be read is",
        ),
    ] {
        let as_of = AsOf::parse(time).unwrap();
        let error = back_then(&cluster, "SELECT 1", as_of).await.unwrap_err();
        assert!(matches!(error, Error::AsOf { .. }), "{error:?}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let error = back_then(&cluster, "SELECT 1", version(4711))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("snapshot 4711 is still to come"),
        "{error}"
    );
}

#[tokio::test]
async fn what_was_deleted_is_refused_and_never_a_smaller_answer() {
    let (cluster, states) = history().await;
    let due = cluster
        .catalog
        .due_garbage(Duration::ZERO, 1000)
        .await
        .unwrap();
    let paths: Vec<String> = due.into_iter().map(|garbage| garbage.path).collect();
    let (id, rows) = &states[2];
    let planned = cluster
        .plan(&format!("SELECT id FROM t VERSION AS OF {id}"))
        .await;
    for path in &paths {
        cluster.delete(path).await;
    }
    // Before the catalog hears of it, and for who looked before.
    let late = cluster.run(planned.unwrap()).await.unwrap_err();
    let fresh = back_then(&cluster, "SELECT id FROM t", version(*id))
        .await
        .unwrap_err();
    for error in [late, fresh] {
        let text = error.to_string();
        assert!(
            text.contains(&format!("objects of snapshot {id} were deleted")),
            "{text}"
        );
        assert!(text.contains("upkeep.gc_grace"), "{text}");
    }
    cluster.catalog.garbage_deleted(&paths).await.unwrap();
    for (id, _) in &states {
        let error = back_then(&cluster, "SELECT id FROM t", version(*id))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("snapshot {id} is no longer kept")),
            "{text}"
        );
        assert!(text.contains("upkeep.gc_grace"), "{text}");
    }
    assert!(!rows.is_empty());
    // The oldest that is left is the one that is named.
    let oldest = cluster
        .number("SELECT min(snapshot)::BIGINT FROM system.snapshots")
        .await;
    let error = back_then(&cluster, "SELECT 1", version(1))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains(&format!(
            "the oldest that can be read is snapshot {oldest} of"
        )),
        "{text}"
    );
    back_then(&cluster, "SELECT 1", version(oldest as u64))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_past_is_copied_and_not_changed() {
    let (cluster, states) = history().await;
    let (id, rows) = &states[3];
    let copy = format!("CREATE TABLE t AS SELECT * FROM t VERSION AS OF {id} WHERE id < 10");
    cluster.update(&copy).await.unwrap();
    let insert = format!("INSERT INTO t SELECT * FROM t FOR VERSION AS OF {id} WHERE id >= 10");
    cluster.update(&insert).await.unwrap();
    let now = cluster.query("SELECT id FROM t ORDER BY id").await.unwrap();
    assert_eq!(int64s(&now, 0), *rows);
    for sql in [
        "INSERT INTO t FOR VERSION AS OF 3 VALUES (1, 'x')",
        "DELETE FROM t VERSION AS OF 3 WHERE id = 1",
        "DELETE FROM t FOR SYSTEM_TIME AS OF '2020-01-01'",
        "DELETE FROM t VERSION AS OF 3 AS x WHERE x.id = 1",
        "TRUNCATE TABLE t FOR VERSION AS OF 3",
        "DROP TABLE t FOR VERSION AS OF 3",
        "CREATE TABLE u FOR VERSION AS OF 3 (id BIGINT)",
        "ALTER TABLE t FOR VERSION AS OF 3 SET (retention = '1d')",
        "INSERT INTO \"t/version/3\" VALUES (1, 'x')",
    ] {
        let error = cluster.plan(sql).await.unwrap_err();
        let refused = matches!(
            error,
            Error::AsOf { .. } | Error::Syntax { .. } | Error::Unsupported { .. }
        );
        assert!(refused, "{sql}: {error:?}");
    }
    for sql in [
        "INSERT INTO t VALUES (1, 'x')",
        "DELETE FROM t",
        "DROP TABLE t",
    ] {
        let request = QueryRequest {
            as_of: Some(version(*id)),
            ..Cluster::request(sql)
        };
        let error = cluster.engine.plan(request).await.unwrap_err().to_string();
        assert!(
            error.contains("can't be done in the past; take"),
            "{sql}: {error}"
        );
    }
}

#[tokio::test]
async fn as_of_is_understood_or_refused_and_never_passed_over() {
    let (cluster, states) = history().await;
    let id = states[3].0;
    for (clause, why) in [
        (
            "FROM t FOR VERSION AS OF '3'",
            "line 1, column 17: AS OF takes the number of a snapshot",
        ),
        ("FROM t FOR VERSION AS OF $1", "the number of a snapshot"),
        ("FROM t FOR SYSTEM_TIME AS OF 3", "a time in quotes"),
        (
            "FROM t FOR SYSTEM_TIME AS OF now() - INTERVAL '1 hour'",
            "a time in quotes",
        ),
        (
            "FROM t FOR SYSTEM_TIME AS OF 'yesterday'",
            "neither the number of a snapshot nor a time",
        ),
        (
            "FROM t VERSION AS OF 3 VERSION AS OF 4",
            "after the name of a table",
        ),
        ("FROM t AS x FOR VERSION AS OF 3", "before its alias"),
        ("FROM t x VERSION AS OF 3", "before its alias"),
        (
            "FROM (SELECT 1) FOR VERSION AS OF 3",
            "after the name of a table",
        ),
        (
            "FROM generate_series(1) FOR VERSION AS OF 3",
            "after the name of a table",
        ),
        (
            ", id FOR VERSION AS OF 3 FROM t",
            "after the name of a table",
        ),
        ("FROM t FOR VERSION AS OF 99999999999999999999", "not found"),
        ("FROM system.tables FOR VERSION AS OF 3", "has no past"),
    ] {
        let sql = format!("SELECT * {clause}");
        let error = cluster.plan(&sql).await.unwrap_err().to_string();
        assert!(error.contains(why), "{sql}: {error}");
    }
    // Where the words are something else they stay it.
    let sql = format!(
        "SELECT version AS of, timestamp FROM (SELECT 1 AS version, 2 AS timestamp), \
                       t VERSION AS OF {id} WHERE id = 1"
    );
    cluster.query(&sql).await.unwrap();
    let sql = format!("DESCRIBE t FOR VERSION AS OF {id}");
    assert_eq!(cluster.query(&sql).await.unwrap()[0].num_rows(), 2);
    let sql = format!("EXPLAIN SELECT * FROM t FOR VERSION AS OF {id}");
    assert!(cluster.text(&sql).await.contains("parquet"));
}

#[tokio::test]
async fn an_expired_row_is_seen_as_of_when_it_was_not() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE m (time TIMESTAMP, n BIGINT) WITH (retention = '1h')")
        .await
        .unwrap();
    let row =
        |age: &str, n: i64| format!("SELECT (now() - INTERVAL '{age}')::TIMESTAMP, {n}::BIGINT");
    let rows = [
        row("59 minutes 58 seconds", 1),
        row("2 hours", 2),
        row("1 second", 3),
    ];
    let insert = format!("INSERT INTO m {}", rows.join(" UNION ALL "));
    cluster.update(&insert).await.unwrap();
    cluster
        .ingesters
        .flush("a", &TableName::public(DATABASE, "m"))
        .await;
    let id = newest(&cluster).await;
    let made = cluster
        .catalog
        .list_snapshots(1)
        .await
        .unwrap()
        .remove(0)
        .stamp;
    let sql = "SELECT n FROM m ORDER BY n";
    // Judged when the snapshot was made, or at the time that is asked for.
    let rows = back_then(&cluster, sql, version(id)).await.unwrap();
    assert_eq!(int64s(&rows, 0), [1, 3]);
    let later = Past {
        snapshot: SnapshotId(id),
        at_millis: made.created_at_millis + 10_000,
    };
    let rows = back_then(&cluster, sql, AsOf::Known(later)).await.unwrap();
    assert_eq!(int64s(&rows, 0), [3]);
}

#[tokio::test]
async fn the_newest_row_of_a_key_is_that_of_the_snapshot() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE k (id BIGINT, time TIMESTAMP, v BIGINT, PRIMARY KEY (id, time))")
        .await
        .unwrap();
    let name = TableName::public(DATABASE, "k");
    let mut states = Vec::new();
    for v in 1..=4 {
        let insert = format!(
            "INSERT INTO k VALUES (1, TIMESTAMP '2026-01-01', {v}), (2, TIMESTAMP '2026-01-01', {v})"
        );
        cluster.update(&insert).await.unwrap();
        cluster.ingesters.flush("a", &name).await;
        if v == 3 {
            compact(&cluster, "k").await;
        }
        states.push((newest(&cluster).await, v));
    }
    for (id, v) in states {
        let rows = back_then(&cluster, "SELECT v FROM k", version(id))
            .await
            .unwrap();
        assert_eq!(int64s(&rows, 0), [v, v]);
    }
}

#[tokio::test]
async fn the_files_of_a_snapshot_with_very_many_are_found_by_the_times_of_the_query() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE m (time TIMESTAMP, n BIGINT)")
        .await
        .unwrap();
    let name = TableName::public(DATABASE, "m");
    for n in 0..260 {
        let insert =
            format!("INSERT INTO m VALUES (TIMESTAMP '2026-01-01' + INTERVAL '{n} days', {n})");
        cluster.update(&insert).await.unwrap();
        cluster.ingesters.flush("a", &name).await;
    }
    let id = newest(&cluster).await;
    cluster
        .update("DELETE FROM m WHERE n >= 100")
        .await
        .unwrap();
    let sql = "SELECT n FROM m WHERE time >= TIMESTAMP '2026-09-01' ORDER BY n";
    let rows = back_then(&cluster, sql, version(id)).await.unwrap();
    assert_eq!(int64s(&rows, 0), range(243..=259));
    let sql = "SELECT count(*) FROM m";
    assert_eq!(
        int64s(&back_then(&cluster, sql, version(id)).await.unwrap(), 0),
        [260]
    );
    assert_eq!(cluster.number(sql).await, 100);
}

#[tokio::test]
async fn snapshots_are_listed_with_what_made_them() {
    let (cluster, _) = history().await;
    let list = cluster
        .text("SELECT cause, table_name FROM system.snapshots ORDER BY snapshot DESC LIMIT 4")
        .await;
    assert!(
        list.contains("drop_table") && list.contains("publish_table"),
        "{list}"
    );
    let of = |cause: &str| {
        format!(
            "SELECT count(*) FROM system.snapshots WHERE cause = '{cause}' AND table_name = 't'"
        )
    };
    for cause in [
        "create_table",
        "delete",
        "compaction",
        "publish_table",
        "drop_table",
    ] {
        assert!(cluster.number(&of(cause)).await >= 1, "{cause}");
    }
    let twice = "SELECT count(*) - count(DISTINCT snapshot) FROM system.snapshots";
    assert_eq!(cluster.number(twice).await, 0);
}
