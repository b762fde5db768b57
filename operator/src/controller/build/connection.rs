//! What clients need to connect: a Secret that a Job can use as it is, and the CA alone.

use std::collections::BTreeMap;

use flightcluster_config::Role;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::labels::metadata;
use super::pod::ports;
use super::secret::opaque;
use crate::controller::material::Material;
use crate::controller::validate::{Tls, ValidatedCluster};

/// The database of clients that name none; the data plane's default.
const DATABASE: &str = "default";

/// Returns the URI of the public port of a role.
#[must_use]
pub fn uri(cluster: &ValidatedCluster, role: Role) -> String {
    let scheme = match cluster.tls {
        Tls::Disabled => "grpc",
        Tls::SelfSigned { .. } | Tls::Secret { .. } => "grpc+tls",
    };
    format!(
        "{scheme}://{}:{}",
        cluster.dns().client_service(role),
        ports::GRPC
    )
}

/// Builds the connection Secret: where to query, where to write, whom to trust, and the first
/// token when there is one.
pub(super) fn build_secret(cluster: &ValidatedCluster, material: &Material) -> Secret {
    let max_message_bytes = cluster.querier.config.server.max_message_bytes.as_u64();
    let values = [
        ("uri", uri(cluster, Role::Querier).into_bytes()),
        ("ingest-uri", uri(cluster, Role::Ingester).into_bytes()),
        (
            "host",
            cluster.dns().client_service(Role::Querier).into_bytes(),
        ),
        ("port", ports::GRPC.to_string().into_bytes()),
        ("database", DATABASE.as_bytes().to_vec()),
        (
            "max-message-bytes",
            max_message_bytes.to_string().into_bytes(),
        ),
    ];
    let mut secret = opaque(cluster, cluster.names.connection_secret(), values);
    let data = secret.data.get_or_insert_default();
    if let Some(ca) = ca(cluster, material) {
        data.insert("ca.crt".to_owned(), ByteString(ca.into_bytes()));
    }
    if let Some(token) = &material.admin_token {
        data.insert(
            "token".to_owned(),
            ByteString(token.expose().clone().into_bytes()),
        );
    }
    secret
}

/// Builds the ConfigMap with the CA, when clients need one.
pub(super) fn build_ca(cluster: &ValidatedCluster, material: &Material) -> Option<ConfigMap> {
    ca(cluster, material).map(|ca| ConfigMap {
        metadata: metadata(cluster, cluster.names.ca_config_map()),
        data: Some(BTreeMap::from([("ca.crt".to_owned(), ca)])),
        ..ConfigMap::default()
    })
}

fn ca(cluster: &ValidatedCluster, material: &Material) -> Option<String> {
    match &cluster.tls {
        Tls::Disabled => None,
        Tls::SelfSigned { .. } => material.public.as_ref().map(|(ca, _)| ca.bundle.clone()),
        Tls::Secret { ca, .. } => ca.clone(),
    }
}
