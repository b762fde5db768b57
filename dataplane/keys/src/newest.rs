//! Which rows are the newest of their key.
//!
//! [`Newest`] for rows that come sorted, in constant memory, see also [`crate::Merge`];
//! [`NewestSorted`] for a few batches in any order; [`KeySet`] for rows of given keys. All compare
//! keys by the row format of Arrow, which gives equal bytes for equal values, also of different
//! dictionaries.

use std::collections::HashSet;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, BooleanArray, RecordBatch, UInt64Array};
use arrow_row::{OwnedRow, RowConverter, Rows, SortField};
use arrow_schema::{ArrowError, Schema};
use arrow_select::concat::concat_batches;
use arrow_select::filter::filter_record_batch;
use arrow_select::take::take_record_batch;

/// Keeps the first row of each key, of rows sorted by key.
#[derive(Debug)]
pub struct Newest {
    converter: RowConverter,
    keys: Vec<usize>,
    last: Option<OwnedRow>,
}

impl Newest {
    /// `keys` are the places of the key's columns in `schema`. The rows come sorted by the key and,
    /// within a key, newest first.
    ///
    /// # Errors
    /// A type that can't be part of a key.
    pub fn new(schema: &Schema, keys: Vec<usize>) -> Result<Self, ArrowError> {
        Ok(Self {
            converter: converter(schema, &keys)?,
            keys,
            last: None,
        })
    }

    /// The first rows of their keys among these, which follow those of the calls before.
    ///
    /// # Errors
    /// A batch of another schema.
    pub fn take(&mut self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let rows = rows(&self.converter, batch, &self.keys)?;
        let count = rows.num_rows();
        let is_first = |at: usize| match at.checked_sub(1) {
            Some(before) => rows.row(before) != rows.row(at),
            None => {
                let last = self.last.as_ref();
                last.is_none_or(|last| last.row() != rows.row(0))
            }
        };
        let first = BooleanArray::from_iter((0..count).map(|at| Some(is_first(at))));
        if let Some(end) = count.checked_sub(1) {
            self.last = Some(rows.row(end).owned());
        }
        filter_record_batch(batch, &first)
    }

    /// As [`Self::take`], of rows in any order; `order` is the place of the orders.
    ///
    /// # Errors
    /// A batch of another schema.
    pub(crate) fn sort_and_take(
        &mut self,
        batch: &RecordBatch,
        order: usize,
    ) -> Result<RecordBatch, ArrowError> {
        let rows = rows(&self.converter, batch, &self.keys)?;
        let mut sorted = sorted(&rows, batch, order);
        let row = |at: u64| rows.row(at as usize);
        let end = sorted.last().map(|at| row(*at).owned());
        sorted.dedup_by(|next, kept| row(*next) == row(*kept));
        if let (Some(last), Some(first)) = (&self.last, sorted.first())
            && last.row() == row(*first)
        {
            sorted.remove(0);
        }
        self.last = end.or_else(|| self.last.take());
        take_record_batch(batch, &UInt64Array::from(sorted))
    }
}

/// The newest row of each key among some batches, sorted by key.
#[derive(Debug)]
pub struct NewestSorted {
    rows: RecordBatch,
    /// Which of the rows, and in which order.
    places: Vec<u64>,
}

impl NewestSorted {
    /// All batches are of one schema, in which `keys` are the places of the key's columns and `order` is
    /// that of the orders. Takes the memory of the rows, and of their keys until it returns.
    ///
    /// # Errors
    /// Batches of several schemas, none at all, a type that can't be part of a key, more text in a column
    /// than its type can count.
    pub fn of(batches: &[RecordBatch], keys: &[usize], order: usize) -> Result<Self, ArrowError> {
        let first = batches.first().ok_or_else(|| {
            ArrowError::InvalidArgumentError("there are no rows to be sorted".to_owned())
        })?;
        let converter = converter(first.schema_ref(), keys)?;
        let rows = concat_batches(first.schema_ref(), batches)?;
        let keys = self::rows(&converter, &rows, keys)?;
        let mut places = sorted(&keys, &rows, order);
        places.dedup_by(|next, kept| keys.row(*next as usize) == keys.row(*kept as usize));
        Ok(Self { rows, places })
    }

    /// The rows in batches of this many, the last one maybe of less.
    pub fn batches(
        &self,
        rows: usize,
    ) -> impl Iterator<Item = Result<RecordBatch, ArrowError>> + '_ {
        let chunks = self.places.chunks(rows.max(1));
        chunks.map(|places| take_record_batch(&self.rows, &UInt64Array::from(places.to_vec())))
    }
}

/// The places of all rows, sorted by key and, within a key, newest first.
fn sorted(keys: &Rows, batch: &RecordBatch, order: usize) -> Vec<u64> {
    let orders = batch.column(order).as_primitive::<Int64Type>().values();
    let mut places: Vec<u64> = (0..batch.num_rows() as u64).collect();
    // Stable: it is made for stretches that are sorted already.
    places.sort_by(|a, b| {
        let (a, b) = (*a as usize, *b as usize);
        let by_key = keys.row(a).cmp(&keys.row(b));
        by_key.then_with(|| orders[b].cmp(&orders[a]))
    });
    places
}

/// A set of keys.
#[derive(Debug)]
pub struct KeySet {
    converter: RowConverter,
    keys: HashSet<Box<[u8]>>,
    bytes: usize,
}

/// What a key takes beside its own bytes.
const ENTRY_BYTES: usize = 48;

impl KeySet {
    /// An empty set; `keys` are the places of the key's columns in `schema`.
    ///
    /// # Errors
    /// A type that can't be part of a key.
    pub fn new(schema: &Schema, keys: &[usize]) -> Result<Self, ArrowError> {
        Ok(Self {
            converter: converter(schema, keys)?,
            keys: HashSet::new(),
            bytes: 0,
        })
    }

    /// Adds the keys in these columns, which come in the order of the places given to `new`.
    ///
    /// # Errors
    /// Columns of other types.
    pub fn insert(&mut self, columns: &[ArrayRef]) -> Result<(), ArrowError> {
        let rows = self.converter.convert_columns(columns)?;
        for row in &rows {
            let key: &[u8] = row.as_ref();
            if !self.keys.contains(key) {
                self.bytes += key.len() + ENTRY_BYTES;
                self.keys.insert(key.into());
            }
        }
        Ok(())
    }

    /// Which rows of these columns have a key of the set.
    ///
    /// # Errors
    /// Columns of other types.
    pub fn marks(&self, columns: &[ArrayRef]) -> Result<BooleanArray, ArrowError> {
        let rows = self.converter.convert_columns(columns)?;
        let known = rows.iter().map(|row| self.keys.contains(row.as_ref()));
        Ok(BooleanArray::from_iter(known.map(Some)))
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Memory it takes, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

pub(crate) fn converter(schema: &Schema, keys: &[usize]) -> Result<RowConverter, ArrowError> {
    let field = |at: &usize| SortField::new(schema.field(*at).data_type().clone());
    RowConverter::new(keys.iter().map(field).collect())
}

pub(crate) fn rows(
    converter: &RowConverter,
    batch: &RecordBatch,
    keys: &[usize],
) -> Result<Rows, ArrowError> {
    let column = |at: &usize| ArrayRef::clone(batch.column(*at));
    converter.convert_columns(&keys.iter().map(column).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow_array::types::Int32Type;
    use arrow_array::{Array as _, DictionaryArray, Int64Array, StringArray};
    use arrow_schema::{DataType, Field};
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    /// A row: host, id, order.
    type Seen = (String, i64, i64);

    /// A dictionary whose words depend on the batch and are there twice.
    fn batch(rows: &[Seen]) -> RecordBatch {
        let mut words: Vec<&str> = rows.iter().map(|(host, ..)| host.as_str()).collect();
        words.push("unused");
        words.rotate_right(1);
        let places = (0..rows.len() as i32).map(|at| at + 1);
        let hosts = DictionaryArray::<Int32Type>::try_new(
            places.collect::<Vec<_>>().into(),
            Arc::new(StringArray::from(words)),
        );
        let column = |value: fn(&Seen) -> i64| -> ArrayRef {
            Arc::new(rows.iter().map(value).collect::<Int64Array>())
        };
        let schema = Schema::new(vec![
            Field::new("host", hosts.as_ref().unwrap().data_type().clone(), false),
            Field::new("id", DataType::Int64, false),
            Field::new("order", DataType::Int64, false),
        ]);
        let columns = vec![
            Arc::new(hosts.unwrap()) as ArrayRef,
            column(|row| row.1),
            column(|row| row.2),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn seen(batch: &RecordBatch) -> Vec<Seen> {
        let hosts = batch.column(0).as_dictionary::<Int32Type>();
        let hosts = hosts.downcast_dict::<StringArray>().unwrap();
        let number = |at: usize, column: usize| {
            let column = batch.column(column).as_primitive::<Int64Type>();
            column.value(at)
        };
        let row = |(at, host): (usize, Option<&str>)| {
            (host.unwrap().to_owned(), number(at, 1), number(at, 2))
        };
        hosts.into_iter().enumerate().map(row).collect()
    }

    fn random(seed: u64) -> Vec<Seen> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut orders: Vec<i64> = (0..random.random_range(0..60)).collect();
        for at in (1..orders.len()).rev() {
            orders.swap(at, random.random_range(0..=at));
        }
        let hosts = ["a", "bb", ""];
        orders
            .into_iter()
            .map(|order| {
                let host = hosts[random.random_range(0..3)].to_owned();
                (host, random.random_range(-2..2), order)
            })
            .collect()
    }

    fn cut(rows: &[Seen], seed: u64) -> Vec<RecordBatch> {
        let mut random = StdRng::seed_from_u64(!seed);
        let (mut rest, mut batches) = (rows, Vec::new());
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(random.random_range(0..=rest.len().min(5)));
            batches.push(batch(head));
            rest = tail;
        }
        batches
    }

    #[test]
    fn the_newest_row_of_each_key_is_kept_sorted_or_not() {
        for seed in 0..300 {
            let mut rows = random(seed);
            let mut model = BTreeMap::new();
            for (host, id, order) in &rows {
                let newest = model.entry((host.clone(), *id)).or_insert(*order);
                *newest = (*newest).max(*order);
            }
            let model: Vec<Seen> = model.into_iter().map(|((h, i), o)| (h, i, o)).collect();

            let batches = cut(&rows, seed);
            if batches.is_empty() {
                NewestSorted::of(&batches, &[0, 1], 2).unwrap_err();
                continue;
            }
            let sorted = NewestSorted::of(&batches, &[0, 1], 2).unwrap();
            let kept: Result<Vec<_>, _> = sorted.batches(1 + seed as usize % 7).collect();
            let kept: Vec<Seen> = kept.unwrap().iter().flat_map(seen).collect();
            assert_eq!(kept, model, "seed {seed}");

            rows.sort_by(|a, b| (&a.0, a.1, b.2).cmp(&(&b.0, b.1, a.2)));
            let batches = cut(&rows, seed);
            let mut newest = Newest::new(batches[0].schema_ref(), vec![0, 1]).unwrap();
            let kept = batches.iter().flat_map(|b| seen(&newest.take(b).unwrap()));
            assert_eq!(kept.collect::<Vec<_>>(), model, "seed {seed}");
        }
    }

    #[test]
    fn a_set_of_keys_knows_its_keys_and_no_others() {
        let row = |host: &str, id: i64| (host.to_owned(), id, 0);
        let known = batch(&[row("a", 1), row("bb", 2), row("a", 1)]);
        let columns = |batch: &RecordBatch| batch.columns()[..2].to_vec();
        let mut set = KeySet::new(known.schema_ref(), &[0, 1]).unwrap();
        assert!(set.is_empty());
        set.insert(&columns(&known)).unwrap();
        let bytes = set.bytes();
        set.insert(&columns(&known)).unwrap();
        assert_eq!((set.len(), set.bytes()), (2, bytes));
        let others = batch(&[row("a", 2), row("bb", 2), row("", 1), row("a", 1)]);
        let marks = set.marks(&columns(&others)).unwrap();
        assert_eq!(marks, BooleanArray::from(vec![false, true, false, true]));
    }
}
