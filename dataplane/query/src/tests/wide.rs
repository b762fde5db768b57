//! Wide rows in small memory: what is read at once is counted in bytes, not in rows.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use flightcluster_catalog::{Table, TableName};

use super::deleting::compact;
use super::fixture::{Cluster, DATABASE, config};
use super::keyed_deleting::put_batch;

const FILES: i64 = 16;

/// Rows with the same keys as those of other versions, `width` characters each.
fn version(version: i64, rows: i64, width: usize) -> RecordBatch {
    let texts = (0..rows).map(|row| format!("{version:02}-{row:0width$}", width = width - 3));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
    let times = TimestampNanosecondArray::from_iter_values((0..rows).map(|row| row * 10));
    RecordBatch::try_from_iter_with_nullable([
        ("id", ids, false),
        ("time", Arc::new(times), false),
        (
            "v",
            Arc::new(StringArray::from_iter_values(texts)) as _,
            true,
        ),
    ])
    .unwrap()
}

/// A table whose files have the same keys, each in another version.
async fn versions(cluster: &Cluster, rows: i64, width: usize) -> Table {
    let sql = "CREATE TABLE t (id BIGINT, time TIMESTAMP, v TEXT, PRIMARY KEY (time, id))";
    cluster.update(sql).await.unwrap();
    let name = TableName::public(DATABASE, "t");
    let table = cluster.catalog.table(&name).await.unwrap().unwrap();
    for number in 0..FILES {
        put_batch(cluster, "a", &table, version(number, rows, width)).await;
        cluster.ingesters.flush("a", &name).await;
        cluster.ingesters.forget("a", table.id);
    }
    table
}

async fn has_the_newest(cluster: &Cluster, rows: i64, width: usize) {
    let all = "SELECT count(*) FROM t WHERE starts_with(v, '15-')";
    assert_eq!(cluster.number(all).await, rows);
    let long = format!("SELECT count(*) FROM t WHERE length(v) = {width}");
    assert_eq!(cluster.number(&long).await, rows);
    let last = "SELECT id FROM (SELECT id, v FROM t ORDER BY time DESC LIMIT 1)";
    assert_eq!(cluster.number(last).await, rows - 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sorted_files_of_wide_rows_are_merged_within_the_memory() {
    let cluster = Cluster::with(config(), 64 << 20).await;
    let (rows, width) = (3000, 1000);
    versions(&cluster, rows, width).await;
    let plan = cluster.text("EXPLAIN SELECT * FROM t").await;
    assert!(plan.contains("sorted=[1, 1, 1"), "{plan}");
    has_the_newest(&cluster, rows, width).await;
}

/// The engine would read two halves of a file and merge them row by row.
#[tokio::test]
async fn a_sorted_file_is_read_in_one_piece() {
    let cluster = Cluster::start().await;
    versions(&cluster, 12_000, 100).await;
    let plan = cluster.text("EXPLAIN SELECT * FROM t").await;
    assert!(plan.contains("sorted=[1, 1, 1"), "{plan}");
    assert!(!plan.contains("SortPreservingMergeExec"), "{plan}");
}

/// A rewrite has 64 MiB here, as by default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_wide_rows_are_deleted_from_and_rewritten_within_the_memory() {
    let cluster = Cluster::with(config(), 64 << 20).await;
    let (rows, width) = (500, 16_000);
    let table = versions(&cluster, rows, width).await;
    let deleted = cluster.update("DELETE FROM t WHERE v LIKE '%7'").await;
    assert_eq!(deleted.unwrap(), 50);
    let (catalog, rewriter) = (Arc::clone(&cluster.catalog), cluster.engine.rewriter());
    compact(catalog, rewriter, table.id).await;
    let left = "SELECT count(*) FROM t WHERE starts_with(v, '15-') AND NOT v LIKE '%7'";
    assert_eq!(cluster.number(left).await, 450);
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 450);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_rows_too_wide_to_be_merged_are_sorted() {
    let cluster = Cluster::with(config(), 64 << 20).await;
    let (rows, width) = (200, 20_000);
    versions(&cluster, rows, width).await;
    let plan = cluster.text("EXPLAIN SELECT * FROM t").await;
    assert!(!plan.contains("sorted=["), "{plan}");
    has_the_newest(&cluster, rows, width).await;
}

/// A join repeats the few wide rows for each narrow one that matches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_with_few_wide_rows_gives_small_batches() {
    let cluster = Cluster::with(config(), 64 << 20).await;
    let wide = "CREATE TABLE docs (k BIGINT, doc TEXT)";
    let narrow = "CREATE TABLE facts (id BIGINT, k BIGINT)";
    for sql in [
        wide,
        narrow,
        "INSERT INTO docs SELECT value, repeat('x', 50000) FROM generate_series(0, 9)",
        "INSERT INTO facts SELECT value, value % 10 FROM generate_series(1, 20000)",
    ] {
        cluster.update(sql).await.unwrap();
    }
    let sql = "SELECT f.id, d.doc FROM facts f JOIN docs d ON f.k = d.k LIMIT 100";
    let batches = cluster.query(sql).await.unwrap();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 100);
    let largest = batches.iter().map(RecordBatch::get_array_memory_size);
    // 8,192 rows would have 400 MB.
    let largest = largest.max().unwrap();
    assert!(largest < 16 << 20, "{largest}");
}
