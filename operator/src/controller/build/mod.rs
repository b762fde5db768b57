//! Step 3: the Kubernetes objects of a cluster.
//!
//! Pure: the same cluster and material give the same bytes, so that a pass in which nothing
//! changed writes nothing. One file per kind; what stands in a pod is below [`pod`].

pub mod config_map;
pub mod connection;
pub mod labels;
pub mod names;
pub mod pod;
mod pod_disruption_budget;
pub(crate) mod secret;
mod service;
mod service_account;
mod stateful_set;

use std::marker::PhantomData;

use flightcluster_crds::v1alpha1::FlightClusterStatus;

use super::material::Material;
use super::resources::{Desired, Resources};
use super::validate::ValidatedCluster;

/// The newest revision of the pod templates this operator can render.
///
/// A change that would restart the pods of running clusters gets a new number, and the code for
/// the numbers before it stays: upgrading the operator restarts no pod.
pub const TEMPLATE_REVISION: i32 = 1;

/// Returns the revision to render: the one a cluster has, as far as this operator knows it.
///
/// An unknown number, from a newer operator before a downgrade, becomes the newest known one.
#[must_use]
pub fn template_revision(status: Option<&FlightClusterStatus>) -> i32 {
    status
        .and_then(|status| status.template_revision)
        .filter(|revision| (1..=TEMPLATE_REVISION).contains(revision))
        .unwrap_or(TEMPLATE_REVISION)
}

/// Builds all objects of `cluster`.
///
/// - Shape: kind by kind; within StatefulSets the catalog comes first, because others wait for it.
#[must_use]
pub fn build(cluster: &ValidatedCluster, material: &Material) -> Resources<Desired> {
    let roles = cluster.roles();
    let mut secrets = secret::build_kept(cluster, material);
    secrets.push(connection::build_secret(cluster, material));
    let mut config_maps: Vec<_> = roles
        .iter()
        .map(|role| config_map::build_config_map(cluster, role))
        .collect();
    config_maps.extend(connection::build_ca(cluster, material));
    let mut services = Vec::new();
    for role in &roles {
        services.push(service::build_headless(cluster, role));
        services.push(service::build_client(cluster, role));
    }
    Resources {
        service_accounts: vec![service_account::build(cluster)],
        secrets,
        config_maps,
        services,
        pod_disruption_budgets: roles
            .iter()
            .map(|role| pod_disruption_budget::build(cluster, role))
            .collect(),
        stateful_sets: roles
            .iter()
            .map(|role| stateful_set::build(cluster, role, material))
            .collect(),
        state: PhantomData,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(template_revision: Option<i32>) -> FlightClusterStatus {
        FlightClusterStatus {
            template_revision,
            ..FlightClusterStatus::default()
        }
    }

    #[test]
    fn a_stored_template_revision_is_rendered_again_and_an_unknown_one_is_not() {
        assert_eq!(template_revision(None), TEMPLATE_REVISION);
        assert_eq!(template_revision(Some(&status(None))), TEMPLATE_REVISION);
        assert_eq!(template_revision(Some(&status(Some(1)))), 1);
        assert_eq!(template_revision(Some(&status(Some(0)))), TEMPLATE_REVISION);
        assert_eq!(
            template_revision(Some(&status(Some(99)))),
            TEMPLATE_REVISION
        );
    }
}
