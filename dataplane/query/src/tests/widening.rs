//! A column that got a wider type: rows from before and after are one column, and no filter, statistic
//! or Bloom filter of an older file loses a row.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use flightcluster_catalog::Table;

use super::fixture::{Cluster, int64s};
use super::upserts::keyed;
use crate::{Error, encode_schema};

fn schema(value: &DataType) -> Schema {
    Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("v", value.clone(), true),
    ])
}

/// Rows whose ids count on from `first`; values are given as text.
fn rows(first: i64, values: &[Option<&str>], of: &DataType) -> RecordBatch {
    let column = column(values, of);
    let ids = Int64Array::from_iter_values(first..first + values.len() as i64);
    let columns = vec![Arc::new(ids) as ArrayRef, column];
    RecordBatch::try_new(Arc::new(schema(of)), columns).unwrap()
}

/// Lists have one item, and the fields of structs are the same value.
fn column(values: &[Option<&str>], of: &DataType) -> ArrayRef {
    let texts: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
    let nulls = || Some(NullBuffer::from_iter(values.iter().map(Option::is_some)));
    match of {
        DataType::List(item) => {
            let offsets = OffsetBuffer::from_lengths(vec![1; values.len()]);
            let items = column(values, item.data_type());
            Arc::new(ListArray::new(Arc::clone(item), offsets, items, nulls()))
        }
        DataType::LargeList(item) => {
            let list = column(values, &DataType::List(Arc::clone(item)));
            cast(&list, of).unwrap()
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|field| column(values, field.data_type()));
            Arc::new(StructArray::new(fields.clone(), columns.collect(), nulls()))
        }
        DataType::Null => arrow_array::new_null_array(of, values.len()),
        // By way of the widest float: a half float is not read from text.
        DataType::Float16 => cast(&cast(&texts, &DataType::Float64).unwrap(), of).unwrap(),
        _ => cast(&texts, of).unwrap(),
    }
}

async fn evolved(cluster: &Cluster, table: &Table, schema: &Schema) -> Table {
    let bytes = encode_schema(schema).unwrap();
    let evolved = cluster
        .catalog
        .evolve_table(table.id, table.schema_version, bytes);
    evolved.await.unwrap()
}

/// A type, the type its column got, values that both have, and values that only the later one has.
type Growth = (
    DataType,
    DataType,
    &'static [Option<&'static str>],
    &'static [Option<&'static str>],
);

fn growths() -> Vec<Growth> {
    use DataType::*;
    const SMALL: &[Option<&str>] = &[Some("-128"), None, Some("127"), Some("5"), Some("0")];
    const NATURAL: &[Option<&str>] = &[Some("0"), None, Some("255"), Some("5"), Some("128")];
    const OVER_8: &[Option<&str>] = &[Some("300"), Some("5"), None, Some("-300"), Some("261")];
    const OVER_32: &[Option<&str>] = &[Some("4294967301"), Some("5"), None, Some("-4294967296")];
    const NATURAL_64: &[Option<&str>] = &[Some("18446744073709551615"), Some("5"), None];
    const FLOATS: &[Option<&str>] = &[
        Some("0.1"),
        None,
        Some("NaN"),
        Some("-0.0"),
        Some("inf"),
        Some("5"),
    ];
    const MORE: &[Option<&str>] = &[Some("0.1"), Some("1e300"), None, Some("5"), Some("0")];
    const CENTS: &[Option<&str>] = &[
        Some("-999.99"),
        None,
        Some("5.00"),
        Some("0.1"),
        Some("300"),
        Some("0"),
        Some("0.15"),
    ];
    // Of some, the digits are those of another value with the point elsewhere.
    const MILLS: &[Option<&str>] = &[
        Some("0.0500"),
        Some("0.1501"),
        None,
        Some("5.0001"),
        Some("-999.9900"),
        Some("0.15"),
        Some("9.9999"),
    ];
    const LARGE: &[Option<&str>] = &[
        Some("99999999999999999.99"),
        Some("5"),
        None,
        Some("-1000.00"),
        Some("0.15"),
    ];
    const SINGLE: &[Option<&str>] = &[Some("0.1"), Some("1e30"), None, Some("5"), Some("0")];
    const NONE: &[Option<&str>] = &[None, None];
    vec![
        (Int8, Int16, SMALL, OVER_8),
        (Int32, Int64, SMALL, OVER_32),
        (UInt8, Int16, NATURAL, OVER_8),
        (UInt32, UInt64, NATURAL, NATURAL_64),
        (UInt32, Int64, NATURAL, OVER_32),
        (Float16, Float32, FLOATS, SINGLE),
        (Float32, Float64, FLOATS, MORE),
        (Null, Int64, NONE, OVER_32),
        (Null, Float64, NONE, MORE),
        (Null, Utf8, NONE, &[Some("5"), None, Some("0.1")]),
        (Null, Boolean, NONE, &[Some("true"), None, Some("false")]),
        (Null, Decimal128(10, 4), NONE, MILLS),
        // In files: 32, 64 and more bits.
        (Decimal128(5, 2), Decimal128(7, 4), CENTS, MILLS),
        (Decimal128(5, 2), Decimal128(19, 2), CENTS, LARGE),
        (Decimal128(5, 2), Decimal256(60, 20), CENTS, MILLS),
        (Decimal128(12, 2), Decimal128(22, 4), CENTS, LARGE),
        (Decimal128(20, 2), Decimal256(40, 4), CENTS, MILLS),
        (Decimal256(20, 2), Decimal256(40, 4), CENTS, LARGE),
        (Decimal32(5, 2), Decimal64(18, 4), CENTS, MILLS),
        (pair(Int8), pair(Int16), SMALL, OVER_8),
        (list(Int32), list(Int64), SMALL, OVER_32),
        (
            list(pair(Decimal128(5, 2))),
            list(pair(Decimal128(7, 4))),
            CENTS,
            MILLS,
        ),
        (
            pair(large_list(Float32)),
            pair(large_list(Float64)),
            &[Some("0.1"), None, Some("5")],
            MORE,
        ),
    ]
}

fn list(of: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", of, true)))
}

fn large_list(of: DataType) -> DataType {
    DataType::LargeList(Arc::new(Field::new("item", of, true)))
}

fn pair(of: DataType) -> DataType {
    let fields = [
        Field::new("b", DataType::Utf8, true),
        Field::new("a", of, true),
    ];
    DataType::Struct(fields.to_vec().into())
}

/// Conditions of a column, or of what is inside it.
fn conditions(to: &DataType) -> Vec<String> {
    let inside = |v: &str, of| {
        let of: Vec<String> = conditions(of);
        of.into_iter()
            .map(|condition| condition.replace("{v}", v))
            .collect()
    };
    match to {
        DataType::List(item) | DataType::LargeList(item) => inside("{v}[1]", item.data_type()),
        DataType::Struct(fields) => inside("{v}['a']", fields[1].data_type()),
        plain => conditions_of_plain(plain),
    }
}

fn conditions_of_plain(to: &DataType) -> Vec<String> {
    let literals: &[&str] = match to {
        DataType::Boolean => &["true", "false"],
        DataType::Utf8 => &["'5'", "'0.1'", "''"],
        to if to.is_floating() => &[
            "5",
            "0.1",
            "CAST(0.1 AS REAL)",
            "0.0",
            "-0.0",
            "1e300",
            "'NaN'::double",
            "NULL",
        ],
        to if to.is_decimal() => &[
            "5",
            "0.15",
            "0.1501",
            "500",
            "-999.99",
            "0.15::double",
            "0.15::decimal(38, 10)",
            "99999999999999999.99",
            "NULL",
        ],
        _ => &["5", "-128", "255", "300", "4294967301", "5.0", "NULL"],
    };
    let mut all = Vec::new();
    for literal in literals {
        for op in ["=", "<>", "<", ">="] {
            all.push(format!("{{v}} {op} {literal}"));
        }
        all.push(format!("{{v}} IN ({literal}, {})", literals[0]));
        all.push(format!("{{v}} BETWEEN {literal} AND {}", literals[0]));
        all.push(format!("{{v}} = {literal} OR id < 3"));
        all.push(format!(
            "CAST({{v}} AS VARCHAR) = CAST({literal} AS VARCHAR)"
        ));
        if to.is_integer() || to.is_decimal() {
            all.push(format!("{{v}} + 1 > {literal}"));
        }
    }
    all.extend(["{v} IS NULL", "{v} IS NOT NULL", "{v} IS NULL AND id > 3"].map(str::to_owned));
    all
}

/// Two tables with the same rows: `stored` with files from before and after its column grew, and fresh
/// rows; `plain` has had the later type from the beginning, in memory.
async fn grown(cluster: &Cluster, (from, to, before, after): &Growth) -> Table {
    let first = cluster.create("stored", &schema(from)).await;
    let plain = cluster.create("plain", &schema(to)).await;
    let mut id = 1;
    // In files of their own: what one value is looked for by are ranges and Bloom filters of few values.
    for value in *before {
        cluster
            .ingesters
            .write("a", &first, rows(id, &[*value], from));
        cluster.ingesters.flush("a", &first.name).await;
        let same = rows(id, &[*value], from);
        let value = cast(same.column(1), to).unwrap();
        let ids = Arc::clone(same.column(0));
        let same = RecordBatch::try_new(Arc::new(schema(to)), vec![ids, value]).unwrap();
        cluster.ingesters.write("a", &plain, same);
        id += 1;
    }
    let table = evolved(cluster, &first, &schema(to)).await;
    for value in after.iter().chain(&before[..1]) {
        let row = rows(id, &[*value], to);
        cluster.ingesters.write("a", &table, row.clone());
        cluster.ingesters.flush("a", &table.name).await;
        cluster.ingesters.write("a", &plain, row);
        id += 1;
    }
    cluster.ingesters.forget("a", table.id);
    let fresh = rows(id, &before[..1], to);
    cluster.ingesters.write("b", &table, fresh.clone());
    cluster.ingesters.write("b", &plain, fresh);
    table
}

async fn assert_same(cluster: &Cluster, growth: &Growth, place: &str) {
    let (from, to, ..) = growth;
    let mut statements: Vec<String> = conditions(to)
        .into_iter()
        .map(|filter| filter.replace("{v}", "v"))
        .map(|filter| format!("SELECT id, v FROM TABLE WHERE {filter} ORDER BY id"))
        .collect();
    statements.extend(
        [
            "SELECT id, v FROM TABLE ORDER BY id",
            "SELECT count(*) a, count(v) b, count(DISTINCT v) c, min(v) d, max(v) e FROM TABLE",
            "SELECT v, count(*) n FROM TABLE GROUP BY v ORDER BY v",
            "SELECT v FROM TABLE ORDER BY v DESC NULLS LAST, id LIMIT 3",
            "SELECT v FROM TABLE ORDER BY v, id LIMIT 3",
            "SELECT l.id a, r.id b FROM TABLE l JOIN plain r ON l.v = r.v ORDER BY 1, 2",
            "SELECT l.id FROM TABLE l WHERE v IN (SELECT v FROM plain WHERE id > 3) ORDER BY 1",
            "SELECT arrow_typeof(v) a, id FROM TABLE ORDER BY id LIMIT 1",
        ]
        .map(str::to_owned),
    );
    let mut found = 0;
    for statement in statements {
        let plain = cluster.query(&statement.replace("TABLE", "plain")).await;
        let stored = cluster.query(&statement.replace("TABLE", "stored")).await;
        let (Ok(plain), Ok(stored)) = (&plain, &stored) else {
            assert!(
                plain.is_err() && stored.is_err(),
                "{from} to {to}, {place}: {statement}: {plain:?} {stored:?}"
            );
            continue;
        };
        let text = |batches: &[RecordBatch]| {
            datafusion::arrow::util::pretty::pretty_format_batches(batches)
                .unwrap()
                .to_string()
        };
        found += plain.iter().map(RecordBatch::num_rows).sum::<usize>();
        let (plain, stored) = (text(plain), text(stored));
        assert_eq!(stored, plain, "{from} to {to}, {place}: {statement}");
    }
    assert!(found > 20, "{from} to {to}: {found} rows");
}

#[tokio::test]
async fn no_filter_loses_a_row_from_before_its_column_grew() {
    for growth in growths() {
        let cluster = Cluster::start().await;
        grown(&cluster, &growth).await;
        assert_same(&cluster, &growth, "files").await;
    }
}

#[tokio::test]
async fn rows_of_both_types_are_deleted_and_rewritten_alike() {
    for growth in growths() {
        let cluster = Cluster::start().await;
        grown(&cluster, &growth).await;
        // What is left of each file is written again in the later type.
        for condition in ["v IS NULL AND id > 2", "id % 3 = 0"] {
            let mut counts = Vec::new();
            for table in ["plain", "stored"] {
                let sql = format!("DELETE FROM {table} WHERE {condition}");
                counts.push(cluster.update(&sql).await.unwrap());
            }
            assert_eq!(counts[0], counts[1], "{growth:?}");
        }
        let left = cluster.number("SELECT count(*) FROM stored").await;
        let same = "SELECT count(*) FROM stored s JOIN plain p ON s.id = p.id
                    WHERE s.v IS NOT DISTINCT FROM p.v";
        assert_eq!(cluster.number(same).await, left, "{growth:?}");
        assert!(left > 0);
    }
}

/// Between planning and running a column grows and a row comes that only the wider type can hold.
#[tokio::test]
async fn a_query_that_was_planned_before_a_column_grew_never_sees_a_changed_value() {
    let cluster = Cluster::start().await;
    let (narrow, wide) = (schema(&DataType::Int32), schema(&DataType::Int64));
    let table = cluster.create("t", &narrow).await;
    let small = rows(1, &[Some("1")], &DataType::Int32);
    cluster.ingesters.write("a", &table, small);
    let sql = "SELECT v FROM t ORDER BY id";
    let early = cluster.plan(sql).await.unwrap();
    let other = cluster.plan("SELECT id FROM t ORDER BY id").await.unwrap();
    let deletion = cluster.plan("DELETE FROM t WHERE v > 0").await.unwrap();
    let table = evolved(&cluster, &table, &wide).await;
    cluster.ingesters.flush("a", &table.name).await;
    cluster.ingesters.forget("a", table.id);
    let big = rows(2, &[Some("4294967297")], &DataType::Int64);
    cluster.ingesters.write("b", &table, big);
    cluster.ingesters.flush("b", &table.name).await;
    cluster.ingesters.forget("b", table.id);
    // Both say that the snapshot is too old.
    let error = cluster.run(early).await.unwrap_err();
    assert!(matches!(error, Error::ColumnWidened { .. }), "{error:?}");
    let text = "column \"v\" of table demo.public.t got a wider type while the query began; retry";
    assert_eq!(error.to_string(), text);
    // Which does not read that column.
    assert_eq!(int64s(&cluster.run(other).await.unwrap(), 0), [1, 2]);
    let error = cluster
        .engine
        .execute_update(deletion, crate::ExecuteOptions::default())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::ColumnWidened { .. }), "{error:?}");
    let found = cluster.query(sql).await.unwrap();
    assert_eq!(int64s(&found, 0), [1, 4_294_967_297]);
}

#[tokio::test]
async fn the_newest_row_of_a_key_is_found_in_files_of_both_types() {
    let cluster = Cluster::start().await;
    let table = keyed(&cluster, "t").await;
    let narrow = crate::decode_schema(&table.schema).unwrap();
    let fields = narrow
        .fields()
        .iter()
        .map(|field| match field.name().as_str() {
            "v" => Arc::new(Field::clone(field).with_data_type(DataType::Int32)),
            _ => Arc::clone(field),
        });
    // The fixture's table has the wide type: a table of the narrow one first.
    let metadata = narrow.metadata().clone();
    let fields: Vec<_> = fields.collect();
    let small = Schema::new_with_metadata(fields, metadata);
    let table = evolved(&cluster, &table, &small).await;
    let seen = |rows: &[super::upserts::Seen], of: &Schema| {
        let batch = super::upserts::rows(rows);
        let columns = batch.columns().iter().zip(of.fields());
        let columns = columns.map(|(column, field)| cast(column, field.data_type()).unwrap());
        RecordBatch::try_new(Arc::new(of.clone()), columns.collect()).unwrap()
    };
    for (ingester, value) in [("a", 1), ("b", 2)] {
        let rows: Vec<_> = (0..50).map(|id| (id, id * 10, Some(value))).collect();
        cluster
            .ingesters
            .write(ingester, &table, seen(&rows, &small));
        cluster.ingesters.flush(ingester, &table.name).await;
        cluster.ingesters.forget(ingester, table.id);
    }
    let table = evolved(&cluster, &table, &narrow).await;
    let wide = i64::MAX;
    let rows: Vec<_> = (0..50)
        .step_by(2)
        .map(|id| (id, id * 10, Some(wide)))
        .collect();
    cluster.ingesters.write("a", &table, seen(&rows, &narrow));
    for place in ["memory", "file"] {
        let sql = "SELECT count(*) FROM t WHERE v = 2 AND id % 2 = 1";
        assert_eq!(cluster.number(sql).await, 25, "{place}");
        let sql = format!("SELECT count(*) FROM t WHERE v = {wide}");
        assert_eq!(cluster.number(&sql).await, 25, "{place}");
        assert_eq!(
            cluster.number("SELECT count(*) FROM t").await,
            50,
            "{place}"
        );
        cluster.ingesters.flush("a", &table.name).await;
        cluster.ingesters.forget("a", table.id);
    }
    // As if the rows had taken their numbers from there.
    let one = cluster.catalog.list_ingesters().await.unwrap().remove(0);
    let taken = cluster.catalog.take_orders(one.id, one.epoch, 1000).await;
    taken.unwrap();
    let gone = cluster.update("DELETE FROM t WHERE v > 2").await.unwrap();
    assert_eq!(gone, 25);
    assert_eq!(cluster.number("SELECT sum(v) FROM t").await, 50);
}
