//! The environment: what differs from pod to pod, and what the allocator reads before `main`.

use flightcluster_config::malloc_env;
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector};

use super::ports;
use crate::controller::quantity::parse_bytes;
use crate::controller::validate::{BucketSpec, ObjectStore, ValidatedCluster, ValidatedRole};

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
    env.extend(azure_account(cluster));
    let malloc = malloc_env(&role.config.malloc, memory_limit_bytes(role));
    env.extend(malloc.map(|(name, text)| value(name, text)));
    env
}

fn memory_limit_bytes(role: &ValidatedRole) -> Option<u64> {
    let limits = role.resources.as_ref()?.limits.as_ref()?;
    parse_bytes(&limits.get("memory")?.0)?.try_into().ok()
}

/// The storage account, where no file names it beside its key.
fn azure_account(cluster: &ValidatedCluster) -> Option<EnvVar> {
    let ObjectStore::Bucket(bucket) = &cluster.object_store else {
        return None;
    };
    match &bucket.spec {
        BucketSpec::Azure(azure) if azure.credentials_secret.is_none() => {
            Some(value("AZURE_STORAGE_ACCOUNT_NAME", azure.account.clone()))
        }
        _ => None,
    }
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
