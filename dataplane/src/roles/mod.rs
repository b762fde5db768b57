//! What each role is made of, in which order it starts and how it stops.
//!
//! # Start
//! configuration → log → identity and TLS → ports bound (calls are refused as NOT_READY) → catalog,
//! object store → replay of the WAL → ready.
//!
//! # Stop (SIGTERM, SIGINT)
//! not ready → upkeep ends → the drain window, in which new calls are refused as DRAINING on the open port → the
//! port closes, running calls finish until the deadline → the ingester flushes and signs off → the
//! internal port closes → exit 0. A second signal ends the process at once.
//!
//! A failed log ends the process within a moment, in which those it was refused to are told; a process that
//! was replaced ends without it.
//!
//! # Exit codes
//! 0 stopped as asked; 2 the configuration is wrong, nothing was started; 1 anything else.

mod backends;
mod cache;
mod identity;
mod measured;
mod memory;
mod observe;
mod ports;
mod upkeep;
mod waiting;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flightcluster_config::{Config, Loaded, LogFormat, Role, malloc_conf};
use flightcluster_ingest::Fatal;
use flightcluster_server::status::chain;
use flightcluster_server::{
    CallLayer, FlightServer, FlightServerOptions, Gate, Listener, Stop, admission, public_router,
};
use flightcluster_telemetry::health::{Health, Liveness};
use flightcluster_telemetry::log;
use flightcluster_telemetry::metrics::{BuildLabels, Metrics, RpcMetrics};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backup;
use crate::cli::ServerArgs;
use crate::config_command::{read, refuse};
use backends::Parts;
pub(crate) use backends::{catalog_file, postgres_options, wal_directory};
use identity::Identities;
pub(crate) use identity::peer_tls;
use ports::Ports;

/// Time upkeep gets to take back what it was writing when the process stops.
const UPKEEP_STOP: Duration = Duration::from_secs(2);

/// Time in which clients are told that the log failed.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Starts a role and runs it until it is told to stop.
pub(crate) fn start(role: Role, args: &ServerArgs) -> anyhow::Result<ExitCode> {
    let Loaded { config, .. } = match read(role, args) {
        Ok(loaded) => loaded,
        Err(problem) => return Ok(refuse(&problem)),
    };
    observe::apply_malloc(&malloc_conf(&config.malloc, Some(memory::limit_bytes())))?;
    let format = match config.log.format {
        LogFormat::Auto => log::Format::Auto,
        LogFormat::Json => log::Format::Json,
        LogFormat::Pretty => log::Format::Pretty,
    };
    let _filter = log::init(format, &config.log.filter)?;
    let identities = match Identities::load(role, &config) {
        Ok(identities) => identities,
        Err(problem) => return Ok(refuse(&problem)),
    };
    // Network, health and acknowledgements; queries have threads of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("network")
        .build()
        .context("can't start the threads of the server")?;
    let code = runtime.block_on(run(role, config, identities, args));
    // What is still running has had its time.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn run(
    role: Role,
    config: Config,
    identities: Identities,
    args: &ServerArgs,
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    let metrics = Metrics::new(BuildLabels {
        version: env!("CARGO_PKG_VERSION"),
        revision: option_env!("FLIGHTCLUSTER_REVISION").unwrap_or("unknown"),
    });
    log::log_panics(metrics.process.panics.clone());
    observe::watch_memory(&metrics);
    let health = Health::new();
    let started = health.component("startup", Liveness::Ignored);
    let ports = Ports::bind(role, &config).await?;
    let bound = ports.addresses()?;
    tracing::info!(
        role = role.as_str(),
        version = env!("CARGO_PKG_VERSION"),
        public = bound.public.map(|address| address.to_string()),
        internal = bound.internal.map(|address| address.to_string()),
        admin = bound.admin.to_string(),
        memory_limit_bytes = memory::limit_bytes(),
        "starting"
    );
    let background = CancellationToken::new();
    identities.watch(&config, &metrics, &background);

    let gate = Arc::new(Gate::default());
    let calls = CallLayer {
        metrics: metrics.rpc.clone(),
        idle_timeout: config.server.stream_idle_timeout,
        admission: None,
        receive: memory::receive_budget(&config),
    };
    let windows = memory::windows();
    let public_calls = CallLayer {
        admission: Some(admission(
            Arc::clone(&identities.authenticator),
            metrics.connections.auth_failures.clone(),
        )),
        ..calls.clone()
    };
    let service = Arc::new(
        FlightServer::new(FlightServerOptions {
            settings: config.server.clone(),
            authenticator: Arc::clone(&identities.authenticator),
            key: identities.signing_key.clone(),
            gate: Arc::clone(&gate),
            metrics: metrics.query.clone(),
        })
        .map_err(|failure| anyhow::anyhow!("{failure}"))?,
    );
    let stop = StopAll::default();
    let Ports {
        public,
        internal,
        admin,
    } = ports;
    let admin_router = flightcluster_telemetry::admin::router(health.clone(), metrics.exposition());
    tokio::spawn(ports::serve_admin(admin, admin_router));
    let public = public.map(|socket| {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        tokio::spawn(observe::report_health(reporter, health.watch_ready()));
        let listener = Listener {
            socket,
            tls: identities.public_tls.clone(),
            router: public_router(
                Arc::clone(&service),
                health_service,
                config.server.max_message_bytes.as_usize(),
                public_calls.clone(),
            ),
            max_concurrent_streams: config.server.max_concurrent_streams,
            windows: windows.clone(),
            name: "public",
            metrics: metrics.connections.clone(),
        };
        tokio::spawn(listener.serve(stop.public.clone()))
    });

    let opening = backends::open(role, &config, bound, &identities, &metrics);
    let Parts {
        backends,
        ingest,
        engine,
        cache,
        upkeep,
        backed_up,
        internal_router,
    } = tokio::select! {
        parts = opening => parts?,
        () = signals.next() => {
            tracing::info!("stopped while starting");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let internal = internal.map(|socket| {
        let listener = Listener {
            socket,
            tls: identities.internal_tls.clone(),
            router: internal_router(Arc::clone(&gate), calls.clone()),
            max_concurrent_streams: config.server.max_concurrent_streams,
            windows,
            name: "internal",
            metrics: metrics.connections.clone(),
        };
        tokio::spawn(listener.serve(stop.internal.clone()))
    });
    observe::sample(&metrics, ingest.clone(), engine, cache, background.clone());
    if let Some((catalog, store)) = backed_up.filter(|_| config.catalog.backup.enabled) {
        let (settings, metrics) = (config.catalog.backup.clone(), metrics.backup.clone());
        tokio::spawn(backup::keep(
            catalog,
            store,
            settings,
            metrics,
            background.clone(),
        ));
    }
    if let Some(backends) = backends {
        service.ready(backends);
    }
    let upkeep = upkeep.map(upkeep::Running::start);
    gate.open();
    started.set_ok();
    observe::check_advertised(&config, bound.public).await;
    if let Some(path) = &args.port_file {
        bound.write(path)?;
    }
    tracing::info!(role = role.as_str(), "ready");

    let fatal = match &ingest {
        Some(ingest) => tokio::select! {
            () = signals.next() => None,
            fatal = ingest.fatal() => Some(fatal),
        },
        None => {
            signals.next().await;
            None
        }
    };
    health.set_draining();
    gate.drain();
    if let Some(upkeep) = upkeep {
        upkeep.stop(UPKEEP_STOP).await;
    }
    if let Some(fatal) = fatal {
        tracing::error!(error = %chain(&fatal), "the ingester can't go on; the process ends");
        // Not when it was replaced: what is under way could still be acknowledged then.
        if matches!(fatal, Fatal::Wal(_)) {
            stop.answer(public, internal).await;
        }
        return Ok(ExitCode::FAILURE);
    }
    let stopping = stop.run(role, &config, &metrics.rpc, public, ingest, internal);
    let code = tokio::select! {
        code = stopping => code,
        () = signals.next() => {
            tracing::warn!("second signal: stopping at once");
            ExitCode::FAILURE
        }
    };
    background.cancel();
    Ok(code)
}

/// What ends the parts of a process, in order.
#[derive(Default)]
struct StopAll {
    public: Stop,
    internal: Stop,
}

impl StopAll {
    /// Lets calls that have failed already say so to their clients, for a moment.
    async fn answer(self, public: Option<JoinHandle<()>>, internal: Option<JoinHandle<()>>) {
        for port in [&self.public, &self.internal] {
            port.drain.cancel();
            port.close.cancel();
        }
        let ports = [public, internal].into_iter().flatten();
        let answered = tokio::time::timeout(LAST_ANSWERS, futures::future::join_all(ports));
        if answered.await.is_err() {
            tracing::warn!(after = ?LAST_ANSWERS, "calls were cut off");
        }
    }

    async fn run(
        self,
        role: Role,
        config: &Config,
        rpc: &RpcMetrics,
        public: Option<JoinHandle<()>>,
        ingest: Option<Arc<flightcluster_ingest::Ingest>>,
        internal: Option<JoinHandle<()>>,
    ) -> ExitCode {
        self.public.drain.cancel();
        // Behind a Service it takes time until nobody connects any more; on a laptop with nothing
        // running there is nobody to wait for.
        if role != Role::Standalone || rpc.is_busy() {
            tracing::info!(window = ?config.server.drain_window, "draining");
            tokio::time::sleep(config.server.drain_window).await;
        }
        self.public.close.cancel();
        let finish = async {
            if let Some(public) = public {
                // A panic in there has been logged by the hook.
                let _ = public.await;
            }
        };
        if tokio::time::timeout(config.server.shutdown_timeout, finish)
            .await
            .is_err()
        {
            tracing::warn!(timeout = ?config.server.shutdown_timeout, "calls were cut off");
        }
        self.public.end.cancel();
        let mut code = ExitCode::SUCCESS;
        if let Some(ingest) = ingest {
            let drained = tokio::time::timeout(config.server.shutdown_timeout, ingest.drain());
            match drained.await {
                Ok(Ok(())) => tracing::info!("everything is flushed"),
                Ok(Err(error)) => {
                    tracing::error!(error = %chain(&error), "rows stay in the wal until the next start");
                    code = ExitCode::FAILURE;
                }
                Err(_) => {
                    tracing::error!("no time to flush; rows stay in the wal until the next start");
                    code = ExitCode::FAILURE;
                }
            }
        }
        // Peers keep their connections open; nothing of theirs is running any more.
        self.internal.close.cancel();
        self.internal.end.cancel();
        if let Some(internal) = internal {
            let _ = internal.await;
        }
        tracing::info!("stopped");
        code
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("can't watch for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("can't watch for SIGINT")?,
        })
    }

    /// Returns at the next signal.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
