//! Rows that leave memory while nothing can be flushed: they are visible, and in files when the store is back.

use super::upserts::{rows as keyed_rows, stored as keyed_stored, stream as keyed_stream};
use futures::FutureExt as _;

use super::*;
use crate::buffer::Round;
use crate::flush::Scope;

/// An ingester with room for 200,000 bytes, whose store is away.
async fn without_store() -> World {
    let mut world = World::new().await;
    world.config.buffer_bytes = ByteSize(200_000);
    world.config.wal_segment_bytes = ByteSize(160_000);
    world.store.refuse_puts(true);
    world
}

/// Ten times the buffer, in batches of a thousand numbers each.
async fn write_much(table: &TableWriter, first: i64) -> Vec<i64> {
    for n in first..first + 250 {
        write(table, n * 1000..(n + 1) * 1000).await.unwrap();
    }
    (first * 1000..(first + 250) * 1000).collect()
}

fn assert_bounded(ingest: &Ingest) {
    let figures = ingest.statistics();
    let in_memory = figures.buffered_bytes + figures.retained_bytes;
    assert!(in_memory <= 200_000, "{figures:?}");
}

#[tokio::test]
async fn more_than_the_buffer_is_taken_while_the_store_is_away_and_flushed_when_it_is_back() {
    let world = without_store().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    write(&table, [-1]).await.unwrap();
    ingest.flush().await.unwrap_err();
    let mut written = vec![-1];
    written.extend(write_much(&table, 0).await);
    assert_eq!(world.numbers(&ingest, &readings()).await, written);
    assert_bounded(&ingest);
    let figures = ingest.statistics();
    assert!(figures.spilled_bytes > 1_800_000, "{figures:?}");
    assert_eq!(figures.buffered_rows, 250_001);
    drop((table, ingest));

    // Restarted while the store is still away.
    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, written);
    assert_bounded(&ingest);
    assert_eq!(ingest.statistics().buffered_rows, 250_001);
    let table = writer(&ingest, &readings()).await;
    ingest.flush().await.unwrap_err();
    written.extend(write_much(&table, 250).await);
    assert_eq!(world.numbers(&ingest, &readings()).await, written);
    assert_bounded(&ingest);

    world.store.refuse_puts(false);
    ingest.flush().await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, written);
    let figures = ingest.statistics();
    assert_eq!((figures.buffered_rows, figures.spilled_bytes), (0, 0));
    assert!(figures.flushes > 10, "in pieces: {figures:?}");
    assert!(figures.wal_segments <= 2, "the log is empty: {figures:?}");
    drop((table, ingest));
    let ingest = world.open().await;
    assert_eq!(ingest.statistics().buffered_rows, 0);
    assert_eq!(world.numbers(&ingest, &readings()).await, written);
}

#[tokio::test]
async fn the_log_is_what_is_full_in_the_end() {
    let mut world = without_store().await;
    world.config.wal_bytes = ByteSize(2_000_000);
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    let mut stored = 0;
    let refused = loop {
        match write(&table, stored * 1000..(stored + 1) * 1000).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(
        (refused.category(), refused.fault()),
        ("wal", Fault::ResourceExhausted)
    );
    assert!(refused.retry_after().is_some());
    assert!(stored > 100, "{stored} batches");
    let written: Vec<i64> = (0..stored * 1000).collect();
    assert_eq!(world.numbers(&ingest, &readings()).await, written);
    world.store.refuse_puts(false);
    ingest.flush().await.unwrap();
    write(&table, stored * 1000..(stored + 1) * 1000)
        .await
        .unwrap();
    let written: Vec<i64> = (0..(stored + 1) * 1000).collect();
    assert_eq!(world.numbers(&ingest, &readings()).await, written);
}

/// What was in memory before is what is read from the log: order numbers, producers, and all.
#[tokio::test]
async fn spilled_rows_are_what_they_were() {
    let world = without_store().await;
    let ingest = world.open().await;
    let table = keyed_stream(&ingest).await;
    let of = |n: i64, producer: u64| {
        let producer = Producer {
            id: "p".to_owned(),
            sequence: producer,
            after: None,
        };
        (keyed_rows(&[(n, n), (n + 1, 7)]), Some(producer))
    };
    for n in 0..50 {
        let (batch, producer) = of(n, n as u64 + 1);
        let raw = (n % 2 == 0).then(|| raw(&batch));
        table.write(batch, raw, producer).await.unwrap();
    }
    let id = table.table().id;
    let core = ingest.core_for_tests();
    let all = || {
        let Round { tables, .. } = core.buffer.unflushed(None, SequenceNumber(0), |_| true);
        let numbers: Vec<_> = tables[0]
            .batches
            .iter()
            .map(|(number, _)| *number)
            .collect();
        assert_eq!(numbers.len(), 50);
        let wal = core.wal().unwrap();
        let kept = core.buffer.take_unflushed(id, &numbers);
        let rows = kept.into_iter().map(|kept| {
            let row = kept.read(&wal, id).unwrap();
            let producer = row
                .producer
                .map(|producer| (producer.id, producer.sequence));
            (
                row.sequence,
                row.batch,
                producer,
                row.bytes,
                row.stamp_nanos,
            )
        });
        rows.collect::<Vec<_>>()
    };
    let before = all();
    assert!(core.buffer.spill(0));
    assert_eq!(core.buffer.held().unflushed_bytes, 0);
    assert_eq!(all(), before);
    world.store.refuse_puts(false);
    ingest.flush().await.unwrap();
    assert_eq!(core.buffer.held().spilled_bytes, 0);
    let newest = keyed_stored(&world.query(&ingest, &readings()).await);
    let expected = (0..=50).map(|n| match n {
        50 => (50, 7, 100),
        n => (n, n, 2 * n + 1),
    });
    assert_eq!(newest, expected.collect::<Vec<_>>());
    drop((table, ingest));
    // The catalog knows how far the producer got.
    let ingest = world.open().await;
    let (batch, producer) = of(1, 50);
    let table = keyed_stream(&ingest).await;
    let ack = table.write(batch, None, producer).await.unwrap();
    assert!(ack.duplicate);
}

/// A query that began before the flush reads what it found, however long it takes.
#[tokio::test]
async fn a_segment_stays_while_a_reader_may_read_it() {
    let world = without_store().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    ingest.flush().await.unwrap();
    write(&table, [-1]).await.unwrap();
    ingest.flush().await.unwrap_err();
    write_much(&table, 0).await;
    let id = table.table().id;
    let mut reader = ingest.recent(id, SequenceNumber(0)).unwrap();
    let in_memory = reader.next().await.unwrap().unwrap();
    assert!(!in_memory.from_log);
    let first = reader.next().await.unwrap().unwrap();
    assert!(first.from_log);
    let segments = ingest.statistics().wal_segments;
    world.store.refuse_puts(false);
    ingest.flush().await.unwrap();
    assert_eq!(ingest.statistics().wal_segments, segments, "they are read");
    ingest.recent(id, SequenceNumber(0)).unwrap_err();
    let mut pieces = vec![in_memory, first];
    while let Some(piece) = reader.next().await.unwrap() {
        pieces.push(piece);
    }
    let batches = pieces.iter().flat_map(|piece| &piece.rows);
    let rows = batches.map(|(_, batch)| batch.num_rows());
    assert_eq!(rows.sum::<usize>(), 250_001);
    drop(reader);
    ingest.flush().await.unwrap();
    assert!(ingest.statistics().wal_segments <= 2);
}

/// The answer is never short, and a flush does not go on without the rows.
#[tokio::test]
async fn damage_of_the_log_fails_queries_and_flushes_of_the_table_and_of_no_other() {
    let world = without_store().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    let other_name = TableName::public("demo", "other");
    let other = writer(&ingest, &other_name).await;
    write(&table, 0..1000).await.unwrap();
    ingest.flush().await.unwrap_err();
    let core = ingest.core_for_tests();
    assert!(core.buffer.spill(0));
    write(&other, 0..10).await.unwrap();
    let segment = std::fs::read_dir(world.wal_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let segment = segment
        .filter(|path| path.extension().is_some_and(|kind| kind == "wal"))
        .min()
        .unwrap();
    let whole = std::fs::read(&segment).unwrap();
    let mut damaged = whole.clone();
    damaged[4000] ^= 1;
    std::fs::write(&segment, &damaged).unwrap();
    let id = table.table().id;
    let mut reader = ingest.recent(id, SequenceNumber(0)).unwrap();
    let error = reader.next().await.unwrap_err();
    assert_eq!(error.category(), "read_log");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("is damaged at offset"), "{cause}");
    world.store.refuse_puts(false);
    assert_eq!(ingest.flush().await.unwrap_err().category(), "read_log");
    assert_eq!(world.files(&readings()).await.len(), 0);
    assert_eq!(world.files(&other_name).await.len(), 1);
    std::fs::write(&segment, &whole).unwrap();
    ingest.flush().await.unwrap();
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..1000).collect::<Vec<_>>()
    );
}

/// After an outage there may be a whole log to flush: others need not wait for all of it.
#[tokio::test]
async fn the_flusher_takes_a_limited_part_at_a_time() {
    let world = without_store().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    let other_name = TableName::public("demo", "other");
    let other = writer(&ingest, &other_name).await;
    write(&table, [-1]).await.unwrap();
    ingest.flush().await.unwrap_err();
    write_much(&table, 0).await;
    write(&other, 0..10).await.unwrap();
    world.store.refuse_puts(false);
    let core = ingest.core_for_tests();
    assert!(core.flush_some(Scope::All).await.unwrap(), "there is more");
    assert_eq!(ingest.statistics().last_error, None);
    assert!(ingest.statistics().spilled_bytes > 1_000_000);
    assert_eq!(
        world.files(&other_name).await.len(),
        0,
        "the oldest go first"
    );
    let epoch = ingest.ingester().epoch;
    ingest.flush_table(epoch, other.table().id).await.unwrap();
    assert_eq!(world.files(&other_name).await.len(), 1);
    assert!(ingest.statistics().spilled_bytes > 1_000_000);
    while core.flush_some(Scope::All).await.unwrap() {}
    assert_eq!(ingest.statistics().buffered_rows, 0);
}

/// A client that reads slowly, or not at all.
#[tokio::test]
async fn a_reader_that_nobody_looks_after_holds_up_no_other() {
    let world = without_store().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    write(&table, [-1]).await.unwrap();
    ingest.flush().await.unwrap_err();
    write_much(&table, 0).await;
    let id = table.table().id;
    // Each takes all the memory there is for that.
    let mut readers: Vec<_> = (0..3)
        .map(|_| ingest.recent(id, SequenceNumber(0)).unwrap())
        .collect();
    for reader in &mut readers {
        reader.next().await.unwrap();
    }
    let mut reads = readers.iter_mut().map(|reader| Box::pin(reader.next()));
    let (mut first, mut second) = (reads.next().unwrap(), reads.next().unwrap());
    assert!((&mut first).now_or_never().is_none());
    assert!((&mut second).now_or_never().is_none());
    assert!(reads.next().unwrap().await.unwrap().unwrap().from_log);
    drop((first, second));
}
