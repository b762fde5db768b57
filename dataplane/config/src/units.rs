//! Sizes and durations as people write them: `64MiB`, `1GB`, `5s`, `1h30m`.
//!
//! Both read what they write. A bare number is a size in bytes, but never a duration: `5` could be
//! seconds or milliseconds, and guessing is how timeouts go wrong.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Format name of a size in the JSON schema of the settings.
pub(crate) const BYTE_SIZE_FORMAT: &str = "byte-size";
/// Format name of a duration in the JSON schema of the settings.
pub(crate) const DURATION_FORMAT: &str = "duration";

const BINARY_UNITS: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];
const DECIMAL_UNITS: [(&str, u64); 4] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// Units of a duration with their length in nanoseconds, longest first.
const DURATION_UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Why a size or a duration can't be read; says what would be accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("expected a size such as 64MiB, 1GB or a number of bytes, found {found:?}")]
    Size {
        /// The text as given.
        found: String,
    },
    /// Not a duration.
    #[error("expected a duration with its unit such as 2ms, 5s, 15m or 1h30m, found {found:?}")]
    Duration {
        /// The text as given.
        found: String,
    },
    /// Too large for 64 bits of bytes or nanoseconds.
    #[error("{found:?} is too large")]
    TooLarge {
        /// The text as given.
        found: String,
    },
}

impl UnitError {
    /// Bounded name of the failure, for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Size { .. } => "size",
            Self::Duration { .. } => "duration",
            Self::TooLarge { .. } => "too_large",
        }
    }
}

/// A number of bytes, written as `64MiB`, `1GB` or a plain number.
///
/// Binary units are `KiB MiB GiB TiB` (also `Ki Mi Gi Ti`, as Kubernetes writes them), decimal ones
/// `kB MB GB TB`; case does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// `count` times 1,024 bytes.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` times 1,048,576 bytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` times 1,073,741,824 bytes.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes, cut to what this machine can address.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |(_, bytes): &&(&str, u64)| self.0 != 0 && self.0.is_multiple_of(*bytes);
        let unit = BINARY_UNITS
            .iter()
            .find(exact)
            .or_else(|| DECIMAL_UNITS.iter().find(exact));
        match unit {
            Some((name, bytes)) => write!(f, "{}{name}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Size {
            found: text.to_owned(),
        };
        let too_large = || UnitError::TooLarge {
            found: text.to_owned(),
        };
        let trimmed = text.trim();
        let digits = trimmed
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(digits);
        if number.is_empty() {
            return Err(wrong());
        }
        let number: u64 = number.parse().map_err(|_| too_large())?;
        let factor = byte_unit(unit.trim_start()).ok_or_else(wrong)?;
        number.checked_mul(factor).map(Self).ok_or_else(too_large)
    }
}

fn byte_unit(unit: &str) -> Option<u64> {
    if unit.is_empty() || unit.eq_ignore_ascii_case("B") {
        return Some(1);
    }
    let named = BINARY_UNITS.iter().chain(&DECIMAL_UNITS);
    let full = named
        .clone()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit));
    let short = || {
        BINARY_UNITS
            .iter()
            .find(|(name, _)| name.trim_end_matches('B').eq_ignore_ascii_case(unit))
    };
    full.or_else(short).map(|(_, bytes)| *bytes)
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as 64MiB, 1GB or a number of bytes")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<ByteSize, E> {
                u64::try_from(value)
                    .map(ByteSize)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<ByteSize, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "format": BYTE_SIZE_FORMAT })
    }
}

/// Reads a duration such as `2ms`, `5s` or `1h30m`; `0` alone needs no unit.
///
/// # Errors
/// [`UnitError::Duration`] when it is no duration, [`UnitError::TooLarge`] beyond 584 years.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || UnitError::Duration {
        found: text.to_owned(),
    };
    let too_large = || UnitError::TooLarge {
        found: text.to_owned(),
    };
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(wrong());
        }
        let (_, nanos) = DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| too_large())?;
        total += u128::from(number) * nanos;
        if total > u128::from(u64::MAX) {
            return Err(too_large());
        }
        rest = tail.trim_start();
    }
    u64::try_from(total)
        .map(Duration::from_nanos)
        .map_err(|_| too_large())
}

/// Writes a duration the way [`parse_duration`] reads it: `90s` becomes `1m30s`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (name, nanos) in DURATION_UNITS {
        let count = rest / nanos;
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
            rest %= nanos;
        }
    }
    text
}

/// Stands for a duration in the JSON schema; never built.
pub(crate) struct DurationText;

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": DURATION_FORMAT })
    }
}

/// `#[serde(with = …)]` for a [`Duration`] written as text.
pub mod duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, de};

    /// Writes the duration as text.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format_duration(*value))
    }

    /// Reads the duration from text.
    ///
    /// # Errors
    /// When it is not text, or not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse_duration(&text).map_err(de::Error::custom)
    }
}

/// `#[serde(with = …)]` for an optional [`Duration`] written as text.
pub mod optional_duration {
    use super::{Deserialize, Deserializer, Duration, Serializer, de};

    /// Writes the duration as text, or nothing.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_some(&super::format_duration(*value)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads the duration from text, or nothing.
    ///
    /// # Errors
    /// When it is not text, or not a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse_duration(&text).map_err(de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn sizes_read_what_they_write() {
        for bytes in [
            0,
            1,
            1000,
            1024,
            1536,
            64 << 20,
            1_000_000_000,
            512 << 20,
            u64::MAX,
        ] {
            let text = ByteSize(bytes).to_string();
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        assert_eq!(ByteSize::mib(64).to_string(), "64MiB");
        assert_eq!(ByteSize(1_000_000_000).to_string(), "1GB");
    }

    #[test]
    fn sizes_accept_binary_decimal_and_kubernetes_units() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("64Mi", 64 << 20),
            ("64 mib", 64 << 20),
            ("1GB", 1_000_000_000),
            ("2kb", 2000),
            ("17", 17),
            ("17B", 17),
        ] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_no_size() {
        for text in ["", "MiB", "1.5GiB", "-1", "1 2", "10M", "lots", "1GiBB"] {
            let error = text.parse::<ByteSize>().unwrap_err();
            assert_eq!(error.category(), "size", "{text}");
        }
        assert_eq!(
            "99999999TiB".parse::<ByteSize>().unwrap_err().category(),
            "too_large"
        );
    }

    #[test]
    fn durations_read_what_they_write() {
        for (text, nanos) in [
            ("2ms", 2_000_000),
            ("5s", 5_000_000_000),
            ("15m", 900_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1d", 86_400_000_000_000),
            ("1s500ms", 1_500_000_000),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_nanos(nanos), "{text}");
            assert_eq!(format_duration(duration), text);
        }
        assert_eq!(
            parse_duration("90s").unwrap(),
            parse_duration("1m30s").unwrap()
        );
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn a_duration_without_a_unit_is_refused() {
        for text in ["5", "", "s", "5 minutes", "1.5s", "-1s", "5sec", "s5"] {
            assert_eq!(
                parse_duration(text).unwrap_err().category(),
                "duration",
                "{text}"
            );
        }
        assert_eq!(
            parse_duration("999999999d").unwrap_err().category(),
            "too_large"
        );
        assert!(parse_duration("0").unwrap().is_zero());
    }
}
