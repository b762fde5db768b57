//! What a process is in a cluster.

use std::fmt;
use std::str::FromStr;

/// The part a data plane process plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Everything in one process: catalog, ingest and query.
    Standalone,
    /// Answers queries; owns no durable state.
    Querier,
    /// Accepts writes, keeps the write-ahead log and flushes it.
    Ingester,
    /// Serves the embedded catalog (and embedded object store) to the other processes.
    Catalog,
}

impl Role {
    /// Every role, in the order of the documentation.
    pub const ALL: [Self; 4] = [
        Self::Standalone,
        Self::Querier,
        Self::Ingester,
        Self::Catalog,
    ];

    /// The name used on the command line, in labels and in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standalone => "standalone",
            Self::Querier => "querier",
            Self::Ingester => "ingester",
            Self::Catalog => "catalog",
        }
    }

    /// Whether the process opens the public Flight port. The catalog only has the internal one.
    #[must_use]
    pub const fn is_public(self) -> bool {
        !matches!(self, Self::Catalog)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`Role`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown role {found:?}: allowed are standalone, querier, ingester and catalog")]
pub struct UnknownRole {
    /// The text as given.
    pub found: String,
}

impl UnknownRole {
    /// Bounded name of the failure, for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        "unknown_role"
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| UnknownRole {
                found: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_role_reads_the_name_it_writes() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse::<Role>().unwrap(), role);
        }
    }

    #[test]
    fn an_unknown_role_lists_every_allowed_one() {
        let message = "all".parse::<Role>().unwrap_err().to_string();
        for role in Role::ALL {
            assert!(message.contains(role.as_str()), "{message}");
        }
    }
}
