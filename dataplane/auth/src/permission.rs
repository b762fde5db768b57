//! What a caller may do: permissions such as `read:metrics*`, and the principal that holds them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::denied::Denied;

/// What is done to a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// Query its tables and see that they exist.
    Read,
    /// Add rows, and create the tables (and the database) they go to. Does not include reading them.
    Write,
    /// Drop and replace tables and create databases; includes reading and writing.
    Admin,
}

impl Action {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// The name used in permissions and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An action on the databases whose names match: `ACTION:NAME`, `ACTION:PREFIX*` or `ACTION:*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Permission {
    action: Action,
    pattern: Pattern,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Pattern {
    Exact(String),
    Prefix(String),
}

/// A text that is no permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "permission must be read:, write: or admin: and a database name, a prefix with * at its end, or *"
)]
pub struct PermissionError;

impl PermissionError {
    /// Bounded name of the failure, for metrics and events.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        "permission"
    }
}

impl Permission {
    /// Everything.
    #[must_use]
    pub const fn everything() -> Self {
        Self {
            action: Action::Admin,
            pattern: Pattern::Prefix(String::new()),
        }
    }

    fn allows(&self, action: Action, database: &str) -> bool {
        let covers = self.action == action || self.action == Action::Admin;
        covers
            && match &self.pattern {
                Pattern::Exact(name) => database == name,
                Pattern::Prefix(prefix) => database.starts_with(prefix),
            }
    }
}

impl FromStr for Permission {
    type Err = PermissionError;

    fn from_str(text: &str) -> Result<Self, PermissionError> {
        let (action, pattern) = text.split_once(':').ok_or(PermissionError)?;
        let action = Action::ALL
            .into_iter()
            .find(|known| known.as_str() == action)
            .ok_or(PermissionError)?;
        let prefix = pattern.strip_suffix('*');
        let name = prefix.unwrap_or(pattern);
        let blank = name.is_empty() && prefix.is_none();
        // A star in the middle looks like a pattern, and taking it literally would surprise.
        if blank || name.contains('*') || name.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            return Err(PermissionError);
        }
        let name = name.to_owned();
        let pattern = if prefix.is_some() {
            Pattern::Prefix(name)
        } else {
            Pattern::Exact(name)
        };
        Ok(Self { action, pattern })
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pattern {
            Pattern::Exact(name) => write!(f, "{}:{name}", self.action),
            Pattern::Prefix(prefix) => write!(f, "{}:{prefix}*", self.action),
        }
    }
}

/// Somebody who calls. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    name: Arc<str>,
    permissions: Arc<[Permission]>,
}

impl Principal {
    /// A principal with these permissions.
    #[must_use]
    pub fn new(name: &str, permissions: &[Permission]) -> Self {
        Self {
            name: name.into(),
            permissions: permissions.into(),
        }
    }

    /// Whoever calls while authentication is off; may do everything.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::new("anonymous", &[Permission::everything()])
    }

    /// The name, for logs and `system` tables.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The permissions.
    #[must_use]
    pub fn permissions(&self) -> &[Permission] {
        &self.permissions
    }

    /// Whether the action on the database is allowed.
    #[must_use]
    pub fn may(&self, action: Action, database: &str) -> bool {
        self.permissions
            .iter()
            .any(|permission| permission.allows(action, database))
    }

    /// [`Principal::may`] as a result.
    ///
    /// # Errors
    /// [`Denied::PermissionDenied`] naming action and database.
    pub fn require(&self, action: Action, database: &str) -> Result<(), Denied> {
        if self.may(action, database) {
            return Ok(());
        }
        Err(Denied::PermissionDenied {
            action,
            database: database.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn principal(permissions: &[&str]) -> Principal {
        let permissions: Vec<_> = permissions
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        Principal::new("ada", &permissions)
    }

    #[test]
    fn reading_and_writing_are_separate_and_admin_is_both() {
        let reader = principal(&["read:demo"]);
        assert!(reader.may(Action::Read, "demo"));
        assert!(!reader.may(Action::Write, "demo") && !reader.may(Action::Admin, "demo"));
        let writer = principal(&["write:demo"]);
        assert!(writer.may(Action::Write, "demo"));
        assert!(!writer.may(Action::Read, "demo") && !writer.may(Action::Admin, "demo"));
        let admin = principal(&["admin:demo"]);
        for action in Action::ALL {
            assert!(admin.may(action, "demo") && !admin.may(action, "other"));
        }
    }

    #[test]
    fn patterns_match_whole_names_prefixes_or_everything() {
        let exact = principal(&["read:db1"]);
        assert!(!exact.may(Action::Read, "db10") && !exact.may(Action::Read, "DB1"));
        assert!(!exact.may(Action::Read, ""));
        let prefix = principal(&["read:db*"]);
        assert!(prefix.may(Action::Read, "db") && prefix.may(Action::Read, "db10"));
        assert!(!prefix.may(Action::Read, "xdb"));
        let all = principal(&["read:*"]);
        assert!(all.may(Action::Read, "anything") && !all.may(Action::Write, "anything"));
        let several = principal(&["read:a", "write:b*"]);
        assert!(several.may(Action::Read, "a") && several.may(Action::Write, "b2"));
        assert!(!several.may(Action::Write, "a") && !several.may(Action::Read, "b2"));
    }

    #[test]
    fn nobody_without_permissions_may_do_anything() {
        assert!(!principal(&[]).may(Action::Read, ""));
    }

    /// S0-23.
    #[test]
    fn a_missing_right_is_permission_denied_and_names_what_was_missing() {
        let error = principal(&["read:db1"])
            .require(Action::Read, "db2")
            .unwrap_err();
        assert_eq!(error.category(), "permission_denied");
        assert_eq!(
            error.to_string(),
            "permission denied: read on database \"db2\""
        );
    }

    #[test]
    fn a_permission_reads_what_it_writes() {
        for text in ["read:db1", "write:db*", "admin:*", "read:a:b"] {
            assert_eq!(text.parse::<Permission>().unwrap().to_string(), text);
        }
        assert_eq!(
            "admin:*".parse::<Permission>().unwrap(),
            Permission::everything()
        );
    }

    #[test]
    fn what_only_looks_like_a_permission_is_refused() {
        for text in [
            "", "read", "read:", "Read:a", "own:a", "read:a*b", "read:**", "*:a", "read: a",
        ] {
            assert!(text.parse::<Permission>().is_err(), "{text:?}");
        }
    }
}
