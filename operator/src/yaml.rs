//! JSON values as YAML that every reader takes for the same thing.
//!
//! `kubectl` reads YAML 1.1, where a bare `yes` is a boolean; the YAML library of this workspace
//! writes YAML 1.2, where it is a text. So texts are left bare only when no reader can take them
//! for anything else.

use serde_json::Value;

/// Words that some version of YAML takes for a boolean or for nothing, in lower case.
const RESERVED: [&str; 11] = [
    "y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", "nan",
];

/// Writes a map or a list as one YAML document with a line break at its end.
pub(crate) fn to_yaml(value: &Value) -> String {
    let mut output = String::new();
    write(value, 0, &mut output);
    output
}

/// Writes a value whose lines begin at `indent`; the place for its first line is at the margin.
fn write(value: &Value, indent: usize, output: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                pad(indent, output);
                output.push_str(&scalar(key));
                output.push(':');
                write_nested(value, indent, output);
            }
        }
        Value::Array(list) if !list.is_empty() => {
            for value in list {
                pad(indent, output);
                output.push('-');
                write_item(value, indent, output);
            }
        }
        other => {
            pad(indent, output);
            output.push_str(&leaf(other));
            output.push('\n');
        }
    }
}

/// Writes what stands after `key:`.
fn write_nested(value: &Value, indent: usize, output: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            output.push('\n');
            write(value, indent + 2, output);
        }
        // A list begins under its key: the usual form of Kubernetes.
        Value::Array(list) if !list.is_empty() => {
            output.push('\n');
            write(value, indent, output);
        }
        Value::String(text) if is_block(text) => write_block(text, indent + 2, output),
        other => {
            output.push(' ');
            output.push_str(&leaf(other));
            output.push('\n');
        }
    }
}

/// Writes what stands after `-`.
fn write_item(value: &Value, indent: usize, output: &mut String) {
    if matches!(value, Value::Object(map) if !map.is_empty())
        || matches!(value, Value::Array(list) if !list.is_empty())
    {
        let mut nested = String::new();
        write(value, indent + 2, &mut nested);
        // The first line moves up beside the dash.
        output.push(' ');
        output.push_str(&nested[indent + 2..]);
    } else {
        write_nested(value, indent, output);
    }
}

/// Whether a text reads back the same from lines of its own.
fn is_block(text: &str) -> bool {
    text.len() > 1
        && text.ends_with('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
        && text.chars().all(|c| c == '\n' || !c.is_control())
}

fn write_block(text: &str, indent: usize, output: &mut String) {
    output.push_str(" |\n");
    for line in text.lines() {
        if !line.is_empty() {
            pad(indent, output);
            output.push_str(line);
        }
        output.push('\n');
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
        other => other.to_string(),
    }
}

fn scalar(text: &str) -> String {
    if is_bare(text) {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

/// Begins with a letter or a slash, has only harmless characters, and is no word with a meaning:
/// then it is neither number, time, boolean nor syntax.
fn is_bare(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./@+=,".contains(c))
        && !RESERVED.contains(&text.to_ascii_lowercase().as_str())
}

fn pad(indent: usize, output: &mut String) {
    output.extend(std::iter::repeat_n(' ', indent));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn words_that_older_readers_take_for_booleans_are_quoted() {
        for word in [
            "yes",
            "No",
            "on",
            "OFF",
            "y",
            "n",
            "true",
            "null",
            "~",
            "1",
            "0x1",
            "1e3",
            "12:30",
            "",
            " a",
            "a: b",
            "a #b",
            "- a",
            "*",
            "2026-01-01",
            ".5",
            "a:b",
        ] {
            assert_eq!(
                to_yaml(&json!({"k": word})),
                format!("k: {}\n", json!(word)),
                "{word}"
            );
        }
        for word in ["yesterday", "a-b_c.d/e", "/etc/x", "IfNotPresent"] {
            assert_eq!(to_yaml(&json!({"k": word})), format!("k: {word}\n"));
        }
    }

    #[test]
    fn everything_reads_back_the_same() {
        let value = json!({
            "empty": {"map": {}, "list": [], "text": ""},
            "list": [1, "a", {"b": {"c": [true, null]}, "d": "x\ny: z\n"}, [["deep"], []], "l\n"],
            "text": "first\n\n  indented\nlast\n",
            "odd": ["\n", "a\n\n", " a\n", "tab\there\n", "no end\nof line", "\u{7}", "ü\n", "'\"\\"],
            "key with: colon": {"yes": 1, "2": -1.5},
        });
        let text = to_yaml(&value);
        let read: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(read, value, "{text}");
    }
}
