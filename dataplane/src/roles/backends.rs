//! What each role works with: catalog, object store, ingester, query engine, internal port.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use flightcluster_catalog::remote::{RemoteCatalog, RemoteOptions};
use flightcluster_catalog::sql::{PostgresOptions, SqlCatalog};
use flightcluster_catalog::{Catalog, Error as CatalogError};
use flightcluster_config::{ByteSize, Config, ObjectStoreKind, Role};
use flightcluster_ingest::{Clock, Ingest, IngestOptions, NoPeers};
use flightcluster_objectstore::{CachedStore, RemoteEndpoint};
use flightcluster_query::{Engine, EngineOptions};
use flightcluster_server::status::chain;
use flightcluster_server::{
    Backends, CallLayer, ForwardedWrites, FreshRows, Gate, Ingesters, InsertedRows,
    InternalService, LocalWrites, PeerIngesters, Peers, PutLocations, Uploads, Writes,
    decode_limits, internal_router,
};
use flightcluster_telemetry::metrics::Metrics;
use flightcluster_upkeep::Upkeep;
use flightcluster_wal::{RealDisk, WalDirectory};
use object_store::ObjectStore;
use tracing::Level;

use super::cache;
use super::identity::Identities;
use super::measured::MeasuredCatalog;
use super::memory;
use super::observe::IngestObserver;
use super::ports::Addresses;
use super::waiting::Waiting;

/// Pause between attempts to reach the catalog or the object store while starting.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Share of the memory limit that queries may use when nothing is configured.
const QUERY_MEMORY_PERCENT: u64 = 60;

/// Makes the router of the internal port, once gate and call layer are there.
type InternalRouter = Box<dyn FnOnce(Arc<Gate>, CallLayer) -> Router + Send>;

/// The opened parts of a role.
pub(crate) struct Parts {
    /// For the public port; the catalog role has none.
    pub(crate) backends: Option<Backends>,
    /// The ingester of this process.
    pub(crate) ingest: Option<Arc<Ingest>>,
    /// The query engine of this process.
    pub(crate) engine: Option<Engine>,
    /// What its queries read of the stored files, if it is kept.
    pub(crate) cache: Option<CachedStore>,
    /// Compaction and deletion, when this process does them.
    pub(crate) upkeep: Option<Upkeep>,
    /// The catalog, where this process keeps it and backs it up.
    pub(crate) backed_up: Option<(SqlCatalog, Arc<dyn ObjectStore>)>,
    /// What the internal port serves.
    pub(crate) internal_router: InternalRouter,
}

/// Opens what `role` needs. Waits for other pods that are not there yet.
///
/// - `bound`: where its ports listen.
pub(crate) async fn open(
    role: Role,
    config: &Config,
    bound: Addresses,
    identities: &Identities,
    metrics: &Metrics,
) -> anyhow::Result<Parts> {
    if matches!(role, Role::Standalone | Role::Ingester) {
        free_spares(wal_directory(config)).await;
    }
    let (catalog, kept) = open_catalog(config, identities, metrics).await?;
    let store = open_store(role, config, identities).await?;
    // A querier owns nothing, and there may be many.
    let kept = kept.filter(|_| role != Role::Querier);
    let backed_up = kept.map(|catalog| (catalog, Arc::clone(&store)));
    // The name an ingester has, or would have.
    let node_name = match (&config.server.node_name, role) {
        // Its data may move to another machine, or into a container with another host name.
        (None, Role::Standalone) => role.as_str().to_owned(),
        _ => config.server.node_name(),
    };
    let parts = open_parts(
        role,
        config,
        bound,
        identities,
        metrics,
        (Arc::clone(&catalog), Arc::clone(&store)),
        node_name.clone(),
    )
    .await?;
    let upkeep = match config.upkeep.run_in.includes(role) {
        true => {
            let rewriter = match &parts.engine {
                Some(engine) => engine.rewriter(),
                None => super::upkeep::rewriter(config, &store)?,
            };
            let metrics = metrics.upkeep.clone();
            let upkeep =
                super::upkeep::open(config, &node_name, &catalog, &store, rewriter, metrics);
            Some(upkeep)
        }
        false => None,
    };
    Ok(Parts {
        upkeep,
        backed_up,
        ..parts
    })
}

async fn open_parts(
    role: Role,
    config: &Config,
    bound: Addresses,
    identities: &Identities,
    metrics: &Metrics,
    (catalog, store): (Arc<dyn Catalog>, Arc<dyn ObjectStore>),
    name: String,
) -> anyhow::Result<Parts> {
    let (url, location) = (bound.internal_url(config), bound.public_location(config));
    match role {
        Role::Catalog => Ok(catalog_parts(config, catalog, store)),
        Role::Ingester => {
            let peers = Arc::new(Peers::new(identities.peer_tls.clone()));
            let asked = Arc::new(PeerIngesters(Arc::clone(&peers)));
            let ingest = open_ingest(config, name, url, &catalog, &store, asked, metrics).await?;
            Ok(ingester_parts(config, catalog, ingest, peers, location))
        }
        Role::Querier => querier_parts(config, catalog, store, identities),
        Role::Standalone => {
            let none = Arc::new(NoPeers);
            let ingest = open_ingest(config, name, url, &catalog, &store, none, metrics).await?;
            standalone_parts(config, catalog, store, ingest, location)
        }
    }
}

/// The file of a catalog that this process keeps itself.
pub(crate) fn catalog_file(config: &Config) -> PathBuf {
    let folder = config.storage.data_dir.join("catalog");
    folder.join("catalog.sqlite")
}

/// The folder of the write-ahead log.
pub(crate) fn wal_directory(config: &Config) -> PathBuf {
    config.storage.data_dir.join("wal")
}

/// Lets the log delete the spare segments of the process before, which it does when it is locked: on a full
/// volume they are the room that the catalog and the probe of the object store need.
async fn free_spares(directory: PathBuf) {
    let lock = || WalDirectory::lock(directory, Arc::new(RealDisk)).map(drop);
    // What is wrong with the log is told when it is opened.
    if let Ok(Err(error)) = tokio::task::spawn_blocking(lock).await {
        tracing::debug!(error = %chain(&error), "can't look for spare segments");
    }
}

/// Opens the catalog; also as the database it is in, when this process opened that itself.
async fn open_catalog(
    config: &Config,
    identities: &Identities,
    metrics: &Metrics,
) -> anyhow::Result<(Arc<dyn Catalog>, Option<SqlCatalog>)> {
    let metrics = metrics.catalog.clone();
    let kept = |catalog: SqlCatalog, metrics| -> (Arc<dyn Catalog>, _) {
        let itself = Some(catalog.clone());
        (Arc::new(MeasuredCatalog { catalog, metrics }), itself)
    };
    if let Some(options) = postgres_options(config) {
        return Ok(kept(open_postgres(options).await?, metrics));
    }
    let Some(url) = &config.catalog.url else {
        let path = catalog_file(config);
        let catalog = SqlCatalog::open_sqlite(&path)
            .await
            .with_context(|| format!("can't open the catalog {}", path.display()))?;
        return Ok(kept(catalog, metrics));
    };
    let options = RemoteOptions {
        tls: identities.peer_tls.clone(),
        timeout: config.catalog.request_timeout,
    };
    let catalog = RemoteCatalog::new(url, options)?;
    let mut told = false;
    // Once each time: who starts the process is told at once that it waits.
    while let Err(error) = catalog.reach().await {
        if !told {
            tracing::warn!(url, error = %chain(&error), "waiting for the catalog");
            told = true;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    Ok((Arc::new(MeasuredCatalog { catalog, metrics }), None))
}

/// How to reach the catalog in Postgres, when it is there.
pub(crate) fn postgres_options(config: &Config) -> Option<PostgresOptions> {
    let catalog = &config.catalog;
    Some(PostgresOptions {
        url_file: catalog.postgres_url_file.clone()?,
        password_file: catalog.postgres_password_file.clone(),
        ca_file: catalog.postgres_ca_file.clone(),
        allow_insecure: catalog.postgres_allow_insecure,
        max_connections: catalog.postgres_max_connections,
        timeout: catalog.request_timeout,
    })
}

/// Opens the catalog in Postgres; waits for a server that can't be reached.
async fn open_postgres(options: PostgresOptions) -> anyhow::Result<SqlCatalog> {
    let mut told = false;
    loop {
        match SqlCatalog::open_postgres(options.clone()).await {
            Ok(catalog) => return Ok(catalog),
            Err(error @ CatalogError::Unavailable { .. }) if !told => {
                tracing::warn!(error = %chain(&error), "waiting for the catalog");
                told = true;
            }
            Err(CatalogError::Unavailable { .. }) => {}
            Err(error) => return Err(error).context("can't open the catalog in Postgres"),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn open_store(
    role: Role,
    config: &Config,
    identities: &Identities,
) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let embedded = config.storage.object_store.kind == ObjectStoreKind::Embedded;
    // The catalog pod keeps the files of the embedded store; the others ask it.
    let remote = match &config.catalog.url {
        Some(url) if embedded && role != Role::Catalog => Some(RemoteEndpoint {
            url: url.clone(),
            tls: identities.peer_tls.clone(),
            timeout: config.catalog.request_timeout,
        }),
        _ => None,
    };
    let place = flightcluster_objectstore::place(&config.storage, remote.as_ref());
    let kind = config.storage.object_store.kind;
    let store = flightcluster_objectstore::open(&config.storage, remote)?;
    let (started, mut waiting) = (Instant::now(), Waiting::default());
    while let Err(error) = flightcluster_objectstore::check(store.as_ref(), kind, &place).await {
        const SAID: &str = "the object store can't be used; trying again";
        match waiting.level(started.elapsed(), error.may_pass()) {
            Some(Level::WARN) => tracing::warn!(error = %chain(&error), "{SAID}"),
            Some(_) => tracing::error!(error = %chain(&error), "{SAID}"),
            None => {}
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    Ok(store)
}

async fn open_ingest(
    config: &Config,
    node_name: String,
    internal_url: String,
    catalog: &Arc<dyn Catalog>,
    store: &Arc<dyn ObjectStore>,
    peers: Arc<dyn flightcluster_ingest::Peers>,
    metrics: &Metrics,
) -> anyhow::Result<Arc<Ingest>> {
    let observer = IngestObserver {
        wal: metrics.wal.clone(),
        ingest: metrics.ingest.clone(),
    };
    let mut settings = config.ingest.clone();
    settings.buffer_bytes = memory::buffer_bytes(config, memory::limit_bytes());
    let options = IngestOptions {
        config: settings,
        catalog: Arc::clone(catalog),
        store: Arc::clone(store),
        node_name,
        internal_url,
        wal_dir: wal_directory(config),
        disk: Arc::new(RealDisk),
        observer: Arc::new(observer),
        clock: Clock::system(),
        peers,
        commit_within: config.upkeep.commit_within(),
        ticket_ttl: config.server.ticket_ttl,
    };
    Ingest::open(options)
        .await
        .context("the ingester can't start")
}

/// The engine, and the cache it reads through where there is one.
fn open_engine(
    config: &Config,
    catalog: &Arc<dyn Catalog>,
    store: &Arc<dyn ObjectStore>,
    recent: FreshRows,
    writer: InsertedRows,
) -> anyhow::Result<(Engine, Option<CachedStore>)> {
    let limit = memory::limit_bytes();
    let memory_bytes = match config.query.memory_bytes.as_u64() {
        0 => limit / 100 * QUERY_MEMORY_PERCENT,
        bytes => bytes,
    };
    let data_dir = &config.storage.data_dir;
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("can't create {}", data_dir.display()))?;
    let free_bytes = free_bytes(data_dir)
        .with_context(|| format!("can't tell how much is free in {}", data_dir.display()))?;
    let rewriter = super::upkeep::rewriter(config, store)?;
    let cache = cache::open(config, store, limit, free_bytes)?;
    let store = match &cache {
        Some(cache) => Arc::new(cache.clone()),
        None => Arc::clone(store),
    };
    let spill_bytes = config.query.spill_bytes;
    let engine = Engine::new(EngineOptions {
        config: config.query.clone(),
        catalog: Arc::clone(catalog),
        store,
        recent: Arc::new(recent),
        writer: Some(Arc::new(writer)),
        rewriter,
        memory_bytes,
        spill_dir: data_dir.join("scratch"),
        spill_bytes: spill_bytes.map_or(free_bytes / 2, ByteSize::as_u64),
        commit_within: config.upkeep.commit_within(),
        delete_lease: config.upkeep.lease / 2,
    })?;
    Ok((engine, cache))
}

/// Bytes this process may still write to the volume of `path`.
fn free_bytes(path: &std::path::Path) -> std::io::Result<u64> {
    let volume = rustix::fs::statvfs(path)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

fn catalog_parts(config: &Config, catalog: Arc<dyn Catalog>, store: Arc<dyn ObjectStore>) -> Parts {
    let embedded = config.storage.object_store.kind == ObjectStoreKind::Embedded;
    let limit = config.server.max_message_bytes.as_usize();
    let internal = move |_: Arc<Gate>, calls: CallLayer| {
        let mut router = flightcluster_catalog::remote::router(catalog);
        if embedded {
            router = router.merge(flightcluster_objectstore::router(store));
        }
        internal_router(None, router, limit, calls)
    };
    Parts {
        backends: None,
        ingest: None,
        engine: None,
        cache: None,
        upkeep: None,
        backed_up: None,
        internal_router: Box::new(internal),
    }
}

fn local_writes(config: &Config, ingest: &Arc<Ingest>) -> Arc<dyn Writes> {
    let limits = decode_limits(config.server.max_message_bytes.as_usize());
    Arc::new(LocalWrites::new(Arc::clone(ingest), limits))
}

/// The ingesters as this process asks them.
fn ingesters(
    catalog: &Arc<dyn Catalog>,
    local: Option<&Arc<Ingest>>,
    peers: &Arc<Peers>,
) -> Arc<Ingesters> {
    Arc::new(Ingesters {
        catalog: Arc::clone(catalog),
        local: local.map(Arc::clone),
        peers: Arc::new(PeerIngesters(Arc::clone(peers))),
    })
}

/// How uploads of several streams are begun and ended from this process.
fn uploads(config: &Config, ingesters: &Arc<Ingesters>) -> Uploads {
    Uploads {
        catalog: Arc::clone(&ingesters.catalog),
        ingesters: Arc::clone(ingesters),
        ttl: config.ingest.upload_ttl,
    }
}

/// What clients of this process are told of the ingesters.
fn put_locations(
    catalog: &Arc<dyn Catalog>,
    local: Option<(&Arc<Ingest>, Option<String>)>,
    peers: &Arc<Peers>,
) -> PutLocations {
    PutLocations {
        catalog: Arc::clone(catalog),
        local: local.map(|(ingest, location)| (ingest.ingester().id, location)),
        peers: Arc::new(PeerIngesters(Arc::clone(peers))),
    }
}

fn ingester_parts(
    config: &Config,
    catalog: Arc<dyn Catalog>,
    ingest: Arc<Ingest>,
    peers: Arc<Peers>,
    location: Option<String>,
) -> Parts {
    let put_locations = put_locations(&catalog, Some((&ingest, location.clone())), &peers);
    let writes = local_writes(config, &ingest);
    let limit = config.server.max_message_bytes.as_usize();
    let (own, forwarded) = (Arc::clone(&ingest), Arc::clone(&writes));
    let internal = move |gate: Arc<Gate>, calls: CallLayer| {
        let service = InternalService {
            ingest: own,
            writes: forwarded,
            gate,
            location,
        };
        internal_router(Some(service), Router::new(), limit, calls)
    };
    Parts {
        backends: Some(Backends {
            uploads: uploads(config, &ingesters(&catalog, Some(&ingest), &peers)),
            catalog,
            engine: None,
            writes: Some(writes),
            put_locations,
        }),
        ingest: Some(ingest),
        engine: None,
        cache: None,
        upkeep: None,
        backed_up: None,
        internal_router: Box::new(internal),
    }
}

fn querier_parts(
    config: &Config,
    catalog: Arc<dyn Catalog>,
    store: Arc<dyn ObjectStore>,
    identities: &Identities,
) -> anyhow::Result<Parts> {
    let peers = Arc::new(Peers::new(identities.peer_tls.clone()));
    let writes: Arc<dyn Writes> = Arc::new(ForwardedWrites::new(
        Arc::clone(&catalog),
        Arc::clone(&peers),
    ));
    let ingesters = ingesters(&catalog, None, &peers);
    let uploads = uploads(config, &ingesters);
    let locations = put_locations(&catalog, None, &peers);
    let recent = FreshRows { local: None, peers };
    let writer = InsertedRows {
        writes: Arc::clone(&writes),
        ingesters,
    };
    let (engine, cache) = open_engine(config, &catalog, &store, recent, writer)?;
    Ok(public_only(
        catalog,
        engine,
        cache,
        writes,
        None,
        (uploads, locations),
    ))
}

fn standalone_parts(
    config: &Config,
    catalog: Arc<dyn Catalog>,
    store: Arc<dyn ObjectStore>,
    ingest: Arc<Ingest>,
    location: Option<String>,
) -> anyhow::Result<Parts> {
    let writes = local_writes(config, &ingest);
    let peers = Arc::new(Peers::new(None));
    let ingesters = ingesters(&catalog, Some(&ingest), &peers);
    let uploads = uploads(config, &ingesters);
    let locations = put_locations(&catalog, Some((&ingest, location)), &peers);
    let recent = FreshRows {
        local: Some(Arc::clone(&ingest)),
        peers,
    };
    let writer = InsertedRows {
        writes: Arc::clone(&writes),
        ingesters,
    };
    let (engine, cache) = open_engine(config, &catalog, &store, recent, writer)?;
    Ok(public_only(
        catalog,
        engine,
        cache,
        writes,
        Some(ingest),
        (uploads, locations),
    ))
}

fn public_only(
    catalog: Arc<dyn Catalog>,
    engine: Engine,
    cache: Option<CachedStore>,
    writes: Arc<dyn Writes>,
    ingest: Option<Arc<Ingest>>,
    (uploads, put_locations): (Uploads, PutLocations),
) -> Parts {
    Parts {
        backends: Some(Backends {
            uploads,
            put_locations,
            catalog,
            engine: Some(engine.clone()),
            writes: Some(writes),
        }),
        ingest,
        engine: Some(engine),
        cache,
        upkeep: None,
        backed_up: None,
        internal_router: Box::new(|_, _| Router::new()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use flightcluster_telemetry::metrics::BuildLabels;

    use super::*;

    /// The store of this one never works, as on a volume without room.
    #[tokio::test]
    async fn spare_segments_are_gone_before_the_object_store_is_probed() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.data_dir = folder.path().to_owned();
        let objects = folder.path().join("objects");
        std::fs::create_dir_all(&objects).unwrap();
        std::fs::write(objects.join("_flightcluster_probe"), "in the way").unwrap();
        std::fs::create_dir_all(wal_directory(&config)).unwrap();
        let spare = wal_directory(&config).join("spare-00000000000000000001");
        std::fs::write(&spare, "old rows").unwrap();
        let metrics = Metrics::new(BuildLabels {
            version: "1",
            revision: "1",
        });
        let identities = Identities::load(Role::Standalone, &config).unwrap();
        let gone = async {
            while spare.exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let bound = Addresses {
            public: None,
            internal: None,
            admin: ([127, 0, 0, 1], 0).into(),
        };
        let opened = Box::pin(open(
            Role::Standalone,
            &config,
            bound,
            &identities,
            &metrics,
        ));
        tokio::select! {
            opened = opened => assert!(opened.is_err(), "the store was used"),
            () = gone => return,
            () = tokio::time::sleep(Duration::from_secs(30)) => {}
        }
        assert!(!spare.exists(), "the spare is still there");
    }
}
