//! The CustomResourceDefinition as an object and as YAML text, small enough for `kubectl apply`.
//!
//! Leaves the schema itself to the derive macros on the types in [`crate::v1alpha1`].

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::v1alpha1::FlightCluster;

/// Bytes that a definition may have as JSON: `kubectl apply` stores the object in an annotation,
/// and an API server accepts 262,144 bytes of annotations in all.
pub const MAX_DEFINITION_BYTES: usize = 262_144;

/// The annotation that makes Helm keep the definition, and with it every cluster, on uninstall.
pub const KEEP_ANNOTATION: (&str, &str) = ("helm.sh/resource-policy", "keep");

/// Schema nodes that come from Kubernetes itself: their fields are documented by Kubernetes, and
/// repeating that text for every role would make the definition too large.
const EMBEDDED: [&str; 1] = ["resources"];

/// Why the text of the definition could not be produced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Writing the definition as YAML failed: a bug in the types, nothing a user can cause.
    #[error("writing the definition of FlightCluster as YAML")]
    Write(#[source] serde_yaml::Error),
}

impl Error {
    /// Returns the bounded name of this error for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Write(_) => "write_definition",
        }
    }
}

/// Returns the definition of `FlightCluster` with the descriptions of embedded Kubernetes types
/// removed.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    let mut definition = FlightCluster::crd();
    for version in &mut definition.spec.versions {
        let schema = version
            .schema
            .as_mut()
            .and_then(|validation| validation.open_api_v3_schema.as_mut());
        if let Some(schema) = schema {
            strip_embedded(schema);
        }
    }
    definition
}

/// Returns the definition as one YAML document.
///
/// # Errors
/// [`Error::Write`] when the definition can't be written as YAML.
pub fn definition_yaml() -> Result<String, Error> {
    serde_yaml::to_string(&definition()).map_err(Error::Write)
}

/// Returns the definition as it stands in the Helm chart: the same document, kept on uninstall.
///
/// # Errors
/// [`Error::Write`] when the definition can't be written as YAML.
pub fn chart_template() -> Result<String, Error> {
    let mut definition = definition();
    let (key, value) = KEEP_ANNOTATION;
    definition
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(key.into(), value.into());
    serde_yaml::to_string(&definition).map_err(Error::Write)
}

/// Removes descriptions below every embedded Kubernetes type, and keeps ours.
fn strip_embedded(schema: &mut JSONSchemaProps) {
    for (name, property) in schema.properties.iter_mut().flatten() {
        if EMBEDDED.contains(&name.as_str()) {
            for_each_child(property, &mut strip_all);
        } else {
            strip_embedded(property);
        }
    }
}

fn strip_all(schema: &mut JSONSchemaProps) {
    schema.description = None;
    for_each_child(schema, &mut strip_all);
}

fn for_each_child(schema: &mut JSONSchemaProps, visit: &mut dyn FnMut(&mut JSONSchemaProps)) {
    schema
        .properties
        .iter_mut()
        .flatten()
        .for_each(|(_, property)| visit(property));
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => visit(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(&mut *visit),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        visit(value);
    }
}
