//! The write-ahead log of one ingester: makes a batch durable, gives it back after a crash, and
//! drops it when it is in a file.
//!
//! The log knows tables, schemas and batches only as numbers and bytes; it does not read Arrow. What
//! is in a segment file is told byte by byte in `docs/reference/wal-format.md`.
//!
//! # Flow
//! [`WalDirectory::lock`] → [`WalDirectory::recover`] → [`Recovery::next_record`] until `None` →
//! [`Recovery::finish`] → [`Wal`]. There is no way to append before everything was replayed.
//!
//! # Guarantees
//! - Durable: an append completes only after `fdatasync` of its record returned without an error.
//! - Prefix: records get sequence numbers 1, 2, 3, … in the order they were enqueued; completions run
//!   in that order on one thread. After a crash replay yields a prefix of what was enqueued that
//!   holds at least all that was completed.
//! - Never a wrong record: every byte of a record is covered by a checksum.
//! - One process: the directory is locked; a second process gets [`Error::Locked`].
//! - One chance: after a failed write or sync the log is poisoned. What the disk holds is then
//!   unknown, and a second `fsync` may report success for pages the first one lost. The process must
//!   restart and replay.
//! - By place: a record that is durable can be read again for as long as its segment is not truncated
//!   ([`Wal::read`]), also from the segment that is written to. Such a read is checked as replay is.
//!
//! # Crash
//! A record that was not synced when the machine stopped may be there, partly there or absent. The
//! tail of the last segment is cut back to the last whole record. Each record says up to which offset
//! its segment was on disk when it was written, so that a torn tail (never acknowledged, safe to cut) is
//! told from damage of older data (an error, nothing is changed). What a segment that was written over
//! an older one still holds of that is such a tail.
//!
//! # Full volume
//! Writes are refused before the volume is full, with [`Error::Full`] or, past the log's own limit,
//! [`Error::OverBudget`]; nothing was written then, and they succeed again when there is space. A write
//! that runs out of space all the same is cut off again. Space that is missing only when a sync asks for
//! it poisons the log, as every failed sync.
//!
//! # Identity
//! A log has a random id and remembers the newest state of the catalog it relied on ([`Label`]). The
//! catalog knows the id: together they notice a log that is missing, exchanged or an old copy, and a
//! catalog that was restored from a backup. Who compares them is the ingester. Which segments it consists of is
//! noted beside it, so that replay notices one that is missing at either end.
//!
//! # Accepted
//! An append whose future was dropped, or that was refused by a poisoned log, may still be there
//! after a restart. Damage of the very last group of a process that was killed within a fifth of a second
//! after it, or had no space for the mark behind it, and damage of group and mark together, can't be told
//! from a torn tail, and is cut.

mod active;
mod budget;
mod directory;
mod disk;
mod error;
mod format;
mod label;
mod read;
mod record;
mod recover;
mod small_file;
mod span;
mod spares;
mod wal;
mod writer;

#[cfg(test)]
mod tests;

pub use directory::WalDirectory;
pub use disk::{DirectoryLock, Disk, RealDisk, SegmentFile, Space};
pub use error::{Error, is_full};
pub use label::{CatalogState, Label, LogId};
pub use record::{
    Append, Contents, Message, Place, Producer, Record, SchemaDefinition, SequenceNumber, Stored,
};
pub use recover::{Identity, Recovery};
pub use wal::{NoObserver, Observer, Pending, Reservation, Truncated, Wal, WalOptions};
pub use writer::Completion;
