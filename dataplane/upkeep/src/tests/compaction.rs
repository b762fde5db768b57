//! Compaction: files level off, rows stay, whoever comes second gives up.

use std::sync::atomic::Ordering;

use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{JobKind, Lease};
use tokio::sync::Notify;

use super::*;
use crate::Compacted;

#[tokio::test]
async fn under_a_steady_stream_of_flushes_files_level_off_and_every_row_is_there_once() {
    let mut world = World::new().await;
    let upkeep = world.upkeep();
    let (mut most_files, mut most_objects) = (0, 0);
    for _ in 0..150 {
        world.flushes(3).await;
        upkeep.compact(&never()).await.unwrap();
        upkeep.collect_garbage(&never()).await.unwrap();
        most_files = most_files.max(world.check_rows().await);
        most_objects = most_objects.max(world.objects().await.len());
    }
    assert!(most_files < 4, "{most_files} live files");
    assert!(most_objects < 4, "{most_objects} objects");
    let listed = world
        .catalog
        .list_replacements("default", 500)
        .await
        .unwrap();
    assert!(listed.len() > 100);
    assert!(
        listed
            .iter()
            .all(|each| each.input_rows == each.output_rows)
    );
}

#[tokio::test]
async fn a_few_files_are_left_alone() {
    let mut world = World::new().await;
    world.flushes(3).await;
    let compacted = world.upkeep().compact(&never()).await.unwrap();
    assert_eq!(compacted, Compacted::default());
    assert_eq!(world.check_rows().await, 3);
}

#[tokio::test]
async fn a_table_another_process_works_on_is_left_to_it() {
    let mut world = World::new().await;
    world.flushes(9).await;
    let lease = Lease {
        job: JobKind::Rewrite,
        table: Some(world.table.id),
        holder: "another".to_owned(),
        time: Duration::from_secs(60),
    };
    assert!(world.catalog.lease(lease).await.unwrap());
    let compacted = world.upkeep().compact(&never()).await.unwrap();
    assert_eq!(compacted.groups, 0);
    assert_eq!(world.check_rows().await, 9);
}

/// Holds a compaction between its rewrite and its commit, and does `meanwhile`.
pub(super) async fn held_compaction(world: &World, meanwhile: impl AsyncFnOnce()) -> Compacted {
    let goes_on = Arc::new(Notify::new());
    *world.rewriter.held.lock() = Some(Arc::clone(&goes_on));
    let upkeep = world.upkeep();
    let compaction = tokio::spawn(async move { upkeep.compact(&never()).await });
    world.rewriter.waits.notified().await;
    *world.rewriter.held.lock() = None;
    meanwhile().await;
    goes_on.notify_one();
    compaction.await.unwrap().unwrap()
}

#[tokio::test]
async fn a_compaction_that_was_overtaken_gives_up_and_leaves_nothing() {
    let mut world = World::new().await;
    world.flushes(6).await;
    world.config.lease = Duration::from_millis(1);
    // It stands still until its lease has run out: somebody else takes the table and is faster.
    let compacted = held_compaction(&world, async || {
        let other = world.upkeep_of("b", &world.catalog);
        let taken_up = async { while other.compact(&never()).await.unwrap().groups == 0 {} };
        let patience = Duration::from_secs(60);
        tokio::time::timeout(patience, taken_up).await.unwrap();
    })
    .await;
    assert_eq!((compacted.groups, compacted.lost), (0, 1));
    assert_eq!(world.counts.lost.load(Ordering::Relaxed), 1);
    assert_eq!(world.check_rows().await, 1);
    let left = world.objects().await;
    let outputs = left.iter().filter(|path| path.contains("compacted"));
    assert_eq!(outputs.count(), 1, "{left:?}");
}

/// A process that slept between storing a file and committing it: the object may be gone since.
#[tokio::test]
async fn a_compaction_that_slept_too_long_gives_up_and_the_next_one_works() {
    let mut world = World::new().await;
    world.flushes(6).await;
    let day = std::mem::take(&mut world.commit_within);
    let compacted = held_compaction(&world, async || {
        let began = world.catalog.time().await.unwrap().millis;
        while world.catalog.time().await.unwrap().millis <= began {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((compacted.groups, compacted.lost), (0, 1));
    assert_eq!(world.check_rows().await, 6);
    assert_eq!(world.objects().await.len(), 6);
    world.commit_within = day;
    assert_eq!(world.upkeep().compact(&never()).await.unwrap().groups, 1);
    assert_eq!(world.check_rows().await, 1);
}

#[tokio::test]
async fn a_table_that_is_dropped_during_its_compaction_stays_dropped() {
    let mut world = World::new().await;
    world.flushes(6).await;
    let compacted = held_compaction(&world, async || {
        world
            .catalog
            .drop_table(&world.table.name, false, None)
            .await
            .unwrap();
    })
    .await;
    assert_eq!((compacted.groups, compacted.lost), (0, 1));
    world.upkeep().collect_garbage(&never()).await.unwrap();
    assert!(world.objects().await.is_empty());
}

#[tokio::test]
async fn flushes_during_a_compaction_are_kept() {
    let mut world = World::new().await;
    world.flushes(6).await;
    let goes_on = Arc::new(Notify::new());
    *world.rewriter.held.lock() = Some(Arc::clone(&goes_on));
    let upkeep = world.upkeep();
    let compaction = tokio::spawn(async move { upkeep.compact(&never()).await });
    world.rewriter.waits.notified().await;
    *world.rewriter.held.lock() = None;
    world.flushes(2).await;
    goes_on.notify_one();
    compaction.await.unwrap().unwrap();
    assert_eq!(world.check_rows().await, 3);
}

#[tokio::test]
async fn told_to_stop_a_compaction_takes_back_what_it_wrote() {
    let mut world = World::new().await;
    world.flushes(6).await;
    *world.rewriter.held.lock() = Some(Arc::default());
    let (upkeep, stop) = (world.upkeep(), CancellationToken::new());
    let stopped = stop.clone();
    let compaction = tokio::spawn(async move { upkeep.compact(&stopped).await });
    world.rewriter.waits.notified().await;
    stop.cancel();
    assert_eq!(compaction.await.unwrap().unwrap(), Compacted::default());
    assert_eq!(world.check_rows().await, 6);
    assert_eq!(world.objects().await.len(), 6);
}

#[tokio::test]
async fn a_rewrite_that_fails_changes_nothing_and_is_tried_again() {
    let mut world = World::new().await;
    world.flushes(6).await;
    world.rewriter.broken.store(true, Ordering::Relaxed);
    let error = world.upkeep().compact(&never()).await.unwrap_err();
    assert_eq!(error.category(), "rewrite");
    assert_eq!(world.check_rows().await, 6);
    world.rewriter.broken.store(false, Ordering::Relaxed);
    world.upkeep().compact(&never()).await.unwrap();
    assert_eq!(world.check_rows().await, 1);
}

#[tokio::test]
async fn killed_between_rewrite_and_commit_nothing_is_lost_and_the_output_is_an_orphan() {
    let mut world = World::new().await;
    world.flushes(6).await;
    *world.rewriter.held.lock() = Some(Arc::default());
    let upkeep = world.upkeep();
    let compaction = tokio::spawn(async move { upkeep.compact(&never()).await });
    world.rewriter.waits.notified().await;
    // What a killed process does: nothing any more. Its lease is still there.
    compaction.abort();
    assert!(compaction.await.unwrap_err().is_cancelled());
    *world.rewriter.held.lock() = None;
    assert_eq!(world.check_rows().await, 6);
    let next = world.upkeep_of("b", &world.catalog);
    assert_eq!(next.compact(&never()).await.unwrap().groups, 0);
    let orphans = next.scan_orphans(&never()).await.unwrap().unwrap();
    assert_eq!(orphans.objects, 1);
    // Its next life takes the work up.
    world.upkeep().compact(&never()).await.unwrap();
    assert_eq!(world.check_rows().await, 1);
}

#[tokio::test]
async fn a_closed_catalog_leaves_the_files_as_they_are() {
    let mut world = World::new().await;
    world.flushes(6).await;
    let folder = TempDir::new().unwrap();
    let closed = SqlCatalog::open_sqlite(&folder.path().join("c.sqlite"))
        .await
        .unwrap();
    closed.close().await;
    let closed: Arc<dyn Catalog> = Arc::new(closed);
    let upkeep = world.upkeep_of("a", &closed);
    for error in [
        upkeep.compact(&never()).await.unwrap_err(),
        upkeep.collect_garbage(&never()).await.unwrap_err(),
        upkeep.scan_orphans(&never()).await.unwrap_err(),
        upkeep.forget_history().await.unwrap_err(),
    ] {
        assert_eq!(error.category(), "catalog");
    }
    assert_eq!(world.objects().await.len(), 6);
}

#[tokio::test]
async fn rounds_go_on_after_failures_and_end_when_told() {
    let mut world = World::new().await;
    world.config.interval = Duration::from_millis(10);
    world.flushes(6).await;
    world.rewriter.broken.store(true, Ordering::Relaxed);
    let (upkeep, stop) = (world.upkeep(), CancellationToken::new());
    let stopped = stop.clone();
    let rounds = tokio::spawn(async move { upkeep.run(stopped).await });
    while world.counts.failed.lock().len() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(
        world
            .counts
            .failed
            .lock()
            .iter()
            .all(|job| *job == "compaction")
    );
    world.rewriter.broken.store(false, Ordering::Relaxed);
    while world.rows().await.1 > 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.check_rows().await;
    stop.cancel();
    rounds.await.unwrap();
}
