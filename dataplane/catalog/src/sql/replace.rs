//! New files in place of live ones, and the record of it.
//!
//! # Repeats
//! As for flushes: a request is known by a digest of all it says, a repeat gets the same answer. A
//! repeat after its record is forgotten finds its inputs ended and an output that is known. A request that comes so
//! late that its outputs may have been deleted as orphans is refused.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Row as _};

use super::clock::now_millis;
use super::dialect::{Connection, Row};
use super::value::{stored, unsigned};
use super::{Failure, flush, garbage, snapshot, table};
use crate::{
    Error, FilesReplaced, NewFile, RETENTION, ReplaceCause, ReplaceFiles, Replacement, SnapshotId,
    TableId, TableName,
};

/// Outputs asked for in one statement; both databases take many more parameters.
const PATHS_AT_ONCE: usize = 1000;

/// The request would lose or double rows, or mixes tables: a bug of the caller.
#[derive(Debug, thiserror::Error)]
enum Mismatch {
    #[error(
        "the inputs have {inputs} rows, the outputs {outputs}, and {removed} were to be removed"
    )]
    Rows {
        inputs: u64,
        outputs: u64,
        removed: u64,
    },
    #[error("file {path} is of table {found}, not of table {expected}")]
    Table {
        path: String,
        found: TableId,
        expected: TableId,
    },
}

/// Sums over some files.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    files: u64,
    bytes: u64,
    rows: u64,
}

impl Sums {
    fn add(&mut self, bytes: u64, rows: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.rows = self.rows.saturating_add(rows);
    }
}

/// Applies a replacement, or answers a repeat.
pub(super) async fn commit(
    c: &mut Connection,
    request: ReplaceFiles,
) -> Result<FilesReplaced, Failure> {
    // Before anything is read: a repeat must not overtake the request it repeats.
    snapshot::lock(c).await?;
    let digest = digest(&request)?;
    if let Some(answer) = done_before(c, &digest, &request).await? {
        return Ok(answer);
    }
    let Some(table) = table::find_by_id(c, request.table).await? else {
        return Err(Error::TableNotFound(format!("id {}", request.table)).into());
    };
    if request.retention.is_some() && request.retention.as_deref() != table.option(RETENTION) {
        return Err(Error::RetentionChanged { table: table.id }.into());
    }
    if let Some(until) = request.valid_until_millis {
        flush::check_age(&request.outputs, until)?;
    }
    let outputs = sums_of_outputs(&request)?;
    let snapshot = snapshot::next(c, request.cause.as_str()).await?;
    let inputs = end_inputs(c, &request, snapshot).await?;
    if inputs.rows != outputs.rows.saturating_add(request.removed_rows) {
        return Err(refused(Mismatch::Rows {
            inputs: inputs.rows,
            outputs: outputs.rows,
            removed: request.removed_rows,
        }));
    }
    flush::add_live_files(c, None, &request.outputs, snapshot).await?;
    remember(c, &digest, &request, snapshot, inputs, outputs).await?;
    Ok(answer(snapshot)?)
}

fn refused(mismatch: Mismatch) -> Failure {
    Failure::Refused(Error::Store {
        doing: "replacing files",
        source: Box::new(mismatch),
    })
}

fn answer(snapshot: i64) -> Result<FilesReplaced, sqlx::Error> {
    let snapshot = u64::try_from(snapshot).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(FilesReplaced {
        snapshot: SnapshotId(snapshot),
    })
}

fn sums_of_outputs(request: &ReplaceFiles) -> Result<Sums, Failure> {
    let mut sums = Sums::default();
    for file in &request.outputs {
        if file.table != request.table {
            return Err(refused(Mismatch::Table {
                path: file.path.clone(),
                found: file.table,
                expected: request.table,
            }));
        }
        sums.add(file.size_bytes, file.rows);
    }
    Ok(sums)
}

/// Ends the inputs and queues their objects. All must be live: a file that ended meanwhile has its
/// rows, or what was left of them, in other files already.
async fn end_inputs(
    c: &mut Connection,
    request: &ReplaceFiles,
    snapshot: i64,
) -> Result<Sums, Failure> {
    let mut sums = Sums::default();
    let ids: BTreeSet<u64> = request.inputs.iter().copied().collect();
    for id in ids {
        let ended: Option<(String, u64, u64)> = sqlx::query(
            "UPDATE files SET end_snapshot = $3
             WHERE id = $1 AND table_id = $2 AND end_snapshot IS NULL
             RETURNING path, size_bytes, row_count",
        )
        .bind(stored(id)?)
        .bind(stored(request.table.0)?)
        .bind(snapshot)
        .try_map(|row: Row| {
            let path = row.try_get("path")?;
            Ok((
                path,
                unsigned(&row, "size_bytes")?,
                unsigned(&row, "row_count")?,
            ))
        })
        .fetch_optional(&mut *c)
        .await?;
        let Some((path, bytes, rows)) = ended else {
            return Err(Error::FilesChanged {
                table: request.table,
            }
            .into());
        };
        sums.add(bytes, rows);
        garbage::queue(c, &path).await?;
    }
    Ok(sums)
}

/// Names a request by everything in it, in whatever order it was listed.
fn digest(request: &ReplaceFiles) -> Result<Vec<u8>, sqlx::Error> {
    let mut ordered = request.clone();
    ordered.inputs.sort_unstable();
    ordered.outputs.sort_by(|a, b| a.path.cmp(&b.path));
    let text =
        serde_json::to_vec(&ordered).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    Ok(Sha256::digest(text).to_vec())
}

async fn done_before(
    c: &mut Connection,
    digest: &[u8],
    request: &ReplaceFiles,
) -> Result<Option<FilesReplaced>, sqlx::Error> {
    let known: Option<i64> = sqlx::query_scalar("SELECT snapshot FROM replacements WHERE id = $1")
        .bind(digest)
        .fetch_optional(&mut *c)
        .await?;
    if let Some(snapshot) = known {
        return Ok(Some(answer(snapshot)?));
    }
    // Paths are used once, so an output that is there came from this very request. Any of them: the others may
    // have been replaced and deleted since, and the caller removes what it is told was never committed.
    for outputs in request.outputs.chunks(PATHS_AT_ONCE) {
        if let Some(began) = begin_of_any(c, request.table, outputs).await? {
            return Ok(Some(answer(began)?));
        }
    }
    Ok(None)
}

/// The snapshot in which any of these files became live, if the catalog knows one.
async fn begin_of_any(
    c: &mut Connection,
    table: TableId,
    outputs: &[NewFile],
) -> Result<Option<i64>, sqlx::Error> {
    let places: Vec<String> = (2..outputs.len() + 2).map(|at| format!("${at}")).collect();
    let select = format!(
        "SELECT begin_snapshot FROM files WHERE table_id = $1 AND path IN ({}) LIMIT 1",
        places.join(", ")
    );
    // Each number of paths is a statement of its own: none is worth keeping.
    let query = sqlx::query_scalar(AssertSqlSafe(select)).persistent(false);
    let query = query.bind(stored(table.0)?);
    outputs
        .iter()
        .fold(query, |query, output| query.bind(&output.path))
        .fetch_optional(c)
        .await
}

async fn remember(
    c: &mut Connection,
    digest: &[u8],
    request: &ReplaceFiles,
    snapshot: i64,
    inputs: Sums,
    outputs: Sums,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO replacements (id, table_id, cause, snapshot, input_files, input_bytes,
                                   input_rows, output_files, output_bytes, output_rows,
                                   committed_at_millis)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(digest)
    .bind(stored(request.table.0)?)
    .bind(request.cause.as_str())
    .bind(snapshot)
    .bind(stored(inputs.files)?)
    .bind(stored(inputs.bytes)?)
    .bind(stored(inputs.rows)?)
    .bind(stored(outputs.files)?)
    .bind(stored(outputs.bytes)?)
    .bind(stored(outputs.rows)?)
    .bind(now_millis())
    .execute(c)
    .await?;
    Ok(())
}

/// The newest replacements of a database, newest first.
pub(super) async fn list(
    c: &mut Connection,
    database: String,
    limit: u32,
) -> Result<Vec<Replacement>, Failure> {
    Ok(sqlx::query(
        "SELECT r.table_id, d.name AS database_name, t.schema_name, t.name, r.cause, r.snapshot,
                r.input_files, r.input_bytes, r.input_rows, r.output_files, r.output_bytes,
                r.output_rows, r.committed_at_millis
         FROM replacements r
         JOIN tables t ON t.id = r.table_id
         JOIN databases d ON d.id = t.database_id
         WHERE d.name = $1 ORDER BY r.snapshot DESC LIMIT $2",
    )
    .bind(database)
    .bind(i64::from(limit))
    .try_map(|row| replacement(&row))
    .fetch_all(c)
    .await?)
}

fn replacement(row: &Row) -> Result<Replacement, sqlx::Error> {
    let cause: &str = row.try_get("cause")?;
    let cause = ReplaceCause::named(cause).ok_or_else(|| sqlx::Error::ColumnDecode {
        index: "cause".to_owned(),
        source: format!("{cause:?} is not a cause of a replacement").into(),
    })?;
    Ok(Replacement {
        table: TableId(unsigned(row, "table_id")?),
        name: TableName {
            database: row.try_get("database_name")?,
            schema: row.try_get("schema_name")?,
            table: row.try_get("name")?,
        },
        cause,
        snapshot: SnapshotId(unsigned(row, "snapshot")?),
        input_files: unsigned(row, "input_files")?,
        input_bytes: unsigned(row, "input_bytes")?,
        input_rows: unsigned(row, "input_rows")?,
        output_files: unsigned(row, "output_files")?,
        output_bytes: unsigned(row, "output_bytes")?,
        output_rows: unsigned(row, "output_rows")?,
        committed_at_millis: row.try_get("committed_at_millis")?,
    })
}
