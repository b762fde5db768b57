//! The product as its users meet it: charts and manifests applied to a real Kubernetes, real
//! clients, real faults.
//!
//! The tests run inside a node that has the product's image (see e2e/README.md). The operator is
//! installed once, by its chart; each test has a namespace of its own in which Kubernetes enforces
//! the restricted Pod Security Standard. The client programs are in `e2e/clients`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod api;
mod certificates;
mod clients;
mod deletion;
mod durability;
mod flights;
mod installation;
mod operator;
mod product;
mod programs;
mod s3;
mod several;
mod specs;
mod steady;
mod tokens;
mod upgrades;
mod versions;
