//! The `authorization` header: which forms are understood, and the secret it carries.
//!
//! `Bearer TOKEN` is what Flight clients send, `Token TOKEN` what InfluxDB clients send, and `Basic`
//! what clients with user and password send: the password is the token, the user is ignored.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::denied::{Denied, Reason};

/// Some clients leave the padding of Basic credentials out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The secret of a call. `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(String);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(hidden)")
    }
}

impl Credential {
    /// Reads the values of all `authorization` headers of a call.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`] when there is none, more than one, or one that is not understood.
    pub fn from_headers<'a>(
        authorization: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, Denied> {
        let mut values = authorization.into_iter();
        let value = values
            .next()
            .ok_or(Denied::Unauthenticated(Reason::MissingToken))?;
        if values.next().is_some() {
            return Err(Denied::Unauthenticated(Reason::SeveralHeaders));
        }
        Self::from_value(value).ok_or(Denied::Unauthenticated(Reason::MalformedHeader))
    }

    /// The token in plaintext, to answer a handshake with it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn from_value(value: &[u8]) -> Option<Self> {
        let value = std::str::from_utf8(value).ok()?.trim();
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim_start();
        let is = |name: &str| scheme.eq_ignore_ascii_case(name);
        let secret = if is("Bearer") || is("Token") {
            rest.to_owned()
        } else if is("Basic") {
            let decoded = String::from_utf8(BASE64.decode(rest).ok()?).ok()?;
            decoded.split_once(':')?.1.to_owned()
        } else {
            return None;
        };
        let usable = !secret.is_empty() && secret.chars().all(|c| c.is_ascii_graphic());
        usable.then_some(Self(secret))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn read(values: &[&str]) -> Result<String, Denied> {
        Credential::from_headers(values.iter().map(|value| value.as_bytes()))
            .map(|credential| credential.expose().to_owned())
    }

    /// S4-12.
    #[test]
    fn every_scheme_is_understood_in_any_case() {
        for value in [
            "Bearer fc_secret",
            "bearer fc_secret",
            "BEARER   fc_secret ",
            "Token fc_secret",
            "token fc_secret",
            "Basic dXNlcjpmY19zZWNyZXQ=",
            "basic dXNlcjpmY19zZWNyZXQ",
            "BASIC OmZjX3NlY3JldA==",
            "basic OmZjX3NlY3JldA",
        ] {
            assert_eq!(read(&[value]).unwrap(), "fc_secret", "{value}");
        }
    }

    #[test]
    fn a_password_may_hold_colons() {
        assert_eq!(read(&["Basic YTpiOmM="]).unwrap(), "b:c");
    }

    /// S0-21.
    #[test]
    fn no_header_is_a_missing_token() {
        assert_eq!(
            read(&[]).unwrap_err(),
            Denied::Unauthenticated(Reason::MissingToken)
        );
    }

    /// S4-12.
    #[test]
    fn several_headers_are_refused_even_if_they_agree() {
        let error = read(&["Bearer a", "Bearer a"]).unwrap_err();
        assert_eq!(error, Denied::Unauthenticated(Reason::SeveralHeaders));
    }

    #[test]
    fn what_is_not_understood_is_malformed() {
        for value in [
            "",
            "Bearer",
            "Bearer ",
            "fc_secret",
            "Digest fc_secret",
            "Bearer a b",
            "Bearer a, Bearer b",
            "Basic !!!",
            "Basic bm9jb2xvbg==",
            "Basic dXNlcjo=",
            "Basic /////w==",
            "Bearer ä",
        ] {
            let error = read(&[value]).unwrap_err();
            assert_eq!(
                error,
                Denied::Unauthenticated(Reason::MalformedHeader),
                "{value:?}"
            );
        }
        let error = Credential::from_headers([b"Bearer \xff".as_slice()]).unwrap_err();
        assert_eq!(error, Denied::Unauthenticated(Reason::MalformedHeader));
    }
}
