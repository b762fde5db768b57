//! A table from a seed: its columns, the batches that are sent to it, and what has to come back; and
//! smaller ones of it.

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;

use crate::kinds::{self, CHAINS, kind, metadata, name, value};
use crate::values::{Layout, Value, build};

/// The first column of every table: rows are told apart by it.
pub(crate) const ROW: &str = "row";

/// A column of the table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// As it is sent first.
    pub(crate) field: Field,
    /// The types it may be sent in, each with all values of those before it.
    chain: Vec<DataType>,
    /// The batch that brings it.
    since: usize,
}

/// A column of a batch.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// Which one of the table.
    pub(crate) column: usize,
    pub(crate) data_type: DataType,
    pub(crate) values: Vec<Value>,
}

/// A batch that is sent.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// Numbers of its rows.
    pub(crate) rows: Vec<i64>,
    /// In the order in which they are sent.
    pub(crate) columns: Vec<Sent>,
    /// Through the stream of the first batch, which was open all the time.
    pub(crate) in_first_stream: bool,
    /// As messages of Arrow Flight, or as arrays that begin somewhere in their buffers.
    pub(crate) by_flight: bool,
    /// The seed of its layout.
    luck: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) columns: Vec<Column>,
    pub(crate) batches: Vec<Batch>,
}

impl Case {
    /// The table of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let luck = &mut StdRng::seed_from_u64(seed);
        let count = luck.random_range(1..4);
        let mut columns = Vec::new();
        for at in 0..luck.random_range(1..6) {
            let since = if luck.random_ratio(1, 5) {
                luck.random_range(0..count)
            } else {
                0
            };
            let chain = match luck.random_range(0..16) {
                0..3 => CHAINS[luck.random_range(0..CHAINS.len())].to_vec(),
                12 | 13 => kinds::decimals(luck),
                14.. => {
                    let chain = match luck.random() {
                        true => kinds::decimals(luck),
                        // The null type grows only as a column.
                        false => CHAINS[luck.random_range(0..5)].to_vec(),
                    };
                    let depth = luck.random_range(0..3);
                    kinds::nested(luck, &chain, depth)
                }
                // No column becomes a timestamp.
                3 => match kind(luck, 3) {
                    of if matches!(kinds::stored(&of), DataType::Timestamp(..)) => vec![of],
                    of => vec![DataType::Null, of],
                },
                _ => vec![kind(luck, 3)],
            };
            let of = chain[0].clone();
            let nullable = of == DataType::Null || luck.random_ratio(2, 3);
            let field = Field::new(name(luck, at), of, nullable).with_metadata(metadata(luck));
            columns.push(Column {
                field,
                chain,
                since,
            });
        }
        let mut batches: Vec<Batch> = Vec::new();
        let mut next = 0;
        for number in 0..count {
            let in_first_stream = number > 0 && luck.random_ratio(1, 3);
            let rows: Vec<i64> = (next..next + [0, 1, 3, 8, 40][luck.random_range(0..5)]).collect();
            next += rows.len() as i64;
            let types: Vec<(usize, DataType)> = if in_first_stream {
                let first = batches[0].columns.iter();
                first
                    .map(|sent| (sent.column, sent.data_type.clone()))
                    .collect()
            } else {
                types_of(luck, &columns, number)
            };
            let columns = types.into_iter().map(|(at, of)| {
                // A column that comes later may have nulls in the table, not in the batch.
                let nullable = columns[at].field.is_nullable();
                let values = rows.iter().map(|_| value(luck, &of, nullable)).collect();
                Sent {
                    column: at,
                    data_type: of,
                    values,
                }
            });
            let columns = columns.collect();
            batches.push(Batch {
                rows,
                columns,
                in_first_stream,
                by_flight: luck.random_ratio(2, 3),
                luck: luck.random(),
            });
        }
        // What a batch brings first has the type it is sent in there.
        for (at, column) in columns.iter_mut().enumerate() {
            let sent = batches.iter().flat_map(|batch| &batch.columns);
            if let Some(first) = sent.into_iter().find(|sent| sent.column == at) {
                column.field.set_data_type(first.data_type.clone());
            }
        }
        Self { columns, batches }
    }

    /// The schema the table has in the end.
    pub(crate) fn expected_schema(&self) -> Schema {
        let mut fields = vec![Field::new(ROW, DataType::Int64, false)];
        let mut known = Vec::new();
        for (number, batch) in self.batches.iter().enumerate() {
            for sent in &batch.columns {
                if !known.contains(&sent.column) {
                    known.push(sent.column);
                    let field = self.columns[sent.column].field.clone();
                    let nullable = field.is_nullable() || number > 0;
                    let of = self.expected_type(sent.column);
                    fields.push(field.with_data_type(of).with_nullable(nullable));
                }
            }
        }
        Schema::new(fields)
    }

    /// The widest type a column was sent in, as it is stored.
    fn expected_type(&self, column: usize) -> DataType {
        let chain = &self.columns[column].chain;
        let sent = self.batches.iter().flat_map(|batch| &batch.columns);
        let sent = sent.filter(|sent| sent.column == column);
        let place = |of: &DataType| chain.iter().position(|each| each == of).unwrap();
        let widest = sent.map(|sent| &sent.data_type).max_by_key(|of| place(of));
        kinds::stored(widest.unwrap())
    }

    /// What has to be in a column of these rows.
    pub(crate) fn expected(&self, field: &Field, rows: &Int64Array) -> ArrayRef {
        let at = self
            .columns
            .iter()
            .position(|column| column.field.name() == field.name());
        let value = |row: &i64| {
            let Some(at) = at else {
                return Value::Int((*row).into());
            };
            let batch = self
                .batches
                .iter()
                .find(|batch| batch.rows.contains(row))
                .unwrap();
            let sent = batch.columns.iter().find(|sent| sent.column == at);
            let place = batch.rows.iter().position(|each| each == row).unwrap();
            sent.map_or(Value::Null, |sent| {
                let value = sent.values[place].clone();
                kinds::moved_point(value, &sent.data_type, field.data_type())
            })
        };
        let values: Vec<Value> = rows.values().iter().map(value).collect();
        build(field.data_type(), &values, &mut Layout::Plain)
    }

    /// Numbers of all rows.
    pub(crate) fn rows(&self) -> Vec<i64> {
        self.batches
            .iter()
            .flat_map(|batch| batch.rows.clone())
            .collect()
    }

    /// A batch as it is sent.
    pub(crate) fn sent(&self, batch: &Batch) -> RecordBatch {
        let luck = &mut StdRng::seed_from_u64(batch.luck);
        let before = if batch.by_flight {
            0
        } else {
            luck.random_range(0..20)
        };
        let mut fields = vec![Field::new(ROW, DataType::Int64, false)];
        let rows = (0..before).map(|_| -1).chain(batch.rows.iter().copied());
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(rows.collect::<Int64Array>())];
        for sent in &batch.columns {
            let field = &self.columns[sent.column].field;
            let nullable = field.is_nullable() || sent.data_type == DataType::Null;
            // Rows before those that are sent, and cut off.
            let junk = (0..before).map(|_| value(luck, &sent.data_type, nullable));
            let values: Vec<Value> = junk.chain(sent.values.iter().cloned()).collect();
            let layout = &mut Layout::Odd(luck);
            arrays.push(build(&sent.data_type, &values, layout));
            fields.push(
                field
                    .clone()
                    .with_data_type(sent.data_type.clone())
                    .with_nullable(nullable),
            );
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        let whole = RecordBatch::try_new(schema, arrays).unwrap();
        whole.slice(before, batch.rows.len())
    }

    /// Smaller tables that may fail in the same way, the smallest first.
    pub(crate) fn smaller(&self) -> Vec<Self> {
        let mut all = Vec::new();
        for at in (0..self.columns.len()).filter(|_| self.columns.len() > 1) {
            let mut one = self.clone();
            for batch in &mut one.batches {
                batch.columns.retain(|sent| sent.column != at);
                batch
                    .columns
                    .iter_mut()
                    .for_each(|sent| sent.column -= usize::from(sent.column > at));
            }
            one.columns.remove(at);
            all.push(one);
        }
        for at in (0..self.batches.len()).filter(|_| self.batches.len() > 1) {
            let mut one = self.clone();
            one.batches.remove(at);
            let known = |column: usize| {
                let sent = one.batches.iter().flat_map(|batch| &batch.columns);
                sent.into_iter().any(|sent| sent.column == column)
            };
            let is_whole = (0..one.columns.len()).all(known) && !one.batches[0].in_first_stream;
            if is_whole {
                all.push(one);
            }
        }
        for at in 0..self.batches.len() {
            let rows = self.batches[at].rows.len();
            for (from, to) in [(0, rows / 2), (rows / 2, rows), (0, rows.saturating_sub(1))] {
                if to - from < rows {
                    let mut one = self.clone();
                    let batch = &mut one.batches[at];
                    batch.rows = batch.rows[from..to].to_vec();
                    for sent in &mut batch.columns {
                        sent.values = sent.values[from..to].to_vec();
                    }
                    all.push(one);
                }
            }
            if self.batches[at].by_flight {
                let mut one = self.clone();
                one.batches[at].by_flight = false;
                all.push(one);
            }
        }
        for at in 0..self.columns.len() {
            if !self.columns[at].field.metadata().is_empty() {
                let mut one = self.clone();
                one.columns[at].field.set_metadata(Default::default());
                all.push(one);
            }
        }
        all
    }
}

/// The columns of a batch and their types, in any order.
fn types_of(luck: &mut StdRng, columns: &[Column], number: usize) -> Vec<(usize, DataType)> {
    let mut types = Vec::new();
    for (at, column) in columns.iter().enumerate() {
        let due = match number.cmp(&column.since) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => true,
            // Those of a table made with them have to be there where nulls are not allowed.
            std::cmp::Ordering::Greater => {
                (column.since == 0 && !column.field.is_nullable()) || luck.random_ratio(3, 4)
            }
        };
        if due {
            let of = column.chain[luck.random_range(0..column.chain.len())].clone();
            types.push((at, of));
        }
    }
    types.shuffle(luck);
    types
}
