//! A log that is missing, exchanged or old, a catalog that went back, and a process that stood still.

use std::path::Path;

use super::disk::TestDisk;
use super::faults::{Fault, FaultyCatalog};
use super::*;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn exchange(world: &World, other: &Path) {
    std::fs::remove_dir_all(world.wal_dir()).unwrap();
    copy(other, &world.wal_dir());
}

/// The error of an open that must fail, and its causes.
async fn refused(world: &World) -> String {
    let error = Ingest::open(world.options()).await.unwrap_err();
    crate::flusher::chain(&error)
}

async fn written(world: &World, values: std::ops::Range<i64>) -> Arc<Ingest> {
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, values).await.unwrap();
    ingest
}

#[tokio::test]
async fn a_missing_or_exchanged_volume_is_refused_and_the_old_one_welcome() {
    let world = World::new().await;
    drop(written(&world, 0..3).await);
    let (kept, foreign) = (world.directory.path().join("kept"), World::new().await);
    copy(&world.wal_dir(), &kept);
    drop(written(&foreign, 7..9).await);

    std::fs::remove_dir_all(world.wal_dir()).unwrap();
    let missing = refused(&world).await;
    assert!(
        missing.contains("the one it wrote to is missing"),
        "{missing}"
    );
    assert!(
        missing.contains("catalog retire ingester-0 --accept-loss"),
        "{missing}"
    );
    let again = refused(&world).await;
    assert_eq!(
        again, missing,
        "the directory made meanwhile changes nothing"
    );
    exchange(&world, &foreign.wal_dir());
    let exchanged = refused(&world).await;
    // It relied on another catalog, which is looked at first.
    assert!(
        exchanged.contains("older than the write-ahead log"),
        "{exchanged}"
    );

    exchange(&world, &kept);
    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2]);
}

#[tokio::test]
async fn segments_removed_by_hand_are_a_missing_log() {
    let world = World::new().await;
    drop(written(&world, 0..3).await);
    for entry in std::fs::read_dir(world.wal_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "wal") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let missing = refused(&world).await;
    assert!(
        missing.contains("the one it wrote to is missing"),
        "{missing}"
    );
}

#[tokio::test]
async fn an_old_copy_of_the_volume_is_refused() {
    let world = World::new().await;
    drop(written(&world, 0..3).await);
    let old = world.directory.path().join("old");
    copy(&world.wal_dir(), &old);
    // A later life, and one that only flushed more.
    drop(written(&world, 3..6).await);
    let newest = world.directory.path().join("newest");
    copy(&world.wal_dir(), &newest);
    exchange(&world, &old);
    let stale = refused(&world).await;
    assert!(
        stale.contains("is an old copy of the one it wrote to"),
        "{stale}"
    );

    exchange(&world, &newest);
    let ingest = world.open().await;
    let during = world.directory.path().join("during");
    copy(&world.wal_dir(), &during);
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 6..9).await.unwrap();
    ingest.flush().await.unwrap();
    drop((writer, ingest));
    exchange(&world, &during);
    let behind = refused(&world).await;
    assert!(behind.contains("the volume is an old copy"), "{behind}");
}

#[tokio::test]
async fn a_damaged_label_is_moved_away_and_every_row_and_guard_is_there() {
    let world = World::new().await;
    drop(written(&world, 0..3).await);
    let old = world.directory.path().join("old");
    copy(&world.wal_dir(), &old);
    drop(written(&world, 3..6).await);
    let label = world.wal_dir().join("label");
    let mut bytes = std::fs::read(&label).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&label, bytes).unwrap();
    let damaged = refused(&world).await;
    assert!(damaged.contains("move this one file away"), "{damaged}");

    std::fs::rename(&label, world.directory.path().join("damaged")).unwrap();
    let ingest = world.open().await;
    let all = world.numbers(&ingest, &readings()).await;
    assert_eq!(all, [0, 1, 2, 3, 4, 5]);
    drop(ingest);

    // A label made anew lets no old copy in.
    exchange(&world, &old);
    std::fs::remove_file(world.wal_dir().join("label")).unwrap();
    let stale = refused(&world).await;
    assert!(
        stale.contains("is an old copy of the one it wrote to"),
        "{stale}"
    );
}

#[tokio::test]
async fn a_drained_ingester_starts_with_a_new_volume() {
    let world = World::new().await;
    let ingest = written(&world, 0..3).await;
    ingest.drain().await.unwrap();
    drop(ingest);
    std::fs::remove_dir_all(world.wal_dir()).unwrap();
    let ingest = written(&world, 3..5).await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3, 4]);
    ingest.flush().await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn a_start_that_was_cut_short_at_any_step_is_repeated() {
    let world = World::new().await;
    // The log is made, the catalog does not know it.
    world.catalog.fail_registration(Fault::Request);
    Ingest::open(world.options()).await.unwrap_err();
    // The catalog knows it, the log does not know that.
    world.catalog.fail_registration(Fault::Answer);
    Ingest::open(world.options()).await.unwrap_err();
    // Nothing was acknowledged: it may even be another one.
    std::fs::remove_dir_all(world.wal_dir()).unwrap();
    world.catalog.set_away(true);
    Ingest::open(world.options()).await.unwrap_err();
    world.catalog.set_away(false);
    drop(written(&world, 0..3).await);
    world.catalog.fail_registration(Fault::Answer);
    Ingest::open(world.options()).await.unwrap_err();
    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2]);
}

/// A copy of the catalog as it is now, as a backup is.
async fn backup(world: &World, name: &str) -> Arc<SqlCatalog> {
    let target = world.directory.path().join(name);
    std::fs::create_dir(&target).unwrap();
    for file in ["catalog.sqlite", "catalog.sqlite-wal"] {
        std::fs::copy(world.directory.path().join(file), target.join(file)).unwrap();
    }
    Arc::new(
        SqlCatalog::open_sqlite(&target.join("catalog.sqlite"))
            .await
            .unwrap(),
    )
}

#[tokio::test]
async fn a_catalog_that_went_back_is_refused_at_the_start() {
    let mut world = World::new().await;
    let ingest = written(&world, 0..3).await;
    let old = backup(&world, "backup").await;
    ingest.flush().await.unwrap();
    drop(ingest);
    // Others go on with the restored one and reach the same numbers.
    for n in 0..20 {
        old.create_database(&format!("d{n}"), false).await.unwrap();
    }
    world.catalog = Arc::new(FaultyCatalog::new(old));
    let back = refused(&world).await;
    assert!(back.contains("older than the write-ahead log"), "{back}");
    assert!(back.contains("restored from a backup"), "{back}");

    // Its operator accepts it: what the log still has comes back.
    world.catalog.readmit_ingester("ingester-0").await.unwrap();
    drop(world.open().await);
    // From then on the log relies on this catalog: it is asked for nothing any more.
    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_catalog_that_went_back_under_a_running_ingester_takes_no_flush() {
    let mut world = World::new().await;
    drop(written(&world, 0..3).await);
    let old = backup(&world, "backup").await;
    let sqlite = Arc::clone(&world.catalog);
    let ingest = written(&world, 3..6).await;
    ingest.flush().await.unwrap();
    drop(ingest);
    world.catalog = Arc::new(FaultyCatalog::new(old));
    assert!(
        refused(&world)
            .await
            .contains("older than the write-ahead log")
    );
    world.catalog = sqlite;
    let ingest = world.open().await;
    assert_eq!(
        world.numbers(&ingest, &readings()).await,
        [0, 1, 2, 3, 4, 5]
    );
}

#[tokio::test]
async fn the_log_knows_the_catalog_that_has_a_table_before_its_rows_are_acknowledged() {
    let mut world = World::new().await;
    let old = backup(&world, "backup").await;
    drop(written(&world, 0..3).await);
    // In the restored catalog the number of the table belongs to another one.
    old.create_database("demo", false).await.unwrap();
    world.catalog = Arc::new(FaultyCatalog::new(old));
    assert!(
        refused(&world)
            .await
            .contains("older than the write-ahead log")
    );
}

#[tokio::test]
async fn a_process_that_stood_still_takes_no_write_after_it_was_replaced() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, 0..3).await.unwrap();
    world.begin_younger_life().await;
    // It can't know yet: this row is acknowledged, and in its log.
    world.catalog.set_away(true);
    write(&writer, [3]).await.unwrap();
    world.catalog.set_away(false);
    world.hand.advance(Duration::from_secs(60));
    let error = write(&writer, [4]).await.unwrap_err();
    assert_eq!(error.category(), "out_of_service");
    assert_eq!(ingest.fatal().await.category(), "fenced");
    drop((writer, ingest));

    let ingest = world.open().await;
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_write_that_a_pause_overtook_is_not_acknowledged() {
    let world = World::new().await;
    let disk = TestDisk::default();
    let options = IngestOptions {
        disk: Arc::new(disk.clone()),
        ..world.options()
    };
    let ingest = Ingest::open(options).await.unwrap();
    let writer = writer(&ingest, &readings()).await;
    write(&writer, [0]).await.unwrap();
    // That of the row before.
    disk.sync_begins().await;
    let (held_back, late) = (disk.gate.lock(), write(&writer, [1]));
    let overtaken = async {
        disk.sync_begins().await;
        world.begin_younger_life().await;
        world.hand.advance(Duration::from_secs(60));
        drop(held_back);
    };
    let (late, ()) = tokio::join!(late, overtaken);
    let error = late.unwrap_err();
    assert_eq!(error.category(), "unconfirmed");
    assert_eq!(ingest.fatal().await.category(), "fenced");
}

#[tokio::test]
async fn a_replaced_process_learns_of_it_within_seconds_without_a_write() {
    let world = World::new().await;
    let ingest = written(&world, 0..3).await;
    world.begin_younger_life().await;
    let fatal = tokio::time::timeout(Duration::from_secs(30), ingest.fatal()).await;
    assert_eq!(fatal.unwrap().category(), "fenced");
}

#[tokio::test]
async fn a_catalog_that_is_away_does_not_stop_writes() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    world.catalog.set_away(true);
    for number in 0..3 {
        world.time_passes_without_catalog(&ingest, 15).await;
        write(&writer, [number]).await.unwrap();
    }
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 1, 2]);
}

#[tokio::test]
async fn a_process_that_stood_still_refuses_until_it_can_ask() {
    let world = World::new().await;
    let ingest = world.open().await;
    let writer = writer(&ingest, &readings()).await;
    write(&writer, [0]).await.unwrap();
    world.catalog.set_away(true);
    world.hand.advance(Duration::from_secs(60));
    for _ in 0..2 {
        let error = write(&writer, [1]).await.unwrap_err();
        assert_eq!(error.category(), "catalog");
    }
    world.catalog.set_away(false);
    write(&writer, [2]).await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [0, 2]);
}
