//! A Kubernetes namespace of one test, and what the test does in it.
//!
//! Waiting is in [`super::wait`], killing processes in [`super::processes`].

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret, Service};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;

use super::TestCluster;

/// Marks the namespaces of tests; the value is the name the test gave.
pub(super) const TEST_LABEL: &str = "flightcluster.io/e2e-test";

/// A namespace and the cluster it is in.
pub struct TestNamespace {
    cluster: TestCluster,
    name: String,
}

impl TestNamespace {
    pub(super) async fn create(cluster: TestCluster, prefix: &str) -> Result<Self> {
        let api: Api<Namespace> = Api::all(cluster.client());
        let namespace = serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"generateName": format!("{prefix}-"), "labels": {TEST_LABEL: prefix}},
        }))
        .context("writing a namespace")?;
        let made = api
            .create(&PostParams::default(), &namespace)
            .await
            .with_context(|| format!("making a namespace for {prefix}"))?;
        Ok(Self {
            cluster,
            name: made.name_any(),
        })
    }

    pub(super) fn existing(cluster: TestCluster, name: &str) -> Self {
        Self {
            cluster,
            name: name.to_owned(),
        }
    }

    /// The full name, with the random ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster around it.
    pub fn cluster(&self) -> &TestCluster {
        &self.cluster
    }

    /// The objects of one kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client(), &self.name)
    }

    /// Runs kubectl in this namespace and returns what it printed.
    pub async fn kubectl(&self, words: &[&str]) -> Result<String> {
        self.cluster.kubectl(&self.with_namespace(words)).await
    }

    /// Applies one or more YAML documents by server-side apply; objects without a namespace go
    /// into this one.
    ///
    /// Errors: the API server refused one; the text holds its reason. Others may be applied.
    pub async fn apply_yaml(&self, text: &str) -> Result<String> {
        let words = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename",
            "-",
        ];
        self.cluster
            .tool("kubectl", &self.with_namespace(&words), Some(text))
            .await
    }

    /// The pods with these labels (`app=web,role=a`; all of them for an empty text), by name.
    pub async fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let mut pods = self
            .api::<Pod>()
            .list(&ListParams::default().labels(selector))
            .await
            .with_context(|| format!("listing the pods {selector}"))?
            .items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// Runs a command in a pod's first (or default) container and returns its standard output.
    ///
    /// Errors: it ended with another code than 0; the text holds its standard error.
    pub async fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", pod, "--"], command].concat())
            .await
    }

    /// The log of a pod's container so far.
    pub async fn logs(&self, pod: &str, container: &str) -> Result<String> {
        self.kubectl(&["logs", pod, "--container", container]).await
    }

    /// Deletes a pod with its grace period and returns when that very pod is gone.
    pub async fn delete_pod(&self, pod: &str) -> Result<()> {
        self.kubectl(&["delete", "pod", pod, "--wait=true", "--timeout=120s"])
            .await
            .map(drop)
    }

    /// The address of a Service's port, reachable from this process.
    ///
    /// - `port` is the name of the port or its number.
    /// - Errors: no such Service or port, or the Service is headless.
    pub async fn service_address(&self, service: &str, port: &str) -> Result<SocketAddr> {
        let object = self
            .api::<Service>()
            .get(service)
            .await
            .with_context(|| format!("reading {service}"))?;
        let spec = object.spec.context("a Service has a spec")?;
        let address: IpAddr = spec
            .cluster_ip
            .as_deref()
            .and_then(|address| address.parse().ok())
            .with_context(|| format!("the Service {service} has no cluster IP"))?;
        let number = spec
            .ports
            .into_iter()
            .flatten()
            .find(|each| each.name.as_deref() == Some(port) || each.port.to_string() == port)
            .with_context(|| format!("the Service {service} has no port {port}"))?
            .port;
        let number = u16::try_from(number).context("a port number has 16 bits")?;
        Ok(SocketAddr::new(address, number))
    }

    /// The name under which pods and this process find a Service of this namespace.
    pub fn service_name(&self, service: &str) -> String {
        format!("{service}.{}.svc.cluster.local", self.name)
    }

    /// The decoded content of a Secret.
    pub async fn secret(&self, name: &str) -> Result<BTreeMap<String, Vec<u8>>> {
        let secret = self
            .api::<Secret>()
            .get(name)
            .await
            .with_context(|| format!("reading the Secret {name}"))?;
        Ok(secret
            .data
            .into_iter()
            .flatten()
            .map(|(key, value)| (key, value.0))
            .collect())
    }

    /// Deletes the namespace with everything in it, without waiting for the end.
    pub async fn delete(&self) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.cluster.client());
        api.delete(&self.name, &DeleteParams::default())
            .await
            .with_context(|| format!("deleting the namespace {}", self.name))?;
        Ok(())
    }

    /// Writes everything about this namespace to the dump folder and prints where.
    pub async fn dump_on_failure(&self) {
        let folder = self.cluster.dumps.join(&self.name);
        super::dump::write(&self.cluster, &self.name, &folder).await;
        eprintln!(
            "objects, events and logs of {} are in {}",
            self.name,
            folder.display()
        );
    }

    fn with_namespace<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        [&["--namespace", self.name.as_str()], words].concat()
    }
}
