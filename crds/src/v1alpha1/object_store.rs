//! Where Parquet files are kept: on the catalog's volume, or in a bucket of one of the clouds.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Where Parquet files are kept. One of the fields, and not another one later.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("(has(self.embedded) ? 1 : 0) + (has(self.s3) ? 1 : 0) + (has(self.gcs) ? 1 : 0) + (has(self.azure) ? 1 : 0) <= 1")
        .message("objectStore: give one of embedded, s3, gcs and azure")
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

    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsSpec>,

    /// A container of Azure Blob Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureSpec>,
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

/// A bucket of Google Cloud Storage.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.bucket == oldSelf.bucket && has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)")
        .message("objectStore.gcs: bucket and prefix can't be changed: the stored files would no longer be found"),
    validation = Rule::new("!has(self.endpoint) || !self.endpoint.startsWith('http://') || (has(self.allowHttp) && self.allowHttp)")
        .message("objectStore.gcs: an endpoint with http:// needs allowHttp: true")
)]
#[serde(rename_all = "camelCase")]
pub struct GcsSpec {
    /// The bucket.
    #[schemars(length(min = 3, max = 222))]
    pub bucket: String,

    /// What the names of all objects start with; default: nothing.
    #[schemars(length(min = 1, max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,

    /// The URL of the service, when it is not that of Google.
    #[schemars(regex(pattern = r"^https?://"), length(max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// Whether the endpoint may be called without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_http: bool,

    /// The Secret whose key `service-account.json` holds the key of a service account, as Google's
    /// tools write it; default: the identity the environment gives to the pod, such as that of
    /// workload identity.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<String>,

    /// The Secret whose key `ca.crt` holds the authorities of the endpoint's certificate; default:
    /// the public ones.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<String>,
}

/// A container of Azure Blob Storage.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.account == oldSelf.account && self.container == oldSelf.container && has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)")
        .message("objectStore.azure: account, container and prefix can't be changed: the stored files would no longer be found"),
    validation = Rule::new("!has(self.endpoint) || !self.endpoint.startsWith('http://') || (has(self.allowHttp) && self.allowHttp)")
        .message("objectStore.azure: an endpoint with http:// needs allowHttp: true")
)]
#[serde(rename_all = "camelCase")]
pub struct AzureSpec {
    /// The storage account.
    #[schemars(regex(pattern = r"^[a-z0-9]{3,24}$"))]
    pub account: String,

    /// The container.
    #[schemars(length(min = 3, max = 63))]
    pub container: String,

    /// What the names of all objects start with; default: nothing.
    #[schemars(length(min = 1, max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,

    /// The URL of the account, when it is not `https://ACCOUNT.blob.core.windows.net`.
    #[schemars(regex(pattern = r"^https?://"), length(max = 512))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// Whether the endpoint may be called without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_http: bool,

    /// The Secret whose key `account-key` holds a key of the storage account; default: the identity
    /// the environment gives to the pod, such as that of workload identity.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<String>,

    /// The Secret whose key `ca.crt` holds the authorities of the endpoint's certificate; default:
    /// the public ones.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<String>,
}
