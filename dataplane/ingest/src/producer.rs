//! Exactly once: which batches of which producer are stored already.
//!
//! # Protocol
//! A producer numbers its batches for one table with growing numbers (gaps are fine) and, after a
//! failure or a lost answer, sends again from the first batch it has no acknowledgement for. A number
//! at or below the newest stored one is a repeat: acknowledged, not stored.
//!
//! That needs only one number per producer, if batches are stored in the order of their numbers. So
//! when a batch is refused for a reason that a retry can mend, later ones of the same producer are
//! refused too ([`Error::ProducerOrder`]) until it was sent again. All that were refused are known, not
//! only the first: that one may have been stored by another ingester meanwhile, and the others not.
//!
//! A refused number is due until it, or a higher one by another ingester, is stored. Nothing else ends that:
//! a higher number that arrives may come from a producer that has given the refused one up, or may have been
//! sent before its refusal was known, on another stream; what another ingester has stored below it tells
//! nothing either. Who cuts its rows anew gives the next batch the number that is due: a number names no
//! rows.
//!
//! # Streams
//! A batch may say after which number its rows begin ([`Producer::after`]): its numbers count rows then, and
//! rows are what is stored once. A repeat that is cut into other batches is cut again where the stored rows
//! end, and waits for rows of its own that another attempt has under way. Rows are stored only behind those
//! that are stored or under way, so what is stored of a stream is its beginning, and nothing has to be known
//! of what was refused.
//!
//! # Holding
//! A batch is stored only while this ingester holds its producer, see [`claim`](crate::claim): nobody
//! else has newer batches of it then. What is known to be stored stays true without holding.
//!
//! # Memory
//! Positions come from the log at start and from the catalog with each claim. Above
//! [`MAX_PRODUCERS`] those unused for longest are forgotten, if the catalog knows all there is to
//! know about them: they are claimed again when they come back.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Instant;

use flightcluster_catalog::{ProducerPosition, SequenceNumber, TableId};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::error::Error;

/// Producers (per table) above which some are forgotten.
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
    /// Where numbers count rows: the rows of the producer before this batch, which is `sequence` less its
    /// rows.
    pub after: Option<u64>,
}

impl Producer {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let bytes = self.id.len();
        // Postgres keeps no text with a zero byte: the flush would fail for ever.
        if (1..=MAX_ID_BYTES).contains(&bytes) && !self.id.contains('\0') {
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
    /// Its rows are stored up to this number: store those behind it.
    StoredUpTo(u64),
    /// It depends on another batch that is under way: decide again after its outcome.
    Overlaps(watch::Receiver<Outcome>),
}

/// How an attempt ended: `None` while it is under way.
pub(crate) type Outcome = Option<Option<SequenceNumber>>;

#[derive(Debug, Default)]
struct State {
    /// The newest stored number and the log's sequence number it has.
    stored: Option<(u64, SequenceNumber)>,
    under_way: BTreeMap<u64, watch::Sender<Outcome>>,
    /// Numbers refused since the last one that was stored. A stream ends with the first that is refused, so
    /// they are few.
    refused: BTreeSet<u64>,
    /// The newest number that is in the catalog, as far as we know.
    in_catalog: Option<u64>,
    /// When the claim was asked for by which we hold the producer.
    held_since: Option<Instant>,
    /// Which of all releases was the last of this producer; 0 before the first.
    released: u64,
    /// For forgetting: when it was used last, counted in uses of all.
    used: u64,
}

/// What is known about a claim before it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold {
    /// When the claim was asked for by which the producer is held, if it is.
    pub(crate) since: Option<Instant>,
    /// Releases of all producers until now.
    releases: u64,
}

type Key = (TableId, String);

/// The positions of all producers.
#[derive(Debug, Default)]
pub(crate) struct Producers {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    states: HashMap<Key, State>,
    uses: u64,
    releases: u64,
    /// The last release of those that were forgotten.
    forgotten_release: u64,
    /// Producers at which some are forgotten.
    limit: usize,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            states: HashMap::new(),
            uses: 0,
            releases: 0,
            forgotten_release: 0,
            limit: MAX_PRODUCERS,
        }
    }
}

impl Producers {
    /// Notes positions that are in the catalog now.
    pub(crate) fn in_catalog(&self, positions: &[ProducerPosition]) {
        let mut inner = self.inner.lock();
        for position in positions {
            let key = (position.table, position.producer.clone());
            if let Some(state) = inner.states.get_mut(&key) {
                state.in_catalog = state.in_catalog.max(Some(position.sequence));
            }
        }
    }

    /// Positions that the catalog may not have.
    pub(crate) fn not_in_catalog(&self) -> Vec<ProducerPosition> {
        let inner = self.inner.lock();
        let newer = inner
            .states
            .iter()
            .filter_map(|((table, producer), state)| {
                let (sequence, _) = state.stored?;
                (state.in_catalog < Some(sequence)).then(|| ProducerPosition {
                    table: *table,
                    producer: producer.clone(),
                    sequence,
                })
            });
        newer.collect()
    }

    /// Whether a producer is held. Ask before a claim, and hand the answer to [`Self::held`] after it.
    pub(crate) fn hold(&self, table: TableId, producer: &str) -> Hold {
        let inner = self.inner.lock();
        let state = inner.states.get(&(table, producer.to_owned()));
        Hold {
            since: state.and_then(|state| state.held_since),
            releases: inner.releases,
        }
    }

    /// Notes that a claim was granted that was asked for at `since`, after `before`, with the
    /// position the catalog knows. Returns false when the producer was released meanwhile: the
    /// claim is void then.
    pub(crate) fn held(
        &self,
        table: TableId,
        producer: &str,
        position: Option<u64>,
        before: Hold,
        since: Instant,
    ) -> bool {
        let mut inner = self.inner.lock();
        let state = inner.state(table, producer);
        if state.released > before.releases {
            return false;
        }
        state.held_since = state.held_since.max(Some(since));
        state.in_catalog = state.in_catalog.max(position);
        if let Some(position) = position {
            let known = (position, SequenceNumber(0));
            state.stored = state.stored.max(Some(known));
            state.refused.retain(|refused| *refused > position);
        }
        true
    }

    /// Ends holding a producer, claims under way included, and returns the attempts under way:
    /// its position is final when they have ended.
    pub(crate) fn release(&self, table: TableId, producer: &str) -> Vec<watch::Receiver<Outcome>> {
        let mut inner = self.inner.lock();
        inner.releases += 1;
        let releases = inner.releases;
        let state = inner.state(table, producer);
        state.held_since = None;
        state.released = releases;
        let attempts = state.under_way.values();
        attempts.map(watch::Sender::subscribe).collect()
    }

    /// The newest number of a producer that is stored, as far as we know.
    pub(crate) fn position(&self, table: TableId, producer: &str) -> Option<u64> {
        let inner = self.inner.lock();
        let state = inner.states.get(&(table, producer.to_owned()))?;
        state.stored.map(|(newest, _)| newest)
    }

    /// What is known about a batch whether the producer is held or not: nothing when it may have
    /// to be stored.
    pub(crate) fn known(&self, table: TableId, producer: &Producer) -> Option<Decision> {
        let inner = self.inner.lock();
        let state = inner.states.get(&(table, producer.id.clone()))?;
        match state.decide(producer) {
            Ok(known @ (Decision::Stored(_) | Decision::UnderWay(_))) => Some(known),
            Ok(Decision::Store | Decision::StoredUpTo(_) | Decision::Overlaps(_)) | Err(_) => None,
        }
    }

    /// Notes a batch found in the log, or acknowledged.
    pub(crate) fn stored(&self, table: TableId, producer: &Producer, at: SequenceNumber) {
        let mut inner = self.inner.lock();
        let state = inner.state(table, &producer.id);
        let newest = (producer.sequence, at);
        state.stored = Some(state.stored.map_or(newest, |known| known.max(newest)));
        if let Some(waiting) = state.under_way.remove(&producer.sequence) {
            waiting.send_replace(Some(Some(at)));
        }
    }

    /// Says what is known about a batch without changing anything.
    pub(crate) fn look_up(&self, table: TableId, producer: &Producer) -> Result<Decision, Error> {
        self.inner
            .lock()
            .state(table, &producer.id)
            .decide(producer)
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
        let state = inner.state(table, &producer.id);
        match state.decide(producer)? {
            Decision::Store if state.held_since.is_some() => {}
            // The latter two: another attempt came between the look and this.
            Decision::Store | Decision::StoredUpTo(_) | Decision::Overlaps(_) => {
                let producer = producer.id.clone();
                return Err(Error::ProducerMoved { producer });
            }
            known @ (Decision::Stored(_) | Decision::UnderWay(_)) => return Ok(Err(known)),
        }
        let enqueued = enqueue()?;
        // Not those behind it: they may have been refused in a stream that still goes on.
        state.refused.retain(|refused| *refused > producer.sequence);
        state
            .under_way
            .insert(producer.sequence, watch::Sender::new(None));
        Ok(Ok(enqueued))
    }

    /// Notes that a batch under way was refused; the producer will send it again.
    pub(crate) fn refused(&self, table: TableId, producer: &Producer) {
        let mut inner = self.inner.lock();
        let state = inner.state(table, &producer.id);
        if producer.after.is_none() {
            state.refused.insert(producer.sequence);
        }
        if let Some(waiting) = state.under_way.remove(&producer.sequence) {
            waiting.send_replace(Some(None));
        }
    }

    /// Notes that a batch was turned away before it got under way; the producer will send it again.
    pub(crate) fn turned_away(&self, table: TableId, producer: &Producer) {
        if producer.after.is_some() {
            return;
        }
        let mut inner = self.inner.lock();
        let state = inner.state(table, &producer.id);
        match state.decide(producer) {
            Ok(Decision::Store) => {}
            // Because of one that was refused, not of one that is ahead of it.
            Err(Error::ProducerOrder { due, .. }) if due < producer.sequence => {}
            _ => return,
        }
        state.refused.insert(producer.sequence);
    }

    /// Forgets the producers of a dropped table.
    pub(crate) fn forget(&self, table: TableId) {
        self.inner.lock().states.retain(|(of, _), _| *of != table);
    }
}

impl Inner {
    fn state(&mut self, table: TableId, producer: &str) -> &mut State {
        if self.states.len() >= self.limit {
            self.forget_unused();
        }
        self.uses += 1;
        let released = self.forgotten_release;
        let new = || State {
            released,
            ..State::default()
        };
        let key = (table, producer.to_owned());
        let state = self.states.entry(key).or_insert_with(new);
        state.used = self.uses;
        state
    }

    /// Forgets a tenth, those unused for longest; the log has to keep some until the catalog has
    /// them. They are as many as there are unflushed rows at most.
    fn forget_unused(&mut self) {
        let mut uses: Vec<u64> = self.states.values().map(|state| state.used).collect();
        let tenth = uses.len() / 10;
        let (_, oldest, _) = uses.select_nth_unstable(tenth);
        let oldest = *oldest;
        let mut last_release = self.forgotten_release;
        self.states.retain(|_, state| {
            let keep = state.used > oldest || !state.is_in_catalog();
            if !keep {
                last_release = last_release.max(state.released);
            }
            keep
        });
        self.forgotten_release = last_release;
        self.limit = MAX_PRODUCERS.max(self.states.len() + tenth);
    }
}

impl State {
    /// Whether nothing is lost by forgetting it.
    fn is_in_catalog(&self) -> bool {
        let stored = self.stored.map(|(newest, _)| newest);
        self.under_way.is_empty() && self.refused.is_empty() && self.in_catalog >= stored
    }

    fn decide(&self, producer: &Producer) -> Result<Decision, Error> {
        let sequence = producer.sequence;
        if let Some((_, at)) = self.stored.filter(|(newest, _)| sequence <= *newest) {
            return Ok(Decision::Stored(at));
        }
        if let Some(attempt) = self.under_way.get(&sequence) {
            return Ok(Decision::UnderWay(attempt.subscribe()));
        }
        if let Some(after) = producer.after {
            return self.decide_rows(producer, after);
        }
        let ahead = self.under_way.last_key_value();
        let ahead = ahead.filter(|(ahead, _)| **ahead > sequence);
        let due = self.refused.range(..sequence).next();
        match (due, ahead) {
            // It was on its way before this one was refused, so the log refuses it in a moment as well.
            (None, Some((_, attempt))) if self.refused.contains(&sequence) => {
                Ok(Decision::Overlaps(attempt.subscribe()))
            }
            (Some(due), _) | (None, Some((due, _))) => Err(Error::ProducerOrder {
                producer: producer.id.clone(),
                sequence,
                due: *due,
            }),
            (None, None) => Ok(Decision::Store),
        }
    }

    /// Of a batch whose rows begin behind `after` and are not all stored.
    fn decide_rows(&self, producer: &Producer, after: u64) -> Result<Decision, Error> {
        // Whichever of the two ends first: what is under way begins before this batch ends.
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        if let Some((_, attempt)) = self.under_way.range(behind).next() {
            return Ok(Decision::Overlaps(attempt.subscribe()));
        }
        let newest = self.stored.map_or(0, |(newest, _)| newest);
        if newest > after {
            return Ok(Decision::StoredUpTo(newest));
        }
        let last = self.under_way.keys().next_back().copied();
        let end = last.map_or(newest, |last| last.max(newest));
        if after > end {
            return Err(Error::StreamGap {
                producer: producer.id.clone(),
                after,
                end,
            });
        }
        Ok(Decision::Store)
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
            after: None,
        }
    }

    /// Rows of a stream.
    fn rows(after: u64, sequence: u64) -> Producer {
        Producer {
            after: Some(after),
            ..batch(sequence)
        }
    }

    /// Producers of which `p` is held.
    fn held() -> Producers {
        let producers = Producers::default();
        for table in [TABLE, TableId(2)] {
            hold(&producers, table, None);
        }
        producers
    }

    fn hold(producers: &Producers, table: TableId, position: Option<u64>) {
        let before = producers.hold(table, "p");
        assert!(producers.held(table, "p", position, before, Instant::now()));
    }

    #[test]
    fn an_id_that_no_catalog_keeps_is_refused() {
        let check = |id: &str| {
            let id = id.to_owned();
            let after = None;
            Producer {
                id,
                sequence: 1,
                after,
            }
            .check()
        };
        for good in ["p", "ünï/1", &"x".repeat(256)] {
            check(good).unwrap();
        }
        for bad in ["", "a\0b", &"x".repeat(257)] {
            assert!(
                matches!(check(bad), Err(Error::ProducerId { .. })),
                "{bad:?}"
            );
        }
    }

    fn begin(producers: &Producers, sequence: u64) -> Result<Result<(), Decision>, Error> {
        producers.begin(TABLE, &batch(sequence), || Ok(()))
    }

    #[test]
    fn a_stored_number_and_those_below_are_repeats() {
        let producers = held();
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
        let producers = held();
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
        let producers = held();
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
        let producers = held();
        begin(&producers, 7).unwrap().unwrap();
        assert_eq!(
            begin(&producers, 6).unwrap_err().category(),
            "producer_order"
        );
    }

    #[test]
    fn a_refused_batch_waits_for_those_the_log_refuses_with_it() {
        let producers = held();
        begin(&producers, 5).unwrap().unwrap();
        begin(&producers, 9).unwrap().unwrap();
        producers.refused(TABLE, &batch(5));
        let Ok(Decision::Overlaps(ahead)) = producers.look_up(TABLE, &batch(5)) else {
            panic!("it does not wait")
        };
        // Of one that was never refused it is the sender's mistake.
        let mistake = producers.look_up(TABLE, &batch(4)).unwrap_err();
        assert_eq!(mistake.category(), "producer_order");
        producers.refused(TABLE, &batch(9));
        assert_eq!(*ahead.borrow(), Some(None));
        begin(&producers, 5).unwrap().unwrap();
    }

    #[test]
    fn a_repeat_of_a_batch_under_way_learns_the_outcome() {
        let producers = held();
        begin(&producers, 1).unwrap().unwrap();
        let Err(Decision::UnderWay(outcome)) = begin(&producers, 1).unwrap() else {
            panic!("not under way")
        };
        producers.stored(TABLE, &batch(1), SequenceNumber(9));
        assert_eq!(*outcome.borrow(), Some(Some(SequenceNumber(9))));
    }

    #[test]
    fn nothing_is_stored_for_a_producer_that_is_not_held() {
        let producers = Producers::default();
        let error = begin(&producers, 1).unwrap_err();
        assert_eq!(error.category(), "producer_moved");
        hold(&producers, TABLE, Some(3));
        assert!(matches!(begin(&producers, 3), Ok(Err(Decision::Stored(_)))));
        begin(&producers, 4).unwrap().unwrap();
        assert_eq!(producers.release(TABLE, "p").len(), 1);
        assert_eq!(
            begin(&producers, 5).unwrap_err().category(),
            "producer_moved"
        );
        producers.stored(TABLE, &batch(4), SequenceNumber(1));
        assert_eq!(producers.position(TABLE, "p"), Some(4));
        // What is stored stays stored.
        let known = producers.known(TABLE, &batch(4));
        assert!(matches!(known, Some(Decision::Stored(_))));
        assert!(producers.known(TABLE, &batch(5)).is_none());
    }

    #[test]
    fn a_claim_that_was_under_way_when_the_producer_was_released_is_void() {
        let producers = Producers::default();
        let before = producers.hold(TABLE, "p");
        producers.release(TABLE, "p");
        assert!(!producers.held(TABLE, "p", None, before, Instant::now()));
        assert!(producers.hold(TABLE, "p").since.is_none());
        hold(&producers, TABLE, None);
    }

    #[test]
    fn a_refused_number_that_another_ingester_stored_is_due_no_more() {
        let producers = held();
        producers.turned_away(TABLE, &batch(5));
        producers.release(TABLE, "p");
        hold(&producers, TABLE, Some(4));
        assert_eq!(
            begin(&producers, 6).unwrap_err().category(),
            "producer_order"
        );
        hold(&producers, TABLE, Some(5));
        begin(&producers, 6).unwrap().unwrap();
    }

    /// Found by the history checker (seed 304625): the batch was lost.
    #[test]
    fn a_number_that_was_refused_behind_one_that_another_ingester_stored_is_due() {
        let producers = Producers::default();
        for sequence in [3, 5, 7] {
            producers.turned_away(TABLE, &batch(sequence));
        }
        hold(&producers, TABLE, Some(4));
        for (later, expected) in [(6, 5), (8, 5)] {
            let Err(Error::ProducerOrder { due, .. }) = begin(&producers, later) else {
                panic!("{later} was taken")
            };
            assert_eq!(due, expected);
        }
        producers.release(TABLE, "p");
        hold(&producers, TABLE, Some(5));
        assert!(matches!(
            begin(&producers, 8),
            Err(Error::ProducerOrder { due: 7, .. })
        ));
        begin(&producers, 7).unwrap().unwrap();
        begin(&producers, 8).unwrap().unwrap();
    }

    /// It has cut its rows anew elsewhere: below the number, which stays due. Its next batch may have that.
    #[test]
    fn a_producer_that_gave_a_number_up_goes_on_with_that_number() {
        let producers = held();
        producers.turned_away(TABLE, &batch(7));
        producers.release(TABLE, "p");
        hold(&producers, TABLE, Some(6));
        let error = begin(&producers, 8).unwrap_err();
        let told = error.to_string();
        for part in [
            "batch 8 of producer \"p\" is out of order: batch 7 was refused before",
            "give the next batch the number 7",
            "use a new producer id",
        ] {
            assert!(told.contains(part), "{told}");
        }
        begin(&producers, 7).unwrap().unwrap();
        producers.stored(TABLE, &batch(7), SequenceNumber(1));
        begin(&producers, 8).unwrap().unwrap();
        let told = begin(&producers, 6);
        assert!(matches!(told, Ok(Err(Decision::Stored(_)))));
    }

    /// Whatever the batches of the repeat, no row is stored twice and none is left out.
    #[test]
    fn a_stream_that_is_cut_elsewhere_goes_on_where_its_stored_rows_end() {
        let producers = held();
        let decide = |batch: &Producer| producers.look_up(TABLE, batch);
        let store = |batch: &Producer| producers.begin(TABLE, batch, || Ok(()));
        for (after, sequence) in [(0, 100), (100, 200)] {
            store(&rows(after, sequence)).unwrap().unwrap();
            producers.stored(TABLE, &rows(after, sequence), SequenceNumber(sequence));
        }
        assert!(matches!(decide(&rows(0, 150)), Ok(Decision::Stored(_))));
        assert!(matches!(
            decide(&rows(150, 250)),
            Ok(Decision::StoredUpTo(200))
        ));
        assert!(matches!(decide(&rows(200, 250)), Ok(Decision::Store)));
        let moved = store(&rows(150, 250)).unwrap_err();
        assert_eq!(moved.category(), "producer_moved");

        // The first attempt goes on meanwhile: whoever cuts elsewhere waits for it.
        store(&rows(200, 300)).unwrap().unwrap();
        for (after, sequence) in [(150, 250), (200, 250), (200, 400), (250, 400)] {
            let waits = decide(&rows(after, sequence));
            assert!(
                matches!(waits, Ok(Decision::Overlaps(_))),
                "{after} {sequence}"
            );
        }
        assert!(matches!(decide(&rows(300, 400)), Ok(Decision::Store)));
        producers.refused(TABLE, &rows(200, 300));
        // Without the refused rows nothing behind them; with some of them, yes.
        let late = decide(&rows(300, 400)).unwrap_err();
        assert_eq!(late.category(), "producer_order");
        assert!(matches!(
            decide(&rows(150, 350)),
            Ok(Decision::StoredUpTo(200))
        ));
        store(&rows(200, 350)).unwrap().unwrap();
        producers.stored(TABLE, &rows(200, 350), SequenceNumber(9));
        assert!(matches!(decide(&rows(200, 300)), Ok(Decision::Stored(_))));
        assert!(matches!(decide(&rows(350, 400)), Ok(Decision::Store)));
    }

    /// Two streams of one producer: the first goes on past what was refused of it, the second repeats it.
    #[test]
    fn a_number_that_was_refused_stays_due_while_a_lower_one_is_sent_again() {
        let producers = held();
        begin(&producers, 1).unwrap().unwrap();
        producers.turned_away(TABLE, &batch(2));
        producers.turned_away(TABLE, &batch(3));
        begin(&producers, 2).unwrap().unwrap();
        assert!(matches!(
            begin(&producers, 4),
            Err(Error::ProducerOrder { due: 3, .. })
        ));
        begin(&producers, 3).unwrap().unwrap();
        begin(&producers, 4).unwrap().unwrap();
    }

    #[test]
    fn rows_of_a_stream_are_stored_only_behind_the_rows_before_them() {
        let producers = held();
        let begin = |after, end| producers.begin(TABLE, &rows(after, end), || Ok(()));
        begin(0, 100).unwrap().unwrap();
        producers.turned_away(TABLE, &rows(100, 200));
        producers.stored(TABLE, &rows(0, 100), SequenceNumber(1));
        begin(100, 120).unwrap().unwrap();
        let gap = begin(200, 300).unwrap_err();
        assert_eq!(gap.category(), "producer_order");
        let told = gap.to_string();
        assert!(told.contains("send it again from its first row"), "{told}");
        // A batch that failed while another attempt was ahead of it makes nothing wait for ever.
        producers.turned_away(TABLE, &rows(0, 110));
        producers.stored(TABLE, &rows(100, 120), SequenceNumber(2));
        begin(120, 300).unwrap().unwrap();
        producers.stored(TABLE, &rows(120, 300), SequenceNumber(3));
        let repeat = begin(200, 300);
        assert!(matches!(repeat, Ok(Err(Decision::Stored(_)))));
        producers.in_catalog(&[ProducerPosition {
            table: TABLE,
            producer: "p".to_owned(),
            sequence: 300,
        }]);
        let key = (TABLE, "p".to_owned());
        assert!(
            producers.inner.lock().states[&key].is_in_catalog(),
            "kept for ever"
        );
    }

    #[test]
    fn a_number_below_one_under_way_is_told_to_grow() {
        let producers = held();
        begin(&producers, 7).unwrap().unwrap();
        let told = begin(&producers, 6).unwrap_err().to_string();
        assert!(told.contains("a number above 7"), "{told}");
    }

    #[test]
    fn only_what_the_catalog_knows_is_forgotten() {
        let producers = Producers::default();
        let before = producers.hold(TABLE, "p3");
        producers.release(TABLE, "p3");
        let ids = 0..MAX_PRODUCERS as u64 + 10;
        let producer = |n: u64| Producer {
            id: format!("p{n}"),
            ..batch(1)
        };
        for n in ids.clone() {
            producers.stored(TABLE, &producer(n), SequenceNumber(n));
        }
        assert_eq!(producers.inner.lock().states.len(), ids.end as usize);
        let position = |n| ProducerPosition {
            table: TABLE,
            producer: format!("p{n}"),
            sequence: 1,
        };
        let even: Vec<_> = ids.clone().filter(|n| n % 2 == 0).map(position).collect();
        producers.in_catalog(&even);
        producers.in_catalog(&[position(3)]);
        // Forgotten, the next number would be stored and this one be taken for a repeat.
        let missing = Producer {
            sequence: 2,
            ..producer(4)
        };
        producers.refused(TABLE, &missing);
        producers.inner.lock().forget_unused();
        let known = |n| producers.known(TABLE, &producer(n)).is_some();
        assert_eq!(
            [0, 1, 2, 3, 4].map(known),
            [false, true, false, false, true]
        );
        assert!(known(ids.end - 2));
        // Not even then is a void claim taken for a good one.
        assert!(!producers.held(TABLE, "p3", None, before, Instant::now()));
    }
}
