//! Volumes, scratch space and the object store.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// A persistent volume of each pod of a role.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)")
        .message("storage.storageClassName can't be changed: a volume stays in the class it was made in")
)]
#[serde(rename_all = "camelCase")]
pub struct StorageSpec {
    /// The size as a Kubernetes quantity, for example `20Gi`; default: 10Gi. Changing the size of
    /// volumes that exist is not supported yet; the condition ConfigurationValid says so.
    // No rule here: an API server that refuses to shrink would also refuse to take back a growth
    // that the operator doesn't carry out.
    #[schemars(
        regex(pattern = r"^[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"),
        length(max = 24)
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,

    /// The StorageClass; default: that of the Kubernetes cluster.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class_name: Option<String>,
}

/// Space on the node that is lost with the pod.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScratchSpec {
    /// The largest size as a Kubernetes quantity, for example `20Gi`; default: 10Gi.
    #[schemars(
        regex(pattern = r"^[1-9][0-9]*(\.[0-9]+)?(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"),
        length(max = 24)
    )]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
}

/// Where Parquet files are kept. One of the fields, and not another one later.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!(has(self.embedded) && has(self.s3))")
        .message("objectStore: give embedded or s3, not both")
)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreSpec {
    /// Files on the catalog pod's volume, served to the other pods. For evaluation and small
    /// clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<EmbeddedStoreSpec>,

    /// A bucket of S3 or of a service that speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,
}

/// Files on the catalog pod's volume. It has no settings of its own.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbeddedStoreSpec {}

/// A bucket of S3 or of a service that speaks its protocol.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.bucket == oldSelf.bucket && has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)")
        .message("objectStore.s3: bucket and prefix can't be changed: the stored files would no longer be found"),
    validation = Rule::new("!has(self.endpoint) || !self.endpoint.startsWith('http://') || (has(self.allowHttp) && self.allowHttp)")
        .message("objectStore.s3: an endpoint with http:// needs allowHttp: true")
)]
#[serde(rename_all = "camelCase")]
pub struct S3Spec {
    /// The bucket.
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,

    /// What the keys of all objects start with; default: nothing.
    #[schemars(length(min = 1, max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,

    /// The region; default: us-east-1.
    #[schemars(length(min = 1, max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,

    /// The URL of the service, when it is not that of Amazon.
    #[schemars(regex(pattern = r"^https?://"), length(max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// Whether the endpoint may be called without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_http: bool,

    /// Whether the bucket is part of the path instead of the host name. Most services other than
    /// Amazon's want this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub path_style: bool,

    /// The Secret with the keys `access-key-id` and `secret-access-key`; default: the identity
    /// the node gives to the pod.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<String>,

    /// The Secret whose key `ca.crt` holds the authorities of the endpoint's certificate; default:
    /// the public ones.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<String>,
}
