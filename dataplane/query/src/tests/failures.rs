//! What goes wrong is told apart: the caller's mistakes, the load, the cluster, our bugs.

use std::sync::Arc;

use arrow_array::{ArrayRef, StringArray};
use arrow_schema::DataType;
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};

use super::fixture::{Cluster, int64s};
use crate::Error;

/// A cluster whose SQL has `explode(x)`, which panics, and `thread()`, which tells where it runs.
async fn with_functions() -> Cluster {
    let mut cluster = Cluster::start().await;
    let explode = create_udf(
        "explode",
        vec![DataType::Int64],
        DataType::Int64,
        Volatility::Volatile,
        Arc::new(|_: &[ColumnarValue]| panic!("boom")),
    );
    let thread = create_udf(
        "thread",
        vec![DataType::Int64],
        DataType::Utf8,
        Volatility::Volatile,
        Arc::new(|_: &[ColumnarValue]| {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            Ok(ColumnarValue::Array(
                Arc::new(StringArray::from(vec![name])) as ArrayRef,
            ))
        }),
    );
    cluster.register(explode);
    cluster.register(thread);
    cluster
}

/// S0-20, S1-16: a panic fails its query and nothing else.
#[tokio::test]
async fn s1_16_a_panic_is_an_error_and_the_engine_goes_on() {
    let cluster = with_functions().await;
    cluster.spread().await;
    for sql in [
        "SELECT explode(id) FROM t",
        "SELECT sum(explode(id)) FROM t GROUP BY city",
        "SELECT explode(1)",
        "SELECT id FROM t ORDER BY explode(id)",
    ] {
        let error = cluster.query(sql).await.unwrap_err();
        assert!(
            matches!(&error, Error::Panic { message } if message.contains("boom")),
            "{error:?}"
        );
    }
    assert_eq!(cluster.engine.stats().panics_total, 4);
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 300);
    assert_eq!(cluster.engine.stats().running, 0);
}

/// S3-30: queries compute on their own threads.
#[tokio::test]
async fn s3_30_queries_run_on_their_own_threads() {
    let cluster = with_functions().await;
    assert!(cluster.text("SELECT thread(1)").await.contains("| query"));
}

#[tokio::test]
async fn mistakes_of_the_caller_are_not_our_bugs() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    for (sql, category) in [
        ("SELEC 1", "syntax"),
        ("SELECT 'abc", "syntax"),
        ("SELECT * FROM t WHERE", "syntax"),
        ("", "statement_count"),
        ("SELECT 1; SELECT 2", "statement_count"),
        ("SELECT nope FROM t", "plan"),
        ("SELECT nope(id) FROM t", "plan"),
        ("SELECT sum(city) FROM t", "plan"),
        ("SELECT id, count(*) FROM t", "plan"),
        ("SELECT id FROM t UNION SELECT id, city FROM t", "plan"),
        ("SELECT * FROM missing", "table_not_found"),
        ("SELECT * FROM nowhere.public.t", "database_not_found"),
        ("SELECT * FROM demo.elsewhere.t", "table_not_found"),
        ("SELECT 1 / (id - 1) FROM t", "value"),
        ("SELECT CAST(city AS BIGINT) FROM t", "value"),
        ("SELECT 1 / 0", "value"),
        ("SELECT CAST('x' AS BIGINT)", "value"),
        ("SELECT id FROM t LIMIT 'a'", "plan"),
        ("SELECT * FROM t TABLESAMPLE (10)", "unsupported"),
        ("SELECT date_bin('x', now())", "value"),
        ("SELECT regexp_like(city, '(') FROM t", "value"),
        (
            "MERGE INTO t USING t AS s ON t.id = s.id WHEN MATCHED THEN DELETE",
            "unsupported",
        ),
    ] {
        let error = cluster.query(sql).await.unwrap_err();
        assert_eq!(error.category(), category, "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn an_unknown_column_is_named_with_its_place_and_a_likely_one() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let error = cluster
        .query("SELECT id,\n  citty FROM t")
        .await
        .unwrap_err();
    let Error::Plan { message, location } = &error else {
        panic!("{error:?}")
    };
    assert!(
        message.contains("citty") && message.contains("t.city"),
        "{message}"
    );
    let location = location.unwrap();
    assert_eq!((location.line, location.column), (2, 3));
}

#[tokio::test]
async fn a_likely_table_is_offered() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE weather (id BIGINT)")
        .await
        .unwrap();
    let error = cluster.query("SELECT * FROM wether").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "table not found: demo.public.wether; did you mean weather?"
    );
    let error = cluster.query("SELECT * FROM flights").await.unwrap_err();
    assert_eq!(error.to_string(), "table not found: demo.public.flights");
}

#[tokio::test]
async fn a_table_function_beside_a_mistake_is_not_blamed() {
    let cluster = Cluster::start().await;
    let error = cluster
        .query("SELECT nope FROM generate_series(1, 2)")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "plan", "{error:?}");
}

#[tokio::test]
async fn rows_before_a_failure_are_given_and_the_failure_is_last() {
    use futures::StreamExt as _;
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let plan = cluster
        .plan("SELECT 100 / (300 - id) FROM t")
        .await
        .unwrap();
    let items: Vec<_> = cluster
        .engine
        .execute(plan, Default::default())
        .collect()
        .await;
    let (last, before) = items.split_last().unwrap();
    assert_eq!(last.as_ref().unwrap_err().category(), "value");
    for batch in before {
        assert!(!int64s(&[batch.as_ref().unwrap().clone()], 0).is_empty());
    }
}

/// A stack that overflows would end the process.
#[tokio::test]
async fn long_and_deep_statements_are_answered_or_refused() {
    let cluster = Cluster::start().await;
    let long = vec!["1 = 2"; 500].join(" OR ");
    assert_eq!(
        cluster
            .number(&format!("SELECT count(*) WHERE NOT ({long})"))
            .await,
        1
    );
    let sum = vec!["a"; 500].join(" + ");
    assert_eq!(
        cluster
            .number(&format!("SELECT {sum} FROM (VALUES (1)) AS v(a)"))
            .await,
        500
    );
    let union = vec!["SELECT 1 AS x"; 300].join(" UNION ALL ");
    assert_eq!(
        cluster
            .number(&format!("SELECT sum(x) FROM ({union})"))
            .await,
        300
    );
    let tables: Vec<String> = (0..200)
        .map(|n| format!("(VALUES (1)) AS t{n}(x)"))
        .collect();
    let joined = format!("SELECT count(*) FROM {}", tables.join(", "));
    assert_eq!(cluster.number(&joined).await, 1);
    let doubled = |links: usize| {
        let next = |n: usize| format!(", c{n} AS (SELECT a.x FROM c{0} a, c{0} b)", n - 1);
        let links: String = (1..=links).map(next).collect();
        format!("WITH c0 AS (SELECT 1 AS x){links}")
    };
    let slices = format!(
        "SELECT x{}[2] FROM (SELECT [7, 8] AS x)",
        "[1:2]".repeat(100)
    );
    assert_eq!(cluster.number(&slices).await, 8);
    assert_eq!(cluster.number("SELECT [[1], ARRAY[2, 3]][2][1]").await, 2);
    let few = format!("{} SELECT count(*) FROM c6", doubled(6));
    assert_eq!(cluster.number(&few).await, 1);
    for refused in [
        format!("{} SELECT x FROM c40", doubled(40)),
        format!("SELECT {}1{}", "(".repeat(5000), ")".repeat(5000)),
        format!("SELECT {}1", "NOT ".repeat(20_000)),
        format!("SELECT {}1", "- ".repeat(20_000)),
        format!("SELECT 1{}", "::INT".repeat(20_000)),
        format!("SELECT 1{}", " IS NULL".repeat(20_000)),
        vec!["1"; 50_000].join(" + "),
        vec!["SELECT 1"; 20_000].join(" UNION "),
        format!("SELECT 1 FROM {}", vec!["(VALUES (1))"; 20_000].join(", ")),
        (0..2000).fold("SELECT 1 AS x".to_owned(), |sql, _| {
            format!("SELECT x FROM ({sql})")
        }),
        format!("SELECT {}1{}", "abs(".repeat(5000), ")".repeat(5000)),
        format!("SELECT {}{}", "[".repeat(5000), "]".repeat(5000)),
        format!("SELECT x{} FROM (SELECT [1] AS x)", "[1:2]".repeat(100_000)),
        format!("SELECT x{} FROM (SELECT [1] AS x)", "[1]".repeat(100_000)),
        format!(
            "SELECT {}1{}",
            "CASE WHEN true THEN ".repeat(5000),
            " END".repeat(5000)
        ),
    ] {
        let error = cluster.query(&refused).await.unwrap_err();
        let category = error.category();
        assert!(
            matches!(category, "syntax" | "unsupported"),
            "{error:?}: {:.80}",
            refused
        );
    }
}

/// The optimizer writes the columns of a filter out, down to those of the table.
#[tokio::test]
async fn a_filter_that_doubles_with_each_step_below_it_is_refused() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let steps = |count: usize, step: &str| {
        let next = |n: usize| format!(", c{n} AS (SELECT {step} FROM c{})", n - 1);
        let steps: String = (1..=count).map(next).collect();
        format!("WITH c0 AS (SELECT id AS x FROM t){steps}")
    };
    let twice = "x + x AS x";
    for allowed in [
        format!("{} SELECT count(*) FROM c7 WHERE x > 1", steps(7, twice)),
        format!("{} SELECT count(*) FROM c40", steps(40, "x + 1 AS x")),
        format!(
            "{} SELECT count(*) FROM c40 WHERE x > 1",
            steps(40, "x + 1 AS x")
        ),
        format!(
            "{} SELECT count(*) FROM (SELECT x FROM c40)",
            steps(40, twice)
        ),
        format!(
            "{} SELECT count(*) FROM c40 WHERE x > 1",
            steps(40, "sum(x + x) AS x")
        ),
    ] {
        cluster.query(&allowed).await.unwrap();
    }
    let chain = steps(40, twice);
    let nested = (0..15).fold("SELECT id AS x FROM t".to_owned(), |sql, _| {
        format!("SELECT x + x + x AS x FROM ({sql})")
    });
    for refused in [
        format!("{chain} SELECT x FROM c40 WHERE x > 1"),
        format!("{chain} SELECT x FROM (SELECT * FROM c40 UNION ALL SELECT id FROM t) WHERE x > 1"),
        format!("{chain} SELECT x FROM c40 GROUP BY x HAVING x > 1"),
        format!("{chain} SELECT 1 FROM t JOIN c40 ON x > id"),
        format!("{chain} SELECT id FROM t WHERE id IN (SELECT x FROM c40 WHERE x > 1)"),
        format!("SELECT x FROM ({nested}) WHERE x > 1"),
        format!("EXPLAIN SELECT x FROM ({nested}) WHERE x > 1"),
        format!("INSERT INTO t SELECT x, 'y' FROM ({nested}) WHERE x > 1"),
    ] {
        let error = cluster.plan(&refused).await.map(|_| ()).unwrap_err();
        assert_eq!(error.category(), "plan", "{error:?}");
        assert!(
            error.to_string().contains("more than 10000 terms"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn many_rows_are_inserted_by_one_statement() {
    let cluster = Cluster::start().await;
    let values: Vec<String> = (0..20_000)
        .map(|id| format!("({id}, 'city {id}')"))
        .collect();
    cluster
        .update("CREATE TABLE t (id BIGINT, city VARCHAR)")
        .await
        .unwrap();
    let insert = format!("INSERT INTO t VALUES {}", values.join(", "));
    assert_eq!(cluster.update(&insert).await.unwrap(), 20_000);
    assert_eq!(
        cluster.number("SELECT count(DISTINCT city) FROM t").await,
        20_000
    );
}
