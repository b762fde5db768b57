//! The values of time travel: which state of the catalog is asked for, and which there were.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{SnapshotId, SnapshotStamp, TableName};

/// A state of the catalog that somebody wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AsOf {
    /// This one.
    Snapshot(SnapshotId),
    /// The last one made at or before this moment by the catalog's clock, milliseconds since the Unix
    /// epoch.
    Millis(i64),
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
            Self::Millis(millis) => write!(f, "time {millis} ms"),
        }
    }
}

/// Why a state can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotReadable {
    /// Objects or records of it are gone. `edge` is the oldest state that can be read.
    Gone,
    /// It is still to come. `edge` is the newest state.
    ToCome,
}

/// A state of the catalog with what made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Which, and when.
    #[serde(flatten)]
    pub stamp: SnapshotStamp,
    /// What made it, such as `flush` or `create_table`.
    pub cause: String,
    /// The table it was made for, where the catalog keeps that.
    pub table: Option<TableName>,
}
