//! Compaction of one table: a lease, groups of small files, a rewrite and a commit for each.

use std::time::{Duration, Instant};

use flightcluster_catalog::{
    Error as CatalogError, File, JobKind, LiveFiles, NewFile, ReplaceCause, ReplaceFiles, Table,
};
use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::choose::choose;
use crate::error::{Error, chain};
use crate::expire::{believed_nanos, retention};
use crate::rounds::Upkeep;

/// Small files looked at together. A table with more gets its next groups from the same call.
const FILES_LOOKED_AT: u32 = 10_000;

/// Attempts to commit while the catalog does not answer, and the first pause between them; it doubles.
const COMMIT_ATTEMPTS: u32 = 6;
const COMMIT_PAUSE: Duration = Duration::from_millis(200);

/// What compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Compacted {
    /// Groups that became new files.
    pub groups: u64,
    /// Files that ended.
    pub input_files: u64,
    /// Files that began.
    pub output_files: u64,
    /// Groups that were given up because somebody else had replaced their files.
    pub lost: u64,
}

impl Upkeep {
    /// Compacts every table that has enough small files, until none has.
    ///
    /// # Errors
    /// The first failure, after every table was tried.
    pub async fn compact(&self, stop: &CancellationToken) -> Result<Compacted, Error> {
        let policy = self.policy();
        let min_files = u32::try_from(policy.min_files).unwrap_or(u32::MAX);
        let tables = self
            .catalog
            .small_files(policy.small_bytes(), min_files)
            .await
            .map_err(Error::catalog("counting small files"))?;
        let mut compacted = Compacted::default();
        let mut failure = None;
        for small in tables {
            if stop.is_cancelled() {
                break;
            }
            let job = (JobKind::Rewrite, Some(small.table.id));
            if !self.lease(job, self.config.lease).await? {
                continue;
            }
            let done = self.compact_table(&small.table, &mut compacted, stop).await;
            self.give_back(job).await;
            if let Err(error) = done {
                warn!(table = %small.table.name, error = %chain(&error), "can't compact table");
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(compacted), Err)
    }

    async fn compact_table(
        &self,
        table: &Table,
        compacted: &mut Compacted,
        stop: &CancellationToken,
    ) -> Result<(), Error> {
        let policy = self.policy();
        let which = LiveFiles {
            table: table.id,
            below_bytes: Some(policy.small_bytes()),
            before_nanos: None,
            limit: FILES_LOOKED_AT,
        };
        while !stop.is_cancelled() {
            let files = self.live_files(which).await?;
            let Some(group) = choose(&files, &policy) else {
                return Ok(());
            };
            // Another process may have changed the schema since; a file must not be of an older one
            // than its rows.
            let present = self
                .catalog
                .tables_by_id(&[table.id])
                .await
                .map_err(Error::catalog("looking a table up"))?;
            let Some(present) = present.first() else {
                return Ok(());
            };
            if !self.compact_group(present, &group, compacted, stop).await? {
                return Ok(());
            }
            // Another life of a lease: a group may take longer than it.
            if !self
                .lease((JobKind::Rewrite, Some(table.id)), self.config.lease)
                .await?
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Compacts one group; `false` when it was given up.
    async fn compact_group(
        &self,
        table: &Table,
        group: &[File],
        compacted: &mut Compacted,
        stop: &CancellationToken,
    ) -> Result<bool, Error> {
        let began = Instant::now();
        // Before the first object is stored.
        let time = self.time().await?;
        let keep_from = believed_nanos(time).and_then(|now| self.expired_before(table, now));
        let rewritten = match self.rewriter.rewrite(table, group, keep_from, stop).await {
            Ok(rewritten) => rewritten,
            // Told to stop, it failed as asked.
            Err(_) if stop.is_cancelled() => return Ok(false),
            Err(source) => {
                let table = table.name.clone();
                return Err(Error::Rewrite { table, source });
            }
        };
        let request = ReplaceFiles {
            table: table.id,
            inputs: group.iter().map(|file| file.id).collect(),
            outputs: rewritten.outputs,
            removed_rows: rewritten.removed_rows,
            cause: ReplaceCause::Compaction,
            valid_until_millis: Some(time.millis_after(self.commit_within)),
            retention: keep_from.and_then(|_| retention(table)),
        };
        if !self.commit(&request).await? {
            compacted.lost += 1;
            self.observer.compaction_lost();
            return Ok(false);
        }
        let inputs = group.iter().map(|file| file.file.size_bytes).sum();
        let outputs = request.outputs.iter().map(|file| file.size_bytes).sum();
        compacted.groups += 1;
        compacted.input_files += group.len() as u64;
        compacted.output_files += request.outputs.len() as u64;
        self.observer.compacted(
            began.elapsed(),
            (group.len() as u64, inputs),
            (request.outputs.len() as u64, outputs),
            request.removed_rows,
        );
        debug!(table = %table.name, files = group.len(), bytes = inputs, "compacted");
        Ok(true)
    }

    /// Commits a replacement; `false` when its inputs are no longer live, and its outputs are removed.
    ///
    /// While it is unknown whether the commit took effect the outputs must stay: without an answer in
    /// the end they do, and the scan for orphans finds them if nobody has them.
    async fn commit(&self, request: &ReplaceFiles) -> Result<bool, Error> {
        let mut pause = COMMIT_PAUSE;
        for attempt in 1.. {
            match self.catalog.replace_files(request.clone()).await {
                Ok(_) => return Ok(true),
                Err(
                    error @ (CatalogError::FilesChanged { .. }
                    | CatalogError::RetentionChanged { .. }
                    | CatalogError::FileGivenUp { .. }
                    | CatalogError::TableNotFound(_)),
                ) => {
                    info!(table = request.table.0, error = %error, "a compaction came too late");
                    self.remove_outputs(&request.outputs).await;
                    return Ok(false);
                }
                Err(CatalogError::Unavailable { .. }) if attempt < COMMIT_ATTEMPTS => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(source) => return Err(Error::catalog("replacing files")(source)),
            }
        }
        Ok(false)
    }

    async fn remove_outputs(&self, outputs: &[NewFile]) {
        for file in outputs {
            let Ok(path) = Path::parse(&file.path) else {
                continue;
            };
            if let Err(error) = self.store.delete(&path).await {
                debug!(%path, %error, "can't remove a file nobody needs");
            }
        }
    }
}
