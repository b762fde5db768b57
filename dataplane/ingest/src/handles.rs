//! The handles of a table's spilled rows, in order, in blocks that readers share instead of copying: there may be
//! a million, and whoever copies them holds up the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use arrow_schema::SchemaRef;
use flightcluster_catalog::SequenceNumber;

use crate::spill::Spilled;

/// Most handles of a block; in tests few, so that there are many blocks.
const BLOCK: usize = if cfg!(test) { 4 } else { 1024 };

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    blocks: VecDeque<Arc<Block>>,
    /// Handles of the first block that are no longer of this queue.
    gone: usize,
}

/// Never empty, never changed once a reader has it.
#[derive(Debug)]
struct Block {
    handles: Vec<Spilled>,
    oldest: Instant,
}

/// What was taken off a queue.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) last: Option<SequenceNumber>,
    pub(crate) batches: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
}

/// Handles a reader has, from some sequence number on.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    blocks: VecDeque<Arc<Block>>,
    next: usize,
}

impl Handles {
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Spilled> {
        let all = self.blocks.iter().flat_map(|block| &block.handles);
        all.skip(self.gone)
    }

    pub(crate) fn first(&self) -> Option<&Spilled> {
        self.blocks.front()?.handles.get(self.gone)
    }

    /// Since when the oldest row waits.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        let first = self.blocks.front().map(|block| &block.handles[self.gone..]);
        let first = first.into_iter().flatten().map(|each| each.since);
        let others = self.blocks.iter().skip(1).map(|block| block.oldest);
        first.chain(others).min()
    }

    /// Adds a handle with a higher number than all others.
    pub(crate) fn push(&mut self, mut spilled: Spilled) {
        let last = self.blocks.back_mut();
        // Each stream decodes its schema: they are not all to be kept.
        let same = |schema: &&SchemaRef| **schema == spilled.logged.schema;
        let schema = last.as_ref().and_then(|block| block.handles.last());
        if let Some(schema) = schema.map(|each| &each.logged.schema).filter(same) {
            spilled.logged.schema = Arc::clone(schema);
        }
        let open = last
            .filter(|block| block.handles.len() < BLOCK)
            .and_then(Arc::get_mut);
        match open {
            Some(block) => {
                block.oldest = block.oldest.min(spilled.since);
                block.handles.push(spilled);
            }
            None => self.blocks.push_back(Arc::new(Block {
                oldest: spilled.since,
                handles: vec![spilled],
            })),
        }
    }

    /// Takes off all up to a number.
    pub(crate) fn take_up_to(&mut self, up_to: SequenceNumber) -> Taken {
        let mut taken = Taken::default();
        while let Some(first) = self.first().filter(|first| first.sequence <= up_to) {
            taken.last = Some(first.sequence);
            taken.batches += 1;
            taken.rows += first.rows;
            taken.bytes += first.bytes;
            self.gone += 1;
            if self
                .blocks
                .pop_front_if(|block| block.handles.len() == self.gone)
                .is_some()
            {
                self.gone = 0;
            }
        }
        taken
    }

    /// Those with numbers from `first` to `last`.
    pub(crate) fn range(
        &self,
        first: SequenceNumber,
        last: SequenceNumber,
    ) -> impl Iterator<Item = &Spilled> {
        let begin = self.first_block(first);
        let all = self.blocks.range(begin..).flat_map(|block| &block.handles);
        let all = all.skip(if begin == 0 { self.gone } else { 0 });
        all.skip_while(move |each| each.sequence < first)
            .take_while(move |each| each.sequence <= last)
    }

    /// Those with a higher number, for a reader.
    pub(crate) fn share(&self, after: SequenceNumber) -> Shared {
        let first = SequenceNumber(after.0.saturating_add(1));
        let begin = self.first_block(first);
        let blocks: VecDeque<_> = self.blocks.range(begin..).cloned().collect();
        let gone = if begin == 0 { self.gone } else { 0 };
        let before = blocks.front().map_or(0, |block| {
            block.handles.partition_point(|each| each.sequence < first)
        });
        Shared {
            blocks,
            next: gone.max(before),
        }
    }

    /// The first block that may have this number or a higher one.
    fn first_block(&self, number: SequenceNumber) -> usize {
        let is_before = |block: &Arc<Block>| {
            let last = block.handles.last();
            last.is_some_and(|last| last.sequence < number)
        };
        self.blocks.partition_point(is_before)
    }
}

impl Shared {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Spilled> {
        let all = self.blocks.iter().flat_map(|block| &block.handles);
        all.skip(self.next)
    }

    pub(crate) fn first(&self) -> Option<&Spilled> {
        self.blocks.front()?.handles.get(self.next)
    }

    /// Takes the first ones, as long as they have no more than `most_bytes` together; one in any case.
    pub(crate) fn take(&mut self, most_bytes: u64) -> Vec<Spilled> {
        let mut bytes = 0_u64;
        let mut taken = Vec::new();
        while let Some(first) = self.first() {
            bytes = bytes.saturating_add(first.bytes);
            if bytes > most_bytes && !taken.is_empty() {
                break;
            }
            taken.push(first.clone());
            self.next += 1;
            if self
                .blocks
                .pop_front_if(|block| block.handles.len() == self.next)
                .is_some()
            {
                self.next = 0;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::time::Duration;

    use arrow_schema::{DataType, Field, Schema};

    use super::*;
    use crate::spill::Logged;

    fn handle(number: u64, since: Instant) -> Spilled {
        let field = Field::new("n", DataType::Int64, true);
        Spilled {
            sequence: SequenceNumber(number),
            logged: Logged {
                place: flightcluster_wal::Place::default(),
                schema: Arc::new(Schema::new(vec![field])),
            },
            rows: 1,
            bytes: 10,
            stamp_nanos: 0,
            since,
        }
    }

    fn numbers<'a>(handles: impl Iterator<Item = &'a Spilled>) -> Vec<u64> {
        handles.map(|each| each.sequence.0).collect()
    }

    /// Memory would be full of schemas otherwise: each stream of one small batch has one.
    #[test]
    fn equal_schemas_are_kept_once() {
        let mut handles = Handles::default();
        for number in 1..=10 {
            handles.push(handle(number, Instant::now()));
        }
        let all: Vec<_> = handles.iter().map(|each| &each.logged.schema).collect();
        assert!(all.windows(2).all(|two| Arc::ptr_eq(two[0], two[1])));
    }

    #[test]
    fn what_a_reader_has_stays_as_it_was() {
        let mut handles = Handles::default();
        let now = Instant::now();
        for number in 1..=10 {
            handles.push(handle(number, now));
        }
        handles.take_up_to(SequenceNumber(1));
        let (all, some) = (
            handles.share(SequenceNumber(0)),
            handles.share(SequenceNumber(6)),
        );
        for number in 11..=13 {
            handles.push(handle(number, now));
        }
        handles.take_up_to(SequenceNumber(8));
        assert_eq!(numbers(all.iter()), (2..=10).collect::<Vec<_>>());
        assert_eq!(numbers(some.iter()), (7..=10).collect::<Vec<_>>());
        assert_eq!(numbers(handles.iter()), (9..=13).collect::<Vec<_>>());
        let range = handles.range(SequenceNumber(3), SequenceNumber(11));
        assert_eq!(numbers(range), [9, 10, 11]);
        assert!(handles.share(SequenceNumber(13)).first().is_none());
    }

    /// Of rows of a former life the clock of that time decides.
    #[test]
    fn the_oldest_is_not_always_the_first() {
        let mut handles = Handles::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (number, seconds) in [(1, 9), (2, 3), (3, 8), (4, 9), (5, 7), (6, 5)] {
            handles.push(handle(number, at(seconds)));
        }
        assert_eq!(handles.oldest(), Some(at(3)));
        handles.take_up_to(SequenceNumber(2));
        assert_eq!(handles.oldest(), Some(at(5)));
        handles.take_up_to(SequenceNumber(6));
        assert!(handles.is_empty() && handles.oldest().is_none());
    }
}
