//! `FlightCluster`: the whole of what a user can ask for, with the parts in their own files.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{
    AuthSpec, CatalogSpec, FlightClusterStatus, IngesterSpec, ObjectStoreSpec, QuerierSpec, TlsSpec,
};

/// Characters a cluster's name may have.
///
/// Kubernetes labels each pod with `<name>-ingester-<revision hash>`, and a label holds 63.
pub const MAX_NAME_LENGTH: usize = 40;

/// Settings of the data plane by section and key, as `flightcluster config print` shows them.
pub type Settings = BTreeMap<String, BTreeMap<String, serde_json::Value>>;

/// An Arrow Flight SQL service: queriers, ingesters and a catalog that act as one.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "flightcluster.io",
    version = "v1alpha1",
    kind = "FlightCluster",
    plural = "flightclusters",
    singular = "flightcluster",
    shortname = "fltc",
    namespaced,
    status = "FlightClusterStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "An Arrow Flight SQL service: queriers, ingesters and a catalog that act as one.",
    validation = Rule::new("size(self.metadata.name) <= 40")
        .message("metadata.name must have at most 40 characters"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must start with a letter and hold only lower case letters, digits and '-', because Services are named after it"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Querier", type_ = "string", json_path = ".status.querier.ready"),
    printcolumn(name = "Ingester", type_ = "string", json_path = ".status.ingester.ready"),
    printcolumn(name = "Catalog", type_ = "string", json_path = ".status.catalog.ready"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoints.flight", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("!has(self.auth) || !has(self.auth.mode) || self.auth.mode != 'None' || (has(self.auth.allowInsecure) && self.auth.allowInsecure)")
        .message("auth.mode None lets everybody read and write: set auth.allowInsecure: true to accept that"),
    validation = Rule::new("!has(self.tls) || !has(self.tls.enabled) || self.tls.enabled || (has(self.auth) && has(self.auth.allowInsecure) && self.auth.allowInsecure)")
        .message("tls.enabled: false sends tokens and rows in clear text: set auth.allowInsecure: true to accept that"),
    validation = Rule::new("(has(self.objectStore) && has(self.objectStore.s3)) == (has(oldSelf.objectStore) && has(oldSelf.objectStore.s3)) && (has(self.objectStore) && has(self.objectStore.gcs)) == (has(oldSelf.objectStore) && has(oldSelf.objectStore.gcs)) && (has(self.objectStore) && has(self.objectStore.azure)) == (has(oldSelf.objectStore) && has(oldSelf.objectStore.azure))")
        .message("objectStore can't be switched between embedded, s3, gcs and azure: the stored files would no longer be found"),
    validation = Rule::new("!has(self.catalog) || !has(self.catalog.postgres) || (has(self.objectStore) && (has(self.objectStore.s3) || has(self.objectStore.gcs) || has(self.objectStore.azure)))")
        .message("catalog.postgres has no catalog pod, which the embedded object store needs: set s3, gcs or azure of objectStore")
)]
#[serde(rename_all = "camelCase")]
pub struct FlightClusterSpec {
    /// The container image of all roles; default: for a new cluster the image the operator was
    /// installed with, and from then on the one it runs, so that another operator restarts no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSpec>,

    /// The pods that answer queries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub querier: Option<QuerierSpec>,

    /// The pods that accept rows and make them durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingester: Option<IngesterSpec>,

    /// Where tables, files and watermarks are recorded; default: embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catalog: Option<CatalogSpec>,

    /// Where Parquet files are kept; default: embedded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<ObjectStoreSpec>,

    /// The ServiceAccount of all pods, which has the name of the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ServiceAccountSpec>,

    /// The certificate that clients see; default: self-signed by a CA of this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,

    /// Who may call; default: tokens, the first of which the operator makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<AuthSpec>,

    /// The names under which pods tell others to reach them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertise: Option<AdvertiseSpec>,

    /// Settings of the data plane by section, for example `query: {max_concurrent_queries: 8}`.
    /// Sections and keys are those of the configuration reference. A key that doesn't exist, a
    /// value that doesn't fit, and a key the operator sets itself are reported in the condition
    /// ConfigurationValid.
    #[schemars(schema_with = "settings_schema")]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub config: Settings,

    /// Stops the operator from changing anything; it only reports what it sees.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
}

/// The container image of the data plane.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!(has(self.tag) && has(self.digest))")
        .message("image: give tag or digest, not both")
)]
#[serde(rename_all = "camelCase")]
pub struct ImageSpec {
    /// The name without tag, for example `registry.example.com/flightcluster`; default: that of
    /// the image in use, for a new cluster that of the operator's own.
    #[schemars(length(min = 1, max = 255))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,

    /// The tag; default: that of the image in use, for a new cluster that of the operator's own.
    #[schemars(length(min = 1, max = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,

    /// The digest, instead of a tag: `sha256:` and 64 hexadecimal digits.
    #[schemars(regex(pattern = r"^sha256:[0-9a-f]{64}$"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// When nodes pull the image; default: IfNotPresent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<ImagePullPolicy>,

    /// Names of Secrets with registry credentials.
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<String>,
}

/// When nodes pull an image, as Kubernetes names it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum ImagePullPolicy {
    /// Pull at every start of a container.
    Always,
    /// Pull when the node doesn't have the image.
    #[default]
    IfNotPresent,
    /// Never pull: the image is brought to the nodes in another way.
    Never,
}

impl ImagePullPolicy {
    /// Returns the name Kubernetes uses.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// The names under which pods tell others to reach them.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdvertiseSpec {
    /// The DNS suffix of the Kubernetes cluster; default: that of the operator, `cluster.local`.
    #[schemars(
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"),
        length(max = 128)
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_domain: Option<String>,
}

/// The ServiceAccount of all pods of a cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceAccountSpec {
    /// Its annotations, by which a cloud knows whom the pods act for:
    /// `iam.gke.io/gcp-service-account`, `eks.amazonaws.com/role-arn` or
    /// `azure.workload.identity/client-id`. With the last one the pods get the label
    /// `azure.workload.identity/use`. A change restarts the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn settings_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": true,
        },
    })
}
