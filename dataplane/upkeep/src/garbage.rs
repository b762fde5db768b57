//! Deleting the objects nobody reads any more.

use futures::StreamExt as _;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::error::Error;
use crate::rounds::Upkeep;
use flightcluster_catalog::JobKind;

/// Objects deleted between two records of it.
const BATCH: u32 = 500;

/// Deletions at the same time.
const AT_ONCE: usize = 8;

impl Upkeep {
    /// Deletes what has waited for `upkeep.gc_grace`; returns how many objects are gone.
    ///
    /// # Errors
    /// [`Error::Delete`] when some could not be deleted: the others were, and these stay queued.
    pub async fn collect_garbage(&self, stop: &CancellationToken) -> Result<u64, Error> {
        let job = (JobKind::GarbageCollection, None);
        if !self.lease(job, self.config.lease).await? {
            return Ok(0);
        }
        let collected = self.delete_due(stop).await;
        self.give_back(job).await;
        let waiting = self
            .catalog
            .garbage_queue()
            .await
            .map_err(Error::catalog("counting objects to delete"))?;
        self.observer.garbage_waiting(waiting.objects);
        collected
    }

    async fn delete_due(&self, stop: &CancellationToken) -> Result<u64, Error> {
        let mut total = 0;
        while !stop.is_cancelled() {
            let due = self
                .catalog
                .due_garbage(self.config.gc_grace, BATCH)
                .await
                .map_err(Error::catalog("listing objects to delete"))?;
            let full = due.len() == BATCH as usize;
            let paths = due.into_iter().map(|garbage| garbage.path);
            let ended: Vec<_> = futures::stream::iter(paths)
                .map(|path| self.delete(path))
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            let (mut gone, mut failures) = (Vec::new(), Vec::new());
            for (path, result) in ended {
                match result {
                    Ok(()) => gone.push(path),
                    Err(error) => failures.push((path, error)),
                }
            }
            if !gone.is_empty() {
                self.catalog
                    .garbage_deleted(&gone)
                    .await
                    .map_err(Error::catalog("recording deleted objects"))?;
            }
            let failed = failures.len() as u64;
            self.observer.garbage_deleted(gone.len() as u64, failed);
            total += gone.len() as u64;
            if let Some((path, source)) = failures.pop() {
                return Err(Error::Delete {
                    failed,
                    path,
                    source,
                });
            }
            if !full {
                break;
            }
        }
        Ok(total)
    }

    async fn delete(&self, path: String) -> (String, Result<(), object_store::Error>) {
        // A path of the catalog is in its encoded form already.
        let result = match Path::parse(&path) {
            Ok(parsed) => self.store.delete(&parsed).await,
            Err(error) => Err(error.into()),
        };
        let result = match result {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            result => result,
        };
        debug!(path, ok = result.is_ok(), "deleted an object");
        (path, result)
    }
}
