//! Retention: expired rows are seen by nobody, wherever they are, and everybody else's are.

use flightcluster_catalog::{RETENTION, TableName};

use super::fixture::{Cluster, DATABASE, int64s};
use crate::{Access, AccessKind, QueryRequest};

/// A table `m(time, n)` with rows of 1, 2, … hours ago and one without a time: in a file of old ones, in
/// one of old and young ones, in one of unknown times, in one of young ones, and in no file. n is the hour.
async fn hours() -> Cluster {
    let cluster = Cluster::start().await;
    let create = "CREATE TABLE m (time TIMESTAMP, n BIGINT)";
    cluster.update(create).await.unwrap();
    let name = TableName::public(DATABASE, "m");
    for (hours, flush) in [
        ("30 29 28", true),
        ("27 25 23 22", true),
        ("26 NULL 21", true),
        ("20 1", true),
        ("24 2 40", false),
    ] {
        // Half an hour, so that the boundary is nowhere near.
        let rows = hours.split(' ').map(|hour| {
            format!(
                "SELECT (now() - ({hour} || ' hours')::INTERVAL + INTERVAL '30 minutes')::TIMESTAMP,
                        coalesce({hour}, 0)::BIGINT"
            )
        });
        let rows: Vec<_> = rows.collect();
        let sql = format!("INSERT INTO m {}", rows.join(" UNION ALL "));
        cluster.update(&sql).await.unwrap();
        if flush {
            cluster.ingesters.flush("a", &name).await;
        }
    }
    cluster
}

async fn seen(cluster: &Cluster) -> Vec<i64> {
    let rows = cluster.query("SELECT n FROM m ORDER BY n").await.unwrap();
    let seen = int64s(&rows, 0);
    // However the question is asked.
    let count = cluster.number("SELECT count(*) FROM m").await;
    assert_eq!(count as usize, seen.len());
    let both = cluster.query("SELECT n, time FROM m ORDER BY n").await;
    assert_eq!(int64s(&both.unwrap(), 0), seen);
    let all = cluster.query("SELECT * FROM m").await.unwrap();
    assert_eq!(
        all.iter().map(|batch| batch.num_rows()).sum::<usize>(),
        seen.len()
    );
    let newest = cluster
        .query("SELECT n FROM m WHERE time IS NOT NULL ORDER BY time LIMIT 1")
        .await;
    let oldest = int64s(&newest.unwrap(), 0);
    assert_eq!(oldest.first(), seen.last());
    seen
}

const ALL: [i64; 15] = [0, 1, 2, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 40];

#[tokio::test]
async fn expired_rows_are_seen_nowhere_and_others_everywhere() {
    let cluster = hours().await;
    assert_eq!(seen(&cluster).await, ALL);
    cluster
        .update("ALTER TABLE m SET (retention = '24h')")
        .await
        .unwrap();
    assert_eq!(seen(&cluster).await, [0, 1, 2, 20, 21, 22, 23, 24]);
    for (filter, count) in [
        ("n > 26", 0),
        ("n >= 24", 1),
        ("n < 2", 2),
        ("time IS NULL", 1),
    ] {
        let sql = format!("SELECT count(*) FROM m WHERE {filter}");
        assert_eq!(cluster.number(&sql).await, count, "{filter}");
    }
    let joined = "SELECT count(*) FROM m AS a JOIN m AS b ON a.n = b.n";
    assert_eq!(cluster.number(joined).await, 8);
    cluster
        .update("ALTER TABLE m SET (retention = '2h')")
        .await
        .unwrap();
    assert_eq!(seen(&cluster).await, [0, 1, 2]);
    // Nothing was removed yet.
    cluster
        .update("ALTER TABLE m SET (retention = NULL)")
        .await
        .unwrap();
    assert_eq!(seen(&cluster).await, ALL);
}

#[tokio::test]
async fn files_that_are_expired_are_not_read() {
    let cluster = hours().await;
    cluster
        .update("ALTER TABLE m SET (retention = '24h')")
        .await
        .unwrap();
    cluster.store.take();
    assert_eq!(cluster.number("SELECT count(*) FROM m").await, 8);
    let read = cluster.store.take();
    assert_eq!(read.len(), 3, "{read:?}");
    assert!(
        !read.keys().any(|path| path.ends_with("-1.parquet")),
        "{read:?}"
    );
}

#[tokio::test]
async fn a_delete_counts_the_rows_that_were_seen() {
    let cluster = hours().await;
    cluster
        .update("ALTER TABLE m SET (retention = '24h')")
        .await
        .unwrap();
    assert_eq!(
        cluster.update("DELETE FROM m WHERE n >= 22").await.unwrap(),
        3
    );
    assert_eq!(seen(&cluster).await, [0, 1, 2, 20, 21]);
    assert_eq!(
        cluster.update("DELETE FROM m WHERE n = 29").await.unwrap(),
        0
    );
    assert_eq!(cluster.update("DELETE FROM m").await.unwrap(), 5);
    let left = cluster.number("SELECT count(*) FROM m").await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_database_says_for_tables_that_do_not_say() {
    let cluster = hours().await;
    let of_table = "SELECT coalesce(retention, 'nothing') || '' FROM system.tables";
    assert!(cluster.text(of_table).await.contains("nothing"));
    cluster
        .update("ALTER DATABASE demo SET (retention = '24h')")
        .await
        .unwrap();
    assert_eq!(seen(&cluster).await.len(), 8);
    assert!(cluster.text(of_table).await.contains("24h"));
    cluster
        .update("ALTER TABLE m SET (retention = 'forever')")
        .await
        .unwrap();
    assert_eq!(seen(&cluster).await, ALL);
    let create = "CREATE TABLE o (time TIMESTAMP, n BIGINT) WITH (retention = '2h')";
    cluster.update(create).await.unwrap();
    cluster
        .update("INSERT INTO o SELECT * FROM m")
        .await
        .unwrap();
    assert_eq!(cluster.number("SELECT count(*) FROM o").await, 3);
    let create = "CREATE OR REPLACE TABLE o WITH (Retention = '24h') AS SELECT * FROM m";
    cluster.update(create).await.unwrap();
    assert_eq!(cluster.number("SELECT count(*) FROM o").await, 8);
    // A new table does not know what the old one said.
    cluster
        .update("CREATE OR REPLACE TABLE o AS SELECT * FROM m")
        .await
        .unwrap();
    assert_eq!(
        cluster.number("SELECT count(*) FROM o").await,
        8,
        "the database says"
    );
    cluster
        .update("ALTER DATABASE demo SET (retention = NULL)")
        .await
        .unwrap();
    assert_eq!(cluster.number("SELECT count(*) FROM o").await, 15);
    let table = cluster
        .catalog
        .table(&TableName::public(DATABASE, "o"))
        .await
        .unwrap();
    assert_eq!(table.unwrap().option(RETENTION), None);
}

#[tokio::test]
async fn an_option_that_means_nothing_is_refused_with_the_cure() {
    let cluster = hours().await;
    cluster
        .update("CREATE TABLE timeless (n BIGINT)")
        .await
        .unwrap();
    for (sql, category, cure) in [
        (
            "ALTER TABLE m SET (retention = 'soon')",
            "option",
            "'forever'",
        ),
        ("ALTER TABLE m SET (retention = '0')", "option", "DELETE"),
        (
            "ALTER TABLE m SET (retention = 30)",
            "option",
            "text in quotes",
        ),
        (
            "ALTER TABLE m SET (colour = 'red')",
            "option",
            "only retention",
        ),
        (
            "ALTER TABLE m SET (retention = '1d', retention = '2d')",
            "option",
            "twice",
        ),
        (
            "ALTER TABLE timeless SET (retention = '1d')",
            "option",
            "no time column",
        ),
        (
            "CREATE TABLE x (n BIGINT) WITH (retention = '1d')",
            "option",
            "no time column",
        ),
        (
            "CREATE TABLE x WITH (retention = '1d') AS SELECT 1 AS n",
            "option",
            "no time column",
        ),
        (
            "ALTER TABLE missing SET (retention = '1d')",
            "table_not_found",
            "",
        ),
        (
            "ALTER DATABASE missing SET (retention = '1d')",
            "database_not_found",
            "",
        ),
        (
            "ALTER DATABASE a.b SET (retention = '1d')",
            "unsupported",
            "one part",
        ),
        (
            "ALTER TABLE m ADD COLUMN x BIGINT",
            "unsupported",
            "SET (retention",
        ),
        (
            "ALTER TABLE system.tables SET (retention = '1d')",
            "invalid_name",
            "public",
        ),
    ] {
        let error = cluster.update(sql).await.unwrap_err();
        assert_eq!(error.category(), category, "{sql}: {error}");
        assert!(error.to_string().contains(cure), "{sql}: {error}");
    }
    // Without a time column nothing expires; that is no mistake of the database.
    cluster
        .update("ALTER TABLE timeless SET (retention = NULL)")
        .await
        .unwrap();
    cluster
        .update("ALTER DATABASE demo SET (retention = '1h')")
        .await
        .unwrap();
    cluster
        .update("INSERT INTO timeless VALUES (1)")
        .await
        .unwrap();
    assert_eq!(cluster.number("SELECT count(*) FROM timeless").await, 1);
}

#[tokio::test]
async fn who_may_write_may_not_say_how_long_rows_are_kept() {
    let cluster = hours().await;
    for sql in [
        "ALTER TABLE m SET (retention = '1h')",
        "ALTER DATABASE demo SET (retention = '1h')",
    ] {
        let request = QueryRequest {
            access: Access::new(|kind, _| kind != AccessKind::Admin),
            ..Cluster::request(sql)
        };
        let error = cluster.engine.plan(request).await.unwrap_err();
        assert_eq!(error.category(), "access_denied", "{sql}");
    }
}
