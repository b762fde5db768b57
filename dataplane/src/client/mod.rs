//! The client commands: `flightcluster query` and `flightcluster put`, over the public protocol and
//! nothing else.

mod connection;
mod put;
mod query;
mod read;

pub(crate) use put::{PutArgs, put};
pub(crate) use query::{QueryArgs, query};
