//! The rows that are in no file yet, and for a grace those that are.
//!
//! Rows enter in sequence order, on the thread of the write-ahead log. Per table they leave in the
//! same order, so what is held is always "everything above a sequence number" (`floor`).
//!
//! Of unflushed rows the oldest may be spilled ([`crate::spill`]): then the buffer has only a handle, and the log the
//! rows. In the order of their numbers those of a table are flushed, spilled, and unflushed in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use flightcluster_catalog::{SequenceNumber, TableId};
use parking_lot::Mutex;
use tracing::info;

use crate::handles::{Handles, Shared, Taken};
use crate::producer::Producer;
use crate::spill::{HANDLE_BYTES, Logged, Reading, Spilled};

/// Dropped tables that are remembered, so that queries planned before the drop are told.
const MAX_DROPPED: usize = 65_536;
/// Rows are spilled by this part of the limit at least: looking for the oldest takes a look at every table.
const SPILLED_AT_LEAST: u64 = 16;

/// The asked rows have left memory: they are in files of a newer snapshot (or their table was
/// dropped). Plan again with a new snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "rows of table {table} after sequence {after} are no longer in memory, only after {held_after}"
)]
pub struct TooOld {
    /// The table.
    pub table: TableId,
    /// The sequence number asked for.
    pub after: SequenceNumber,
    /// The lowest sequence number that could have been asked for.
    pub held_after: SequenceNumber,
}

/// Durable rows of one batch.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) sequence: SequenceNumber,
    pub(crate) batch: RecordBatch,
    pub(crate) bytes: u64,
    pub(crate) stamp_nanos: i64,
    /// Since when it is acknowledged, by the clock of this process.
    pub(crate) since: Instant,
    pub(crate) producer: Option<Producer>,
    /// Where the log has it; rows without it stay in memory.
    pub(crate) logged: Option<Logged>,
}

/// Rows of one batch, wherever they are.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    Memory(Row),
    Log(Spilled),
}

impl Kept {
    pub(crate) fn sequence(&self) -> SequenceNumber {
        match self {
            Self::Memory(row) => row.sequence,
            Self::Log(spilled) => spilled.sequence,
        }
    }
}

/// Which unflushed rows a round takes.
#[derive(Debug, Default)]
pub(crate) struct Round {
    pub(crate) tables: Vec<Unflushed>,
    /// There are more that it was to take.
    pub(crate) has_more: bool,
}

/// Which unflushed rows of one table a round takes, in sequence order, never empty.
#[derive(Debug)]
pub(crate) struct Unflushed {
    pub(crate) table: TableId,
    /// Numbers and bytes in memory of its batches.
    pub(crate) batches: Vec<(SequenceNumber, u64)>,
}

/// What a reader finds.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The rows in memory, in order.
    pub(crate) memory: Vec<(SequenceNumber, RecordBatch)>,
    /// Those that only the log has.
    pub(crate) spilled: Shared,
    /// Keeps their segments.
    pub(crate) reading: Option<Reading>,
}

#[derive(Debug)]
struct TableRows {
    /// Rows up to here are not held.
    floor: SequenceNumber,
    flushed: VecDeque<(Row, Instant)>,
    spilled: Handles,
    unflushed: VecDeque<Row>,
    unflushed_bytes: u64,
    /// Since when the oldest unflushed row waits. Not always the first: of rows of a former life the clock of
    /// that time decides.
    oldest: Option<Instant>,
}

impl TableRows {
    fn new(floor: SequenceNumber) -> Self {
        Self {
            floor,
            flushed: VecDeque::new(),
            spilled: Handles::default(),
            unflushed: VecDeque::new(),
            unflushed_bytes: 0,
            oldest: None,
        }
    }

    /// Number and stamp of the first row that is in no file.
    fn first_unflushed(&self) -> Option<(SequenceNumber, i64)> {
        let spilled = self
            .spilled
            .first()
            .map(|each| (each.sequence, each.stamp_nanos));
        spilled.or_else(|| {
            self.unflushed
                .front()
                .map(|row| (row.sequence, row.stamp_nanos))
        })
    }

    fn is_flushed(&self) -> bool {
        self.spilled.is_empty() && self.unflushed.is_empty()
    }

    /// Numbers and bytes of what is in no file.
    fn batches(&self) -> impl Iterator<Item = (SequenceNumber, u64)> {
        let spilled = self.spilled.iter().map(|each| (each.sequence, each.bytes));
        spilled.chain(self.unflushed.iter().map(|row| (row.sequence, row.bytes)))
    }
}

#[derive(Debug, Default)]
struct State {
    tables: HashMap<TableId, TableRows>,
    dropped: BTreeSet<TableId>,
    durable: SequenceNumber,
    /// Bytes of writes that were let in and are not in the buffer yet.
    reserved_bytes: u64,
    /// In memory.
    unflushed_bytes: u64,
    /// Spilled or not.
    unflushed_rows: u64,
    /// What spilled rows took in memory, and will again when they are flushed.
    spilled_bytes: u64,
    spilled_batches: u64,
    retained_bytes: u64,
    /// Rows were spilled because a flush takes long, and none ended since.
    is_stuck: bool,
    /// The first spilled row each reader may still read, and how many begin with it.
    readers: BTreeMap<SequenceNumber, u64>,
}

impl State {
    /// Bytes in memory that can't be given back at once.
    fn used_bytes(&self) -> u64 {
        self.unflushed_bytes + self.reserved_bytes + self.spilled_batches * HANDLE_BYTES
    }
}

/// What is held, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) durable: SequenceNumber,
    pub(crate) unflushed_bytes: u64,
    pub(crate) unflushed_rows: u64,
    pub(crate) spilled_bytes: u64,
    /// What remembering spilled rows takes.
    pub(crate) handle_bytes: u64,
    pub(crate) retained_bytes: u64,
    pub(crate) tables: u64,
    /// Since when the oldest unflushed row waits.
    pub(crate) oldest: Option<Instant>,
}

/// Which tables are due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Due {
    /// Tables with this many bytes.
    pub(crate) bytes: u64,
    /// Tables with a row from before this time, nanoseconds since the Unix epoch.
    pub(crate) before_nanos: i64,
    /// Tables with a row from after this time: the clock was set back, its age can't be known.
    pub(crate) now_nanos: i64,
}

/// The rows of all tables.
#[derive(Debug)]
pub(crate) struct Buffer {
    state: Mutex<State>,
    limit_bytes: u64,
    grace: Duration,
}

impl Buffer {
    pub(crate) fn new(limit_bytes: u64, grace: Duration) -> Self {
        Self {
            state: Mutex::default(),
            limit_bytes,
            grace,
        }
    }

    /// Takes over what the catalog says about files: rows up to the watermark are not held.
    pub(crate) fn restore(&self, watermarks: &[(TableId, SequenceNumber)]) {
        let mut state = self.state.lock();
        for (table, watermark) in watermarks {
            state.tables.insert(*table, TableRows::new(*watermark));
            state.durable = state.durable.max(*watermark);
        }
    }

    #[cfg(test)]
    pub(crate) fn reserve(&self, bytes: u64) -> Result<(), u64> {
        self.reserve_more(0, bytes)
    }

    /// Lets a write of `bytes` in, or says how much is held. A write larger than the limit is let in
    /// alone, or beside handles alone. It has `own` bytes of what is held already.
    pub(crate) fn reserve_more(&self, own: u64, bytes: u64) -> Result<(), u64> {
        let mut state = self.state.lock();
        let held = state.used_bytes();
        let is_alone = state.unflushed_bytes + state.reserved_bytes <= own
            && state.spilled_batches * HANDLE_BYTES <= self.limit_bytes / 2;
        if !is_alone && held + bytes > self.limit_bytes {
            return Err(held);
        }
        state.reserved_bytes += bytes;
        self.let_go(&mut state);
        Ok(())
    }

    /// Lets a write of `bytes` in, whatever is held.
    pub(crate) fn reserve_anyway(&self, bytes: u64) {
        self.state.lock().reserved_bytes += bytes;
    }

    /// Takes a reservation back.
    pub(crate) fn release(&self, bytes: u64) {
        self.state.lock().reserved_bytes -= bytes;
    }

    /// Adds durable rows and returns the unflushed bytes of their table. Called in sequence order.
    pub(crate) fn push(&self, table: TableId, row: Row) -> u64 {
        let mut state = self.state.lock();
        state.durable = row.sequence;
        if state.dropped.contains(&table) {
            return 0;
        }
        state.unflushed_bytes += row.bytes;
        state.unflushed_rows += row.batch.num_rows() as u64;
        let rows = state.tables.entry(table);
        let rows = rows.or_insert_with(|| TableRows::new(SequenceNumber(0)));
        rows.unflushed_bytes += row.bytes;
        rows.oldest = Some(
            rows.oldest
                .map_or(row.since, |oldest| oldest.min(row.since)),
        );
        rows.unflushed.push_back(row);
        rows.unflushed_bytes
    }

    /// Notes a durable sequence number that has no rows here (replay of flushed or dropped ones).
    pub(crate) fn skip(&self, sequence: SequenceNumber) {
        self.state.lock().durable = sequence;
    }

    /// Lets the oldest rows go that the log has too, until no more than `most_bytes` are in use and a little besides:
    /// it is not to be done again for each write. Returns whether any went.
    pub(crate) fn spill(&self, most_bytes: u64) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.used_bytes() <= most_bytes {
            return false;
        }
        let enough = most_bytes.saturating_sub(self.limit_bytes / SPILLED_AT_LEAST);
        let can_go = |rows: &TableRows| {
            let row = rows.unflushed.front()?;
            row.logged.as_ref().map(|_| row.sequence)
        };
        let tables = state.tables.iter();
        let mut oldest: BTreeSet<(SequenceNumber, TableId)> = tables
            .filter_map(|(id, rows)| Some((can_go(rows)?, *id)))
            .collect();
        let had_spilled = state.spilled_batches > 0;
        let mut has_spilled = false;
        while state.used_bytes() > enough {
            let Some((_, id)) = oldest.pop_first() else {
                break;
            };
            let Some(rows) = state.tables.get_mut(&id) else {
                continue;
            };
            let Some(Ok(spilled)) = rows.unflushed.pop_front().map(Spilled::of) else {
                continue;
            };
            rows.unflushed_bytes -= spilled.bytes;
            state.unflushed_bytes -= spilled.bytes;
            state.spilled_bytes += spilled.bytes;
            state.spilled_batches += 1;
            rows.spilled.push(spilled);
            has_spilled = true;
            oldest.extend(can_go(rows).map(|next| (next, id)));
        }
        if has_spilled && !had_spilled {
            info!(
                "rows that are in no file leave memory and are read from the log until they are flushed"
            );
        }
        has_spilled
    }

    /// Whether writes need not wait for a flush that others waited for in vain.
    pub(crate) fn is_stuck(&self) -> bool {
        self.state.lock().is_stuck
    }

    /// Whether rows are spilled. The next flushes take those, which makes no room in memory.
    pub(crate) fn has_spilled(&self) -> bool {
        self.state.lock().spilled_batches > 0
    }

    /// Says that a write waited for a flush in vain; until the next one ends.
    pub(crate) fn set_stuck(&self) {
        self.state.lock().is_stuck = true;
    }

    /// The rows of a table above a number. Those that are spilled stay in the log for as long as the answer has
    /// them.
    pub(crate) fn recent(
        self: &Arc<Self>,
        table: TableId,
        after: SequenceNumber,
    ) -> Result<Found, TooOld> {
        let mut state = self.state.lock();
        if state.dropped.contains(&table) {
            let held_after = SequenceNumber(u64::MAX);
            return Err(TooOld {
                table,
                after,
                held_after,
            });
        }
        let Some(rows) = state.tables.get(&table) else {
            return Ok(Found::default());
        };
        if after < rows.floor {
            return Err(TooOld {
                table,
                after,
                held_after: rows.floor,
            });
        }
        let flushed = rows.flushed.iter().map(|(row, _)| row);
        let memory = flushed.chain(&rows.unflushed);
        let memory = memory.filter(|row| row.sequence > after);
        let memory = memory.map(|row| (row.sequence, row.batch.clone()));
        let memory = memory.collect();
        let spilled = rows.spilled.share(after);
        let first = spilled.first().map(|each| each.sequence);
        let reading = first.map(|first| {
            *state.readers.entry(first).or_default() += 1;
            Reading::new(self, first)
        });
        Ok(Found {
            memory,
            spilled,
            reading,
        })
    }

    /// Ends what [`Buffer::recent`] began.
    pub(crate) fn has_read(&self, first: SequenceNumber) {
        let mut state = self.state.lock();
        if let Some(readers) = state.readers.get_mut(&first) {
            *readers -= 1;
            if *readers == 0 {
                state.readers.remove(&first);
            }
        }
    }

    /// The unflushed rows of a table with these numbers.
    pub(crate) fn take_unflushed(&self, table: TableId, numbers: &[SequenceNumber]) -> Vec<Kept> {
        let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
            return Vec::new();
        };
        let state = self.state.lock();
        let Some(rows) = state.tables.get(&table) else {
            return Vec::new();
        };
        let spilled = rows.spilled.range(*first, *last).cloned();
        let spilled = spilled.map(Kept::Log);
        // They are sorted, and there may be very many.
        let from = rows.unflushed.partition_point(|row| row.sequence < *first);
        let to = rows.unflushed.partition_point(|row| row.sequence <= *last);
        let unflushed = rows.unflushed.range(from..to).cloned();
        spilled.chain(unflushed.map(Kept::Memory)).collect()
    }

    /// The unflushed rows of all `wanted` tables that are `due`, or of all of them; no more than the buffer may hold,
    /// from the oldest on, so that the log can let go of them. `has_more` is said of those up to `goal`.
    ///
    /// When half of the limit is used, the largest tables that make up half of what is held are due
    /// as well.
    pub(crate) fn unflushed(
        &self,
        due: Option<Due>,
        goal: SequenceNumber,
        wanted: impl Fn(TableId) -> bool,
    ) -> Round {
        let state = self.state.lock();
        let mut tables: Vec<_> = state
            .tables
            .iter()
            .filter(|(_, rows)| !rows.is_flushed())
            .collect();
        tables.sort_unstable_by_key(|(id, rows)| (std::cmp::Reverse(rows.unflushed_bytes), **id));
        let pressed = state.used_bytes() * 2 >= self.limit_bytes;
        let mut taken_bytes = 0;
        let is_due = |(_, rows): &(&TableId, &TableRows)| {
            let Some(due) = due else { return true };
            let relieves = pressed && taken_bytes * 2 < state.unflushed_bytes;
            taken_bytes += rows.unflushed_bytes;
            let oldest = rows.first_unflushed().map_or(i64::MAX, |(_, stamp)| stamp);
            let old = oldest <= due.before_nanos || oldest > due.now_nanos;
            // Memory is short, or was.
            let is_spilled = !rows.spilled.is_empty();
            relieves || old || is_spilled || rows.unflushed_bytes >= due.bytes
        };
        let tables = tables.into_iter().filter(is_due);
        let tables = tables.filter(|(id, _)| wanted(**id));
        let mut tables: Vec<_> = tables.collect();
        tables.sort_unstable_by_key(|(_, rows)| rows.first_unflushed());
        let mut round = Round::default();
        let mut taken_bytes = 0_u64;
        for (table, rows) in tables {
            let mut all = rows.batches().peekable();
            let batches = std::iter::from_fn(|| {
                let next = all.next_if(|_| taken_bytes < self.limit_bytes)?;
                taken_bytes = taken_bytes.saturating_add(next.1);
                Some(next)
            });
            let batches: Vec<_> = batches.collect();
            round.has_more |= all.peek().is_some_and(|(next, _)| *next <= goal);
            if !batches.is_empty() {
                let table = *table;
                round.tables.push(Unflushed { table, batches });
            }
        }
        round
    }

    /// Notes that rows of a table up to `up_to` are in committed files.
    pub(crate) fn mark_flushed(&self, table: TableId, up_to: SequenceNumber, now: Instant) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.is_stuck = false;
        let Some(rows) = state.tables.get_mut(&table) else {
            return;
        };
        let (mut bytes, mut count) = (0, 0);
        let taken = rows.spilled.take_up_to(up_to);
        // No grace: it would keep segments when the log is short of them.
        rows.floor = taken.last.unwrap_or(rows.floor);
        state.spilled_bytes -= taken.bytes;
        state.spilled_batches -= taken.batches;
        state.unflushed_rows -= taken.rows;
        while let Some((row, _)) = rows
            .flushed
            .pop_front_if(|(row, _)| row.sequence <= rows.floor)
        {
            state.retained_bytes -= row.bytes;
        }
        while let Some(row) = rows.unflushed.pop_front_if(|row| row.sequence <= up_to) {
            bytes += row.bytes;
            count += row.batch.num_rows() as u64;
            rows.flushed.push_back((row, now));
        }
        rows.unflushed_bytes -= bytes;
        let unflushed = rows.unflushed.iter().map(|row| row.since);
        rows.oldest = unflushed.chain(rows.spilled.oldest()).min();
        state.unflushed_bytes -= bytes;
        state.unflushed_rows -= count;
        state.retained_bytes += bytes;
    }

    /// Lets go of flushed rows whose grace is over, and of more, oldest first, when the limit would
    /// be passed.
    pub(crate) fn evict(&self, now: Instant) {
        let mut state = self.state.lock();
        let state = &mut *state;
        let mut freed = 0;
        for rows in state.tables.values_mut() {
            let grace = self.grace;
            while let Some((row, _)) = rows.flushed.pop_front_if(|(_, at)| *at + grace <= now) {
                freed += row.bytes;
                rows.floor = row.sequence;
            }
        }
        state.retained_bytes -= freed;
        self.let_go(state);
    }

    /// Lets go of flushed rows, oldest first, until the limit is kept.
    fn let_go(&self, state: &mut State) {
        while state.retained_bytes > 0
            && state.retained_bytes + state.used_bytes() > self.limit_bytes
        {
            let oldest = |rows: &&mut TableRows| rows.flushed.front().map(|(_, at)| *at);
            let rows = state
                .tables
                .values_mut()
                .filter(|rows| !rows.flushed.is_empty());
            let Some(rows) = rows.min_by_key(oldest) else {
                break;
            };
            let Some((row, _)) = rows.flushed.pop_front() else {
                break;
            };
            state.retained_bytes -= row.bytes;
            rows.floor = row.sequence;
        }
    }

    /// Forgets a dropped table.
    pub(crate) fn drop_table(&self, table: TableId) {
        let mut state = self.state.lock();
        state.dropped.insert(table);
        if state.dropped.len() > MAX_DROPPED {
            state.dropped.pop_first();
        }
        let Some(mut rows) = state.tables.remove(&table) else {
            return;
        };
        let retained: u64 = rows.flushed.iter().map(|(row, _)| row.bytes).sum();
        let in_memory = rows.unflushed.iter();
        let in_memory = in_memory.map(|row| row.batch.num_rows() as u64);
        let Taken {
            batches,
            rows: spilled,
            bytes,
            ..
        } = rows.spilled.take_up_to(SequenceNumber(u64::MAX));
        let count = in_memory.sum::<u64>() + spilled;
        state.spilled_bytes -= bytes;
        state.spilled_batches -= batches;
        state.retained_bytes -= retained;
        state.unflushed_bytes -= rows.unflushed_bytes;
        state.unflushed_rows -= count;
    }

    pub(crate) fn is_dropped(&self, table: TableId) -> bool {
        self.state.lock().dropped.contains(&table)
    }

    /// Whether rows of a table are held, in files or not.
    pub(crate) fn has_rows(&self, table: TableId) -> bool {
        let state = self.state.lock();
        let rows = state.tables.get(&table);
        rows.is_some_and(|rows| !rows.flushed.is_empty() || !rows.is_flushed())
    }

    pub(crate) fn has_unflushed(&self, table: TableId) -> bool {
        let state = self.state.lock();
        let rows = state.tables.get(&table);
        rows.is_some_and(|rows| !rows.is_flushed())
    }

    /// The tables with rows that are in no file.
    pub(crate) fn tables_with_unflushed(&self) -> Vec<TableId> {
        let state = self.state.lock();
        let tables = state.tables.iter();
        let tables = tables.filter(|(_, rows)| !rows.is_flushed());
        tables.map(|(table, _)| *table).collect()
    }

    /// The tables with rows that are in no file and wait since before `before`; since when the oldest does.
    pub(crate) fn waiting_since(&self, before: Instant) -> Vec<(TableId, Instant)> {
        let state = self.state.lock();
        let tables = state.tables.iter();
        let waiting = tables.filter_map(|(table, rows)| Some((*table, rows.oldest?)));
        waiting.filter(|(_, since)| *since < before).collect()
    }

    /// Every row up to here is in a file (or its table was dropped), and nobody reads it from the log.
    pub(crate) fn flushed_up_to(&self) -> SequenceNumber {
        let state = self.state.lock();
        let first = |rows: &TableRows| Some(rows.first_unflushed()?.0);
        let unflushed = state.tables.values().filter_map(first).min();
        let read = state.readers.keys().next().copied();
        let needed = unflushed.into_iter().chain(read).min();
        needed.map_or(state.durable, |needed| SequenceNumber(needed.0 - 1))
    }

    pub(crate) fn held(&self) -> Held {
        let state = self.state.lock();
        let in_use = |rows: &&TableRows| !rows.flushed.is_empty() || !rows.is_flushed();
        Held {
            durable: state.durable,
            unflushed_bytes: state.unflushed_bytes,
            unflushed_rows: state.unflushed_rows,
            spilled_bytes: state.spilled_bytes,
            handle_bytes: state.spilled_batches * HANDLE_BYTES,
            retained_bytes: state.retained_bytes,
            tables: state.tables.values().filter(in_use).count() as u64,
            oldest: state.tables.values().filter_map(|rows| rows.oldest).min(),
        }
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use arrow_array::{ArrayRef, Int64Array};

    use super::*;

    const A: TableId = TableId(1);
    const B: TableId = TableId(2);

    fn push(buffer: &Buffer, table: TableId, sequence: u64, bytes: u64) {
        let column = Arc::new(Int64Array::from(vec![sequence as i64])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let sequence = SequenceNumber(sequence);
        let stamp_nanos = sequence.0 as i64;
        buffer.push(
            table,
            Row {
                sequence,
                batch,
                bytes,
                stamp_nanos,
                since: Instant::now(),
                producer: None,
                logged: None,
            },
        );
    }

    fn recent(buffer: &Arc<Buffer>, table: TableId, after: u64) -> Result<Vec<u64>, u64> {
        let rows = buffer.recent(table, SequenceNumber(after));
        let rows = rows.map(|found| found.memory.iter().map(|(number, _)| number.0).collect());
        rows.map_err(|too_old| too_old.held_after.0)
    }

    #[test]
    fn flushed_rows_stay_for_the_grace_and_are_then_too_old() {
        let buffer = Arc::new(Buffer::new(1000, Duration::from_secs(60)));
        let start = Instant::now();
        for sequence in [1, 3, 5] {
            push(&buffer, A, sequence, 10);
        }
        push(&buffer, B, 6, 10);
        buffer.mark_flushed(A, SequenceNumber(3), start);
        assert_eq!(recent(&buffer, A, 0), Ok(vec![1, 3, 5]));
        assert_eq!(recent(&buffer, A, 3), Ok(vec![5]));

        buffer.evict(start + Duration::from_secs(59));
        assert_eq!(recent(&buffer, A, 0), Ok(vec![1, 3, 5]));
        buffer.evict(start + Duration::from_secs(60));
        assert_eq!(recent(&buffer, A, 2), Err(3));
        assert_eq!(recent(&buffer, A, 3), Ok(vec![5]));
        assert_eq!(recent(&buffer, B, 0), Ok(vec![6]));
        assert_eq!(recent(&buffer, TableId(9), 0), Ok(vec![]));
    }

    #[test]
    fn retained_rows_leave_early_when_memory_is_short() {
        let buffer = Arc::new(Buffer::new(100, Duration::from_secs(60)));
        let start = Instant::now();
        push(&buffer, A, 1, 40);
        buffer.mark_flushed(A, SequenceNumber(1), start);
        push(&buffer, B, 2, 40);
        buffer.mark_flushed(B, SequenceNumber(2), start + Duration::from_secs(1));
        push(&buffer, A, 3, 40);
        buffer.evict(start + Duration::from_secs(1));
        assert_eq!(recent(&buffer, A, 0), Err(1), "the oldest goes first");
        assert_eq!(recent(&buffer, B, 0), Ok(vec![2]));
        assert_eq!(
            recent(&buffer, A, 1),
            Ok(vec![3]),
            "unflushed rows never leave"
        );
    }

    #[test]
    fn the_log_may_forget_what_no_table_needs() {
        let buffer = Arc::new(Buffer::new(1000, Duration::from_secs(60)));
        push(&buffer, A, 1, 10);
        push(&buffer, B, 2, 10);
        push(&buffer, A, 3, 10);
        assert_eq!(buffer.flushed_up_to(), SequenceNumber(0));
        buffer.mark_flushed(A, SequenceNumber(3), Instant::now());
        assert_eq!(buffer.flushed_up_to(), SequenceNumber(1));
        buffer.drop_table(B);
        assert_eq!(buffer.flushed_up_to(), SequenceNumber(3));
        assert_eq!(recent(&buffer, B, 0), Err(u64::MAX), "never silently short");
        let held = buffer.held();
        assert_eq!(
            (
                held.unflushed_bytes,
                held.unflushed_rows,
                held.retained_bytes
            ),
            (0, 0, 20)
        );
    }

    #[test]
    fn tables_are_due_by_size_age_and_pressure() {
        let buffer = Arc::new(Buffer::new(1000, Duration::from_secs(60)));
        push(&buffer, A, 100, 50);
        push(&buffer, B, 200, 60);
        let due = |bytes, before_nanos| -> Vec<u64> {
            let due = Due {
                bytes,
                before_nanos,
                now_nanos: 500,
            };
            let due = buffer.unflushed(Some(due), SequenceNumber(0), |_| true);
            due.tables.iter().map(|table| table.table.0).collect()
        };
        assert_eq!(due(60, 0), [2]);
        assert_eq!(due(999, 100), [1]);
        assert_eq!(due(999, 99), [0; 0]);
        push(&buffer, TableId(3), 501, 1);
        assert_eq!(due(999, 99), [3], "from the future");
        buffer.drop_table(TableId(3));
        buffer.reserve(890).unwrap();
        assert_eq!(
            due(999, 0),
            [2],
            "under pressure the largest tables are due"
        );
    }

    #[test]
    fn a_write_larger_than_the_limit_is_let_in_alone() {
        let buffer = Buffer::new(100, Duration::ZERO);
        buffer.reserve(500).unwrap();
        assert_eq!(buffer.reserve(1), Err(500));
        buffer.release(500);
        buffer.reserve(60).unwrap();
        assert_eq!(buffer.reserve(41), Err(60));
        buffer.reserve(40).unwrap();
    }

    /// Rows that stay in memory are not its own.
    #[test]
    fn a_write_is_not_alone_beside_rows_of_others() {
        let buffer = Buffer::new(100, Duration::ZERO);
        push(&buffer, A, 1, 50);
        assert_eq!(buffer.reserve_more(0, 500), Err(50));
        assert_eq!(buffer.reserve_more(49, 500), Err(50));
        assert_eq!(buffer.reserve_more(50, 500), Ok(()));
    }
}
