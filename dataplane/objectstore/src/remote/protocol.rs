//! What both ends of the wire agree on: paths, headers, the forms of metadata and errors.

use std::ops::Range;

use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use object_store::path::Path;
use object_store::{Error, ObjectMeta};
use serde::{Deserialize, Serialize};

/// Where everything is, below the base URL.
pub(super) const PREFIX: &str = "objects/v1";

/// Metadata of the object in an answer: [`ObjectInfo`] as JSON.
pub(super) const OBJECT_HEADER: HeaderName = HeaderName::from_static("x-flightcluster-object");

/// Kind of error: a [`Kind`]. Answers to `HEAD` have no body, so it is a header.
pub(super) const ERROR_HEADER: HeaderName = HeaderName::from_static("x-flightcluster-error");

/// Length in bytes of the object a `PUT` brings, when known before.
pub(super) const LENGTH_HEADER: HeaderName = HeaderName::from_static("x-flightcluster-length");

/// Name of this store in errors of `object_store`.
pub(super) const STORE: &str = "RemoteStore";

/// Metadata of an object, and which part of it an answer holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ObjectInfo {
    /// Size of the whole object in bytes.
    pub(super) size: u64,
    /// Seconds since the Unix epoch, and nanoseconds.
    pub(super) modified: (i64, u32),
    #[serde(default)]
    pub(super) e_tag: Option<String>,
    #[serde(default)]
    pub(super) version: Option<String>,
    /// The bytes in the body; empty for metadata only.
    pub(super) range: Range<u64>,
}

impl ObjectInfo {
    pub(super) fn new(meta: &ObjectMeta, range: Range<u64>) -> Self {
        let modified = meta.last_modified;
        Self {
            size: meta.size,
            modified: (modified.timestamp(), modified.timestamp_subsec_nanos()),
            e_tag: meta.e_tag.clone(),
            version: meta.version.clone(),
            range,
        }
    }

    pub(super) fn meta(&self, location: Path) -> ObjectMeta {
        let (seconds, nanos) = self.modified;
        ObjectMeta {
            location,
            // A time the calendar does not have only comes from a broken peer.
            last_modified: DateTime::<Utc>::from_timestamp(seconds, nanos).unwrap_or_default(),
            size: self.size,
            e_tag: self.e_tag.clone(),
            version: self.version.clone(),
        }
    }
}

/// What a `PUT` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Stored {
    /// Bytes that were stored.
    pub(super) size: u64,
    pub(super) e_tag: Option<String>,
    pub(super) version: Option<String>,
}

/// A copy or rename.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct CopyRequest {
    pub(super) from: String,
    pub(super) to: String,
    /// Refuse an existing target.
    pub(super) create: bool,
    /// The source goes away.
    pub(super) rename: bool,
}

/// What to list.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ListRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prefix: Option<String>,
    /// Only objects after this location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) offset: Option<String>,
}

/// An object in a list.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) location: String,
    #[serde(flatten)]
    pub(super) info: ObjectInfo,
}

/// One line of a list.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ListLine {
    Object(Listed),
    /// Listing failed here.
    Failed(Refusal),
    /// The list is complete. Without this line it was cut off.
    End,
}

/// One level of a list.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Level {
    pub(super) objects: Vec<Listed>,
    pub(super) common_prefixes: Vec<String>,
}

/// The kinds of errors that keep their type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    NotFound,
    AlreadyExists,
    Precondition,
    NotModified,
    NotSupported,
    NotImplemented,
    PermissionDenied,
    /// The path or request can't be used.
    Invalid,
    Generic,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::Precondition,
        Self::NotModified,
        Self::NotSupported,
        Self::NotImplemented,
        Self::PermissionDenied,
        Self::Invalid,
        Self::Generic,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Precondition => "precondition",
            Self::NotModified => "not_modified",
            Self::NotSupported => "not_supported",
            Self::NotImplemented => "not_implemented",
            Self::PermissionDenied => "permission_denied",
            Self::Invalid => "invalid",
            Self::Generic => "generic",
        }
    }

    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::AlreadyExists => StatusCode::CONFLICT,
            Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::NotModified => StatusCode::NOT_MODIFIED,
            Self::NotSupported | Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Generic => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Reads the kind from the headers of an answer.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(ERROR_HEADER)?;
        Self::ALL.into_iter().find(|kind| value == kind.as_str())
    }
}

/// An error as it travels.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    pub(super) message: String,
}

/// What the other side said about its failure; its own causes stayed there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct PeerError(pub(super) String);

impl Refusal {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Invalid,
            message: message.into(),
        }
    }

    /// The error it was.
    pub(super) fn into_error(self, path: &str) -> Error {
        let source = Box::new(PeerError(self.message));
        let path = path.to_owned();
        match self.kind {
            Kind::NotFound => Error::NotFound { path, source },
            Kind::AlreadyExists => Error::AlreadyExists { path, source },
            Kind::Precondition => Error::Precondition { path, source },
            Kind::NotModified => Error::NotModified { path, source },
            Kind::PermissionDenied => Error::PermissionDenied { path, source },
            Kind::NotSupported | Kind::NotImplemented => Error::NotSupported { source },
            Kind::Invalid | Kind::Generic => Error::Generic {
                store: STORE,
                source,
            },
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NotFound { .. } => Kind::NotFound,
            Error::AlreadyExists { .. } => Kind::AlreadyExists,
            Error::Precondition { .. } => Kind::Precondition,
            Error::NotModified { .. } => Kind::NotModified,
            Error::NotSupported { .. } => Kind::NotSupported,
            Error::NotImplemented { .. } => Kind::NotImplemented,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Kind::PermissionDenied
            }
            Error::InvalidPath { .. } => Kind::Invalid,
            // The enum may grow.
            _ => Kind::Generic,
        };
        // Errors of object_store end with the text of their cause.
        Self {
            kind,
            message: error.to_string(),
        }
    }
}

/// A header value of any text, as far as headers can hold it.
pub(super) fn header_value(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}
