//! Faults: signals to the processes of containers, which run in this process namespace.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use rustix::process::{Pid, Signal, kill_process};

use super::TestNamespace;

/// Where containerd's shim keeps a folder for each container, named by its id.
const TASKS: &str = "/run/containerd/io.containerd.runtime.v2.task/k8s.io";

/// One run of a container: a restarted container has another id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(String);

impl TestNamespace {
    /// The id of a running container.
    pub async fn container_id(&self, pod: &str, container: &str) -> Result<ContainerId> {
        let object = self
            .api::<Pod>()
            .get(pod)
            .await
            .with_context(|| format!("reading {pod}"))?;
        let status = status_of(&object, container)
            .with_context(|| format!("the pod {pod} has no container {container} yet"))?;
        let id = status
            .container_id
            .as_deref()
            .and_then(|id| id.strip_prefix("containerd://"));
        Ok(ContainerId(
            id.context("the container has not started")?.to_owned(),
        ))
    }

    /// The process id of a container's first process, as this process sees it.
    pub async fn container_process(&self, pod: &str, container: &str) -> Result<u32> {
        let id = self.container_id(pod, container).await?;
        let file = format!("{TASKS}/{}/init.pid", id.0);
        let text = fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
        text.trim()
            .parse()
            .with_context(|| format!("understanding {file}"))
    }

    /// Sends a signal to a container's first process from outside: `KILL` is a crash, `STOP` a
    /// pause until `CONT`.
    ///
    /// Returns the id of the container that was hit, for [`Self::wait_for_restart`].
    pub async fn kill_container_process(
        &self,
        pod: &str,
        container: &str,
        signal: Signal,
    ) -> Result<ContainerId> {
        let id = self.container_id(pod, container).await?;
        let process = self.container_process(pod, container).await?;
        let pid = i32::try_from(process).ok().and_then(Pid::from_raw);
        kill_process(pid.context("a process id is positive")?, signal)
            .with_context(|| format!("sending {signal:?} to {container} of {pod}"))?;
        Ok(id)
    }

    /// Waits until a container runs under another id than `before` and is ready.
    pub async fn wait_for_restart(
        &self,
        pod: &str,
        container: &str,
        before: &ContainerId,
        limit: Duration,
    ) -> Result<()> {
        let what = format!("the container {container} is restarted and ready");
        let pod: Pod = self
            .wait_for(pod, &what, limit, |pod| {
                status_of(pod, container).is_some_and(|status| {
                    let id = status.container_id.as_deref().unwrap_or_default();
                    status.ready && !id.ends_with(&before.0)
                })
            })
            .await?;
        let restarts = status_of(&pod, container).map_or(0, |status| status.restart_count);
        ensure!(
            restarts > 0,
            "the pod was made anew instead of its container being restarted"
        );
        Ok(())
    }
}

fn status_of<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == container)
}
