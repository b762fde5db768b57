//! What planning a query costs in the catalog while the catalog grows.
//!
//! One table gets files until the catalog has 10,000, 100,000 and 1,000,000 of them. Measured at each
//! size, in SQLite and in Postgres: a snapshot with the 1,000 files of a time range of that table, one
//! with the 1,000 files of another table, and the commit of a flush. The rows of the answer are the
//! work; the rest of the catalog must not be. `FILES=100000` ends earlier.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark")]

#[path = "../tests/postgres_server/mod.rs"]
mod postgres_server;

use std::time::{Duration, Instant};

use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{
    Catalog as _, CreateTable, Epoch, FileChoice, FlushCommit, IfExists, Ingester, LogId, LogState,
    NewFile, RegisterIngester, SchemaBytes, SchemaVersion, SequenceNumber, SnapshotRequest, Table,
    TableName,
};

/// Files of a query.
const TOUCHED: u64 = 1_000;
/// Sizes of the catalog.
const SIZES: [u64; 3] = [10_000, 100_000, 1_000_000];
/// Files of one commit while the catalog is filled.
const FILL: u64 = 1_000;
/// Calls of which the median and the best are shown: the distance between them is the machine's noise.
const ROUNDS: usize = 41;

struct Bench {
    catalog: SqlCatalog,
    ingester: Ingester,
    large: Table,
    other: Table,
    files: u64,
}

impl Bench {
    async fn new(catalog: SqlCatalog) -> Self {
        let request = |table| CreateTable {
            name: TableName::public("default", table),
            schema: SchemaBytes(vec![0; 500]),
            options: Default::default(),
            if_exists: IfExists::Fail,
            create_database: false,
            unpublished: None,
            seen: None,
        };
        let large = catalog.create_table(request("large")).await.unwrap();
        let other = catalog.create_table(request("other")).await.unwrap();
        let request = RegisterIngester {
            name: "ingester-0".to_owned(),
            url: String::new(),
            log: LogState {
                id: LogId(uuid::Uuid::from_u128(1)),
                empty: true,
                epoch: Epoch(0),
                seen: None,
            },
            opens_tables: true,
        };
        let registered = catalog.register_ingester(request).await.unwrap();
        let mut bench = Self {
            catalog,
            ingester: registered.ingester,
            large,
            other,
            files: 0,
        };
        let other = bench.other.clone();
        bench.commit(&other, TOUCHED).await;
        bench
    }

    /// Adds files in one commit; each covers the second of its number.
    async fn commit(&mut self, table: &Table, count: u64) {
        let first = self.files + 1;
        self.files += count;
        let second = |n: u64| i64::try_from(n).unwrap() * 1_000_000_000;
        let file = |n| NewFile {
            table: table.id,
            path: format!(
                "default/{}/01999999-0000-7000-8000-{n:012}.parquet",
                table.id
            ),
            size_bytes: 1 << 20,
            rows: 10_000,
            schema_version: SchemaVersion(1),
            first_sequence: SequenceNumber(n),
            last_sequence: SequenceNumber(n),
            time_range_nanos: Some((second(n), second(n + 1) - 1)),
            sorted: false,
        };
        let commit = FlushCommit {
            ingester: self.ingester.id,
            epoch: self.ingester.epoch,
            seen: None,
            durable: SequenceNumber(0),
            files: (first..=self.files).map(file).collect(),
            watermarks: vec![(table.id, SequenceNumber(self.files))],
            producers: Vec::new(),
            valid_until_millis: None,
            without_files: vec![],
        };
        self.catalog.commit_flush(commit).await.unwrap();
    }

    async fn planning(&self, table: &Table, choice: FileChoice) -> String {
        let mut times = Vec::with_capacity(ROUNDS);
        for _ in 0..ROUNDS {
            let request = SnapshotRequest {
                tables: vec![(table.name.clone(), choice)],
            };
            let began = Instant::now();
            let snapshot = self.catalog.read_snapshot(request).await.unwrap();
            times.push(began.elapsed());
            let found = u64::try_from(snapshot.tables[0].files.len()).unwrap();
            assert_eq!(found, TOUCHED);
        }
        median_and_best(times)
    }

    async fn flush(&mut self) -> String {
        let mut times = Vec::with_capacity(ROUNDS);
        let large = self.large.clone();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            self.commit(&large, 1).await;
            times.push(began.elapsed());
        }
        median_and_best(times)
    }

    async fn run(mut self, database: &str, most: u64) {
        for size in SIZES.into_iter().filter(|size| *size <= most) {
            let large = self.large.clone();
            while self.files < size {
                let count = FILL.min(size - self.files);
                self.commit(&large, count).await;
            }
            // In the middle of what is there.
            let from = i64::try_from(size / 2 + 10_000 / 20).unwrap() * 1_000_000_000;
            let range = FileChoice::Between {
                from_nanos: from,
                to_nanos: from + i64::try_from(TOUCHED).unwrap() * 1_000_000_000 - 1,
            };
            let by_time = self.planning(&large, range).await;
            let other = self.planning(&self.other, FileChoice::All).await;
            let flush = self.flush().await;
            println!("{database:<10}{size:>10}{by_time:>22}{other:>22}{flush:>22}");
        }
    }
}

fn median_and_best(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("{:.2?} ({:.2?})", times[times.len() / 2], times[0])
}

#[tokio::main]
async fn main() {
    let most = std::env::var("FILES").map_or(u64::MAX, |text| text.parse().unwrap());
    println!("medians of {ROUNDS} calls, and the best; a query touches {TOUCHED} files");
    println!(
        "{:<10}{:>10}{:>22}{:>22}{:>22}",
        "", "files", "time range", "other table", "flush"
    );
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqlCatalog::open_sqlite(&folder.path().join("catalog.sqlite"))
        .await
        .unwrap();
    Bench::new(sqlite).await.run("SQLite", most).await;
    let server = postgres_server::Server::start();
    let postgres = SqlCatalog::open_postgres(server.options()).await.unwrap();
    Bench::new(postgres).await.run("Postgres", most).await;
}
