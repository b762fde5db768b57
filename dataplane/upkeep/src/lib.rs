//! What keeps stored tables in shape: few large files instead of many small ones, files of expired rows
//! ended, objects nobody reads deleted, objects nobody knows reported.
//!
//! This crate decides what is done and when, and talks to the catalog and the object store. How files
//! are read and written is behind the port [`Rewriter`]; what is counted behind [`Observer`].
//!
//! # Several processes
//! Every process that runs upkeep does the same rounds. A lease in the catalog keeps two from doing
//! the same work; correctness does not rest on it. What protects the rows is the commit: the catalog
//! replaces files only while every one of them is live, and only when the numbers of rows add up.
//!
//! # Crash
//! Compaction writes new files, then commits. Before the commit the new files are named nowhere:
//! orphans, found by the scan. After it the old files are in the queue for deletion. Deletion deletes
//! objects, then records it: a repeat finds them gone.
//!
//! # An object is deleted only after
//! the file it belonged to ended (or its table was dropped) and `upkeep.gc_grace` passed since; and
//! never while a live file has its path: the catalog gives no such path out, and lets no file have a
//! path that is queued.

mod choose;
mod compact;
mod error;
mod expire;
mod garbage;
mod orphans;
mod ports;
mod rounds;

#[cfg(test)]
mod tests;

pub use compact::Compacted;
pub use error::Error;
pub use expire::Expired;
pub use orphans::Orphans;
pub use ports::{Observer, RewriteFailure, Rewriter, Rewritten};
pub use rounds::{Upkeep, UpkeepOptions};
