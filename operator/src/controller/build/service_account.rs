//! The identity of the pods. They never talk to the API server, so that it has no rights.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::labels::metadata;
use crate::controller::validate::ValidatedCluster;

/// Builds the ServiceAccount of all pods of a cluster.
pub(super) fn build(cluster: &ValidatedCluster) -> ServiceAccount {
    ServiceAccount {
        metadata: ObjectMeta {
            annotations: (!cluster.identity.is_empty()).then(|| cluster.identity.clone()),
            ..metadata(cluster, cluster.names.cluster().to_owned())
        },
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
