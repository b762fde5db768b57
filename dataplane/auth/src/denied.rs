//! Why a call is not let in.

use std::fmt;

use crate::permission::Action;

/// Why credentials were not accepted. For metrics and logs; the caller is told the same in every
/// case, so that nobody can find out which tokens exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No `authorization` header.
    MissingToken,
    /// More than one `authorization` header.
    SeveralHeaders,
    /// The header is not in one of the forms that are understood.
    MalformedHeader,
    /// No token like that.
    UnknownToken,
    /// The token was valid once.
    ExpiredToken,
}

impl Reason {
    /// Bounded machine name, for metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::SeveralHeaders => "several_headers",
            Self::MalformedHeader => "malformed_header",
            Self::UnknownToken => "unknown_token",
            Self::ExpiredToken => "expired_token",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal. The text is meant for the caller; whose fault: the caller's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// We don't know who is calling. The text does not depend on the reason.
    #[error(
        "a valid token is needed: send the header authorization once, as Bearer TOKEN, Token TOKEN \
         or Basic with the token as password"
    )]
    Unauthenticated(Reason),
    /// We know who is calling, and they may not.
    #[error("permission denied: {action} on database {database:?}")]
    PermissionDenied {
        /// What was attempted.
        action: Action,
        /// On what.
        database: String,
    },
}

impl Denied {
    /// Bounded machine name, for metrics and logs.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Unauthenticated(reason) => reason.as_str(),
            Self::PermissionDenied { .. } => "permission_denied",
        }
    }
}
