//! What both ends of the wire agree on: version, paths, the form of errors.

use std::error::Error as StdError;

use async_trait::async_trait;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{
    AsOf, Catalog, Epoch, Error, IngesterId, LogProblem, NotReadable, SchemaVersion,
    SequenceNumber, SnapshotId, SnapshotStamp, TableId, TableName, UploadState,
};

/// Header that names the version of the protocol, on requests and responses.
pub(super) const VERSION_HEADER: &str = "x-flightcluster-catalog-protocol";

/// The version this program speaks. It grows when an older peer would misunderstand a message.
pub(super) const VERSION: &str = "2";

/// Where the methods are, below the base URL.
pub(super) const PATH_PREFIX: &str = "/catalog/v1/";

/// One method of the catalog as a message.
#[async_trait]
pub(super) trait Call: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What comes back.
    type Reply: Serialize + DeserializeOwned + Send;

    /// Its name in the path.
    const METHOD: &'static str;

    /// Whether it may be sent again when the answer got lost.
    const REPEATABLE: bool;

    /// Carries it out.
    async fn serve(self, catalog: &dyn Catalog) -> Result<Self::Reply, Error>;
}

/// An error as it travels. The codes are those of [`Error::category`], and one more.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub(super) enum Refusal {
    DatabaseNotFound {
        name: String,
    },
    DatabaseExists {
        name: String,
    },
    TableNotFound {
        name: String,
    },
    TableExists {
        name: String,
    },
    IngesterNotFound {
        name: String,
    },
    NotDrained {
        name: String,
    },
    UploadNotFound {
        id: String,
    },
    UploadEnded {
        id: String,
        state: UploadState,
    },
    UploadTarget {
        id: String,
        target: TableName,
    },
    UploadKey {
        id: String,
        target: TableName,
    },
    InvalidName {
        name: String,
        problem: String,
    },
    SchemaChanged {
        table: TableId,
        expected: SchemaVersion,
    },
    TableReplaced {
        name: String,
    },
    FilesChanged {
        table: TableId,
    },
    RetentionChanged {
        table: TableId,
    },
    FileGivenUp {
        path: String,
    },
    Fenced {
        ingester: IngesterId,
        epoch: Epoch,
        current: Epoch,
    },
    WrongLog {
        ingester: String,
        problem: LogProblem,
        known: SequenceNumber,
    },
    RolledBack {
        seen: SnapshotId,
        newest: SnapshotId,
    },
    NotReadable {
        asked: AsOf,
        why: NotReadable,
        edge: SnapshotStamp,
    },
    Unavailable {
        message: String,
    },
    Store {
        message: String,
    },
    /// The request could not be understood.
    Protocol {
        message: String,
    },
}

/// What the other side said about its failure; its own causes stayed there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct PeerError(pub(super) String);

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::DatabaseNotFound { .. }
            | Self::TableNotFound { .. }
            | Self::UploadNotFound { .. }
            | Self::IngesterNotFound { .. } => StatusCode::NOT_FOUND,
            Self::DatabaseExists { .. }
            | Self::TableExists { .. }
            | Self::SchemaChanged { .. }
            | Self::NotDrained { .. }
            | Self::TableReplaced { .. }
            | Self::FilesChanged { .. }
            | Self::RetentionChanged { .. }
            | Self::FileGivenUp { .. }
            | Self::UploadEnded { .. }
            | Self::WrongLog { .. }
            | Self::RolledBack { .. }
            | Self::Fenced { .. } => StatusCode::CONFLICT,
            Self::InvalidName { .. }
            | Self::UploadTarget { .. }
            | Self::UploadKey { .. }
            | Self::NotReadable { .. }
            | Self::Protocol { .. } => StatusCode::BAD_REQUEST,
            Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Store { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The error it was, as seen by a caller of the catalog at `place`.
    pub(super) fn into_error(self, place: &str) -> Error {
        const DOING: &str = "carrying out a call on the catalog process";
        match self {
            Self::DatabaseNotFound { name } => Error::DatabaseNotFound(name),
            Self::DatabaseExists { name } => Error::DatabaseExists(name),
            Self::TableNotFound { name } => Error::TableNotFound(name),
            Self::TableExists { name } => Error::TableExists(name),
            Self::IngesterNotFound { name } => Error::IngesterNotFound(name),
            Self::NotDrained { name } => Error::NotDrained(name),
            Self::UploadNotFound { id } => Error::UploadNotFound(id),
            Self::UploadEnded { id, state } => Error::UploadEnded { id, state },
            Self::UploadTarget { id, target } => Error::UploadTarget { id, target },
            Self::UploadKey { id, target } => Error::UploadKey { id, target },
            Self::InvalidName { name, problem } => Error::InvalidName { name, problem },
            Self::SchemaChanged { table, expected } => Error::SchemaChanged { table, expected },
            Self::TableReplaced { name } => Error::TableReplaced(name),
            Self::FilesChanged { table } => Error::FilesChanged { table },
            Self::RetentionChanged { table } => Error::RetentionChanged { table },
            Self::FileGivenUp { path } => Error::FileGivenUp { path },
            Self::Fenced {
                ingester,
                epoch,
                current,
            } => Error::Fenced {
                ingester,
                epoch,
                current,
            },
            Self::WrongLog {
                ingester,
                problem,
                known,
            } => Error::WrongLog {
                ingester,
                problem,
                known,
            },
            Self::RolledBack { seen, newest } => Error::RolledBack { seen, newest },
            Self::NotReadable { asked, why, edge } => Error::NotReadable { asked, why, edge },
            Self::Unavailable { message } => Error::Unavailable {
                place: place.to_owned(),
                source: Box::new(PeerError(message)),
            },
            Self::Store { message } | Self::Protocol { message } => Error::Store {
                doing: DOING,
                source: Box::new(PeerError(message)),
            },
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let message = chain(&error);
        match error {
            Error::DatabaseNotFound(name) => Self::DatabaseNotFound { name },
            Error::DatabaseExists(name) => Self::DatabaseExists { name },
            Error::TableNotFound(name) => Self::TableNotFound { name },
            Error::TableExists(name) => Self::TableExists { name },
            Error::IngesterNotFound(name) => Self::IngesterNotFound { name },
            Error::NotDrained(name) => Self::NotDrained { name },
            Error::UploadNotFound(id) => Self::UploadNotFound { id },
            Error::UploadEnded { id, state } => Self::UploadEnded { id, state },
            Error::UploadTarget { id, target } => Self::UploadTarget { id, target },
            Error::UploadKey { id, target } => Self::UploadKey { id, target },
            Error::InvalidName { name, problem } => Self::InvalidName { name, problem },
            Error::SchemaChanged { table, expected } => Self::SchemaChanged { table, expected },
            Error::TableReplaced(name) => Self::TableReplaced { name },
            Error::FilesChanged { table } => Self::FilesChanged { table },
            Error::RetentionChanged { table } => Self::RetentionChanged { table },
            Error::FileGivenUp { path } => Self::FileGivenUp { path },
            Error::Fenced {
                ingester,
                epoch,
                current,
            } => Self::Fenced {
                ingester,
                epoch,
                current,
            },
            Error::WrongLog {
                ingester,
                problem,
                known,
            } => Self::WrongLog {
                ingester,
                problem,
                known,
            },
            Error::RolledBack { seen, newest } => Self::RolledBack { seen, newest },
            Error::NotReadable { asked, why, edge } => Self::NotReadable { asked, why, edge },
            Error::Unavailable { .. } => Self::Unavailable { message },
            Error::Store { .. } => Self::Store { message },
        }
    }
}

/// An error and its causes on one line; a cause whose text is there already is left out.
pub(super) fn chain(error: &dyn StdError) -> String {
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
