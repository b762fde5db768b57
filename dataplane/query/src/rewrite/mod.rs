//! Many files of a table as few: reads them with the engine's Parquet reader, sorts the rows, and
//! writes new files of the table's present schema.
//!
//! Nothing is decided and nothing is committed here: which files, and what happens to the old ones,
//! is the caller's business. The work has threads, memory and scratch space of its own, so that
//! queries and rewriting take nothing from each other.
//!
//! # Guarantees
//! Every row of the inputs that is not to be left out is in exactly one output, with the values it had;
//! the rows read are counted against the rows the catalog says there are. Of a table with a primary key
//! only the newest row of each key is, and no two outputs have a time in common. Outputs are complete in
//! the object store when the call returns.
//!
//! # Failure and cancellation
//! A call that fails or is stopped removes the outputs it had begun; what can't be removed is found
//! by the scan for orphans. A dropped call leaves that to the scan altogether.

mod output;
mod scan;

use std::path::PathBuf;
use std::sync::Arc;

use arrow_schema::Schema;
use datafusion::execution::session_state::SessionState;
use datafusion::physical_expr::PhysicalExpr;
use flightcluster_catalog::{File, NewFile, Table};
use flightcluster_keys::Newest;
use futures::StreamExt as _;
use object_store::ObjectStore;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use tokio_util::sync::CancellationToken;

use crate::compute::Compute;
use crate::footers::Footers;
use crate::provider::Keyed;
use crate::schema::decode_schema;
use crate::session::{self, SessionOptions, create_spill_dir, template};
use crate::sort::Sorter;
use crate::width;
use output::Outputs;

/// Rows of a batch while rewriting.
const BATCH_ROWS: usize = 8192;

/// Most bytes of sorting on disk: more than any rewrite of bounded inputs needs.
const SPILL_BYTES: u64 = 100 << 30;

/// What a [`Rewriter`] is made of.
#[derive(Debug)]
pub struct RewriterOptions {
    /// Where files are read and written.
    pub store: Arc<dyn ObjectStore>,
    /// Threads for all rewriting of the process, at least 1.
    pub threads: usize,
    /// Memory for reading and sorting of all rewriting of the process, in bytes; sorting goes to disk
    /// above it.
    pub memory_bytes: u64,
    /// Directory for what does not fit; created when missing.
    pub spill_dir: PathBuf,
    /// Size of an output at which the next one is begun, in bytes.
    pub target_bytes: u64,
    /// Largest row group of an output, in rows.
    pub max_row_group_rows: usize,
    /// How files of a schema are encoded; flushes and rewrites should do the same.
    pub properties: FileProperties,
}

/// Gives the properties of a file of this table: of this schema, with these key-value metadata and at
/// most so many rows in a row group.
pub type FileProperties =
    fn(&Table, &Schema, Vec<KeyValue>, usize) -> Result<WriterProperties, ParquetError>;

/// What is to be rewritten.
#[derive(Debug, Clone)]
pub struct RewriteRequest {
    /// The table; the outputs have its schema.
    pub table: Table,
    /// Live files of it, at least one.
    pub files: Vec<File>,
    /// Rows whose time is before this (nanoseconds since the Unix epoch) are left out. Rows without a
    /// time stay.
    pub keep_from_nanos: Option<i64>,
    /// Rows for which this is true are left out: a condition over the columns of the table's schema.
    pub remove: Option<Arc<dyn PhysicalExpr>>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// The new files, complete in the store; none when no row was left.
    pub outputs: Vec<NewFile>,
    /// Rows that were left out.
    pub removed_rows: u64,
    /// Rows that were left out because there was a newer one of their key.
    pub superseded_rows: u64,
}

/// Why files could not be rewritten. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The table's schema can't be read.
    #[error("can't read the schema of table {table}")]
    Schema {
        /// The table.
        table: String,
        /// The cause.
        source: Box<crate::Error>,
    },
    /// Reading or sorting failed.
    #[error("can't read the files of table {table}")]
    Read {
        /// The table.
        table: String,
        /// The cause.
        source: Box<datafusion::error::DataFusionError>,
    },
    /// The files do not hold what the catalog says.
    #[error("the files of table {table} hold {found} rows, the catalog says {expected}")]
    Rows {
        /// The table.
        table: String,
        /// By the catalog.
        expected: u64,
        /// In the files.
        found: u64,
    },
    /// Encoding failed: our bug, or a batch of another schema.
    #[error("can't encode a file of table {table}")]
    Encode {
        /// The table.
        table: String,
        /// The cause.
        source: ParquetError,
    },
    /// A batch can't be brought into the schema of the table.
    #[error("rows of table {table} do not fit its schema")]
    Fit {
        /// The table.
        table: String,
        /// The cause.
        source: arrow_schema::ArrowError,
    },
    /// The object store failed.
    #[error("can't write {path}")]
    Store {
        /// The object.
        path: String,
        /// The cause.
        source: object_store::Error,
    },
    /// It was told to stop.
    #[error("rewriting was stopped")]
    Stopped,
    /// A panic, or the threads are gone: our bug, or the process ends.
    #[error("the task that rewrites table {table} ended early")]
    Task {
        /// The table.
        table: String,
        /// The cause.
        source: tokio::task::JoinError,
    },
    /// The threads or the scratch directory can't be made.
    #[error("can't start rewriting")]
    Start {
        /// The cause.
        source: Box<crate::Error>,
    },
}

impl RewriteError {
    /// A bounded label for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Schema { .. } => "schema",
            Self::Read { .. } => "read",
            Self::Rows { .. } => "rows",
            Self::Encode { .. } => "encode",
            Self::Fit { .. } => "fit",
            Self::Store { .. } => "store",
            Self::Stopped => "stopped",
            Self::Task { .. } => "task",
            Self::Start { .. } => "start",
        }
    }
}

/// Rewrites files. Clones share threads and memory.
#[derive(Debug, Clone)]
pub struct Rewriter {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    compute: Compute,
    template: SessionState,
    store: Arc<dyn ObjectStore>,
    target_bytes: u64,
    max_row_group_rows: usize,
    properties: FileProperties,
    /// Encoded bytes of an unfinished row group at which it is finished: bounds what the encoder holds.
    row_group_bytes: usize,
}

impl Rewriter {
    /// Starts the threads and makes the scratch directory.
    ///
    /// # Errors
    /// [`RewriteError::Start`].
    pub fn new(options: RewriterOptions) -> Result<Self, RewriteError> {
        let RewriterOptions {
            store,
            threads,
            memory_bytes,
            spill_dir,
            target_bytes,
            max_row_group_rows,
            properties,
        } = options;
        let failed = |error| RewriteError::Start {
            source: Box::new(error),
        };
        create_spill_dir(&spill_dir).map_err(failed)?;
        let compute = Compute::new(threads.max(1)).map_err(failed)?;
        let memory = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
        let template = template(SessionOptions {
            threads: 1,
            batch_rows: BATCH_ROWS,
            memory_bytes: memory,
            spill_dir: &spill_dir,
            spill_bytes: SPILL_BYTES,
            // Each file is read once.
            footers: Footers::new(0),
            store: Arc::clone(&store),
        })
        .map_err(|error| failed(Sorter { memory_bytes }.sort("starting", error)))?;
        let inner = Inner {
            compute,
            template,
            store,
            target_bytes: target_bytes.max(1),
            max_row_group_rows: max_row_group_rows.max(1),
            properties,
            row_group_bytes: (memory / 4).max(1),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Rewrites files of one table.
    ///
    /// # Errors
    /// See [`RewriteError`]; nothing was changed, trying again is safe.
    pub async fn rewrite(
        &self,
        request: RewriteRequest,
        stop: CancellationToken,
    ) -> Result<Rewritten, RewriteError> {
        let table = request.table.name.to_string();
        let inner = Arc::clone(&self.inner);
        let task = self
            .inner
            .compute
            .spawn(async move { run(&inner, request, &stop).await });
        task.await
            .unwrap_or_else(|source| Err(RewriteError::Task { table, source }))
    }
}

async fn run(
    inner: &Inner,
    request: RewriteRequest,
    stop: &CancellationToken,
) -> Result<Rewritten, RewriteError> {
    let table = request.table.name.to_string();
    let schema = decode_schema(&request.table.schema).map_err(|source| RewriteError::Schema {
        table,
        source: Box::new(source),
    })?;
    let keyed = Keyed::of(&request.table, &schema).map_err(|source| RewriteError::Schema {
        table: request.table.name.to_string(),
        source: Box::new(source),
    })?;
    let schema = keyed
        .as_ref()
        .map_or(schema, |keyed| Arc::clone(&keyed.schema));
    let mut outputs = Outputs::new(inner, &request, schema, keyed.is_some());
    match copy(inner, &request, keyed, &mut outputs, stop).await {
        Ok(left_out) => Ok(Rewritten {
            outputs: outputs.into_files(),
            removed_rows: left_out.removed,
            superseded_rows: left_out.superseded,
        }),
        Err(error) => {
            outputs.remove().await;
            Err(error)
        }
    }
}

/// Rows that are in no output.
struct LeftOut {
    removed: u64,
    superseded: u64,
}

/// Copies the rows and returns how many were left out.
async fn copy(
    inner: &Inner,
    request: &RewriteRequest,
    keyed: Option<Keyed>,
    outputs: &mut Outputs<'_>,
    stop: &CancellationToken,
) -> Result<LeftOut, RewriteError> {
    let table = || request.table.name.to_string();
    let read = |source| RewriteError::Read {
        table: table(),
        source: Box::new(source),
    };
    let fit = |source| RewriteError::Fit {
        table: table(),
        source,
    };
    let row_bytes = width::of_row_of(&request.files, outputs.schema());
    let fitted = session::fitted(&inner.template, row_bytes);
    let rows = scan::rows(
        fitted.as_ref().unwrap_or(&inner.template),
        &request.files,
        outputs.schema(),
        keyed.as_ref(),
    );
    let mut rows = rows.map_err(read)?;
    let newest = keyed.map(|keyed| Newest::new(outputs.schema(), keyed.columns));
    let mut newest = newest.transpose().map_err(fit)?;
    let (mut found, mut removed, mut superseded) = (0_u64, 0_u64, 0_u64);
    loop {
        let next = stop.run_until_cancelled(rows.next()).await;
        let batch = match next.ok_or(RewriteError::Stopped)? {
            Some(batch) => batch.map_err(read)?,
            None => break,
        };
        let read = batch.num_rows();
        found += read as u64;
        let batch = match &mut newest {
            Some(newest) => newest.take(&batch).map_err(fit)?,
            None => batch,
        };
        superseded += (read - batch.num_rows()) as u64;
        removed += outputs.write(batch).await?;
        tokio::task::yield_now().await;
    }
    let expected = request.files.iter().map(|file| file.file.rows).sum();
    if found != expected {
        return Err(RewriteError::Rows {
            table: table(),
            expected,
            found,
        });
    }
    outputs.finish().await?;
    Ok(LeftOut {
        removed,
        superseded,
    })
}
