//! A batch with a producer's number is stored once, whatever happens in between.

use flightcluster_catalog::{ClaimProducer, ProducerClaim, ReleasedProducer};

use super::*;

fn producer(sequence: u64) -> Option<Producer> {
    Some(Producer {
        id: "pump-7".to_owned(),
        sequence,
        after: None,
    })
}

#[tokio::test]
async fn a_repeated_batch_is_acknowledged_and_not_stored_again() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    let first = table.write(numbers([1]), None, producer(10)).await.unwrap();
    let again = table.write(numbers([1]), None, producer(10)).await.unwrap();
    assert_eq!(
        again,
        Ack {
            duplicate: true,
            ..first
        }
    );
    table.write(numbers([2]), None, producer(20)).await.unwrap();
    assert!(
        table
            .write(numbers([1]), None, producer(10))
            .await
            .unwrap()
            .duplicate
    );
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2]);
    assert_eq!(ingest.statistics().duplicates, 2);

    let other = writer(&ingest, &TableName::public("demo", "other")).await;
    assert!(
        !other
            .write(numbers([1]), None, producer(10))
            .await
            .unwrap()
            .duplicate
    );
}

/// Rows `first..last` of a stream, which are those numbers.
async fn put_rows(table: &TableWriter, first: i64, last: i64) -> Ack {
    let of_stream = Producer {
        id: "stream".to_owned(),
        sequence: last as u64,
        after: Some(first as u64),
    };
    let rows = numbers(first..last);
    table.write(rows, None, Some(of_stream)).await.unwrap()
}

#[tokio::test]
async fn a_stream_that_is_repeated_in_other_batches_is_stored_once() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    put_rows(&table, 0, 3).await;
    put_rows(&table, 3, 6).await;
    // In files, in the log, and in neither.
    ingest.flush().await.unwrap();
    put_rows(&table, 6, 8).await;
    drop((table, ingest));
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    assert!(put_rows(&table, 0, 4).await.duplicate);
    let cut = put_rows(&table, 4, 9).await;
    assert_eq!((cut.rows, cut.duplicate), (5, false));
    assert!(!put_rows(&table, 9, 12).await.duplicate);
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..12).collect::<Vec<_>>()
    );
    drop((table, ingest));
    // The rows that were cut off are not in the log a second time.
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    assert!(put_rows(&table, 0, 12).await.duplicate);
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..12).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn repeats_are_recognised_after_a_restart_from_log_and_from_files() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    table.write(numbers([1]), None, producer(1)).await.unwrap();
    ingest.flush().await.unwrap();
    table.write(numbers([2]), None, producer(2)).await.unwrap();
    drop((table, ingest));
    // Even when the log of the flushed rows is gone.
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    for n in [1, 2] {
        let again = table
            .write(numbers([n as i64]), None, producer(n))
            .await
            .unwrap();
        assert!(again.duplicate, "batch {n}");
        assert!(again.sequence >= SequenceNumber(n));
    }
    assert!(
        !table
            .write(numbers([3]), None, producer(3))
            .await
            .unwrap()
            .duplicate
    );
    ingest.flush().await.unwrap();
    drop((table, ingest));
    std::fs::remove_dir_all(world.wal_dir()).unwrap();
    world
        .catalog
        .retire_ingester("ingester-0", true)
        .await
        .unwrap();
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    assert!(
        table
            .write(numbers([3]), None, producer(3))
            .await
            .unwrap()
            .duplicate
    );
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_repeat_waits_for_the_first_attempt_under_way() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = Arc::new(writer(&ingest, &readings()).await);
    let other_stream = writer(&ingest, &readings()).await;
    let writes = [&*table, &other_stream, &*table, &other_stream]
        .map(|table| table.write(numbers([1]), None, producer(1)));
    let acks: Vec<Ack> = futures::future::join_all(writes)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(acks.iter().filter(|ack| !ack.duplicate).count(), 1);
    assert!(acks.iter().all(|ack| ack.sequence == SequenceNumber(1)));
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
}

#[tokio::test]
async fn pipelined_batches_of_a_producer_are_stored_in_order() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    let writes = (1..=50).map(|n| table.write(numbers([n as i64]), None, producer(n)));
    for ack in futures::future::join_all(writes).await {
        assert!(!ack.unwrap().duplicate);
    }
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (1..=50).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_batch_behind_a_refused_one_is_refused_too() {
    let mut world = World::new().await;
    world.config.buffer_bytes = ByteSize(1000);
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    world.store.refuse_puts(true);
    table.write(numbers(0..10), None, None).await.unwrap();
    let on_its_way = ingest.room(0, 900).await.unwrap();
    ingest.core_for_tests().counters.lock().last_error = Some("so that it is refused soon".into());
    let refused = table
        .write(numbers(0..50), None, producer(5))
        .await
        .unwrap_err();
    assert_eq!(refused.category(), "overloaded");
    world.store.refuse_puts(false);
    drop(on_its_way);
    // There is room now, but batch 5 is missing: storing 6 would make 5 look like a repeat.
    let error = table
        .write(numbers([6]), None, producer(6))
        .await
        .unwrap_err();
    assert_eq!(error.fault(), Fault::FailedPrecondition);
    assert!(error.to_string().contains("batch 5"), "{error}");
    assert!(
        !table
            .write(numbers([5]), None, producer(5))
            .await
            .unwrap()
            .duplicate
    );
    assert!(
        !table
            .write(numbers([6]), None, producer(6))
            .await
            .unwrap()
            .duplicate
    );
}

#[tokio::test]
async fn an_unusable_producer_id_is_refused() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    for id in [String::new(), "x".repeat(257)] {
        let producer = Producer {
            id,
            sequence: 1,
            after: None,
        };
        let error = table
            .write(numbers([1]), None, Some(producer))
            .await
            .unwrap_err();
        assert_eq!(error.fault(), Fault::InvalidArgument);
    }
}

/// A later number that is stored must not make a refused one look like a repeat.
#[tokio::test]
async fn a_batch_refused_for_its_values_is_missing_until_it_comes_again() {
    let world = World::new().await;
    let ingest = world.open().await;
    drop(writer(&ingest, &readings()).await);
    let nullable = schema(&[("n", DataType::Int64, true)]);
    let mode = TableMode::CreateOrAppend;
    let table = ingest.writer(&readings(), &nullable, mode, true).await;
    let table = table.unwrap();
    let rows = |value: Option<i64>| {
        let column = Arc::new(Int64Array::from(vec![value])) as ArrayRef;
        RecordBatch::try_new(Arc::clone(&nullable), vec![column]).unwrap()
    };
    let refused = table.write(rows(None), None, producer(5)).await;
    assert_eq!(refused.unwrap_err().category(), "null_value");
    let behind = table.write(rows(Some(6)), None, producer(6)).await;
    assert_eq!(behind.unwrap_err().category(), "producer_order");
    for n in [5, 6] {
        let repaired = table.write(rows(Some(n)), None, producer(n as u64)).await;
        assert!(!repaired.unwrap().duplicate, "batch {n}");
    }
    assert_eq!(world.numbers(&ingest, &readings()).await, [5, 6]);
}

/// After a pause it asks before it takes anything, and nobody answers. Only the first batch is refused
/// for that; those behind it find the catalog again.
#[tokio::test]
async fn a_batch_refused_by_an_ingester_that_stood_still_is_missing_until_it_comes_again() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    let send = async |n: i64| table.write(numbers([n]), None, producer(n as u64)).await;
    send(4).await.unwrap();
    world.catalog.set_away(true);
    world.hand.advance(Duration::from_secs(60));
    assert_eq!(send(5).await.unwrap_err().category(), "catalog");
    world.catalog.set_away(false);
    assert_eq!(send(6).await.unwrap_err().category(), "producer_order");
    for n in [5, 6] {
        assert!(!send(n).await.unwrap().duplicate, "batch {n}");
    }
    assert_eq!(world.numbers(&ingest, &readings()).await, [4, 5, 6]);
}

/// A database that was set back may know nothing of the producer and its claim.
#[tokio::test]
async fn what_the_log_knows_of_producers_is_in_the_catalog_before_anything_is_written() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    table.write(numbers([1]), None, producer(5)).await.unwrap();
    let id = table.table().id;
    drop((table, ingest));
    let _ingest = world.open().await;
    let other = world
        .catalog
        .register_ingester(life_with_a_new_log("other"))
        .await
        .unwrap()
        .ingester;
    let claim = async |released| {
        let request = ClaimProducer {
            ingester: other.id,
            epoch: other.epoch,
            table: id,
            producer: "pump-7".to_owned(),
            released,
        };
        world.catalog.claim_producer(request).await.unwrap()
    };
    let ProducerClaim::Taken { version, .. } = claim(None).await else {
        panic!("nobody let it go");
    };
    let position = None;
    let held = claim(Some(ReleasedProducer { version, position })).await;
    assert_eq!(held, ProducerClaim::Held { position: Some(5) });
}
