//! Statements that are done once: who began one, and what it came to.

use sqlx::Row as _;

use super::Failure;
use super::dialect::{Connection, Row};
use super::value::stored;
use crate::{BeginStatement, StatementProgress};

/// Begins a statement, unless it was begun.
pub(super) async fn begin(
    c: &mut Connection,
    request: BeginStatement,
) -> Result<StatementProgress, Failure> {
    let BeginStatement {
        id,
        run,
        expires_at_millis,
    } = request;
    let begun = sqlx::query(
        "INSERT INTO statements (id, run, row_count, expires_at_millis) VALUES ($1, $2, NULL, $3)
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(&id)
    .bind(&run)
    .bind(expires_at_millis)
    .execute(&mut *c)
    .await?;
    if begun.rows_affected() == 1 {
        return Ok(StatementProgress::Begun);
    }
    let (first, rows) = sqlx::query("SELECT run, row_count FROM statements WHERE id = $1")
        .bind(&id)
        .try_map(|row: Row| {
            let first: String = row.try_get("run")?;
            let rows: Option<i64> = row.try_get("row_count")?;
            Ok((first, rows.map(i64::unsigned_abs)))
        })
        .fetch_one(c)
        .await?;
    Ok(match rows {
        Some(rows) => StatementProgress::Ended { rows },
        None if first == run => StatementProgress::Begun,
        None => StatementProgress::BegunBefore,
    })
}

/// Notes what a statement came to.
pub(super) async fn end(c: &mut Connection, id: String, rows: u64) -> Result<(), Failure> {
    sqlx::query("UPDATE statements SET row_count = $2 WHERE id = $1")
        .bind(id)
        .bind(stored(rows)?)
        .execute(c)
        .await?;
    Ok(())
}
