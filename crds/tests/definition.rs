//! The definition that users install: its text, its rules, its size.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::path::{Path, PathBuf};

use flightcluster_crds::v1alpha1::{
    AuthMode, AuthSpec, CatalogSpec, EmbeddedCatalogSpec, FlightCluster, FlightClusterSpec,
    ImageSpec, IngesterSpec, PostgresSpec, SelfSignedSpec, StorageSpec, TlsSpec,
};
use flightcluster_crds::{
    KEEP_ANNOTATION, MAX_DEFINITION_BYTES, chart_template, definition, definition_yaml,
};
use kube::core::cel::{validate_cel, validate_cel_update};
use serde_json::{Value, json};

/// Every CEL rule of the API: a rule that silently leaves the definition is found here.
const RULES: [&str; 19] = [
    "metadata.name must have at most 40 characters",
    "metadata.name must start with a letter and hold only lower case letters, digits and '-', because Services are named after it",
    "auth.mode None lets everybody read and write: set auth.allowInsecure: true to accept that",
    "tls.enabled: false sends tokens and rows in clear text: set auth.allowInsecure: true to accept that",
    "objectStore can't be switched between embedded, s3, gcs and azure: the stored files would no longer be found",
    "catalog.postgres has no catalog pod, which the embedded object store needs: set s3, gcs or azure of objectStore",
    "catalog: give embedded or postgres, not both",
    "image: give tag or digest, not both",
    "storage.storageClassName can't be changed: a volume stays in the class it was made in",
    "objectStore: give one of embedded, s3, gcs and azure",
    "objectStore.s3: bucket and prefix can't be changed: the stored files would no longer be found",
    "objectStore.s3: an endpoint with http:// needs allowHttp: true",
    "objectStore.gcs: bucket and prefix can't be changed: the stored files would no longer be found",
    "objectStore.gcs: an endpoint with http:// needs allowHttp: true",
    "objectStore.azure: account, container and prefix can't be changed: the stored files would no longer be found",
    "objectStore.azure: an endpoint with http:// needs allowHttp: true",
    "tls: give selfSigned or secretName, not both",
    "tls.enabled: false leaves no use for selfSigned or secretName",
    "auth.tokenSecrets has no use with auth.mode None",
];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Compares `actual` with the file, or writes the file when `UPDATE_EXPECT=1`.
fn assert_file(path: &str, actual: &str) {
    let file = repository(path);
    if std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1") {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        actual, expected,
        "{path} is out of date: run with UPDATE_EXPECT=1, read the diff"
    );
}

fn cluster(spec: FlightClusterSpec) -> FlightCluster {
    FlightCluster::new("weather", spec)
}

fn refusal(cluster: &FlightCluster) -> String {
    validate_cel(cluster).unwrap_err().to_string()
}

fn refusal_of_update(old: &FlightCluster, new: &FlightCluster) -> String {
    validate_cel_update(new, old).unwrap_err().to_string()
}

#[test]
fn the_committed_definition_is_what_the_types_generate() {
    assert_file("crds/yaml/flightcluster.yaml", &definition_yaml().unwrap());
}

#[test]
fn the_chart_installs_the_same_definition_and_keeps_it_on_uninstall() {
    let template = chart_template().unwrap();
    assert!(
        !template.contains("{{"),
        "Helm would take this for a template"
    );
    assert_file(
        "charts/flightcluster-crds/templates/flightcluster.yaml",
        &template,
    );

    let mut in_chart: Value = serde_yaml::from_str(&template).unwrap();
    let annotations = in_chart["metadata"]
        .as_object_mut()
        .unwrap()
        .remove("annotations")
        .unwrap();
    assert_eq!(annotations[KEEP_ANNOTATION.0], KEEP_ANNOTATION.1);
    assert_eq!(in_chart, serde_json::to_value(definition()).unwrap());
}

#[test]
fn every_rule_is_in_the_definition_and_no_other() {
    let yaml: Value = serde_yaml::from_str(&definition_yaml().unwrap()).unwrap();
    let mut found = Vec::new();
    visit(&yaml, &mut |key, value| {
        if key == "x-kubernetes-validations" {
            for rule in value.as_array().unwrap() {
                found.push(rule["message"].as_str().unwrap().to_owned());
            }
        }
    });
    // A rule on a type that is used twice stands in the definition twice.
    found.sort();
    found.dedup();
    let mut wanted = RULES.map(str::to_owned).to_vec();
    wanted.sort();
    assert_eq!(found, wanted);
}

#[test]
fn the_definition_fits_into_the_annotation_of_kubectl_apply() {
    let bytes = serde_json::to_vec(&definition()).unwrap().len();
    assert!(
        bytes < MAX_DEFINITION_BYTES / 4,
        "{bytes} bytes: strip embedded descriptions"
    );
}

#[test]
fn the_definition_has_no_empty_lists() {
    let yaml: Value = serde_yaml::from_str(&definition_yaml().unwrap()).unwrap();
    visit(&yaml, &mut |key, value| {
        assert!(
            value.as_array().is_none_or(|list| !list.is_empty()),
            "{key} is an empty list"
        );
    });
}

#[test]
fn the_definition_sets_no_defaults_that_a_gitops_tool_would_see_as_drift() {
    let yaml: Value = serde_yaml::from_str(&definition_yaml().unwrap()).unwrap();
    visit(&yaml, &mut |key, value| {
        assert!(key != "default", "default {value}");
    });
}

#[test]
fn kubectl_get_shows_readiness_and_the_pods_of_each_role() {
    let columns: Vec<String> = definition().spec.versions[0]
        .additional_printer_columns
        .iter()
        .flatten()
        .map(|column| column.name.clone())
        .collect();
    assert_eq!(
        columns,
        [
            "Ready", "Status", "Querier", "Ingester", "Catalog", "Endpoint", "Message", "Age"
        ]
    );
    assert_eq!(definition().spec.names.short_names.unwrap(), ["fltc"]);
}

#[test]
fn an_empty_spec_is_accepted() {
    validate_cel(&cluster(FlightClusterSpec::default())).unwrap();
}

#[test]
fn a_name_that_no_service_can_have_is_refused() {
    for name in ["a.b", "1weather", &"x".repeat(41)] {
        let refused = refusal(&FlightCluster::new(name, FlightClusterSpec::default()));
        assert!(refused.contains("metadata.name"), "{refused}");
    }
    validate_cel(&FlightCluster::new(
        &"x".repeat(40),
        FlightClusterSpec::default(),
    ))
    .unwrap();
}

#[test]
fn giving_up_tokens_or_tls_needs_a_clear_yes() {
    let mut spec = FlightClusterSpec {
        auth: Some(AuthSpec {
            mode: Some(AuthMode::None),
            ..AuthSpec::default()
        }),
        ..FlightClusterSpec::default()
    };
    assert!(refusal(&cluster(spec.clone())).contains("auth.mode None"));
    spec.auth.as_mut().unwrap().allow_insecure = true;
    validate_cel(&cluster(spec.clone())).unwrap();

    spec.tls = Some(TlsSpec {
        enabled: Some(false),
        ..TlsSpec::default()
    });
    validate_cel(&cluster(spec.clone())).unwrap();
    spec.auth = None;
    assert!(refusal(&cluster(spec)).contains("tls.enabled: false sends"));
}

#[test]
fn contradicting_alternatives_are_refused() {
    let both_certificates = FlightClusterSpec {
        tls: Some(TlsSpec {
            self_signed: Some(SelfSignedSpec::default()),
            secret_name: Some("own".into()),
            enabled: None,
        }),
        ..FlightClusterSpec::default()
    };
    assert!(refusal(&cluster(both_certificates)).contains("selfSigned or secretName, not both"));

    for (self_signed, secret_name) in [
        (Some(SelfSignedSpec::default()), None),
        (None, Some("own".to_owned())),
    ] {
        let unused_certificate = FlightClusterSpec {
            tls: Some(TlsSpec {
                enabled: Some(false),
                self_signed,
                secret_name,
            }),
            auth: Some(AuthSpec {
                allow_insecure: true,
                ..AuthSpec::default()
            }),
            ..FlightClusterSpec::default()
        };
        assert!(refusal(&cluster(unused_certificate)).contains("leaves no use for selfSigned"));
    }

    let tag_and_digest = FlightClusterSpec {
        image: Some(ImageSpec {
            tag: Some("1".into()),
            digest: Some(format!("sha256:{}", "0".repeat(64))),
            ..ImageSpec::default()
        }),
        ..FlightClusterSpec::default()
    };
    assert!(refusal(&cluster(tag_and_digest)).contains("tag or digest, not both"));
}

#[test]
fn storage_never_changes_its_class_and_a_growth_can_be_taken_back() {
    let with = |size: &str, class: Option<&str>| {
        cluster(FlightClusterSpec {
            ingester: Some(IngesterSpec {
                storage: Some(StorageSpec {
                    size: Some(size.into()),
                    storage_class_name: class.map(Into::into),
                }),
                ..IngesterSpec::default()
            }),
            ..FlightClusterSpec::default()
        })
    };
    let old = with("2Gi", Some("fast"));
    assert!(refusal_of_update(&old, &with("2Gi", Some("slow"))).contains("can't be changed"));
    assert!(refusal_of_update(&old, &with("2Gi", None)).contains("can't be changed"));
    // Back from a growth that the operator didn't carry out.
    validate_cel_update(&old, &with("3Gi", Some("fast"))).unwrap();
    validate_cel_update(&with("3Gi", Some("fast")), &old).unwrap();
}

/// A cluster with this object store, as a user writes it.
fn stored(object_store: Value) -> FlightCluster {
    cluster(FlightClusterSpec {
        object_store: Some(serde_json::from_value(object_store).unwrap()),
        ..FlightClusterSpec::default()
    })
}

/// Each kind of object store, with the least a user has to say.
fn stores() -> [Value; 4] {
    [
        json!({"embedded": {}}),
        json!({"s3": {"bucket": "rows"}}),
        json!({"gcs": {"bucket": "rows"}}),
        json!({"azure": {"account": "meteo", "container": "rows"}}),
    ]
}

#[test]
fn a_cluster_has_one_object_store() {
    for (at, one) in stores().iter().enumerate() {
        validate_cel(&stored(one.clone())).unwrap();
        for other in &stores()[at + 1..] {
            let mut both = one.clone();
            let other = other.as_object().unwrap().clone();
            both.as_object_mut().unwrap().extend(other);
            assert!(
                refusal(&stored(both.clone())).contains("give one of"),
                "{both}"
            );
        }
    }
}

#[test]
fn files_never_get_lost_by_pointing_the_cluster_elsewhere() {
    let unset = cluster(FlightClusterSpec::default());
    for (at, before) in stores().iter().enumerate() {
        let old = stored(before.clone());
        for (other, after) in stores().iter().enumerate() {
            let new = stored(after.clone());
            if at == other {
                validate_cel_update(&new, &old).unwrap();
            } else {
                assert!(refusal_of_update(&old, &new).contains("can't be switched"));
            }
        }
        if at > 0 {
            assert!(refusal_of_update(&unset, &old).contains("can't be switched"));
            assert!(refusal_of_update(&old, &unset).contains("can't be switched"));
        }
    }
    for (kind, field) in [
        ("s3", "bucket"),
        ("s3", "prefix"),
        ("gcs", "bucket"),
        ("gcs", "prefix"),
        ("azure", "account"),
        ("azure", "container"),
        ("azure", "prefix"),
    ] {
        let before = stores().into_iter().find(|store| store.get(kind).is_some());
        let before = before.unwrap();
        let mut after = before.clone();
        after[kind][field] = json!("lines");
        let (old, new) = (stored(before), stored(after));
        for refused in [refusal_of_update(&old, &new), refusal_of_update(&new, &old)] {
            assert!(
                refused.contains(&format!("objectStore.{kind}: "))
                    && refused.contains("can't be changed"),
                "{refused}"
            );
        }
        validate_cel_update(&new, &new).unwrap();
    }
}

#[test]
fn plain_http_to_the_object_store_needs_a_clear_yes() {
    for mut store in stores() {
        let kind = store.as_object().unwrap().keys().next().unwrap().clone();
        if kind == "embedded" {
            continue;
        }
        store[&kind]["endpoint"] = json!("http://store.example");
        let refused = refusal(&stored(store.clone()));
        assert!(
            refused.contains(&format!("objectStore.{kind}: an endpoint")),
            "{refused}"
        );
        assert!(refused.contains("allowHttp"), "{refused}");
        store[&kind]["allowHttp"] = json!(true);
        validate_cel(&stored(store)).unwrap();
    }
}

#[test]
fn a_catalog_in_postgres_needs_a_bucket_and_is_no_embedded_one() {
    let mut spec = FlightClusterSpec {
        catalog: Some(CatalogSpec {
            embedded: None,
            postgres: Some(PostgresSpec {
                secret_name: "db".into(),
                ..PostgresSpec::default()
            }),
        }),
        ..FlightClusterSpec::default()
    };
    assert!(refusal(&cluster(spec.clone())).contains("of objectStore"));
    for store in stores() {
        spec.object_store = Some(serde_json::from_value(store.clone()).unwrap());
        let is_bucket = store.get("embedded").is_none();
        assert_eq!(
            validate_cel(&cluster(spec.clone())).is_ok(),
            is_bucket,
            "{store}"
        );
    }
    spec.catalog.as_mut().unwrap().embedded = Some(EmbeddedCatalogSpec::default());
    assert!(refusal(&cluster(spec)).contains("not both"));
}

fn visit(value: &Value, found: &mut dyn FnMut(&str, &Value)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found(key, value);
                visit(value, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| visit(value, found)),
        _ => {}
    }
}
