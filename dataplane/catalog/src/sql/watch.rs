//! What is remembered of a Postgres server from one connection to the next: when it failed, whether it
//! is a standby, and what it has answered that is done.
//!
//! # A server that failed
//! The way to it may lead to another one now, or nowhere, without a word to the connections that are
//! open. So none that is older than the last failure is used again, and one that rested is asked for a
//! sign of life, which must come soon.
//!
//! # A database that was set back
//! A standby that takes over without the last commits, or an older copy that is put in its place, knows
//! less than was answered. Each transaction that writes leaves its number in a row of this process, in
//! the table `writers`. A new connection that finds a lower number than the last one answered is to a
//! database that was set back: see [`set_back`](super::set_back). That is asked of every connection
//! before anything else, so no call works on such a database unawares.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use uuid::Uuid;

use super::dialect::Connection;

/// A connection that rested for less is used as it is.
const FRESH: Duration = Duration::from_secs(1);

/// Longest wait for a sign of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// How long the row of a process is missed: others forget it when it is old.
const MISSED: Duration = Duration::from_secs(24 * 60 * 60);

/// Age at which the row of a process that writes no more is forgotten.
pub(super) const FORGOTTEN_MILLIS: i64 = 30 * 24 * 60 * 60 * 1000;

/// The memory of one process, for all its connections.
#[derive(Debug)]
pub(super) struct Watch {
    /// Names this process in the table `writers`.
    id: String,
    /// The last number that was given to a transaction.
    given: AtomicI64,
    last: Mutex<Last>,
    /// Held by whoever deals with a database that was set back.
    pub(super) mending: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Last {
    failure: Option<Instant>,
    is_standby: bool,
    is_set_back: bool,
    /// How often a database that was set back was dealt with.
    mended: u64,
    /// The highest number whose commit was answered, and when that was.
    answered: Option<(i64, Instant)>,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            id: Uuid::new_v4().simple().to_string(),
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
        let mut last = self.last();
        if last.answered.is_none_or(|(highest, _)| highest < number) {
            last.answered = Some((number, Instant::now()));
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

    /// Whether the last server that was connected to is a standby.
    pub(super) fn is_standby(&self) -> bool {
        self.last().is_standby
    }

    /// Whether the database was found to be set back, and nobody has dealt with it yet.
    pub(super) fn is_set_back(&self) -> bool {
        self.last().is_set_back
    }

    /// Notes that a database that was set back was dealt with.
    pub(super) fn mended(&self) {
        let mut last = self.last();
        last.is_set_back = false;
        last.mended += 1;
    }

    /// Looks at a new connection; returns whether it is to a standby.
    pub(super) async fn look(&self, connection: &mut Connection) -> Result<bool, sqlx::Error> {
        let is_standby = super::postgres::is_standby(connection).await?;
        // Before the question: what is answered or mended meanwhile may be missing in its answer.
        let (answered, mended) = {
            let mut last = self.last();
            last.is_standby = is_standby;
            (last.answered, last.mended)
        };
        let (false, Some((answered, at))) = (is_standby, answered) else {
            return Ok(is_standby);
        };
        let found: Option<i64> = sqlx::query_scalar("SELECT number FROM writers WHERE id = $1")
            .bind(&self.id)
            .fetch_optional(connection)
            .await?;
        let is_set_back = match found {
            Some(number) => number < answered,
            None => at.elapsed() < MISSED,
        };
        let mut last = self.last();
        if is_set_back && last.mended == mended {
            last.is_set_back = true;
        }
        Ok(false)
    }

    /// Whether a connection of this age, that rested for so long, may be used.
    pub(super) async fn is_usable(
        &self,
        connection: &mut Connection,
        age: Duration,
        rested: Duration,
    ) -> bool {
        let failure = self.last().failure;
        if failure.is_some_and(|failure| failure.elapsed() <= age) {
            return false;
        }
        if rested < FRESH {
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
