//! A test's namespace with a FlightCluster in it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flightcluster_crds::v1alpha1::{ConditionType, FlightCluster};
use flightcluster_e2e::cluster::{TestCluster, TestNamespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use serde_json::Value;

use crate::operator;

/// Far beyond what any step takes on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// The image of the product in the node.
pub(crate) const IMAGE: &str = "localhost/flightcluster:dev";

/// The container of every pod of a FlightCluster.
pub(crate) const CONTAINER: &str = "flightcluster";

/// Parts of the warnings of roles that started before the catalog, which keeps the files too.
const STARTING: [&str; 2] = [
    "waiting for the catalog",
    "the object store can't be used; trying again",
];

/// Runs `body` in a namespace with enforced Pod Security and an operator that works; afterwards the
/// logs must hold no error and no warning.
pub(crate) async fn in_namespace(
    prefix: &str,
    body: impl AsyncFnOnce(&TestNamespace) -> Result<()>,
) -> Result<()> {
    in_noisy_namespace(prefix, &[], body).await
}

/// Like [`in_namespace`], for a test that provokes warnings of which one of `announced` is a part.
pub(crate) async fn in_noisy_namespace(
    prefix: &str,
    announced: &[&str],
    body: impl AsyncFnOnce(&TestNamespace) -> Result<()>,
) -> Result<()> {
    let cluster = TestCluster::connect().await?;
    let operator = operator::install(&cluster).await?;
    cluster
        .in_namespace(prefix, async |namespace| {
            let label = "pod-security.kubernetes.io/enforce=restricted";
            let words = ["label", "namespace", namespace.name(), label];
            cluster.kubectl(&words).await?;
            body(namespace).await?;
            check_logs(namespace, announced, &operator).await
        })
        .await
}

/// A FlightCluster of the test's namespace.
pub(crate) struct Product<'a> {
    pub(crate) namespace: &'a TestNamespace,
    pub(crate) name: &'a str,
}

impl<'a> Product<'a> {
    pub(crate) fn new(namespace: &'a TestNamespace, name: &'a str) -> Self {
        Self { namespace, name }
    }

    /// Applies a spec, written in YAML's flow style (`{}` for all defaults).
    pub(crate) async fn apply(&self, spec: &str) -> Result<()> {
        self.namespace
            .apply_yaml(&self.manifest(spec))
            .await
            .map(drop)
    }

    pub(crate) fn manifest(&self, spec: &str) -> String {
        format!(
            "{{apiVersion: flightcluster.io/v1alpha1, kind: FlightCluster, \
             metadata: {{name: {}}}, spec: {spec}}}",
            self.name
        )
    }

    /// Waits until the present spec is carried out and the cluster serves.
    pub(crate) async fn wait_until_ready(&self) -> Result<()> {
        let object = format!("flightcluster/{}", self.name);
        self.namespace
            .wait_for_condition(&object, "Ready", LIMIT)
            .await
    }

    /// Waits until a condition has this value for the present generation, and returns it.
    pub(crate) async fn wait_for_condition(
        &self,
        type_: ConditionType,
        status: &str,
    ) -> Result<Condition> {
        let what = format!("{type_}={status}");
        let wanted = |cluster: &FlightCluster| {
            let condition = condition(cluster, type_)?;
            let current = condition.observed_generation == cluster.metadata.generation;
            (current && condition.status == status).then(|| condition.clone())
        };
        let cluster = self
            .namespace
            .wait_for(self.name, &what, LIMIT, |cluster| wanted(cluster).is_some())
            .await?;
        wanted(&cluster).context("the condition was there")
    }

    pub(crate) fn selector(&self, role: &str) -> String {
        format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component={role}",
            self.name
        )
    }

    /// The first pod of a role.
    pub(crate) fn pod(&self, role: &str) -> String {
        format!("{}-{role}-0", self.name)
    }

    /// Deletes the first pod of a role and waits until its successor is ready.
    pub(crate) async fn replace_pod(&self, role: &str) -> Result<()> {
        self.namespace.delete_pod(&self.pod(role)).await?;
        self.namespace
            .wait_until_ready(&self.selector(role), 1, LIMIT)
            .await?;
        self.wait_until_ready().await
    }

    /// Writes the connection Secret to a folder, one file for each key, as a pod would mount it.
    pub(crate) async fn connection(&self) -> Result<PathBuf> {
        let relative = format!("connections/{}/{}", self.namespace.name(), self.name);
        let folder = self.namespace.cluster().folder().join(&relative);
        fs::create_dir_all(&folder).context("making the folder of the connection")?;
        let secret = format!("{}-connection", self.name);
        for (key, value) in self.namespace.secret(&secret).await? {
            fs::write(folder.join(key), value).context("writing a key of the connection")?;
        }
        Ok(folder)
    }
}

pub(crate) fn condition(cluster: &FlightCluster, type_: ConditionType) -> Option<&Condition> {
    let conditions = &cluster.status.as_ref()?.conditions;
    conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_str())
}

/// Fails when a pod logged an error or warning that was not announced, or the operator one about this
/// namespace.
async fn check_logs(
    namespace: &TestNamespace,
    announced: &[&str],
    operator: &TestNamespace,
) -> Result<()> {
    let is_starting = |line: &str| {
        let warnings = lines_of_level(line, &["WARN"]);
        !warnings.is_empty() && STARTING.iter().any(|part| line.contains(part))
    };
    let is_announced =
        |line: &str| is_starting(line) || announced.iter().any(|part| line.contains(part));
    for pod in namespace
        .pods("app.kubernetes.io/name=flightcluster")
        .await?
    {
        let log = namespace.logs(&pod.name_any(), CONTAINER).await;
        // A pod that is on its way out may be gone by now.
        let mut lines = lines_of_level(&log.unwrap_or_default(), &["ERROR", "WARN"]);
        lines.retain(|line| !is_announced(line));
        ensure!(lines.is_empty(), "{} logged: {lines:#?}", pod.name_any());
    }
    for pod in operator.pods(operator::SELECTOR).await? {
        let log = operator
            .logs(&pod.name_any(), "operator")
            .await
            .unwrap_or_default();
        let lines = lines_of_level(&log, &["ERROR", "WARN"]);
        let lines = lines
            .into_iter()
            .filter(|line| concerns(line, namespace.name()));
        let lines: Vec<String> = lines.collect();
        ensure!(lines.is_empty(), "the operator logged: {lines:#?}");
    }
    Ok(())
}

/// Whether a line of the operator's log is about a namespace, or about rights that it lacks. In a
/// namespace that is being deleted, like another test's, nothing can be made any more.
fn concerns(line: &str, namespace: &str) -> bool {
    let lacks_rights = line.contains("forbidden") && !line.contains("is being terminated");
    line.contains(namespace) || lacks_rights
}

/// The lines of a JSON log that have one of these levels.
fn lines_of_level(log: &str, levels: &[&str]) -> Vec<String> {
    log.lines()
        .filter(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line["level"]
                .as_str()
                .is_some_and(|level| levels.contains(&level))
        })
        .map(str::to_owned)
        .collect()
}
