//! Acknowledged means durable and visible; modes; the messages in the log; draining.

use std::collections::BTreeMap;

use flightcluster_catalog::{CreateTable, IfExists};

use super::*;

/// Invariant: what is acknowledged is visible at once, and still after it is in a file.
#[tokio::test]
async fn a_written_batch_is_visible_at_once_and_after_its_flush() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    let ack = write(&writer, 0..10).await.unwrap();
    assert_eq!(
        ack,
        Ack {
            sequence: SequenceNumber(1),
            rows: 10,
            duplicate: false
        }
    );
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..10).collect::<Vec<_>>()
    );
    assert!(world.files(&readings()).await.is_empty());

    let ack = write(&writer, 10..20).await.unwrap();
    assert_eq!(ack.sequence, SequenceNumber(2));
    ingest.flush().await.unwrap();
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..20).collect::<Vec<_>>()
    );
    let files = world.files(&readings()).await;
    let file = &files[0].file;
    assert_eq!((files.len(), file.rows), (1, 20));
    assert_eq!(
        (file.first_sequence, file.last_sequence),
        (SequenceNumber(1), SequenceNumber(2))
    );
    let id = writer.table().id;
    assert!(file.path.starts_with(&format!("demo/{id}/")) && file.path.ends_with(".parquet"));

    write(&writer, 20..25).await.unwrap();
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..25).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn an_empty_batch_is_acknowledged_and_not_stored() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    let ack = write(&writer, []).await.unwrap();
    assert_eq!((ack.sequence, ack.rows), (SequenceNumber(0), 0));
    assert_eq!(
        write(&writer, [1]).await.unwrap().sequence,
        SequenceNumber(1)
    );
}

#[tokio::test]
async fn pipelined_writes_are_stored_in_the_order_of_the_calls() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    let writes = (0..100).map(|n| write(&writer, [n]));
    let acks = futures::future::join_all(writes).await;
    let sequences: Vec<u64> = acks
        .into_iter()
        .map(|ack| ack.unwrap().sequence.0)
        .collect();
    assert_eq!(sequences, (1..=100).collect::<Vec<_>>());
    let recent = ingest
        .recent(writer.table().id, SequenceNumber(0))
        .unwrap()
        .read_all()
        .unwrap();
    for (sequence, batch) in recent {
        assert_eq!(batch, numbers([sequence.0 as i64 - 1]));
    }
}

#[tokio::test]
async fn a_batch_is_logged_as_it_came() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    let batch = numbers([7, 8]);
    let mut sent = raw(&batch);
    // Padding that our own encoder would not write.
    sent[0].1 = [sent[0].1.as_ref(), &[0xab; 64]].concat().into();
    writer
        .write(batch.clone(), Some(sent.clone()), None)
        .await
        .unwrap();
    // More or fewer rows than the batch: encoded again.
    writer
        .write(batch.clone(), Some(raw(&numbers([1]))), None)
        .await
        .unwrap();
    let id = ingest.ingester().id.0;
    drop((writer, ingest));

    let disk = Arc::new(flightcluster_wal::RealDisk);
    let directory = flightcluster_wal::WalDirectory::lock(world.wal_dir(), disk).unwrap();
    let identity = flightcluster_wal::Identity {
        ingester_id: id,
        ingester_name: String::new(),
        epoch: 9,
        catalog: flightcluster_wal::CatalogState {
            snapshot: 1,
            created_at_millis: 1,
        },
        known: flightcluster_wal::SequenceNumber(0),
    };
    let mut recovery = directory.recover(identity).unwrap();
    let first = recovery.next_record().unwrap().unwrap();
    let message = &first.messages[0];
    assert_eq!((message.header.clone(), message.body.clone()), sent[0]);
    assert_eq!(first.rows, 2);
    assert_eq!(recovery.next_record().unwrap().unwrap().rows, 2);
    drop(recovery);

    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [7, 7, 8, 8]);
}

#[tokio::test]
async fn compressed_batches_are_logged_and_replayed() {
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};

    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    for compression in [CompressionType::LZ4_FRAME, CompressionType::ZSTD] {
        let options = IpcWriteOptions::default()
            .try_with_compression(Some(compression))
            .unwrap();
        let mut tracker = DictionaryTracker::new(false);
        let batch = numbers(vec![7; 10_000]);
        let (_, sent) = IpcDataGenerator::default()
            .encode(&batch, &mut tracker, &options, &mut Default::default())
            .unwrap();
        assert!(sent.arrow_data.len() < 8000);
        let sent = vec![(sent.ipc_message.into(), sent.arrow_data.into())];
        table.write(batch, Some(sent), None).await.unwrap();
    }
    let figures = ingest.statistics();
    assert!(figures.wal_bytes < 20_000, "stored as it came");
    assert!(
        figures.buffered_bytes >= 160_000,
        "counted as it is in memory"
    );
    drop((table, ingest));
    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, vec![7; 20_000]);
    assert!(ingest.statistics().buffered_bytes >= 160_000);
}

#[tokio::test]
async fn modes_create_append_and_replace() {
    let world = World::new().await;
    let ingest = world.open().await;
    let open = |mode| {
        let ingest = Arc::clone(&ingest);
        async move {
            ingest
                .writer(&readings(), &numbers_schema(), mode, true)
                .await
        }
    };
    let missing = open(TableMode::Append).await.unwrap_err();
    assert_eq!(missing.fault(), Fault::NotFound);
    write(&open(TableMode::Create).await.unwrap(), [1])
        .await
        .unwrap();
    let there = open(TableMode::Create).await.unwrap_err();
    assert_eq!(there.fault(), Fault::AlreadyExists);
    write(&open(TableMode::Append).await.unwrap(), [2])
        .await
        .unwrap();
    write(&open(TableMode::CreateOrAppend).await.unwrap(), [3])
        .await
        .unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2, 3]);
    write(&open(TableMode::Replace).await.unwrap(), [4])
        .await
        .unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [4]);

    let elsewhere = TableName::public("nowhere", "t");
    let mode = TableMode::CreateOrAppend;
    let error = ingest
        .writer(&elsewhere, &numbers_schema(), mode, false)
        .await
        .unwrap_err();
    assert_eq!(error.fault(), Fault::NotFound);
}

#[tokio::test]
async fn a_stream_to_a_dropped_table_is_told_within_a_second() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, [1]).await.unwrap();
    world
        .catalog
        .drop_table(&readings(), false, None)
        .await
        .unwrap();
    world.hand.advance(Duration::from_secs(1));
    let error = write(&writer, [2]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::NotFound);
    assert!(error.to_string().contains("demo.public.readings"));
}

#[tokio::test]
async fn a_stream_goes_on_while_the_catalog_is_away_for_a_minute() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    world.catalog.set_away(true);
    world.time_passes_without_catalog(&ingest, 59).await;
    write(&writer, [1]).await.unwrap();
    world.time_passes_without_catalog(&ingest, 2).await;
    let error = write(&writer, [2]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unavailable);
    assert!(error.retry_after().is_some());
    world.catalog.set_away(false);
    world.hand.advance(Duration::from_secs(2));
    write(&writer, [2]).await.unwrap();
}

/// A call to it waits for a catalog that restarts; a stream must not. What it then says is not lost.
#[tokio::test]
async fn a_stream_does_not_wait_for_a_slow_catalog_and_learns_its_answer_with_the_next_write() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    let hold = Arc::new(faults::Hold::default());
    world.catalog.hold_tables(Some(Arc::clone(&hold)));
    world
        .catalog
        .drop_table(&readings(), false, None)
        .await
        .unwrap();
    world.hand.advance(Duration::from_secs(2));
    write(&writer, [1]).await.unwrap();
    hold.arrived.notified().await;
    write(&writer, [2]).await.unwrap();
    hold.go_on.notify_one();
    // Its task runs.
    tokio::task::yield_now().await;
    let error = write(&writer, [3]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::NotFound);
    world.catalog.hold_tables(None);
    let error = write(&writer, [4]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::NotFound, "in the same second");
}

#[tokio::test]
async fn a_question_whose_answer_never_comes_is_asked_anew() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    world.catalog.hold_tables(Some(Arc::default()));
    world.hand.advance(Duration::from_secs(2));
    write(&writer, [1]).await.unwrap();
    world.catalog.hold_tables(None);
    world
        .catalog
        .drop_table(&readings(), false, None)
        .await
        .unwrap();
    world.hand.advance(Duration::from_secs(29));
    write(&writer, [2]).await.unwrap();
    world.hand.advance(Duration::from_secs(1));
    let error = write(&writer, [3]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::NotFound);
}

#[tokio::test]
async fn draining_flushes_everything_and_refuses_new_writes() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..5).await.unwrap();
    world.catalog.fail_commit(faults::Fault::Answer);
    ingest.drain().await.unwrap();
    ingest.drain().await.unwrap();
    let error = write(&writer, [9]).await.unwrap_err();
    assert_eq!(
        (error.category(), error.fault()),
        ("draining", Fault::Unavailable)
    );
    let error = ingest
        .writer(&readings(), &numbers_schema(), TableMode::Append, false)
        .await;
    assert_eq!(error.unwrap_err().category(), "draining");

    let snapshot = world.catalog.snapshot(&[readings()]).await.unwrap();
    assert_eq!(snapshot.ingesters, []);
    assert_eq!(
        snapshot.tables[0]
            .files
            .iter()
            .map(|f| f.file.rows)
            .sum::<u64>(),
        5
    );
    // The log is closed: the next process can have it, although this one still lives.
    let next = world.open().await;
    assert_eq!(world.numbers(&next, &readings()).await, [0, 1, 2, 3, 4]);
    assert!(next.ingester().epoch > ingest.ingester().epoch);
}

#[tokio::test]
async fn figures_tell_what_is_held() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..100).await.unwrap();
    world.hand.advance(Duration::from_secs(3));
    let before = ingest.statistics();
    assert_eq!((before.buffered_rows, before.tables), (100, 1));
    assert!(before.buffered_bytes >= 800 && before.retained_bytes == 0);
    assert_eq!(before.oldest_age, Some(Duration::from_secs(3)));
    assert_eq!(before.durable_sequence, SequenceNumber(1));
    ingest.flush().await.unwrap();
    let after = ingest.statistics();
    assert_eq!(
        (after.buffered_rows, after.buffered_bytes, after.oldest_age),
        (0, 0, None)
    );
    assert_eq!(after.retained_bytes, before.buffered_bytes);
    assert_eq!((after.flushes, after.flushed_rows), (1, 100));
    assert!(after.flushed_file_bytes > 0 && after.wal_segments == 1 && after.wal_bytes > 800);
}

/// `CREATE TABLE … AS`: rows are written before the table gets its name.
#[tokio::test]
async fn rows_of_an_unpublished_table_are_those_of_the_published_one() {
    let world = World::new().await;
    let ingest = world.open().await;
    let request = CreateTable {
        name: readings(),
        schema: crate::schema::encode_schema(&numbers_schema()),
        options: BTreeMap::new(),
        if_exists: IfExists::Fail,
        create_database: true,
        unpublished: Some("hidden".to_owned()),
        seen: None,
    };
    let hidden = world.catalog.create_table(request).await.unwrap();
    let mode = TableMode::Append;
    let table = ingest
        .writer(&hidden.name, &numbers_schema(), mode, false)
        .await
        .unwrap();
    write(&table, [1]).await.unwrap();
    ingest.flush().await.unwrap();
    write(&table, [2]).await.unwrap();
    let published = world
        .catalog
        .publish_table(hidden.id, &readings(), IfExists::Fail, None)
        .await;
    assert_eq!(published.unwrap().id, table.table().id);
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2]);
    ingest.flush().await.unwrap();
    assert_eq!(world.files(&readings()).await.len(), 2);
    write(&writer(&ingest, &readings()).await, [3])
        .await
        .unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2, 3]);
    // Replay finds the table by its id.
    drop((table, ingest));
    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2, 3]);
}
