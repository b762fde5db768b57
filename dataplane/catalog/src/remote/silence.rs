//! Since when the catalog does not answer, for messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::repeat::{Cause, Outcome};

/// What is known of it; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Silence(Arc<Mutex<Option<Instant>>>);

/// Why a call got no answer.
#[derive(Debug, thiserror::Error)]
#[error("{}", no_answer(*for_seconds))]
pub(super) struct NotAnswered {
    for_seconds: u64,
    #[source]
    cause: Cause,
}

fn no_answer(for_seconds: u64) -> String {
    match for_seconds {
        0 => "it does not answer".to_owned(),
        seconds => format!("it has not answered for {seconds} s"),
    }
}

impl Silence {
    /// Notes what became of an attempt that began at `started`.
    pub(super) fn note<T>(&self, started: Instant, outcome: &Outcome<T>) {
        let mut since = self.since();
        match outcome {
            Outcome::Answered(_) => *since = None,
            Outcome::NotSent(_) | Outcome::Unanswered(_) => *since = since.or(Some(started)),
        }
    }

    /// A call that began at `started` is given up.
    pub(super) fn not_answered(&self, started: Instant, cause: Cause) -> NotAnswered {
        let since = *self.since().get_or_insert(started);
        let for_seconds = since.elapsed().as_secs();
        NotAnswered { for_seconds, cause }
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_lasts_from_the_first_failure_to_the_next_answer() {
        let silence = Silence::default();
        let failed = || Outcome::<()>::Unanswered("broken off".into());
        let text = |started| silence.not_answered(started, "late".into()).to_string();
        silence.note(Instant::now(), &failed());
        assert_eq!(text(Instant::now()), "it does not answer");
        tokio::time::advance(Duration::from_secs(70)).await;
        silence.note(Instant::now(), &failed());
        assert_eq!(text(Instant::now()), "it has not answered for 70 s");

        silence.note(Instant::now(), &Outcome::Answered(Ok(())));
        let started = Instant::now();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(
            text(started),
            "it has not answered for 10 s",
            "one that hung"
        );
    }
}
