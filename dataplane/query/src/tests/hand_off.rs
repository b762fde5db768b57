//! Files and fresh rows make one table: no row lost, none seen twice.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use flightcluster_catalog::{OpenTables, TableName};

use super::fixture::{Cluster, DATABASE, Fault, int64s, points, points_schema};
use crate::{Error, ExecuteOptions, encode_schema};

#[tokio::test]
async fn each_row_is_seen_once_whether_in_a_file_in_memory_or_in_both() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 300);
    assert_eq!(
        cluster.number("SELECT count(DISTINCT id) FROM t").await,
        300
    );
    assert_eq!(cluster.number("SELECT sum(id) FROM t").await, 300 * 301 / 2);
    assert_eq!(
        cluster
            .number("SELECT count(*) FROM t WHERE id > 240")
            .await,
        60
    );
    assert_eq!(
        cluster
            .number("SELECT count(*) FROM t WHERE city = 'Brno'")
            .await,
        150
    );

    let all = cluster.query("SELECT id FROM t ORDER BY id").await.unwrap();
    assert_eq!(int64s(&all, 0), (1..=300).collect::<Vec<_>>());
    let newest = cluster
        .query("SELECT city, id FROM t ORDER BY id DESC LIMIT 3")
        .await
        .unwrap();
    assert_eq!(int64s(&newest, 1), [300, 299, 298]);
}

#[tokio::test]
async fn a_limit_without_an_order_gives_so_many_rows() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    for limit in [1, 150, 299, 1000] {
        let rows = cluster
            .query(&format!("SELECT id FROM t LIMIT {limit}"))
            .await
            .unwrap();
        let mut ids = int64s(&rows, 0);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), limit.min(300));
    }
}

#[tokio::test]
async fn a_table_joined_with_itself_is_the_same_on_both_sides() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let sql = "SELECT count(*) FROM t AS l JOIN t AS r ON l.id = r.id";
    assert_eq!(cluster.number(sql).await, 300);
    let sql = "SELECT count(*) FROM t WHERE id = (SELECT max(id) FROM t)";
    assert_eq!(cluster.number(sql).await, 1);
    let asked = cluster.ingesters.questions("a");
    cluster
        .number("SELECT count(*) FROM t WHERE id IN (SELECT id FROM t WHERE id > 5)")
        .await;
    assert_eq!(
        cluster.ingesters.questions("a"),
        asked + 1,
        "fresh rows are fetched once a query"
    );
}

#[tokio::test]
async fn a_table_without_rows_answers() {
    let cluster = Cluster::start().await;
    cluster.create("t", &points_schema()).await;
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 0);
    assert!(cluster.query("SELECT * FROM t").await.unwrap().is_empty());
    assert_eq!(
        cluster
            .plan("SELECT * FROM t")
            .await
            .unwrap()
            .schema()
            .fields()
            .len(),
        2
    );
}

#[tokio::test]
async fn rows_from_before_a_column_was_added_have_nulls_there() {
    let cluster = Cluster::start().await;
    let table = cluster.create("t", &points_schema()).await;
    cluster.ingesters.write("a", &table, points(1..=10));
    cluster.ingesters.flush("a", &table.name).await;
    cluster.ingesters.forget("a", table.id);
    cluster.ingesters.write("b", &table, points(11..=15));

    let mut fields: Vec<Field> = points_schema()
        .fields()
        .iter()
        .map(|field| Field::clone(field))
        .collect();
    fields.push(Field::new("wind", DataType::Float64, true));
    let wider = Schema::new(fields);
    let bytes = encode_schema(&wider).unwrap();
    let table = cluster
        .catalog
        .evolve_table(table.id, table.schema_version, bytes)
        .await
        .unwrap();
    let mut columns: Vec<ArrayRef> = points(16..=20).columns().to_vec();
    columns.push(Arc::new(Float64Array::from(vec![2.5; 5])));
    let windy = RecordBatch::try_new(Arc::new(wider), columns).unwrap();
    cluster.ingesters.write("b", &table, windy);
    cluster.ingesters.flush("b", &table.name).await;

    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 20);
    assert_eq!(cluster.number("SELECT count(wind) FROM t").await, 5);
    assert_eq!(
        cluster
            .number("SELECT count(*) FROM t WHERE wind IS NULL")
            .await,
        15
    );
    assert_eq!(
        cluster.number("SELECT sum(id) FROM t WHERE wind > 2").await,
        90
    );
    assert_eq!(
        cluster
            .number("SELECT count(*) FROM (SELECT * FROM t)")
            .await,
        20
    );
}

#[tokio::test]
async fn rows_flushed_and_forgotten_while_the_query_began_are_read_from_the_new_files() {
    let cluster = Cluster::start().await;
    let table = cluster.spread().await;
    cluster.ingesters.fail("a", &[Fault::FlushAndForget]);
    let rows = cluster.query("SELECT id FROM t ORDER BY id").await.unwrap();
    assert_eq!(int64s(&rows, 0), (1..=300).collect::<Vec<_>>());
    assert_eq!(cluster.engine.stats().replans_total, 1);

    cluster.ingesters.write("a", &table, points(301..=310));
    cluster.ingesters.fail("a", &[Fault::FlushAndForget]);
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 310);
}

#[tokio::test]
async fn an_ingester_that_comes_back_in_time_is_not_noticed() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster
        .ingesters
        .fail("b", &[Fault::Unreachable, Fault::Unreachable]);
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 300);
}

#[tokio::test]
async fn a_missing_ingester_fails_the_query_and_is_named() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster.ingesters.fail("b", &[Fault::Unreachable; 100]);
    let error = cluster.query("SELECT count(*) FROM t").await.unwrap_err();
    let Error::IngesterUnavailable { ingester, url, .. } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(
        (ingester.as_str(), url.as_str()),
        ("b", "https://b.internal:17002")
    );
    assert_eq!(error.category(), "ingester_unavailable");
}

#[tokio::test]
async fn an_ingester_is_asked_only_for_tables_it_may_have_rows_of() {
    let cluster = Cluster::start().await;
    let table = cluster.spread().await;
    cluster.ingesters.register("c").await;
    cluster.ingesters.fail("c", &[Fault::Unreachable; 100]);
    let all = cluster.catalog.list_ingesters().await.unwrap();
    let c = all.iter().find(|each| each.name == "c").unwrap();
    let has_open = |tables, number| OpenTables {
        ingester: c.id,
        epoch: c.epoch,
        tables,
        number,
        are_all: true,
        producers: Vec::new(),
    };
    let nothing = has_open(vec![], 1);
    cluster.catalog.open_tables(nothing).await.unwrap();
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 300);
    assert_eq!(cluster.ingesters.questions("c"), 0);
    let t = has_open(vec![table.id], 2);
    cluster.catalog.open_tables(t).await.unwrap();
    let error = cluster.query("SELECT count(*) FROM t").await.unwrap_err();
    let said = error.to_string();
    // Since when: it has registered a moment ago.
    let day = crate::time_text(c.changed_at_millis);
    let day = day.split('T').next().unwrap();
    assert!(said.contains("ingester c ") && said.contains(day), "{said}");
}

#[tokio::test]
async fn a_drained_ingester_is_not_asked() {
    let cluster = Cluster::start().await;
    let table = cluster.spread().await;
    cluster.ingesters.flush("b", &table.name).await;
    cluster.ingesters.drain("b").await;
    cluster.ingesters.fail("b", &[Fault::Unreachable; 100]);
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 300);
}

#[tokio::test]
async fn fresh_rows_of_another_schema_are_refused() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster.ingesters.fail("a", &[Fault::Nonsense]);
    let error = cluster.query("SELECT sum(id) FROM t").await.unwrap_err();
    assert_eq!(error.category(), "ingester_answer", "{error:?}");
}

#[tokio::test]
async fn a_table_dropped_or_replaced_after_planning_keeps_its_rows_for_the_plan_or_says_so() {
    let cluster = Cluster::start().await;
    let table = cluster.spread().await;
    let plan = cluster.plan("SELECT id FROM t").await.unwrap();
    cluster
        .catalog
        .drop_table(&table.name, false, None)
        .await
        .unwrap();
    cluster.create("t", &points_schema()).await;
    let rows = cluster.run(plan).await.unwrap();
    assert_eq!(
        int64s(&rows, 0).len(),
        300,
        "a plan is fixed on its snapshot"
    );

    let plan = cluster.plan("SELECT id FROM t").await.unwrap();
    cluster
        .catalog
        .drop_table(&table.name, false, None)
        .await
        .unwrap();
    cluster.create("t", &points_schema()).await;
    cluster.ingesters.fail("a", &[Fault::Unreachable]);
    let error = cluster.run(plan).await.unwrap_err();
    assert_eq!(error.category(), "table_replaced", "{error:?}");
}

#[tokio::test]
async fn planning_asks_no_ingester() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let plan = cluster.plan("SELECT id, city FROM t").await.unwrap();
    assert_eq!(
        cluster.ingesters.questions("a") + cluster.ingesters.questions("b"),
        0
    );
    assert!(plan.snapshot_id().is_some());
    assert_eq!(cluster.plan("SELECT 1").await.unwrap().snapshot_id(), None);
}

#[tokio::test]
async fn tables_of_several_databases_are_of_one_snapshot() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    cluster
        .update("CREATE TABLE other.public.names (id BIGINT, name VARCHAR)")
        .await
        .unwrap();
    cluster
        .update("INSERT INTO other.public.names VALUES (7, 'seven')")
        .await
        .unwrap();
    let sql = "SELECT t.id FROM t JOIN other.public.names AS n ON t.id = n.id";
    let rows = cluster.query(sql).await.unwrap();
    assert_eq!(int64s(&rows, 0), [7]);
}

#[tokio::test]
async fn filters_reach_the_files() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let plan = cluster
        .text("EXPLAIN SELECT city FROM t WHERE id > 250")
        .await;
    assert!(plan.contains("file_groups"), "{plan}");
    assert!(plan.contains("pruning_predicate"), "{plan}");
}

/// The usual filter of time series: a column without zone against the clock, which has one.
#[tokio::test]
async fn a_filter_on_time_before_now_reaches_the_files() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE m (time TIMESTAMP NOT NULL, v DOUBLE)")
        .await
        .unwrap();
    cluster
        .update("INSERT INTO m VALUES ('2013-01-01T00:00:00', 1)")
        .await
        .unwrap();
    cluster
        .ingesters
        .flush("a", &TableName::public(DATABASE, "m"))
        .await;
    let plan = cluster
        .text("EXPLAIN SELECT v FROM m WHERE time > now() - INTERVAL '1 day'")
        .await;
    assert!(plan.contains("EmptyExec"), "the file is older: {plan}");
    let plan = cluster
        .text("EXPLAIN SELECT v FROM m WHERE time > now() - INTERVAL '200 years'")
        .await;
    assert!(plan.contains("pruning_predicate=time_null_count"), "{plan}");
}

#[tokio::test]
async fn a_count_of_all_rows_reads_no_file() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let plan = cluster.text("EXPLAIN SELECT count(*) FROM t").await;
    assert!(!plan.contains("DataSourceExec"), "{plan}");
}

#[tokio::test]
async fn a_file_that_is_gone_is_an_object_store_error() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let name = TableName::public(DATABASE, "t");
    let snapshot = cluster.catalog.snapshot(&[name]).await.unwrap();
    for file in &snapshot.tables[0].files {
        cluster.delete(&file.file.path).await;
    }
    let error = cluster.query("SELECT sum(id) FROM t").await.unwrap_err();
    assert_eq!(error.category(), "object_store", "{error:?}");
}

#[test]
fn ids_of_the_fixture_are_distinct() {
    let ids = points(3..=5);
    let ids = ids.column(0).as_any().downcast_ref::<Int64Array>().unwrap();
    assert_eq!(ids.values(), &[3, 4, 5]);
}

#[tokio::test]
async fn a_statement_ends_or_alters_the_table_it_saw_and_no_later_one() {
    let cluster = Cluster::start().await;
    let late = [
        ("DROP TABLE t", None),
        ("DROP TABLE IF EXISTS t", None),
        (
            "CREATE OR REPLACE TABLE t (id BIGINT)",
            Some("table_replaced"),
        ),
        (
            "CREATE OR REPLACE TABLE t AS SELECT 1 AS id",
            Some("table_replaced"),
        ),
        // Not to be repeated: planned again, they would alter the later table.
        (
            "ALTER TABLE t SET (bloom_filter = 'city')",
            Some("table_not_found"),
        ),
        (
            "ALTER TABLE t SET (retention = NULL)",
            Some("table_not_found"),
        ),
    ];
    for (sql, refusal) in late {
        let before = cluster.create("t", &points_schema()).await;
        let plan = cluster.plan(sql).await.unwrap();
        cluster.update("DROP TABLE t").await.unwrap();
        let after = cluster.create("t", &points_schema()).await;
        assert_ne!(before.id, after.id);

        let options = ExecuteOptions::default();
        let done = cluster.engine.execute_update(plan, options).await;
        assert_eq!(done.err().map(|error| error.category()), refusal, "{sql}");
        let found = cluster.catalog.table(&after.name).await.unwrap();
        assert_eq!(found, Some(after), "{sql}");
        cluster.update("DROP TABLE t").await.unwrap();

        // Nor one that appeared where it saw none.
        let plan = cluster.plan(sql).await.unwrap();
        let after = cluster.create("t", &points_schema()).await;
        let options = ExecuteOptions::default();
        let _ = cluster.engine.execute_update(plan, options).await;
        let found = cluster.catalog.table(&after.name).await.unwrap();
        assert_eq!(found, Some(after), "{sql}");
        cluster.update("DROP TABLE t").await.unwrap();
    }
}
