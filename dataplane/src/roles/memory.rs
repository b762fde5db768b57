//! How the memory of the process is shared out when nothing is configured. The limit is that of the
//! container, or the machine's memory.
//!
//! | for | part | bounded by |
//! |---|---|---|
//! | queries | 60 % | the engine's memory pool; more goes to scratch files |
//! | rows in no file yet, and uploads that are decoded | 20 %, at most 512 MiB | the buffer of the ingester |
//! | flushing | half as much as the buffer | files that are encoded wait for each other |
//! | messages that are being received | a sixteenth | `ReceiveBudget` |
//! | what clients send before it is looked at | a sixteenth | `Windows` |
//! | blocks of stored files that come over a network | 10 % | the cache |
//!
//! That is more than all: no process has the most of everything at once. An ingester has no queries,
//! and a querier neither buffer nor flushes.

use flightcluster_config::{ByteSize, Config};
use flightcluster_server::{ReceiveBudget, Windows};
use flightcluster_telemetry::memory::memory_limit_bytes;

/// Memory assumed where no limit can be read.
const FALLBACK_MEMORY_BYTES: u64 = 4 << 30;

/// Share of the buffer.
const BUFFER_PERCENT: u64 = 20;
/// A larger buffer makes no better files, and more to replay.
const MOST_BUFFER_BYTES: u64 = 512 << 20;

/// A sixteenth of the limit, each, for what is received and for what comes before that.
const SIXTEENTH: u64 = 16;

/// Bytes this process may use.
pub(crate) fn limit_bytes() -> u64 {
    memory_limit_bytes().unwrap_or(FALLBACK_MEMORY_BYTES)
}

/// The buffer of an ingester that may use `limit_bytes`.
pub(crate) fn buffer_bytes(config: &Config, limit_bytes: u64) -> ByteSize {
    let configured = config.ingest.buffer_bytes;
    if configured.as_u64() > 0 {
        return configured;
    }
    ByteSize((limit_bytes / 100 * BUFFER_PERCENT).min(MOST_BUFFER_BYTES))
}

/// Room for messages on their way in.
pub(crate) fn receive_budget(config: &Config) -> ReceiveBudget {
    let max_message_bytes = config.server.max_message_bytes.as_usize();
    ReceiveBudget::new(limit_bytes() / SIXTEENTH, max_message_bytes)
}

/// What clients may send before it is looked at.
pub(crate) fn windows() -> Windows {
    Windows::new(limit_bytes() / SIXTEENTH)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_buffer_follows_the_memory_limit_unless_it_is_configured() {
        let mut config = Config::default();
        let bytes = |config: &Config, limit| buffer_bytes(config, limit).as_u64();
        assert_eq!(bytes(&config, 1000 << 20), 200 << 20);
        assert_eq!(bytes(&config, 64 << 30), 512 << 20, "the most");
        config.ingest.buffer_bytes = ByteSize::mib(777);
        assert_eq!(bytes(&config, 1 << 20), 777 << 20);
    }
}
