//! Every header and trailer of the protocol by name, and the few that are read here.
//!
//! Left to others: credentials (`auth`), sending them (`server`).

use std::time::Duration;

use http::HeaderMap;

use crate::schema::Encoding;

/// Request: credential, `Bearer <token>`, `Token <token>` or `Basic <base64 of user:token>`.
/// Never sent in a response except to hand out a new token: ADBC adopts whatever it finds there.
pub const AUTHORIZATION: &str = "authorization";
/// Request of DoPut: the upload of several streams it is part of.
pub const UPLOAD: &str = "x-fc-upload";
/// Request of DoPut: who sends the stream, by a name of its own; with [`SEQUENCE`]. See
/// [`StreamName`](crate::StreamName).
pub const PRODUCER: &str = "x-fc-producer";
/// Request of DoPut: the producer's number of the stream, at least 0.
pub const SEQUENCE: &str = "x-fc-sequence";
/// Request: the past that is read, the number of a snapshot or a time.
pub const AS_OF: &str = "x-fc-as-of";
/// Request: `true` takes an answer without the rows of ingesters that can't be reached, and so marked
/// ([`PARTIAL_MARK`](crate::PARTIAL_MARK)), for none.
pub const PARTIAL: &str = "x-fc-partial";
/// Request: database of the call; the preferred one of [`DATABASE_HEADERS`].
pub const DATABASE: &str = "database";
/// Request: database of the call, as InfluxDB 2 clients name it.
pub const BUCKET: &str = "bucket";
/// Request: database of the call, another spelling of [`BUCKET`].
pub const BUCKET_NAME: &str = "bucket-name";
/// Request: database of the call, as early InfluxDB 3 clients name it.
pub const IOX_NAMESPACE_NAME: &str = "iox-namespace-name";
/// Request: `influxql` or `sql`, the language of a Flight SQL statement; `sql` when absent.
pub const QUERY_LANGUAGE: &str = "x-influxdata-query-language";
/// Request: `true` asks for columns as the engine holds them (dictionaries, views, run ends)
/// instead of the plain layouts every client reads. See [`Encoding`].
pub const NATIVE_ENCODING: &str = "x-fc-native-encoding";
/// Request: whole time a call may take, digits and a unit (`5S`, `300m` is 300 ms).
pub const GRPC_TIMEOUT: &str = "grpc-timeout";
/// Request: W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// Request: session cookie; several are joined by `; `.
pub const COOKIE: &str = "cookie";
/// Response: session cookie.
pub const SET_COOKIE: &str = "set-cookie";
/// Request and trailer: id of the call in logs and errors; made by the server when absent.
pub const REQUEST_ID: &str = "x-request-id";
/// Trailer: machine code of the error, a name of `docs/errors.md`.
pub const ERROR_CODE: &str = "x-fc-code";
/// Trailer: number of Arrow's own status code. pyarrow reads [`STATUS_DETAILS`] only when it is
/// there, and for some gRPC codes picks a worse exception class when it is.
pub const ARROW_STATUS: &str = "x-arrow-status";
/// Trailer: error details, a serialized `google.rpc.Status`.
pub const STATUS_DETAILS: &str = "grpc-status-details-bin";

/// The headers that name the database of a call, preferred first.
pub const DATABASE_HEADERS: [&str; 4] = [DATABASE, BUCKET, BUCKET_NAME, IOX_NAMESPACE_NAME];

/// Why a header was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The value is not visible ASCII.
    #[error("header {header} is not plain ASCII text")]
    NotText {
        /// Name of the header.
        header: &'static str,
    },
    /// Headers name different databases.
    #[error(
        "headers {first_header} and {second_header} name different databases, {first:?} and \
         {second:?}; send one of them"
    )]
    ConflictingDatabases {
        /// The header found first.
        first_header: &'static str,
        /// Its value.
        first: String,
        /// The header that differs.
        second_header: &'static str,
        /// Its value.
        second: String,
    },
    /// The timeout is malformed.
    #[error(
        "header grpc-timeout is {value:?}; send at most 8 digits and one of the units H, M, S, m, \
         u, n"
    )]
    Timeout {
        /// What was sent.
        value: String,
    },
    /// The value is neither true nor false.
    #[error("header {header} is {value:?}; send true or false")]
    NotBool {
        /// Name of the header.
        header: &'static str,
        /// What was sent.
        value: String,
    },
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotText { .. } => "header_not_text",
            Self::ConflictingDatabases { .. } => "header_conflicting_databases",
            Self::Timeout { .. } => "header_timeout",
            Self::NotBool { .. } => "header_not_bool",
        }
    }
}

/// The database the headers name, if any does.
///
/// - Errors: [`Error::ConflictingDatabases`] when two values differ; equal ones are fine. Empty
///   values count as absent.
pub fn database_from_headers(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut found: Option<(&'static str, &str)> = None;
    for header in DATABASE_HEADERS {
        for value in headers.get_all(header) {
            let value = value.to_str().map_err(|_| Error::NotText { header })?;
            match found {
                _ if value.is_empty() => {}
                None => found = Some((header, value)),
                Some((_, first)) if first == value => {}
                Some((first_header, first)) => {
                    return Err(Error::ConflictingDatabases {
                        first_header,
                        first: first.to_owned(),
                        second_header: header,
                        second: value.to_owned(),
                    });
                }
            }
        }
    }
    Ok(found.map(|(_, value)| value.to_owned()))
}

/// The upload the stream is part of, if it is; an empty value counts as absent.
pub fn upload_from_headers(headers: &HeaderMap) -> Result<Option<String>, Error> {
    text(headers, UPLOAD)
}

/// The past the call asks for by [`AS_OF`], as it is written; an empty value counts as absent.
pub fn as_of_from_headers(headers: &HeaderMap) -> Result<Option<String>, Error> {
    text(headers, AS_OF)
}

/// Whether the call asks for partial answers by [`PARTIAL`]; `None` when it does not say.
pub fn partial_from_headers(headers: &HeaderMap) -> Result<Option<bool>, Error> {
    match text(headers, PARTIAL)? {
        Some(_) => flag(headers, PARTIAL).map(Some),
        None => Ok(None),
    }
}

pub(crate) fn text(headers: &HeaderMap, header: &'static str) -> Result<Option<String>, Error> {
    let Some(value) = headers.get(header) else {
        return Ok(None);
    };
    let value = value.to_str().map_err(|_| Error::NotText { header })?;
    Ok((!value.is_empty()).then(|| value.to_owned()))
}

/// The encoding the client asks for by [`NATIVE_ENCODING`].
pub fn encoding_from_headers(headers: &HeaderMap) -> Result<Encoding, Error> {
    match flag(headers, NATIVE_ENCODING)? {
        true => Ok(Encoding::Native),
        false => Ok(Encoding::Plain),
    }
}

/// The time the whole call may take, if the client sent [`GRPC_TIMEOUT`].
pub fn timeout_from_headers(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    let value = value.to_str().map_err(|_| Error::NotText {
        header: GRPC_TIMEOUT,
    })?;
    parse_grpc_timeout(value).map(Some)
}

/// Reads a value of [`GRPC_TIMEOUT`]: 1 to 8 digits and a unit (hours `H`, minutes `M`, seconds
/// `S`, milliseconds `m`, microseconds `u`, nanoseconds `n`).
pub fn parse_grpc_timeout(value: &str) -> Result<Duration, Error> {
    let malformed = || Error::Timeout {
        value: value.chars().take(32).collect(),
    };
    let unit = value.chars().next_back().ok_or_else(malformed)?;
    let digits = &value[..value.len() - unit.len_utf8()];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    }
    let amount: u64 = digits.parse().map_err(|_| malformed())?;
    // Eight digits of hours are far from overflowing 64 bits of seconds.
    match unit {
        'H' => Ok(Duration::from_secs(amount * 3600)),
        'M' => Ok(Duration::from_secs(amount * 60)),
        'S' => Ok(Duration::from_secs(amount)),
        'm' => Ok(Duration::from_millis(amount)),
        'u' => Ok(Duration::from_micros(amount)),
        'n' => Ok(Duration::from_nanos(amount)),
        _ => Err(malformed()),
    }
}

fn flag(headers: &HeaderMap, header: &'static str) -> Result<bool, Error> {
    let Some(value) = headers.get(header) else {
        return Ok(false);
    };
    let value = value.to_str().map_err(|_| Error::NotText { header })?;
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err(Error::NotBool {
            header,
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn each_spelling_names_the_database() {
        for header in DATABASE_HEADERS {
            let found = database_from_headers(&headers(&[(header, "metrics")])).unwrap();
            assert_eq!(found.as_deref(), Some("metrics"), "{header}");
        }
        assert_eq!(database_from_headers(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn equal_values_agree_and_different_ones_are_an_error_that_names_both() {
        let equal = headers(&[(DATABASE, "a"), (BUCKET, "a"), (DATABASE, "a")]);
        assert_eq!(database_from_headers(&equal).unwrap().as_deref(), Some("a"));
        let differing = headers(&[(DATABASE, "a"), (BUCKET_NAME, "b")]);
        let text = database_from_headers(&differing).unwrap_err().to_string();
        for part in ["database", "bucket-name", "\"a\"", "\"b\""] {
            assert!(text.contains(part), "{text}");
        }
        let repeated = headers(&[(DATABASE, "a"), (DATABASE, "b")]);
        assert!(database_from_headers(&repeated).is_err());
    }

    #[test]
    fn a_value_that_is_no_text_is_an_error() {
        let mut map = HeaderMap::new();
        map.insert(DATABASE, HeaderValue::from_bytes(b"\xff").unwrap());
        let error = database_from_headers(&map).unwrap_err();
        assert_eq!(error, Error::NotText { header: DATABASE });
    }

    #[test]
    fn timeouts_have_a_unit_and_at_most_eight_digits() {
        let cases = [
            ("5S", Duration::from_secs(5)),
            ("300000m", Duration::from_secs(300)),
            ("2H", Duration::from_secs(7200)),
            ("3M", Duration::from_secs(180)),
            ("7u", Duration::from_micros(7)),
            ("99999999n", Duration::from_nanos(99_999_999)),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_grpc_timeout(text).unwrap(), expected);
        }
        for text in [
            "",
            "S",
            "5",
            "5s",
            "123456789S",
            "-1S",
            "+1S",
            "1.5S",
            "5é",
            "é",
        ] {
            assert!(parse_grpc_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn native_encoding_is_asked_for_by_header() {
        let asked = headers(&[(NATIVE_ENCODING, "True")]);
        assert_eq!(encoding_from_headers(&asked).unwrap(), Encoding::Native);
        assert_eq!(
            encoding_from_headers(&HeaderMap::new()).unwrap(),
            Encoding::Plain
        );
        assert!(encoding_from_headers(&headers(&[(NATIVE_ENCODING, "maybe")])).is_err());
    }

    #[test]
    fn partial_answers_are_asked_for_refused_or_not_mentioned() {
        for (value, said) in [("true", Some(true)), ("FALSE", Some(false)), ("", None)] {
            let found = partial_from_headers(&headers(&[(PARTIAL, value)]));
            assert_eq!(found.unwrap(), said, "{value}");
        }
        assert_eq!(partial_from_headers(&HeaderMap::new()).unwrap(), None);
        let wrong = partial_from_headers(&headers(&[(PARTIAL, "maybe")])).unwrap_err();
        assert_eq!(
            wrong.to_string(),
            "header x-fc-partial is \"maybe\"; send true or false"
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_timeout_or_an_error(text in ".*") {
            let _ = parse_grpc_timeout(&text);
        }
    }
}
