//! Rows sorted by key in several places, as the newest row of each key.
//!
//! What makes it cheap is what it does not do: a stretch of rows whose keys lie between those of all
//! other places passes as it is, found by looking at the ends of batches only. Just where places have
//! rows between each other's, these rows are sorted, at most one batch of each place at a time.
//! How many are sorted at once doubles while that goes on: a single late row costs a look at few others.

use arrow_array::RecordBatch;
use arrow_row::{OwnedRow, RowConverter};
use arrow_schema::{ArrowError, Schema};
use arrow_select::concat::concat_batches;

use crate::newest::{Newest, converter, rows};

/// Stretches shorter than this are sorted with what follows them instead of passed on by themselves;
/// and that much of each lane is sorted at first.
const SHORTEST_STRETCH: usize = 64;

/// A merge of lanes, each of which gives batches of rows sorted by key and, within a key, newest first.
///
/// While [`Self::wants`] names lanes, they are to be given rows or ended; then [`Self::step`] has rows.
#[derive(Debug)]
pub struct Merge {
    keys: Keys,
    newest: Newest,
    order: usize,
    lanes: Vec<Lane>,
    /// How many rows of each lane are sorted at once, beside those that must be.
    reach: usize,
}

/// How the rows of a lane are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeats {
    /// It has each key once.
    Never,
    /// It may have several rows of a key.
    Maybe,
}

#[derive(Debug)]
struct Lane {
    repeats: Repeats,
    /// Rows that are not merged yet, at least one.
    held: Option<Held>,
    /// The key of the last row given.
    last: Option<OwnedRow>,
    ended: bool,
}

#[derive(Debug)]
struct Held {
    rows: RecordBatch,
    first: OwnedRow,
    last: OwnedRow,
}

impl Merge {
    /// `keys` are the places of the key's columns in `schema`, `order` that of the orders.
    ///
    /// # Errors
    /// A type that can't be part of a key.
    pub fn new(
        schema: &Schema,
        keys: Vec<usize>,
        order: usize,
        lanes: impl IntoIterator<Item = Repeats>,
    ) -> Result<Self, ArrowError> {
        let lane = |repeats| Lane {
            repeats,
            held: None,
            last: None,
            ended: false,
        };
        Ok(Self {
            keys: Keys {
                converter: converter(schema, &keys)?,
                columns: keys.clone(),
            },
            newest: Newest::new(schema, keys)?,
            order,
            lanes: lanes.into_iter().map(lane).collect(),
            reach: SHORTEST_STRETCH,
        })
    }

    /// The lanes that must be given rows or ended before the next step.
    pub fn wants(&self) -> impl Iterator<Item = usize> {
        let lanes = self.lanes.iter().enumerate();
        let wanting = lanes.filter(|(_, lane)| lane.held.is_none() && !lane.ended);
        wanting.map(|(at, _)| at)
    }

    /// The next rows of a lane; none are not worth mentioning.
    ///
    /// # Errors
    /// Rows that do not follow those given before.
    pub fn give(&mut self, lane: usize, batch: RecordBatch) -> Result<(), ArrowError> {
        let Some(end) = batch.num_rows().checked_sub(1) else {
            return Ok(());
        };
        let (first, last) = (self.keys.at(&batch, 0)?, self.keys.at(&batch, end)?);
        let lane = &mut self.lanes[lane];
        let before = lane.last.as_ref();
        let follows = match lane.repeats {
            Repeats::Never => before.is_none_or(|before| *before < first),
            Repeats::Maybe => before.is_none_or(|before| *before <= first),
        };
        if !follows || first > last {
            let what = "rows are not sorted by the primary key of their table";
            return Err(ArrowError::InvalidArgumentError(what.to_owned()));
        }
        lane.last = Some(last.clone());
        lane.held = Some(Held {
            rows: batch,
            first,
            last,
        });
        Ok(())
    }

    /// A lane has no more rows.
    pub fn end(&mut self, lane: usize) {
        self.lanes[lane].ended = true;
    }

    /// Memory of the rows it holds, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let held = self.lanes.iter().filter_map(|lane| lane.held.as_ref());
        held.map(|held| held.rows.get_array_memory_size()).sum()
    }

    /// Some of the next rows, maybe none; `None` at the end. No lane may want rows.
    ///
    /// # Errors
    /// Batches of different schemas.
    pub fn step(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        let lanes = self.lanes.iter().enumerate();
        let firsts = lanes.filter_map(|(at, lane)| Some((&lane.held.as_ref()?.first, at)));
        let Some((_, first)) = firsts.min() else {
            return Ok(None);
        };
        if self.lanes[first].repeats == Repeats::Never
            && let Some(stretch) = self.stretch(first)?
        {
            return Ok(Some(stretch));
        }
        self.mixed(first).map(Some)
    }

    /// The rows of a lane before those of all others, if there are enough of them.
    fn stretch(&mut self, lane: usize) -> Result<Option<RecordBatch>, ArrowError> {
        let others = self.lanes.iter().enumerate().filter(|(at, _)| *at != lane);
        let others = others.filter_map(|(_, lane)| lane.held.as_ref());
        let until = others.map(|held| &held.first).min();
        let Some(held) = &self.lanes[lane].held else {
            return Ok(None);
        };
        let count = match until {
            Some(until) => self.keys.before(held, until)?,
            None => held.rows.num_rows(),
        };
        if count < SHORTEST_STRETCH.min(held.rows.num_rows()) {
            return Ok(None);
        }
        self.reach = SHORTEST_STRETCH;
        self.take(lane, count)
    }

    /// The newest rows of all keys that every lane has shown all of; at least of the smallest key.
    fn mixed(&mut self, first: usize) -> Result<RecordBatch, ArrowError> {
        let smallest = self.lanes[first].held.as_ref().ok_or_else(missing)?;
        let smallest = smallest.first.clone();
        let horizon = self.horizon()?;
        self.reach = self.reach.saturating_mul(2);
        let mut parts = Vec::with_capacity(self.lanes.len());
        for at in 0..self.lanes.len() {
            let Some(held) = &self.lanes[at].held else {
                continue;
            };
            // A lane may have more rows of the key its batch ends with. Nothing but older ones of the
            // smallest key can follow, and those are dropped when they come.
            let count = match smallest < horizon {
                true => self.keys.before(held, &horizon)?,
                false => self.keys.through(held, &smallest)?,
            };
            if count > 0 {
                parts.extend(self.take(at, count)?);
            }
        }
        if let [sorted] = &parts[..] {
            return self.newest.take(sorted);
        }
        let schema = parts.first().ok_or_else(missing)?.schema();
        let mixed = concat_batches(&schema, &parts)?;
        self.newest.sort_and_take(&mixed, self.order)
    }

    /// A key that all lanes have shown all smaller ones of, and of these not too many.
    fn horizon(&self) -> Result<OwnedRow, ArrowError> {
        let mut horizon: Option<OwnedRow> = None;
        for held in self.lanes.iter().filter_map(|lane| lane.held.as_ref()) {
            let key = match self.reach < held.rows.num_rows() {
                true => self.keys.at(&held.rows, self.reach)?,
                false => held.last.clone(),
            };
            horizon = Some(horizon.map_or(key.clone(), |horizon| horizon.min(key)));
        }
        horizon.ok_or_else(missing)
    }

    /// The first `count` rows of a lane, which no longer holds them.
    fn take(&mut self, lane: usize, count: usize) -> Result<Option<RecordBatch>, ArrowError> {
        let Some(held) = self.lanes[lane].held.take() else {
            return Ok(None);
        };
        let taken = held.rows.slice(0, count);
        let left = held.rows.num_rows() - count;
        if left > 0 {
            let rows = held.rows.slice(count, left);
            self.lanes[lane].held = Some(Held {
                first: self.keys.at(&rows, 0)?,
                last: held.last,
                rows,
            });
        }
        Ok(Some(taken))
    }
}

fn missing() -> ArrowError {
    ArrowError::InvalidArgumentError("a merge without rows was asked for some".to_owned())
}

/// Compares rows by their keys, few at a time.
#[derive(Debug)]
struct Keys {
    converter: RowConverter,
    columns: Vec<usize>,
}

impl Keys {
    fn at(&self, batch: &RecordBatch, row: usize) -> Result<OwnedRow, ArrowError> {
        let rows = rows(&self.converter, &batch.slice(row, 1), &self.columns)?;
        Ok(rows.row(0).owned())
    }

    /// How many rows have a key below this one.
    fn before(&self, held: &Held, key: &OwnedRow) -> Result<usize, ArrowError> {
        if held.last < *key {
            return Ok(held.rows.num_rows());
        }
        self.count(held, |found| found < key)
    }

    /// How many rows have a key below this one, or this one.
    fn through(&self, held: &Held, key: &OwnedRow) -> Result<usize, ArrowError> {
        if held.last <= *key {
            return Ok(held.rows.num_rows());
        }
        self.count(held, |found| found <= key)
    }

    /// How many rows at the beginning have a key that is `low`, as all before it.
    fn count(&self, held: &Held, low: impl Fn(&OwnedRow) -> bool) -> Result<usize, ArrowError> {
        if !low(&held.first) {
            return Ok(0);
        }
        // The row at `from` is low, the one at `to` is not, or behind the end.
        let (mut from, mut to) = (0, held.rows.num_rows());
        while to - from > 1 {
            let middle = usize::midpoint(from, to);
            match low(&self.at(&held.rows, middle)?) {
                true => from = middle,
                false => to = middle,
            }
        }
        Ok(to)
    }
}

#[cfg(test)]
mod tests;
