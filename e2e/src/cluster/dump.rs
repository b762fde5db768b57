//! Everything about a failed test in one folder: objects, events, logs.
//!
//! The values of Secrets are left out: only their names and keys are written.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::TestCluster;
use super::namespace::TEST_LABEL;

/// Writes the namespace and those that belong to no test (the operator's) to `folder`.
///
/// What cannot be read is replaced by the error: a dump must not hide the failure it is about.
pub async fn write(cluster: &TestCluster, namespace: &str, folder: &Path) {
    if let Err(error) = write_all(cluster, namespace, folder).await {
        eprintln!("dumping {namespace}: {error:#}");
    }
}

async fn write_all(cluster: &TestCluster, namespace: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    save(cluster, &folder.join("nodes.txt"), &["describe", "nodes"]).await?;
    let volumes = ["get", "persistentvolumes", "--output", "yaml"];
    save(cluster, &folder.join("volumes.yaml"), &volumes).await?;
    write_namespace(cluster, namespace, folder).await?;
    for shared in shared_namespaces(cluster).await? {
        let folder = folder.join(format!("namespace-{shared}"));
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        write_namespace(cluster, &shared, &folder).await?;
    }
    Ok(())
}

async fn write_namespace(cluster: &TestCluster, namespace: &str, folder: &Path) -> Result<()> {
    let kinds = dumped_kinds(cluster).await?;
    let within = ["--namespace", namespace];
    let objects = [&within[..], &["get", &kinds, "--output", "yaml"]].concat();
    save(cluster, &folder.join("objects.yaml"), &objects).await?;
    let pods = [&within[..], &["describe", "pods"]].concat();
    save(cluster, &folder.join("pods.txt"), &pods).await?;
    let secrets = [&within[..], &["describe", "secrets"]].concat();
    save(cluster, &folder.join("secrets.txt"), &secrets).await?;
    let events = [
        &within[..],
        &["get", "events", "--sort-by=.metadata.creationTimestamp"],
    ]
    .concat();
    save(cluster, &folder.join("events.txt"), &events).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), namespace);
    for pod in pods
        .list(&ListParams::default())
        .await
        .context("listing pods")?
    {
        let spec = pod.spec.clone().unwrap_or_default();
        for container in spec
            .init_containers
            .unwrap_or_default()
            .iter()
            .chain(&spec.containers)
        {
            write_logs(cluster, namespace, folder, &pod.name_any(), &container.name).await?;
        }
    }
    Ok(())
}

/// The log of this run of the container and of the run before it.
async fn write_logs(
    cluster: &TestCluster,
    namespace: &str,
    folder: &Path,
    pod: &str,
    container: &str,
) -> Result<()> {
    let words = [
        "--namespace",
        namespace,
        "logs",
        pod,
        "--container",
        container,
    ];
    save(
        cluster,
        &folder.join(format!("{pod}.{container}.log")),
        &words,
    )
    .await?;
    if let Ok(text) = cluster
        .kubectl(&[&words[..], &["--previous"]].concat())
        .await
    {
        let path = folder.join(format!("{pod}.{container}.previous.log"));
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Every kind that lives in namespaces, except Secrets and the events, which have files of their
/// own.
async fn dumped_kinds(cluster: &TestCluster) -> Result<String> {
    let words = [
        "api-resources",
        "--namespaced",
        "--verbs=list",
        "--output=name",
    ];
    let kinds = cluster.kubectl(&words).await?;
    let kinds: Vec<&str> = kinds
        .lines()
        .filter(|kind| !matches!(*kind, "secrets" | "events" | "events.events.k8s.io"))
        .collect();
    Ok(kinds.join(","))
}

/// The namespaces that belong to no test and not to Kubernetes itself.
async fn shared_namespaces(cluster: &TestCluster) -> Result<Vec<String>> {
    let api: Api<Namespace> = Api::all(cluster.client());
    let all = api
        .list(&ListParams::default().labels(&format!("!{TEST_LABEL}")))
        .await
        .context("listing namespaces")?;
    let names = all.into_iter().map(|namespace| namespace.name_any());
    Ok(names
        .filter(|name| name != "default" && !name.starts_with("kube-"))
        .collect())
}

async fn save(cluster: &TestCluster, path: &Path, words: &[&str]) -> Result<()> {
    let text = match cluster.kubectl(words).await {
        Ok(text) => text,
        Err(error) => format!("{error:#}\n"),
    };
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
