//! One attempt to delete rows: from a snapshot to the commit that replaces its files.

use std::sync::Arc;
use std::time::Duration;

use datafusion::common::internal_datafusion_err;
use datafusion::physical_expr::PhysicalExpr;
use flightcluster_catalog::{
    Error as CatalogError, File, FileChoice, NewFile, ReplaceCause, ReplaceFiles, SnapshotRequest,
    Table, TableSnapshot,
};
use object_store::ObjectStoreExt as _;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Deletion;
use super::judge::{Counted, Judge};
use super::lease::TableLease;
use crate::Error;
use crate::engine::Inner;
use crate::rewrite::{RewriteError, RewriteRequest};
use crate::schema::check_types;
use crate::times::TimeRange;

/// Attempts to commit while the catalog does not answer, and the first pause between them; it doubles.
const COMMIT_ATTEMPTS: u32 = 6;
const COMMIT_PAUSE: Duration = Duration::from_millis(200);

pub(super) struct Attempt<'a> {
    inner: &'a Arc<Inner>,
    deletion: &'a Deletion,
    stop: &'a CancellationToken,
    changed: Changed,
}

/// What one attempt changes.
#[derive(Default)]
struct Changed {
    inputs: Vec<u64>,
    outputs: Vec<NewFile>,
    /// Rows of the inputs that are in no output: those that are deleted, and expired ones among them.
    removed: u64,
    /// Rows the statement deletes: nobody saw the expired ones any more.
    deleted: u64,
    /// Until when it may be applied, by the time of the catalog.
    valid_until_millis: Option<i64>,
}

impl<'a> Attempt<'a> {
    pub(super) fn new(
        inner: &'a Arc<Inner>,
        deletion: &'a Deletion,
        stop: &'a CancellationToken,
    ) -> Self {
        Self {
            inner,
            deletion,
            stop,
            changed: Changed::default(),
        }
    }

    /// Deletes the rows; returns how many. What was written for nothing is removed.
    pub(super) async fn run(mut self, lease: &mut TableLease) -> Result<u64, Error> {
        let prepared = self.prepare(lease).await;
        let result = match prepared {
            Ok(()) if self.changed.inputs.is_empty() => return Ok(0),
            Ok(()) if self.stop.is_cancelled() => Err(Error::Cancelled),
            Ok(()) => self.commit().await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(self.changed.deleted),
            // When nobody knows whether the commit took effect the outputs may be live: they stay, and
            // the scan for orphans finds them if they are not.
            Err(Error::Catalog { doing, source }) if unknown(&source) => {
                Err(Error::Catalog { doing, source })
            }
            Err(error) => {
                self.discard().await;
                Err(error)
            }
        }
    }

    /// Writes the new files.
    async fn prepare(&mut self, lease: &mut TableLease) -> Result<(), Error> {
        let held = self.snapshot().await?;
        let judge = Judge::of(self.inner, self.deletion, &held);
        let judge = self.stop.run_until_cancelled(judge).await;
        let judge = judge.ok_or(Error::Cancelled)??;
        if judge.deleted == Some(0) {
            return Ok(());
        }
        // Before the first object is stored.
        let time = self.inner.catalog.time().await;
        let time =
            time.map_err(|source| Error::from_catalog("reading the time of the catalog", source))?;
        self.changed.valid_until_millis = Some(time.millis_after(self.inner.commit_within));
        for file in &held.files {
            lease.keep().await?;
            let counted = self.stop.run_until_cancelled(judge.matching(file)).await;
            let counted = counted.ok_or(Error::Cancelled)??;
            if counted.rows == 0 {
                continue;
            }
            self.changed.inputs.push(file.id);
            self.changed.deleted += counted.rows;
            match &judge.remove {
                Some(remove) if counted.rows < file.file.rows => {
                    self.rewrite(&held.table, file, counted, remove).await?;
                }
                _ => self.changed.removed += file.file.rows,
            }
        }
        if let Some(deleted) = judge.deleted {
            self.changed.deleted = deleted;
        }
        Ok(())
    }

    /// The files that may have such rows, now.
    async fn snapshot(&self) -> Result<TableSnapshot, Error> {
        let Deletion {
            condition, time, ..
        } = self.deletion;
        let times = match (condition, time) {
            (Some(condition), Some(time)) => time.range(std::slice::from_ref(condition)),
            _ => TimeRange::ALL,
        };
        let held = self.read(times.choice()).await?;
        if held.table.schema_version == self.deletion.version {
            return Ok(held);
        }
        let planned = self.deletion.schema.as_arrow();
        check_types(&held.table, self.deletion.version, planned)?;
        // Newer files may keep the range of another column.
        self.read(FileChoice::All).await
    }

    async fn read(&self, choice: FileChoice) -> Result<TableSnapshot, Error> {
        let name = &self.deletion.name;
        let request = SnapshotRequest {
            tables: vec![(name.clone(), choice)],
        };
        let snapshot = self.inner.catalog.read_snapshot(request).await;
        let snapshot =
            snapshot.map_err(|source| Error::from_catalog("taking a snapshot", source))?;
        match snapshot.tables.into_iter().next() {
            Some(held) if held.table.id == self.deletion.table => Ok(held),
            Some(_) => Err(Error::TableReplaced {
                table: name.to_string(),
            }),
            None => Err(Error::TableNotFound {
                table: name.to_string(),
                similar: None,
            }),
        }
    }

    /// Writes a file again without the rows the condition is true for.
    async fn rewrite(
        &mut self,
        table: &Table,
        file: &File,
        counted: Counted,
        condition: &Arc<dyn PhysicalExpr>,
    ) -> Result<(), Error> {
        let request = RewriteRequest {
            table: table.clone(),
            files: vec![file.clone()],
            keep_from_nanos: None,
            remove: Some(Arc::clone(condition)),
        };
        let rewritten = self
            .inner
            .rewriter
            .rewrite(request, self.stop.clone())
            .await;
        let rewritten = rewritten.map_err(|error| self.rewrite_error(error))?;
        self.changed.outputs.extend(rewritten.outputs);
        let (rows, removed) = (counted.rows, rewritten.removed_rows);
        self.changed.removed += removed;
        if removed < rows || (removed > rows && !counted.some_expired) {
            return Err(Error::Engine {
                doing: "deleting rows",
                source: Box::new(internal_datafusion_err!(
                    "{rows} rows were counted, {removed} removed"
                )),
            });
        }
        Ok(())
    }

    fn rewrite_error(&self, error: RewriteError) -> Error {
        match error {
            RewriteError::Stopped => Error::Cancelled,
            // As a query says it.
            RewriteError::Read { source, .. } => self.inner.sorter.sort("running", *source),
            source => Error::Rewrite {
                table: self.deletion.name.to_string(),
                source: Box::new(source),
            },
        }
    }

    /// Puts the outputs in the place of the inputs.
    async fn commit(&self) -> Result<(), Error> {
        let request = ReplaceFiles {
            table: self.deletion.table,
            inputs: self.changed.inputs.clone(),
            outputs: self.changed.outputs.clone(),
            removed_rows: self.changed.removed,
            cause: ReplaceCause::Delete,
            valid_until_millis: self.changed.valid_until_millis,
            retention: None,
        };
        let mut pause = COMMIT_PAUSE;
        let mut number = 1;
        loop {
            match self.inner.catalog.replace_files(request.clone()).await {
                Ok(_) => return Ok(()),
                // A repeat is recognised.
                Err(CatalogError::Unavailable { .. }) if number < COMMIT_ATTEMPTS => {
                    warn!(table = %self.deletion.name, number, "committing a deletion again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    number += 1;
                }
                Err(source) => return Err(Error::from_catalog("replacing files", source)),
            }
        }
    }

    /// Removes what was written for nothing; what is left is found by the scan for orphans.
    async fn discard(&self) {
        for file in &self.changed.outputs {
            let path = object_store::path::Path::parse(&file.path);
            if let Ok(path) = path
                && let Err(error) = self.inner.store.delete(&path).await
            {
                debug!(%path, %error, "an unused file stays");
            }
        }
    }
}

/// Whether a commit that failed so may have taken effect.
fn unknown(error: &CatalogError) -> bool {
    matches!(
        error,
        CatalogError::Unavailable { .. } | CatalogError::Store { .. }
    )
}
