//! The operator: turns a `FlightCluster` into Kubernetes objects and keeps them right.
//!
//! [`controller`] holds the five steps from a spec to a status; [`run`] connects them to an API
//! server; [`render`] prints what they would write without one. What the data plane does with its
//! configuration is none of this crate's business: it only writes it, with the data plane's types.

pub mod args;
pub mod controller;
pub mod lease;
pub mod observed;
pub mod render;
pub mod run;
mod yaml;
