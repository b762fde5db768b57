//! What is particular to SQLite: how to connect, how to begin a transaction, which type holds bytes,
//! which errors pass.
//!
//! Everything else in [`sql`](super) is written in the SQL that SQLite and Postgres share (`$1`
//! parameters, `RETURNING`, `ON CONFLICT`), so that another dialect is another module like this one.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{SqliteConnection, SqlitePool};

pub(super) type Connection = SqliteConnection;
pub(super) type Row = SqliteRow;
pub(super) type Pool = SqlitePool;

/// Type of a column of bytes, `{bytes}` in the migrations.
pub(super) const BYTES_TYPE: &str = "BLOB";

/// Begins a transaction that writes: waits for other writers now, never in the middle.
pub(super) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

/// Begins a transaction that reads: one state of the database until it ends.
pub(super) const BEGIN_READ: &str = "BEGIN DEFERRED";

/// Time to wait for a lock another process holds (a backup, a shell).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Time to wait for one of our own connections: below the 10 s a remote caller waits.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(8);

/// Readers don't block each other nor the writer; more than cores bring nothing.
const READ_CONNECTIONS: u32 = 4;

/// One writer, several readers. SQLite has one writer at a time anyway; queueing for a connection is
/// fair, queueing for its lock is not.
#[derive(Debug)]
pub(super) struct Pools {
    pub(super) writer: Pool,
    pub(super) readers: Pool,
}

/// Opens or creates the database file. The directory must exist.
///
/// A commit is on disk when it returns: WAL journal with `synchronous = FULL` syncs at every commit.
pub(super) async fn open(file: &Path) -> Result<Pools, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT);
    let writer = pool(1).connect_with(options.clone()).await?;
    let reading = options.create_if_missing(false).pragma("query_only", "ON");
    let readers = pool(READ_CONNECTIONS).connect_with(reading).await?;
    Ok(Pools { writer, readers })
}

/// Connections are local: they don't age, and one that failed is closed by its user.
fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// Whether the same call may succeed later without anybody repairing the database.
pub(super) fn passes(error: &sqlx::Error) -> bool {
    // Primary result codes, the low byte of the extended code: https://www.sqlite.org/rescode.html
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    const FULL: i32 = 13;
    match error {
        // Closed: the process is stopping, its successor will answer.
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        sqlx::Error::Database(database) => database
            .code()
            .and_then(|code| code.parse::<i32>().ok())
            .is_some_and(|code| matches!(code & 0xff, BUSY | LOCKED | FULL)),
        _ => false,
    }
}
