//! The only place that knows which YAML library is used (it is frozen upstream).

use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use serde_yaml::{Mapping, Value};

/// What the YAML library says; boxed so that the library is no part of this crate's interface.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Reads one document. Nothing but comments reads as null.
pub(crate) fn parse(text: &str) -> Result<Value, Cause> {
    if text
        .lines()
        .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
    {
        return Ok(Value::Null);
    }
    serde_yaml::from_str(text).map_err(Cause::from)
}

/// A value of our own types as a tree.
pub(crate) fn to_tree<T: Serialize>(value: &T) -> Value {
    serde_yaml::to_value(value).expect("settings are numbers, texts, lists and maps of them")
}

/// A tree as one of our own types.
pub(crate) fn from_tree<T: DeserializeOwned>(tree: Value) -> Result<T, Cause> {
    serde_yaml::from_value(tree).map_err(Cause::from)
}

/// One line of YAML for a leaf; lists are written in brackets.
pub(crate) fn leaf_text(value: &Value) -> String {
    match value {
        Value::Sequence(items) => {
            format!(
                "[{}]",
                items.iter().map(leaf_text).collect::<Vec<_>>().join(", ")
            )
        }
        Value::String(text) if text.chars().any(|c| c.is_control() || ",[]{}".contains(c)) => {
            serde_json::to_string(text).expect("a text is always JSON")
        }
        other => {
            let text = serde_yaml::to_string(other).expect("a scalar is always YAML");
            text.trim_end().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_leaf_is_one_line_that_reads_back() {
        for text in [
            "plain",
            "1.2",
            "true",
            "",
            "a: b # c",
            "two\nlines",
            "x,y",
            "[z]",
            "~",
        ] {
            let value = Value::Sequence(vec![Value::String(text.to_owned())]);
            let line = leaf_text(&value);
            assert!(!line.contains('\n'), "{line}");
            assert_eq!(parse(&line).unwrap(), value, "{line}");
        }
    }
}
