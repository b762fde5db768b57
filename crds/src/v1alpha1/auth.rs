//! Who may call a cluster.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who may call a cluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("!has(self.mode) || self.mode != 'None' || !has(self.tokenSecrets) || size(self.tokenSecrets) == 0")
        .message("auth.tokenSecrets has no use with auth.mode None")
)]
#[serde(rename_all = "camelCase")]
pub struct AuthSpec {
    /// How callers show who they are; default: Token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<AuthMode>,

    /// Secrets whose key `tokens.yaml` holds entries as `flightcluster token create` prints them.
    /// They count beside the token the operator makes. Changes inside a Secret need no restart.
    #[x_kube(merge_strategy = ListMerge::Set)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 253)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_secrets: Vec<String>,

    /// Accepts that the cluster runs without tokens or without TLS.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_insecure: bool,
}

/// How callers show who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthMode {
    /// Everybody may do everything.
    None,
    /// A token in each call. The operator makes the first one in Secret `<name>-admin-token`.
    #[default]
    Token,
}
