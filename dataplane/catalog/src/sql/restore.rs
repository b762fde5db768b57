//! Fills an empty catalog from a backup, in one transaction.
//!
//! # Numbers after a restore
//! What was written after the backup is not in it, but may be elsewhere: in objects, in the logs of
//! ingesters, in the memory of processes. None of its numbers may be given again, so every counter
//! jumps ahead, and so do the epochs: a process that registered after the backup is fenced. What was jumped
//! over is noted: a table with such a number is unknown, not dropped.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::backup::{self, BackupError, Header, Line, Reader, Start};
use super::clock::now_millis;
use super::dialect::{Connection, Dialect};
use super::store::{Failure, store_error};
use super::tables::{self, Kind, TABLES};
use super::value::stored;
use super::{history, migrations, snapshot};
use crate::{Error, SnapshotId, UNPUBLISHED_SCHEMA};

/// How far the numbers jump. More than are given in the time between two backups. The states that were
/// jumped over are told from forgotten ones by it: it stays what it is.
pub(super) const JUMP: i64 = 1_000_000;

/// Time in which uploads can be finished again.
const UPLOADS_WAIT_MILLIS: i64 = 7 * 24 * 60 * 60 * 1000;

/// How far order numbers jump: one is given to each row of a table with a primary key.
const ORDER_JUMP: i64 = 1 << 50;

/// Values of one statement: below the limits of both databases (32,766 and 65,535).
const MAX_VALUES: usize = 8_000;

/// The catalog has something that a restore would mix with the backup.
#[derive(Debug, thiserror::Error)]
#[error(
    "the catalog is not empty ({databases} databases, {tables} tables, {files} files, {ingesters} \
     ingesters): restore into a new data directory or database, or move the old one away"
)]
struct NotEmpty {
    databases: i64,
    tables: i64,
    files: i64,
    ingesters: i64,
}

/// This program can't make the tables of the backup's layout here.
#[derive(Debug, thiserror::Error)]
#[error(
    "the catalog has layout {found} of a newer program, this one knows layouts up to {known}: restore \
     with the newer program, or into a new data directory or database"
)]
struct NewerLayout {
    found: u64,
    known: u64,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// What the backup says about itself.
    pub header: Header,
    /// Its rows.
    pub rows: u64,
    /// Uploads that were not finished when it was taken. They wait for a week.
    pub uploads: u64,
    /// The state of the catalog now.
    pub snapshot: SnapshotId,
}

/// Restores a backup.
pub(super) async fn restore(
    c: &mut Connection,
    dialect: &'static Dialect,
    bytes: std::sync::Arc<[u8]>,
) -> Result<Restored, Failure> {
    let unusable = |error: BackupError| Failure::from(store_error("reading the backup", error));
    let header = backup::header(&bytes).map_err(unusable)?;
    // The whole file before the first row: the checksum is at its end.
    let rows = backup::check(&bytes).map_err(unusable)?;
    // Writers wait from here on.
    snapshot::next(c, "restore").await?;
    refuse_unless_empty(c).await?;
    let found = migrations::newest(c).await?;
    if found > migrations::NEWEST {
        let known = migrations::NEWEST;
        return Err(store_error("restoring a backup", NewerLayout { found, known }).into());
    }
    if found != header.layout {
        for table in TABLES.iter().rev() {
            if tables::exists(c, dialect, table).await? {
                run(c, format!("DROP TABLE {table}")).await?;
            }
        }
        run(c, "DELETE FROM migrations".to_owned()).await?;
        migrations::apply_until(c, dialect, header.layout).await?;
    }
    for table in TABLES.iter().rev() {
        if tables::exists(c, dialect, table).await? {
            run(c, format!("DELETE FROM {table}")).await?;
        }
    }
    fill(c, &bytes).await?;
    migrations::apply_until(c, dialect, migrations::NEWEST).await?;
    jump(c, "restore").await?;
    let uploads = wait_for_uploads(c).await?;
    Ok(Restored {
        header,
        rows,
        uploads,
        snapshot: snapshot::newest(c).await?,
    })
}

/// Jumps over all numbers that may have been given after the state the catalog is in now, and ends all
/// lives of ingesters: the next ones say what their logs have.
pub(super) async fn jump(c: &mut Connection, cause: &'static str) -> Result<(), sqlx::Error> {
    history::doubt(c).await?;
    run(
        c,
        format!("UPDATE ingesters SET epoch = epoch + {JUMP}, readmitted = 0"),
    )
    .await?;
    skip_numbers(c, cause, true).await
}

/// Jumps over all such numbers but those of lives; `fenced` says whether these ended.
pub(super) async fn skip_numbers(
    c: &mut Connection,
    cause: &'static str,
    fenced: bool,
) -> Result<(), sqlx::Error> {
    let last_table = stored(snapshot::last_id(c, "table").await?)?;
    run(c, format!("UPDATE counters SET value = value + {JUMP}")).await?;
    run(
        c,
        format!("UPDATE counters SET value = value + {ORDER_JUMP} WHERE kind = 'order'"),
    )
    .await?;
    let state = snapshot::next(c, cause).await?;
    note(c, state, last_table, fenced).await
}

/// Notes which tables may have been made since the backup.
async fn note(
    c: &mut Connection,
    state: i64,
    last_table: i64,
    fenced: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO restores (snapshot, last_table, skipped_to_table, restored_at_millis, fenced)
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(state)
    .bind(last_table)
    .bind(last_table + JUMP)
    .bind(now_millis())
    .bind(i64::from(fenced))
    .execute(c)
    .await?;
    Ok(())
}

/// Gives what was being written when the backup was taken its time anew: it may have been finished and
/// answered since, and would be deleted otherwise. Returns the number of such uploads.
async fn wait_for_uploads(c: &mut Connection) -> Result<u64, sqlx::Error> {
    let uploads = sqlx::query(
        "UPDATE uploads SET expires_at_millis = $1 WHERE state IN ('open', 'finishing')",
    )
    .bind(now_millis().saturating_add(UPLOADS_WAIT_MILLIS))
    .execute(&mut *c)
    .await?;
    sqlx::query(
        "UPDATE tables SET created_at_millis = $1 WHERE end_snapshot IS NULL AND schema_name = $2",
    )
    .bind(now_millis())
    .bind(UNPUBLISHED_SCHEMA)
    .execute(c)
    .await?;
    Ok(uploads.rows_affected())
}

async fn refuse_unless_empty(c: &mut Connection) -> Result<(), Failure> {
    let found = NotEmpty {
        databases: tables::count(c, "databases").await?,
        tables: tables::count(c, "tables").await?,
        files: tables::count(c, "files").await?,
        ingesters: tables::count(c, "ingesters").await?,
    };
    // The database `default` is made when a catalog is opened.
    if found.databases > 1 || found.tables + found.files + found.ingesters > 0 {
        return Err(store_error("restoring a backup", found).into());
    }
    Ok(())
}

async fn run(c: &mut Connection, statement: String) -> Result<(), sqlx::Error> {
    sqlx::query(AssertSqlSafe(statement)).execute(c).await?;
    Ok(())
}

async fn fill(c: &mut Connection, bytes: &[u8]) -> Result<(), Failure> {
    let unusable = |error: BackupError| Failure::from(store_error("reading the backup", error));
    let mut reader = Reader::new(bytes).map_err(unusable)?;
    let mut start: Option<Start> = None;
    let mut rows = Vec::new();
    while let Some(line) = reader.next().map_err(unusable)? {
        match line {
            Line::Row(values) => {
                let Some(table) = &start else {
                    return Err(unusable(BackupError::Damaged));
                };
                rows.push(values);
                if rows.len() * width(table) >= MAX_VALUES {
                    insert(c, table, std::mem::take(&mut rows)).await?;
                }
            }
            Line::Table(next) => {
                if !TABLES.contains(&&*next.table) {
                    return Err(unusable(BackupError::Damaged));
                }
                if let Some(table) = &start {
                    insert(c, table, std::mem::take(&mut rows)).await?;
                }
                start = Some(next);
            }
        }
    }
    match start {
        Some(table) => insert(c, &table, rows).await,
        None => Ok(()),
    }
}

fn width(table: &Start) -> usize {
    table.columns.len().max(1)
}

async fn insert(c: &mut Connection, table: &Start, rows: Vec<Vec<Value>>) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = table.columns.iter().map(|column| &*column.name).collect();
    let identifier = |name: &&str| {
        name.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    if !names.iter().all(identifier) {
        return Err(damaged());
    }
    let mut number = 0;
    let mut places = Vec::with_capacity(rows.len());
    for _ in &rows {
        let row: Vec<_> = (0..width(table))
            .map(|_| {
                number += 1;
                format!("${number}")
            })
            .collect();
        places.push(format!("({})", row.join(", ")));
    }
    let statement = format!(
        "INSERT INTO {} ({}) VALUES {}",
        table.table,
        names.join(", "),
        places.join(", ")
    );
    let mut query = sqlx::query(AssertSqlSafe(statement));
    for row in rows {
        if row.len() != table.columns.len() {
            return Err(damaged());
        }
        for (value, column) in row.into_iter().zip(&table.columns) {
            query = match (column.kind, value) {
                (Kind::Number, Value::Null) => query.bind(None::<i64>),
                (Kind::Number, value) => query.bind(value.as_i64().ok_or_else(damaged)?),
                (Kind::Text, Value::Null) => query.bind(None::<String>),
                (Kind::Text, Value::String(text)) => query.bind(text),
                (Kind::Bytes, Value::Null) => query.bind(None::<Vec<u8>>),
                (Kind::Bytes, Value::String(text)) => {
                    query.bind(STANDARD.decode(text).map_err(|_| damaged())?)
                }
                (Kind::Text | Kind::Bytes, _) => return Err(damaged()),
            };
        }
    }
    query.persistent(false).execute(c).await?;
    Ok(())
}

fn damaged() -> Failure {
    Failure::from(Error::Store {
        doing: "reading the backup",
        source: Box::new(BackupError::Damaged),
    })
}
