//! How often, and how long, the ingesters are asked for the fresh rows of one query.

use std::time::{Duration, Instant};

use crate::partial::Lost;
use crate::ports::RecentRowsError;

/// How long fresh rows are asked for again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// No new attempt begins after this time.
    pub total: Duration,
    /// Wait before the second attempt; doubles each time.
    pub first_wait: Duration,
    /// How long an ingester may be silent, before its answer and between two messages of it.
    pub silence: Duration,
    /// The same, where a partial answer will do.
    pub partial_silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        // An ingester that was restarted is back within seconds or not for a while; a caller with
        // more time retries by itself.
        Self {
            total: Duration::from_secs(2),
            first_wait: Duration::from_millis(20),
            // Three times what the pings of a connection take to notice that nobody is there. Longer than that it is
            // not the other machine that is silent but something between: a query must not wait for it for ever.
            silence: Duration::from_secs(30),
            // It has the rows in memory: a healthy one answers within milliseconds, or some seconds if it has
            // to make gigabytes of them wider first. While it reads them from its log it says so more often. This is
            // half of what the pings take.
            partial_silence: Duration::from_secs(5),
        }
    }
}

/// One attempt to fetch the fresh rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    /// Whether a partial answer will do.
    pub(crate) partial: bool,
    /// No other one follows what is lost later; `None` if none follows at all.
    pub(crate) until: Option<Instant>,
    /// Whether it has a newer snapshot than the first.
    pub(crate) replanned: bool,
}

impl Attempt {
    /// Whether no other one follows although this was lost.
    pub(crate) fn is_last_for(self, lost: &Lost) -> bool {
        // Waiting for a silent ingester takes longer than there are attempts. What another one has no
        // longer may just have become a file then.
        let too_old = matches!(lost.problem, RecentRowsError::TooOld { .. });
        let late = self.until.is_none_or(|until| Instant::now() > until);
        late && (self.replanned || !too_old)
    }
}
