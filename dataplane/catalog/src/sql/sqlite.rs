//! What is particular to SQLite: how to connect, how to begin a transaction, which errors pass.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Executor as _;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};

use super::dialect::{Dialect, Pool, Verdict};

/// Takes the write lock at the start: waits for other writers now, never in the middle.
const BEGIN_WRITE: &str = "BEGIN IMMEDIATE";

pub(super) const DIALECT: Dialect = Dialect {
    bytes_type: "BLOB",
    text_type: "TEXT",
    begin_write: BEGIN_WRITE,
    lock_writers: "",
    begin_number: BEGIN_WRITE,
    begin_read: "BEGIN DEFERRED",
    begin_layout: BEGIN_WRITE,
    time: None,
    count_tables: "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = $1",
    list_columns: "SELECT name, type AS kind FROM pragma_table_info($1) ORDER BY cid",
    // Deferred references are checked at the commit, and dropping a table does not look for them.
    unhurried: "PRAGMA defer_foreign_keys = ON",
    judge,
};

/// A commit is on disk when it returns: WAL journal with `synchronous = FULL` syncs at every commit.
/// The busy time-out, in milliseconds, is for locks another process holds (a backup, a shell).
const SETTINGS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                        PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";

/// Time to wait for one of our own connections: below the 10 s a remote caller waits.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(8);

/// Readers don't block each other nor the writer; more than cores bring nothing.
const READ_CONNECTIONS: u32 = 4;

/// Why the file can't be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("path {0:?} is not UTF-8; choose another data directory")]
    Path(PathBuf),
    #[error("can't find the directory of {path:?}")]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("can't open the database file")]
    Sql(#[from] sqlx::Error),
}

/// Opens or creates the database file: one writer, several readers. The directory must exist.
///
/// SQLite has one writer at a time anyway; queueing for a connection is fair, queueing for its lock
/// is not.
pub(super) async fn open(file: &Path) -> Result<(Pool, Pool), Error> {
    // A URL would take `..` for a part of the name, not of the tree.
    let file = absolute(file).map_err(|source| Error::Directory {
        path: file.to_owned(),
        source,
    })?;
    let writer = pool(1, "").connect_with(options(&file, "rwc")?).await?;
    let readers = pool(READ_CONNECTIONS, "PRAGMA query_only = ON;")
        .connect_with(options(&file, "rw")?)
        .await?;
    Ok((writer, readers))
}

fn absolute(file: &Path) -> std::io::Result<PathBuf> {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    Ok(directory
        .canonicalize()?
        .join(file.file_name().unwrap_or_default()))
}

/// How to open `file`; the driver takes a URL only.
fn options(file: &Path, mode: &str) -> Result<AnyConnectOptions, Error> {
    let path = file
        .to_str()
        .ok_or_else(|| Error::Path(file.to_owned()))?
        .bytes()
        .fold(String::new(), |mut text, byte| {
            match byte {
                b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                    text.push(char::from(byte));
                }
                _ => text.push_str(&format!("%{byte:02X}")),
            }
            text
        });
    let url = format!("sqlite:{path}?mode={mode}");
    Ok(url.parse()?)
}

/// Connections are local: they don't age, and one that failed is closed by its user.
fn pool(connections: u32, more: &'static str) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                connection.execute(SETTINGS).await?;
                connection.execute(more).await?;
                Ok(())
            })
        })
}

fn judge(error: &sqlx::Error) -> Verdict {
    // Primary result codes, the low byte of the extended code: https://www.sqlite.org/rescode.html
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    const FULL: i32 = 13;
    let passes = match error {
        // Closed: the process is stopping, its successor will answer.
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        sqlx::Error::Database(database) => database
            .code()
            .and_then(|code| code.parse::<i32>().ok())
            .is_some_and(|code| matches!(code & 0xff, BUSY | LOCKED | FULL)),
        _ => false,
    };
    // Locks were waited for already.
    if passes {
        Verdict::Passes
    } else {
        Verdict::Broken
    }
}
