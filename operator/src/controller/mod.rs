//! From a spec to a status in five steps, one file each.
//!
//! ```text
//! FlightCluster -dereference-> Referenced -validate-> ValidatedCluster -build-> Resources<Desired>
//!   -hold back-> Resources<Desired> -apply-> Resources<Applied> -observe-> Observed -status-> FlightClusterStatus
//! ```
//!
//! `validate`, `build`, [`rollout`] (which holds back) and `status` are pure: no client, no clock, no randomness. What must be
//! random or depends on the time (keys, certificates) is made by [`material`] between `validate`
//! and `build`, once, and kept in Secrets.

pub mod apply;
pub mod build;
pub mod dereference;
pub mod material;
pub mod observe;
pub mod quantity;
pub mod reconcile;
pub mod resources;
pub mod rollout;
pub mod status;
pub mod validate;
