//! SQL to plan to stream of batches, within memory and time limits.
//!
//! The only crate that knows DataFusion. An [`Engine`] turns the text of one statement into a
//! [`Plan`] and runs it; the rows come from the Parquet files of one catalog snapshot and, for every
//! active ingester, from the rows above its watermark in that snapshot ([`RecentRows`]), so that
//! each acknowledged row is seen exactly once. What clients are told about a plan on the wire, who
//! the caller is and how rows become durable is the business of others.
//!
//! # Names
//! A table is `table`, `schema.table` or `database.schema.table`; what is missing is taken from the
//! request (`public` is the schema of all user tables). Names that are not quoted are read in lower
//! case, as SQL has it: a table created as `Flights` by a writer is `"Flights"` in SQL. Every
//! database also has `information_schema` and `system` (`tables`, `files`, `compactions`, `snapshots`,
//! `ingesters`, `queries`).
//!
//! # Security
//! No statement reaches the local file system: the engine has one object store and no table or file
//! format factories, so there is no `CREATE EXTERNAL TABLE`, no `COPY`, no path as a table name.
//! Parameters are bound as values after planning, never pasted into the text.
//!
//! # Trouble
//! - `table not found: db.public.flights; did you mean "Flights"?`: quote names with capitals.
//! - `the memory of all queries (query.memory_bytes = …) is used up`: raise the setting, or make the
//!   query smaller; sorting, grouping and joining go to disk first where they can.
//! - `ingester … can't be reached`: the answer would lack its fresh rows, so there is none. Retry,
//!   or ask for a partial one ([`Engine::execute_partial`]).

mod access;
mod admission;
mod attempts;
mod catalogs;
mod compute;
mod cooperative;
mod delete;
mod depth;
mod engine;
mod error;
mod execute;
mod floats;
mod footers;
mod functions;
mod growth;
mod masks;
mod names;
mod newest;
mod options;
mod overlap;
mod parameters;
mod partial;
mod past;
mod plan;
pub mod ports;
mod provider;
mod recent;
mod references;
pub mod rewrite;
mod running;
mod schema;
mod session;
mod sort;
mod statement;
mod system;
mod texts;
mod times;
mod update;
mod width;

#[cfg(test)]
mod tests;

use std::pin::Pin;

use arrow_array::RecordBatch;
use futures::Stream;

pub use access::{Access, AccessKind};
pub use attempts::Patience;
pub use engine::{Engine, EngineOptions, EngineStats, ExecuteOptions};
pub use error::{Error, Location};
pub use footers::FooterStats;
pub use functions::{Functions, sql_keywords};
pub use masks::with_masks;
pub use parameters::parameters_from_json;
pub use partial::Missing;
pub use past::{AsOf, Past, time_text};
pub use plan::{Plan, QueryRequest, StatementKind};
pub use ports::{Budget, RecentRows, RecentRowsError, Silence, Silent, StatementKey, TableWriter};
pub use schema::{decode_schema, encode_schema};
pub use times::has_times;

/// A lazy, cancellable (by dropping) stream of batches of one schema.
pub type BatchStream = Pin<Box<dyn Stream<Item = Result<RecordBatch, Error>> + Send>>;
