//! The catalog in SQL tables: a SQLite file of this process, or a Postgres database.
//!
//! # Consistency
//! Writers are serial, over all processes, each call is one transaction, readers see one state. Ids
//! of every kind come from the table `counters`. Every change of what [`Catalog::snapshot`] shows makes a new snapshot
//! id, registering an ingester included.
//!
//! # Crash
//! A call that returned is on disk (SQLite: `synchronous = FULL`, directories synced when created;
//! Postgres: `synchronous_commit`). A crash in the middle of a call leaves all or nothing of it.
//! While Postgres restarts or another server takes its place, calls wait up to their time-out. A
//! call that breaks off during its commit answers [`Error::Unavailable`] and may have taken effect. A
//! server that lost commits which were answered is noticed before anything else is done on it
//! (`watch`, `set_back`).
//!
//! # Cancellation
//! The transaction runs in its own task: a caller that goes away stops waiting, the call is still
//! carried out, and the connection is clean for the next.
//!
//! What differs between the databases is in `sqlite` and `postgres`, what both must give in `dialect`;
//! the statements elsewhere are shared SQL. Long because the trait is: each of its methods has a few lines here.

mod backup;
mod clock;
mod copies;
mod database;
mod dialect;
mod directory;
mod examine;
mod files;
mod flush;
mod garbage;
mod history;
mod ingester;
mod migrations;
mod open;
mod options;
mod order;
mod past;
mod postgres;
mod producer;
mod replace;
mod restore;
mod set_back;
mod snapshot;
mod spans;
mod sqlite;
mod statement;
mod store;
mod table;
mod tables;
mod upload;
mod value;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Connection as _;
use tokio::sync::Mutex;
use tracing::warn;

use crate::{
    AsOf, BeginStatement, Catalog, CatalogTime, ClaimProducer, CloseTables, CreateTable, Database,
    Epoch, Error, File, FilesReplaced, FinishUpload, FlushCommit, FlushCommitted, Garbage,
    GarbageQueue, HistoryForgotten, IfExists, Ingester, IngesterCheck, IngesterId, JoinUpload,
    Lease, LiveFiles, OpenTables, ProducerClaim, ProducerExpiry, RegisterIngester, Registration,
    ReplaceFiles, Replacement, SchemaBytes, SchemaVersion, Seen, SetOptions, SmallFiles, Snapshot,
    SnapshotId, SnapshotRecord, SnapshotRequest, SnapshotStamp, StatementProgress, Table, TableId,
    TableName, Upload,
};
pub use backup::{Backup, BackupError, Header};
use dialect::Connection;
pub use examine::Examination;
pub use postgres::PostgresOptions;
pub use restore::Restored;
use store::{Failure, Store, Work, store_error};

/// A catalog in one SQL database.
///
/// Cloning is cheap and gives the same catalog. Any number of processes may use one Postgres
/// database. One process at a time should write to a SQLite file; a second one is safe but waits for
/// locks.
#[derive(Debug, Clone)]
pub struct SqlCatalog {
    store: Arc<Store>,
}

impl SqlCatalog {
    /// Opens the catalog in a SQLite file, creating it and its directory when missing, and brings
    /// its tables up to date.
    ///
    /// - Errors: [`Error::Store`] when the directory or file can't be used, or when a newer program
    ///   has written it; nothing was changed then.
    pub async fn open_sqlite(file: &Path) -> Result<Self, Error> {
        Self::open_file(file, true).await
    }

    /// The same for a program that only reads: a volume that can't sync any more does not keep it from
    /// that.
    pub async fn open_sqlite_to_read(file: &Path) -> Result<Self, Error> {
        Self::open_file(file, false).await
    }

    async fn open_file(file: &Path, goes_on: bool) -> Result<Self, Error> {
        const DOING: &str = "opening the catalog file";
        sqlx::any::install_default_drivers();
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        directory::create(&directory)
            .await
            .map_err(|error| store_error(DOING, error))?;
        let sqlite::Opened {
            writer,
            readers,
            keeper,
        } = sqlite::open(file, goes_on)
            .await
            .map_err(|error| store_error(DOING, error))?;
        let mut connection = writer
            .acquire()
            .await
            .map_err(|error| store_error(DOING, error))?;
        migrations::apply(&mut connection, &sqlite::DIALECT)
            .await
            .map_err(|error| store_error(DOING, error))?;
        drop(connection);
        directory::sync(&directory)
            .await
            .map_err(|error| store_error(DOING, error))?;
        Self::new(Store {
            place: file.display().to_string(),
            dialect: &sqlite::DIALECT,
            writer,
            readers,
            keeper: Mutex::new(Some(keeper)),
            clock: Arc::new(clock::Clock::new(sqlite::DIALECT.time)),
            postgres: None,
            watch: None,
        })
        .await
    }

    /// Opens the catalog in a Postgres database and brings its tables up to date. Other processes
    /// may do the same at the same time.
    ///
    /// - Errors: [`Error::Unavailable`] when the server can't be reached, is not ready or ends
    ///   meanwhile, so that another call may help: it goes on with the layout that was reached;
    ///   [`Error::Store`] when the files can't be read, the server refuses the user, would lose
    ///   commits, or when a newer program has written the tables. Nothing was changed then.
    pub async fn open_postgres(options: PostgresOptions) -> Result<Self, Error> {
        const DOING: &str = "opening the catalog in Postgres";
        sqlx::any::install_default_drivers();
        let (connect, place) = options.read().map_err(|error| store_error(DOING, error))?;
        let place = place.to_string();
        let mut connection = match postgres::connect(&connect, options.timeout).await {
            Ok(connection) => connection,
            Err(error) if error.passes() => {
                return Err(Error::Unavailable {
                    place,
                    source: Box::new(error),
                });
            }
            Err(error) => return Err(store_error(DOING, error)),
        };
        match migrations::apply(&mut connection, &postgres::DIALECT).await {
            Ok(()) => {}
            // The server ended in the middle of it, or another process takes long.
            Err(migrations::Error::Sql(error)) if postgres::passes(&error) => {
                return Err(Error::Unavailable {
                    place,
                    source: Box::new(error),
                });
            }
            Err(error) => return Err(store_error(DOING, error)),
        }
        drop(connection);
        let clock = Arc::new(clock::Clock::new(postgres::DIALECT.time));
        let watch = Arc::new(watch::Watch::new(Arc::clone(&clock)));
        let (writer, readers) = postgres::pools(&connect, &options, &watch);
        Self::new(Store {
            place,
            dialect: &postgres::DIALECT,
            writer,
            readers,
            keeper: Mutex::default(),
            clock,
            postgres: Some(options),
            watch: Some(watch),
        })
        .await
    }

    async fn new(store: Store) -> Result<Self, Error> {
        let catalog = Self {
            store: Arc::new(store),
        };
        catalog.create_database(database::DEFAULT, true).await?;
        Ok(catalog)
    }

    /// Ends all connections after the calls under way. Not needed for safety: it only saves the next
    /// start of SQLite from reading the journal.
    pub async fn close(&self) {
        self.store.readers.close().await;
        // The writer is the last one: it puts the journal into the database.
        if let Some(keeper) = self.store.keeper.lock().await.take() {
            keeper.close().await.ok();
        }
        self.store.writer.close().await;
    }

    async fn write<T, W>(&self, doing: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Clone + Send + 'static,
    {
        self.store.write(doing, work).await
    }

    async fn read<T, W>(&self, doing: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Clone + Send + 'static,
    {
        self.store.read(doing, work).await
    }

    /// After the refusal of a log that is newer than this file nothing that is listed of any ingester is
    /// trusted: what opened a table may be lost with what the log misses. One that goes on is believed again at its
    /// next check, for it misses nothing; until the refused one is back, queries of all tables ask it and fail,
    /// instead of being short. Of a Postgres server more is known: see [`set_back`].
    async fn doubting<T>(&self, answer: Result<T, Error>) -> Result<T, Error> {
        let is_file = self.store.watch.is_none();
        if is_file && matches!(answer, Err(Error::RolledBack { .. })) {
            let doubted = self.write("doubting the lists of ingesters", |c| {
                Box::pin(async move { Ok(history::doubt(c).await?) })
            });
            if let Err(error) = doubted.await {
                warn!(error = %error, "can't doubt the lists of ingesters; the next refusal does it");
            }
        }
        answer
    }
}

#[async_trait]
impl Catalog for SqlCatalog {
    async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<Database, Error> {
        let name = name.to_owned();
        self.write("creating a database", move |c| {
            Box::pin(database::create(c, name, if_not_exists))
        })
        .await
    }

    async fn list_databases(&self) -> Result<Vec<Database>, Error> {
        self.read("listing databases", |c| Box::pin(database::list(c)))
            .await
    }

    async fn create_table(&self, request: CreateTable) -> Result<Table, Error> {
        self.write("creating a table", |c| Box::pin(table::create(c, request)))
            .await
    }

    async fn publish_table(
        &self,
        table: TableId,
        name: &TableName,
        if_exists: IfExists,
        seen: Option<Seen>,
    ) -> Result<Table, Error> {
        let name = name.clone();
        self.write("publishing a table", move |c| {
            Box::pin(table::publish(c, table, name, if_exists, seen))
        })
        .await
    }

    async fn drop_table(
        &self,
        name: &TableName,
        if_exists: bool,
        seen: Option<Seen>,
    ) -> Result<Option<Table>, Error> {
        let name = name.clone();
        self.write("dropping a table", move |c| {
            Box::pin(table::drop(c, name, if_exists, seen))
        })
        .await
    }

    async fn set_options(&self, request: SetOptions) -> Result<(), Error> {
        self.write("setting options", move |c| {
            Box::pin(options::set(c, request))
        })
        .await
    }

    async fn evolve_table(
        &self,
        table: TableId,
        from: SchemaVersion,
        schema: SchemaBytes,
    ) -> Result<Table, Error> {
        self.write("changing the schema of a table", move |c| {
            Box::pin(table::evolve(c, table, from, schema))
        })
        .await
    }

    async fn table(&self, name: &TableName) -> Result<Option<Table>, Error> {
        let name = name.clone();
        self.read("looking a table up", |c| {
            Box::pin(async move { Ok(table::find(c, &name).await?) })
        })
        .await
    }

    async fn tables_by_id(&self, ids: &[TableId]) -> Result<Vec<Table>, Error> {
        let ids = ids.to_vec();
        self.read("looking tables up", |c| {
            Box::pin(table::find_by_ids(c, ids))
        })
        .await
    }

    async fn list_tables(&self, database: Option<&str>) -> Result<Vec<Table>, Error> {
        let database = database.map(str::to_owned);
        self.read("listing tables", |c| Box::pin(table::list(c, database)))
            .await
    }

    async fn read_snapshot(&self, request: SnapshotRequest) -> Result<Snapshot, Error> {
        self.read("reading a snapshot", |c| {
            Box::pin(snapshot::read(c, request))
        })
        .await
    }

    async fn resolve_as_of(&self, as_of: AsOf) -> Result<SnapshotStamp, Error> {
        // As a writer: none that is under way can make a state of before.
        self.write("looking a past state up", move |c| {
            Box::pin(past::resolve(c, as_of))
        })
        .await
    }

    async fn read_past(
        &self,
        snapshot: SnapshotId,
        request: SnapshotRequest,
    ) -> Result<Snapshot, Error> {
        self.read("reading a past snapshot", move |c| {
            Box::pin(past::read(c, snapshot, request))
        })
        .await
    }

    async fn list_snapshots(&self, limit: u32) -> Result<Vec<SnapshotRecord>, Error> {
        self.read("listing snapshots", move |c| Box::pin(past::list(c, limit)))
            .await
    }

    async fn register_ingester(&self, request: RegisterIngester) -> Result<Registration, Error> {
        let registered = self.write("registering an ingester", |c| {
            Box::pin(ingester::register(c, request))
        });
        self.doubting(registered.await).await
    }

    async fn check_ingester(&self, check: IngesterCheck) -> Result<SnapshotStamp, Error> {
        let checked = self.read("checking an ingester", move |c| {
            Box::pin(ingester::check(c, check))
        });
        let (newest, is_to_be_noted) = self.doubting(checked.await).await?;
        if is_to_be_noted {
            let watch = self.store.watch.clone();
            self.write("noting that an ingester goes on", move |c| {
                Box::pin(async move {
                    ingester::note(c, check).await?;
                    // Looked at here: on a connection that nothing this process was told of is missing on.
                    let is_sure = watch.is_none_or(|watch| watch.saw_it_change());
                    Ok(history::settle(c, check.ingester, is_sure).await?)
                })
            })
            .await?;
        }
        Ok(newest)
    }

    async fn drain_ingester(&self, ingester: IngesterId, epoch: Epoch) -> Result<(), Error> {
        self.write("recording that an ingester is drained", move |c| {
            Box::pin(ingester::drain(c, ingester, epoch))
        })
        .await
    }

    async fn retire_ingester(&self, name: &str, accept_loss: bool) -> Result<Ingester, Error> {
        let name = name.to_owned();
        self.write("retiring an ingester", move |c| {
            Box::pin(ingester::retire(c, name, accept_loss))
        })
        .await
    }

    async fn readmit_ingester(&self, name: &str) -> Result<Ingester, Error> {
        let name = name.to_owned();
        self.write("readmitting an ingester", move |c| {
            Box::pin(ingester::readmit(c, name))
        })
        .await
    }

    async fn list_ingesters(&self) -> Result<Vec<Ingester>, Error> {
        self.read("listing ingesters", |c| {
            Box::pin(async move { Ok(ingester::list(c).await?) })
        })
        .await
    }

    async fn open_tables(&self, request: OpenTables) -> Result<(), Error> {
        let rows = 3 * request.producers.len();
        self.store
            .write_rows("opening tables", rows, |c| Box::pin(open::open(c, request)))
            .await
    }

    async fn close_tables(&self, request: CloseTables) -> Result<(), Error> {
        self.write("closing tables", |c| Box::pin(open::close(c, request)))
            .await
    }

    async fn ingesters_of(&self, table: TableId) -> Result<Vec<Ingester>, Error> {
        self.read("listing the ingesters of a table", move |c| {
            Box::pin(open::ingesters_of(c, table))
        })
        .await
    }

    async fn commit_flush(&self, commit: FlushCommit) -> Result<FlushCommitted, Error> {
        // Never done in time, it would be sent again and again.
        let rows = 2 * (commit.files.len() + commit.watermarks.len()) + commit.producers.len();
        self.store
            .write_rows("committing a flush", rows, |c| {
                Box::pin(flush::commit(c, commit))
            })
            .await
    }

    async fn take_orders(
        &self,
        ingester: IngesterId,
        epoch: Epoch,
        rows: u64,
    ) -> Result<i64, Error> {
        self.store
            .number("numbering rows", move |c| {
                Box::pin(order::take(c, ingester, epoch, rows))
            })
            .await
    }

    async fn last_order(&self) -> Result<i64, Error> {
        self.read("reading the last number of a row", |c| {
            Box::pin(order::last(c))
        })
        .await
    }

    async fn claim_producer(&self, request: ClaimProducer) -> Result<ProducerClaim, Error> {
        self.write("claiming a producer", |c| {
            Box::pin(producer::claim(c, request))
        })
        .await
    }

    async fn expire_producers(&self, expiry: ProducerExpiry) -> Result<u64, Error> {
        self.write("forgetting producers", move |c| {
            Box::pin(producer::expire(c, expiry))
        })
        .await
    }

    async fn replace_files(&self, request: ReplaceFiles) -> Result<FilesReplaced, Error> {
        self.write("replacing files", move |c| {
            Box::pin(replace::commit(c, request))
        })
        .await
    }

    async fn live_files(&self, which: LiveFiles) -> Result<Vec<File>, Error> {
        self.read("listing live files", move |c| {
            Box::pin(snapshot::live_files(c, which))
        })
        .await
    }

    async fn small_files(
        &self,
        below_bytes: u64,
        min_files: u32,
    ) -> Result<Vec<SmallFiles>, Error> {
        self.read("counting small files", move |c| {
            Box::pin(table::with_small_files(c, below_bytes, min_files))
        })
        .await
    }

    async fn list_replacements(
        &self,
        database: &str,
        limit: u32,
    ) -> Result<Vec<Replacement>, Error> {
        let database = database.to_owned();
        self.read("listing replacements", move |c| {
            Box::pin(replace::list(c, database, limit))
        })
        .await
    }

    async fn due_garbage(&self, grace: Duration, limit: u32) -> Result<Vec<Garbage>, Error> {
        self.read("listing objects to delete", move |c| {
            Box::pin(garbage::due(c, grace, limit))
        })
        .await
    }

    async fn garbage_deleted(&self, paths: &[String]) -> Result<(), Error> {
        let paths = paths.to_vec();
        self.write("recording deleted objects", move |c| {
            Box::pin(garbage::deleted(c, paths))
        })
        .await
    }

    async fn garbage_queue(&self) -> Result<GarbageQueue, Error> {
        self.read("counting objects to delete", move |c| {
            Box::pin(garbage::waiting(c))
        })
        .await
    }

    async fn unknown_paths(&self, paths: &[String]) -> Result<Vec<String>, Error> {
        let paths = paths.to_vec();
        self.read("looking paths up", move |c| {
            Box::pin(garbage::unknown(c, paths))
        })
        .await
    }

    async fn condemn_paths(&self, paths: &[String]) -> Result<u64, Error> {
        let paths = paths.to_vec();
        self.write("queueing orphans for deletion", move |c| {
            Box::pin(garbage::condemn(c, paths))
        })
        .await
    }

    async fn lease(&self, lease: Lease) -> Result<bool, Error> {
        self.write("leasing a job", move |c| Box::pin(garbage::lease(c, lease)))
            .await
    }

    async fn forget_history(&self, window: Duration) -> Result<HistoryForgotten, Error> {
        self.write("forgetting old history", move |c| {
            Box::pin(garbage::forget_history(c, window))
        })
        .await
    }

    async fn begin_statement(&self, request: BeginStatement) -> Result<StatementProgress, Error> {
        self.write("beginning a statement", |c| {
            Box::pin(statement::begin(c, request))
        })
        .await
    }

    async fn end_statement(&self, id: &str, rows: u64) -> Result<(), Error> {
        let id = id.to_owned();
        self.write("noting the end of a statement", move |c| {
            Box::pin(statement::end(c, id, rows))
        })
        .await
    }

    async fn start_upload(
        &self,
        id: &str,
        target: &TableName,
        ttl: Duration,
    ) -> Result<Upload, Error> {
        let (id, target) = (id.to_owned(), target.clone());
        self.write("beginning an upload", move |c| {
            Box::pin(upload::start(c, id, target, ttl))
        })
        .await
    }

    async fn upload(&self, id: &str) -> Result<Upload, Error> {
        let id = id.to_owned();
        self.read("looking an upload up", |c| Box::pin(upload::read(c, id)))
            .await
    }

    async fn join_upload(&self, request: JoinUpload) -> Result<Table, Error> {
        self.write("taking a stream into an upload", |c| {
            Box::pin(upload::join(c, request))
        })
        .await
    }

    async fn seal_upload(&self, id: &str) -> Result<Upload, Error> {
        let id = id.to_owned();
        self.write("sealing an upload", |c| Box::pin(upload::seal(c, id)))
            .await
    }

    async fn finish_upload(&self, request: FinishUpload) -> Result<Upload, Error> {
        self.write("finishing an upload", |c| {
            Box::pin(upload::finish(c, request))
        })
        .await
    }

    async fn abort_upload(&self, id: &str) -> Result<(), Error> {
        let id = id.to_owned();
        self.write("aborting an upload", |c| Box::pin(upload::abort(c, id)))
            .await
    }

    async fn expire_uploads(&self) -> Result<u64, Error> {
        self.write("ending abandoned uploads", |c| Box::pin(upload::expire(c)))
            .await
    }

    async fn time(&self) -> Result<CatalogTime, Error> {
        self.read("reading the time", |_| {
            Box::pin(async {
                Ok(CatalogTime {
                    millis: clock::now_millis(),
                    is_settled: clock::is_settled(),
                })
            })
        })
        .await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.read("reading the newest snapshot", |c| {
            Box::pin(async move { Ok(snapshot::newest(c).await.map(|_| ())?) })
        })
        .await
    }
}
