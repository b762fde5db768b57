//! What is done about a database that lost commits which had been answered.
//!
//! It is as after a restore: others may rely on what was lost. So no number is given twice, and every
//! ingester is fenced: it registers anew, which compares its log with this catalog, lists its open
//! tables again, and refuses to go on when its log was cut for a flush that is lost.

use super::dialect::Connection;
use super::{Failure, restore};
use crate::SnapshotId;

/// Jumps over the numbers that may have been given in the lost commits, and ends all lives of ingesters.
pub(super) async fn recover(c: &mut Connection) -> Result<SnapshotId, Failure> {
    restore::jump(c, "set_back").await?;
    Ok(super::snapshot::newest(c).await?)
}
