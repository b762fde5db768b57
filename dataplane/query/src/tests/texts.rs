//! Texts that are read as views: by whom, and that nobody else can tell.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::{
    ArrayRef, BinaryArray, Int64Array, LargeStringArray, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::util::pretty::pretty_format_batches;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use flightcluster_catalog::{Table, TableName};

use super::fixture::{Cluster, DATABASE, config, int64s};
use super::shapes::shape;
use crate::plan::{Action, Plan};
use crate::{decode_schema, encode_schema};

/// All kinds of texts, with what may be lost on the way: metadata, nullability, order.
fn schema() -> Schema {
    let mark = [("iox::column::type", "iox::column_type::tag")];
    let mark: HashMap<_, _> = mark.map(|(key, value)| (key.into(), value.into())).into();
    let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
    Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("time", time, false),
        Field::new("tag", DataType::Utf8, false).with_metadata(mark),
        Field::new("note", DataType::Utf8, true),
        Field::new("bytes", DataType::Binary, true),
        Field::new("late", DataType::LargeUtf8, true),
    ])
}

/// The first columns of [`schema`], with texts that fit into a view, texts that don't, and nulls. Time
/// and tag come again after 30 rows.
fn rows(ids: std::ops::Range<i64>, columns: usize) -> RecordBatch {
    let tag = |id: i64| match id % 3 {
        0 => format!("t{}", id % 5),
        _ => format!("a longer tag, number {}", id % 5),
    };
    let note = |id: i64| {
        let filled = "x".repeat(usize::try_from(id % 40).unwrap());
        (id % 4 > 0).then(|| format!("{filled}{}", id % 8))
    };
    let all = || ids.clone();
    let bytes = all().map(|id| note(id + 1).map(String::into_bytes));
    let times = all().map(|id| id % 30);
    let whole: [ArrayRef; 6] = [
        Arc::new(Int64Array::from_iter_values(all())),
        Arc::new(TimestampNanosecondArray::from_iter_values(times)),
        Arc::new(StringArray::from_iter_values(all().map(tag))),
        Arc::new(all().map(note).collect::<StringArray>()),
        Arc::new(bytes.collect::<BinaryArray>()),
        Arc::new(all().map(|id| note(id + 2)).collect::<LargeStringArray>()),
    ];
    let schema = Schema::new(schema().fields()[..columns].to_vec());
    RecordBatch::try_new(Arc::new(schema), whole[..columns].to_vec()).unwrap()
}

/// Writes rows into a file, and into the memory of both ingesters.
async fn spread(cluster: &Cluster, table: &Table, from: i64, columns: usize) {
    let ingesters = &cluster.ingesters;
    ingesters.write("a", table, rows(from..from + 50, columns));
    ingesters.flush("a", &table.name).await;
    ingesters.write("a", table, rows(from + 50..from + 70, columns));
    ingesters.write("b", table, rows(from + 70..from + 90, columns));
}

/// A cluster with tables `t`, whose first file lacks column `late`, `k`, which has a key that comes in
/// many files, `f`, which is in files only, and `empty`.
async fn filled(views: bool) -> Cluster {
    let mut cluster = Cluster::with(config(), 256 << 20).await;
    let inner = Arc::get_mut(&mut cluster.engine.inner).unwrap();
    let options = inner.template.config_mut().options_mut();
    options.execution.parquet.schema_force_view_types = views;

    let old = Schema::new(schema().fields()[..5].to_vec());
    let table = cluster.create("t", &old).await;
    cluster.ingesters.write("a", &table, rows(0..100, 5));
    cluster.ingesters.flush("a", &table.name).await;
    let bytes = encode_schema(&schema()).unwrap();
    let evolved = cluster
        .catalog
        .evolve_table(table.id, table.schema_version, bytes);
    spread(&cluster, &evolved.await.unwrap(), 100, 6).await;

    let key = "CREATE TABLE k (id BIGINT, time TIMESTAMP, tag VARCHAR, note VARCHAR, \
               PRIMARY KEY (tag, time))";
    cluster.update(key).await.unwrap();
    let name = TableName::public(DATABASE, "k");
    let table = cluster.catalog.table(&name).await.unwrap().unwrap();
    for from in [0, 10, 20] {
        let batch = shape(
            &rows(from..from + 40, 4),
            &decode_schema(&table.schema).unwrap(),
            None,
        );
        cluster.ingesters.write("a", &table, batch);
        if from < 20 {
            cluster.ingesters.flush("a", &name).await;
        }
    }

    let table = cluster.create("f", &schema()).await;
    cluster.ingesters.write("a", &table, rows(0..1000, 6));
    cluster.ingesters.flush("a", &table.name).await;
    cluster.ingesters.forget("a", table.id);
    cluster.create("empty", &schema()).await;
    cluster
}

/// Statements that read views. Those without ORDER BY give their rows in any order.
const WITH_VIEWS: &[&str] = &[
    "SELECT * FROM {} WHERE tag = 't3'",
    "SELECT * FROM {} WHERE tag <> 't3' AND note IS NOT NULL",
    "SELECT note, id FROM {} WHERE note LIKE '%xx%' OR tag IN ('t0', 't1', 'a longer tag, number 2')",
    "SELECT id, upper(tag) AS u, tag || '-' || note AS both, length(note) FROM {} WHERE tag > 'a'",
    "SELECT id, coalesce(note, tag), CASE WHEN tag = 't0' THEN tag ELSE 'other' END FROM {} WHERE tag < 'u'",
    "SELECT CAST(id AS VARCHAR) || tag, substr(note, 2), split_part(tag, ' ', 2) FROM {} WHERE tag <> ''",
    "SELECT tag, count(*), min(note), max(note) FROM {} GROUP BY tag ORDER BY tag",
    "SELECT tag, note, sum(id) AS s FROM {} GROUP BY tag, note HAVING tag <> 't0' ORDER BY s, tag, note",
    "SELECT upper(tag) AS tag, count(DISTINCT note) FROM {} GROUP BY upper(tag) ORDER BY 1 LIMIT 3",
    "SELECT DISTINCT tag FROM {} ORDER BY tag DESC",
    "SELECT DISTINCT tag, note FROM {}",
    "SELECT count(DISTINCT tag), max(tag), min(note) FROM {}",
    "SELECT string_agg(tag, ',' ORDER BY id) FROM {}",
    "SELECT first_value(tag ORDER BY id), last_value(note ORDER BY id) FROM {}",
    "SELECT id, tag FROM {} WHERE tag <> 't0' ORDER BY id DESC LIMIT 7",
    "SELECT tag, id FROM {} WHERE note <> 'y' ORDER BY tag, id LIMIT 7 OFFSET 2",
    "SELECT x.tag, count(*) FROM (SELECT tag, id + 1 AS i FROM {} WHERE tag <> 't1') AS x \
     WHERE i > 3 GROUP BY x.tag",
    "WITH c AS (SELECT tag AS name, id FROM {}) SELECT name, max(id) FROM c GROUP BY name",
    "SELECT tag FROM {} WHERE tag = 't1' UNION ALL SELECT note FROM {} WHERE id < 30 UNION ALL SELECT 'own'",
    "SELECT tag FROM {} UNION SELECT 'own' UNION SELECT note FROM {}",
    "SELECT tag, sum(n) FROM (SELECT tag, note, count(*) AS n FROM {} GROUP BY tag, note) GROUP BY tag",
    "SELECT tag, note, count(*) FROM {} GROUP BY ROLLUP (tag, note)",
    "SELECT tag, n FROM (SELECT tag, count(*) AS n FROM {} GROUP BY tag) WHERE tag = 't3' AND n > 0",
    "SELECT count(*) FILTER (WHERE tag = 't0') AS a, avg(id) FROM {}",
    "SELECT id FROM {} WHERE tag = 't' || '3' AND regexp_like(tag, '^t[0-9]$') AND starts_with(tag, 't')",
    "SELECT id FROM {} WHERE CAST(substr(tag, 2, 1) AS VARCHAR) = '3'",
    "SELECT id FROM {} WHERE arrow_cast(tag, 'LargeUtf8') = 't3' AND tag = arrow_cast('t3', 'Utf8View')",
    "SELECT arrow_cast(tag, 'Utf8View') AS v, arrow_cast(tag, 'Dictionary(Int32, Utf8)') FROM {} WHERE tag <> ''",
];

/// Statements that work on texts and read them as they are.
const AS_THEY_ARE: &[&str] = &[
    "SELECT * FROM {}",
    "SELECT tag, upper(note) FROM {} WHERE id > 5",
    "SELECT tag, arrow_typeof(tag) FROM {} WHERE tag = 't0'",
    "SELECT id, tag FROM {} WHERE tag <> 't0' ORDER BY id",
    "SELECT id, tag FROM {} WHERE tag <> 't0' ORDER BY id LIMIT 5 OFFSET 10000",
    "SELECT array_agg(tag ORDER BY id) FROM {}",
    "SELECT tag, grouping(tag), count(*) FROM {} GROUP BY CUBE (tag, note)",
    "SELECT make_array(tag, note) FROM {} WHERE tag = 't0'",
    "SELECT a.tag, b.note FROM {} AS a JOIN {} AS b ON a.tag = b.tag AND a.id = b.id WHERE a.tag <> 't0'",
    "SELECT id FROM {} WHERE tag IN (SELECT tag FROM {} WHERE id < 4)",
    "SELECT id, lag(tag) OVER (PARTITION BY tag ORDER BY id) FROM {} WHERE tag <> 't1'",
    "SELECT DISTINCT ON (tag) tag, id FROM {} ORDER BY tag, id",
    "WITH RECURSIVE r AS (SELECT tag, 0 AS n FROM {} WHERE id < 3 UNION ALL \
     SELECT tag, n + 1 FROM r WHERE n < 2 AND tag <> '') SELECT * FROM r",
];

fn reads_views(plan: &Plan) -> bool {
    let Action::Query(ready) = &plan.action else {
        panic!("not a query");
    };
    let mut found = false;
    let walked = ready.plan.apply_with_subqueries(|step| {
        if let LogicalPlan::TableScan(scan) = step {
            let fields = scan.projected_schema.fields();
            let view = |field: &Arc<Field>| {
                matches!(field.data_type(), DataType::Utf8View | DataType::BinaryView)
            };
            found |= fields.iter().any(view);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    walked.unwrap();
    found
}

/// The schema that is announced, whether views are read, and the rows as text.
async fn answer(cluster: &Cluster, sql: &str) -> (SchemaRef, bool, Vec<String>) {
    let work = async {
        let plan = cluster.plan(sql).await?;
        let (schema, views) = (plan.schema(), reads_views(&plan));
        // It checks that what comes is what was announced.
        cluster.run(plan).await.map(|rows| (schema, views, rows))
    };
    let answered = work.await;
    let (schema, views, batches) = answered.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let text = pretty_format_batches(&batches).unwrap().to_string();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // One within brackets does not order the answer.
    let ends = sql.rsplit(')').next();
    if !ends.is_some_and(|end| end.contains("ORDER BY")) {
        lines.sort();
    }
    (schema, views, lines)
}

#[tokio::test]
async fn views_are_read_where_texts_are_worked_on_and_the_answer_is_the_same() {
    let (cluster, plain) = (filled(true).await, filled(false).await);
    let with = WITH_VIEWS.iter().map(|sql| (sql, true));
    let without = AS_THEY_ARE.iter().map(|sql| (sql, false));
    for (sql, expected) in with.chain(without) {
        for table in ["t", "k", "f", "empty"] {
            let sql = sql.replace("{}", table);
            let (schema, views, rows) = answer(&cluster, &sql).await;
            let (told, never, wanted) = answer(&plain, &sql).await;
            assert!(!never, "{sql}");
            assert_eq!(views, expected, "{sql}");
            assert_eq!(schema, told, "{sql}");
            assert_eq!(rows, wanted, "{sql}");
        }
    }
}

#[tokio::test]
async fn rows_of_a_query_with_views_are_stored_as_the_texts_they_were() {
    let (cluster, plain) = (filled(true).await, filled(false).await);
    let statements = [
        "CREATE TABLE made AS SELECT tag, note, bytes, max(id) AS last FROM t GROUP BY tag, note, bytes",
        "INSERT INTO made SELECT tag, note, bytes, id FROM f WHERE tag <> 't0'",
        "INSERT INTO k SELECT id, time, tag, note FROM f WHERE note <> 'y'",
        "DELETE FROM made WHERE tag = 't1' OR note LIKE '%7'",
    ];
    for sql in statements {
        let written = cluster.update(sql).await.unwrap();
        assert_eq!(written, plain.update(sql).await.unwrap(), "{sql}");
    }
    for sql in ["SELECT * FROM made", "SELECT * FROM k", "DESCRIBE made"] {
        let (found, wanted) = (answer(&cluster, sql).await, answer(&plain, sql).await);
        assert_eq!(found, wanted, "{sql}");
    }
}

#[tokio::test]
async fn a_statement_has_the_same_types_while_its_parameters_are_open() {
    let cluster = filled(true).await;
    let sql = "SELECT tag, note, count(*) AS n FROM t WHERE tag = $1 GROUP BY tag, note";
    let open = cluster.plan(sql).await.unwrap();
    let value: ArrayRef = Arc::new(StringArray::from(vec!["t3"]));
    let request = crate::QueryRequest {
        parameters: Some(super::fixture::row([("1", value)])),
        ..Cluster::request(sql)
    };
    let bound = cluster.engine.plan(request).await.unwrap();
    assert!(reads_views(&bound));
    assert_eq!(bound.schema(), open.schema());
    assert_eq!(*bound.schema().field(1).data_type(), DataType::Utf8);
    assert!(!cluster.run(bound).await.unwrap().is_empty());
}

/// By the ranges of row groups, in the file of a table and beside rows in memory.
#[tokio::test]
async fn files_are_skipped_by_texts_that_are_read_as_views() {
    let cluster = Cluster::start().await;
    let field = Field::new("name", DataType::Utf8, false);
    let table = cluster.create("t", &Schema::new(vec![field])).await;
    let batch = |number: i64| {
        let names = (0..1000).map(|row| format!("name {number} with what makes it long {row:04}"));
        let names: ArrayRef = Arc::new(StringArray::from_iter_values(names));
        RecordBatch::try_from_iter([("name", names)]).unwrap()
    };
    for number in 0..4 {
        cluster.ingesters.write("a", &table, batch(number));
        cluster.ingesters.flush("a", &table.name).await;
    }
    let sql = "SELECT count(*) FROM t WHERE name >= 'name 2' AND name < 'name 3'";
    for in_memory in [false, true] {
        if in_memory {
            cluster.ingesters.write("b", &table, batch(2));
        }
        assert!(reads_views(&cluster.plan(sql).await.unwrap()));
        let expected = 1000 + 1000 * i64::from(in_memory);
        assert_eq!(int64s(&cluster.query(sql).await.unwrap(), 0), [expected]);
        let plan = cluster.text(&format!("EXPLAIN ANALYZE {sql}")).await;
        let pruned = "row_groups_pruned_statistics=4 total → 1 matched";
        assert!(plan.contains(pruned), "{plan}");
    }
}

#[tokio::test]
async fn explain_shows_where_views_are_read() {
    let cluster = filled(true).await;
    let plan = cluster
        .text("EXPLAIN SELECT id FROM t WHERE tag = 't3'")
        .await;
    assert!(plan.contains("Utf8View(\"t3\")"), "{plan}");
    assert!(plan.contains("CAST(tag@1 AS Utf8View)"), "{plan}");
    let others = [
        "SELECT id, tag FROM t WHERE id = 3",
        "SELECT id FROM t WHERE length(late) = 3",
    ];
    for sql in others {
        let plan = cluster.text(&format!("EXPLAIN {sql}")).await;
        assert!(!plan.contains("Utf8View"), "{plan}");
    }
}
