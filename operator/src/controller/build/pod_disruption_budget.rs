//! How many pods of a role may be taken away at once.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{label_selector, role_metadata};
use crate::controller::validate::{ValidatedCluster, ValidatedRole};

/// Builds the budget of a role: one pod at a time. Said as what may be missing, so that a role of
/// one pod doesn't keep its node from being drained.
pub(super) fn build(cluster: &ValidatedCluster, role: &ValidatedRole) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: role_metadata(cluster, role.role, cluster.names.role(role.role)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            // The default counts a pod that isn't ready as the one that may be missing and then
            // lets nobody evict it: the drain of its node would never end.
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            selector: Some(label_selector(cluster, role.role)),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
