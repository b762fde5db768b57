//! Snapshot ids and the consistent view of tables, files, watermarks and ingesters.

use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, Row as _};

use super::clock::now_millis;
use super::dialect::{Connection, Row};
use super::value::{optional, stored, unsigned};
use super::{Failure, ingester, restore, spans, table};
use crate::{
    Error, File, FileChoice, IngesterId, LiveFiles, NewFile, SchemaVersion, SequenceNumber,
    Snapshot, SnapshotId, SnapshotRequest, SnapshotStamp, Table, TableId, TableSnapshot,
};

/// Live files of a table (`$1`) with their columns; the argument goes on after `WHERE … AND`.
macro_rules! select_files {
    ($rest:literal) => {
        concat!(
            "SELECT id, table_id, ingester_id, path, size_bytes, row_count, schema_version,
                    first_sequence, last_sequence, time_min_nanos, time_max_nanos, begin_snapshot
             FROM files WHERE table_id = $1 AND end_snapshot IS NULL ",
            $rest
        )
    };
}

/// The live files of a table that may have times from `$2` to `$3`, class by class, and those whose times
/// are not known.
static BETWEEN: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{} UNION ALL {} ORDER BY id",
        select_files!("AND time_max_nanos IS NULL"),
        spans::touching(select_files!(""))
    )
});

/// Gives the next number of a kind; the row stays locked until the transaction ends.
pub(super) async fn next_id(c: &mut Connection, kind: &'static str) -> Result<i64, sqlx::Error> {
    next_ids(c, kind, 1).await
}

/// Waits until no other transaction that makes a snapshot is under way, and keeps the next ones
/// waiting until this one ends.
pub(super) async fn lock(c: &mut Connection) -> Result<(), sqlx::Error> {
    next_ids(c, "snapshot", 0).await.map(drop)
}

/// Gives `count` numbers in a row and returns the last.
pub(super) async fn next_ids(
    c: &mut Connection,
    kind: &'static str,
    count: i64,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("UPDATE counters SET value = value + $1 WHERE kind = $2 RETURNING value")
        .bind(count)
        .bind(kind)
        .fetch_one(c)
        .await
}

/// Begins the next state of the catalog, as the database keeps its id.
pub(super) async fn next(c: &mut Connection, cause: &'static str) -> Result<i64, sqlx::Error> {
    let id = next_id(c, "snapshot").await?;
    sqlx::query("INSERT INTO snapshots (id, created_at_millis, cause) VALUES ($1, $2, $3)")
        .bind(id)
        .bind(now_millis())
        .bind(cause)
        .execute(c)
        .await?;
    Ok(id)
}

/// The last number given of a kind.
pub(super) async fn last_id(c: &mut Connection, kind: &'static str) -> Result<u64, sqlx::Error> {
    let row = sqlx::query("SELECT value FROM counters WHERE kind = $1")
        .bind(kind)
        .fetch_one(c)
        .await?;
    unsigned(&row, "value")
}

/// The id of the present state.
pub(super) async fn newest(c: &mut Connection) -> Result<SnapshotId, sqlx::Error> {
    last_id(c, "snapshot").await.map(SnapshotId)
}

/// The present state with its time. The state before the first has time 0.
pub(super) async fn newest_stamp(c: &mut Connection) -> Result<SnapshotStamp, sqlx::Error> {
    let snapshot = newest(c).await?;
    let created = created_at_millis(c, snapshot).await?;
    Ok(SnapshotStamp {
        snapshot,
        created_at_millis: created.unwrap_or_default(),
    })
}

/// The present for what expires by its age: on a clock that was set far back it would be old at once when
/// the clock is right again.
pub(super) async fn no_earlier_than_newest(c: &mut Connection) -> Result<i64, sqlx::Error> {
    let newest: Option<i64> = sqlx::query_scalar("SELECT MAX(created_at_millis) FROM snapshots")
        .fetch_one(c)
        .await?;
    Ok(now_millis().max(newest.unwrap_or_default()))
}

pub(super) async fn created_at_millis(
    c: &mut Connection,
    snapshot: SnapshotId,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT created_at_millis FROM snapshots WHERE id = $1")
        .bind(stored(snapshot.0)?)
        .fetch_optional(c)
        .await
}

/// Refuses a caller that has seen a state which this catalog does not have: a later one, one of the same
/// number made at another time, or one that a restore jumped over. What is neither was forgotten.
pub(super) async fn check(c: &mut Connection, seen: SnapshotStamp) -> Result<(), Failure> {
    let rolled_back = match created_at_millis(c, seen.snapshot).await? {
        Some(created) => created != seen.created_at_millis,
        None => seen.snapshot > newest(c).await? || jumped_over(c, seen.snapshot).await?,
    };
    if !rolled_back {
        return Ok(());
    }
    Err(Error::RolledBack {
        seen: seen.snapshot,
        newest: newest(c).await?,
    }
    .into())
}

async fn jumped_over(c: &mut Connection, snapshot: SnapshotId) -> Result<bool, sqlx::Error> {
    let restores: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM restores WHERE snapshot > $1 AND snapshot - $2 <= $1",
    )
    .bind(stored(snapshot.0)?)
    .bind(restore::JUMP)
    .fetch_one(c)
    .await?;
    Ok(restores > 0)
}

/// Reads the present state of the named tables. The transaction makes it consistent.
pub(super) async fn read(
    c: &mut Connection,
    request: SnapshotRequest,
) -> Result<Snapshot, Failure> {
    let id = newest(c).await?;
    let mut tables = Vec::with_capacity(request.tables.len());
    for (name, choice) in &request.tables {
        if let Some(table) = table::find(c, name).await? {
            tables.push(read_table(c, table, *choice).await?);
        }
    }
    let ingesters = ingester::list_active(c).await?;
    Ok(Snapshot {
        id,
        tables,
        ingesters,
    })
}

async fn read_table(
    c: &mut Connection,
    table: Table,
    choice: FileChoice,
) -> Result<TableSnapshot, sqlx::Error> {
    let id = stored(table.id.0)?;
    let (files, files_left_out) = read_files(c, id, choice).await?;
    let watermarks = sqlx::query(
        "SELECT ingester_id, sequence FROM watermarks WHERE table_id = $1 ORDER BY ingester_id",
    )
    .bind(id)
    .try_map(|row| {
        let ingester = IngesterId(unsigned(&row, "ingester_id")?);
        Ok((ingester, SequenceNumber(unsigned(&row, "sequence")?)))
    })
    .fetch_all(c)
    .await?;
    Ok(TableSnapshot {
        table,
        files,
        files_left_out,
        watermarks,
    })
}

/// The live files of a table that are asked for, oldest first.
pub(super) async fn live_files(c: &mut Connection, which: LiveFiles) -> Result<Vec<File>, Failure> {
    let below = which.below_bytes.map_or(Ok(i64::MAX), stored)?;
    let files = match which.before_nanos {
        None => sqlx::query(select_files!("AND size_bytes < $2 ORDER BY id LIMIT $3"))
            .bind(stored(which.table.0)?)
            .bind(below)
            .bind(i64::from(which.limit)),
        Some(before) => sqlx::query(select_files!(
            "AND size_bytes < $2 AND time_max_nanos < $3 ORDER BY id LIMIT $4"
        ))
        .bind(stored(which.table.0)?)
        .bind(below)
        .bind(before)
        .bind(i64::from(which.limit)),
    };
    Ok(files.try_map(|row| file(&row)).fetch_all(c).await?)
}

/// The chosen files of a table in the order they were added, and whether there are too many.
async fn read_files(
    c: &mut Connection,
    table: i64,
    choice: FileChoice,
) -> Result<(Vec<File>, bool), sqlx::Error> {
    let query = match choice {
        FileChoice::All => sqlx::query(select_files!("ORDER BY id")).bind(table),
        FileChoice::AtMost(most) => {
            let more: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM (SELECT 1 FROM files
                 WHERE table_id = $1 AND end_snapshot IS NULL LIMIT $2) AS found",
            )
            .bind(table)
            .bind(i64::from(most) + 1)
            .fetch_one(&mut *c)
            .await?;
            if more > i64::from(most) {
                return Ok((Vec::new(), true));
            }
            sqlx::query(select_files!("ORDER BY id")).bind(table)
        }
        FileChoice::Between {
            from_nanos,
            to_nanos,
        } => {
            let range = sqlx::query(AssertSqlSafe(BETWEEN.as_str()));
            let range = range.bind(table).bind(from_nanos).bind(to_nanos);
            spans::latest_ends(to_nanos).fold(range, |query, latest| query.bind(latest))
        }
    };
    let files = query.try_map(|row| file(&row)).fetch_all(c).await?;
    Ok((files, false))
}

pub(super) fn file(row: &Row) -> Result<File, sqlx::Error> {
    let time_min: Option<i64> = row.try_get("time_min_nanos")?;
    let time_max: Option<i64> = row.try_get("time_max_nanos")?;
    Ok(File {
        id: unsigned(row, "id")?,
        ingester: optional(row, "ingester_id")?.map(IngesterId),
        file: NewFile {
            table: TableId(unsigned(row, "table_id")?),
            path: row.try_get("path")?,
            size_bytes: unsigned(row, "size_bytes")?,
            rows: unsigned(row, "row_count")?,
            schema_version: SchemaVersion(unsigned(row, "schema_version")?),
            first_sequence: SequenceNumber(unsigned(row, "first_sequence")?),
            last_sequence: SequenceNumber(unsigned(row, "last_sequence")?),
            time_range_nanos: time_min.zip(time_max),
        },
        begin_snapshot: SnapshotId(unsigned(row, "begin_snapshot")?),
    })
}
