//! Labels, annotations and owners: how objects of one cluster are recognised.

use std::collections::BTreeMap;

use flightcluster_config::Role;
use flightcluster_crds::v1alpha1::FlightCluster;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;

use crate::controller::validate::ValidatedCluster;

/// The label with the name of the product.
pub const NAME: &str = "app.kubernetes.io/name";
/// The label with the name of the cluster.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// The label with the role of an object.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// The label with the name of who made an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`] on our objects.
pub const MANAGER: &str = "flightcluster-operator";
/// The value of [`NAME`] on our objects.
pub const PRODUCT: &str = "flightcluster";

/// The label of pods and volume claims with the name of the cluster, by which they are found.
pub const CLUSTER: &str = "flightcluster.io/cluster";
/// The label of pods and volume claims with their role, by which they are found.
pub const ROLE: &str = "flightcluster.io/role";

/// The annotation of pods with a digest of everything they read once, at start: a change restarts
/// them. What they read again while running (certificates, tokens) is not in it.
pub const CONFIG_DIGEST: &str = "flightcluster.io/config-digest";

/// The annotation of pods with the revision of their template.
pub const TEMPLATE_REVISION: &str = "flightcluster.io/template-revision";

/// The annotation of StatefulSets with the image their pods were given. What runs may have another name for
/// it, where somebody rewrites images on their way into the cluster.
pub const IMAGE: &str = "flightcluster.io/image";

/// The annotation of StatefulSets with the image their pods had before an upgrade that is not finished.
pub const IMAGE_BEFORE: &str = "flightcluster.io/image-before";

/// Returns the selector of all objects of the cluster `name`, as text for the API server.
#[must_use]
pub fn selector(name: &str) -> String {
    format!("{MANAGED_BY}={MANAGER},{INSTANCE}={name}")
}

/// Returns the metadata of an object of `cluster` that belongs to no role.
pub(super) fn metadata(cluster: &ValidatedCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.namespace.clone()),
        labels: Some(labels(cluster, None)),
        owner_references: owner(cluster).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

/// Returns the metadata of an object of one role.
pub(super) fn role_metadata(cluster: &ValidatedCluster, role: Role, name: String) -> ObjectMeta {
    ObjectMeta {
        labels: Some(labels(cluster, Some(role))),
        ..metadata(cluster, name)
    }
}

/// Returns the labels by which the pods of a role are found; they never change.
///
/// Of our own domain alone: a StatefulSet copies them to its volume claims, which have no owner and
/// outlive the cluster. GitOps tools take what carries [`INSTANCE`] for their own, and would delete
/// the claims with their rows as left over.
pub(super) fn pod_selector(cluster: &ValidatedCluster, role: Role) -> BTreeMap<String, String> {
    BTreeMap::from([
        (CLUSTER.to_owned(), cluster.names.cluster().to_owned()),
        (ROLE.to_owned(), role.as_str().to_owned()),
    ])
}

/// Returns [`pod_selector`] in the shape of a StatefulSet.
pub(super) fn label_selector(cluster: &ValidatedCluster, role: Role) -> LabelSelector {
    LabelSelector {
        match_labels: Some(pod_selector(cluster, role)),
        ..LabelSelector::default()
    }
}

pub(super) fn labels(cluster: &ValidatedCluster, role: Option<Role>) -> BTreeMap<String, String> {
    let labels = [
        (NAME, Some(PRODUCT)),
        (INSTANCE, Some(cluster.names.cluster())),
        (COMPONENT, role.map(Role::as_str)),
        (MANAGED_BY, Some(MANAGER)),
    ];
    labels
        .into_iter()
        .filter_map(|(key, value)| value.map(|value| (key.to_owned(), value.to_owned())))
        .collect()
}

/// The cluster as owner: Kubernetes removes the object with it. A cluster that no API server knows
/// owns nothing, because an owner that doesn't exist would have the object removed at once.
fn owner(cluster: &ValidatedCluster) -> Option<OwnerReference> {
    cluster.uid.as_ref().map(|uid| OwnerReference {
        api_version: FlightCluster::api_version(&()).into_owned(),
        kind: FlightCluster::kind(&()).into_owned(),
        name: cluster.names.cluster().to_owned(),
        uid: uid.clone(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    })
}
