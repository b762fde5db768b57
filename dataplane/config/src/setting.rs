//! Every setting as data, derived from the types: name, environment name, kind, default, meaning.
//!
//! The loader, the printer and the generated pages all work on this list, so that a field of
//! [`Config`](crate::Config) is known to each of them as soon as it exists.

use std::fmt;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;

use crate::Config;
use crate::units::{BYTE_SIZE_FORMAT, ByteSize, DURATION_FORMAT, parse_duration};
use crate::yaml::{self, Value};

/// What the names of environment variables with settings begin with.
pub const ENV_PREFIX: &str = "FLIGHTCLUSTER_";

/// Longest piece of a wrong value that is repeated in a message, in characters.
const MAX_SHOWN: usize = 60;

/// One setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Dotted name, such as `storage.object_store.bucket`.
    pub key: String,
    /// Environment variable, such as `FLIGHTCLUSTER_STORAGE__OBJECT_STORE__BUCKET`.
    pub env: String,
    /// What values it takes.
    pub kind: Kind,
    /// Whether it may be unset.
    pub optional: bool,
    /// The default as one line of YAML; `null` when unset.
    pub default: String,
    /// What it means, with its unit.
    pub description: String,
}

/// A group of settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Section {
    /// Dotted name, such as `storage.object_store`.
    pub key: String,
    /// What its settings are about.
    pub description: String,
    /// Its settings, in the order of the types, without those of sections below it.
    pub settings: Vec<Setting>,
}

/// What values a setting takes.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// `true` or `false` and nothing else.
    Boolean,
    /// A whole number between two bounds, both included.
    Integer {
        /// Smallest value.
        minimum: u64,
        /// Largest value.
        maximum: u64,
    },
    /// A [`ByteSize`].
    Size,
    /// A duration with its unit.
    Duration,
    /// One of some words.
    Choice(Vec<String>),
    /// Any text.
    Text,
    /// The name of a file or directory.
    Path,
    /// Several file names; comma-separated in the environment and in flags.
    PathList,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean => f.write_str("true or false"),
            Self::Integer { minimum, maximum } => write!(f, "number {minimum} to {maximum}"),
            Self::Size => f.write_str("size"),
            Self::Duration => f.write_str("duration"),
            Self::Choice(words) => write!(f, "one of {}", words.join(", ")),
            Self::Text => f.write_str("text"),
            Self::Path => f.write_str("path"),
            Self::PathList => f.write_str("list of paths"),
        }
    }
}

/// All sections with their settings, in the order of the types.
#[must_use]
pub fn sections() -> &'static [Section] {
    static SECTIONS: LazyLock<Vec<Section>> = LazyLock::new(|| {
        // Inlined, because a reference hides the description of the field behind that of the type.
        let generator = SchemaSettings::draft2020_12()
            .with(|s| s.inline_subschemas = true)
            .into_generator();
        let schema = generator.into_root_schema_for::<Config>().to_value();
        let mut sections = Vec::new();
        collect_section(
            "",
            &yaml::to_tree(&Config::default()),
            &schema,
            &mut sections,
        );
        sections
    });
    &SECTIONS
}

/// All settings, in the order of the types.
pub fn settings() -> impl Iterator<Item = &'static Setting> + Clone {
    sections().iter().flat_map(|section| &section.settings)
}

fn collect_section(key: &str, defaults: &Value, schema: &Json, sections: &mut Vec<Section>) {
    let Value::Mapping(defaults) = defaults else {
        return;
    };
    let own = sections.len();
    if !key.is_empty() {
        let description = description(schema);
        sections.push(Section {
            key: key.to_owned(),
            description,
            settings: Vec::new(),
        });
    }
    for (name, default) in defaults {
        let name = name.as_str().unwrap_or_default();
        let child = if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}.{name}")
        };
        let schema = &schema["properties"][name];
        if default.is_mapping() {
            collect_section(&child, default, schema, sections);
        } else if let Some(section) = sections.get_mut(own) {
            section.settings.push(Setting {
                env: env_name(&child),
                key: child,
                kind: kind(schema),
                optional: default.is_null(),
                default: yaml::leaf_text(default),
                description: description(schema),
            });
        }
    }
}

/// The environment variable of a dotted name.
pub(crate) fn env_name(key: &str) -> String {
    format!(
        "{ENV_PREFIX}{}",
        key.replace('.', "__").to_ascii_uppercase()
    )
}

fn description(schema: &Json) -> String {
    let text = schema["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn kind(schema: &Json) -> Kind {
    let words = choice_words(schema);
    if !words.is_empty() {
        return Kind::Choice(words);
    }
    let is = |name: &str| match &schema["type"] {
        Json::String(kind) => kind == name,
        Json::Array(kinds) => kinds.iter().any(|kind| kind == name),
        _ => false,
    };
    match schema["format"].as_str() {
        Some(BYTE_SIZE_FORMAT) => Kind::Size,
        Some(DURATION_FORMAT) => Kind::Duration,
        Some("path") if is("array") => Kind::PathList,
        Some("path") => Kind::Path,
        format if is("integer") => Kind::Integer {
            minimum: schema["minimum"].as_u64().unwrap_or(0),
            maximum: schema["maximum"].as_u64().unwrap_or(match format {
                Some("uint16") => u64::from(u16::MAX),
                Some("uint32") => u64::from(u32::MAX),
                _ => u64::MAX,
            }),
        },
        _ if is("boolean") => Kind::Boolean,
        _ => Kind::Text,
    }
}

fn choice_words(schema: &Json) -> Vec<String> {
    let texts = |values: &[Json]| {
        values
            .iter()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    if let Some(values) = schema["enum"].as_array() {
        return texts(values);
    }
    let variants = schema["oneOf"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    variants
        .iter()
        .flat_map(|variant| match variant["enum"].as_array() {
            Some(values) => texts(values),
            None => texts(std::slice::from_ref(&variant["const"])),
        })
        .collect()
}

impl Setting {
    /// The last part of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.rsplit('.').next().unwrap_or(&self.key)
    }

    /// Reads a value that came as text, from the environment or a flag.
    ///
    /// Text is typed strictly: only `true` and `false` are booleans. Empty text unsets an optional
    /// setting.
    pub(crate) fn parse_text(&self, text: &str) -> Result<Value, String> {
        let value = match &self.kind {
            Kind::Boolean => match text {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::String(text.to_owned()),
            },
            Kind::Integer { .. } => match text.parse::<u64>() {
                Ok(number) => Value::Number(number.into()),
                Err(_) => Value::String(text.to_owned()),
            },
            Kind::PathList => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                Value::Sequence(items.map(|item| Value::String(item.to_owned())).collect())
            }
            Kind::Size | Kind::Duration | Kind::Choice(_) | Kind::Text | Kind::Path => {
                Value::String(text.to_owned())
            }
        };
        self.check(value)
    }

    /// Checks a value against the kind and returns it in the form the types read.
    pub(crate) fn check(&self, value: Value) -> Result<Value, String> {
        let empty = matches!(&value, Value::String(text) if text.is_empty());
        if self.optional && (empty || value.is_null()) {
            return Ok(Value::Null);
        }
        if value.is_null() {
            return Err(format!(
                "has no value; expected {}",
                self.kind.expectation()
            ));
        }
        match (&self.kind, &value) {
            (Kind::Boolean, Value::Bool(_)) => Ok(value),
            (Kind::Integer { minimum, maximum }, Value::Number(number)) => match number.as_u64() {
                Some(number) if (minimum..=maximum).contains(&&number) => Ok(value),
                _ => Err(self.mismatch(&value)),
            },
            (Kind::Size, Value::Number(number)) if number.is_u64() => Ok(value),
            (Kind::Size, Value::String(text)) => text
                .parse::<ByteSize>()
                .map(|_| value)
                .map_err(|error| error.to_string()),
            (Kind::Duration, Value::String(text)) => parse_duration(text)
                .map(|_| value)
                .map_err(|error| error.to_string()),
            // `minimum_version: 1.2` without quotes is a number to YAML.
            (Kind::Choice(words), Value::String(_) | Value::Number(_)) => {
                let text = plain_text(&value);
                if words.contains(&text) {
                    Ok(Value::String(text))
                } else {
                    Err(self.mismatch(&value))
                }
            }
            (Kind::Text, Value::String(_)) => Ok(value),
            (Kind::Path, Value::String(text)) => check_path(text).map(|()| value),
            (Kind::PathList, Value::Sequence(items)) => {
                for item in items {
                    check_path(item.as_str().ok_or_else(|| self.mismatch(item))?)?;
                }
                Ok(value)
            }
            _ => Err(self.mismatch(&value)),
        }
    }

    fn mismatch(&self, value: &Value) -> String {
        let found = match value {
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a map".to_owned(),
            Value::Tagged(_) => "a tagged value".to_owned(),
            Value::String(text) => format!("{:?}", shorten(text)),
            other => plain_text(other),
        };
        let quoting = match (&self.kind, value) {
            (Kind::Text | Kind::Path, Value::Number(_) | Value::Bool(_)) => " (put it in quotes)",
            _ => "",
        };
        format!(
            "expected {}, found {found}{quoting}",
            self.kind.expectation()
        )
    }
}

impl Kind {
    fn expectation(&self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { minimum, maximum } => {
                format!("a whole number from {minimum} to {maximum}")
            }
            Self::Size => "a size such as 64MiB".to_owned(),
            Self::Duration => "a duration such as 5s".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Text => "text".to_owned(),
            Self::Path => "a file or directory name".to_owned(),
            Self::PathList => "a list of file names".to_owned(),
        }
    }
}

/// Refuses what can't be a file name. The value is not repeated: it may be a key pasted in.
fn check_path(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("is an empty file name".to_owned());
    }
    if text.contains("-----BEGIN") || text.chars().any(char::is_control) {
        return Err(
            "expected a file name, found the content of a file; write it to a file and name that"
                .to_owned(),
        );
    }
    Ok(())
}

fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => yaml::leaf_text(other),
    }
}

/// Cuts a text to a length that fits into a message, by characters.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn setting(key: &str) -> &'static Setting {
        settings().find(|setting| setting.key == key).unwrap()
    }

    #[test]
    fn every_setting_has_a_description_and_its_environment_name() {
        for setting in settings() {
            assert!(setting.description.ends_with('.'), "{setting:?}");
            assert_eq!(setting.env, env_name(&setting.key));
        }
        for section in sections() {
            assert!(section.description.ends_with('.'), "{section:?}");
        }
        assert_eq!(
            setting("storage.object_store.bucket").env,
            "FLIGHTCLUSTER_STORAGE__OBJECT_STORE__BUCKET"
        );
    }

    #[test]
    fn kinds_come_from_the_types() {
        let kind = |key| setting(key).kind.clone();
        assert_eq!(kind("auth.allow_insecure"), Kind::Boolean);
        assert_eq!(
            kind("server.listen_port"),
            Kind::Integer {
                minimum: 0,
                maximum: 65535
            }
        );
        assert_eq!(
            kind("server.advertise_port"),
            Kind::Integer {
                minimum: 0,
                maximum: 65535
            }
        );
        assert_eq!(kind("ingest.flush_bytes"), Kind::Size);
        assert_eq!(kind("query.timeout"), Kind::Duration);
        assert_eq!(kind("tls.key_file"), Kind::Path);
        assert_eq!(kind("auth.token_files"), Kind::PathList);
        assert_eq!(kind("server.node_name"), Kind::Text);
        let words = ["none", "optional", "required"].map(str::to_owned).to_vec();
        assert_eq!(kind("tls.client_auth"), Kind::Choice(words));
    }

    #[test]
    fn every_default_passes_its_own_check_as_text() {
        for setting in settings().filter(|setting| !setting.optional) {
            let text = setting.default.trim_matches(|c| c == '\'' || c == '"');
            let text = if text == "[]" { "" } else { text };
            setting
                .parse_text(text)
                .unwrap_or_else(|error| panic!("{}: {error}", setting.key));
        }
    }

    #[test]
    fn a_pasted_key_is_refused_and_not_repeated() {
        let error = setting("tls.key_file")
            .parse_text("-----BEGIN PRIVATE KEY-----\nMIIE")
            .unwrap_err();
        assert!(error.contains("expected a file name"), "{error}");
        assert!(!error.contains("MIIE"), "{error}");
    }

    #[test]
    fn long_wrong_values_are_cut_by_characters() {
        let error = setting("auth.mode")
            .parse_text(&"ä".repeat(500))
            .unwrap_err();
        assert!(error.chars().count() < 200, "{error}");
    }
}
