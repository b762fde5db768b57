//! Backups of the catalog in the object store: taking, finding, forgetting, and doing so all the time.
//!
//! A backup is one object below [`FOLDER`], put in one piece: it is there whole or not at all. Its
//! name has the time, and the state of the catalog, which says more than a clock does.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flightcluster_catalog::Catalog as _;
use flightcluster_catalog::sql::{Backup, SqlCatalog};
use flightcluster_config::BackupConfig;
use flightcluster_server::status::chain;
use flightcluster_telemetry::metrics::BackupMetrics;
use futures::TryStreamExt as _;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutPayload};
use tokio_util::sync::CancellationToken;

/// Folder of the backups. No database has this name with files of tables right below it.
pub(crate) const FOLDER: &str = "_flightcluster_catalog";

/// End of the names of backups.
const SUFFIX: &str = ".jsonl.zst";

/// Time from the start of a process to its first look, and between looks: much shorter than the
/// interval, so that restarts don't put backups off.
const LOOK_AFTER: Duration = Duration::from_secs(60);

/// A backup in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) path: Path,
    pub(crate) created: Timestamp,
    /// The state of the catalog in it.
    pub(crate) snapshot: u64,
    pub(crate) size_bytes: u64,
}

/// Backs the catalog up now.
pub(crate) async fn take(
    catalog: &SqlCatalog,
    store: &dyn ObjectStore,
) -> anyhow::Result<(Path, Backup)> {
    let mut backup = catalog.back_up().await?;
    let created = Timestamp::from_millisecond(backup.header.created_at_millis)
        .context("the clock shows no time")?;
    let path = path(created, backup.header.snapshot.0);
    let bytes = std::mem::take(&mut backup.bytes);
    let size = bytes.len();
    store
        .put(&path, PutPayload::from(bytes))
        .await
        .with_context(|| format!("can't write the backup {path} ({size} bytes)"))?;
    Ok((path, backup))
}

fn path(created: Timestamp, snapshot: u64) -> Path {
    let time = created.strftime("%Y%m%dT%H%M%S%3fZ");
    Path::from_iter([FOLDER, &format!("{time}-{snapshot:020}{SUFFIX}")])
}

/// The backups in the store, that of the newest state first, whatever the clocks said. Other objects in
/// the folder are left out.
pub(crate) async fn list(store: &dyn ObjectStore) -> anyhow::Result<Vec<Stored>> {
    let folder = Path::from(FOLDER);
    let found: Vec<_> = store
        .list(Some(&folder))
        .try_collect()
        .await
        .context("can't list the backups")?;
    let mut backups: Vec<_> = found
        .into_iter()
        .filter_map(|object| {
            let (created, snapshot) = said_by(&object.location)?;
            Some(Stored {
                created,
                snapshot,
                path: object.location,
                size_bytes: object.size,
            })
        })
        .collect();
    backups.sort_by_key(|backup| Reverse((backup.snapshot, backup.created)));
    Ok(backups)
}

/// The time and the state in a name.
fn said_by(path: &Path) -> Option<(Timestamp, u64)> {
    let name = path.filename()?.strip_suffix(SUFFIX)?;
    let (time, snapshot) = name.split_once('-')?;
    let (date, clock) = time.strip_suffix('Z')?.split_once('T')?;
    if date.len() != 8 || clock.len() != 9 || !date.is_ascii() || !clock.is_ascii() {
        return None;
    }
    let time = format!(
        "{}-{}-{}T{}:{}:{}.{}Z",
        &date[..4],
        &date[4..6],
        &date[6..],
        &clock[..2],
        &clock[2..4],
        &clock[4..6],
        &clock[6..]
    );
    Some((time.parse().ok()?, snapshot.parse().ok()?))
}

/// Which of the backups, newest first, are too many or too old. Never the newest.
fn outdated<'a>(backups: &'a [Stored], config: &BackupConfig, now: Timestamp) -> Vec<&'a Stored> {
    let count = usize::try_from(config.keep_count).unwrap_or(usize::MAX);
    let is_old = |backup: &Stored| age(backup, now) > config.keep_for;
    let rest = backups.iter().enumerate().skip(1);
    rest.filter(|(at, backup)| *at >= count || is_old(backup))
        .map(|(_, backup)| backup)
        .collect()
}

/// How old a backup is; nothing for one from the future.
fn age(backup: &Stored, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(backup.created)).unwrap_or_default()
}

/// Backs the catalog up as often as the settings say, until it is stopped.
///
/// Any number of processes may do so for one catalog: each looks first whether a backup is due, and
/// two at the same moment only make one too many.
pub(crate) async fn keep(
    catalog: SqlCatalog,
    store: Arc<dyn ObjectStore>,
    config: BackupConfig,
    metrics: BackupMetrics,
    stop: CancellationToken,
) {
    let pause = LOOK_AFTER.min(config.interval);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.5))) => {}
        }
        if let Err(error) = look(&catalog, store.as_ref(), &config, &metrics).await {
            metrics.failures.inc();
            tracing::error!(error = %chain(error.as_ref()), "the catalog is not backed up");
        }
    }
}

async fn look(
    catalog: &SqlCatalog,
    store: &dyn ObjectStore,
    config: &BackupConfig,
    metrics: &BackupMetrics,
) -> anyhow::Result<()> {
    let backups = list(store).await?;
    if let Some(newest) = backups.first() {
        metrics.newest.set(newest.created.as_second());
        let snapshot = catalog.snapshot(&[]).await?.id.0;
        // A backup of it would in time take the place of the good ones.
        anyhow::ensure!(
            snapshot >= newest.snapshot,
            "the catalog is at snapshot {snapshot}, the backup {} at {}: the catalog was lost or set \
             back; stop the cluster and restore the backup, or move the backups away if this is right",
            newest.path,
            newest.snapshot
        );
    }
    let now = Timestamp::now();
    // One from the future was made with a wrong clock, and says nothing.
    let apart = |backup: &Stored| now.duration_since(backup.created).unsigned_abs();
    if backups.iter().any(|backup| apart(backup) < config.interval) {
        return Ok(());
    }
    let (path, backup) = take(catalog, store).await?;
    metrics.newest.set(backup.header.created_at_millis / 1000);
    tracing::info!(%path, rows = backup.rows, snapshot = backup.header.snapshot.0, "catalog backed up");
    forget(store, config, now).await
}

/// Deletes the backups that are too many or too old.
pub(crate) async fn forget(
    store: &dyn ObjectStore,
    config: &BackupConfig,
    now: Timestamp,
) -> anyhow::Result<()> {
    let backups = list(store).await?;
    for backup in outdated(&backups, config, now) {
        store
            .delete(&backup.path)
            .await
            .with_context(|| format!("can't delete the backup {}", backup.path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use object_store::memory::InMemory;

    use super::*;

    fn hours_ago(hours: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 - hours * 3600).unwrap()
    }

    async fn catalog_in(folder: &std::path::Path) -> SqlCatalog {
        SqlCatalog::open_sqlite(&folder.join("c.sqlite"))
            .await
            .unwrap()
    }

    fn metrics() -> flightcluster_telemetry::metrics::Metrics {
        flightcluster_telemetry::metrics::Metrics::new(
            flightcluster_telemetry::metrics::BuildLabels {
                version: "1",
                revision: "1",
            },
        )
    }

    async fn store_with(ages: &[i64]) -> InMemory {
        let store = InMemory::new();
        for hours in ages {
            let path = path(hours_ago(*hours), 7_000_000 - hours.unsigned_abs());
            store
                .put(&path, PutPayload::from_static(b"x"))
                .await
                .unwrap();
        }
        store
    }

    #[tokio::test]
    async fn backups_are_listed_newest_first_without_strangers() {
        let store = store_with(&[3, 1, 2]).await;
        for stranger in ["notes.txt", "x-1.jsonl.zst", "20260101T-1.jsonl.zst"] {
            let path = Path::from_iter([FOLDER, stranger]);
            store
                .put(&path, PutPayload::from_static(b"x"))
                .await
                .unwrap();
        }
        let found = list(&store).await.unwrap();
        let times: Vec<_> = found.iter().map(|backup| backup.created).collect();
        assert_eq!(times, [hours_ago(1), hours_ago(2), hours_ago(3)]);
    }

    #[tokio::test]
    async fn too_many_and_too_old_backups_go_and_the_newest_stays() {
        let config = BackupConfig {
            keep_count: 3,
            keep_for: Duration::from_secs(4 * 3600 + 1),
            ..BackupConfig::default()
        };
        for (ages, kept) in [
            (&[0, 1, 2, 3, 4][..], &[0, 1, 2][..]),
            (&[0, 4, 5][..], &[0, 4][..]),
            (&[90, 91][..], &[90][..]),
        ] {
            let store = store_with(ages).await;
            forget(&store, &config, hours_ago(0)).await.unwrap();
            let found = list(&store).await.unwrap();
            let times: Vec<_> = found.iter().map(|backup| backup.created).collect();
            let kept: Vec<_> = kept.iter().map(|hours| hours_ago(*hours)).collect();
            assert_eq!(times, kept);
        }
    }

    /// A clock that was wrong once must not end the backups.
    #[tokio::test]
    async fn a_backup_from_the_future_holds_nothing_up_and_is_not_the_newest() {
        let store = InMemory::new();
        let put = async |created: Timestamp, snapshot| {
            let bytes = PutPayload::from_static(b"x");
            store.put(&path(created, snapshot), bytes).await.unwrap();
        };
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog_in(folder.path()).await;
        put("2125-01-01T00:00:00Z".parse().unwrap(), 0).await;
        let metrics = metrics();
        let config = BackupConfig::default();
        look(&catalog, &store, &config, &metrics.backup)
            .await
            .unwrap();
        let found = list(&store).await.unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].created < found[1].created);
    }

    #[tokio::test]
    async fn a_catalog_older_than_its_backup_is_not_backed_up() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog_in(folder.path()).await;
        let store = store_with(&[1]).await;
        let metrics = metrics();
        let config = BackupConfig {
            keep_for: Duration::ZERO,
            ..BackupConfig::default()
        };
        let refused = look(&catalog, &store, &config, &metrics.backup).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("lost or set back"), "{text}");
        assert_eq!(list(&store).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_backup_is_taken_when_the_newest_is_older_than_the_interval() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = catalog_in(folder.path()).await;
        let metrics = metrics();
        let store = InMemory::new();
        let config = BackupConfig::default();
        for _ in 0..3 {
            look(&catalog, &store, &config, &metrics.backup)
                .await
                .unwrap();
            assert_eq!(list(&store).await.unwrap().len(), 1);
        }
        let eager = BackupConfig {
            interval: Duration::ZERO,
            ..config
        };
        // Names have milliseconds.
        tokio::time::sleep(Duration::from_millis(2)).await;
        look(&catalog, &store, &eager, &metrics.backup)
            .await
            .unwrap();
        assert_eq!(list(&store).await.unwrap().len(), 2);
    }
}
