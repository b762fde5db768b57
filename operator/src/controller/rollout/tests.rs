//! The order of an upgrade, and what it does not touch.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use flightcluster_crds::v1alpha1::FlightCluster;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::*;
use crate::controller::build::build;
use crate::controller::dereference::{KeptSecrets, NamedSecrets, ROLES, Referenced};
use crate::controller::material::provide;
use crate::controller::validate::{Defaults, validate};

/// A cluster, with Kubernetes played by the test.
#[derive(Default)]
struct World {
    sets: BTreeMap<Role, StatefulSet>,
    configs: BTreeMap<Role, ConfigMap>,
}

impl World {
    /// A cluster that runs this image.
    fn running(image: &str) -> Self {
        let mut world = Self::default();
        world.pass(json!({"image": {"tag": image}}));
        world.all_ready();
        world.pass(json!({"image": {"tag": image}}));
        world
    }

    /// Builds, holds back, and takes what came of it for what runs; returns what was said.
    fn pass(&mut self, spec: Value) -> Option<String> {
        let object = json!({
            "apiVersion": "flightcluster.io/v1alpha1", "kind": "FlightCluster",
            "metadata": {"name": "weather", "namespace": "meteo"}, "spec": spec,
        });
        let cluster: FlightCluster = serde_json::from_value(object).unwrap();
        let defaults = Defaults {
            image: "x:1".into(),
            cluster_domain: "cluster.local".into(),
        };
        let referenced = Referenced {
            named: NamedSecrets::Assumed,
            ..Referenced::default()
        };
        let cluster = validate(&cluster, &referenced, &defaults).unwrap();
        let material = provide(&cluster, &KeptSecrets::default(), Timestamp::UNIX_EPOCH).unwrap();
        let mut desired = build(&cluster, &material);
        let running = |(role, set): (&Role, &StatefulSet)| {
            let config = self.configs.get(role).cloned();
            (*role, RunningRole::of(set, config))
        };
        let running = self.sets.iter().map(running).collect();
        let held_back = hold_back(&mut desired, &cluster.names, &running);
        for role in ROLES {
            let name = cluster.names.role(role);
            let set = named(&desired.stateful_sets, &name).cloned();
            let status = self.sets.get(&role).and_then(|set| set.status.clone());
            let template = |set: &StatefulSet| set.spec.as_ref().map(|spec| spec.template.clone());
            let before = self.sets.get(&role).and_then(template);
            self.sets.extend(set.map(|mut set| {
                let same = before == template(&set);
                set.status = status.filter(|_| same);
                (role, set)
            }));
            let config = named(&desired.config_maps, &name).cloned();
            self.configs.extend(config.map(|config| (role, config)));
        }
        held_back.message()
    }

    fn ready(&mut self, role: Role) {
        let set = self.sets.get_mut(&role).unwrap();
        let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
        let status = json!({
            "replicas": replicas, "readyReplicas": replicas, "updatedReplicas": replicas,
        });
        set.status = serde_json::from_value(status).unwrap();
    }

    fn all_ready(&mut self) {
        let roles: Vec<Role> = self.sets.keys().copied().collect();
        roles.into_iter().for_each(|role| self.ready(role));
    }

    /// The tags of catalog, querier and ingester, as far as they have pods.
    fn tags(&self) -> String {
        let tag = |role| {
            let template = &self.sets.get(&role)?.spec.as_ref()?.template;
            Some(image_of(template)?.rsplit(':').next()?.to_owned())
        };
        ORDER.into_iter().filter_map(tag).collect()
    }

    fn remembers(&self) -> bool {
        let mut sets = self.sets.values();
        sets.any(|set| set.annotations().contains_key(IMAGE_BEFORE))
    }
}

fn tag(tag: &str) -> Value {
    json!({"image": {"tag": tag}})
}

#[test]
fn the_catalog_goes_first_then_queriers_then_ingesters() {
    let mut world = World::running("1");
    for expected in ["211", "211"] {
        let waiting = world.pass(tag("2")).unwrap();
        assert_eq!(world.tags(), expected);
        assert!(
            waiting.contains("querier: stays at x:1 until every catalog pod has the new image"),
            "{waiting}"
        );
        assert!(waiting.contains("ingester: stays at x:1"), "{waiting}");
    }
    world.ready(Role::Catalog);
    let waiting = world.pass(tag("2")).unwrap();
    assert_eq!(world.tags(), "221");
    assert_eq!(
        waiting,
        "ingester: stays at x:1 until every querier pod has the new image and is ready"
    );
    world.ready(Role::Querier);
    assert_eq!(world.pass(tag("2")), None);
    assert_eq!(world.tags(), "222");
    assert!(world.remembers());
    world.all_ready();
    assert_eq!(world.pass(tag("2")), None);
    assert!(!world.remembers());
}

#[test]
fn a_new_cluster_and_a_role_without_pods_start_at_once() {
    let mut world = World::default();
    assert_eq!(world.pass(tag("1")), None);
    assert_eq!(world.tags(), "111");
    let mut world = World::running("1");
    world.sets.remove(&Role::Querier);
    world.pass(tag("2")).unwrap();
    assert_eq!(world.tags(), "221");
}

#[test]
fn what_is_no_new_image_waits_for_nobody() {
    let mut world = World::running("1");
    let before = world.sets.clone();
    world.sets.get_mut(&Role::Catalog).unwrap().status = None;
    let spec = json!({"image": {"tag": "1"}, "config": {"query": {"batch_rows": 4096}}});
    assert_eq!(world.pass(spec), None);
    for role in ROLES {
        assert_ne!(world.sets[&role].spec, before[&role].spec, "{role:?}");
    }
}

#[test]
fn a_role_that_is_held_back_keeps_its_configuration_and_gets_its_number_of_pods() {
    let mut world = World::running("1");
    let (sets, configs) = (world.sets.clone(), world.configs.clone());
    let spec = json!({
        "image": {"tag": "2"}, "querier": {"replicas": 5},
        "config": {"query": {"batch_rows": 4096}},
    });
    world.pass(spec.clone()).unwrap();
    let spec_of = |sets: &BTreeMap<Role, StatefulSet>| sets[&Role::Querier].spec.clone().unwrap();
    assert_eq!(spec_of(&world.sets).replicas, Some(5));
    assert_eq!(spec_of(&world.sets).template, spec_of(&sets).template);
    assert_eq!(world.configs[&Role::Querier], configs[&Role::Querier]);
    assert_ne!(world.configs[&Role::Catalog], configs[&Role::Catalog]);
    world.ready(Role::Catalog);
    world.pass(spec);
    assert_ne!(world.configs[&Role::Querier], configs[&Role::Querier]);
}

/// Wherever it got stuck: everything goes back at once, whatever is ready.
#[test]
fn the_way_back_from_an_unfinished_upgrade_is_taken_at_once() {
    for stuck in ROLES {
        let mut world = World::running("1");
        for role in ORDER.into_iter().take_while(|role| *role != stuck) {
            world.pass(tag("2"));
            world.ready(role);
        }
        world.pass(tag("2"));
        assert_ne!(world.tags(), "111");
        assert_eq!(world.pass(tag("1")), None, "{stuck:?}");
        assert_eq!(world.tags(), "111", "{stuck:?}");
        world.all_ready();
        world.pass(tag("1"));
        assert!(!world.remembers());
    }
}

#[test]
fn another_image_after_a_stuck_upgrade_goes_in_order_and_the_way_back_stays_open() {
    let mut world = World::running("1");
    world.pass(tag("2"));
    world.ready(Role::Catalog);
    world.pass(tag("2"));
    assert_eq!(world.tags(), "221");
    world.pass(tag("3")).unwrap();
    assert_eq!(world.tags(), "321");
    assert_eq!(world.pass(tag("1")), None);
    assert_eq!(world.tags(), "111");
}

#[test]
fn without_a_pod_for_the_catalog_queriers_go_first() {
    let spec = |tag: &str| {
        json!({
            "image": {"tag": tag},
            "catalog": {"postgres": {"secretName": "database"}},
            "objectStore": {"s3": {"bucket": "weather", "credentialsSecret": "s3"}},
        })
    };
    let mut world = World::default();
    world.pass(spec("1"));
    world.all_ready();
    world.pass(spec("2")).unwrap();
    assert_eq!(world.tags(), "21");
    world.ready(Role::Querier);
    assert_eq!(world.pass(spec("2")), None);
    assert_eq!(world.tags(), "22");
}

/// Admission webhooks put a mirror or a digest into the place of an image.
#[test]
fn an_image_that_is_rewritten_on_its_way_holds_nobody_back() {
    let mut world = World::running("1");
    let rewrite = |world: &mut World| {
        for set in world.sets.values_mut() {
            let template = &mut set.spec.as_mut().unwrap().template;
            let containers = &mut template.spec.as_mut().unwrap().containers;
            let ours = containers.iter_mut().find(|each| each.name == CONTAINER);
            ours.unwrap().image = Some("mirror.example/x@sha256:0123".to_owned());
        }
        world.all_ready();
    };
    rewrite(&mut world);
    assert_eq!(
        world.pass(json!({"image": {"tag": "1"}, "ingester": {"replicas": 2}})),
        None
    );
    rewrite(&mut world);
    assert_eq!(world.pass(tag("1")), None);
    rewrite(&mut world);
    let waiting = world.pass(tag("2")).unwrap();
    assert!(waiting.contains("ingester: stays at x:1 "), "{waiting}");
}
