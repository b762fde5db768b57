//! The tables of schema `system`: what the product knows about itself, one database at a time.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_array::builder::{
    BooleanBuilder, Int64Builder, StringBuilder, TimestampMillisecondBuilder,
    TimestampNanosecondBuilder, UInt32Builder, UInt64Builder,
};
use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use flightcluster_catalog::{
    BLOOM_FILTER, Catalog, Ingester, IngesterState, RETENTION, Replacement, Snapshot,
    SnapshotRecord,
};
use flightcluster_keys::Key;

use crate::Error;
use crate::running::{Running, RunningQuery};

/// Most rows of `system.compactions`, the newest.
const COMPACTIONS: u32 = 1_000;

/// Most rows of `system.snapshots`, the newest.
const SNAPSHOTS: u32 = 10_000;

/// A table of schema `system`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SystemTable {
    /// The tables of the database, with the rows and bytes of their files, and how long rows are kept.
    Tables,
    /// The Parquet files of the database.
    Files,
    /// What took the place of which files lately: compactions, deletions, retention.
    Compactions,
    /// The states that can be read with `AS OF`.
    Snapshots,
    /// The ingesters of the cluster.
    Ingesters,
    /// The queries of the database on this server, waiting and running.
    Queries,
}

impl SystemTable {
    pub(crate) const ALL: [Self; 6] = [
        Self::Tables,
        Self::Files,
        Self::Compactions,
        Self::Snapshots,
        Self::Ingesters,
        Self::Queries,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tables => "tables",
            Self::Files => "files",
            Self::Compactions => "compactions",
            Self::Snapshots => "snapshots",
            Self::Ingesters => "ingesters",
            Self::Queries => "queries",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.name() == name)
    }

    /// Its columns.
    pub(crate) fn schema(self) -> SchemaRef {
        let millis = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let columns = match self {
            Self::Tables => vec![
                ("table_name", DataType::Utf8, false),
                ("table_id", DataType::UInt64, false),
                ("schema_version", DataType::UInt32, false),
                ("files", DataType::UInt64, false),
                ("file_rows", DataType::UInt64, false),
                ("file_bytes", DataType::UInt64, false),
                ("created_at", millis, false),
                ("retention", DataType::Utf8, true),
                ("primary_key", DataType::Utf8, true),
                ("bloom_filter", DataType::Utf8, true),
            ],
            Self::Files => vec![
                ("table_name", DataType::Utf8, false),
                ("path", DataType::Utf8, false),
                ("size_bytes", DataType::UInt64, false),
                ("rows", DataType::UInt64, false),
                ("schema_version", DataType::UInt32, false),
                ("ingester_id", DataType::UInt64, true),
                ("first_sequence", DataType::UInt64, false),
                ("last_sequence", DataType::UInt64, false),
                ("min_time", nanos.clone(), true),
                ("max_time", nanos, true),
                ("begin_snapshot", DataType::UInt64, false),
            ],
            Self::Compactions => vec![
                ("table_name", DataType::Utf8, false),
                ("table_id", DataType::UInt64, false),
                ("cause", DataType::Utf8, false),
                ("snapshot", DataType::UInt64, false),
                ("input_files", DataType::UInt64, false),
                ("input_bytes", DataType::UInt64, false),
                ("input_rows", DataType::UInt64, false),
                ("output_files", DataType::UInt64, false),
                ("output_bytes", DataType::UInt64, false),
                ("output_rows", DataType::UInt64, false),
                ("committed_at", millis, false),
            ],
            Self::Snapshots => vec![
                ("snapshot", DataType::UInt64, false),
                ("created_at", millis, false),
                ("cause", DataType::Utf8, false),
                ("table_name", DataType::Utf8, true),
            ],
            Self::Ingesters => vec![
                ("ingester_id", DataType::UInt64, false),
                ("name", DataType::Utf8, false),
                ("url", DataType::Utf8, false),
                ("epoch", DataType::UInt64, false),
                ("state", DataType::Utf8, false),
                ("changed_at", millis.clone(), false),
                ("heard_of_at", millis, false),
            ],
            Self::Queries => vec![
                ("request_id", DataType::Utf8, false),
                ("sql", DataType::Utf8, false),
                ("running", DataType::Boolean, false),
                ("began_at", millis, false),
                ("elapsed_millis", DataType::Int64, false),
            ],
        };
        let fields = columns
            .into_iter()
            .map(|(name, data_type, nullable)| Field::new(name, data_type, nullable));
        SchemaRef::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// The table with its present rows.
    pub(crate) async fn read(
        self,
        catalog: &dyn Catalog,
        running: &Running,
        database: &str,
    ) -> Result<Arc<dyn TableProvider>, Error> {
        let columns = match self {
            Self::Tables => tables(&everything(catalog, database).await?),
            Self::Files => files(&everything(catalog, database).await?),
            Self::Compactions => {
                let replacements = catalog
                    .list_replacements(database, COMPACTIONS)
                    .await
                    .map_err(|source| Error::from_catalog("listing compactions", source))?;
                compactions(&replacements)
            }
            Self::Snapshots => {
                let snapshots = catalog
                    .list_snapshots(SNAPSHOTS)
                    .await
                    .map_err(|source| Error::from_catalog("listing snapshots", source))?;
                self::snapshots(&snapshots, database)
            }
            Self::Ingesters => {
                let ingesters = catalog
                    .list_ingesters()
                    .await
                    .map_err(|source| Error::from_catalog("listing ingesters", source))?;
                self::ingesters(&ingesters)
            }
            Self::Queries => queries(&running.list(database)),
        };
        let schema = self.schema();
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
            .map_err(|source| Error::WrongSchema { source })?;
        provider(schema, vec![batch])
    }

    /// The table without rows, to be described.
    pub(crate) fn described(self) -> Result<Arc<dyn TableProvider>, Error> {
        provider(self.schema(), Vec::new())
    }
}

fn provider(schema: SchemaRef, rows: Vec<RecordBatch>) -> Result<Arc<dyn TableProvider>, Error> {
    let table =
        MemTable::try_new(schema, vec![rows]).map_err(|error: DataFusionError| Error::Engine {
            doing: "making a system table",
            source: Box::new(error),
        })?;
    Ok(Arc::new(table))
}

/// A snapshot of all tables of a database.
async fn everything(catalog: &dyn Catalog, database: &str) -> Result<Snapshot, Error> {
    let tables = catalog
        .list_tables(Some(database))
        .await
        .map_err(|source| Error::from_catalog("listing tables", source))?;
    let names: Vec<_> = tables.into_iter().map(|table| table.name).collect();
    catalog
        .snapshot(&names)
        .await
        .map_err(|source| Error::from_catalog("taking a snapshot", source))
}

/// Tables of other databases are not named.
fn snapshots(records: &[SnapshotRecord], database: &str) -> Vec<ArrayRef> {
    let mut id = UInt64Builder::new();
    let mut created = TimestampMillisecondBuilder::new().with_timezone("UTC");
    let mut cause = StringBuilder::new();
    let mut table = StringBuilder::new();
    for record in records {
        id.append_value(record.stamp.snapshot.0);
        created.append_value(record.stamp.created_at_millis);
        cause.append_value(&record.cause);
        let own = record.table.as_ref();
        let own = own.filter(|name| name.database == database);
        table.append_option(own.map(|name| &name.table));
    }
    vec![
        Arc::new(id.finish()),
        Arc::new(created.finish()),
        Arc::new(cause.finish()),
        Arc::new(table.finish()),
    ]
}

fn tables(snapshot: &Snapshot) -> Vec<ArrayRef> {
    let mut name = StringBuilder::new();
    let mut id = UInt64Builder::new();
    let mut version = UInt32Builder::new();
    let mut files = UInt64Builder::new();
    let mut rows = UInt64Builder::new();
    let mut bytes = UInt64Builder::new();
    let mut created = TimestampMillisecondBuilder::new().with_timezone("UTC");
    let mut retention = StringBuilder::new();
    let mut key = StringBuilder::new();
    let mut filtered = StringBuilder::new();
    for held in &snapshot.tables {
        name.append_value(&held.table.name.table);
        id.append_value(held.table.id.0);
        version.append_value(held.table.schema_version.0);
        files.append_value(held.files.len() as u64);
        rows.append_value(held.files.iter().map(|file| file.file.rows).sum());
        bytes.append_value(held.files.iter().map(|file| file.file.size_bytes).sum());
        created.append_value(held.table.created_at_millis);
        retention.append_option(held.table.option(RETENTION));
        let known = Key::of(&held.table.options).ok().flatten();
        key.append_option(known.map(|key| key.columns().join(", ")));
        filtered.append_option(held.table.options.get(BLOOM_FILTER));
    }
    vec![
        Arc::new(name.finish()),
        Arc::new(id.finish()),
        Arc::new(version.finish()),
        Arc::new(files.finish()),
        Arc::new(rows.finish()),
        Arc::new(bytes.finish()),
        Arc::new(created.finish()),
        Arc::new(retention.finish()),
        Arc::new(key.finish()),
        Arc::new(filtered.finish()),
    ]
}

fn files(snapshot: &Snapshot) -> Vec<ArrayRef> {
    let mut table = StringBuilder::new();
    let mut path = StringBuilder::new();
    let mut size = UInt64Builder::new();
    let mut rows = UInt64Builder::new();
    let mut version = UInt32Builder::new();
    let mut ingester = UInt64Builder::new();
    let mut first = UInt64Builder::new();
    let mut last = UInt64Builder::new();
    let mut min_time = TimestampNanosecondBuilder::new();
    let mut max_time = TimestampNanosecondBuilder::new();
    let mut begin = UInt64Builder::new();
    for held in &snapshot.tables {
        for file in &held.files {
            table.append_value(&held.table.name.table);
            path.append_value(&file.file.path);
            size.append_value(file.file.size_bytes);
            rows.append_value(file.file.rows);
            version.append_value(file.file.schema_version.0);
            ingester.append_option(file.ingester.map(|ingester| ingester.0));
            first.append_value(file.file.first_sequence.0);
            last.append_value(file.file.last_sequence.0);
            min_time.append_option(file.file.time_range_nanos.map(|(min, _)| min));
            max_time.append_option(file.file.time_range_nanos.map(|(_, max)| max));
            begin.append_value(file.begin_snapshot.0);
        }
    }
    vec![
        Arc::new(table.finish()),
        Arc::new(path.finish()),
        Arc::new(size.finish()),
        Arc::new(rows.finish()),
        Arc::new(version.finish()),
        Arc::new(ingester.finish()),
        Arc::new(first.finish()),
        Arc::new(last.finish()),
        Arc::new(min_time.finish()),
        Arc::new(max_time.finish()),
        Arc::new(begin.finish()),
    ]
}

fn compactions(replacements: &[Replacement]) -> Vec<ArrayRef> {
    let mut name = StringBuilder::new();
    let mut cause = StringBuilder::new();
    let mut committed = TimestampMillisecondBuilder::new().with_timezone("UTC");
    for replacement in replacements {
        name.append_value(&replacement.name.table);
        cause.append_value(replacement.cause.as_str());
        committed.append_value(replacement.committed_at_millis);
    }
    let numbers = |of: fn(&Replacement) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(replacements.iter().map(of)))
    };
    vec![
        Arc::new(name.finish()),
        numbers(|each| each.table.0),
        Arc::new(cause.finish()),
        numbers(|each| each.snapshot.0),
        numbers(|each| each.input_files),
        numbers(|each| each.input_bytes),
        numbers(|each| each.input_rows),
        numbers(|each| each.output_files),
        numbers(|each| each.output_bytes),
        numbers(|each| each.output_rows),
        Arc::new(committed.finish()),
    ]
}

fn ingesters(ingesters: &[Ingester]) -> Vec<ArrayRef> {
    let mut id = UInt64Builder::new();
    let mut name = StringBuilder::new();
    let mut url = StringBuilder::new();
    let mut epoch = UInt64Builder::new();
    let mut state = StringBuilder::new();
    let mut changed = TimestampMillisecondBuilder::new().with_timezone("UTC");
    let mut heard_of = TimestampMillisecondBuilder::new().with_timezone("UTC");
    for ingester in ingesters {
        id.append_value(ingester.id.0);
        name.append_value(&ingester.name);
        url.append_value(&ingester.url);
        epoch.append_value(ingester.epoch.0);
        state.append_value(match ingester.state {
            IngesterState::Active => "active",
            IngesterState::Drained => "drained",
            IngesterState::Retired => "retired",
        });
        changed.append_value(ingester.changed_at_millis);
        heard_of.append_value(ingester.seen_at_millis);
    }
    vec![
        Arc::new(id.finish()),
        Arc::new(name.finish()),
        Arc::new(url.finish()),
        Arc::new(epoch.finish()),
        Arc::new(state.finish()),
        Arc::new(changed.finish()),
        Arc::new(heard_of.finish()),
    ]
}

fn queries(queries: &[RunningQuery]) -> Vec<ArrayRef> {
    let mut request = StringBuilder::new();
    let mut sql = StringBuilder::new();
    let mut running = BooleanBuilder::new();
    let mut began = TimestampMillisecondBuilder::new().with_timezone("UTC");
    let mut elapsed = Int64Builder::new();
    for query in queries {
        request.append_value(&query.request_id);
        sql.append_value(&query.sql);
        running.append_value(query.admitted);
        began.append_value(millis(query.began_at));
        elapsed.append_value(i64::try_from(query.began.elapsed().as_millis()).unwrap_or(i64::MAX));
    }
    vec![
        Arc::new(request.finish()),
        Arc::new(sql.finish()),
        Arc::new(running.finish()),
        Arc::new(began.finish()),
        Arc::new(elapsed.finish()),
    ]
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
