//! The catalog as a whole: backup, restore, examination. Each takes as long as it takes.

use std::sync::Arc;

use super::{Backup, Examination, Restored, SqlCatalog, backup, examine, restore};
use crate::Error;

impl SqlCatalog {
    /// Reads the whole catalog, as it is at one moment, into a file that [`SqlCatalog::restore`] takes
    /// on any database. Calls go on meanwhile.
    pub async fn back_up(&self) -> Result<Backup, Error> {
        let dialect = self.store.dialect;
        self.store
            .long("backing up the catalog", false, move |c| {
                Box::pin(async move { Ok(backup::read(c, dialect).await?) })
            })
            .await
    }

    /// Fills this catalog, which must be empty, from a backup. All or nothing.
    ///
    /// Numbers of every kind go on far above those of the backup, so that none is given twice.
    ///
    /// - Errors: [`Error::Store`] when the catalog is not empty, the file is no whole backup, or a
    ///   newer program wrote it; nothing was changed then.
    pub async fn restore(&self, backup: Vec<u8>) -> Result<Restored, Error> {
        let (dialect, bytes): (_, Arc<[u8]>) = (self.store.dialect, backup.into());
        let restored = self.store.long("restoring a backup", true, move |c| {
            Box::pin(restore::restore(c, dialect, bytes))
        });
        let restored = restored.await?;
        if let Some(watch) = &self.store.watch {
            watch.forget();
        }
        Ok(restored)
    }

    /// Looks for contradictions in the whole catalog and lists its objects.
    pub async fn examine(&self) -> Result<Examination, Error> {
        self.store
            .long("examining the catalog", false, |c| {
                Box::pin(async move { Ok(examine::read(c).await?) })
            })
            .await
    }
}
