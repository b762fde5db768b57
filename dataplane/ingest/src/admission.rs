//! Back-pressure: a write is let in while there is room, waits a little for the flusher when there is
//! none, and is then refused.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::buffer::Buffer;
use crate::error::Error;

/// How long a write waits for room. Longer than a flush of a few megabytes takes, short enough for
/// the client to learn in time that it is too fast.
const WAIT: Duration = Duration::from_millis(500);
/// When a refused client should come back: a large flush takes about this long.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Room in the buffer for one write; given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    buffer: Arc<Buffer>,
    freed: Arc<Notify>,
    bytes: u64,
}

/// Waits for room for `bytes`. `pressed` wakes the flusher, `freed` is told when room was made.
pub(crate) async fn admit(
    buffer: &Arc<Buffer>,
    pressed: &Notify,
    freed: &Arc<Notify>,
    bytes: u64,
) -> Result<Admission, Error> {
    let deadline = Instant::now() + WAIT;
    loop {
        // Registered before the check, so that room made in between is not missed.
        let waiting = freed.notified();
        let held = match buffer.reserve(bytes) {
            Ok(()) => {
                let (buffer, freed) = (Arc::clone(buffer), Arc::clone(freed));
                return Ok(Admission {
                    buffer,
                    freed,
                    bytes,
                });
            }
            Err(held) => held,
        };
        pressed.notify_one();
        if timeout_at(deadline, waiting).await.is_err() {
            return Err(Error::Overloaded {
                buffered_bytes: held,
                limit_bytes: buffer.limit_bytes(),
                retry_after: RETRY_AFTER,
            });
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.buffer.release(self.bytes);
        self.freed.notify_waiters();
    }
}
