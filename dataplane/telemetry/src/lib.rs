//! What both binaries show of themselves: log lines, metrics, health.
//!
//! [`log`] sets up tracing, [`metrics`] declares every metric there is, [`health`] keeps the state
//! behind `/startup`, `/ready` and `/live`, and [`admin`] serves it all over HTTP. What is logged
//! and counted, and when a component is healthy, is decided where it happens. This crate knows no
//! configuration and opens no port.

pub mod admin;
pub mod health;
pub mod log;
pub mod memory;
pub mod metrics;
