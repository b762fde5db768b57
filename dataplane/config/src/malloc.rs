//! The memory allocator: `malloc`, and what its settings mean to jemalloc and to glibc.
//!
//! The presets are measured choices (server with a memtable that fills and drops, idle resident
//! memory 20 s later, throughput of DoPut): jemalloc with its background thread and a decay of one
//! second returns to the base line within a second at 2.3 GB/s; ten seconds saves page faults under
//! bursts; no decay at all halves throughput, which only a memory-starved pod should pay. Without the
//! background thread an idle process keeps its burst, because decay then only advances on use.
//!
//! Freed pages count against the limit of a container. Under overload in a pod of 512 MiB 214 MiB were in
//! use and, with a decay of one second, up to 460 resident; with a tenth of a second 350, for 6 % of the
//! throughput of DoPut and up to 10 % of DoGet.
//!
//! There each arena counts, with its pages that are used in part and its tables of addresses, and jemalloc makes
//! four per core of the machine, whatever the limit of the container. With two arenas, and no blocks over 4 KiB
//! kept by threads for themselves, 13.5 MiB of anonymous memory stay after half a minute of that overload; with
//! the 64 arenas of sixteen cores 20.7. On two cores, so eight arenas, the gain is a tenth: 16.4 and 18.4 MiB after
//! two rounds of a minute in place of 18.0 and 20.2. DoPut, DoGet and queries are as fast (31 pairs, two cores).

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{DurationText, optional_duration};

/// Environment variable the built-in jemalloc reads at start.
pub const MALLOC_CONF_ENV: &str = "MALLOC_CONF";
/// Environment variable glibc reads at start.
pub const GLIBC_TUNABLES_ENV: &str = "GLIBC_TUNABLES";

/// Up to this limit a second's freed pages are a large part of all there is.
const LITTLE_MEMORY_BYTES: u64 = 1 << 30;

/// More options of jemalloc where there is little memory, for less that stays after a burst.
const LITTLE_MEMORY_CONF: &str = ",narenas:2,tcache_max:4096";

/// How freed memory is given back to the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MallocConfig {
    /// Trade between speed and resident memory: throughput keeps freed pages 10 s, balanced 1 s (100 ms
    /// where at most 1 GiB may be used), low-memory not at all (about half the throughput). Where at most 1 GiB
    /// may be used, balanced and low-memory have two arenas only.
    pub preset: MallocPreset,
    /// Time freed pages stay resident. Unset: by preset.
    #[serde(with = "optional_duration")]
    #[schemars(with = "Option<DurationText>")]
    pub dirty_decay: Option<Duration>,
    /// Time pages that were given back lazily stay mapped. Unset: 0.
    #[serde(with = "optional_duration")]
    #[schemars(with = "Option<DurationText>")]
    pub muzzy_decay: Option<Duration>,
    /// Gives pages back from a thread of the allocator; without it an idle process keeps its peak.
    pub background_thread: bool,
}

impl Default for MallocConfig {
    fn default() -> Self {
        Self {
            preset: MallocPreset::Balanced,
            dirty_decay: None,
            muzzy_decay: None,
            background_thread: true,
        }
    }
}

/// Trade between speed and resident memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MallocPreset {
    /// Fewest page faults, memory comes back after 10 s.
    Throughput,
    /// Memory comes back after 1 s at nearly the same speed; after 100 ms where there is little.
    #[default]
    Balanced,
    /// Memory comes back at once, at about half the speed.
    LowMemory,
}

impl MallocPreset {
    /// Time freed pages stay resident under jemalloc in a process that may use `memory_bytes`, if that
    /// is known.
    #[must_use]
    pub fn dirty_decay(self, memory_bytes: Option<u64>) -> Duration {
        match self {
            Self::Throughput => Duration::from_secs(10),
            Self::Balanced if is_little(memory_bytes) => Duration::from_millis(100),
            Self::Balanced => Duration::from_secs(1),
            Self::LowMemory => Duration::ZERO,
        }
    }

    /// The `GLIBC_TUNABLES` with the same intent, for a build without jemalloc or for helper
    /// processes.
    ///
    /// Naming any threshold switches off glibc's dynamic one, and a low value makes every message
    /// body page-fault (half to two thirds of the throughput), so only [`MallocPreset::LowMemory`]
    /// has one; the others stay fast.
    #[must_use]
    pub const fn glibc_tunables(self) -> &'static str {
        match self {
            Self::Throughput => {
                "glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=67108864"
            }
            Self::Balanced => {
                "glibc.malloc.trim_threshold=1073741824:glibc.malloc.mmap_threshold=67108864:\
                 glibc.malloc.arena_max=2"
            }
            Self::LowMemory => {
                "glibc.malloc.trim_threshold=4:glibc.malloc.arena_max=2:glibc.malloc.tcache_count=0"
            }
        }
    }
}

fn is_little(memory_bytes: Option<u64>) -> bool {
    memory_bytes.is_some_and(|bytes| bytes <= LITTLE_MEMORY_BYTES)
}

/// The jemalloc options of these settings, such as
/// `background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0`, in a process that may use `memory_bytes`.
#[must_use]
pub fn malloc_conf(malloc: &MallocConfig, memory_bytes: Option<u64>) -> String {
    let preset = malloc.preset.dirty_decay(memory_bytes);
    let dirty = malloc.dirty_decay.unwrap_or(preset);
    let muzzy = malloc.muzzy_decay.unwrap_or(Duration::ZERO);
    let more = match malloc.preset {
        MallocPreset::Balanced | MallocPreset::LowMemory if is_little(memory_bytes) => {
            LITTLE_MEMORY_CONF
        }
        _ => "",
    };
    format!(
        "background_thread:{},dirty_decay_ms:{},muzzy_decay_ms:{}{more}",
        malloc.background_thread,
        dirty.as_millis(),
        muzzy.as_millis()
    )
}

/// The environment (name, value) that makes an allocator follow these settings from its first page:
/// jemalloc by [`MALLOC_CONF_ENV`], glibc by [`GLIBC_TUNABLES_ENV`]. Each ignores the other's.
#[must_use]
pub fn malloc_env(malloc: &MallocConfig, memory_bytes: Option<u64>) -> [(&'static str, String); 2] {
    [
        (MALLOC_CONF_ENV, malloc_conf(malloc, memory_bytes)),
        (
            GLIBC_TUNABLES_ENV,
            malloc.preset.glibc_tunables().to_owned(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_become_jemalloc_options() {
        let conf = |preset| {
            let malloc = MallocConfig {
                preset,
                ..MallocConfig::default()
            };
            malloc_conf(&malloc, None)
        };
        assert_eq!(
            conf(MallocPreset::Throughput),
            "background_thread:true,dirty_decay_ms:10000,muzzy_decay_ms:0"
        );
        assert_eq!(
            conf(MallocPreset::Balanced),
            "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0"
        );
        assert_eq!(
            conf(MallocPreset::LowMemory),
            "background_thread:true,dirty_decay_ms:0,muzzy_decay_ms:0"
        );
    }

    /// S4-43: in a small pod freed pages are not half of the limit.
    #[test]
    fn where_there_is_little_memory_freed_pages_go_sooner() {
        let conf = |bytes| malloc_conf(&MallocConfig::default(), Some(bytes));
        let sooner = "background_thread:true,dirty_decay_ms:100,muzzy_decay_ms:0,\
                      narenas:2,tcache_max:4096";
        assert_eq!(conf(512 << 20), sooner);
        assert_eq!(conf(1 << 30), sooner);
        let later = "background_thread:true,dirty_decay_ms:1000,muzzy_decay_ms:0";
        assert_eq!(conf((1 << 30) + 1), later);
    }

    /// S4-43: nor does every core of the node have arenas there, unless speed is asked for.
    #[test]
    fn where_there_is_little_memory_there_are_few_arenas() {
        let is_small = |preset, bytes| {
            let malloc = MallocConfig {
                preset,
                ..MallocConfig::default()
            };
            malloc_conf(&malloc, bytes).ends_with(",narenas:2,tcache_max:4096")
        };
        let little = Some(LITTLE_MEMORY_BYTES);
        assert!(is_small(MallocPreset::Balanced, little));
        assert!(is_small(MallocPreset::LowMemory, little));
        assert!(!is_small(MallocPreset::Throughput, little));
        assert!(!is_small(MallocPreset::Balanced, None));
        assert!(!is_small(MallocPreset::LowMemory, None));
    }

    #[test]
    fn single_settings_win_over_the_preset() {
        let malloc = MallocConfig {
            dirty_decay: Some(Duration::from_millis(2500)),
            muzzy_decay: Some(Duration::from_secs(3)),
            background_thread: false,
            ..MallocConfig::default()
        };
        assert_eq!(
            malloc_conf(&malloc, None),
            "background_thread:false,dirty_decay_ms:2500,muzzy_decay_ms:3000"
        );
        assert_eq!(
            malloc_env(&malloc, Some(1 << 20))[0],
            (MALLOC_CONF_ENV, malloc_conf(&malloc, Some(1 << 20)))
        );
    }

    /// S4-44: the one preset with the low value is for those who ask for it.
    #[test]
    fn only_the_low_memory_preset_pays_for_a_low_trim_threshold() {
        let low = "trim_threshold=4:";
        assert!(MallocPreset::LowMemory.glibc_tunables().contains(low));
        assert!(!MallocPreset::Balanced.glibc_tunables().contains(low));
        assert!(!MallocPreset::Throughput.glibc_tunables().contains(low));
    }
}
