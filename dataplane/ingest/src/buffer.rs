//! Rows in memory: those that are in no file yet, and for a grace those that are.
//!
//! Rows enter in sequence order, on the thread of the write-ahead log. Per table they leave in the
//! same order, so what is held is always "everything above a sequence number" (`floor`).

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use flightcluster_catalog::{SequenceNumber, TableId};
use parking_lot::Mutex;

use crate::producer::Producer;

/// Dropped tables that are remembered, so that queries planned before the drop are told.
const MAX_DROPPED: usize = 65_536;

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
}

/// Unflushed rows of one table, in sequence order, never empty.
#[derive(Debug)]
pub(crate) struct Unflushed {
    pub(crate) table: TableId,
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug)]
struct TableRows {
    /// Rows up to here are not held.
    floor: SequenceNumber,
    flushed: VecDeque<(Row, Instant)>,
    unflushed: VecDeque<Row>,
    unflushed_bytes: u64,
    /// Since when the oldest unflushed row waits. Not always the first: of rows of a former life the clock of
    /// that time decides.
    oldest: Option<Instant>,
}

impl TableRows {
    fn new(floor: SequenceNumber) -> Self {
        let (flushed, unflushed) = (VecDeque::new(), VecDeque::new());
        Self {
            floor,
            flushed,
            unflushed,
            unflushed_bytes: 0,
            oldest: None,
        }
    }
}

#[derive(Debug, Default)]
struct State {
    tables: HashMap<TableId, TableRows>,
    dropped: BTreeSet<TableId>,
    durable: SequenceNumber,
    /// Bytes of writes that were let in and are not in the buffer yet.
    reserved_bytes: u64,
    unflushed_bytes: u64,
    unflushed_rows: u64,
    retained_bytes: u64,
}

/// What is held, for metrics.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) durable: SequenceNumber,
    pub(crate) unflushed_bytes: u64,
    pub(crate) unflushed_rows: u64,
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
    /// alone. It has `own` bytes of what is held already.
    pub(crate) fn reserve_more(&self, own: u64, bytes: u64) -> Result<(), u64> {
        let mut state = self.state.lock();
        let held = state.unflushed_bytes + state.reserved_bytes;
        if held > own && held + bytes > self.limit_bytes {
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

    pub(crate) fn recent(
        &self,
        table: TableId,
        after: SequenceNumber,
    ) -> Result<Vec<(SequenceNumber, RecordBatch)>, TooOld> {
        let state = self.state.lock();
        if state.dropped.contains(&table) {
            let held_after = SequenceNumber(u64::MAX);
            return Err(TooOld {
                table,
                after,
                held_after,
            });
        }
        let Some(rows) = state.tables.get(&table) else {
            return Ok(vec![]);
        };
        if after < rows.floor {
            return Err(TooOld {
                table,
                after,
                held_after: rows.floor,
            });
        }
        let all = rows
            .flushed
            .iter()
            .map(|(row, _)| row)
            .chain(&rows.unflushed);
        let wanted = all.filter(|row| row.sequence > after);
        Ok(wanted
            .map(|row| (row.sequence, row.batch.clone()))
            .collect())
    }

    /// The unflushed rows of all tables that are `due`, or of all tables.
    ///
    /// When half of the limit is used, the largest tables that make up half of what is held are due
    /// as well.
    pub(crate) fn unflushed(&self, due: Option<Due>) -> Vec<Unflushed> {
        let state = self.state.lock();
        let mut tables: Vec<_> = state
            .tables
            .iter()
            .filter(|(_, rows)| !rows.unflushed.is_empty())
            .collect();
        tables.sort_unstable_by_key(|(id, rows)| (std::cmp::Reverse(rows.unflushed_bytes), **id));
        let pressed = (state.unflushed_bytes + state.reserved_bytes) * 2 >= self.limit_bytes;
        let mut taken_bytes = 0;
        let is_due = |(_, rows): &(&TableId, &TableRows)| {
            let Some(due) = due else { return true };
            let relieves = pressed && taken_bytes * 2 < state.unflushed_bytes;
            taken_bytes += rows.unflushed_bytes;
            let oldest = rows
                .unflushed
                .front()
                .map_or(i64::MAX, |row| row.stamp_nanos);
            let old = oldest <= due.before_nanos || oldest > due.now_nanos;
            relieves || old || rows.unflushed_bytes >= due.bytes
        };
        let tables = tables.into_iter().filter(is_due);
        let take = |(table, rows): (&TableId, &TableRows)| Unflushed {
            table: *table,
            rows: rows.unflushed.iter().cloned().collect(),
        };
        tables.map(take).collect()
    }

    /// Notes that rows of a table up to `up_to` are in committed files.
    pub(crate) fn mark_flushed(&self, table: TableId, up_to: SequenceNumber, now: Instant) {
        let mut state = self.state.lock();
        let Some(rows) = state.tables.get_mut(&table) else {
            return;
        };
        let (mut bytes, mut count) = (0, 0);
        while let Some(row) = rows.unflushed.pop_front_if(|row| row.sequence <= up_to) {
            bytes += row.bytes;
            count += row.batch.num_rows() as u64;
            rows.flushed.push_back((row, now));
        }
        rows.unflushed_bytes -= bytes;
        rows.oldest = rows.unflushed.iter().map(|row| row.since).min();
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
            && state.retained_bytes + state.unflushed_bytes + state.reserved_bytes
                > self.limit_bytes
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
        let Some(rows) = state.tables.remove(&table) else {
            return;
        };
        let retained: u64 = rows.flushed.iter().map(|(row, _)| row.bytes).sum();
        let count: u64 = rows
            .unflushed
            .iter()
            .map(|row| row.batch.num_rows() as u64)
            .sum();
        state.retained_bytes -= retained;
        state.unflushed_bytes -= rows.unflushed_bytes;
        state.unflushed_rows -= count;
    }

    pub(crate) fn is_dropped(&self, table: TableId) -> bool {
        self.state.lock().dropped.contains(&table)
    }

    /// Whether rows of a table are in memory, in files or not.
    pub(crate) fn has_rows(&self, table: TableId) -> bool {
        let state = self.state.lock();
        let rows = state.tables.get(&table);
        rows.is_some_and(|rows| !rows.flushed.is_empty() || !rows.unflushed.is_empty())
    }

    /// The tables with rows that are in no file.
    pub(crate) fn tables_with_unflushed(&self) -> Vec<TableId> {
        let state = self.state.lock();
        let tables = state.tables.iter();
        let tables = tables.filter(|(_, rows)| !rows.unflushed.is_empty());
        tables.map(|(table, _)| *table).collect()
    }

    /// The tables with rows that are in no file and wait since before `before`; since when the oldest does.
    pub(crate) fn waiting_since(&self, before: Instant) -> Vec<(TableId, Instant)> {
        let state = self.state.lock();
        let tables = state.tables.iter();
        let waiting = tables.filter_map(|(table, rows)| Some((*table, rows.oldest?)));
        waiting.filter(|(_, since)| *since < before).collect()
    }

    /// Every row up to here is in a file (or its table was dropped).
    pub(crate) fn flushed_up_to(&self) -> SequenceNumber {
        let state = self.state.lock();
        let first = |rows: &TableRows| rows.unflushed.front().map(|row| row.sequence.0 - 1);
        let lowest = state.tables.values().filter_map(first).min();
        lowest.map_or(state.durable, SequenceNumber)
    }

    pub(crate) fn held(&self) -> Held {
        let state = self.state.lock();
        let in_use = |rows: &&TableRows| !rows.flushed.is_empty() || !rows.unflushed.is_empty();
        Held {
            durable: state.durable,
            unflushed_bytes: state.unflushed_bytes,
            unflushed_rows: state.unflushed_rows,
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
    use std::sync::Arc;

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
            },
        );
    }

    fn recent(buffer: &Buffer, table: TableId, after: u64) -> Result<Vec<u64>, u64> {
        let rows = buffer.recent(table, SequenceNumber(after));
        let rows = rows.map(|rows| rows.into_iter().map(|(sequence, _)| sequence.0).collect());
        rows.map_err(|too_old| too_old.held_after.0)
    }

    #[test]
    fn flushed_rows_stay_for_the_grace_and_are_then_too_old() {
        let buffer = Buffer::new(1000, Duration::from_secs(60));
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
        let buffer = Buffer::new(100, Duration::from_secs(60));
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
        let buffer = Buffer::new(1000, Duration::from_secs(60));
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
        let buffer = Buffer::new(1000, Duration::from_secs(60));
        push(&buffer, A, 100, 50);
        push(&buffer, B, 200, 60);
        let due = |bytes, before_nanos| -> Vec<u64> {
            let due = buffer.unflushed(Some(Due {
                bytes,
                before_nanos,
                now_nanos: 500,
            }));
            due.iter().map(|table| table.table.0).collect()
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
}
