//! Volumes: what a spec asks for against what exists, which can't be changed or left out.

use flightcluster_config::ByteSize;
use flightcluster_crds::v1alpha1::StorageSpec;

use super::{DEFAULT_SIZE, Problem, Problems, Volume};
use crate::controller::dereference::{ExistingClaim, ExistingRole};
use crate::controller::quantity::parse_bytes;

/// What the log may take of an ingester's volume, in percent. Nothing else of size is on it; the rest is for the
/// file system itself, the part the log leaves free, and scratch files of compaction.
const LOG_PERCENT: u128 = 80;

/// The budget of the write-ahead log: a part of the smallest volume of the role, as their claims say, which
/// may have been enlarged since the StatefulSet was made. What a file system says of its own size can be
/// that of the whole node, where volumes are folders on its disk.
pub(super) fn log_bytes(replicas: i32, volume: &Volume, claims: &[ExistingClaim]) -> ByteSize {
    let (Volume::Claim { size, .. } | Volume::Scratch { size }) = volume;
    let volumes = (0..replicas).map(|ordinal| {
        let claim = claims.iter().find(|claim| claim.ordinal == ordinal);
        let claimed = claim.and_then(|claim| claim.size.as_deref());
        parse_bytes(claimed.unwrap_or(size)).unwrap_or_default()
    });
    let bytes = volumes.min().unwrap_or_default() * LOG_PERCENT / 100;
    // In whole MiB: it is read by people.
    ByteSize(u64::try_from(bytes >> 20 << 20).unwrap_or(u64::MAX))
}

/// Checks that every volume with a write-ahead log gets its pod. The volumes of a deleted cluster
/// stay, and one of the same name goes on with them: rows that are only in the log of a volume
/// without a pod would not be found, and their absence would fail every query.
pub(super) fn check_no_log_is_left_out(
    replicas: i32,
    claims: &[ExistingClaim],
    problems: &mut Problems,
) {
    let left_out: Vec<&ExistingClaim> = claims
        .iter()
        .filter(|claim| claim.ordinal >= replicas)
        .collect();
    let Some(highest) = left_out.iter().map(|claim| claim.ordinal).max() else {
        return;
    };
    let names: Vec<&str> = left_out.iter().map(|claim| claim.name.as_str()).collect();
    let message = format!(
        "{replicas} is too few: rows in the write-ahead logs on PersistentVolumeClaim {} would not \
         be found; set it to {}, or delete what is named here if its rows may be lost",
        names.join(", "),
        highest.saturating_add(1)
    );
    problems.push(Problem::new("ingester.replicas", message));
}

/// Checks a volume against the one that exists: Kubernetes lets nobody change the claim of a
/// StatefulSet, so a change is refused instead of being forgotten silently.
pub(super) fn validate_claim(
    storage: Option<&StorageSpec>,
    existing: Option<&ExistingRole>,
    claims: &[ExistingClaim],
    field: &str,
    problems: &mut Problems,
) -> Volume {
    let asked = storage.and_then(|storage| storage.size.as_deref());
    let size = asked.unwrap_or(DEFAULT_SIZE);
    let class = storage.and_then(|storage| storage.storage_class_name.clone());
    check_size(size, &format!("{field}.storage.size"), problems);
    let before = existing.and_then(|existing| existing.volume_size.as_deref());
    let Some(before) = before else {
        check_claims_are_large_enough(size, claims, field, problems);
        return Volume::Claim {
            size: size.to_owned(),
            storage_class_name: class,
        };
    };
    if parse_bytes(before) != parse_bytes(size) {
        let message = format!(
            "changing the size of existing volumes ({before} to {size}) is not supported yet; set \
             it back to {before}"
        );
        problems.push(Problem::new(format!("{field}.storage.size"), message));
    }
    let class_before = existing.and_then(|existing| existing.storage_class_name.clone());
    if class_before != class {
        let message = format!(
            "volumes stay in the class they were made in; set it back to {}",
            class_before
                .as_deref()
                .map_or("nothing".to_owned(), |name| format!("{name:?}"))
        );
        problems.push(Problem::new(
            format!("{field}.storage.storageClassName"),
            message,
        ));
    }
    // In the words of the existing claim, so that the same size written otherwise is no change.
    Volume::Claim {
        size: before.to_owned(),
        storage_class_name: class_before,
    }
}

/// Checks the wanted size against volumes that an earlier cluster of the same name left: pods go on
/// with them as they are.
fn check_claims_are_large_enough(
    size: &str,
    claims: &[ExistingClaim],
    field: &str,
    problems: &mut Problems,
) {
    let wanted = parse_bytes(size);
    let smallest = claims
        .iter()
        .filter_map(|claim| {
            claim
                .size
                .as_deref()
                .map(|size| (parse_bytes(size), size, claim))
        })
        .filter(|(bytes, ..)| bytes.is_some() && *bytes < wanted)
        .min_by_key(|(bytes, ..)| *bytes);
    if let Some((_, before, claim)) = smallest {
        let message = format!(
            "changing the size of existing volumes ({before} to {size}) is not supported yet; set \
             it back to {before}, the size of PersistentVolumeClaim {}",
            claim.name
        );
        problems.push(Problem::new(format!("{field}.storage.size"), message));
    }
}

/// Checks that `size` is one.
pub(super) fn check_size(size: &str, field: &str, problems: &mut Problems) {
    if parse_bytes(size).is_none_or(|bytes| bytes == 0) {
        let message = format!("{size:?} is no size; write for example 20Gi");
        problems.push(Problem::new(field, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_gets_a_part_of_the_smallest_volume_that_is_there_or_will_be() {
        let volume = Volume::Claim {
            size: "10Gi".to_owned(),
            storage_class_name: None,
        };
        let claim = |ordinal, size: &str| ExistingClaim {
            ordinal,
            name: format!("data-weather-ingester-{ordinal}"),
            size: Some(size.to_owned()),
        };
        let check = |replicas, claims: &[ExistingClaim], gib: u64| {
            assert_eq!(log_bytes(replicas, &volume, claims), ByteSize(gib << 30));
        };
        check(2, &[], 8);
        check(2, &[claim(0, "10Gi")], 8);
        // All were enlarged by hand, then one more pod comes with a new volume.
        let enlarged = [claim(0, "30Gi"), claim(1, "20Gi")];
        check(2, &enlarged, 16);
        check(3, &enlarged, 8);
        // What is left of a pod that is no more is no measure.
        check(1, &[claim(0, "30Gi"), claim(1, "1Gi")], 24);
    }
}
