//! At rest nothing is written, whoever the operator is.

use std::time::Duration;

use anyhow::{Context, Result};
use flightcluster_crds::v1alpha1::FlightCluster;
use flightcluster_e2e::cluster::{Progress, TestNamespace, wait_until};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::process::Command;

use crate::operator::{self, RELEASE, SELECTOR};
use crate::product::{LIMIT, Product, in_namespace};
use crate::versions;

/// How long nothing may happen. Longer than any period of the operator that a loop would show in.
const REST: Duration = Duration::from_secs(15);

/// The metrics of the only operator pod.
async fn metrics(operator: &TestNamespace) -> Result<String> {
    let pods = operator.pods(SELECTOR).await?;
    let address = pods
        .first()
        .and_then(|pod| pod.status.as_ref()?.pod_ip.clone())
        .context("the operator has an address")?;
    let url = format!("http://{address}:17201/metrics");
    let output = Command::new("curl")
        .args(["--silent", "--fail", &url])
        .output()
        .await?;
    Ok(String::from_utf8(output.stdout)?)
}

/// The sum of a metric over all its labels.
fn sum(metrics: &str, name: &str) -> f64 {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' '])
            .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    samples.sum()
}

/// Waits until the operator has told of the readiness: it does so after writing the status.
async fn wait_for_the_last_event(namespace: &TestNamespace) -> Result<()> {
    let selector = "--field-selector=reason=Ready,involvedObject.kind=FlightCluster";
    wait_until("the event of the readiness", LIMIT, async || {
        let words = ["get", "events", selector, "--output=name"];
        let events = namespace.kubectl(&words).await?;
        Ok(if events.is_empty() {
            Progress::Waiting("no such event".to_owned())
        } else {
            Progress::Done(())
        })
    })
    .await
}

/// Waits until the new operator leads and has looked at every FlightCluster.
async fn wait_until_all_are_reconciled(operator: &TestNamespace) -> Result<()> {
    let clusters: Api<FlightCluster> = Api::all(operator.cluster().client());
    let count = clusters
        .list_metadata(&ListParams::default())
        .await?
        .items
        .len();
    wait_until("the operator's first passes", LIMIT, async || {
        let metrics = metrics(operator).await?;
        let leads = sum(&metrics, "flightcluster_operator_leader") > 0.0;
        let passes = sum(&metrics, "flightcluster_operator_reconcile_total");
        Ok(if leads && passes >= f64::from(u32::try_from(count)?) {
            Progress::Done(())
        } else {
            Progress::Waiting(format!("leads: {leads}; {passes} of {count} passes"))
        })
    })
    .await
}

#[tokio::test]
async fn an_operator_restart_and_time_change_nothing() -> Result<()> {
    in_namespace("steady", async |namespace| {
        let demo = Product::new(namespace, "demo");
        demo.apply("{}").await?;
        demo.wait_until_ready().await?;
        wait_for_the_last_event(namespace).await?;
        let operator = operator::install(namespace.cluster()).await?;
        let old = operator.pods(SELECTOR).await?;
        let before = versions::everything(namespace, "demo").await?;

        let deployment = format!("deployment/{RELEASE}");
        operator
            .kubectl(&["rollout", "restart", &deployment])
            .await?;
        operator
            .kubectl(&["rollout", "status", &deployment, "--timeout=120s"])
            .await?;
        for pod in &old {
            operator
                .wait_until_gone::<k8s_openapi::api::core::v1::Pod>(&pod.name_any(), LIMIT)
                .await?;
        }
        wait_until_all_are_reconciled(&operator).await?;
        assert_eq!(versions::everything(namespace, "demo").await?, before);

        // That nothing happens can only be seen by waiting.
        tokio::time::sleep(REST).await;
        assert_eq!(versions::everything(namespace, "demo").await?, before);
        Ok(())
    })
    .await
}
