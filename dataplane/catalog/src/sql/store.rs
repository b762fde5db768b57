//! Transactions: begin, do, commit; what a failure means and when the work is done again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _};
use tokio::sync::Mutex;
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::clock::Clock;
use super::dialect::{Connection, Dialect, Pool, Verdict};
use super::postgres::{self, PostgresOptions};
use super::set_back;
use super::watch::Watch;
use crate::Error;

/// Time that a statement for one row may take on top of the limit of a call: many of them are one
/// transaction, and one that never ends in time would be sent again for ever.
const TIME_OF_ROW: Duration = Duration::from_millis(5);

/// First and longest pause before a call is repeated.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Why the work of a transaction ended without a commit.
pub(super) enum Failure {
    /// The call is not allowed; the database is fine.
    Refused(Error),
    /// The database failed, or holds what it should not.
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// The work of one transaction.
pub(super) type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'c>>;

/// How one attempt of a call ended, if not well.
enum Ended {
    /// Nothing of it is in the database.
    Undone(Failure),
    /// The commit had begun: it may have taken effect or not.
    Unknown(sqlx::Error),
    /// Nothing was done: the database lost commits that this process was told of.
    SetBack,
}

impl<E: Into<Failure>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Undone(error.into())
    }
}

/// An open database.
#[derive(Debug)]
pub(super) struct Store {
    /// File, or host and database, for messages.
    pub(super) place: String,
    pub(super) dialect: &'static Dialect,
    pub(super) writer: Pool,
    pub(super) readers: Pool,
    /// Held as long as the pools: see "A volume that fails" in `sqlite`.
    pub(super) keeper: Mutex<Option<Connection>>,
    pub(super) clock: Arc<Clock>,
    /// Where the credentials come from, if the database asks for some.
    pub(super) postgres: Option<PostgresOptions>,
    /// What is remembered of the server, if there is one.
    pub(super) watch: Option<Arc<Watch>>,
}

/// What a transaction is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Write,
    Number,
    Read,
}

/// One try of a transaction.
struct Attempt {
    pool: Pool,
    clock: Arc<Clock>,
    begin: &'static str,
    /// The end of the beginning, after the number.
    lock: &'static str,
    deadline: Option<Instant>,
    watch: Option<Arc<Watch>>,
    /// Whether it leaves its number in the database.
    leaves_number: bool,
    /// Whether it may work on a database that was set back.
    on_any_state: bool,
}

impl Store {
    /// Runs `work` in a transaction that writes.
    pub(super) async fn write<T, W>(&self, doing: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Clone + Send + 'static,
    {
        self.write_rows(doing, 0, work).await
    }

    /// The same for work that changes that many rows with a statement each: it has more time then.
    pub(super) async fn write_rows<T, W>(
        &self,
        doing: &'static str,
        rows: usize,
        work: W,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Clone + Send + 'static,
    {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let extra = TIME_OF_ROW.saturating_mul(rows);
        self.run(doing, Purpose::Write, extra, work).await
    }

    /// Runs `work` in a transaction that takes numbers, and waits for no other kind of writer where
    /// the database can tell them apart.
    pub(super) async fn number<T, W>(&self, doing: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Clone + Send + 'static,
    {
        self.run(doing, Purpose::Number, Duration::ZERO, work).await
    }

    /// Runs `work` in a transaction that reads.
    pub(super) async fn read<T, W>(&self, doing: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Clone + Send + 'static,
    {
        self.run(doing, Purpose::Read, Duration::ZERO, work).await
    }

    /// Runs work on the whole catalog, which may take long, once: in the layout's own transaction if
    /// it `writes`.
    pub(super) async fn long<T, W>(
        &self,
        doing: &'static str,
        writes: bool,
        work: W,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send + 'static,
    {
        let (pool, begin) = match writes {
            true => (self.writer.clone(), self.dialect.begin_layout),
            false => (self.readers.clone(), self.dialect.begin_read),
        };
        let unhurried = self.dialect.unhurried;
        let attempt = Attempt {
            pool,
            clock: Arc::clone(&self.clock),
            begin,
            lock: "",
            deadline: None,
            watch: self.watch.clone(),
            leaves_number: false,
            on_any_state: true,
        };
        let attempt = transact(attempt, move |c| {
            Box::pin(async move {
                sqlx::raw_sql(unhurried).execute(&mut *c).await?;
                work(c).await
            })
        });
        match tokio::spawn(attempt.in_current_span()).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Ended::Undone(Failure::Refused(error)))) => Err(error),
            Ok(Err(Ended::Unknown(error) | Ended::Undone(Failure::Sql(error)))) => {
                Err(self.error(doing, error))
            }
            Ok(Err(Ended::SetBack)) => Err(self.error(doing, sqlx::Error::BeginFailed)),
            Err(error) => Err(unfinished(&self.place, doing, error)),
        }
    }

    async fn run<T, W>(
        &self,
        doing: &'static str,
        purpose: Purpose,
        extra: Duration,
        work: W,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Clone + Send + 'static,
    {
        let limit = self
            .postgres
            .as_ref()
            .map(|options| options.timeout + extra);
        let deadline = limit.map(|limit| Instant::now() + limit);
        let mut pause = PAUSES.0;
        loop {
            let attempt = transact(self.attempt(purpose, deadline), work.clone());
            let failed = match tokio::spawn(attempt.in_current_span()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(Ended::Undone(Failure::Refused(error)))) => return Err(error),
                Ok(Err(Ended::Unknown(error))) => return Err(self.error(doing, error)),
                Ok(Err(Ended::Undone(Failure::Sql(error)))) => error,
                Ok(Err(Ended::SetBack)) => match self.mend().await {
                    Ok(()) => continue,
                    Err(Failure::Refused(error)) => return Err(error),
                    Err(Failure::Sql(error)) => error,
                },
                Err(error) => return Err(unfinished(&self.place, doing, error)),
            };
            match (self.dialect.judge)(&failed) {
                Verdict::Repeat => {}
                Verdict::Reconnect => self.read_credentials()?,
                Verdict::Passes | Verdict::Broken => return Err(self.error(doing, failed)),
            }
            if deadline.is_none_or(|deadline| Instant::now() + pause >= deadline) {
                return Err(self.error(doing, failed));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    fn attempt(&self, purpose: Purpose, deadline: Option<Instant>) -> Attempt {
        let dialect = self.dialect;
        let (pool, begin, lock) = match purpose {
            Purpose::Write => (&self.writer, dialect.begin_write, dialect.lock_writers),
            Purpose::Number => (&self.writer, dialect.begin_number, ""),
            Purpose::Read => (&self.readers, dialect.begin_read, ""),
        };
        Attempt {
            pool: pool.clone(),
            clock: Arc::clone(&self.clock),
            begin,
            lock,
            deadline,
            watch: self.watch.clone(),
            leaves_number: purpose != Purpose::Read,
            on_any_state: false,
        }
    }

    /// Deals with a database that was set back, once for all calls that wait for it.
    /// May be repeated whatever came of it.
    async fn mend(&self) -> Result<(), Failure> {
        let (Some(watch), Some(options)) = (&self.watch, &self.postgres) else {
            return Ok(());
        };
        let mut attempt = self.attempt(Purpose::Write, Some(Instant::now() + options.timeout));
        attempt.on_any_state = true;
        let (watch, place) = (Arc::clone(watch), self.place.clone());
        let options = options.clone();
        let work = async move {
            let _one = watch.mending.lock().await;
            if !watch.is_set_back() {
                return Ok(());
            }
            if watch.is_older() {
                set_back::migrate(&options).await?;
                watch.migrated();
            }
            let snapshot = transact(attempt, |c| Box::pin(set_back::recover(c))).await?;
            watch.mended();
            tracing::error!(
                place,
                snapshot = snapshot.0,
                "the catalog lost commits that were answered: a standby without them took over, or an \
                 older copy of the database was put in its place; every ingester has to compare its \
                 log with it, see docs/operations.md"
            );
            Ok(())
        };
        match tokio::spawn(work.in_current_span()).await {
            Ok(Ok(())) | Ok(Err(Ended::SetBack)) => Ok(()),
            Ok(Err(Ended::Undone(failure))) => Err(failure),
            Ok(Err(Ended::Unknown(error))) => Err(Failure::Sql(error)),
            Err(error) => {
                const DOING: &str = "fencing everybody who may rely on lost commits";
                Err(unfinished(&self.place, DOING, error).into())
            }
        }
    }

    fn error(&self, doing: &'static str, error: sqlx::Error) -> Error {
        match (self.dialect.judge)(&error) {
            Verdict::Broken => store_error(doing, error),
            Verdict::Repeat | Verdict::Reconnect | Verdict::Passes => Error::Unavailable {
                place: self.place.clone(),
                source: match (&error, &self.watch) {
                    // What the pool does not tell.
                    (sqlx::Error::PoolTimedOut, Some(watch)) => match watch.unusable() {
                        Some(unusable) => Box::new(postgres::Error::from(unusable)),
                        None => (self.dialect.explained)(error),
                    },
                    _ => (self.dialect.explained)(error),
                },
            },
        }
    }

    /// New connections use what the files say now.
    fn read_credentials(&self) -> Result<(), Error> {
        let Some(options) = &self.postgres else {
            return Ok(());
        };
        let (options, _) = options
            .read()
            .map_err(|error| store_error("reading the credentials of the catalog", error))?;
        self.writer.set_connect_options(options.clone());
        self.readers.set_connect_options(options);
        Ok(())
    }
}

/// Runs `work` in one transaction, until its deadline. A connection that saw the database fail is not
/// used again.
async fn transact<T, W>(attempt: Attempt, work: W) -> Result<T, Ended>
where
    W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send,
{
    let watch = attempt.watch.as_deref();
    let mut connection = attempt.pool.acquire().await.inspect_err(|error| {
        note(watch, error);
    })?;
    if !attempt.on_any_state && watch.is_some_and(Watch::is_set_back) {
        return Err(Ended::SetBack);
    }
    let mut committing = false;
    // The writer's connection is one: from here on the numbers are in the order of the commits.
    let (number, mut begin) = match watch.filter(|_| attempt.leaves_number) {
        Some(watch) => watch.number(attempt.begin),
        None => (0, attempt.begin.to_owned()),
    };
    begin.push_str(attempt.lock);
    let work = begin_and_end(
        &mut connection,
        &attempt.clock,
        begin,
        &mut committing,
        work,
    );
    let result = match attempt.deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, work).await,
        None => Ok(work.await),
    };
    let is_late = result.is_err();
    match result.unwrap_or_else(|_| Err(Failure::Sql(postgres::timed_out()))) {
        Ok(value) => {
            if let Some(watch) = watch.filter(|_| attempt.leaves_number) {
                watch.answered(number);
            }
            Ok(value)
        }
        Err(Failure::Refused(error)) => Err(Ended::Undone(Failure::Refused(error))),
        Err(Failure::Sql(error)) => {
            match watch {
                // It may have waited for somebody's lock: the other connections are as good as before.
                Some(watch) if is_late => watch.was_late(),
                _ => note(watch, &error),
            }
            connection.close_on_drop();
            // Work that only reads is done again, wherever it ended.
            Err(match committing && attempt.leaves_number {
                true => Ended::Unknown(error),
                false => Ended::Undone(Failure::Sql(error)),
            })
        }
    }
}

/// Remembers that the server is gone, if the error says so.
fn note(watch: Option<&Watch>, error: &sqlx::Error) {
    if let Some(watch) = watch.filter(|_| postgres::is_gone(error)) {
        watch.failed();
    }
}

async fn begin_and_end<T, W>(
    connection: &mut Connection,
    clock: &Clock,
    begin: String,
    committing: &mut bool,
    work: W,
) -> Result<T, Failure>
where
    W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send,
{
    let mut transaction = connection.begin_with(AssertSqlSafe(begin)).await?;
    let now = clock.read(&mut transaction).await?;
    match now.scope(work(&mut transaction)).await {
        Ok(value) => {
            *committing = true;
            transaction.commit().await?;
            Ok(value)
        }
        Err(Failure::Refused(error)) => {
            transaction.rollback().await?;
            Err(Failure::Refused(error))
        }
        // The connection is closed, which rolls back.
        Err(Failure::Sql(error)) => Err(Failure::Sql(error)),
    }
}

/// What a caller is told of work whose task did not end by itself: one that is cancelled was so because
/// the process ends, and another process may be asked.
fn unfinished(place: &str, doing: &'static str, error: JoinError) -> Error {
    if error.is_cancelled() {
        return Error::Unavailable {
            place: place.to_owned(),
            source: Box::new(error),
        };
    }
    store_error(doing, error)
}

/// A failure of the database that nobody but its owner can mend.
pub(super) fn store_error(
    doing: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::Store {
        doing,
        source: Box::new(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    /// A query that is under way when its process ends is asked again elsewhere.
    #[tokio::test]
    async fn work_that_was_cancelled_is_unavailable_and_a_panic_is_not() {
        let pending = tokio::spawn(std::future::pending::<()>());
        pending.abort();
        let cancelled = pending.await.unwrap_err();
        let error = unfinished("catalog.db", "reading", cancelled);
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");

        let panicked = tokio::spawn(async { panic!("a defect") });
        let error = unfinished("catalog.db", "reading", panicked.await.unwrap_err());
        assert!(matches!(error, Error::Store { .. }), "{error}");
    }
}
