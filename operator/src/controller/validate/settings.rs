//! `spec.config` and `malloc`: the data plane's settings, checked with the data plane's own types.

use flightcluster_config::{Config, Error, FlagValue, LoadOptions, MallocConfig, load};
use flightcluster_crds::v1alpha1::{MallocPreset, MallocSpec, Settings};
use serde_json::Value;

use super::{Problem, Problems, ValidatedCluster};
use crate::controller::build::config_map::effective_config;

/// Settings that follow from the rest of the spec: by prefix, the field to use instead.
///
/// A setting that the user and the operator both wrote would be decided silently by one of them.
const OWNED: [(&str, &str); 23] = [
    ("server.node_name", "it is the name of the pod"),
    ("server.listen_host", "pods listen on all addresses"),
    (
        "server.listen_port",
        "Services and probes rely on the fixed ports",
    ),
    ("server.advertise_host", "use advertise"),
    (
        "server.advertise_port",
        "Services and probes rely on the fixed ports",
    ),
    ("server.signing_key_file", "the operator makes the key"),
    (
        "internal",
        "traffic among the pods is always set up by the operator",
    ),
    ("admin", "Services and probes rely on the fixed ports"),
    (
        "tls.certificate_file",
        "use tls.selfSigned or tls.secretName",
    ),
    ("tls.key_file", "use tls.selfSigned or tls.secretName"),
    (
        "tls.client_ca_file",
        "client certificates are not supported yet",
    ),
    (
        "tls.client_auth",
        "client certificates are not supported yet",
    ),
    ("auth.mode", "use auth.mode of the spec"),
    ("auth.token_file", "use auth.tokenSecrets"),
    ("auth.token_files", "use auth.tokenSecrets"),
    ("auth.allow_insecure", "use auth.allowInsecure of the spec"),
    ("catalog.url", "it is the catalog's Service"),
    ("catalog.postgres_url_file", "use catalog.postgres"),
    ("catalog.postgres_password_file", "use catalog.postgres"),
    ("catalog.postgres_ca_file", "use catalog.postgres.caSecret"),
    (
        "catalog.postgres_allow_insecure",
        "use catalog.postgres.allowInsecure",
    ),
    (
        "storage",
        "use objectStore, ingester.storage and catalog.embedded.storage",
    ),
    ("malloc", "use malloc of the role"),
];

/// The one setting of a section that is otherwise [`OWNED`].
const FREE: &str = "storage.object_store.request_timeout";

/// Reads the user's settings over the defaults.
pub(super) fn validate(settings: &Settings, problems: &mut Problems) -> Config {
    let mut flags = Vec::new();
    for (section, values) in settings {
        for (key, value) in values {
            collect(&format!("{section}.{key}"), value, &mut flags, problems);
        }
    }
    flags.retain(|flag| match owner(&flag.key) {
        Some(instead) => {
            let message = format!("is set by the operator: {instead}");
            problems.push(Problem::new(format!("config.{}", flag.key), message));
            false
        }
        None => true,
    });
    read(flags, |setting| format!("config.{setting}"), problems)
}

/// Reads the allocator's settings over the defaults.
pub(super) fn validate_malloc(
    malloc: Option<&MallocSpec>,
    field: &str,
    problems: &mut Problems,
) -> MallocConfig {
    let Some(MallocSpec {
        preset,
        dirty_decay,
        muzzy_decay,
        background_thread,
    }) = malloc
    else {
        return MallocConfig::default();
    };
    let preset = preset.map(|preset| match preset {
        MallocPreset::Throughput => "throughput",
        MallocPreset::Balanced => "balanced",
        MallocPreset::LowMemory => "low-memory",
    });
    let values = [
        ("malloc.preset", preset.map(str::to_owned)),
        ("malloc.dirty_decay", dirty_decay.clone()),
        ("malloc.muzzy_decay", muzzy_decay.clone()),
        (
            "malloc.background_thread",
            background_thread.map(|on| on.to_string()),
        ),
    ];
    let flags = values
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| FlagValue::new("spec", key, value)))
        .collect();
    read(
        flags,
        |setting| format!("{field}.{}", camel_case(setting)),
        problems,
    )
    .malloc
}

/// Checks what the settings of each role mean together, as its process would at start.
pub(super) fn check_together(cluster: &ValidatedCluster, problems: &mut Problems) {
    for role in cluster.roles() {
        let found = effective_config(cluster, role)
            .validate(role.role)
            .err()
            .unwrap_or_default();
        for problem in found {
            let problem = Problem::new(format!("config.{}", problem.setting), problem.message);
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        }
    }
}

fn read(flags: Vec<FlagValue>, field: impl Fn(&str) -> String, problems: &mut Problems) -> Config {
    match load(&LoadOptions {
        flags,
        ..LoadOptions::default()
    }) {
        Ok(loaded) => loaded.config,
        Err(Error::Settings(found)) => {
            problems.extend(
                found
                    .0
                    .into_iter()
                    .map(|found| Problem::new(field(&found.setting), found.message)),
            );
            Config::default()
        }
        Err(error) => {
            problems.push(Problem::new("config", error.to_string()));
            Config::default()
        }
    }
}

/// Flattens a value of the spec to settings with values as text, which is how the data plane reads
/// them from its environment too.
fn collect(key: &str, value: &Value, flags: &mut Vec<FlagValue>, problems: &mut Problems) {
    let text = match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => value.clone(),
        Value::Array(values) => {
            let texts: Option<Vec<&str>> = values.iter().map(Value::as_str).collect();
            match texts {
                Some(texts) => texts.join(","),
                None => {
                    let field = format!("config.{key}");
                    problems.push(Problem::new(field, "expected a list of texts"));
                    return;
                }
            }
        }
        Value::Object(values) => {
            for (name, value) in values {
                collect(&format!("{key}.{name}"), value, flags, problems);
            }
            return;
        }
    };
    flags.push(FlagValue::new("spec.config", key, text));
}

fn owner(key: &str) -> Option<&'static str> {
    let covers = |owned: &str| {
        key.strip_prefix(owned)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    OWNED
        .iter()
        .find(|(owned, _)| key != FREE && covers(owned))
        .map(|(_, instead)| *instead)
}

/// `malloc.dirty_decay` as the spec writes it: `malloc.dirtyDecay`.
fn camel_case(setting: &str) -> String {
    let mut parts = setting.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut name, part| {
        let mut letters = part.chars();
        name.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        name.push_str(letters.as_str());
        name
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_owned_setting_exists() {
        for (owned, _) in OWNED {
            let known = flightcluster_config::settings().any(|setting| {
                setting.key == owned || setting.key.starts_with(&format!("{owned}."))
            });
            assert!(known, "{owned} is no setting of the data plane");
        }
    }

    #[test]
    fn a_setting_is_named_as_the_spec_writes_it() {
        assert_eq!(camel_case("malloc.dirty_decay"), "malloc.dirtyDecay");
        assert_eq!(camel_case("malloc.preset"), "malloc.preset");
    }
}
