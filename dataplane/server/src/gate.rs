//! Whether calls are let in: not while starting, not while stopping.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::status::{ErrorCode, Failure};

const STARTING: u8 = 0;
const OPEN: u8 = 1;
const DRAINING: u8 = 2;

/// When a refused caller should try again. Long enough for a pod to leave the endpoints of its
/// Service, short enough not to be noticed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Opened once when the server is ready, closed once when it stops.
#[derive(Debug, Default)]
pub struct Gate(AtomicU8);

impl Gate {
    /// Lets calls in. Has no effect on a gate that is draining.
    pub fn open(&self) {
        // The result tells which state it was in; a draining server stays so.
        let _ = self
            .0
            .compare_exchange(STARTING, OPEN, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Refuses new calls from now on; running ones go on.
    pub fn drain(&self) {
        self.0.store(DRAINING, Ordering::SeqCst);
    }

    /// Fails while the gate is not open.
    ///
    /// # Errors
    /// `NOT_READY` before [`Gate::open`], `DRAINING` after [`Gate::drain`].
    pub fn enter(&self) -> Result<(), Failure> {
        let (code, message) = match self.0.load(Ordering::SeqCst) {
            OPEN => return Ok(()),
            DRAINING => (
                ErrorCode::Draining,
                "this server is stopping; connect again",
            ),
            _ => (
                ErrorCode::NotReady,
                "this server is starting; retry shortly",
            ),
        };
        Err(Failure::new(code, message).retry_after(RETRY_AFTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(gate: &Gate) -> Option<ErrorCode> {
        gate.enter().err().map(|failure| failure.code)
    }

    /// S4-37
    #[test]
    fn calls_are_refused_before_and_after() {
        let gate = Gate::default();
        assert_eq!(code(&gate), Some(ErrorCode::NotReady));
        gate.open();
        assert_eq!(code(&gate), None);
        gate.drain();
        assert_eq!(code(&gate), Some(ErrorCode::Draining));
        gate.open();
        assert_eq!(code(&gate), Some(ErrorCode::Draining));
    }
}
