//! Queries read the files they need and no others, and lose no row by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::builder::{Float64Builder, Int64Builder};
use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use flightcluster_catalog::{File, IngesterId, NewFile, SchemaVersion, SequenceNumber, SnapshotId};
use flightcluster_catalog::{Table, TableId};

use super::fixture::{Cluster, int64s};
use crate::encode_schema;
use crate::times::TimeColumn;

const HOUR_NANOS: i64 = 3_600_000_000_000;
/// 2026-01-01T00:00:00Z.
const BEGIN_NANOS: i64 = 1_767_225_600_000_000_000;

fn schema(unit: TimeUnit, zone: Option<&str>) -> Schema {
    Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new(
            "time",
            DataType::Timestamp(unit, zone.map(Into::into)),
            true,
        ),
        Field::new("value", DataType::Float64, true),
    ])
}

/// Rows of [`schema`] or one with a column `later` more.
fn rows(schema: &Schema, rows: &[(i64, Option<i64>, Option<f64>)]) -> RecordBatch {
    let ids: Int64Array = rows.iter().map(|(id, ..)| Some(*id)).collect();
    let mut times = Int64Builder::new();
    let mut values = Float64Builder::new();
    for (_, time, value) in rows {
        times.append_option(*time);
        values.append_option(*value);
    }
    let times: ArrayRef = Arc::new(times.finish());
    let time = cast(&times, schema.field(1).data_type()).unwrap();
    let later: ArrayRef = Arc::new(ids.clone());
    let columns = [
        Arc::new(ids) as ArrayRef,
        time,
        Arc::new(values.finish()),
        later,
    ];
    let columns = columns[..schema.fields().len()].to_vec();
    RecordBatch::try_new(Arc::new(schema.clone()), columns).unwrap()
}

/// A table with a file for each of `hours` hours, ten rows in each; ids count on.
async fn hourly(cluster: &Cluster, hours: i64) -> Table {
    let schema = schema(TimeUnit::Nanosecond, None);
    let table = cluster.create("t", &schema).await;
    for hour in 0..hours {
        let of_hour: Vec<_> = (0..10)
            .map(|row| {
                let time = BEGIN_NANOS + hour * HOUR_NANOS + row * HOUR_NANOS / 10;
                (hour * 10 + row, Some(time), Some(0.5))
            })
            .collect();
        cluster
            .ingesters
            .write("a", &table, rows(&schema, &of_hour));
        cluster.ingesters.flush("a", &table.name).await;
    }
    cluster.ingesters.forget("a", table.id);
    cluster.store.take();
    table
}

#[tokio::test]
async fn a_query_for_one_hour_of_a_hundred_opens_only_its_file() {
    let cluster = Cluster::start().await;
    hourly(&cluster, 100).await;
    let sql =
        "SELECT id FROM t WHERE time >= '2026-01-03T05:00:00' AND time < '2026-01-03T06:00:00'";
    let found = int64s(&cluster.query(sql).await.unwrap(), 0);
    assert_eq!(found.len(), 10);
    let read = cluster.store.take();
    assert_eq!(read.len(), 1, "{read:?}");
}

#[tokio::test]
async fn a_table_of_very_many_files_is_listed_by_the_times_of_the_query() {
    let cluster = Cluster::start().await;
    let table = hourly(&cluster, 1).await;
    add_files(&cluster, &table, 1000).await;
    let sql = "SELECT count(*) FROM t WHERE time < '2026-01-01T01:00:00'";
    assert_eq!(cluster.number(sql).await, 10, "none of the others exists");
    let sql = "SELECT count(*) FROM t AS l JOIN t AS r ON l.id = r.id
               WHERE l.time < '2026-01-01T01:00:00' AND r.time < '2026-01-01T00:30:00'";
    assert_eq!(cluster.number(sql).await, 5);
    assert!(cluster.query("SELECT * FROM t").await.is_err());
}

/// Adds files of later hours to the catalog only: reading one fails.
async fn add_files(cluster: &Cluster, table: &Table, count: i64) {
    let ingester = cluster.catalog.list_ingesters().await.unwrap().remove(0);
    let files = (1..=count).map(|hour| NewFile {
        table: table.id,
        path: format!("missing/{hour}.parquet"),
        size_bytes: 1000,
        rows: 1,
        schema_version: table.schema_version,
        first_sequence: SequenceNumber(1),
        last_sequence: SequenceNumber(1),
        time_range_nanos: Some((
            BEGIN_NANOS + hour * HOUR_NANOS,
            BEGIN_NANOS + hour * HOUR_NANOS,
        )),
        sorted: false,
    });
    let commit = flightcluster_catalog::FlushCommit {
        ingester: ingester.id,
        seen: None,
        durable: SequenceNumber(0),
        epoch: ingester.epoch,
        files: files.collect(),
        watermarks: Vec::new(),
        producers: Vec::new(),
        valid_until_millis: None,
        without_files: vec![],
    };
    cluster.catalog.commit_flush(commit).await.unwrap();
}

#[tokio::test]
async fn the_newest_rows_are_found_without_reading_the_oldest_files() {
    let cluster = Cluster::start().await;
    let table = hourly(&cluster, 60).await;
    let fresh = [(600, Some(BEGIN_NANOS + 60 * HOUR_NANOS), None)];
    let fresh = rows(&schema(TimeUnit::Nanosecond, None), &fresh);
    for with_fresh in [false, true] {
        let newest = 599 + i64::from(with_fresh);
        if with_fresh {
            cluster.ingesters.write("b", &table, fresh.clone());
        }
        for (sql, expected) in [
            (
                "SELECT id FROM t ORDER BY time DESC LIMIT 10",
                (newest - 9..=newest).rev().collect::<Vec<_>>(),
            ),
            (
                "SELECT id FROM t ORDER BY time ASC LIMIT 10",
                (0..10).collect(),
            ),
        ] {
            let found = cluster.query(sql).await.unwrap();
            assert_eq!(int64s(&found, 0), expected, "{sql}");
            let read = cluster.store.take();
            assert!(read.len() <= 8, "{sql} read {} files", read.len());
        }
    }
}

#[tokio::test]
async fn a_single_value_is_looked_for_where_a_bloom_filter_may_have_it() {
    let cluster = Cluster::start().await;
    let fields = [("trace", DataType::Utf8), ("id", DataType::Int64)];
    let fields = fields.map(|(name, of)| Field::new(name, of, true));
    let table = cluster.create("t", &Schema::new(fields.to_vec())).await;
    for file in 0..4 {
        // The ranges of all files are about the same.
        let ids = || (0..1000).map(move |row| row * 4 + file);
        let traces = ids().map(|id| format!("{:016x}", id * 7_919));
        let columns = [
            (
                "trace",
                Arc::new(StringArray::from_iter_values(traces)) as ArrayRef,
            ),
            ("id", Arc::new(Int64Array::from_iter_values(ids()))),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true)));
        cluster.ingesters.write("a", &table, batch.unwrap());
        cluster.ingesters.flush("a", &table.name).await;
    }
    cluster.ingesters.forget("a", table.id);
    for (filter, id) in [
        (format!("trace = '{:016x}'", 2_001 * 7_919), 2_001),
        ("id = 1002".to_owned(), 1_002),
    ] {
        let sql = format!("SELECT id FROM t WHERE {filter}");
        assert_eq!(int64s(&cluster.query(&sql).await.unwrap(), 0), [id]);
        let plan = cluster.text(&format!("EXPLAIN ANALYZE {sql}")).await;
        let pruned = "row_groups_pruned_bloom_filter=4 total → 1 matched";
        assert!(plan.contains(pruned), "{plan}");
    }
}

#[tokio::test]
async fn of_a_large_row_group_only_the_pages_that_may_match_are_read() {
    let cluster = Cluster::start().await;
    let fields = vec![Field::new("id", DataType::Int64, false)];
    let table = cluster.create("t", &Schema::new(fields)).await;
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..60_000));
    let batch = RecordBatch::try_from_iter([("id", ids)]).unwrap();
    cluster.ingesters.write("a", &table, batch);
    cluster.ingesters.flush("a", &table.name).await;
    cluster.ingesters.forget("a", table.id);
    let sql = "SELECT count(*) FROM t WHERE id BETWEEN 30000 AND 30010";
    assert_eq!(cluster.number(sql).await, 11);
    let plan = cluster.text(&format!("EXPLAIN ANALYZE {sql}")).await;
    let pruned = "page_index_rows_pruned=60.00 K total → 20.48 K matched";
    assert!(plan.contains(pruned), "{plan}");
}

/// A small generator of its own: the same numbers everywhere for a seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % end
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A filter over [`schema`], of which some parts tell times and some do not.
fn filter(numbers: &mut Numbers, depth: usize) -> String {
    if depth > 0 && numbers.below(3) > 0 {
        let (left, right) = (filter(numbers, depth - 1), filter(numbers, depth - 1));
        return match numbers.below(4) {
            0 => format!("({left} OR {right})"),
            1 => format!("NOT ({left})"),
            _ => format!("({left} AND {right})"),
        };
    }
    let times = [
        "'2026-01-01T00:00:00'",
        "'2026-01-01T03:00:00'",
        "'2026-01-01T03:30:00.000000001'",
        "'2026-01-01T05:59:59.999'",
        "TIMESTAMP '2026-01-01T06:00:00'",
        "TIMESTAMPTZ '2026-01-01T04:00:00+02:00'",
        "DATE '2026-01-01'",
        "to_timestamp_seconds(1767236400)",
        "now()",
        "NULL",
    ];
    let (time, other) = (*numbers.one(&times), *numbers.one(&times));
    let op = numbers.one(&["=", "<>", "<", "<=", ">", ">="]);
    let (id, another) = (numbers.below(70), numbers.below(70));
    match numbers.below(15) {
        0..4 => format!("time {op} {time}"),
        4 => format!("{time} {op} time"),
        5 => format!("time BETWEEN {time} AND {other}"),
        6 => format!("time IN ({time}, {other})"),
        7 => "time IS NULL".to_owned(),
        8 => format!("value {op} 'NaN'::double"),
        9 => format!("later {op} 30"),
        10 => "later IS NULL".to_owned(),
        11 => format!("id = {id}"),
        12 => format!("later IN ({id}, {another})"),
        13 => format!("value {op} {}", id % 7),
        _ => format!("CAST(time AS TIMESTAMP(9)) {op} {time}"),
    }
}

#[tokio::test]
async fn no_filter_loses_a_row_that_lies_in_a_skipped_file() {
    let mut kinds = Vec::new();
    for unit in [
        TimeUnit::Second,
        TimeUnit::Millisecond,
        TimeUnit::Microsecond,
        TimeUnit::Nanosecond,
    ] {
        kinds.extend([None, Some("UTC"), Some("+02:00")].map(|zone| (unit, zone)));
    }
    let mut skipped = 0;
    for (number, (unit, zone)) in kinds.into_iter().enumerate() {
        let cluster = Cluster::start().await;
        let mut numbers = Numbers(number as u64 + 7);
        let ids = Ids::fill(&cluster, unit, zone, &mut numbers).await;
        for _ in 0..20 {
            let filter = filter(&mut numbers, 3);
            let of = |table| format!("SELECT id FROM {table} WHERE {filter} ORDER BY id");
            cluster.store.take();
            let plain = cluster.query(&of("plain")).await;
            let pruned = cluster.query(&of("stored")).await;
            let (Ok(plain), Ok(pruned)) = (&plain, &pruned) else {
                assert!(
                    plain.is_err() && pruned.is_err(),
                    "{unit:?} {zone:?} {filter}"
                );
                continue;
            };
            assert_eq!(
                int64s(pruned, 0),
                int64s(plain, 0),
                "{unit:?} {zone:?} {filter}"
            );
            skipped += ids.files - cluster.store.take().len();
        }
        for sql in ["count(*)", "max(value)", "min(value)"] {
            let filter = "value > 5 OR value = 'NaN'::double";
            let of =
                |table| format!("SELECT CAST({sql} AS VARCHAR) AS x FROM {table} WHERE {filter}");
            let plain = cluster.text(&of("plain")).await;
            assert_eq!(cluster.text(&of("stored")).await, plain);
            let of =
                |table| format!("SELECT value FROM {table} ORDER BY value DESC NULLS LAST LIMIT 3");
            let plain = cluster.text(&of("plain")).await;
            assert_eq!(cluster.text(&of("stored")).await, plain);
        }
        for sql in ["min(time)", "max(time)", "count(time)", "count(*)"] {
            let of = |table| format!("SELECT CAST({sql} AS BIGINT) FROM {table}");
            let plain = cluster.number(&of("plain")).await;
            assert_eq!(cluster.number(&of("stored")).await, plain, "{unit:?} {sql}");
        }
    }
    assert!(skipped > 200, "files were skipped: {skipped}");
}

/// Two tables with the same rows: `stored` in files with known times, `plain` in memory.
struct Ids {
    files: usize,
}

impl Ids {
    async fn fill(
        cluster: &Cluster,
        unit: TimeUnit,
        zone: Option<&str>,
        numbers: &mut Numbers,
    ) -> Self {
        let first = schema(unit, zone);
        let mut fields: Vec<Field> = first.fields().iter().map(|f| Field::clone(f)).collect();
        fields.push(Field::new("later", DataType::Int64, true));
        let second = Schema::new(fields);
        let mut stored = cluster.create("stored", &first).await;
        let plain = cluster.create("plain", &second).await;
        let files = 12;
        for file in 0..files {
            if file == 6 {
                let bytes = encode_schema(&second).unwrap();
                let evolved = cluster
                    .catalog
                    .evolve_table(stored.id, stored.schema_version, bytes);
                stored = evolved.await.unwrap();
            }
            let of_file: Vec<_> = (0..5)
                .map(|row| {
                    let id = file * 5 + row;
                    (id, time(numbers, file, unit), value(numbers))
                })
                .collect();
            let columns = if file < 6 { &first } else { &second };
            let batch = rows(columns, &of_file);
            cluster.ingesters.write("a", &plain, batch.clone());
            cluster.ingesters.write("a", &stored, batch);
            cluster.ingesters.flush("a", &stored.name).await;
        }
        cluster.ingesters.forget("a", stored.id);
        Self {
            files: usize::try_from(files).unwrap(),
        }
    }
}

/// A time of the hour a file is about, in the unit of the column; rarely null or far away.
fn time(numbers: &mut Numbers, hour: i64, unit: TimeUnit) -> Option<i64> {
    let one = match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    };
    match numbers.below(40) {
        0 => None,
        1 => Some(i64::MAX / 4 * 3),
        2 => Some(-HOUR_NANOS / one),
        3 => Some((BEGIN_NANOS + hour * HOUR_NANOS) / one),
        _ => {
            let minute = numbers.below(60) as i64 * (HOUR_NANOS / 60);
            Some((BEGIN_NANOS + hour * HOUR_NANOS + minute) / one)
        }
    }
}

fn value(numbers: &mut Numbers) -> Option<f64> {
    *numbers.one(&[
        None,
        Some(f64::NAN),
        Some(-0.0),
        Some(f64::INFINITY),
        Some(1.5),
    ])
}

#[test]
fn the_time_column_is_the_marked_one_unless_older_files_may_know_another() {
    let mark = BTreeMap::from([("iox::column::type", "iox::column_type::timestamp")]);
    let mark: std::collections::HashMap<String, String> = mark
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let stamp = |name| Field::new(name, DataType::Timestamp(TimeUnit::Second, None), true);
    let column = |fields: Vec<Field>, version| {
        let column = TimeColumn::of(&Schema::new(fields), SchemaVersion(version));
        column.map(|column| column.at)
    };
    let marked = || stamp("at").with_metadata(mark.clone());
    let number = || Field::new("time", DataType::Int64, true);
    assert_eq!(column(vec![stamp("other"), stamp("time")], 3), Some(1));
    assert_eq!(column(vec![stamp("time"), marked()], 1), Some(1));
    assert_eq!(column(vec![stamp("time"), marked()], 2), None);
    assert_eq!(column(vec![number(), marked()], 2), Some(1));
    assert_eq!(column(vec![marked(), number()], 2), Some(0));
    assert_eq!(column(vec![number(), stamp("at")], 1), None);
}

#[test]
fn a_file_without_a_known_time_is_never_skipped() {
    let schema = schema(TimeUnit::Second, None);
    let time = TimeColumn::of(&schema, SchemaVersion(1)).unwrap();
    let nothing =
        time.range(&[
            datafusion::logical_expr::col("time").eq(datafusion::logical_expr::lit(
                datafusion::common::ScalarValue::TimestampSecond(Some(5), None),
            )),
        ]);
    let file = |time_range_nanos| File {
        id: 1,
        ingester: Some(IngesterId(1)),
        file: NewFile {
            table: TableId(1),
            path: "a".to_owned(),
            size_bytes: 1,
            rows: 1,
            schema_version: SchemaVersion(1),
            first_sequence: SequenceNumber(1),
            last_sequence: SequenceNumber(1),
            time_range_nanos,
            sorted: false,
        },
        begin_snapshot: SnapshotId(1),
    };
    assert!(nothing.may_hold(&file(None)));
    assert!(nothing.may_hold(&file(Some((4_000_000_000, 5_000_000_000)))));
    assert!(!nothing.may_hold(&file(Some((5_000_000_001, 6_000_000_000)))));
}
