//! Clients that write: what they sent, what they have to send again.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, Decimal128Array, Float64Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, new_null_array,
};
use arrow_buffer::OffsetBuffer;
use arrow_cast::cast;
use arrow_schema::{DataType, Field};
use flightcluster_catalog::TableId;
use flightcluster_ingest::Error;

use crate::history::Row;
use crate::shape::{AMOUNT_SCALE, Shape, schema};

/// A batch of a client.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    /// A producer's number.
    pub(crate) number: Option<u64>,
    /// Its place in a stream that has a name: the number counts rows then.
    pub(crate) named: Option<Named>,
    pub(crate) rows: Vec<Row>,
    pub(crate) shape: Shape,
    /// The table it was last sent to.
    pub(crate) table: Option<TableId>,
}

/// A place in a stream that has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named {
    /// The first row of the stream.
    pub(crate) stream: i64,
    /// Rows of the stream before this place.
    pub(crate) before: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Client {
    next_row: i64,
    next_batch: u64,
    /// Sent and not acknowledged, in order.
    pub(crate) pending: Vec<Batch>,
    /// Acknowledged batches of a producer.
    pub(crate) done: Vec<Batch>,
    /// A stream of it is open.
    pub(crate) busy: bool,
}

impl Client {
    /// The next batch of client `number`.
    pub(crate) fn new_batch(
        &mut self,
        number: usize,
        producer: bool,
        rows: u8,
        shape: Shape,
    ) -> Batch {
        let first = ((number as i64 + 1) << 32) + self.next_row;
        self.next_row += i64::from(rows);
        let rows = (first..first + i64::from(rows)).map(|key| Row::new(key, shape));
        let rows = rows.collect();
        let number = producer.then(|| {
            self.next_batch += 1;
            self.next_batch
        });
        let (named, table) = (None, None);
        Batch {
            number,
            named,
            rows,
            shape,
            table,
        }
    }
}

pub(crate) fn encode(batch: &Batch) -> RecordBatch {
    let integers = |value: fn(&Row) -> Option<i64>| {
        Arc::new(batch.rows.iter().map(value).collect::<Int64Array>()) as ArrayRef
    };
    let width = batch.shape.width;
    let measures = batch.rows.iter().map(|row| row.measure.map(f64::from_bits));
    let measures = measures.collect::<Float64Array>();
    let amounts = batch.rows.iter().map(|row| row.amount);
    let amounts = amounts.collect::<Decimal128Array>();
    let amounts = amounts.with_precision_and_scale(38, AMOUNT_SCALE).unwrap();
    let texts = batch
        .rows
        .iter()
        .map(|row| Some(format!("row {}", row.key)));
    let numbers = integers(|row| row.nested);
    let mut columns = vec![
        integers(|row| Some(row.key)),
        of_type(&integers(|row| row.value), &width.value_type()),
        of_type(&measures, &width.measure_type()),
        of_type(&amounts, &width.amount_type()),
        of_type(&nest(numbers), &width.nest_type()),
        Arc::new(texts.collect::<StringArray>()) as ArrayRef,
    ];
    if batch.shape.extra {
        columns.push(integers(|row| row.extra));
    }
    RecordBatch::try_new(schema(batch.shape), columns).unwrap()
}

/// Each number in a struct in a list of its own.
fn nest(numbers: ArrayRef) -> ListArray {
    let number = Arc::new(Field::new("n", DataType::Int64, true));
    let structs = StructArray::new(vec![number].into(), vec![numbers], None);
    let item = Field::new("item", structs.data_type().clone(), true);
    let offsets = OffsetBuffer::from_repeated_length(1, structs.len());
    ListArray::new(Arc::new(item), offsets, Arc::new(structs), None)
}

/// Values that fit a type, which may be that of no values.
fn of_type(values: &dyn Array, data_type: &DataType) -> ArrayRef {
    match data_type {
        DataType::Null => new_null_array(data_type, values.len()),
        _ => cast(values, data_type).unwrap(),
    }
}

/// Whether a failed write has certainly stored nothing. Of every other failure a client does not
/// know.
pub(crate) fn stored_nothing(error: &Error) -> bool {
    use flightcluster_wal::Error as Log;
    matches!(
        error,
        Error::Overloaded { .. }
            | Error::PersistLag { .. }
            | Error::Draining
            | Error::UploadSealed
            | Error::OutOfService(_)
            | Error::ProducerOrder { .. }
            | Error::StreamGap { .. }
            | Error::TableNotFound(_)
            | Error::Catalog { .. }
            | Error::Wal(Log::Full { .. })
    )
}
