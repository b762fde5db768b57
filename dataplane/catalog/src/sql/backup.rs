//! A backup: all rows of the catalog at one moment, in a form every database takes.
//!
//! # Format 1
//! Lines of JSON, compressed with zstd. The first is a [`Header`]. Then, for each table, a line
//! `{"table":NAME,"columns":[{"name":…,"kind":number|text|bytes},…]}` and one array for each row; bytes
//! are base64. The last line is `{"rows":N,"sha256":HEX}` over all bytes before it. A backup that was
//! cut off or altered is refused.
//!
//! The header names the layout the rows are in (`migrations`): a restore makes that layout, fills it,
//! and brings it up to date. A program that works on a newer layout than it knows backs up all of it;
//! only a newer program restores that.

use std::io::{self, BufRead as _, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Row as _};

use super::clock::now_millis;
use super::dialect::{Connection, Dialect, Row};
use super::tables::{self, Column, Kind, TABLES};

use super::{migrations, snapshot};
use crate::SnapshotId;

/// The version of the format this program writes, and the only one it reads.
const FORMAT: u32 = 1;

/// Fast, and small enough: paths repeat much of themselves.
const COMPRESSION_LEVEL: i32 = 3;

/// A longer line is no row of ours.
const MAX_LINE_BYTES: u64 = 256 << 20;

/// What a backup says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub format: u32,
    /// The version of the layout the rows are in.
    pub layout: u64,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at_millis: i64,
    /// The state of the catalog it holds.
    pub snapshot: SnapshotId,
}

/// A backup in memory.
#[derive(Clone)]
pub struct Backup {
    /// What it says about itself.
    pub header: Header,
    /// Its rows, over all tables.
    pub rows: u64,
    /// The file.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup")
            .field("header", &self.header)
            .field("rows", &self.rows)
            .field("bytes", &self.bytes.len())
            .finish()
    }
}

/// Why a file is no backup that can be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It can't be decompressed.
    #[error("the backup can't be read: it is cut off, or not a backup of a catalog")]
    Read(#[source] io::Error),
    /// A line is not what the format says.
    #[error("line {line} of the backup is not what the format says")]
    Line {
        /// Counted from 1.
        line: u64,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// Rows are missing or altered.
    #[error("the backup is damaged: its checksum or number of rows does not fit its content")]
    Damaged,
    /// A newer program wrote it.
    #[error(
        "the backup has format {format} and layout {layout}, this program knows format {FORMAT} and \
         layouts up to {known}: use the program that wrote it, or a newer one"
    )]
    Newer {
        /// Its format.
        format: u32,
        /// Its layout.
        layout: u64,
        /// The newest layout this program knows.
        known: u64,
    },
}

/// The begin of the rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) table: String,
    pub(super) columns: Vec<Column>,
}

#[derive(Serialize, Deserialize)]
struct End {
    rows: u64,
    sha256: String,
}

/// A line of a backup.
pub(super) enum Line {
    Table(Start),
    Row(Vec<Value>),
}

/// Writes lines, and knows their checksum.
struct Writer {
    to: zstd::Encoder<'static, Vec<u8>>,
    digest: Sha256,
    rows: u64,
}

impl Writer {
    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.digest.update(&text);
        self.to.write_all(&text)
    }

    fn end(mut self) -> io::Result<(u64, Vec<u8>)> {
        let rows = self.rows;
        let sha256 = hex(&self.digest.clone().finalize());
        self.line(&End { rows, sha256 })?;
        Ok((rows, self.to.finish()?))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads everything. The transaction makes it one state.
pub(super) async fn read(c: &mut Connection, dialect: &Dialect) -> Result<Backup, sqlx::Error> {
    let header = Header {
        format: FORMAT,
        layout: migrations::newest(c).await?,
        created_at_millis: now_millis(),
        snapshot: snapshot::newest(c).await?,
    };
    let mut writer = Writer {
        to: zstd::Encoder::new(Vec::new(), COMPRESSION_LEVEL)?,
        digest: Sha256::new(),
        rows: 0,
    };
    writer.line(&header)?;
    let known = TABLES.iter().map(|table| (*table).to_owned());
    let newer = migrations::newer_tables(c).await?;
    for table in known.chain(newer) {
        if !tables::exists(c, dialect, &table).await? {
            continue;
        }
        let start = Start {
            columns: tables::columns(c, dialect, &table).await?,
            table,
        };
        writer.line(&start)?;
        read_rows(c, &start, &mut writer).await?;
    }
    let (rows, bytes) = writer.end()?;
    Ok(Backup {
        header,
        rows,
        bytes,
    })
}

async fn read_rows(
    c: &mut Connection,
    start: &Start,
    writer: &mut Writer,
) -> Result<(), sqlx::Error> {
    let names: Vec<_> = start.columns.iter().map(|column| &*column.name).collect();
    let select = format!("SELECT {} FROM {}", names.join(", "), start.table);
    let mut rows = sqlx::query(AssertSqlSafe(select)).fetch(c);
    while let Some(row) = rows.try_next().await? {
        let values = start
            .columns
            .iter()
            .enumerate()
            .map(|(at, column)| value(&row, at, column.kind))
            .collect::<Result<Vec<_>, _>>()?;
        writer.line(&values)?;
        writer.rows += 1;
    }
    Ok(())
}

fn value(row: &Row, at: usize, kind: Kind) -> Result<Value, sqlx::Error> {
    Ok(match kind {
        Kind::Number => row.try_get::<Option<i64>, _>(at)?.into(),
        Kind::Text => row.try_get::<Option<String>, _>(at)?.into(),
        Kind::Bytes => {
            let bytes: Option<Vec<u8>> = row.try_get(at)?;
            bytes.map(|bytes| STANDARD.encode(bytes)).into()
        }
    })
}

/// Reads what a backup says about itself, and refuses one of a newer program.
pub(super) fn header(bytes: &[u8]) -> Result<Header, BackupError> {
    let mut lines = Lines::new(bytes)?;
    let header: Header = lines.parse()?;
    let known = migrations::NEWEST;
    if header.format != FORMAT || header.layout > known {
        return Err(BackupError::Newer {
            format: header.format,
            layout: header.layout,
            known,
        });
    }
    Ok(header)
}

/// Goes through a whole backup in order; `each` gets its tables and rows. What `each` was given is
/// worth nothing when this fails in the end: the checksum is the last thing in the file.
pub(super) fn check(bytes: &[u8]) -> Result<u64, BackupError> {
    let mut reader = Reader::new(bytes)?;
    while reader.next()?.is_some() {}
    Ok(reader.rows)
}

/// The lines of a backup after its header.
pub(super) struct Reader<'b> {
    lines: Lines<'b>,
    rows: u64,
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Result<Self, BackupError> {
        let mut lines = Lines::new(bytes)?;
        lines.parse::<Header>()?;
        Ok(Self { lines, rows: 0 })
    }

    /// The next table or row; `None` at the end of a whole backup.
    pub(super) fn next(&mut self) -> Result<Option<Line>, BackupError> {
        let before = self.lines.digest.clone();
        match self.lines.parse::<Value>()? {
            Value::Array(values) => {
                self.rows += 1;
                Ok(Some(Line::Row(values)))
            }
            object if object.get("table").is_some() => {
                let start = serde_json::from_value(object).map_err(|e| self.lines.wrong(e))?;
                Ok(Some(Line::Table(start)))
            }
            object => {
                let end: End = serde_json::from_value(object).map_err(|e| self.lines.wrong(e))?;
                let whole = end.rows == self.rows
                    && end.sha256 == hex(&before.finalize())
                    && self.lines.is_over()?;
                whole.then_some(None).ok_or(BackupError::Damaged)
            }
        }
    }
}

/// Lines out of compressed bytes.
struct Lines<'b> {
    from: io::BufReader<zstd::Decoder<'static, io::BufReader<&'b [u8]>>>,
    digest: Sha256,
    number: u64,
    line: Vec<u8>,
}

impl<'b> Lines<'b> {
    fn new(bytes: &'b [u8]) -> Result<Self, BackupError> {
        let decoder = zstd::Decoder::new(bytes).map_err(BackupError::Read)?;
        Ok(Self {
            from: io::BufReader::new(decoder),
            digest: Sha256::new(),
            number: 0,
            line: Vec::new(),
        })
    }

    fn parse<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, BackupError> {
        self.line.clear();
        let mut limited = (&mut self.from).take(MAX_LINE_BYTES);
        limited
            .read_until(b'\n', &mut self.line)
            .map_err(BackupError::Read)?;
        self.number += 1;
        self.digest.update(&self.line);
        serde_json::from_slice(&self.line).map_err(|error| self.wrong(error))
    }

    fn wrong(&self, source: serde_json::Error) -> BackupError {
        BackupError::Line {
            line: self.number,
            source,
        }
    }

    fn is_over(&mut self) -> Result<bool, BackupError> {
        let rest = self.from.fill_buf().map_err(BackupError::Read)?;
        Ok(rest.is_empty())
    }
}
