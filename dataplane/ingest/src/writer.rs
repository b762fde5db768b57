//! Writing one stream to one table.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow_array::RecordBatch;
use arrow_schema::{Schema, SchemaRef};
use bytes::Bytes;
use flightcluster_catalog::{SequenceNumber, Table, TableName};
use flightcluster_keys::{Key, take_declared, with_order};
use flightcluster_wal::{self as wal, Append, Completion, Message, Pending, SchemaDefinition};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::adapt::Plan;
use crate::admission::{Admission, Room};
use crate::buffer::Row;
use crate::checks::Checks;
use crate::digits::check_digits;
use crate::error::Error;
use crate::fatal::Fatal;
use crate::gate::{normalise_batch, normalise_schema};
use crate::ingest::Core;
use crate::memory::{compact, held_bytes, needed_bytes};
use crate::message::{encode_batch, is_batch_of};
use crate::open::OpenTable;
use crate::order::Ordered;
use crate::producer::{Decision, Outcome, Producer};
use crate::schema::has_dictionary;
use crate::spill::Logged;
use crate::table::{TableMode, resolve};

/// Answer to a durable write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// The rows are visible from this sequence number on. For a repeat it may be a later one than
    /// that of the rows.
    pub sequence: SequenceNumber,
    /// Rows in the batch.
    pub rows: u64,
    /// The batch had been stored before.
    pub duplicate: bool,
}

/// Writes batches of one schema to one table. Share it to have several batches under way.
///
/// The rows keep the schema the table had when the writer was made, also when others add columns.
#[derive(Debug)]
pub struct TableWriter {
    core: Arc<Core>,
    table: Table,
    /// The table has a primary key: its rows are numbered.
    numbered: bool,
    incoming: SchemaRef,
    normalised: SchemaRef,
    plan: Plan,
    definition: Arc<SchemaDefinition>,
    /// Messages may be stored as they come in.
    keeps_raw: bool,
    /// First come, first served: the order of the calls is the order in the log.
    order: tokio::sync::Mutex<Checks>,
    /// The catalog lists the table as one of which there may be rows outside files.
    open: Arc<OpenTable>,
    /// For the staging table of an upload: its writes under way, closed when it takes no more.
    staging: Option<Arc<TaskTracker>>,
}

/// Counts a write until its record is in the log or refused.
#[derive(Debug)]
struct UnderWay {
    _write: TaskTrackerToken,
    _staging: Option<TaskTrackerToken>,
    _open: Arc<OpenTable>,
    /// Of a write that takes order numbers.
    ordered: Option<Ordered>,
}

/// Rows that are to be stored, the bytes they came as, and whose they are.
type Unstored = (RecordBatch, Option<Vec<(Bytes, Bytes)>>, Option<Producer>);

/// What became of a batch that was handed over.
enum Handed {
    Over(Pending),
    Known(Decision),
}

impl TableWriter {
    pub(crate) async fn open(
        core: Arc<Core>,
        name: &TableName,
        incoming: &Schema,
        mode: TableMode,
        create_database: bool,
    ) -> Result<Self, Error> {
        let (normalised, declared) =
            take_declared(normalise_schema(incoming)?).map_err(Error::Key)?;
        let catalog = core.catalog.as_ref();
        let wanted = (&normalised, declared.as_deref());
        let resolved = resolve(catalog, name, wanted, mode, create_database).await?;
        Self::new(core, resolved, incoming, Arc::new(normalised)).await
    }

    /// Lets the log and the catalog know of the table first.
    pub(crate) async fn new(
        core: Arc<Core>,
        (table, plan): (Table, Plan),
        incoming: &Schema,
        normalised: SchemaRef,
    ) -> Result<Self, Error> {
        core.cover(table.id).await?;
        let open = Arc::new(core.open_table(table.id).await?);
        let numbered = Key::of(&table.options).map_err(Error::Key)?.is_some();
        let keeps_raw = plan.unchanged
            && normalised.fields() == incoming.fields()
            && !has_dictionary(&normalised);
        let ipc = Bytes::from(table.schema.0.clone());
        let definition = Arc::new(SchemaDefinition {
            version: table.schema_version.0,
            ipc,
        });
        let now = core.clock.now();
        Ok(Self {
            core,
            table,
            numbered,
            incoming: Arc::new(incoming.clone()),
            normalised,
            plan,
            definition,
            keeps_raw,
            order: tokio::sync::Mutex::new(Checks::new(now)),
            open,
            staging: None,
        })
    }

    /// The same writer into the staging table of an upload, whose writes under way are counted.
    pub(crate) fn into_staging(self, under_way: Arc<TaskTracker>) -> Self {
        Self {
            staging: Some(under_way),
            ..self
        }
    }

    /// The table as it was when the writer was made.
    #[must_use]
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The schema rows are stored in, in the table's order.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.plan.schema
    }

    /// Makes a batch durable and visible.
    ///
    /// - Shape: a batch of the schema the writer was made with; an empty one is acknowledged and not
    ///   stored. `raw` is the batch as it came in, as IPC messages (flatbuffer header, body); it
    ///   saves encoding it again.
    /// - Order: rows are stored in the order in which the calls were first polled; of rows of one key, the
    ///   later one is the newer.
    /// - Errors: see [`Error::fault`] and [`Error::retry_after`]. A failure of the log
    ///   ([`Error::Wal`]) may have stored the batch: retry with the same `producer`.
    /// - Cancellation: the batch of a dropped call may still become durable.
    pub async fn write(
        &self,
        batch: RecordBatch,
        raw: Option<Vec<(Bytes, Bytes)>>,
        producer: Option<Producer>,
    ) -> Result<Ack, Error> {
        self.write_counted(batch, raw, producer, None).await
    }

    /// [`TableWriter::write`] of a batch that has room in the buffer already, from [`Ingest::room`].
    ///
    /// [`Ingest::room`]: crate::Ingest::room
    pub async fn write_in(
        &self,
        room: Room,
        batch: RecordBatch,
        raw: Option<Vec<(Bytes, Bytes)>>,
        producer: Option<Producer>,
    ) -> Result<Ack, Error> {
        self.write_counted(batch, raw, producer, Some(room)).await
    }

    async fn write_counted(
        &self,
        batch: RecordBatch,
        raw: Option<Vec<(Bytes, Bytes)>>,
        producer: Option<Producer>,
        room: Option<Room>,
    ) -> Result<Ack, Error> {
        let result = self.write_batch(batch, raw, producer, room).await;
        match &result {
            Ok(ack) if ack.duplicate => {
                self.core.counters.lock().duplicates += 1;
                self.core.observer.duplicate();
            }
            Ok(_) => {}
            Err(error) => self.core.observer.refused(error.category()),
        }
        result
    }

    async fn write_batch(
        &self,
        batch: RecordBatch,
        raw: Option<Vec<(Bytes, Bytes)>>,
        producer: Option<Producer>,
        room: Option<Room>,
    ) -> Result<Ack, Error> {
        // Taken before the look at the state: draining waits for it.
        let under_way = UnderWay {
            _write: self.core.writes.token(),
            _staging: self.staging.as_deref().map(TaskTracker::token),
            _open: Arc::clone(&self.open),
            ordered: None,
        };
        self.core.check_open()?;
        if self.staging.as_deref().is_some_and(TaskTracker::is_closed) {
            return Err(Error::UploadSealed);
        }
        self.check(&batch, producer.as_ref())?;
        let rows = batch.num_rows() as u64;
        if rows == 0 {
            let sequence = self.core.buffer.held().durable;
            return Ok(Ack {
                sequence,
                rows,
                duplicate: false,
            });
        }
        let handed = self.hand_over(batch, raw, producer.as_ref(), room, under_way);
        let (sequence, duplicate) = match handed.await? {
            Handed::Over(pending) => {
                let appended = pending.await;
                let sequence = appended.map_err(|error| self.core.wal_failed(error))?;
                (SequenceNumber(sequence.0), false)
            }
            Handed::Known(known) => (self.repeat(known, producer).await?, true),
        };
        // The pause may have come while the record was on its way to the disk.
        let confirmed = self.core.check_current().await;
        confirmed.map_err(|error| Error::Unconfirmed(Box::new(error)))?;
        Ok(Ack {
            sequence,
            rows,
            duplicate,
        })
    }

    fn check(&self, batch: &RecordBatch, producer: Option<&Producer>) -> Result<(), Error> {
        producer.map_or(Ok(()), Producer::check)?;
        let schema = batch.schema_ref();
        if Arc::ptr_eq(schema, &self.incoming) || schema.fields() == self.incoming.fields() {
            return Ok(());
        }
        Err(Error::SchemaMismatch)
    }

    /// Queues a batch for the log, in the order of the calls.
    async fn hand_over(
        &self,
        batch: RecordBatch,
        raw: Option<Vec<(Bytes, Bytes)>>,
        producer: Option<&Producer>,
        room: Option<Room>,
        under_way: UnderWay,
    ) -> Result<Handed, Error> {
        let mut order = self.order.lock().await;
        let result = match self.core.check_current().await {
            Ok(()) => {
                self.hand_over_in_order(&mut order, batch, raw, producer, room, under_way)
                    .await
            }
            Err(error) => Err(error),
        };
        // Whatever the reason: a later number that is stored must not make this one look stored.
        if let (Err(_), Some(producer)) = (&result, producer) {
            self.core.producers.turned_away(self.table.id, producer);
        }
        result
    }

    async fn hand_over_in_order(
        &self,
        checks: &mut Checks,
        batch: RecordBatch,
        raw: Option<Vec<(Bytes, Bytes)>>,
        producer: Option<&Producer>,
        room: Option<Room>,
        mut under_way: UnderWay,
    ) -> Result<Handed, Error> {
        let core = &self.core;
        self.check_table(checks).await?;
        if let Some(producer) = producer {
            if let Some(known) = core.producers.known(self.table.id, producer) {
                return Ok(Handed::Known(known));
            }
            core.hold_producer(&self.table, &producer.id).await?;
        }
        let (batch, raw, producer) = match self.left_to_store(batch, raw, producer).await? {
            Ok(left) => left,
            Err(known) => return Ok(Handed::Known(known)),
        };
        let producer = producer.as_ref();
        // Behind the look for repeats: what is stored is acknowledged again.
        core.lag.check(self.table.id, core.clock.now())?;
        let room = match room {
            Some(room) => Some(core.enlarge(room).await?),
            None => None,
        };
        let (batch, messages, held) = self.prepare(batch, raw)?;
        // Before room is taken for a batch that has none: a slow catalog must not hold up tables that need no numbers.
        let (batch, first) = self.number(batch, &mut under_way).await?;
        let encoded: usize = messages.iter().map(|m| m.header.len() + m.body.len()).sum();
        let bytes = encoded.max(needed_bytes(&batch)).max(held) as u64;
        let mut admission = match room {
            Some(room) => room,
            None => core.admit(0, bytes).await?,
        };
        admission.cover(bytes);
        let stamp_nanos = core.clock.unix_nanos();
        let append = Append::new(
            self.table.id.0,
            Arc::clone(&self.definition),
            batch.num_rows() as u64,
            stamp_nanos,
            producer.map(|p| wal::Producer {
                id: p.id.clone(),
                sequence: p.sequence,
            }),
            messages,
        )
        .map_err(Error::Wal)?;
        let append = match first {
            Some(first) => append.with_order(first),
            None => append,
        };
        let log = core.wal()?;
        if log.is_pressed() {
            // Before it has to refuse.
            core.disk_pressed.store(true, Ordering::Relaxed);
            core.due.notify_one();
        }
        let reservation = log
            .reserve(&append)
            .await
            .map_err(|error| core.wal_failed(error))?;
        let sequence = SequenceNumber(0);
        let producer_of_row = producer.cloned();
        let row = Row {
            sequence,
            batch,
            bytes,
            stamp_nanos,
            since: core.clock.now(),
            producer: producer_of_row,
            logged: None,
        };
        let completion = self.completion(row, admission, under_way);
        let enqueue = || {
            let pending = log.enqueue(reservation, append, completion);
            pending.map_err(|error| core.wal_failed(error))
        };
        let Some(producer) = producer else {
            return enqueue().map(Handed::Over);
        };
        let begun = core.producers.begin(self.table.id, producer, enqueue)?;
        Ok(begun.map_or_else(Handed::Known, Handed::Over))
    }

    /// The rows of a batch that are not stored yet: all of them, unless it is of a stream that was cut into
    /// other batches the first time. The decision, when there is nothing left to store.
    async fn left_to_store(
        &self,
        batch: RecordBatch,
        raw: Option<Vec<(Bytes, Bytes)>>,
        producer: Option<&Producer>,
    ) -> Result<Result<Unstored, Decision>, Error> {
        let Some(producer) = producer else {
            return Ok(Ok((batch, raw, None)));
        };
        loop {
            match self.core.producers.look_up(self.table.id, producer)? {
                Decision::Store => return Ok(Ok((batch, raw, Some(producer.clone())))),
                Decision::StoredUpTo(stored) => {
                    let known = stored.saturating_sub(producer.after.unwrap_or_default());
                    let known = usize::try_from(known)
                        .unwrap_or(usize::MAX)
                        .min(batch.num_rows());
                    let rest = batch.slice(known, batch.num_rows() - known);
                    let producer = Producer {
                        after: Some(stored),
                        ..producer.clone()
                    };
                    return Ok(Ok((rest, None, Some(producer))));
                }
                Decision::Overlaps(attempt) => drop(settled(attempt).await),
                known @ (Decision::Stored(_) | Decision::UnderWay(_)) => return Ok(Err(known)),
            }
        }
    }

    /// What happens on the log's thread when the record is durable or refused.
    fn completion(&self, mut row: Row, admission: Admission, under_way: UnderWay) -> Completion {
        let core = &self.core;
        let (buffer, producers) = (Arc::clone(&core.buffer), Arc::clone(&core.producers));
        let (due, fatal) = (Arc::clone(&core.due), core.fatal.clone());
        let pressed = Arc::clone(&core.disk_pressed);
        let (table, flush_bytes) = (self.table.id, core.config.flush_bytes.as_u64());
        let schema = SchemaRef::clone(&self.plan.schema);
        Box::new(move |result| {
            let producer = row.producer.clone();
            match result {
                Ok(stored) => {
                    row.sequence = SequenceNumber(stored.sequence.0);
                    row.logged = Some(Logged {
                        place: stored.place,
                        schema,
                    });
                    let at = row.sequence;
                    let unflushed = buffer.push(table, row);
                    if let Some(producer) = &producer {
                        producers.stored(table, producer, at);
                    }
                    if unflushed >= flush_bytes {
                        due.notify_one();
                    }
                }
                Err(error) => {
                    // First: who waits for the batch must not take it for not stored.
                    if matches!(error, wal::Error::Poisoned { .. }) {
                        fatal.set(Fatal::Wal(error.clone()));
                    }
                    if let Some(producer) = &producer {
                        producers.refused(table, producer);
                    }
                    if wal::is_full(error) {
                        // What is in files makes room.
                        pressed.store(true, Ordering::Relaxed);
                        due.notify_one();
                    }
                }
            }
            drop((admission, under_way));
        })
    }

    /// Numbers the rows of a table with a primary key; says with what the first one got.
    async fn number(
        &self,
        batch: RecordBatch,
        under_way: &mut UnderWay,
    ) -> Result<(RecordBatch, Option<i64>), Error> {
        if !self.numbered {
            return Ok((batch, None));
        }
        let core = &self.core;
        under_way.ordered = Some(core.orders.begin().await);
        let first = core.orders.take(core, batch.num_rows() as u64).await?;
        let batch = with_order(&batch, first).map_err(|source| Error::EncodeBatch { source })?;
        Ok((batch, Some(first)))
    }

    /// The rows to be stored, the messages that hold them, and the memory that rows keep which are read in
    /// their message: all of it, and copies of what lay at an odd address.
    fn prepare(
        &self,
        batch: RecordBatch,
        raw: Option<Vec<(Bytes, Bytes)>>,
    ) -> Result<(RecordBatch, Vec<Message>, usize), Error> {
        let rows = batch.num_rows();
        let batch = normalise_batch(batch, &self.normalised)?;
        check_digits(&batch)?;
        let batch = self.plan.apply(&batch)?;
        if let Some(message) = raw
            .filter(|_| self.keeps_raw)
            .and_then(|raw| as_it_came(raw, rows))
        {
            let held = message.header.len() + held_bytes(&batch);
            return Ok((batch, vec![message], held));
        }
        let encode = |source| Error::EncodeBatch { source };
        let batch = compact(batch).map_err(encode)?;
        let messages = encode_batch(&batch).map_err(encode)?;
        Ok((batch, messages, 0))
    }

    /// Finds out whether the table was dropped.
    async fn check_table(&self, checks: &mut Checks) -> Result<(), Error> {
        checks.check(&self.core, &self.table).await
    }

    /// Waits until a repeated batch is known to be stored.
    async fn repeat(
        &self,
        known: Decision,
        producer: Option<Producer>,
    ) -> Result<SequenceNumber, Error> {
        let durable = self.core.buffer.held().durable;
        match known {
            Decision::Stored(SequenceNumber(0))
            | Decision::Store
            | Decision::StoredUpTo(_)
            | Decision::Overlaps(_) => Ok(durable),
            Decision::Stored(at) => Ok(at),
            Decision::UnderWay(outcome) => settled(outcome).await.ok_or_else(|| {
                let Producer { id, sequence, .. } = producer.unwrap_or_default();
                Error::FirstAttempt {
                    producer: id,
                    sequence,
                }
            }),
        }
    }
}

pub(crate) async fn settled(mut outcome: watch::Receiver<Outcome>) -> Option<SequenceNumber> {
    // An error means that the first attempt was forgotten: it failed.
    outcome
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|outcome| outcome.flatten())
}

/// A batch as it came in, if that is one message with all its rows.
fn as_it_came(raw: Vec<(Bytes, Bytes)>, rows: usize) -> Option<Message> {
    let [(header, body)] = <[_; 1]>::try_from(raw).ok()?;
    let message = Message { header, body };
    is_batch_of(&message, rows).then_some(message)
}
