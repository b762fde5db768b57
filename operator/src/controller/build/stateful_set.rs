//! The StatefulSet of a role: how many pods, and what each of them keeps.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::labels::{label_selector, pod_selector, role_metadata};
use super::pod;
use crate::controller::material::Material;
use crate::controller::validate::{ValidatedCluster, ValidatedRole, Volume};

/// Builds the StatefulSet of a role.
pub(super) fn build(
    cluster: &ValidatedCluster,
    role: &ValidatedRole,
    material: &Material,
) -> StatefulSet {
    let retain = || Some("Retain".to_owned());
    StatefulSet {
        metadata: role_metadata(cluster, role.role, cluster.names.role(role.role)),
        spec: Some(StatefulSetSpec {
            replicas: Some(role.replicas),
            // Pods of a role don't wait for each other, and a rollout that got stuck on a bad
            // template goes on by itself when the template is put right.
            pod_management_policy: Some("Parallel".to_owned()),
            service_name: Some(cluster.names.headless_service(role.role)),
            selector: label_selector(cluster, role.role),
            template: pod::build_template(cluster, role, material),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("RollingUpdate".to_owned()),
                ..StatefulSetUpdateStrategy::default()
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: retain(),
                    when_scaled: retain(),
                },
            ),
            volume_claim_templates: claim(cluster, role).map(|claim| vec![claim]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn claim(cluster: &ValidatedCluster, role: &ValidatedRole) -> Option<PersistentVolumeClaim> {
    let Volume::Claim {
        size,
        storage_class_name,
    } = &role.volume
    else {
        return None;
    };
    let request = BTreeMap::from([("storage".to_owned(), Quantity(size.clone()))]);
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(pod::mounts::DATA_VOLUME.to_owned()),
            labels: Some(pod_selector(cluster, role.role)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(request),
                ..VolumeResourceRequirements::default()
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    })
}
