//! When a call to the catalog is made again: what may be repeated, after which pauses, and for how long.

use std::error::Error as StdError;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::Error;

/// What an attempt failed of.
pub(super) type Cause = Box<dyn StdError + Send + Sync>;

/// What became of one attempt.
#[derive(Debug)]
pub(super) enum Outcome<T> {
    /// The catalog answered, be it with a refusal.
    Answered(Result<T, Error>),
    /// Nothing of the call has reached it.
    NotSent(Cause),
    /// It may have been carried out.
    Unanswered(Cause),
}

/// The time of a call is over.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub(super) struct NoAnswer(Duration);

/// Pauses between attempts: doubled each time, with jitter so that the processes of a cluster don't come in
/// step, and so short that a catalog that is back is found at once.
#[derive(Debug, Default)]
struct Pauses(u32);

impl Pauses {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(1);

    /// Between half and all of the nominal one.
    fn next(&mut self) -> Duration {
        let nominal = Self::FIRST.saturating_mul(1 << self.0.min(8));
        let nominal = nominal.min(Self::LONGEST);
        self.0 += 1;
        nominal.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

/// Makes attempts until the catalog answers or `limit` is over.
///
/// - `repeatable`: a call that may have been carried out may be sent again. Any other is sent again only when
///   nothing of it has reached the catalog.
/// - Errors: the last cause, when no attempt got an answer.
/// - Cancellation: ends the attempt that is under way, which may be carried out.
pub(super) async fn repeat<T, A: Future<Output = Outcome<T>>>(
    limit: Duration,
    repeatable: bool,
    mut attempt: impl FnMut() -> A,
) -> Result<Result<T, Error>, Cause> {
    let deadline = Instant::now() + limit;
    let mut pauses = Pauses::default();
    let mut last: Option<Cause> = None;
    loop {
        let Ok(outcome) = timeout_at(deadline, attempt()).await else {
            return Err(last.unwrap_or_else(|| Box::new(NoAnswer(limit))));
        };
        let cause = match outcome {
            Outcome::Answered(answer) => return Ok(answer),
            Outcome::Unanswered(cause) if !repeatable => return Err(cause),
            Outcome::NotSent(cause) | Outcome::Unanswered(cause) => cause,
        };
        let pause = pauses.next();
        if Instant::now() + pause >= deadline {
            return Err(cause);
        }
        tracing::debug!(error = %cause, pause_seconds = pause.as_secs_f64(), "repeating a catalog call");
        last = Some(cause);
        sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::cell::RefCell;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Attempts of a call to a catalog that is back after `back`; when each was made.
    async fn call(
        repeatable: bool,
        back: Duration,
        fails: impl Fn() -> Outcome<u8>,
    ) -> (Result<Result<u8, Error>, Cause>, Vec<Duration>) {
        let (start, made) = (Instant::now(), RefCell::new(Vec::new()));
        let answer = repeat(LIMIT, repeatable, || async {
            made.borrow_mut().push(start.elapsed());
            match start.elapsed() >= back {
                true => Outcome::Answered(Ok(7)),
                false => fails(),
            }
        });
        (answer.await, made.into_inner())
    }

    fn not_sent() -> Outcome<u8> {
        Outcome::NotSent("refused".into())
    }

    fn unanswered() -> Outcome<u8> {
        Outcome::Unanswered("broken off".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_succeeds_when_the_catalog_is_back_after_two_seconds() {
        let (answer, made) = call(true, Duration::from_secs(2), unanswered).await;
        assert_eq!(answer.unwrap().unwrap(), 7);
        assert!(*made.last().unwrap() < Duration::from_secs(3), "{made:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_second_until_the_time_is_over() {
        let (answer, made) = call(true, LIMIT * 2, unanswered).await;
        assert_eq!(answer.unwrap_err().to_string(), "broken off");
        let pauses = made.windows(2).map(|two| two[1] - two[0]);
        for (pause, nominal) in pauses.zip([100, 200, 400, 800, 1000, 1000, 1000]) {
            let nominal = Duration::from_millis(nominal);
            // The clock of the test counts whole milliseconds, rounded up.
            let most = nominal + Duration::from_millis(1);
            assert!(
                (nominal / 2..=most).contains(&pause),
                "{pause:?} of {nominal:?}"
            );
        }
        let last = *made.last().unwrap();
        assert!(
            last > LIMIT - Duration::from_millis(1002) && last < LIMIT,
            "{last:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_been_done_is_not_repeated_unless_a_repeat_is_harmless() {
        let back = Duration::from_secs(2);
        let (answer, made) = call(false, back, unanswered).await;
        assert_eq!(answer.unwrap_err().to_string(), "broken off");
        assert_eq!(made.len(), 1);
        let (answer, _) = call(false, back, not_sent).await;
        assert_eq!(answer.unwrap().unwrap(), 7, "it can't have been done");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_an_answer() {
        let refused = || Outcome::Answered(Err(Error::DatabaseNotFound("d".to_owned())));
        let (answer, made) = call(true, LIMIT, refused).await;
        assert!(matches!(answer, Ok(Err(Error::DatabaseNotFound(_)))));
        assert_eq!(made.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_hangs_ends_with_the_time_and_the_last_cause() {
        let start = Instant::now();
        let hangs = || std::future::pending::<Outcome<u8>>();
        let cause = repeat(LIMIT, true, hangs).await.unwrap_err();
        assert_eq!(cause.to_string(), "no answer within 10s");
        assert_eq!(start.elapsed(), LIMIT);

        let mut first = true;
        let cause = repeat(LIMIT, true, || {
            let is_first = std::mem::take(&mut first);
            async move {
                if !is_first {
                    std::future::pending::<()>().await;
                }
                unanswered()
            }
        });
        assert_eq!(cause.await.unwrap_err().to_string(), "broken off");
    }
}
