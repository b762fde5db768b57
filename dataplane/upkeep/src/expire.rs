//! Retention: files whose rows are all expired end.
//!
//! Queries do not see expired rows from the moment they are; here their files go. A file with other rows
//! stays until it is compacted, or until its last row expires: writing it again for the rest alone would
//! cost more than it frees.

use std::time::{SystemTime, UNIX_EPOCH};

use flightcluster_catalog::{
    Error as CatalogError, File, JobKind, LiveFiles, ReplaceCause, ReplaceFiles, Table,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error::{Error, chain};
use crate::rounds::{LEASE, Upkeep};

/// Files that end in one commit.
const BATCH: u32 = 1_000;

/// What retention did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expired {
    /// Files that ended.
    pub files: u64,
    /// Their rows.
    pub rows: u64,
}

impl Upkeep {
    /// Ends the files whose rows are all expired.
    ///
    /// # Errors
    /// The first failure, after every table was tried.
    pub async fn expire(&self, stop: &CancellationToken) -> Result<Expired, Error> {
        let tables = self.catalog.list_tables(None).await;
        let tables = tables.map_err(Error::catalog("listing tables"))?;
        let mut expired = Expired::default();
        let mut failure = None;
        for table in tables {
            let Some(before) = self.expired_before(&table) else {
                continue;
            };
            if stop.is_cancelled() {
                break;
            }
            if let Err(error) = self.expire_table(&table, before, &mut expired).await {
                warn!(table = %table.name, error = %chain(&error), "can't end expired files");
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(expired), Err)
    }

    /// Rows of the table with an earlier time are expired now; nanoseconds since the Unix epoch.
    pub(crate) fn expired_before(&self, table: &Table) -> Option<i64> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX);
        let before = table.expired_before(now)?;
        self.rewriter.has_times(table).then_some(before)
    }

    async fn expire_table(
        &self,
        table: &Table,
        before: i64,
        expired: &mut Expired,
    ) -> Result<(), Error> {
        let which = LiveFiles {
            table: table.id,
            below_bytes: None,
            before_nanos: Some(before),
            limit: BATCH,
        };
        // Most tables have none, most of the time.
        if self.live_files(which).await?.is_empty() {
            return Ok(());
        }
        let job = (JobKind::Rewrite, Some(table.id));
        if !self.lease(job, LEASE).await? {
            return Ok(());
        }
        let ended = self.end_files(table, which, expired).await;
        self.give_back(job).await;
        ended
    }

    async fn end_files(
        &self,
        table: &Table,
        which: LiveFiles,
        expired: &mut Expired,
    ) -> Result<(), Error> {
        loop {
            let files = self.live_files(which).await?;
            if files.is_empty() {
                return Ok(());
            }
            let rows = files.iter().map(|file| file.file.rows).sum();
            let request = ReplaceFiles {
                table: table.id,
                inputs: files.iter().map(|file| file.id).collect(),
                outputs: Vec::new(),
                removed_rows: rows,
                cause: ReplaceCause::Retention,
            };
            match self.catalog.replace_files(request).await {
                Ok(_) => {}
                Err(
                    error @ (CatalogError::FilesChanged { .. } | CatalogError::TableNotFound(_)),
                ) => {
                    info!(table = %table.name, %error, "expired files went another way");
                    return Ok(());
                }
                Err(source) => return Err(Error::catalog("ending expired files")(source)),
            }
            let count = files.len() as u64;
            expired.files += count;
            expired.rows += rows;
            self.observer.expired(count, rows);
            debug!(table = %table.name, files = count, rows, "expired files ended");
        }
    }

    pub(crate) async fn live_files(&self, which: LiveFiles) -> Result<Vec<File>, Error> {
        let files = self.catalog.live_files(which).await;
        files.map_err(Error::catalog("listing live files"))
    }
}
