//! What the operator answers: conditions and the numbers behind them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// What the operator last saw and did.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlightClusterStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// The revision of the pod templates. A newer operator goes on rendering the revision stored
    /// here, so that upgrading it restarts no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_revision: Option<i32>,

    /// The image in use. It stays until `spec.image` asks for another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// Where clients connect to from inside Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointsStatus>,

    /// The querier pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub querier: Option<RoleStatus>,

    /// The ingester pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingester: Option<RoleStatus>,

    /// The catalog pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<RoleStatus>,

    /// The certificate that clients see.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsStatus>,

    /// Conditions, one of each type: Ready, Reconciling, Stalled, Available, Degraded,
    /// ConfigurationValid, TLSReady.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_string()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Where clients connect to from inside Kubernetes, as URIs.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointsStatus {
    /// Queries: the URI of the querier Service.
    pub flight: String,
    /// Writes: the URI of the ingester Service.
    pub ingest: String,
}

/// The pods of a role, counted.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoleStatus {
    /// Ready pods of those asked for, for example `2/3`.
    pub ready: String,
    /// Pods asked for.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready_replicas: i32,
    /// Pods that run the newest template.
    pub updated_replicas: i32,
}

/// The certificate that clients see.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsStatus {
    /// The Secret that holds it.
    pub secret_name: String,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Time>,
    /// When the operator makes the next one; absent when the Secret is the user's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal_time: Option<Time>,
}
