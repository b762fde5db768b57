//! Two clients send one stream at the same time, cut by chance, and begin again after each failure: whatever
//! becomes of their attempts, each row is stored once, and none is told to be stored that is not.

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
const SEEDS: u64 = 5000;

/// One attempt after the other to send the stream.
#[derive(Default)]
struct Client {
    /// Rows that were handed over or told to be stored.
    sent: u64,
    /// The batch that is decided and not begun yet, as it was sent and as it was cut.
    decided: Option<(Producer, Producer)>,
    /// A batch was refused: what is read of the stream after it is handed over, and not acknowledged.
    broken: bool,
}

impl Client {
    fn step(&mut self, producers: &Producers, log: &mut VecDeque<Producer>, random: &mut StdRng) {
        if self.broken && random.random_bool(0.4) {
            *self = Self::default();
        }
        match self.decided.take() {
            Some((batch, cut)) => self.begin(producers, log, &batch, cut),
            None if self.sent < ROWS => self.decide(producers, random),
            None => {}
        }
    }

    fn decide(&mut self, producers: &Producers, random: &mut StdRng) {
        let sequence = (self.sent + random.random_range(1..=15)).min(ROWS);
        let batch = Producer {
            id: ID.to_owned(),
            sequence,
            after: Some(self.sent),
        };
        let mut cut = batch.clone();
        match producers.look_up(TABLE, &batch) {
            Ok(Decision::Store) => {}
            Ok(Decision::StoredUpTo(known)) => cut.after = Some(known),
            Ok(Decision::Stored(_)) => {
                self.sent = sequence;
                return;
            }
            // It waits, and may be cut otherwise when it is asked for again.
            Ok(Decision::UnderWay(_) | Decision::Overlaps(_)) => return,
            Err(_) => return self.fail(producers, &batch),
        }
        if random.random_bool(0.1) {
            return self.fail(producers, &batch);
        }
        self.decided = Some((batch, cut));
    }

    fn begin(
        &mut self,
        producers: &Producers,
        log: &mut VecDeque<Producer>,
        batch: &Producer,
        cut: Producer,
    ) {
        match producers.begin(TABLE, &cut, || Ok(())) {
            Ok(Ok(())) => {
                self.sent = cut.sequence;
                log.push_back(cut);
            }
            Ok(Err(Decision::Stored(_))) => self.sent = cut.sequence,
            Ok(Err(_)) => {}
            Err(_) => self.fail(producers, batch),
        }
    }

    /// The stream is read on for a while: the batches behind the refused one come too.
    fn fail(&mut self, producers: &Producers, batch: &Producer) {
        producers.turned_away(TABLE, batch);
        self.broken = true;
        self.sent = batch.sequence;
    }
}

/// How often each row was stored when both clients have all their answers.
fn stored_rows(seed: u64) -> Vec<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    let producers = Producers::default();
    let before = producers.hold(TABLE, ID);
    assert!(producers.held(TABLE, ID, None, before, Instant::now()));
    let mut stored = vec![0; ROWS as usize];
    let mut log: VecDeque<Producer> = VecDeque::new();
    let mut clients = [Client::default(), Client::default()];
    let done = |client: &Client| client.sent == ROWS && !client.broken;
    while !clients.iter().all(done) || !log.is_empty() {
        match random.random_range(0..20) {
            0..5 => {
                let Some(batch) = log.pop_front() else {
                    continue;
                };
                for row in batch.after.unwrap()..batch.sequence {
                    stored[row as usize] += 1;
                }
                producers.stored(TABLE, &batch, SequenceNumber(1));
                let told = producers.position(TABLE, ID).unwrap() as usize;
                assert!(
                    stored[..told].iter().all(|times| *times == 1),
                    "seed {seed}: {told} rows are told to be stored of {stored:?}"
                );
            }
            // The log takes nothing that is under way, and all streams with that are broken.
            5 => {
                for batch in log.drain(..) {
                    producers.refused(TABLE, &batch);
                }
                for client in &mut clients {
                    client.broken = true;
                }
            }
            other => clients[other % 2].step(&producers, &mut log, &mut random),
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
