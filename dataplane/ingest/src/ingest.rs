//! The ingester as a whole: opening, the state everything shares, draining.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_schema::Schema;
use flightcluster_catalog::{
    Catalog, Epoch, Ingester, LogId, LogState, RegisterIngester, SequenceNumber, SnapshotId,
    SnapshotStamp, TableId, TableName,
};
use flightcluster_config::{ByteSize, IngestConfig};
use flightcluster_wal::{Disk, Wal, WalDirectory};
use object_store::ObjectStore;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admission::{Admission, Flushing, Room, admit};
use crate::buffer::{Buffer, TooOld};
use crate::claim::Peers;
use crate::clock::Clock;
use crate::current::{self, Current};
use crate::error::Error;
use crate::fatal::{Fatal, FatalState};
use crate::flush::{FlushState, Scope};
use crate::flusher::{self, Backoff};
use crate::lag::{Ages, Lag};
use crate::observe::{Observer, Statistics};
use crate::open::OpenTables;
use crate::order::Orders;
use crate::persist::PersistMemory;
use crate::producer::Producers;
use crate::recent::{LogReads, Recent};
use crate::replay;
use crate::table::{TableMode, failed};
use crate::upload::Staging;
use crate::writer::TableWriter;

/// Limit of the buffer for a caller that left it at 0; who knows the memory of the process decides.
const UNDECIDED_BUFFER_BYTES: u64 = 512 << 20;
/// A table is flushed when it has this part of the buffer, whatever `flush_bytes` says: rows that are
/// being written to a file are still in the buffer, beside those that come meanwhile.
const FLUSH_SHARE: u64 = 4;

/// What an ingester is made of.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Sizes and times.
    pub config: IngestConfig,
    /// Where tables and files are known.
    pub catalog: Arc<dyn Catalog>,
    /// Where files are put. An object must be durable when a put returns.
    pub store: Arc<dyn ObjectStore>,
    /// The name of this process, the same after every restart on the same log.
    pub node_name: String,
    /// Where the internal port answers; empty in a standalone process.
    pub internal_url: String,
    /// Directory of the write-ahead log; created when missing.
    pub wal_dir: PathBuf,
    /// The disk that directory is on.
    pub disk: Arc<dyn Disk>,
    /// Told about everything metrics want to know.
    pub observer: Arc<dyn Observer>,
    /// The time.
    pub clock: Clock,
    /// The way to the other ingesters.
    pub peers: Arc<dyn Peers>,
    /// For how long an object may wait for the commit that names it.
    pub commit_within: Duration,
    /// For how long a ticket can be redeemed, and its statement so be repeated.
    pub ticket_ttl: Duration,
}

/// The ingester of a process.
///
/// Dropping it stops it at once, as a crash would: nothing is flushed, nothing acknowledged is lost.
#[derive(Debug)]
pub struct Ingest {
    pub(crate) core: Arc<Core>,
    /// Flusher and questions to the catalog.
    tasks: [AbortHandle; 2],
    drained: tokio::sync::Mutex<bool>,
}

/// What writers, flusher and ingester share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: IngestConfig,
    pub(crate) catalog: Arc<dyn Catalog>,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) ingester: Ingester,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) clock: Clock,
    pub(crate) buffer: Arc<Buffer>,
    pub(crate) producers: Arc<Producers>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) commit_within: Duration,
    pub(crate) ticket_ttl: Duration,
    pub(crate) staging: Staging,
    pub(crate) current: Current,
    pub(crate) open: OpenTables,
    pub(crate) orders: Orders,
    pub(crate) fatal: FatalState,
    pub(crate) flush: tokio::sync::Mutex<FlushState>,
    /// Tables whose rows wait for too long.
    pub(crate) lag: Lag,
    /// What flushing may hold beside the rows.
    pub(crate) persist: PersistMemory,
    /// Reads of spilled rows for queries.
    pub(crate) log_reads: LogReads,
    pub(crate) counters: Mutex<Counters>,
    /// Wakes the flusher: something is due.
    pub(crate) due: Arc<Notify>,
    /// The log had no room for a write: everything is to be flushed.
    pub(crate) disk_pressed: Arc<AtomicBool>,
    /// Wakes writers that wait for room.
    pub(crate) freed: Arc<Notify>,
    /// Writes that are between their beginning and the end of their log record.
    pub(crate) writes: TaskTracker,
    draining: AtomicBool,
    /// `None` once it is closed.
    wal: RwLock<Option<Arc<Wal>>>,
}

/// Figures that only grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) flushes: u64,
    pub(crate) flush_failures: u64,
    pub(crate) flushed_rows: u64,
    pub(crate) flushed_file_bytes: u64,
    pub(crate) flush_time: Duration,
    pub(crate) duplicates: u64,
    pub(crate) last_error: Option<String>,
}

impl Ingest {
    /// Locks the log, registers with the catalog, replays what is in no file, and starts flushing.
    /// Call it inside a tokio runtime; the process is not ready before it returns.
    ///
    /// - Errors: [`Error::OpenWal`] with what its operator can do; [`Error::Catalog`].
    /// - Cancellation: a dropped call may have registered; calling again is safe.
    pub async fn open(options: IngestOptions) -> Result<Arc<Self>, Error> {
        let IngestOptions {
            mut config,
            catalog,
            store,
            node_name,
            internal_url,
            wal_dir,
            disk,
            observer,
            clock,
            peers,
            commit_within,
            ticket_ttl,
        } = options;
        // Before registering: a second process started by mistake must not fence the first one.
        let directory = spawn_blocking(move || WalDirectory::lock(wal_dir, disk))
            .await
            .map_err(|_| Error::Cancelled)?
            .map_err(Error::OpenWal)?;
        let request = RegisterIngester {
            name: node_name,
            url: internal_url,
            log: log_state(&directory),
            opens_tables: true,
        };
        let registration = catalog.register_ingester(request).await;
        let registration = registration.map_err(failed("registering the ingester"))?;
        let newest = registration.newest;
        let time = catalog.time().await;
        let time = time.map_err(failed("reading the time of the catalog"))?;
        let limit_bytes = match config.buffer_bytes.as_u64() {
            0 => UNDECIDED_BUFFER_BYTES,
            bytes => bytes,
        };
        let most = ByteSize((limit_bytes / FLUSH_SHARE).max(1));
        config.flush_bytes = config.flush_bytes.min(most);
        let buffer = Buffer::new(limit_bytes, config.flushed_grace);
        let (buffer, producers) = (Arc::new(buffer), Arc::new(Producers::default()));
        let ingester = registration.ingester.clone();
        let replay = replay::Replay {
            directory,
            registration,
            buffer: Arc::clone(&buffer),
            producers: Arc::clone(&producers),
            observer: Arc::clone(&observer),
            options: (&config).into(),
            ages: Ages::new(&clock, time.millis),
        };
        let wal = spawn_blocking(move || replay.run())
            .await
            .map_err(|_| Error::Cancelled)??;
        let current = Current::new(newest, clock.now());
        let lag = Lag::new(&config, clock.now());
        let core = Arc::new(Core {
            config,
            catalog,
            store,
            ingester,
            observer,
            clock,
            buffer,
            producers,
            peers,
            commit_within,
            ticket_ttl,
            staging: Staging::default(),
            current,
            open: OpenTables::default(),
            orders: Orders::default(),
            fatal: FatalState::new(),
            flush: tokio::sync::Mutex::default(),
            lag,
            persist: PersistMemory::of_buffer(limit_bytes),
            log_reads: LogReads::of_buffer(limit_bytes),
            counters: Mutex::default(),
            due: Arc::default(),
            disk_pressed: Arc::default(),
            freed: Arc::default(),
            writes: TaskTracker::new(),
            draining: AtomicBool::new(false),
            wal: RwLock::new(Some(Arc::new(wal))),
        });
        // From now on the catalog accepts this log alone; nothing was acknowledged yet.
        core.ask().await?;
        core.open_replayed().await?;
        info!(
            ingester = %core.ingester.name,
            epoch = core.ingester.epoch.0,
            buffered_rows = core.buffer.held().unflushed_rows,
            "ingester open"
        );
        let tasks = [
            tokio::spawn(flusher::run(Arc::clone(&core), core.clock.now())).abort_handle(),
            tokio::spawn(current::run(Arc::clone(&core))).abort_handle(),
        ];
        Ok(Arc::new(Self {
            core,
            tasks,
            drained: tokio::sync::Mutex::new(false),
        }))
    }

    /// Who this ingester is.
    #[must_use]
    pub fn ingester(&self) -> &Ingester {
        &self.core.ingester
    }

    /// Prepares writing one stream to a table; creates the table, or adds columns to it, first.
    ///
    /// - `incoming`: the schema all batches of the stream have.
    /// - Errors: the schema's ([`crate::gate`]), the table's ([`TableMode`]), [`Error::Draining`],
    ///   [`Error::Catalog`]. A refused stream changes nothing.
    pub async fn writer(
        &self,
        table: &TableName,
        incoming: &Schema,
        mode: TableMode,
        create_database: bool,
    ) -> Result<TableWriter, Error> {
        self.core.check_open()?;
        TableWriter::open(
            Arc::clone(&self.core),
            table,
            incoming,
            mode,
            create_database,
        )
        .await
    }

    /// Waits for room in the buffer for a message of `bytes` that is to be decoded. `own` bytes of what is
    /// held are the same upload's, which it keeps: it need not wait for them.
    ///
    /// - Errors: [`Error::Overloaded`] when there is none for too long.
    /// - Cancellation: a dropped call changes nothing.
    pub async fn room(&self, own: u64, bytes: u64) -> Result<Room, Error> {
        let admitted = self.core.admit(own, bytes).await;
        if let Err(error) = &admitted {
            self.core.observer.refused(error.category());
        }
        admitted.map(Room::new)
    }

    /// The durable rows of a table above a sequence number, each batch in the schema it
    /// was written with. Those of a table this ingester has none of are none.
    ///
    /// # Errors
    /// [`TooOld`] when some of them are in files and were let go of; the answer is never short.
    pub fn recent(&self, table: TableId, after: SequenceNumber) -> Result<Recent, TooOld> {
        self.core.buffer.evict(self.core.clock.now());
        let found = self.core.buffer.recent(table, after)?;
        Ok(Recent::new(&self.core, table, found))
    }

    /// Lets all rows that are in no file leave memory, as if that were short; for tests.
    #[doc(hidden)]
    pub fn spill_all(&self) {
        self.core.buffer.spill(0);
    }

    /// Puts everything that is durable now into files and commits them.
    ///
    /// - Errors: the first failure; tables that could be flushed are. The rows of others stay and
    ///   are tried again.
    /// - Cancellation: rows may have been flushed.
    pub async fn flush(&self) -> Result<(), Error> {
        self.core.flush_all(Scope::All).await
    }

    /// Puts the rows of one table that are durable now into files and commits them; also those that
    /// have an order number by now.
    ///
    /// - `epoch`: the life that is asked; another one has other rows.
    /// - Errors: [`Error::OtherLife`], those of [`Ingest::flush`].
    /// - Retry: safe.
    pub async fn flush_table(&self, epoch: Epoch, table: TableId) -> Result<(), Error> {
        if self.core.ingester.epoch != epoch {
            let ingester = self.core.ingester.name.clone();
            return Err(Error::OtherLife { ingester });
        }
        // Of a table with a primary key: a row may have got its number long before it is durable.
        self.core.orders.given_are_stored().await;
        self.core.flush_all(Scope::Table(table)).await
    }

    /// Ends writing: refuses new writes, lets those under way finish, flushes until nothing is left,
    /// tells the catalog, and closes the log. Repeats what fails; a second call is fine.
    ///
    /// - Errors: [`Error::OutOfService`] when the ingester is out of service.
    /// - Cancellation: drop it when time is up; what was not flushed is replayed at the next start.
    pub async fn drain(&self) -> Result<(), Error> {
        let mut drained = self.drained.lock().await;
        if *drained {
            return Ok(());
        }
        let core = &self.core;
        core.draining.store(true, Ordering::SeqCst);
        core.writes.close();
        core.writes.wait().await;
        let mut backoff = Backoff::default();
        loop {
            let error = match core.flush_all(Scope::All).await {
                Ok(()) => match core.say_drained().await {
                    Ok(()) => break,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if core.fatal.get().is_some() {
                return Err(error);
            }
            let delay = backoff.next();
            let delay_seconds = delay.as_secs_f64();
            warn!(error = %flusher::chain(&error), delay_seconds, "retrying to drain");
            tokio::time::sleep(delay).await;
        }
        self.tasks.iter().for_each(AbortHandle::abort);
        core.close_wal().await;
        *drained = true;
        info!(ingester = %core.ingester.name, "ingester drained");
        Ok(())
    }

    /// Figures for metrics.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let core = &self.core;
        let held = core.buffer.held();
        let (wal_segments, wal_bytes) = core.wal().map_or((0, 0), |wal| wal.size());
        let age = |since| core.clock.now().saturating_duration_since(since);
        let counters = core.counters.lock();
        Statistics {
            buffered_bytes: held.unflushed_bytes + held.handle_bytes,
            buffered_rows: held.unflushed_rows,
            spilled_bytes: held.spilled_bytes,
            retained_bytes: held.retained_bytes,
            oldest_age: held.oldest.map(age),
            tables: held.tables,
            durable_sequence: held.durable,
            flushes: counters.flushes,
            flush_failures: counters.flush_failures,
            flushed_rows: counters.flushed_rows,
            flushed_file_bytes: counters.flushed_file_bytes,
            flush_seconds: counters.flush_time.as_secs_f64(),
            duplicates: counters.duplicates,
            wal_segments,
            wal_bytes,
            last_error: counters.last_error.clone(),
            draining: core.draining.load(Ordering::SeqCst),
            fatal: core.fatal.get().is_some(),
        }
    }

    /// What is inside.
    #[cfg(test)]
    pub(crate) fn core_for_tests(&self) -> &Core {
        &self.core
    }

    /// Completes when the process must end with an error; never otherwise.
    pub async fn fatal(&self) -> Fatal {
        self.core.fatal.wait().await
    }
}

/// What the log can tell the catalog before it is replayed.
fn log_state(directory: &WalDirectory) -> LogState {
    let label = directory.label();
    LogState {
        id: LogId(label.id.0),
        empty: directory.is_empty(),
        epoch: Epoch(label.epoch),
        seen: label.catalog.map(|state| SnapshotStamp {
            snapshot: SnapshotId(state.snapshot),
            created_at_millis: state.created_at_millis,
        }),
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        // Now rather than when the last writer is gone: the directory's lock is free at once.
        self.core.wal.write().take();
    }
}

impl Core {
    /// Whether writes are taken.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        if let Some(fatal) = self.fatal.get() {
            return Err(Error::OutOfService(fatal));
        }
        if self.draining.load(Ordering::SeqCst) {
            return Err(Error::Draining);
        }
        Ok(())
    }

    /// Waits for room for `bytes`, for a write that has room for `own` already.
    pub(crate) async fn admit(&self, own: u64, bytes: u64) -> Result<Admission, Error> {
        let flushing = Flushing {
            due: &self.due,
            freed: &self.freed,
            is_failing: &|| self.counters.lock().last_error.is_some(),
            log_has_room: &|| self.wal().is_ok_and(|wal| !wal.is_pressed()),
        };
        admit(&self.buffer, &flushing, own, bytes).await
    }

    /// Room for all that a batch turned out to need.
    pub(crate) async fn enlarge(&self, room: Room) -> Result<Admission, Error> {
        let Room {
            mut admission,
            needed_bytes,
        } = room;
        let missing = needed_bytes.saturating_sub(admission.bytes());
        if missing > 0 {
            admission.absorb(self.admit(admission.bytes(), missing).await?);
        }
        Ok(admission)
    }

    /// The log, unless it is closed.
    pub(crate) fn wal(&self) -> Result<Arc<Wal>, Error> {
        self.wal.read().clone().ok_or(Error::Draining)
    }

    /// Notes whether a failure of the log is final.
    pub(crate) fn wal_failed(&self, error: flightcluster_wal::Error) -> Error {
        if let Some(poison) = self.wal().ok().and_then(|wal| wal.poisoned()) {
            self.fatal.set(Fatal::Wal(poison));
        }
        Error::Wal(error)
    }

    /// Tells the catalog that there is nothing to ask this ingester for.
    async fn say_drained(&self) -> Result<(), Error> {
        let (id, epoch) = (self.ingester.id, self.ingester.epoch);
        let drained = self.catalog.drain_ingester(id, epoch).await;
        drained.map_err(|error| self.catalog_failed("draining the ingester", error))
    }

    async fn close_wal(&self) {
        let wal = self.wal.write().take();
        // Waits for the writer thread. An error means that the runtime is going away.
        let _ = spawn_blocking(move || drop(wal)).await;
    }
}
