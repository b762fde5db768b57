//! The Services: one name for each pod, and one name for the pods of a role together.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{pod_selector, role_metadata};
use super::pod::ports;
use crate::controller::validate::{Tls, ValidatedCluster, ValidatedRole};

/// Builds the headless Service. It names pods that are not ready too: they have to reach each
/// other before they can become ready.
pub(super) fn build_headless(cluster: &ValidatedCluster, role: &ValidatedRole) -> Service {
    let name = cluster.names.headless_service(role.role);
    let mut service_ports = ports_of(cluster, role);
    service_ports.push(port("admin", ports::ADMIN, "http"));
    Service {
        metadata: role_metadata(cluster, role.role, name),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(pod_selector(cluster, role.role)),
            ports: Some(service_ports),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Builds the Service through which others reach any ready pod of a role.
pub(super) fn build_client(cluster: &ValidatedCluster, role: &ValidatedRole) -> Service {
    let name = cluster.names.client_service(role.role);
    Service {
        metadata: role_metadata(cluster, role.role, name),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(pod_selector(cluster, role.role)),
            ports: Some(ports_of(cluster, role)),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn ports_of(cluster: &ValidatedCluster, role: &ValidatedRole) -> Vec<ServicePort> {
    let mut service_ports = Vec::new();
    if role.role.is_public() {
        // A mesh or gateway must know that this is HTTP/2, and whether it can look inside.
        let protocol = match cluster.tls {
            Tls::Disabled => "kubernetes.io/h2c",
            Tls::SelfSigned { .. } | Tls::Secret { .. } => "https",
        };
        service_ports.push(port("grpc", ports::GRPC, protocol));
    }
    if ports::answers_pods(role.role) {
        service_ports.push(port("internal", ports::INTERNAL, "https"));
    }
    service_ports
}

fn port(name: &str, number: u16, protocol: &str) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(number),
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some(protocol.to_owned()),
        ..ServicePort::default()
    }
}
