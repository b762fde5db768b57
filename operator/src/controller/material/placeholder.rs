//! Stand-ins for what must be made once and kept, for printing objects without an API server.

use super::{Authority, Leaf, Material, Sensitive};
use crate::controller::validate::{Auth, Tls, ValidatedCluster};

/// Returns stand-ins that say what will be in their place. The same cluster gives the same text,
/// and no pod would start with it.
#[must_use]
pub fn placeholders(cluster: &ValidatedCluster) -> Material {
    let self_signed = matches!(cluster.tls, Tls::SelfSigned { .. });
    let tokens = matches!(cluster.auth, Auth::Token { .. });
    Material {
        internal_ca: authority("internal CA"),
        internal_tls: leaf("internal certificate"),
        public: self_signed.then(|| (authority("CA"), leaf("certificate"))),
        signing_key: Sensitive::new(text("signing key").into_bytes()),
        admin_token: tokens.then(|| Sensitive::new(text("admin token"))),
        made: Vec::new(),
    }
}

fn authority(what: &str) -> Authority {
    Authority {
        certificate: text(what),
        key: Sensitive::new(text(&format!("private key of the {what}"))),
        bundle: text(what),
    }
}

fn leaf(what: &str) -> Leaf {
    Leaf {
        certificate: text(what),
        key: Sensitive::new(text(&format!("private key of the {what}"))),
        validity: None,
    }
}

fn text(what: &str) -> String {
    format!("<placeholder: {what}, made by the operator>")
}
