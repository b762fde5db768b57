//! What exists and what is durable: databases, tables, schemas, files and watermarks.
//!
//! [`Catalog`] is the narrow port the rest of the data plane uses. [`sql`] keeps it in SQLite,
//! [`remote`] serves it to the other pods and calls it from there. The catalog knows nothing of
//! Arrow or Parquet: schemas are opaque bytes, files are paths with a few numbers.
//!
//! # Consistency
//! Every call is one transaction. Snapshot ids are taken from a locked counter row, so they grow in
//! commit order; a call that starts after another returned sees its effects.

pub mod model;
mod name;
mod open;
mod options;
mod past;
pub mod remote;
pub mod sql;
mod statement;
mod upkeep;
mod upload;

use std::time::Duration;

use async_trait::async_trait;

pub use model::*;
pub use name::UNPUBLISHED_SCHEMA;
pub use open::*;
pub use options::*;
pub use past::*;
pub use statement::*;
pub use upkeep::*;
pub use upload::*;

/// The port to the catalog.
///
/// - Atomic: each call is all or nothing, also when the future is dropped; a dropped call may still
///   take effect.
/// - Retry: calls that fail with [`Error::Unavailable`] may or may not have taken effect. `commit_flush`
///   and `replace_files` are safe to repeat (a repeat with the same files is recognised and answered
///   again), and so is `drop_table` of a table that was [`Seen`]; creating answers `TableExists` on a
///   repeat, or [`Error::TableReplaced`].
#[async_trait]
pub trait Catalog: Send + Sync + std::fmt::Debug + 'static {
    /// Creates a database; returns the existing one when `if_not_exists`.
    async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<Database, Error>;

    /// All databases, by name.
    async fn list_databases(&self) -> Result<Vec<Database>, Error>;

    /// Creates (or keeps, or replaces) a table and returns the live one.
    ///
    /// With [`CreateTable::unpublished`] the new table is made beside the one that may be there; see
    /// [`Catalog::publish_table`].
    async fn create_table(&self, request: CreateTable) -> Result<Table, Error>;

    /// Gives an unpublished table, with all it holds, its name: readers see the table that had the name
    /// until then, and this one from then on. Returns the table that has the name afterwards.
    ///
    /// - When there is a table of that name: `Fail` answers [`Error::TableExists`] and leaves both as
    ///   they are; `Keep` drops the unpublished table and returns the other; `Replace` drops the other,
    ///   if it is what was `seen`.
    /// - Errors: [`Error::TableNotFound`] when the table was dropped, or is in another database;
    ///   [`Error::TableReplaced`], nothing was changed.
    /// - Retry: safe, a repeat finds the table published.
    async fn publish_table(
        &self,
        table: TableId,
        name: &TableName,
        if_exists: IfExists,
        seen: Option<Seen>,
    ) -> Result<Table, Error>;

    /// Drops a table. `Ok(None)` when it does not exist and `if_exists` is set.
    ///
    /// With `seen` only that table is dropped, never a later one of the name: `Ok(None)` when it is gone,
    /// as after a repeat.
    async fn drop_table(
        &self,
        name: &TableName,
        if_exists: bool,
        seen: Option<Seen>,
    ) -> Result<Option<Table>, Error>;

    /// Gives a table a new schema, if its version is still `from` (else [`Error::SchemaChanged`]).
    async fn evolve_table(
        &self,
        table: TableId,
        from: SchemaVersion,
        schema: SchemaBytes,
    ) -> Result<Table, Error>;

    /// Sets and removes options of a table or database, in a snapshot of its own.
    ///
    /// - Errors: [`Error::TableNotFound`], [`Error::DatabaseNotFound`]; [`Error::TableReplaced`], nothing was
    ///   changed. What an option means is not looked at.
    /// - Retry: safe with an id, also when others were set meanwhile; with what was [`Seen`] also when the name has
    ///   gone to another table.
    async fn set_options(&self, request: SetOptions) -> Result<(), Error>;

    /// Looks a table up.
    async fn table(&self, name: &TableName) -> Result<Option<Table>, Error>;

    /// Looks tables up by id (replay); missing or dropped ones are left out.
    async fn tables_by_id(&self, ids: &[TableId]) -> Result<Vec<Table>, Error>;

    /// All tables, or those of one database, by name; without unpublished ones.
    async fn list_tables(&self, database: Option<&str>) -> Result<Vec<Table>, Error>;

    /// A consistent view of the named tables and of the active ingesters. Unknown names are left
    /// out.
    async fn snapshot(&self, tables: &[TableName]) -> Result<Snapshot, Error> {
        self.read_snapshot(SnapshotRequest::whole(tables)).await
    }

    /// The same, with a choice of the files of each table: of a table with very many, a query wants
    /// few. Watermarks are always those of all files.
    ///
    /// A catalog of an older release gives more files than were asked for, never fewer.
    async fn read_snapshot(&self, request: SnapshotRequest) -> Result<Snapshot, Error>;

    /// The state somebody asks for. The same moment always means the same state, as long as the clock
    /// of the catalog is not set back.
    ///
    /// - Errors: [`Error::NotReadable`].
    async fn resolve_as_of(&self, as_of: AsOf) -> Result<SnapshotStamp, Error>;

    /// The named tables as they were in an earlier state: their files, and their schemas. Options are
    /// those of today. No ingesters and no watermarks: what was in no file then is not part of it.
    ///
    /// - Whole: all files of that state, or [`Error::NotReadable`]. Their objects stay until they are
    ///   collected, `upkeep.gc_grace` after a file was replaced; reading one that is gone fails.
    async fn read_past(
        &self,
        snapshot: SnapshotId,
        request: SnapshotRequest,
    ) -> Result<Snapshot, Error>;

    /// The newest states that can be read, newest first, at most `limit`.
    async fn list_snapshots(&self, limit: u32) -> Result<Vec<SnapshotRecord>, Error>;

    /// Registers an ingester by its node name: new on first sight, else the same id with the next
    /// epoch and state `Active`.
    ///
    /// - Errors: [`Error::WrongLog`] when rows that it acknowledged may be in another log;
    ///   [`Error::RolledBack`] when its log relied on a state that this catalog does not have. Nothing
    ///   was changed then. A retired ingester is never refused for these reasons, except for a log of
    ///   another ingester.
    /// - Retry: safe, and begins another life.
    async fn register_ingester(&self, request: RegisterIngester) -> Result<Registration, Error>;

    /// Tells an ingester whether it may go on, and the newest state of the catalog. The first call of a
    /// life notes that the log is ready for it: from then on only this log will do.
    ///
    /// # Errors
    /// [`Error::Fenced`], [`Error::RolledBack`].
    async fn check_ingester(&self, check: IngesterCheck) -> Result<SnapshotStamp, Error>;

    /// Records that everything of this ingester is in files and that it stops.
    async fn drain_ingester(&self, ingester: IngesterId, epoch: Epoch) -> Result<(), Error>;

    /// Records that an ingester never comes back: queries no longer ask it, and a process of it that
    /// is still running is fenced.
    ///
    /// - `accept_loss`: also when it did not drain. Rows that it acknowledged and that are in no file
    ///   are missing from answers from then on, until it registers again with its old log.
    /// - Errors: [`Error::IngesterNotFound`]; [`Error::NotDrained`], nothing was changed.
    /// - Retry: safe, a repeat finds the ingester retired.
    async fn retire_ingester(&self, name: &str, accept_loss: bool) -> Result<Ingester, Error>;

    /// Lets an ingester register once more with a log that relied on a newer catalog than this one, which was
    /// restored from a backup or set back ([`Error::RolledBack`]). Until its log is ready again nothing changes:
    /// queries of its tables and batches of its producers wait for it, so that nothing in its log is missing
    /// or stored a second time meanwhile.
    ///
    /// - Errors: [`Error::IngesterNotFound`].
    /// - Retry: safe.
    async fn readmit_ingester(&self, name: &str) -> Result<Ingester, Error>;

    /// All ingesters, by name.
    async fn list_ingesters(&self) -> Result<Vec<Ingester>, Error>;

    /// Lists tables of which the ingester may have rows that are in no file from now on; to be called
    /// before it acknowledges one.
    ///
    /// - Errors: [`Error::Fenced`].
    /// - Retry: safe.
    async fn open_tables(&self, request: OpenTables) -> Result<(), Error>;

    /// Takes tables off that list, except those that were opened again since.
    ///
    /// - Errors: [`Error::Fenced`].
    /// - Retry: safe.
    async fn close_tables(&self, request: CloseTables) -> Result<(), Error>;

    /// The active ingesters that may have rows of a table that are in no file, by name: all that did not
    /// close it. Also those of which a row was acknowledged before the call.
    async fn ingesters_of(&self, table: TableId) -> Result<Vec<Ingester>, Error>;

    /// Adds the files of one flush and moves the watermarks, in one snapshot.
    ///
    /// - Errors: [`Error::Fenced`]; [`Error::FileGivenUp`], nothing was changed by this flush, now or
    ///   when it was sent before: an object may be gone, or [`FlushCommit::valid_until_millis`] is over;
    ///   [`Error::TableExists`] when one of [`FlushCommit::without_files`] is live.
    async fn commit_flush(&self, commit: FlushCommit) -> Result<FlushCommitted, Error>;

    /// Gives `rows` order numbers in a row and returns the first. They are higher than all that were
    /// given by a call that had returned before this one began, by whatever process.
    ///
    /// - Errors: [`Error::Fenced`].
    /// - Retry: safe; numbers whose answer was lost are never used.
    async fn take_orders(
        &self,
        ingester: IngesterId,
        epoch: Epoch,
        rows: u64,
    ) -> Result<i64, Error>;

    /// The highest order number given by any call that had returned before this one began, or a higher
    /// one of a call that was under way. All that are given by calls that begin later are higher.
    async fn last_order(&self) -> Result<i64, Error>;

    /// Gives a producer of a table to an ingester, unless another one that is active has it.
    ///
    /// - Durable: the position of [`ClaimProducer::released`] is in the catalog when the claim is.
    /// - Errors: [`Error::Fenced`]; [`Error::TableNotFound`] when the table was dropped.
    /// - Retry: safe. A release that came too late, because somebody claimed meanwhile, is answered
    ///   as a claim without one.
    async fn claim_producer(&self, request: ClaimProducer) -> Result<ProducerClaim, Error>;

    /// Forgets claims and positions of producers that were not used for long. Returns how many: there may
    /// be more when it is not less than the limit.
    async fn expire_producers(&self, expiry: ProducerExpiry) -> Result<u64, Error>;

    /// Puts new files in the place of live ones, in one snapshot; the objects of the inputs are queued
    /// for deletion.
    ///
    /// - Errors, nothing was changed: [`Error::FilesChanged`] when an input is no longer live (what was
    ///   made from it is worthless and may be removed), [`Error::TableNotFound`] when the table was
    ///   dropped, [`Error::RetentionChanged`], [`Error::FileGivenUp`], [`Error::Store`] when the rows
    ///   don't add up.
    /// - Retry: safe; a repeat is recognised and answered again.
    async fn replace_files(&self, request: ReplaceFiles) -> Result<FilesReplaced, Error>;

    /// Live files of one table, oldest first.
    async fn live_files(&self, which: LiveFiles) -> Result<Vec<File>, Error>;

    /// The tables with at least `min_files` live files below `below_bytes`, most files first; without
    /// unpublished ones.
    async fn small_files(&self, below_bytes: u64, min_files: u32)
    -> Result<Vec<SmallFiles>, Error>;

    /// The newest replacements in a database, newest first, at most `limit`.
    async fn list_replacements(
        &self,
        database: &str,
        limit: u32,
    ) -> Result<Vec<Replacement>, Error>;

    /// Objects that have been queued for at least `grace`, longest first, at most `limit`. The object of
    /// a live file is never among them.
    async fn due_garbage(&self, grace: Duration, limit: u32) -> Result<Vec<Garbage>, Error>;

    /// Records that queued objects are gone. No file can get one of their paths until that is
    /// forgotten ([`Catalog::forget_history`]).
    async fn garbage_deleted(&self, paths: &[String]) -> Result<(), Error>;

    /// How much waits for deletion.
    async fn garbage_queue(&self) -> Result<GarbageQueue, Error>;

    /// Those of the paths that belong to no file, live or ended, and wait for no deletion.
    async fn unknown_paths(&self, paths: &[String]) -> Result<Vec<String>, Error>;

    /// Queues for deletion those of the paths that no file has, and returns how many that were. A flush
    /// that names one of them afterwards is refused.
    async fn condemn_paths(&self, paths: &[String]) -> Result<u64, Error>;

    /// Takes, keeps or gives back a job; answers whether the caller has it now.
    async fn lease(&self, lease: Lease) -> Result<bool, Error>;

    /// Forgets snapshots, dropped tables, schema versions and records older than `window` that nothing
    /// refers to any more. Bounded work: a call that did much leaves the rest to the next.
    async fn forget_history(&self, window: Duration) -> Result<HistoryForgotten, Error>;

    /// Begins a statement that is to be done once, or says what became of it. It is forgotten by
    /// [`Catalog::forget_history`], `window` after it expired.
    async fn begin_statement(&self, request: BeginStatement) -> Result<StatementProgress, Error>;

    /// Notes that a statement is done, and the rows it answered.
    async fn end_statement(&self, id: &str, rows: u64) -> Result<(), Error>;

    /// Begins an upload to `target` under a new id; a repeat finds it. It expires when it rests for
    /// `ttl`.
    async fn start_upload(
        &self,
        id: &str,
        target: &TableName,
        ttl: Duration,
    ) -> Result<Upload, Error>;

    /// Looks an upload up. Errors: [`Error::UploadNotFound`].
    async fn upload(&self, id: &str) -> Result<Upload, Error>;

    /// Takes a stream into an open upload, and returns the unpublished table its rows go to.
    ///
    /// - Errors: [`Error::UploadNotFound`], [`Error::UploadTarget`], [`Error::UploadEnded`],
    ///   [`Error::Fenced`].
    async fn join_upload(&self, request: JoinUpload) -> Result<Table, Error>;

    /// Lets no stream begin any more; returns what has to be put into files, and by whom.
    ///
    /// - Errors: [`Error::UploadNotFound`]; [`Error::UploadEnded`] without its rows. A finished upload
    ///   is an answer.
    async fn seal_upload(&self, id: &str) -> Result<Upload, Error>;

    /// Moves the files of a sealed upload to its target, in one snapshot.
    ///
    /// - Errors: those of `seal_upload`; [`Error::SchemaChanged`] when a table is not what the caller
    ///   had seen.
    /// - Retry: safe, a repeat gets the same answer.
    async fn finish_upload(&self, request: FinishUpload) -> Result<Upload, Error>;

    /// Ends an upload without its rows.
    ///
    /// - Errors: [`Error::UploadNotFound`]; [`Error::UploadEnded`] when it is finished.
    async fn abort_upload(&self, id: &str) -> Result<(), Error>;

    /// Ends some of the uploads that rested for too long; returns how many.
    async fn expire_uploads(&self) -> Result<u64, Error>;

    /// The time of the catalog, by which it judges ages.
    async fn time(&self) -> Result<CatalogTime, Error>;

    /// Answers when the catalog can be used.
    async fn ping(&self) -> Result<(), Error>;
}

/// Why a catalog call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not exist (the caller's mistake).
    #[error("database not found: {0}")]
    DatabaseNotFound(String),
    /// The database exists already (the caller's mistake).
    #[error("database exists already: {0}")]
    DatabaseExists(String),
    /// The table does not exist (the caller's mistake).
    #[error("table not found: {0}")]
    TableNotFound(String),
    /// The table exists already (the caller's mistake).
    #[error("table exists already: {0}")]
    TableExists(String),
    /// No ingester has this name (the caller's mistake).
    #[error("ingester not found: {0}")]
    IngesterNotFound(String),
    /// The ingester may have rows that are in no file (the caller's mistake).
    #[error(
        "ingester {0} did not drain: rows that it acknowledged may be only in its write-ahead log; \
         start it again with its volume and stop it in order, or accept that these rows are lost \
         (--accept-loss)"
    )]
    NotDrained(String),
    /// There is no upload of this id, or it ended long ago (the caller's mistake).
    #[error("upload not found: {0}; it was never begun, or ended more than a day ago")]
    UploadNotFound(String),
    /// The upload takes no more rows (the caller's mistake).
    #[error("upload {id} is {state}; begin a new one")]
    UploadEnded {
        /// The upload.
        id: String,
        /// How it ended, or is about to.
        state: UploadState,
    },
    /// The upload is for another table (the caller's mistake).
    #[error("upload {id} is for table {target}")]
    UploadTarget {
        /// The upload.
        id: String,
        /// Its table.
        target: TableName,
    },
    /// The table of the upload has another primary key than it had (the caller's mistake).
    #[error(
        "table {target} got another primary key while upload {id} ran; abort the upload and begin a \
         new one"
    )]
    UploadKey {
        /// The upload.
        id: String,
        /// Its table.
        target: TableName,
    },
    /// A name that can't be used, and why (the caller's mistake).
    #[error("invalid name {name:?}: {problem}")]
    InvalidName {
        /// The name as given.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Somebody else changed the schema first: read the table again and retry.
    #[error("schema of table {table} changed meanwhile (expected version {expected})")]
    SchemaChanged {
        /// The table.
        table: TableId,
        /// The version the caller had seen.
        expected: SchemaVersion,
    },
    /// The name has gone to another table than the one that was to be replaced, or given other options.
    /// Nothing was changed.
    #[error("table {0} was dropped or created by somebody else meanwhile; retry")]
    TableReplaced(String),
    /// Files that were to be replaced are no longer live: somebody else replaced them, or the rows were
    /// deleted. What was made from them is worthless.
    #[error("files of table {table} changed meanwhile")]
    FilesChanged {
        /// The table.
        table: TableId,
    },
    /// Rows were to go that the table keeps for another time by now. Nothing was changed: read the table
    /// again and decide anew.
    #[error("the retention of table {table} changed meanwhile")]
    RetentionChanged {
        /// The table.
        table: TableId,
    },
    /// The writer of a file took so long to name it that its object was given up for deletion. Nothing
    /// was changed: the rows have to be written anew.
    #[error("the object {path} was given up for deletion; it must be written anew")]
    FileGivenUp {
        /// The object.
        path: String,
    },
    /// This process is an older life of the ingester: it must stop writing.
    #[error("ingester {ingester} is fenced: epoch {epoch} is not the current one ({current})")]
    Fenced {
        /// The ingester.
        ingester: IngesterId,
        /// The epoch of the caller.
        epoch: Epoch,
        /// The epoch the catalog knows.
        current: Epoch,
    },
    /// The ingester may have acknowledged rows that are not in the log it has now.
    #[error(
        "ingester {ingester} can't go on: {problem}. Rows that it acknowledged and that are in no file \
         are in the log it wrote to (it reported up to sequence {known}): bring that volume back, or \
         give these rows up with `flightcluster catalog retire {ingester} --accept-loss`"
    )]
    WrongLog {
        /// Name of the ingester.
        ingester: String,
        /// What is wrong.
        problem: LogProblem,
        /// The highest sequence number the catalog was told of.
        known: SequenceNumber,
    },
    /// The catalog does not have a state that the caller relied on.
    #[error(
        "the catalog is older than the write-ahead log: it does not have snapshot {seen} as the log \
         saw it, its newest is {newest}. It was restored from a backup, or exchanged; bring the newest \
         catalog back, or give up what only that one knows with `flightcluster catalog readmit NAME` for \
         each ingester that says so, and start it again with its log"
    )]
    RolledBack {
        /// The newest state the caller knows.
        seen: SnapshotId,
        /// The newest state of the catalog.
        newest: SnapshotId,
    },
    /// A state that was asked for can't be read (the caller's mistake).
    #[error("{asked} {}, which is snapshot {}", not_readable(.why), .edge.snapshot)]
    NotReadable {
        /// What was asked for.
        asked: AsOf,
        /// Why not.
        why: NotReadable,
        /// The oldest state that can be read, or the newest there is.
        edge: SnapshotStamp,
    },
    /// The catalog can't be reached or is overloaded; retry.
    #[error("catalog unavailable at {place}")]
    Unavailable {
        /// URL or path of the catalog.
        place: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The catalog's store failed; retrying is unlikely to help.
    #[error("catalog store failed while {doing}")]
    Store {
        /// What was being done.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// A bounded label for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::DatabaseNotFound(_) => "database_not_found",
            Self::DatabaseExists(_) => "database_exists",
            Self::TableNotFound(_) => "table_not_found",
            Self::TableExists(_) => "table_exists",
            Self::IngesterNotFound(_) => "ingester_not_found",
            Self::NotDrained(_) => "not_drained",
            Self::UploadNotFound(_) => "upload_not_found",
            Self::UploadEnded { .. } => "upload_ended",
            Self::UploadTarget { .. } => "upload_target",
            Self::UploadKey { .. } => "upload_key",
            Self::InvalidName { .. } => "invalid_name",
            Self::SchemaChanged { .. } => "schema_changed",
            Self::TableReplaced(_) => "table_replaced",
            Self::FilesChanged { .. } => "files_changed",
            Self::RetentionChanged { .. } => "retention_changed",
            Self::FileGivenUp { .. } => "file_given_up",
            Self::Fenced { .. } => "fenced",
            Self::WrongLog { .. } => "wrong_log",
            Self::RolledBack { .. } => "rolled_back",
            Self::NotReadable { .. } => "not_readable",
            Self::Unavailable { .. } => "unavailable",
            Self::Store { .. } => "store",
        }
    }
}

fn not_readable(why: &NotReadable) -> &'static str {
    match why {
        NotReadable::Gone => "is no longer kept: it is older than the oldest state that is",
        NotReadable::ToCome => "is still to come: it is newer than the newest state",
    }
}
