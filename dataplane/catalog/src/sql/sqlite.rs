//! What is particular to SQLite: how to connect, how to begin a transaction, which errors pass.
//!
//! # A volume that fails
//! A commit whose sync fails is undone for this process: its frames are in the file of the log
//! (`catalog.sqlite-wal`), but the index of the log, which tells every connection where the log ends, gets
//! them only after the sync (`walFrames` in SQLite's `wal.c`). The next writer writes over them from their
//! first byte, so what it syncs stands on nothing that was not synced, and all connections may go on; the one
//! that failed is closed. The index lives as long as one connection does, so one does nothing and is kept
//! ([`Opened::keeper`]): with none left, the next one would make the index anew from the file, with the frames
//! that were not synced. A process that ends before there is a next writer leaves whole frames behind, and the
//! next one takes them for a commit. So the outcome is unknown, as that of a commit to Postgres whose
//! answer was lost, and the same callers repeat it or say so. The file of the database itself is written by
//! checkpoints, from frames that were synced; one that can't sync it is not counted and done again, and only
//! a disk that loses what it holds already can damage it (<https://www.sqlite.org/howtocorrupt.html>, 3.1).
//!
//! Ending the process would make it worse: Linux reports a failed sync once, and keeps the bytes in memory as
//! if they were on disk. The next process would read the frames, put commits behind them that it can sync,
//! and all of those would be gone after a power cut, because the frames below them are. [`write_again`] is
//! for that.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, Connection as _, Executor as _};
use tracing::warn;

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
    explained,
};

/// A commit is on disk when it returns: WAL journal with `synchronous = FULL` syncs at every commit.
/// The busy time-out, in milliseconds, is for locks another process holds (a backup, a shell).
const SETTINGS: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                        PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";

/// Time to wait for one of our own connections: below the 10 s a remote caller waits.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(8);

/// A log has a few MiB; more where somebody reads for long.
const WRITTEN_AT_ONCE: usize = 1 << 20;

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
    #[error(
        "can't write the log of the database to its volume again; look at the volume: {path:?}"
    )]
    WriteAgain { path: PathBuf, source: io::Error },
}

/// Why a call failed that may succeed later, where the cause lies outside the database.
#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(
        "the volume of the catalog fails; the call may have taken effect, as a repeat of it shows; look at \
         what the kernel says of the disk, and replace it"
    )]
    Volume(#[source] sqlx::Error),
    #[error(
        "the file of the catalog can't be opened; look at its volume, its permissions, and how many files \
         the process may open"
    )]
    File(#[source] sqlx::Error),
    #[error("the volume of the catalog is full; free space on it, or enlarge it")]
    Full(#[source] sqlx::Error),
}

/// The connections to a database file.
pub(super) struct Opened {
    pub(super) writer: Pool,
    pub(super) readers: Pool,
    /// Does nothing, so that it never fails and is never closed before the others.
    pub(super) keeper: AnyConnection,
}

/// Opens or creates the database file: one writer, several readers. The directory must exist.
///
/// SQLite has one writer at a time anyway; queueing for a connection is fair, queueing for its lock
/// is not. `goes_on`: more may be written to the file; not so a command that looks, which has to be possible
/// on a volume that fails.
pub(super) async fn open(file: &Path, goes_on: bool) -> Result<Opened, Error> {
    // A URL would take `..` for a part of the name, not of the tree.
    let file = absolute(file).map_err(|source| Error::Directory {
        path: file.to_owned(),
        source,
    })?;
    let writer = pool(1, "").connect_with(options(&file, "rwc")?).await?;
    match write_again(&writer, &file).await {
        Err(Error::WriteAgain { source, .. }) if !goes_on => {
            warn!(error = %source, "the volume of the catalog fails");
        }
        other => other?,
    }
    let readers = pool(READ_CONNECTIONS, "PRAGMA query_only = ON;")
        .connect_with(options(&file, "rw")?)
        .await?;
    let mut keeper = AnyConnection::connect_with(&options(&file, "rw")?).await?;
    // It takes part in the log once it has read something.
    keeper.execute("SELECT COUNT(*) FROM sqlite_master").await?;
    Ok(Opened {
        writer,
        readers,
        keeper,
    })
}

/// Writes the log of the database over itself and syncs it, before anything is put behind it.
///
/// Changes nothing that is read: see "A volume that fails" in the module. The transaction keeps the writers of
/// other processes out, and with them whoever begins the log anew; SQLite has no lock on this file itself
/// that closing it could take away.
async fn write_again(writer: &Pool, file: &Path) -> Result<(), Error> {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let path = PathBuf::from(log);
    let mut connection = writer.acquire().await?;
    let transaction = connection.begin_with(BEGIN_WRITE).await?;
    let owned = path.clone();
    let written = tokio::task::spawn_blocking(move || write_over(&owned)).await;
    transaction.rollback().await?;
    let result = written.unwrap_or_else(|error| Err(io::Error::other(error)));
    result.map_err(|source| Error::WriteAgain { path, source })
}

fn write_over(path: &Path) -> io::Result<()> {
    let mut file = match fs::OpenOptions::new().read(true).write(true).open(path) {
        // A database that was closed in order has none.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    let mut bytes = vec![0; WRITTEN_AT_ONCE];
    let mut at = 0;
    loop {
        let read = file.read(&mut bytes)?;
        if read == 0 {
            return File::sync_all(&file);
        }
        file.seek(SeekFrom::Start(at))?;
        file.write_all(&bytes[..read])?;
        at += read as u64;
    }
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

// Primary result codes, the low byte of the extended code: https://www.sqlite.org/rescode.html
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
/// Also of a file system that the kernel made read-only because its disk failed.
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const FULL: i32 = 13;
/// Of the connection that takes the place of one that failed.
const CANTOPEN: i32 = 14;

/// No space for the index of the log.
const IOERR_SHMSIZE: i32 = IOERR | (19 << 8);

fn code(error: &sqlx::Error) -> Option<i32> {
    error.as_database_error()?.code()?.parse().ok()
}

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    Some(code(error)? & 0xff)
}

fn judge(error: &sqlx::Error) -> Verdict {
    let passes = match error {
        // Closed: the process is stopping, its successor will answer.
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => true,
        error => matches!(
            primary_code(error),
            Some(BUSY | LOCKED | READONLY | IOERR | FULL | CANTOPEN)
        ),
    };
    // Locks were waited for already.
    if passes {
        Verdict::Passes
    } else {
        Verdict::Broken
    }
}

fn explained(error: sqlx::Error) -> Box<dyn std::error::Error + Send + Sync> {
    if code(&error) == Some(IOERR_SHMSIZE) {
        return Box::new(Cause::Full(error));
    }
    match primary_code(&error) {
        Some(READONLY | IOERR) => Box::new(Cause::Volume(error)),
        Some(CANTOPEN) => Box::new(Cause::File(error)),
        Some(FULL) => Box::new(Cause::Full(error)),
        _ => Box::new(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// Without it the last connection that fails takes the index of the log away, and the next one reads
    /// what was not synced.
    #[tokio::test]
    async fn the_log_has_its_index_when_every_working_connection_is_closed() {
        sqlx::any::install_default_drivers();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("catalog.sqlite");
        let mut opened = open(&file, true).await.unwrap();
        let mut writer = opened.writer.acquire().await.unwrap();
        writer.execute("CREATE TABLE t (a INTEGER)").await.unwrap();
        drop(writer);
        opened.readers.close().await;
        opened.writer.close().await;
        let log = directory.path().join("catalog.sqlite-wal");
        assert!(fs::metadata(&log).unwrap().len() > 0);
        let count = "SELECT COUNT(*) FROM t";
        opened.keeper.execute(count).await.unwrap();
        opened.keeper.close().await.unwrap();
        assert!(
            !log.exists(),
            "the last connection puts all into the database"
        );
    }
}
