//! Waiting for conditions, always with a limit, and saying at the end of it what was seen instead.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::TestNamespace;

/// How often a condition without a watch is looked at again.
const POLL: Duration = Duration::from_millis(200);

/// What one look at a condition found.
#[derive(Debug)]
pub enum Progress<T> {
    /// It holds.
    Done(T),
    /// It does not hold yet; the text says what was seen, for the error at the end of the limit.
    Waiting(String),
}

/// Looks five times a second until `probe` is done.
///
/// Errors: `limit` passed, with what was seen last; or the first error of `probe`.
pub async fn wait_until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<Progress<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut interval = tokio::time::interval(POLL);
    loop {
        interval.tick().await;
        let seen = match probe()
            .await
            .with_context(|| format!("waiting for {what}"))?
        {
            Progress::Done(value) => return Ok(value),
            Progress::Waiting(seen) => seen,
        };
        if Instant::now() >= deadline {
            bail!("waited {limit:?} for {what}; last seen: {seen}");
        }
    }
}

impl TestNamespace {
    /// Watches an object until `condition` holds for it, and returns it. It need not exist yet.
    ///
    /// Errors: `limit` passed; the text holds the object as it was then.
    pub async fn wait_for<K>(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&K) -> bool,
    ) -> Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + DeserializeOwned + Serialize + Send + 'static,
    {
        let found = |object: Option<K>| object.filter(|object| condition(object));
        self.watch(name, what, limit, found).await
    }

    /// Waits until there is no object of that kind and name.
    ///
    /// Errors: `limit` passed; the text holds the object as it was then.
    pub async fn wait_until_gone<K>(&self, name: &str, limit: Duration) -> Result<()>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + DeserializeOwned + Serialize + Send + 'static,
    {
        let gone = |object: Option<K>| object.is_none().then_some(());
        self.watch(name, "its end", limit, gone).await
    }

    async fn watch<K, T>(
        &self,
        name: &str,
        what: &str,
        limit: Duration,
        mut decide: impl FnMut(Option<K>) -> Option<T>,
    ) -> Result<T>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
        K: Clone + std::fmt::Debug + DeserializeOwned + Serialize + Send + 'static,
    {
        let deadline = Instant::now() + limit;
        let mut changes = watch_object(self.api::<K>(), name)
            .default_backoff()
            .boxed();
        let mut last_error = None;
        while let Ok(Some(change)) = timeout_at(deadline, changes.next()).await {
            match change {
                Ok(object) => {
                    if let Some(value) = decide(object) {
                        return Ok(value);
                    }
                }
                // The watch is begun anew: its failures only matter when the limit passes.
                Err(error) => last_error = Some(error),
            }
        }
        let now = self
            .api::<K>()
            .get_opt(name)
            .await
            .context("reading the object again")?;
        let text = serde_yaml::to_string(&now).context("writing the object")?;
        let kind = K::kind(&());
        let error = last_error
            .map(|error| format!(" (watch: {error})"))
            .unwrap_or_default();
        bail!("waited {limit:?} for {kind} {name}: {what}{error}; it is:\n{text}")
    }

    /// Waits until exactly `count` pods have these labels and all are Ready; returns them by name.
    ///
    /// Errors: `limit` passed; the text lists the pods with their states.
    pub async fn wait_until_ready(
        &self,
        selector: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Pod>> {
        let what = format!("{count} Ready pods {selector} in {}", self.name());
        wait_until(&what, limit, async || {
            let pods = self.pods(selector).await?;
            if pods.len() == count && pods.iter().all(is_ready) {
                return Ok(Progress::Done(pods));
            }
            let states: Vec<String> = pods.iter().map(describe).collect();
            Ok(Progress::Waiting(format!(
                "{} pods: {}",
                pods.len(),
                states.join("; ")
            )))
        })
        .await
    }

    /// Waits until a condition of an object is True for its current generation, by `kubectl wait`.
    ///
    /// - `object` is `KIND/NAME`, for example `flightcluster/demo`; it must exist.
    pub async fn wait_for_condition(
        &self,
        object: &str,
        condition: &str,
        limit: Duration,
    ) -> Result<()> {
        let condition = format!("--for=condition={condition}");
        let limit = format!("--timeout={}s", limit.as_secs());
        self.kubectl(&["wait", object, &condition, &limit])
            .await
            .map(drop)
    }
}

/// Whether the pod is Ready and not about to go.
fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A pod's state in a few words.
fn describe(pod: &Pod) -> String {
    let name = pod.name_any();
    let Some(status) = &pod.status else {
        return name;
    };
    let phase = status.phase.as_deref().unwrap_or("no phase");
    let waiting = status
        .container_statuses
        .iter()
        .flatten()
        .filter_map(|container| {
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.as_deref().unwrap_or_default();
            Some(format!("{} {reason}", container.name))
        });
    let ready = if is_ready(pod) { "Ready" } else { "not Ready" };
    [name, phase.to_owned(), ready.to_owned()]
        .into_iter()
        .chain(waiting)
        .collect::<Vec<_>>()
        .join(" ")
}
