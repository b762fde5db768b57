//! The calling side: the catalog of another process behind the same port.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use reqwest::{Client, Response, Url};
use rustls::ClientConfig;
use tokio::time::Instant;

use super::calls::{
    AbortUploadCall, BeginStatementCall, CheckIngesterCall, ClaimProducerCall, CloseTablesCall,
    CommitFlushCall, CondemnPathsCall, CreateDatabaseCall, CreateTableCall, DrainIngesterCall,
    DropTableCall, DueGarbageCall, EndStatementCall, EvolveTableCall, ExpireProducersCall,
    ExpireUploadsCall, FinishUploadCall, ForgetHistoryCall, GarbageDeletedCall, GarbageQueueCall,
    IngestersOfCall, JoinUploadCall, LastOrderCall, LeaseCall, ListDatabasesCall,
    ListIngestersCall, ListReplacementsCall, ListSnapshotsCall, ListTablesCall, LiveFilesCall,
    OpenTablesCall, PastCall, PingCall, PublishTableCall, ReadmitIngesterCall,
    RegisterIngesterCall, ReplaceFilesCall, ResolveAsOfCall, RetireIngesterCall, SealUploadCall,
    SetOptionsCall, SmallFilesCall, SnapshotCall, StartUploadCall, TableCall, TablesByIdCall,
    TakeOrdersCall, TimeCall, UnknownPathsCall, UploadCall,
};
use super::protocol::{Call, PeerError, Refusal, VERSION, VERSION_HEADER};
use super::repeat::{Cause, Outcome, repeat};
use super::silence::Silence;
use super::url::methods_url;
use crate::{
    AsOf, BeginStatement, Catalog, CatalogTime, ClaimProducer, CloseTables, CreateTable, Database,
    Epoch, Error, File, FilesReplaced, FinishUpload, FlushCommit, FlushCommitted, Garbage,
    GarbageQueue, HistoryForgotten, IfExists, Ingester, IngesterCheck, IngesterId, JoinUpload,
    Lease, LiveFiles, OpenTables, ProducerClaim, ProducerExpiry, RegisterIngester, Registration,
    ReplaceFiles, Replacement, SchemaBytes, SchemaVersion, Seen, SetOptions, SmallFiles, Snapshot,
    SnapshotId, SnapshotRecord, SnapshotRequest, SnapshotStamp, StatementProgress, Table, TableId,
    TableName, Upload,
};

/// Longest wait for a TCP and TLS handshake, so that a dead address leaves time for a retry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that answers no ping for this long is given up. Together with the interval well
/// below the 10 s a call may take by default.
const PING_TIMEOUT: Duration = Duration::from_secs(3);
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// How to call.
#[derive(Clone)]
pub struct RemoteOptions {
    /// TLS for `https` URLs; its resolver and verifier may change with rotated certificates.
    pub tls: Option<Arc<ClientConfig>>,
    /// Longest time of one call with all its attempts.
    pub timeout: Duration,
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteOptions")
            .field("tls", &self.tls.is_some())
            .field("timeout", &self.timeout)
            .finish()
    }
}

/// The catalog served by another process.
///
/// - Errors: those of the serving catalog with their types. [`Error::Unavailable`] when there is no
///   answer in time; [`Error::Store`] when the answer can't be understood, such as from a process
///   of another release.
/// - Retry: reads, `publish_table`, `set_options`, `drain_ingester`, `commit_flush`, `take_orders` and the
///   calls about open tables, statements, producers, uploads and of upkeep are sent again, with growing
///   pauses, until there is an answer or the time of the call is over: a catalog that restarts delays them.
///   Any other call is sent again only when no connection was made, so that nothing of it was sent.
#[derive(Debug, Clone)]
pub struct RemoteCatalog {
    client: Client,
    /// The base with the path of the methods.
    methods: Url,
    /// The base, for messages.
    place: String,
    timeout: Duration,
    silence: Silence,
}

impl RemoteCatalog {
    /// Prepares calls to the catalog at `base_url`. Connects when the first call is made.
    ///
    /// - Errors: [`Error::Store`] when the URL or the TLS configuration can't be used.
    pub fn new(base_url: &str, options: RemoteOptions) -> Result<Self, Error> {
        let RemoteOptions { tls, timeout } = options;
        let methods = methods_url(base_url, tls.is_some()).map_err(setup_error)?;
        let tls = match tls {
            Some(tls) => ClientConfig::clone(&tls),
            None => no_tls().map_err(setup_error)?,
        };
        let client = client(tls).map_err(setup_error)?;
        let place = base_url.trim_end_matches('/').to_owned();
        Ok(Self {
            client,
            methods,
            place,
            timeout,
            silence: Silence::default(),
        })
    }

    /// Asks once whether the catalog answers, for who has to say at once that it does not.
    ///
    /// - Errors: as any call.
    pub async fn reach(&self) -> Result<(), Error> {
        let started = Instant::now();
        let body = write_call(&PingCall {})?;
        match tokio::time::timeout(self.timeout, self.noted::<PingCall>(body)).await {
            Ok(Outcome::Answered(answer)) => answer,
            Ok(Outcome::NotSent(cause) | Outcome::Unanswered(cause)) => {
                Err(self.unavailable(started, cause))
            }
            Err(elapsed) => Err(self.unavailable(started, Box::new(elapsed))),
        }
    }

    async fn call<C: Call>(&self, call: C) -> Result<C::Reply, Error> {
        let started = Instant::now();
        let body = write_call(&call)?;
        let attempt = || self.noted::<C>(body.clone());
        match repeat(self.timeout, C::REPEATABLE, attempt).await {
            Ok(answer) => answer,
            Err(cause) => Err(self.unavailable(started, cause)),
        }
    }

    /// An attempt, after which it is known since when the catalog does not answer.
    async fn noted<C: Call>(&self, body: Bytes) -> Outcome<C::Reply> {
        let started = Instant::now();
        let outcome = self.attempt::<C>(body).await;
        self.silence.note(started, &outcome);
        outcome
    }

    async fn attempt<C: Call>(&self, body: Bytes) -> Outcome<C::Reply> {
        let url = match self.methods.join(C::METHOD) {
            Ok(url) => url,
            Err(error) => return Outcome::Answered(Err(setup_error(error))),
        };
        let request = self
            .client
            .post(url)
            .header(VERSION_HEADER, VERSION)
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let response = match request.send().await {
            Ok(response) => response,
            // Without a connection not a byte of the call was sent.
            Err(error) if error.is_connect() => {
                return Outcome::NotSent(Box::new(error.without_url()));
            }
            Err(error) => return Outcome::Unanswered(Box::new(error.without_url())),
        };
        let status = response.status();
        let version = version(&response);
        match response.bytes().await {
            Ok(body) => self.read_reply::<C>(status, version.as_deref(), &body),
            Err(error) => Outcome::Unanswered(Box::new(error.without_url())),
        }
    }

    fn read_reply<C: Call>(
        &self,
        status: StatusCode,
        version: Option<&str>,
        body: &[u8],
    ) -> Outcome<C::Reply> {
        if version == Some(VERSION) && status.is_success() {
            let reply = serde_json::from_slice(body).map_err(|error| Error::Store {
                doing: "reading the answer of the catalog process",
                source: Box::new(error),
            });
            return Outcome::Answered(reply);
        }
        // A refusal explains itself, whatever version wrote it.
        if let Ok(refusal) = serde_json::from_slice::<Refusal>(body) {
            return match refusal.into_error(&self.place) {
                Error::Unavailable { source, .. } => Outcome::Unanswered(source),
                refused => Outcome::Answered(Err(refused)),
            };
        }
        let text = format!("{} answered HTTP status {status}", self.place);
        if status.is_server_error() {
            return Outcome::Unanswered(Box::new(PeerError(text)));
        }
        // A catalog process answers so to a call that came with a later release.
        let text = match status {
            StatusCode::NOT_FOUND => format!(
                "{text}: it does not know the call {}. If it is a catalog process of an older release, \
                 upgrade it and repeat; it answers",
                C::METHOD
            ),
            _ => text,
        };
        let text = format!(
            "{text} with catalog protocol {}, this process speaks {VERSION}: check that the URL is \
             that of a catalog process of the same release",
            version.unwrap_or("none")
        );
        Outcome::Answered(Err(Error::Store {
            doing: "calling the catalog process",
            source: Box::new(PeerError(text)),
        }))
    }

    /// A call that began at `started` got no answer.
    fn unavailable(&self, started: Instant, cause: Cause) -> Error {
        Error::Unavailable {
            place: self.place.clone(),
            source: Box::new(self.silence.not_answered(started, cause)),
        }
    }
}

fn write_call(call: &impl Call) -> Result<Bytes, Error> {
    let body = serde_json::to_vec(call).map_err(|error| Error::Store {
        doing: "writing a catalog call",
        source: Box::new(error),
    })?;
    Ok(Bytes::from(body))
}

fn setup_error(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Store {
        doing: "preparing calls to the catalog process",
        source: Box::new(error),
    }
}

fn version(response: &Response) -> Option<String> {
    Some(
        response
            .headers()
            .get(VERSION_HEADER)?
            .to_str()
            .ok()?
            .to_owned(),
    )
}

/// A client for plaintext needs some TLS configuration too: given one, it does not ask for a
/// process-wide provider.
fn no_tls() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth())
}

fn client(mut tls: ClientConfig) -> Result<Client, reqwest::Error> {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Client::builder()
        .use_preconfigured_tls(tls)
        .http2_prior_knowledge()
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
}

#[async_trait]
impl Catalog for RemoteCatalog {
    async fn create_database(&self, name: &str, if_not_exists: bool) -> Result<Database, Error> {
        self.call(CreateDatabaseCall {
            name: name.to_owned(),
            if_not_exists,
        })
        .await
    }

    async fn list_databases(&self) -> Result<Vec<Database>, Error> {
        self.call(ListDatabasesCall {}).await
    }

    async fn create_table(&self, request: CreateTable) -> Result<Table, Error> {
        self.call(CreateTableCall { request }).await
    }

    async fn publish_table(
        &self,
        table: TableId,
        name: &TableName,
        if_exists: IfExists,
        seen: Option<Seen>,
    ) -> Result<Table, Error> {
        self.call(PublishTableCall {
            table,
            name: name.clone(),
            if_exists,
            seen,
        })
        .await
    }

    async fn drop_table(
        &self,
        name: &TableName,
        if_exists: bool,
        seen: Option<Seen>,
    ) -> Result<Option<Table>, Error> {
        self.call(DropTableCall {
            name: name.clone(),
            if_exists,
            seen,
        })
        .await
    }

    async fn set_options(&self, request: SetOptions) -> Result<(), Error> {
        self.call(SetOptionsCall { request }).await
    }

    async fn evolve_table(
        &self,
        table: TableId,
        from: SchemaVersion,
        schema: SchemaBytes,
    ) -> Result<Table, Error> {
        self.call(EvolveTableCall {
            table,
            from,
            schema,
        })
        .await
    }

    async fn table(&self, name: &TableName) -> Result<Option<Table>, Error> {
        self.call(TableCall { name: name.clone() }).await
    }

    async fn tables_by_id(&self, ids: &[TableId]) -> Result<Vec<Table>, Error> {
        self.call(TablesByIdCall { ids: ids.to_vec() }).await
    }

    async fn list_tables(&self, database: Option<&str>) -> Result<Vec<Table>, Error> {
        self.call(ListTablesCall {
            database: database.map(str::to_owned),
        })
        .await
    }

    async fn read_snapshot(&self, request: SnapshotRequest) -> Result<Snapshot, Error> {
        let (tables, files) = request.tables.into_iter().unzip();
        self.call(SnapshotCall { tables, files }).await
    }

    async fn resolve_as_of(&self, as_of: AsOf) -> Result<SnapshotStamp, Error> {
        self.call(ResolveAsOfCall { as_of }).await
    }

    async fn read_past(
        &self,
        snapshot: SnapshotId,
        request: SnapshotRequest,
    ) -> Result<Snapshot, Error> {
        let tables = request.tables;
        self.call(PastCall { snapshot, tables }).await
    }

    async fn list_snapshots(&self, limit: u32) -> Result<Vec<SnapshotRecord>, Error> {
        self.call(ListSnapshotsCall { limit }).await
    }

    async fn register_ingester(&self, request: RegisterIngester) -> Result<Registration, Error> {
        self.call(RegisterIngesterCall { request }).await
    }

    async fn check_ingester(&self, check: IngesterCheck) -> Result<SnapshotStamp, Error> {
        self.call(CheckIngesterCall { check }).await
    }

    async fn drain_ingester(&self, ingester: IngesterId, epoch: Epoch) -> Result<(), Error> {
        self.call(DrainIngesterCall { ingester, epoch }).await
    }

    async fn retire_ingester(&self, name: &str, accept_loss: bool) -> Result<Ingester, Error> {
        self.call(RetireIngesterCall {
            name: name.to_owned(),
            accept_loss,
        })
        .await
    }

    async fn readmit_ingester(&self, name: &str) -> Result<Ingester, Error> {
        let name = name.to_owned();
        self.call(ReadmitIngesterCall { name }).await
    }

    async fn list_ingesters(&self) -> Result<Vec<Ingester>, Error> {
        self.call(ListIngestersCall {}).await
    }

    async fn open_tables(&self, request: OpenTables) -> Result<(), Error> {
        self.call(OpenTablesCall { request }).await
    }

    async fn close_tables(&self, request: CloseTables) -> Result<(), Error> {
        self.call(CloseTablesCall { request }).await
    }

    async fn ingesters_of(&self, table: TableId) -> Result<Vec<Ingester>, Error> {
        self.call(IngestersOfCall { table }).await
    }

    async fn commit_flush(&self, commit: FlushCommit) -> Result<FlushCommitted, Error> {
        self.call(CommitFlushCall { commit }).await
    }

    async fn take_orders(
        &self,
        ingester: IngesterId,
        epoch: Epoch,
        rows: u64,
    ) -> Result<i64, Error> {
        self.call(TakeOrdersCall {
            ingester,
            epoch,
            rows,
        })
        .await
    }

    async fn last_order(&self) -> Result<i64, Error> {
        self.call(LastOrderCall {}).await
    }

    async fn claim_producer(&self, request: ClaimProducer) -> Result<ProducerClaim, Error> {
        self.call(ClaimProducerCall { request }).await
    }

    async fn expire_producers(&self, expiry: ProducerExpiry) -> Result<u64, Error> {
        self.call(ExpireProducersCall { expiry }).await
    }

    async fn replace_files(&self, request: ReplaceFiles) -> Result<FilesReplaced, Error> {
        self.call(ReplaceFilesCall { request }).await
    }

    async fn live_files(&self, which: LiveFiles) -> Result<Vec<File>, Error> {
        self.call(LiveFilesCall { which }).await
    }

    async fn small_files(
        &self,
        below_bytes: u64,
        min_files: u32,
    ) -> Result<Vec<SmallFiles>, Error> {
        self.call(SmallFilesCall {
            below_bytes,
            min_files,
        })
        .await
    }

    async fn list_replacements(
        &self,
        database: &str,
        limit: u32,
    ) -> Result<Vec<Replacement>, Error> {
        self.call(ListReplacementsCall {
            database: database.to_owned(),
            limit,
        })
        .await
    }

    async fn due_garbage(&self, grace: Duration, limit: u32) -> Result<Vec<Garbage>, Error> {
        self.call(DueGarbageCall { grace, limit }).await
    }

    async fn garbage_deleted(&self, paths: &[String]) -> Result<(), Error> {
        self.call(GarbageDeletedCall {
            paths: paths.to_vec(),
        })
        .await
    }

    async fn garbage_queue(&self) -> Result<GarbageQueue, Error> {
        self.call(GarbageQueueCall {}).await
    }

    async fn unknown_paths(&self, paths: &[String]) -> Result<Vec<String>, Error> {
        self.call(UnknownPathsCall {
            paths: paths.to_vec(),
        })
        .await
    }

    async fn condemn_paths(&self, paths: &[String]) -> Result<u64, Error> {
        self.call(CondemnPathsCall {
            paths: paths.to_vec(),
        })
        .await
    }

    async fn lease(&self, lease: Lease) -> Result<bool, Error> {
        self.call(LeaseCall { lease }).await
    }

    async fn forget_history(&self, window: Duration) -> Result<HistoryForgotten, Error> {
        self.call(ForgetHistoryCall { window }).await
    }

    async fn begin_statement(&self, request: BeginStatement) -> Result<StatementProgress, Error> {
        self.call(BeginStatementCall { request }).await
    }

    async fn end_statement(&self, id: &str, rows: u64) -> Result<(), Error> {
        let id = id.to_owned();
        self.call(EndStatementCall { id, rows }).await
    }

    async fn start_upload(
        &self,
        id: &str,
        target: &TableName,
        ttl: Duration,
    ) -> Result<Upload, Error> {
        let (id, target) = (id.to_owned(), target.clone());
        self.call(StartUploadCall { id, target, ttl }).await
    }

    async fn upload(&self, id: &str) -> Result<Upload, Error> {
        let id = id.to_owned();
        self.call(UploadCall { id }).await
    }

    async fn join_upload(&self, request: JoinUpload) -> Result<Table, Error> {
        self.call(JoinUploadCall { request }).await
    }

    async fn seal_upload(&self, id: &str) -> Result<Upload, Error> {
        let id = id.to_owned();
        self.call(SealUploadCall { id }).await
    }

    async fn finish_upload(&self, request: FinishUpload) -> Result<Upload, Error> {
        self.call(FinishUploadCall { request }).await
    }

    async fn abort_upload(&self, id: &str) -> Result<(), Error> {
        let id = id.to_owned();
        self.call(AbortUploadCall { id }).await
    }

    async fn expire_uploads(&self) -> Result<u64, Error> {
        self.call(ExpireUploadsCall {}).await
    }

    async fn time(&self) -> Result<CatalogTime, Error> {
        self.call(TimeCall {}).await
    }

    async fn ping(&self) -> Result<(), Error> {
        self.call(PingCall {}).await
    }
}
