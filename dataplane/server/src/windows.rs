//! How much clients may send before anybody has looked at it.
//!
//! HTTP/2 lets a client send as much as the window it was given, and keeps it in memory until the call
//! reads it. Wide windows make uploads fast and many wide windows are more than a small pod has, so every
//! connection gets a part of what is left when it comes: a few have wide ones, and each of very many has
//! the smallest.

use std::sync::Arc;

use parking_lot::Mutex;

/// The widest window of a connection; larger ones than the default raise the throughput of uploads by half.
const MOST_BYTES: u32 = 32 << 20;
/// The window that HTTP/2 begins with.
const LEAST_BYTES: u32 = 65_535;
/// A connection gets this part of what is left.
const SHARE: u64 = 8;

/// Bytes for the windows of all connections. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct Windows(Arc<Mutex<u64>>);

/// The window of one connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) bytes: u32,
    taken: u64,
    left: Windows,
}

impl Windows {
    /// `bytes`: of all windows together, but for the smallest ones.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(bytes)))
    }

    pub(crate) fn take(&self) -> Window {
        let mut left = self.0.lock();
        let share = u32::try_from(*left / SHARE).unwrap_or(u32::MAX);
        let bytes = share.clamp(LEAST_BYTES, MOST_BYTES);
        let taken = u64::from(bytes).min(*left);
        *left -= taken;
        Window {
            bytes,
            taken,
            left: self.clone(),
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        *self.left.0.lock() += self.taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_have_wide_windows_and_many_together_no_more_than_there_is() {
        let all = 64 << 20;
        let windows = Windows::new(all);
        let first = windows.take();
        assert_eq!(first.bytes, 8 << 20);
        let others: Vec<_> = (0..200).map(|_| windows.take()).collect();
        let sum = |windows: &[Window]| windows.iter().map(|w| u64::from(w.bytes)).sum::<u64>();
        assert!(others.iter().all(|window| window.bytes >= LEAST_BYTES));
        let smallest = u64::from(LEAST_BYTES) * 200;
        assert!(sum(&others) + u64::from(first.bytes) <= all + smallest);
        drop((first, others));
        assert_eq!(*windows.0.lock(), all, "all is given back");
        assert_eq!(Windows::new(64 << 30).take().bytes, MOST_BYTES);
    }
}
