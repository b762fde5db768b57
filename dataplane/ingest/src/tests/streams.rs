//! Two clients send one stream at the same time, cut by chance, and begin again after each failure: whatever
//! becomes of their attempts, each row is stored once.

use std::collections::VecDeque;
use std::time::Instant;

use flightcluster_catalog::{SequenceNumber, TableId};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::Producer;
use crate::producer::{Decision, Producers};

const TABLE: TableId = TableId(1);
const ID: &str = "stream";
const ROWS: u64 = 40;
/// Enough for every pair of decisions to meet.
const SEEDS: u64 = 2000;

/// How often each row was stored when both clients have all their answers.
fn stored_rows(seed: u64) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    let producers = Producers::default();
    let before = producers.hold(TABLE, ID);
    assert!(producers.held(TABLE, ID, None, before, Instant::now()));
    let mut stored = vec![0; ROWS as usize];
    let mut log: VecDeque<Producer> = VecDeque::new();
    let mut sent = [0_u64; 2];
    while sent != [ROWS; 2] || !log.is_empty() {
        match random.random_range(0..20) {
            0..5 => {
                let Some(batch) = log.pop_front() else {
                    continue;
                };
                for row in batch.after.unwrap()..batch.sequence {
                    stored[row as usize] += 1;
                }
                producers.stored(TABLE, &batch, SequenceNumber(1));
            }
            // The log takes nothing that is under way, and all streams end with that.
            5 => {
                for batch in log.drain(..) {
                    producers.refused(TABLE, &batch);
                }
                sent = [0; 2];
            }
            other => {
                let sent = &mut sent[other % 2];
                let sequence = (*sent + random.random_range(1..=15)).min(ROWS);
                let mut batch = Producer {
                    id: ID.to_owned(),
                    sequence,
                    after: Some(*sent),
                };
                if *sent == ROWS {
                    continue;
                }
                match producers.look_up(TABLE, &batch) {
                    Ok(Decision::Store) => {}
                    Ok(Decision::StoredUpTo(known)) => batch.after = Some(known),
                    Ok(Decision::Stored(_)) => {
                        *sent = sequence;
                        continue;
                    }
                    // It waits, and may be cut otherwise when it is asked for again.
                    Ok(Decision::UnderWay(_) | Decision::Overlaps(_)) => continue,
                    Err(_) => {
                        *sent = 0;
                        continue;
                    }
                }
                if random.random_bool(0.1) {
                    producers.turned_away(TABLE, &batch);
                    *sent = 0;
                    continue;
                }
                producers.begin(TABLE, &batch, || Ok(())).unwrap().unwrap();
                log.push_back(batch);
                *sent = sequence;
            }
        }
    }
    stored
}

#[test]
fn each_row_of_a_stream_is_stored_once_whatever_becomes_of_its_attempts() {
    for seed in 0..SEEDS {
        assert_eq!(stored_rows(seed), vec![1; ROWS as usize], "seed {seed}");
    }
}
