//! Why a job of upkeep failed. All of them are tried again in the next round.

use flightcluster_catalog as catalog;

use crate::ports::RewriteFailure;

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The catalog failed.
    #[error("catalog failed while {doing}")]
    Catalog {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: catalog::Error,
    },
    /// Files could not be rewritten; nothing was changed.
    #[error("can't rewrite files of table {table}")]
    Rewrite {
        /// The table.
        table: catalog::TableName,
        /// The cause.
        #[source]
        source: RewriteFailure,
    },
    /// The object store could not be listed.
    #[error("can't list the object store")]
    List {
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// Objects could not be deleted.
    #[error("{failed} objects could not be deleted, such as {path}")]
    Delete {
        /// How many.
        failed: u64,
        /// One of them.
        path: String,
        /// Why that one could not.
        #[source]
        source: object_store::Error,
    },
}

impl Error {
    /// A bounded label for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Catalog { .. } => "catalog",
            Self::Rewrite { .. } => "rewrite",
            Self::List { .. } => "list",
            Self::Delete { .. } => "delete",
        }
    }

    pub(crate) fn catalog(doing: &'static str) -> impl FnOnce(catalog::Error) -> Self {
        move |source| Self::Catalog { doing, source }
    }
}

/// An error and its causes on one line; a cause whose text is there already is left out.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
