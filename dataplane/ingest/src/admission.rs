//! Back-pressure: a write is let in while there is room, waits for the flusher when there is none, and
//! is refused when that takes too long.
//!
//! Waiting slows a stream down to the speed of flushing, which is what a bulk load wants: it ends later
//! instead of failing half-way. While flushes fail there is nothing to wait for: the oldest rows leave memory
//! ([`crate::spill`]), and only what has no such rows left is refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::buffer::Buffer;
use crate::error::Error;

/// How long a write waits for room while flushes succeed: several of the largest flushes, and well
/// below the time after which clients and proxies give a silent stream up.
const WAIT_WHILE_FLUSHING: Duration = Duration::from_secs(20);
/// How long while they fail: somebody has to help first, and the client should learn it.
const WAIT_WHILE_FAILING: Duration = Duration::from_millis(500);
/// How long a write waits before it spills rows although no flush failed: a store that hangs does not fail.
const SPILL_AFTER: Duration = Duration::from_secs(5);
/// When a refused client should come back: a large flush takes about this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Room in the buffer for one write; given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    buffer: Arc<Buffer>,
    freed: Arc<Notify>,
    bytes: u64,
}

/// Room in the buffer that was given to a message before it is decoded, so that many uploads at once
/// can't hold more in memory than the buffer may. Given back when dropped.
#[derive(Debug)]
pub struct Room {
    pub(crate) admission: Admission,
    /// What it turned out to need.
    pub(crate) needed_bytes: u64,
}

impl Room {
    pub(crate) fn new(admission: Admission) -> Self {
        Self {
            needed_bytes: admission.bytes,
            admission,
        }
    }

    /// The batch needs this many bytes once it is stored; the writer waits for more room if it must.
    pub fn needs(&mut self, bytes: u64) {
        self.needed_bytes = self.needed_bytes.max(bytes);
    }

    /// Takes over the room of another message.
    pub fn absorb(&mut self, other: Self) {
        self.admission.absorb(other.admission);
        self.needed_bytes = self.admission.bytes;
    }

    /// Gives back all but `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        self.admission.shrink_to(bytes);
        self.needed_bytes = self.admission.bytes;
    }
}

/// What a write has to do with flushes.
pub(crate) struct Flushing<'a> {
    /// Wakes the flusher.
    pub(crate) due: &'a Notify,
    /// Is told when room was made.
    pub(crate) freed: &'a Arc<Notify>,
    /// Whether the last flush failed.
    pub(crate) is_failing: &'a (dyn Fn() -> bool + Sync),
    /// Whether the log is far from its limit.
    pub(crate) log_has_room: &'a (dyn Fn() -> bool + Sync),
}

/// Waits for room for `bytes`. `own` of the bytes held are the caller's already.
pub(crate) async fn admit(
    buffer: &Arc<Buffer>,
    flushing: &Flushing<'_>,
    own: u64,
    bytes: u64,
) -> Result<Admission, Error> {
    let Flushing {
        due,
        freed,
        is_failing,
        log_has_room,
    } = flushing;
    let started = Instant::now();
    loop {
        // Registered before the check, so that room made in between is not missed.
        let waiting = freed.notified();
        let held = match buffer.reserve_more(own, bytes) {
            Ok(()) => {
                let (buffer, freed) = (Arc::clone(buffer), Arc::clone(*freed));
                return Ok(Admission {
                    buffer,
                    freed,
                    bytes,
                });
            }
            Err(held) => held,
        };
        due.notify_one();
        // Otherwise the flusher will make room; to read rows again that it is about to write slows it down.
        let waited = started.elapsed() >= SPILL_AFTER;
        if waited {
            buffer.set_stuck();
        }
        let may_spill = waited
            || buffer.is_stuck()
            || is_failing()
            // What is flushed now is spilled already.
            || (buffer.has_spilled() && log_has_room());
        if may_spill && buffer.spill(buffer.limit_bytes().saturating_sub(bytes)) {
            continue;
        }
        let patience = match is_failing() {
            true => WAIT_WHILE_FAILING,
            false => WAIT_WHILE_FLUSHING,
        };
        let deadline = started + patience;
        // In steps: flushes may begin to fail meanwhile.
        let step = deadline.min(Instant::now() + WAIT_WHILE_FAILING);
        let in_vain = timeout_at(step, waiting).await.is_err();
        if in_vain && Instant::now() >= deadline {
            return Err(Error::Overloaded {
                buffered_bytes: held,
                limit_bytes: buffer.limit_bytes(),
                retry_after: RETRY_AFTER,
            });
        }
    }
}

impl Admission {
    /// Bytes it has room for.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn absorb(&mut self, mut other: Self) {
        self.bytes += std::mem::take(&mut other.bytes);
    }

    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let given_back = self.bytes.saturating_sub(bytes);
        self.bytes -= given_back;
        self.buffer.release(given_back);
        self.freed.notify_waiters();
    }

    /// Has room for at least `bytes` from now on, also when there is none: for what differs from an
    /// estimate.
    pub(crate) fn cover(&mut self, bytes: u64) {
        let missing = bytes.saturating_sub(self.bytes);
        self.buffer.reserve_anyway(missing);
        self.bytes += missing;
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.buffer.release(self.bytes);
        self.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use arrow_array::RecordBatch;
    use arrow_schema::Schema;
    use flightcluster_catalog::{SequenceNumber, TableId};
    use flightcluster_wal::Place;

    use super::*;
    use crate::buffer::Row;
    use crate::spill::Logged;

    /// A row that the log is said to have.
    fn logged_row(sequence: u64, bytes: u64) -> Row {
        let schema = Arc::new(Schema::empty());
        Row {
            sequence: SequenceNumber(sequence),
            batch: RecordBatch::new_empty(Arc::clone(&schema)),
            bytes,
            stamp_nanos: 0,
            since: std::time::Instant::now(),
            producer: None,
            logged: Some(Logged {
                place: Place::default(),
                schema,
            }),
        }
    }

    async fn admit_beside(
        buffer: &Arc<Buffer>,
        due: &Notify,
        freed: &Arc<Notify>,
        failing: bool,
        bytes: u64,
    ) -> Result<Admission, Error> {
        let flushing = Flushing {
            due,
            freed,
            is_failing: &|| failing,
            log_has_room: &|| false,
        };
        admit(buffer, &flushing, 0, bytes).await
    }

    /// Asks for a byte where all are taken and given back after `flush`.
    async fn admit_during(flush: Duration, failing: bool) -> Result<Duration, Error> {
        let (buffer, freed) = (
            Arc::new(Buffer::new(1000, Duration::ZERO)),
            Arc::new(Notify::new()),
        );
        buffer.reserve(1000).unwrap();
        let (flushed, told) = (Arc::clone(&buffer), Arc::clone(&freed));
        tokio::spawn(async move {
            tokio::time::sleep(flush).await;
            flushed.release(1000);
            told.notify_waiters();
        });
        let started = Instant::now();
        let admission = admit_beside(&buffer, &Notify::new(), &freed, failing, 1).await?;
        drop(admission);
        Ok(started.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_waits_for_a_slow_flush() {
        let flush = Duration::from_secs(15);
        assert_eq!(admit_during(flush, false).await.unwrap(), flush);
    }

    /// A store that hangs is not known to fail. Who comes later need not wait as well.
    #[tokio::test(start_paused = true)]
    async fn a_write_that_waits_for_long_makes_rows_leave_memory() {
        let buffer = Arc::new(Buffer::new(100_000, Duration::ZERO));
        let table = TableId(1);
        for sequence in 1..=10 {
            buffer.push(table, logged_row(sequence, 10_000));
        }
        let (due, freed) = (Notify::new(), Arc::new(Notify::new()));
        let started = Instant::now();
        let admit = |bytes| admit_beside(&buffer, &due, &freed, false, bytes);
        let first = admit(50_000).await.unwrap();
        assert_eq!(started.elapsed(), SPILL_AFTER);
        assert!(buffer.held().spilled_bytes >= 50_000);
        let second = admit(40_000).await.unwrap();
        assert_eq!(started.elapsed(), SPILL_AFTER);
        drop((first, second));
        // It is worth waiting for the next flush when one has ended.
        assert!(buffer.is_stuck());
        buffer.mark_flushed(table, SequenceNumber(1), started.into_std());
        assert!(!buffer.is_stuck());
    }

    /// The flushes after an outage take spilled rows, and make no room in memory.
    #[tokio::test(start_paused = true)]
    async fn a_write_does_not_wait_for_flushes_of_spilled_rows() {
        let buffer = Arc::new(Buffer::new(100_000, Duration::ZERO));
        let table = TableId(1);
        for sequence in 1..=15 {
            buffer.push(table, logged_row(sequence, 10_000));
        }
        assert!(buffer.spill(100_000));
        let started = Instant::now();
        buffer.mark_flushed(table, SequenceNumber(1), started.into_std());
        assert!(buffer.has_spilled() && !buffer.is_stuck());
        let flushing = |log_has_room: &'static (dyn Fn() -> bool + Sync)| {
            let (due, freed) = (Notify::new(), Arc::new(Notify::new()));
            let buffer = Arc::clone(&buffer);
            async move {
                let flushing = Flushing {
                    due: &due,
                    freed: &freed,
                    is_failing: &|| false,
                    log_has_room,
                };
                admit(&buffer, &flushing, 0, 30_000).await.unwrap();
                started.elapsed()
            }
        };
        assert_eq!(flushing(&|| true).await, Duration::ZERO);
        for sequence in 16..=20 {
            buffer.push(table, logged_row(sequence, 10_000));
        }
        // A log that is nearly full would be full soon.
        assert_eq!(flushing(&|| false).await, SPILL_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_refused_when_flushing_takes_too_long() {
        let started = Instant::now();
        let refused = admit_during(Duration::from_secs(60), false).await;
        assert_eq!(refused.unwrap_err().category(), "overloaded");
        assert_eq!(started.elapsed(), WAIT_WHILE_FLUSHING);
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_is_refused_soon_while_flushes_fail() {
        let started = Instant::now();
        let refused = admit_during(Duration::from_secs(15), true).await;
        assert_eq!(refused.unwrap_err().category(), "overloaded");
        assert_eq!(started.elapsed(), WAIT_WHILE_FAILING);
    }
}
