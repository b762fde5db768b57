//! Step 5: reads back how far the pods have come. Reads only.

use std::collections::BTreeMap;

use flightcluster_config::Role;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::build::labels::CLUSTER;
use super::build::names::Names;

/// Characters of a container's last words that are passed on: a condition should stay readable.
const MAX_WORDS: usize = 400;

/// How long a pod may be without a node before that is a failure. A claim that was made a moment ago
/// is not known to the scheduler yet, and a provisioner takes some seconds for its volume.
const SCHEDULING_GRACE: SignedDuration = SignedDuration::from_secs(30);

/// Reasons for which a container that has not started will not start without help.
const STUCK: [&str; 8] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

/// How far the pods of a cluster have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The roles that should have pods.
    pub wanted: Vec<Role>,
    /// Each role whose StatefulSet exists.
    pub roles: BTreeMap<Role, ObservedRole>,
    /// Pods that can't run, in the order of their names.
    pub failing_pods: Vec<FailingPod>,
}

/// How far the pods of a role have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObservedRole {
    /// Pods asked for.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// Pods that run the newest template.
    pub updated: i32,
    /// Whether Kubernetes has seen the newest template and brought it to every pod.
    pub rolled_out: bool,
}

/// A pod that can't run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailingPod {
    /// Its name.
    pub name: String,
    /// Why, as Kubernetes names it.
    pub reason: String,
    /// What is known about it, shortened: the last lines it logged, or what Kubernetes says.
    pub message: String,
}

/// Why the pods could not be looked at. Nothing was changed, a retry is safe.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A StatefulSet could not be read.
    #[error("reading StatefulSet {name}")]
    ReadStatefulSet {
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The pods could not be listed.
    #[error("listing pods")]
    ListPods(#[source] Box<kube::Error>),
}

impl Error {
    /// Returns the bounded name of this error for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::ReadStatefulSet { .. } => "read_stateful_set",
            Self::ListPods(_) => "list_pods",
        }
    }
}

/// Looks at the pods of the `wanted` roles of the cluster `name`; `now` decides which of them wait for too long.
///
/// # Errors
/// See [`Error`]. A StatefulSet that isn't there is no error.
pub async fn observe(
    client: &Client,
    namespace: &str,
    name: &str,
    wanted: Vec<Role>,
    now: Timestamp,
) -> Result<Observed, Error> {
    let stateful_sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let names = Names::new(name);
    let mut roles = BTreeMap::new();
    for role in wanted.iter().copied() {
        let name = names.role(role);
        let found = stateful_sets.get_opt(&name).await;
        let found = found.map_err(|source| Error::ReadStatefulSet {
            name,
            source: Box::new(source),
        })?;
        roles.extend(found.map(|stateful_set| (role, observe_role(&stateful_set))));
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labelled = ListParams::default().labels(&format!("{CLUSTER}={name}"));
    let pods = pods
        .list(&labelled)
        .await
        .map_err(|source| Error::ListPods(Box::new(source)))?;
    let failing = pods.iter().filter_map(|pod| failing_pod(pod, now));
    let mut failing_pods: Vec<FailingPod> = failing.collect();
    failing_pods.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Observed {
        wanted,
        roles,
        failing_pods,
    })
}

/// How far the pods of a StatefulSet have come.
pub(super) fn observe_role(stateful_set: &StatefulSet) -> ObservedRole {
    let replicas = stateful_set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let status = stateful_set.status.clone().unwrap_or_default();
    let ready = status.ready_replicas.unwrap_or(0);
    let updated = status.updated_replicas.unwrap_or(0);
    let seen = status.observed_generation >= stateful_set.metadata.generation;
    ObservedRole {
        replicas,
        ready,
        updated,
        rolled_out: seen && updated == replicas && ready == replicas && status.replicas == replicas,
    }
}

/// Looks at the states of containers, never at the phase of a pod: a pod whose container keeps
/// ending is `Running` to Kubernetes.
fn failing_pod(pod: &Pod, now: Timestamp) -> Option<FailingPod> {
    let status = pod.status.as_ref()?;
    let (reason, message) = stuck_container(status).or_else(|| unschedulable(status, now))?;
    Some(FailingPod {
        name: pod.name_any(),
        reason,
        message: shorten(&message),
    })
}

fn stuck_container(status: &PodStatus) -> Option<(String, String)> {
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .find_map(stuck)
}

fn stuck(container: &ContainerStatus) -> Option<(String, String)> {
    let ended = |state: Option<&k8s_openapi::api::core::v1::ContainerState>| {
        state
            .and_then(|state| state.terminated.clone())
            .filter(|ended| ended.exit_code != 0)
    };
    let last_words = ended(container.state.as_ref())
        .or_else(|| ended(container.last_state.as_ref()))
        .map(|ended| {
            let words = ended.message.unwrap_or_default();
            let reason = ended.reason.unwrap_or_else(|| "Error".to_owned());
            format!("exit code {} ({reason}): {}", ended.exit_code, words.trim())
        });
    let waiting = container
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.clone());
    match reason {
        Some(reason) if STUCK.contains(&reason.as_str()) => {
            let said = waiting.and_then(|waiting| waiting.message.clone());
            Some((reason, last_words.or(said).unwrap_or_default()))
        }
        // Between two tries of a container that keeps ending there is no back-off to see.
        _ if !container.ready && container.restart_count > 1 => {
            last_words.map(|words| ("ContainerEnds".to_owned(), words))
        }
        _ => None,
    }
}

fn unschedulable(status: &PodStatus, now: Timestamp) -> Option<(String, String)> {
    let waits_for_too_long = |condition: &PodCondition| {
        let since = condition.last_transition_time.as_ref();
        since.is_none_or(|since| now.duration_since(since.0) >= SCHEDULING_GRACE)
    };
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .filter(|condition| condition.reason.as_deref() == Some("Unschedulable"))
        .filter(|condition| waits_for_too_long(condition))
        .map(|condition| {
            (
                "Unschedulable".to_owned(),
                condition.message.clone().unwrap_or_default(),
            )
        })
}

/// Keeps the end, where the cause stands, and cuts by characters.
fn shorten(text: &str) -> String {
    let length = text.chars().count();
    if length <= MAX_WORDS {
        return text.to_owned();
    }
    let end: String = text.chars().skip(length - MAX_WORDS).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);

    fn pod(status: serde_json::Value) -> Pod {
        let object = json!({"metadata": {"name": "weather-ingester-0"}, "status": status});
        serde_json::from_value(object).unwrap()
    }

    fn container(state: serde_json::Value, last: serde_json::Value, restarts: i32) -> Pod {
        pod(json!({"containerStatuses": [{
            "name": "flightcluster", "image": "x", "imageID": "", "ready": false,
            "restartCount": restarts, "state": state, "lastState": last,
        }]}))
    }

    /// S1-17: a crash loop is seen, with the last line the process logged.
    #[test]
    fn a_crash_loop_is_reported_with_the_last_words_of_the_process() {
        let pod = container(
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}}),
            json!({"terminated": {"exitCode": 2, "reason": "Error", "message": "tls.key_file: is missing\n"}}),
            7,
        );
        let failing = failing_pod(&pod, NOW).unwrap();
        assert_eq!(failing.reason, "CrashLoopBackOff");
        assert_eq!(
            failing.message,
            "exit code 2 (Error): tls.key_file: is missing"
        );
    }

    #[test]
    fn a_pod_between_two_crashes_is_still_failing() {
        let ended = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let pod = container(json!({"running": {}}), ended, 3);
        assert_eq!(
            failing_pod(&pod, NOW).unwrap().message,
            "exit code 137 (OOMKilled): "
        );
    }

    #[test]
    fn a_pod_that_only_starts_is_not_failing() {
        let pod = container(
            json!({"waiting": {"reason": "ContainerCreating"}}),
            json!({}),
            0,
        );
        assert_eq!(failing_pod(&pod, NOW), None);
    }

    fn without_a_node(seconds: i64) -> Pod {
        let since = NOW - SignedDuration::from_secs(seconds);
        pod(json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": "0/1 nodes are available: 1 Insufficient memory.",
            "lastTransitionTime": since.to_string(),
        }]}))
    }

    #[test]
    fn a_pod_that_waits_for_its_volume_for_a_moment_is_not_failing() {
        assert_eq!(failing_pod(&without_a_node(29), NOW), None);
    }

    #[test]
    fn a_pod_without_a_node_is_failing() {
        let failing = failing_pod(&without_a_node(30), NOW).unwrap();
        assert!(
            failing.message.contains("Insufficient memory"),
            "{failing:?}"
        );
    }

    #[test]
    fn a_long_message_is_cut_by_characters_and_keeps_its_end() {
        let text = format!("{}cause", "ü".repeat(1000));
        let short = shorten(&text);
        assert_eq!(short.chars().count(), MAX_WORDS + 1);
        assert!(short.ends_with("cause"));
    }
}
