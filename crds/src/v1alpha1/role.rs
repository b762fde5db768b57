//! What can be asked for each role: how many pods, how large, and the last word on their template.

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ScratchSpec, StorageSpec};

/// A partial pod template that is merged over the operator's own, field by field.
pub type PodTemplate = serde_json::Value;

/// The pods that answer queries. They keep no rows of their own.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QuerierSpec {
    /// How many pods; default: 1.
    #[schemars(range(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// CPU and memory of the container. Memory budgets of the data plane follow the memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Space for spilled queries, lost with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<ScratchSpec>,

    /// Tuning of the memory allocator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub malloc: Option<MallocSpec>,

    /// A partial pod template merged over the operator's own, for example affinity, tolerations
    /// or a sidecar. The container is named `flightcluster`.
    #[schemars(schema_with = "pod_template_schema")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// The pods that accept rows. Each keeps its write-ahead log on a volume of its own.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngesterSpec {
    /// How many pods; default: 1. Lowering the number is refused, because the rows that only the
    /// removed pod holds would not be found.
    #[schemars(range(min = 1, max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,

    /// CPU and memory of the container. Memory budgets of the data plane follow the memory limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// The volume of the write-ahead log; it stays when the cluster object is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,

    /// Tuning of the memory allocator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub malloc: Option<MallocSpec>,

    /// A partial pod template merged over the operator's own, for example affinity, tolerations
    /// or a sidecar. The container is named `flightcluster`.
    #[schemars(schema_with = "pod_template_schema")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// Where tables, files and watermarks are recorded.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!(has(self.embedded) && has(self.postgres))")
        .message("catalog: give embedded or postgres, not both")
)]
#[serde(rename_all = "camelCase")]
pub struct CatalogSpec {
    /// One pod with an SQLite database on its volume, served to the other pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<EmbeddedCatalogSpec>,

    /// A Postgres database of yours; there is no catalog pod then. What is in an embedded catalog
    /// does not move by itself: see backup and restore in the operations guide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresSpec>,
}

/// A Postgres database that queriers and ingesters keep the catalog in.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PostgresSpec {
    /// The Secret with the URL, `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. The database should
    /// hold nothing else. A new password is read without a restart.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,

    /// The key of the URL in that Secret; default: url.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_key: Option<String>,

    /// The Secret whose key `ca.crt` holds the authorities of the server's certificate; default:
    /// the public ones.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<String>,

    /// Whether the URL may ask for a connection that is not encrypted or not verified.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_insecure: bool,
}

/// The embedded catalog: one pod with one volume.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EmbeddedCatalogSpec {
    /// The volume of the database and, with the embedded object store, of the Parquet files; it
    /// stays when the cluster object is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageSpec>,

    /// CPU and memory of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Tuning of the memory allocator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub malloc: Option<MallocSpec>,

    /// A partial pod template merged over the operator's own, for example affinity, tolerations
    /// or a sidecar. The container is named `flightcluster`.
    #[schemars(schema_with = "pod_template_schema")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_template: Option<PodTemplate>,
}

/// Tuning of the memory allocator: a preset, and single values over it.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MallocSpec {
    /// What to optimise for; default: Balanced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<MallocPreset>,

    /// How long unused memory stays with the process before it is given back, for example `10s`.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_decay: Option<String>,

    /// How long memory that was given back lazily may be taken again, for example `10s`.
    #[schemars(length(min = 1, max = 32))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muzzy_decay: Option<String>,

    /// Whether memory is given back by a thread of its own; default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background_thread: Option<bool>,
}

/// What the memory allocator is tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MallocPreset {
    /// Keep memory for speed.
    Throughput,
    /// Between the two.
    Balanced,
    /// Give memory back at once, at the price of more work.
    LowMemory,
}

fn pod_template_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}
