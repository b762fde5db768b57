//! Files, environment and flags laid over each other, and what is said when one of them is wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::PathBuf;
use std::time::Duration;

use flightcluster_config::{
    AuthMode, Config, Error, FlagValue, LoadOptions, Loaded, Origin, Problem, Role, TlsVersion,
    load, to_yaml_minimal,
};
use tempfile::TempDir;

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn from_env(env: &[(&str, &str)]) -> Result<Loaded, Error> {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    load(&LoadOptions {
        env,
        ..LoadOptions::default()
    })
}

fn from_file(text: &str) -> Result<Loaded, Error> {
    let files = Files::new();
    load(&LoadOptions {
        files: vec![files.write("a.yaml", text)],
        ..LoadOptions::default()
    })
}

fn problems(result: Result<Loaded, Error>) -> Vec<Problem> {
    match result {
        Err(Error::Settings(problems)) => problems.0,
        other => panic!("expected problems, got {other:?}"),
    }
}

fn only_problem(result: Result<Loaded, Error>) -> String {
    let problems = problems(result);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

/// S4-2.
#[test]
fn later_layers_win_setting_by_setting_and_each_value_knows_its_origin() {
    let files = Files::new();
    let low = files.write(
        "low.yaml",
        "server: {listen_port: 1, listen_host: 127.0.0.2, drain_window: 7s}\n\
         storage:\n  object_store: {prefix: low, region: low}\n",
    );
    let high = files.write(
        "high.yaml",
        "server:\n  listen_port: 2\n  listen_host: 127.0.0.3\n\
         storage:\n  object_store:\n    region: high\n",
    );
    let loaded = load(&LoadOptions {
        files: vec![low.clone(), high.clone()],
        env: vec![
            (
                "FLIGHTCLUSTER_SERVER__LISTEN_PORT".to_owned(),
                "3".to_owned(),
            ),
            (
                "FLIGHTCLUSTER_SERVER__LISTEN_HOST".to_owned(),
                "127.0.0.4".to_owned(),
            ),
            (
                "FLIGHTCLUSTER_STORAGE__OBJECT_STORE__BUCKET".to_owned(),
                "b".to_owned(),
            ),
        ],
        flags: vec![FlagValue::new("--listen", "server.listen_port", "4")],
        role: None,
    })
    .unwrap();

    assert_eq!(loaded.config.server.listen_port, 4);
    assert_eq!(loaded.config.server.listen_host, "127.0.0.4");
    assert_eq!(loaded.config.server.drain_window, Duration::from_secs(7));
    let store = &loaded.config.storage.object_store;
    assert_eq!(store.prefix.as_deref(), Some("low"));
    assert_eq!(store.region.as_deref(), Some("high"));
    assert_eq!(store.bucket.as_deref(), Some("b"));

    let origin = |key: &str| loaded.origins[key].clone();
    assert_eq!(
        origin("server.listen_port"),
        Origin::Flag("--listen".to_owned())
    );
    assert_eq!(
        origin("server.listen_host"),
        Origin::Env("FLIGHTCLUSTER_SERVER__LISTEN_HOST".to_owned())
    );
    assert_eq!(origin("server.drain_window"), Origin::File(low.clone()));
    assert_eq!(origin("storage.object_store.region"), Origin::File(high));
    assert_eq!(origin("storage.object_store.prefix"), Origin::File(low));
    assert_eq!(origin("admin.listen_port"), Origin::Default);
}

#[test]
fn every_setting_has_an_origin() {
    let loaded = load(&LoadOptions::default()).unwrap();
    assert_eq!(loaded.config, Config::default());
    let keys: Vec<_> = flightcluster_config::settings()
        .map(|setting| &setting.key)
        .collect();
    assert!(keys.len() > 50);
    assert!(
        keys.into_iter()
            .all(|key| loaded.origins[key] == Origin::Default)
    );
    assert_eq!(
        loaded.origins.len(),
        flightcluster_config::settings().count()
    );
}

#[test]
fn the_printed_origins_stand_beside_the_values_and_the_text_reads_back() {
    let loaded = from_env(&[("FLIGHTCLUSTER_INGEST__FLUSH_BYTES", "96MiB")]).unwrap();
    let text = loaded.to_yaml_with_origins();
    let line = text
        .lines()
        .find(|line| line.contains("flush_bytes"))
        .unwrap();
    assert_eq!(
        line,
        "  flush_bytes: 96MiB  # env FLIGHTCLUSTER_INGEST__FLUSH_BYTES"
    );
    assert!(text.contains("  listen_port: 17101  # default"), "{text}");
    assert_eq!(from_file(&text).unwrap().config, loaded.config);
}

#[test]
fn only_true_and_false_are_booleans_in_the_environment() {
    for word in ["yes", "no", "1", "0", "True", "on", ""] {
        let message = only_problem(from_env(&[("FLIGHTCLUSTER_AUTH__ALLOW_INSECURE", word)]));
        assert!(message.starts_with("auth.allow_insecure: "), "{message}");
        assert!(message.contains("expected true or false"), "{message}");
        assert!(
            message.contains("(env FLIGHTCLUSTER_AUTH__ALLOW_INSECURE)"),
            "{message}"
        );
    }
    let loaded = from_env(&[("FLIGHTCLUSTER_AUTH__ALLOW_INSECURE", "true")]).unwrap();
    assert!(loaded.config.auth.allow_insecure);
}

#[test]
fn only_true_and_false_are_booleans_in_a_file() {
    for word in ["yes", "no", "on", "1", "\"true\""] {
        let message = only_problem(from_file(&format!("auth: {{allow_insecure: {word}}}")));
        assert!(
            message.contains("auth.allow_insecure: expected true or false"),
            "{message}"
        );
        assert!(message.contains("a.yaml)"), "{message}");
    }
}

#[test]
fn values_are_typed_and_the_message_says_what_is_allowed() {
    for (name, value, expected) in [
        (
            "SERVER__LISTEN_PORT",
            "abc",
            "a whole number from 0 to 65535, found \"abc\"",
        ),
        (
            "SERVER__LISTEN_PORT",
            "99999",
            "a whole number from 0 to 65535, found 99999",
        ),
        (
            "SERVER__LISTEN_PORT",
            "-1",
            "a whole number from 0 to 65535",
        ),
        ("AUTH__MODE", "jwt", "one of none, token, found \"jwt\""),
        ("INGEST__FLUSH_BYTES", "many", "a size such as 64MiB"),
        ("SERVER__DRAIN_WINDOW", "5", "a duration with its unit"),
        (
            "MALLOC__PRESET",
            "fast",
            "one of throughput, balanced, low-memory",
        ),
    ] {
        let message = only_problem(from_env(&[(&format!("FLIGHTCLUSTER_{name}"), value)]));
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn a_number_where_text_is_wanted_is_refused_with_the_cure() {
    let message = only_problem(from_file("storage: {object_store: {bucket: 123}}"));
    assert!(
        message.contains("expected text, found 123 (put it in quotes)"),
        "{message}"
    );
    let loaded = from_file("tls: {minimum_version: 1.3}").unwrap();
    assert_eq!(loaded.config.tls.minimum_version, TlsVersion::Tls13);
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    let message = only_problem(from_file("server: {listen_prot: 1}"));
    assert!(message.starts_with("server.listen_prot: "), "{message}");
    assert!(
        message.contains("did you mean server.listen_port?"),
        "{message}"
    );
    assert!(message.contains("a.yaml)"), "{message}");

    let message = only_problem(from_file("sever: {listen_port: 1}"));
    assert!(message.contains("did you mean server?"), "{message}");

    let message = only_problem(from_env(&[("FLIGHTCLUSTER_TLS__CERT_FILE", "x")]));
    assert!(
        message.contains("(env FLIGHTCLUSTER_TLS__CERT_FILE)"),
        "{message}"
    );

    let message = only_problem(from_env(&[("FLIGHTCLUSTER_SERVER__LISTEN_HOSTS", "x")]));
    assert!(
        message.contains("did you mean FLIGHTCLUSTER_SERVER__LISTEN_HOST?"),
        "{message}"
    );

    let flags = vec![FlagValue::new("--set", "log.fliter", "debug")];
    let message = only_problem(load(&LoadOptions {
        flags,
        ..LoadOptions::default()
    }));
    assert!(message.contains("did you mean log.filter?"), "{message}");
    assert!(message.contains("(flag --set)"), "{message}");
}

#[test]
fn a_single_underscore_between_section_and_setting_is_noticed() {
    let message = only_problem(from_env(&[("FLIGHTCLUSTER_AUTH_MODE", "token")]));
    assert!(message.contains("FLIGHTCLUSTER_AUTH__MODE"), "{message}");
}

#[test]
fn variables_of_kubernetes_services_and_of_clients_are_left_alone() {
    let loaded = from_env(&[
        ("FLIGHTCLUSTER_SERVICE_HOST", "10.0.0.1"),
        ("FLIGHTCLUSTER_PORT_17001_TCP", "tcp://10.0.0.1:17001"),
        ("FLIGHTCLUSTER_TOKEN", "fc_x"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(loaded.unwrap().config, Config::default());
}

#[test]
fn all_wrong_settings_of_all_layers_are_named_at_once() {
    let files = Files::new();
    let result = load(&LoadOptions {
        files: vec![files.write(
            "a.yaml",
            "server: {listen_port: x, drain_window: 1}\nfoo: 1\n",
        )],
        env: vec![("FLIGHTCLUSTER_AUTH__MODE".to_owned(), "x".to_owned())],
        flags: vec![FlagValue::new("--x", "y", "z")],
        role: None,
    });
    assert_eq!(problems(result).len(), 5);
}

#[test]
fn a_missing_file_and_a_broken_file_are_named() {
    let missing = LoadOptions {
        files: vec!["/nowhere/a.yaml".into()],
        ..LoadOptions::default()
    };
    let error = load(&missing).unwrap_err();
    assert_eq!(error.category(), "read_file");
    assert!(error.to_string().contains("/nowhere/a.yaml"), "{error}");

    let error = from_file("server: {").unwrap_err();
    assert_eq!(error.category(), "parse_file");
    assert!(error.to_string().contains("a.yaml"), "{error}");

    let error = from_file("log: {filter: a, filter: b}").unwrap_err();
    assert_eq!(error.category(), "parse_file");
}

#[test]
fn empty_files_and_empty_sections_change_nothing() {
    for text in [
        "",
        "# nothing\n",
        "---\n",
        "server:\nstorage:\n  object_store:\n",
    ] {
        assert_eq!(
            from_file(text).unwrap().config,
            Config::default(),
            "{text:?}"
        );
    }
    assert!(only_problem(from_file("server: 5")).contains("is a section"));
    assert!(only_problem(from_file("- a")).contains("expected sections"));
}

#[test]
fn an_optional_setting_can_be_unset_by_a_later_layer() {
    let files = Files::new();
    let loaded = load(&LoadOptions {
        files: vec![
            files.write(
                "a.yaml",
                "query: {timeout: 5s}\ncatalog: {url: 'https://a:1'}\n",
            ),
            files.write("b.yaml", "query: {timeout: null}\n"),
        ],
        env: vec![("FLIGHTCLUSTER_CATALOG__URL".to_owned(), String::new())],
        ..LoadOptions::default()
    })
    .unwrap();
    assert_eq!(loaded.config, Config::default());
    assert!(only_problem(from_file("log: {filter: null}")).contains("has no value"));
}

#[test]
fn lists_come_from_yaml_and_from_commas_and_replace_each_other() {
    let files = Files::new();
    let loaded = load(&LoadOptions {
        files: vec![files.write("a.yaml", "auth: {mode: token, token_files: [/a]}")],
        env: vec![(
            "FLIGHTCLUSTER_AUTH__TOKEN_FILES".to_owned(),
            "/b, /c".to_owned(),
        )],
        ..LoadOptions::default()
    })
    .unwrap();
    assert_eq!(loaded.config.auth.mode, AuthMode::Token);
    assert_eq!(
        loaded.config.auth.token_files,
        [PathBuf::from("/b"), PathBuf::from("/c")]
    );
}

#[test]
fn standalone_keeps_its_data_in_the_users_data_directory() {
    let data_dir = |role, env: &[(&str, &str)]| {
        let env = env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        load(&LoadOptions {
            env,
            role,
            ..LoadOptions::default()
        })
        .unwrap()
        .config
        .storage
        .data_dir
    };
    let home = [("HOME", "/home/ada")];
    let standalone = Some(Role::Standalone);
    assert_eq!(
        data_dir(standalone, &home),
        PathBuf::from("/home/ada/.local/share/flightcluster")
    );
    let xdg = [("HOME", "/home/ada"), ("XDG_DATA_HOME", "/data")];
    assert_eq!(
        data_dir(standalone, &xdg),
        PathBuf::from("/data/flightcluster")
    );
    assert_eq!(
        data_dir(standalone, &[]),
        Config::default().storage.data_dir
    );
    assert_eq!(
        data_dir(Some(Role::Ingester), &home),
        Config::default().storage.data_dir
    );
}

#[test]
fn a_problem_found_by_validation_says_where_the_value_came_from() {
    let loaded = from_env(&[
        ("FLIGHTCLUSTER_SERVER__LISTEN_PORT", "17101"),
        ("FLIGHTCLUSTER_ADMIN__LISTEN_PORT", "17101"),
    ])
    .unwrap();
    let problems = loaded.validate(Role::Standalone).unwrap_err();
    assert_eq!(
        problems.to_string(),
        "admin.listen_port: port 17101 is taken by server.listen_port; choose another \
         (env FLIGHTCLUSTER_ADMIN__LISTEN_PORT)"
    );
}

#[test]
fn the_minimal_text_of_a_config_map_loads_to_the_same_configuration() {
    let mut config = Config::default();
    config.auth.mode = AuthMode::Token;
    config.auth.token_files = vec!["/etc/tokens/a.yaml".into()];
    config.server.listen_host = "0.0.0.0".to_owned();
    let text = to_yaml_minimal(&config);
    assert_eq!(from_file(&text).unwrap().config, config);
}
