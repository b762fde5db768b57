//! Tests of the whole ingester with the real SQLite catalog, the real log, and an object store in
//! memory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod crash;
mod disk;
mod exactly_once;
mod faults;
mod flushing;
mod identity;
mod lag;
mod open;
mod pressure;
mod schemas;
mod several;
mod spill_model;
mod spilling;
mod streams;
mod types;
mod uploads;
mod upserts;
mod writing;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray as _;
use arrow_array::types::Int64Type;
use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{
    Catalog, Epoch, File, LogId, LogState, RegisterIngester, Registration, SchemaVersion,
    SequenceNumber, TableId, TableName,
};
use flightcluster_config::{ByteSize, IngestConfig};
use flightcluster_wal::RealDisk;
use object_store::{ObjectStore, ObjectStoreExt as _};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::*;
use faults::{FaultyCatalog, FaultyStore};

/// A process that begins with the name of another and a volume of its own.
pub(crate) fn life_with_a_new_log(name: &str) -> RegisterIngester {
    RegisterIngester {
        name: name.to_owned(),
        url: String::new(),
        log: LogState {
            id: LogId(uuid::Uuid::new_v4()),
            empty: true,
            epoch: Epoch(0),
            seen: None,
        },
        opens_tables: true,
    }
}

/// One ingester's world: it outlives the ingester, as disks do.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) catalog: Arc<FaultyCatalog>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) clock: Clock,
    pub(crate) hand: ManualClock,
    pub(crate) config: IngestConfig,
}

impl World {
    pub(crate) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sqlite = SqlCatalog::open_sqlite(&directory.path().join("catalog.sqlite"))
            .await
            .unwrap();
        let (clock, hand) = Clock::manual();
        Self {
            catalog: Arc::new(FaultyCatalog::new(Arc::new(sqlite))),
            store: Arc::new(FaultyStore::in_memory()),
            directory,
            clock,
            hand,
            // Nothing is flushed unless a test says so.
            config: IngestConfig {
                flush_interval: Duration::from_secs(3600),
                group_commit_window: Duration::ZERO,
                ..IngestConfig::default()
            },
        }
    }

    pub(crate) fn options(&self) -> IngestOptions {
        IngestOptions {
            config: self.config.clone(),
            catalog: Arc::clone(&self.catalog) as Arc<dyn Catalog>,
            store: Arc::clone(&self.store) as Arc<dyn ObjectStore>,
            node_name: "ingester-0".to_owned(),
            internal_url: String::new(),
            wal_dir: self.wal_dir(),
            disk: Arc::new(RealDisk),
            observer: Arc::new(NoObserver),
            clock: self.clock.clone(),
            peers: Arc::new(NoPeers),
            commit_within: Duration::from_secs(24 * 3600),
            ticket_ttl: Duration::from_secs(900),
        }
    }

    pub(crate) fn wal_dir(&self) -> PathBuf {
        self.directory.path().join("wal")
    }

    pub(crate) async fn open(&self) -> Arc<Ingest> {
        Ingest::open(self.options()).await.unwrap()
    }

    /// Time passes while the process runs, and goes on asking the catalog in vain.
    pub(crate) async fn time_passes_without_catalog(&self, ingest: &Ingest, seconds: u64) {
        for step in 0..seconds.div_ceil(5) {
            let step = (seconds - step * 5).min(5);
            self.hand.advance(Duration::from_secs(step));
            ingest.core_for_tests().ask().await.unwrap_err();
        }
    }

    /// What a second process does when it opens the log, while the first one does not know yet.
    pub(crate) async fn begin_younger_life(&self) -> Registration {
        let label = std::fs::read(self.wal_dir().join("label")).unwrap();
        let id = uuid::Uuid::from_slice(&label[16..32]).unwrap();
        let epoch = u64::from_le_bytes(label[32..40].try_into().unwrap());
        let request = RegisterIngester {
            name: "ingester-0".to_owned(),
            url: String::new(),
            log: LogState {
                id: LogId(id),
                empty: false,
                epoch: Epoch(epoch),
                seen: None,
            },
            opens_tables: true,
        };
        self.catalog.register_ingester(request).await.unwrap()
    }

    /// What a query sees: the files of a snapshot and the rows above its watermark.
    pub(crate) async fn query(&self, ingest: &Ingest, name: &TableName) -> Vec<RecordBatch> {
        let snapshot = self
            .catalog
            .snapshot(std::slice::from_ref(name))
            .await
            .unwrap();
        let table = &snapshot.tables[0];
        let mut batches = Vec::new();
        for file in &table.files {
            batches.extend(self.read_file(&file.file.path).await);
        }
        let after = table.watermark(ingest.ingester().id);
        if !table.closed.contains(&ingest.ingester().id) {
            let recent = ingest
                .recent(table.table.id, after)
                .unwrap()
                .read_all()
                .unwrap();
            batches.extend(recent.into_iter().map(|(_, batch)| batch));
        }
        batches
    }

    /// The values of column `n`, sorted.
    pub(crate) async fn numbers(&self, ingest: &Ingest, name: &TableName) -> Vec<i64> {
        let batches = self.query(ingest, name).await;
        let values = batches.iter().flat_map(|batch| {
            let column = batch
                .column_by_name("n")
                .unwrap()
                .as_primitive::<Int64Type>();
            column.values().to_vec()
        });
        let mut values: Vec<i64> = values.collect();
        values.sort_unstable();
        values
    }

    pub(crate) async fn read_file(&self, path: &str) -> Vec<RecordBatch> {
        let path = object_store::path::Path::parse(path).unwrap();
        let bytes = self.store.get(&path).await.unwrap().bytes().await.unwrap();
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        // The reader's batches leave the metadata of the schema out.
        let schema = Arc::clone(builder.schema());
        let reader = builder.build().unwrap();
        reader
            .map(|batch| batch.unwrap().with_schema(Arc::clone(&schema)).unwrap())
            .collect()
    }

    pub(crate) async fn files(&self, name: &TableName) -> Vec<File> {
        let snapshot = self
            .catalog
            .snapshot(std::slice::from_ref(name))
            .await
            .unwrap();
        snapshot.tables[0].files.clone()
    }
}

/// The rows of a table above a number, wherever they are.
pub(crate) fn recent_rows(
    ingest: &Ingest,
    table: TableId,
    after: u64,
) -> Vec<(SequenceNumber, RecordBatch)> {
    let recent = ingest.recent(table, SequenceNumber(after)).unwrap();
    recent.read_all().unwrap()
}

pub(crate) fn readings() -> TableName {
    TableName::public("demo", "readings")
}

pub(crate) fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    let field = |(name, data_type, nullable): &(&str, DataType, bool)| {
        Field::new(*name, data_type.clone(), *nullable)
    };
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

pub(crate) fn numbers_schema() -> SchemaRef {
    schema(&[("n", DataType::Int64, false)])
}

pub(crate) fn numbers(values: impl IntoIterator<Item = i64>) -> RecordBatch {
    let column = Arc::new(Int64Array::from_iter_values(values)) as ArrayRef;
    RecordBatch::try_new(numbers_schema(), vec![column]).unwrap()
}

pub(crate) async fn writer(ingest: &Ingest, name: &TableName) -> TableWriter {
    let mode = TableMode::CreateOrAppend;
    ingest
        .writer(name, &numbers_schema(), mode, true)
        .await
        .unwrap()
}

pub(crate) async fn write(
    writer: &TableWriter,
    values: impl IntoIterator<Item = i64>,
) -> Result<Ack, Error> {
    writer.write(numbers(values), None, None).await
}

/// A batch as a client sends it: header and body of its message.
pub(crate) fn raw(batch: &RecordBatch) -> Vec<(Bytes, Bytes)> {
    let messages = crate::message::encode_batch(batch).unwrap();
    messages
        .into_iter()
        .map(|message| (message.header, message.body))
        .collect()
}
