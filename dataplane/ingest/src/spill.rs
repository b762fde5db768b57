//! Spilled rows: acknowledged, in no file, and no longer in memory. The log holds them, as it did since before they
//! were acknowledged, so nothing is written to spill a row; what stays is a handle with its place in the log.
//!
//! # When
//! A write that finds no room spills the oldest rows when flushes fail, or when it waited for a while in vain
//! ([`crate::admission`]). Replay spills what is beyond half of the buffer. What limits the
//! ingester then is the budget of the log.
//!
//! # Guarantees
//! - A row is in memory or has a handle, never neither: handles take the place of rows under the lock of the buffer.
//! - A segment is not truncated while a spilled row in it is in no file, or a [`Reading`] may still read it. Both are
//!   noted under the lock that marks rows as flushed.
//! - What can't be read is an error, never a gap.

use std::sync::Arc;
use std::time::Instant;

use arrow_schema::SchemaRef;
use flightcluster_catalog::{SequenceNumber, TableId};
use flightcluster_keys::with_order;
use flightcluster_wal::{self as wal, Place, Wal};

use crate::buffer::{Buffer, Kept, Row};
use crate::error::Error;
use crate::message::decode_batch;
use crate::producer::Producer;

/// What a handle takes in memory, also in a block of its own.
pub(crate) const HANDLE_BYTES: u64 = 2 * size_of::<Spilled>() as u64;

/// Where the log has the rows of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Logged {
    pub(crate) place: Place,
    /// That of the record: without order numbers.
    pub(crate) schema: SchemaRef,
}

/// The handle of rows of one batch that only the log holds. Their producer and order numbers are in the record.
#[derive(Debug, Clone)]
pub(crate) struct Spilled {
    pub(crate) sequence: SequenceNumber,
    pub(crate) logged: Logged,
    pub(crate) rows: u64,
    /// What they take in memory.
    pub(crate) bytes: u64,
    pub(crate) stamp_nanos: i64,
    pub(crate) since: Instant,
}

impl Spilled {
    /// The row back when the log's place of it is not known.
    pub(crate) fn of(mut row: Row) -> Result<Self, Box<Row>> {
        let Some(logged) = row.logged.take() else {
            return Err(Box::new(row));
        };
        Ok(Self {
            sequence: row.sequence,
            logged,
            rows: row.batch.num_rows() as u64,
            bytes: row.bytes,
            stamp_nanos: row.stamp_nanos,
            since: row.since,
        })
    }

    /// Reads the rows from the log. Blocking.
    pub(crate) fn read(&self, wal: &Wal, table: TableId) -> Result<Row, Error> {
        let sequence = self.sequence;
        let stored = wal::Stored {
            sequence: wal::SequenceNumber(sequence.0),
            place: self.logged.place,
        };
        let contents = wal.read(stored).map_err(Error::ReadLog)?;
        let decoded = decode_batch(&self.logged.schema, &contents.messages);
        let numbered = decoded.and_then(|batch| match contents.order {
            Some(first) => with_order(&batch, first),
            None => Ok(batch),
        });
        let batch = numbered.map_err(|source| Error::UnreadableRecord {
            sequence: sequence.0,
            source,
        })?;
        if contents.table != table.0 || batch.num_rows() as u64 != self.rows {
            return Err(Error::OtherRecord {
                sequence: sequence.0,
            });
        }
        Ok(Row {
            sequence,
            batch,
            bytes: self.bytes,
            stamp_nanos: self.stamp_nanos,
            since: self.since,
            producer: contents.producer.map(|p| Producer {
                id: p.id,
                sequence: p.sequence,
                after: None,
            }),
            logged: Some(self.logged.clone()),
        })
    }
}

impl Kept {
    /// The rows themselves. Blocking when they are spilled.
    pub(crate) fn read(self, wal: &Wal, table: TableId) -> Result<Row, Error> {
        match self {
            Self::Memory(row) => Ok(row),
            Self::Log(spilled) => spilled.read(wal, table),
        }
    }
}

/// Keeps the segments with the spilled rows from `first` on.
#[derive(Debug)]
pub(crate) struct Reading {
    buffer: Arc<Buffer>,
    first: SequenceNumber,
}

impl Reading {
    pub(crate) fn new(buffer: &Arc<Buffer>, first: SequenceNumber) -> Self {
        let buffer = Arc::clone(buffer);
        Self { buffer, first }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.buffer.has_read(self.first);
    }
}
