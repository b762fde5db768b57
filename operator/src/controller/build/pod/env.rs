//! The environment: what differs from pod to pod, and what the allocator reads before `main`.

use flightcluster_config::malloc_env;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};

use super::ports;
use crate::controller::validate::{ValidatedCluster, ValidatedRole};

/// Builds the environment of a role's container.
///
/// Order matters: `$(POD_NAME)` is replaced only where it stands after `POD_NAME`.
pub(super) fn build(cluster: &ValidatedCluster, role: &ValidatedRole) -> Vec<EnvVar> {
    let host = format!("$(POD_NAME).{}", cluster.dns().headless_service(role.role));
    let url = format!("https://{host}:{}", ports::INTERNAL);
    let mut env = vec![
        pod_name("POD_NAME"),
        pod_name("FLIGHTCLUSTER_SERVER__NODE_NAME"),
        value("FLIGHTCLUSTER_INTERNAL__ADVERTISE_URL", url),
    ];
    if role.role.is_public() {
        env.push(value("FLIGHTCLUSTER_SERVER__ADVERTISE_HOST", host));
    }
    env.extend(malloc_env(&role.config.malloc).map(|(name, text)| value(name, text)));
    env
}

fn value(name: &str, value: String) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value),
        ..EnvVar::default()
    }
}

fn pod_name(name: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: "metadata.name".to_owned(),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}
