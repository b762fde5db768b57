//! The `FlightCluster` API: what a user can ask for and what the operator answers.
//!
//! This crate holds types, the rules an API server enforces on them (CEL), and the text of the
//! CustomResourceDefinition. Defaults that need more than one field, and every check that needs
//! another object of the cluster, belong to the operator.

mod definition;
pub mod v1alpha1;

pub use definition::{
    Error, KEEP_ANNOTATION, MAX_DEFINITION_BYTES, chart_template, definition, definition_yaml,
};
