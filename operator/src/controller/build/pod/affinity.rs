//! Where pods go: those of one role to different nodes, as far as there are enough.

use flightcluster_config::Role;
use k8s_openapi::api::core::v1::{
    Affinity, PodAffinityTerm, PodAntiAffinity, WeightedPodAffinityTerm,
};

use super::super::labels::label_selector;
use crate::controller::validate::ValidatedCluster;

/// The largest weight: no other preference of ours competes with this one.
const WEIGHT: i32 = 100;

/// Builds a preference, not a demand: a cluster must start on a single node too.
pub(super) fn spread_over_nodes(cluster: &ValidatedCluster, role: Role) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(label_selector(cluster, role)),
        topology_key: "kubernetes.io/hostname".to_owned(),
        ..PodAffinityTerm::default()
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: WEIGHT,
                    pod_affinity_term: term,
                },
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}
