//! The user's Secrets with tokens, checked before a pod would refuse to start with them.
//!
//! Whether a token may do something is the data plane's business; here only the shape of the
//! entries is looked at. No value of a Secret ever gets into a message.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Problem, Problems};
use crate::controller::build::names::Names;
use crate::controller::build::secret::ADMIN_TOKEN_NAME;
use crate::controller::dereference::{NamedSecrets, Referenced};

/// The key of a Secret with tokens.
const TOKENS_KEY: &str = "tokens.yaml";

/// Hexadecimal digits of a SHA-256.
const SHA256_DIGITS: usize = 64;

/// What a permission begins with.
const ACTIONS: [&str; 3] = ["read:", "write:", "admin:"];

/// An entry as `flightcluster token create` prints it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: String,
    permissions: Vec<String>,
    #[serde(default)]
    expires_at: Option<serde_yaml::Value>,
}

/// Checks that each Secret is there and holds entries that the data plane can read.
pub(super) fn validate(
    secrets: &[String],
    names: &Names,
    referenced: &Referenced,
    problems: &mut Problems,
) {
    let own = names.secrets();
    let fields = secrets
        .iter()
        .enumerate()
        .map(|(index, name)| (format!("auth.tokenSecrets[{index}]"), name));
    let (ours, others): (Vec<_>, Vec<_>) = fields.partition(|(_, name)| own.contains(name));
    for (field, name) in ours {
        let message = format!(
            "Secret {name} is made by the operator for this cluster; remove it from the list (the \
             admin token counts without being named)"
        );
        problems.push(Problem::new(field, message));
    }
    let NamedSecrets::Read(read) = &referenced.named else {
        return;
    };
    // The same token twice, maybe with other permissions, is refused by the data plane.
    let mut seen = BTreeMap::new();
    let admin_secret = names.admin_token_secret();
    if let Some(digest) = admin_digest(referenced) {
        seen.insert(digest, (ADMIN_TOKEN_NAME.to_owned(), &admin_secret));
    }
    for (field, name) in others {
        match entries(name, read.get(name).and_then(Option::as_ref)) {
            Ok(entries) => {
                for entry in entries {
                    let digest = entry.sha256.to_ascii_lowercase();
                    if let Some((other, its_secret)) =
                        seen.insert(digest, (entry.name.clone(), name))
                    {
                        let message = format!(
                            "token {:?} of Secret {name} is the same as {other:?} of Secret \
                             {its_secret}; remove one of them",
                            entry.name
                        );
                        problems.push(Problem::new(&field, message));
                    }
                }
            }
            Err(message) => problems.push(Problem::new(field, message)),
        }
    }
}

/// The digest of the operator's own token, as far as one has been made.
fn admin_digest(referenced: &Referenced) -> Option<String> {
    let data = referenced.kept.admin_token.as_ref()?.data.as_ref()?;
    let digest = Sha256::digest(&data.get("token")?.0);
    Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn entries(name: &str, secret: Option<&Secret>) -> Result<Vec<Entry>, String> {
    let Some(secret) = secret else {
        return Err(format!(
            "Secret {name} is not there; create it with the key {TOKENS_KEY}"
        ));
    };
    let Some(value) = secret.data.as_ref().and_then(|data| data.get(TOKENS_KEY)) else {
        return Err(format!("Secret {name} has no key {TOKENS_KEY}"));
    };
    let shape = || {
        format!(
            "{TOKENS_KEY} of Secret {name} is no list of entries with name, sha256, permissions and, \
             if they expire, expires_at; flightcluster token create prints one"
        )
    };
    let entries: Vec<Entry> = serde_yaml::from_slice(&value.0).map_err(|_| shape())?;
    for entry in &entries {
        let is_hash = entry.sha256.len() == SHA256_DIGITS
            && entry.sha256.chars().all(|digit| digit.is_ascii_hexdigit());
        if !is_hash {
            return Err(format!(
                "sha256 of token {:?} in Secret {name} is not {SHA256_DIGITS} hexadecimal digits",
                entry.name
            ));
        }
        let expires = entry.expires_at.as_ref();
        if expires.is_some_and(|at| !at.is_null() && !is_time(at)) {
            return Err(format!(
                "expires_at of token {:?} in Secret {name} must be a time with its zone, such as \
                 2027-01-01T00:00:00Z",
                entry.name
            ));
        }
        let understood = entry
            .permissions
            .iter()
            .all(|permission| is_permission(permission));
        if entry.permissions.is_empty() || !understood {
            return Err(format!(
                "permissions of token {:?} in Secret {name} must be a list of at least one text \
                 such as read:demo*, write:demo, admin:*",
                entry.name
            ));
        }
    }
    Ok(entries)
}

/// Read as the data plane does: text that is a time of RFC 3339.
fn is_time(value: &serde_yaml::Value) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.parse::<Timestamp>().is_ok())
}

/// An action, and a database name with a star at most at its end.
fn is_permission(text: &str) -> bool {
    let pattern = ACTIONS.iter().find_map(|action| text.strip_prefix(action));
    pattern.is_some_and(|pattern| {
        let name = pattern.strip_suffix('*').unwrap_or(pattern);
        !pattern.is_empty()
            && !name.contains(|c: char| c == '*' || c.is_whitespace() || c.is_control())
    })
}
