//! The pod of a role: one container, and everything it finds around it.

mod affinity;
mod digest;
mod env;
pub mod mounts;
pub mod ports;
mod probes;
mod security;

use std::collections::BTreeMap;
use std::time::Duration;

use flightcluster_config::Role;
use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{
    Container, LocalObjectReference, PodSpec, PodTemplateSpec, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::labels::{CONFIG_DIGEST, TEMPLATE_REVISION, labels, pod_selector};
use crate::controller::material::Material;
use crate::controller::validate::{ValidatedCluster, ValidatedRole};

/// The name of the container; users name it in `podTemplate` to change something about it.
pub const CONTAINER: &str = "flightcluster";

/// The annotation of a ServiceAccount with the identity of Azure its pods act as.
const AZURE_CLIENT_ID: &str = "azure.workload.identity/client-id";
/// The label of pods that are to act as it.
const AZURE_IDENTITY: &str = "azure.workload.identity/use";

/// Time a pod gets beyond what the data plane says it needs to stop, for an ingester's last flush
/// and for the node to notice.
const TERMINATION_MARGIN: Duration = Duration::from_secs(30);

/// What a pod asks for when the spec says nothing: enough to start anywhere, no limits.
const DEFAULT_REQUESTS: [(&str, &str); 2] = [("cpu", "100m"), ("memory", "256Mi")];

/// Builds the pod template of a role, with the user's partial template as the last word.
pub(super) fn build_template(
    cluster: &ValidatedCluster,
    role: &ValidatedRole,
    material: &Material,
) -> PodTemplateSpec {
    let annotations = BTreeMap::from([
        (
            CONFIG_DIGEST.to_owned(),
            digest::config_digest(cluster, role, material),
        ),
        (
            TEMPLATE_REVISION.to_owned(),
            cluster.template_revision.to_string(),
        ),
    ]);
    let mut template = PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels(cluster, role)),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(cluster, role)),
    };
    if let Some(user) = &role.pod_template {
        template.merge_from(user.as_ref().clone());
    }
    // Last: the StatefulSet would be refused without the labels it selects its pods by.
    let metadata = template.metadata.get_or_insert_default();
    metadata
        .labels
        .get_or_insert_default()
        .extend(pod_selector(cluster, role.role));
    template
}

/// The labels of a role's pods. Azure gives its identity only to pods that ask for it by a label.
fn pod_labels(cluster: &ValidatedCluster, role: &ValidatedRole) -> BTreeMap<String, String> {
    let mut labels = labels(cluster, Some(role.role));
    if cluster.identity.contains_key(AZURE_CLIENT_ID) {
        labels.insert(AZURE_IDENTITY.to_owned(), "true".to_owned());
    }
    labels
}

fn pod_spec(cluster: &ValidatedCluster, role: &ValidatedRole) -> PodSpec {
    let pull_secrets: Vec<LocalObjectReference> = cluster
        .image
        .pull_secrets
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    PodSpec {
        service_account_name: Some(cluster.names.cluster().to_owned()),
        automount_service_account_token: Some(false),
        // Services as environment variables would look like settings of the data plane.
        enable_service_links: Some(false),
        image_pull_secrets: (!pull_secrets.is_empty()).then_some(pull_secrets),
        security_context: Some(security::pod()),
        termination_grace_period_seconds: Some(termination_grace_seconds(role)),
        affinity: Some(affinity::spread_over_nodes(cluster, role.role)),
        volumes: Some(mounts::volumes(cluster, role)),
        containers: vec![container(cluster, role)],
        ..PodSpec::default()
    }
}

fn container(cluster: &ValidatedCluster, role: &ValidatedRole) -> Container {
    let config = mounts::config_file().display().to_string();
    Container {
        name: CONTAINER.to_owned(),
        image: Some(cluster.image.reference.clone()),
        image_pull_policy: Some(cluster.image.pull_policy.as_str().to_owned()),
        args: Some(vec![
            role.role.as_str().to_owned(),
            "--config".to_owned(),
            config,
        ]),
        env: Some(env::build(cluster, role)),
        ports: Some(ports::container_ports(role.role)),
        resources: Some(role.resources.clone().unwrap_or_else(default_resources)),
        startup_probe: Some(probes::startup()),
        readiness_probe: Some(probes::readiness()),
        liveness_probe: Some(probes::liveness()),
        security_context: Some(security::container()),
        // The last log lines of a container that ended get into the status of the cluster.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts::volume_mounts()),
        ..Container::default()
    }
}

fn default_resources() -> ResourceRequirements {
    let requests =
        DEFAULT_REQUESTS.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
    ResourceRequirements {
        requests: Some(BTreeMap::from(requests)),
        ..ResourceRequirements::default()
    }
}

/// Never less than the data plane takes to drain and to finish its streams.
fn termination_grace_seconds(role: &ValidatedRole) -> i64 {
    let server = &role.config.server;
    // After its streams, an ingester gets as much time again to flush.
    let rounds = match role.role {
        Role::Ingester | Role::Standalone => 2,
        Role::Querier | Role::Catalog => 1,
    };
    let grace = server
        .drain_window
        .saturating_add(server.shutdown_timeout.saturating_mul(rounds))
        .saturating_add(TERMINATION_MARGIN);
    i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)
}
