//! Which history a Postgres server is on, and what is done when that is a new one.
//!
//! A standby that is promoted begins a timeline; a copy that is brought up elsewhere, or a dump that is
//! read back, is another system or database. Commits that were answered may be missing then, and only
//! the process that made them can tell ([`watch`](super::watch)). Until it has, the others must not rely on what
//! such a commit would have changed. So the first connection to a new history, of whatever process,
//! records it before anything else is done on it, and in the same transaction
//!
//! - jumps over the numbers that may have been given in lost commits;
//! - doubts the lists of open tables: queries and deletions ask every ingester for every table, an upload is
//!   ended with all of them, and nobody takes a producer over.
//!
//! The doubt about an ingester ends when the process that writes for it has found everything of its own
//! ([`settle`]), or when its next life has said what its log has. Nobody is fenced when nothing was lost.
//!
//! An older copy that goes on with the same timeline, as that of a volume does, is not told apart.

use std::sync::Once;

use sqlx::Connection as _;

use super::clock::{Clock, now_millis};
use super::dialect::Connection;
use super::restore;
use super::value::stored;
use crate::IngesterId;

/// Names the history that a primary is on. The control file has the timeline of the last checkpoint, which
/// lags behind a promotion.
const ASK: &str = "SELECT CAST(system_identifier AS TEXT)
        || '/' || SUBSTR(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
        || '/' || CAST((SELECT oid FROM pg_database WHERE datname = current_database()) AS TEXT)
        || '/' || CAST(CAST(to_regclass('counters') AS OID) AS TEXT)
    FROM pg_control_system()";

/// Locks out all writers. The commit need not reach a standby: what any later one relies on goes there
/// before it, and one that takes over without it begins another history.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '8s'; \
     SET LOCAL idle_in_transaction_session_timeout = '10s'; \
     SET LOCAL statement_timeout = '60s'; SET LOCAL synchronous_commit = 'local'; \
     SELECT value FROM counters WHERE kind = 'snapshot' FOR UPDATE";

/// The history a connection is on; `None` when the server does not tell: some services keep it to themselves.
pub(super) async fn ask(c: &mut Connection) -> Result<Option<String>, sqlx::Error> {
    static TOLD: Once = Once::new();
    match sqlx::query_scalar(ASK).fetch_one(c).await {
        Ok(history) => Ok(history),
        Err(sqlx::Error::Database(error)) if !is_about_now(error.code().as_deref()) => {
            TOLD.call_once(|| {
                tracing::warn!(
                    error = %error,
                    "the Postgres server does not tell which history it is on: when another one takes \
                     over, only processes that lose commits notice it"
                );
            });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Whether an error is of the moment, and not of what the server allows or knows: connections, resources,
/// an end that was ordered, the system around it.
fn is_about_now(code: Option<&str>) -> bool {
    let class = code.and_then(|code| code.get(..2));
    class.is_none_or(|class| matches!(class, "08" | "40" | "53" | "57" | "58"))
}

/// Makes sure that a history is recorded, and what is above was done about it. Safe to repeat.
pub(super) async fn enter(
    c: &mut Connection,
    clock: &Clock,
    history: &str,
) -> Result<(), sqlx::Error> {
    if is_recorded(c, history).await? {
        return Ok(());
    }
    let mut transaction = c.begin_with(BEGIN).await?;
    let now = clock.read(&mut transaction).await?;
    let is_new = now.scope(record(&mut transaction, history)).await?;
    transaction.commit().await?;
    if is_new {
        tracing::warn!(
            history,
            "another Postgres server took over: every ingester is asked until it is known that nothing \
             of it was lost"
        );
    }
    Ok(())
}

async fn is_recorded(c: &mut Connection, history: &str) -> Result<bool, sqlx::Error> {
    let recorded: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM histories WHERE id = $1")
        .bind(history)
        .fetch_one(c)
        .await?;
    Ok(recorded > 0)
}

/// Returns whether it follows another one.
async fn record(c: &mut Connection, history: &str) -> Result<bool, sqlx::Error> {
    if is_recorded(c, history).await? {
        return Ok(false);
    }
    let before: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM histories")
        .fetch_one(&mut *c)
        .await?;
    if before > 0 {
        restore::skip_numbers(c, "new_history", false).await?;
        doubt(c).await?;
    }
    sqlx::query("INSERT INTO histories (id, at_millis) VALUES ($1, $2)")
        .bind(history)
        .bind(now_millis())
        .execute(c)
        .await?;
    Ok(before > 0)
}

/// Doubts what is listed for every ingester.
pub(super) async fn doubt(c: &mut Connection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE ingesters SET opens_epoch = -opens_epoch WHERE opens_epoch > 0")
        .execute(c)
        .await?;
    Ok(())
}

/// Ends the doubt about the present life of an ingester, for which this process writes: its list is whole
/// when `is_sure`, else the life ends, and the next one lists what its log has.
pub(super) async fn settle(
    c: &mut Connection,
    ingester: IngesterId,
    is_sure: bool,
) -> Result<(), sqlx::Error> {
    let statement = match is_sure {
        true => "UPDATE ingesters SET opens_epoch = epoch WHERE id = $1 AND opens_epoch = -epoch",
        false => "UPDATE ingesters SET epoch = epoch + 1 WHERE id = $1 AND opens_epoch = -epoch",
    };
    sqlx::query(statement)
        .bind(stored(ingester.0)?)
        .execute(c)
        .await?;
    Ok(())
}

/// An active ingester, other than this one, of which the catalog may lack what it acknowledged.
pub(super) async fn doubted(
    c: &mut Connection,
    except: IngesterId,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT name FROM ingesters
         WHERE state = 'active' AND opens_epoch < 0 AND id <> $1 ORDER BY name LIMIT 1",
    )
    .bind(stored(except.0)?)
    .fetch_optional(c)
    .await
}
