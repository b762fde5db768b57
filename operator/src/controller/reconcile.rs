//! One pass over a cluster, and what happens when it fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flightcluster_crds::v1alpha1::{FlightCluster, FlightClusterStatus, reason};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Api, Client, Resource, ResourceExt};
use rand::Rng;
use serde_json::json;
use tracing::{info, warn};

use super::apply::{self, Applier, Changes, Owner};
use super::build::build;
use super::dereference::{self, dereference, wanted_roles};
use super::material::{self, Material, provide};
use super::observe::{self, observe};
use super::resources::{Applied, Resources};
use super::rollout::{HeldBack, hold_back};
use super::status::{Failure, Input, Outcome, Success, build_status};
use super::validate::{Defaults, Problem, ValidatedCluster, validate};
use crate::observed::{News, Observer, PassOutcome, Step, chain, news_of};

/// The field manager of the status.
const STATUS_FIELD_MANAGER: &str = "flightcluster-operator/status";

/// How often a cluster at rest is looked at: a safety net for events that got lost.
const RESYNC: Duration = Duration::from_secs(10 * 60);

/// How often a cluster is looked at while pods come and go: the reasons for which a pod waits are
/// not part of what is watched.
const ROLLOUT_POLL: Duration = Duration::from_secs(10);

/// How often a cluster with problems is looked at: volume claims are not watched, and deleting one
/// may be the cure.
const PROBLEM_POLL: Duration = Duration::from_secs(60);

/// The delay after a first failure; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// The longest delay after failures.
const LONGEST_RETRY: Duration = Duration::from_secs(5 * 60);

/// What every pass needs.
pub struct Context {
    client: Client,
    defaults: Defaults,
    applier: Applier,
    observer: Observer,
    failures: Mutex<HashMap<(String, String), u32>>,
}

impl Context {
    /// The context of one process.
    #[must_use]
    pub fn new(client: Client, defaults: Defaults, observer: Observer) -> Self {
        let applier = Applier::new(client.clone());
        Self {
            client,
            defaults,
            applier,
            observer,
            failures: Mutex::default(),
        }
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.applier.forget(namespace, name);
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(String, String), u32>> {
        // Every change is one insert or remove, so a panic in between leaves nothing half done.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the spec names could not be read.
    #[error(transparent)]
    Dereference(#[from] dereference::Error),
    /// Keys or certificates could not be made.
    #[error(transparent)]
    Material(#[from] material::Error),
    /// Objects could not be written.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// Pods could not be looked at.
    #[error(transparent)]
    Observe(#[from] observe::Error),
    /// The status could not be written; everything before it was.
    #[error("writing the status")]
    WriteStatus(#[source] Box<kube::Error>),
}

impl Error {
    /// Returns the bounded name of this error for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Dereference(error) => error.category(),
            Self::Material(error) => error.category(),
            Self::Apply(error) => error.category(),
            Self::Observe(error) => error.category(),
            Self::WriteStatus(_) => "write_status",
        }
    }

    /// Returns the reason when somebody has to act before a retry can succeed.
    #[must_use]
    pub fn stall(&self) -> Option<&'static str> {
        match self {
            Self::Apply(error) => error.stall(),
            Self::Material(material::Error::UnusableAuthority { .. }) => Some(reason::UNUSABLE_CA),
            Self::Dereference(_)
            | Self::Material(material::Error::Issue { .. })
            | Self::Observe(_)
            | Self::WriteStatus(_) => None,
        }
    }
}

/// What the first steps of a pass came to.
enum Carried {
    /// The spec says that nothing is to be changed.
    Paused,
    /// The spec has problems.
    Invalid(Vec<Problem>),
    /// Every object is as wanted.
    Applied(Box<Done>),
}

/// What a pass had that got through.
struct Done {
    cluster: ValidatedCluster,
    material: Material,
    resources: Resources<Applied>,
    held_back: HeldBack,
    changes: Changes,
}

/// Carries out the spec of one cluster and says in its status how far that has come.
///
/// - Errors: see [`Error`]. Everything that was written before stays; the next pass goes on.
/// - Cancellation: as with errors.
pub async fn reconcile(
    object: Arc<DeserializeGuard<FlightCluster>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let started = Instant::now();
    let reference = object.object_ref(&());
    let cluster = match &object.0 {
        Ok(cluster) => cluster,
        Err(invalid) => {
            let news = News::warning("Unreadable", format!("the object can't be read: {invalid}"));
            context.observer.tell(&reference, &[news]).await;
            context
                .observer
                .pass(PassOutcome::Skipped, started.elapsed());
            return Ok(Action::await_change());
        }
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        // Its objects have it as their owner: Kubernetes removes them.
        context
            .observer
            .pass(PassOutcome::Skipped, started.elapsed());
        return Ok(Action::await_change());
    }
    let result = Box::pin(pass(cluster, &reference, &context)).await;
    match &result {
        Ok((outcome, _)) => {
            context.lock().remove(&key(cluster));
            context.observer.pass(*outcome, started.elapsed());
        }
        Err(error) => {
            context.observer.failure(error.category());
            context
                .observer
                .pass(PassOutcome::Failed, started.elapsed());
            let news = News::warning("ReconcileFailed", chain(error));
            context.observer.tell(&reference, &[news]).await;
        }
    }
    result.map(|(_, action)| action)
}

/// Decides when a failed pass is tried again: later after each failure, and not for all clusters at
/// the same moment.
pub fn error_policy(
    object: Arc<DeserializeGuard<FlightCluster>>,
    error: &Error,
    context: Arc<Context>,
) -> Action {
    let key = (object.namespace().unwrap_or_default(), object.name_any());
    let failures = {
        let mut failures = context.lock();
        let count = failures.entry(key.clone()).or_insert(0);
        *count = count.saturating_add(1);
        *count
    };
    let delay = retry_delay(failures, rand::rng().random_range(0.75..1.25));
    warn!(
        namespace = key.0, cluster = key.1, error = %chain(error), category = error.category(),
        failures, retry_seconds = delay.as_secs_f64(), "reconciliation failed"
    );
    Action::requeue(delay)
}

fn retry_delay(failures: u32, jitter: f64) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(LONGEST_RETRY).mul_f64(jitter)
}

async fn pass(
    cluster: &FlightCluster,
    reference: &ObjectReference,
    context: &Context,
) -> Result<(PassOutcome, Action), Error> {
    let now = whole_seconds(Timestamp::now());
    let carried = Box::pin(carry_out(cluster, context, now)).await;
    let namespace = cluster.namespace().unwrap_or_default();
    let name = cluster.name_any();
    let wanted = wanted_roles(&cluster.spec);
    let observing = observe(&context.client, &namespace, &name, wanted, now);
    let observed = match (
        context.observer.step(Step::Observe, observing).await,
        &carried,
    ) {
        (Ok(observed), _) => Some(observed),
        (Err(error), Ok(_)) => return Err(error.into()),
        // The first error is the one to report.
        (Err(_), Err(_)) => None,
    };
    let failure = carried.as_ref().err().map(|error| chain(error));
    let outcome = match &carried {
        Ok(Carried::Paused) => Outcome::Paused,
        Ok(Carried::Invalid(problems)) => Outcome::Invalid(problems),
        Ok(Carried::Applied(done)) => Outcome::Applied(Success {
            cluster: &done.cluster,
            material: &done.material,
            resources: &done.resources,
            held_back: &done.held_back,
        }),
        Err(error) => Outcome::Failed(Failure {
            message: failure.as_deref().unwrap_or_default(),
            stall: error.stall(),
        }),
    };
    let status = build_status(&Input {
        generation: cluster.metadata.generation,
        previous: cluster.status.as_ref(),
        outcome,
        observed: observed.as_ref(),
        now,
    });
    let writing = write_status(&context.client, cluster, &status);
    let written = context.observer.step(Step::Status, writing).await;
    let mut news = news_of(cluster.status.as_ref(), &status);
    if let Ok(Carried::Applied(done)) = &carried {
        news.extend(changes_as_news(done));
    }
    context.observer.tell(reference, &news).await;
    let carried = carried?;
    written?;
    Ok(next(&carried, &status, now))
}

/// The steps that lead to written objects.
async fn carry_out(
    cluster: &FlightCluster,
    context: &Context,
    now: Timestamp,
) -> Result<Carried, Error> {
    if cluster.spec.paused {
        return Ok(Carried::Paused);
    }
    let observer = &context.observer;
    let reading = Box::pin(dereference(&context.client, cluster));
    let referenced = observer.step(Step::Dereference, reading).await?;
    let validated = observer.pure_step(Step::Validate, || {
        validate(cluster, &referenced, &context.defaults)
    });
    let validated = match validated {
        Ok(validated) => validated,
        Err(problems) => return Ok(Carried::Invalid(problems)),
    };
    let material = provide(&validated, &referenced.kept, now)?;
    let (desired, held_back) = observer.pure_step(Step::Build, || {
        let mut desired = build(&validated, &material);
        let held_back = hold_back(&mut desired, &validated.names, &referenced.running);
        (desired, held_back)
    });
    let owner = Owner {
        namespace: &validated.namespace,
        name: validated.names.cluster(),
        uid: validated.uid.as_deref().unwrap_or_default(),
    };
    let applying = context.applier.apply(owner, desired);
    let (resources, changes) = observer.step(Step::Apply, applying).await?;
    Ok(Carried::Applied(Box::new(Done {
        cluster: validated,
        material,
        resources,
        held_back,
        changes,
    })))
}

/// Writes the status, unless it says what it said before.
async fn write_status(
    client: &Client,
    cluster: &FlightCluster,
    status: &FlightClusterStatus,
) -> Result<(), Error> {
    if cluster.status.as_ref() == Some(status) {
        return Ok(());
    }
    let api: Api<FlightCluster> =
        Api::namespaced(client.clone(), &cluster.namespace().unwrap_or_default());
    let patch = json!({
        "apiVersion": FlightCluster::api_version(&()),
        "kind": FlightCluster::kind(&()),
        "status": status,
    });
    let params = PatchParams::apply(STATUS_FIELD_MANAGER).force();
    api.patch_status(&cluster.name_any(), &params, &Patch::Apply(patch))
        .await
        .map(|_| ())
        .map_err(|source| Error::WriteStatus(Box::new(source)))
}

/// Decides how a pass is counted and when the next one comes if nothing happens before.
fn next(carried: &Carried, status: &FlightClusterStatus, now: Timestamp) -> (PassOutcome, Action) {
    let is_ready = status
        .conditions
        .iter()
        .any(|c| c.type_ == "Ready" && c.status == "True");
    match carried {
        Carried::Paused => (PassOutcome::Skipped, Action::requeue(RESYNC)),
        Carried::Invalid(_) => (PassOutcome::Waiting, Action::requeue(PROBLEM_POLL)),
        Carried::Applied(_) if !is_ready => (PassOutcome::Waiting, Action::requeue(ROLLOUT_POLL)),
        Carried::Applied(done) => {
            let renewal = done.material.next_renewal();
            let left = renewal.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
            // A renewal is due from its very second on.
            let left = left.map_or(RESYNC, |left| left.max(FIRST_RETRY));
            (PassOutcome::Applied, Action::requeue(left.min(RESYNC)))
        }
    }
}

fn changes_as_news(done: &Done) -> Vec<News> {
    let Done {
        cluster: _,
        material,
        resources: _,
        held_back,
        changes: Changes { written, deleted },
    } = done;
    let mut news = Vec::new();
    if !material.made.is_empty() {
        news.push(News::normal(
            "Created",
            format!("made {}", material.made.join(", ")),
        ));
    }
    if !written.is_empty() {
        news.push(News::normal(
            "Applied",
            format!("wrote {}", written.join(", ")),
        ));
    }
    if let Some(waiting) = held_back.message().filter(|_| !written.is_empty()) {
        news.push(News::normal("HeldBack", waiting));
    }
    if !deleted.is_empty() {
        news.push(News::normal(
            "Deleted",
            format!("deleted {}", deleted.join(", ")),
        ));
    }
    if !news.is_empty() {
        info!(made = ?material.made, ?written, ?deleted, "objects changed");
    }
    news
}

fn key(cluster: &FlightCluster) -> (String, String) {
    (cluster.namespace().unwrap_or_default(), cluster.name_any())
}

/// Times in a status have whole seconds; with a fraction none would equal what is read back.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_come_later_and_later_up_to_a_limit() {
        let delays: Vec<u64> = [1, 2, 3, 4, 9, 10, 40]
            .map(|n| retry_delay(n, 1.0).as_secs())
            .to_vec();
        assert_eq!(delays, [1, 2, 4, 8, 256, 300, 300]);
        assert!(retry_delay(3, 1.25) > retry_delay(3, 0.75));
    }
}
