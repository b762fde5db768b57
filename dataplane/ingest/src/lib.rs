//! The writing half of the data path: checked batches become durable, visible at once, and in time
//! Parquet files.
//!
//! # Flow
//! [`Ingest::writer`] (table created or evolved, [`gate`]) → [`TableWriter::write`] → write-ahead log
//! → buffer, readable by [`Ingest::recent`] → acknowledgement → Parquet object → catalog commit →
//! log truncated.
//!
//! # Guarantees
//! - Acknowledged means durable and visible: [`TableWriter::write`] returns after the record is on
//!   disk and in the buffer.
//! - The buffer is always a prefix of the log: rows enter it on the log's thread, in sequence order.
//! - Never lost, never doubled: the object is durable before the catalog names it, the catalog
//!   names it before the log forgets the rows. A commit whose answer was lost is repeated with the
//!   same files; the rows stay in memory until the answer is known.
//! - All or nothing: the rows of an upload appear in one snapshot, see [`upload`].
//! - Exactly once: a batch with a producer's number is stored once, whichever ingester it reaches,
//!   see [`Producer`] and [`Peers`].
//! - The last write to a key wins: rows of a table with a primary key are numbered by the catalog
//!   between the beginning of their write and its acknowledgement; a file holds a key once.
//! - Listed: the catalog knows of which tables there may be rows that are in no file, from before a
//!   row of one is acknowledged.
//! - Bounded: unflushed rows take at most `ingest.buffer_bytes`, with those kept for the grace not
//!   more either; writers wait for the flusher and are refused with [`Error::Overloaded`] when it
//!   fails or can't keep up.
//! - Not on one volume for ever: when rows can't be written to files for `ingest.persist_lag`, no more that
//!   would join them are taken ([`Error::PersistLag`]).
//! - Fenced: when a younger process of this name registers, or the catalog turns out to be an older
//!   copy, [`Ingest::fatal`] completes within seconds and nothing is accepted any more. A process that
//!   was paused asks before it takes a write.
//! - Identified: an ingester that did not drain opens with the log it wrote to and with a catalog that
//!   has everything the log relied on, or not at all ([`flightcluster_catalog::Error::WrongLog`],
//!   [`flightcluster_catalog::Error::RolledBack`]).
//!
//! # Accepted
//! A flush that fails after writing an object may leave it in the store, named nowhere. A batch
//! written in the second after its table was dropped may be acknowledged and is gone with the table.
//! A fenced process acknowledges until it learns of it, at most some seconds, and longer only while it
//! can't ask the catalog; those rows are in its log, and in answers again when that log is opened again.
//! A copy of the log's volume that is older than the last write but newer than the last flush is taken
//! for the newest.
//!
//! What it leaves to others: who may write (`auth`), the protocol (`wire`, `server`), and bringing
//! fresh rows into the schema of a query (`query`).

mod adapt;
mod admission;
mod buffer;
mod checks;
mod claim;
mod clock;
mod current;
mod digits;
mod error;
mod fatal;
mod flush;
mod flusher;
pub mod gate;
mod handles;
mod ingest;
mod lag;
mod memory;
mod message;
mod objects;
mod observe;
mod open;
mod order;
mod parquet_file;
mod parts;
mod persist;
mod producer;
mod recent;
mod replay;
pub mod schema;
mod spill;
mod table;
pub mod upload;
mod writer;

#[cfg(test)]
mod tests;

pub use adapt::widens;
pub use admission::Room;
pub use buffer::TooOld;
pub use claim::{NoPeers, PeerError, Peers, STATEMENT_MARGIN};
pub use clock::{Clock, ManualClock};
pub use error::{Error, Fault};
pub use fatal::Fatal;
pub use ingest::{Ingest, IngestOptions};
pub use observe::{NoObserver, Observer, Statistics};
pub use parquet_file::file_properties;
pub use producer::Producer;
pub use recent::{Piece, Recent, compact_read};
pub use table::TableMode;
pub use writer::{Ack, TableWriter};
