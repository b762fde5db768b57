//! The Secrets that hold what was made once and is kept.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use sha2::{Digest, Sha256};

use super::labels::metadata;
use crate::controller::material::{Authority, Leaf, Material};
use crate::controller::validate::ValidatedCluster;

/// The name under which the first token appears in logs.
pub(crate) const ADMIN_TOKEN_NAME: &str = "admin";

/// What the first token may do: everything in every database.
const ADMIN_PERMISSION: &str = "admin:*";

/// The type of Secrets with a certificate, as Kubernetes names it.
const TLS_TYPE: &str = "kubernetes.io/tls";

/// The type of other Secrets, as Kubernetes names it.
const OPAQUE_TYPE: &str = "Opaque";

/// Builds the Secrets with keys, certificates and the first token.
pub(super) fn build_kept(cluster: &ValidatedCluster, material: &Material) -> Vec<Secret> {
    let Material {
        internal_ca,
        internal_tls,
        public,
        signing_key,
        admin_token,
        made: _,
    } = material;
    let names = &cluster.names;
    let mut secrets = vec![
        authority(cluster, names.internal_ca_secret(), internal_ca),
        leaf(
            cluster,
            names.internal_tls_secret(),
            internal_tls,
            internal_ca,
        ),
        opaque(
            cluster,
            names.signing_key_secret(),
            [("key", signing_key.expose().clone())],
        ),
    ];
    if let Some((ca, certificate)) = public {
        secrets.push(authority(cluster, names.public_ca_secret(), ca));
        secrets.push(leaf(cluster, names.public_tls_secret(), certificate, ca));
    }
    if let Some(token) = admin_token {
        let token = token.expose();
        let values = [
            ("token", token.clone().into_bytes()),
            ("tokens.yaml", token_entry(token).into_bytes()),
        ];
        secrets.push(opaque(cluster, names.admin_token_secret(), values));
    }
    secrets
}

/// Builds a Secret without a type of its own.
pub(super) fn opaque<const N: usize>(
    cluster: &ValidatedCluster,
    name: String,
    values: [(&str, Vec<u8>); N],
) -> Secret {
    secret(cluster, name, OPAQUE_TYPE, values)
}

/// Returns the entry of a token file for `token`: its digest, never the token.
fn token_entry(token: &str) -> String {
    let digest: String = Sha256::digest(token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "- name: {ADMIN_TOKEN_NAME}\n  sha256: {digest}\n  permissions: [\"{ADMIN_PERMISSION}\"]\n"
    )
}

fn authority(cluster: &ValidatedCluster, name: String, authority: &Authority) -> Secret {
    let values = [
        ("tls.crt", authority.certificate.clone().into_bytes()),
        ("tls.key", authority.key.expose().clone().into_bytes()),
        ("ca.crt", authority.bundle.clone().into_bytes()),
    ];
    secret(cluster, name, TLS_TYPE, values)
}

fn leaf(cluster: &ValidatedCluster, name: String, leaf: &Leaf, authority: &Authority) -> Secret {
    let values = [
        ("tls.crt", leaf.certificate.clone().into_bytes()),
        ("tls.key", leaf.key.expose().clone().into_bytes()),
        ("ca.crt", authority.bundle.clone().into_bytes()),
    ];
    secret(cluster, name, TLS_TYPE, values)
}

fn secret<const N: usize>(
    cluster: &ValidatedCluster,
    name: String,
    type_: &str,
    values: [(&str, Vec<u8>); N],
) -> Secret {
    let values = values.map(|(key, value)| (key.to_owned(), ByteString(value)));
    Secret {
        metadata: metadata(cluster, name),
        type_: Some(type_.to_owned()),
        data: Some(BTreeMap::from(values)),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digest is that of `printf secret | sha256sum`.
    #[test]
    fn a_token_entry_holds_the_digest_of_the_tokens_text() {
        let digest = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";
        assert_eq!(
            token_entry("secret"),
            format!("- name: admin\n  sha256: {digest}\n  permissions: [\"admin:*\"]\n")
        );
    }
}
