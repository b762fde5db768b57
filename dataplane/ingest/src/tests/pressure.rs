//! Back-pressure and what happens when the log can't take more.

use super::*;

#[tokio::test]
async fn too_many_messages_that_are_on_their_way_are_refused_with_a_delay() {
    let mut world = World::new().await;
    world.config.buffer_bytes = ByteSize(2000);
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    world.store.refuse_puts(true);
    write(&table, 0..200).await.unwrap();
    // It has no rows that could leave memory.
    let on_its_way = ingest.room(0, 2000).await.unwrap();
    let error = write(&table, 0..200).await.unwrap_err();
    assert_eq!(
        (error.category(), error.fault()),
        ("overloaded", Fault::Unavailable)
    );
    assert!(error.retry_after().is_some());
    assert!(error.to_string().contains("limit 2000"), "{error}");
    assert_eq!(ingest.statistics().buffered_rows, 200);
    drop(on_its_way);
    write(&table, 200..400).await.unwrap();
}

#[tokio::test]
async fn a_write_waits_for_the_flusher_to_make_room() {
    let mut world = World::new().await;
    world.config.buffer_bytes = ByteSize(4000);
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    for n in 0..40 {
        write(&table, n * 100..(n + 1) * 100).await.unwrap();
    }
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..4000).collect::<Vec<_>>()
    );
    let figures = ingest.statistics();
    assert!(figures.flushes > 0);
    assert!(figures.buffered_bytes + figures.retained_bytes <= 4000 + 2000);
}

#[tokio::test]
async fn reservations_are_given_back() {
    let mut world = World::new().await;
    world.config.buffer_bytes = ByteSize(2000);
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    for n in 0..50 {
        // Dropped before it is finished: it may or may not be stored.
        let mut dropped = Box::pin(write(&table, [n]));
        let _ = futures::poll!(dropped.as_mut());
        drop(dropped);
    }
    ingest.drain().await.unwrap();
    assert_eq!(ingest.core_for_tests().buffer.reserve(2000), Ok(()));
}

#[tokio::test]
async fn a_log_that_fails_ends_the_ingester() {
    let mut world = World::new().await;
    world.config.wal_segment_bytes = ByteSize(100);
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    write(&table, [1]).await.unwrap();
    // The next segment can't be created.
    std::fs::remove_dir_all(world.wal_dir()).unwrap();
    let error = write(&table, [2]).await.unwrap_err();
    assert_eq!(
        (error.category(), error.fault()),
        ("wal", Fault::Unavailable)
    );
    assert_eq!(ingest.fatal().await.category(), "wal");
    assert_eq!(
        write(&table, [3]).await.unwrap_err().category(),
        "out_of_service"
    );
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        [1],
        "what was acknowledged is visible"
    );
}

/// An ingester with room for 20,000 bytes and a row in it, while nothing can be flushed.
async fn small_world() -> (World, Arc<Ingest>) {
    let mut world = World::new().await;
    world.config.buffer_bytes = ByteSize(20_000);
    world.store.refuse_puts(true);
    let ingest = world.open().await;
    // A flush has failed: who needs room is told soon that there is none.
    let table = writer(&ingest, &readings()).await;
    write(&table, [0]).await.unwrap();
    ingest.flush().await.unwrap_err();
    (world, ingest)
}

#[tokio::test]
async fn messages_that_are_not_decoded_yet_fill_the_buffer() {
    let (_world, ingest) = small_world().await;
    let first = ingest.room(0, 15_000).await.unwrap();
    let error = ingest.room(0, 15_000).await.unwrap_err();
    assert_eq!(
        (error.category(), error.fault()),
        ("overloaded", Fault::Unavailable)
    );
    assert!(error.retry_after().is_some());
    drop(first);
    ingest.room(0, 15_000).await.unwrap();
}

#[tokio::test]
async fn a_batch_takes_the_room_of_its_message_and_gives_it_back() {
    let (_world, ingest) = small_world().await;
    let table = writer(&ingest, &readings()).await;
    for n in 0..10 {
        let room = ingest.room(0, 15_000).await.unwrap();
        table
            .write_in(room, numbers([n]), None, None)
            .await
            .unwrap();
    }
    // More than its message said: it waits for the rest, and is refused when there is none.
    let other = ingest.room(0, 9000).await.unwrap();
    let mut room = ingest.room(0, 100).await.unwrap();
    room.needs(15_000);
    let refused = table.write_in(room, numbers([11]), None, None).await;
    assert_eq!(refused.unwrap_err().category(), "overloaded");
    drop(other);
    let mut room = ingest.room(0, 100).await.unwrap();
    room.needs(15_000);
    table
        .write_in(room, numbers([11]), None, None)
        .await
        .unwrap();
}

#[tokio::test]
async fn rooms_join_and_shrink() {
    let (_world, ingest) = small_world().await;
    let mut kept = ingest.room(0, 9000).await.unwrap();
    kept.absorb(ingest.room(0, 9000).await.unwrap());
    ingest.room(0, 9000).await.unwrap_err();
    // Beside its own, an upload is alone here: the row left memory for the one before it.
    let core = ingest.core_for_tests();
    assert_eq!(core.buffer.held().unflushed_bytes, 0);
    ingest.room(17_999, 9000).await.unwrap_err();
    drop(ingest.room(18_000, 9000).await.unwrap());
    kept.shrink_to(5000);
    let other = ingest.room(0, 9000).await.unwrap();
    drop((kept, other));
    assert_eq!(core.buffer.reserve(19_000), Ok(()));
}

#[test]
fn flushed_rows_give_way_to_writes() {
    let (now, grace) = (std::time::Instant::now(), Duration::from_secs(60));
    let buffer = Arc::new(crate::buffer::Buffer::new(1000, grace));
    for sequence in 1..=3 {
        let row = crate::buffer::Row {
            sequence: SequenceNumber(sequence),
            batch: numbers([sequence as i64]),
            bytes: 300,
            stamp_nanos: 0,
            since: now,
            producer: None,
            logged: None,
        };
        buffer.push(TableId(1), row);
    }
    buffer.mark_flushed(TableId(1), SequenceNumber(3), now);
    assert_eq!(buffer.held().retained_bytes, 900);
    assert_eq!(buffer.reserve(500), Ok(()));
    assert_eq!(buffer.held().retained_bytes, 300, "the oldest went");
    buffer.recent(TableId(1), SequenceNumber(1)).unwrap_err();
    assert_eq!(
        buffer
            .recent(TableId(1), SequenceNumber(2))
            .unwrap()
            .memory
            .len(),
        1
    );
}
