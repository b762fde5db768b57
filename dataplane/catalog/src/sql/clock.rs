//! The time of the catalog, by which things expire: that of the database where it has one, else of this
//! process.
//!
//! Several processes write to one Postgres database, and one of them may have a clock that is years off:
//! what it writes down would be old, or in the future, for the others. So the time is the server's, read
//! once in a while and counted on from there.
//!
//! A clock that jumps is believed when it has stayed for an hour. Until then it is used, but nothing that is
//! gone for good goes by its age: positions of producers, objects, history, uploads, expired rows.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::dialect::Connection;

/// A reading of the server's clock is used for so long.
const READ_EVERY: Duration = Duration::from_secs(10);

/// A clock that is off by more has jumped; less is set right by every machine now and then.
const JUMP_MILLIS: i64 = 60 * 60 * 1000;

/// Time after which a clock that jumped is believed.
const SETTLES: Duration = Duration::from_secs(60 * 60);

tokio::task_local! {
    static NOW: Moment;
}

/// A moment, and whether the clock it was read from can be believed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    read: Instant,
    /// Microseconds since the Unix epoch when it was read.
    micros: i64,
    settled: bool,
}

impl Moment {
    /// Runs work that takes this for the present.
    pub(super) async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        NOW.scope(self, work).await
    }
}

/// Milliseconds since the Unix epoch: by the clock of the catalog inside a transaction, else by that of
/// this process. 0 before the epoch.
pub(super) fn now_millis() -> i64 {
    NOW.try_with(|now| millis_after(now.micros, now.read.elapsed()))
        .unwrap_or_else(|_| wall_micros().div_euclid(1000))
}

/// Milliseconds after a time in microseconds. Cut only here: if each part were cut, the present would fall
/// behind a time that somebody has read from the same clock.
fn millis_after(then: i64, elapsed: Duration) -> i64 {
    then.saturating_add(micros(elapsed)).div_euclid(1000)
}

/// Whether something may go for good by its age.
pub(super) fn is_settled() -> bool {
    NOW.try_with(|now| now.settled).unwrap_or(true)
}

/// Reads the time for the transactions of one catalog.
#[derive(Debug)]
pub(super) struct Clock {
    /// Asks the server for its time, in microseconds since the Unix epoch.
    statement: Option<&'static str>,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    /// What the server said: when it was asked, our clock then, and its answer, in microseconds.
    server: Option<(Instant, i64, i64)>,
    believed: Believed,
}

impl Clock {
    pub(super) fn new(statement: Option<&'static str>) -> Self {
        Self {
            statement,
            last: Mutex::default(),
        }
    }

    /// The present, as part of a transaction.
    pub(super) async fn read(&self, c: &mut Connection) -> Result<Moment, sqlx::Error> {
        let (read, micros) = match self.statement {
            // In this order: rather ahead than behind, see [`Self::ask`].
            None => (Instant::now(), wall_micros()),
            Some(statement) => match self.counted_on() {
                Some(answer) => answer,
                None => self.ask(c, statement).await?,
            },
        };
        let now = millis_after(micros, read.elapsed());
        let (settled, news) = self.last().believed.judge(Instant::now(), now);
        if news {
            tracing::warn!(
                settled,
                "the clock of the catalog jumped: nothing goes by its age until it stays for an hour"
            );
        }
        Ok(Moment {
            read,
            micros,
            settled,
        })
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // Plain numbers, whole at any moment.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server's last answer and when it was asked; `None` when that is old, or our clock moved since.
    fn counted_on(&self) -> Option<(Instant, i64)> {
        let (asked, wall, answer) = self.last().server?;
        let moved = wall_micros() - wall - micros(asked.elapsed());
        (asked.elapsed() < READ_EVERY && moved.abs() < 1_000_000).then_some((asked, answer))
    }

    async fn ask(
        &self,
        c: &mut Connection,
        statement: &'static str,
    ) -> Result<(Instant, i64), sqlx::Error> {
        // Counted from before the question: rather ahead by the time of an answer than behind, or a time
        // that somebody has read from the same clock would be still to come.
        let (asked, wall) = (Instant::now(), wall_micros());
        let answer: i64 = sqlx::query_scalar(statement).fetch_one(c).await?;
        self.last().server = Some((asked, wall, answer));
        Ok((asked, answer))
    }
}

/// The course of a clock as it is believed, and as it looks since it jumped.
#[derive(Debug, Default)]
struct Believed {
    course: Option<(Instant, i64)>,
    jumped: Option<(Instant, i64)>,
}

impl Believed {
    /// Whether a reading can be believed, and whether that is new and bad.
    fn judge(&mut self, read: Instant, now: i64) -> (bool, bool) {
        let follows = |course: Option<(Instant, i64)>| {
            course.is_some_and(|(since, from)| {
                let passed = micros(read.saturating_duration_since(since)).div_euclid(1000);
                let expected = from.saturating_add(passed);
                now.abs_diff(expected) <= JUMP_MILLIS.unsigned_abs()
            })
        };
        let stayed = |since: Instant| read.saturating_duration_since(since) >= SETTLES;
        match self.jumped {
            _ if self.course.is_none() || follows(self.course) => {}
            Some((since, _)) if follows(self.jumped) && stayed(since) => {}
            Some(_) if follows(self.jumped) => return (false, false),
            _ => {
                self.jumped = Some((read, now));
                return (false, true);
            }
        }
        self.course = Some((read, now));
        self.jumped = None;
        (true, false)
    }
}

fn wall_micros() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, micros)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(time: Duration) -> i64 {
        i64::try_from(time.as_millis()).unwrap()
    }

    const HOUR: i64 = 60 * 60 * 1000;

    #[test]
    fn the_present_loses_nothing_of_the_time_it_is_counted_on_from() {
        for (then, elapsed, now) in [
            (1_000_999, 1, 1_001),
            (1_000_500, 499, 1_000),
            (1_000_500, 2_500, 1_003),
            (-1, 0, -1),
        ] {
            assert_eq!(millis_after(then, Duration::from_micros(elapsed)), now);
        }
    }

    #[test]
    fn a_clock_that_jumped_is_believed_when_it_stayed_for_an_hour() {
        let begin = Instant::now();
        let mut believed = Believed::default();
        let mut at = |minutes: u64, ahead: i64| {
            let after = Duration::from_secs(60 * minutes);
            believed.judge(begin + after, 1_000_000 + millis(after) + ahead)
        };
        for (minutes, ahead, judged) in [
            (0, 0, (true, false)),
            // Idle for a day, and set right by some minutes.
            (1_440, 600_000, (true, false)),
            // Years ahead, and back.
            (1_441, 100_000 * HOUR, (false, true)),
            (1_460, 100_000 * HOUR, (false, false)),
            (1_470, 0, (true, false)),
            // The hour begins anew, also when it goes on to jump.
            (1_480, 100_000 * HOUR, (false, true)),
            (1_510, -100_000 * HOUR, (false, true)),
            (1_560, -100_000 * HOUR, (false, false)),
            (1_570, -100_000 * HOUR, (true, false)),
            (1_571, -100_000 * HOUR, (true, false)),
            (1_572, 0, (false, true)),
        ] {
            assert_eq!(at(minutes, ahead), judged, "{minutes} {ahead}");
        }
    }
}
