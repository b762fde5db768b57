//! Upkeep over the real catalog, objects in memory and a rewriter that joins lines of text.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod compaction;
mod expiry;
mod fakes;
mod garbage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{
    Catalog, CreateTable, Epoch, FlushCommit, IfExists, Ingester, LogId, LogState, NewFile,
    RegisterIngester, SchemaBytes, SequenceNumber, Table, TableName,
};
use flightcluster_config::{ByteSize, UpkeepConfig};
use futures::TryStreamExt as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::{Upkeep, UpkeepOptions};
use fakes::{Counts, FaultyStore, Lines};

/// A cluster with one table and one ingester.
struct World {
    catalog: Arc<dyn Catalog>,
    objects: Arc<InMemory>,
    store: Arc<FaultyStore>,
    table: Table,
    ingester: Ingester,
    rewriter: Arc<Lines>,
    counts: Arc<Counts>,
    config: UpkeepConfig,
    commit_within: Duration,
    written: u64,
    _folder: TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("c.sqlite");
        let catalog: Arc<dyn Catalog> = Arc::new(SqlCatalog::open_sqlite(&file).await.unwrap());
        let request = CreateTable {
            name: TableName::public("default", "t"),
            schema: SchemaBytes(vec![1]),
            options: BTreeMap::new(),
            if_exists: IfExists::Fail,
            create_database: false,
            unpublished: None,
            seen: None,
        };
        let table = catalog.create_table(request).await.unwrap();
        let request = RegisterIngester {
            name: "i".to_owned(),
            url: String::new(),
            log: LogState {
                id: LogId(uuid::Uuid::from_u128(1)),
                empty: true,
                epoch: Epoch(0),
                seen: None,
            },
            opens_tables: false,
        };
        let registration = catalog.register_ingester(request).await.unwrap();
        let objects = Arc::new(InMemory::new());
        let store = Arc::new(FaultyStore::new(Arc::clone(&objects)));
        let config = UpkeepConfig {
            compaction_min_files: 4,
            compaction_target_bytes: ByteSize(64 << 20),
            gc_grace: Duration::ZERO,
            orphan_grace: Duration::ZERO,
            ..UpkeepConfig::default()
        };
        Self {
            catalog,
            rewriter: Arc::new(Lines::new(Arc::clone(&store))),
            objects,
            store,
            table,
            ingester: registration.ingester,
            counts: Arc::default(),
            config,
            commit_within: Duration::from_secs(3600),
            written: 0,
            _folder: folder,
        }
    }

    fn upkeep(&self) -> Upkeep {
        self.upkeep_of("a", &self.catalog)
    }

    fn upkeep_of(&self, holder: &str, catalog: &Arc<dyn Catalog>) -> Upkeep {
        Upkeep::new(UpkeepOptions {
            config: self.config.clone(),
            catalog: Arc::clone(catalog),
            store: Arc::clone(&self.store) as Arc<dyn ObjectStore>,
            rewriter: Arc::clone(&self.rewriter) as _,
            observer: Arc::clone(&self.counts) as _,
            holder: holder.to_owned(),
            commit_within: self.commit_within,
        })
    }

    /// Writes a file with the next row, as a flush does.
    async fn flush(&mut self) {
        self.flush_with_times(None).await;
    }

    /// The same with times, in nanoseconds since the Unix epoch.
    async fn flush_with_times(&mut self, time_range_nanos: Option<(i64, i64)>) {
        self.written += 1;
        let n = self.written;
        let path = format!("default/{}/flush-{n}.parquet", self.table.id);
        let text = format!("row {n}\n");
        let file = NewFile {
            table: self.table.id,
            path: path.clone(),
            size_bytes: text.len() as u64,
            rows: 1,
            schema_version: self.table.schema_version,
            first_sequence: SequenceNumber(n),
            last_sequence: SequenceNumber(n),
            time_range_nanos,
            sorted: false,
        };
        self.objects
            .put(&Path::parse(path).unwrap(), text.into())
            .await
            .unwrap();
        let commit = FlushCommit {
            ingester: self.ingester.id,
            seen: None,
            durable: SequenceNumber(0),
            epoch: self.ingester.epoch,
            files: vec![file],
            watermarks: vec![(self.table.id, SequenceNumber(n))],
            producers: Vec::new(),
            valid_until_millis: None,
            without_files: vec![],
        };
        self.catalog.commit_flush(commit).await.unwrap();
    }

    async fn flushes(&mut self, count: u64) {
        for _ in 0..count {
            self.flush().await;
        }
    }

    /// All rows a query sees, sorted, and the number of files they are in.
    async fn rows(&self) -> (Vec<u64>, usize) {
        let names = [self.table.name.clone()];
        let snapshot = self.catalog.snapshot(&names).await.unwrap();
        let files = &snapshot.tables[0].files;
        let mut rows = Vec::new();
        for file in files {
            let path = Path::parse(&file.file.path).unwrap();
            let bytes = self
                .objects
                .get(&path)
                .await
                .unwrap()
                .bytes()
                .await
                .unwrap();
            for line in std::str::from_utf8(&bytes).unwrap().lines() {
                rows.push(line.strip_prefix("row ").unwrap().parse().unwrap());
            }
        }
        rows.sort_unstable();
        (rows, files.len())
    }

    /// Every row that was written, once.
    async fn check_rows(&self) -> usize {
        let (rows, files) = self.rows().await;
        assert_eq!(rows, (1..=self.written).collect::<Vec<_>>());
        files
    }

    async fn objects(&self) -> Vec<String> {
        let listed: Vec<_> = self.objects.list(None).try_collect().await.unwrap();
        let mut paths: Vec<_> = listed.iter().map(|o| o.location.to_string()).collect();
        paths.sort();
        paths
    }
}

fn never() -> CancellationToken {
    CancellationToken::new()
}
