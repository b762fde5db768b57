//! Time for ages and graces, so that tests can turn it on by hand.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;

/// Where the ingester takes the time from. Cheap to clone.
#[derive(Clone)]
pub struct Clock {
    start: Instant,
    /// `None`: the system's clock.
    manual: Option<Arc<Mutex<Duration>>>,
}

/// Turns a manual [`Clock`].
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<Mutex<Duration>>);

impl Clock {
    /// The clock of this machine.
    #[must_use]
    pub fn system() -> Self {
        Self {
            start: Instant::now(),
            manual: None,
        }
    }

    /// A clock that stands still until it is turned.
    #[must_use]
    pub fn manual() -> (Self, ManualClock) {
        let elapsed = Arc::new(Mutex::new(Duration::ZERO));
        let clock = Self {
            start: Instant::now(),
            manual: Some(Arc::clone(&elapsed)),
        };
        (clock, ManualClock(elapsed))
    }

    /// Monotonic time.
    pub(crate) fn now(&self) -> Instant {
        match &self.manual {
            None => Instant::now(),
            Some(elapsed) => self.start + *elapsed.lock(),
        }
    }

    /// Wall time in nanoseconds since the Unix epoch.
    pub(crate) fn unix_nanos(&self) -> i64 {
        let since = match &self.manual {
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
            Some(elapsed) => *elapsed.lock(),
        };
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.manual.is_some() {
            "Clock(manual)"
        } else {
            "Clock(system)"
        })
    }
}

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }
}
