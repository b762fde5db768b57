//! The values the catalog keeps: databases, tables, files, watermarks, ingesters, snapshots.
//!
//! Plain data with stable serde forms (they travel between pods as JSON). How they are stored is
//! the business of `sql`, how they travel that of `remote`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// A table, for its whole life; a table dropped and created again has a new id.
    TableId(u64)
);
id!(
    /// A state of the catalog. Every commit makes the next one; a snapshot never changes.
    SnapshotId(u64)
);
id!(
    /// An ingester (one WAL volume), stable over restarts: it is found again by its name.
    IngesterId(u64)
);
id!(
    /// One life of an ingester process. A commit with an older epoch is refused (fencing).
    Epoch(u64)
);
id!(
    /// The place of a batch in the WAL of one ingester: 1, 2, 3, … without gaps, over all tables.
    /// 0 means "nothing".
    SequenceNumber(u64)
);
id!(
    /// Counts the schemas a table has had, from 1.
    SchemaVersion(u32)
);

/// The name of a table as clients write it: database (Flight SQL catalog), schema, table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableName {
    /// Database, the Flight SQL catalog.
    pub database: String,
    /// Flight SQL db_schema; `public` for all user tables today.
    pub schema: String,
    /// Table name, case-sensitive.
    pub table: String,
}

impl TableName {
    /// A table of schema `public`.
    #[must_use]
    pub fn public(database: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            database: database.into(),
            schema: "public".to_owned(),
            table: table.into(),
        }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.database, self.schema, self.table)
    }
}

/// An Arrow schema as bytes: one encapsulated Arrow IPC schema message. The catalog does not look
/// inside, so that its rows do not depend on a version of Arrow.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SchemaBytes(#[serde(with = "base64_bytes")] pub Vec<u8>);

impl fmt::Debug for SchemaBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SchemaBytes({} bytes)", self.0.len())
    }
}

/// A live table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its id.
    pub id: TableId,
    /// Its name.
    pub name: TableName,
    /// The current schema.
    pub schema: SchemaBytes,
    /// Which schema that is.
    pub schema_version: SchemaVersion,
    /// Free options (`CREATE TABLE … WITH`), by key.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// The options of its database, which hold where the table does not say.
    #[serde(default)]
    pub database_options: BTreeMap<String, String>,
    /// Creation time, milliseconds since the Unix epoch.
    pub created_at_millis: i64,
}

/// A live database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Creation time, milliseconds since the Unix epoch.
    pub created_at_millis: i64,
}

/// A Parquet file to be added by a flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFile {
    /// The table whose rows it holds.
    pub table: TableId,
    /// Object store path, unique for ever (a UUID is in it).
    pub path: String,
    /// Size of the object in bytes.
    pub size_bytes: u64,
    /// Number of rows.
    pub rows: u64,
    /// Schema the file was written with.
    pub schema_version: SchemaVersion,
    /// Lowest sequence number of its rows.
    pub first_sequence: SequenceNumber,
    /// Highest sequence number of its rows.
    pub last_sequence: SequenceNumber,
    /// Smallest and largest value of the time column, nanoseconds since the Unix epoch, if known.
    pub time_range_nanos: Option<(i64, i64)>,
    /// Its rows are sorted by the primary key of its table. Nobody says so of files written before this
    /// was said, nor a catalog of an older release; files made from other files are sorted all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sorted: bool,
}

/// A Parquet file visible in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its catalog id.
    pub id: u64,
    /// The ingester that wrote it; `None` when it was made from other files.
    pub ingester: Option<IngesterId>,
    /// The rest as it was committed.
    #[serde(flatten)]
    pub file: NewFile,
    /// The first snapshot it is visible in.
    pub begin_snapshot: SnapshotId,
}

/// What an ingester is doing, as the catalog knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IngesterState {
    /// It may hold rows that are in no file yet: a query must ask it.
    Active,
    /// It stopped after flushing everything: nothing to ask for until it registers again.
    Drained,
    /// Its operator said that it never comes back ([`crate::Catalog::retire_ingester`]): nothing to ask
    /// for until it registers again all the same.
    Retired,
}

/// An ingester known to the catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ingester {
    /// Its id.
    pub id: IngesterId,
    /// Its node name (the pod name).
    pub name: String,
    /// Where its internal port answers, `https://host:17002`; empty in a standalone process.
    pub url: String,
    /// Its present life.
    pub epoch: Epoch,
    /// Whether it must be asked for fresh rows.
    pub state: IngesterState,
    /// When it registered or drained last, milliseconds since the Unix epoch.
    pub changed_at_millis: i64,
    /// When it was heard of last, ten seconds less or more; 0 from a catalog of an older release.
    #[serde(default)]
    pub seen_at_millis: i64,
}

id!(
    /// Names a write-ahead log for ever, wherever its volume is mounted: a random UUID.
    LogId(Uuid)
);

/// Names a state of the catalog so that it is told from the state of the same number that a catalog
/// restored from a backup goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotStamp {
    /// The state.
    pub snapshot: SnapshotId,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at_millis: i64,
}

/// An ingester that begins a new life, and what its write-ahead log knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterIngester {
    /// Its node name.
    pub name: String,
    /// Where its internal port answers; empty in a standalone process.
    pub url: String,
    /// Its log.
    pub log: LogState,
    /// It opens tables before it acknowledges rows of them ([`crate::Catalog::open_tables`]).
    #[serde(default)]
    pub opens_tables: bool,
}

/// What a write-ahead log knows before it is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogState {
    /// Which log it is.
    pub id: LogId,
    /// Nothing was ever written to it.
    pub empty: bool,
    /// The last life that wrote to it; 0 when that is not known.
    pub epoch: Epoch,
    /// The newest state of the catalog that it relied on.
    pub seen: Option<SnapshotStamp>,
}

/// A question whether an ingester may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngesterCheck {
    /// Who asks.
    pub ingester: IngesterId,
    /// In which life; its log is ready for it.
    pub epoch: Epoch,
    /// The newest state of the catalog it knows.
    pub seen: SnapshotStamp,
}

/// Why an ingester must not go on with the write-ahead log it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum LogProblem {
    /// It did not drain, and its log is empty.
    #[error("its write-ahead log is empty, the one it wrote to is missing")]
    Missing,
    /// It did not drain, and it has another log.
    #[error("it has another write-ahead log than the one it wrote to")]
    Exchanged,
    /// Its log is the one of another ingester.
    #[error("its write-ahead log belongs to another ingester")]
    OfAnother,
    /// A later life of it wrote to a newer copy of its log.
    #[error("its write-ahead log is an old copy of the one it wrote to")]
    Stale,
}

/// What an ingester gets when it registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The ingester with its new epoch.
    pub ingester: Ingester,
    /// For each table the highest sequence number that is in files.
    pub watermarks: Vec<(TableId, SequenceNumber)>,
    /// The highest sequence number the catalog was told of: the log must reach to it, a new log
    /// continues after it.
    pub known: SequenceNumber,
    /// The state that all this is of.
    pub newest: SnapshotStamp,
}

/// The newest batch of a producer that is in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProducerPosition {
    /// The table written to.
    pub table: TableId,
    /// The id the producer chose.
    pub producer: String,
    /// Its highest batch sequence.
    pub sequence: u64,
}

/// How an ingester asks for a producer: only who holds it may store its batches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimProducer {
    /// Who wants it.
    pub ingester: IngesterId,
    /// In which life; an older one than the catalog's is refused.
    pub epoch: Epoch,
    /// The table written to.
    pub table: TableId,
    /// The id the producer chose.
    pub producer: String,
    /// What the owner said when it was asked to let go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<ReleasedProducer>,
}

/// The word of an owner that it takes no batches of a producer until it claims it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleasedProducer {
    /// The version of the claim, as read **before** the owner was asked.
    pub version: u64,
    /// The newest batch the owner has stored, as far as it knows.
    pub position: Option<u64>,
}

/// Who holds a producer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "claim", rename_all = "snake_case")]
pub enum ProducerClaim {
    /// The caller, from now on.
    Held {
        /// The newest batch that is known to the catalog. What the caller has in its own log may be
        /// newer, no other ingester has anything newer.
        position: Option<u64>,
    },
    /// An ingester that may have stored more than the catalog knows: it has to be asked.
    Taken {
        /// The owner.
        owner: Ingester,
        /// The version of its claim.
        version: u64,
    },
}

/// One flush of one ingester: all or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushCommit {
    /// Who flushes.
    pub ingester: IngesterId,
    /// In which life; an older one than the catalog's is refused.
    pub epoch: Epoch,
    /// The newest state of the catalog it knows; a catalog without that state refuses.
    #[serde(default)]
    pub seen: Option<SnapshotStamp>,
    /// The newest number in its log.
    #[serde(default)]
    pub durable: SequenceNumber,
    /// The new files, of any number of tables.
    pub files: Vec<NewFile>,
    /// New watermarks: every row of the table with a sequence number up to this is in a file.
    pub watermarks: Vec<(TableId, SequenceNumber)>,
    /// Producer positions reached by the rows of this flush.
    pub producers: Vec<ProducerPosition>,
    /// Until when this flush may be applied, by the time of the catalog. Later its objects may have been
    /// deleted as orphans and the deletion be forgotten. A flush with a limit moves each of its watermarks
    /// forward: that tells one that was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_until_millis: Option<i64>,
    /// Tables whose watermarks move over rows that are in no file, because the ingester takes them for
    /// dropped. A flush that names a live one is refused: its rows would be lost. A catalog of an older
    /// release does not look at it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_files: Vec<TableId>,
}

/// What a flush commit did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushCommitted {
    /// The snapshot in which the files are visible.
    pub snapshot: SnapshotId,
    /// When that was made, milliseconds since the Unix epoch.
    pub created_at_millis: i64,
    /// Tables that had been dropped meanwhile: their files were not added (and are queued for
    /// deletion); the ingester forgets their rows.
    pub dropped_tables: Vec<TableId>,
}

impl File {
    /// Whether its rows are sorted by the primary key of its table, if that has one.
    #[must_use]
    pub fn is_sorted(&self) -> bool {
        self.file.sorted || self.ingester.is_none()
    }
}

impl FlushCommitted {
    /// The state of the catalog that holds the files.
    #[must_use]
    pub fn stamp(&self) -> SnapshotStamp {
        SnapshotStamp {
            snapshot: self.snapshot,
            created_at_millis: self.created_at_millis,
        }
    }
}

/// How a table is to be created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTable {
    /// Its name. The database is created when `create_database` is set.
    pub name: TableName,
    /// Its schema.
    pub schema: SchemaBytes,
    /// Its options.
    pub options: BTreeMap<String, String>,
    /// What to do when the table exists.
    pub if_exists: IfExists,
    /// Create a missing database instead of failing with `DatabaseNotFound`.
    pub create_database: bool,
    /// Create it in the schema of unpublished tables under this name, which must be new, to be filled
    /// and then published as `name`. `if_exists` is looked at as well, but nothing is replaced yet. A
    /// table that is not published within a day is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpublished: Option<String>,
    /// With [`IfExists::Replace`]: what the caller saw under this name. Anything else that has the name by
    /// now is not replaced ([`Error::TableReplaced`](crate::Error::TableReplaced)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// What somebody saw under the name of a table before asking for a change of it.
///
/// A request may be held back on its way for any time. What it was to end may be ended by then, and the
/// name have gone to a table that nobody asked to end. Where a `Seen` is optional, without one (as from a
/// caller of an older release) the name alone decides; a catalog of an older release looks at the name
/// alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// No table.
    Nothing,
    /// This one.
    Table(TableId),
}

impl Seen {
    /// What a look-up found.
    #[must_use]
    pub fn of(found: Option<&Table>) -> Self {
        found.map_or(Self::Nothing, |table| Self::Table(table.id))
    }
}

/// What `create_table` does with an existing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IfExists {
    /// Fail with `TableExists`.
    Fail,
    /// Return the existing table unchanged.
    Keep,
    /// Drop it and create the new one, in one snapshot.
    Replace,
}

/// What a [`Snapshot`] is to hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotRequest {
    /// The tables, and which of their files.
    pub tables: Vec<(TableName, FileChoice)>,
}

impl SnapshotRequest {
    /// These tables with all their files.
    #[must_use]
    pub fn whole(tables: &[TableName]) -> Self {
        let tables = tables.iter().map(|name| (name.clone(), FileChoice::All));
        Self {
            tables: tables.collect(),
        }
    }
}

/// Which files of a table a [`Snapshot`] is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileChoice {
    /// All.
    #[default]
    All,
    /// All, or none when there are more; [`TableSnapshot::files_left_out`] says which.
    AtMost(u32),
    /// Those that may have rows with a time in this range, nanoseconds since the Unix epoch, both
    /// ends included: files with another known time range are left out.
    Between {
        /// The earliest time.
        from_nanos: i64,
        /// The latest time.
        to_nanos: i64,
    },
}

/// One table inside a [`Snapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSnapshot {
    /// The table with the schema of this snapshot.
    pub table: Table,
    /// Its live files, as far as they were asked for.
    pub files: Vec<File>,
    /// Set when the table has more files than [`FileChoice::AtMost`] allows: none are here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub files_left_out: bool,
    /// Per ingester the highest sequence number that is in those files; missing means 0.
    pub watermarks: Vec<(IngesterId, SequenceNumber)>,
    /// Active ingesters that have no row of it outside files: they need not be asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub closed: Vec<IngesterId>,
}

impl TableSnapshot {
    /// The highest sequence number of `ingester` whose rows are in the files.
    #[must_use]
    pub fn watermark(&self, ingester: IngesterId) -> SequenceNumber {
        self.watermarks
            .iter()
            .find(|(id, _)| *id == ingester)
            .map_or(SequenceNumber(0), |(_, sequence)| *sequence)
    }
}

/// A consistent view of some tables: one point in the history of commits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which state of the catalog this is.
    pub id: SnapshotId,
    /// Those of the asked tables that exist, in the order asked.
    pub tables: Vec<TableSnapshot>,
    /// Ingesters in state `Active`: those that must be asked for rows above the watermarks.
    pub ingesters: Vec<Ingester>,
}

pub(crate) mod base64_bytes {
    //! Bytes as standard base64 text in JSON.
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map_err(D::Error::custom)
    }
}
