//! The engine as its callers see it, on a cluster in one process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod answers;
mod apart;
mod changes;
mod deleting;
mod failures;
mod fixture;
mod footers;
mod hand_off;
mod keyed_deleting;
mod limits;
mod masked;
mod parameters;
mod partial;
mod past;
mod pruning;
mod reads;
mod repeats;
mod retention;
mod rewriting;
mod shapes;
mod texts;
mod upserts;
mod wide;
mod widening;
