//! Back-pressure and what happens when the log can't take more.

use super::*;

#[tokio::test]
async fn too_much_that_can_not_be_flushed_is_refused_with_a_delay() {
    let mut world = World::new().await;
    world.config.buffer_bytes = ByteSize(2000);
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    world.store.refuse_puts(true);
    write(&table, 0..200).await.unwrap();
    let error = write(&table, 0..200).await.unwrap_err();
    assert_eq!(
        (error.category(), error.fault()),
        ("overloaded", Fault::Unavailable)
    );
    assert!(error.retry_after().is_some());
    assert!(error.to_string().contains("limit 2000"), "{error}");
    assert_eq!(ingest.statistics().buffered_rows, 200);
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
