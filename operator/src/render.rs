//! `render`: the objects of a cluster as YAML, without an API server.
//!
//! They come from the same `validate` and `build` that `run` uses; keys, certificates and tokens
//! are placeholders.

use flightcluster_crds::v1alpha1::FlightCluster;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::controller::build::build;
use crate::controller::dereference::{NamedSecrets, Referenced};
use crate::controller::material::placeholders;
use crate::controller::resources::{Desired, Resources};
use crate::controller::validate::{Defaults, Problem, unknown_fields, validate};
use crate::yaml::to_yaml;

/// Why a file could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not YAML.
    #[error("reading the file as YAML")]
    Parse(#[source] serde_yaml::Error),
    /// A document says that it is a FlightCluster and is none.
    #[error("reading FlightCluster {name}")]
    Read {
        /// Its name, as far as it has one.
        name: String,
        /// What doesn't fit.
        #[source]
        source: serde_json::Error,
    },
    /// There is no FlightCluster in the file.
    #[error("the file holds no FlightCluster of {}", FlightCluster::api_version(&()))]
    Nothing,
    /// A spec has problems.
    #[error("FlightCluster {name}: {}", list(problems))]
    Invalid {
        /// The cluster.
        name: String,
        /// All of its problems.
        problems: Vec<Problem>,
    },
    /// An object could not be written: a bug.
    #[error("writing an object")]
    Write(#[source] serde_json::Error),
}

impl Error {
    /// Returns the bounded name of this error for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Parse(_) => "parse",
            Self::Read { .. } => "read",
            Self::Nothing => "nothing",
            Self::Invalid { .. } => "invalid",
            Self::Write(_) => "write",
        }
    }
}

/// Renders every FlightCluster in `text`.
///
/// - Shape: YAML documents, each with a line `---` before it, in the order in which the operator
///   writes them.
///
/// # Errors
/// The first cluster that can't be rendered, with all of its problems.
pub fn render(text: &str, defaults: &Defaults) -> Result<String, Error> {
    let mut output = String::new();
    let mut found = false;
    for document in serde_yaml::Deserializer::from_str(text) {
        let document = Value::deserialize(document).map_err(Error::Parse)?;
        let is_ours = document["apiVersion"] == FlightCluster::api_version(&()).as_ref()
            && document["kind"] == FlightCluster::kind(&()).as_ref();
        if is_ours {
            found = true;
            write_resources(render_cluster(&document, defaults)?, &mut output)?;
        }
    }
    if found {
        Ok(output)
    } else {
        Err(Error::Nothing)
    }
}

fn render_cluster(document: &Value, defaults: &Defaults) -> Result<Resources<Desired>, Error> {
    let name = document["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let cluster: FlightCluster =
        serde_json::from_value(document.clone()).map_err(|source| Error::Read {
            name: name.clone(),
            source,
        })?;
    // An API server names unknown fields to its user; here nobody else would.
    let unknown = unknown_fields(&document["spec"], &cluster.spec);
    if !unknown.is_empty() {
        let problem = |field| Problem::new(field, "is no field of a FlightCluster");
        return Err(Error::Invalid {
            name,
            problems: unknown.into_iter().map(problem).collect(),
        });
    }
    let referenced = Referenced {
        named: NamedSecrets::Assumed,
        ..Referenced::default()
    };
    let validated = validate(&cluster, &referenced, defaults)
        .map_err(|problems| Error::Invalid { name, problems })?;
    Ok(build(&validated, &placeholders(&validated)))
}

fn write_resources(resources: Resources<Desired>, output: &mut String) -> Result<(), Error> {
    // Without `..`, so that a new kind can't be forgotten.
    let Resources {
        service_accounts,
        secrets,
        config_maps,
        services,
        pod_disruption_budgets,
        stateful_sets,
        state: _,
    } = resources;
    write_all(&service_accounts, output)?;
    write_all(
        &secrets.into_iter().map(readable).collect::<Vec<_>>(),
        output,
    )?;
    write_all(&config_maps, output)?;
    write_all(&services, output)?;
    write_all(&pod_disruption_budgets, output)?;
    write_all(&stateful_sets, output)
}

fn write_all<T: Serialize>(objects: &[T], output: &mut String) -> Result<(), Error> {
    for object in objects {
        output.push_str("---\n");
        output.push_str(&to_yaml(
            &serde_json::to_value(object).map_err(Error::Write)?,
        ));
    }
    Ok(())
}

/// Shows placeholders as text instead of base64.
fn readable(mut secret: Secret) -> Secret {
    let data = secret.data.take().unwrap_or_default();
    let mut texts = std::collections::BTreeMap::new();
    let mut bytes = std::collections::BTreeMap::new();
    for (key, ByteString(value)) in data {
        match String::from_utf8(value) {
            Ok(text) => {
                texts.insert(key, text);
            }
            Err(error) => {
                bytes.insert(key, ByteString(error.into_bytes()));
            }
        }
    }
    secret.string_data = (!texts.is_empty()).then_some(texts);
    secret.data = (!bytes.is_empty()).then_some(bytes);
    secret
}

fn list(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}
