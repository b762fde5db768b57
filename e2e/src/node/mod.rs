//! A one-node Kubernetes inside private namespaces, made of the real components.
//!
//! The calling process must already be in namespaces of its own (the [`crate::runner`] makes them);
//! [`Node::start`] then fills them: files and network (`namespaces`), certificates (`pki`), the
//! processes (`control_plane`, `worker`) and what runs in the cluster from the beginning
//! (`addons`). Ending is not done here: when the first process of the process namespace ends, the
//! kernel takes everything else with it.

mod addons;
mod control_plane;
mod daemon;
mod namespaces;
mod pki;
mod worker;

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

use crate::places::{NodeFolder, Places};
use daemon::Daemon;

/// The node's name in Kubernetes and its host name.
pub const NAME: &str = "flightcluster-node";
/// The node's address; pods reach servers that a test starts on the node under it.
pub const ADDRESS: &str = "172.31.99.1";
/// The range of the cluster IPs of Services.
const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The first address of that range: the API server as seen from pods.
const API_SERVICE_ADDRESS: &str = "10.96.0.1";
/// The cluster IP of the DNS server.
const DNS_ADDRESS: &str = "10.96.0.10";
/// The range of pod addresses.
const POD_RANGE: &str = "10.244.0.0/16";
/// Where the API server listens.
const API_PORT: u16 = 6443;

/// A running node. Dropping it does not end it.
pub struct Node {
    daemons: Vec<Daemon>,
    client: Client,
}

impl Node {
    /// Brings the node up and returns when it is Ready, with DNS answering and a default
    /// StorageClass (about 6 seconds, all images imported).
    ///
    /// - Errors: a step failed or a process ended; the error holds the end of its log.
    /// - Cancellation: what was started keeps running until the process namespace ends.
    pub async fn start(places: &Places, folder: &NodeFolder) -> Result<Self> {
        let begun = Instant::now();
        namespaces::prepare(folder).context("preparing the node's namespaces")?;
        pki::create(folder).context("making the node's certificates")?;
        let tools = places.tools();
        let mut daemons = control_plane::start_store(&tools, folder).await?;
        daemons.push(worker::start_containerd(&tools, folder)?);
        daemons.extend(control_plane::start_api(&tools, folder).await?);
        report(begun, "API server ready");
        let containerd = daemons
            .iter_mut()
            .find(|daemon| daemon.name() == "containerd");
        worker::import_images(
            &tools,
            folder,
            containerd.context("containerd was started")?,
        )
        .await?;
        report(begun, "images imported");
        daemons.extend(worker::start_agents(&tools, folder)?);
        let client = client(folder).await?;
        addons::apply(&tools, folder).await?;
        let mut node = Self { daemons, client };
        node.wait_until_ready(folder).await?;
        report(begun, "node Ready, DNS ready");
        Ok(node)
    }

    /// A client with the administrator's rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Checks that every process of the node still runs.
    ///
    /// Errors: one ended; the error names it and holds the end of its log.
    pub fn check_alive(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(Daemon::check_alive)
    }

    async fn wait_until_ready(&mut self, folder: &NodeFolder) -> Result<()> {
        let waiting = addons::wait_until_ready(self.client.clone());
        tokio::select! {
            result = waiting => result?,
            error = first_death(&mut self.daemons) => return Err(error),
        }
        fs::write(folder.ready_file(), "").context("marking the node as ready")
    }
}

/// Ends when a process of the node ended.
async fn first_death(daemons: &mut [Daemon]) -> anyhow::Error {
    let mut interval = tokio::time::interval(daemon::POLL);
    loop {
        interval.tick().await;
        if let Err(error) = daemons.iter_mut().try_for_each(Daemon::check_alive) {
            return error;
        }
    }
}

/// A Kubernetes client for the kubeconfig of a node.
pub(crate) async fn client(folder: &NodeFolder) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(folder.kubeconfig()).context("reading kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .context("understanding kubeconfig")?;
    Client::try_from(config).context("making a Kubernetes client")
}

fn report(begun: Instant, what: &str) {
    eprintln!("node: {what} after {:.1} s", begun.elapsed().as_secs_f64());
}
