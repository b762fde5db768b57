//! Deletion and orphans.

use std::sync::atomic::Ordering;

use super::*;
use crate::Orphans;

#[tokio::test]
async fn an_object_stays_for_the_grace_and_goes_after_it() {
    let mut world = World::new().await;
    world.config.gc_grace = Duration::from_secs(3600);
    world.flushes(4).await;
    world.upkeep().compact(&never()).await.unwrap();
    assert_eq!(world.upkeep().collect_garbage(&never()).await.unwrap(), 0);
    assert_eq!(world.objects().await.len(), 5);
    assert_eq!(world.counts.waiting.load(Ordering::Relaxed), 4);
    world.config.gc_grace = Duration::ZERO;
    assert_eq!(world.upkeep().collect_garbage(&never()).await.unwrap(), 4);
    assert_eq!(world.objects().await.len(), 1);
    assert_eq!(world.check_rows().await, 1);
    assert_eq!(world.counts.waiting.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn an_object_that_can_not_be_deleted_is_tried_again_and_keeps_nobody_waiting() {
    let mut world = World::new().await;
    world.flushes(4).await;
    world.upkeep().compact(&never()).await.unwrap();
    *world.store.stuck.lock() = Some("flush-2".to_owned());
    let error = world.upkeep().collect_garbage(&never()).await.unwrap_err();
    assert!(error.to_string().contains("flush-2"), "{error}");
    assert_eq!(world.objects().await.len(), 2);
    assert_eq!(world.counts.delete_failures.load(Ordering::Relaxed), 1);
    *world.store.stuck.lock() = None;
    assert_eq!(world.upkeep().collect_garbage(&never()).await.unwrap(), 1);
    assert_eq!(world.objects().await.len(), 1);
}

#[tokio::test]
async fn an_object_that_is_gone_already_counts_as_deleted() {
    let mut world = World::new().await;
    world.flushes(4).await;
    world.upkeep().compact(&never()).await.unwrap();
    let path = format!("default/{}/flush-1.parquet", world.table.id);
    world
        .objects
        .delete(&Path::parse(path).unwrap())
        .await
        .unwrap();
    assert_eq!(world.upkeep().collect_garbage(&never()).await.unwrap(), 4);
    assert_eq!(world.catalog.garbage_queue().await.unwrap().objects, 0);
}

/// Puts an object nobody knows.
async fn put(world: &World, path: &str) {
    let path = Path::parse(path).unwrap();
    world.objects.put(&path, "lost".into()).await.unwrap();
}

#[tokio::test]
async fn orphans_are_reported_and_stay() {
    let mut world = World::new().await;
    world.flushes(4).await;
    world.upkeep().compact(&never()).await.unwrap();
    put(&world, "default/1/lost.parquet").await;
    // What others keep in the store is none of our business.
    put(&world, "backup/catalog/1.sqlite").await;
    put(&world, "default/1/lost.txt").await;
    put(&world, "notes.parquet").await;
    let found = world.upkeep().scan_orphans(&never()).await.unwrap();
    let expected = Orphans {
        objects: 1,
        bytes: 4,
        condemned: 0,
    };
    assert_eq!(found, Some(expected));
    assert_eq!(world.counts.orphans.load(Ordering::Relaxed), 1);
    world.upkeep().collect_garbage(&never()).await.unwrap();
    assert_eq!(world.objects().await.len(), 5);
}

#[tokio::test]
async fn young_objects_are_no_orphans() {
    let mut world = World::new().await;
    world.config.orphan_grace = Duration::from_secs(3600);
    put(&world, "default/1/young.parquet").await;
    let found = world.upkeep().scan_orphans(&never()).await.unwrap();
    assert_eq!(found, Some(Orphans::default()));
}

#[tokio::test]
async fn orphans_are_deleted_when_a_setting_says_so_and_never_become_files() {
    let mut world = World::new().await;
    world.config.delete_orphans = true;
    world.flushes(2).await;
    put(&world, "default/1/lost.parquet").await;
    let found = world
        .upkeep()
        .scan_orphans(&never())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((found.objects, found.condemned), (1, 1));
    let late = FlushCommit {
        ingester: world.ingester.id,
        seen: None,
        durable: SequenceNumber(0),
        epoch: world.ingester.epoch,
        files: vec![NewFile {
            table: world.table.id,
            path: "default/1/lost.parquet".to_owned(),
            size_bytes: 4,
            rows: 1,
            schema_version: world.table.schema_version,
            first_sequence: SequenceNumber(9),
            last_sequence: SequenceNumber(9),
            time_range_nanos: None,
            sorted: false,
        }],
        watermarks: Vec::new(),
        producers: Vec::new(),
        valid_until_millis: None,
        without_files: vec![],
    };
    world.catalog.commit_flush(late).await.unwrap_err();
    assert_eq!(world.upkeep().collect_garbage(&never()).await.unwrap(), 1);
    assert_eq!(world.objects().await.len(), 2);
    assert_eq!(world.check_rows().await, 2);
}
