//! The catalog with its calls in the metrics.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use flightcluster_catalog::{
    AsOf, BeginStatement, Catalog, CatalogTime, ClaimProducer, CloseTables, CreateTable, Database,
    Epoch, Error, File, FilesReplaced, FinishUpload, FlushCommit, FlushCommitted, Garbage,
    GarbageQueue, HistoryForgotten, IfExists, Ingester, IngesterCheck, IngesterId, JoinUpload,
    Lease, LiveFiles, OpenTables, ProducerClaim, ProducerExpiry, RegisterIngester, Registration,
    ReplaceFiles, Replacement, SchemaBytes, SchemaVersion, Seen, SetOptions, SmallFiles, Snapshot,
    SnapshotId, SnapshotRecord, SnapshotRequest, SnapshotStamp, StatementProgress, Table, TableId,
    TableName, Upload,
};
use flightcluster_telemetry::metrics::{CatalogMetrics, MethodLabels};

/// A catalog whose calls are timed and whose failures are counted.
#[derive(Debug)]
pub(crate) struct MeasuredCatalog<C> {
    /// The catalog that does the work.
    pub(crate) catalog: C,
    /// Where its calls are counted.
    pub(crate) metrics: CatalogMetrics,
}

impl<C> MeasuredCatalog<C> {
    async fn timed<T>(
        &self,
        method: &'static str,
        call: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let labels = MethodLabels { method };
        let began = Instant::now();
        let answer = call.await;
        let seconds = began.elapsed().as_secs_f64();
        self.metrics.calls.get_or_create(&labels).observe(seconds);
        // A name that is not there is an answer, not a failure of the catalog.
        if matches!(answer, Err(Error::Unavailable { .. } | Error::Store { .. })) {
            self.metrics.failures.get_or_create(&labels).inc();
        }
        answer
    }
}

#[async_trait]
impl<C: Catalog> Catalog for MeasuredCatalog<C> {
    async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<Database, Error> {
        let call = self.catalog.create_database(name, if_not_exists);
        self.timed("create_database", call).await
    }

    async fn list_databases(&self) -> Result<Vec<Database>, Error> {
        let call = self.catalog.list_databases();
        self.timed("list_databases", call).await
    }

    async fn create_table(&self, request: CreateTable) -> Result<Table, Error> {
        let call = self.catalog.create_table(request);
        self.timed("create_table", call).await
    }

    async fn publish_table(
        &self,
        table: TableId,
        name: &TableName,
        if_exists: IfExists,
        seen: Option<Seen>,
    ) -> Result<Table, Error> {
        let call = self.catalog.publish_table(table, name, if_exists, seen);
        self.timed("publish_table", call).await
    }

    async fn drop_table(
        &self,
        name: &TableName,
        if_exists: bool,
        seen: Option<Seen>,
    ) -> Result<Option<Table>, Error> {
        let call = self.catalog.drop_table(name, if_exists, seen);
        self.timed("drop_table", call).await
    }

    async fn set_options(&self, request: SetOptions) -> Result<(), Error> {
        let call = self.catalog.set_options(request);
        self.timed("set_options", call).await
    }

    async fn evolve_table(
        &self,
        table: TableId,
        from: SchemaVersion,
        schema: SchemaBytes,
    ) -> Result<Table, Error> {
        let call = self.catalog.evolve_table(table, from, schema);
        self.timed("evolve_table", call).await
    }

    async fn table(&self, name: &TableName) -> Result<Option<Table>, Error> {
        self.timed("table", self.catalog.table(name)).await
    }

    async fn tables_by_id(&self, ids: &[TableId]) -> Result<Vec<Table>, Error> {
        let call = self.catalog.tables_by_id(ids);
        self.timed("tables_by_id", call).await
    }

    async fn list_tables(&self, database: Option<&str>) -> Result<Vec<Table>, Error> {
        let call = self.catalog.list_tables(database);
        self.timed("list_tables", call).await
    }

    async fn read_snapshot(&self, request: SnapshotRequest) -> Result<Snapshot, Error> {
        let call = self.catalog.read_snapshot(request);
        self.timed("snapshot", call).await
    }

    async fn resolve_as_of(&self, as_of: AsOf) -> Result<SnapshotStamp, Error> {
        let call = self.catalog.resolve_as_of(as_of);
        self.timed("resolve_as_of", call).await
    }

    async fn read_past(
        &self,
        snapshot: SnapshotId,
        request: SnapshotRequest,
    ) -> Result<Snapshot, Error> {
        let call = self.catalog.read_past(snapshot, request);
        self.timed("past", call).await
    }

    async fn list_snapshots(&self, limit: u32) -> Result<Vec<SnapshotRecord>, Error> {
        let call = self.catalog.list_snapshots(limit);
        self.timed("list_snapshots", call).await
    }

    async fn register_ingester(&self, request: RegisterIngester) -> Result<Registration, Error> {
        let call = self.catalog.register_ingester(request);
        self.timed("register_ingester", call).await
    }

    async fn check_ingester(&self, check: IngesterCheck) -> Result<SnapshotStamp, Error> {
        let call = self.catalog.check_ingester(check);
        self.timed("check_ingester", call).await
    }

    async fn drain_ingester(&self, ingester: IngesterId, epoch: Epoch) -> Result<(), Error> {
        let call = self.catalog.drain_ingester(ingester, epoch);
        self.timed("drain_ingester", call).await
    }

    async fn retire_ingester(&self, name: &str, accept_loss: bool) -> Result<Ingester, Error> {
        let call = self.catalog.retire_ingester(name, accept_loss);
        self.timed("retire_ingester", call).await
    }

    async fn readmit_ingester(&self, name: &str) -> Result<Ingester, Error> {
        let call = self.catalog.readmit_ingester(name);
        self.timed("readmit_ingester", call).await
    }

    async fn list_ingesters(&self) -> Result<Vec<Ingester>, Error> {
        let call = self.catalog.list_ingesters();
        self.timed("list_ingesters", call).await
    }

    async fn open_tables(&self, request: OpenTables) -> Result<(), Error> {
        let call = self.catalog.open_tables(request);
        self.timed("open_tables", call).await
    }

    async fn close_tables(&self, request: CloseTables) -> Result<(), Error> {
        let call = self.catalog.close_tables(request);
        self.timed("close_tables", call).await
    }

    async fn ingesters_of(&self, table: TableId) -> Result<Vec<Ingester>, Error> {
        let call = self.catalog.ingesters_of(table);
        self.timed("ingesters_of", call).await
    }

    async fn commit_flush(&self, commit: FlushCommit) -> Result<FlushCommitted, Error> {
        let call = self.catalog.commit_flush(commit);
        self.timed("commit_flush", call).await
    }

    async fn take_orders(
        &self,
        ingester: IngesterId,
        epoch: Epoch,
        rows: u64,
    ) -> Result<i64, Error> {
        let call = self.catalog.take_orders(ingester, epoch, rows);
        self.timed("take_orders", call).await
    }

    async fn last_order(&self) -> Result<i64, Error> {
        self.timed("last_order", self.catalog.last_order()).await
    }

    async fn claim_producer(&self, request: ClaimProducer) -> Result<ProducerClaim, Error> {
        let call = self.catalog.claim_producer(request);
        self.timed("claim_producer", call).await
    }

    async fn expire_producers(&self, expiry: ProducerExpiry) -> Result<u64, Error> {
        let call = self.catalog.expire_producers(expiry);
        self.timed("expire_producers", call).await
    }

    async fn replace_files(&self, request: ReplaceFiles) -> Result<FilesReplaced, Error> {
        let call = self.catalog.replace_files(request);
        self.timed("replace_files", call).await
    }

    async fn live_files(&self, which: LiveFiles) -> Result<Vec<File>, Error> {
        let call = self.catalog.live_files(which);
        self.timed("live_files", call).await
    }

    async fn small_files(
        &self,
        below_bytes: u64,
        min_files: u32,
    ) -> Result<Vec<SmallFiles>, Error> {
        let call = self.catalog.small_files(below_bytes, min_files);
        self.timed("small_files", call).await
    }

    async fn list_replacements(
        &self,
        database: &str,
        limit: u32,
    ) -> Result<Vec<Replacement>, Error> {
        let call = self.catalog.list_replacements(database, limit);
        self.timed("list_replacements", call).await
    }

    async fn due_garbage(&self, grace: Duration, limit: u32) -> Result<Vec<Garbage>, Error> {
        let call = self.catalog.due_garbage(grace, limit);
        self.timed("due_garbage", call).await
    }

    async fn garbage_deleted(&self, paths: &[String]) -> Result<(), Error> {
        let call = self.catalog.garbage_deleted(paths);
        self.timed("garbage_deleted", call).await
    }

    async fn garbage_queue(&self) -> Result<GarbageQueue, Error> {
        let call = self.catalog.garbage_queue();
        self.timed("garbage_queue", call).await
    }

    async fn unknown_paths(&self, paths: &[String]) -> Result<Vec<String>, Error> {
        let call = self.catalog.unknown_paths(paths);
        self.timed("unknown_paths", call).await
    }

    async fn condemn_paths(&self, paths: &[String]) -> Result<u64, Error> {
        let call = self.catalog.condemn_paths(paths);
        self.timed("condemn_paths", call).await
    }

    async fn lease(&self, lease: Lease) -> Result<bool, Error> {
        let call = self.catalog.lease(lease);
        self.timed("lease", call).await
    }

    async fn forget_history(&self, window: Duration) -> Result<HistoryForgotten, Error> {
        let call = self.catalog.forget_history(window);
        self.timed("forget_history", call).await
    }

    async fn begin_statement(&self, request: BeginStatement) -> Result<StatementProgress, Error> {
        let call = self.catalog.begin_statement(request);
        self.timed("begin_statement", call).await
    }

    async fn end_statement(&self, id: &str, rows: u64) -> Result<(), Error> {
        let call = self.catalog.end_statement(id, rows);
        self.timed("end_statement", call).await
    }

    async fn start_upload(
        &self,
        id: &str,
        target: &TableName,
        ttl: Duration,
    ) -> Result<Upload, Error> {
        let call = self.catalog.start_upload(id, target, ttl);
        self.timed("start_upload", call).await
    }

    async fn upload(&self, id: &str) -> Result<Upload, Error> {
        let call = self.catalog.upload(id);
        self.timed("upload", call).await
    }

    async fn join_upload(&self, request: JoinUpload) -> Result<Table, Error> {
        let call = self.catalog.join_upload(request);
        self.timed("join_upload", call).await
    }

    async fn seal_upload(&self, id: &str) -> Result<Upload, Error> {
        let call = self.catalog.seal_upload(id);
        self.timed("seal_upload", call).await
    }

    async fn finish_upload(&self, request: FinishUpload) -> Result<Upload, Error> {
        let call = self.catalog.finish_upload(request);
        self.timed("finish_upload", call).await
    }

    async fn abort_upload(&self, id: &str) -> Result<(), Error> {
        let call = self.catalog.abort_upload(id);
        self.timed("abort_upload", call).await
    }

    async fn expire_uploads(&self) -> Result<u64, Error> {
        let call = self.catalog.expire_uploads();
        self.timed("expire_uploads", call).await
    }

    async fn time(&self) -> Result<CatalogTime, Error> {
        self.timed("time", self.catalog.time()).await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.timed("ping", self.catalog.ping()).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use flightcluster_catalog::sql::SqlCatalog;
    use flightcluster_telemetry::metrics::{BuildLabels, Metrics};

    use super::*;

    #[tokio::test]
    async fn calls_are_timed_and_only_real_failures_counted() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Metrics::new(BuildLabels {
            version: "0",
            revision: "0",
        });
        let catalog = MeasuredCatalog {
            catalog: SqlCatalog::open_sqlite(&folder.path().join("c.sqlite"))
                .await
                .unwrap(),
            metrics: metrics.catalog.clone(),
        };
        catalog.create_database("d", false).await.unwrap();
        catalog.create_database("d", false).await.unwrap_err();
        let text = metrics.exposition().encode();
        let count =
            "flightcluster_catalog_call_duration_seconds_count{method=\"create_database\"} 2";
        assert!(text.contains(count), "{text}");
        assert!(!text.contains("flightcluster_catalog_call_failures_total{"));
    }
}
