//! The database of the catalog and the user's certificate: what a spec says about them, and their
//! Secrets.

use std::collections::BTreeMap;

use flightcluster_crds::v1alpha1::{FlightClusterSpec, PostgresSpec};
use k8s_openapi::api::core::v1::Secret;

use super::object_store::ObjectStore;
use super::{Problem, Problems, Tls};
use crate::controller::build::labels::{MANAGED_BY, MANAGER};
use crate::controller::build::pod::mounts::CA;
use crate::controller::dereference::{NamedSecrets, Referenced};
use crate::controller::material::{belong_together, certificate_is_readable};

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
        let message = "has no catalog pod, which the embedded object store needs; set s3, gcs or \
                       azure of objectStore";
        problems.push(Problem::new("catalog.postgres", message));
    }
    let key = postgres.url_key.as_deref().unwrap_or(POSTGRES_URL);
    let field = "catalog.postgres.secretName";
    let url = value(&postgres.secret_name, key, referenced, field, problems);
    let is_url = |url: &[u8]| url.starts_with(b"postgres://") || url.starts_with(b"postgresql://");
    if url.is_some_and(|url| !is_url(url.trim_ascii())) {
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
        value(name, CA, referenced, field, problems);
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
    let pair = values(name, &["tls.crt", "tls.key"], referenced, field, problems)
        .and_then(|pair| <[Vec<u8>; 2]>::try_from(pair).ok())
        .map(|pair| pair.map(|pem| String::from_utf8_lossy(&pem).into_owned()));
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

/// Returns the value of a key, as [`values`] does.
fn value(
    name: &str,
    key: &str,
    referenced: &Referenced,
    field: &str,
    problems: &mut Problems,
) -> Option<Vec<u8>> {
    values(name, &[key], referenced, field, problems)?.pop()
}

/// Returns the values of `keys`, or `None` with a problem for each that is missing. `None` without
/// a problem means that there is no API server to ask.
pub(super) fn values(
    name: &str,
    keys: &[&str],
    referenced: &Referenced,
    field: &str,
    problems: &mut Problems,
) -> Option<Vec<Vec<u8>>> {
    let read = read(referenced)?;
    let Some(secret) = read.get(name).and_then(Option::as_ref) else {
        let noun = if keys.len() == 1 { "key" } else { "keys" };
        let message = format!(
            "Secret {name} is not there; create it with the {noun} {}",
            keys.join(" and ")
        );
        problems.push(Problem::new(field, message));
        return None;
    };
    let mut values = Vec::new();
    for key in keys {
        let value = secret.data.as_ref().and_then(|data| data.get(*key));
        match value.filter(|value| !value.0.is_empty()) {
            Some(value) => values.push(value.0.clone()),
            None => {
                let message = format!("Secret {name} has no value for the key {key}");
                problems.push(Problem::new(field, message));
            }
        }
    }
    (values.len() == keys.len()).then_some(values)
}
