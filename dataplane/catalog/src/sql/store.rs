//! Transactions: begin, do, commit; what a failure means and when the work is done again.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Connection as _;
use tokio::task::JoinError;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::clock::Clock;
use super::dialect::{Connection, Dialect, Pool, Verdict};
use super::postgres::{self, PostgresOptions};
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
    pub(super) clock: Arc<Clock>,
    /// Where the credentials come from, if the database asks for some.
    pub(super) postgres: Option<PostgresOptions>,
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
        self.run(doing, &self.writer, self.dialect.begin_write, extra, work)
            .await
    }

    /// Runs `work` in a transaction that takes numbers, and waits for no other kind of writer where
    /// the database can tell them apart.
    pub(super) async fn number<T, W>(&self, doing: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Clone + Send + 'static,
    {
        self.run(
            doing,
            &self.writer,
            self.dialect.begin_number,
            Duration::ZERO,
            work,
        )
        .await
    }

    /// Runs `work` in a transaction that reads.
    pub(super) async fn read<T, W>(&self, doing: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Clone + Send + 'static,
    {
        let begin = self.dialect.begin_read;
        self.run(doing, &self.readers, begin, Duration::ZERO, work)
            .await
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
        let attempt = transact(pool, Arc::clone(&self.clock), begin, None, move |c| {
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
            Err(error) => Err(unfinished(&self.place, doing, error)),
        }
    }

    async fn run<T, W>(
        &self,
        doing: &'static str,
        pool: &Pool,
        begin: &'static str,
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
            let clock = Arc::clone(&self.clock);
            let attempt = transact(pool.clone(), clock, begin, deadline, work.clone());
            let failed = match tokio::spawn(attempt.in_current_span()).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(Ended::Undone(Failure::Refused(error)))) => return Err(error),
                Ok(Err(Ended::Unknown(error))) => return Err(self.error(doing, error)),
                Ok(Err(Ended::Undone(Failure::Sql(error)))) => error,
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

    fn error(&self, doing: &'static str, error: sqlx::Error) -> Error {
        match (self.dialect.judge)(&error) {
            Verdict::Broken => store_error(doing, error),
            Verdict::Repeat | Verdict::Reconnect | Verdict::Passes => Error::Unavailable {
                place: self.place.clone(),
                source: postgres::explained(error),
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

/// Runs `work` in one transaction, until `deadline`. A connection that saw the database fail is not
/// used again.
async fn transact<T, W>(
    pool: Pool,
    clock: Arc<Clock>,
    begin: &'static str,
    deadline: Option<Instant>,
    work: W,
) -> Result<T, Ended>
where
    W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send,
{
    let mut connection = pool.acquire().await?;
    let mut committing = false;
    let attempt = begin_and_end(&mut connection, &clock, begin, &mut committing, work);
    let result = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, attempt)
            .await
            .unwrap_or_else(|_| Err(Failure::Sql(postgres::timed_out()))),
        None => attempt.await,
    };
    match result {
        Ok(value) => Ok(value),
        Err(Failure::Refused(error)) => Err(Ended::Undone(Failure::Refused(error))),
        Err(Failure::Sql(error)) => {
            connection.close_on_drop();
            Err(match committing {
                true => Ended::Unknown(error),
                false => Ended::Undone(Failure::Sql(error)),
            })
        }
    }
}

async fn begin_and_end<T, W>(
    connection: &mut Connection,
    clock: &Clock,
    begin: &'static str,
    committing: &mut bool,
    work: W,
) -> Result<T, Failure>
where
    W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send,
{
    let mut transaction = connection.begin_with(begin).await?;
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
