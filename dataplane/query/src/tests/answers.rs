//! What SQL gives: golden answers, names, and what it knows about itself.

use arrow_schema::DataType;

use super::fixture::{Cluster, int64s};
use crate::{Error, sql_keywords};

async fn check(cluster: &Cluster, sql: &str, expected: &str) {
    let expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
    let answer = cluster.text(sql).await;
    assert_eq!(
        answer.lines().collect::<Vec<_>>(),
        expected,
        "{sql}\n{answer}"
    );
}

/// S0-13: an unquoted column named `delete`, an interval before now, sorted by time.
#[tokio::test]
async fn s0_13_the_sample_query_runs_as_written() {
    let cluster = Cluster::start().await;
    let create = "CREATE TABLE home (time TIMESTAMP NOT NULL, room VARCHAR, delete BIGINT)";
    cluster.update(create).await.unwrap();
    let insert = "INSERT INTO home VALUES \
        (now() - INTERVAL '1 day', 'Kitchen', 2), \
        (now() - INTERVAL '100 days', 'Attic', 9), \
        (now() - INTERVAL '3 days', 'Hall', 1)";
    assert_eq!(cluster.update(insert).await.unwrap(), 3);
    let sql = "SELECT delete, room, time FROM home \
               WHERE time >= now() - INTERVAL '90 days' ORDER BY time";
    let rows = cluster.query(sql).await.unwrap();
    assert_eq!(int64s(&rows, 0), [1, 2]);
}

#[tokio::test]
async fn golden_answers() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    check(
        &cluster,
        "SELECT city, count(*) AS n, min(id) AS first, max(id) AS last FROM t \
         GROUP BY city ORDER BY city",
        "+-------+-----+-------+------+
         | city  | n   | first | last |
         +-------+-----+-------+------+
         | Brno  | 150 | 1     | 299  |
         | Praha | 150 | 2     | 300  |
         +-------+-----+-------+------+",
    )
    .await;
    check(
        &cluster,
        "WITH late AS (SELECT * FROM t WHERE id >= 297) \
         SELECT id, lag(id) OVER (PARTITION BY city ORDER BY id) AS before FROM late ORDER BY id",
        "+-----+--------+
         | id  | before |
         +-----+--------+
         | 297 |        |
         | 298 |        |
         | 299 | 297    |
         | 300 | 298    |
         +-----+--------+",
    )
    .await;
    check(
        &cluster,
        "SELECT id FROM t WHERE city = 'Brno' EXCEPT SELECT id FROM t WHERE id > 3 ORDER BY id",
        "+----+
         | id |
         +----+
         | 1  |
         | 3  |
         +----+",
    )
    .await;
    check(
        &cluster,
        "SELECT 1 UNION ALL SELECT 2.5 ORDER BY 1",
        "+----------+
         | Int64(1) |
         +----------+
         | 1.0      |
         | 2.5      |
         +----------+",
    )
    .await;
    check(
        &cluster,
        "SELECT sum(value) AS total FROM generate_series(1, 10)",
        "+-------+
         | total |
         +-------+
         | 55    |
         +-------+",
    )
    .await;
}

/// `Cluster::run` compares the announced with the streamed schema of every batch.
#[tokio::test]
async fn the_announced_schema_is_the_streamed_one() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    for sql in [
        "SELECT * FROM t",
        "SELECT city FROM t LIMIT 1",
        "SELECT id + 1.5 AS x, NULL AS nothing, 'a' AS a FROM t",
        "SELECT city, avg(id), count(*) FILTER (WHERE id > 3) FROM t GROUP BY ROLLUP (city)",
        "SELECT l.*, r.city AS other FROM t l LEFT JOIN t r ON l.id = r.id + 1",
        "SELECT 1 UNION SELECT 2.5",
        "SELECT arrow_cast(city, 'Dictionary(Int32, Utf8)') AS d FROM t",
        "SELECT arrow_cast(city, 'Utf8View') AS v, substr(city, 1, 2) AS s FROM t",
        "SELECT id, row_number() OVER (ORDER BY id) FROM t",
        "SELECT [1, 2, NULL] AS list, struct(1 AS a) AS s, now() AS n, date '2013-01-01' AS d",
        "SELECT CASE WHEN id > 5 THEN 'x' END FROM t",
        "VALUES (1, 'a'), (NULL, 'b')",
        "EXPLAIN SELECT * FROM t",
        "EXPLAIN ANALYZE SELECT * FROM t",
        "SHOW TABLES",
        "SHOW COLUMNS FROM t",
        "DESCRIBE t",
    ] {
        let rows = cluster
            .query(sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        assert!(!rows.is_empty(), "{sql}");
    }
}

#[tokio::test]
async fn names_are_lower_case_unless_quoted() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE \"Flights\" (\"Id\" BIGINT)")
        .await
        .unwrap();
    assert_eq!(
        cluster
            .number("SELECT count(\"Id\") FROM \"Flights\"")
            .await,
        0
    );
    let error = cluster.query("SELECT * FROM Flights").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "table not found: demo.public.flights; did you mean \"Flights\"?"
    );
    assert!(matches!(error, Error::TableNotFound { .. }));
}

#[tokio::test]
async fn sql_describes_all_tables_of_the_database_and_no_others() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster
        .update("CREATE TABLE b (time TIMESTAMP NOT NULL, v DOUBLE)")
        .await
        .unwrap();
    cluster
        .update("CREATE TABLE other.public.c (v DOUBLE)")
        .await
        .unwrap();
    check(
        &cluster,
        "SELECT table_catalog, table_schema, table_name, table_type \
         FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name",
        "+---------------+--------------+------------+------------+
         | table_catalog | table_schema | table_name | table_type |
         +---------------+--------------+------------+------------+
         | demo          | public       | b          | BASE TABLE |
         | demo          | public       | t          | BASE TABLE |
         +---------------+--------------+------------+------------+",
    )
    .await;
    check(
        &cluster,
        "DESCRIBE b",
        "+-------------+---------------+-------------+
         | column_name | data_type     | is_nullable |
         +-------------+---------------+-------------+
         | time        | Timestamp(ns) | NO          |
         | v           | Float64       | YES         |
         +-------------+---------------+-------------+",
    )
    .await;
    let tables = cluster.text("SHOW TABLES").await;
    assert!(
        tables.contains("| public") && tables.contains("| t "),
        "{tables}"
    );
    assert_eq!(
        cluster.ingesters.questions("a"),
        0,
        "describing reads no rows"
    );
}

#[tokio::test]
async fn system_tables_tell_of_tables_files_ingesters_and_queries() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    check(
        &cluster,
        "SELECT table_name, files, file_rows, schema_version FROM system.tables",
        "+------------+-------+-----------+----------------+
         | table_name | files | file_rows | schema_version |
         +------------+-------+-----------+----------------+
         | t          | 3     | 240       | 1              |
         +------------+-------+-----------+----------------+",
    )
    .await;
    check(
        &cluster,
        "SELECT table_name, rows FROM system.files ORDER BY path",
        "+------------+------+
         | table_name | rows |
         +------------+------+
         | t          | 100  |
         | t          | 100  |
         | t          | 40   |
         +------------+------+",
    )
    .await;
    check(
        &cluster,
        "SELECT name, state, url FROM system.ingesters ORDER BY name",
        "+------+--------+--------------------------+
         | name | state  | url                      |
         +------+--------+--------------------------+
         | a    | active | https://a.internal:17002 |
         | b    | active | https://b.internal:17002 |
         +------+--------+--------------------------+",
    )
    .await;
    assert_eq!(
        cluster.number("SELECT count(*) FROM system.queries").await,
        0
    );
    let error = cluster
        .query("SELECT * FROM system.secrets")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "table_not_found");
}

#[tokio::test]
async fn strings_are_utf8_and_timestamps_nanoseconds_without_zone() {
    let cluster = Cluster::start().await;
    let sql = "CREATE TABLE k (a VARCHAR, b TEXT, c VARCHAR(20), d TIMESTAMP, e INT, f REAL, \
               g BOOLEAN, h DATE, i BYTEA, j DECIMAL(10, 2), k TIMESTAMP WITH TIME ZONE, l STRING)";
    cluster.update(sql).await.unwrap();
    let schema = cluster.plan("SELECT * FROM k").await.unwrap().schema();
    let types: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| field.data_type().to_string())
        .collect();
    let expected = [
        "Utf8",
        "Utf8",
        "Utf8",
        "Timestamp(ns)",
        "Int32",
        "Float32",
        "Boolean",
        "Date32",
        "Binary",
        "Decimal128(10, 2)",
        "Timestamp(ns, \"+00:00\")",
        "Utf8",
    ];
    assert_eq!(types, expected);
}

#[tokio::test]
async fn field_metadata_survives_projection() {
    use arrow_schema::{Field, Schema};
    let cluster = Cluster::start().await;
    let tag = [(
        "iox::column::type".to_owned(),
        "iox::column_type::tag".to_owned(),
    )];
    let field = Field::new("room", DataType::Utf8, true).with_metadata(tag.clone().into());
    let table = cluster.create("home", &Schema::new(vec![field])).await;
    assert_eq!(table.name.table, "home");
    for sql in [
        "SELECT * FROM home",
        "SELECT room FROM home WHERE room > 'a' ORDER BY room",
    ] {
        let schema = cluster.plan(sql).await.unwrap().schema();
        assert_eq!(*schema.field(0).metadata(), tag.clone().into(), "{sql}");
    }
}

#[tokio::test]
async fn functions_and_keywords_are_listed() {
    let cluster = Cluster::start().await;
    let functions = cluster.engine.functions();
    for name in ["round", "date_bin", "array_length"] {
        assert!(functions.scalar.iter().any(|known| known == name), "{name}");
    }
    assert!(functions.aggregate.iter().any(|known| known == "sum"));
    assert!(functions.window.iter().any(|known| known == "row_number"));
    assert!(
        functions
            .table
            .iter()
            .any(|known| known == "generate_series")
    );
    assert!(sql_keywords().contains(&"SELECT"));
}
