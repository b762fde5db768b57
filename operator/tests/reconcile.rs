//! Whole passes against an API server in memory: what is written, and above all what is not.
//! Long because every story is played in the same world.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod api;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::ApiServer;
use flightcluster_crds::v1alpha1::FlightCluster;
use flightcluster_operator::controller::reconcile::{Context, Error, reconcile};
use flightcluster_operator::controller::validate::Defaults;
use flightcluster_operator::observed::Observer;
use flightcluster_telemetry::metrics::{BuildLabels, OperatorMetrics};
use k8s_openapi::ByteString;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use serde_json::{Value, json};

const CLUSTER: &str = "/apis/flightcluster.io/v1alpha1/namespaces/meteo/flightclusters/weather";
const CORE: &str = "/api/v1/namespaces/meteo";
const SETS: &str = "/apis/apps/v1/namespaces/meteo/statefulsets";

/// The image that the operator was installed with.
const IMAGE: &str = "x:1";

/// An API server with one cluster, and the operator.
struct World {
    server: ApiServer,
    context: Arc<Context>,
}

impl World {
    fn new(spec: Value) -> Self {
        let server = ApiServer::default();
        server.put(
            CLUSTER,
            json!({
                "apiVersion": "flightcluster.io/v1alpha1",
                "kind": "FlightCluster",
                "metadata": {"name": "weather", "namespace": "meteo"},
                "spec": spec,
            }),
        );
        let context = context(&server, IMAGE);
        Self { server, context }
    }

    /// A new process that remembers nothing.
    fn restart(&mut self) {
        self.context = context(&self.server, IMAGE);
    }

    /// A new process of another release.
    fn upgrade(&mut self, image: &str) {
        self.context = context(&self.server, image);
    }

    async fn pass(&self) -> Result<Action, Error> {
        let cluster = self.server.get(CLUSTER).unwrap();
        let cluster: DeserializeGuard<FlightCluster> = serde_json::from_value(cluster).unwrap();
        reconcile(Arc::new(cluster), Arc::clone(&self.context)).await
    }

    /// Passes until one writes nothing, as the watches of a real operator would cause them.
    async fn settle(&self) {
        for _ in 0..10 {
            self.server.take_writes();
            let result = self.pass().await;
            if result.is_ok() && self.server.take_writes().is_empty() {
                return;
            }
        }
        panic!("the operator never comes to rest");
    }

    /// What the pods of each role are given to read at start, after the operator came to rest.
    async fn digests(&self) -> Vec<Value> {
        self.settle().await;
        let digest = |role| {
            let set = self.server.get(&format!("{SETS}/weather-{role}")).unwrap();
            let annotations = &set["spec"]["template"]["metadata"]["annotations"];
            annotations["flightcluster.io/config-digest"].clone()
        };
        ["catalog", "ingester", "querier"].map(digest).to_vec()
    }

    fn set_spec(&self, spec: Value) {
        self.server
            .change(CLUSTER, |cluster| cluster["spec"] = spec);
    }

    fn condition(&self, type_: &str) -> Value {
        let cluster = self.server.get(CLUSTER).unwrap();
        let conditions = cluster["status"]["conditions"].as_array().unwrap();
        conditions
            .iter()
            .find(|condition| condition["type"] == type_)
            .unwrap()
            .clone()
    }

    /// Nobody waits for what only a person can put right.
    fn assert_stalled(&self, reason: &str) {
        let stalled = self.condition("Stalled");
        assert_eq!(
            (&stalled["status"], &stalled["reason"]),
            (&json!("True"), &json!(reason))
        );
        assert_eq!(self.condition("Reconciling")["status"], "False");
    }

    /// Plays the part of Kubernetes: all pods are ready.
    fn make_pods_ready(&self) {
        for role in ["catalog", "ingester", "querier"] {
            self.make_ready(role);
        }
    }

    fn make_ready(&self, role: &str) {
        self.server
            .change(&format!("{SETS}/weather-{role}"), |set| {
                let replicas = set["spec"]["replicas"].clone();
                set["status"] = json!({
                    "replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas,
                    "observedGeneration": set["metadata"]["generation"],
                });
            });
    }

    /// The images of catalog, querier and ingester.
    fn images(&self) -> [String; 3] {
        ["catalog", "querier", "ingester"].map(|role| {
            let set = self.server.get(&format!("{SETS}/weather-{role}")).unwrap();
            let container = &set["spec"]["template"]["spec"]["containers"][0];
            container["image"].as_str().unwrap().to_owned()
        })
    }
}

fn context(server: &ApiServer, image: &str) -> Arc<Context> {
    let client = server.client();
    let metrics = OperatorMetrics::new(BuildLabels {
        version: "test",
        revision: "test",
    });
    let reporter = Reporter {
        controller: "test".into(),
        instance: Some("test".into()),
    };
    let observer = Observer::new(metrics, Recorder::new(client.clone(), reporter));
    let defaults = Defaults {
        image: image.into(),
        cluster_domain: "cluster.local".into(),
    };
    Arc::new(Context::new(client, defaults, observer))
}

/// Objects without what differs from run to run: keys, times, numbers.
fn shape(objects: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let mut objects = objects.clone();
    for object in objects.values_mut() {
        let metadata = object["metadata"].as_object_mut().unwrap();
        metadata.remove("uid");
        metadata.remove("resourceVersion");
        metadata.remove("generation");
        metadata.remove("ownerReferences");
        object.as_object_mut().unwrap().remove("status");
        if let Some(data) = object.get_mut("data") {
            let keys: Vec<&String> = data.as_object().unwrap().keys().collect();
            *data = json!(keys);
        }
        if let Some(template) = object.pointer_mut("/spec/template/metadata/annotations") {
            template
                .as_object_mut()
                .unwrap()
                .remove("flightcluster.io/config-digest");
        }
    }
    objects
}

#[tokio::test]
async fn a_cluster_gets_its_objects_and_becomes_ready_with_its_pods() {
    let world = World::new(json!({}));
    world.settle().await;
    assert_eq!(world.condition("Ready")["status"], "False");
    assert_eq!(world.condition("Reconciling")["reason"], "RollingOut");
    world.make_pods_ready();
    world.settle().await;
    assert_eq!(world.condition("Ready")["status"], "True");
    assert_eq!(world.condition("TLSReady")["status"], "True");
    let kinds: Vec<&str> = ["Created", "Applied", "Ready"].to_vec();
    for kind in kinds {
        assert!(
            world.server.events().iter().any(|event| event == kind),
            "{kind}"
        );
    }
    // 1 identity, 8 Secrets, 4 ConfigMaps, 6 Services, 3 budgets, 3 StatefulSets, the cluster.
    assert_eq!(world.server.objects().len(), 1 + 7 + 4 + 6 + 3 + 3 + 1);
}

#[tokio::test]
async fn a_pass_in_which_nothing_changed_writes_nothing() {
    let world = World::new(json!({}));
    world.settle().await;
    world.make_pods_ready();
    world.settle().await;
    let before = world.server.objects();
    for _ in 0..3 {
        world.pass().await.unwrap();
    }
    assert_eq!(world.server.take_writes(), Vec::<String>::new());
    assert_eq!(world.server.objects(), before);
}

/// Upgrading or restarting the operator restarts no pod.
#[tokio::test]
async fn a_new_process_changes_nothing_and_is_then_silent_too() {
    let mut world = World::new(json!({}));
    world.settle().await;
    world.make_pods_ready();
    world.settle().await;
    let before = world.server.objects();
    let events = world.server.events().len();
    world.restart();
    world.pass().await.unwrap();
    assert_eq!(
        world.server.objects(),
        before,
        "not even a resourceVersion moves"
    );
    assert_eq!(world.server.events().len(), events);
    world.server.take_writes();
    world.pass().await.unwrap();
    assert_eq!(world.server.take_writes(), Vec::<String>::new());
}

#[tokio::test]
async fn an_operator_with_another_default_image_restarts_no_pod() {
    for spec in [json!({}), json!({"image": {"repository": "mirror/x"}})] {
        let mut world = World::new(spec);
        world.settle().await;
        world.make_pods_ready();
        world.settle().await;
        let before = world.server.objects();
        world.upgrade("x:2");
        world.settle().await;
        assert_eq!(world.server.objects(), before);

        world.set_spec(json!({"image": {"repository": "x", "tag": "2"}}));
        world.settle().await;
        assert_eq!(world.images()[0], "x:2");
    }
}

#[tokio::test]
async fn an_upgrade_goes_from_role_to_role_and_says_who_waits_for_whom() {
    let mut world = World::new(json!({"image": {"tag": "1"}}));
    world.settle().await;
    world.make_pods_ready();
    world.settle().await;
    assert!(!world.server.events().contains(&"HeldBack".to_owned()));

    world.set_spec(json!({"image": {"tag": "2"}}));
    world.settle().await;
    assert_eq!(world.images(), ["x:2", "x:1", "x:1"]);
    for type_ in ["Ready", "Reconciling"] {
        let condition = world.condition(type_);
        assert_eq!(condition["reason"], "RollingOut");
        let message = condition["message"].as_str().unwrap();
        let waits = "querier: stays at x:1 until every catalog pod has the new image and is ready";
        assert!(message.contains(waits), "{message}");
    }
    assert!(world.server.events().contains(&"HeldBack".to_owned()));
    // All there is to remember stands in the objects.
    world.restart();
    world.settle().await;
    assert_eq!(world.images(), ["x:2", "x:1", "x:1"]);
    world.make_ready("catalog");
    world.settle().await;
    assert_eq!(world.images(), ["x:2", "x:2", "x:1"]);
    world.make_ready("querier");
    world.settle().await;
    assert_eq!(world.images(), ["x:2", "x:2", "x:2"]);
    world.make_ready("ingester");
    world.settle().await;
    assert_eq!(world.condition("Ready")["status"], "True");
}

#[tokio::test]
async fn an_upgrade_that_is_stuck_is_taken_back_at_once() {
    let mut world = World::new(json!({"image": {"tag": "1"}}));
    world.settle().await;
    world.make_pods_ready();
    world.settle().await;
    let before = shape(&world.server.objects());
    world.set_spec(json!({"image": {"tag": "2"}}));
    world.settle().await;
    world.make_ready("catalog");
    world.settle().await;
    assert_eq!(world.images(), ["x:2", "x:2", "x:1"]);
    world.restart();
    world.set_spec(json!({"image": {"tag": "1"}}));
    world.pass().await.unwrap();
    assert_eq!(world.images(), ["x:1", "x:1", "x:1"]);
    world.make_pods_ready();
    world.settle().await;
    assert_eq!(shape(&world.server.objects()), before);
}

#[tokio::test]
async fn what_somebody_changed_or_deleted_is_put_right_and_only_that() {
    let world = World::new(json!({}));
    world.settle().await;
    let service = format!("{CORE}/services/weather");
    let set = format!("{SETS}/weather-querier");
    let before = shape(&world.server.objects());
    world
        .server
        .change(&service, |service| service["spec"]["ports"] = json!([]));
    world
        .server
        .change(&set, |set| set["spec"]["replicas"] = json!(7));
    world
        .server
        .remove(&format!("{CORE}/configmaps/weather-ca"));
    world.server.take_writes();
    world.pass().await.unwrap();
    let mut patched = world.server.take_writes();
    patched.retain(|write| !write.contains("/events"));
    assert_eq!(
        patched,
        [
            format!("PATCH {CORE}/configmaps/weather-ca"),
            format!("PATCH {service}"),
            format!("PATCH {set}"),
        ]
    );
    assert_eq!(shape(&world.server.objects()), before);
}

#[tokio::test]
async fn progress_of_pods_is_no_reason_to_write_objects() {
    let world = World::new(json!({}));
    world.settle().await;
    world.make_pods_ready();
    world.pass().await.unwrap();
    let writes = world.server.take_writes();
    assert!(
        writes
            .iter()
            .all(|w| w.contains("/status") || w.contains("/events")),
        "{writes:?}"
    );
}

#[tokio::test]
async fn a_bad_spec_leaves_the_running_cluster_alone_and_can_be_put_right() {
    let world = World::new(json!({"querier": {"replicas": 2}}));
    world.settle().await;
    let before = world.server.objects();
    world.set_spec(json!({
        "querier": {"replicas": 9},
        "config": {"query": {"batch_rowz": 1}, "ingest": {"flush_bytes": "much"}},
    }));
    world.settle().await;
    let valid = world.condition("ConfigurationValid");
    assert_eq!(valid["status"], "False");
    let message = valid["message"].as_str().unwrap();
    assert!(message.contains("config.query.batch_rowz"), "{message}");
    assert!(message.contains("config.ingest.flush_bytes"), "{message}");
    assert_eq!(world.condition("Stalled")["status"], "True");
    for (path, object) in before.iter().filter(|(path, _)| *path != CLUSTER) {
        assert_eq!(world.server.get(path).as_ref(), Some(object));
    }
    assert!(world.server.events().contains(&"InvalidSpec".to_owned()));

    world.set_spec(json!({"querier": {"replicas": 9}}));
    world.settle().await;
    assert_eq!(world.condition("ConfigurationValid")["status"], "True");
    assert_eq!(world.condition("Stalled")["status"], "False");
    let set = world
        .server
        .get(&format!("{SETS}/weather-querier"))
        .unwrap();
    assert_eq!(set["spec"]["replicas"], 9);
}

#[tokio::test]
async fn a_paused_cluster_is_only_looked_at() {
    let world = World::new(json!({}));
    world.settle().await;
    world.set_spec(json!({"paused": true, "querier": {"replicas": 5}}));
    world.server.take_writes();
    world.pass().await.unwrap();
    let writes = world.server.take_writes();
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert!(writes[0].ends_with("/status"), "{writes:?}");
    assert_eq!(world.condition("Reconciling")["reason"], "Paused");
}

/// The volumes of a deleted cluster stay, and one of the same name goes on with them.
#[tokio::test]
async fn volumes_of_ingesters_that_a_new_cluster_would_forget_are_named_and_nothing_starts() {
    let world = World::new(json!({"ingester": {"replicas": 1}}));
    let claim = |name: &str| format!("{CORE}/persistentvolumeclaims/{name}");
    for (name, size) in [
        ("data-weather-ingester-0", "10Gi"),
        ("data-weather-ingester-1", "10Gi"),
        ("data-weather-ingester-2", "10Gi"),
        ("data-weather-catalog-0", "10Gi"),
        // Of others.
        ("data-weather-ingester-x-7", "1Gi"),
        ("data-weather-ingester-07", "1Gi"),
        ("data-other-ingester-9", "1Gi"),
    ] {
        let spec = json!({"resources": {"requests": {"storage": size}}});
        let object = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name}, "spec": spec,
        });
        world.server.put(&claim(name), object);
    }
    world.settle().await;
    let message = world.condition("ConfigurationValid")["message"].clone();
    assert_eq!(
        message,
        "ingester.replicas: 1 is too few: rows in the write-ahead logs on PersistentVolumeClaim \
         data-weather-ingester-1, data-weather-ingester-2 would not be found; set it to 3, or \
         delete what is named here if its rows may be lost"
    );
    let set = format!("{SETS}/weather-ingester");
    assert_eq!(world.server.get(&set), None);

    // One cure, and a size that no volume has.
    let grown = |size: &str| json!({"ingester": {"replicas": 3, "storage": {"size": size}}});
    world.set_spec(grown("20Gi"));
    world.settle().await;
    let message = world.condition("ConfigurationValid")["message"].clone();
    assert_eq!(
        message,
        "ingester.storage.size: changing the size of existing volumes (10Gi to 20Gi) is not \
         supported yet; set it back to 10Gi, the size of PersistentVolumeClaim \
         data-weather-ingester-0"
    );
    world.set_spec(grown("10240Mi"));
    world.settle().await;
    assert!(world.server.get(&set).is_some());
}

#[tokio::test]
async fn a_deleted_volume_of_an_ingester_is_given_up() {
    let world = World::new(json!({}));
    let claim = format!("{CORE}/persistentvolumeclaims/data-weather-ingester-1");
    let object = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data-weather-ingester-1"},
    });
    world.server.put(&claim, object);
    world.settle().await;
    assert_eq!(world.condition("ConfigurationValid")["status"], "False");
    // Deleted, and still there until nobody mounts it.
    world.server.change(&claim, |claim| {
        claim["metadata"]["deletionTimestamp"] = json!("2026-03-01T08:00:00Z");
    });
    world.settle().await;
    assert_eq!(world.condition("ConfigurationValid")["status"], "True");
}

#[tokio::test]
async fn what_is_no_longer_wanted_is_deleted_and_nothing_else() {
    let world = World::new(json!({}));
    world.settle().await;
    let stranger = format!("{CORE}/configmaps/stranger");
    world.server.put(
        &stranger,
        json!({"kind": "ConfigMap", "metadata": {"name": "stranger", "labels": {
            "app.kubernetes.io/managed-by": "flightcluster-operator",
            "app.kubernetes.io/instance": "weather",
        }}}),
    );
    world.set_spec(json!({"tls": {"enabled": false}, "auth": {"allowInsecure": true}}));
    world.settle().await;
    for gone in [
        "secrets/weather-tls",
        "secrets/weather-public-ca",
        "configmaps/weather-ca",
    ] {
        assert_eq!(world.server.get(&format!("{CORE}/{gone}")), None, "{gone}");
    }
    assert!(
        world.server.get(&stranger).is_some(),
        "it has our labels and not our owner"
    );
    assert!(
        world
            .server
            .get(&format!("{CORE}/secrets/weather-internal-tls"))
            .is_some()
    );
    assert_eq!(world.condition("TLSReady")["reason"], "Disabled");
}

#[tokio::test]
async fn an_object_of_somebody_else_is_never_overwritten() {
    let world = World::new(json!({}));
    let theirs = format!("{CORE}/services/weather");
    world.server.put(
        &theirs,
        json!({"kind": "Service", "metadata": {"name": "weather"}}),
    );
    let before = world.server.get(&theirs);
    let error = world.pass().await.unwrap_err();
    assert!(
        error.to_string().contains("Service/weather already exists"),
        "{error}"
    );
    assert_eq!(world.server.get(&theirs), before);
    assert_eq!(world.condition("Ready")["reason"], "ApplyFailed");
    world.assert_stalled("ForeignObject");
    world.server.remove(&theirs);
    world.settle().await;
    assert_eq!(world.condition("Stalled")["status"], "False");
    assert_eq!(world.condition("ConfigurationValid")["status"], "True");
}

#[tokio::test]
async fn a_ca_that_can_not_be_used_stalls_until_somebody_gives_it_up() {
    let world = World::new(json!({}));
    world.settle().await;
    let ca = format!("{CORE}/secrets/weather-public-ca");
    world
        .server
        .change(&ca, |secret| secret["data"]["tls.key"] = json!("aGVsbG8="));
    world.pass().await.unwrap_err();
    world.assert_stalled("UnusableCA");
    let message = world.condition("Stalled")["message"].clone();
    assert!(message.as_str().unwrap().contains("delete it"), "{message}");
    world.server.remove(&ca);
    world.settle().await;
    assert_eq!(world.condition("Stalled")["status"], "False");
}

#[tokio::test]
async fn an_object_that_the_api_server_refuses_stalls_and_one_it_fails_to_write_does_not() {
    let world = World::new(json!({}));
    world.server.refuse_write(0);
    world.pass().await.unwrap_err();
    world.assert_stalled("Refused");
    world.settle().await;
    assert_eq!(world.condition("Stalled")["status"], "False");

    let world = World::new(json!({}));
    world.server.fail_write(0);
    world.pass().await.unwrap_err();
    assert_eq!(world.condition("Stalled")["status"], "False");
    assert_eq!(world.condition("Reconciling")["status"], "True");
}

/// Keys are made once. A process that ended between writing and reading must not make new ones.
#[tokio::test]
async fn keys_stay_and_a_deleted_key_is_made_anew() {
    let mut world = World::new(json!({}));
    world.settle().await;
    let key = format!("{CORE}/secrets/weather-signing-key");
    let token = format!("{CORE}/secrets/weather-admin-token");
    let (old_key, old_token) = (world.server.get(&key), world.server.get(&token));
    world.restart();
    world.settle().await;
    assert_eq!(
        (world.server.get(&key), world.server.get(&token)),
        (old_key.clone(), old_token)
    );

    let set = format!("{SETS}/weather-querier");
    let annotations = "/spec/template/metadata/annotations";
    let digest = world
        .server
        .get(&set)
        .unwrap()
        .pointer(annotations)
        .cloned();
    world.server.remove(&key);
    world.settle().await;
    assert_ne!(
        world.server.get(&key).unwrap()["data"],
        old_key.unwrap()["data"]
    );
    let after = world
        .server
        .get(&set)
        .unwrap()
        .pointer(annotations)
        .cloned();
    assert_ne!(
        after, digest,
        "pods read the key at start: they have to be restarted"
    );
}

#[tokio::test]
async fn a_signing_key_of_another_length_is_a_problem_that_names_the_secret_and_the_cure() {
    let world = World::new(json!({}));
    world.settle().await;
    let key = format!("{CORE}/secrets/weather-signing-key");
    // 33 bytes, 16 bytes, nothing: the data plane takes exactly 32.
    for value in [
        json!({"key": "QUFB".repeat(11)}),
        json!({"key": "QUFBQUFBQUFBQUFBQUFBQQ=="}),
        json!({}),
    ] {
        world.server.change(&key, |secret| secret["data"] = value);
        let before = world.server.get(&key);
        world.settle().await;
        let valid = world.condition("ConfigurationValid");
        assert_eq!(valid["status"], "False");
        let message = valid["message"].as_str().unwrap();
        assert!(
            message.contains("Secret weather-signing-key: the value of its key \"key\" has"),
            "{message}"
        );
        assert!(
            message.contains("delete the Secret to have a new one made"),
            "{message}"
        );
        assert_eq!(world.server.get(&key), before);
    }
    world.server.remove(&key);
    world.settle().await;
    assert_eq!(world.condition("ConfigurationValid")["status"], "True");
}

#[tokio::test]
async fn a_certificate_with_the_key_of_another_is_a_problem_that_names_the_secret() {
    let world = World::new(json!({}));
    world.settle().await;
    let read = |name: &str| world.server.get(&format!("{CORE}/secrets/{name}")).unwrap();
    let (public, internal) = (read("weather-tls"), read("weather-internal-tls"));
    let own = format!("{CORE}/secrets/own");
    world.server.put(
        &own,
        json!({"kind": "Secret", "metadata": {"name": "own"}, "data": {
            "tls.crt": public["data"]["tls.crt"], "tls.key": internal["data"]["tls.key"],
        }}),
    );
    world.set_spec(json!({"tls": {"secretName": "own"}}));
    world.settle().await;
    let valid = world.condition("ConfigurationValid");
    assert_eq!(valid["status"], "False");
    let message = valid["message"].as_str().unwrap();
    assert!(
        message.contains("tls.secretName: tls.key of Secret own is not the private key"),
        "{message}"
    );
    world.server.change(&own, |secret| {
        secret["data"]["tls.key"] = public["data"]["tls.key"].clone();
    });
    world.settle().await;
    assert_eq!(world.condition("ConfigurationValid")["status"], "True");
    assert_eq!(world.condition("TLSReady")["status"], "True");
}

/// The pods read credentials once, at start, whichever cloud they are of; so do they with authorities.
#[tokio::test]
async fn other_credentials_or_authorities_of_a_bucket_restart_the_pods() {
    let google = |id: &str| json!({"client_email": "a", "private_key": "b", "private_key_id": id});
    for (store, key, old, new) in [
        (
            json!({"s3": {"bucket": "rows"}}),
            "secret-access-key",
            "one".to_owned(),
            "two".to_owned(),
        ),
        (
            json!({"gcs": {"bucket": "rows"}}),
            "service-account.json",
            google("1").to_string(),
            google("2").to_string(),
        ),
        (
            json!({"azure": {"account": "meteo", "container": "rows"}}),
            "account-key",
            "b25l\n".to_owned(),
            "dHdv\n".to_owned(),
        ),
    ] {
        let kind = store.as_object().unwrap().keys().next().unwrap().clone();
        let mut store = store;
        store[&kind]["credentialsSecret"] = json!("store");
        store[&kind]["caSecret"] = json!("store-ca");
        let world = World::new(json!({"objectStore": store}));
        let put = |name: &str, key: &str, text: &str| {
            let mut data = json!({"access-key-id": "QUtJQQ=="});
            data[key] = serde_json::to_value(ByteString(text.into())).unwrap();
            let secret = json!({"kind": "Secret", "metadata": {"name": name}, "data": data});
            world.server.put(&format!("{CORE}/secrets/{name}"), secret);
        };
        put("store", key, &old);
        put("store-ca", "ca.crt", "first");
        let mut digests = vec![world.digests().await];
        assert_eq!(world.condition("ConfigurationValid")["status"], "True");
        put("store", key, &new);
        digests.push(world.digests().await);
        put("store-ca", "ca.crt", "second");
        digests.push(world.digests().await);
        for role in 0..3 {
            let of_role: Vec<&Value> = digests.iter().map(|roles| &roles[role]).collect();
            let differ = of_role[0] != of_role[1] && of_role[1] != of_role[2];
            assert!(differ, "{kind}: {digests:?}");
        }
        put("store", key, &old);
        put("store-ca", "ca.crt", "first");
        assert_eq!(world.digests().await, digests[0]);
    }
}

/// Clouds put an identity into pods when these are made.
#[tokio::test]
async fn another_identity_of_the_pods_restarts_them() {
    let spec =
        |id: &str| json!({"serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": id}}});
    let world = World::new(json!({}));
    let without = world.digests().await;
    world.set_spec(spec("arn:one"));
    let one = world.digests().await;
    let account = format!("{CORE}/serviceaccounts/weather");
    let annotations = &world.server.get(&account).unwrap()["metadata"]["annotations"];
    assert_eq!(annotations["eks.amazonaws.com/role-arn"], "arn:one");
    world.set_spec(spec("arn:two"));
    let two = world.digests().await;
    for role in 0..3 {
        assert!(
            without[role] != one[role] && one[role] != two[role],
            "{role}"
        );
    }
    world.set_spec(json!({}));
    assert_eq!(world.digests().await, without);
}

/// Certificates are read again by running pods: a new one must not restart them.
#[tokio::test]
async fn a_new_certificate_restarts_no_pod() {
    let world = World::new(json!({}));
    world.settle().await;
    let set = format!("{SETS}/weather-querier");
    let before = world.server.get(&set).unwrap()["metadata"]["generation"].clone();
    world.server.remove(&format!("{CORE}/secrets/weather-tls"));
    world.settle().await;
    assert!(
        world
            .server
            .get(&format!("{CORE}/secrets/weather-tls"))
            .is_some()
    );
    assert_eq!(
        world.server.get(&set).unwrap()["metadata"]["generation"],
        before
    );
}

/// Whichever write fails, and even if the process ends with it: the next passes come to the same
/// end as if nothing had happened.
#[tokio::test]
async fn a_failure_at_any_write_leads_to_the_same_end() {
    let spec = json!({"querier": {"replicas": 3}, "ingester": {"replicas": 2}});
    let undisturbed = World::new(spec.clone());
    undisturbed.settle().await;
    let expected = shape(&undisturbed.server.objects());
    for n in 0..40 {
        let mut world = World::new(spec.clone());
        world.server.fail_write(n);
        let _ = world.pass().await;
        if !world.server.has_failed() {
            assert!(n > 24, "only {n} writes were tried");
            return;
        }
        world.restart();
        world.settle().await;
        assert_eq!(
            shape(&world.server.objects()),
            expected,
            "after a failure at write {n}"
        );
        assert_eq!(world.condition("ConfigurationValid")["status"], "True");
    }
    panic!("more writes than expected");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_reported_and_stops_nobody() {
    let world = World::new(json!({"querier": {"replicas": "three"}}));
    world.pass().await.unwrap();
    assert_eq!(world.server.events(), ["Unreadable"]);
}

#[tokio::test]
async fn a_cluster_on_its_way_out_is_left_to_kubernetes() {
    let world = World::new(json!({}));
    world.server.change(CLUSTER, |cluster| {
        cluster["metadata"]["deletionTimestamp"] = json!("2026-03-01T08:00:00Z");
    });
    world.pass().await.unwrap();
    assert_eq!(world.server.take_writes(), Vec::<String>::new());
}
