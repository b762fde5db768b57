//! The committed pages equal what the types generate. `UPDATE_EXPECT=1` rewrites them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use flightcluster_config::{Config, LoadOptions, load, reference_page, sample};

const PAGE: &str = "configuration.md";
const SAMPLE: &str = "flightcluster.sample.yaml";

fn reference_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference")
}

fn check(name: &str, generated: &str) {
    let path = reference_dir().join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(reference_dir()).unwrap();
        std::fs::write(&path, generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "docs/reference/{name} is stale: run with UPDATE_EXPECT=1"
    );
}

fn load_text(text: &str) -> Config {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sample.yaml");
    std::fs::write(&path, text).unwrap();
    load(&LoadOptions {
        files: vec![path],
        ..LoadOptions::default()
    })
    .unwrap()
    .config
}

#[test]
fn the_reference_page_is_current() {
    check(PAGE, &reference_page());
}

/// S4-4.
#[test]
fn the_sample_is_current() {
    check(SAMPLE, &sample());
}

/// S4-4.
#[test]
fn the_sample_loads_as_it_is_and_with_every_setting_uncommented() {
    assert_eq!(load_text(&sample()), Config::default());
    let is_setting = |line: &str| {
        line.trim_start()
            .chars()
            .nth(1)
            .is_some_and(char::is_alphabetic)
    };
    let uncommented: Vec<String> = sample()
        .lines()
        .map(|line| {
            if is_setting(line) {
                line.replacen('#', "", 1)
            } else {
                line.to_owned()
            }
        })
        .collect();
    let uncommented = uncommented.join("\n");
    assert!(
        uncommented.contains("\n  listen_port: 17001"),
        "{uncommented}"
    );
    assert_eq!(load_text(&uncommented), Config::default());
}

#[test]
fn page_and_sample_name_every_setting_and_its_environment_variable() {
    for setting in flightcluster_config::settings() {
        let (key, env) = (&setting.key, &setting.env);
        assert!(
            reference_page().contains(&format!("`{key}`<br>`{env}`")),
            "{key}"
        );
        assert!(sample().contains(env.as_str()), "{key}");
    }
}
