//! Clusters and the objects they become; specs and the problems they have. One folder per case.
//!
//! `UPDATE_EXPECT=1` writes the expected files; read the diff before it is committed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flightcluster_config::{LoadOptions, Role, load};
use flightcluster_crds::v1alpha1::FlightCluster;
use flightcluster_operator::controller::build::names::Names;
use flightcluster_operator::controller::dereference::{
    NamedSecrets, ROLES, Referenced, existing_role, named_secrets,
};
use flightcluster_operator::controller::validate::{Defaults, validate};
use flightcluster_operator::render::render;
use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::Value;

fn defaults() -> Defaults {
    Defaults {
        image: "localhost/flightcluster:0.1.0".into(),
        cluster_domain: "cluster.local".into(),
    }
}

fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(folder);
    let mut cases: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn assert_file(file: &Path, actual: &str) {
    if std::env::var_os("UPDATE_EXPECT").is_some_and(|value| value == "1") {
        std::fs::write(file, actual).unwrap();
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    assert!(
        actual == expected,
        "{} is out of date: run with UPDATE_EXPECT=1 and read the diff. It would be:\n{actual}",
        file.display()
    );
}

fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

fn cluster_of(case: &Path) -> String {
    std::fs::read_to_string(case.join("cluster.yaml")).unwrap()
}

#[test]
fn every_cluster_becomes_the_expected_objects() {
    for case in cases("clusters") {
        let rendered = render(&cluster_of(&case), &defaults()).unwrap();
        assert_file(&case.join("expected.yaml"), &rendered);
    }
}

/// The roles that have pods: a catalog in Postgres has none.
fn roles(rendered: &[Value]) -> Vec<Role> {
    let sets = rendered
        .iter()
        .filter(|object| object["kind"] == "StatefulSet");
    let names: Vec<_> = sets
        .map(|set| set["metadata"]["name"].as_str().unwrap())
        .collect();
    let has_pods = |role: &Role| names.iter().any(|name| name.ends_with(role.as_str()));
    let roles: Vec<_> = ROLES.into_iter().filter(has_pods).collect();
    assert!(roles.contains(&Role::Ingester) && roles.contains(&Role::Querier));
    roles
}

#[test]
fn rendering_twice_gives_the_same_bytes() {
    for case in cases("clusters") {
        let text = cluster_of(&case);
        assert_eq!(
            render(&text, &defaults()).unwrap(),
            render(&text, &defaults()).unwrap()
        );
    }
}

/// The data plane reads every configuration we write, and would start with it.
#[test]
fn every_configuration_is_accepted_by_the_data_plane() {
    let folder = std::env::temp_dir().join(format!("fc-operator-golden-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut checked = 0;
    for case in cases("clusters") {
        let rendered = documents(&render(&cluster_of(&case), &defaults()).unwrap());
        for role in roles(&rendered) {
            let set = find(&rendered, "StatefulSet", role);
            let config_map = find(&rendered, "ConfigMap", role);
            let config_map: ConfigMap = serde_json::from_value(config_map).unwrap();
            let file = folder.join("config.yaml");
            std::fs::write(&file, &config_map.data.unwrap()["config.yaml"]).unwrap();
            let env = environment(&set, "pod-0");
            let options = LoadOptions {
                files: vec![file],
                env,
                ..LoadOptions::default()
            };
            let loaded = load(&options).unwrap();
            loaded
                .validate(role)
                .unwrap_or_else(|problems| panic!("{case:?} {role}: {problems}"));
            assert_eq!(loaded.config.server.node_name.as_deref(), Some("pod-0"));
            checked += 1;
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(checked >= 29);
}

/// Every file that the configuration names is mounted, and no container needs more rights than the
/// `restricted` Pod Security Standard gives.
#[test]
fn every_file_named_in_a_configuration_is_mounted() {
    for case in cases("clusters") {
        let rendered = documents(&render(&cluster_of(&case), &defaults()).unwrap());
        for role in roles(&rendered) {
            let config = find(&rendered, "ConfigMap", role);
            let config = config["data"]["config.yaml"].as_str().unwrap().to_owned();
            let set: StatefulSet =
                serde_json::from_value(find(&rendered, "StatefulSet", role)).unwrap();
            let pod = set.spec.unwrap().template.spec.unwrap();
            let mounted: Vec<String> = pod
                .volumes
                .iter()
                .flatten()
                .filter_map(|volume| volume.projected.as_ref())
                .flat_map(|projected| projected.sources.iter().flatten())
                .flat_map(|source| {
                    let secret = source.secret.iter().flat_map(|secret| secret.items.iter());
                    let map = source.config_map.iter().flat_map(|map| map.items.iter());
                    secret
                        .chain(map)
                        .flatten()
                        .map(|item| item.path.clone())
                        .collect::<Vec<_>>()
                })
                .collect();
            for word in config.split(|c: char| c.is_whitespace() || "[],".contains(c)) {
                if let Some(path) = word.strip_prefix("/etc/flightcluster/") {
                    assert!(mounted.iter().any(|m| m == path), "{case:?} {role}: {path}");
                }
            }
            let security = pod.containers[0].security_context.clone().unwrap();
            assert_eq!(security.read_only_root_filesystem, Some(true));
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert_eq!(security.capabilities.unwrap().drop.unwrap(), ["ALL"]);
            assert_eq!(pod.automount_service_account_token, Some(false));
        }
    }
}

/// Invariant 7: what Secrets hold never stands in a ConfigMap or a pod template.
#[test]
fn no_secret_leaves_its_secret() {
    for case in cases("clusters") {
        for document in documents(&render(&cluster_of(&case), &defaults()).unwrap()) {
            if document["kind"] != "Secret" {
                let text = document.to_string();
                assert!(!text.contains("private key"), "{case:?}: {text}");
                assert!(!text.contains("admin token"), "{case:?}: {text}");
                assert!(!text.contains("signing key, made"), "{case:?}: {text}");
            }
        }
    }
}

/// S2-31: what a client has to set as its own limit, the largest message that the pods take.
#[test]
fn the_connection_secret_names_the_limit_of_messages() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clusters/everything");
    let rendered = documents(&render(&cluster_of(&case), &defaults()).unwrap());
    let secret = rendered.iter().find(|object| {
        let name = object["metadata"]["name"].as_str().unwrap();
        object["kind"] == "Secret" && name.ends_with("-connection")
    });
    assert_eq!(
        secret.unwrap()["stringData"]["max-message-bytes"],
        (32 << 20).to_string()
    );
    for role in [Role::Querier, Role::Ingester] {
        let config = find(&rendered, "ConfigMap", role);
        let config = config["data"]["config.yaml"].as_str().unwrap();
        assert!(config.contains("max_message_bytes: 32MiB"), "{role}");
    }
}

/// A pod is never killed while the data plane still drains.
#[test]
fn pods_get_more_time_to_stop_than_the_data_plane_takes() {
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clusters/everything");
    let rendered = documents(&render(&cluster_of(&case), &defaults()).unwrap());
    // The streams, and for an ingester the flush after them, may each take the whole time.
    for (role, longest) in [(Role::Querier, 4 + 50), (Role::Ingester, 4 + 50 + 50)] {
        let set = find(&rendered, "StatefulSet", role);
        let grace = set["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
            .as_i64()
            .unwrap();
        assert!(grace > longest, "{role}: {grace}");
    }
}

#[test]
fn a_pod_that_is_not_ready_can_always_be_evicted() {
    for case in cases("clusters") {
        let rendered = documents(&render(&cluster_of(&case), &defaults()).unwrap());
        for role in roles(&rendered) {
            let budget = find(&rendered, "PodDisruptionBudget", role);
            assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
        }
    }
}

/// A StatefulSet gives its claims the labels of their template and those of its selector.
#[test]
fn a_volume_claim_carries_no_label_by_which_a_gitops_tool_would_prune_it() {
    for case in cases("clusters") {
        let rendered = documents(&render(&cluster_of(&case), &defaults()).unwrap());
        for role in roles(&rendered) {
            if role == Role::Querier {
                continue;
            }
            let set: StatefulSet =
                serde_json::from_value(find(&rendered, "StatefulSet", role)).unwrap();
            let spec = set.spec.unwrap();
            let mut labels = spec.selector.match_labels.unwrap();
            for claim in spec.volume_claim_templates.unwrap() {
                labels.extend(claim.metadata.labels.unwrap());
            }
            assert_eq!(labels["flightcluster.io/role"], role.as_str());
            let foreign: Vec<&String> = labels
                .keys()
                .filter(|label| !label.starts_with("flightcluster.io/"))
                .collect();
            assert!(foreign.is_empty(), "{case:?} {role}: {foreign:?}");
        }
    }
}

#[test]
fn every_problem_of_a_spec_is_found_at_once() {
    for case in cases("problems") {
        let (cluster, referenced) = with_referenced(&cluster_of(&case));
        let problems = validate(&cluster, &referenced, &defaults()).unwrap_err();
        let text: String = problems
            .iter()
            .map(|problem| format!("{problem}\n"))
            .collect();
        assert!(
            !text.contains("super-secret-value"),
            "a Secret's content is shown: {text}"
        );
        assert_file(&case.join("problems.txt"), &text);
    }
}

#[test]
fn render_names_fields_that_do_not_exist() {
    let text = "
apiVersion: flightcluster.io/v1alpha1
kind: FlightCluster
metadata: {name: weather}
spec: {querier: {replica: 3}, ingestr: {replicas: 2}}
";
    let error = render(text, &defaults()).unwrap_err().to_string();
    assert!(
        error.contains("ingestr: is no field of a FlightCluster"),
        "{error}"
    );
    assert!(error.contains("querier.replica: is no field"), "{error}");
}

#[test]
fn render_passes_over_other_kinds_and_needs_one_of_ours() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: meteo}\n";
    assert!(
        render(namespace, &defaults())
            .unwrap_err()
            .to_string()
            .contains("no FlightCluster")
    );
    let minimal = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clusters/minimal");
    let both = format!("{namespace}---\n{}", cluster_of(&minimal));
    assert!(
        render(&both, &defaults())
            .unwrap()
            .contains("minimal-querier")
    );
}

/// S4-6: the samples that users start from are good, and need nothing that they don't contain.
#[test]
fn the_samples_are_good() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for name in ["flightcluster.yaml", "s3.yaml", "gcs.yaml", "azure.yaml"] {
        let file = examples.join(name);
        let text = std::fs::read_to_string(&file).unwrap();
        render(&text, &defaults()).unwrap_or_else(|error| panic!("{file:?}: {error}"));
    }
}

fn find(rendered: &[Value], kind: &str, role: Role) -> Value {
    let suffix = format!("-{role}");
    rendered
        .iter()
        .find(|document| {
            document["kind"] == kind
                && document["metadata"]["name"]
                    .as_str()
                    .unwrap()
                    .ends_with(&suffix)
        })
        .unwrap()
        .clone()
}

/// The environment of a container as the kubelet makes it for a pod called `pod`.
fn environment(stateful_set: &Value, pod: &str) -> Vec<(String, String)> {
    let env = &stateful_set["spec"]["template"]["spec"]["containers"][0]["env"];
    env.as_array()
        .unwrap()
        .iter()
        .map(|variable| {
            let name = variable["name"].as_str().unwrap().to_owned();
            let value = variable["value"]
                .as_str()
                .map(|value| value.replace("$(POD_NAME)", pod));
            (name, value.unwrap_or_else(|| pod.to_owned()))
        })
        .collect()
}

/// Reads a cluster and, from the documents after it, what an API server would have.
fn with_referenced(text: &str) -> (FlightCluster, Referenced) {
    let mut documents = documents(text).into_iter();
    let cluster: FlightCluster = serde_json::from_value(documents.next().unwrap()).unwrap();
    let mut named: BTreeMap<String, Option<Secret>> = named_secrets(&cluster)
        .into_iter()
        .map(|name| (name, None))
        .collect();
    let mut referenced = Referenced::default();
    let names = Names::new(&cluster.name_any());
    for document in documents {
        if document["kind"] == "Secret" {
            let mut secret: Secret = serde_json::from_value(document).unwrap();
            let texts = secret.string_data.take().unwrap_or_default();
            let bytes = |(key, text): (String, String)| (key, ByteString(text.into_bytes()));
            secret.data = Some(texts.into_iter().map(bytes).collect());
            if secret.name_any() == names.admin_token_secret() {
                referenced.kept.admin_token = Some(secret.clone());
            }
            named.insert(secret.name_any(), Some(secret));
        } else {
            let set: StatefulSet = serde_json::from_value(document).unwrap();
            let role = ROLES
                .into_iter()
                .find(|role| names.role(*role) == set.name_any())
                .unwrap();
            referenced.existing.insert(role, existing_role(&set));
        }
    }
    referenced.named = NamedSecrets::Read(named);
    (cluster, referenced)
}
