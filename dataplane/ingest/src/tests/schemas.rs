//! Schemas of streams against schemas of tables.

use arrow_array::types::{Float64Type, TimestampMicrosecondType};
use arrow_array::{
    Array as _, Float64Array, Int32Array, NullArray, StringArray, TimestampMicrosecondArray,
    TimestampSecondArray,
};

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
    let recent = ingest.recent(table.id, SequenceNumber(0)).unwrap();
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
    let before = ingest.recent(id, SequenceNumber(0)).unwrap();
    drop(ingest);
    let ingest = world.open().await;
    assert_eq!(ingest.recent(id, SequenceNumber(0)).unwrap(), before);
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
