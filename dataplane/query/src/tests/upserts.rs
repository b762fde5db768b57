//! Tables with a primary key: each query sees the newest row of each key, wherever its rows are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array as _, ArrayRef, Int64Array, RecordBatch, TimestampNanosecondArray, UInt64Array,
};
use arrow_schema::SchemaRef;
use arrow_select::take::take_record_batch;
use flightcluster_catalog::{Table, TableName};
use flightcluster_keys::{Key, NewestSorted, ORDER_COLUMN, storage_schema, with_order};

use super::deleting::{compact, compact_those};
use super::fixture::{Cluster, DATABASE, config};
use super::shapes::shape;

/// The batch as the ingester of its table holds it: with orders, if the table has a key and the batch
/// none of its own.
pub(super) fn numbered(table: &Table, batch: RecordBatch, orders: &AtomicI64) -> RecordBatch {
    let key = Key::of(&table.options).unwrap();
    if key.is_none() || batch.column_by_name(ORDER_COLUMN).is_some() {
        return batch;
    }
    let first = orders.fetch_add(batch.num_rows() as i64, Ordering::Relaxed);
    with_order(&batch, first).unwrap()
}

/// What a file of a table holds of these batches: with a key, the newest row of each, and its order,
/// sorted by key or, as an older release would leave them, not.
pub(super) fn kept<'a>(
    table: &Table,
    (schema, sorted): (SchemaRef, bool),
    batches: impl Iterator<Item = &'a RecordBatch>,
) -> (SchemaRef, Vec<RecordBatch>) {
    let Some(key) = Key::of(&table.options).unwrap() else {
        let batches = batches.map(|batch| shape(batch, &schema, None)).collect();
        return (schema, batches);
    };
    let schema = Arc::new(storage_schema(&schema));
    let batches: Vec<_> = batches.map(|batch| shape(batch, &schema, None)).collect();
    let (keys, order) = (key.places(&schema).unwrap(), schema.fields().len() - 1);
    let newest = NewestSorted::of(&batches, &keys, order).unwrap();
    let mut kept: Vec<_> = newest.batches(100).map(Result::unwrap).collect();
    if !sorted {
        kept.reverse();
        for batch in &mut kept {
            let places = UInt64Array::from_iter_values((0..batch.num_rows() as u64).rev());
            *batch = take_record_batch(batch, &places).unwrap();
        }
    }
    (schema, kept)
}

/// A row: id, time, v.
pub(super) type Seen = (i64, i64, Option<i64>);

pub(super) fn rows(rows: &[Seen]) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)));
    let times = TimestampNanosecondArray::from_iter_values(rows.iter().map(|row| row.1));
    let values: Int64Array = rows.iter().map(|row| row.2).collect();
    RecordBatch::try_from_iter_with_nullable([
        ("id", ids, false),
        ("time", Arc::new(times), false),
        ("v", Arc::new(values), true),
    ])
    .unwrap()
}

pub(super) async fn keyed(cluster: &Cluster, name: &str) -> Table {
    let sql = format!(
        "CREATE TABLE {name} (id BIGINT, time TIMESTAMP, v BIGINT, PRIMARY KEY (id, time))"
    );
    cluster.update(&sql).await.unwrap();
    let name = TableName::public(DATABASE, name);
    cluster.catalog.table(&name).await.unwrap().unwrap()
}

/// Rows of whole numbers, nulls as `None`, in the order they come.
pub(super) async fn answer(cluster: &Cluster, sql: &str) -> Vec<Vec<Option<i64>>> {
    let batches = cluster.query(sql).await;
    let batches = batches.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let mut answer = Vec::new();
    for batch in &batches {
        for at in 0..batch.num_rows() {
            let value = |column: &ArrayRef| {
                let column = column.as_primitive::<Int64Type>();
                column.is_valid(at).then(|| column.value(at))
            };
            answer.push(batch.columns().iter().map(value).collect());
        }
    }
    answer
}

#[tokio::test]
async fn the_newest_row_of_a_key_is_found_wherever_its_versions_are() {
    let cluster = Cluster::start().await;
    let mut number = 0;
    let places = [("a", true), ("b", true), ("a", false), ("b", false)];
    for old in places {
        for new in places {
            // Whichever comes first, the order decides.
            for swapped in [false, true] {
                number += 1;
                let table = keyed(&cluster, &format!("t{number}")).await;
                let version = |order, v| with_order(&rows(&[(1, 5, Some(v)), (2, 9, None)]), order);
                let mut versions = [
                    (old, version(10, 1).unwrap()),
                    (new, version(20, 2).unwrap()),
                ];
                if swapped {
                    versions.reverse();
                }
                for ((ingester, flushed), batch) in versions {
                    cluster.ingesters.write(ingester, &table, batch);
                    if flushed {
                        cluster.ingesters.flush(ingester, &table.name).await;
                    }
                }
                let sql = format!("SELECT id, v FROM t{number} ORDER BY id");
                let expected = [vec![Some(1), Some(2)], vec![Some(2), None]];
                assert_eq!(
                    answer(&cluster, &sql).await,
                    expected,
                    "{old:?} {new:?} {swapped}"
                );
                let (catalog, rewriter) = (Arc::clone(&cluster.catalog), cluster.engine.rewriter());
                for ingester in ["a", "b"] {
                    cluster.ingesters.flush(ingester, &table.name).await;
                }
                compact(catalog, rewriter, table.id).await;
                assert_eq!(
                    answer(&cluster, &sql).await,
                    expected,
                    "{old:?} {new:?} {swapped}"
                );
                let counted = format!("SELECT count(*) FROM t{number}");
                assert_eq!(cluster.number(&counted).await, 2);
            }
        }
    }
}

/// Ids 1 to 3 at times 10, 20 and 30, v = 10 × id + time / 10: once in a file, and id 1 again with v = 0
/// in another one, and id 2 with v = 500 in memory.
async fn overwritten(cluster: &Cluster) -> Table {
    let table = keyed(cluster, "t").await;
    let all: Vec<Seen> = (1..=3)
        .flat_map(|id| [10, 20, 30].map(|time| (id, time, Some(10 * id + time / 10))))
        .collect();
    cluster.ingesters.write("a", &table, rows(&all));
    cluster.ingesters.flush("a", &table.name).await;
    let zero = [10, 20, 30].map(|time| (1, time, Some(0)));
    cluster.ingesters.write("b", &table, rows(&zero));
    cluster.ingesters.flush("b", &table.name).await;
    let large = [10, 20, 30].map(|time| (2, time, Some(500)));
    cluster.ingesters.write("a", &table, rows(&large));
    table
}

#[tokio::test]
async fn no_part_of_a_query_sees_a_row_that_was_overwritten() {
    let cluster = Cluster::start().await;
    overwritten(&cluster).await;
    for (sql, expected) in [
        ("SELECT count(*) FROM t", vec![9]),
        ("SELECT count(*) FROM t WHERE v BETWEEN 1 AND 29", vec![0]),
        ("SELECT count(*) FROM t WHERE v = 500", vec![3]),
        ("SELECT count(*) FROM t WHERE id = 2 AND v < 100", vec![0]),
        ("SELECT count(*) FROM t WHERE id = 2 OR v < 5", vec![6]),
        ("SELECT max(v) - min(v) FROM t", vec![500]),
        ("SELECT min(v) FROM t WHERE id > 1", vec![31]),
        ("SELECT arrow_cast(max(time), 'Int64') FROM t", vec![30]),
        (
            "SELECT v FROM t ORDER BY time DESC, id LIMIT 2",
            vec![0, 500],
        ),
        (
            "SELECT v FROM t ORDER BY v DESC LIMIT 1 OFFSET 2",
            vec![500],
        ),
        ("SELECT count(*) FROM (SELECT * FROM t LIMIT 100)", vec![9]),
        (
            "SELECT count(*) FROM t l JOIN t r USING (id, time)",
            vec![9],
        ),
        (
            "SELECT count(*) FROM t l JOIN t r ON l.v = r.v WHERE r.id = 1",
            vec![9],
        ),
        (
            "SELECT count(*) FROM (SELECT v FROM t UNION ALL SELECT v FROM t)",
            vec![18],
        ),
        (
            "SELECT sum(v) FROM t WHERE time = arrow_cast(20, 'Timestamp(Nanosecond, None)')",
            vec![532],
        ),
        (
            "SELECT count(*) FROM t o WHERE v < (SELECT max(v) FROM t i WHERE i.id = o.id)",
            vec![2],
        ),
    ] {
        let found = answer(&cluster, sql).await;
        let found: Vec<i64> = found.into_iter().flatten().flatten().collect();
        assert_eq!(found, expected, "{sql}");
    }
}

/// The scan of files skips by such a filter and does not apply it.
#[tokio::test]
async fn a_filter_on_the_key_leaves_the_rows_of_each_key_together() {
    let cluster = Cluster::start().await;
    let table = keyed(&cluster, "t").await;
    for v in [7, 3] {
        let batch = [(1, 9, Some(v)), (2, 9, Some(v)), (3, 9, Some(v))];
        cluster.ingesters.write("a", &table, rows(&batch));
        cluster.ingesters.flush("a", &table.name).await;
    }
    cluster.ingesters.forget("a", table.id);
    for (condition, expected) in [
        ("id = 2", vec![3]),
        ("id = 2 AND v = 7", vec![]),
        ("id = 2 AND v > 6", vec![]),
        ("id IN (2, 3)", vec![3, 3]),
        (
            "time = arrow_cast(9, 'Timestamp(Nanosecond, None)')",
            vec![3, 3, 3],
        ),
    ] {
        let sql = format!("SELECT v FROM t WHERE {condition}");
        let found = answer(&cluster, &sql).await;
        let found: Vec<i64> = found.into_iter().flatten().flatten().collect();
        assert_eq!(found, expected, "{sql}");
    }
}

#[tokio::test]
async fn nobody_sees_the_column_of_orders() {
    let cluster = Cluster::start().await;
    overwritten(&cluster).await;
    let all = cluster.query("SELECT * FROM t").await.unwrap();
    let names: Vec<_> = all[0]
        .schema()
        .fields()
        .iter()
        .map(|f| f.name().clone())
        .collect();
    assert_eq!(names, ["id", "time", "v"]);
    for sql in [
        "DESCRIBE t",
        "SELECT column_name FROM information_schema.columns",
    ] {
        let text = cluster.text(sql).await;
        assert!(text.contains("time") && !text.contains("__fc"), "{text}");
    }
    let error = cluster.query("SELECT __fc_order FROM t").await.unwrap_err();
    assert_eq!(error.category(), "plan");
    let listed = cluster.text("SELECT primary_key FROM system.tables").await;
    assert!(listed.contains("id, time"), "{listed}");
    // A copy is a table without a key, unless it is asked for; a copy with one has the rows once.
    cluster
        .update("CREATE TABLE copy AS SELECT * FROM t")
        .await
        .unwrap();
    cluster
        .update("INSERT INTO copy SELECT * FROM t")
        .await
        .unwrap();
    assert_eq!(cluster.number("SELECT count(*) FROM copy").await, 18);
    let sql = "CREATE TABLE again (id BIGINT, time TIMESTAMP, v BIGINT, PRIMARY KEY (id, time)) \
               AS SELECT * FROM copy";
    cluster.update(sql).await.unwrap();
    cluster
        .update("INSERT INTO again SELECT * FROM copy")
        .await
        .unwrap();
    assert_eq!(cluster.number("SELECT count(*) FROM again").await, 9);
    let error = cluster
        .update("INSERT INTO t VALUES (NULL, now(), 1)")
        .await;
    assert_eq!(error.unwrap_err().category(), "null_value");
}

#[tokio::test]
async fn only_files_that_share_a_time_are_sorted() {
    let cluster = Cluster::start().await;
    let table = keyed(&cluster, "t").await;
    for hour in 0..4 {
        let hour = hour * 1000;
        let batch: Vec<Seen> = (0..100).map(|at| (at % 5, hour + at, Some(at))).collect();
        cluster.ingesters.write("a", &table, rows(&batch));
        cluster.ingesters.flush("a", &table.name).await;
    }
    let plan = cluster
        .text("EXPLAIN FORMAT INDENT SELECT * FROM t WHERE v > 5")
        .await;
    assert!(!plan.contains("NewestExec"), "{plan}");
    cluster.store.take();
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 400);
    assert!(
        cluster.store.take().is_empty(),
        "the catalog knows the number"
    );

    // A late row at a time of the third file.
    cluster
        .ingesters
        .write("b", &table, rows(&[(0, 2000, Some(-1))]));
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 400);
    assert_eq!(
        cluster
            .number("SELECT v FROM t WHERE id = 0 ORDER BY v LIMIT 1")
            .await,
        -1
    );

    let plan = |condition: &str| {
        let sql = format!("EXPLAIN FORMAT INDENT SELECT v FROM t WHERE {condition}");
        let cluster = &cluster;
        async move { cluster.text(&sql).await }
    };
    // What is below the node that keeps the newest rows.
    let below = |plan: String| {
        let (_, below) = plan.split_once("NewestExec: key=[time, id]").unwrap();
        below.to_owned()
    };
    let late = below(plan("v >= -5").await);
    let names = ["a-1-1", "a-1-2", "a-1-3", "a-1-4"];
    let read = names.map(|name| late.contains(name));
    assert_eq!(read, [false, false, true, false], "{late}");
    // What the file is asked for, beside times.
    let asked = |below: String| {
        let scans = below.lines().filter(|line| line.contains("DataSourceExec"));
        scans.filter(|scan| scan.contains(" = 3")).count()
    };
    assert!(asked(below(plan("id = 3").await)) > 0);
    assert_eq!(asked(below(plan("v = 3").await)), 0);
    assert_eq!(asked(below(plan("id = 3 OR v = 3").await)), 0);
}

#[tokio::test]
async fn of_sorted_files_only_what_was_written_since_is_sorted() {
    let cluster = Cluster::start().await;
    let table = keyed(&cluster, "t").await;
    let mut model = BTreeMap::new();
    let write = |ingester: &str, rows_of: &[Seen], model: &mut BTreeMap<(i64, i64), i64>| {
        for (id, time, v) in rows_of {
            model.insert((*id, *time), v.unwrap());
        }
        cluster.ingesters.write(ingester, &table, rows(rows_of));
    };
    let sum = |model: &BTreeMap<_, i64>| model.values().sum::<i64>();
    // Two sorted files with times in common, a loose one, and fresh rows.
    for (ids, step) in [(0..2, 1), (1..3, 7)] {
        let rows = ids.flat_map(|id| (0..3000).map(move |at| (id, at * step, Some(at))));
        write("a", &rows.collect::<Vec<_>>(), &mut model);
        cluster.ingesters.flush("a", &table.name).await;
        cluster.ingesters.forget("a", table.id);
        let (catalog, rewriter) = (Arc::clone(&cluster.catalog), cluster.engine.rewriter());
        compact_those(catalog, rewriter, table.id, |file| file.ingester.is_some()).await;
    }
    write("b", &[(1, 50, Some(-1)), (5, 2999, Some(-2))], &mut model);
    cluster.ingesters.flush("b", &table.name).await;
    cluster.ingesters.forget("b", table.id);
    write("b", &[(1, 70, Some(-3)), (1, 99_000, Some(-4))], &mut model);

    let sql = "SELECT sum(v) FROM t";
    assert_eq!(cluster.number(sql).await, sum(&model));
    let count = "SELECT count(*) FROM t";
    assert_eq!(cluster.number(count).await, model.len() as i64);
    let of_one = model.iter().filter(|((id, _), _)| *id == 1);
    let of_one: i64 = of_one.map(|(_, v)| *v).sum();
    let by_key = "SELECT sum(v) FROM t WHERE id = 1";
    assert_eq!(cluster.number(by_key).await, of_one);
    for (sql, predicate) in [(sql, false), (by_key, true)] {
        let plan = cluster.text(&format!("EXPLAIN FORMAT INDENT {sql}")).await;
        // Each half of the times has both lanes.
        assert_eq!(plan.matches("sorted=[1, 1]").count(), 2, "{plan}");
        assert_eq!(
            plan.contains("id@0 = 1, pruning_predicate"),
            predicate,
            "{plan}"
        );
        for below in plan.split("SortExec").skip(1) {
            let sorted = below.split("DataSourceExec").nth(1).unwrap();
            assert!(!sorted.contains("rewritten"), "{plan}");
        }
    }
    // Every row in an order that only the answer asks for.
    let last = "SELECT v FROM t ORDER BY time DESC, id LIMIT 2";
    let found = answer(&cluster, last).await;
    assert_eq!(found, [[Some(-4)], [Some(2999)]]);
}

#[tokio::test]
async fn a_sort_that_does_not_fit_goes_to_disk() {
    // What merging sorted files reserves, and little more; and enough for all threads.
    for (threads, memory_mib) in [(1, 20), (4, 256)] {
        let config = flightcluster_config::QueryConfig {
            task_threads: threads,
            ..config()
        };
        let cluster = Cluster::with(config, memory_mib << 20).await;
        let table = keyed(&cluster, "t").await;
        for ingester in ["a", "b"] {
            for part in 0..4 {
                let batch = (0..50_000).map(|at| (at % 100, part * 50_000 + at, Some(part)));
                let batch: Vec<Seen> = batch.collect();
                cluster.ingesters.write(ingester, &table, rows(&batch));
            }
            cluster.ingesters.flush(ingester, &table.name).await;
            cluster.ingesters.forget(ingester, table.id);
        }
        let sql = "SELECT count(*) * 10 + max(v) FROM t";
        assert_eq!(cluster.number(sql).await, 2_000_003, "{threads} threads");
        let analyzed = cluster.text(&format!("EXPLAIN ANALYZE {sql}")).await;
        let (_, below) = analyzed.split_once("NewestExec").unwrap();
        let spills = below.split("spill_count=").skip(1);
        let spilled = spills.filter(|count| !count.starts_with('0')).count();
        assert_eq!(spilled > 0, threads == 1, "{analyzed}");
    }
}

/// Numbers that look random and are the same each time.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What a table should hold: v and order of each key.
type Model = BTreeMap<(i64, i64), (i64, Option<i64>)>;

/// A question and its answer, in no order.
fn question(random: &mut Random, table: &str, model: &Model) -> (String, Vec<Vec<Option<i64>>>) {
    let x = random.below(20) as i64;
    let all = model.iter().map(|((id, time), (_, v))| (*id, *time, *v));
    let rows = |keep: &dyn Fn(&Seen) -> bool| -> Vec<Vec<Option<i64>>> {
        let kept = all.clone().filter(keep);
        kept.map(|(id, time, v)| vec![Some(id), Some(time), v])
            .collect()
    };
    let number = |value: Option<i64>| vec![vec![value]];
    let some = |keep: &dyn Fn(&Seen) -> bool| all.clone().filter(keep).count() as i64;
    let select = format!("SELECT id, arrow_cast(time, 'Int64'), v FROM {table}");
    let time = "arrow_cast(time, 'Int64')";
    let at = format!("arrow_cast({x}, 'Timestamp(Nanosecond, None)')");
    match random.below(11) {
        0 => (select, rows(&|_| true)),
        1 => (
            format!("{select} WHERE v > {x}"),
            rows(&|row| row.2 > Some(x)),
        ),
        2 => (
            format!("{select} WHERE id = {}", x % 4),
            rows(&|row| row.0 == x % 4),
        ),
        3 => (
            format!("SELECT count(*) FROM {table}"),
            number(Some(some(&|_| true))),
        ),
        4 => (
            format!("{select} WHERE time >= {at}"),
            rows(&|row| row.1 >= x),
        ),
        5 => (
            format!("{select} WHERE v IS NULL"),
            rows(&|row| row.2.is_none()),
        ),
        6 => {
            let highest = all.clone().filter_map(|row| row.2).max();
            (format!("SELECT max(v) FROM {table}"), number(highest))
        }
        7 => {
            let sql = format!("SELECT count(*) FROM {table} WHERE time < {at} AND v < 10");
            (
                sql,
                number(Some(some(&|row| {
                    row.1 < x && row.2.is_some_and(|v| v < 10)
                }))),
            )
        }
        8 => {
            let sql = format!("{select} ORDER BY {time} DESC, id LIMIT 3");
            let mut sorted = rows(&|_| true);
            sorted.sort_by_key(|row| (std::cmp::Reverse(row[1]), row[0]));
            sorted.truncate(3);
            (sql, sorted)
        }
        9 => {
            let sql = format!("{select} WHERE id = {} OR v = {x}", x % 4);
            (sql, rows(&|row| row.0 == x % 4 || row.2 == Some(x)))
        }
        _ => {
            let sql = format!("SELECT count(*) FROM {table} l JOIN {table} r USING (id, time)");
            (sql, number(Some(some(&|_| true))))
        }
    }
}

#[tokio::test]
async fn random_writes_flushes_and_rewrites_answer_as_the_model() {
    let cluster = Cluster::start().await;
    let mut merged = 0;
    for seed in 0..60 {
        let mut random = Random(seed);
        let name = format!("t{seed}");
        let table = keyed(&cluster, &name).await;
        let mut model = Model::new();
        let (mut order, mut late) = (0, None);
        for _ in 0..30 {
            let ingester = ["a", "b"][random.below(2) as usize];
            match random.below(12) {
                0..=4 => {
                    let count = 1 + random.below(4);
                    let batch = (0..count).map(|_| {
                        let v = random.below(20) as i64;
                        let time = random.below(20) as i64;
                        (random.below(4) as i64, time, (v > 1).then_some(v))
                    });
                    let batch: Vec<Seen> = batch.collect();
                    let ordered = with_order(&rows(&batch), order).unwrap();
                    for ((id, time, v), order) in batch.into_iter().zip(order..) {
                        model.insert((id, time), (order, v));
                    }
                    order += count as i64;
                    // Some take their numbers and arrive after the next.
                    let batch = match random.below(4) {
                        0 => late.replace((ingester, ordered)),
                        _ => Some((ingester, ordered)),
                    };
                    if let Some((ingester, batch)) = batch {
                        cluster.ingesters.write(ingester, &table, batch);
                    }
                }
                5 | 6 => cluster.ingesters.flush(ingester, &table.name).await,
                7 => {
                    let (catalog, rewriter) =
                        (Arc::clone(&cluster.catalog), cluster.engine.rewriter());
                    let held = cluster
                        .catalog
                        .snapshot(std::slice::from_ref(&table.name))
                        .await;
                    if !held.unwrap().tables[0].files.is_empty() {
                        compact(catalog, rewriter, table.id).await;
                    }
                }
                _ => {
                    if let Some((ingester, batch)) = late.take() {
                        cluster.ingesters.write(ingester, &table, batch);
                    }
                    let (sql, mut expected) = question(&mut random, &name, &model);
                    let plan = cluster.text(&format!("EXPLAIN {sql}")).await;
                    merged += usize::from(plan.contains("sorted=["));
                    let mut found = answer(&cluster, &sql).await;
                    found.sort();
                    expected.sort();
                    assert_eq!(found, expected, "seed {seed}: {sql}");
                }
            }
        }
    }
    assert!(merged > 50, "{merged} questions merged sorted files");
}
