//! Why a statement failed, sorted by whose fault it is: the text of the statement, the data, the
//! load, a part of the cluster, or a bug of ours.

use std::fmt;

use arrow_schema::ArrowError;
use datafusion::error::DataFusionError;
use flightcluster_catalog::{AsOf, NotReadable, SnapshotId, SnapshotStamp};
use flightcluster_keys::{KeyError, NewerFormat};

use crate::AccessKind;
use crate::past::time_text;
use crate::ports::RecentRowsError;

/// A place in the text of a statement; both count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a statement could not be planned or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no SQL (the caller's mistake).
    #[error("SQL syntax error{}: {message}", at(.location))]
    Syntax {
        /// What was expected and found.
        message: String,
        /// Where, when known.
        location: Option<Location>,
    },
    /// The text holds no statement or several (the caller's mistake).
    #[error("expected one SQL statement, found {found}; send statements one by one")]
    StatementCount {
        /// How many there are.
        found: usize,
    },
    /// A kind of statement this product does not have (the caller's mistake).
    #[error("{statement} is not supported; {cure}")]
    Unsupported {
        /// The first words of the statement.
        statement: String,
        /// What to do instead.
        cure: &'static str,
    },
    /// A part of SQL the engine does not have.
    #[error("not implemented: {message}")]
    NotImplemented {
        /// Which part.
        message: String,
    },
    /// The statement has no meaning: unknown column or function, wrong types (the caller's mistake).
    #[error("invalid query{}: {message}", at(.location))]
    Plan {
        /// What is wrong.
        message: String,
        /// Where, when known.
        location: Option<Location>,
    },
    /// A table that does not exist (the caller's mistake).
    #[error("table not found: {table}{}", did_you_mean(.similar))]
    TableNotFound {
        /// Its full name as the statement says it.
        table: String,
        /// A table that exists and is called nearly so, as SQL writes it.
        similar: Option<String>,
    },
    /// A database that does not exist (the caller's mistake).
    #[error("database not found: {database}")]
    DatabaseNotFound {
        /// Its name.
        database: String,
    },
    /// A table to be created exists (the caller's mistake).
    #[error("table exists already: {table}; add IF NOT EXISTS or OR REPLACE")]
    TableExists {
        /// Its full name.
        table: String,
    },
    /// A database to be created exists (the caller's mistake).
    #[error("database exists already: {database}; add IF NOT EXISTS")]
    DatabaseExists {
        /// Its name.
        database: String,
    },
    /// A name that can't be used (the caller's mistake).
    #[error("invalid name {name:?}: {problem}")]
    InvalidName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An option that can't be set (the caller's mistake).
    #[error("option {name}: {problem}")]
    Option {
        /// The option.
        name: String,
        /// What is wrong with it, and the cure.
        problem: String,
    },
    /// A past state that can't be understood or read (the caller's mistake).
    #[error("AS OF: {problem}")]
    AsOf {
        /// What is wrong, and the cure.
        problem: String,
    },
    /// A partial answer is asked for where there is none to be had (the caller's mistake).
    #[error(
        "{statement} is done with all rows or not at all; take the header x-fc-partial and the session option \
         partial away"
    )]
    Partial {
        /// What was to be done.
        statement: String,
    },
    /// A table that a past state does not have (the caller's mistake).
    #[error(
        "table not found: {table} is not in snapshot {snapshot}; it was made later, or dropped before"
    )]
    NotInSnapshot {
        /// Its full name.
        table: String,
        /// The state.
        snapshot: SnapshotId,
    },
    /// A parameter that can't be bound (the caller's mistake).
    #[error("parameter {name}: {problem}")]
    Parameter {
        /// The parameter as the statement writes it.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A statement with parameters was run without their values (the caller's mistake).
    #[error("no value for parameter {name}; bind all parameters before running the statement")]
    ParameterMissing {
        /// The parameter as the statement writes it.
        name: String,
    },
    /// The data does not fit the statement: division by zero, overflow, a text that is no number
    /// (the caller's mistake).
    #[error("the data does not fit the query: {message}")]
    Value {
        /// What did not fit.
        message: String,
    },
    /// A null for a column that must have a value (the caller's mistake).
    #[error("column {column:?} of table {table} must not be null")]
    NullValue {
        /// The table written to.
        table: String,
        /// The column.
        column: String,
    },
    /// A column type that files can't keep (the caller's mistake).
    #[error("column {column:?} can't have type {data_type}: {why}")]
    UnstorableType {
        /// The column.
        column: String,
        /// Its type.
        data_type: String,
        /// Why not.
        why: &'static str,
    },
    /// A primary key that can't be, or a column named like one of ours (the caller's mistake); or a
    /// table that this release can't read.
    #[error(transparent)]
    Key(KeyError),
    /// This process takes no rows by SQL.
    #[error("this server takes no rows by SQL; write through an ingester")]
    NoWriter,
    /// A statement that changes something, on a path that only reads (the caller's mistake).
    #[error("{statement} changes data and was sent as a query; send it as an update")]
    ReadOnly {
        /// The first words of the statement.
        statement: String,
    },
    /// The caller lacks the right.
    #[error("not allowed to {kind} database {database}")]
    AccessDenied {
        /// The database.
        database: String,
        /// What the statement does to it.
        kind: AccessKind,
    },
    /// Too many queries wait already; retry later, or on another server.
    #[error(
        "{running} queries run and {waiting} wait; retry later, or raise \
         query.max_concurrent_queries or query.queue_length"
    )]
    QueueFull {
        /// How many run.
        running: usize,
        /// How many wait.
        waiting: usize,
    },
    /// A query needs more memory than there is for all queries.
    #[error(
        "the memory of all queries (query.memory_bytes = {limit_bytes}) is used up; make the query \
         smaller, run fewer at once, or raise the setting"
    )]
    MemoryExhausted {
        /// Size of the pool in bytes.
        limit_bytes: u64,
        /// Who asked for how much.
        #[source]
        source: Box<DataFusionError>,
    },
    /// What queries can't keep in memory needs more disk than there is for all of them.
    #[error(
        "the scratch disk of all queries (query.spill_bytes) is used up; make the query smaller, run \
         fewer at once, or raise the setting"
    )]
    ScratchExhausted {
        /// How much there is.
        #[source]
        source: Box<DataFusionError>,
    },
    /// The caller left, or somebody cancelled the query.
    #[error("the query was cancelled")]
    Cancelled,
    /// The query did not end in time.
    #[error("the query did not end within its deadline")]
    DeadlineExceeded,
    /// An ingester did not give its fresh rows: the answer would be short, so there is none. Retry.
    #[error(
        "ingester {ingester} at {url:?} may have fresh rows and did not give them; it was heard of last \
         at {heard_of}; retry{}",
        not_partial(keyed_table)
    )]
    IngesterUnavailable {
        /// Its name.
        ingester: String,
        /// When the catalog heard of it last.
        heard_of: String,
        /// Its internal URL; empty in the same process.
        url: String,
        /// The table that keeps a caller who asked for a partial answer from having one.
        keyed_table: Option<String>,
        /// The cause.
        #[source]
        source: Box<RecentRowsError>,
    },
    /// An ingester gave rows that are not of the asked schema: a bug.
    #[error("fresh rows of ingester {ingester} can't be used")]
    IngesterAnswer {
        /// Its name.
        ingester: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A table was dropped or created by somebody else after the statement had looked at it. Retry.
    #[error("table {table} was replaced while the statement began; retry")]
    TableReplaced {
        /// Its full name.
        table: String,
    },
    /// A column of a table got a wider type while the query was being planned. Retry.
    #[error("column {column:?} of table {table} got a wider type while the query began; retry")]
    ColumnWidened {
        /// Its full name.
        table: String,
        /// The column.
        column: String,
    },
    /// The catalog failed.
    #[error("{doing} in the catalog failed")]
    Catalog {
        /// What was asked of it.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<flightcluster_catalog::Error>,
    },
    /// A stored file could not be read. Retry.
    #[error("reading from the object store failed")]
    ObjectStore {
        /// The cause.
        #[source]
        source: Box<DataFusionError>,
    },
    /// A stored file is damaged.
    #[error("a stored file can't be read")]
    StoredFile {
        /// The cause.
        #[source]
        source: Box<DataFusionError>,
    },
    /// A stored file is of a newer release.
    #[error(transparent)]
    NewerFile(NewerFormat),
    /// A schema in the catalog is damaged.
    #[error("{doing} a schema of the catalog failed")]
    StoredSchema {
        /// Reading or writing.
        doing: &'static str,
        /// The cause.
        #[source]
        source: ArrowError,
    },
    /// Rows could not be made durable; the cause is that of the [`TableWriter`](crate::TableWriter).
    #[error("writing to table {table} failed")]
    Write {
        /// The table.
        table: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Files could not be written again without the rows that were to go; nothing was changed.
    #[error("deleting from table {table} failed")]
    Rewrite {
        /// The table.
        table: String,
        /// The cause.
        #[source]
        source: Box<crate::rewrite::RewriteError>,
    },
    /// The disk that takes what does not fit in memory failed.
    #[error("the scratch disk of the queries failed")]
    Scratch {
        /// The cause.
        #[source]
        source: Box<DataFusionError>,
    },
    /// The engine panicked: our bug. The process goes on.
    #[error("the query engine panicked: {message}")]
    Panic {
        /// What the panic said.
        message: String,
    },
    /// The engine failed in a way that no statement should cause: our bug.
    #[error("the query engine failed while {doing}")]
    Engine {
        /// What it was doing.
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<DataFusionError>,
    },
    /// The engine made a batch that is not of the announced schema: our bug.
    #[error("the query engine made rows that are not of the announced schema")]
    WrongSchema {
        /// The cause.
        #[source]
        source: ArrowError,
    },
    /// The engine could not start.
    #[error("{doing} failed")]
    Start {
        /// What was being started.
        doing: &'static str,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// A bounded label for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax",
            Self::StatementCount { .. } => "statement_count",
            Self::Unsupported { .. } => "unsupported",
            Self::NotImplemented { .. } => "not_implemented",
            Self::Plan { .. } => "plan",
            Self::TableNotFound { .. } => "table_not_found",
            Self::DatabaseNotFound { .. } => "database_not_found",
            Self::TableExists { .. } => "table_exists",
            Self::DatabaseExists { .. } => "database_exists",
            Self::InvalidName { .. } => "invalid_name",
            Self::Option { .. } => "option",
            Self::AsOf { .. } => "as_of",
            Self::Partial { .. } => "partial",
            Self::NotInSnapshot { .. } => "not_in_snapshot",
            Self::Parameter { .. } => "parameter",
            Self::ParameterMissing { .. } => "parameter_missing",
            Self::Value { .. } => "value",
            Self::NullValue { .. } => "null_value",
            Self::UnstorableType { .. } => "unstorable_type",
            Self::Key(_) => "key",
            Self::NoWriter => "no_writer",
            Self::ReadOnly { .. } => "read_only",
            Self::AccessDenied { .. } => "access_denied",
            Self::QueueFull { .. } => "queue_full",
            Self::MemoryExhausted { .. } => "memory_exhausted",
            Self::ScratchExhausted { .. } => "scratch_exhausted",
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::IngesterUnavailable { .. } => "ingester_unavailable",
            Self::IngesterAnswer { .. } => "ingester_answer",
            Self::TableReplaced { .. } => "table_replaced",
            Self::ColumnWidened { .. } => "column_widened",
            Self::Catalog { .. } => "catalog",
            Self::ObjectStore { .. } => "object_store",
            Self::StoredFile { .. } => "stored_file",
            Self::NewerFile(_) => "newer_file",
            Self::StoredSchema { .. } => "stored_schema",
            Self::Write { .. } => "write",
            Self::Rewrite { .. } => "rewrite",
            Self::Scratch { .. } => "scratch",
            Self::Panic { .. } => "panic",
            Self::Engine { .. } => "engine",
            Self::WrongSchema { .. } => "wrong_schema",
            Self::Start { .. } => "start",
        }
    }

    /// Sorts a catalog error: what the caller did wrong stays apart from what failed.
    pub(crate) fn from_catalog(doing: &'static str, source: flightcluster_catalog::Error) -> Self {
        use flightcluster_catalog::Error as Catalog;
        match source {
            Catalog::DatabaseNotFound(database) => Self::DatabaseNotFound { database },
            Catalog::DatabaseExists(database) => Self::DatabaseExists { database },
            Catalog::TableNotFound(table) => Self::TableNotFound {
                table,
                similar: None,
            },
            Catalog::TableExists(table) => Self::TableExists { table },
            Catalog::TableReplaced(table) => Self::TableReplaced { table },
            Catalog::InvalidName { name, problem } => Self::InvalidName { name, problem },
            Catalog::NotReadable { asked, why, edge } => not_readable(asked, why, edge),
            source @ (Catalog::SchemaChanged { .. }
            | Catalog::FilesChanged { .. }
            | Catalog::RetentionChanged { .. }
            | Catalog::FileGivenUp { .. }
            | Catalog::IngesterNotFound(_)
            | Catalog::NotDrained(_)
            | Catalog::UploadNotFound(_)
            | Catalog::UploadEnded { .. }
            | Catalog::UploadTarget { .. }
            | Catalog::WrongLog { .. }
            | Catalog::RolledBack { .. }
            | Catalog::UploadKey { .. }
            | Catalog::Fenced { .. }
            | Catalog::Unavailable { .. }
            | Catalog::Store { .. }) => Self::Catalog {
                doing,
                source: Box::new(source),
            },
        }
    }
}

fn not_readable(asked: AsOf, why: NotReadable, edge: SnapshotStamp) -> Error {
    let asked = match asked {
        AsOf::Snapshot(id) => format!("snapshot {id}"),
        AsOf::Millis(millis) => time_text(millis),
    };
    let (id, made) = (edge.snapshot, time_text(edge.created_at_millis));
    let problem = match why {
        NotReadable::Gone => format!(
            "{asked} is no longer kept; the oldest that can be read is snapshot {id} of {made}. What was \
             replaced or deleted stays for upkeep.gc_grace"
        ),
        NotReadable::ToCome => {
            format!("{asked} is still to come; the newest is snapshot {id} of {made}")
        }
    };
    Error::AsOf { problem }
}

fn not_partial(keyed_table: &Option<String>) -> String {
    keyed_table
        .as_ref()
        .map(|table| {
            format!(
                ". There is no partial answer of {table}: it has a primary key, and an older row would pass \
                 for the newest"
            )
        })
        .unwrap_or_default()
}

fn at(location: &Option<Location>) -> String {
    location
        .map(|place| format!(" at {place}"))
        .unwrap_or_default()
}

fn did_you_mean(similar: &Option<String>) -> String {
    similar
        .as_ref()
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}
