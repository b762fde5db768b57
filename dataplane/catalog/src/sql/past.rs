//! States of before: which can be read, and what tables and files they have.
//!
//! A file is kept for some time after its end, and until then so is its row here. When the rows of
//! deleted objects go, `counters` notes in the same transaction that all older states lack something
//! ([`forget_before`]). A state that is asked for is compared with that in the transaction that reads its
//! files: it is whole, or refused.

use std::sync::LazyLock;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Row as _};

use super::clock::now_millis;
use super::dialect::{Connection, Row};
use super::files::{self, COLUMNS, joined};
use super::table::table;
use super::value::{stored, unsigned};
use super::{Failure, snapshot};
use crate::{
    AsOf, Error, File, FileChoice, NotReadable, Snapshot, SnapshotId, SnapshotRecord,
    SnapshotRequest, SnapshotStamp, Table, TableId, TableName, TableSnapshot, name,
};

/// The counter with the oldest state that is whole.
const OLDEST: &str = "oldest_snapshot";

/// The files of a table in a state.
static ALL: LazyLock<String> = LazyLock::new(|| joined(&select(COLUMNS, "")));

/// Of those the ones that may have times from `$3` to `$4`.
static BETWEEN: LazyLock<String> = LazyLock::new(|| {
    let condition =
        "AND (time_max_nanos IS NULL OR (time_max_nanos >= $3 AND time_min_nanos <= $4))";
    joined(&select(COLUMNS, condition))
});

/// Whether there are `$3` of them.
static COUNT: LazyLock<String> = LazyLock::new(|| {
    let some = select("1", "LIMIT $3");
    format!("SELECT COUNT(*) FROM ({some}) AS found")
});

/// Selects files of the table `$1` in the state `$2`; the condition goes on after `WHERE …`.
fn select(columns: &str, condition: &str) -> String {
    format!(
        "SELECT {columns} FROM files WHERE table_id = $1 AND begin_snapshot <= $2 \
         AND (end_snapshot IS NULL OR end_snapshot > $2) {condition}"
    )
}

/// Notes that states before `snapshot` are no longer whole.
pub(super) async fn forget_before(c: &mut Connection, snapshot: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE counters SET value = $2 WHERE kind = $1 AND value < $2")
        .bind(OLDEST)
        .bind(snapshot)
        .execute(c)
        .await?;
    Ok(())
}

/// The state somebody asks for. To be called where no writer is under way: a state that appears later
/// has a later time then.
pub(super) async fn resolve(c: &mut Connection, as_of: AsOf) -> Result<SnapshotStamp, Failure> {
    let found: Option<i64> = match as_of {
        AsOf::Snapshot(id) => {
            sqlx::query_scalar("SELECT id FROM snapshots WHERE id = $1")
                .bind(stored(id.0).unwrap_or(i64::MAX))
                .fetch_optional(&mut *c)
                .await?
        }
        AsOf::Millis(millis) => {
            if millis > now_millis() {
                return Err(not_readable(c, as_of, NotReadable::ToCome).await?.into());
            }
            while millis == now_millis() {
                // The next state may be made in the same millisecond.
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            sqlx::query_scalar(
                "SELECT id FROM snapshots WHERE created_at_millis <= $1 ORDER BY id DESC LIMIT 1",
            )
            .bind(millis)
            .fetch_optional(&mut *c)
            .await?
        }
    };
    let found = found.map(|id| u64::try_from(id).map(SnapshotId));
    match found.transpose().map_err(decode)? {
        Some(id) if id >= oldest(c).await? => Ok(stamp(c, id).await?),
        None if matches!(as_of, AsOf::Snapshot(id) if id > snapshot::newest(c).await?) => {
            Err(not_readable(c, as_of, NotReadable::ToCome).await?.into())
        }
        _ => Err(not_readable(c, as_of, NotReadable::Gone).await?.into()),
    }
}

/// Reads a state that [`resolve`] gave, if it is still whole.
pub(super) async fn read(
    c: &mut Connection,
    id: SnapshotId,
    request: SnapshotRequest,
) -> Result<Snapshot, Failure> {
    // In this transaction: what is deleted from now on is still seen here.
    resolve(c, AsOf::Snapshot(id)).await?;
    let mut tables = Vec::with_capacity(request.tables.len());
    for (name, choice) in &request.tables {
        if let Some(table) = find(c, name, id).await? {
            let (files, files_left_out) = read_files(c, table.id, id, *choice).await?;
            tables.push(TableSnapshot {
                table,
                files,
                files_left_out,
                watermarks: Vec::new(),
                closed: Vec::new(),
            });
        }
    }
    Ok(Snapshot {
        id,
        tables,
        ingesters: Vec::new(),
    })
}

/// The table that had a name, with the schema it had, and the options it has.
async fn find(
    c: &mut Connection,
    name: &TableName,
    id: SnapshotId,
) -> Result<Option<Table>, sqlx::Error> {
    sqlx::query(
        "SELECT t.id, d.name AS database_name, t.schema_name, t.name, v.version AS schema_version,
                t.options, d.options AS database_options, t.created_at_millis, v.schema_bytes
         FROM tables t
         JOIN databases d ON d.id = t.database_id
         JOIN schema_versions v ON v.table_id = t.id
         WHERE d.name = $1 AND t.schema_name = $2 AND t.name = $3
           AND t.begin_snapshot <= $4 AND (t.end_snapshot IS NULL OR t.end_snapshot > $4)
           AND v.version = (SELECT MAX(version) FROM schema_versions s
                            WHERE s.table_id = t.id AND s.begin_snapshot <= $4)",
    )
    .bind(&name.database)
    .bind(&name.schema)
    .bind(&name.table)
    .bind(stored(id.0)?)
    .try_map(|row| table(&row))
    .fetch_optional(c)
    .await
}

/// The chosen files of a table in the order they were added, and whether there are too many.
async fn read_files(
    c: &mut Connection,
    table: TableId,
    id: SnapshotId,
    choice: FileChoice,
) -> Result<(Vec<File>, bool), sqlx::Error> {
    let (number, id) = (stored(table.0)?, stored(id.0)?);
    let query = match choice {
        FileChoice::All => files::query(&ALL).bind(number).bind(id),
        FileChoice::AtMost(most) => {
            let more: i64 = sqlx::query_scalar(AssertSqlSafe(COUNT.as_str()))
                .bind(number)
                .bind(id)
                .bind(i64::from(most) + 1)
                .fetch_one(&mut *c)
                .await?;
            if more > i64::from(most) {
                return Ok((Vec::new(), true));
            }
            files::query(&ALL).bind(number).bind(id)
        }
        FileChoice::Between {
            from_nanos,
            to_nanos,
        } => {
            let query = files::query(&BETWEEN).bind(number).bind(id);
            query.bind(from_nanos).bind(to_nanos)
        }
    };
    Ok((files::fetch(c, table, query).await?, false))
}

/// The newest states that can be read, newest first.
pub(super) async fn list(c: &mut Connection, limit: u32) -> Result<Vec<SnapshotRecord>, Failure> {
    let oldest = oldest(c).await?;
    let found = sqlx::query(
        "SELECT s.id, s.created_at_millis, s.cause,
                d.name AS database_name, t.schema_name, t.name
         FROM (SELECT id, created_at_millis, cause FROM snapshots WHERE id >= $1
               ORDER BY id DESC LIMIT $2) s
         LEFT JOIN replacements r ON r.snapshot = s.id
         LEFT JOIN schema_versions v ON v.begin_snapshot = s.id
         LEFT JOIN tables b ON b.begin_snapshot = s.id
         LEFT JOIN tables e ON e.end_snapshot = s.id
         LEFT JOIN tables t ON t.id = COALESCE(r.table_id, v.table_id, b.id, e.id)
         LEFT JOIN databases d ON d.id = t.database_id
         ORDER BY s.id DESC",
    )
    .bind(stored(oldest.0)?)
    .bind(i64::from(limit))
    .try_map(|row| record(&row))
    .fetch_all(c)
    .await?;
    let mut records: Vec<SnapshotRecord> = Vec::with_capacity(found.len());
    for record in found {
        match records.last_mut() {
            // A state that ends or begins several tables: of those with a name, they are of one.
            Some(last) if last.stamp == record.stamp => {
                last.table = last.table.take().or(record.table)
            }
            _ => records.push(record),
        }
    }
    Ok(records)
}

fn record(row: &Row) -> Result<SnapshotRecord, sqlx::Error> {
    let schema: Option<String> = row.try_get("schema_name")?;
    let published = schema.filter(|schema| schema != name::UNPUBLISHED_SCHEMA);
    let table = match published {
        None => None,
        Some(schema) => Some(TableName {
            database: row.try_get("database_name")?,
            schema,
            table: row.try_get("name")?,
        }),
    };
    Ok(SnapshotRecord {
        stamp: SnapshotStamp {
            snapshot: SnapshotId(unsigned(row, "id")?),
            created_at_millis: row.try_get("created_at_millis")?,
        },
        cause: row.try_get("cause")?,
        table,
    })
}

async fn oldest(c: &mut Connection) -> Result<SnapshotId, sqlx::Error> {
    snapshot::last_id(c, OLDEST).await.map(SnapshotId)
}

async fn stamp(c: &mut Connection, snapshot: SnapshotId) -> Result<SnapshotStamp, sqlx::Error> {
    let created = snapshot::created_at_millis(c, snapshot).await?;
    Ok(SnapshotStamp {
        snapshot,
        created_at_millis: created.unwrap_or_default(),
    })
}

async fn not_readable(
    c: &mut Connection,
    asked: AsOf,
    why: NotReadable,
) -> Result<Error, sqlx::Error> {
    let edge = match why {
        NotReadable::ToCome => snapshot::newest(c).await?,
        NotReadable::Gone => {
            let id: Option<i64> =
                sqlx::query_scalar("SELECT MIN(id) FROM snapshots WHERE id >= $1")
                    .bind(stored(oldest(c).await?.0)?)
                    .fetch_one(&mut *c)
                    .await?;
            match id.map(u64::try_from).transpose().map_err(decode)? {
                Some(id) => SnapshotId(id),
                None => snapshot::newest(c).await?,
            }
        }
    };
    let edge = stamp(c, edge).await?;
    Ok(Error::NotReadable { asked, why, edge })
}

fn decode(error: std::num::TryFromIntError) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
