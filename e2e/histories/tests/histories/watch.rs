//! Whether a history hangs, judged by the time this process was let run.
//!
//! A clock on the wall calls a history stuck that waits for its turn on a busy machine, or that somebody
//! stopped for ten minutes. Here a moment counts as far as the threads of this process did not have to
//! wait for a processor in it: all of it when they ran or had nothing to do, as in a real hang, little
//! when they wanted to run and could not, and next to none when they were stopped.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::timeout;

/// How long the process is watched before a moment is counted.
const MOMENT: Duration = Duration::from_millis(200);

/// Does some work; `None` when it is not done after the process could run for `limit`.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut counted = Duration::ZERO;
    let mut threads = Threads::now();
    while counted < limit {
        let (moment, begun) = (MOMENT.min(limit), Instant::now());
        if let Ok(done) = timeout(moment, &mut work).await {
            return Some(done);
        }
        let now = Threads::now();
        // Whoever is stopped wakes up long after.
        let passed = begun.elapsed().min(2 * moment);
        counted += passed.mul_f64(now.share_since(&threads));
        threads = now;
    }
    None
}

/// Of each thread how long it ran, and how long it waited for a processor, in nanoseconds.
#[derive(Debug, Default)]
struct Threads(HashMap<u64, (u64, u64)>);

impl Threads {
    /// None where the system does not tell: then all time counts.
    fn now() -> Self {
        let listed = std::fs::read_dir("/proc/self/task").into_iter().flatten();
        let thread = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.ok()?.path();
            // It may have ended since.
            let text = std::fs::read_to_string(path.join("schedstat")).ok()?;
            let mut numbers = text.split_whitespace().map(str::parse);
            let times = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            Some((path.file_name()?.to_str()?.parse().ok()?, times))
        };
        Self(listed.filter_map(thread).collect())
    }

    /// Of the time in which threads ran or wanted to, the part in which they ran.
    fn share_since(&self, before: &Self) -> f64 {
        let (mut ran, mut waited) = (0, 0);
        for (id, now) in &self.0 {
            let known = before.0.get(id).copied().unwrap_or_default();
            ran += now.0.saturating_sub(known.0);
            waited += now.1.saturating_sub(known.1);
        }
        match ran + waited {
            0 => 1.0,
            wanted => ran as f64 / wanted as f64,
        }
    }
}

#[tokio::test]
async fn what_hangs_is_found_and_what_ends_is_not() {
    let limit = Duration::from_millis(300);
    assert_eq!(within(limit, std::future::pending::<()>()).await, None);
    // Also what is busy all the time, and gets nowhere.
    let busy = async {
        loop {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(within::<()>(limit, busy).await, None);
    let done = within(limit, async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        7
    });
    assert_eq!(done.await, Some(7));
}

#[test]
fn time_in_which_threads_wait_for_a_processor_does_not_count() {
    let threads = |times: &[(u64, u64, u64)]| {
        Threads(
            times
                .iter()
                .map(|(id, ran, waited)| (*id, (*ran, *waited)))
                .collect(),
        )
    };
    let before = threads(&[(1, 100, 100), (2, 500, 0)]);
    let share = |times| threads(times).share_since(&before);
    assert_eq!(share(&[(1, 100, 100), (2, 500, 0)]), 1.0);
    assert_eq!(share(&[(1, 110, 100), (2, 510, 0)]), 1.0);
    assert_eq!(share(&[(1, 110, 130), (2, 500, 60)]), 0.1);
    // One that ended, and one that began.
    assert_eq!(share(&[(1, 105, 100), (3, 5, 90)]), 0.1);
    assert!(!Threads::now().0.is_empty(), "the system tells");
}
