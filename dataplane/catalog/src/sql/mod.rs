//! The catalog in SQL tables: SQLite in this process.
//!
//! # Consistency
//! Writers are serial, each call is one transaction, readers see one state. Ids of every kind come
//! from the table `counters`. Every change of what [`Catalog::snapshot`] shows makes a new snapshot
//! id, registering an ingester included.
//!
//! # Crash
//! A call that returned is on disk (`synchronous = FULL`, directories synced when created). A crash
//! in the middle of a call leaves all or nothing of it.
//!
//! # Cancellation
//! The transaction runs in its own task: a caller that goes away stops waiting, the call is still
//! carried out, and the connection is clean for the next.
//!
//! What differs between SQL databases is in `sqlite`; the statements elsewhere are shared SQL.

mod database;
mod directory;
mod flush;
mod garbage;
mod ingester;
mod migrations;
mod producer;
mod replace;
mod snapshot;
mod sqlite;
mod table;
mod upload;
mod value;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Connection as _;
use tracing::Instrument as _;

use crate::{
    Catalog, ClaimProducer, CreateTable, Database, Epoch, Error, File, FilesReplaced, FinishUpload,
    FlushCommit, FlushCommitted, Garbage, GarbageQueue, HistoryForgotten, IfExists, Ingester,
    IngesterId, JoinUpload, Lease, LiveFiles, ProducerClaim, Registration, ReplaceFiles,
    Replacement, SchemaBytes, SchemaVersion, SmallFiles, Snapshot, SnapshotRequest, Table, TableId,
    TableName, Upload,
};
use sqlite::{BEGIN_READ, BEGIN_WRITE, Connection, Pool, Pools};

/// A catalog in one SQLite file.
///
/// Cloning is cheap and gives the same catalog. One process at a time should write to a file; a
/// second one is safe but waits for locks.
#[derive(Debug, Clone)]
pub struct SqliteCatalog {
    store: Arc<Store>,
}

#[derive(Debug)]
struct Store {
    /// The file, for messages.
    place: PathBuf,
    pools: Pools,
}

/// Why the work of a transaction ended without a commit.
enum Failure {
    /// The call is not allowed; the database is fine.
    Refused(Error),
    /// The database failed, or holds what it should not.
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

type Work<'c, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'c>>;

impl SqliteCatalog {
    /// Opens the catalog in `file`, creating it and its directory when missing, and brings its
    /// tables up to date.
    ///
    /// - Errors: [`Error::Store`] when the directory or file can't be used, or when a newer program
    ///   has written it; nothing was changed then.
    pub async fn open(file: &Path) -> Result<Self, Error> {
        const DOING: &str = "opening the catalog file";
        let place = file.to_owned();
        let directory = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        directory::create(&directory)
            .await
            .map_err(|error| store_error(DOING, error))?;
        let pools = sqlite::open(file)
            .await
            .map_err(|error| store_error(DOING, error))?;
        let mut connection = pools
            .writer
            .acquire()
            .await
            .map_err(|error| store_error(DOING, error))?;
        migrations::apply(&mut connection)
            .await
            .map_err(|error| store_error(DOING, error))?;
        drop(connection);
        directory::sync(&directory)
            .await
            .map_err(|error| store_error(DOING, error))?;
        let catalog = Self {
            store: Arc::new(Store { place, pools }),
        };
        catalog.create_database(database::DEFAULT, true).await?;
        Ok(catalog)
    }

    /// Ends all connections after the calls under way. Not needed for safety: it only saves the next
    /// start from reading the journal.
    pub async fn close(&self) {
        self.store.pools.readers.close().await;
        self.store.pools.writer.close().await;
    }

    async fn write<T, W>(&self, doing: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send + 'static,
    {
        let pool = self.store.pools.writer.clone();
        self.run(doing, pool, BEGIN_WRITE, work).await
    }

    async fn read<T, W>(&self, doing: &'static str, work: W) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send + 'static,
    {
        let pool = self.store.pools.readers.clone();
        self.run(doing, pool, BEGIN_READ, work).await
    }

    async fn run<T, W>(
        &self,
        doing: &'static str,
        pool: Pool,
        begin: &'static str,
        work: W,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send + 'static,
    {
        let task = tokio::spawn(transact(pool, begin, work).in_current_span());
        match task.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Failure::Refused(error))) => Err(error),
            Ok(Err(Failure::Sql(error))) if sqlite::passes(&error) => Err(Error::Unavailable {
                place: self.store.place.display().to_string(),
                source: Box::new(error),
            }),
            Ok(Err(Failure::Sql(error))) => Err(store_error(doing, error)),
            Err(error) => Err(store_error(doing, error)),
        }
    }
}

/// Runs `work` in one transaction. A connection that saw the database fail is not used again.
async fn transact<T, W>(pool: Pool, begin: &'static str, work: W) -> Result<T, Failure>
where
    W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send,
{
    let mut connection = pool.acquire().await?;
    let result = begin_and_end(&mut connection, begin, work).await;
    if let Err(Failure::Sql(_)) = &result {
        connection.close_on_drop();
    }
    result
}

async fn begin_and_end<T, W>(
    connection: &mut Connection,
    begin: &'static str,
    work: W,
) -> Result<T, Failure>
where
    W: for<'c> FnOnce(&'c mut Connection) -> Work<'c, T> + Send,
{
    let mut transaction = connection.begin_with(begin).await?;
    match work(&mut transaction).await {
        Ok(value) => {
            transaction.commit().await?;
            Ok(value)
        }
        Err(Failure::Refused(error)) => {
            transaction.rollback().await?;
            Err(Failure::Refused(error))
        }
        // The connection is closed, which rolls back.
        Err(Failure::Sql(error)) => Err(Failure::Sql(error)),
    }
}

fn store_error(
    doing: &'static str,
    error: impl std::error::Error + Send + Sync + 'static,
) -> Error {
    Error::Store {
        doing,
        source: Box::new(error),
    }
}

#[async_trait]
impl Catalog for SqliteCatalog {
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
    ) -> Result<Table, Error> {
        let name = name.clone();
        self.write("publishing a table", move |c| {
            Box::pin(table::publish(c, table, name, if_exists))
        })
        .await
    }

    async fn drop_table(&self, name: &TableName, if_exists: bool) -> Result<Option<Table>, Error> {
        let name = name.clone();
        self.write("dropping a table", move |c| {
            Box::pin(table::drop(c, name, if_exists))
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

    async fn register_ingester(&self, name: &str, url: &str) -> Result<Registration, Error> {
        let (name, url) = (name.to_owned(), url.to_owned());
        self.write("registering an ingester", |c| {
            Box::pin(ingester::register(c, name, url))
        })
        .await
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

    async fn list_ingesters(&self) -> Result<Vec<Ingester>, Error> {
        self.read("listing ingesters", |c| {
            Box::pin(async move { Ok(ingester::list(c).await?) })
        })
        .await
    }

    async fn commit_flush(&self, commit: FlushCommit) -> Result<FlushCommitted, Error> {
        self.write("committing a flush", |c| Box::pin(flush::commit(c, commit)))
            .await
    }

    async fn claim_producer(&self, request: ClaimProducer) -> Result<ProducerClaim, Error> {
        self.write("claiming a producer", |c| {
            Box::pin(producer::claim(c, request))
        })
        .await
    }

    async fn expire_producers(&self, unused_for: Duration, limit: u32) -> Result<u64, Error> {
        self.write("forgetting producers", move |c| {
            Box::pin(producer::expire(c, unused_for, limit))
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

    async fn ping(&self) -> Result<(), Error> {
        self.read("reading the newest snapshot", |c| {
            Box::pin(async move { Ok(snapshot::newest(c).await.map(|_| ())?) })
        })
        .await
    }
}
