//! The catalog as one process of a history reaches it: through calls that get lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flightcluster_catalog::*;
use parking_lot::Mutex;

use crate::broken::Broken;
use crate::life::{Life, Port};

/// What the ingesters of a [`Broken::TruncatesBeforeCommit`] world have not committed yet.
pub(crate) type Postponed = Arc<Mutex<Vec<(Arc<Life>, FlushCommit)>>>;

/// Numbers of a leased block.
const BLOCK: u64 = 1000;

/// A catalog behind a network, and who calls it.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) inner: Arc<dyn Catalog>,
    pub(crate) life: Arc<Life>,
    pub(crate) broken: Option<Broken>,
    /// Nobody reaches the catalog.
    pub(crate) away: Arc<AtomicBool>,
    pub(crate) postponed: Postponed,
    /// A lease ends while its holder still works, as after a long pause.
    pub(crate) leases_end: bool,
    /// What is left of the block of a [`Broken::OrdersInBlocks`] process.
    pub(crate) block: Arc<Mutex<std::ops::Range<i64>>>,
    /// What the clock of the process said when it started, in seconds.
    pub(crate) clock: u64,
}

/// A [`Line`] that can be exchanged for that of the next history.
#[derive(Debug, Default)]
pub(crate) struct LossyCatalog(Mutex<Option<Line>>);

pub(crate) fn lost() -> Error {
    Error::Unavailable {
        place: "the simulation".to_owned(),
        source: "on purpose".into(),
    }
}

impl LossyCatalog {
    pub(crate) fn new(line: Line) -> Self {
        Self(Mutex::new(Some(line)))
    }

    pub(crate) fn set(&self, line: Line) {
        *self.0.lock() = Some(line);
    }

    /// From now on calls go to another process of the catalog.
    pub(crate) fn reach(&self, inner: &Arc<dyn Catalog>) {
        if let Some(line) = self.0.lock().as_mut() {
            line.inner = Arc::clone(inner);
        }
    }

    fn line(&self) -> Line {
        self.0.lock().clone().unwrap()
    }
}

impl Line {
    async fn pass<T>(
        &self,
        port: Port,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if self.away.load(Ordering::Relaxed) {
            return Err(lost());
        }
        self.life.pass(port, lost, call).await
    }

    async fn orders(&self, id: IngesterId, epoch: Epoch, rows: u64) -> Result<i64, Error> {
        let taken = || self.inner.take_orders(id, epoch, rows);
        match self.broken {
            Some(Broken::OrdersInBlocks) => {}
            Some(Broken::OrdersByClock) => return Ok(taken().await? + self.clock as i64),
            _ => return taken().await,
        }
        let left = self.block.lock().clone();
        let left = match left.end - left.start >= rows as i64 {
            true => left,
            false => {
                let first = self.inner.take_orders(id, epoch, BLOCK).await?;
                first..first + BLOCK as i64
            }
        };
        *self.block.lock() = left.start + rows as i64..left.end;
        Ok(left.start)
    }

    async fn open(&self, request: OpenTables) -> Result<(), Error> {
        match self.broken {
            Some(Broken::OpensNothing) => Ok(()),
            _ => self.inner.open_tables(request).await,
        }
    }

    async fn commit(&self, mut commit: FlushCommit) -> Result<FlushCommitted, Error> {
        match self.broken {
            Some(Broken::TruncatesBeforeCommit) => {
                let entry = (Arc::clone(&self.life), commit);
                self.postponed.lock().push(entry);
                return Ok(FlushCommitted {
                    snapshot: SnapshotId(0),
                    created_at_millis: 0,
                    dropped_tables: vec![],
                });
            }
            Some(Broken::WatermarkTooHigh) => {
                for (_, watermark) in &mut commit.watermarks {
                    watermark.0 += 1;
                }
            }
            Some(Broken::NoEpochCheck) => {
                commit.epoch = self.present_epoch(commit.ingester, commit.epoch).await?;
            }
            Some(Broken::ProducersForgotten) => commit.producers.clear(),
            Some(Broken::TwoCommits) if !commit.files.is_empty() => {
                let files = FlushCommit {
                    watermarks: vec![],
                    producers: vec![],
                    ..commit.clone()
                };
                self.inner.commit_flush(files).await?;
                // Here somebody may look.
                self.pass(Port::Lookup, async { Ok(()) }).await?;
            }
            _ => {}
        }
        self.inner.commit_flush(commit).await
    }

    async fn register(&self, request: RegisterIngester) -> Result<Registration, Error> {
        let mut registration = self.inner.register_ingester(request).await?;
        if self.broken == Some(Broken::ReplayOffByOne) {
            for (_, watermark) in &mut registration.watermarks {
                watermark.0 = watermark.0.saturating_sub(1);
            }
        }
        Ok(registration)
    }

    async fn check(&self, mut check: IngesterCheck) -> Result<SnapshotStamp, Error> {
        if self.broken == Some(Broken::NoEpochCheck) {
            check.epoch = self.present_epoch(check.ingester, check.epoch).await?;
        }
        self.inner.check_ingester(check).await
    }

    async fn present_epoch(&self, ingester: IngesterId, own: Epoch) -> Result<Epoch, Error> {
        let all = self.inner.list_ingesters().await?;
        let current = all.iter().find(|each| each.id == ingester);
        Ok(current.map_or(own, |each| each.epoch))
    }

    async fn claim(&self, request: ClaimProducer) -> Result<ProducerClaim, Error> {
        if self.broken == Some(Broken::WindowForgotten) {
            let expiry = ProducerExpiry {
                unused_for: Duration::ZERO,
                statements_unused_for: Duration::ZERO,
                limit: u32::MAX,
            };
            self.inner.expire_producers(expiry).await?;
        }
        let claim = self.inner.claim_producer(request).await?;
        Ok(match claim {
            ProducerClaim::Held { .. } if self.broken == Some(Broken::ProducersForgotten) => {
                ProducerClaim::Held { position: None }
            }
            claim => claim,
        })
    }

    async fn replace(&self, request: ReplaceFiles) -> Result<FilesReplaced, Error> {
        let replaced = self.inner.replace_files(request.clone()).await;
        match replaced {
            Err(Error::FilesChanged { .. }) if self.broken == Some(Broken::CompactsEndedFiles) => {
                self.replace_what_is_left(request).await
            }
            replaced => replaced,
        }
    }

    async fn garbage(&self, grace: Duration, limit: u32) -> Result<Vec<Garbage>, Error> {
        let mut due = self.inner.due_garbage(grace, limit).await?;
        if self.broken == Some(Broken::DeletesLiveFiles) {
            for table in self.inner.list_tables(None).await? {
                let which = LiveFiles {
                    table: table.id,
                    below_bytes: None,
                    before_nanos: None,
                    limit: 1,
                };
                let live = self.inner.live_files(which).await?;
                due.extend(live.into_iter().map(|file| Garbage {
                    path: file.file.path,
                    queued_at_millis: 0,
                }));
            }
        }
        Ok(due)
    }

    async fn abort(&self, id: &str) -> Result<(), Error> {
        if self.broken != Some(Broken::AbortedAppears) {
            return self.inner.abort_upload(id).await;
        }
        let upload = self.inner.seal_upload(id).await?;
        let target = self.inner.table(&upload.target).await?;
        let staging_version = upload.staging.map(|table| table.schema_version);
        let finish = FinishUpload {
            id: id.to_owned(),
            staging_version: staging_version.unwrap_or_default(),
            target: target.map(|table| (table.id, table.schema_version)),
            schema: None,
            forget_times: false,
        };
        self.inner.finish_upload(finish).await.map(drop)
    }

    async fn look_back(&self, id: SnapshotId, request: SnapshotRequest) -> Result<Snapshot, Error> {
        let past = self.inner.read_past(id, request.clone()).await?;
        if self.broken != Some(Broken::PastIsPresent) {
            return Ok(past);
        }
        let tables = self.inner.read_snapshot(request).await?.tables;
        Ok(Snapshot { tables, ..past })
    }

    async fn look(&self, request: SnapshotRequest) -> Result<Snapshot, Error> {
        let mut snapshot = self.inner.read_snapshot(request).await?;
        if self.broken == Some(Broken::WatermarkTooLow) {
            for (_, watermark) in snapshot
                .tables
                .iter_mut()
                .flat_map(|table| &mut table.watermarks)
            {
                watermark.0 = watermark.0.saturating_sub(1);
            }
        }
        if self.broken == Some(Broken::FilesLookApart) {
            let files = snapshot
                .tables
                .iter_mut()
                .flat_map(|table| &mut table.files);
            for file in files {
                let alone = i64::try_from(file.id).unwrap_or(i64::MAX);
                file.file.time_range_nanos = Some((alone, alone));
            }
        }
        Ok(snapshot)
    }
}

#[async_trait]
impl Catalog for LossyCatalog {
    async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<Database, Error> {
        let line = self.line();
        let call = line.inner.create_database(name, if_not_exists);
        line.pass(Port::Lookup, call).await
    }

    async fn list_databases(&self) -> Result<Vec<Database>, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.list_databases()).await
    }

    async fn create_table(&self, request: CreateTable) -> Result<Table, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.create_table(request))
            .await
    }

    async fn publish_table(
        &self,
        table: TableId,
        name: &TableName,
        if_exists: IfExists,
        seen: Option<Seen>,
    ) -> Result<Table, Error> {
        let line = self.line();
        let call = line.inner.publish_table(table, name, if_exists, seen);
        line.pass(Port::Lookup, call).await
    }

    async fn drop_table(
        &self,
        name: &TableName,
        if_exists: bool,
        seen: Option<Seen>,
    ) -> Result<Option<Table>, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.drop_table(name, if_exists, seen))
            .await
    }

    async fn set_options(&self, request: SetOptions) -> Result<(), Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.set_options(request))
            .await
    }

    async fn evolve_table(
        &self,
        table: TableId,
        from: SchemaVersion,
        schema: SchemaBytes,
    ) -> Result<Table, Error> {
        let line = self.line();
        let call = line.inner.evolve_table(table, from, schema);
        line.pass(Port::Lookup, call).await
    }

    async fn table(&self, name: &TableName) -> Result<Option<Table>, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.table(name)).await
    }

    async fn tables_by_id(&self, ids: &[TableId]) -> Result<Vec<Table>, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.tables_by_id(ids)).await
    }

    async fn list_tables(&self, database: Option<&str>) -> Result<Vec<Table>, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.list_tables(database))
            .await
    }

    async fn read_snapshot(&self, request: SnapshotRequest) -> Result<Snapshot, Error> {
        let line = self.line();
        line.pass(Port::Snapshot, line.look(request)).await
    }

    async fn resolve_as_of(&self, as_of: AsOf) -> Result<SnapshotStamp, Error> {
        let line = self.line();
        line.pass(Port::Snapshot, line.inner.resolve_as_of(as_of))
            .await
    }

    async fn read_past(
        &self,
        snapshot: SnapshotId,
        request: SnapshotRequest,
    ) -> Result<Snapshot, Error> {
        let line = self.line();
        line.pass(Port::Snapshot, line.look_back(snapshot, request))
            .await
    }

    async fn list_snapshots(&self, limit: u32) -> Result<Vec<SnapshotRecord>, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.list_snapshots(limit))
            .await
    }

    async fn register_ingester(&self, request: RegisterIngester) -> Result<Registration, Error> {
        let line = self.line();
        line.pass(Port::Register, line.register(request)).await
    }

    async fn check_ingester(&self, check: IngesterCheck) -> Result<SnapshotStamp, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.check(check)).await
    }

    async fn drain_ingester(&self, ingester: IngesterId, epoch: Epoch) -> Result<(), Error> {
        let line = self.line();
        let call = line.inner.drain_ingester(ingester, epoch);
        line.pass(Port::Register, call).await
    }

    async fn retire_ingester(&self, name: &str, accept_loss: bool) -> Result<Ingester, Error> {
        let line = self.line();
        let call = line.inner.retire_ingester(name, accept_loss);
        line.pass(Port::Register, call).await
    }

    async fn readmit_ingester(&self, name: &str) -> Result<Ingester, Error> {
        let line = self.line();
        let call = line.inner.readmit_ingester(name);
        line.pass(Port::Register, call).await
    }

    async fn take_orders(
        &self,
        ingester: IngesterId,
        epoch: Epoch,
        rows: u64,
    ) -> Result<i64, Error> {
        let line = self.line();
        let call = line.orders(ingester, epoch, rows);
        line.pass(Port::Order, call).await
    }

    async fn last_order(&self) -> Result<i64, Error> {
        let line = self.line();
        let last = line.pass(Port::Lookup, line.inner.last_order()).await?;
        Ok(match line.broken {
            Some(Broken::DeletesWhatCameLater) => i64::MAX,
            _ => last,
        })
    }

    async fn claim_producer(&self, request: ClaimProducer) -> Result<ProducerClaim, Error> {
        let line = self.line();
        line.pass(Port::Claim, line.claim(request)).await
    }

    async fn expire_producers(&self, expiry: ProducerExpiry) -> Result<u64, Error> {
        let line = self.line();
        let call = line.inner.expire_producers(expiry);
        line.pass(Port::Lookup, call).await
    }

    async fn list_ingesters(&self) -> Result<Vec<Ingester>, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.list_ingesters()).await
    }

    async fn open_tables(&self, request: OpenTables) -> Result<(), Error> {
        let line = self.line();
        line.pass(Port::Open, line.open(request)).await
    }

    async fn close_tables(&self, request: CloseTables) -> Result<(), Error> {
        let line = self.line();
        let call = line.inner.close_tables(request);
        line.pass(Port::Close, call).await
    }

    async fn ingesters_of(&self, table: TableId) -> Result<Vec<Ingester>, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.ingesters_of(table))
            .await
    }

    async fn commit_flush(&self, commit: FlushCommit) -> Result<FlushCommitted, Error> {
        let line = self.line();
        line.pass(Port::Commit, line.commit(commit)).await
    }

    async fn replace_files(&self, request: ReplaceFiles) -> Result<FilesReplaced, Error> {
        let line = self.line();
        line.pass(Port::Replace, line.replace(request)).await
    }

    async fn live_files(&self, which: LiveFiles) -> Result<Vec<File>, Error> {
        let line = self.line();
        let call = line.inner.live_files(which);
        line.pass(Port::Lookup, call).await
    }

    async fn small_files(
        &self,
        below_bytes: u64,
        min_files: u32,
    ) -> Result<Vec<SmallFiles>, Error> {
        let line = self.line();
        let call = line.inner.small_files(below_bytes, min_files);
        line.pass(Port::Lookup, call).await
    }

    async fn list_replacements(
        &self,
        database: &str,
        limit: u32,
    ) -> Result<Vec<Replacement>, Error> {
        let line = self.line();
        let call = line.inner.list_replacements(database, limit);
        line.pass(Port::Lookup, call).await
    }

    async fn due_garbage(&self, grace: Duration, limit: u32) -> Result<Vec<Garbage>, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.garbage(grace, limit)).await
    }

    async fn garbage_deleted(&self, paths: &[String]) -> Result<(), Error> {
        let line = self.line();
        let call = line.inner.garbage_deleted(paths);
        line.pass(Port::Lookup, call).await
    }

    async fn garbage_queue(&self) -> Result<GarbageQueue, Error> {
        let line = self.line();
        let call = line.inner.garbage_queue();
        line.pass(Port::Lookup, call).await
    }

    async fn unknown_paths(&self, paths: &[String]) -> Result<Vec<String>, Error> {
        let line = self.line();
        let call = line.inner.unknown_paths(paths);
        line.pass(Port::Lookup, call).await
    }

    async fn condemn_paths(&self, paths: &[String]) -> Result<u64, Error> {
        let line = self.line();
        let call = line.inner.condemn_paths(paths);
        line.pass(Port::Lookup, call).await
    }

    async fn lease(&self, lease: Lease) -> Result<bool, Error> {
        let line = self.line();
        let call = line.inner.lease(lease);
        let leased = line.pass(Port::Lookup, call).await?;
        Ok(leased || line.leases_end)
    }

    async fn forget_history(&self, window: Duration) -> Result<HistoryForgotten, Error> {
        let line = self.line();
        let call = line.inner.forget_history(window);
        line.pass(Port::Lookup, call).await
    }

    async fn begin_statement(&self, request: BeginStatement) -> Result<StatementProgress, Error> {
        let line = self.line();
        let call = line.inner.begin_statement(request);
        line.pass(Port::Lookup, call).await
    }

    async fn end_statement(&self, id: &str, rows: u64) -> Result<(), Error> {
        let line = self.line();
        let call = line.inner.end_statement(id, rows);
        line.pass(Port::Lookup, call).await
    }

    async fn start_upload(
        &self,
        id: &str,
        target: &TableName,
        ttl: Duration,
    ) -> Result<Upload, Error> {
        let line = self.line();
        let call = line.inner.start_upload(id, target, ttl);
        line.pass(Port::Lookup, call).await
    }

    async fn upload(&self, id: &str) -> Result<Upload, Error> {
        let line = self.line();
        let call = line.inner.upload(id);
        line.pass(Port::Lookup, call).await
    }

    async fn join_upload(&self, request: JoinUpload) -> Result<Table, Error> {
        let line = self.line();
        let call = line.inner.join_upload(request);
        line.pass(Port::Lookup, call).await
    }

    async fn seal_upload(&self, id: &str) -> Result<Upload, Error> {
        let line = self.line();
        let call = line.inner.seal_upload(id);
        line.pass(Port::Upload, call).await
    }

    async fn finish_upload(&self, request: FinishUpload) -> Result<Upload, Error> {
        let line = self.line();
        let call = line.inner.finish_upload(request);
        line.pass(Port::Upload, call).await
    }

    async fn abort_upload(&self, id: &str) -> Result<(), Error> {
        let line = self.line();
        line.pass(Port::Upload, line.abort(id)).await
    }

    async fn expire_uploads(&self) -> Result<u64, Error> {
        let line = self.line();
        let call = line.inner.expire_uploads();
        line.pass(Port::Lookup, call).await
    }

    async fn time(&self) -> Result<CatalogTime, Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.time()).await
    }

    async fn ping(&self) -> Result<(), Error> {
        let line = self.line();
        line.pass(Port::Lookup, line.inner.ping()).await
    }
}
