//! What is remembered of a Postgres server from one connection to the next: when it failed, whether it
//! can be used, its history, and what it has answered that is done.
//!
//! # A server that failed
//! The way to it may lead to another one now, or nowhere, without a word to the connections that are
//! open. So none that is older than the last failure is used again, and one that rested is asked for a
//! sign of life, which must come soon. The same holds when a connection leads to another server. And none is
//! used for long: a former primary that nobody could stop goes on answering those that are open, and one that
//! only reads would never learn that there is another.
//!
//! # A database that was set back
//! A standby that takes over without the last commits, or an older copy that is put in its place, knows
//! less than was answered. Each transaction that writes leaves its number in a row of this process, in
//! the table `writers`. A new connection that finds a lower number than the last one answered is to a
//! database that was set back: see [`set_back`](super::set_back). That is asked of every connection
//! before anything else, so no call works on such a database unawares; nor do those of processes that lost
//! nothing themselves: see [`history`]. Another process may have dealt with it since: all are fenced then.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, Row as _};
use uuid::Uuid;

use super::clock::Clock;
use super::dialect::{Connection, Row};
use super::{history, postgres};

/// A connection that rested for less is used as it is.
const FRESH: Duration = Duration::from_secs(1);

/// A connection that is older makes place for a new one, which asks for the address, and the server whether it is
/// the primary. For so long can what a former one says be read.
const OLDEST: Duration = Duration::from_secs(10);

/// Longest wait for a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// How long the row of a process is missed: others forget it when it is old, and of the oldest.
const MISSED: Duration = Duration::from_secs(29 * 24 * 60 * 60);

/// Age at which the row of a process that writes no more is forgotten, unless there are few.
pub(super) const FORGOTTEN_MILLIS: i64 = 30 * 24 * 60 * 60 * 1000;

/// The memory of one process, for all its connections.
#[derive(Debug)]
pub(super) struct Watch {
    /// Names this process in the table `writers`.
    id: String,
    clock: Arc<Clock>,
    /// The last number that was given to a transaction.
    given: AtomicI64,
    last: Mutex<Last>,
    /// Held by whoever deals with a database that was set back.
    pub(super) mending: tokio::sync::Mutex<()>,
}

/// Why a server can't be used that can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    Standby,
    NoCatalog,
}

#[derive(Debug, Default)]
struct Last {
    failure: Option<Instant>,
    /// When a call took too long: that may be the way, or somebody's lock.
    late: Option<Instant>,
    unusable: Option<Unusable>,
    is_set_back: bool,
    /// It has the layout of an older release.
    is_older: bool,
    /// How often a database that was set back was dealt with.
    mended: u64,
    /// Of the last server, if it tells.
    history: Option<String>,
    /// That of the first commit.
    first_history: Option<String>,
    /// The newest state in which all ingesters were fenced, as far as it was seen.
    fence: Option<i64>,
    answered: Option<Answered>,
}

/// The commit with the highest number of those that were answered.
#[derive(Debug, Clone, Copy)]
struct Answered {
    number: i64,
    at: Instant,
    /// The newest fence that was known then.
    fence: Option<i64>,
}

/// What a database has to say to this process.
struct Found {
    number: Option<i64>,
    fence: Option<i64>,
    /// How long ago that was, by the clock of the server.
    fence_age_millis: Option<i64>,
}

impl Answered {
    fn is_missing_in(&self, found: &Found) -> bool {
        match found.number {
            Some(number) => number < self.number,
            None => self.at.elapsed() < MISSED,
        }
    }

    /// Whether everybody was fenced since. Two signs: a server may have another clock than the one before,
    /// and a fence may have been there before the commit without anybody looking.
    fn is_dealt_with_in(&self, found: &Found) -> bool {
        let elapsed = i64::try_from(self.at.elapsed().as_millis()).unwrap_or(i64::MAX);
        let age = found.fence_age_millis;
        found.fence > self.fence && age.is_some_and(|age| (0..elapsed).contains(&age))
    }
}

impl Watch {
    pub(super) fn new(clock: Arc<Clock>) -> Self {
        Self {
            id: Uuid::new_v4().simple().to_string(),
            clock,
            given: AtomicI64::new(0),
            last: Mutex::default(),
            mending: tokio::sync::Mutex::default(),
        }
    }

    /// The number of a transaction that is about to begin, and the statements that begin it and leave
    /// the number. To be called by whoever has the only connection that writes: a commit must not have
    /// a lower number than the one before.
    pub(super) fn number(&self, begin: &str) -> (i64, String) {
        let number = self.given.fetch_add(1, Ordering::Relaxed) + 1;
        let id = &self.id;
        let statements = format!(
            "{begin}; INSERT INTO writers (id, number, at_millis)
             VALUES ('{id}', {number}, FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000))
             ON CONFLICT (id) DO UPDATE SET number = GREATEST(writers.number, excluded.number),
                                            at_millis = excluded.at_millis"
        );
        (number, statements)
    }

    /// Notes that the commit of a transaction was answered.
    pub(super) fn answered(&self, number: i64) {
        let last = &mut *self.last();
        if last.answered.is_none_or(|highest| highest.number < number) {
            last.answered = Some(Answered {
                number,
                at: Instant::now(),
                fence: last.fence,
            });
        }
        if last.first_history.is_none() {
            last.first_history.clone_from(&last.history);
        }
    }

    /// Expects nothing of what was answered until now.
    pub(super) fn forget(&self) {
        let mut last = self.last();
        last.answered = None;
        last.is_set_back = false;
    }

    /// Notes that the server, or the way to it, failed.
    pub(super) fn failed(&self) {
        self.last().failure = Some(Instant::now());
    }

    /// Notes that a call took too long. Connections that rested since are asked for a sign of life.
    pub(super) fn was_late(&self) {
        self.last().late = Some(Instant::now());
    }

    /// What is wrong with the last server that was connected to.
    pub(super) fn unusable(&self) -> Option<Unusable> {
        self.last().unusable
    }

    /// Whether the database that was found to be set back has an older layout.
    pub(super) fn is_older(&self) -> bool {
        self.last().is_older
    }

    /// Notes that it has the present layout now.
    pub(super) fn migrated(&self) {
        self.last().is_older = false;
    }

    /// Whether the database was found to be set back, and nobody has dealt with it yet.
    pub(super) fn is_set_back(&self) -> bool {
        self.last().is_set_back
    }

    /// Notes that a database that was set back was dealt with.
    pub(super) fn mended(&self) {
        let mut last = self.last();
        last.is_set_back = false;
        last.is_older = false;
        last.mended += 1;
    }

    /// Whether this process has commits on an earlier history than the present one. None of them is lost, as
    /// far as it knows; then nothing is lost that was committed before them either.
    pub(super) fn saw_it_change(&self) -> bool {
        let last = self.last();
        last.first_history.is_some() && last.first_history != last.history
    }

    /// Looks at a new connection; returns why it can't be used.
    pub(super) async fn look(&self, c: &mut Connection) -> Result<Option<Unusable>, sqlx::Error> {
        let unusable = match postgres::is_standby(c).await? {
            true => Some(Unusable::Standby),
            false => self.look_at_primary(c).await?,
        };
        self.last().unusable = unusable;
        Ok(unusable)
    }

    async fn look_at_primary(&self, c: &mut Connection) -> Result<Option<Unusable>, sqlx::Error> {
        let mended = self.last().mended;
        match self.compare(c).await {
            Ok(()) => Ok(None),
            Err(error) if postgres::lacks_a_table(&error) => {
                let found: i64 = sqlx::query_scalar(postgres::DIALECT.count_tables)
                    .bind("migrations")
                    .fetch_one(c)
                    .await?;
                if found == 0 {
                    return Ok(Some(Unusable::NoCatalog));
                }
                let mut last = self.last();
                if last.mended == mended {
                    last.is_set_back = true;
                    last.is_older = true;
                    last.failure = Some(Instant::now());
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Compares what a database has with what this process knows.
    async fn compare(&self, connection: &mut Connection) -> Result<(), sqlx::Error> {
        if let Some(history) = history::ask(connection).await? {
            history::enter(connection, &self.clock, &history).await?;
            self.arrived(history);
        }
        // Before the question: what is answered or mended meanwhile may be missing in its answer.
        let (answered, mended) = {
            let last = self.last();
            (last.answered, last.mended)
        };
        let found = self.find(connection).await?;
        let mut last = self.last();
        last.fence = last.fence.max(found.fence);
        let missing = answered.filter(|answered| answered.is_missing_in(&found));
        match missing {
            Some(missing) if missing.is_dealt_with_in(&found) => {
                // Not a later one, that was answered meanwhile.
                last.answered = last
                    .answered
                    .filter(|highest| highest.number > missing.number);
            }
            Some(_) if last.mended == mended => {
                last.is_set_back = true;
                // What is older than this connection is to another database.
                last.failure = Some(Instant::now());
            }
            _ => {}
        }
        Ok(())
    }

    fn arrived(&self, history: String) {
        let mut last = self.last();
        let is_another = last.history.as_ref().is_some_and(|known| *known != history);
        if is_another {
            last.failure = Some(Instant::now());
        }
        last.history = Some(history);
    }

    async fn find(&self, connection: &mut Connection) -> Result<Found, sqlx::Error> {
        let asked = "SELECT (SELECT number FROM writers WHERE id = $1) AS number,
                    MAX(snapshot) AS fence,
                    CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) AS BIGINT)
                        - MAX(restored_at_millis) AS age
             FROM restores WHERE fenced = 1";
        sqlx::query(asked)
            .bind(&self.id)
            .try_map(|row: Row| {
                Ok(Found {
                    number: row.try_get("number")?,
                    fence: row.try_get("fence")?,
                    fence_age_millis: row.try_get("age")?,
                })
            })
            .fetch_one(connection)
            .await
    }

    /// Whether a connection of this age, that rested for so long, may be used.
    pub(super) async fn is_usable(
        &self,
        connection: &mut Connection,
        age: Duration,
        rested: Duration,
    ) -> bool {
        if age > OLDEST {
            return false;
        }
        let (failure, late) = {
            let last = self.last();
            (last.failure, last.late)
        };
        if failure.is_some_and(|failure| failure.elapsed() <= age) {
            return false;
        }
        let used_since = late.is_none_or(|late| rested < late.elapsed());
        if rested < FRESH && used_since {
            return true;
        }
        let sign = tokio::time::timeout(SIGN_OF_LIFE, connection.ping()).await;
        let lives = matches!(sign, Ok(Ok(())));
        if !lives {
            self.failed();
        }
        lives
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        // Plain values, whole at any moment.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    /// One to a former primary that is alive would be read for as long as it is open.
    #[tokio::test]
    async fn no_connection_is_used_for_long() {
        sqlx::any::install_default_drivers();
        let mut c = Connection::connect("sqlite::memory:").await.unwrap();
        let watch = Watch::new(Arc::new(Clock::new(postgres::DIALECT.time)));
        let used_just_now = Duration::ZERO;
        assert!(watch.is_usable(&mut c, OLDEST, used_just_now).await);
        let older = OLDEST + Duration::from_millis(1);
        assert!(!watch.is_usable(&mut c, older, used_just_now).await);
    }
}
