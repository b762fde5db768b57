//! `DELETE` and `TRUNCATE`: exactly the rows that were meant, seen by nobody in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use flightcluster_catalog::{
    File, JobKind, Lease, LiveFiles, ReplaceCause, ReplaceFiles, Table, TableId, TableName,
};
use futures::TryStreamExt as _;
use object_store::ObjectStore as _;
use tokio_util::sync::CancellationToken;

use super::fixture::{Cluster, DATABASE, int64s, points, points_schema, row};
use crate::rewrite::{RewriteRequest, Rewriter};
use crate::{Access, ExecuteOptions, QueryRequest};

/// `t(id, city, level)`: files of both ingesters, fresh rows, nulls, and a column that is younger than
/// the first file. Ids 1 to 60; level is id / 2, null for ids that 5 divides and for the first 20.
async fn mixed(cluster: &Cluster) -> Table {
    let first = cluster.create("t", &points_schema()).await;
    cluster.ingesters.write("a", &first, points(1..=20));
    cluster.ingesters.flush("a", &first.name).await;
    cluster.ingesters.forget("a", first.id);
    let mut fields: Vec<Field> = points_schema()
        .fields()
        .iter()
        .map(|f| Field::clone(f))
        .collect();
    fields.push(Field::new("level", DataType::Float64, true));
    let schema = Schema::new(fields);
    let bytes = crate::encode_schema(&schema).unwrap();
    let evolved = cluster
        .catalog
        .evolve_table(first.id, first.schema_version, bytes)
        .await;
    let table = evolved.unwrap();
    for (ingester, ids) in [("b", 21..=40), ("a", 41..=60)] {
        let level: Float64Array = ids
            .clone()
            .map(|id| (id % 5 != 0).then_some(id as f64 / 2.0))
            .collect();
        let mut columns = points(ids).columns().to_vec();
        columns.push(Arc::new(level));
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap();
        cluster.ingesters.write(ingester, &table, batch);
    }
    cluster.ingesters.flush("b", &table.name).await;
    table
}

async fn ids(cluster: &Cluster) -> Vec<i64> {
    let rows = cluster.query("SELECT id FROM t ORDER BY id").await.unwrap();
    int64s(&rows, 0)
}

#[tokio::test]
async fn a_delete_takes_away_the_rows_its_condition_is_true_for_and_counts_them() {
    let cluster = Cluster::start().await;
    mixed(&cluster).await;
    let deleted = cluster
        .update("DELETE FROM t WHERE id % 2 = 0 AND id > 10")
        .await;
    assert_eq!(deleted.unwrap(), 25);
    let expected: Vec<i64> = (1..=60).filter(|id| id % 2 != 0 || *id <= 10).collect();
    assert_eq!(ids(&cluster).await, expected);
    let again = cluster
        .update("DELETE FROM t WHERE id % 2 = 0 AND id > 10")
        .await;
    assert_eq!(again.unwrap(), 0);
}

#[tokio::test]
async fn rows_for_which_the_condition_is_null_stay() {
    let cluster = Cluster::start().await;
    mixed(&cluster).await;
    let deleted = cluster
        .update("DELETE FROM t WHERE level > 0")
        .await
        .unwrap();
    assert_eq!(deleted, 32);
    assert_eq!(ids(&cluster).await.len(), 28);
    let deleted = cluster
        .update("DELETE FROM t WHERE NOT (level > 0)")
        .await
        .unwrap();
    assert_eq!(deleted, 0);
    let deleted = cluster
        .update("DELETE FROM t WHERE level IS NULL AND id > 20")
        .await
        .unwrap();
    assert_eq!(deleted, 8);
    assert_eq!(ids(&cluster).await, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_delete_without_a_condition_and_a_truncation_read_nothing() {
    for sql in ["DELETE FROM t", "TRUNCATE TABLE t"] {
        let cluster = Cluster::start().await;
        mixed(&cluster).await;
        cluster.store.take();
        assert_eq!(cluster.update(sql).await.unwrap(), 60, "{sql}");
        assert!(cluster.store.take().is_empty(), "{sql}");
        assert!(ids(&cluster).await.is_empty());
    }
}

#[tokio::test]
async fn what_a_delete_cannot_do_is_refused_and_changes_nothing() {
    let cluster = Cluster::start().await;
    mixed(&cluster).await;
    for sql in [
        "DELETE FROM t WHERE id IN (SELECT id FROM t)",
        "DELETE FROM t WHERE id = (SELECT max(id) FROM t)",
        "DELETE FROM t LIMIT 3",
        "DELETE FROM t USING t AS other WHERE t.id = other.id",
        "DELETE FROM t WHERE id = 1 RETURNING id",
        "DELETE FROM t AS x WHERE x.id = 1",
        "DELETE FROM t WHERE random() < 0.5",
        "DELETE FROM t WHERE tick(id) = 3",
        "TRUNCATE TABLE t, t",
        "UPDATE t SET id = 3",
    ] {
        let error = cluster.update(sql).await.unwrap_err();
        assert_eq!(error.category(), "unsupported", "{sql}: {error}");
    }
    assert_eq!(ids(&cluster).await.len(), 60);
}

#[tokio::test]
async fn a_reader_sees_all_or_none_of_a_delete_while_rows_are_written() {
    let cluster = Arc::new(Cluster::start().await);
    let table = mixed(&cluster).await;
    let name = TableName::public(DATABASE, "t");
    let reader = {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            let mut seen = Vec::new();
            loop {
                let count = cluster
                    .number("SELECT count(*) FROM t WHERE id <= 60")
                    .await;
                seen.push(count);
                if count == 30 {
                    return seen;
                }
            }
        })
    };
    let mut next = 1000;
    let deletion = {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            cluster
                .update("DELETE FROM t WHERE id % 2 = 0 AND id <= 60")
                .await
        })
    };
    while !deletion.is_finished() {
        let id: ArrayRef = Arc::new(Int64Array::from(vec![next]));
        let city: ArrayRef = Arc::new(StringArray::from(vec!["Brno"]));
        let level: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
        let batch = row([("id", id), ("city", city), ("level", level)]);
        cluster.ingesters.write("b", &table, batch);
        cluster.ingesters.flush("b", &name).await;
        next += 1;
    }
    assert_eq!(deletion.await.unwrap().unwrap(), 30);
    let seen = reader.await.unwrap();
    assert!(
        seen.iter().all(|count| [60, 30].contains(count)),
        "{seen:?}"
    );
    let written = cluster
        .number("SELECT count(*) FROM t WHERE id >= 1000")
        .await;
    assert_eq!(written, next - 1000, "no row that came meanwhile is lost");
}

/// Makes one file of all files of a table, as compaction does.
pub(super) async fn compact(
    catalog: Arc<dyn flightcluster_catalog::Catalog>,
    rewriter: Rewriter,
    id: TableId,
) {
    compact_those(catalog, rewriter, id, |_| true).await;
}

/// Makes these files of a table one.
pub(super) async fn compact_those(
    catalog: Arc<dyn flightcluster_catalog::Catalog>,
    rewriter: Rewriter,
    id: TableId,
    chosen: fn(&File) -> bool,
) {
    let tables = catalog.tables_by_id(&[id]).await.unwrap();
    let which = LiveFiles {
        table: id,
        below_bytes: None,
        before_nanos: None,
        limit: 1000,
    };
    let mut files = catalog.live_files(which).await.unwrap();
    files.retain(chosen);
    let inputs = files.iter().map(|file| file.id).collect();
    let request = RewriteRequest {
        table: tables[0].clone(),
        files,
        keep_from_nanos: None,
        remove: None,
    };
    let never = CancellationToken::new();
    let rewritten = rewriter.rewrite(request, never).await.unwrap();
    let request = ReplaceFiles {
        table: id,
        inputs,
        outputs: rewritten.outputs,
        removed_rows: rewritten.removed_rows + rewritten.superseded_rows,
        cause: ReplaceCause::Compaction,
        valid_until_millis: None,
        retention: None,
    };
    catalog.replace_files(request).await.unwrap();
}

/// Paths of the objects in the store that no file ever had.
async fn unknown_objects(cluster: &Cluster) -> Vec<String> {
    let listed: Vec<_> = cluster.store.list(None).try_collect().await.unwrap();
    let paths: Vec<String> = listed
        .iter()
        .map(|meta| meta.location.to_string())
        .collect();
    cluster.catalog.unknown_paths(&paths).await.unwrap()
}

/// A process that slept between storing a file and committing it: the object may be gone since.
#[tokio::test]
async fn a_delete_that_slept_too_long_begins_again() {
    // Attempts after the first have time enough on a machine that is busy.
    let within = Duration::from_secs(2);
    let cluster = Cluster::committing_within(within).await;
    let table = mixed(&cluster).await;
    cluster.ingesters.flush("a", &table.name).await;
    let begins_again = Arc::new(AtomicBool::new(false));
    let (catalog, store) = (Arc::clone(&cluster.catalog), Arc::clone(&cluster.store));
    let again = Arc::clone(&begins_again);
    cluster.store.before_put(async move {
        let began = catalog.time().await.unwrap();
        while catalog.time().await.unwrap().millis <= began.millis_after(within) {
            tokio::time::sleep(within / 10).await;
        }
        store.before_put(async move { again.store(true, Ordering::Relaxed) });
    });
    let deleted = cluster.update("DELETE FROM t WHERE id = 3").await;
    assert_eq!(deleted.unwrap(), 1);
    assert!(begins_again.load(Ordering::Relaxed));
    let expected: Vec<i64> = (1..=60).filter(|id| *id != 3).collect();
    assert_eq!(ids(&cluster).await, expected);
    assert!(
        unknown_objects(&cluster).await.is_empty(),
        "the first attempt left nothing"
    );
}

#[tokio::test]
async fn a_delete_that_was_overtaken_by_compaction_begins_again() {
    let cluster = Cluster::start().await;
    let table = mixed(&cluster).await;
    let (catalog, rewriter) = (Arc::clone(&cluster.catalog), cluster.engine.rewriter());
    cluster.ingesters.flush("a", &table.name).await;
    // When the first file is written anew, all of them are replaced.
    cluster
        .store
        .before_put(compact(catalog, rewriter, table.id));
    let deleted = cluster.update("DELETE FROM t WHERE id % 3 = 0").await;
    assert_eq!(deleted.unwrap(), 20);
    let expected: Vec<i64> = (1..=60).filter(|id| id % 3 != 0).collect();
    assert_eq!(ids(&cluster).await, expected);
    let causes = cluster
        .text("SELECT cause, input_files, input_rows, output_rows FROM system.compactions ORDER BY snapshot")
        .await;
    assert!(
        causes.contains("compaction | 3 ")
            && causes.contains("| delete     | 1           | 60         | 40"),
        "{causes}"
    );
    assert!(
        unknown_objects(&cluster).await.is_empty(),
        "the first attempt left nothing"
    );
}

#[tokio::test]
async fn deletes_at_the_same_time_count_each_row_once() {
    let cluster = Arc::new(Cluster::start().await);
    mixed(&cluster).await;
    let deletions: Vec<_> = (0..4)
        .map(|number| {
            let cluster = Arc::clone(&cluster);
            let sql = format!("DELETE FROM t WHERE id % 2 = 0 OR id % 7 = {number}");
            tokio::spawn(async move { cluster.update(&sql).await.unwrap() })
        })
        .collect();
    let mut deleted = 0;
    for deletion in deletions {
        deleted += deletion.await.unwrap();
    }
    let left = ids(&cluster).await;
    let expected: Vec<i64> = (1..=60).filter(|id| id % 2 != 0 && id % 7 > 3).collect();
    assert_eq!(left, expected);
    assert_eq!(deleted as usize + left.len(), 60);
}

#[tokio::test]
async fn a_delete_waits_while_the_table_is_compacted() {
    let cluster = Arc::new(Cluster::start().await);
    let table = mixed(&cluster).await;
    let lease = |time| Lease {
        job: JobKind::Rewrite,
        table: Some(table.id),
        holder: "somebody".to_owned(),
        time: std::time::Duration::from_secs(time),
    };
    assert!(cluster.catalog.lease(lease(60)).await.unwrap());
    let deletion = {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move { cluster.update("DELETE FROM t WHERE id = 1").await })
    };
    // Put into files first, and then nothing.
    while cluster
        .number("SELECT sum(file_rows)::BIGINT FROM system.tables")
        .await
        < 60
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(ids(&cluster).await.len(), 60);
    assert!(!deletion.is_finished());
    assert!(cluster.catalog.lease(lease(0)).await.unwrap());
    assert_eq!(deletion.await.unwrap().unwrap(), 1);
    assert!(
        cluster.catalog.lease(lease(60)).await.unwrap(),
        "given back"
    );
}

#[tokio::test]
async fn a_delete_that_is_cancelled_changes_nothing_and_leaves_nothing() {
    let cluster = Cluster::start().await;
    mixed(&cluster).await;
    let (begun, wait) = tokio::sync::oneshot::channel::<()>();
    let (go_on, gate) = tokio::sync::oneshot::channel::<()>();
    cluster
        .ingesters
        .flush("a", &TableName::public(DATABASE, "t"))
        .await;
    cluster.store.before_put(async move {
        begun.send(()).unwrap();
        // Gone without a word once the statement is dropped.
        let _ = gate.await;
    });
    let plan = cluster
        .plan("DELETE FROM t WHERE id % 2 = 0")
        .await
        .unwrap();
    let options = ExecuteOptions {
        request_id: "r".to_owned(),
        ..ExecuteOptions::default()
    };
    let engine = cluster.engine.clone();
    let deletion = tokio::spawn(async move { engine.execute_update(plan, options).await });
    wait.await.unwrap();
    assert_eq!(cluster.engine.cancel("r"), 1);
    let error = deletion.await.unwrap().unwrap_err();
    assert_eq!(error.category(), "cancelled");
    go_on.send(()).unwrap();
    while !unknown_objects(&cluster).await.is_empty() || cluster.engine.stats().running > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ids(&cluster).await.len(), 60);
}

#[tokio::test]
async fn only_files_of_the_times_of_the_condition_are_read() {
    let cluster = Cluster::start().await;
    cluster
        .update("CREATE TABLE m (time TIMESTAMP, n BIGINT)")
        .await
        .unwrap();
    let name = TableName::public(DATABASE, "m");
    for hours in [48, 24, 0] {
        let sql = format!(
            "INSERT INTO m SELECT now()::TIMESTAMP - INTERVAL '{hours} hours', {hours} UNION ALL SELECT now()::TIMESTAMP - INTERVAL '{hours} hours', 1"
        );
        assert_eq!(cluster.update(&sql).await.unwrap(), 2);
        cluster.ingesters.flush("a", &name).await;
    }
    cluster.store.take();
    let sql = "DELETE FROM m WHERE time < now()::TIMESTAMP - INTERVAL '36 hours' AND n <> 1";
    assert_eq!(cluster.update(sql).await.unwrap(), 1);
    let read = cluster.store.take();
    assert_eq!(read.len(), 1, "{read:?}");
    assert_eq!(cluster.number("SELECT count(*) FROM m").await, 5);
    assert_eq!(cluster.number("SELECT sum(n) FROM m").await, 27);
}

#[tokio::test]
async fn parameters_of_a_condition_are_bound() {
    let cluster = Cluster::start().await;
    mixed(&cluster).await;
    let id: ArrayRef = Arc::new(Int64Array::from(vec![7]));
    let request = QueryRequest {
        parameters: Some(row([("$1", id)])),
        ..Cluster::request("DELETE FROM t WHERE id <= $1")
    };
    let plan = cluster.engine.plan(request).await.unwrap();
    let deleted = cluster
        .engine
        .execute_update(plan, ExecuteOptions::default())
        .await;
    assert_eq!(deleted.unwrap(), 7);
    let error = cluster
        .update("DELETE FROM t WHERE id = $1")
        .await
        .unwrap_err();
    assert_eq!(error.category(), "parameter_missing");
    assert_eq!(ids(&cluster).await.len(), 53);
}

#[tokio::test]
async fn who_may_write_may_not_delete() {
    let cluster = Cluster::start().await;
    mixed(&cluster).await;
    for sql in ["DELETE FROM t WHERE id = 1", "TRUNCATE TABLE t"] {
        let request = QueryRequest {
            access: Access::new(|kind, _| kind != crate::AccessKind::Admin),
            ..Cluster::request(sql)
        };
        let error = cluster.engine.plan(request).await.unwrap_err();
        assert_eq!(error.category(), "access_denied", "{sql}");
    }
}
