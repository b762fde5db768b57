//! What a query needs from the rest of the data plane: fresh rows and a place to write to.
//!
//! The adapters live in `server`: in process when the ingester is in the same binary, over the
//! internal port otherwise.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow_array::{Array as _, RecordBatch};
use arrow_schema::SchemaRef;
use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::{
    MemoryConsumer, MemoryPool, MemoryReservation, UnboundedMemoryPool,
};
use flightcluster_catalog::{Ingester, SequenceNumber, Table, TableId, TableName};

use crate::BatchStream;

/// Rows that an ingester acknowledged and that are in no file of the snapshot yet.
#[async_trait]
pub trait RecentRows: Send + Sync + std::fmt::Debug + 'static {
    /// The rows of `table` on `ingester` with a sequence number above `after`, in sequence order.
    ///
    /// - Shape: batches in the schema `schema` (missing columns are null), reduced to the columns
    ///   `projection` (indices into `schema`) when given; may be empty.
    /// - Memory: rows that are not the ingester's own any more, because they came over the network,
    ///   are counted with [`Budget::take`] as they arrive.
    /// - Time: every wait for another process is one of [`Budget::silence`]; one that took too long is
    ///   [`RecentRowsError::Unreachable`].
    /// - Errors: see [`RecentRowsError`]; never a partial answer.
    async fn recent_rows(
        &self,
        ingester: &Ingester,
        table: &Table,
        schema: SchemaRef,
        after: SequenceNumber,
        projection: Option<&[usize]>,
        budget: &Budget,
    ) -> Result<Vec<RecordBatch>, RecentRowsError>;
}

/// What one question to one ingester may take: memory, from that of all queries, for as long as the rows are
/// kept; and time.
#[derive(Debug)]
pub struct Budget {
    memory: MemoryReservation,
    silence: Silence,
}

/// How long an ingester may let wait for its next message.
#[derive(Debug, Clone, Copy)]
pub struct Silence(Duration);

/// An ingester said nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("it has been silent for {0:?}; is its process paused or overloaded?")]
pub struct Silent(Duration);

impl Silence {
    /// No more than `limit`.
    #[must_use]
    pub const fn up_to(limit: Duration) -> Self {
        Self(limit)
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// [`Silent`]: it did not come in time. Give up.
    pub async fn in_time<T>(self, message: impl Future<Output = T>) -> Result<T, Silent> {
        let message = tokio::time::timeout(self.0, message).await;
        message.map_err(|_| Silent(self.0))
    }
}

impl Budget {
    /// As much memory as there is, for tests of adapters.
    #[doc(hidden)]
    #[must_use]
    pub fn unlimited(silence: Silence) -> Self {
        let memory: Arc<dyn MemoryPool> = Arc::new(UnboundedMemoryPool::default());
        Self::of(&memory, silence)
    }

    pub(crate) fn of(memory: &Arc<dyn MemoryPool>, silence: Silence) -> Self {
        let memory = MemoryConsumer::new("fresh rows").register(memory);
        Self { memory, silence }
    }

    /// How long to wait for a message.
    #[must_use]
    pub fn silence(&self) -> Silence {
        self.silence
    }

    /// Counts a batch.
    ///
    /// # Errors
    /// [`RecentRowsError::MemoryExhausted`]: give up.
    pub fn take(&self, batch: &RecordBatch) -> Result<(), RecentRowsError> {
        // Columns of a message are parts of one buffer; each counts with what it shows of it.
        let bytes = batch.columns().iter().map(|column| {
            let data = column.to_data();
            let seen = data.get_slice_memory_size();
            seen.unwrap_or_else(|_| data.get_array_memory_size())
        });
        self.memory
            .try_grow(bytes.sum())
            .map_err(|source| RecentRowsError::MemoryExhausted {
                source: Box::new(source),
            })
    }
}

/// Why fresh rows could not be had.
#[derive(Debug, thiserror::Error)]
pub enum RecentRowsError {
    /// Rows above the asked sequence number have left memory (they are in newer files): take a new
    /// snapshot and plan again.
    #[error("ingester {ingester} no longer holds the rows after sequence {after}")]
    TooOld {
        /// Name of the ingester.
        ingester: String,
        /// The sequence number asked for.
        after: SequenceNumber,
    },
    /// The ingester did not answer: the query can't be complete.
    #[error("ingester {ingester} at {url:?} can't be reached")]
    Unreachable {
        /// Name of the ingester.
        ingester: String,
        /// Its internal URL.
        url: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There are more fresh rows than memory for queries.
    #[error("the fresh rows of the query do not fit into memory")]
    MemoryExhausted {
        /// The cause.
        #[source]
        source: Box<DataFusionError>,
    },
    /// The ingester answered with something unusable: a bug.
    #[error("ingester {ingester} gave an unusable answer")]
    BadAnswer {
        /// Name of the ingester.
        ingester: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a repeat of a statement is recognised by, wherever it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementKey {
    /// The number of the statement's ticket.
    pub number: u128,
    /// Whether every run gives the same one batch, because the statement itself holds the rows. Of any
    /// other statement a repeat can't tell how many batches the first run had to store.
    pub is_one_batch: bool,
    /// When this run began: what was stored before is not remembered for ever.
    pub begun: SystemTime,
}

/// Where `INSERT` and `CREATE TABLE … AS` put their rows: durable when it returns.
#[async_trait]
pub trait TableWriter: Send + Sync + std::fmt::Debug + 'static {
    /// Appends a stream of batches to a table and returns the number of rows written.
    ///
    /// - Shape: at least one item; batches are in the schema of the table and not empty. An error is
    ///   the last item and only says that the rows ended early: the call has to fail then.
    /// - Retry: with the same `key` nothing is stored twice. The answer is the same only for one batch;
    ///   a repeat of more is refused, for the first run may have stored a part of them.
    /// - Errors: rows of earlier batches may have been stored when a later one fails.
    async fn append(
        &self,
        table: &TableName,
        key: Option<StatementKey>,
        rows: BatchStream,
    ) -> Result<u64, Box<dyn std::error::Error + Send + Sync>>;

    /// Puts every row of the table that was acknowledged before the call into a file, whichever
    /// ingester has it.
    ///
    /// - Errors: an ingester that may have such rows can't be reached or can't flush; the others may have.
    ///   Retry.
    async fn flush(&self, table: TableId) -> Result<(), Box<dyn std::error::Error + Send + Sync>>;
}
