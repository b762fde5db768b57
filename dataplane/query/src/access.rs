//! Which databases a caller may read and write, as a question the engine asks before it looks
//! anything up. Who the caller is and what it was granted is decided elsewhere.

use std::fmt;
use std::sync::Arc;

use crate::Error;

/// What a statement does to a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// It reads rows, names or sizes.
    Read,
    /// It adds rows, maybe to a table it creates for them.
    Write,
    /// It drops or replaces a table, takes rows away, or creates a database.
    Admin,
}

impl fmt::Display for AccessKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write to",
            Self::Admin => "administer",
        })
    }
}

/// Decides whether a statement may touch a database.
///
/// A query needs [`AccessKind::Read`] on each database it names (on the database of the request
/// when it names no table), and so does the query an `INSERT` or `CREATE TABLE … AS` takes its rows
/// from. On the database of their target, `INSERT` and `CREATE TABLE` need [`AccessKind::Write`];
/// `CREATE OR REPLACE TABLE`, `DROP TABLE`, `DELETE`, `TRUNCATE` and `CREATE DATABASE` need
/// [`AccessKind::Admin`]. Asked
/// before the catalog is, so that a refusal says nothing about what exists.
#[derive(Clone)]
pub struct Access(Arc<Decide>);

type Decide = dyn Fn(AccessKind, &str) -> bool + Send + Sync;

impl Access {
    /// Asks `decide` for each kind and database.
    #[must_use]
    pub fn new(decide: impl Fn(AccessKind, &str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(decide))
    }

    /// Allows everything: for a server without authentication, and for tests.
    #[must_use]
    pub fn everything() -> Self {
        Self::new(|_, _| true)
    }

    pub(crate) fn check(&self, kind: AccessKind, database: &str) -> Result<(), Error> {
        if (self.0)(kind, database) {
            return Ok(());
        }
        Err(Error::AccessDenied {
            database: database.to_owned(),
            kind,
        })
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Access(..)")
    }
}
