//! The memory of flushing, apart from that of queries and of the rows that wait: files that are encoded wait
//! for each other rather than pass its limit.

use tokio::sync::{Semaphore, SemaphorePermit};

/// What flushing may use of the limit of the buffer, beside the rows themselves.
const SHARE: u64 = 2;
/// Memory a file takes per byte of its rows: those of a table with a key once more, encoded pages that wait
/// for the end of their row group, and the file. While there are keys to be sorted, there are no pages.
const FACTOR: u64 = 3;
/// That memory is counted in pieces of this many bytes, because a semaphore counts in 32 bits.
const UNIT_BYTES: u64 = 1024;

/// What may be held for files on their way.
#[derive(Debug)]
pub(crate) struct PersistMemory {
    room: Semaphore,
    units: u32,
}

impl PersistMemory {
    /// The part that belongs to a buffer of `limit_bytes`.
    pub(crate) fn of_buffer(limit_bytes: u64) -> Self {
        let units = limit_bytes / SHARE / UNIT_BYTES;
        let units = u32::try_from(units).unwrap_or(u32::MAX / 8).max(1);
        Self {
            room: Semaphore::new(units as usize),
            units,
        }
    }

    /// Waits for the memory a file of rows of so many bytes takes; one that takes more than all is alone.
    pub(crate) async fn take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let units = bytes.saturating_mul(FACTOR).div_ceil(UNIT_BYTES);
        let units = u32::try_from(units).unwrap_or(u32::MAX).min(self.units);
        // It is never closed.
        self.room.acquire_many(units).await.ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn files_share_half_of_the_buffer_and_a_larger_one_waits_to_be_alone() {
        let memory = PersistMemory::of_buffer(120 << 20);
        let take = |mebibytes: u64| memory.take(mebibytes << 20).now_or_never().flatten();
        let first = take(10).unwrap();
        let second = take(10).unwrap();
        assert!(take(1).is_none(), "60 MiB are given");
        drop(first);
        assert!(take(500).is_none(), "not beside another");
        drop(second);
        let alone = take(500).unwrap();
        assert!(take(1).is_none(), "it has all");
        drop(alone);
        assert!(take(20).is_some());
    }
}
