//! Statements that are done once, whatever process is asked to.

use serde::{Deserialize, Serialize};

/// A statement that is to be done once, whatever process is asked to and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeginStatement {
    /// Which statement.
    pub id: String,
    /// Which request; a repeat of it begins the statement too.
    pub run: String,
    /// Nobody asks for it later than this, milliseconds since the Unix epoch.
    pub expires_at_millis: i64,
}

/// How far a statement is that is to be done once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "statement", rename_all = "snake_case")]
pub enum StatementProgress {
    /// The caller is to do it.
    Begun,
    /// Another request began it; what became of it is not known.
    BegunBefore,
    /// It is done.
    Ended {
        /// The rows it answered.
        rows: u64,
    },
}
