//! Order numbers of rows: given once, in growing order over all processes.
//!
//! The counter is one row. Whoever adds to it locks it until the commit, and a call that begins after
//! another has returned finds what that one left: so its numbers are higher. Nothing else is read or
//! locked: long commits of other kinds are not waited for.

use super::dialect::Connection;
use super::value::stored;
use super::{Failure, ingester};
use crate::{Epoch, Error, IngesterId};

/// Most numbers of one call: more rows than any group of batches has. Keeps the counter far from its
/// end, whatever a caller asks for.
const MOST: u64 = 1 << 40;

/// What is wrong with a call that no ingester makes.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("{0} order numbers can't be taken at once")]
    Count(u64),
    #[error("the counter of order numbers is missing")]
    NoCounter,
}

/// Takes `rows` numbers; returns the first.
pub(super) async fn take(
    c: &mut Connection,
    id: IngesterId,
    epoch: Epoch,
    rows: u64,
) -> Result<i64, Failure> {
    if !(1..=MOST).contains(&rows) {
        return Err(wrong(Wrong::Count(rows)));
    }
    let rows = stored(rows)?;
    let last: Option<i64> = sqlx::query_scalar(
        "UPDATE counters SET value = value + $1
         WHERE kind = 'order' AND EXISTS (SELECT 1 FROM ingesters WHERE id = $2 AND epoch = $3)
         RETURNING value",
    )
    .bind(rows)
    .bind(stored(id.0)?)
    .bind(stored(epoch.0)?)
    .fetch_optional(&mut *c)
    .await?;
    match last {
        Some(last) => Ok(last - rows + 1),
        None => {
            ingester::fence(c, id, epoch).await?;
            Err(wrong(Wrong::NoCounter))
        }
    }
}

/// The last number that was given.
pub(super) async fn last(c: &mut Connection) -> Result<i64, Failure> {
    let last = sqlx::query_scalar("SELECT value FROM counters WHERE kind = 'order'");
    let last: Option<i64> = last.fetch_optional(&mut *c).await?;
    last.ok_or_else(|| wrong(Wrong::NoCounter))
}

fn wrong(source: Wrong) -> Failure {
    let error = Error::Store {
        doing: "numbering rows",
        source: Box::new(source),
    };
    error.into()
}
