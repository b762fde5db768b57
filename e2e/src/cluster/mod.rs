//! What a test does with the node it runs in.
//!
//! A test asks for a Kubernetes namespace of its own and works with the [`TestNamespace`]:
//!
//! ```no_run
//! # use anyhow::Result;
//! # use std::time::Duration;
//! use flightcluster_e2e::cluster::TestCluster;
//!
//! # async fn example() -> Result<()> {
//! TestCluster::connect()
//!     .await?
//!     .in_namespace("smoke", async |namespace| {
//!         namespace.apply_yaml("kind: ConfigMap\napiVersion: v1\nmetadata: {name: a}").await?;
//!         namespace.wait_until_ready("app=web", 2, Duration::from_secs(30)).await?;
//!         Ok(())
//!     })
//!     .await
//! # }
//! ```
//!
//! When the body returns an error or panics, objects, events and logs are written to one folder,
//! whose path is printed ([`dump`]). The namespace is deleted in every case.
//!
//! The test runs in the node's network: cluster IPs, pod addresses and the cluster's DNS names work
//! for it and for the clients it starts, as they do in a pod.

pub mod dump;
mod namespace;
mod once;
mod processes;
pub mod s3;
mod wait;

use std::env;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use futures::FutureExt;
use kube::Client;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::command::checked;
use crate::node;
use crate::places::{NODE_VARIABLE, NodeFolder, RUN_DUMPS_VARIABLE};

pub use namespace::TestNamespace;
pub use processes::ContainerId;
pub use rustix::process::Signal;
pub use wait::{Progress, wait_until};

const HOW_TO_RUN: &str = "this test runs inside a Kubernetes node, which \
    `flightcluster-node run -- COMMAND` starts around it (see e2e/README.md): \
    FLIGHTCLUSTER_NODE is not set";

/// The node around this test, with the administrator's rights.
#[derive(Clone)]
pub struct TestCluster {
    client: Client,
    folder: NodeFolder,
    dumps: PathBuf,
}

impl TestCluster {
    /// Finds the node this process runs in.
    ///
    /// Errors: the process was not started by `flightcluster-node run`; the text says how to.
    pub async fn connect() -> Result<Self> {
        let root = env::var_os(NODE_VARIABLE).context(HOW_TO_RUN)?;
        let dumps = env::var_os(RUN_DUMPS_VARIABLE).context(HOW_TO_RUN)?;
        let folder = NodeFolder::new(root.into());
        let client = node::client(&folder).await?;
        Ok(Self {
            client,
            folder,
            dumps: dumps.into(),
        })
    }

    /// A client with the administrator's rights.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The node's state folder, for files that should vanish with it.
    pub fn folder(&self) -> &NodeFolder {
        &self.folder
    }

    /// Makes a namespace `PREFIX-xxxxx`, runs `body` with it, and deletes it.
    ///
    /// Errors: those of `body`, after everything was dumped; a panic goes on after the dump.
    pub async fn in_namespace<T>(
        &self,
        prefix: &str,
        body: impl AsyncFnOnce(&TestNamespace) -> Result<T>,
    ) -> Result<T> {
        let namespace = self.namespace(prefix).await?;
        let outcome = AssertUnwindSafe(body(&namespace)).catch_unwind().await;
        if !matches!(outcome, Ok(Ok(_))) {
            namespace.dump_on_failure().await;
        }
        namespace.delete().await?;
        outcome.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Makes a namespace `PREFIX-xxxxx` that the caller deletes; see [`Self::in_namespace`].
    pub async fn namespace(&self, prefix: &str) -> Result<TestNamespace> {
        TestNamespace::create(self.clone(), prefix).await
    }

    /// A namespace that is there already, for example the operator's.
    pub fn existing_namespace(&self, name: &str) -> TestNamespace {
        TestNamespace::existing(self.clone(), name)
    }

    /// Runs kubectl and returns what it printed.
    ///
    /// Errors: it failed; the text holds what it wrote to standard error, so also the API server's
    /// reason for refusing an object.
    pub async fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.tool("kubectl", words, None).await
    }

    /// Runs helm and returns what it printed.
    pub async fn helm(&self, words: &[&str]) -> Result<String> {
        self.tool("helm", words, None).await
    }

    /// Installs or upgrades a release from a chart folder and waits until its pods are Ready.
    ///
    /// - `values` are `--set` pairs; the namespace is made when it is missing.
    /// - Errors: helm's, also when the pods are not Ready within two minutes.
    pub async fn helm_install(
        &self,
        namespace: &str,
        release: &str,
        chart: &Path,
        values: &[(&str, &str)],
    ) -> Result<()> {
        let chart = chart.to_string_lossy();
        let mut words = vec![
            "upgrade",
            "--install",
            release,
            &chart,
            "--namespace",
            namespace,
        ];
        words.extend(["--create-namespace", "--wait", "--timeout", "120s"]);
        let settings: Vec<String> = values
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        for setting in &settings {
            words.extend(["--set", setting]);
        }
        self.helm(&words).await.map(drop)
    }

    /// Does `action` once for all tests of this node, for example installing the operator.
    ///
    /// Other tests, also in other processes, wait until it is done. After an error the next one
    /// tries again.
    pub async fn once(&self, what: &str, action: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        once::once(&self.folder, what, action).await
    }

    async fn tool(&self, program: &str, words: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = Command::new(program);
        command
            .args(words)
            .env("KUBECONFIG", self.folder.kubeconfig())
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {program}"))?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            pipe.write_all(input.as_bytes())
                .await
                .with_context(|| format!("writing to {program}"))?;
        }
        let output = child
            .wait_with_output()
            .await
            .with_context(|| format!("waiting for {program}"))?;
        checked(command.as_std(), output)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[tokio::test]
    async fn a_test_outside_of_a_node_fails_and_says_how_to_run_it() {
        let error = TestCluster::connect()
            .await
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(error.contains("flightcluster-node run"), "{error}");
    }
}
