//! Tables with a primary key: rows are numbered so that the later write wins, and files hold each key
//! once.

use arrow_array::TimestampMicrosecondArray;
use arrow_schema::TimeUnit;
use flightcluster_keys::METADATA_KEY;

use super::faults::{Fault as Wrong, Hold};
use super::*;

fn keyed_schema(key: &str) -> SchemaRef {
    let fields = schema(&[
        ("id", DataType::Int64, true),
        (
            "time",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            true,
        ),
        ("v", DataType::Int64, true),
    ]);
    let metadata = [(METADATA_KEY.to_owned(), key.to_owned())].into();
    Arc::new(Schema::clone(&fields).with_metadata(metadata))
}

const KEY: &str = r#"["id", "time"]"#;

/// Rows of (id, v); the time follows from the id.
pub(super) fn rows(rows: &[(i64, i64)]) -> RecordBatch {
    let ids = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.0 * 10));
    let values = Int64Array::from_iter_values(rows.iter().map(|row| row.1));
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(times), Arc::new(values)];
    RecordBatch::try_new(keyed_schema(KEY), columns).unwrap()
}

async fn open_stream(ingest: &Ingest, key: &str) -> Result<TableWriter, Error> {
    let (name, mode) = (readings(), TableMode::CreateOrAppend);
    ingest.writer(&name, &keyed_schema(key), mode, true).await
}

pub(super) async fn stream(ingest: &Ingest) -> TableWriter {
    open_stream(ingest, KEY).await.unwrap()
}

async fn put(writer: &TableWriter, values: &[(i64, i64)]) -> Result<Ack, Error> {
    writer.write(rows(values), None, None).await
}

/// Rows as they are stored: (id, v, order).
pub(super) fn stored(batches: &[RecordBatch]) -> Vec<(i64, i64, i64)> {
    let all = batches.iter().flat_map(|batch| {
        let column = |name: &str| {
            let column = batch.column_by_name(name).unwrap();
            column.as_primitive::<Int64Type>().clone()
        };
        let (ids, values, orders) = (column("id"), column("v"), column("__fc_order"));
        (0..batch.num_rows()).map(move |at| (ids.value(at), values.value(at), orders.value(at)))
    });
    let mut all: Vec<_> = all.collect();
    all.sort_unstable();
    all
}

#[tokio::test]
async fn rows_keep_their_order_over_a_crash_and_a_file_holds_each_key_once() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = stream(&ingest).await;
    put(&writer, &[(1, 10), (2, 20), (1, 11)]).await.unwrap();
    // As it came in, and as a client encoded it.
    let batch = rows(&[(2, 21), (3, 30)]);
    let messages = raw(&batch);
    writer.write(batch, Some(messages), None).await.unwrap();
    let before = stored(&world.query(&ingest, &readings()).await);
    let expected = [(1, 10, 1), (1, 11, 3), (2, 20, 2), (2, 21, 4), (3, 30, 5)];
    assert_eq!(before, expected);
    drop((writer, ingest));
    let ingest = world.open().await;
    assert_eq!(stored(&world.query(&ingest, &readings()).await), before);

    ingest.flush().await.unwrap();
    let files = world.files(&readings()).await;
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].file.rows, 3);
    assert_eq!(files[0].file.time_range_nanos, Some((10_000, 30_000)));
    let kept = stored(&world.read_file(&files[0].file.path).await);
    assert_eq!(kept, [(1, 11, 3), (2, 21, 4), (3, 30, 5)]);
    // The table shows none of it, also when it gets more columns.
    let wider = schema(&[
        ("id", DataType::Int64, true),
        (
            "time",
            DataType::Timestamp(TimeUnit::Microsecond, None),
            true,
        ),
        ("more", DataType::Utf8, true),
    ]);
    let mode = TableMode::Append;
    let writer = ingest
        .writer(&readings(), &wider, mode, true)
        .await
        .unwrap();
    let names: Vec<_> = writer.schema().fields().iter().map(|f| f.name()).collect();
    assert_eq!(names, ["id", "time", "v", "more"]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![1])),
        Arc::new(TimestampMicrosecondArray::from(vec![10])),
        Arc::new(arrow_array::StringArray::from(vec!["x"])),
    ];
    let batch = RecordBatch::try_new(wider, columns).unwrap();
    writer.write(batch, None, None).await.unwrap();
    ingest.flush().await.unwrap();
    let files = world.files(&readings()).await;
    let newest = &world.read_file(&files[1].file.path).await[0];
    let order = newest.column_by_name("__fc_order").unwrap();
    assert_eq!(order.as_primitive::<Int64Type>().values(), &[6]);
}

#[tokio::test]
async fn a_file_is_sorted_by_key_and_says_so() {
    let world = World::new().await;
    let ingest = world.open().await;
    let (writer, other) = (
        stream(&ingest).await,
        writer(&ingest, &TableName::public("demo", "plain")).await,
    );
    // More rows than are put together at a time, in many batches, some keys several times.
    for turn in 0..40 {
        let ids = (0..500).map(|at| (at * 7919 + turn * 31) % 12_007);
        put(&writer, &ids.map(|id| (id, turn)).collect::<Vec<_>>())
            .await
            .unwrap();
    }
    write(&other, [3, 1, 2]).await.unwrap();
    let mut newest = std::collections::BTreeMap::new();
    for (id, value, order) in stored(&world.query(&ingest, &readings()).await) {
        let known = newest.entry(id).or_insert((order, value));
        *known = (*known).max((order, value));
    }
    ingest.flush().await.unwrap();
    let files = world.files(&readings()).await;
    assert!(files.len() == 1 && files[0].file.sorted && files[0].is_sorted());
    let batches = world.read_file(&files[0].file.path).await;
    let ids = batches.iter().flat_map(|batch| {
        let ids = batch.column_by_name("id").unwrap();
        ids.as_primitive::<Int64Type>().values().to_vec()
    });
    assert_eq!(
        ids.collect::<Vec<_>>(),
        newest.keys().copied().collect::<Vec<_>>()
    );
    let expected = newest
        .into_iter()
        .map(|(id, (order, value))| (id, value, order));
    assert_eq!(stored(&batches), expected.collect::<Vec<_>>());
    let plain = world.files(&TableName::public("demo", "plain")).await;
    assert!(!plain[0].file.sorted && !plain[0].is_sorted());
}

#[tokio::test]
async fn the_write_that_begins_after_an_acknowledgement_has_the_higher_order() {
    let world = World::new().await;
    let mut ingests = Vec::new();
    for (name, ahead) in [("a", 0), ("b", 100_000)] {
        let (clock, hand) = Clock::manual();
        hand.advance(Duration::from_secs(ahead));
        let options = IngestOptions {
            node_name: name.to_owned(),
            wal_dir: world.directory.path().join(name),
            clock,
            ..world.options()
        };
        ingests.push(Ingest::open(options).await.unwrap());
    }
    let writers = [stream(&ingests[0]).await, stream(&ingests[1]).await];
    for turn in 0..20 {
        put(&writers[turn % 2], &[(1, turn as i64)]).await.unwrap();
    }
    let table = world.catalog.table(&readings()).await.unwrap().unwrap();
    let recent = ingests.iter().flat_map(|ingest| {
        let recent = ingest
            .recent(table.id, SequenceNumber(0))
            .unwrap()
            .read_all()
            .unwrap();
        recent.into_iter().map(|(_, batch)| batch)
    });
    let all = stored(&recent.collect::<Vec<_>>());
    assert!(
        all.is_sorted_by_key(|(_, value, order)| (*value, *order)),
        "{all:?}"
    );
    assert!(all.iter().map(|row| row.2).is_sorted(), "{all:?}");
}

#[tokio::test]
async fn without_the_catalog_only_tables_with_a_key_are_not_written() {
    let world = World::new().await;
    let ingest = world.open().await;
    let keyed = stream(&ingest).await;
    let other = writer(&ingest, &TableName::public("demo", "plain")).await;
    put(&keyed, &[(1, 1)]).await.unwrap();
    let before = ingest.statistics().durable_sequence;
    world.catalog.set_away(true);
    let refused = put(&keyed, &[(1, 2)]).await.unwrap_err();
    assert_eq!(
        (refused.category(), refused.fault()),
        ("catalog", Fault::Unavailable)
    );
    assert_eq!(ingest.statistics().durable_sequence, before);
    write(&other, [1]).await.unwrap();
    world.catalog.set_away(false);
    // An answer that gets lost costs numbers, no more.
    world.catalog.fail_orders(Wrong::Answer);
    put(&keyed, &[(1, 3)]).await.unwrap_err();
    put(&keyed, &[(1, 4)]).await.unwrap();
    let kept = stored(&world.query(&ingest, &readings()).await);
    assert_eq!(kept, [(1, 1, 1), (1, 4, 3)]);
}

#[tokio::test]
async fn batches_that_wait_share_a_call_and_none_hangs_on_the_one_that_asks() {
    let world = World::new().await;
    let ingest = world.open().await;
    let hold = Arc::new(Hold::default());
    let writers: Vec<Arc<TableWriter>> = {
        let mut writers = Vec::new();
        for _ in 0..4 {
            writers.push(Arc::new(stream(&ingest).await));
        }
        writers
    };
    let send = |at: usize| {
        let writer = Arc::clone(&writers[at]);
        tokio::spawn(async move { put(&writer, &[(at as i64, 0), (at as i64, 1)]).await })
    };
    world.catalog.hold_orders(Some(Arc::clone(&hold)));
    let first = send(0);
    hold.arrived.notified().await;
    // These wait while the first call is under way; its caller leaves.
    let others: Vec<_> = (1..4).map(&send).collect();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    world.catalog.hold_orders(None);
    first.abort();
    for other in others {
        other.await.unwrap().unwrap();
    }
    // The numbers of the caller that left are lost; the others share one call.
    assert_eq!(*world.catalog.order_log.lock(), [2, 6]);
    let orders = stored(&world.query(&ingest, &readings()).await);
    let mut orders: Vec<i64> = orders.into_iter().map(|row| row.2).collect();
    orders.sort_unstable();
    assert_eq!(orders, [3, 4, 5, 6, 7, 8]);
}

#[tokio::test]
async fn a_flush_of_a_table_waits_for_rows_that_have_a_number_and_are_on_their_way() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = Arc::new(stream(&ingest).await);
    put(&writer, &[(1, 1)]).await.unwrap();
    let hold = Arc::new(Hold::default());
    world.catalog.hold_orders(Some(Arc::clone(&hold)));
    let late = Arc::clone(&writer);
    let late = tokio::spawn(async move { put(&late, &[(2, 2)]).await });
    hold.arrived.notified().await;
    world.catalog.hold_orders(None);
    assert_eq!(world.catalog.last_order().await.unwrap(), 2);
    let (epoch, table) = (ingest.ingester().epoch, writer.table().id);
    let mut flush = std::pin::pin!(ingest.flush_table(epoch, table));
    // Without the wait it would be over long before.
    let early = tokio::time::timeout(Duration::from_millis(200), &mut flush).await;
    assert!(early.is_err(), "a row with a number is not in the file");
    hold.go_on.notify_one();
    late.await.unwrap().unwrap();
    flush.await.unwrap();
    let files = world.files(&readings()).await;
    let mut kept = Vec::new();
    for file in &files {
        kept.extend(stored(&world.read_file(&file.file.path).await));
    }
    assert_eq!(kept, [(1, 1, 1), (2, 2, 2)]);
    put(&writer, &[(3, 3)]).await.unwrap();
}

#[tokio::test]
async fn a_fenced_ingester_gets_no_orders_and_stops() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = stream(&ingest).await;
    world.begin_younger_life().await;
    let refused = put(&writer, &[(1, 1)]).await.unwrap_err();
    assert_eq!(refused.category(), "out_of_service");
    assert_eq!(ingest.fatal().await.category(), "fenced");
}

#[tokio::test]
async fn what_can_not_be_a_key_is_refused_and_leaves_no_table() {
    let world = World::new().await;
    let ingest = world.open().await;
    for (key, says) in [
        ("[]", "no columns"),
        (r#"["id"]"#, "add \"time\""),
        (r#"["id", "nothing", "time"]"#, "\"nothing\""),
        ("id", "JSON array"),
    ] {
        let refused = open_stream(&ingest, key).await.unwrap_err();
        assert_eq!(refused.fault(), Fault::InvalidArgument, "{refused}");
        assert!(refused.to_string().contains(says), "{refused}");
    }
    let reserved = schema(&[("__fc_order", DataType::Int64, false)]);
    let mode = TableMode::CreateOrAppend;
    let refused = ingest.writer(&readings(), &reserved, mode, true).await;
    assert!(refused.unwrap_err().to_string().contains("reserved"));
    assert!(world.catalog.table(&readings()).await.unwrap().is_none());

    let writer = stream(&ingest).await;
    let other = open_stream(&ingest, r#"["time"]"#).await.unwrap_err();
    assert_eq!(
        (other.category(), other.fault()),
        ("key_mismatch", Fault::FailedPrecondition)
    );
    assert!(other.to_string().contains("(id, time)"), "{other}");
    let mut columns = rows(&[(1, 1)]).columns().to_vec();
    columns[0] = Arc::new(Int64Array::from(vec![None]));
    let null = RecordBatch::try_new(keyed_schema(KEY), columns).unwrap();
    let refused = writer.write(null, None, None).await.unwrap_err();
    assert_eq!(refused.category(), "null_value");
    let without = schema(&[("id", DataType::Int64, true), ("v", DataType::Int64, true)]);
    let refused = ingest.writer(&readings(), &without, mode, true).await;
    assert_eq!(refused.unwrap_err().category(), "missing_column");
    assert!(world.catalog.order_log.lock().is_empty());
}

#[tokio::test]
async fn the_rows_of_an_upload_are_numbered_when_they_are_sent() {
    let world = World::new().await;
    let ingest = world.open().await;
    put(&stream(&ingest).await, &[(1, 1)]).await.unwrap();
    let hour = Duration::from_secs(3600);
    let catalog = &world.catalog;
    catalog.start_upload("7f", &readings(), hour).await.unwrap();
    let other = keyed_schema(r#"["time"]"#);
    let refused = ingest.upload_writer("7f", &readings(), &other).await;
    assert_eq!(refused.unwrap_err().category(), "key_mismatch");
    let staging = ingest
        .upload_writer("7f", &readings(), &keyed_schema(KEY))
        .await;
    let staging = staging.unwrap();
    put(&staging, &[(1, 2), (1, 3)]).await.unwrap();
    put(&stream(&ingest).await, &[(1, 4)]).await.unwrap();
    let epoch = ingest.ingester().epoch;
    ingest
        .flush_upload(epoch, staging.table().id)
        .await
        .unwrap();
    let commits = catalog.commit_log.lock().clone();
    let path = &commits.last().unwrap().files[0].path;
    assert_eq!(stored(&world.read_file(path).await), [(1, 3, 3)]);
}
