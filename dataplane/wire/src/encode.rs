//! Record batches to `FlightData` messages of bounded size.
//!
//! A [`BatchEncoder`] serves one stream: the schema message comes first, then for every batch the
//! dictionaries it needs and its rows in equal pieces near the target size. It holds no more than
//! the batches pushed into it and makes messages one at a time, so a large batch is not doubled.
//!
//! Left to others: the stream around it, its pace, and when to send a keep-alive (`server`).

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_flight::FlightData;
use arrow_ipc::writer::{
    DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteContext, IpcWriteOptions,
};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};
use bytes::Bytes;

use crate::conform::{self, cast, conform, rebuild};
use crate::decode::has_dictionaries;
use crate::size;

/// How large messages become.
#[derive(Debug, Clone, Copy)]
pub struct EncodeLimits {
    /// Bytes of body a message aims at.
    pub target_bytes: usize,
    /// Bytes no message may exceed, header included.
    pub max_bytes: usize,
}

impl Default for EncodeLimits {
    /// 2 MiB, half of what stock Go clients receive (4 MiB), so that skewed pieces fit too; and
    /// 64 KiB less than the 16 MiB ADBC receives, for the protobuf and gRPC around the message.
    fn default() -> Self {
        Self {
            target_bytes: 2 << 20,
            max_bytes: (16 << 20) - (64 << 10),
        }
    }
}

/// Why a batch could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The batch does not have the announced schema.
    #[error("fitting the batch to the announced schema")]
    Conform(#[source] conform::Error),
    /// Arrow IPC has no form for the schema.
    #[error("column {column:?} is a dictionary of dictionaries, which arrow ipc cannot express")]
    NestedDictionary {
        /// Name of the column.
        column: String,
    },
    /// One row is larger than any client receives.
    #[error(
        "one row takes {bytes} bytes, {column_bytes} of them in column {column:?}, over the limit \
         of {max_bytes} for a message; select a part of the value, such as substr({column}, …)"
    )]
    RowTooLarge {
        /// The largest column of the row.
        column: String,
        /// Bytes of that column.
        column_bytes: u64,
        /// Bytes of the message.
        bytes: u64,
        /// Bytes allowed.
        max_bytes: usize,
    },
    /// A dictionary, which cannot be split, is larger than any client receives.
    #[error(
        "a dictionary takes {bytes} bytes, over the limit of {max_bytes} for a message; ask for \
         the plain encoding"
    )]
    DictionaryTooLarge {
        /// Bytes of the message.
        bytes: usize,
        /// Bytes allowed.
        max_bytes: usize,
    },
    /// The Arrow writer failed.
    #[error("encoding a record batch as arrow ipc")]
    Write(#[source] ArrowError),
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Conform(source) => source.category(),
            Self::NestedDictionary { .. } => "encode_unsupported",
            Self::RowTooLarge { .. } => "encode_row_too_large",
            Self::DictionaryTooLarge { .. } => "encode_dictionary_too_large",
            Self::Write(_) => "encode_write",
        }
    }
}

/// Encodes the batches of one stream.
///
/// ```text
/// push(batch) … next_message() until None … push(batch) …      keepalive() while nothing is ready
/// ```
/// - Guarantees: the first message is the schema, whichever method is called first; pieces of a
///   batch have equal numbers of rows (±1) unless rows differ much in size; no message exceeds
///   [`EncodeLimits::max_bytes`].
/// - A batch of no rows gives no message.
/// - After an error the stream is in no defined state: end it.
pub struct BatchEncoder {
    schema: SchemaRef,
    limits: EncodeLimits,
    pending: VecDeque<Pending>,
    ready: VecDeque<FlightData>,
    writer: Writer,
    schema_sent: bool,
    dictionaries_sent: bool,
    has_dictionaries: bool,
    has_views: bool,
    empty: Option<FlightData>,
}

/// Rows still to be sent.
enum Pending {
    /// As pushed, not yet in the announced types.
    Batch(RecordBatch),
    /// In the announced types, not yet known to be small enough.
    Whole(RecordBatch),
    /// A piece of a split batch: split again only when it is much too large.
    Piece(RecordBatch),
}

/// arrow-ipc's generator with the state of one stream.
struct Writer {
    generator: IpcDataGenerator,
    tracker: DictionaryTracker,
    options: IpcWriteOptions,
    context: IpcWriteContext,
    schema_header: Bytes,
}

impl Writer {
    fn new(schema: &Schema) -> Self {
        let (generator, options) = (IpcDataGenerator::default(), IpcWriteOptions::default());
        // Replacing a dictionary is what a stream may do.
        let mut tracker = DictionaryTracker::new(false);
        let encoded =
            generator.schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
        let schema_header = encoded.ipc_message.into();
        Self {
            generator,
            tracker,
            options,
            context: IpcWriteContext::default(),
            schema_header,
        }
    }

    /// Messages of the dictionaries that are new, and of the rows.
    fn encode(&mut self, batch: &RecordBatch) -> Result<(Vec<FlightData>, FlightData), Error> {
        let Self {
            generator,
            tracker,
            options,
            context,
            ..
        } = self;
        let (dictionaries, rows) = generator
            .encode(batch, tracker, options, context)
            .map_err(Error::Write)?;
        Ok((
            dictionaries.into_iter().map(flight_data).collect(),
            flight_data(rows),
        ))
    }
}

impl BatchEncoder {
    /// Prepares a stream of `schema`, which must be what was announced
    /// ([`wire_schema`](crate::wire_schema)).
    ///
    /// - Errors: [`Error::NestedDictionary`].
    pub fn try_new(schema: SchemaRef, limits: EncodeLimits) -> Result<Self, Error> {
        for field in schema.fields() {
            if holds(field.data_type(), &is_nested_dictionary) {
                return Err(Error::NestedDictionary {
                    column: field.name().clone(),
                });
            }
        }
        Ok(Self {
            limits,
            pending: VecDeque::new(),
            ready: VecDeque::new(),
            writer: Writer::new(&schema),
            schema_sent: false,
            dictionaries_sent: false,
            has_dictionaries: has_dictionaries(&schema),
            has_views: schema
                .fields()
                .iter()
                .any(|field| holds(field.data_type(), &is_view)),
            empty: None,
            schema,
        })
    }

    /// The schema of every batch of this stream.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Adds rows to send; O(1), the work is done by [`next_message`](Self::next_message).
    pub fn push(&mut self, batch: RecordBatch) {
        self.pending.push_back(Pending::Batch(batch));
    }

    /// Makes the next message, or `None` when everything pushed has been sent. The first call
    /// gives the schema, with or without rows.
    pub fn next_message(&mut self) -> Result<Option<FlightData>, Error> {
        if !self.schema_sent {
            return Ok(Some(self.schema_message()));
        }
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            let Some(pending) = self.pending.pop_front() else {
                return Ok(None);
            };
            self.advance(pending)?;
        }
    }

    /// All messages of one batch at once: [`push`](Self::push) and drain.
    pub fn encode(&mut self, batch: RecordBatch) -> Result<Vec<FlightData>, Error> {
        self.push(batch);
        let mut messages = Vec::new();
        while let Some(message) = self.next_message()? {
            messages.push(message);
        }
        Ok(messages)
    }

    /// The schema message. Later messages do not repeat it.
    pub fn schema_message(&mut self) -> FlightData {
        self.schema_sent = true;
        FlightData {
            data_header: self.writer.schema_header.clone(),
            ..FlightData::default()
        }
    }

    /// Messages that only show the stream is alive: a batch of no rows, before it the schema if it
    /// was not sent, and empty dictionaries if none were sent. Call it only when
    /// [`next_message`](Self::next_message) has returned `None`.
    ///
    /// A message without a header would do for HTTP/2 but breaks pyarrow.
    pub fn keepalive(&mut self) -> Result<Vec<FlightData>, Error> {
        let mut messages = Vec::new();
        if !self.schema_sent {
            messages.push(self.schema_message());
        }
        if self.has_dictionaries && !self.dictionaries_sent {
            // Readers expect every dictionary before the first batch.
            let (dictionaries, rows) = self
                .writer
                .encode(&RecordBatch::new_empty(Arc::clone(&self.schema)))?;
            self.dictionaries_sent = true;
            messages.extend(dictionaries);
            messages.push(rows);
            return Ok(messages);
        }
        messages.push(self.empty_batch()?);
        Ok(messages)
    }

    /// An empty batch made beside the stream, so that it replaces no dictionary.
    fn empty_batch(&mut self) -> Result<FlightData, Error> {
        if let Some(message) = &self.empty {
            return Ok(message.clone());
        }
        let batch = RecordBatch::new_empty(Arc::clone(&self.schema));
        let (_, message) = Writer::new(&self.schema).encode(&batch)?;
        self.empty = Some(message.clone());
        Ok(message)
    }

    fn advance(&mut self, pending: Pending) -> Result<(), Error> {
        match pending {
            Pending::Batch(batch) => self.fit(batch),
            Pending::Whole(batch) => {
                let batch = self.compacted(batch)?;
                self.split_or_write(batch, self.limits.target_bytes)
            }
            Pending::Piece(batch) => {
                let batch = self.compacted(batch)?;
                self.split_or_write(batch, self.limits.target_bytes / 2 * 3)
            }
        }
    }

    /// Casts rows to the announced types, in parts when they would become huge: a small column of
    /// dictionary keys or views may stand for gigabytes of text.
    fn fit(&mut self, batch: RecordBatch) -> Result<(), Error> {
        if batch.num_rows() == 0 && batch.num_columns() > 0 {
            return Ok(());
        }
        let part_bytes = self.limits.target_bytes as u64 * 16;
        let changes = batch.columns().iter().zip(self.schema.fields());
        let bytes = changes
            .filter(|(column, field)| column.data_type() != field.data_type())
            .map(|(column, _)| size::plain_bytes(column))
            .fold(0, u64::saturating_add);
        let rows = batch.num_rows();
        if bytes > part_bytes && rows > 1 {
            let parts = pieces(&batch, bytes.div_ceil(part_bytes));
            self.push_front(parts.map(Pending::Batch));
            return Ok(());
        }
        let max_bytes = self.limits.max_bytes;
        if bytes > max_bytes as u64 && rows == 1 {
            return Err(row_too_large(
                &batch,
                &self.schema,
                bytes,
                max_bytes,
                &size_plain,
            ));
        }
        let batch = conform(&batch, &self.schema).map_err(Error::Conform)?;
        self.push_front(std::iter::once(Pending::Whole(batch)));
        Ok(())
    }

    fn split_or_write(&mut self, batch: RecordBatch, threshold: usize) -> Result<(), Error> {
        let bytes = size::body_bytes(&batch);
        if bytes > threshold as u64 && batch.num_rows() > 1 {
            let count = bytes.div_ceil(self.limits.target_bytes as u64);
            let parts = pieces(&batch, count.max(2));
            self.push_front(parts.map(Pending::Piece));
            return Ok(());
        }
        self.write(&batch)
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), Error> {
        let max_bytes = self.limits.max_bytes;
        let (dictionaries, rows) = self.writer.encode(batch)?;
        self.dictionaries_sent = true;
        for bytes in dictionaries.iter().map(message_bytes) {
            if bytes > max_bytes {
                return Err(Error::DictionaryTooLarge { bytes, max_bytes });
            }
        }
        let bytes = message_bytes(&rows);
        if bytes > max_bytes {
            let bytes = bytes as u64;
            return Err(row_too_large(
                batch,
                &self.schema,
                bytes,
                max_bytes,
                &size_body,
            ));
        }
        self.ready.extend(dictionaries);
        self.ready.push_back(rows);
        Ok(())
    }

    /// Drops what views no longer refer to: the writer sends their data buffers whole, so every
    /// piece of a split batch would carry all of them. A piece of half the rows is already over
    /// the limit of one and a half times its own data.
    fn compacted(&self, batch: RecordBatch) -> Result<RecordBatch, Error> {
        if !self.has_views {
            return Ok(batch);
        }
        let plain = batch
            .columns()
            .iter()
            .map(|column| size::plain_bytes(column));
        let plain = plain.fold(0, u64::saturating_add);
        if size::body_bytes(&batch) <= plain.saturating_add(plain / 2) {
            return Ok(batch);
        }
        let columns = batch
            .columns()
            .iter()
            .map(compact)
            .collect::<Result<Vec<_>, _>>();
        let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        columns
            .and_then(|columns| {
                RecordBatch::try_new_with_options(batch.schema(), columns, &options)
            })
            .map_err(Error::Write)
    }

    fn push_front(&mut self, parts: impl DoubleEndedIterator<Item = Pending>) {
        for part in parts.rev() {
            self.pending.push_front(part);
        }
    }
}

impl std::fmt::Debug for BatchEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchEncoder")
            .field("schema", &self.schema)
            .field("pending", &self.pending.len())
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}

/// Slices of a batch whose row counts differ by at most one: no runt at the end.
fn pieces(batch: &RecordBatch, count: u64) -> impl DoubleEndedIterator<Item = RecordBatch> + '_ {
    let rows = batch.num_rows();
    let count = usize::try_from(count).unwrap_or(rows).min(rows).max(1);
    // In 128 bits: the product of two row counts does not fit 64.
    let cut = move |piece: usize| (rows as u128 * piece as u128 / count as u128) as usize;
    (0..count).map(move |piece| batch.slice(cut(piece), cut(piece + 1) - cut(piece)))
}

fn compact(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let through = |plain: DataType| {
        let list = rebuild(&cast(column, &plain)?, &plain, &mut |child, _| {
            compact(child)
        })?;
        cast(&list, column.data_type())
    };
    match column.data_type() {
        DataType::Utf8View => Ok(Arc::new(column.as_string_view().gc())),
        DataType::BinaryView => Ok(Arc::new(column.as_binary_view().gc())),
        DataType::ListView(item) => through(DataType::List(Arc::clone(item))),
        DataType::LargeListView(item) => through(DataType::LargeList(Arc::clone(item))),
        other => rebuild(column, other, &mut |child, _| compact(child)),
    }
}

fn flight_data(encoded: EncodedData) -> FlightData {
    FlightData {
        data_header: encoded.ipc_message.into(),
        data_body: encoded.arrow_data.into(),
        ..FlightData::default()
    }
}

fn message_bytes(message: &FlightData) -> usize {
    message.data_header.len() + message.data_body.len() + message.app_metadata.len()
}

fn size_plain(column: &ArrayRef) -> u64 {
    size::plain_bytes(column)
}

fn size_body(column: &ArrayRef) -> u64 {
    size::column_body_bytes(column)
}

fn row_too_large(
    batch: &RecordBatch,
    schema: &Schema,
    bytes: u64,
    max_bytes: usize,
    size_of: &dyn Fn(&ArrayRef) -> u64,
) -> Error {
    let sizes = batch.columns().iter().map(size_of).zip(schema.fields());
    let (column_bytes, column) = sizes
        .max_by_key(|(bytes, _)| *bytes)
        .map_or((0, String::new()), |(bytes, field)| {
            (bytes, field.name().clone())
        });
    Error::RowTooLarge {
        column,
        column_bytes,
        bytes,
        max_bytes,
    }
}

fn is_view(data_type: &DataType) -> bool {
    use DataType as T;
    matches!(
        data_type,
        T::Utf8View | T::BinaryView | T::ListView(_) | T::LargeListView(_)
    )
}

fn is_nested_dictionary(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Dictionary(_, values)
        if matches!(values.as_ref(), DataType::Dictionary(_, _)))
}

/// Whether the type, or one inside it, satisfies the test. Dictionary values are looked at too.
fn holds(data_type: &DataType, test: &dyn Fn(&DataType) -> bool) -> bool {
    use DataType as T;
    if test(data_type) {
        return true;
    }
    match data_type {
        T::List(item)
        | T::LargeList(item)
        | T::ListView(item)
        | T::LargeListView(item)
        | T::FixedSizeList(item, _)
        | T::Map(item, _)
        | T::RunEndEncoded(_, item) => holds(item.data_type(), test),
        T::Struct(fields) => fields.iter().any(|field| holds(field.data_type(), test)),
        T::Union(fields, _) => fields
            .iter()
            .any(|(_, field)| holds(field.data_type(), test)),
        T::Dictionary(_, values) => holds(values, test),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
