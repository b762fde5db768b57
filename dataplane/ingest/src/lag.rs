//! Persist lag: rows that were acknowledged and can't be written to files are on one volume only. Past
//! `ingest.persist_lag` no more are taken that would join them.
//!
//! # What is refused
//! - A table whose oldest row waits for too long: one that can't be flushed (its rows can't be encoded, or a
//!   restored catalog lacks it) must not stop the others.
//! - Every table, when flushing failed last because the object store or the catalog is away, nothing at all
//!   was stored for as long, and rows wait for as long that are not those of a table that fails by itself:
//!   that nobody wrote is no failure.
//!
//! # When
//! Judged at the end of each flush, and begun by one that failed: rows that are old because the process was
//! away are no reason to refuse before it tried. Writes go on as soon as the rows are in files.
//!
//! # Ages
//! Monotonic from when the process has a row; see [`Ages`] for those of a former life.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flightcluster_catalog::TableId;
use flightcluster_config::IngestConfig;
use parking_lot::RwLock;
use tracing::{info, warn};

use crate::buffer::Buffer;
use crate::clock::Clock;
use crate::error::{Error, Fault};
use crate::flusher::chain;

/// See the module.
#[derive(Debug)]
pub(crate) struct Lag {
    setting: Duration,
    /// The age past which a row is late: until `flush_interval` nobody tries to write it. `None`: no limit.
    late_after: Option<Duration>,
    state: RwLock<State>,
}

#[derive(Debug)]
struct State {
    /// Tables that are refused: since when their oldest row waits.
    tables: HashMap<TableId, Instant>,
    /// All tables are refused: since when the oldest row waits that is not in a table of `failing`.
    all: Option<Instant>,
    /// Tables that failed by themselves, and were not ready for a commit since.
    failing: HashSet<TableId>,
    /// Why a flush failed last.
    cause: Arc<str>,
    /// It failed because something is away.
    is_away: bool,
    /// When a file was committed last, or the process began.
    stored: Instant,
}

impl Lag {
    pub(crate) fn new(config: &IngestConfig, now: Instant) -> Self {
        let setting = config.persist_lag;
        let late_after =
            (!setting.is_zero()).then(|| setting.saturating_add(config.flush_interval));
        let state = State {
            tables: HashMap::new(),
            all: None,
            failing: HashSet::new(),
            cause: Arc::from(""),
            is_away: false,
            stored: now,
        };
        Self {
            setting,
            late_after,
            state: RwLock::new(state),
        }
    }

    /// Whether rows of a table may be taken.
    ///
    /// # Errors
    /// [`Error::PersistLag`]
    pub(crate) fn check(&self, table: TableId, now: Instant) -> Result<(), Error> {
        let state = self.state.read();
        let Some(since) = state.tables.get(&table).copied().or(state.all) else {
            return Ok(());
        };
        Err(Error::PersistLag {
            waiting: now.saturating_duration_since(since),
            limit: self.setting,
            cause: Arc::clone(&state.cause),
        })
    }

    /// Notes that a file was committed.
    pub(crate) fn stored(&self, now: Instant) {
        self.state.write().stored = now;
    }

    /// Notes that the rows of a table are ready for a commit.
    pub(crate) fn prepared(&self, table: TableId) {
        self.state.write().failing.remove(&table);
    }

    /// Notes that a table could not be flushed. What is away says nothing of the table.
    pub(crate) fn failed(&self, table: TableId, error: &Error) {
        if error.fault() != Fault::Unavailable {
            self.state.write().failing.insert(table);
        }
    }

    /// Draws the consequences of a flush that ended.
    pub(crate) fn judge(&self, buffer: &Buffer, failure: Option<&Error>, now: Instant) {
        let Some(late_after) = self.late_after else {
            return;
        };
        let mut late: HashMap<_, _> = match now.checked_sub(late_after) {
            Some(before) => buffer.waiting_since(before).into_iter().collect(),
            None => HashMap::new(),
        };
        let mut state = self.state.write();
        match failure {
            Some(error) => {
                state.cause = Arc::from(chain(error));
                state.is_away = error.fault() == Fault::Unavailable;
            }
            // It may have passed over tables that failed just now.
            None => late.retain(|table, _| state.tables.contains_key(table)),
        }
        let nothing_stored = now.saturating_duration_since(state.stored) > late_after;
        let others = late.iter().filter(|(id, _)| !state.failing.contains(id));
        let oldest = others.map(|(_, since)| *since).min();
        let before = state.tables.len();
        state.all = oldest.filter(|_| state.is_away && nothing_stored);
        state.tables = late;
        match (before, state.tables.len()) {
            (0, 1..) => warn!(
                tables = state.tables.len(),
                all = state.all.is_some(),
                error = %state.cause,
                "writes are refused: acknowledged rows are in no file for longer than ingest.persist_lag"
            ),
            (1.., 0) => info!("acknowledged rows are in files again, writes are taken"),
            _ => {}
        }
    }
}

/// Since when rows of a former life wait, by the time they were stored with.
///
/// A clock that was or is wrong must not make them older than they are: the earlier of this machine's time and
/// the catalog's counts, and a row from the future is one of now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ages {
    now: Instant,
    unix_nanos: i64,
}

impl Ages {
    pub(crate) fn new(clock: &Clock, catalog_millis: i64) -> Self {
        let catalog = catalog_millis.saturating_mul(1_000_000);
        Self {
            now: clock.now(),
            unix_nanos: clock.unix_nanos().min(catalog),
        }
    }

    pub(crate) fn since(&self, stamp_nanos: i64) -> Instant {
        let age = self.unix_nanos.saturating_sub(stamp_nanos).max(0);
        let age = Duration::from_nanos(age.unsigned_abs());
        self.now.checked_sub(age).unwrap_or(self.now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{RecordBatch, RecordBatchOptions};
    use arrow_schema::Schema;
    use flightcluster_catalog::SequenceNumber;

    use super::*;
    use crate::buffer::Row;

    const HOUR: Duration = Duration::from_secs(3600);
    const A: TableId = TableId(1);
    const B: TableId = TableId(2);

    fn push(buffer: &Buffer, table: TableId, sequence: u64, since: Instant) {
        let options = RecordBatchOptions::new().with_row_count(Some(1));
        let empty = Arc::new(Schema::empty());
        let batch = RecordBatch::try_new_with_options(empty, vec![], &options);
        let row = Row {
            sequence: SequenceNumber(sequence),
            batch: batch.expect("a row without columns"),
            bytes: 1,
            stamp_nanos: 0,
            since,
            producer: None,
            logged: None,
        };
        buffer.push(table, row);
    }

    fn away() -> Error {
        Error::Store {
            path: "a".to_owned(),
            source: object_store::Error::NotImplemented {
                operation: "put".to_owned(),
                implementer: "test".to_owned(),
            },
        }
    }

    /// An hour until rows are due and a day on top, of a process that begins `now`.
    fn lag(now: Instant) -> Lag {
        let config = IngestConfig {
            flush_interval: HOUR,
            persist_lag: 24 * HOUR,
            ..IngestConfig::default()
        };
        Lag::new(&config, now)
    }

    #[test]
    fn rows_are_late_when_they_are_overdue_and_a_flush_failed() {
        let start = Instant::now();
        let (lag, buffer) = (lag(start), Buffer::new(1000, Duration::ZERO));
        push(&buffer, A, 1, start);
        push(&buffer, B, 2, start + HOUR);
        lag.judge(&buffer, Some(&away()), start + 25 * HOUR);
        lag.check(A, start + 25 * HOUR)
            .expect("due for a day, not for longer");

        let now = start + 25 * HOUR + Duration::from_secs(1);
        lag.judge(&buffer, None, now);
        lag.check(A, now)
            .expect("nothing failed: the process was away");
        lag.stored(now);
        lag.judge(&buffer, Some(&away()), now);
        lag.check(A, now).expect_err("late");
        lag.check(B, now)
            .expect("its row is younger, and something was stored");

        lag.judge(&buffer, None, now);
        lag.check(A, now)
            .expect_err("the round may have passed over it");
        buffer.mark_flushed(A, SequenceNumber(1), now);
        lag.judge(&buffer, None, now);
        lag.check(A, now).expect("in a file");
    }

    #[test]
    fn nothing_stored_for_long_because_something_is_away_concerns_all() {
        let start = Instant::now();
        let (lag, buffer) = (lag(start), Buffer::new(1000, Duration::ZERO));
        push(&buffer, A, 1, start);
        let now = start + 26 * HOUR;
        lag.judge(&buffer, Some(&Error::NoColumns), now);
        lag.check(A, now).expect_err("late");
        lag.check(B, now).expect("the failure is that of a table");
        lag.judge(&buffer, Some(&away()), now);
        lag.check(B, now).expect_err("nothing can be stored");
        lag.stored(now);
        lag.judge(&buffer, Some(&away()), now);
        lag.check(B, now).expect("something was stored");
    }

    #[test]
    fn that_nobody_wrote_for_long_is_no_failure() {
        let start = Instant::now();
        let (lag, buffer) = (lag(start), Buffer::new(1000, Duration::ZERO));
        push(&buffer, A, 1, start);
        lag.failed(A, &Error::NoColumns);
        let now = start + 26 * HOUR;
        push(&buffer, B, 2, now - HOUR);
        lag.failed(A, &away());
        lag.judge(&buffer, Some(&away()), now);
        lag.check(A, now).expect_err("late");
        lag.check(B, now)
            .expect("its first attempt in a day failed, an hour after the row came");

        let later = now + 25 * HOUR;
        lag.judge(&buffer, Some(&away()), later);
        lag.check(TableId(3), later)
            .expect_err("nothing of others can be stored for a day either");
        buffer.mark_flushed(B, SequenceNumber(2), later);
        lag.prepared(A);
        lag.judge(&buffer, Some(&away()), later);
        lag.check(B, later)
            .expect_err("the table is right again, and can't be stored");
    }

    /// Of rows that were stored under another clock, the first may seem to be the youngest.
    #[test]
    fn the_oldest_row_counts_wherever_it_is() {
        let start = Instant::now();
        let buffer = Buffer::new(1000, Duration::ZERO);
        push(&buffer, A, 1, start + 2 * HOUR);
        push(&buffer, A, 2, start);
        push(&buffer, A, 3, start + HOUR);
        assert_eq!(buffer.held().oldest, Some(start));
        assert_eq!(buffer.waiting_since(start), []);
        buffer.mark_flushed(A, SequenceNumber(2), start);
        assert_eq!(buffer.held().oldest, Some(start + HOUR));
    }

    #[test]
    fn a_wrong_clock_makes_no_row_older_than_it_is() {
        let (clock, hand) = Clock::manual();
        hand.advance(Duration::from_secs(1000));
        let seconds = |seconds: i64| seconds * 1_000_000_000;
        let age = |catalog_seconds: i64, stamp_seconds: i64| {
            let ages = Ages::new(&clock, catalog_seconds * 1000);
            clock
                .now()
                .duration_since(ages.since(seconds(stamp_seconds)))
        };
        assert_eq!(age(1000, 400), Duration::from_secs(600));
        assert_eq!(age(500, 400), Duration::from_secs(100), "ours is ahead");
        assert_eq!(
            age(5000, 400),
            Duration::from_secs(600),
            "the other is ahead"
        );
        assert_eq!(age(1000, 2000), Duration::ZERO, "a row from the future");
        assert_eq!(age(300, 400), Duration::ZERO);
    }
}
