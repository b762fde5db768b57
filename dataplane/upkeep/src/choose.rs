//! Which files of a table are compacted next. Pure.
//!
//! Files are in tiers by size, each four times as wide as the one below; a tier with enough files
//! becomes one file of a higher tier. So a row is rewritten about once per tier on its way to the
//! target size, and each tier keeps fewer files than make a group: the number of small files is
//! bounded, whatever the stream of flushes.

use flightcluster_catalog::File;

/// Below this all files are of one tier: such files cost their overhead, not their bytes.
const FIRST_TIER_BYTES: u64 = 1 << 20;

/// How much wider the next tier is. A group of at least this many files leaves its tier.
const TIER_FACTOR: u64 = 4;

/// How groups are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Files of one tier that make a group, at least 2.
    pub(crate) min_files: usize,
    /// Most files of a group.
    pub(crate) max_files: usize,
    /// Most bytes of a group; files of half of it or more are left alone.
    pub(crate) target_bytes: u64,
}

impl Policy {
    /// Files below this many bytes are small.
    pub(crate) fn small_bytes(&self) -> u64 {
        (self.target_bytes / 2).max(1)
    }
}

/// The next group, or `None` when no tier has enough files. Files come oldest first.
pub(crate) fn choose(files: &[File], policy: &Policy) -> Option<Vec<File>> {
    let small = files
        .iter()
        .filter(|file| file.file.size_bytes < policy.small_bytes());
    let mut tiers: Vec<Vec<&File>> = Vec::new();
    for file in small {
        let at = tier(file.file.size_bytes);
        if tiers.len() <= at {
            tiers.resize(at + 1, Vec::new());
        }
        tiers[at].push(file);
    }
    let min_files = policy.min_files.max(2);
    let full = tiers.into_iter().find(|tier| tier.len() >= min_files)?;
    let mut bytes = 0_u64;
    let fits = |file: &&File| {
        bytes = bytes.saturating_add(file.file.size_bytes);
        bytes <= policy.target_bytes
    };
    let max_files = policy.max_files.max(min_files);
    let group: Vec<File> = full
        .into_iter()
        .take(max_files)
        .take_while(fits)
        .cloned()
        .collect();
    // Two small files always fit.
    (group.len() >= 2).then_some(group)
}

fn tier(bytes: u64) -> usize {
    let mut tier = 0;
    let mut limit = FIRST_TIER_BYTES;
    while bytes >= limit {
        tier += 1;
        limit = limit.saturating_mul(TIER_FACTOR);
        if limit == u64::MAX {
            break;
        }
    }
    tier
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use flightcluster_catalog::{NewFile, SchemaVersion, SequenceNumber, SnapshotId, TableId};

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const POLICY: Policy = Policy {
        min_files: 4,
        max_files: 6,
        target_bytes: 64 * MIB,
    };

    fn file(id: u64, size_bytes: u64) -> File {
        File {
            id,
            ingester: None,
            file: NewFile {
                table: TableId(1),
                path: format!("f{id}"),
                size_bytes,
                rows: 1,
                schema_version: SchemaVersion(1),
                first_sequence: SequenceNumber(id),
                last_sequence: SequenceNumber(id),
                time_range_nanos: None,
                sorted: false,
            },
            begin_snapshot: SnapshotId(id),
        }
    }

    fn files(sizes: &[u64]) -> Vec<File> {
        (1..).zip(sizes).map(|(id, size)| file(id, *size)).collect()
    }

    fn chosen(sizes: &[u64]) -> Vec<u64> {
        let group = choose(&files(sizes), &POLICY).unwrap_or_default();
        group.into_iter().map(|file| file.id).collect()
    }

    #[test]
    fn too_few_files_of_one_size_are_left_alone() {
        assert!(chosen(&[]).is_empty());
        assert!(chosen(&[KIB, KIB, KIB, 2 * MIB, 2 * MIB, 2 * MIB]).is_empty());
        assert!(chosen(&[40 * MIB; 9]).is_empty());
    }

    #[test]
    fn the_smallest_tier_with_enough_files_goes_first_and_oldest_first() {
        assert_eq!(
            chosen(&[2 * MIB, KIB, 3 * MIB, 9 * KIB, 2 * MIB, 5, MIB, 1]),
            [2, 4, 6, 8]
        );
        assert_eq!(chosen(&[KIB, 2 * MIB, 3 * MIB, 2 * MIB, MIB]), [2, 3, 4, 5]);
    }

    #[test]
    fn a_group_is_bounded_in_files_and_bytes() {
        assert_eq!(chosen(&[KIB; 20]), [1, 2, 3, 4, 5, 6]);
        assert_eq!(chosen(&[20 * MIB; 5]), [1, 2, 3]);
    }

    #[test]
    fn a_steady_stream_of_small_files_levels_off() {
        let (mut live, mut rewritten) = (Vec::new(), 0_u64);
        let (mut most, flushes, size) = (0, 20_000_u64, 8 * KIB);
        for id in 1..=flushes {
            live.push(file(id, size));
            while let Some(group) = choose(&live, &POLICY) {
                live.retain(|file| !group.contains(file));
                let bytes = group.iter().map(|file| file.file.size_bytes).sum();
                rewritten += bytes;
                live.push(file(flushes + group[0].id, bytes));
            }
            let small = |file: &&File| file.file.size_bytes < POLICY.small_bytes();
            most = most.max(live.iter().filter(small).count());
        }
        let bytes: u64 = live.iter().map(|file| file.file.size_bytes).sum();
        assert_eq!(bytes, flushes * size);
        // Four tiers below half of the target, each with less than a group.
        assert!(most <= 4 * 3, "{most} small files");
        assert!(live.len() < 24, "{} files", live.len());
        assert!(rewritten < 60 * bytes, "{rewritten} of {bytes}");
    }
}
