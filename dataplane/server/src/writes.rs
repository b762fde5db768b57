//! Where uploaded rows go: into the ingester of this process, or to one of the cluster's.
//!
//! Every way to write (DoPut by path, Flight SQL ingest, `INSERT`) becomes one [`PutTarget`] and a
//! stream of messages; every batch of it is answered by one [`Ack`], in order, once it is durable
//! and visible.
//!
//! # Memory
//! A message gets room in the ingester's buffer before it is decoded, for itself and for what decoding
//! makes of it, and keeps it until its rows count by themselves. However many clients send, and however
//! far ahead of their acknowledgements, what they sent is in memory within `ingest.buffer_bytes`.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher as _;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arrow_flight::{FlightData, FlightDescriptor, PutResult};
use arrow_schema::Schema;
use async_trait::async_trait;
use bytes::Bytes;
use flightcluster_catalog::{Catalog, TableName};
use flightcluster_ingest::{Ingest, Producer, Room, TableMode, TableWriter};
use flightcluster_wire::decode::DecodedBatch;
use flightcluster_wire::{DecodeLimits, Decoded, StreamDecoder, decoding_bytes, plain_batch_bytes};
use futures::future::BoxFuture;
use futures::stream::{Fuse, FuturesOrdered};
use futures::{FutureExt as _, Stream, StreamExt as _};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::Instrument as _;

use crate::call::pass_on_request_id;
use crate::peers::Peers;
use crate::route;
use crate::status::{ErrorCode, Failure};

/// Batches of one upload that may be on their way into the WAL at once. With group commit this
/// hides the time of a sync; each holds at most one message.
const MAX_IN_FLIGHT: usize = 16;

/// Acknowledgements kept for a client that does not read them while it writes. Clients commonly
/// write everything first; stopping the upload for that would block both sides for ever.
const MAX_UNREAD_ACKS: usize = 1 << 20;

/// Uploaded messages, in order. An error ends the upload.
pub type Messages = Pin<Box<dyn Stream<Item = Result<FlightData, Failure>> + Send>>;

/// One item a batch, in order; an error is the last item.
pub type Acks = Pin<Box<dyn Stream<Item = Result<Ack, Failure>> + Send>>;

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Its place in the ingester's WAL; 0 for an empty batch.
    pub sequence: u64,
    /// Its rows.
    pub rows: u64,
    /// It is on disk and in the next query. There are no other acknowledgements.
    pub durable: bool,
    /// It had been stored before, by an earlier attempt of the same producer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub duplicate: bool,
}

/// What an upload does with its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PutMode {
    /// Create the table when it is missing, then append.
    CreateOrAppend,
    /// Create the table; it must not exist.
    Create,
    /// Append; the table must exist.
    Append,
    /// Create the table in place of the one that may be there.
    Replace,
}

/// Where an upload goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutTarget {
    /// The table.
    pub table: TableName,
    /// What to do with it.
    pub mode: PutMode,
    /// Whether a missing database is created too.
    pub create_database: bool,
    /// Makes a repeated upload of the same batches store them once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Who uploads. Producers of different identities are different producers.
    pub owner: String,
    /// The upload of several streams it is part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
}

/// A place that takes uploads.
#[async_trait]
pub trait Writes: Send + Sync + fmt::Debug + 'static {
    /// Stores a stream of batches.
    ///
    /// - Errors: a failure in the stream of acknowledgements leaves everything acknowledged before
    ///   it stored.
    /// - Cancellation: dropping the stream of acknowledgements stops the upload; batches read
    ///   before may still become durable.
    async fn put(&self, target: PutTarget, messages: Messages) -> Result<Acks, Failure>;
}

/// What a client may say of a batch in its `app_metadata`.
#[derive(Debug, Deserialize)]
struct BatchMetadata {
    #[serde(default)]
    producer: Value,
    #[serde(default)]
    sequence: Value,
    /// Of the batches of a stream that has a name: the rows before it, see `named`.
    #[serde(default)]
    rows_before: Value,
}

/// Whether a batch says whose it is.
pub(crate) fn names_producer(metadata: &Bytes) -> bool {
    let read = serde_json::from_slice::<BatchMetadata>(metadata);
    read.is_ok_and(|metadata| !metadata.producer.is_null())
}

/// The producer of a batch, if it has one, and its number for it.
pub(crate) fn producer_of(
    metadata: &Bytes,
    target: &PutTarget,
    batch_number: u64,
) -> Result<Option<Producer>, Failure> {
    if let Some(key) = &target.idempotency_key {
        // Only the first batch tells whether a statement ran before: where its batches begin and
        // end differs from run to run.
        return Ok((batch_number == 1).then(|| Producer {
            id: key.clone(),
            sequence: batch_number,
            after: None,
        }));
    }
    // Other applications put their own bytes there: only our JSON is understood, the rest ignored.
    let Ok(metadata) = serde_json::from_slice::<BatchMetadata>(metadata) else {
        return Ok(None);
    };
    if metadata.producer.is_null() {
        return Ok(None);
    }
    // Half understood it would be taken for none, and a repeat would be stored again.
    let (Some(id), Some(sequence)) = (metadata.producer.as_str(), metadata.sequence.as_u64())
    else {
        let message = format!(
            "app_metadata has producer {} and sequence {}; expected a text and a number of at least \
             0, or no producer",
            metadata.producer, metadata.sequence
        );
        return Err(Failure::new(ErrorCode::InvalidArgument, message));
    };
    let after = match &metadata.rows_before {
        Value::Null => None,
        counted => Some(counted.as_u64().ok_or_else(|| {
            let message =
                format!("app_metadata has rows_before {counted}; expected a number, or none");
            Failure::new(ErrorCode::InvalidArgument, message)
        })?),
    };
    Ok(Some(Producer {
        id: of_owner(&target.owner, id),
        sequence,
        after,
    }))
}

/// A producer as the ingesters know it.
pub(crate) fn of_owner(owner: &str, producer: &str) -> String {
    // The first slash ends the owner, so that nobody meets the producers of somebody else.
    let owner = owner.replace('%', "%25").replace('/', "%2F");
    format!("{owner}/{producer}")
}

/// Uploads into the ingester of this process.
#[derive(Debug)]
pub struct LocalWrites {
    ingest: Arc<Ingest>,
    limits: DecodeLimits,
}

impl LocalWrites {
    /// `limits` bounds what one message may cost.
    #[must_use]
    pub fn new(ingest: Arc<Ingest>, limits: DecodeLimits) -> Self {
        Self { ingest, limits }
    }
}

#[async_trait]
impl Writes for LocalWrites {
    async fn put(&self, target: PutTarget, messages: Messages) -> Result<Acks, Failure> {
        let (sender, receiver) = mpsc::channel(MAX_UNREAD_ACKS);
        let upload = Upload {
            ingest: Arc::clone(&self.ingest),
            decoder: StreamDecoder::new(self.limits),
            target,
            writer: None,
            batches: 0,
            limits: self.limits,
            dictionaries: None,
            dictionary_bytes: Arc::default(),
            max_plain_bytes: self.limits.max_decompressed_bytes as u64,
        };
        let span = tracing::Span::current();
        let tell = sender.clone();
        let run = async move {
            // Without this, a stream of acknowledgements that ends early would look complete.
            let ended = AssertUnwindSafe(upload.run(messages, sender)).catch_unwind();
            if ended.await.is_err() {
                let failure = Failure::new(ErrorCode::Internal, "the upload panicked");
                // The client may be gone: nobody to tell then.
                let _ = tell.send(Err(failure)).await;
            }
        };
        tokio::spawn(run.instrument(span));
        Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).boxed())
    }
}

/// One upload on its way into the ingester.
struct Upload {
    ingest: Arc<Ingest>,
    decoder: StreamDecoder,
    target: PutTarget,
    writer: Option<Arc<TableWriter>>,
    batches: u64,
    limits: DecodeLimits,
    /// Room for the dictionaries that the decoder keeps.
    dictionaries: Option<Room>,
    dictionary_bytes: Arc<AtomicU64>,
    /// Bytes a batch may need once its dictionaries and run ends are written out.
    max_plain_bytes: u64,
}

type Write = BoxFuture<'static, Result<Ack, Failure>>;
type InFlight = FuturesOrdered<Write>;

/// A message with room for itself and what it decodes to; those without a body need none.
type Admitted = (FlightData, Option<Room>);

/// What a message of an upload asks for.
enum Step {
    Nothing,
    Write(Write),
    End,
}

impl Upload {
    /// Reads, stores and acknowledges until the client is done, leaves, or something fails.
    async fn run(mut self, messages: Messages, acks: mpsc::Sender<Result<Ack, Failure>>) {
        let (ingest, limits) = (Arc::clone(&self.ingest), self.limits);
        let own = Arc::clone(&self.dictionary_bytes);
        // What is in flight goes on while the next message waits for room.
        let mut messages = messages
            .then(move |message| {
                let own = own.load(Ordering::Relaxed);
                admit(Arc::clone(&ingest), limits, own, message)
            })
            .boxed();
        let mut in_flight = InFlight::new();
        let mut failure = None;
        let mut reading = true;
        while reading || !in_flight.is_empty() {
            tokio::select! {
                biased;
                () = acks.closed() => return,
                Some(ack) = in_flight.next(), if !in_flight.is_empty() => {
                    let failed = ack.is_err();
                    // What follows a failed batch is not acknowledged, whatever became of it.
                    if acks.send(ack).await.is_err() || failed {
                        return;
                    }
                }
                message = messages.next(), if reading && in_flight.len() < MAX_IN_FLIGHT => {
                    match self.take(message).await {
                        Ok(Step::Write(write)) => in_flight.push_back(write),
                        Ok(Step::Nothing) => {}
                        Ok(Step::End) => reading = false,
                        Err(error) => {
                            failure = Some(error);
                            reading = false;
                        }
                    }
                }
            }
        }
        if let Some(failure) = failure {
            // The client may be gone: nobody to tell then.
            let _ = acks.send(Err(failure)).await;
        }
    }

    async fn take(&mut self, message: Option<Result<Admitted, Failure>>) -> Result<Step, Failure> {
        let Some(message) = message else {
            if self.writer.is_none() {
                return Err(Failure::new(
                    ErrorCode::InvalidData,
                    "the upload ended without a schema; send the schema first",
                ));
            }
            return Ok(Step::End);
        };
        let (message, room) = message?;
        match self.decoder.push(message)? {
            Decoded::Metadata(_) => Ok(Step::Nothing),
            Decoded::Dictionary => {
                self.keep_dictionary(room);
                Ok(Step::Nothing)
            }
            Decoded::Schema { schema, .. } => {
                if self.writer.is_none() {
                    self.writer = Some(Arc::new(self.open(&schema).await?));
                }
                Ok(Step::Nothing)
            }
            Decoded::Batch(batch) => self.write(batch, room).map(Step::Write),
        }
    }

    /// Dictionaries stay until the stream ends or others take their place.
    fn keep_dictionary(&mut self, room: Option<Room>) {
        let kept = match (self.dictionaries.take(), room) {
            (Some(mut kept), Some(room)) => {
                kept.absorb(room);
                Some(kept)
            }
            (kept, room) => kept.or(room),
        };
        let bytes = self.decoder.dictionary_bytes();
        self.dictionaries = kept.map(|mut kept| {
            kept.shrink_to(bytes);
            kept
        });
        self.dictionary_bytes.store(bytes, Ordering::Relaxed);
    }

    async fn open(&self, schema: &Schema) -> Result<TableWriter, Failure> {
        let PutTarget { table, mode, .. } = &self.target;
        Ok(match &self.target.upload {
            Some(upload) => self.ingest.upload_writer(upload, table, schema).await?,
            None => {
                let (mode, create_database) = (table_mode(*mode), self.target.create_database);
                self.ingest
                    .writer(table, schema, mode, create_database)
                    .await?
            }
        })
    }

    fn write(
        &mut self,
        DecodedBatch {
            batch,
            raw,
            app_metadata,
        }: DecodedBatch,
        room: Option<Room>,
    ) -> Result<Write, Failure> {
        // The decoder refuses a batch before the schema.
        let Some(writer) = self.writer.as_ref().map(Arc::clone) else {
            return Err(Failure::new(
                ErrorCode::InvalidData,
                "a batch came before the schema",
            ));
        };
        let bytes = plain_batch_bytes(&batch);
        if bytes > self.max_plain_bytes {
            let message = format!(
                "the batch needs {bytes} bytes with its dictionaries and run ends written out, more \
                 than {}; send fewer rows in a batch",
                self.max_plain_bytes
            );
            return Err(Failure::new(ErrorCode::MessageTooLarge, message));
        }
        self.batches += 1;
        let producer = producer_of(&app_metadata, &self.target, self.batches)?;
        check_rows(producer.as_ref(), batch.num_rows())?;
        let raw = raw.map(|raw| vec![(raw.header, raw.body)]);
        Ok(async move {
            let ack = match room {
                Some(mut room) => {
                    room.needs(bytes);
                    writer.write_in(room, batch, raw, producer).await?
                }
                None => writer.write(batch, raw, producer).await?,
            };
            Ok(Ack {
                sequence: ack.sequence.0,
                rows: ack.rows,
                durable: true,
                duplicate: ack.duplicate,
            })
        }
        .boxed())
    }
}

/// Fails for a batch whose numbers are not those of its rows: it would be cut at the wrong one.
fn check_rows(producer: Option<&Producer>, rows: usize) -> Result<(), Failure> {
    let Some((producer, after)) = producer.and_then(|it| Some((it, it.after?))) else {
        return Ok(());
    };
    if after.checked_add(rows as u64) == Some(producer.sequence) {
        return Ok(());
    }
    let message = format!(
        "app_metadata counts the rows of the batch from {after} to {}, but it has {rows}; leave \
         `rows_before` out, or count rows",
        producer.sequence
    );
    Err(Failure::new(ErrorCode::InvalidArgument, message))
}

/// Waits until the ingester has room for a message and for what it decodes to; the upload has room for
/// `own` bytes of dictionaries already.
async fn admit(
    ingest: Arc<Ingest>,
    limits: DecodeLimits,
    own: u64,
    message: Result<FlightData, Failure>,
) -> Result<Admitted, Failure> {
    let message = message?;
    if message.data_body.is_empty() {
        return Ok((message, None));
    }
    // Application bytes are in the same piece of memory, until the batch has been read.
    let held = message.data_header.len() + message.data_body.len() + message.app_metadata.len();
    let bytes = held as u64 + decoding_bytes(&message, &limits);
    let room = ingest.room(own, bytes).await?;
    Ok((message, Some(room)))
}

fn table_mode(mode: PutMode) -> TableMode {
    match mode {
        PutMode::CreateOrAppend => TableMode::CreateOrAppend,
        PutMode::Create => TableMode::Create,
        PutMode::Append => TableMode::Append,
        PutMode::Replace => TableMode::Replace,
    }
}

/// Uploads through this process to an ingester of the cluster, over the internal port.
#[derive(Debug)]
pub struct ForwardedWrites {
    catalog: Arc<dyn Catalog>,
    peers: Arc<Peers>,
    next: AtomicUsize,
}

impl ForwardedWrites {
    /// Forwards to the ingesters that `catalog` knows: in turn, and a producer to the same one.
    #[must_use]
    pub fn new(catalog: Arc<dyn Catalog>, peers: Arc<Peers>) -> Self {
        // Queriers start at different places, or all would begin with the same ingester.
        let next = usize::try_from(RandomState::new().hash_one(0) % 1024).unwrap_or_default();
        Self {
            catalog,
            peers,
            next: AtomicUsize::new(next),
        }
    }

    /// URLs of the active ingesters, beginning with the one to be tried first.
    async fn candidates(
        &self,
        table: &TableName,
        producer: Option<&str>,
    ) -> Result<Vec<String>, Failure> {
        let mut ingesters = route::active(self.catalog.list_ingesters().await?)?;
        match producer {
            Some(_) => route::prefer(&mut ingesters, table, producer),
            None => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                let count = ingesters.len();
                ingesters.rotate_left(turn % count);
            }
        }
        Ok(ingesters.into_iter().map(|each| each.url).collect())
    }
}

#[async_trait]
impl Writes for ForwardedWrites {
    async fn put(&self, target: PutTarget, messages: Messages) -> Result<Acks, Failure> {
        // Looking for the producer may reach the end, and the ingester's stream asks again.
        let mut messages = messages.fuse();
        let (mut first, producer) = route::producer(&target, &mut messages).await?;
        // The first message carries our own descriptor instead of the client's.
        match first.first_mut() {
            Some(first) => {
                let command = target_to_json(&target)?;
                first.flight_descriptor = Some(FlightDescriptor::new_cmd(command));
            }
            None => return Err(Failure::new(ErrorCode::InvalidData, "the upload is empty")),
        }
        let mut refused = None;
        for url in self.candidates(&target.table, producer.as_deref()).await? {
            let mut client = self.peers.client(&url)?;
            // Makes sure of the connection before a message is given away.
            let easy = client.list_actions(arrow_flight::Empty {});
            if let Err(status) = self.peers.answer(&url, easy).await {
                refused = Some(Failure::from_peer(&url, &status));
                continue;
            }
            let failure = Arc::new(Mutex::new(None));
            let stream = keep_failure(first, messages, Arc::clone(&failure));
            let mut request = tonic::Request::new(stream);
            pass_on_request_id(&mut request);
            let answer = self.peers.answer(&url, client.do_put(request));
            let response = answer
                .await
                .map_err(|status| Failure::from_peer(&url, &status))?;
            return Ok(forwarded_acks(url, response.into_inner(), failure).boxed());
        }
        Err(refused.unwrap_or_else(|| {
            Failure::new(ErrorCode::IngesterUnavailable, "no ingester can be reached")
        }))
    }
}

fn target_to_json(target: &PutTarget) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(target)
        .map_err(|error| Failure::new(ErrorCode::Internal, format!("put target: {error}")))
}

/// Passes the messages on; a failure ends them and is kept, since a request stream can't carry it.
fn keep_failure(
    first: Vec<FlightData>,
    rest: Fuse<Messages>,
    failure: Arc<Mutex<Option<Failure>>>,
) -> impl Stream<Item = FlightData> + Send {
    let rest = rest
        .map(move |message| match message {
            Ok(message) => Some(message),
            Err(error) => {
                *failure.lock() = Some(error);
                None
            }
        })
        .take_while(|message| std::future::ready(message.is_some()))
        .filter_map(std::future::ready);
    futures::stream::iter(first).chain(rest)
}

fn forwarded_acks(
    url: String,
    results: tonic::Streaming<PutResult>,
    failure: Arc<Mutex<Option<Failure>>>,
) -> impl Stream<Item = Result<Ack, Failure>> + Send {
    let acks = results.map(move |result| {
        let result = result.map_err(|status| Failure::from_peer(&url, &status))?;
        serde_json::from_slice(&result.app_metadata).map_err(|error| {
            Failure::new(
                ErrorCode::Internal,
                format!("acknowledgement of {url}: {error}"),
            )
        })
    });
    let kept = futures::stream::once(async move { failure.lock().take() })
        .filter_map(|failure| std::future::ready(failure.map(Err)));
    acks.chain(kept)
}
