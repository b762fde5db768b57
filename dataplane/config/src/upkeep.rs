//! Compaction, deletion of objects, orphans: `upkeep`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Role;
use crate::units::{ByteSize, DurationText, duration};

/// History is kept this many times as long as objects wait for deletion: whoever can still be read has
/// its schema, and a path that was deleted is remembered.
const HISTORY_GRACES: u32 = 2;

/// However short the graces are, a commit has so much time: a store that is slow for a while is no reason to
/// do the work again.
const SHORTEST_COMMIT: Duration = Duration::from_secs(60);

/// Compaction of small files, deletion of objects nobody reads, scan for orphans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct UpkeepConfig {
    /// Which processes do it; a standalone process does unless this is `nobody`.
    pub run_in: UpkeepPlace,
    /// Pause between two rounds.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub interval: Duration,
    /// Files of about the same size at which they become one.
    pub compaction_min_files: u32,
    /// Most files that become one at a time.
    pub compaction_max_files: u32,
    /// Size of a Parquet file that compaction aims at; files of half of it or more are left alone.
    pub compaction_target_bytes: ByteSize,
    /// Memory compaction and DELETE may use for sorting, in bytes; above it rows go to scratch files.
    pub compaction_memory_bytes: ByteSize,
    /// How long a process has a table for itself while it compacts or ends files, before it asks again; when it
    /// died, or stands still, others wait so long. A `DELETE` has a table, and waits for one, half of it.
    /// Who goes on after its time does no harm: its commit is refused where others were faster.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub lease: Duration,
    /// Time an object stays in the store after its file was replaced or its table dropped. Queries that
    /// began before must be over by then, and backups of the catalog from before it be replaced by
    /// newer ones.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub gc_grace: Duration,
    /// Pause between two scans of the object store for objects the catalog does not know.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub orphan_interval: Duration,
    /// Age at which an object the catalog does not know is an orphan. Younger ones may belong to a
    /// flush that is under way.
    #[serde(with = "duration")]
    #[schemars(with = "DurationText")]
    pub orphan_grace: Duration,
    /// Whether orphans are deleted, after `gc_grace`, or only reported. After the catalog was restored to
    /// an older state orphans hold rows.
    pub delete_orphans: bool,
}

impl Default for UpkeepConfig {
    fn default() -> Self {
        Self {
            run_in: UpkeepPlace::Ingester,
            interval: Duration::from_secs(30),
            compaction_min_files: 8,
            compaction_max_files: 256,
            compaction_target_bytes: ByteSize::mib(256),
            compaction_memory_bytes: ByteSize::mib(64),
            lease: Duration::from_secs(120),
            gc_grace: Duration::from_secs(24 * 60 * 60),
            orphan_interval: Duration::from_secs(6 * 60 * 60),
            orphan_grace: Duration::from_secs(24 * 60 * 60),
            delete_orphans: false,
        }
    }
}

impl UpkeepConfig {
    /// How long the catalog remembers what nobody can ask for any more, objects it deleted among it: twice
    /// [`UpkeepConfig::gc_grace`].
    #[must_use]
    pub fn history(&self) -> Duration {
        self.gc_grace.saturating_mul(HISTORY_GRACES)
    }

    /// For how long a commit may name objects that were stored after its work began. An object that no file
    /// has stays for [`UpkeepConfig::orphan_grace`] at least, and then its deletion is remembered for
    /// [`UpkeepConfig::history`], so a commit in time finds either the object or the memory of its end. A
    /// minute at least: graces of seconds are for tests.
    ///
    /// The graces may have any relation to each other. With an `orphan_grace` above three `gc_grace` a commit
    /// may be repeated when a file of it was replaced, deleted and forgotten since; what is asked then is not
    /// the path, but the watermarks of a flush, and the inputs of a replacement.
    #[must_use]
    pub fn commit_within(&self) -> Duration {
        self.orphan_grace.max(self.history()).max(SHORTEST_COMMIT)
    }
}

/// Which processes do upkeep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UpkeepPlace {
    /// The ingesters.
    #[default]
    Ingester,
    /// The queriers.
    Querier,
    /// None: files stay as they are and nothing is deleted.
    Nobody,
}

impl UpkeepPlace {
    /// Whether a process of this role does it.
    #[must_use]
    pub fn includes(self, role: Role) -> bool {
        match (self, role) {
            (Self::Nobody, _) | (_, Role::Catalog) => false,
            (_, Role::Standalone) => true,
            (Self::Ingester, role) => role == Role::Ingester,
            (Self::Querier, role) => role == Role::Querier,
        }
    }
}
