//! What runs in the cluster from the beginning: DNS and the default StorageClass.
//!
//! The provisioner behind that StorageClass is in [`crate::provisioner`].

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};

use super::NAME;
use super::control_plane::flag;
use crate::command;
use crate::places::NodeFolder;

const MANIFEST: &str = include_str!("addons.yaml");

const READY_LIMIT: Duration = Duration::from_secs(120);

/// Applies DNS and the StorageClass.
pub(super) async fn apply(tools: &Path, folder: &NodeFolder) -> Result<()> {
    let file = folder.join("etc/addons.yaml");
    fs::write(&file, MANIFEST).context("writing the manifest of DNS and storage")?;
    let mut kubectl = Command::new(tools.join("kubectl"));
    kubectl
        .arg(flag("kubeconfig", folder.kubeconfig().display()))
        .args(["apply", "--filename"])
        .arg(&file);
    command::run(&mut kubectl).context("applying DNS and storage")?;
    Ok(())
}

/// Waits until the node is Ready, the DNS server runs and its Service answers.
///
/// Errors: not within two minutes; the error says which of them.
pub(super) async fn wait_until_ready(client: Client) -> Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let ready = await_condition(nodes, NAME, |node: Option<&Node>| {
        node.is_some_and(is_ready)
    });
    tokio::time::timeout(READY_LIMIT, ready)
        .await
        .context("the node is not Ready after two minutes")?
        .context("watching the node")?;
    let deployments: Api<Deployment> = Api::namespaced(client, "kube-system");
    let running = await_condition(
        deployments,
        "coredns",
        conditions::is_deployment_completed(),
    );
    tokio::time::timeout(READY_LIMIT, running)
        .await
        .context("DNS is not running after two minutes")?
        .context("watching DNS")?;
    tokio::time::timeout(READY_LIMIT, wait_for_dns())
        .await
        .context("DNS does not answer after two minutes")
}

/// Asks through the resolver of this process, so through the Service and the packet filter.
async fn wait_for_dns() {
    let mut interval = tokio::time::interval(Duration::from_millis(100));
    loop {
        interval.tick().await;
        if tokio::net::lookup_host("kubernetes.default.svc.cluster.local:443")
            .await
            .is_ok()
        {
            return;
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
