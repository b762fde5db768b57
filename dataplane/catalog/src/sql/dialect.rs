//! What two SQL databases have in common here, and what a module for one of them must say.
//!
//! All statements outside `sqlite` and `postgres` run on both. That holds while they keep to:
//! `$1` parameters, `RETURNING`, `ON CONFLICT`; integers are `BIGINT`, texts `TEXT`, bytes `{bytes}`;
//! sums are `CAST(SUM(x) AS BIGINT)`; nothing gives a truth value as a column. Texts compare byte by
//! byte on both: `TEXT` in a migration gets the dialect's collation.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyPool};

pub(super) type Connection = AnyConnection;
pub(super) type Row = AnyRow;
pub(super) type Pool = AnyPool;

/// The differences.
#[derive(Debug)]
pub(super) struct Dialect {
    /// Type of a column of bytes, `{bytes}` in the migrations.
    pub(super) bytes_type: &'static str,
    /// Type of a column of text that compares byte by byte, `TEXT` in the migrations.
    pub(super) text_type: &'static str,
    /// Begins a transaction that writes, as far as the next.
    pub(super) begin_write: &'static str,
    /// From here on no other writer gets in until it ends, and it sees everything writers before it
    /// have committed.
    pub(super) lock_writers: &'static str,
    /// Begins a transaction that changes one row by what it finds there, as committed by others.
    pub(super) begin_number: &'static str,
    /// Begins a transaction that reads: one state of the database until it ends.
    pub(super) begin_read: &'static str,
    /// Begins a transaction that changes the layout: no other process does so until it ends.
    pub(super) begin_layout: &'static str,
    /// Gives the time of the server in microseconds since the Unix epoch, if there is one.
    pub(super) time: Option<&'static str>,
    /// Counts the tables with the name `$1`: 0 or 1.
    pub(super) count_tables: &'static str,
    /// The columns of the table `$1` in the order they were made, as `name` and `kind`, both text.
    pub(super) list_columns: &'static str,
    /// Said in a transaction that may take long: no time limits.
    pub(super) unhurried: &'static str,
    /// What to do about an error.
    pub(super) judge: fn(&sqlx::Error) -> Verdict,
    /// The cause of a call that failed and may succeed later, with its cure where there is one.
    pub(super) explained: fn(sqlx::Error) -> Box<dyn std::error::Error + Send + Sync>,
}

/// What an error of the database means for the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The call may be repeated at once, if its commit had not begun.
    Repeat,
    /// As `Repeat`, after reading the credentials again: they were refused.
    Reconnect,
    /// The same call may succeed later without anybody repairing the database.
    Passes,
    /// Somebody has to look.
    Broken,
}
