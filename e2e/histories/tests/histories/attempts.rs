//! Two attempts to send the same batches at the same time: a client that gave a stream up and began again, while
//! what it had sent on the first one is still being read.
//!
//! Both go on past what is refused of them, each batch waits for the one before or meets one of the other attempt,
//! and the disk has no space now and then: whatever the order, what is acknowledged to either is stored once.

use std::collections::BTreeMap;
use std::sync::Arc;

use flightcluster_ingest::TableWriter;
use futures::future::join;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::client::{Batch, Named};
use crate::life::{Fault, Port, Trouble};
use crate::shape::Shape;
use crate::steps::Outcome;
use crate::world::{Process, World, alive};

/// Sends to a full disk, of so many.
const FULL: f64 = 0.3;

/// Who sends how much, to which processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Twice {
    pub(crate) nodes: [usize; 2],
    pub(crate) client: usize,
    pub(crate) table: usize,
    /// Rows of a stream with a name, which each attempt cuts in its own way.
    pub(crate) named: bool,
    pub(crate) batches: u8,
    pub(crate) rows: u8,
    pub(crate) shape: Shape,
    pub(crate) luck: u64,
}

/// One of the two.
struct Attempt {
    process: Process,
    batches: Vec<Batch>,
    /// What became of the first ones.
    outcomes: Vec<Outcome>,
    streams: BTreeMap<Shape, Arc<TableWriter>>,
}

impl Attempt {
    fn new(process: Process, batches: Vec<Batch>) -> Self {
        let (outcomes, streams) = (Vec::new(), BTreeMap::new());
        Self {
            process,
            batches,
            outcomes,
            streams,
        }
    }

    fn is_over(&self) -> bool {
        self.outcomes.len() == self.batches.len() || self.process.life.is_dead()
    }
}

impl World {
    /// Carries the step out.
    pub(crate) async fn twice(&self, twice: &Twice) {
        let processes = twice.nodes.map(|node| self.running(node));
        let [Some(one), Some(other)] = processes else {
            return;
        };
        let mut chance = StdRng::seed_from_u64(twice.luck);
        if twice.named {
            let rows = self.new_batches(twice.client, twice.batches, twice.rows, twice.shape);
            let mut cut = || cut(&rows, &mut chance);
            let (first, second, last) = (cut(), cut(), cut());
            let mut attempts = [
                Attempt::new(one.clone(), first),
                Attempt::new(other, second),
            ];
            self.interleave(twice, &mut attempts, &mut chance).await;
            // As a client does that wants all of them stored.
            let mut last = Attempt::new(one, last);
            while !last.is_over() {
                self.next(twice, &mut last, false).await;
            }
            return;
        }
        let mut batches = {
            let mut held = self.clients[twice.client].lock();
            if std::mem::replace(&mut held.busy, true) {
                return;
            }
            std::mem::take(&mut held.pending)
        };
        batches.extend(self.new_batches(twice.client, twice.batches, twice.rows, twice.shape));
        let mut attempts = [one, other].map(|process| Attempt::new(process, batches.clone()));
        self.interleave(twice, &mut attempts, &mut chance).await;
        let mut held = self.clients[twice.client].lock();
        held.busy = false;
        for (at, batch) in batches.into_iter().enumerate() {
            let by = { attempts.iter() }
                .find(|attempt| attempt.outcomes.get(at) == Some(&Outcome::Acknowledged));
            match by {
                Some(attempt) => held.done.push(attempt.batches[at].clone()),
                None => held.pending.push(batch),
            }
        }
    }

    /// Sends the batches of both in their order, one of either or one of each at a time.
    async fn interleave(&self, twice: &Twice, attempts: &mut [Attempt; 2], chance: &mut StdRng) {
        let [one, other] = attempts;
        while !(one.is_over() && other.is_over()) {
            let full = chance.random_bool(FULL);
            match chance.random_range(0..5) {
                0..2 => self.next(twice, one, full).await,
                2..4 => self.next(twice, other, full).await,
                _ => {
                    join(self.next(twice, one, full), self.next(twice, other, full)).await;
                }
            }
        }
    }

    async fn next(&self, twice: &Twice, attempt: &mut Attempt, full: bool) {
        if attempt.is_over() {
            return;
        }
        let process = &attempt.process;
        let batch = &mut attempt.batches[attempt.outcomes.len()];
        if !attempt.streams.contains_key(&batch.shape) {
            let key = (twice.client, twice.table, batch.shape);
            let opened = alive(&process.life, self.stream(process, key, false)).await;
            let Some(Ok(stream)) = opened else {
                attempt.outcomes.push(Outcome::Refused);
                return;
            };
            attempt.streams.insert(batch.shape, stream);
        }
        let stream = &attempt.streams[&batch.shape];
        let table = stream.table().id;
        batch.table = Some(table);
        if full {
            let (port, nth, trouble) = (Port::Append, 0, Trouble::Full);
            process.life.arm(&[Fault { port, nth, trouble }]);
        }
        let outcome = self.attempt(process, twice.client, stream, table, batch);
        let outcome = outcome.await;
        if full {
            process.life.disarm();
        }
        attempt.outcomes.push(outcome);
    }
}

/// The rows of all these batches as a stream with a name, cut by chance.
fn cut(batches: &[Batch], chance: &mut StdRng) -> Vec<Batch> {
    let rows: Vec<_> = { batches.iter() }
        .flat_map(|batch| &batch.rows)
        .copied()
        .collect();
    let (mut cut, mut before) = (Vec::new(), 0);
    while before < rows.len() {
        let end = chance.random_range(before + 1..=rows.len());
        cut.push(Batch {
            number: Some(end as u64),
            named: Some(Named {
                stream: rows[0].key,
                before: before as u64,
            }),
            rows: rows[before..end].to_vec(),
            shape: batches[0].shape,
            table: None,
        });
        before = end;
    }
    cut
}
