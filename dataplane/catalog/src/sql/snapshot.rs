//! Snapshot ids and the consistent view of tables, files, watermarks and ingesters.

use std::sync::LazyLock;

use super::clock::now_millis;
use super::dialect::Connection;
use super::files::{self, COLUMNS, joined};
use super::value::{stored, unsigned};
use super::{Failure, ingester, open, restore, spans, table};
use crate::{
    Error, File, FileChoice, IngesterId, LiveFiles, SequenceNumber, Snapshot, SnapshotId,
    SnapshotRequest, SnapshotStamp, Table, TableId, TableSnapshot,
};

/// The live files of a table.
static LIVE: LazyLock<String> = LazyLock::new(|| joined(&live("")));

/// Of those the ones below the size `$2`, and at most `$3`.
static SMALL: LazyLock<String> =
    LazyLock::new(|| joined(&live("AND size_bytes < $2 ORDER BY id LIMIT $3")));

/// Of those the ones below the size `$2` and before the time `$3`, and at most `$4`.
static SMALL_BEFORE: LazyLock<String> = LazyLock::new(|| {
    joined(&live(
        "AND size_bytes < $2 AND time_max_nanos < $3 ORDER BY id LIMIT $4",
    ))
});

/// The live files of a table that may have times from `$2` to `$3`, class by class, and those whose times
/// are not known.
static BETWEEN: LazyLock<String> = LazyLock::new(|| {
    let unknown = live("AND time_max_nanos IS NULL");
    joined(&format!(
        "{unknown} UNION ALL {}",
        spans::touching(&live(""))
    ))
});

/// Selects live files of the table `$1`; the condition goes on after `WHERE …`.
fn live(condition: &str) -> String {
    format!("SELECT {COLUMNS} FROM files WHERE table_id = $1 AND end_snapshot IS NULL {condition}")
}

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
    let ingesters = ingester::list_active(c).await?;
    let listed = open::listed(c).await?;
    let mut tables = Vec::with_capacity(request.tables.len());
    for (name, choice) in &request.tables {
        if let Some(table) = table::find(c, name).await? {
            let mut read = read_table(c, table, *choice).await?;
            read.closed = open::closed(c, read.table.id, &ingesters, &listed).await?;
            tables.push(read);
        }
    }
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
    let (files, files_left_out) = read_files(c, table.id, choice).await?;
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
        closed: Vec::new(),
    })
}

/// The live files of a table that are asked for, oldest first.
pub(super) async fn live_files(c: &mut Connection, which: LiveFiles) -> Result<Vec<File>, Failure> {
    let below = which.below_bytes.map_or(Ok(i64::MAX), stored)?;
    let table = stored(which.table.0)?;
    let query = match which.before_nanos {
        None => files::query(&SMALL).bind(table).bind(below),
        Some(before) => files::query(&SMALL_BEFORE)
            .bind(table)
            .bind(below)
            .bind(before),
    };
    let query = query.bind(i64::from(which.limit));
    Ok(files::fetch(c, which.table, query).await?)
}

/// The chosen files of a table in the order they were added, and whether there are too many.
async fn read_files(
    c: &mut Connection,
    table: TableId,
    choice: FileChoice,
) -> Result<(Vec<File>, bool), sqlx::Error> {
    let id = stored(table.0)?;
    let query = match choice {
        FileChoice::All => files::query(&LIVE).bind(id),
        FileChoice::AtMost(most) => {
            let more: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM (SELECT 1 FROM files
                 WHERE table_id = $1 AND end_snapshot IS NULL LIMIT $2) AS found",
            )
            .bind(id)
            .bind(i64::from(most) + 1)
            .fetch_one(&mut *c)
            .await?;
            if more > i64::from(most) {
                return Ok((Vec::new(), true));
            }
            files::query(&LIVE).bind(id)
        }
        FileChoice::Between {
            from_nanos,
            to_nanos,
        } => {
            let range = files::query(&BETWEEN);
            let range = range.bind(id).bind(from_nanos).bind(to_nanos);
            spans::latest_ends(to_nanos).fold(range, |query, latest| query.bind(latest))
        }
    };
    Ok((files::fetch(c, table, query).await?, false))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
    use sqlx::{AssertSqlSafe, Connection as _, Row as _};

    use super::super::SqlCatalog;
    use super::*;

    /// How SQLite reads the table of files for a statement of the catalog.
    async fn reads(statement: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("catalog.sqlite");
        let _catalog = SqlCatalog::open_sqlite(&file).await.unwrap();
        let options = SqliteConnectOptions::new().filename(&file);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")))
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let details = plan.iter().map(|row| row.get::<String, _>("detail"));
        details.filter(|detail| detail.contains(" files")).collect()
    }

    #[tokio::test]
    async fn the_files_of_a_time_are_one_stretch_of_the_index_for_each_class() {
        let stretch = "SEARCH files USING INDEX files_live_by_time (table_id=? AND time_class=? AND \
                       time_max_nanos>? AND time_max_nanos<?)";
        let reads = reads(&BETWEEN).await;
        let (stretches, other): (Vec<_>, Vec<_>) =
            reads.iter().partition(|detail| *detail == stretch);
        assert_eq!(stretches.len(), spans::latest_ends(0).count(), "{reads:?}");
        let unknown = "SEARCH files USING INDEX files_of_table (table_id=? AND end_snapshot=? AND \
                       time_max_nanos=?)";
        assert_eq!(other, [unknown]);
    }

    #[tokio::test]
    async fn no_files_of_other_tables_or_of_the_past_are_read() {
        for statement in [&*LIVE, &*SMALL_BEFORE] {
            let reads = reads(statement).await;
            assert_eq!(reads.len(), 1, "{reads:?}");
            let of_table = "SEARCH files USING INDEX files_of_table (table_id=? AND end_snapshot=?";
            assert!(reads[0].starts_with(of_table), "{reads:?}");
        }
        let small = reads(&SMALL).await;
        assert!(
            small[0].starts_with("SEARCH files USING INDEX"),
            "{small:?}"
        );
    }
}
