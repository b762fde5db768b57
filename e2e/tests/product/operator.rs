//! The operator of the node: installed once by the charts, as the README says.

use std::path::PathBuf;

use anyhow::Result;
use flightcluster_e2e::cluster::{TestCluster, TestNamespace};

/// The namespace of the operator.
pub(crate) const NAMESPACE: &str = "flightcluster-system";

/// The release, and with it every object of the operator.
pub(crate) const RELEASE: &str = "flightcluster-operator";

/// The labels of its pods.
pub(crate) const SELECTOR: &str = "app.kubernetes.io/name=flightcluster-operator";

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(path)
}

/// Installs both charts unless another test has; returns when the operator is ready.
pub(crate) async fn install(cluster: &TestCluster) -> Result<TestNamespace> {
    cluster
        .once("operator", async || install_charts(cluster).await)
        .await?;
    Ok(cluster.existing_namespace(NAMESPACE))
}

async fn install_charts(cluster: &TestCluster) -> Result<()> {
    let namespace = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}, \
         labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
    );
    cluster
        .existing_namespace("default")
        .apply_yaml(&namespace)
        .await?;
    let crds = repository("charts/flightcluster-crds");
    cluster
        .helm_install(NAMESPACE, "flightcluster-crds", &crds, &[])
        .await?;
    let operator = repository("charts/flightcluster-operator");
    // The node has the image under this tag; the chart's default is the version of a release.
    let values = [("image.tag", "dev")];
    cluster
        .helm_install(NAMESPACE, RELEASE, &operator, &values)
        .await
}
