//! The object store and the user's certificate: what a spec says about them, and their Secrets.

use std::collections::BTreeMap;

use flightcluster_crds::v1alpha1::{FlightClusterSpec, PostgresSpec, S3Spec};
use k8s_openapi::api::core::v1::Secret;
use sha2::{Digest, Sha256};

use super::{Problem, Problems, Tls};
use crate::controller::build::labels::{MANAGED_BY, MANAGER};
use crate::controller::build::pod::mounts::{ACCESS_KEY_ID, SECRET_ACCESS_KEY};
use crate::controller::dereference::{NamedSecrets, Referenced};
use crate::controller::material::{belong_together, certificate_is_readable};

/// Where Parquet files are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectStore {
    /// On the catalog pod's volume.
    Embedded,
    /// In a bucket.
    S3(Box<S3>),
}

/// A bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3 {
    /// What the spec says.
    pub spec: S3Spec,
    /// A digest of credentials and authorities: pods read them at start, so that a change restarts
    /// them.
    pub files_digest: Option<Vec<u8>>,
}

/// Checks the object store.
pub(super) fn validate(
    spec: &FlightClusterSpec,
    referenced: &Referenced,
    problems: &mut Problems,
) -> ObjectStore {
    let store = spec.object_store.clone().unwrap_or_default();
    let Some(s3) = store.s3 else {
        return ObjectStore::Embedded;
    };
    if store.embedded.is_some() {
        problems.push(Problem::new("objectStore", "give embedded or s3, not both"));
    }
    let field = "objectStore.s3.credentialsSecret";
    let keys = [ACCESS_KEY_ID, SECRET_ACCESS_KEY];
    let credentials = s3
        .credentials_secret
        .as_ref()
        .and_then(|name| values(name, keys, referenced, field, problems));
    let field = "objectStore.s3.caSecret";
    let authorities = s3
        .ca_secret
        .as_ref()
        .and_then(|name| values(name, ["ca.crt"], referenced, field, problems));
    let files: Vec<_> = credentials
        .into_iter()
        .flatten()
        .chain(authorities.into_iter().flatten())
        .collect();
    let files_digest = (!files.is_empty()).then(|| {
        let mut digest = Sha256::new();
        for value in files {
            digest.update(value.len().to_be_bytes());
            digest.update(&value);
        }
        digest.finalize().to_vec()
    });
    ObjectStore::S3(Box::new(S3 {
        spec: s3,
        files_digest,
    }))
}

/// The key of a Postgres URL in its Secret, when the spec names none.
pub const POSTGRES_URL: &str = "url";

/// Checks the database of the catalog, if there is one.
pub(super) fn validate_postgres(
    spec: &FlightClusterSpec,
    object_store: &ObjectStore,
    referenced: &Referenced,
    problems: &mut Problems,
) -> Option<PostgresSpec> {
    let catalog = spec.catalog.as_ref()?;
    let postgres = catalog.postgres.clone()?;
    if catalog.embedded.is_some() {
        let message = "give embedded or postgres, not both";
        problems.push(Problem::new("catalog", message));
    }
    if *object_store == ObjectStore::Embedded {
        let message =
            "has no catalog pod, which the embedded object store needs; set objectStore.s3";
        problems.push(Problem::new("catalog.postgres", message));
    }
    let key = postgres.url_key.as_deref().unwrap_or(POSTGRES_URL);
    let field = "catalog.postgres.secretName";
    let url = values(&postgres.secret_name, [key], referenced, field, problems);
    let is_url = |url: &[u8]| url.starts_with(b"postgres://") || url.starts_with(b"postgresql://");
    if url.is_some_and(|[url]| !is_url(url.trim_ascii())) {
        // What stands there may be a password: it is not shown.
        let message = format!(
            "the key {key} of Secret {} holds no URL; expected \
             postgres://USER:PASSWORD@HOST:PORT/DATABASE",
            postgres.secret_name
        );
        problems.push(Problem::new(field, message));
    }
    if let Some(name) = &postgres.ca_secret {
        let field = "catalog.postgres.caSecret";
        values(name, ["ca.crt"], referenced, field, problems);
    }
    Some(postgres)
}

/// Checks the user's Secret with the certificate that clients see.
pub(super) fn validate_certificate(
    name: &str,
    referenced: &Referenced,
    problems: &mut Problems,
) -> Tls {
    let field = "tls.secretName";
    let pair = values(name, ["tls.crt", "tls.key"], referenced, field, problems);
    let pair = pair.map(|pair| pair.map(|pem| String::from_utf8_lossy(&pem).into_owned()));
    if let Some([chain, key]) = &pair {
        let message = if !certificate_is_readable(chain) {
            Some(format!(
                "tls.crt of Secret {name} holds no certificate in PEM"
            ))
        } else if !belong_together(chain, key) {
            Some(format!(
                "tls.key of Secret {name} is not the private key of the first certificate in \
                 tls.crt; put both in from the same pair, the server's certificate first"
            ))
        } else {
            None
        };
        problems.extend(message.map(|message| Problem::new(field, message)));
    }
    let chain = pair.map(|[chain, _]| chain);
    let secret = read(referenced)
        .and_then(|read| read.get(name))
        .and_then(Option::as_ref);
    let labels = secret.and_then(|secret| secret.metadata.labels.as_ref());
    if labels
        .and_then(|labels| labels.get(MANAGED_BY))
        .is_some_and(|by| by == MANAGER)
    {
        let message = format!(
            "Secret {name} was made by the operator for tls.selfSigned and goes away with it; \
             copy it under another name"
        );
        problems.push(Problem::new(field, message));
    }
    let ca = secret
        .and_then(|secret| secret.data.as_ref())
        .and_then(|data| data.get("ca.crt"))
        .filter(|ca| !ca.0.is_empty())
        .map(|ca| String::from_utf8_lossy(&ca.0).into_owned());
    Tls::Secret {
        name: name.to_owned(),
        ca,
        certificate: chain,
    }
}

fn read(referenced: &Referenced) -> Option<&BTreeMap<String, Option<Secret>>> {
    match &referenced.named {
        NamedSecrets::Read(read) => Some(read),
        NamedSecrets::Assumed => None,
    }
}

/// Returns the values of `keys`, or `None` with a problem for each that is missing. `None` without
/// a problem means that there is no API server to ask.
fn values<const N: usize>(
    name: &str,
    keys: [&str; N],
    referenced: &Referenced,
    field: &str,
    problems: &mut Problems,
) -> Option<[Vec<u8>; N]> {
    let read = read(referenced)?;
    let Some(secret) = read.get(name).and_then(Option::as_ref) else {
        let message = format!("Secret {name} is not there; create it with the keys {}", {
            keys.join(" and ")
        });
        problems.push(Problem::new(field, message));
        return None;
    };
    let values = keys.map(|key| {
        let value = secret.data.as_ref().and_then(|data| data.get(key));
        value
            .map(|value| value.0.clone())
            .filter(|value| !value.is_empty())
    });
    for (key, value) in keys.iter().zip(&values) {
        if value.is_none() {
            let message = format!("Secret {name} has no value for the key {key}");
            problems.push(Problem::new(field, message));
        }
    }
    if values.iter().any(Option::is_none) {
        None
    } else {
        Some(values.map(Option::unwrap_or_default))
    }
}
