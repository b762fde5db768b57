//! Conditions: what they say in each case, and that an unchanged one is left alone.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use flightcluster_crds::v1alpha1::{AuthSpec, FlightCluster, FlightClusterSpec, TlsSpec};

use super::*;
use crate::controller::build::build;
use crate::controller::dereference::{KeptSecrets, ROLES, Referenced};
use crate::controller::material::provide;
use crate::controller::observe::FailingPod;
use crate::controller::validate::{Defaults, validate};

const MORNING: &str = "2026-03-01T08:00:00Z";
const NOON: &str = "2026-03-01T12:00:00Z";

struct Case {
    cluster: ValidatedCluster,
    material: Material,
    resources: Resources<Applied>,
    held_back: HeldBack,
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn case() -> Case {
    case_of(FlightClusterSpec::default())
}

fn case_of(spec: FlightClusterSpec) -> Case {
    let mut cluster = FlightCluster::new("weather", spec);
    cluster.metadata.namespace = Some("meteo".into());
    let defaults = Defaults {
        image: "x:1".into(),
        cluster_domain: "cluster.local".into(),
    };
    let cluster = validate(&cluster, &Referenced::default(), &defaults).unwrap();
    let material = provide(&cluster, &KeptSecrets::default(), time(MORNING)).unwrap();
    let resources = build(&cluster, &material).into_applied();
    Case {
        cluster,
        material,
        resources,
        held_back: HeldBack::default(),
    }
}

impl Case {
    fn applied(&self) -> Outcome<'_> {
        Outcome::Applied(Success {
            cluster: &self.cluster,
            material: &self.material,
            resources: &self.resources,
            held_back: &self.held_back,
        })
    }
}

fn pods(catalog: i32, ingester: i32, querier: i32) -> Observed {
    let role = |replicas, ready| ObservedRole {
        replicas,
        ready,
        updated: replicas,
        rolled_out: replicas == ready,
    };
    Observed {
        wanted: ROLES.to_vec(),
        roles: [
            (Role::Catalog, role(1, catalog)),
            (Role::Ingester, role(2, ingester)),
            (Role::Querier, role(3, querier)),
        ]
        .into(),
        failing_pods: Vec::new(),
    }
}

fn status_of(
    outcome: Outcome<'_>,
    observed: Option<&Observed>,
    previous: Option<&FlightClusterStatus>,
    now: &str,
) -> FlightClusterStatus {
    build_status(&Input {
        generation: Some(7),
        previous,
        outcome,
        observed,
        now: time(now),
    })
}

#[test]
fn a_cluster_on_postgres_is_ready_without_a_catalog_pod() {
    let case = case();
    let mut observed = pods(1, 2, 3);
    observed.roles.remove(&Role::Catalog);
    let waiting = status_of(case.applied(), Some(&observed), None, NOON);
    observed.wanted.retain(|role| *role != Role::Catalog);
    let ready = status_of(case.applied(), Some(&observed), None, NOON);
    let is_ready = |status: &FlightClusterStatus| {
        let ready = status.conditions.iter().find(|each| each.type_ == "Ready");
        ready.unwrap().status.clone()
    };
    assert_eq!(
        (is_ready(&waiting), is_ready(&ready)),
        ("False".into(), "True".into())
    );
    assert_eq!(ready.catalog, None);
}

/// `Type=Status Reason` of each condition.
fn summary(status: &FlightClusterStatus) -> Vec<String> {
    let line = |c: &Condition| format!("{}={} {}", c.type_, c.status, c.reason);
    status.conditions.iter().map(line).collect()
}

fn find<'a>(status: &'a FlightClusterStatus, type_: &str) -> &'a Condition {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap()
}

#[test]
fn a_cluster_whose_pods_are_all_there_is_ready() {
    let case = case();
    let status = status_of(case.applied(), Some(&pods(1, 2, 3)), None, NOON);
    assert_eq!(
        summary(&status),
        [
            "Ready=True Ready",
            "Reconciling=False RolledOut",
            "Stalled=False Progressing",
            "Available=True Serving",
            "Degraded=False PodsHealthy",
            "ConfigurationValid=True Valid",
            "TLSReady=True CertificateValid",
        ]
    );
    assert!(
        status
            .conditions
            .iter()
            .all(|c| c.observed_generation == Some(7))
    );
    assert_eq!(status.observed_generation, Some(7));
    assert_eq!(status.template_revision, Some(1));
    assert_eq!(status.querier.as_ref().unwrap().ready, "3/3");
    let endpoints = status.endpoints.unwrap();
    assert_eq!(
        endpoints.flight,
        "grpc+tls://weather.meteo.svc.cluster.local:17001"
    );
    assert_eq!(
        endpoints.ingest,
        "grpc+tls://weather-ingester.meteo.svc.cluster.local:17001"
    );
}

#[test]
fn one_querier_is_enough_to_be_available_but_every_ingester_is_needed() {
    let case = case();
    let status = status_of(case.applied(), Some(&pods(1, 2, 1)), None, NOON);
    assert_eq!(find(&status, "Available").status, "True");
    assert_eq!(find(&status, "Ready").reason, "RollingOut");
    assert_eq!(find(&status, "Reconciling").status, "True");

    let status = status_of(case.applied(), Some(&pods(1, 1, 3)), None, NOON);
    let available = find(&status, "Available");
    assert_eq!(available.status, "False");
    assert_eq!(
        available.message,
        "ingester: 1 of 2 pods it needs are ready"
    );
    assert_eq!(find(&status, "Ready").status, "False");
}

#[test]
fn a_bad_spec_lists_every_problem_and_still_says_that_the_cluster_serves() {
    let problems = [
        Problem::new("config.a.b", "one"),
        Problem::new("ingester", "two"),
    ];
    let status = status_of(
        Outcome::Invalid(&problems),
        Some(&pods(1, 2, 3)),
        None,
        NOON,
    );
    for type_ in ["ConfigurationValid", "Stalled", "Ready"] {
        assert_eq!(
            find(&status, type_).message,
            "config.a.b: one; ingester: two"
        );
    }
    assert_eq!(find(&status, "ConfigurationValid").status, "False");
    assert_eq!(find(&status, "Stalled").status, "True");
    assert_eq!(find(&status, "Reconciling").status, "False");
    assert_eq!(find(&status, "Available").status, "True");
}

#[test]
fn a_failed_pass_is_tried_again_and_forgets_nothing() {
    let case = case();
    let good = status_of(case.applied(), Some(&pods(1, 2, 3)), None, MORNING);
    let failure = Failure {
        message: "no answer",
        stall: None,
    };
    let failed = status_of(Outcome::Failed(failure), None, Some(&good), NOON);
    assert_eq!(find(&failed, "Stalled").status, "False");
    assert_eq!(find(&failed, "Ready").message, "no answer");
    assert_eq!(find(&failed, "Reconciling").status, "True");
    assert_eq!(find(&failed, "Available").status, "Unknown");
    assert_eq!(
        find(&failed, "ConfigurationValid"),
        find(&good, "ConfigurationValid")
    );
    assert_eq!(failed.endpoints, good.endpoints);
    assert_eq!(failed.querier, good.querier);
}

#[test]
fn a_condition_that_stays_keeps_its_time_and_one_that_turns_gets_a_new_one() {
    let case = case();
    let before = status_of(case.applied(), Some(&pods(1, 2, 3)), None, MORNING);
    let same = status_of(case.applied(), Some(&pods(1, 2, 3)), Some(&before), NOON);
    assert_eq!(
        same, before,
        "a status without news must not be written again"
    );
    let after = status_of(case.applied(), Some(&pods(0, 2, 3)), Some(&before), NOON);
    assert_eq!(find(&after, "Ready").last_transition_time.0, time(NOON));
    assert_eq!(
        find(&after, "ConfigurationValid").last_transition_time.0,
        time(MORNING)
    );
}

/// S1-17: a pod that keeps crashing is visible in the cluster's own status.
#[test]
fn a_failing_pod_makes_the_cluster_degraded_and_its_last_words_are_shown() {
    let case = case();
    let mut observed = pods(1, 1, 3);
    observed.failing_pods.push(FailingPod {
        name: "weather-ingester-1".into(),
        reason: "CrashLoopBackOff".into(),
        message: "exit code 2 (Error): disk full".into(),
    });
    let status = status_of(case.applied(), Some(&observed), None, NOON);
    let degraded = find(&status, "Degraded");
    assert_eq!(degraded.status, "True");
    assert_eq!(
        degraded.message,
        "pod weather-ingester-1 (CrashLoopBackOff): exit code 2 (Error): disk full"
    );
}

#[test]
fn a_paused_cluster_says_so_and_shows_its_pods() {
    let case = case();
    let before = status_of(case.applied(), Some(&pods(1, 2, 3)), None, MORNING);
    let paused = |pods| status_of(Outcome::Paused, Some(&pods), Some(&before), NOON);
    let status = paused(pods(1, 2, 3));
    assert_eq!(find(&status, "Reconciling").reason, "Paused");
    assert_eq!(find(&status, "Ready").reason, "Paused");
    assert_eq!(status.ingester.as_ref().unwrap().ready, "2/2");
    let status = paused(pods(1, 0, 3));
    assert_eq!(find(&status, "Ready").status, "False");
}

#[test]
fn a_cluster_whose_certificate_ended_is_not_ready() {
    let case = case();
    let status = status_of(
        case.applied(),
        Some(&pods(1, 2, 3)),
        None,
        "2027-01-01T00:00:00Z",
    );
    assert_eq!(find(&status, "TLSReady").reason, "CertificateExpired");
    let ready = find(&status, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("False", "CertificateExpired")
    );
    assert_eq!(ready.message, find(&status, "TLSReady").message);
    assert_eq!(status.tls.unwrap().secret_name, "weather-tls");
}

#[test]
fn a_cluster_that_asks_for_no_tls_is_ready_without_it_also_while_it_is_paused() {
    let case = case_of(FlightClusterSpec {
        tls: Some(TlsSpec {
            enabled: Some(false),
            ..TlsSpec::default()
        }),
        auth: Some(AuthSpec {
            allow_insecure: true,
            ..AuthSpec::default()
        }),
        ..FlightClusterSpec::default()
    });
    let status = status_of(case.applied(), Some(&pods(1, 2, 3)), None, NOON);
    assert_eq!(find(&status, "TLSReady").reason, "Disabled");
    assert_eq!(find(&status, "Ready").status, "True");
    let paused = build_status(&Input {
        generation: Some(8),
        previous: Some(&status),
        outcome: Outcome::Paused,
        observed: Some(&pods(1, 2, 3)),
        now: time(NOON),
    });
    assert_eq!(find(&paused, "TLSReady").reason, "Disabled");
    let ready = find(&paused, "Ready");
    assert_eq!(
        (ready.status.as_str(), ready.reason.as_str()),
        ("True", "Paused")
    );
}
