//! Why the log could not be opened, read or written, and what its operator can do about it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::label::LogId;

/// Failures of the log. Cheap to clone: one failed sync is told to every waiting writer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another process uses the directory. Stop it, or give this one its own directory.
    #[error(
        "write-ahead log {directory} is in use by another process; stop that process or give this \
         one its own data directory"
    )]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory could not be prepared, listed or synced.
    #[error("can't {doing} write-ahead log directory {directory}")]
    Directory {
        /// What was being done.
        doing: &'static str,
        /// The directory.
        directory: PathBuf,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// A segment could not be read, cut or removed.
    #[error("can't {doing} segment {file}")]
    Segment {
        /// What was being done.
        doing: &'static str,
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// Bytes that had been on disk are not what was written. Nothing was changed.
    #[error(
        "segment {file} is damaged at offset {offset}: {problem}; restore the volume from a copy, \
         or move the log directory away to start without the rows it holds (see \
         docs/reference/wal-format.md)"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the unusable bytes begin.
        offset: u64,
        /// What is wrong with them.
        problem: &'static str,
    },
    /// The label is not as it was written. Nothing was changed, and nothing is wrong with the rows. The
    /// process does not repair it by itself: without it nobody notices a catalog that went back.
    #[error(
        "label {file} of the write-ahead log is damaged; no row is lost with it: move this one file away \
         and start again, it is made anew from the segments (if the catalog was restored or exchanged since \
         the last start, see docs/reference/wal-format.md first)"
    )]
    DamagedLabel {
        /// The file.
        file: PathBuf,
    },
    /// The span is not as it was written. Nothing was changed, and nothing is wrong with the rows. The process
    /// does not repair it by itself: without it nobody notices a segment that is missing at one of the ends.
    #[error(
        "span {file} of the write-ahead log is damaged; no row is lost with it: move this one file away and \
         start again, it is made anew from the segments that are there"
    )]
    DamagedSpan {
        /// The file.
        file: PathBuf,
    },
    /// A segment between the oldest and the newest is not there. Nothing was changed.
    #[error(
        "segment {file} is missing although newer ones exist; put the file back, or move the log \
         directory away to start without the rows it holds"
    )]
    MissingSegment {
        /// The file that should be there.
        file: PathBuf,
    },
    /// A segment at one of the ends is not there, and the log was not done with it. Nothing was changed.
    #[error(
        "segment {file} is missing although the log was not done with it; put the file back, or, when it is \
         gone for good, move the file `span` away to start with the segments that are there: the rows in \
         those that are not are lost then"
    )]
    MissingEnd {
        /// The file that should be there.
        file: PathBuf,
    },
    /// Sequence numbers do not continue where they should. Nothing was changed.
    #[error(
        "segment {file} continues with sequence {found} at offset {offset} where {expected} is \
         due; put the missing segments back, or move the log directory away to start without the \
         rows it holds"
    )]
    SequenceGap {
        /// The file.
        file: PathBuf,
        /// Where the unexpected number is.
        offset: u64,
        /// The number that was due.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// Written by a newer release. Nothing was changed.
    #[error(
        "segment {file} has {what} {found} at offset {offset}, which this release does not know; \
         start the release that wrote it"
    )]
    UnknownVersion {
        /// The file.
        file: PathBuf,
        /// Where it says so.
        offset: u64,
        /// What is unknown: format version, record kind or attribute.
        what: &'static str,
        /// The number found.
        found: u32,
    },
    /// The segment belongs to another log than its directory. Nothing was changed.
    #[error(
        "segment {file} belongs to log {found}, its directory to log {expected}: files of two logs are \
         mixed; remove those of the other log, or bring back the volume as it was"
    )]
    OtherLog {
        /// The file.
        file: PathBuf,
        /// The log the segment names.
        found: LogId,
        /// The log the label names.
        expected: LogId,
    },
    /// The log belongs to another ingester. Nothing was changed.
    #[error(
        "segment {file} was written by ingester {found_name} (id {found}), this is ingester \
         {expected}: the catalog or the volume was exchanged; bring back the one that belongs to \
         the other, or move the log directory away to start without the rows it holds"
    )]
    OtherIngester {
        /// The file.
        file: PathBuf,
        /// The id in the file.
        found: u64,
        /// The name in the file.
        found_name: String,
        /// Our id.
        expected: u64,
    },
    /// The catalog was told of newer rows than the log has: an old copy of the volume was restored.
    #[error(
        "write-ahead log {directory} ends at sequence {last}, but the catalog was told of rows up to \
         {known}: the volume is an old copy; bring back the newest one, or give up the rows that only \
         that one has: move the log directory away and run `flightcluster catalog retire` with \
         --accept-loss"
    )]
    Behind {
        /// The directory.
        directory: PathBuf,
        /// The last sequence number of the log.
        last: u64,
        /// The highest one the catalog was told of.
        known: u64,
    },
    /// A record larger than the format allows (the caller's mistake).
    #[error("a record of {bytes} bytes is too large for the write-ahead log (limit 1 GiB)")]
    RecordTooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// No space on the volume. Nothing was written; retry when there is space again.
    #[error("no space left for the write-ahead log in {directory}")]
    Full {
        /// The directory.
        directory: PathBuf,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// The log holds as much as it may: files are not written, or not fast enough. Nothing was written;
    /// retry when flushes have freed segments.
    #[error(
        "the write-ahead log in {directory} holds {used_bytes} bytes of rows that are not in files yet \
         (limit {limit_bytes}, setting ingest.wal_bytes): flushes fail or can't keep up"
    )]
    OverBudget {
        /// The directory.
        directory: PathBuf,
        /// Bytes of all segments.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A write or sync failed earlier: nothing is accepted until the process restarts and replays.
    #[error("write-ahead log is out of service: {doing} of segment {file} failed")]
    Poisoned {
        /// What failed.
        doing: &'static str,
        /// The file.
        file: PathBuf,
        /// The cause.
        #[source]
        source: Arc<io::Error>,
    },
    /// The log was closed.
    #[error("write-ahead log is closed")]
    Closed,
}

/// Whether an operation failed because there is no space on the volume.
#[must_use]
pub fn is_full(error: &Error) -> bool {
    let source = match error {
        Error::Full { .. } | Error::OverBudget { .. } => return true,
        Error::Directory { source, .. } | Error::Segment { source, .. } => source,
        _ => return false,
    };
    out_of_space(source)
}

/// Whether an operation found no space on the volume.
pub(crate) fn out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

impl Error {
    /// A bounded label for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Locked { .. } => "locked",
            Self::Directory { .. } => "directory",
            Self::Segment { .. } => "segment",
            Self::Damaged { .. } => "damaged",
            Self::DamagedLabel { .. } => "damaged_label",
            Self::DamagedSpan { .. } => "damaged_span",
            Self::MissingSegment { .. } => "missing_segment",
            Self::MissingEnd { .. } => "missing_end",
            Self::SequenceGap { .. } => "sequence_gap",
            Self::UnknownVersion { .. } => "unknown_version",
            Self::OtherLog { .. } => "other_log",
            Self::OtherIngester { .. } => "other_ingester",
            Self::Behind { .. } => "behind",
            Self::RecordTooLarge { .. } => "record_too_large",
            Self::Full { .. } => "full",
            Self::OverBudget { .. } => "over_budget",
            Self::Poisoned { .. } => "poisoned",
            Self::Closed => "closed",
        }
    }
}
