//! What is said while a process waits for the object store at its start.
//!
//! Pods start in any order, and on a busy machine the first connection may take longer than its limit: that
//! is worth a warning. What no waiting mends, and what lasts, needs somebody to look: an error. Each is
//! said once.

use std::time::Duration;

use tracing::Level;

/// What is away for as long does not come by itself: a pod that starts is there within a few seconds, and
/// two attempts without any answer take that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What was said so far.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    told: Option<Level>,
}

impl Waiting {
    /// The level of the line about an attempt that failed `waited` after the first one began; `None` when
    /// it was said already. `may_pass`: whether it may work later without anybody's doing.
    pub(super) fn level(&mut self, waited: Duration, may_pass: bool) -> Option<Level> {
        let level = match may_pass && waited < PATIENCE {
            true => Level::WARN,
            false => Level::ERROR,
        };
        // An error is less than a warning, as it is shown more often.
        let is_news = self.told.is_none_or(|told| level < told);
        is_news.then(|| *self.told.insert(level))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_store_that_does_not_answer_yet_is_a_warning_and_one_that_stays_away_an_error() {
        let mut waiting = Waiting::default();
        let mut told = |seconds: u32| waiting.level(SECOND * seconds, true);
        assert_eq!(told(15), Some(Level::WARN));
        assert_eq!(told(16), None);
        assert_eq!(told(29), None);
        assert_eq!(told(30), Some(Level::ERROR));
        assert_eq!(told(31), None);
    }

    #[test]
    fn what_no_waiting_mends_is_an_error_at_once() {
        let mut waiting = Waiting::default();
        assert_eq!(waiting.level(SECOND, false), Some(Level::ERROR));
        assert_eq!(waiting.level(SECOND * 2, true), None);
        let mut waiting = Waiting::default();
        assert_eq!(waiting.level(SECOND, true), Some(Level::WARN));
        assert_eq!(waiting.level(SECOND * 2, false), Some(Level::ERROR));
    }
}
