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
