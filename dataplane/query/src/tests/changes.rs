//! Statements that change something, and those that are refused.

use arrow_schema::{DataType, Field, Schema};
use flightcluster_catalog::{TableId, TableName};
use futures::TryStreamExt as _;

use super::fixture::{Cluster, DATABASE, Fault, int64s};
use crate::{Access, AccessKind, Error, ExecuteOptions, QueryRequest, StatementKind};

#[tokio::test]
async fn inserted_rows_are_seen_by_the_next_query() {
    let cluster = Cluster::start().await;
    let create = "CREATE TABLE t (id BIGINT NOT NULL, city VARCHAR, wind REAL)";
    assert_eq!(cluster.update(create).await.unwrap(), 0);
    let insert = "INSERT INTO t VALUES (1, 'Brno', 1.5), (2, NULL, 2)";
    assert_eq!(cluster.update(insert).await.unwrap(), 2);
    assert_eq!(
        cluster
            .update("INSERT INTO t (wind, id) VALUES (3, '3')")
            .await
            .unwrap(),
        1
    );
    let copy = "INSERT INTO t SELECT id + 10, upper(city), wind * 2 FROM t";
    assert_eq!(cluster.update(copy).await.unwrap(), 3);
    let nothing = "INSERT INTO t SELECT * FROM t WHERE id > 1000";
    assert_eq!(cluster.update(nothing).await.unwrap(), 0);
    assert_eq!(
        cluster.text("SELECT * FROM t ORDER BY id").await,
        "\
+----+------+------+
| id | city | wind |
+----+------+------+
| 1  | Brno | 1.5  |
| 2  |      | 2.0  |
| 3  |      | 3.0  |
| 11 | BRNO | 3.0  |
| 12 |      | 4.0  |
| 13 |      | 6.0  |
+----+------+------+"
    );
}

#[tokio::test]
async fn a_change_sent_as_a_query_is_made_once_and_gives_no_rows() {
    let cluster = Cluster::start().await;
    cluster.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    let plan = cluster.plan("INSERT INTO t VALUES (1)").await.unwrap();
    assert_eq!(
        (plan.kind(), plan.schema().fields().len()),
        (StatementKind::Dml, 0)
    );
    assert!(cluster.run(plan).await.unwrap().is_empty());
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 1);
}

#[tokio::test]
async fn a_change_that_is_planned_and_not_run_changes_nothing() {
    let cluster = Cluster::start().await;
    let plan = cluster.plan("CREATE TABLE t (id BIGINT)").await.unwrap();
    assert_eq!(plan.kind(), StatementKind::Ddl);
    drop(cluster.engine.execute(plan, ExecuteOptions::default()));
    let error = cluster.query("SELECT * FROM t").await.unwrap_err();
    assert_eq!(error.category(), "table_not_found");
}

#[tokio::test]
async fn a_table_is_created_kept_replaced_and_dropped() {
    let cluster = Cluster::start().await;
    cluster.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    let again = cluster
        .update("CREATE TABLE t (other BIGINT)")
        .await
        .unwrap_err();
    assert_eq!(again.category(), "table_exists");
    cluster
        .update("CREATE TABLE IF NOT EXISTS t (other BIGINT)")
        .await
        .unwrap();
    assert_eq!(
        cluster
            .plan("SELECT * FROM t")
            .await
            .unwrap()
            .schema()
            .field(0)
            .name(),
        "id"
    );
    cluster
        .update("CREATE OR REPLACE TABLE t (other BIGINT)")
        .await
        .unwrap();
    assert_eq!(
        cluster
            .plan("SELECT * FROM t")
            .await
            .unwrap()
            .schema()
            .field(0)
            .name(),
        "other"
    );
    cluster.update("DROP TABLE t").await.unwrap();
    assert_eq!(
        cluster.update("DROP TABLE t").await.unwrap_err().category(),
        "table_not_found"
    );
    cluster.update("DROP TABLE IF EXISTS t").await.unwrap();
    cluster.update("CREATE DATABASE fresh").await.unwrap();
    cluster
        .update("CREATE DATABASE IF NOT EXISTS fresh")
        .await
        .unwrap();
    let again = cluster.update("CREATE DATABASE fresh").await.unwrap_err();
    assert_eq!(again.category(), "database_exists");
}

/// Decimals of one digit are stored in 64 bits: a table of the narrow type would refuse them.
#[tokio::test]
async fn a_table_made_of_rows_has_the_types_they_are_stored_in() {
    let cluster = Cluster::start().await;
    let digit = "arrow_cast(1, 'Decimal32(1, 0)')";
    let sql = format!(
        "CREATE TABLE d AS SELECT {digit} AS v, [{digit}] AS l, named_struct('x', {digit}) AS s, \
         arrow_cast({digit}, 'Dictionary(Int32, Decimal32(1, 0))') AS k, \
         arrow_cast(1, 'Decimal32(2, 0)') AS wide, \
         arrow_cast(1, 'Dictionary(Int8, Decimal128(20, 2))') AS price, \
         arrow_cast('a', 'Dictionary(Int8, Utf8)') AS word, \
         arrow_cast('a', 'Dictionary(Int64, Utf8View)') AS view WHERE false"
    );
    cluster.update(&sql).await.unwrap();
    let plan = cluster.plan("SELECT * FROM d").await.unwrap();
    let schema = plan.schema();
    let of = |name: &str| schema.field_with_name(name).unwrap().data_type().clone();
    let stored = DataType::Decimal64(1, 0);
    assert_eq!(of("v"), stored);
    assert!(matches!(of("l"), DataType::List(item) if *item.data_type() == stored));
    assert!(matches!(of("s"), DataType::Struct(all) if *all[0].data_type() == stored));
    assert_eq!(of("k"), stored);
    assert_eq!(of("wide"), DataType::Decimal32(2, 0));
    assert_eq!(of("price"), DataType::Decimal128(20, 2));
    let word = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    assert_eq!(of("word"), word);
    let word = DataType::Dictionary(Box::new(DataType::Int64), Box::new(DataType::Utf8));
    assert_eq!(of("view"), word);
    // What the values are stored as has to be possible, too.
    let sql = "CREATE TABLE e AS SELECT \
               arrow_cast(1, 'Dictionary(Int32, Decimal128(5, -2))') AS v WHERE false";
    let error = cluster.update(sql).await.unwrap_err();
    assert_eq!(error.category(), "unstorable_type", "{error}");
}

#[tokio::test]
async fn create_table_as_writes_the_rows_of_its_query() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let sql = "CREATE TABLE brno AS SELECT id, city FROM t WHERE city = 'Brno'";
    assert_eq!(cluster.update(sql).await.unwrap(), 150);
    assert_eq!(cluster.number("SELECT sum(id) FROM brno").await, 22_500);
    let sql = "CREATE TABLE IF NOT EXISTS brno AS SELECT 1 AS x";
    assert_eq!(cluster.update(sql).await.unwrap(), 0);
    assert_eq!(
        cluster
            .update(sql.replace("IF NOT EXISTS ", "").as_str())
            .await
            .unwrap_err()
            .category(),
        "table_exists"
    );
    let schema = cluster.plan("SELECT * FROM brno").await.unwrap().schema();
    assert!(schema.fields().iter().all(|field| field.is_nullable()));

    let sql = "CREATE OR REPLACE TABLE brno AS SELECT id FROM brno WHERE id < 10";
    assert_eq!(cluster.update(sql).await.unwrap(), 5);
    let rows = cluster
        .query("SELECT id FROM brno ORDER BY id")
        .await
        .unwrap();
    assert_eq!(int64s(&rows, 0), [1, 3, 5, 7, 9]);
}

#[tokio::test]
async fn a_failed_create_table_as_leaves_no_table() {
    let cluster = Cluster::start().await;
    cluster.update("CREATE TABLE t (id BIGINT)").await.unwrap();
    cluster
        .update("INSERT INTO t VALUES (1), (0)")
        .await
        .unwrap();
    let error = cluster
        .update("CREATE TABLE bad AS SELECT 1 / id AS x FROM t")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "value", "{error:?}");
    let name = TableName::public(DATABASE, "bad");
    assert!(cluster.catalog.table(&name).await.unwrap().is_none());
    assert_eq!(live_tables(&cluster).await, ["t"]);
    assert!(!error.to_string().contains("unpublished"), "{error}");
}

/// The names of all live tables, also of those no list shows.
async fn live_tables(cluster: &Cluster) -> Vec<String> {
    let ids: Vec<TableId> = (1..100).map(TableId).collect();
    let tables = cluster.catalog.tables_by_id(&ids).await.unwrap();
    tables.into_iter().map(|table| table.name.table).collect()
}

#[tokio::test]
async fn a_failed_replacement_keeps_the_table_and_its_rows() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    for sql in [
        "CREATE OR REPLACE TABLE t AS SELECT 1 / (id - 290) AS x FROM t",
        "CREATE TABLE IF NOT EXISTS u AS SELECT 1 / (id - 290) AS x FROM t",
    ] {
        let error = cluster.update(sql).await.unwrap_err();
        assert_eq!(error.category(), "value", "{error:?}");
        assert_eq!(cluster.number("SELECT sum(id) FROM t").await, 45_150);
        assert_eq!(live_tables(&cluster).await, ["t"]);
    }
}

#[tokio::test]
async fn a_cancelled_create_table_as_leaves_nothing_and_can_be_repeated() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE t AS SELECT 7 AS v")
        .await
        .unwrap();
    let endless = "SELECT tick(a.value) AS v FROM generate_series(1, 10000) AS a \
         CROSS JOIN generate_series(1, 10000000) AS b";
    for create in [
        "CREATE OR REPLACE TABLE t AS",
        "CREATE TABLE IF NOT EXISTS u AS",
    ] {
        for by_request in [true, false] {
            let plan = cluster.plan(&format!("{create} {endless}")).await.unwrap();
            let options = ExecuteOptions {
                request_id: "endless".to_owned(),
                ..ExecuteOptions::default()
            };
            let engine = cluster.engine.clone();
            let running = tokio::spawn(async move { engine.execute_update(plan, options).await });
            // Until rows are being written.
            while live_tables(&cluster).await.len() < 2 {
                tokio::task::yield_now().await;
            }
            assert_eq!(cluster.number("SELECT v FROM t").await, 7);
            let listed = cluster.text("SELECT table_name FROM system.tables").await;
            assert_eq!(listed.lines().count(), 5, "{listed}");
            if by_request {
                assert_eq!(cluster.engine.cancel("endless"), 1);
                assert!(matches!(running.await.unwrap(), Err(Error::Cancelled)));
            } else {
                running.abort();
                assert!(running.await.unwrap_err().is_cancelled());
            }
            while live_tables(&cluster).await != ["t"] {
                tokio::task::yield_now().await;
            }
            assert_eq!(cluster.number("SELECT v FROM t").await, 7);
        }
    }
    let repeated = "CREATE TABLE IF NOT EXISTS u AS SELECT 1 AS v";
    assert_eq!(cluster.update(repeated).await.unwrap(), 1);
}

#[tokio::test]
async fn a_table_made_meanwhile_by_somebody_else_is_not_touched() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    for (create, category) in [
        ("CREATE TABLE u AS", Some("table_exists")),
        ("CREATE TABLE IF NOT EXISTS u AS", None),
    ] {
        // Made when the rows are about to be written: its own name stands in the catalog by then.
        let plan = cluster
            .plan(&format!("{create} SELECT tick(id) FROM t"))
            .await
            .unwrap();
        let theirs = Field::new("theirs", DataType::Int64, true);
        let theirs = Cluster::creation("u", &Schema::new(vec![theirs]));
        cluster.ingesters.meanwhile(theirs);
        let made = cluster
            .engine
            .execute_update(plan, ExecuteOptions::default())
            .await;
        match category {
            Some(category) => assert_eq!(made.unwrap_err().category(), category),
            None => assert_eq!(made.unwrap(), 0),
        }
        assert_eq!(live_tables(&cluster).await, ["t", "u"]);
        let schema = cluster.plan("SELECT * FROM u").await.unwrap().schema();
        assert_eq!(schema.field(0).name(), "theirs");
        cluster.update("DROP TABLE u").await.unwrap();
    }
}

#[tokio::test]
async fn tables_that_are_being_filled_cannot_be_named() {
    let cluster = Cluster::start().await;
    for (sql, category) in [
        ("SELECT * FROM unpublished.x", "table_not_found"),
        ("INSERT INTO unpublished.x VALUES (1)", "invalid_name"),
        ("DROP TABLE unpublished.x", "invalid_name"),
        (
            "CREATE TABLE unpublished.x AS SELECT 1 AS v",
            "invalid_name",
        ),
    ] {
        let error = cluster.plan(sql).await.map(|_| ()).unwrap_err();
        assert_eq!(error.category(), category, "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn a_query_that_fails_while_it_is_inserted_says_why() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster
        .update("CREATE TABLE copy (id BIGINT NOT NULL)")
        .await
        .unwrap();
    let error = cluster
        .update("INSERT INTO copy SELECT id / (id - 7) FROM t")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "value", "{error:?}");
    let error = cluster
        .update("INSERT INTO copy VALUES (NULL)")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "column \"id\" of table demo.public.copy must not be null"
    );
    let error = cluster
        .update("INSERT INTO copy VALUES ('x')")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "value", "{error:?}");
    let error = cluster
        .update("INSERT INTO copy VALUES (1, 2)")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "plan", "{error:?}");
    let error = cluster
        .update("INSERT INTO copy (nope) VALUES (1)")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "plan", "{error:?}");
    cluster.ingesters.fail("a", &[Fault::Unreachable; 100]);
    let error = cluster
        .update("INSERT INTO copy SELECT id FROM t")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "ingester_unavailable", "{error:?}");
}

#[tokio::test]
async fn tables_that_cannot_be_kept_are_refused_when_created() {
    let cluster = Cluster::start().await;
    for (sql, category) in [
        ("CREATE TABLE t (a INTERVAL)", "unstorable_type"),
        ("CREATE TABLE t (a BIGINT PRIMARY KEY)", "key"),
        ("CREATE TABLE t (a BIGINT UNIQUE)", "unsupported"),
        (
            "CREATE TABLE t (a BIGINT PRIMARY KEY, time TIMESTAMP PRIMARY KEY)",
            "unsupported",
        ),
        (
            "CREATE TABLE t (a DOUBLE, time TIMESTAMP, PRIMARY KEY (a, time))",
            "key",
        ),
        ("CREATE TABLE t (__fc_order BIGINT)", "key"),
        ("CREATE TABLE t (a BIGINT DEFAULT 3)", "unsupported"),
        ("CREATE TABLE t (a BIGINT, a VARCHAR)", "plan"),
        (
            "CREATE TABLE t AS SELECT l.x, r.x FROM (VALUES (1)) l(x), (VALUES (2)) r(x)",
            "plan",
        ),
        ("CREATE TABLE system.t (a BIGINT)", "invalid_name"),
        (
            "CREATE TABLE information_schema.tables (a BIGINT)",
            "invalid_name",
        ),
        ("CREATE TEMPORARY TABLE t (a BIGINT)", "not_implemented"),
        ("CREATE TABLE t (a BIGINT) WITH (x = 1)", "option"),
        ("DROP TABLE system.tables", "invalid_name"),
        ("INSERT INTO system.tables VALUES (1)", "invalid_name"),
    ] {
        let error = cluster.plan(sql).await.map(|_| ()).unwrap_err();
        assert_eq!(error.category(), category, "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn a_change_on_a_reading_path_is_refused() {
    let cluster = Cluster::start().await;
    for sql in [
        "CREATE TABLE t (id BIGINT)",
        "DROP TABLE t",
        "INSERT INTO t VALUES (1)",
    ] {
        let request = QueryRequest {
            read_only: true,
            as_of: None,
            partial: false,
            ..Cluster::request(sql)
        };
        let error = cluster.engine.plan(request).await.map(|_| ()).unwrap_err();
        assert_eq!(error.category(), "read_only", "{sql}");
    }
    let plan = cluster.plan("SELECT 1").await.unwrap();
    let error = cluster
        .engine
        .execute_update(plan, ExecuteOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.category(), "unsupported");
}

#[tokio::test]
async fn rights_are_asked_for_every_database_before_it_is_looked_up() {
    let cluster = Cluster::start().await;
    let access = || {
        Access::new(|kind, database| match kind {
            AccessKind::Read => database == "demo" || database == "open",
            AccessKind::Write | AccessKind::Admin => database == "open",
        })
    };
    for (sql, denied) in [
        ("SELECT * FROM secret.public.t", "secret"),
        (
            "SELECT 1 FROM t WHERE id IN (SELECT id FROM secret.public.t)",
            "secret",
        ),
        (
            "WITH x AS (SELECT * FROM secret.public.t) SELECT * FROM x",
            "secret",
        ),
        ("SELECT * FROM secret.information_schema.tables", "secret"),
        ("SELECT * FROM secret.system.files", "secret"),
        ("DESCRIBE secret.public.t", "secret"),
        ("EXPLAIN SELECT * FROM secret.public.t", "secret"),
        (
            "INSERT INTO open.public.t SELECT * FROM secret.public.t",
            "secret",
        ),
        (
            "CREATE TABLE open.public.u AS SELECT * FROM secret.public.t",
            "secret",
        ),
        ("INSERT INTO t VALUES (1)", "demo"),
        ("CREATE TABLE t (id BIGINT)", "demo"),
        ("DROP TABLE t", "demo"),
        ("CREATE DATABASE secret", "secret"),
    ] {
        let request = QueryRequest {
            access: access(),
            ..Cluster::request(sql)
        };
        match cluster.engine.plan(request).await.map(|_| ()) {
            Err(Error::AccessDenied { database, .. }) => assert_eq!(database, denied, "{sql}"),
            other => panic!("{sql}: {other:?}"),
        }
    }
    for sql in [
        "SELECT 1",
        "CREATE TABLE open.public.t (id BIGINT)",
        "SHOW TABLES",
    ] {
        let request = QueryRequest {
            access: access(),
            ..Cluster::request(sql)
        };
        assert!(cluster.engine.plan(request).await.is_ok(), "{sql}");
    }
}

#[tokio::test]
async fn a_writer_adds_rows_and_tables_and_only_an_administrator_takes_them_away() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let refused = |sql: &'static str, allowed: &'static [AccessKind]| {
        let access = Access::new(|kind, _| allowed.contains(&kind));
        let request = QueryRequest {
            access,
            ..Cluster::request(sql)
        };
        let engine = cluster.engine.clone();
        async move {
            match engine.plan(request).await {
                Ok(_) => None,
                Err(Error::AccessDenied { kind, .. }) => Some(kind),
                Err(other) => panic!("{sql}: {other:?}"),
            }
        }
    };
    use AccessKind::{Admin, Read, Write};
    for sql in [
        "DROP TABLE t",
        "DROP TABLE IF EXISTS t",
        "CREATE OR REPLACE TABLE t (id BIGINT)",
        "CREATE OR REPLACE TABLE t AS SELECT 1 AS x",
        "CREATE DATABASE fresh",
        "CREATE DATABASE IF NOT EXISTS fresh",
    ] {
        assert_eq!(refused(sql, &[Read, Write]).await, Some(Admin), "{sql}");
        assert_eq!(refused(sql, &[Admin]).await, None, "{sql}");
    }
    for sql in [
        "INSERT INTO t (id) VALUES (1)",
        "CREATE TABLE u (id BIGINT)",
        "CREATE TABLE IF NOT EXISTS u AS SELECT 1 AS x",
    ] {
        assert_eq!(refused(sql, &[Read, Admin]).await, Some(Write), "{sql}");
        assert_eq!(refused(sql, &[Write]).await, None, "{sql}");
    }
}

#[tokio::test]
async fn a_token_that_only_writes_cannot_read_through_the_table_it_writes_to() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let plan = |sql: &'static str| {
        let access = Access::new(|kind, _| kind == AccessKind::Write);
        let request = QueryRequest {
            access,
            ..Cluster::request(sql)
        };
        let engine = cluster.engine.clone();
        async move { engine.plan(request).await.map(|_| ()) }
    };
    for sql in [
        "INSERT INTO t SELECT * FROM t",
        "INSERT INTO t SELECT id, city FROM public.t WHERE id / (id - 7) > 0",
        "INSERT INTO t VALUES ((SELECT max(id) FROM t), 'x')",
        "INSERT INTO t WITH c AS (SELECT * FROM t) SELECT * FROM c",
        "INSERT INTO t WITH t AS (SELECT * FROM t) SELECT * FROM t",
        "INSERT INTO t WITH RECURSIVE t AS \
         (SELECT * FROM t UNION ALL SELECT * FROM t WHERE false) SELECT * FROM t",
        "CREATE TABLE u AS SELECT * FROM u",
        "CREATE TABLE IF NOT EXISTS t AS SELECT * FROM t",
    ] {
        let refused = matches!(
            plan(sql).await,
            Err(Error::AccessDenied {
                kind: AccessKind::Read,
                ..
            })
        );
        assert!(refused, "{sql}");
    }
    for sql in [
        "INSERT INTO t VALUES (1, 'x')",
        "INSERT INTO t SELECT 1, 'x'",
        "INSERT INTO t WITH t AS (SELECT 1 AS id, 'x' AS city) SELECT * FROM t",
    ] {
        plan(sql).await.unwrap();
    }
}

#[tokio::test]
async fn no_statement_reaches_the_file_system() {
    let cluster = Cluster::start().await;
    let secret = cluster.directory.path().join("secret.csv");
    std::fs::write(&secret, "password\nhunter2\n").unwrap();
    let secret = secret.display();
    for sql in [
        format!("SELECT * FROM '{secret}'"),
        format!("SELECT * FROM \"{secret}\""),
        format!("SELECT * FROM \"file://{secret}\""),
        format!("SELECT * FROM read_csv('{secret}')"),
        format!("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '{secret}'"),
        format!("COPY (SELECT 1) TO '{secret}' STORED AS CSV"),
        format!("CREATE TABLE x (a INT) LOCATION '{secret}'"),
    ] {
        let failed = match cluster.plan(&sql).await {
            Ok(plan) => {
                let options = ExecuteOptions::default();
                cluster
                    .engine
                    .execute(plan, options)
                    .try_collect::<Vec<_>>()
                    .await
                    .is_err()
            }
            Err(_) => true,
        };
        assert!(failed, "{sql}");
    }
    let text = std::fs::read_to_string(cluster.directory.path().join("secret.csv")).unwrap();
    assert_eq!(text, "password\nhunter2\n");
}
