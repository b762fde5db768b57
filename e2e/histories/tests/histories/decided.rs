//! What a seed decides: the whole program of a history with its faults, and what a power cut leaves. That is
//! the same each time; what threads make of it need not be (docs/decisions/0028).

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use flightcluster_wal::Disk as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::disk::{SimulatedDisk, Volume};
use crate::life::Life;
use crate::{keys, program};

const SEEDS: u64 = 400;

/// Each seed has one program, and no other seed has the same.
fn is_decided_by_its_seed<P: PartialEq + Debug>(of: impl Fn(u64) -> P) {
    let mut all = BTreeSet::new();
    for seed in 0..SEEDS {
        let program = of(seed);
        assert_eq!(program, of(seed), "seed {seed}");
        assert!(
            all.insert(format!("{program:?}")),
            "seed {seed} does what another one does"
        );
    }
}

/// Settings, steps, and of each step what goes wrong in it: at which call of which port, and how.
#[test]
fn a_seed_decides_the_steps_of_a_history_and_their_faults() {
    is_decided_by_its_seed(program::Program::of);
    is_decided_by_its_seed(keys::Program::of);
}

/// A disk with what is synced, what is not, and a file whose name is not.
fn written() -> Volume {
    let disk = SimulatedDisk {
        volume: Arc::default(),
        life: Arc::new(Life::new(0)),
        broken: None,
    };
    let directory = Path::new("log");
    let mut synced = disk.create(&directory.join("synced")).unwrap();
    synced.append(&mut [IoSlice::new(&[1; 1000])]).unwrap();
    synced.sync().unwrap();
    disk.sync_directory(directory).unwrap();
    synced.append(&mut [IoSlice::new(&[2; 1000])]).unwrap();
    let mut unnamed = disk.create(&directory.join("unnamed")).unwrap();
    unnamed.append(&mut [IoSlice::new(&[3; 1000])]).unwrap();
    drop((synced, unnamed));
    disk.volume.after_kill()
}

#[test]
fn the_luck_of_a_power_cut_decides_what_it_leaves() {
    let left = |luck| {
        let mut chance = StdRng::seed_from_u64(luck);
        format!("{:?}", written().after_power_cut(&mut chance))
    };
    let all: BTreeSet<_> = (0..100)
        .map(|luck| {
            let first = left(luck);
            assert_eq!(first, left(luck), "luck {luck}");
            first
        })
        .collect();
    // Nothing, everything, and mixtures of it.
    assert!(all.len() > 20, "{}", all.len());
}
