//! The background task that flushes when something is due.

use std::error::Error as StdError;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use crate::claim::EXPIRY_INTERVAL;
use crate::flush::Scope;
use crate::ingest::Core;

/// The longest time between two looks at what is due.
const LONGEST_TICK: Duration = Duration::from_secs(1);
const SHORTEST_TICK: Duration = Duration::from_millis(10);

/// Delays between attempts: doubled each time, with jitter so that ingesters don't come in step.
#[derive(Debug, Default, Clone)]
pub(crate) struct Backoff(u32);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(30);

    /// The delay before the next attempt, between half and all of the nominal one.
    pub(crate) fn next(&mut self) -> Duration {
        let nominal = Self::FIRST
            .saturating_mul(1 << self.0.min(16))
            .min(Self::LONGEST);
        self.0 += 1;
        nominal.mul_f64(0.5 + rand::random::<f64>() / 2.0)
    }
}

/// Runs until it is aborted or the ingester is out of service. What is unused is forgotten first a while
/// after `started`.
pub(crate) async fn run(core: Arc<Core>, started: Instant) {
    let tick = (core.config.flush_interval / 4).clamp(SHORTEST_TICK, LONGEST_TICK);
    let expiry = EXPIRY_INTERVAL.min(core.config.upload_ttl);
    let mut backoff = Backoff::default();
    let mut expired = started;
    while core.fatal.get().is_none() {
        // A panic is our bug; it must not end flushing for good.
        let scope = match core.disk_pressed.swap(false, Ordering::Relaxed) {
            true => Scope::All,
            false => Scope::Due,
        };
        let round = AssertUnwindSafe(core.flush_some(scope))
            .catch_unwind()
            .await;
        match round {
            Ok(Ok(has_more)) => {
                if has_more {
                    core.disk_pressed
                        .fetch_or(scope == Scope::All, Ordering::Relaxed);
                    core.due.notify_one();
                }
                let now = core.clock.now();
                if now.duration_since(expired) >= expiry {
                    let more = core.expire_producers().await;
                    core.expire_uploads().await;
                    // Flushing goes on in between.
                    if !more {
                        expired = now;
                    }
                }
                backoff = Backoff::default();
                // Either way there may be something due.
                let _ = timeout(tick, core.due.notified()).await;
                continue;
            }
            Ok(Err(error)) => {
                warn!(error = %chain(&error), "flush failed, rows stay in the log");
            }
            Err(_) => error!("flush panicked, rows stay in the log"),
        }
        let delay = backoff.next();
        debug!(
            delay_seconds = delay.as_secs_f64(),
            "waiting before the next flush"
        );
        sleep(delay).await;
    }
}

/// An error with its causes on one line, leaving out a cause whose text is there already.
pub(crate) fn chain(error: &(impl StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit() {
        let mut backoff = Backoff::default();
        let delays: Vec<_> = (0..40).map(|_| backoff.next()).collect();
        assert!(delays[0] <= Duration::from_millis(100));
        assert!(delays[5] > delays[0]);
        assert!(delays.iter().all(|delay| *delay <= Backoff::LONGEST));
        assert!(delays[39] >= Backoff::LONGEST / 2);
    }
}
