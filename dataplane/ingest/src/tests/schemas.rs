//! Schemas of streams against schemas of tables.

use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{
    Array as _, Float64Array, Int32Array, NullArray, StringArray, TimestampMicrosecondArray,
    TimestampSecondArray,
};

use arrow_schema::TimeUnit;

use super::*;
use crate::Fault;

fn wide_schema() -> SchemaRef {
    schema(&[
        ("n", DataType::Int64, false),
        ("host", DataType::Utf8, true),
        ("level", DataType::Float64, true),
    ])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .unwrap()
}

fn ints(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

async fn put(ingest: &Ingest, rows: RecordBatch) -> Result<Ack, Error> {
    let mode = TableMode::CreateOrAppend;
    let table = ingest
        .writer(&readings(), &rows.schema(), mode, true)
        .await?;
    let sent = raw(&rows);
    table.write(rows, Some(sent), None).await
}

#[tokio::test]
async fn columns_are_matched_by_name_and_missing_ones_are_null() {
    let world = World::new().await;
    let ingest = world.open().await;
    ingest
        .writer(&readings(), &wide_schema(), TableMode::Create, true)
        .await
        .unwrap();
    let level = Arc::new(Float64Array::from(vec![0.5, 1.5])) as ArrayRef;
    put(&ingest, batch(vec![("level", level), ("n", ints(&[1, 2]))]))
        .await
        .unwrap();
    for place in ["buffer", "file"] {
        let rows = &world.query(&ingest, &readings()).await[0];
        assert_eq!(rows.schema().fields(), wide_schema().fields(), "{place}");
        assert_eq!(rows.column(1).null_count(), 2, "{place}");
        assert_eq!(rows.column(2).as_primitive::<Float64Type>().value(1), 1.5);
        ingest.flush().await.unwrap();
    }
}

/// A catalog that was restored from a backup lacks what was added since. The rows stay in the log.
#[test]
fn a_column_that_the_table_has_lost_is_not_cut_off_its_rows() {
    let rows = batch(vec![("n", ints(&[1])), ("gust", ints(&[2]))]);
    let older = schema(&[("n", DataType::Int64, true)]);
    let error = crate::adapt::complete(&readings(), &rows, &older).unwrap_err();
    assert_eq!(error.category(), "unknown_column");
    assert!(error.to_string().contains("\"gust\""), "{error}");
    assert_eq!(error.fault(), Fault::Internal);
}

/// So does one whose column was narrower. Its rows are nobody's mistake, and the cure is true.
#[test]
fn a_type_that_the_table_has_lost_is_not_cut_off_its_rows() {
    let rows = batch(vec![("n", ints(&[1 << 40]))]);
    let older = schema(&[("n", DataType::Int32, true)]);
    let error = crate::adapt::complete(&readings(), &rows, &older).unwrap_err();
    assert_eq!(error.category(), "narrow_column");
    assert_eq!(
        error.to_string(),
        "rows of table demo.public.readings have Int64 in column \"n\", which is Int32 in the table: \
         the catalog was set back; write a batch with Int64 in it, which widens the column again"
    );
    assert_eq!(error.fault(), Fault::Internal);
    let again = crate::adapt::evolved(&older, &rows.schema(), &[]).unwrap();
    crate::adapt::complete(&readings(), &rows, &Arc::new(again)).unwrap();
}

#[tokio::test]
async fn new_columns_are_added_to_the_table() {
    let world = World::new().await;
    let ingest = world.open().await;
    let before = writer(&ingest, &readings()).await;
    write(&before, [1]).await.unwrap();
    let host = Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
    put(&ingest, batch(vec![("host", host), ("n", ints(&[2]))]))
        .await
        .unwrap();
    write(&before, [3]).await.unwrap();

    let table = world.catalog.table(&readings()).await.unwrap().unwrap();
    assert_eq!(table.schema_version, SchemaVersion(2));
    let evolved = schema::decode_schema(&table.schema).unwrap();
    let names: Vec<_> = evolved
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["n", "host"]);
    assert!(evolved.field(1).is_nullable());
    let recent = recent_rows(&ingest, table.id, 0);
    let columns: Vec<_> = recent
        .iter()
        .map(|(_, batch)| batch.num_columns())
        .collect();
    assert_eq!(columns, [1, 2, 1], "a stream keeps its schema");

    ingest.flush().await.unwrap();
    let file = &world.query(&ingest, &readings()).await[0];
    assert_eq!(file.schema().fields(), evolved.fields());
    let hosts: Vec<_> = file.column(1).as_string::<i32>().iter().collect();
    assert_eq!(hosts, [None, Some("a"), None]);
}

#[tokio::test]
async fn rows_of_several_schema_versions_survive_a_restart() {
    let world = World::new().await;
    let ingest = world.open().await;
    write(&writer(&ingest, &readings()).await, [1])
        .await
        .unwrap();
    let host = Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
    put(&ingest, batch(vec![("n", ints(&[2])), ("host", host)]))
        .await
        .unwrap();
    let id = world.catalog.table(&readings()).await.unwrap().unwrap().id;
    let before = recent_rows(&ingest, id, 0);
    drop(ingest);
    let ingest = world.open().await;
    assert_eq!(recent_rows(&ingest, id, 0), before);
}

#[tokio::test]
async fn many_streams_can_add_columns_at_once() {
    let world = World::new().await;
    let ingest = world.open().await;
    write(&writer(&ingest, &readings()).await, [0])
        .await
        .unwrap();
    let columns: Vec<String> = (0..8).map(|n| format!("extra{n}")).collect();
    let writes = columns.iter().zip(1_i64..).map(|(column, n)| {
        put(
            &ingest,
            batch(vec![("n", ints(&[n])), (column, ints(&[n * 10]))]),
        )
    });
    for ack in futures::future::join_all(writes).await {
        ack.unwrap();
    }
    ingest.flush().await.unwrap();
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..9).collect::<Vec<_>>()
    );
    assert_eq!(world.query(&ingest, &readings()).await[0].num_columns(), 9);
}

#[tokio::test]
async fn a_type_conflict_names_column_and_both_types_and_changes_nothing() {
    let world = World::new().await;
    let ingest = world.open().await;
    writer(&ingest, &readings()).await;
    let text = Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
    let rows = batch(vec![("n", Arc::clone(&text)), ("new", text)]);
    let error = put(&ingest, rows).await.unwrap_err();
    assert_eq!(error.fault(), Fault::InvalidArgument);
    let expected = "column \"n\" of table demo.public.readings has type Int64, but Utf8 was sent";
    assert_eq!(error.to_string(), expected);
    let table = world.catalog.table(&readings()).await.unwrap().unwrap();
    assert_eq!(
        table.schema_version,
        SchemaVersion(1),
        "the new column was not added"
    );
}

#[tokio::test]
async fn instants_are_taken_in_any_time_zone_and_times_without_one_are_not_instants() {
    let world = World::new().await;
    let ingest = world.open().await;
    let times = |zone: Option<&str>, micros: i64| {
        let times = TimestampMicrosecondArray::from(vec![micros]);
        let times: ArrayRef = Arc::new(times.with_timezone_opt(zone));
        batch(vec![("at", times)])
    };
    for (micros, zone) in [
        (1, "+00:00"),
        (2, "UTC"),
        (3, "Europe/Berlin"),
        (4, "+05:30"),
    ] {
        put(&ingest, times(Some(zone), micros)).await.unwrap();
    }
    let seconds = TimestampSecondArray::from(vec![5]).with_timezone("UTC");
    put(&ingest, batch(vec![("at", Arc::new(seconds))]))
        .await
        .unwrap();
    let error = put(&ingest, times(None, 6)).await.unwrap_err();
    assert_eq!(error.fault(), Fault::InvalidArgument);
    let found = world.query(&ingest, &readings()).await;
    let found = found.iter().flat_map(|batch| {
        let times = batch.column(0).as_primitive::<TimestampMicrosecondType>();
        assert_eq!(times.timezone(), Some("+00:00"));
        times.values().to_vec()
    });
    assert_eq!(found.collect::<Vec<_>>(), [1, 2, 3, 4, 5_000_000]);
}

#[tokio::test]
async fn columns_that_allow_no_nulls_are_enforced() {
    let world = World::new().await;
    let ingest = world.open().await;
    writer(&ingest, &readings()).await;
    let null = Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef;
    let error = put(&ingest, batch(vec![("n", null)])).await.unwrap_err();
    assert_eq!(
        (error.category(), error.fault()),
        ("null_value", Fault::InvalidArgument)
    );
    let other = Arc::new(NullArray::new(1)) as ArrayRef;
    let error = put(&ingest, batch(vec![("n", other)])).await.unwrap_err();
    assert_eq!(error.category(), "null_value");
    let error = put(&ingest, batch(vec![("m", ints(&[1]))]))
        .await
        .unwrap_err();
    assert_eq!(error.category(), "missing_column");
    put(&ingest, batch(vec![("n", ints(&[1]))])).await.unwrap();
}

#[tokio::test]
async fn narrower_types_and_other_layouts_are_taken() {
    use arrow_array::{LargeStringArray, StringViewArray};
    let world = World::new().await;
    let ingest = world.open().await;
    ingest
        .writer(&readings(), &wide_schema(), TableMode::Create, true)
        .await
        .unwrap();
    let small = Arc::new(Int32Array::from(vec![7])) as ArrayRef;
    let dictionary: arrow_array::DictionaryArray<arrow_array::types::Int8Type> =
        vec!["a"].into_iter().collect();
    let hosts: [ArrayRef; 4] = [
        Arc::new(StringViewArray::from(vec!["a"])),
        Arc::new(LargeStringArray::from(vec!["a"])),
        Arc::new(dictionary),
        Arc::new(NullArray::new(1)),
    ];
    for host in hosts {
        put(
            &ingest,
            batch(vec![("n", Arc::clone(&small)), ("host", host)]),
        )
        .await
        .unwrap();
    }
    let found = world.query(&ingest, &readings()).await;
    let hosts: Vec<_> = found
        .iter()
        .map(|rows| rows.column(1).as_string::<i32>().iter().next().unwrap())
        .collect();
    assert_eq!(hosts, [Some("a"), Some("a"), Some("a"), None]);
    assert_eq!(world.numbers(&ingest, &readings()).await, [7; 4]);

    let wider = Arc::new(Float64Array::from(vec![7.0])) as ArrayRef;
    let error = put(&ingest, batch(vec![("n", wider)])).await.unwrap_err();
    assert_eq!(error.category(), "type_conflict", "not exact");
}

#[tokio::test]
async fn a_column_becomes_wider_and_each_stream_keeps_its_schema() {
    let world = World::new().await;
    let ingest = world.open().await;
    let field = Field::new("n", DataType::Int32, false)
        .with_metadata([("unit".to_owned(), "m".to_owned())].into());
    let narrow = Arc::new(Schema::new(vec![field]));
    let small = |n: i32| {
        let column = Arc::new(Int32Array::from(vec![n])) as ArrayRef;
        RecordBatch::try_new(Arc::clone(&narrow), vec![column]).unwrap()
    };
    let mode = TableMode::CreateOrAppend;
    let before = ingest.writer(&readings(), &narrow, mode, true).await;
    let before = before.unwrap();
    before.write(small(1), None, None).await.unwrap();
    let wide = i64::from(i32::MAX) + 1;
    put(&ingest, batch(vec![("n", ints(&[wide]))]))
        .await
        .unwrap();
    let sent = raw(&small(-3));
    before.write(small(-3), Some(sent), None).await.unwrap();

    let table = world.catalog.table(&readings()).await.unwrap().unwrap();
    assert_eq!(table.schema_version, SchemaVersion(2));
    let grown = schema::decode_schema(&table.schema).unwrap();
    let expected = narrow.field(0).clone().with_data_type(DataType::Int64);
    assert_eq!(grown.fields()[..], [Arc::new(expected)]);
    let types = |ingest: &Ingest| {
        let recent = recent_rows(ingest, table.id, 0);
        let types = recent.iter().map(|(_, batch)| batch.column(0).data_type());
        types.cloned().collect::<Vec<_>>()
    };
    let sent = [DataType::Int32, DataType::Int64, DataType::Int32];
    assert_eq!(types(&ingest), sent, "a stream keeps its schema");
    drop(before);
    drop(ingest);
    let ingest = world.open().await;
    assert_eq!(types(&ingest), sent, "the log has the rows as they were");
    ingest.flush().await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [-3, 1, wide]);
    let file = &world.query(&ingest, &readings()).await[0];
    assert_eq!(file.schema().fields(), grown.fields());
}

/// A type that a table has, and one that is sent to it.
#[tokio::test]
async fn columns_grow_to_types_that_have_all_their_values_and_no_others() {
    use DataType::*;
    let times = |unit| Timestamp(unit, None);
    let list = |of| List(Arc::new(Field::new("item", of, true)));
    let pair_of = |a, b, nullable| {
        let fields = vec![Field::new("a", a, nullable), Field::new("b", b, true)];
        Struct(fields.into())
    };
    let pair = |a, b| pair_of(a, b, true);
    let map = |of| {
        let entries = vec![
            Field::new("key", Utf8, false),
            Field::new("value", of, true),
        ];
        Map(
            Arc::new(Field::new("entries", Struct(entries.into()), false)),
            false,
        )
    };
    let world = World::new().await;
    let ingest = world.open().await;
    let grow = [
        (Int8, Int16),
        (Int8, Int64),
        (UInt8, Int16),
        (UInt32, Int64),
        (UInt8, UInt64),
        (Float16, Float32),
        (Float32, Float64),
        (Null, Utf8),
        (Null, Int8),
        (Null, Decimal128(10, 2)),
        (Decimal128(10, 2), Decimal128(20, 2)),
        (Decimal128(10, 2), Decimal256(20, 2)),
        (Decimal128(10, 2), Decimal256(10, 2)),
        (Decimal32(9, 2), Decimal64(9, 2)),
        // More digits behind the point, and as many before it.
        (Decimal128(10, 2), Decimal128(12, 4)),
        (Decimal128(38, 0), Decimal256(76, 38)),
        (list(Int8), list(Int16)),
        (pair(Int8, Utf8), pair(Int16, Utf8)),
        (
            list(pair(Int8, list(Decimal128(10, 2)))),
            list(pair(Int64, list(Decimal128(12, 2)))),
        ),
    ];
    let refused = [
        (Int32, UInt32),
        (UInt32, Int32),
        (Int64, UInt64),
        (Int8, Float64),
        (Float32, Int32),
        (Int32, Utf8),
        (Date32, Date64),
        (list(Int8), list(Utf8)),
        (list(Null), list(Int8)),
        (
            list(Int8),
            LargeList(Arc::new(Field::new("item", Int16, true))),
        ),
        (map(Int8), map(Int16)),
        (pair(Int8, Utf8), pair(Int16, Int8)),
        // One that allows no nulls.
        (pair_of(Int8, Utf8, false), pair(Int16, Utf8)),
        (pair(Int8, map(Int8)), pair(Int16, map(Int8))),
        (
            pair(Int8, Utf8),
            Struct(vec![Field::new("a", Int16, true)].into()),
        ),
        // Fewer digits before the point, or behind it.
        (Decimal128(10, 2), Decimal128(12, 5)),
        (Decimal128(10, 2), Decimal128(20, 1)),
        (Decimal128(10, 2), Decimal64(12, 2)),
        (Int8, Decimal128(10, 2)),
        (Decimal128(10, 2), Int64),
        (Float32, Decimal128(38, 2)),
        (Decimal128(10, 2), Float64),
        (times(TimeUnit::Second), times(TimeUnit::Nanosecond)),
        (Null, times(TimeUnit::Second)),
        (Boolean, Int8),
    ];
    let refused = refused.into_iter().map(|pair| (pair, false));
    let cases = grow.into_iter().map(|pair| (pair, true)).chain(refused);
    for (at, ((has, sent), grows)) in cases.enumerate() {
        let name = TableName::public("demo", format!("t{at}"));
        let open = async |of: &DataType| {
            let schema = schema(&[("v", of.clone(), true)]);
            let mode = TableMode::CreateOrAppend;
            ingest.writer(&name, &schema, mode, true).await
        };
        open(&has).await.unwrap();
        let opened = open(&sent).await;
        let table = world.catalog.table(&name).await.unwrap().unwrap();
        let found = schema::decode_schema(&table.schema).unwrap();
        let found = found.field(0).data_type();
        if grows {
            opened.unwrap();
            assert_eq!(*found, sent, "{has} to {sent}");
            continue;
        }
        assert_eq!(*found, has, "{has} to {sent}");
        let text = opened.unwrap_err().to_string();
        let expected = format!("has type {has}, but {sent} was sent");
        assert!(text.ends_with(&expected), "{text}");
    }
}

/// What a table says of the fields inside its columns stays, and each of them has its own widest type.
#[test]
fn what_is_inside_of_a_column_grows_alone() {
    let column = |a: DataType, b: DataType, name: &str, nullable| {
        let b = Field::new(name, b, nullable).with_metadata([("unit".into(), name.into())].into());
        let list = DataType::List(Arc::new(b));
        let fields = vec![
            Field::new("a", a, nullable),
            Field::new("b", list, nullable),
        ];
        schema(&[("v", DataType::Struct(fields.into()), true)])
    };
    let (narrow, wide) = (DataType::Int32, DataType::Int64);
    let table = column(wide.clone(), narrow.clone(), "item", true);
    let sent = column(narrow, wide.clone(), "element", false);
    let grown = crate::adapt::evolved(&table, &sent, &[]).unwrap();
    assert_eq!(grown, *column(wide.clone(), wide, "item", true));
    crate::adapt::Plan::new(&readings(), Arc::new(grown), &sent).unwrap();
}

#[tokio::test]
async fn a_column_of_a_primary_key_keeps_its_type() {
    let world = World::new().await;
    let ingest = world.open().await;
    let key = [(
        flightcluster_keys::METADATA_KEY.to_owned(),
        r#"["id", "time"]"#.to_owned(),
    )];
    let open = async |id: DataType, v: DataType| {
        let time = DataType::Timestamp(TimeUnit::Second, None);
        let fields = [("id", id, false), ("time", time, false), ("v", v, true)];
        let schema = Schema::clone(&schema(&fields)).with_metadata(key.clone().into());
        let mode = TableMode::CreateOrAppend;
        ingest.writer(&readings(), &schema, mode, true).await
    };
    open(DataType::Int32, DataType::Int32).await.unwrap();
    open(DataType::Int32, DataType::Int64).await.unwrap();
    let error = open(DataType::Int64, DataType::Int64).await.unwrap_err();
    let text = "column \"id\" of table demo.public.readings has type Int32, but Int64 was sent";
    assert_eq!(error.to_string(), text);
    open(DataType::Int16, DataType::Int8).await.unwrap();
}

#[tokio::test]
async fn schemas_that_can_not_be_a_table_are_refused() {
    let world = World::new().await;
    let ingest = world.open().await;
    let twice = schema(&[("a", DataType::Int8, true), ("a", DataType::Int8, true)]);
    for (schema, category) in [(twice, "duplicate_column"), (schema(&[]), "no_columns")] {
        let mode = TableMode::CreateOrAppend;
        let error = ingest
            .writer(&readings(), &schema, mode, true)
            .await
            .unwrap_err();
        assert_eq!(
            (error.category(), error.fault()),
            (category, Fault::InvalidArgument)
        );
    }
    assert_eq!(world.catalog.table(&readings()).await.unwrap(), None);
}

#[tokio::test]
async fn a_batch_of_another_schema_than_its_stream_is_refused() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    let error = table
        .write(batch(vec![("n", ints(&[1]))]), None, None)
        .await
        .unwrap_err();
    assert_eq!(error.category(), "schema_mismatch");
}
