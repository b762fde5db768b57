//! What is done about a database that lost commits which had been answered.
//!
//! It is as after a restore: others may rely on what was lost. So no number is given twice, and every
//! ingester is fenced: it registers anew, which compares its log with this catalog, lists its open
//! tables again, and refuses to go on when its log was cut for a flush that is lost.

use super::dialect::Connection;
use super::postgres::{self, PostgresOptions};
use super::store::store_error;
use super::{Failure, migrations, restore, tables};
use crate::SnapshotId;

/// Brings a copy from an older release to the layout of this one.
pub(super) async fn migrate(options: &PostgresOptions) -> Result<(), Failure> {
    let connected = async {
        let (connect, _) = options.read()?;
        postgres::connect(&connect, options.timeout).await
    };
    let mut connection = match connected.await {
        Ok(connection) => connection,
        Err(postgres::Error::Connect(error)) => return Err(error.into()),
        Err(error) => return Err(failed(error)),
    };
    // A catalog is not made anew under those who had another one.
    if !tables::exists(&mut connection, &postgres::DIALECT, "migrations").await? {
        return Err(failed(postgres::Error::NoCatalog));
    }
    match migrations::apply(&mut connection, &postgres::DIALECT).await {
        Ok(()) => Ok(()),
        Err(migrations::Error::Sql(error)) if postgres::passes(&error) => Err(error.into()),
        Err(error) => Err(failed(postgres::Error::OlderCopy(error))),
    }
}

fn failed(error: postgres::Error) -> Failure {
    store_error("bringing an older copy of the database up to date", error).into()
}

/// Jumps over the numbers that may have been given in the lost commits, and ends all lives of ingesters.
pub(super) async fn recover(c: &mut Connection) -> Result<SnapshotId, Failure> {
    restore::jump(c, "set_back").await?;
    Ok(super::snapshot::newest(c).await?)
}
