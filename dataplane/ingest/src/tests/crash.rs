//! Crashes and failures at every step: nothing is lost, nothing is doubled.

use futures::TryStreamExt as _;

use super::faults::Fault;
use super::*;

async fn objects(world: &World) -> usize {
    world
        .store
        .list(None)
        .try_collect::<Vec<_>>()
        .await
        .unwrap()
        .len()
}

#[tokio::test]
async fn a_restart_brings_back_what_is_in_no_file() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..3).await.unwrap();
    ingest.flush().await.unwrap();
    write(&writer, 3..6).await.unwrap();
    drop((writer, ingest));

    let ingest = world.open().await;
    let id = world.catalog.table(&readings()).await.unwrap().unwrap().id;
    let recent = ingest
        .recent(id, SequenceNumber(1))
        .unwrap()
        .read_all()
        .unwrap();
    assert_eq!(recent, [(SequenceNumber(2), numbers(3..6))]);
    let too_old = ingest.recent(id, SequenceNumber(0)).unwrap_err();
    assert_eq!(
        too_old.held_after,
        SequenceNumber(1),
        "flushed rows are not replayed"
    );
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..6).collect::<Vec<_>>()
    );
    let ack = write(&super::writer(&ingest, &readings()).await, [6])
        .await
        .unwrap();
    assert_eq!(ack.sequence, SequenceNumber(3), "numbers go on");
    ingest.flush().await.unwrap();
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..7).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_crash_between_object_and_commit_loses_and_doubles_nothing() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..4).await.unwrap();
    world.catalog.fail_commit(Fault::Request);
    let error = ingest.flush().await.unwrap_err();
    assert_eq!(error.fault(), crate::Fault::Unavailable);
    assert_eq!(objects(&world).await, 1);
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        [0, 1, 2, 3],
        "still visible"
    );
    drop((writer, ingest));

    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3]);
    ingest.flush().await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3]);
    assert_eq!(
        (objects(&world).await, world.files(&readings()).await.len()),
        (2, 1)
    );
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_repeated_with_the_same_files() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..4).await.unwrap();
    world.catalog.fail_commit(Fault::Answer);
    ingest.flush().await.unwrap_err();
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3]);
    assert_eq!(
        ingest.statistics().buffered_rows,
        4,
        "not known to be flushed"
    );
    write(&writer, 4..6).await.unwrap();
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        [0, 1, 2, 3, 4, 5]
    );

    ingest.flush().await.unwrap();
    let commits = world.catalog.commit_log.lock().clone();
    assert_eq!(commits[0], commits[1], "the very same commit again");
    assert_eq!(commits.len(), 3);
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        [0, 1, 2, 3, 4, 5]
    );
    assert_eq!(objects(&world).await, 2);
}

#[tokio::test]
async fn a_crash_after_a_commit_whose_answer_was_lost_doubles_nothing() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..4).await.unwrap();
    world.catalog.fail_commit(Fault::Answer);
    ingest.flush().await.unwrap_err();
    write(&writer, 4..6).await.unwrap();
    drop((writer, ingest));

    let ingest = world.open().await;
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        [0, 1, 2, 3, 4, 5]
    );
    ingest.flush().await.unwrap();
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        [0, 1, 2, 3, 4, 5]
    );
}

#[tokio::test]
async fn a_flush_that_is_dropped_in_the_middle_is_taken_up() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..4).await.unwrap();
    // Let it run for a while, a little longer each time, and drop it.
    for polls in 0..40 {
        let mut flush = Box::pin(ingest.flush());
        for _ in 0..polls {
            if futures::poll!(flush.as_mut()).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(flush);
        assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3]);
    }
    ingest.flush().await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3]);
    assert_eq!(world.files(&readings()).await.len(), 1);
}

#[tokio::test]
async fn an_object_store_that_refuses_keeps_rows_in_memory() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..4).await.unwrap();
    world.store.refuse_puts(true);
    let error = ingest.flush().await.unwrap_err();
    assert_eq!(error.category(), "store");
    let figures = ingest.statistics();
    assert_eq!((figures.flush_failures, figures.buffered_rows), (1, 4));
    assert!(figures.last_error.unwrap().contains("refused"));
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3]);
    world.store.refuse_puts(false);
    ingest.flush().await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3]);
    assert_eq!(ingest.statistics().last_error, None);
}

#[tokio::test]
async fn a_table_that_can_not_be_encoded_does_not_hold_up_others() {
    let world = World::new().await;
    let ingest = world.open().await;
    let other = TableName::public("demo", "other");
    let (bad, good) = (
        writer(&ingest, &readings()).await,
        writer(&ingest, &other).await,
    );
    write(&bad, [1]).await.unwrap();
    write(&good, [2]).await.unwrap();
    world.catalog.spoil(Some(bad.table().id));
    ingest.flush().await.unwrap_err();
    assert_eq!(world.files(&other).await.len(), 1);
    assert_eq!(world.files(&readings()).await.len(), 0);
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
    drop((bad, good, ingest));

    let ingest = world.open().await;
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        [1],
        "the log still has it"
    );
    world.catalog.spoil(None);
    ingest.flush().await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
    assert_eq!(world.numbers(&ingest, &other).await, [2]);
}

#[tokio::test]
async fn the_log_is_truncated_only_after_the_commit() {
    let mut world = World::new().await;
    world.config.wal_segment_bytes = ByteSize(400);
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    for n in 0..20 {
        write(&writer, [n]).await.unwrap();
    }
    let segments = ingest.statistics().wal_segments;
    assert!(segments > 5);
    world.catalog.fail_commit(Fault::Answer);
    ingest.flush().await.unwrap_err();
    assert_eq!(ingest.statistics().wal_segments, segments);
    ingest.flush().await.unwrap();
    assert_eq!(ingest.statistics().wal_segments, 1);
}

#[tokio::test]
async fn a_table_that_is_not_flushed_keeps_its_part_of_the_log() {
    let mut world = World::new().await;
    world.config.wal_segment_bytes = ByteSize(400);
    let ingest = world.open().await;
    let other = TableName::public("demo", "other");
    let (kept, flushed) = (
        writer(&ingest, &readings()).await,
        writer(&ingest, &other).await,
    );
    write(&kept, [1]).await.unwrap();
    for n in 0..20 {
        write(&flushed, [n]).await.unwrap();
    }
    world.catalog.spoil(Some(kept.table().id));
    ingest.flush().await.unwrap_err();
    drop((kept, flushed, ingest));
    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
    assert_eq!(
        world.numbers(&ingest, &other).await,
        (0..20).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn rows_of_a_dropped_table_are_forgotten_at_the_flush() {
    let world = World::new().await;
    let ingest = world.open().await;
    let other = TableName::public("demo", "other");
    let (dropped, kept) = (
        writer(&ingest, &readings()).await,
        writer(&ingest, &other).await,
    );
    write(&dropped, [1]).await.unwrap();
    write(&kept, [2]).await.unwrap();
    let id = dropped.table().id;
    world
        .catalog
        .drop_table(&readings(), false, None)
        .await
        .unwrap();
    drop((dropped, kept, ingest));

    let ingest = world.open().await;
    ingest.flush().await.unwrap();
    assert_eq!(ingest.statistics().buffered_rows, 0);
    assert_eq!(world.numbers(&ingest, &other).await, [2]);
    let too_old = ingest.recent(id, SequenceNumber(0)).unwrap_err();
    assert_eq!(
        too_old.table, id,
        "a query planned before the drop must plan again"
    );
    let again = writer(&ingest, &readings()).await;
    assert_ne!(again.table().id, id);
    write(&again, [3]).await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [3]);
}

#[tokio::test]
async fn a_fenced_ingester_stops() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, [1]).await.unwrap();
    let fatal = {
        let ingest = Arc::clone(&ingest);
        tokio::spawn(async move { ingest.fatal().await })
    };
    // A younger process has the same volume, as after a forced delete of a pod.
    world.begin_younger_life().await;
    let error = ingest.flush().await.unwrap_err();
    assert_eq!(
        (error.category(), error.fault()),
        ("out_of_service", crate::Fault::Unavailable)
    );
    assert_eq!(fatal.await.unwrap().category(), "fenced");
    assert_eq!(
        write(&writer, [2]).await.unwrap_err().category(),
        "out_of_service"
    );
    assert!(ingest.statistics().fatal);
    assert!(ingest.drain().await.is_err());
    assert_eq!(world.files(&readings()).await.len(), 0);
}

#[tokio::test]
async fn a_second_process_on_the_same_log_fences_nobody() {
    let world = World::new().await;
    let ingest = world.open().await;
    let error = Ingest::open(world.options()).await.unwrap_err();
    assert_eq!(error.category(), "open_wal");
    write(&writer(&ingest, &readings()).await, [1])
        .await
        .unwrap();
    ingest.flush().await.unwrap();
}

#[tokio::test]
async fn a_lost_volume_does_not_reuse_numbers_of_rows_in_files() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    for n in 0..5 {
        write(&table, [n]).await.unwrap();
    }
    ingest.flush().await.unwrap();
    drop((table, ingest));
    std::fs::remove_dir_all(world.wal_dir()).unwrap();
    // Everything is in files, but nobody can know.
    Ingest::open(world.options()).await.unwrap_err();
    world
        .catalog
        .retire_ingester("ingester-0", true)
        .await
        .unwrap();

    let ingest = world.open().await;
    let ack = write(&writer(&ingest, &readings()).await, [5])
        .await
        .unwrap();
    assert_eq!(ack.sequence, SequenceNumber(6));
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        (0..6).collect::<Vec<_>>()
    );
}
