//! A digest of everything a pod reads once, at start.
//!
//! It stands in the pod template from the first apply on, so that a change restarts the pods and a
//! pass without a change doesn't. Certificates and token files are read again while a pod runs and
//! are left out.

use sha2::{Digest, Sha256};

use crate::controller::build::config_map::config_files;
use crate::controller::material::Material;
use crate::controller::validate::{ObjectStore, ValidatedCluster, ValidatedRole};

/// Returns the digest in hexadecimal digits.
pub(super) fn config_digest(
    cluster: &ValidatedCluster,
    role: &ValidatedRole,
    material: &Material,
) -> String {
    let mut digest = Sha256::new();
    let mut add = |part: &[u8]| {
        // With its length, so that two parts can't be taken for one.
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    };
    for file in config_files(cluster, role).values() {
        add(file.as_bytes());
    }
    if role.role.is_public() {
        add(material.signing_key.expose());
    }
    if let ObjectStore::Bucket(bucket) = &cluster.object_store {
        add(bucket.files_digest.as_deref().unwrap_or_default());
    }
    // Clouds put an identity into pods when these are made.
    for (name, value) in &cluster.identity {
        add(name.as_bytes());
        add(value.as_bytes());
    }
    digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
