//! Uploads: rows of many streams that appear together.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Epoch, Ingester, IngesterId, SchemaBytes, SchemaVersion, Table, TableId, TableName};

/// How far an upload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadState {
    /// Streams may begin.
    Open,
    /// No stream begins any more; its rows are put into files.
    Finishing,
    /// Its rows are visible.
    Finished,
    /// It was given up: its rows never appear.
    Aborted,
    /// Nobody went on with it in time: its rows never appear.
    Expired,
}

impl UploadState {
    /// As it is written in messages and stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Finishing => "finishing",
            Self::Finished => "finished",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
        }
    }

    /// The state that is written so.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        let all = [
            Self::Open,
            Self::Finishing,
            Self::Finished,
            Self::Aborted,
            Self::Expired,
        ];
        all.into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for UploadState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Rows of many streams that appear together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    /// Its id.
    pub id: String,
    /// The table its rows will be in.
    pub target: TableName,
    /// How far it is.
    pub state: UploadState,
    /// The table its rows are in until then; `None` before the first stream and after the end.
    pub staging: Option<Table>,
    /// Active ingesters that may have rows of it in no file.
    pub ingesters: Vec<Ingester>,
    /// Rows that became visible.
    pub rows: u64,
}

/// How a stream takes part in an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinUpload {
    /// The upload.
    pub id: String,
    /// The table the stream is for, which must be that of the upload.
    pub target: TableName,
    /// The ingester that takes the stream.
    pub ingester: IngesterId,
    /// In which life.
    pub epoch: Epoch,
    /// The schema of the stream, for a table that is not there yet.
    pub schema: SchemaBytes,
    /// Time the upload may rest from now on.
    pub ttl: Duration,
}

/// How an upload ends with its rows visible. Nothing of it may be outside of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishUpload {
    /// The upload.
    pub id: String,
    /// The schema its rows have, as the caller saw it.
    pub staging_version: SchemaVersion,
    /// The target as the caller saw it.
    pub target: Option<(TableId, SchemaVersion)>,
    /// The schema the target has to get first.
    pub schema: Option<SchemaBytes>,
    /// The time ranges of its files are those of another column than the target's: none is kept.
    #[serde(default)]
    pub forget_times: bool,
}
