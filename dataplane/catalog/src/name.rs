//! Which names databases, tables and ingesters may have.
//!
//! The rules keep names usable as parts of object paths, in permission patterns and on one line of
//! a terminal. Length is counted in bytes because file systems limit a path segment to 255 bytes.

use crate::{Error, TableName};

/// The one schema that holds user tables.
pub(crate) const PUBLIC_SCHEMA: &str = "public";

/// The schema of tables that are being filled before they get their name. No request of a user may
/// name it, and no list shows it.
pub const UNPUBLISHED_SCHEMA: &str = "unpublished";

/// Schemas the server fills itself.
const RESERVED_SCHEMAS: [&str; 3] = ["information_schema", "system", UNPUBLISHED_SCHEMA];

const MAX_DATABASE_BYTES: usize = 64;
const MAX_TABLE_BYTES: usize = 255;
const MAX_INGESTER_BYTES: usize = 255;

/// Refuses a database name that can't be used.
pub(crate) fn check_database(name: &str) -> Result<(), Error> {
    check(name, MAX_DATABASE_BYTES)?;
    if name.contains('*') {
        return Err(invalid(name, "`*` stands for any database in permissions"));
    }
    Ok(())
}

/// Refuses a table name that can't be used, in any of its three parts.
pub(crate) fn check_table(name: &TableName) -> Result<(), Error> {
    check_database(&name.database)?;
    if RESERVED_SCHEMAS.contains(&name.schema.as_str()) {
        return Err(invalid(
            &name.schema,
            "the schema is reserved for the server's own tables",
        ));
    }
    if name.schema != PUBLIC_SCHEMA {
        return Err(invalid(
            &name.schema,
            "tables are kept in schema `public` only",
        ));
    }
    check(&name.table, MAX_TABLE_BYTES)
}

/// Refuses a name of an unpublished table that can't be used.
pub(crate) fn check_unpublished(name: &str) -> Result<(), Error> {
    check(name, MAX_TABLE_BYTES)
}

/// Refuses an ingester name that can't be used.
pub(crate) fn check_ingester(name: &str) -> Result<(), Error> {
    check(name, MAX_INGESTER_BYTES)
}

fn check(name: &str, max_bytes: usize) -> Result<(), Error> {
    if name.is_empty() {
        return Err(invalid(name, "it is empty"));
    }
    if name.len() > max_bytes {
        return Err(invalid(
            name,
            &format!("it is longer than {max_bytes} bytes"),
        ));
    }
    if name.chars().any(char::is_control) {
        return Err(invalid(name, "it has a control character"));
    }
    if name.contains(['/', '\\']) {
        return Err(invalid(name, "it has a slash or backslash"));
    }
    if name.trim() != name {
        return Err(invalid(name, "it begins or ends with white space"));
    }
    if name == "." || name == ".." {
        return Err(invalid(name, "it is a relative path"));
    }
    Ok(())
}

fn invalid(name: &str, problem: &str) -> Error {
    // The name comes from outside and ends in messages: keep it short, by characters.
    let name = name.chars().take(MAX_TABLE_BYTES).collect();
    Error::InvalidName {
        name,
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    fn problem(result: Result<(), Error>) -> String {
        match result {
            Err(Error::InvalidName { problem, .. }) => problem,
            other => panic!("expected InvalidName, got {other:?}"),
        }
    }

    #[test]
    fn usual_names_pass() {
        for name in [
            "default",
            "Wetter",
            "sensor-data_2",
            "日本",
            "with space",
            "a.b",
            "x:y",
        ] {
            check_database(name).unwrap();
            check_table(&TableName::public("default", name)).unwrap();
        }
        check_database(&"d".repeat(64)).unwrap();
        check_table(&TableName::public("default", "t".repeat(255))).unwrap();
        check_table(&TableName::public("default", "5*")).unwrap();
    }

    #[test]
    fn names_that_break_paths_or_terminals_are_refused() {
        for (name, word) in [
            ("", "empty"),
            ("a/b", "slash"),
            ("a\\b", "backslash"),
            ("a\nb", "control"),
            ("a\u{85}b", "control"),
            (" a", "white space"),
            ("a ", "white space"),
            ("..", "relative"),
            (".", "relative"),
            ("demo*", "permissions"),
        ] {
            assert!(problem(check_database(name)).contains(word), "{name:?}");
        }
        assert!(problem(check_database(&"d".repeat(65))).contains("64 bytes"));
        assert!(problem(check_database(&"é".repeat(33))).contains("64 bytes"));
        let long = TableName::public("default", "t".repeat(256));
        assert!(problem(check_table(&long)).contains("255 bytes"));
    }

    #[test]
    fn tables_live_in_schema_public_only() {
        for (schema, word) in [
            ("system", "reserved"),
            ("information_schema", "reserved"),
            ("unpublished", "reserved"),
            ("other", "public"),
            ("", "public"),
        ] {
            let name = TableName {
                schema: schema.to_owned(),
                ..TableName::public("d", "t")
            };
            assert!(problem(check_table(&name)).contains(word), "{schema:?}");
        }
    }

    #[test]
    fn a_refused_name_is_cut_in_the_message() {
        let Err(Error::InvalidName { name, .. }) = check_database(&"é".repeat(10_000)) else {
            panic!("a name of 10,000 characters passed");
        };
        assert_eq!(name.chars().count(), 255);
    }
}
