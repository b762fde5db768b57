//! Retention: what is expired altogether goes, and nothing else.

use std::time::{SystemTime, UNIX_EPOCH};

use flightcluster_catalog::{OptionsOf, RETENTION, ReplaceCause, SetOptions};

use super::compaction::held_compaction;
use super::*;
use crate::Expired;
use std::sync::atomic::Ordering;

const HOUR: i64 = 3_600_000_000_000;

fn hours_ago(hours: i64) -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_nanos()).unwrap() - hours * HOUR
}

impl World {
    async fn keep(&self, of: OptionsOf, time: Option<&str>) {
        let changes = [(RETENTION.to_owned(), time.map(str::to_owned))].into();
        let request = SetOptions {
            of,
            changes,
            seen: None,
            id: None,
        };
        self.catalog.set_options(request).await.unwrap();
    }

    /// Rows 1 to 5: old, old and young, young, without a time, old.
    async fn ages(&mut self) {
        for times in [
            Some((hours_ago(30), hours_ago(25))),
            Some((hours_ago(30), hours_ago(1))),
            Some((hours_ago(2), hours_ago(1))),
            None,
            Some((hours_ago(26), hours_ago(26))),
        ] {
            self.flush_with_times(times).await;
        }
    }
}

#[tokio::test]
async fn only_files_whose_every_row_is_expired_end() {
    let mut world = World::new().await;
    world.ages().await;
    let upkeep = world.upkeep();
    assert_eq!(upkeep.expire(&never()).await.unwrap(), Expired::default());
    let of = OptionsOf::Table(world.table.name.clone());
    world.keep(of.clone(), Some("24h")).await;
    let expired = upkeep.expire(&never()).await.unwrap();
    assert_eq!(expired, Expired { files: 2, rows: 2 });
    assert_eq!(world.rows().await.0, [2, 3, 4]);
    assert_eq!(world.counts.expired_rows.load(Ordering::Relaxed), 2);
    assert_eq!(upkeep.expire(&never()).await.unwrap(), Expired::default());
    let done = world
        .catalog
        .list_replacements("default", 10)
        .await
        .unwrap();
    let causes: Vec<_> = done
        .iter()
        .map(|each| (each.cause, each.input_rows))
        .collect();
    assert_eq!(causes, [(ReplaceCause::Retention, 2)]);
    // Their objects go as all others do.
    assert_eq!(upkeep.collect_garbage(&never()).await.unwrap(), 2);
    assert_eq!(world.objects().await.len(), 3);
    world.keep(of, None).await;
    assert_eq!(upkeep.expire(&never()).await.unwrap(), Expired::default());
}

#[tokio::test]
async fn a_database_says_for_tables_that_do_not() {
    let mut world = World::new().await;
    world.ages().await;
    let table = OptionsOf::Table(world.table.name.clone());
    let database = OptionsOf::Database("default".to_owned());
    world.keep(database, Some("24h")).await;
    world.keep(table.clone(), Some("forever")).await;
    let upkeep = world.upkeep();
    assert_eq!(upkeep.expire(&never()).await.unwrap(), Expired::default());
    world.keep(table, None).await;
    assert_eq!(upkeep.expire(&never()).await.unwrap().files, 2);
}

#[tokio::test]
async fn files_are_not_judged_by_times_of_another_column() {
    let mut world = World::new().await;
    world.ages().await;
    world
        .keep(OptionsOf::Table(world.table.name.clone()), Some("24h"))
        .await;
    world.rewriter.timeless.store(true, Ordering::Relaxed);
    let upkeep = world.upkeep();
    assert_eq!(upkeep.expire(&never()).await.unwrap(), Expired::default());
    upkeep.compact(&never()).await.unwrap();
    assert_eq!(*world.rewriter.kept_from.lock(), None);
}

#[tokio::test]
async fn compaction_leaves_expired_rows_out() {
    let mut world = World::new().await;
    world.ages().await;
    world
        .keep(OptionsOf::Table(world.table.name.clone()), Some("24h"))
        .await;
    let before = hours_ago(24);
    let compacted = world.upkeep().compact(&never()).await.unwrap();
    assert_eq!(compacted.groups, 1);
    let kept_from = world.rewriter.kept_from.lock().unwrap();
    assert!((before..=hours_ago(24)).contains(&kept_from));
}

#[tokio::test]
async fn rows_stay_that_are_kept_longer_since_a_round_began() {
    let mut world = World::new().await;
    world.ages().await;
    let of = OptionsOf::Table(world.table.name.clone());
    world.keep(of.clone(), Some("24h")).await;
    let table = world.catalog.table(&world.table.name).await.unwrap();
    let table = table.unwrap();
    let before = table.expired_before(hours_ago(0)).unwrap();

    let compacted = held_compaction(&world, async || {
        world.keep(of.clone(), Some("30d")).await;
    })
    .await;
    assert!(world.rewriter.kept_from.lock().is_some());
    assert_eq!((compacted.groups, compacted.lost), (0, 1));

    let mut expired = Expired::default();
    let upkeep = world.upkeep();
    let ended = upkeep.expire_table(&table, before, &mut expired).await;
    ended.unwrap();
    assert_eq!(expired, Expired::default());
    assert_eq!(world.rows().await.0, [1, 2, 3, 4, 5]);
    assert_eq!(world.objects().await.len(), 5);

    // The next round goes by what holds then.
    assert_eq!(upkeep.expire(&never()).await.unwrap(), Expired::default());
    world.keep(of, Some("24h")).await;
    assert_eq!(upkeep.expire(&never()).await.unwrap().files, 2);
}
