//! Random lanes against a model, and what is not copied.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, StringArray};
use arrow_schema::{DataType, Field};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

/// A row: time, host, order.
type Seen = (i64, String, i64);

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("host", DataType::Utf8, false),
        Field::new("time", DataType::Int64, false),
        Field::new("order", DataType::Int64, false),
    ])
}

fn batch(rows: &[Seen]) -> RecordBatch {
    let hosts = StringArray::from_iter_values(rows.iter().map(|row| &row.1));
    let column = |value: fn(&Seen) -> i64| -> ArrayRef {
        Arc::new(rows.iter().map(value).collect::<Int64Array>())
    };
    let columns = vec![
        Arc::new(hosts) as ArrayRef,
        column(|row| row.0),
        column(|row| row.2),
    ];
    RecordBatch::try_new(Arc::new(schema()), columns).unwrap()
}

fn seen(batch: &RecordBatch) -> Vec<Seen> {
    let hosts = batch.column(0).as_string::<i32>();
    let times = batch.column(1).as_primitive::<Int64Type>();
    let orders = batch.column(2).as_primitive::<Int64Type>();
    (0..batch.num_rows())
        .map(|at| {
            (
                times.value(at),
                hosts.value(at).to_owned(),
                orders.value(at),
            )
        })
        .collect()
}

fn by_key_newest_first(rows: &mut [Seen]) {
    rows.sort_by(|a, b| (a.0, &a.1, b.2).cmp(&(b.0, &b.1, a.2)));
}

/// What is left of lanes of batches: the batches as they came out.
fn merged(lanes: Vec<(Repeats, Vec<RecordBatch>)>) -> Result<Vec<RecordBatch>, ArrowError> {
    let repeats = lanes.iter().map(|(repeats, _)| *repeats);
    let mut merge = Merge::new(&schema(), vec![1, 0], 2, repeats)?;
    let mut lanes: Vec<_> = lanes.into_iter().map(|(_, b)| b.into_iter()).collect();
    let mut out = Vec::new();
    loop {
        let wanting: Vec<usize> = merge.wants().collect();
        for lane in &wanting {
            match lanes[*lane].next() {
                Some(batch) => merge.give(*lane, batch)?,
                None => merge.end(*lane),
            }
        }
        // A batch without rows was no answer.
        if merge.wants().next().is_some() {
            continue;
        }
        match merge.step()? {
            Some(batch) => out.push(batch),
            None => return Ok(out),
        }
    }
}

fn row(time: i64, host: &str, order: i64) -> Seen {
    (time, host.to_owned(), order)
}

fn cut(random: &mut StdRng, rows: &[Seen], longest: usize) -> Vec<RecordBatch> {
    let (mut rest, mut batches) = (rows, Vec::new());
    while !rest.is_empty() {
        let (head, tail) = rest.split_at(random.random_range(0..=rest.len().min(longest)));
        batches.push(batch(head));
        rest = tail;
    }
    batches
}

#[test]
fn the_newest_row_of_each_key_comes_once_and_in_the_order_of_the_keys() {
    let (mut repeated, mut stretched) = (0, 0);
    for seed in 0..400 {
        let mut random = StdRng::seed_from_u64(seed);
        // From all rows of one key to hardly any two.
        let times = [1, 5, 100, 5000][random.random_range(0..4)];
        let longest = [3, 20, 300][random.random_range(0..3)];
        let mut order = 0..;
        let mut model = BTreeMap::new();
        let mut lanes = Vec::new();
        for _ in 0..random.random_range(0..5) {
            let repeats = match random.random() {
                true => Repeats::Never,
                false => Repeats::Maybe,
            };
            let mut rows = BTreeMap::new();
            let mut all = Vec::new();
            for _ in 0..random.random_range(0..600) {
                let time = random.random_range(0..times);
                let host = ["a", "bb", ""][random.random_range(0..3)];
                let row = row(time, host, order.next().unwrap());
                rows.insert((row.0, row.1.clone()), row.clone());
                all.push(row);
            }
            if repeats == Repeats::Never {
                all = rows.into_values().collect();
            }
            for row in &all {
                let newest = model.entry((row.0, row.1.clone())).or_insert(row.2);
                repeated += usize::from(*newest != row.2);
                *newest = (*newest).max(row.2);
            }
            by_key_newest_first(&mut all);
            lanes.push((repeats, cut(&mut random, &all, longest)));
        }
        let out = merged(lanes).unwrap();
        stretched += out.iter().filter(|batch| batch.num_rows() >= 64).count();
        let found: Vec<Seen> = out.iter().flat_map(seen).collect();
        let model: Vec<Seen> = model.into_iter().map(|((t, h), o)| (t, h, o)).collect();
        assert_eq!(found, model, "seed {seed}");
    }
    assert!(repeated > 1000 && stretched > 100, "{repeated} {stretched}");
}

#[test]
fn rows_between_which_nobody_has_any_pass_as_they_are() {
    let long: Vec<Seen> = (0..1000).map(|time| row(time * 2, "a", time)).collect();
    let long = batch(&long);
    let late = batch(&[row(1001, "a", 5000), row(1400, "a", 5001)]);
    let lanes = vec![
        (Repeats::Never, vec![long.clone()]),
        (Repeats::Never, vec![late]),
    ];
    let out = merged(lanes).unwrap();
    assert_eq!(out.iter().map(RecordBatch::num_rows).sum::<usize>(), 1001);
    let start = |batch: &RecordBatch| batch.column(1).to_data().buffers()[0].as_ptr() as usize;
    let (from, to) = (start(&long), start(&long) + 8 * 1000);
    let as_they_were = out
        .iter()
        .filter(|batch| (from..to).contains(&start(batch)));
    let as_they_were: usize = as_they_were.map(RecordBatch::num_rows).sum();
    assert!(as_they_were > 800, "{as_they_were} of 1001 were not copied");
}

#[test]
fn a_lane_that_is_not_sorted_is_an_error() {
    let rows = |times: &[i64]| {
        let rows: Vec<Seen> = times.iter().map(|time| row(*time, "a", *time)).collect();
        batch(&rows)
    };
    for (repeats, batches) in [
        (Repeats::Never, vec![rows(&[2, 3]), rows(&[1])]),
        (Repeats::Never, vec![rows(&[2, 3]), rows(&[3])]),
        (Repeats::Never, vec![rows(&[2, 1])]),
        (Repeats::Maybe, vec![rows(&[2, 3]), rows(&[2])]),
    ] {
        let error = merged(vec![(repeats, batches)]).unwrap_err().to_string();
        assert!(error.contains("not sorted by the primary key"), "{error}");
    }
}
