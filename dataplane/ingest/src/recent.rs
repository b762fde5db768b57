//! Rows for queries: those in memory at once, spilled ones in pieces.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::SchemaRef;
use flightcluster_catalog::{SequenceNumber, TableId};
use flightcluster_wal::Wal;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use crate::buffer::Found;
use crate::error::Error;
use crate::handles::Shared;
use crate::ingest::Core;
use crate::memory::compact_all;
use crate::spill::{Reading, Spilled};

/// Most bytes of rows that are read from the log at once for one reader, but for a batch that has more.
const PIECE_BYTES: u64 = 1 << 20;
/// Part of the limit of the buffer that is taken by all such reads while they go on, and its bounds: a batch of
/// more than that is read alone.
const READS_SHARE: u64 = 16;
const READS_BYTES: std::ops::RangeInclusive<u64> = PIECE_BYTES..=8 * PIECE_BYTES;
/// That memory is counted in pieces of this many bytes, because a semaphore counts in 32 bits.
const UNIT_BYTES: u64 = 1024;

/// The memory of reads from the log.
#[derive(Debug)]
pub(crate) struct LogReads {
    room: Arc<Semaphore>,
    units: u32,
}

impl LogReads {
    /// What belongs to a buffer of `limit_bytes`.
    pub(crate) fn of_buffer(limit_bytes: u64) -> Self {
        let bytes = (limit_bytes / READS_SHARE).clamp(*READS_BYTES.start(), *READS_BYTES.end());
        let units = u32::try_from(bytes / UNIT_BYTES).unwrap_or(u32::MAX / 8);
        Self {
            room: Arc::new(Semaphore::new(units as usize)),
            units,
        }
    }

    /// Reads rows when it is their turn, on a thread where that may block. The turn goes on until the read is over,
    /// also when the caller goes away, and ends then, also when the caller does not look.
    async fn read(
        &self,
        wal: Arc<Wal>,
        table: TableId,
        spilled: Vec<Spilled>,
    ) -> Result<Vec<(SequenceNumber, RecordBatch)>, Error> {
        let bytes: u64 = spilled.iter().map(|each| each.bytes).sum();
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let (room, units) = (Arc::clone(&self.room), units.min(self.units));
        let read = async move {
            // It is never closed.
            let turn = room.acquire_many_owned(units).await;
            let read = move || {
                let _turn = turn;
                let rows = spilled.iter().map(|each| {
                    let row = each.read(&wal, table)?;
                    Ok((row.sequence, row.batch))
                });
                rows.collect::<Result<Vec<_>, Error>>()
            };
            spawn_blocking(read).await.map_err(|_| Error::Cancelled)?
        };
        let read = AbortOnDropHandle::new(tokio::spawn(read));
        read.await.map_err(|_| Error::Cancelled)?
    }
}

/// The durable rows of a table above a sequence number, as they were when it was asked for; see
/// [`Ingest::recent`](crate::Ingest::recent). Drop it soon: the log keeps the segments it may still read.
#[derive(Debug)]
pub struct Recent {
    core: Arc<Core>,
    table: TableId,
    memory: Vec<(SequenceNumber, RecordBatch)>,
    spilled: Shared,
    _reading: Option<Reading>,
}

/// Some of the rows.
#[derive(Debug)]
pub struct Piece {
    /// In the order of their numbers, each batch in the schema it was written with.
    pub rows: Vec<(SequenceNumber, RecordBatch)>,
    /// They were read from the log: nobody but the caller has this memory.
    pub from_log: bool,
}

impl Recent {
    pub(crate) fn new(core: &Arc<Core>, table: TableId, found: Found) -> Self {
        let Found {
            memory,
            spilled,
            reading,
        } = found;
        Self {
            core: Arc::clone(core),
            table,
            memory,
            spilled,
            _reading: reading,
        }
    }

    /// The schemas of all batches; without the order numbers that those of a table with a primary key have
    /// besides.
    pub fn schemas(&self) -> impl Iterator<Item = &SchemaRef> {
        let memory = self.memory.iter();
        let memory = memory.map(|(_, batch)| RecordBatch::schema_ref(batch));
        memory.chain(self.spilled.iter().map(|each| &each.logged.schema))
    }

    /// The next rows, `None` after the last: first those in memory, which would be held by this as well while the
    /// others are read, then those of the log.
    ///
    /// - Errors: [`Error::ReadLog`], [`Error::UnreadableRecord`] when the log does not give back what it took;
    ///   [`Error::Draining`] when it was closed: all rows are in files then. After an error there is nothing more.
    /// - Cancellation: rows that were being read are gone; drop it.
    pub async fn next(&mut self) -> Result<Option<Piece>, Error> {
        let (rows, from_log) = match std::mem::take(&mut self.memory) {
            memory if memory.is_empty() => {
                let spilled = self.spilled.take(PIECE_BYTES);
                if spilled.is_empty() {
                    return Ok(None);
                }
                let wal = self.core.wal()?;
                let read = self.core.log_reads.read(wal, self.table, spilled);
                (read.await?, true)
            }
            memory => (memory, false),
        };
        Ok(Some(Piece { rows, from_log }))
    }

    /// All of them at once, in order; blocking, for tests.
    ///
    /// # Errors
    /// Those of [`Recent::next`].
    #[doc(hidden)]
    pub fn read_all(mut self) -> Result<Vec<(SequenceNumber, RecordBatch)>, Error> {
        let mut all = std::mem::take(&mut self.memory);
        for spilled in self.spilled.take(u64::MAX) {
            let row = spilled.read(&*self.core.wal()?, self.table)?;
            all.push((row.sequence, row.batch));
        }
        all.sort_unstable_by_key(|(sequence, _)| *sequence);
        Ok(all)
    }
}

/// Copies columns of a batch that is a small part of what was read for it.
///
/// # Errors
/// When it can't be copied.
pub fn compact_read(batch: RecordBatch) -> Result<RecordBatch, Error> {
    compact_all(batch).map_err(|source| Error::EncodeBatch { source })
}
