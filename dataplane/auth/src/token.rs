//! Tokens: how they are made, and what is kept of them.
//!
//! A token is 32 random bytes, so its SHA-256 can be stored without salt or stretching: there is no
//! dictionary to try.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use crate::permission::Permission;

/// What tokens begin with, so that scanners for leaked secrets can find them.
pub const TOKEN_PREFIX: &str = "fc_";

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;

/// A token in plaintext. `Debug` hides it; it is shown once, to who asked for it.
#[derive(Clone)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(hidden)")
    }
}

impl Token {
    /// The plaintext.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The SHA-256 of a token; comparing takes the same time wherever they differ.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// The hash written as 64 hexadecimal digits; `None` for any other text.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut hash = [0_u8; 32];
        if text.len() != 2 * hash.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }

    /// Compares in constant time.
    #[must_use]
    pub fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(hidden)")
    }
}

/// What a token file keeps of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenEntry {
    /// Who holds it; becomes the name of the principal.
    pub name: String,
    /// SHA-256 of the plaintext.
    pub sha256: TokenHash,
    /// What it allows.
    pub permissions: Vec<Permission>,
    /// When it stops to work; `None` never.
    pub expires_at: Option<Timestamp>,
}

impl TokenEntry {
    /// The entry as a list item of a token file.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        #[derive(Serialize)]
        struct Item<'a> {
            name: &'a str,
            sha256: String,
            permissions: Vec<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            expires_at: Option<String>,
        }
        let item = Item {
            name: &self.name,
            sha256: self.sha256.to_string(),
            permissions: self.permissions.iter().map(ToString::to_string).collect(),
            expires_at: self.expires_at.map(|time| time.to_string()),
        };
        serde_yaml::to_string(&[item]).expect("texts are always YAML")
    }
}

/// Why no token could be made.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The name can't stand in a token file.
    #[error("a token needs a name without control characters")]
    Name,
    /// The token would allow nothing.
    #[error("a token needs at least one permission, such as read:*")]
    NoPermission,
    /// The system has no random numbers.
    #[error("can't get random bytes from the system")]
    Random(#[source] rand::rand_core::OsError),
}

impl GenerateError {
    /// Bounded name of the failure, for metrics and events.
    #[must_use]
    pub const fn category(&self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::NoPermission => "no_permission",
            Self::Random(_) => "random",
        }
    }
}

/// Makes a new token: the plaintext for its holder, the entry for a token file.
///
/// # Errors
/// When the name is blank, no permission is given, or the system has no random numbers.
pub fn generate_token(
    name: &str,
    permissions: &[Permission],
    expires_at: Option<Timestamp>,
) -> Result<(Token, TokenEntry), GenerateError> {
    if !is_name(name) {
        return Err(GenerateError::Name);
    }
    if permissions.is_empty() {
        return Err(GenerateError::NoPermission);
    }
    let mut secret = [0_u8; TOKEN_BYTES];
    OsRng
        .try_fill_bytes(&mut secret)
        .map_err(GenerateError::Random)?;
    let token = Token(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(secret)));
    let entry = TokenEntry {
        name: name.to_owned(),
        sha256: TokenHash::of(token.expose()),
        permissions: permissions.to_vec(),
        expires_at,
    };
    Ok((token, entry))
}

/// Whether a name can stand in a token file and in a log line.
pub(crate) fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && !name.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_hash_is_sha_256() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(TokenHash::of("abc").to_string(), abc);
        assert_eq!(TokenHash::from_hex(abc).unwrap(), TokenHash::of("abc"));
        assert_eq!(
            TokenHash::from_hex(&abc.to_uppercase()).unwrap(),
            TokenHash::of("abc")
        );
        for wrong in [
            "",
            "abc",
            &abc[1..],
            &format!("{}g", &abc[1..]),
            &"é".repeat(32),
        ] {
            assert!(TokenHash::from_hex(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn two_tokens_are_never_the_same_and_say_what_they_are() {
        let make = || generate_token("ada", &[Permission::everything()], None).unwrap();
        let ((one, entry), (two, _)) = (make(), make());
        assert_ne!(one.expose(), two.expose());
        assert!(one.expose().starts_with(TOKEN_PREFIX));
        assert_eq!(one.expose().len(), TOKEN_PREFIX.len() + 43);
        assert_eq!(entry.sha256, TokenHash::of(one.expose()));
    }

    #[test]
    fn a_token_needs_a_name_and_a_permission() {
        let everything = [Permission::everything()];
        let make = |name: &str, permissions: &[Permission]| {
            generate_token(name, permissions, None).unwrap_err()
        };
        assert_eq!(make(" ", &everything).category(), "name");
        assert_eq!(make("a\nb", &everything).category(), "name");
        assert_eq!(make("ada", &[]).category(), "no_permission");
    }
}
