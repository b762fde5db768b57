//! Rows for queries: those in memory at once, spilled ones in pieces.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use flightcluster_catalog::{SequenceNumber, TableId};
use tokio::task::spawn_blocking;

use crate::buffer::{Found, Kept};
use crate::error::Error;
use crate::ingest::Core;
use crate::memory::compact_all;
use crate::spill::{Reading, Spilled};

/// Most bytes of rows that are read from the log at once, but for a batch that has more.
const PIECE_BYTES: u64 = 1 << 20;
/// Reads that go on at once, of all queries.
pub(crate) const READS_AT_ONCE: usize = 8;

/// The durable rows of a table above a sequence number, as they were when it was asked for; see
/// [`Ingest::recent`](crate::Ingest::recent). Drop it soon: the log keeps the segments it may still read.
#[derive(Debug)]
pub struct Recent {
    core: Arc<Core>,
    table: TableId,
    rows: VecDeque<Kept>,
    _reading: Option<Reading>,
}

/// Some of the rows, in order.
#[derive(Debug)]
pub struct Piece {
    /// Each batch in the schema it was written with.
    pub rows: Vec<(SequenceNumber, RecordBatch)>,
    /// They were read from the log: nobody but the caller has this memory.
    pub from_log: bool,
}

impl Recent {
    pub(crate) fn new(core: &Arc<Core>, table: TableId, found: Found) -> Self {
        let Found { rows, reading } = found;
        Self {
            core: Arc::clone(core),
            table,
            rows: rows.into(),
            _reading: reading,
        }
    }

    /// The schemas of all batches, in order; without the order numbers that those of a table with a primary key have
    /// besides.
    pub fn schemas(&self) -> impl Iterator<Item = &SchemaRef> {
        self.rows.iter().map(Kept::schema)
    }

    /// The next rows, `None` after the last.
    ///
    /// - Errors: [`Error::ReadLog`], [`Error::UnreadableRecord`] when the log does not give back what it took;
    ///   [`Error::Draining`] when it was closed: all rows are in files then. After an error there is nothing more.
    /// - Cancellation: rows that were being read are gone; drop it.
    pub async fn next(&mut self) -> Result<Option<Piece>, Error> {
        let mut piece = Piece {
            rows: Vec::new(),
            from_log: false,
        };
        while let Some(Kept::Memory(row)) = self
            .rows
            .pop_front_if(|kept| matches!(kept, Kept::Memory(_)))
        {
            piece.rows.push((row.sequence, row.batch));
        }
        if !piece.rows.is_empty() {
            return Ok(Some(piece));
        }
        let spilled = self.next_spilled();
        if spilled.is_empty() {
            return Ok(None);
        }
        let (wal, table) = (self.core.wal()?, self.table);
        // It is never closed.
        let _turn = self.core.log_reads.acquire().await;
        let read = move || {
            let rows = spilled.iter().map(|each| {
                let row = each.read(&wal, table)?;
                Ok((row.sequence, row.batch))
            });
            rows.collect::<Result<Vec<_>, Error>>()
        };
        let rows = spawn_blocking(read).await.map_err(|_| Error::Cancelled)??;
        Ok(Some(Piece {
            rows,
            from_log: true,
        }))
    }

    fn next_spilled(&mut self) -> Vec<Spilled> {
        let mut bytes = 0;
        let mut piece = Vec::new();
        while let Some(Kept::Log(spilled)) = self.rows.pop_front_if(|kept| {
            matches!(kept, Kept::Log(each) if bytes == 0 || bytes + each.bytes <= PIECE_BYTES)
        }) {
            bytes += spilled.bytes.max(1);
            piece.push(spilled);
        }
        piece
    }

    /// All of them at once; blocking, for tests.
    ///
    /// # Errors
    /// Those of [`Recent::next`].
    #[doc(hidden)]
    pub fn read_all(self) -> Result<Vec<(SequenceNumber, RecordBatch)>, Error> {
        let wal = self.core.wal();
        let rows = self.rows.into_iter().map(|kept| {
            let row = match kept {
                Kept::Memory(row) => row,
                Kept::Log(spilled) => {
                    spilled.read(wal.as_ref().map_err(|_| Error::Draining)?, self.table)?
                }
            };
            Ok((row.sequence, row.batch))
        });
        rows.collect()
    }
}

/// Copies columns of a batch that is a small part of what was read for it.
///
/// # Errors
/// When it can't be copied.
pub fn compact_read(batch: RecordBatch) -> Result<RecordBatch, Error> {
    compact_all(batch).map_err(|source| Error::EncodeBatch { source })
}
