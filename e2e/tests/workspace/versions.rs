//! One version of each library whose types go from crate to crate.
//!
//! A `RecordBatch` of arrow 59 is another type than one of arrow 60, and a second rustls is a second
//! default crypto provider: mixing them is found by no compiler where they meet as bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Versions of each package that the workspace really uses.
pub(crate) type Resolved = BTreeMap<String, BTreeSet<String>>;

const SINGLE: [&str; 9] = [
    "arrow-array",
    "arrow-flight",
    "datafusion",
    "kube",
    "object_store",
    "parquet",
    "prost",
    "rustls",
    "tonic",
];

/// Reads the resolved graph of `cargo metadata`.
pub(crate) fn read(metadata: &Value) -> Resolved {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let used: BTreeSet<&str> = nodes
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();
    let mut resolved = Resolved::new();
    for package in metadata["packages"].as_array().unwrap() {
        if used.contains(package["id"].as_str().unwrap()) {
            let name = package["name"].as_str().unwrap().to_owned();
            let version = package["version"].as_str().unwrap().to_owned();
            resolved.entry(name).or_default().insert(version);
        }
    }
    resolved
}

/// The libraries that are there twice, or not at all (then the list here is out of date).
pub(crate) fn duplicates(resolved: &Resolved) -> Vec<String> {
    let mut breaches = Vec::new();
    for name in SINGLE {
        let versions: Vec<&str> = resolved
            .get(name)
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        match versions.len() {
            1 => {}
            0 => breaches.push(format!("{name} is not used any more")),
            _ => breaches.push(format!(
                "{name} is there as {}: `cargo tree -i {name}@{}` tells who asks for it",
                versions.join(" and "),
                versions[versions.len() - 1]
            )),
        }
    }
    breaches
}

mod tests {
    use super::*;

    fn resolved(second: Option<&str>) -> Resolved {
        let mut resolved: Resolved = SINGLE
            .iter()
            .map(|name| ((*name).to_owned(), ["1.0.0".to_owned()].into()))
            .collect();
        if let Some(name) = second {
            resolved.get_mut(name).unwrap().insert("2.0.0".to_owned());
        }
        resolved
    }

    #[test]
    fn a_second_version_is_found() {
        assert!(duplicates(&resolved(None)).is_empty());
        let found = duplicates(&resolved(Some("arrow-array")));
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("arrow-array is there as 1.0.0 and 2.0.0"),
            "{found:?}"
        );
    }

    #[test]
    fn a_library_that_is_gone_is_found() {
        let mut resolved = resolved(None);
        resolved.remove("kube");
        assert_eq!(duplicates(&resolved), ["kube is not used any more"]);
    }

    #[test]
    fn packages_outside_the_resolved_graph_do_not_count() {
        let metadata = serde_json::json!({
            "resolve": {"nodes": [{"id": "a1"}, {"id": "b1"}]},
            "packages": [
                {"id": "a1", "name": "a", "version": "1.0.0"},
                {"id": "a2", "name": "a", "version": "2.0.0"},
                {"id": "b1", "name": "b", "version": "1.0.0"},
            ],
        });
        assert_eq!(read(&metadata)["a"], ["1.0.0".to_owned()].into());
    }
}
