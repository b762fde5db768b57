//! The commit of a flush: files, watermarks and producer positions in one snapshot.
//!
//! # Repeats
//! A commit is known by a digest of all it says. A repeat finds its record and gets the same answer.
//! When the record has been forgotten, or the repeat says more than before, files whose path is known
//! are not added again, and watermarks and producer positions only move forward.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};
use sqlx::Row as _;

use super::clock::now_millis;
use super::dialect::{Connection, Row};
use super::value::{json, stored, unsigned};
use super::{Failure, files, garbage, ingester, producer, snapshot, spans};
use crate::{
    Error, FlushCommit, FlushCommitted, IngesterId, NewFile, SequenceNumber, SnapshotId, TableId,
};

/// Time the answers of flushes are kept. Retries come within seconds; a forgotten repeat is safe.
const REMEMBERED_MILLIS: i64 = 6 * 60 * 60 * 1000;

/// Why a file can't be added.
#[derive(Debug, thiserror::Error)]
enum BadPath {
    /// Paths hold a UUID, so this is a bug of the writer.
    #[error("path {path} already belongs to another file")]
    Taken { path: String },
    /// Names of databases have none, so this is a bug of the writer.
    #[error("path {path:?} has a tab or a line break")]
    Unreadable { path: String },
}

/// Applies a flush, or answers a repeat.
pub(super) async fn commit(
    c: &mut Connection,
    commit: FlushCommit,
) -> Result<FlushCommitted, Failure> {
    ingester::fence(c, commit.ingester, commit.epoch).await?;
    if let Some(seen) = commit.seen {
        snapshot::check(c, seen).await?;
    }
    let digest = digest(&commit)?;
    if let Some(answer) = remembered(c, &digest).await? {
        return Ok(answer);
    }
    let (live, dropped) = sort_tables(c, &commit).await?;
    if let Some(table) = { commit.without_files.iter() }.find(|table| live.contains(table)) {
        return Err(Error::TableExists(format!("id {table}")).into());
    }
    if let Some(until) = commit.valid_until_millis {
        if was_applied(c, &commit, &live).await? {
            return answer(c, dropped).await;
        }
        check_age(&commit.files, until)?;
    }
    let snapshot = snapshot::next(c, "flush").await?;
    add_files(c, &commit, &live, snapshot).await?;
    for (table, sequence) in commit
        .watermarks
        .iter()
        .filter(|(table, _)| live.contains(table))
    {
        move_watermark(c, commit.ingester, *table, *sequence).await?;
    }
    for position in commit
        .producers
        .iter()
        .filter(|position| live.contains(&position.table))
    {
        producer::move_forward(c, position).await?;
    }
    ingester::note_durable(c, commit.ingester, commit.durable).await?;
    remember(c, &digest, commit.ingester, snapshot, &dropped).await?;
    answer(c, dropped).await
}

async fn answer(
    c: &mut Connection,
    dropped_tables: Vec<TableId>,
) -> Result<FlushCommitted, Failure> {
    let newest = snapshot::newest_stamp(c).await?;
    Ok(FlushCommitted {
        snapshot: newest.snapshot,
        created_at_millis: newest.created_at_millis,
        dropped_tables,
    })
}

/// Whether a flush that is no longer remembered was applied: every watermark it moves is reached. Its files
/// may have been replaced since, and be forgotten: they are not added again.
async fn was_applied(
    c: &mut Connection,
    commit: &FlushCommit,
    live: &BTreeSet<TableId>,
) -> Result<bool, sqlx::Error> {
    let mut reached = false;
    for (table, sequence) in &commit.watermarks {
        if !live.contains(table) {
            continue;
        }
        let found: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM watermarks
             WHERE table_id = $1 AND ingester_id = $2 AND sequence >= $3",
        )
        .bind(stored(table.0)?)
        .bind(stored(commit.ingester.0)?)
        .bind(stored(sequence.0)?)
        .fetch_one(&mut *c)
        .await?;
        if found == 0 {
            return Ok(false);
        }
        reached = true;
    }
    Ok(reached)
}

/// Refuses files whose objects may be gone without a trace.
pub(super) fn check_age(files: &[NewFile], valid_until_millis: i64) -> Result<(), Failure> {
    match files.first() {
        Some(file) if valid_until_millis < now_millis() => {
            let path = file.path.clone();
            Err(Error::FileGivenUp { path }.into())
        }
        _ => Ok(()),
    }
}

/// Names a commit by everything in it, in whatever order it was listed.
fn digest(commit: &FlushCommit) -> Result<Vec<u8>, sqlx::Error> {
    let mut ordered = commit.clone();
    ordered.files.sort_by(|a, b| a.path.cmp(&b.path));
    ordered.watermarks.sort_unstable();
    ordered
        .producers
        .sort_by(|a, b| (a.table, &a.producer).cmp(&(b.table, &b.producer)));
    let text =
        serde_json::to_vec(&ordered).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    Ok(Sha256::digest(text).to_vec())
}

async fn remembered(
    c: &mut Connection,
    digest: &[u8],
) -> Result<Option<FlushCommitted>, sqlx::Error> {
    sqlx::query(
        "SELECT f.snapshot, f.dropped_tables, s.created_at_millis
         FROM flushes f JOIN snapshots s ON s.id = f.snapshot WHERE f.id = $1",
    )
    .bind(digest)
    .try_map(|row| {
        Ok(FlushCommitted {
            snapshot: SnapshotId(unsigned(&row, "snapshot")?),
            created_at_millis: row.try_get("created_at_millis")?,
            dropped_tables: json(&row, "dropped_tables")?,
        })
    })
    .fetch_optional(c)
    .await
}

async fn remember(
    c: &mut Connection,
    digest: &[u8],
    ingester: IngesterId,
    snapshot: i64,
    dropped: &[TableId],
) -> Result<(), sqlx::Error> {
    let now = now_millis();
    let dropped =
        serde_json::to_string(dropped).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    sqlx::query("DELETE FROM flushes WHERE ingester_id = $1 AND committed_at_millis < $2")
        .bind(stored(ingester.0)?)
        .bind(now.saturating_sub(REMEMBERED_MILLIS))
        .execute(&mut *c)
        .await?;
    sqlx::query(
        "INSERT INTO flushes (id, ingester_id, snapshot, dropped_tables, committed_at_millis)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(digest)
    .bind(stored(ingester.0)?)
    .bind(snapshot)
    .bind(dropped)
    .bind(now)
    .execute(c)
    .await?;
    Ok(())
}

/// Tells the live tables of a commit from the dropped ones, also those that were dropped so long ago
/// that their rows are forgotten. A table the catalog never had is an error: taking it for dropped
/// would make the ingester forget acknowledged rows.
async fn sort_tables(
    c: &mut Connection,
    commit: &FlushCommit,
) -> Result<(BTreeSet<TableId>, Vec<TableId>), Failure> {
    let named: BTreeSet<TableId> = commit
        .files
        .iter()
        .map(|file| file.table)
        .chain(commit.watermarks.iter().map(|(table, _)| *table))
        .chain(commit.producers.iter().map(|position| position.table))
        .collect();
    let newest = TableId(snapshot::last_id(c, "table").await?);
    let mut live = BTreeSet::new();
    let mut dropped = Vec::new();
    for table in named {
        let end = sqlx::query("SELECT end_snapshot FROM tables WHERE id = $1")
            .bind(stored(table.0)?)
            .try_map(|row: Row| row.try_get::<Option<i64>, _>("end_snapshot"))
            .fetch_optional(&mut *c)
            .await?;
        match end {
            Some(None) => {
                live.insert(table);
            }
            Some(Some(_)) => dropped.push(table),
            None if table <= newest && !was_skipped(c, table).await? => dropped.push(table),
            None => return Err(Error::TableNotFound(format!("id {table}")).into()),
        }
    }
    Ok((live, dropped))
}

/// Whether a restore jumped over the number: the table may have been made after the backup, and rows of it
/// may be nowhere but in a log.
async fn was_skipped(c: &mut Connection, table: TableId) -> Result<bool, sqlx::Error> {
    let restores: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM restores WHERE last_table < $1 AND skipped_to_table >= $1",
    )
    .bind(stored(table.0)?)
    .fetch_one(c)
    .await?;
    Ok(restores > 0)
}

async fn add_files(
    c: &mut Connection,
    commit: &FlushCommit,
    live: &BTreeSet<TableId>,
    snapshot: i64,
) -> Result<(), Failure> {
    // By path: a path listed twice in one commit is one file.
    let files: BTreeMap<&str, &NewFile> = commit
        .files
        .iter()
        .map(|file| (file.path.as_str(), file))
        .collect();
    let count = i64::try_from(files.len()).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    if count == 0 {
        return Ok(());
    }
    let first = snapshot::next_ids(c, "file", count).await? - count + 1;
    for (id, file) in (first..).zip(files.into_values()) {
        if live.contains(&file.table) {
            add_file(c, id, Some(commit.ingester), file, snapshot).await?;
        } else {
            garbage::queue(c, &file.path).await?;
        }
    }
    Ok(())
}

/// Adds files of a table that is live.
pub(super) async fn add_live_files(
    c: &mut Connection,
    ingester: Option<IngesterId>,
    files: &[NewFile],
    snapshot: i64,
) -> Result<(), Failure> {
    for file in files {
        let id = snapshot::next_id(c, "file").await?;
        add_file(c, id, ingester, file, snapshot).await?;
    }
    Ok(())
}

async fn add_file(
    c: &mut Connection,
    id: i64,
    ingester: Option<IngesterId>,
    file: &NewFile,
    snapshot: i64,
) -> Result<(), Failure> {
    if !files::may_be_path(&file.path) {
        let path = file.path.clone();
        return Err(bad_path(BadPath::Unreadable { path }));
    }
    let added = sqlx::query(
        "INSERT INTO files (id, table_id, ingester_id, path, size_bytes, row_count, schema_version,
                            first_sequence, last_sequence, time_min_nanos, time_max_nanos,
                            time_class, begin_snapshot, sorted)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
         ON CONFLICT (path) DO NOTHING",
    )
    .bind(id)
    .bind(stored(file.table.0)?)
    .bind(ingester.map(|ingester| stored(ingester.0)).transpose()?)
    .bind(&file.path)
    .bind(stored(file.size_bytes)?)
    .bind(stored(file.rows)?)
    .bind(stored(file.schema_version.0)?)
    .bind(stored(file.first_sequence.0)?)
    .bind(stored(file.last_sequence.0)?)
    .bind(file.time_range_nanos.map(|(min, _)| min))
    .bind(file.time_range_nanos.map(|(_, max)| max))
    .bind(file.time_range_nanos.map(spans::class))
    .bind(snapshot)
    .bind(i64::from(file.sorted))
    .execute(&mut *c)
    .await?;
    if added.rows_affected() == 0 {
        return check_same_file(c, ingester, file).await;
    }
    if garbage::is_queued(c, &file.path).await? {
        let path = file.path.clone();
        return Err(Error::FileGivenUp { path }.into());
    }
    Ok(())
}

fn bad_path(problem: BadPath) -> Failure {
    Failure::Refused(Error::Store {
        doing: "adding files",
        source: Box::new(problem),
    })
}

async fn check_same_file(
    c: &mut Connection,
    ingester: Option<IngesterId>,
    file: &NewFile,
) -> Result<(), Failure> {
    let same: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM files
         WHERE path = $1 AND table_id = $2 AND ingester_id = $3 AND row_count = $4
           AND first_sequence = $5 AND last_sequence = $6",
    )
    .bind(&file.path)
    .bind(stored(file.table.0)?)
    .bind(ingester.map(|ingester| stored(ingester.0)).transpose()?)
    .bind(stored(file.rows)?)
    .bind(stored(file.first_sequence.0)?)
    .bind(stored(file.last_sequence.0)?)
    .fetch_one(c)
    .await?;
    if same == 1 {
        return Ok(());
    }
    let path = file.path.clone();
    Err(bad_path(BadPath::Taken { path }))
}

async fn move_watermark(
    c: &mut Connection,
    ingester: IngesterId,
    table: TableId,
    sequence: SequenceNumber,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO watermarks (ingester_id, table_id, sequence) VALUES ($1, $2, $3)
         ON CONFLICT (table_id, ingester_id) DO UPDATE SET sequence = excluded.sequence
         WHERE watermarks.sequence < excluded.sequence",
    )
    .bind(stored(ingester.0)?)
    .bind(stored(table.0)?)
    .bind(stored(sequence.0)?)
    .execute(c)
    .await?;
    Ok(())
}
