//! The name of a stream whose rows are to be stored once, however often it is sent.
//!
//! A client that can't name its batches one by one (Flight SQL ingest, drivers that write the messages
//! themselves) names the whole stream instead: by headers, or by options of the ingest. What is done with
//! the name is for others.

use std::collections::HashMap;

use http::HeaderMap;

use crate::headers::{self, PRODUCER, SEQUENCE};

/// Option of `CommandStatementIngest`: as the header [`PRODUCER`].
pub const PRODUCER_OPTION: &str = "flightcluster.producer";
/// Option of `CommandStatementIngest`: as the header [`SEQUENCE`].
pub const SEQUENCE_OPTION: &str = "flightcluster.sequence";

/// Which stream of which producer it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamName {
    /// The producer, not empty.
    pub producer: String,
    /// Its number of the stream.
    pub sequence: u64,
}

/// Why a stream can't be named so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// One of the two is not text.
    #[error(transparent)]
    Header(#[from] headers::Error),
    /// One of the two is missing: taken for none, a repeat would be stored again.
    #[error(
        "{given} is given without {missing}; send both and the rows are stored once however often the \
         stream is sent, or none"
    )]
    Half {
        /// The one that is there.
        given: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
    /// The number is none.
    #[error(
        "{name} is {value:?}; send a number of at least 0 that no other stream of the producer has"
    )]
    Sequence {
        /// The header or option.
        name: &'static str,
        /// What was sent.
        value: String,
    },
    /// A header is there more than once.
    #[error("header {name} is there more than once; send it once")]
    Repeated {
        /// The header.
        name: &'static str,
    },
    /// Headers and options name different streams.
    #[error(
        "the headers name stream {} of producer {:?} and the options of the ingest stream {} of \
         producer {:?}; send one of them",
        headers.sequence, headers.producer, options.sequence, options.producer
    )]
    Different {
        /// By the headers.
        headers: Box<StreamName>,
        /// By the options.
        options: Box<StreamName>,
    },
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Header(error) => error.category(),
            Self::Half { .. } => "stream_half_named",
            Self::Sequence { .. } => "stream_sequence",
            Self::Repeated { .. } => "stream_named_twice",
            Self::Different { .. } => "stream_names_differ",
        }
    }
}

impl StreamName {
    /// The name in the headers of a call, if there is one; empty values count as absent.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        let text = |name| {
            if headers.get_all(name).iter().count() > 1 {
                return Err(Error::Repeated { name });
            }
            Ok(headers::text(headers, name)?)
        };
        Self::of([PRODUCER, SEQUENCE], text(PRODUCER)?, text(SEQUENCE)?)
    }

    /// The name in the options of an ingest, if there is one; empty values count as absent.
    pub fn from_options(options: &HashMap<String, String>) -> Result<Option<Self>, Error> {
        let text = |name| options.get(name).filter(|text| !text.is_empty()).cloned();
        let names = [PRODUCER_OPTION, SEQUENCE_OPTION];
        Self::of(names, text(PRODUCER_OPTION), text(SEQUENCE_OPTION))
    }

    /// The one name of a stream that may be named in both places.
    pub fn agreed(headers: Option<Self>, options: Option<Self>) -> Result<Option<Self>, Error> {
        match (headers, options) {
            (Some(headers), Some(options)) if headers != options => Err(Error::Different {
                headers: Box::new(headers),
                options: Box::new(options),
            }),
            (headers, options) => Ok(headers.or(options)),
        }
    }

    fn of(
        [producer_name, sequence_name]: [&'static str; 2],
        producer: Option<String>,
        sequence: Option<String>,
    ) -> Result<Option<Self>, Error> {
        let half = |given, missing| Err(Error::Half { given, missing });
        match (producer, sequence) {
            (None, None) => Ok(None),
            (Some(_), None) => half(producer_name, sequence_name),
            (None, Some(_)) => half(sequence_name, producer_name),
            (Some(producer), Some(value)) => {
                // As `u64` reads it, but for the sign it takes.
                let digits = value.bytes().all(|byte| byte.is_ascii_digit());
                let number = value.parse().ok().filter(|_| digits);
                let sequence = number.ok_or(Error::Sequence {
                    name: sequence_name,
                    value: value.chars().take(32).collect(),
                })?;
                Ok(Some(Self { producer, sequence }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn by_headers(pairs: &[(&'static str, &'static str)]) -> Result<Option<StreamName>, Error> {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        StreamName::from_headers(&map)
    }

    fn by_options(pairs: &[(&str, &str)]) -> Result<Option<StreamName>, Error> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        StreamName::from_options(&pairs.iter().map(own).collect())
    }

    fn name(producer: &str, sequence: u64) -> StreamName {
        let producer = producer.to_owned();
        StreamName { producer, sequence }
    }

    #[test]
    fn a_stream_is_named_by_headers_or_by_options() {
        let expected = Ok(Some(name("p", 7)));
        assert_eq!(by_headers(&[(PRODUCER, "p"), (SEQUENCE, "7")]), expected);
        let options = [(PRODUCER_OPTION, "p"), (SEQUENCE_OPTION, "7"), ("x", "y")];
        assert_eq!(by_options(&options), expected);
        assert_eq!(by_headers(&[(PRODUCER, ""), (SEQUENCE, "")]), Ok(None));
        assert_eq!(by_options(&[("x", "y")]), Ok(None));
    }

    #[test]
    fn half_a_name_and_a_sequence_that_is_no_number_are_refused_with_the_cure() {
        let text = |named: Result<Option<StreamName>, Error>| named.unwrap_err().to_string();
        for (named, parts) in [
            (text(by_headers(&[(PRODUCER, "p")])), [PRODUCER, SEQUENCE]),
            (text(by_headers(&[(SEQUENCE, "7")])), [SEQUENCE, PRODUCER]),
            (
                text(by_options(&[(PRODUCER_OPTION, "p"), (SEQUENCE_OPTION, "")])),
                [PRODUCER_OPTION, SEQUENCE_OPTION],
            ),
        ] {
            assert!(named.starts_with(parts[0]), "{named}");
            assert!(named.contains(&format!("without {}", parts[1])), "{named}");
        }
        for value in ["seven", "-1", "+1", "1.5", " 7", "18446744073709551616"] {
            let options = [(PRODUCER_OPTION, "p"), (SEQUENCE_OPTION, value)];
            let told = text(by_options(&options));
            assert!(
                told.contains(value) && told.contains(SEQUENCE_OPTION),
                "{told}"
            );
        }
        let twice = by_headers(&[(PRODUCER, "p"), (PRODUCER, "q"), (SEQUENCE, "7")]);
        assert_eq!(twice, Err(Error::Repeated { name: PRODUCER }));
    }

    #[test]
    fn two_places_have_to_agree() {
        let agreed = StreamName::agreed;
        assert_eq!(agreed(None, None), Ok(None));
        for (headers, options) in [(Some(7), Some(7)), (Some(7), None), (None, Some(7))] {
            let name = |sequence: Option<u64>| sequence.map(|sequence| name("p", sequence));
            assert_eq!(agreed(name(headers), name(options)), Ok(name(Some(7))));
        }
        let told = agreed(Some(name("p", 7)), Some(name("q", 8))).unwrap_err();
        for part in ["7", "8", "\"p\"", "\"q\"", "one of them"] {
            assert!(told.to_string().contains(part), "{told}");
        }
    }
}
