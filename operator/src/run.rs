//! `run`: connects the controller to an API server and keeps it going until SIGTERM.
//!
//! # Flow
//! Listen for probes, wait for the definition of FlightCluster, become the leader, work. SIGTERM
//! ends each of these at once; passes that have begun are finished, and the Lease is given back.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flightcluster_crds::v1alpha1::FlightCluster;
use flightcluster_telemetry::admin;
use flightcluster_telemetry::health::{Component, Health, Liveness};
use flightcluster_telemetry::metrics::{BuildLabels, OperatorMetrics};
use futures::future::{self, BoxFuture, FutureExt};
use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, ObjectReference, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, PartialObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, controller, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::args::RunArguments;
use crate::controller::apply::FIELD_MANAGER;
use crate::controller::build::labels::{MANAGED_BY, MANAGER};
use crate::controller::dereference::named_secrets;
use crate::controller::reconcile::{Context, Error, error_policy, reconcile};
use crate::lease::Election;
use crate::observed::{News, Observer, chain};

/// How often is looked for a missing definition.
const DEFINITION_POLL: Duration = Duration::from_secs(2);

/// Clusters that are worked on at the same time.
const CONCURRENCY: u16 = 16;

/// Time for passes that have begun, and for giving the Lease back, after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The HTTP status of a resource that the API server doesn't know.
const NOT_FOUND: u16 = 404;

type Watched = DeserializeGuard<FlightCluster>;

/// Watches FlightClusters and carries out their specs, until SIGTERM or SIGINT.
///
/// # Errors
/// When there is no API server to talk to, when the port can't be bound, and when the Lease was
/// lost: another operator works now, and this process must not.
pub async fn run(arguments: RunArguments) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let config = kube::Config::infer()
        .await
        .context("finding an API server to talk to")?;
    let own_namespace = arguments
        .lease_namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).context("preparing the connection to the API server")?;
    let identity = arguments.identity.clone().unwrap_or_else(host_name);
    let metrics = OperatorMetrics::new(BuildLabels {
        version: env!("CARGO_PKG_VERSION"),
        revision: option_env!("FLIGHTCLUSTER_REVISION").unwrap_or("unknown"),
    });
    let health = Health::new();
    let definition = health.component("definition", Liveness::Ignored);
    serve_admin(&arguments, &health, &metrics).await?;
    let reporter = Reporter {
        controller: FIELD_MANAGER.into(),
        instance: Some(identity.clone()),
    };
    let observer = Observer::new(metrics.clone(), Recorder::new(client.clone(), reporter));
    let own_pod = own_pod(&own_namespace, arguments.identity.as_deref());

    let waiting = wait_for_definition(&client, &arguments, &definition, &metrics, || {
        tell_missing(&observer, &own_pod)
    });
    if until(&stop, waiting).await.is_none() {
        return Ok(());
    }
    let context = Context::new(client.clone(), arguments.defaults.clone().into(), observer);
    let controllers = Controllers {
        client: &client,
        arguments: &arguments,
        context,
    };
    if arguments.no_leader_election {
        metrics.leader.set(1);
        controllers.run(&stop).await;
        health.set_draining();
        info!("stopped");
        return Ok(());
    }
    let mut election = Election::new(
        client.clone(),
        &own_namespace,
        &arguments.lease_name,
        &identity,
    );
    if until(&stop, election.acquire()).await.is_none() {
        return Ok(());
    }
    info!(
        lease = arguments.lease_name,
        identity, "this process is the leader"
    );
    metrics.leader.set(1);
    let lost = {
        let work = pin!(controllers.run(&stop));
        let hold = pin!(election.hold());
        matches!(future::select(work, hold).await, future::Either::Right(_))
    };
    metrics.leader.set(0);
    health.set_draining();
    // Not finished in order: whoever took over must not meet a second writer.
    anyhow::ensure!(
        !lost,
        "the lease {} was lost to another operator",
        arguments.lease_name
    );
    if let Err(error) = election.release().await {
        warn!(error = %chain(&error), "lease could not be given back");
    }
    info!("stopped");
    Ok(())
}

/// The controllers, one for each watched namespace.
struct Controllers<'a> {
    client: &'a Client,
    arguments: &'a RunArguments,
    context: Context,
}

impl Controllers<'_> {
    /// Works until `stop`, then finishes what has begun.
    async fn run(self, stop: &CancellationToken) {
        let context = Arc::new(self.context);
        let namespaces = &self.arguments.watch_namespaces;
        let scopes: Vec<Option<&str>> = if namespaces.is_empty() {
            vec![None]
        } else {
            namespaces
                .iter()
                .map(|namespace| Some(namespace.as_str()))
                .collect()
        };
        let running = scopes.into_iter().map(|scope| {
            let passes = start(self.client, scope, stop.clone(), Arc::clone(&context));
            let context = Arc::clone(&context);
            passes.for_each(move |result| {
                after_pass(&context, result);
                future::ready(())
            })
        });
        let running = future::join_all(running);
        let deadline = async {
            stop.cancelled().await;
            tokio::time::sleep(STOP_TIMEOUT).await;
        };
        if let future::Either::Right(_) = future::select(pin!(running), pin!(deadline)).await {
            warn!("passes that had begun were cut off");
        }
    }
}

type PassResult =
    Result<(ObjectRef<Watched>, controller::Action), controller::Error<Error, watcher::Error>>;

/// Starts watching clusters, the objects they own, and the Secrets their specs name.
fn start(
    client: &Client,
    namespace: Option<&str>,
    stop: CancellationToken,
    context: Arc<Context>,
) -> impl Stream<Item = PassResult> {
    let ours = watcher::Config::default().labels(&format!("{MANAGED_BY}={MANAGER}"));
    let controller = Controller::new(
        scoped::<Watched>(client, namespace),
        watcher::Config::default(),
    );
    let clusters = controller.store();
    let any = watcher::Config::default();
    controller
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .owns(scoped::<StatefulSet>(client, namespace), ours.clone())
        .owns(scoped::<Service>(client, namespace), ours.clone())
        .owns(scoped::<ConfigMap>(client, namespace), ours.clone())
        .owns(scoped::<ServiceAccount>(client, namespace), ours.clone())
        .owns(scoped::<PodDisruptionBudget>(client, namespace), ours.clone())
        .owns(scoped::<Secret>(client, namespace), ours)
        // Of all Secrets only the metadata: no value of a Secret that isn't read is kept.
        .watches(scoped::<PartialObjectMeta<Secret>>(client, namespace), any, move |secret| {
            clusters_that_name(&clusters, &secret)
        })
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(reconcile, error_policy, context)
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The reverse of `dereference`: the clusters for which a change of this Secret matters.
fn clusters_that_name(
    clusters: &Store<Watched>,
    secret: &PartialObjectMeta<Secret>,
) -> Vec<ObjectRef<Watched>> {
    let name = secret.name_any();
    clusters
        .state()
        .iter()
        .filter(|cluster| cluster.namespace() == secret.namespace())
        .filter(|cluster| {
            cluster
                .0
                .as_ref()
                .is_ok_and(|cluster| named_secrets(cluster).contains(&name))
        })
        .map(|cluster| ObjectRef::from_obj(cluster.as_ref()))
        .collect()
}

fn after_pass(context: &Context, result: PassResult) {
    match result {
        Ok((object, _)) => debug!(%object, "pass ended"),
        Err(controller::Error::ObjectNotFound(object)) => {
            // Deleted. What is remembered about it is of no more use.
            context.forget(
                object.namespace.as_deref().unwrap_or_default(),
                &object.name,
            );
        }
        // The error policy has logged it and decided about a retry.
        Err(controller::Error::ReconcilerFailed(..)) => {}
        Err(controller::Error::QueueError(error)) => {
            warn!(error = %chain(&error), "watch was interrupted");
        }
        Err(other) => error!(error = %chain(&other), "controller stopped unexpectedly"),
    }
}

/// Waits until the API server knows FlightClusters; until then probes say why this isn't ready.
async fn wait_for_definition<F: Future<Output = ()>>(
    client: &Client,
    arguments: &RunArguments,
    component: &Component,
    metrics: &OperatorMetrics,
    tell: impl Fn() -> F,
) {
    let namespace = arguments.watch_namespaces.first().map(String::as_str);
    let clusters: Api<FlightCluster> = scoped(client, namespace);
    let mut told = false;
    loop {
        match clusters
            .list_metadata(&ListParams::default().limit(1))
            .await
        {
            Ok(_) => {
                metrics.crd_missing.set(0);
                component.set_ok();
                return;
            }
            // By code: a group that the API server doesn't know is answered with bare text.
            Err(kube::Error::Api(status)) if status.code == NOT_FOUND => {
                metrics.crd_missing.set(1);
                let reason = "the CustomResourceDefinition flightclusters.flightcluster.io is \
                              missing; install the chart flightcluster-crds";
                component.set_not_ok(reason);
                if !told {
                    told = true;
                    warn!("{reason}");
                    tell().await;
                }
            }
            Err(error) => {
                let reason = chain(&error);
                warn!(error = reason, "FlightClusters could not be listed");
                component.set_not_ok(reason);
            }
        }
        tokio::time::sleep(DEFINITION_POLL).await;
    }
}

async fn tell_missing(observer: &Observer, own_pod: &Option<ObjectReference>) {
    if let Some(pod) = own_pod {
        let note = "FlightClusters can't be managed: their CustomResourceDefinition is missing; \
                    install the chart flightcluster-crds";
        observer
            .tell(pod, &[News::warning("DefinitionMissing", note)])
            .await;
    }
}

async fn serve_admin(
    arguments: &RunArguments,
    health: &Health,
    metrics: &OperatorMetrics,
) -> anyhow::Result<()> {
    let listen = arguments.listen;
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listening on {listen}; choose another address with --listen"))?;
    let bound = listener
        .local_addr()
        .context("reading the address that was bound")?;
    if let Some(file) = &arguments.port_file {
        write_port_file(file, bound.port())?;
    }
    info!(address = %bound, "serving probes and metrics");
    let router = admin::router(health.clone(), metrics.exposition());
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            error!(error = %chain(&error), "probes and metrics are no longer served");
        }
    });
    Ok(())
}

/// Written under another name first, so that whoever waits for it never reads half of it.
fn write_port_file(file: &Path, port: u16) -> anyhow::Result<()> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, format!("{{\"admin\": {port}}}\n"))
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("writing the port file {}", file.display()))
}

/// Runs `work` unless `stop` comes first.
async fn until<T>(stop: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    let stopped: BoxFuture<'_, ()> = stop.cancelled().boxed();
    match future::select(pin!(work), stopped).await {
        future::Either::Left((output, _)) => Some(output),
        future::Either::Right(_) => None,
    }
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "stopping");
        token.cancel();
    });
    Ok(stop)
}

fn own_pod(namespace: &str, name: Option<&str>) -> Option<ObjectReference> {
    name.map(|name| ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    })
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| format!("process-{}", std::process::id()))
}
