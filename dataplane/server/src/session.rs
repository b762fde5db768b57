//! Session options, kept by the client in a cookie: no server remembers a session, so every querier
//! of a cluster knows them all.
//!
//! The cookie is not signed. It says no more than the headers that name a database, and rights are
//! asked for with every call.

use std::collections::HashMap;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use flightcluster_query::AsOf;
use flightcluster_wire::action::{
    GetSessionOptionsResult, OptionValue, SessionOptionError, SessionOptionErrorKind,
    SessionOptionValue, SetSessionOptionsRequest, SetSessionOptionsResult,
};
use flightcluster_wire::{DEFAULT_SCHEMA, headers};
use http::HeaderMap;
use serde::{Deserialize, Serialize};

/// Name of the cookie.
const COOKIE: &str = "fc-session";

/// The database of names without one. JDBC and ADBC call it so.
const CATALOG: &str = "catalog";

/// The schema of names without one; there is only one that can be written to.
const SCHEMA: &str = "schema";

/// The past that is read.
const AS_OF: &str = "as_of";

/// Whether a partial answer will do.
const PARTIAL: &str = "partial";

/// The options of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    /// The database of names without one.
    pub(crate) catalog: Option<String>,
    /// The past that is read, as [`AsOf::parse`] takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) as_of: Option<String>,
    /// Whether a partial answer will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) partial: Option<bool>,
}

impl Session {
    /// The session of a call; one that can't be read is a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        headers
            .get_all(headers::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|cookie| cookie.trim().split_once('='))
            .filter(|(name, _)| *name == COOKIE)
            .find_map(|(_, value)| {
                let json = BASE64_URL_SAFE_NO_PAD.decode(value).ok()?;
                serde_json::from_slice(&json).ok()
            })
            .unwrap_or_default()
    }

    /// The value of the `set-cookie` header that keeps this session.
    pub(crate) fn to_cookie(&self) -> String {
        // A struct of text always has a JSON form.
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{COOKIE}={}", BASE64_URL_SAFE_NO_PAD.encode(json))
    }

    /// The value of the `set-cookie` header that ends a session.
    pub(crate) fn end() -> String {
        format!("{COOKIE}=; Max-Age=0")
    }

    /// Sets what can be set and says what can't.
    pub(crate) fn set(&mut self, request: SetSessionOptionsRequest) -> SetSessionOptionsResult {
        let mut errors = HashMap::new();
        for (name, value) in request.session_options {
            if let Err(kind) = self.set_one(&name, value) {
                errors.insert(name, SessionOptionError { value: kind.into() });
            }
        }
        SetSessionOptionsResult { errors }
    }

    fn set_one(
        &mut self,
        name: &str,
        value: SessionOptionValue,
    ) -> Result<(), SessionOptionErrorKind> {
        let text = match value.option_value {
            None => None,
            Some(OptionValue::String(text)) => Some(text).filter(|text| !text.is_empty()),
            // The number of a snapshot.
            Some(OptionValue::Int64(number)) if name == AS_OF => Some(number.to_string()),
            Some(OptionValue::Bool(wish)) if name == PARTIAL => Some(wish.to_string()),
            Some(_) if [CATALOG, SCHEMA, AS_OF, PARTIAL].contains(&name) => {
                return Err(SessionOptionErrorKind::InvalidValue);
            }
            Some(_) => return Err(SessionOptionErrorKind::InvalidName),
        };
        match name {
            CATALOG => self.catalog = text,
            AS_OF if text.as_deref().is_none_or(|text| AsOf::parse(text).is_ok()) => {
                self.as_of = text;
            }
            AS_OF => return Err(SessionOptionErrorKind::InvalidValue),
            PARTIAL => {
                let wish = text
                    .map(|text| text.to_ascii_lowercase().parse())
                    .transpose();
                self.partial = wish.map_err(|_| SessionOptionErrorKind::InvalidValue)?;
            }
            SCHEMA if text.as_deref().is_none_or(|text| text == DEFAULT_SCHEMA) => {}
            SCHEMA => return Err(SessionOptionErrorKind::InvalidValue),
            _ => return Err(SessionOptionErrorKind::InvalidName),
        }
        Ok(())
    }

    /// The options that are set.
    pub(crate) fn options(&self) -> GetSessionOptionsResult {
        let text = |text: &str| SessionOptionValue {
            option_value: Some(OptionValue::String(text.to_owned())),
        };
        let mut session_options = HashMap::from([(SCHEMA.to_owned(), text(DEFAULT_SCHEMA))]);
        if let Some(catalog) = &self.catalog {
            session_options.insert(CATALOG.to_owned(), text(catalog));
        }
        if let Some(as_of) = &self.as_of {
            session_options.insert(AS_OF.to_owned(), text(as_of));
        }
        if let Some(partial) = self.partial {
            session_options.insert(PARTIAL.to_owned(), text(&partial.to_string()));
        }
        GetSessionOptionsResult { session_options }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn request(name: &str, value: OptionValue) -> SetSessionOptionsRequest {
        let value = SessionOptionValue {
            option_value: Some(value),
        };
        SetSessionOptionsRequest {
            session_options: [(name.to_owned(), value)].into(),
        }
    }

    fn text(value: &str) -> OptionValue {
        OptionValue::String(value.to_owned())
    }

    #[test]
    fn a_session_comes_back_in_its_cookie() {
        let mut session = Session::default();
        let told = session.set(request(CATALOG, text("dépôt; x=1")));
        assert_eq!(told.errors.len(), 0);
        let mut headers = HeaderMap::new();
        let cookie = format!("other=1;{}; more=2", session.to_cookie());
        headers.insert(headers::COOKIE, cookie.parse().unwrap());
        assert_eq!(Session::of(&headers), session);
        assert_eq!(session.options().session_options.len(), 2);
    }

    #[test]
    fn the_past_of_a_session_is_a_snapshot_or_a_time() {
        let mut session = Session::default();
        for (value, kept) in [
            (text("2026-11-21T10:00:00Z"), Some("2026-11-21T10:00:00Z")),
            (text("12"), Some("12")),
            (OptionValue::Int64(13), Some("13")),
            (text(""), None),
        ] {
            assert_eq!(session.set(request(AS_OF, value)).errors.len(), 0);
            assert_eq!(session.as_of.as_deref(), kept);
        }
        for wrong in [
            text("yesterday"),
            OptionValue::Int64(-1),
            OptionValue::Bool(true),
        ] {
            let told = session.set(request(AS_OF, wrong));
            let kind = SessionOptionErrorKind::InvalidValue as i32;
            assert_eq!(told.errors[AS_OF].value, kind);
        }
    }

    #[test]
    fn a_session_takes_partial_answers_or_not_and_nothing_between() {
        let mut session = Session::default();
        for (value, kept) in [
            (text("true"), Some(true)),
            (text("False"), Some(false)),
            (OptionValue::Bool(true), Some(true)),
            (text(""), None),
        ] {
            assert_eq!(session.set(request(PARTIAL, value)).errors.len(), 0);
            assert_eq!(session.partial, kept);
            let mut headers = HeaderMap::new();
            headers.insert(headers::COOKIE, session.to_cookie().parse().unwrap());
            assert_eq!(Session::of(&headers), session);
            let told = session.options().session_options.contains_key(PARTIAL);
            assert_eq!(told, kept.is_some());
        }
        for wrong in [text("maybe"), OptionValue::Int64(1)] {
            let told = session.set(request(PARTIAL, wrong));
            let kind = SessionOptionErrorKind::InvalidValue as i32;
            assert_eq!(told.errors[PARTIAL].value, kind);
            assert_eq!(session.partial, None);
        }
    }

    #[test]
    fn a_cookie_that_means_nothing_is_a_new_session() {
        for cookie in ["", "fc-session", "fc-session=%%", "fc-session=e30x"] {
            let mut headers = HeaderMap::new();
            headers.insert(headers::COOKIE, cookie.parse().unwrap());
            assert_eq!(Session::of(&headers), Session::default(), "{cookie}");
        }
    }

    #[test]
    fn what_cannot_be_set_is_told_by_name() {
        let mut session = Session::default();
        let kind = |told: SetSessionOptionsResult, name: &str| told.errors[name].value;
        let unknown = session.set(request("colour", text("blue")));
        assert_eq!(
            kind(unknown, "colour"),
            SessionOptionErrorKind::InvalidName as i32
        );
        let wrong = session.set(request(CATALOG, OptionValue::Int64(1)));
        assert_eq!(
            kind(wrong, CATALOG),
            SessionOptionErrorKind::InvalidValue as i32
        );
        let other = session.set(request(SCHEMA, text("private")));
        assert_eq!(
            kind(other, SCHEMA),
            SessionOptionErrorKind::InvalidValue as i32
        );
        assert_eq!(session.set(request(SCHEMA, text("public"))).errors.len(), 0);
        assert_eq!(session, Session::default());
    }
}
