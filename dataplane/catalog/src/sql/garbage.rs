//! Objects to be deleted, the memory of what was deleted, and what can be forgotten altogether.

use std::time::Duration;

use sqlx::Row as _;

use super::clock::{is_settled, now_millis};
use super::dialect::{Connection, Row};
use super::value::{stored, unsigned};
use super::{Failure, past, snapshot, watch};
use crate::{Garbage, GarbageQueue, HistoryForgotten, Lease};

/// Snapshots forgotten in one call: one call must not keep the others waiting for long.
const SNAPSHOTS_PER_CALL: i64 = 5_000;

/// Queues an object for deletion.
pub(super) async fn queue(c: &mut Connection, path: &str) -> Result<(), sqlx::Error> {
    let queued = snapshot::no_earlier_than_newest(c).await?;
    sqlx::query(
        "INSERT INTO gc_queue (path, queued_at_millis) VALUES ($1, $2)
         ON CONFLICT (path) DO NOTHING",
    )
    .bind(path)
    .bind(queued)
    .execute(c)
    .await?;
    Ok(())
}

/// Whether an object is, or was, to be deleted.
pub(super) async fn is_queued(c: &mut Connection, path: &str) -> Result<bool, sqlx::Error> {
    let found: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM gc_queue WHERE path = $1")
        .bind(path)
        .fetch_one(c)
        .await?;
    Ok(found > 0)
}

/// The objects that have waited for `grace`, longest first. One a live file has is never among them.
pub(super) async fn due(
    c: &mut Connection,
    grace: Duration,
    limit: u32,
) -> Result<Vec<Garbage>, Failure> {
    if !is_settled() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query(
        "SELECT path, queued_at_millis FROM gc_queue
         WHERE deleted_at_millis IS NULL AND queued_at_millis <= $1
           AND NOT EXISTS (SELECT 1 FROM files
                           WHERE files.path = gc_queue.path AND files.end_snapshot IS NULL)
         ORDER BY queued_at_millis LIMIT $2",
    )
    .bind(before(grace))
    .bind(i64::from(limit))
    .try_map(|row: Row| {
        Ok(Garbage {
            path: row.try_get("path")?,
            queued_at_millis: row.try_get("queued_at_millis")?,
        })
    })
    .fetch_all(c)
    .await?)
}

/// Records that objects are gone, and forgets the files that had them.
pub(super) async fn deleted(c: &mut Connection, paths: Vec<String>) -> Result<(), Failure> {
    let mut ended = 0;
    for path in paths {
        let end: Option<i64> = sqlx::query_scalar(
            "DELETE FROM files WHERE path = $1 AND end_snapshot IS NOT NULL RETURNING end_snapshot",
        )
        .bind(&path)
        .fetch_optional(&mut *c)
        .await?;
        ended = ended.max(end.unwrap_or_default());
        sqlx::query(
            "UPDATE gc_queue SET deleted_at_millis = $2
             WHERE path = $1 AND deleted_at_millis IS NULL",
        )
        .bind(&path)
        .bind(now_millis())
        .execute(&mut *c)
        .await?;
    }
    // The states before lack these files from now on.
    Ok(past::forget_before(c, ended).await?)
}

/// How much waits.
pub(super) async fn waiting(c: &mut Connection) -> Result<GarbageQueue, Failure> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS objects, MIN(queued_at_millis) AS oldest FROM gc_queue
         WHERE deleted_at_millis IS NULL",
    )
    .fetch_one(c)
    .await?;
    Ok(GarbageQueue {
        objects: unsigned(&row, "objects")?,
        oldest_millis: row.try_get("oldest")?,
    })
}

/// Those of the paths that are neither a file's nor queued, in the order given.
pub(super) async fn unknown(
    c: &mut Connection,
    paths: Vec<String>,
) -> Result<Vec<String>, Failure> {
    let mut unknown = Vec::new();
    for path in paths {
        let known: i64 = sqlx::query_scalar(
            "SELECT (SELECT COUNT(*) FROM files WHERE path = $1)
                  + (SELECT COUNT(*) FROM gc_queue WHERE path = $1 AND deleted_at_millis IS NULL)",
        )
        .bind(&path)
        .fetch_one(&mut *c)
        .await?;
        if known == 0 {
            unknown.push(path);
        }
    }
    Ok(unknown)
}

/// Queues those of the paths that no file has. From now on no file can get them.
pub(super) async fn condemn(c: &mut Connection, paths: Vec<String>) -> Result<u64, Failure> {
    // No flush may add one of them between the look and the entry.
    snapshot::lock(c).await?;
    let mut condemned = 0;
    for path in paths {
        // A path that was deleted before is there again: it waits once more.
        let queued = sqlx::query(
            "INSERT INTO gc_queue (path, queued_at_millis)
             SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM files WHERE path = $1)
             ON CONFLICT (path) DO UPDATE
             SET queued_at_millis = excluded.queued_at_millis, deleted_at_millis = NULL
             WHERE gc_queue.deleted_at_millis IS NOT NULL",
        )
        .bind(&path)
        .bind(now_millis())
        .execute(&mut *c)
        .await?;
        condemned += queued.rows_affected();
    }
    Ok(condemned)
}

/// Takes, keeps or gives back a job; whether the caller has it now.
pub(super) async fn lease(c: &mut Connection, lease: Lease) -> Result<bool, Failure> {
    let Lease {
        job,
        table,
        holder,
        time,
    } = lease;
    let now = now_millis();
    let until = now.saturating_add(millis(time));
    let taken = sqlx::query(
        "INSERT INTO leases (job, table_id, holder, until_millis) VALUES ($1, $2, $3, $4)
         ON CONFLICT (job, table_id) DO UPDATE
         SET holder = excluded.holder, until_millis = excluded.until_millis
         WHERE leases.holder = excluded.holder OR leases.until_millis <= $5",
    )
    .bind(job.as_str())
    .bind(stored(table.map_or(0, |table| table.0))?)
    .bind(holder)
    .bind(until)
    .bind(now)
    .execute(c)
    .await?;
    Ok(taken.rows_affected() > 0)
}

/// Forgets what only the past before `window` needs.
pub(super) async fn forget_history(
    c: &mut Connection,
    window: Duration,
) -> Result<HistoryForgotten, Failure> {
    if !is_settled() {
        return Ok(HistoryForgotten::default());
    }
    let before = before(window);
    let newest: Option<i64> =
        sqlx::query_scalar("SELECT MAX(id) FROM snapshots WHERE created_at_millis < $1")
            .bind(before)
            .fetch_one(&mut *c)
            .await?;
    let mut forgotten = HistoryForgotten::default();
    for statement in [
        "DELETE FROM replacements WHERE committed_at_millis < $1",
        "DELETE FROM gc_queue WHERE deleted_at_millis < $1",
        "DELETE FROM leases WHERE until_millis < $1",
        "DELETE FROM statements WHERE expires_at_millis < $1",
    ] {
        forgotten.records += delete(c, statement, before).await?;
    }
    let old = now_millis().saturating_sub(watch::FORGOTTEN_MILLIS);
    // Not by age alone: on a clock that is set far ahead everybody else would be old at once.
    forgotten.records += delete(
        c,
        "DELETE FROM writers WHERE at_millis < $1
           AND id NOT IN (SELECT id FROM writers ORDER BY at_millis DESC LIMIT 1000)",
        old,
    )
    .await?;
    // The state at `newest` is the oldest that can still be asked for.
    let Some(newest) = newest else {
        return Ok(forgotten);
    };
    past::forget_before(c, newest).await?;
    forgotten.schema_versions = delete(
        c,
        "DELETE FROM schema_versions
         WHERE EXISTS (SELECT 1 FROM schema_versions later
                       WHERE later.table_id = schema_versions.table_id
                         AND later.version > schema_versions.version
                         AND later.begin_snapshot <= $1)
           AND NOT EXISTS (SELECT 1 FROM files WHERE files.table_id = schema_versions.table_id
                             AND files.schema_version = schema_versions.version)",
        newest,
    )
    .await?;
    forgotten.schema_versions += delete(
        c,
        "DELETE FROM schema_versions WHERE table_id IN
           (SELECT id FROM tables WHERE end_snapshot <= $1
              AND NOT EXISTS (SELECT 1 FROM files WHERE files.table_id = tables.id))",
        newest,
    )
    .await?;
    for statement in ["DELETE FROM replacements WHERE table_id IN
           (SELECT id FROM tables WHERE end_snapshot <= $1
              AND NOT EXISTS (SELECT 1 FROM files WHERE files.table_id = tables.id))"]
    {
        forgotten.records += delete(c, statement, newest).await?;
    }
    forgotten.tables = delete(
        c,
        "DELETE FROM tables WHERE end_snapshot <= $1
           AND NOT EXISTS (SELECT 1 FROM files WHERE files.table_id = tables.id)",
        newest,
    )
    .await?;
    forgotten.snapshots = forget_snapshots(c, newest).await?;
    Ok(forgotten)
}

async fn forget_snapshots(c: &mut Connection, newest: i64) -> Result<u64, sqlx::Error> {
    let result = sqlx::query(
        "DELETE FROM snapshots WHERE id IN (
           SELECT id FROM snapshots s WHERE s.id < $1
             AND NOT EXISTS (SELECT 1 FROM databases WHERE begin_snapshot = s.id)
             AND NOT EXISTS (SELECT 1 FROM tables WHERE begin_snapshot = s.id)
             AND NOT EXISTS (SELECT 1 FROM tables WHERE end_snapshot = s.id)
             AND NOT EXISTS (SELECT 1 FROM schema_versions WHERE begin_snapshot = s.id)
           ORDER BY s.id LIMIT $2)",
    )
    .bind(newest)
    .bind(SNAPSHOTS_PER_CALL)
    .execute(c)
    .await?;
    Ok(result.rows_affected())
}

async fn delete(
    c: &mut Connection,
    statement: &'static str,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let result = sqlx::query(statement).bind(limit).execute(c).await?;
    Ok(result.rows_affected())
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The moment `age` ago.
fn before(age: Duration) -> i64 {
    now_millis().saturating_sub(millis(age))
}
