//! Why something could not be written, flushed or opened, and whose fault it is.

use std::sync::Arc;
use std::time::Duration;

use arrow_schema::{ArrowError, DataType};
use flightcluster_catalog::{self as catalog, TableName};
use flightcluster_config::format_duration;
use flightcluster_keys::KeyError;
use flightcluster_wal as wal;

use crate::fatal::Fatal;

/// Failures of the ingester.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A column type that a Parquet file can't keep (the caller's mistake).
    #[error("column {column:?} has type {data_type}, which can't be stored: {reason}")]
    UnsupportedType {
        /// The column, with the path to a nested field.
        column: String,
        /// Its type.
        data_type: DataType,
        /// What is in the way, and what to use instead.
        reason: &'static str,
    },
    /// Two columns of one name (the caller's mistake).
    #[error("column {column:?} is there twice; give each column its own name")]
    DuplicateColumn {
        /// The name.
        column: String,
    },
    /// A schema without columns (the caller's mistake).
    #[error("the schema has no columns")]
    NoColumns,
    /// A column whose type does not fit the table's (the caller's mistake).
    #[error("column {column:?} of table {table} has type {expected}, but {found} was sent")]
    TypeConflict {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// The table's type.
        expected: Box<DataType>,
        /// The type that came in.
        found: Box<DataType>,
    },
    /// A column that the table needs and that is not sent (the caller's mistake).
    #[error("column {column:?} of table {table} does not allow nulls and was not sent")]
    MissingColumn {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// Rows in the log have a column that the table in the catalog lacks. They stay in the log.
    #[error(
        "rows of table {table} have column {column:?}, which the table lacks: the catalog was set back; \
         write a batch with that column, which adds it again"
    )]
    UnknownColumn {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// Rows in the log have values that the column of the table in the catalog can't hold. They stay in
    /// the log.
    #[error(
        "rows of table {table} have {found} in column {column:?}, which is {expected} in the table: the \
         catalog was set back; write a batch with {found} in it, which widens the column again"
    )]
    NarrowColumn {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
        /// The table's type.
        expected: Box<DataType>,
        /// The type of the rows.
        found: Box<DataType>,
    },
    /// A null where the table allows none (the caller's mistake).
    #[error("column {column:?} of table {table} does not allow nulls, but the batch holds one")]
    NullValue {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// A column that allows nulls in an upload and not in its table (the caller's mistake).
    #[error(
        "column {column:?} of table {table} does not allow nulls, that of the upload does; the table \
         was created after the upload was begun: upload again"
    )]
    NullableColumn {
        /// The table.
        table: TableName,
        /// The column.
        column: String,
    },
    /// A batch for an upload that is about to end (the caller's mistake).
    #[error(
        "the upload is finishing and takes no more rows; finish it when all streams have ended"
    )]
    UploadSealed,
    /// A batch that is not of the schema its writer was made for (the caller's mistake).
    #[error("the batch does not have the schema its stream began with")]
    SchemaMismatch,
    /// Values that can't be brought into the column's type (the caller's mistake).
    #[error("values of column {column:?} can't be stored as {expected}")]
    Values {
        /// The column.
        column: String,
        /// The type to be stored.
        expected: DataType,
        /// The cause.
        #[source]
        source: ArrowError,
    },
    /// The table does not exist, or was dropped while it was written to (the caller's mistake).
    #[error("table not found: {0}")]
    TableNotFound(TableName),
    /// The table exists already (the caller's mistake).
    #[error("table exists already: {0}")]
    TableExists(TableName),
    /// A primary key that can't be, or a column named like one of ours (the caller's mistake); or a
    /// table that this release can't use.
    #[error(transparent)]
    Key(KeyError),
    /// A stream that asks for another primary key than its table has (the caller's mistake).
    #[error(
        "table {table} has {}, but the stream asks for ({declared}); a table keeps its key: leave the \
         metadata \"flightcluster.primary_key\" out, or write to a new table",
        found.as_ref().map_or("no primary key".to_owned(), |key| format!("the primary key ({key})"))
    )]
    KeyMismatch {
        /// The table.
        table: TableName,
        /// The columns the stream asks for.
        declared: String,
        /// The columns of the table's key.
        found: Option<String>,
    },
    /// A producer id that can't be used (the caller's mistake).
    #[error("a producer id has 1 to {limit} bytes, none of them 0; this one has {bytes}")]
    ProducerId {
        /// Bytes of the id.
        bytes: usize,
        /// The largest number allowed.
        limit: usize,
    },
    /// A batch out of a producer's order (the caller's mistake).
    #[error(
        "batch {sequence} of producer {producer:?} is out of order: {}",
        out_of_order(*sequence, *due)
    )]
    ProducerOrder {
        /// The producer.
        producer: String,
        /// The batch that was sent.
        sequence: u64,
        /// The batch that has to come first.
        due: u64,
    },
    /// Rows of a stream that has a name came without those before them.
    #[error(
        "rows from {after} on of {producer:?} came, but only {end} rows of it are stored or on their way: \
         those between were refused, or never sent; send it again from its first row, what is stored \
         of it counts once"
    )]
    StreamGap {
        /// The producer: the stream.
        producer: String,
        /// Rows before the batch.
        after: u64,
        /// Rows that are stored or under way.
        end: u64,
    },
    /// A repeated batch whose first attempt failed just now: send it again.
    #[error("the first attempt to write batch {sequence} of producer {producer:?} failed")]
    FirstAttempt {
        /// The producer.
        producer: String,
        /// The batch.
        sequence: u64,
    },
    /// Another ingester has the producer and can't be asked how far it came: retry later.
    #[error(
        "producer {producer:?} wrote to ingester {owner} before, which can't be asked how far it \
         came; send the batch again when that ingester is back"
    )]
    ProducerOwner {
        /// The producer.
        producer: String,
        /// The name of the ingester.
        owner: String,
        /// Why it gave no answer.
        #[source]
        source: crate::claim::PeerError,
    },
    /// Another ingester takes the producer's batches at the same time: retry.
    #[error(
        "producer {producer:?} writes to another ingester at the same time; send the batch again"
    )]
    ProducerMoved {
        /// The producer.
        producer: String,
    },
    /// A question to another life of this ingester: ask again.
    #[error("ingester {ingester} has started again since")]
    OtherLife {
        /// The ingester.
        ingester: String,
    },
    /// Too much is waiting to be written to files: retry later.
    #[error(
        "the ingester holds {buffered_bytes} bytes that are not in files yet (limit {limit_bytes})"
    )]
    Overloaded {
        /// Bytes held.
        buffered_bytes: u64,
        /// The limit, setting `ingest.buffer_bytes`.
        limit_bytes: u64,
        /// When to try again.
        retry_after: Duration,
    },
    /// Rows that were acknowledged can't be written to files for too long: retry later.
    #[error(
        "rows that were acknowledged {} ago are in no file yet and on one volume only, because flushing fails: \
         {cause}; mend that, and writes are taken as soon as a flush succeeds (limit {}, setting \
         ingest.persist_lag)",
        format_duration(whole_seconds(*waiting)),
        format_duration(*limit)
    )]
    PersistLag {
        /// Age of the oldest of those rows.
        waiting: Duration,
        /// The limit, setting `ingest.persist_lag`.
        limit: Duration,
        /// Why a flush failed last.
        cause: Arc<str>,
    },
    /// The process is going away: retry with another.
    #[error("the ingester is shutting down")]
    Draining,
    /// The process must restart: retry with another, or later.
    #[error("the ingester is out of service")]
    OutOfService(#[source] Fatal),
    /// The rows are in the log, but the process stood still meanwhile and may not, or can't learn whether
    /// it may, acknowledge them.
    #[error(
        "the rows may be stored, but this ingester stood still meanwhile and can't acknowledge them"
    )]
    Unconfirmed(#[source] Box<Error>),
    /// The write-ahead log refused.
    #[error("can't make the batch durable")]
    Wal(#[source] wal::Error),
    /// Rows that are only in the write-ahead log can't be read from it. They are not lost: what its message says
    /// can be done about it.
    #[error("can't read rows from the write-ahead log")]
    ReadLog(#[source] wal::Error),
    /// A place of the write-ahead log has other rows than were put there: a bug.
    #[error("record {sequence} of the write-ahead log has other rows than it was written with")]
    OtherRecord {
        /// Its sequence number.
        sequence: u64,
    },
    /// The write-ahead log can't be opened.
    #[error("can't open the write-ahead log")]
    OpenWal(#[source] wal::Error),
    /// A record of the write-ahead log can't be read, although its checksum is right.
    #[error("record {sequence} of the write-ahead log can't be read")]
    UnreadableRecord {
        /// Its sequence number.
        sequence: u64,
        /// The cause.
        #[source]
        source: ArrowError,
    },
    /// A schema kept by the catalog or the log can't be read.
    #[error("a stored schema can't be read")]
    UnreadableSchema {
        /// The cause.
        #[source]
        source: ArrowError,
    },
    /// A batch could not be encoded for the log.
    #[error("can't encode the batch for the write-ahead log")]
    EncodeBatch {
        /// The cause.
        #[source]
        source: ArrowError,
    },
    /// The catalog refused or failed.
    #[error("catalog call failed while {doing}")]
    Catalog {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Arc<catalog::Error>,
    },
    /// The rows of a table could not be encoded as Parquet.
    #[error("can't encode rows of table {table} as Parquet")]
    EncodeFile {
        /// The table.
        table: TableName,
        /// The cause.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// The Parquet encoder panicked: our bug, or one of the library.
    #[error("the Parquet encoder panicked on rows of table {table}: {message}")]
    EncoderPanicked {
        /// The table.
        table: TableName,
        /// What the panic said.
        message: String,
    },
    /// The object store did not take a file.
    #[error("can't store file {path}")]
    Store {
        /// The object's path.
        path: String,
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// A task of the runtime was cancelled: the process is ending.
    #[error("the process is ending")]
    Cancelled,
}

/// Whose fault a failure is, and what can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong; repeating it is useless.
    InvalidArgument,
    /// The table (or database) is not there.
    NotFound,
    /// The table is there already.
    AlreadyExists,
    /// The request does not fit the state; see the message.
    FailedPrecondition,
    /// Something is away for a moment: repeat, possibly elsewhere.
    Unavailable,
    /// A limit is reached: repeat later.
    ResourceExhausted,
    /// Our bug, or storage that is broken.
    Internal,
}

/// How long to wait before a repeat, when nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long while rows wait for too long: flushing is tried again within half a minute, and somebody has to help
/// first.
const RETRY_AFTER_LAG: Duration = Duration::from_secs(10);

impl Error {
    /// A bounded label for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::UnsupportedType { .. } => "unsupported_type",
            Self::DuplicateColumn { .. } => "duplicate_column",
            Self::NoColumns => "no_columns",
            Self::TypeConflict { .. } => "type_conflict",
            Self::MissingColumn { .. } => "missing_column",
            Self::UnknownColumn { .. } => "unknown_column",
            Self::NarrowColumn { .. } => "narrow_column",
            Self::NullValue { .. } => "null_value",
            Self::NullableColumn { .. } => "nullable_column",
            Self::UploadSealed => "upload_sealed",
            Self::SchemaMismatch => "schema_mismatch",
            Self::Values { .. } => "values",
            Self::TableNotFound(_) => "table_not_found",
            Self::TableExists(_) => "table_exists",
            Self::Key(_) => "key",
            Self::KeyMismatch { .. } => "key_mismatch",
            Self::ProducerId { .. } => "producer_id",
            Self::ProducerOrder { .. } | Self::StreamGap { .. } => "producer_order",
            Self::FirstAttempt { .. } => "first_attempt",
            Self::ProducerOwner { .. } => "producer_owner",
            Self::ProducerMoved { .. } => "producer_moved",
            Self::OtherLife { .. } => "other_life",
            Self::Overloaded { .. } => "overloaded",
            Self::PersistLag { .. } => "persist_lag",
            Self::Draining => "draining",
            Self::OutOfService(_) => "out_of_service",
            Self::Unconfirmed(_) => "unconfirmed",
            Self::Wal(_) => "wal",
            Self::ReadLog(_) => "read_log",
            Self::OtherRecord { .. } => "other_record",
            Self::OpenWal(_) => "open_wal",
            Self::UnreadableRecord { .. } => "unreadable_record",
            Self::UnreadableSchema { .. } => "unreadable_schema",
            Self::EncodeBatch { .. } => "encode_batch",
            Self::Catalog { .. } => "catalog",
            Self::EncodeFile { .. } => "encode_file",
            Self::EncoderPanicked { .. } => "encoder_panicked",
            Self::Store { .. } => "store",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::UnsupportedType { .. }
            | Self::DuplicateColumn { .. }
            | Self::NoColumns
            | Self::TypeConflict { .. }
            | Self::MissingColumn { .. }
            | Self::NullValue { .. }
            | Self::SchemaMismatch
            | Self::NullableColumn { .. }
            | Self::Values { .. }
            | Self::ProducerId { .. } => Fault::InvalidArgument,
            Self::Key(error) if error.is_callers() => Fault::InvalidArgument,
            Self::Key(_) | Self::KeyMismatch { .. } => Fault::FailedPrecondition,
            Self::TableNotFound(_) => Fault::NotFound,
            Self::TableExists(_) => Fault::AlreadyExists,
            Self::ProducerOrder { .. } | Self::StreamGap { .. } | Self::UploadSealed => {
                Fault::FailedPrecondition
            }
            Self::Overloaded { .. }
            | Self::PersistLag { .. }
            | Self::FirstAttempt { .. }
            | Self::ProducerOwner { .. }
            | Self::ProducerMoved { .. }
            | Self::OtherLife { .. }
            | Self::Draining
            | Self::OutOfService(_)
            | Self::Unconfirmed(_)
            | Self::Store { .. }
            | Self::Cancelled => Fault::Unavailable,
            Self::Wal(source) | Self::OpenWal(source) | Self::ReadLog(source) => wal_fault(source),
            Self::Catalog { source, .. } => catalog_fault(source),
            Self::OtherRecord { .. }
            | Self::UnreadableRecord { .. }
            | Self::UnreadableSchema { .. }
            | Self::UnknownColumn { .. }
            | Self::NarrowColumn { .. }
            | Self::EncodeBatch { .. }
            | Self::EncodeFile { .. }
            | Self::EncoderPanicked { .. } => Fault::Internal,
        }
    }

    /// When a repeat may succeed; `None` when repeating is useless.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match (self, self.fault()) {
            (Self::Overloaded { retry_after, .. }, _) => Some(*retry_after),
            (Self::PersistLag { .. }, _) => Some(RETRY_AFTER_LAG),
            (_, Fault::Unavailable | Fault::ResourceExhausted) => Some(RETRY_AFTER),
            _ => None,
        }
    }
}

fn wal_fault(error: &wal::Error) -> Fault {
    match error {
        wal::Error::RecordTooLarge { .. } => Fault::InvalidArgument,
        error if wal::is_full(error) => Fault::ResourceExhausted,
        wal::Error::Full { .. } | wal::Error::OverBudget { .. } => Fault::ResourceExhausted,
        wal::Error::Poisoned { .. } | wal::Error::Closed => Fault::Unavailable,
        wal::Error::Locked { .. }
        | wal::Error::Directory { .. }
        | wal::Error::Segment { .. }
        | wal::Error::Damaged { .. }
        | wal::Error::DamagedLabel { .. }
        | wal::Error::DamagedSpan { .. }
        | wal::Error::MissingSegment { .. }
        | wal::Error::MissingEnd { .. }
        | wal::Error::SequenceGap { .. }
        | wal::Error::UnknownVersion { .. }
        | wal::Error::OtherLog { .. }
        | wal::Error::OtherIngester { .. }
        | wal::Error::Behind { .. } => Fault::Internal,
    }
}

fn catalog_fault(error: &catalog::Error) -> Fault {
    match error {
        catalog::Error::DatabaseNotFound(_)
        | catalog::Error::TableNotFound(_)
        | catalog::Error::UploadNotFound(_)
        | catalog::Error::IngesterNotFound(_) => Fault::NotFound,
        catalog::Error::DatabaseExists(_) | catalog::Error::TableExists(_) => Fault::AlreadyExists,
        catalog::Error::NotDrained(_) | catalog::Error::UploadEnded { .. } => {
            Fault::FailedPrecondition
        }
        catalog::Error::UploadTarget { .. } | catalog::Error::UploadKey { .. } => {
            Fault::InvalidArgument
        }
        catalog::Error::InvalidName { .. } | catalog::Error::NotReadable { .. } => {
            Fault::InvalidArgument
        }
        catalog::Error::SchemaChanged { .. }
        | catalog::Error::TableReplaced(_)
        | catalog::Error::FilesChanged { .. }
        | catalog::Error::RetentionChanged { .. }
        | catalog::Error::FileGivenUp { .. }
        | catalog::Error::Fenced { .. }
        | catalog::Error::WrongLog { .. }
        | catalog::Error::RolledBack { .. }
        | catalog::Error::Unavailable { .. } => Fault::Unavailable,
        catalog::Error::Store { .. } => Fault::Internal,
    }
}

/// Nobody wants to read fractions of them.
fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

/// What is wrong with the order of a batch, and what to do.
fn out_of_order(sequence: u64, due: u64) -> String {
    if due > sequence {
        return format!(
            "batch {due} is under way and numbers have to grow; give these rows a number above {due}"
        );
    }
    format!(
        "batch {due} was refused before and is not stored; send again from batch {due} on. If its rows are \
         now in other batches, give the next batch the number {due} and count on from there, or use a new \
         producer id"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_not_be_replayed_has_a_row_with_an_action() {
        let page = include_str!("../../../docs/reference/wal-format.md");
        let source = || ArrowError::IpcError(String::new());
        let record = Error::UnreadableRecord {
            sequence: 987_654,
            source: source(),
        };
        let schema = Error::UnreadableSchema { source: source() };
        for error in [record, schema] {
            let row = format!("| `{error}` | ").replace("987654", "…");
            assert!(page.contains(&row), "no row has an action for: {error}");
        }
    }
}
