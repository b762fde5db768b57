//! The ports of the pods. They are fixed, so that Services, probes and documentation agree.

use flightcluster_config::Role;
use k8s_openapi::api::core::v1::ContainerPort;

/// Flight, Flight SQL and gRPC health, for clients.
pub const GRPC: u16 = 17001;
/// Traffic among the pods, always with mutual TLS.
pub const INTERNAL: u16 = 17002;
/// Health and metrics over plain HTTP.
pub const ADMIN: u16 = 17101;

/// Whether other pods call this role; a querier only calls others.
pub(in crate::controller::build) fn answers_pods(role: Role) -> bool {
    role != Role::Querier
}

/// Returns the ports of a role's container.
pub(super) fn container_ports(role: Role) -> Vec<ContainerPort> {
    let public = role.is_public().then_some(("grpc", GRPC));
    let internal = answers_pods(role).then_some(("internal", INTERNAL));
    let ports = [public, internal, Some(("admin", ADMIN))];
    ports
        .into_iter()
        .flatten()
        .map(|(name, number)| ContainerPort {
            name: Some(name.to_owned()),
            container_port: i32::from(number),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        })
        .collect()
}
