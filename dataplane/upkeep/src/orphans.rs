//! Objects in the store that the catalog does not know.
//!
//! A flush or compaction that died between writing and committing leaves one, and so does a catalog
//! that was restored to an earlier state: then orphans hold rows. Therefore they are reported, and
//! deleted only when a setting says so.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flightcluster_catalog::{CatalogTime, JobKind};
use futures::StreamExt as _;
use object_store::ObjectMeta;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::error::Error;
use crate::rounds::Upkeep;

/// Paths asked about in one call.
const BATCH: usize = 1_000;

/// Orphans named in the log.
const NAMED: usize = 10;

/// What a scan found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Orphans {
    /// Objects nobody knows.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that were queued for deletion.
    pub condemned: u64,
}

impl Upkeep {
    /// Compares the object store with the catalog; `None` when another process does, and while the clock of the
    /// catalog can't be believed.
    ///
    /// # Errors
    /// [`Error::List`], [`Error::Catalog`]; what was found so far is forgotten.
    pub async fn scan_orphans(&self, stop: &CancellationToken) -> Result<Option<Orphans>, Error> {
        let Some(now) = earlier(SystemTime::now(), self.time().await?) else {
            return Ok(None);
        };
        let job = (JobKind::OrphanScan, None);
        if !self.lease(job, self.config.lease).await? {
            return Ok(None);
        }
        let found = self.scan(now, stop).await;
        self.give_back(job).await;
        let found = found?;
        self.observer.orphans(found.objects, found.bytes);
        Ok(Some(found))
    }

    async fn scan(&self, now: SystemTime, stop: &CancellationToken) -> Result<Orphans, Error> {
        let mut orphans = Orphans::default();
        let mut named = 0;
        let mut batches = self.store.list(None).chunks(BATCH);
        while let Some(batch) = batches.next().await {
            if stop.is_cancelled() {
                break;
            }
            let batch: Result<Vec<ObjectMeta>, _> = batch.into_iter().collect();
            let mut old = batch.map_err(|source| Error::List { source })?;
            old.retain(|object| {
                let age = now.duration_since(object.last_modified.into());
                // A time in the future says nothing: the object is taken for young.
                is_data_file(&object.location)
                    && age.is_ok_and(|age| age >= self.config.orphan_grace)
            });
            let unknown = self.unknown(&old).await?;
            for object in old {
                if !unknown.contains(&object.location.to_string()) {
                    continue;
                }
                orphans.objects += 1;
                orphans.bytes += object.size;
                if named < NAMED {
                    named += 1;
                    warn!(path = %object.location, bytes = object.size, "an object the catalog does not know");
                }
            }
            if self.config.delete_orphans && !unknown.is_empty() {
                orphans.condemned += self
                    .catalog
                    .condemn_paths(&unknown)
                    .await
                    .map_err(Error::catalog("queueing orphans for deletion"))?;
            }
        }
        Ok(orphans)
    }

    async fn unknown(&self, objects: &[ObjectMeta]) -> Result<Vec<String>, Error> {
        let paths = objects.iter().map(|object| object.location.to_string());
        let paths: Vec<String> = paths.collect();
        if paths.is_empty() {
            return Ok(paths);
        }
        self.catalog
            .unknown_paths(&paths)
            .await
            .map_err(Error::catalog("looking paths up"))
    }
}

/// The moment that both clocks have passed: no single one that is ahead makes a young object old, whose commit may
/// be under way. `None` when the catalog's can't be believed.
fn earlier(own: SystemTime, catalog: CatalogTime) -> Option<SystemTime> {
    // It tells whole milliseconds that have begun.
    let millis = u64::try_from(catalog.millis).ok()?.saturating_add(1);
    let of_catalog = UNIX_EPOCH + Duration::from_millis(millis);
    catalog.is_settled.then(|| own.min(of_catalog))
}

/// Whether this is the name of a file of a table, `<database>/<table id>/<uuid>.parquet`. Whatever
/// else is in the store belongs to somebody else.
fn is_data_file(path: &Path) -> bool {
    let parts: Vec<_> = path.parts().collect();
    let [_, table, name] = &parts[..] else {
        return false;
    };
    table.as_ref().parse::<u64>().is_ok() && name.as_ref().ends_with(".parquet")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_single_clock_that_is_ahead_makes_an_object_old() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let told = |seconds: i64, is_settled| CatalogTime {
            millis: seconds * 1000,
            is_settled,
        };
        assert_eq!(earlier(at(7), told(99, true)), Some(at(7)));
        let of_catalog = at(7) + Duration::from_millis(1);
        assert_eq!(earlier(at(99), told(7, true)), Some(of_catalog));
        assert_eq!(earlier(at(7), told(7, false)), None);
    }
}
