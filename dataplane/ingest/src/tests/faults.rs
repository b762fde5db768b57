//! A catalog and an object store that fail when told.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flightcluster_catalog::*;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// How a call to the catalog goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It never arrives.
    Request,
    /// It takes effect, its answer is lost.
    Answer,
}

#[derive(Debug)]
pub(crate) struct FaultyCatalog {
    inner: Arc<dyn Catalog>,
    commits: Mutex<VecDeque<Fault>>,
    registrations: Mutex<VecDeque<Fault>>,
    away: Mutex<bool>,
    /// Holds answers to questions for a table back.
    table_answers: Mutex<Option<Arc<Hold>>>,
    /// This table's schema comes back unreadable.
    spoiled: Mutex<Option<TableId>>,
    /// This table is left out where tables are looked up by id.
    pub(crate) unlisted: Mutex<Option<TableId>>,
    pub(crate) commit_log: Mutex<Vec<FlushCommit>>,
    opens: Mutex<VecDeque<Fault>>,
    open_answers: Mutex<Option<Arc<Hold>>>,
    closes: Mutex<VecDeque<Fault>>,
    claims: Mutex<VecDeque<Fault>>,
    pub(crate) claim_log: Mutex<Vec<ClaimProducer>>,
    /// By how much the time of the catalog has moved on when its answer arrives.
    pub(crate) behind_millis: Mutex<i64>,
    /// How many producers the next calls say they have forgotten.
    pub(crate) expiries: Mutex<VecDeque<u64>>,
    pub(crate) expiry_log: Mutex<Vec<ProducerExpiry>>,
    pub(crate) expired: Notify,
    orders: Mutex<VecDeque<Fault>>,
    pub(crate) order_log: Mutex<Vec<u64>>,
    order_answers: Mutex<Option<Arc<Hold>>>,
    /// Holds answers to claims back.
    claim_answers: Mutex<Option<Arc<Hold>>>,
}

/// An answer that is on its way until the test lets it arrive.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    pub(crate) arrived: Notify,
    pub(crate) go_on: Notify,
}

impl FaultyCatalog {
    pub(crate) fn new(inner: Arc<dyn Catalog>) -> Self {
        Self {
            inner,
            commits: Mutex::default(),
            registrations: Mutex::default(),
            away: Mutex::default(),
            table_answers: Mutex::default(),
            spoiled: Mutex::default(),
            unlisted: Mutex::default(),
            commit_log: Mutex::default(),
            opens: Mutex::default(),
            open_answers: Mutex::default(),
            closes: Mutex::default(),
            claims: Mutex::default(),
            claim_log: Mutex::default(),
            behind_millis: Mutex::default(),
            expiries: Mutex::default(),
            expiry_log: Mutex::default(),
            expired: Notify::new(),
            orders: Mutex::default(),
            order_log: Mutex::default(),
            order_answers: Mutex::default(),
            claim_answers: Mutex::default(),
        }
    }

    /// The next commit goes wrong.
    pub(crate) fn fail_commit(&self, fault: Fault) {
        self.commits.lock().push_back(fault);
    }

    /// The next opening of tables goes wrong.
    pub(crate) fn fail_open(&self, fault: Fault) {
        self.opens.lock().push_back(fault);
    }

    /// From now on answers to openings wait for the test; or, with `None`, no longer.
    pub(crate) fn hold_opens(&self, hold: Option<Arc<Hold>>) {
        *self.open_answers.lock() = hold;
    }

    /// The next closing of tables goes wrong.
    pub(crate) fn fail_close(&self, fault: Fault) {
        self.closes.lock().push_back(fault);
    }

    /// The next claim goes wrong.
    pub(crate) fn fail_claim(&self, fault: Fault) {
        self.claims.lock().push_back(fault);
    }

    /// The next order numbers go wrong.
    pub(crate) fn fail_orders(&self, fault: Fault) {
        self.orders.lock().push_back(fault);
    }

    /// From now on answers with order numbers wait for the test; or, with `None`, no longer.
    pub(crate) fn hold_orders(&self, hold: Option<Arc<Hold>>) {
        *self.order_answers.lock() = hold;
    }

    /// From now on answers to claims wait for the test; or, with `None`, no longer.
    pub(crate) fn hold_claim_answers(&self, hold: Option<Arc<Hold>>) {
        *self.claim_answers.lock() = hold;
    }

    /// The next registration goes wrong.
    pub(crate) fn fail_registration(&self, fault: Fault) {
        self.registrations.lock().push_back(fault);
    }

    pub(crate) fn set_away(&self, away: bool) {
        *self.away.lock() = away;
    }

    /// From now on answers to questions for a table wait for the test; or, with `None`, no longer.
    pub(crate) fn hold_tables(&self, hold: Option<Arc<Hold>>) {
        *self.table_answers.lock() = hold;
    }

    pub(crate) fn spoil(&self, table: Option<TableId>) {
        *self.spoiled.lock() = table;
    }

    fn unavailable() -> Error {
        Error::Unavailable {
            place: "the test".to_owned(),
            source: "on purpose".into(),
        }
    }
}

#[async_trait]
impl Catalog for FaultyCatalog {
    async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<Database, Error> {
        self.inner.create_database(name, if_not_exists).await
    }

    async fn list_databases(&self) -> Result<Vec<Database>, Error> {
        self.inner.list_databases().await
    }

    async fn create_table(&self, request: CreateTable) -> Result<Table, Error> {
        self.inner.create_table(request).await
    }

    async fn publish_table(
        &self,
        table: TableId,
        name: &TableName,
        if_exists: IfExists,
        seen: Option<Seen>,
    ) -> Result<Table, Error> {
        self.inner.publish_table(table, name, if_exists, seen).await
    }

    async fn drop_table(
        &self,
        name: &TableName,
        if_exists: bool,
        seen: Option<Seen>,
    ) -> Result<Option<Table>, Error> {
        self.inner.drop_table(name, if_exists, seen).await
    }

    async fn set_options(&self, request: SetOptions) -> Result<(), Error> {
        self.inner.set_options(request).await
    }

    async fn evolve_table(
        &self,
        table: TableId,
        from: SchemaVersion,
        schema: SchemaBytes,
    ) -> Result<Table, Error> {
        self.inner.evolve_table(table, from, schema).await
    }

    async fn table(&self, name: &TableName) -> Result<Option<Table>, Error> {
        if *self.away.lock() {
            return Err(Self::unavailable());
        }
        let table = self.inner.table(name).await;
        let hold = self.table_answers.lock().clone();
        if let Some(hold) = hold {
            hold.arrived.notify_one();
            hold.go_on.notified().await;
        }
        table
    }

    async fn tables_by_id(&self, ids: &[TableId]) -> Result<Vec<Table>, Error> {
        let mut tables = self.inner.tables_by_id(ids).await?;
        let spoiled = *self.spoiled.lock();
        let unlisted = *self.unlisted.lock();
        tables.retain(|table| Some(table.id) != unlisted);
        for table in tables.iter_mut().filter(|table| Some(table.id) == spoiled) {
            table.schema = SchemaBytes(vec![1, 2, 3, 4, 5]);
        }
        Ok(tables)
    }

    async fn list_tables(&self, database: Option<&str>) -> Result<Vec<Table>, Error> {
        self.inner.list_tables(database).await
    }

    async fn read_snapshot(&self, request: SnapshotRequest) -> Result<Snapshot, Error> {
        self.inner.read_snapshot(request).await
    }

    async fn resolve_as_of(&self, as_of: AsOf) -> Result<SnapshotStamp, Error> {
        self.inner.resolve_as_of(as_of).await
    }

    async fn read_past(
        &self,
        snapshot: SnapshotId,
        request: SnapshotRequest,
    ) -> Result<Snapshot, Error> {
        self.inner.read_past(snapshot, request).await
    }

    async fn list_snapshots(&self, limit: u32) -> Result<Vec<SnapshotRecord>, Error> {
        self.inner.list_snapshots(limit).await
    }

    async fn register_ingester(&self, request: RegisterIngester) -> Result<Registration, Error> {
        let fault = self.registrations.lock().pop_front();
        match fault {
            None => self.inner.register_ingester(request).await,
            Some(Fault::Request) => Err(Self::unavailable()),
            Some(Fault::Answer) => {
                self.inner.register_ingester(request).await?;
                Err(Self::unavailable())
            }
        }
    }

    async fn check_ingester(&self, check: IngesterCheck) -> Result<SnapshotStamp, Error> {
        if *self.away.lock() {
            return Err(Self::unavailable());
        }
        self.inner.check_ingester(check).await
    }

    async fn drain_ingester(&self, ingester: IngesterId, epoch: Epoch) -> Result<(), Error> {
        self.inner.drain_ingester(ingester, epoch).await
    }

    async fn retire_ingester(&self, name: &str, accept_loss: bool) -> Result<Ingester, Error> {
        self.inner.retire_ingester(name, accept_loss).await
    }

    async fn readmit_ingester(&self, name: &str) -> Result<Ingester, Error> {
        self.inner.readmit_ingester(name).await
    }

    async fn list_ingesters(&self) -> Result<Vec<Ingester>, Error> {
        self.inner.list_ingesters().await
    }

    async fn open_tables(&self, request: OpenTables) -> Result<(), Error> {
        let fault = self.opens.lock().pop_front();
        if fault == Some(Fault::Request) {
            return Err(Self::unavailable());
        }
        self.inner.open_tables(request).await?;
        let hold = self.open_answers.lock().clone();
        if let Some(hold) = hold {
            hold.arrived.notify_one();
            hold.go_on.notified().await;
        }
        match fault {
            Some(_) => Err(Self::unavailable()),
            None => Ok(()),
        }
    }

    async fn close_tables(&self, request: CloseTables) -> Result<(), Error> {
        let fault = self.closes.lock().pop_front();
        if fault == Some(Fault::Request) {
            return Err(Self::unavailable());
        }
        self.inner.close_tables(request).await?;
        match fault {
            Some(_) => Err(Self::unavailable()),
            None => Ok(()),
        }
    }

    async fn ingesters_of(&self, table: TableId) -> Result<Vec<Ingester>, Error> {
        self.inner.ingesters_of(table).await
    }

    async fn commit_flush(&self, commit: FlushCommit) -> Result<FlushCommitted, Error> {
        self.commit_log.lock().push(commit.clone());
        let fault = self.commits.lock().pop_front();
        match fault {
            None => self.inner.commit_flush(commit).await,
            Some(Fault::Request) => Err(Self::unavailable()),
            Some(Fault::Answer) => {
                self.inner.commit_flush(commit).await?;
                Err(Self::unavailable())
            }
        }
    }

    async fn take_orders(
        &self,
        ingester: IngesterId,
        epoch: Epoch,
        rows: u64,
    ) -> Result<i64, Error> {
        let fault = self.orders.lock().pop_front();
        if *self.away.lock() || fault == Some(Fault::Request) {
            return Err(Self::unavailable());
        }
        self.order_log.lock().push(rows);
        let first = self.inner.take_orders(ingester, epoch, rows).await?;
        let held = self.order_answers.lock().clone();
        if let Some(hold) = held {
            hold.arrived.notify_one();
            hold.go_on.notified().await;
        }
        match fault {
            Some(_) => Err(Self::unavailable()),
            None => Ok(first),
        }
    }

    async fn last_order(&self) -> Result<i64, Error> {
        self.inner.last_order().await
    }

    async fn claim_producer(&self, request: ClaimProducer) -> Result<ProducerClaim, Error> {
        if *self.away.lock() {
            return Err(Self::unavailable());
        }
        self.claim_log.lock().push(request.clone());
        let fault = self.claims.lock().pop_front();
        if fault == Some(Fault::Request) {
            return Err(Self::unavailable());
        }
        let answer = self.inner.claim_producer(request).await?;
        let hold = self.claim_answers.lock().clone();
        if let Some(hold) = hold {
            hold.arrived.notify_one();
            hold.go_on.notified().await;
        }
        match fault {
            Some(_) => Err(Self::unavailable()),
            None => Ok(answer),
        }
    }

    async fn expire_producers(&self, expiry: ProducerExpiry) -> Result<u64, Error> {
        self.expiry_log.lock().push(expiry);
        let answer = self.expiries.lock().pop_front();
        self.expired.notify_one();
        match answer {
            Some(forgotten) => Ok(forgotten),
            None => self.inner.expire_producers(expiry).await,
        }
    }

    async fn replace_files(&self, request: ReplaceFiles) -> Result<FilesReplaced, Error> {
        self.inner.replace_files(request).await
    }

    async fn live_files(&self, which: LiveFiles) -> Result<Vec<File>, Error> {
        self.inner.live_files(which).await
    }

    async fn small_files(
        &self,
        below_bytes: u64,
        min_files: u32,
    ) -> Result<Vec<SmallFiles>, Error> {
        self.inner.small_files(below_bytes, min_files).await
    }

    async fn list_replacements(
        &self,
        database: &str,
        limit: u32,
    ) -> Result<Vec<Replacement>, Error> {
        self.inner.list_replacements(database, limit).await
    }

    async fn due_garbage(&self, grace: Duration, limit: u32) -> Result<Vec<Garbage>, Error> {
        self.inner.due_garbage(grace, limit).await
    }

    async fn garbage_deleted(&self, paths: &[String]) -> Result<(), Error> {
        self.inner.garbage_deleted(paths).await
    }

    async fn garbage_queue(&self) -> Result<GarbageQueue, Error> {
        self.inner.garbage_queue().await
    }

    async fn unknown_paths(&self, paths: &[String]) -> Result<Vec<String>, Error> {
        self.inner.unknown_paths(paths).await
    }

    async fn condemn_paths(&self, paths: &[String]) -> Result<u64, Error> {
        self.inner.condemn_paths(paths).await
    }

    async fn lease(&self, lease: Lease) -> Result<bool, Error> {
        self.inner.lease(lease).await
    }

    async fn forget_history(&self, window: Duration) -> Result<HistoryForgotten, Error> {
        self.inner.forget_history(window).await
    }

    async fn begin_statement(&self, request: BeginStatement) -> Result<StatementProgress, Error> {
        self.inner.begin_statement(request).await
    }

    async fn end_statement(&self, id: &str, rows: u64) -> Result<(), Error> {
        self.inner.end_statement(id, rows).await
    }

    async fn start_upload(
        &self,
        id: &str,
        target: &TableName,
        ttl: Duration,
    ) -> Result<Upload, Error> {
        self.inner.start_upload(id, target, ttl).await
    }

    async fn upload(&self, id: &str) -> Result<Upload, Error> {
        self.inner.upload(id).await
    }

    async fn join_upload(&self, request: JoinUpload) -> Result<Table, Error> {
        self.inner.join_upload(request).await
    }

    async fn seal_upload(&self, id: &str) -> Result<Upload, Error> {
        self.inner.seal_upload(id).await
    }

    async fn finish_upload(&self, request: FinishUpload) -> Result<Upload, Error> {
        self.inner.finish_upload(request).await
    }

    async fn abort_upload(&self, id: &str) -> Result<(), Error> {
        self.inner.abort_upload(id).await
    }

    async fn expire_uploads(&self) -> Result<u64, Error> {
        self.inner.expire_uploads().await
    }

    async fn time(&self) -> Result<CatalogTime, Error> {
        let mut time = self.inner.time().await?;
        time.millis -= *self.behind_millis.lock();
        Ok(time)
    }

    async fn ping(&self) -> Result<(), Error> {
        self.inner.ping().await
    }
}

#[derive(Debug)]
pub(crate) struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    refuses: Mutex<bool>,
}

impl FaultyStore {
    pub(crate) fn in_memory() -> Self {
        Self::over(Arc::new(InMemory::new()))
    }

    pub(crate) fn over(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            refuses: Mutex::default(),
        }
    }

    pub(crate) fn refuse_puts(&self, refuses: bool) {
        *self.refuses.lock() = refuses;
    }

    fn check(&self) -> object_store::Result<()> {
        if *self.refuses.lock() {
            return Err(object_store::Error::Generic {
                store: "test",
                source: "refused".into(),
            });
        }
        Ok(())
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty store")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.check()?;
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.check()?;
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
