//! What a history of keys does: its sizes and steps, all of them from a seed ([`crate::registers`] runs them).
//!
//! A step holds everything that chance decided about it, so that a bad history can be made shorter: each step
//! does the same whichever others are left out.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::life::{Fault, Port, Trouble};
use crate::program::Settings;

const KEYS: i64 = 3;
const STEPS: usize = 40;

/// Where a write may be held: before and after its table is opened, before and after its numbers are taken, and
/// before it is on disk.
const HOLDS: [(Port, Trouble); 5] = [
    (Port::Open, Trouble::HoldBefore),
    (Port::Open, Trouble::HoldAfter),
    (Port::Order, Trouble::HoldBefore),
    (Port::Order, Trouble::HoldAfter),
    (Port::Sync, Trouble::HoldBefore),
];
/// What else may happen to one.
const LOSSES: [(Port, Trouble); 6] = [
    (Port::Open, Trouble::LostAnswer),
    (Port::Open, Trouble::CrashAfter),
    (Port::Order, Trouble::LostRequest),
    (Port::Order, Trouble::LostAnswer),
    (Port::Order, Trouble::CrashAfter),
    (Port::Sync, Trouble::CrashAfter),
];

/// Where a deletion may be held: before and after it learns whom to ask, before one of the ingesters is asked,
/// before and after its snapshot, and before its files take the place of others.
const DELETE_HOLDS: [(Port, u8, Trouble); 10] = [
    (Port::Lookup, 0, Trouble::HoldAfter),
    (Port::Lookup, 1, Trouble::HoldBefore),
    (Port::Lookup, 1, Trouble::HoldAfter),
    (Port::Peer, 0, Trouble::HoldBefore),
    (Port::Peer, 1, Trouble::HoldBefore),
    (Port::Peer, 0, Trouble::HoldAfter),
    (Port::Peer, 1, Trouble::HoldAfter),
    (Port::Snapshot, 1, Trouble::HoldBefore),
    (Port::Snapshot, 1, Trouble::HoldAfter),
    (Port::Replace, 0, Trouble::HoldBefore),
];
/// What else may happen to one.
const DELETE_LOSSES: [(Port, Trouble); 5] = [
    (Port::Peer, Trouble::LostRequest),
    (Port::Peer, Trouble::LostAnswer),
    (Port::Get, Trouble::LostRequest),
    (Port::Replace, Trouble::LostRequest),
    (Port::Replace, Trouble::LostAnswer),
];

/// The next values of a key or two, written through a node in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) node: usize,
    pub(crate) keys: Vec<i64>,
}

/// What is to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Key(i64),
    /// Values up to the last one that was given out, and so many more or fewer: also what is written while the
    /// deletion runs.
    UpTo(i64),
}

/// How a process starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Restart {
    pub(crate) node: usize,
    pub(crate) power_cut: bool,
    /// How far its clock is ahead, in seconds.
    pub(crate) clock: u64,
    pub(crate) luck: u64,
}

/// One step; with `fault` something goes wrong in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Write {
        batch: Batch,
        fault: Option<Fault>,
    },
    /// A write is held while others, and a deletion, begin and end.
    HeldWrite {
        batch: Batch,
        fault: Fault,
        others: Vec<Batch>,
        deletion: Option<Pass>,
    },
    Flush {
        node: usize,
    },
    /// A process is killed and starts again.
    Crash(Restart),
    /// The clock of a process is put ahead.
    Advance {
        node: usize,
        seconds: u64,
    },
    Compact {
        node: usize,
    },
    Delete {
        pass: Pass,
        fault: Option<Fault>,
    },
    /// A deletion is held while writes begin and end.
    HeldDelete {
        pass: Pass,
        fault: Fault,
        others: Vec<Batch>,
    },
    /// Deletions, some after a write elsewhere, while a node is down that may or may not have rows in its log.
    Absence {
        /// Its rows are put into files first, and leave its memory.
        rests: bool,
        /// What it takes last.
        last: Option<Batch>,
        deletions: Vec<(Option<Batch>, Pass)>,
        restart: Restart,
    },
    Read,
}

/// A history to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) settings: Settings,
    /// How all nodes start, and how those that are down start before the last questions.
    pub(crate) starts: [Vec<Restart>; 2],
    pub(crate) steps: Vec<Step>,
}

impl Program {
    /// The history of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let settings = Settings {
            nodes: chance.random_range(2..=3),
            tables: 1,
            clients: vec![],
            uploads: vec![],
            segment_bytes: *[1 << 10, 64 << 20].choose(&mut chance).unwrap(),
            grace_seconds: *[1, 60].choose(&mut chance).unwrap(),
            flush_bytes: 128 << 20,
            buffer_bytes: 512 << 20,
            min_files: 2,
            target_bytes: 256 << 20,
            leases_end: chance.random(),
            luck: chance.random(),
        };
        let nodes = settings.nodes;
        let mut draw = Draw { chance, nodes };
        let starts = [(); 2].map(|()| (0..nodes).map(|node| draw.restart(node, false)).collect());
        let steps = (0..STEPS).map(|_| draw.step()).collect();
        Self {
            settings,
            starts,
            steps,
        }
    }
}

struct Draw {
    chance: StdRng,
    nodes: usize,
}

impl Draw {
    fn step(&mut self) -> Step {
        let node = self.node();
        match self.chance.random_range(0..100) {
            0..33 => Step::Write {
                batch: self.batch(node),
                fault: None,
            },
            33..41 => Step::Write {
                batch: self.batch(node),
                fault: self.one_of(&LOSSES, 0),
            },
            41..60 => self.held_write(node),
            60..70 => Step::Flush { node },
            70..76 => Step::Crash(self.restart(node, true)),
            76..79 => Step::Advance {
                node,
                seconds: self.chance.random_range(0..100),
            },
            79..84 => Step::Compact { node },
            84..90 => {
                let nth = self.chance.random_range(0..2);
                let fault = self.one_of(&DELETE_LOSSES, nth);
                Step::Delete {
                    pass: self.pass(),
                    fault: fault.filter(|_| self.chance.random()),
                }
            }
            90..95 => self.held_delete(),
            95..98 => self.absence(node),
            _ => Step::Read,
        }
    }

    fn held_write(&mut self, node: usize) -> Step {
        let (port, trouble) = *HOLDS.choose(&mut self.chance).unwrap();
        let nth = 0;
        let mut others = self.batches();
        // The node that holds its write takes no other.
        others.retain(|other| other.node != node);
        Step::HeldWrite {
            batch: self.batch(node),
            fault: Fault { port, nth, trouble },
            others,
            deletion: (self.chance.random_range(0..3) == 0).then(|| self.pass()),
        }
    }

    fn held_delete(&mut self) -> Step {
        let (port, nth, trouble) = *DELETE_HOLDS.choose(&mut self.chance).unwrap();
        Step::HeldDelete {
            pass: self.pass(),
            fault: Fault { port, nth, trouble },
            others: self.batches(),
        }
    }

    fn absence(&mut self, node: usize) -> Step {
        let deletions = 0..self.chance.random_range(1..4);
        Step::Absence {
            rests: self.chance.random(),
            last: (self.chance.random_range(0..3) == 0).then(|| self.batch(node)),
            deletions: deletions
                .map(|_| {
                    let other = self.node();
                    let batch = self.chance.random::<bool>().then(|| self.batch(other));
                    (batch, self.pass())
                })
                .collect(),
            restart: self.restart(node, true),
        }
    }

    fn node(&mut self) -> usize {
        self.chance.random_range(0..self.nodes)
    }

    fn one_of(&mut self, losses: &[(Port, Trouble)], nth: u8) -> Option<Fault> {
        let (port, trouble) = *losses.choose(&mut self.chance)?;
        Some(Fault { port, nth, trouble })
    }

    fn batch(&mut self, node: usize) -> Batch {
        let first = self.chance.random_range(0..KEYS);
        let keys = match self.chance.random() {
            true => vec![first],
            false => vec![first, (first + 1) % KEYS],
        };
        Batch { node, keys }
    }

    fn batches(&mut self) -> Vec<Batch> {
        let count = self.chance.random_range(1..4);
        let one = |_| {
            let node = self.node();
            self.batch(node)
        };
        (0..count).map(one).collect()
    }

    fn pass(&mut self) -> Pass {
        match self.chance.random_range(0..3) {
            0 => Pass::Key(self.chance.random_range(0..KEYS)),
            _ => Pass::UpTo(self.chance.random_range(-4..8)),
        }
    }

    fn restart(&mut self, node: usize, after_crash: bool) -> Restart {
        Restart {
            node,
            power_cut: after_crash && self.chance.random(),
            clock: *[0, 1000, 5000, 100_000].choose(&mut self.chance).unwrap(),
            luck: self.chance.random(),
        }
    }
}
