//! Exactly once: which batches of which producer are stored already.
//!
//! # Protocol
//! A producer numbers its batches for one table with growing numbers (gaps are fine) and, after a
//! failure or a lost answer, sends again from the first batch it has no acknowledgement for. A number
//! at or below the newest stored one is a repeat: acknowledged, not stored.
//!
//! That needs only one number per producer, if batches are stored in the order of their numbers. So
//! when a batch is refused for a reason that a retry can mend, later ones of the same producer are
//! refused too ([`Error::ProducerOrder`]) until it was sent again.
//!
//! # Window
//! Positions are rebuilt from the catalog and the log at start. [`MAX_PRODUCERS`] are remembered;
//! above that the ones unused for longest are forgotten, and a repeat of theirs is stored again.

use std::collections::{BTreeMap, HashMap};

use flightcluster_catalog::{ProducerPosition, SequenceNumber, TableId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::Error;

/// Producers (per table) that are remembered.
pub(crate) const MAX_PRODUCERS: usize = 200_000;
/// Longest id in bytes.
pub(crate) const MAX_ID_BYTES: usize = 256;

/// Who sends a batch and which of its batches it is. See the module's documentation in the source
/// for the protocol: numbers grow per table and id, retries begin at the first unacknowledged one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Producer {
    /// An id of 1 to 256 bytes that no other producer of the table uses.
    pub id: String,
    /// The producer's number of the batch.
    pub sequence: u64,
}

impl Producer {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bytes = self.id.len();
        if (1..=MAX_ID_BYTES).contains(&bytes) {
            return Ok(());
        }
        Err(Error::ProducerId {
            bytes,
            limit: MAX_ID_BYTES,
        })
    }
}

/// What to do with a batch.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Store it.
    Store,
    /// It is stored and visible at this sequence number at the latest.
    Stored(SequenceNumber),
    /// Its first attempt is under way: wait for the outcome.
    UnderWay(watch::Receiver<Outcome>),
}

/// How an attempt ended: `None` while it is under way.
pub(crate) type Outcome = Option<Option<SequenceNumber>>;

#[derive(Debug, Default)]
struct State {
    /// The newest stored number and the log's sequence number it has.
    stored: Option<(u64, SequenceNumber)>,
    under_way: BTreeMap<u64, watch::Sender<Outcome>>,
    /// The lowest number refused and not sent again yet.
    refused: Option<u64>,
    /// For forgetting: when it was used last, counted in uses of all.
    used: u64,
}

type Key = (TableId, String);

/// The positions of all producers.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    states: HashMap<Key, State>,
    uses: u64,
}

impl Producers {
    /// Takes over positions the catalog remembers.
    pub(crate) fn restore(&self, positions: Vec<ProducerPosition>) {
        for position in positions {
            let producer = Producer {
                id: position.producer,
                sequence: position.sequence,
            };
            self.stored(position.table, &producer, SequenceNumber(0));
        }
    }

    /// Notes a batch found in the log, or acknowledged.
    pub(crate) fn stored(&self, table: TableId, producer: &Producer, at: SequenceNumber) {
        let mut inner = self.inner.lock();
        let state = inner.state(table, producer);
        let newest = (producer.sequence, at);
        state.stored = Some(state.stored.map_or(newest, |known| known.max(newest)));
        if let Some(waiting) = state.under_way.remove(&producer.sequence) {
            waiting.send_replace(Some(Some(at)));
        }
    }

    /// Says what is known about a batch without changing anything.
    pub(crate) fn look_up(&self, table: TableId, producer: &Producer) -> Result<Decision, Error> {
        self.inner.lock().state(table, producer).decide(producer)
    }

    /// Decides about a batch; when it is to be stored, hands it over by `enqueue` before anything
    /// about this producer can change.
    pub(crate) fn begin<T>(
        &self,
        table: TableId,
        producer: &Producer,
        enqueue: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Result<T, Decision>, Error> {
        let mut inner = self.inner.lock();
        let state = inner.state(table, producer);
        match state.decide(producer)? {
            Decision::Store => {}
            known => return Ok(Err(known)),
        }
        let enqueued = enqueue()?;
        state.refused = None;
        state
            .under_way
            .insert(producer.sequence, watch::Sender::new(None));
        Ok(Ok(enqueued))
    }

    /// Notes that a batch under way was refused; the producer will send it again.
    pub(crate) fn refused(&self, table: TableId, producer: &Producer) {
        let mut inner = self.inner.lock();
        let state = inner.state(table, producer);
        state.mark_refused(producer.sequence);
        if let Some(waiting) = state.under_way.remove(&producer.sequence) {
            waiting.send_replace(Some(None));
        }
    }

    /// Notes that a batch was turned away before it got under way; the producer will send it again.
    pub(crate) fn turned_away(&self, table: TableId, producer: &Producer) {
        let mut inner = self.inner.lock();
        let state = inner.state(table, producer);
        if matches!(state.decide(producer), Ok(Decision::Store)) {
            state.mark_refused(producer.sequence);
        }
    }

    /// Forgets the producers of a dropped table.
    pub(crate) fn forget(&self, table: TableId) {
        self.inner.lock().states.retain(|(of, _), _| *of != table);
    }
}

impl Inner {
    fn state(&mut self, table: TableId, producer: &Producer) -> &mut State {
        if self.states.len() >= MAX_PRODUCERS {
            self.forget_unused();
        }
        self.uses += 1;
        let state = self.states.entry((table, producer.id.clone())).or_default();
        state.used = self.uses;
        state
    }

    /// Forgets a tenth, those unused for longest.
    fn forget_unused(&mut self) {
        let mut uses: Vec<u64> = self.states.values().map(|state| state.used).collect();
        let tenth = uses.len() / 10;
        let (_, oldest, _) = uses.select_nth_unstable(tenth);
        let oldest = *oldest;
        self.states
            .retain(|_, state| state.used > oldest || !state.under_way.is_empty());
    }
}

impl State {
    fn mark_refused(&mut self, sequence: u64) {
        self.refused = Some(self.refused.map_or(sequence, |lowest| lowest.min(sequence)));
    }

    fn decide(&self, producer: &Producer) -> Result<Decision, Error> {
        let sequence = producer.sequence;
        if let Some((_, at)) = self.stored.filter(|(newest, _)| sequence <= *newest) {
            return Ok(Decision::Stored(at));
        }
        if let Some(attempt) = self.under_way.get(&sequence) {
            return Ok(Decision::UnderWay(attempt.subscribe()));
        }
        let ahead = self
            .under_way
            .keys()
            .next_back()
            .copied()
            .filter(|ahead| *ahead > sequence);
        match self.refused.filter(|refused| *refused < sequence).or(ahead) {
            Some(due) => Err(Error::ProducerOrder {
                producer: producer.id.clone(),
                sequence,
                due,
            }),
            None => Ok(Decision::Store),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    const TABLE: TableId = TableId(1);

    fn batch(sequence: u64) -> Producer {
        Producer {
            id: "p".to_owned(),
            sequence,
        }
    }

    fn begin(producers: &Producers, sequence: u64) -> Result<Result<(), Decision>, Error> {
        producers.begin(TABLE, &batch(sequence), || Ok(()))
    }

    #[test]
    fn a_stored_number_and_those_below_are_repeats() {
        let producers = Producers::default();
        begin(&producers, 5).unwrap().unwrap();
        producers.stored(TABLE, &batch(5), SequenceNumber(70));
        for repeat in [3, 5] {
            let Err(Decision::Stored(SequenceNumber(70))) = begin(&producers, repeat).unwrap()
            else {
                panic!("{repeat} was not recognised")
            };
        }
        begin(&producers, 6).unwrap().unwrap();
        assert!(
            producers
                .begin(TableId(2), &batch(5), || Ok(()))
                .unwrap()
                .is_ok()
        );
    }

    #[test]
    fn later_numbers_are_refused_until_a_refused_one_was_sent_again() {
        let producers = Producers::default();
        begin(&producers, 5).unwrap().unwrap();
        begin(&producers, 6).unwrap().unwrap();
        producers.refused(TABLE, &batch(5));
        producers.refused(TABLE, &batch(6));
        assert_eq!(
            begin(&producers, 7).unwrap_err().category(),
            "producer_order"
        );
        assert_eq!(
            begin(&producers, 6).unwrap_err().category(),
            "producer_order"
        );
        begin(&producers, 5).unwrap().unwrap();
        begin(&producers, 6).unwrap().unwrap();
    }

    #[test]
    fn turning_a_repeat_away_does_not_disturb_the_first_attempt() {
        let producers = Producers::default();
        begin(&producers, 5).unwrap().unwrap();
        producers.turned_away(TABLE, &batch(5));
        begin(&producers, 6).unwrap().unwrap();
        producers.turned_away(TABLE, &batch(7));
        assert_eq!(
            begin(&producers, 8).unwrap_err().category(),
            "producer_order"
        );
        begin(&producers, 7).unwrap().unwrap();
    }

    #[test]
    fn numbers_must_grow_while_others_are_under_way() {
        let producers = Producers::default();
        begin(&producers, 7).unwrap().unwrap();
        assert_eq!(
            begin(&producers, 6).unwrap_err().category(),
            "producer_order"
        );
    }

    #[test]
    fn a_repeat_of_a_batch_under_way_learns_the_outcome() {
        let producers = Producers::default();
        begin(&producers, 1).unwrap().unwrap();
        let Err(Decision::UnderWay(outcome)) = begin(&producers, 1).unwrap() else {
            panic!("not under way")
        };
        producers.stored(TABLE, &batch(1), SequenceNumber(9));
        assert_eq!(*outcome.borrow(), Some(Some(SequenceNumber(9))));
    }

    #[test]
    fn the_number_of_remembered_producers_is_bounded() {
        let producers = Producers::default();
        for n in 0..MAX_PRODUCERS as u64 + 10 {
            let producer = Producer {
                id: format!("p{n}"),
                sequence: 1,
            };
            producers.stored(TABLE, &producer, SequenceNumber(n));
        }
        let states = producers.inner.lock().states.len();
        assert!(
            (MAX_PRODUCERS / 2..=MAX_PRODUCERS).contains(&states),
            "{states}"
        );
        let newest = Producer {
            id: format!("p{}", MAX_PRODUCERS + 9),
            sequence: 1,
        };
        assert!(matches!(
            producers.look_up(TABLE, &newest),
            Ok(Decision::Stored(_))
        ));
    }
}
