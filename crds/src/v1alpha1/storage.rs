//! Volumes and scratch space.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A persistent volume of each pod of a role.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storage.storageClassName can't be changed: a volume stays in the class it was made in")
)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// The size as a Kubernetes quantity, for example `20Gi`; default: 10Gi. Changing the size of
    /// volumes that exist is not supported yet; the condition ConfigurationValid says so.
    // No rule here: an API server that refuses to shrink would also refuse to take back a growth
    // that the operator doesn't carry out.
    #[schemars(
        regex(pattern = r"^[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"),
        length(max = 24)
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,

    /// The StorageClass; default: that of the Kubernetes cluster.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}

/// Space on the node that is lost with the pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScratchSpec {
    /// The largest size as a Kubernetes quantity, for example `20Gi`; default: 10Gi.
    #[schemars(
        regex(pattern = r"^[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"),
        length(max = 24)
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
}
