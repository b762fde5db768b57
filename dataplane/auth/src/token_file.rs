//! The token file: a YAML list of entries.
//!
//! ```yaml
//! - name: ada
//!   sha256: ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
//!   permissions: ["read:metrics*", "write:demo"]
//!   expires_at: 2027-01-01T00:00:00Z   # optional
//! ```
//!
//! Entries are checked by hand instead of being deserialized: the messages of YAML libraries repeat
//! what they found, and in a token file that may be a secret somebody pasted. Errors say where, in
//! which entry and which field, and never show a value.

use std::path::{Path, PathBuf};

use serde_yaml::{Mapping, Value};

use crate::permission::Permission;
use crate::token::{TOKEN_PREFIX, TokenEntry, TokenHash, is_name};

const FIELDS: [&str; 4] = ["name", "sha256", "permissions", "expires_at"];

/// Why the tokens can't be read. Whose fault: the owner of the files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("can't read token file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A file is not YAML.
    #[error("token file {} is not valid YAML at line {line}, column {column}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 when unknown.
        line: usize,
        /// Column, from 1; 0 when unknown.
        column: usize,
    },
    /// A file is YAML but no list. An empty file is most likely half written; `[]` is no token.
    #[error("token file {} holds no list of tokens; [] says that there are none", path.display())]
    NoList {
        /// The file.
        path: PathBuf,
    },
    /// An entry is wrong.
    #[error("token file {}, entry {entry}: {problem}", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Number of the entry, from 1.
        entry: usize,
        /// What is wrong with it.
        problem: EntryProblem,
    },
    /// The same token stands in two places, maybe with different permissions.
    #[error("token files hold the same token twice, as {first:?} and as {second:?}")]
    Duplicate {
        /// Name of the first entry.
        first: String,
        /// Name of the second entry.
        second: String,
    },
}

impl Error {
    /// Bounded name of the failure, for metrics and events.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Syntax { .. } => "syntax",
            Self::NoList { .. } => "no_list",
            Self::Entry { .. } => "entry",
            Self::Duplicate { .. } => "duplicate",
        }
    }
}

/// What is wrong with an entry of a token file. Shows no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// Not a map.
    #[error("expected name, sha256, permissions and, if it expires, expires_at")]
    NotAMap,
    /// A field that is none of ours.
    #[error("unknown field; known are name, sha256, permissions and expires_at")]
    UnknownField,
    /// No name, or one that can't be logged.
    #[error("name must be text without control characters, in quotes if it is a number")]
    Name,
    /// The token itself.
    #[error("sha256 holds a token; put its SHA-256 there and consider the token leaked")]
    Plaintext,
    /// Not a hash.
    #[error("sha256 must be 64 hexadecimal digits, in quotes")]
    Sha256,
    /// No permissions, or one that is not understood.
    #[error(
        "permissions must be a list of at least one text such as read:demo*, write:demo, admin:*"
    )]
    Permissions,
    /// Not a time.
    #[error("expires_at must be a time with its zone, such as 2027-01-01T00:00:00Z")]
    ExpiresAt,
}

/// Reads the text of a token file; `path` is only used in messages.
///
/// # Errors
/// The first thing that is wrong; the whole file counts, or nothing of it.
pub fn parse_token_file(path: &Path, text: &str) -> Result<Vec<TokenEntry>, Error> {
    let tree: Value = serde_yaml::from_str(text).map_err(|error| {
        let location = error.location();
        Error::Syntax {
            path: path.to_owned(),
            line: location.as_ref().map_or(0, serde_yaml::Location::line),
            column: location.as_ref().map_or(0, serde_yaml::Location::column),
        }
    })?;
    let Value::Sequence(items) = tree else {
        return Err(Error::NoList {
            path: path.to_owned(),
        });
    };
    let entry = |(index, item)| {
        parse_entry(item).map_err(|problem| Error::Entry {
            path: path.to_owned(),
            entry: index + 1,
            problem,
        })
    };
    items.iter().enumerate().map(entry).collect()
}

/// Reads all token files as one list.
pub(crate) fn read_token_files(paths: &[PathBuf]) -> Result<Vec<TokenEntry>, Error> {
    let mut entries: Vec<TokenEntry> = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.clone(),
            source,
        })?;
        for entry in parse_token_file(path, &text)? {
            if let Some(known) = entries.iter().find(|known| known.sha256 == entry.sha256) {
                return Err(Error::Duplicate {
                    first: known.name.clone(),
                    second: entry.name,
                });
            }
            entries.push(entry);
        }
    }
    Ok(entries)
}

fn parse_entry(item: &Value) -> Result<TokenEntry, EntryProblem> {
    let Value::Mapping(map) = item else {
        return Err(EntryProblem::NotAMap);
    };
    let known = |name: &Value| name.as_str().is_some_and(|name| FIELDS.contains(&name));
    if !map.keys().all(known) {
        return Err(EntryProblem::UnknownField);
    }
    Ok(TokenEntry {
        name: parse_name(map).ok_or(EntryProblem::Name)?,
        sha256: parse_hash(map)?,
        permissions: parse_permissions(map).ok_or(EntryProblem::Permissions)?,
        expires_at: match map.get("expires_at") {
            None | Some(Value::Null) => None,
            Some(value) => {
                let time = value.as_str().and_then(|text| text.parse().ok());
                Some(time.ok_or(EntryProblem::ExpiresAt)?)
            }
        },
    })
}

fn parse_name(map: &Mapping) -> Option<String> {
    let name = map.get("name")?.as_str()?;
    is_name(name).then(|| name.to_owned())
}

fn parse_hash(map: &Mapping) -> Result<TokenHash, EntryProblem> {
    let text = map
        .get("sha256")
        .and_then(Value::as_str)
        .ok_or(EntryProblem::Sha256)?;
    if text.starts_with(TOKEN_PREFIX) {
        return Err(EntryProblem::Plaintext);
    }
    TokenHash::from_hex(text).ok_or(EntryProblem::Sha256)
}

fn parse_permissions(map: &Mapping) -> Option<Vec<Permission>> {
    let items = map.get("permissions")?.as_sequence()?;
    let permissions: Vec<_> = items
        .iter()
        .map(|item| item.as_str()?.parse().ok())
        .collect::<Option<_>>()?;
    (!permissions.is_empty()).then_some(permissions)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use crate::generate_token;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn parse(text: &str) -> Result<Vec<TokenEntry>, Error> {
        parse_token_file(Path::new("tokens.yaml"), text)
    }

    fn problem(text: &str) -> EntryProblem {
        match parse(text) {
            Err(Error::Entry {
                entry: 1, problem, ..
            }) => problem,
            other => panic!("expected a problem with {text}, got {other:?}"),
        }
    }

    #[test]
    fn a_generated_entry_reads_back() {
        let permissions = ["read:db*", "write:demo"].map(|text| text.parse().unwrap());
        let expires = Some("2027-01-01T00:00:00Z".parse().unwrap());
        let (_, one) = generate_token("ada: # 1", &permissions, expires).unwrap();
        let (_, two) = generate_token("true", &permissions[..1], None).unwrap();
        let text = format!("{}{}", one.to_yaml(), two.to_yaml());
        assert_eq!(parse(&text).unwrap(), [one, two]);
    }

    #[test]
    fn every_wrong_field_is_named() {
        let rest = format!("sha256: {HASH}, permissions: ['read:*']");
        for (text, expected) in [
            ("[fc_secret]".to_owned(), EntryProblem::NotAMap),
            (
                format!("[{{name: a, token: x, {rest}}}]"),
                EntryProblem::UnknownField,
            ),
            (format!("[{{{rest}}}]"), EntryProblem::Name),
            (format!("[{{name: 7, {rest}}}]"), EntryProblem::Name),
            (
                "[{name: a, permissions: ['read:*']}]".to_owned(),
                EntryProblem::Sha256,
            ),
            (
                "[{name: a, sha256: abc, permissions: ['read:*']}]".to_owned(),
                EntryProblem::Sha256,
            ),
            (
                "[{name: a, sha256: fc_secret, permissions: ['read:*']}]".to_owned(),
                EntryProblem::Plaintext,
            ),
            (
                format!("[{{name: a, sha256: {HASH}}}]"),
                EntryProblem::Permissions,
            ),
            (
                format!("[{{name: a, sha256: {HASH}, permissions: []}}]"),
                EntryProblem::Permissions,
            ),
            (
                format!("[{{name: a, sha256: {HASH}, permissions: ['all']}}]"),
                EntryProblem::Permissions,
            ),
            (
                format!("[{{name: a, {rest}, expires_at: soon}}]"),
                EntryProblem::ExpiresAt,
            ),
            (
                format!("[{{name: a, {rest}, expires_at: 2027-01-01}}]"),
                EntryProblem::ExpiresAt,
            ),
        ] {
            assert_eq!(problem(&text), expected, "{text}");
        }
    }

    #[test]
    fn an_empty_file_is_no_list_but_an_empty_list_is() {
        assert!(parse("[]").unwrap().is_empty());
        for text in ["", "# nothing", "a: b", "text"] {
            assert_eq!(parse(text).unwrap_err().category(), "no_list", "{text:?}");
        }
        let error = parse("[\n  {name: 'x\n").unwrap_err();
        assert_eq!(error.category(), "syntax");
        assert!(error.to_string().contains("tokens.yaml"), "{error}");
    }

    /// Invariant 7: secrets never appear in a log or a `Debug`.
    #[test]
    fn an_error_never_shows_what_stands_in_the_file() {
        let secret = "fc_TopSecretToken";
        for text in [
            format!("[{secret}]"),
            secret.to_owned(),
            format!("{secret}: x\n{secret}: y"),
            format!("- {{name: a, sha256: {secret}}}"),
            format!("- {{{secret}: a}}"),
            format!("- {{name: a, sha256: {HASH}, permissions: [{secret}]}}"),
            format!("- {{name: a, sha256: {HASH}, permissions: ['read:*'], expires_at: {secret}}}"),
            format!("- \"{secret}\\q\""),
            format!("- *{secret}"),
            format!("- !{secret} x"),
        ] {
            let error = parse(&text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("TopSecret"), "{text} gives {shown}");
        }
    }
}
