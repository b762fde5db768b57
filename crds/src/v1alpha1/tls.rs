//! The certificate that clients see. The pods' own traffic always has certificates of its own.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// The certificate that clients see: self-signed by a CA of this cluster, or from a Secret.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!(has(self.secretName) && has(self.selfSigned))")
        .message("tls: give selfSigned or secretName, not both"),
    validation = Rule::new("!has(self.enabled) || self.enabled || (!has(self.secretName) && !has(self.selfSigned))")
        .message("tls.enabled: false leaves no use for selfSigned or secretName")
)]
#[serde(rename_all = "camelCase")]
pub struct TlsSpec {
    /// Whether clients use TLS; default: true. Without it auth.allowInsecure must be set. For a
    /// mesh or load balancer that ends TLS in front of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,

    /// The operator makes a CA and a certificate, and renews it when a third of its life is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signed: Option<SelfSignedSpec>,

    /// The Secret of type kubernetes.io/tls with `tls.crt`, `tls.key` and, when clients don't
    /// know the issuer, `ca.crt`. Pods take a new certificate without a restart.
    #[schemars(length(min = 1, max = 253))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_name: Option<String>,
}

/// A certificate made by the operator.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SelfSignedSpec {
    /// How long a certificate is valid, in days (`90d`), hours, minutes or seconds; default: 90d.
    #[schemars(regex(pattern = r"^[1-9][0-9]*[dhms]$"), length(max = 12))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<String>,

    /// Names and IP addresses under which clients reach the cluster besides those of its
    /// Services.
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(
        length(max = 64),
        inner(
            regex(pattern = r"^(\*\.)?[A-Za-z0-9:]([-.:A-Za-z0-9]*[A-Za-z0-9])?$"),
            length(max = 253)
        )
    )]
    #[serde(
        default,
        rename = "extraDNSNames",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub extra_dns_names: Vec<String>,
}
