//! Which crate of the workspace may depend on which, and which libraries only some may know.
//!
//! The table is the design: an edge that is not here needs a decision first. Dependencies of tests
//! and build scripts count too.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Direct dependencies of each crate of the workspace.
pub(crate) type Crates = BTreeMap<String, BTreeSet<String>>;

/// All names without the prefix `flightcluster-`; the binary's own crate is `flightcluster`.
const ALLOWED: [(&str, &[&str]); 18] = [
    ("config", &[]),
    ("crds", &[]),
    ("keys", &[]),
    ("telemetry", &[]),
    ("tls", &[]),
    ("wire", &[]),
    ("auth", &["config"]),
    ("wal", &["config"]),
    ("catalog", &["config", "tls"]),
    ("objectstore", &["config", "tls"]),
    ("ingest", &["catalog", "config", "keys", "wal"]),
    ("query", &["catalog", "config", "keys"]),
    ("upkeep", &["catalog", "config"]),
    (
        "server",
        &[
            "auth",
            "catalog",
            "config",
            "ingest",
            "keys",
            "objectstore",
            "query",
            "telemetry",
            "tls",
            "wire",
        ],
    ),
    (
        "flightcluster",
        &[
            "auth",
            "catalog",
            "config",
            "ingest",
            "objectstore",
            "query",
            "server",
            "telemetry",
            "tls",
            "upkeep",
            "wal",
            "wire",
        ],
    ),
    ("operator", &["config", "crds", "telemetry"]),
    ("e2e", &["crds"]),
    // Tests only: the parts of the data plane in one process.
    (
        "histories",
        &[
            "catalog", "config", "ingest", "keys", "query", "server", "upkeep", "wal", "wire",
        ],
    ),
];

/// A library (or every library with that prefix, when it ends with `*`), who may name it, and why.
const PLACES: [(&str, &[&str], &str); 5] = [
    ("datafusion*", &["query"], "only query knows the engine"),
    (
        "kube*",
        &["crds", "operator", "e2e"],
        "the data plane does not know Kubernetes",
    ),
    (
        "k8s-openapi",
        &["crds", "operator", "e2e"],
        "the data plane does not know Kubernetes",
    ),
    (
        "sqlx*",
        &["catalog"],
        "only the catalog speaks SQL to a database",
    ),
    (
        "tonic*",
        // tls only in its tests: that its connector fits.
        &["wire", "server", "flightcluster", "tls"],
        "only the server implements gRPC services",
    ),
];

/// Reads `cargo metadata`.
pub(crate) fn read(metadata: &Value) -> Crates {
    let members: BTreeSet<&str> = metadata["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .map(text)
        .collect();
    let packages = metadata["packages"].as_array().unwrap();
    let ours = packages
        .iter()
        .filter(|package| members.contains(text(&package["id"])));
    ours.map(|package| {
        let dependencies = package["dependencies"].as_array().unwrap();
        let names = dependencies
            .iter()
            .map(|each| text(&each["name"]).to_owned())
            .collect();
        (text(&package["name"]).to_owned(), names)
    })
    .collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The edges that the table does not have.
pub(crate) fn forbidden(crates: &Crates) -> Vec<String> {
    let mut breaches = Vec::new();
    for (name, dependencies) in crates {
        let Some((_, allowed)) = ALLOWED.iter().find(|(allowed, _)| *allowed == short(name)) else {
            breaches.push(format!("{name} is not in the table of allowed edges"));
            continue;
        };
        let ours = dependencies
            .iter()
            .filter(|dependency| crates.contains_key(*dependency));
        for dependency in ours.filter(|dependency| !allowed.contains(&short(dependency))) {
            breaches.push(format!("{name} -> {dependency}"));
        }
    }
    breaches
}

/// The libraries that are named where they may not be known.
pub(crate) fn misplaced(crates: &Crates) -> Vec<String> {
    let mut breaches = Vec::new();
    for (name, dependencies) in crates {
        for (library, places, why) in PLACES {
            let here = dependencies
                .iter()
                .filter(|dependency| is_named(library, dependency));
            for dependency in here.filter(|_| !places.contains(&short(name))) {
                breaches.push(format!("{name} -> {dependency}: {why}"));
            }
        }
    }
    breaches
}

fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

fn short(name: &str) -> &str {
    name.strip_prefix("flightcluster-").unwrap_or(name)
}

mod tests {
    use super::*;

    fn crates(edges: &[(&str, &[&str])]) -> Crates {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        edges
            .iter()
            .map(|(name, names)| ((*name).to_owned(), owned(names)))
            .collect()
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found() {
        let both = crates(&[
            ("flightcluster-ingest", &["flightcluster-query", "serde"]),
            ("flightcluster-query", &["flightcluster-catalog"]),
            ("flightcluster-catalog", &["flightcluster-tls"]),
            ("flightcluster-tls", &[]),
        ]);
        assert_eq!(
            forbidden(&both),
            ["flightcluster-ingest -> flightcluster-query"]
        );
    }

    #[test]
    fn a_crate_that_the_table_does_not_know_is_found() {
        let found = forbidden(&crates(&[("flightcluster-shared", &[])]));
        assert_eq!(
            found,
            ["flightcluster-shared is not in the table of allowed edges"]
        );
    }

    #[test]
    fn a_library_in_the_wrong_crate_is_found() {
        let found = misplaced(&crates(&[
            ("flightcluster-ingest", &["datafusion-common", "kube"]),
            ("flightcluster-query", &["datafusion"]),
            ("flightcluster-operator", &["kube-runtime", "k8s-openapi"]),
        ]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("flightcluster-ingest -> datafusion-common"),
            "{found:?}"
        );
    }

    #[test]
    fn members_and_their_dependencies_are_read_from_cargo_metadata() {
        let metadata = serde_json::json!({
            "workspace_members": ["path#a@1"],
            "packages": [
                {"id": "path#a@1", "name": "a", "dependencies": [
                    {"name": "b", "kind": null}, {"name": "c", "kind": "dev"}]},
                {"id": "registry#b@1", "name": "b", "dependencies": []},
            ],
        });
        assert_eq!(read(&metadata), crates(&[("a", &["b", "c"])]));
    }
}
