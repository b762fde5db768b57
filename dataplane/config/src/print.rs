//! A configuration as YAML: all of it, all of it with origins, or only what differs from the
//! defaults.

use std::collections::BTreeMap;

use crate::Config;
use crate::load::Loaded;
use crate::problem::Origin;
use crate::yaml::{self, Mapping, Value};

/// Every setting as YAML, in the order of the types.
#[must_use]
pub fn to_yaml_full(config: &Config) -> String {
    let mut lines = String::new();
    write_tree("", &yaml::to_tree(config), None, &mut lines);
    lines
}

/// The settings that differ from the defaults as YAML; empty text when none does.
///
/// This is what a ConfigMap should hold: a default that gets better later is not pinned by it.
/// Loading the text gives `config` back.
#[must_use]
pub fn to_yaml_minimal(config: &Config) -> String {
    let mut lines = String::new();
    let tree = difference(&yaml::to_tree(config), &yaml::to_tree(&Config::default()));
    if let Some(tree) = tree {
        write_tree("", &tree, None, &mut lines);
    }
    lines
}

impl Loaded {
    /// Every effective setting as YAML, with its origin as a comment on its line.
    ///
    /// Secrets are not in it: settings only name the files that hold them.
    #[must_use]
    pub fn to_yaml_with_origins(&self) -> String {
        let mut lines = String::new();
        write_tree(
            "",
            &yaml::to_tree(&self.config),
            Some(&self.origins),
            &mut lines,
        );
        lines
    }
}

fn write_tree(
    parent: &str,
    tree: &Value,
    origins: Option<&BTreeMap<String, Origin>>,
    lines: &mut String,
) {
    let Value::Mapping(map) = tree else { return };
    let indent = if parent.is_empty() {
        0
    } else {
        2 * (parent.matches('.').count() + 1)
    };
    for (name, value) in map {
        let name = name.as_str().unwrap_or_default();
        let key = if parent.is_empty() {
            name.to_owned()
        } else {
            format!("{parent}.{name}")
        };
        lines.push_str(&" ".repeat(indent));
        if value.is_mapping() {
            lines.push_str(&format!("{name}:\n"));
            write_tree(&key, value, origins, lines);
            continue;
        }
        lines.push_str(&format!("{name}: {}", yaml::leaf_text(value)));
        if let Some(origin) = origins.and_then(|origins| origins.get(&key)) {
            lines.push_str(&format!("  # {}", one_line(origin)));
        }
        lines.push('\n');
    }
}

/// An origin that can't leave its comment, whatever the file is called.
fn one_line(origin: &Origin) -> String {
    origin.to_string().replace(char::is_control, "?")
}

fn difference(value: &Value, default: &Value) -> Option<Value> {
    let (Value::Mapping(map), Value::Mapping(defaults)) = (value, default) else {
        return (value != default).then(|| value.clone());
    };
    let mut changed = Mapping::new();
    for (name, value) in map {
        let default = defaults.get(name).unwrap_or(&Value::Null);
        if let Some(value) = difference(value, default) {
            changed.insert(name.clone(), value);
        }
    }
    (!changed.is_empty()).then_some(Value::Mapping(changed))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::{AuthMode, ByteSize};

    fn read(text: &str) -> Config {
        match yaml::parse(text).unwrap() {
            Value::Null => Config::default(),
            tree => yaml::from_tree(tree).unwrap(),
        }
    }

    fn changed() -> Config {
        let mut config = Config::default();
        config.auth.mode = AuthMode::Token;
        config.auth.token_files = vec!["/etc/a,b.yaml".into(), "/etc/c.yaml".into()];
        config.ingest.flush_bytes = ByteSize::mib(96);
        config.storage.object_store.bucket = Some("123".to_owned());
        config.server.node_name = Some("yes: # no".to_owned());
        config.query.timeout = Some(std::time::Duration::from_millis(1500));
        config
    }

    #[test]
    fn the_full_text_reads_back() {
        assert_eq!(read(&to_yaml_full(&changed())), changed());
        assert_eq!(read(&to_yaml_full(&Config::default())), Config::default());
    }

    #[test]
    fn the_minimal_text_holds_only_differences_and_reads_back() {
        assert_eq!(to_yaml_minimal(&Config::default()), "");
        let text = to_yaml_minimal(&changed());
        assert_eq!(read(&text), changed());
        assert_eq!(text.lines().count(), 12, "{text}");
        assert!(!text.contains("listen_host"), "{text}");
    }
}
