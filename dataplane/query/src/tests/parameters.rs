//! Parameters: found, described, bound as values.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, NullArray, StringArray};
use arrow_schema::DataType;
use serde_json::json;

use super::fixture::{Cluster, int64s, row};
use crate::{ExecuteOptions, QueryRequest, parameters_from_json};

fn number(value: i64) -> ArrayRef {
    Arc::new(Int64Array::from(vec![value]))
}

fn text(value: &str) -> ArrayRef {
    Arc::new(StringArray::from(vec![value]))
}

/// S3-5: whatever a value holds, it is a value.
#[tokio::test]
async fn s3_5_a_value_is_never_part_of_the_statement() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    for attack in ["x' OR '1'='1", "'; DROP TABLE t; --", "$1", "?"] {
        let values = row([("city", text(attack))]);
        let rows = cluster
            .bound("SELECT id FROM t WHERE city = $city", values)
            .await
            .unwrap();
        assert!(rows.is_empty(), "{attack}");
    }
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 300);
}

#[tokio::test]
async fn question_marks_numbers_and_names_are_bound() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let two = || row([("a", number(5)), ("b", text("Brno"))]);
    for sql in [
        "SELECT id FROM t WHERE id <= ? AND city = ? ORDER BY id",
        "SELECT id FROM t WHERE id <= $1 AND city = $2 ORDER BY id",
        "SELECT id FROM t WHERE city = $2 AND id <= $1 ORDER BY id",
        "SELECT id FROM t WHERE id <= $a AND city = $b ORDER BY id",
    ] {
        let rows = cluster.bound(sql, two()).await.unwrap();
        assert_eq!(int64s(&rows, 0), [1, 3, 5], "{sql}");
    }
    let named = row([
        ("$b", text("Brno")),
        ("unused", number(1)),
        ("$a", number(3)),
    ]);
    let sql = "SELECT id FROM t WHERE id <= $a AND city = $b ORDER BY id";
    assert_eq!(int64s(&cluster.bound(sql, named).await.unwrap(), 0), [1, 3]);
    let rows = cluster
        .bound(
            "SELECT id FROM t ORDER BY id LIMIT ?",
            row([("n", number(2))]),
        )
        .await;
    assert_eq!(int64s(&rows.unwrap(), 0), [1, 2]);
}

/// The keys of a JSON object have no order; a parser may sort them as texts.
#[tokio::test]
async fn json_values_are_bound_by_the_numbers_they_are_named_with() {
    let cluster = Cluster::start().await;
    let bound = async |sql: &str, values: serde_json::Value| {
        let request = QueryRequest {
            parameters: parameters_from_json(values.as_object().unwrap()).unwrap(),
            named: true,
            ..Cluster::request(sql)
        };
        let plan = cluster.engine.plan(request).await?;
        Ok::<_, crate::Error>(int64s(&cluster.run(plan).await?, 0)[0])
    };
    let all: serde_json::Map<_, _> = (1..=10).map(|n| (n.to_string(), json!(n * n))).collect();
    let names = [2, 10, 1, 3, 4, 5, 6, 7, 8, 9].map(|n| format!("${n}"));
    let sum = format!(
        "SELECT $2 * 1000 + $10 WHERE 1 NOT IN ({})",
        names[1..2].join(", ")
    );
    let sum = sum + &format!(" OR 0 IN ({})", names.join(", "));
    assert_eq!(bound(&sum, json!(all)).await.unwrap(), 4100);
    let questions = "SELECT ? * 1000 + ? * 100 + ?";
    for values in [
        json!({"3": 1, "2": 2, "1": 3}),
        json!({"$1": 3, "$2": 2, "$3": 1}),
    ] {
        assert_eq!(bound(questions, values).await.unwrap(), 3201);
    }
    assert_eq!(
        bound("SELECT $3 - $1", json!({"1": 1, "3": 9}))
            .await
            .unwrap(),
        8
    );
    assert_eq!(
        bound("SELECT ? + 1", json!({"anything": 1})).await.unwrap(),
        2
    );
    assert_eq!(
        bound("SELECT $b - $a", json!({"a": 1, "b": 3}))
            .await
            .unwrap(),
        2
    );

    for (sql, values, problem) in [
        (
            "SELECT ? - ?",
            json!({"a": 1, "b": 3}),
            "the values have names",
        ),
        (
            "SELECT $1 - $2",
            json!({"1": 1, "b": 3}),
            "the values have names",
        ),
        (
            "SELECT $1 - $2",
            json!({"1": 1, "+2": 3}),
            "the values have names",
        ),
        (
            "SELECT $1 - $2",
            json!({"1": 1, "3": 3}),
            "no value for parameter $2",
        ),
        (
            "SELECT $1 - $2",
            json!({"1": 1, "2": 2, "7": 7}),
            "$7: the statement has 2",
        ),
        ("SELECT 1", json!({"a": 1}), "has 0 parameters"),
    ] {
        let error = bound(sql, values).await.unwrap_err().to_string();
        assert!(error.contains(problem), "{sql}: {error}");
    }
}

#[tokio::test]
async fn json_values_compare_with_times_and_numbers() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE m (time TIMESTAMP, v DOUBLE, n BIGINT)")
        .await
        .unwrap();
    cluster
        .update("INSERT INTO m VALUES ('2013-01-01T05:00:00', 1.5, 7)")
        .await
        .unwrap();
    let values = json!({"from": "2013-01-01T00:00:00Z", "v": 1, "n": 7.0});
    let values = parameters_from_json(values.as_object().unwrap())
        .unwrap()
        .unwrap();
    let sql = "SELECT n FROM m WHERE time >= $from AND v > $v AND n = $n";
    assert_eq!(int64s(&cluster.bound(sql, values).await.unwrap(), 0), [7]);
}

#[tokio::test]
async fn a_null_value_is_a_null() {
    let cluster = Cluster::start().await;
    let values = row([("a", Arc::new(NullArray::new(1)) as ArrayRef)]);
    let rows = cluster
        .bound("SELECT count(*) WHERE $1 IS NULL", values)
        .await
        .unwrap();
    assert_eq!(int64s(&rows, 0), [1]);
}

#[tokio::test]
async fn the_schema_of_the_parameters_is_told_without_values() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let plan = cluster
        .plan("SELECT id, $2 AS free FROM t WHERE id > $1 AND city = $3")
        .await;
    let plan = plan.unwrap();
    let parameters = plan.parameter_schema();
    let described: Vec<(&str, &DataType)> = parameters
        .fields()
        .iter()
        .map(|field| (field.name().as_str(), field.data_type()))
        .collect();
    let expected = [
        ("$1", &DataType::Int64),
        ("$2", &DataType::Null),
        ("$3", &DataType::Utf8),
    ];
    assert_eq!(described, expected);
    assert_eq!(plan.schema().field(0).name(), "id");

    let insert = cluster
        .plan("INSERT INTO t (city, id) VALUES (?, ?)")
        .await
        .unwrap();
    let types: Vec<DataType> = insert
        .parameter_schema()
        .fields()
        .iter()
        .map(|f| f.data_type().clone())
        .collect();
    assert_eq!(types, [DataType::Utf8, DataType::Int64]);
    assert!(insert.is_update());
    for sql in [
        "SELECT $1",
        "SELECT $1 + $2",
        "SELECT abs($1), $2 || 'x'",
        "SELECT id + ? FROM t",
    ] {
        assert!(
            !cluster
                .plan(sql)
                .await
                .unwrap()
                .parameter_schema()
                .fields()
                .is_empty(),
            "{sql}"
        );
    }
}

#[tokio::test]
async fn rows_are_inserted_with_bound_values() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE t (id BIGINT NOT NULL, city VARCHAR)")
        .await
        .unwrap();
    for (id, city) in [(1, "a"), (2, "b'); DROP TABLE t; --")] {
        let parameters = Some(row([("1", number(id)), ("2", text(city))]));
        let request = Cluster::request("INSERT INTO t VALUES (?, ?)");
        let plan = cluster
            .engine
            .plan(QueryRequest {
                parameters,
                ..request
            })
            .await
            .unwrap();
        let written = cluster
            .engine
            .execute_update(plan, ExecuteOptions::default())
            .await;
        assert_eq!(written.unwrap(), 1);
    }
    assert_eq!(
        cluster.number("SELECT count(DISTINCT city) FROM t").await,
        2
    );
}

#[tokio::test]
async fn a_missing_or_superfluous_value_is_named() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let error = cluster
        .query("SELECT id FROM t WHERE id = ?")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "no value for parameter $1; bind all parameters before running the statement"
    );
    let insert = cluster
        .plan("INSERT INTO t (id) VALUES ($1)")
        .await
        .unwrap();
    let error = cluster
        .engine
        .execute_update(insert, ExecuteOptions::default())
        .await
        .unwrap_err();
    assert_eq!(error.category(), "parameter_missing");

    let error = cluster
        .bound("SELECT $a", row([("b", number(1))]))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("$a"), "{error}");
    let two = row([("a", number(1)), ("b", number(2))]);
    let error = cluster.bound("SELECT ?", two.clone()).await.unwrap_err();
    assert!(
        error.to_string().contains("has 1 parameters, 2 values"),
        "{error}"
    );
    let error = cluster.bound("SELECT $1, $x", two).await.unwrap_err();
    assert!(error.to_string().contains("mixture"), "{error}");
    let error = cluster.query("SELECT $4000000000").await.unwrap_err();
    assert!(
        error.to_string().contains("numbers go up to 65535"),
        "{error}"
    );
}
