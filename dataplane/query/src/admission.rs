//! How many queries run at once, and how many may wait: first come, first served.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Error;

/// Lets `running` queries run and `waiting` more wait for their turn, in order of arrival.
#[derive(Debug)]
pub(crate) struct Admission {
    slots: Arc<Semaphore>,
    max_running: usize,
    max_waiting: usize,
    waiting: AtomicUsize,
    rejected: AtomicU64,
}

impl Admission {
    pub(crate) fn new(max_running: usize, max_waiting: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(max_running)),
            max_running,
            max_waiting,
            waiting: AtomicUsize::new(0),
            rejected: AtomicU64::new(0),
        }
    }

    /// Waits for a slot; the slot is free again when the answer is dropped.
    ///
    /// Errors: [`Error::QueueFull`] at once when too many wait already. Cancellation: a dropped
    /// call leaves the queue.
    pub(crate) async fn admit(&self) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(permit) = Arc::clone(&self.slots).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = Place::take(self)?;
        Ok(Arc::clone(&self.slots)
            .acquire_owned()
            .await
            .expect("the semaphore lives as long as the engine and is never closed"))
    }

    pub(crate) fn running(&self) -> usize {
        self.max_running
            .saturating_sub(self.slots.available_permits())
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn max_running(&self) -> usize {
        self.max_running
    }

    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

/// A place in the queue, given back on drop.
struct Place<'a>(&'a Admission);

impl<'a> Place<'a> {
    fn take(admission: &'a Admission) -> Result<Self, Error> {
        let waiting = admission.waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(admission);
        if waiting >= admission.max_waiting {
            admission.rejected.fetch_add(1, Ordering::Relaxed);
            return Err(Error::QueueFull {
                running: admission.max_running,
                waiting,
            });
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_freed_slot_goes_to_the_first_in_line() {
        let admission = Admission::new(1, 1);
        let first = admission.admit().await.unwrap();
        let mut second = Box::pin(admission.admit());
        assert!(second.as_mut().now_or_never().is_none());
        assert_eq!((admission.running(), admission.waiting()), (1, 1));

        let third = admission.admit().await;
        assert!(matches!(
            third,
            Err(Error::QueueFull {
                running: 1,
                waiting: 1
            })
        ));
        assert_eq!(admission.rejected(), 1);

        drop(first);
        let second = second.await.unwrap();
        assert_eq!((admission.running(), admission.waiting()), (1, 0));
        drop(second);
        assert_eq!(admission.running(), 0);
    }

    #[tokio::test]
    async fn leaving_the_queue_gives_the_place_back() {
        let admission = Admission::new(1, 1);
        let _first = admission.admit().await.unwrap();
        let mut second = Box::pin(admission.admit());
        assert!(second.as_mut().now_or_never().is_none());
        drop(second);
        assert_eq!(admission.waiting(), 0);
    }
}
