//! Retention: files whose rows are all expired end.
//!
//! Queries do not see expired rows from the moment they are; here their files go. A file with other rows
//! stays until it is compacted, or until its last row expires: writing it again for the rest alone would
//! cost more than it frees.

use std::time::{SystemTime, UNIX_EPOCH};

use flightcluster_catalog::{
    CatalogTime, Error as CatalogError, File, JobKind, LiveFiles, RETENTION, ReplaceCause,
    ReplaceFiles, Table,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::error::{Error, chain};
use crate::rounds::Upkeep;

const NANOS_PER_MILLI: i64 = 1_000_000;

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
        let Some(now) = believed_nanos(self.time().await?) else {
            return Ok(expired);
        };
        for table in tables {
            let Some(before) = self.expired_before(&table, now) else {
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

    pub(crate) async fn time(&self) -> Result<CatalogTime, Error> {
        let time = self.catalog.time().await;
        time.map_err(Error::catalog("asking for the time"))
    }

    /// Rows of the table with an earlier time are expired at `now`; nanoseconds since the Unix epoch.
    pub(crate) fn expired_before(&self, table: &Table, now: i64) -> Option<i64> {
        let before = table.expired_before(now)?;
        self.rewriter.has_times(table).then_some(before)
    }

    /// `table` as it was when `before` was decided by its retention.
    pub(crate) async fn expire_table(
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
        if !self.lease(job, self.config.lease).await? {
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
                valid_until_millis: None,
                retention: retention(table),
            };
            match self.catalog.replace_files(request).await {
                Ok(_) => {}
                Err(
                    error @ (CatalogError::FilesChanged { .. }
                    | CatalogError::RetentionChanged { .. }
                    | CatalogError::TableNotFound(_)),
                ) => {
                    info!(table = %table.name, %error, "expired files are left to the next round");
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

/// The option by which rows of the table expire. It goes with what was decided by it: the round read it some
/// time ago, and since a longer time was answered no row of it may go.
pub(crate) fn retention(table: &Table) -> Option<String> {
    table.option(RETENTION).map(str::to_owned)
}

/// The present by which rows may go, in nanoseconds since the Unix epoch: the earlier of our clock and that
/// of the catalog, so that no single clock that is ahead takes rows. `None` while the catalog's has jumped.
pub(crate) fn believed_nanos(catalog: CatalogTime) -> Option<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let own = i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX);
    agreed(own, catalog)
}

/// The moment that both clocks have passed, in nanoseconds; `None` when the catalog's can't be believed.
fn agreed(own_nanos: i64, catalog: CatalogTime) -> Option<i64> {
    let now = own_nanos.min(catalog.millis.saturating_mul(NANOS_PER_MILLI));
    catalog.is_settled.then_some(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_single_clock_that_is_ahead_takes_rows() {
        let time = |millis, is_settled| CatalogTime { millis, is_settled };
        assert_eq!(agreed(7_000_000, time(5, true)), Some(5_000_000));
        assert_eq!(agreed(3_000_000, time(5, true)), Some(3_000_000));
        assert_eq!(agreed(7_000_000, time(5, false)), None);
        assert_eq!(agreed(9, time(i64::MAX, true)), Some(9));
    }
}
