//! What can go wrong at which port, in which kind of step.

use crate::life::{Port, Trouble};

use Trouble::{CrashAfter, CrashBefore, Full, HoldAfter, HoldBefore, LostAnswer, LostRequest};

const CRASHES: [Trouble; 2] = [CrashBefore, CrashAfter];
const LOST: [Trouble; 4] = [LostRequest, LostAnswer, CrashBefore, CrashAfter];
const DISK: [Trouble; 4] = [LostRequest, CrashBefore, CrashAfter, Full];

pub(crate) const WRITE_FAULTS: [(Port, &[Trouble]); 8] = [
    (Port::Append, &DISK),
    (Port::Sync, &[LostRequest, CrashBefore, CrashAfter]),
    (Port::Create, &DISK),
    (Port::SyncDirectory, &[LostRequest, CrashBefore, CrashAfter]),
    (Port::Lookup, &LOST),
    (Port::Open, &LOST),
    (Port::Claim, &LOST),
    (Port::Peer, &[LostRequest, LostAnswer]),
];
pub(crate) const FLUSH_FAULTS: [(Port, &[Trouble]); 6] = [
    (Port::Commit, &LOST),
    (Port::Commit, &LOST),
    (Port::Put, &LOST),
    (Port::Lookup, &LOST),
    (Port::Remove, &[LostRequest, CrashBefore, CrashAfter]),
    (Port::SyncDirectory, &[LostRequest, CrashBefore, CrashAfter]),
];
pub(crate) const COMPACT_FAULTS: [(Port, &[Trouble]); 6] = [
    (Port::Replace, &LOST),
    (Port::Replace, &LOST),
    (Port::Put, &LOST),
    (Port::Get, &[LostRequest, CrashBefore, CrashAfter]),
    (Port::Delete, &LOST),
    (Port::Lookup, &LOST),
];
pub(crate) const COLLECT_FAULTS: [(Port, &[Trouble]); 3] = [
    (Port::Delete, &LOST),
    (Port::Delete, &LOST),
    (Port::Lookup, &LOST),
];
pub(crate) const UPLOAD_FAULTS: [(Port, &[Trouble]); 7] = [
    (Port::Upload, &LOST),
    (Port::Upload, &LOST),
    (Port::Peer, &LOST),
    (Port::Peer, &LOST),
    (Port::Peer, &CRASHES),
    (Port::Commit, &LOST),
    (Port::Put, &LOST),
];
pub(crate) const START_FAULTS: [(Port, &[Trouble]); 6] = [
    (Port::Register, &LOST),
    (Port::Open, &LOST),
    (Port::Create, &DISK),
    (Port::Append, &DISK),
    (Port::Sync, &[LostRequest, CrashBefore, CrashAfter]),
    (Port::SyncDirectory, &[LostRequest, CrashBefore, CrashAfter]),
];
pub(crate) const DRAIN_FAULTS: [(Port, &[Trouble]); 3] = [
    (Port::Commit, &LOST),
    (Port::Register, &LOST),
    (Port::Put, &CRASHES),
];
pub(crate) const QUERY_FAULTS: [(Port, &[Trouble]); 3] = [
    (Port::Snapshot, &[LostRequest]),
    (Port::Recent, &[LostRequest, LostAnswer]),
    (Port::Get, &[LostRequest]),
];
pub(crate) const HOLDS: [(Port, &[Trouble]); 11] = [
    (Port::Upload, &[HoldBefore, HoldAfter]),
    (Port::Upload, &[HoldBefore, HoldAfter]),
    (Port::Peer, &[HoldBefore, HoldAfter]),
    (Port::Replace, &[HoldBefore, HoldAfter]),
    (Port::Replace, &[HoldBefore, HoldAfter]),
    (Port::Get, &[HoldBefore, HoldAfter]),
    (Port::Commit, &[HoldBefore, HoldAfter]),
    (Port::Put, &[HoldBefore, HoldAfter]),
    (Port::Lookup, &[HoldBefore, HoldAfter]),
    (Port::Recent, &[HoldBefore, HoldAfter]),
    (Port::Sync, &[HoldBefore, HoldAfter]),
];

/// Every trouble that the steps of all seeds together must have had.
pub(crate) fn all_troubles() -> impl Iterator<Item = (Port, Trouble)> {
    let steps = [
        &WRITE_FAULTS[..],
        &FLUSH_FAULTS,
        &COMPACT_FAULTS,
        &COLLECT_FAULTS,
        &UPLOAD_FAULTS,
        &START_FAULTS,
        &DRAIN_FAULTS,
    ];
    let others = [&QUERY_FAULTS[..], &HOLDS];
    let kinds = steps.into_iter().chain(others).flatten();
    kinds.flat_map(|(port, troubles)| troubles.iter().map(|trouble| (*port, *trouble)))
}
