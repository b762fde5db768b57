//! Fields that a type doesn't have and would forget without a word.

use serde::Serialize;
use serde_json::Value;

/// Returns the paths of the fields of `given` that are missing once it has been read as `parsed`.
///
/// - Shape: paths such as `spec.containers[0].image`, in the order of `given`; only the topmost
///   missing field of a branch is named. Fields that say nothing (`null`, empty lists and maps) are
///   not looked for, because types leave them out when written.
pub fn unknown_fields<T: Serialize>(given: &Value, parsed: &T) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Ok(parsed) = serde_json::to_value(parsed) {
        compare("", given, &parsed, &mut unknown);
    }
    unknown
}

fn compare(path: &str, given: &Value, parsed: &Value, unknown: &mut Vec<String>) {
    match (given, parsed) {
        (Value::Object(given), Value::Object(parsed)) => {
            for (key, value) in given {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{key}");
                match parsed.get(key) {
                    Some(parsed) => compare(&path, value, parsed, unknown),
                    None if says_nothing(value) => {}
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(parsed)) => {
            for (index, (given, parsed)) in given.iter().zip(parsed).enumerate() {
                compare(&format!("{path}[{index}]"), given, parsed, unknown);
            }
        }
        _ => {}
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.iter().all(says_nothing),
        Value::Object(values) => values.values().all(says_nothing),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodTemplateSpec;
    use serde_json::json;

    use super::*;

    fn unknown_of(given: &Value) -> Vec<String> {
        let parsed: PodTemplateSpec = serde_json::from_value(given.clone()).unwrap_or_default();
        unknown_fields(given, &parsed)
    }

    #[test]
    fn misspelt_fields_are_named_at_every_depth() {
        let given = json!({
            "metadata": {"label": {"a": "b"}},
            "spec": {
                "tolerationz": [],
                "nodeSelektor": {"a": "b"},
                "containers": [{"name": "flightcluster", "imag": "x"}],
            },
        });
        assert_eq!(
            unknown_of(&given),
            [
                "metadata.label",
                "spec.containers[0].imag",
                "spec.nodeSelektor"
            ]
        );
    }

    #[test]
    fn known_fields_are_not_named() {
        let given = json!({
            "metadata": {"labels": {"a": "b"}},
            "spec": {"hostNetwork": false, "tolerations": [], "nodeSelector": {"a": "b"}},
        });
        assert!(unknown_of(&given).is_empty());
    }
}
