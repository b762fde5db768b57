//! `DELETE` and `TRUNCATE` of tables with a primary key: the newest row of each key is judged, and no older
//! one comes back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use flightcluster_catalog::{Table, TableName};
use flightcluster_keys::with_order;

use super::deleting::compact;
use super::fixture::{Cluster, DATABASE, config};
use super::upserts::{Random, Seen, answer, keyed, rows};

async fn put(cluster: &Cluster, ingester: &str, table: &Table, batch: &[Seen]) -> i64 {
    put_batch(cluster, ingester, table, rows(batch)).await
}

/// Writes rows with numbers that the catalog gives, as an ingester does; returns the first number.
pub(super) async fn put_batch(
    cluster: &Cluster,
    ingester: &str,
    table: &Table,
    batch: RecordBatch,
) -> i64 {
    let all = cluster.catalog.list_ingesters().await.unwrap();
    let one = all.iter().find(|known| known.name == ingester).unwrap();
    let first = cluster
        .catalog
        .take_orders(one.id, one.epoch, batch.num_rows() as u64);
    let first = first.await.unwrap();
    let batch = with_order(&batch, first).unwrap();
    cluster.ingesters.write(ingester, table, batch);
    first
}

async fn flush(cluster: &Cluster, table: &Table) {
    for ingester in ["a", "b"] {
        cluster.ingesters.flush(ingester, &table.name).await;
    }
}

/// id and v of all rows.
async fn seen(cluster: &Cluster, table: &str) -> Vec<Vec<Option<i64>>> {
    answer(cluster, &format!("SELECT id, v FROM {table} ORDER BY id")).await
}

#[tokio::test]
async fn a_deleted_row_does_not_bring_its_older_version_back() {
    let cluster = Cluster::start().await;
    let mut number = 0;
    // Where the older and the newer row are: in a file or in memory, of this ingester or of that.
    let places = [("a", true), ("b", true), ("a", false), ("b", false)];
    for old in places {
        for new in places {
            number += 1;
            let name = format!("t{number}");
            let table = keyed(&cluster, &name).await;
            for ((ingester, flushed), v) in [(old, 3), (new, 7)] {
                let batch = [(1, 5, Some(v)), (2, 9, Some(10 - v)), (3, 9, None)];
                put(&cluster, ingester, &table, &batch).await;
                if flushed {
                    cluster.ingesters.flush(ingester, &table.name).await;
                }
            }
            // Only older rows are so.
            for nothing in ["v = 3 AND id = 1", "v > 6 AND id = 2", "v < 0"] {
                let sql = format!("DELETE FROM {name} WHERE {nothing}");
                assert_eq!(
                    cluster.update(&sql).await.unwrap(),
                    0,
                    "{sql} {old:?} {new:?}"
                );
            }
            let sql = format!("DELETE FROM {name} WHERE v > 5");
            assert_eq!(cluster.update(&sql).await.unwrap(), 1, "{old:?} {new:?}");
            let left = [vec![Some(2), Some(3)], vec![Some(3), None]];
            assert_eq!(seen(&cluster, &name).await, left, "{old:?} {new:?}");
            let (catalog, rewriter) = (Arc::clone(&cluster.catalog), cluster.engine.rewriter());
            compact(catalog, rewriter, table.id).await;
            assert_eq!(seen(&cluster, &name).await, left, "{old:?} {new:?}");
            // A row that is written again is there.
            put(&cluster, "b", &table, &[(1, 5, Some(1))]).await;
            assert_eq!(
                seen(&cluster, &name).await[0],
                [Some(1), Some(1)],
                "{old:?}"
            );
        }
    }
}

/// Three versions of the keys 1 to 4, v = 10, 20 and 30 times the id, in two files and in memory.
async fn versions(cluster: &Cluster, name: &str) -> Table {
    let table = keyed(cluster, name).await;
    for factor in [10, 20, 30] {
        let batch: Vec<Seen> = (1..=4).map(|id| (id, id, Some(factor * id))).collect();
        put(cluster, "a", &table, &batch).await;
        if factor < 30 {
            cluster.ingesters.flush("a", &table.name).await;
        }
    }
    table
}

#[tokio::test]
async fn the_number_of_deleted_rows_is_that_of_keys() {
    let cluster = Cluster::start().await;
    for (number, (condition, deleted, left)) in [
        ("DELETE FROM {} WHERE id > 2", 2, vec![30, 60]),
        ("DELETE FROM {} WHERE id > 2 AND id < 9", 2, vec![30, 60]),
        ("DELETE FROM {} WHERE v > 50", 3, vec![30]),
        (
            "DELETE FROM {} WHERE v = 90 AND id = 3",
            1,
            vec![30, 60, 120],
        ),
        (
            "DELETE FROM {} WHERE v = 60 AND id = 3",
            0,
            vec![30, 60, 90, 120],
        ),
        ("DELETE FROM {} WHERE v > 0", 4, vec![]),
        ("DELETE FROM {}", 4, vec![]),
        ("TRUNCATE TABLE {}", 4, vec![]),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("t{number}");
        let table = versions(&cluster, &name).await;
        let sql = condition.replace("{}", &name);
        assert_eq!(cluster.update(&sql).await.unwrap(), deleted, "{sql}");
        let found = seen(&cluster, &name).await;
        let found: Vec<i64> = found.into_iter().filter_map(|row| row[1]).collect();
        assert_eq!(found, left, "{sql}");
        let held = cluster.catalog.snapshot(&[table.name]).await.unwrap();
        let rows: u64 = held.tables[0].files.iter().map(|file| file.file.rows).sum();
        assert_eq!(rows, 3 * left.len() as u64, "{sql}");
        assert_eq!(cluster.update(&sql).await.unwrap(), 0, "{sql}");
    }
}

#[tokio::test]
async fn a_write_that_began_after_the_delete_stays_and_hides_nothing_that_went() {
    let cluster = Cluster::start().await;
    for (number, sql) in [
        "DELETE FROM {} WHERE v > 5",
        "DELETE FROM {} WHERE id < 9",
        "DELETE FROM {}",
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("t{number}");
        let table = versions(&cluster, &name).await;
        // Number that are given while the statement asks the ingesters for their rows.
        let later = cluster.catalog.last_order().await.unwrap() + 1;
        let batch = with_order(&rows(&[(2, 2, Some(7)), (5, 5, Some(8))]), later).unwrap();
        cluster.ingesters.write("b", &table, batch);
        let deleted = cluster.update(&sql.replace("{}", &name)).await.unwrap();
        assert_eq!(deleted, 3, "{sql}: key 2 was overwritten");
        let left = [vec![Some(2), Some(7)], vec![Some(5), Some(8)]];
        assert_eq!(seen(&cluster, &name).await, left, "{sql}");
    }
}

#[tokio::test]
async fn keys_that_do_not_fit_into_memory_are_an_error_and_nothing_is_deleted() {
    let cluster = Cluster::with(config(), 24 << 20).await;
    let table = keyed(&cluster, "t").await;
    let batch: Vec<Seen> = (0..400_000).map(|at| (at, at, Some(at))).collect();
    put(&cluster, "a", &table, &batch).await;
    flush(&cluster, &table).await;
    cluster.ingesters.forget("a", table.id);
    let error = cluster.update("DELETE FROM t WHERE v >= 0").await;
    assert_eq!(error.unwrap_err().category(), "memory_exhausted");
    assert_eq!(cluster.number("SELECT count(*) FROM t").await, 400_000);
    // A part of the times fits; and so does everything when no key has to be remembered.
    let part =
        "DELETE FROM t WHERE v >= 0 AND time < arrow_cast(1000, 'Timestamp(Nanosecond, None)')";
    assert_eq!(cluster.update(part).await.unwrap(), 1000);
    assert_eq!(
        cluster.update("DELETE FROM t WHERE id >= 0").await.unwrap(),
        399_000
    );
}

#[tokio::test]
async fn of_an_expired_key_no_older_row_is_seen_or_counted() {
    let cluster = Cluster::start().await;
    let create = "CREATE TABLE m (id BIGINT, time TIMESTAMP, v BIGINT, PRIMARY KEY (id, time)) \
                  WITH (retention = '24h')";
    cluster.update(create).await.unwrap();
    let name = TableName::public(DATABASE, "m");
    let table = cluster.catalog.table(&name).await.unwrap().unwrap();
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_nanos() as i64;
    let hour = 3_600_000_000_000;
    let (expired, young) = (now - 25 * hour, now - hour);
    // The older rows together with others that keep their file half alive, then the newer ones.
    put(
        &cluster,
        "a",
        &table,
        &[
            (1, expired, Some(1)),
            (2, young, Some(1)),
            (3, young, Some(9)),
        ],
    )
    .await;
    cluster.ingesters.flush("a", &name).await;
    put(
        &cluster,
        "b",
        &table,
        &[(1, expired, Some(2)), (2, young, Some(2))],
    )
    .await;
    for flushed in [false, true] {
        if flushed {
            flush(&cluster, &table).await;
        }
        let left = [vec![Some(2), Some(2)], vec![Some(3), Some(9)]];
        assert_eq!(seen(&cluster, "m").await, left);
        assert_eq!(cluster.number("SELECT count(*) FROM m").await, 2);
    }
    let deleted = cluster.update("DELETE FROM m WHERE v = 2").await.unwrap();
    assert_eq!(deleted, 1, "nobody saw the expired row");
    assert_eq!(seen(&cluster, "m").await, [[Some(3), Some(9)]]);
    // What retention removes of the files brings nothing back either.
    let (catalog, rewriter) = (Arc::clone(&cluster.catalog), cluster.engine.rewriter());
    compact(catalog, rewriter, table.id).await;
    cluster
        .update("ALTER TABLE m SET (retention = NULL)")
        .await
        .unwrap();
    let left = seen(&cluster, "m").await;
    assert!(!left.contains(&vec![Some(1), Some(1)]), "{left:?}");
    assert!(!left.contains(&vec![Some(2), Some(1)]), "{left:?}");
}

/// For which rows a condition is true.
type Holds = Box<dyn Fn(&Seen) -> bool>;

/// A condition in SQL, and the same for the model.
fn condition(random: &mut Random) -> (String, Holds) {
    let x = random.below(20) as i64;
    let at = format!("arrow_cast({x}, 'Timestamp(Nanosecond, None)')");
    match random.below(6) {
        0 => (
            format!("WHERE v > {x}"),
            Box::new(move |row| row.2 > Some(x)),
        ),
        1 => ("WHERE v IS NULL".into(), Box::new(|row| row.2.is_none())),
        2 => (
            format!("WHERE id = {}", x % 4),
            Box::new(move |row| row.0 == x % 4),
        ),
        3 => (
            format!("WHERE time < {at} AND v < 10"),
            Box::new(move |row| row.1 < x && row.2.is_some_and(|v| v < 10)),
        ),
        4 => (
            format!("WHERE time = {at} OR v = {}", x / 2),
            Box::new(move |row| row.1 == x || row.2 == Some(x / 2)),
        ),
        _ => (
            format!("WHERE id = 1 AND time > {at}"),
            Box::new(move |row| row.0 == 1 && row.1 > x),
        ),
    }
}

#[tokio::test]
async fn random_writes_deletes_and_rewrites_answer_as_the_model() {
    let cluster = Cluster::start().await;
    for seed in 0..40 {
        let mut random = Random(seed);
        let name = format!("t{seed}");
        let table = keyed(&cluster, &name).await;
        let mut model: BTreeMap<(i64, i64), Option<i64>> = BTreeMap::new();
        for _ in 0..25 {
            let ingester = ["a", "b"][random.below(2) as usize];
            match random.below(10) {
                0..=4 => {
                    let batch = (0..=random.below(5)).map(|_| {
                        let v = random.below(20) as i64;
                        let time = random.below(20) as i64;
                        (random.below(4) as i64, time, (v > 1).then_some(v))
                    });
                    let batch: Vec<Seen> = batch.collect();
                    put(&cluster, ingester, &table, &batch).await;
                    model.extend(batch.into_iter().map(|(id, time, v)| ((id, time), v)));
                }
                5 => cluster.ingesters.flush(ingester, &table.name).await,
                6 => {
                    let held = cluster.catalog.snapshot(std::slice::from_ref(&table.name));
                    if !held.await.unwrap().tables[0].files.is_empty() {
                        let rewriter = cluster.engine.rewriter();
                        compact(Arc::clone(&cluster.catalog), rewriter, table.id).await;
                    }
                }
                _ => {
                    let (condition, holds) = condition(&mut random);
                    let before = model.len();
                    model.retain(|(id, time), v| !holds(&(*id, *time, *v)));
                    let sql = format!("DELETE FROM {name} {condition}");
                    let deleted = cluster.update(&sql).await.unwrap();
                    assert_eq!(deleted as usize, before - model.len(), "seed {seed}: {sql}");
                }
            }
            let sql = format!("SELECT id, arrow_cast(time, 'Int64'), v FROM {name}");
            let mut found = answer(&cluster, &sql).await;
            found.sort();
            let expected = model
                .iter()
                .map(|((id, time), v)| vec![Some(*id), Some(*time), *v]);
            assert_eq!(found, expected.collect::<Vec<_>>(), "seed {seed}");
        }
    }
}
