//! Specs with mistakes, and how they are put right.

use anyhow::{Result, ensure};
use flightcluster_crds::v1alpha1::ConditionType;
use serde_json::json;

use crate::product::{Product, in_namespace};
use crate::versions;

const GOOD: &str = "{config: {query: {batch_rows: 4096}}}";

/// Mistakes that no schema can find.
const BAD: &str = "{
    ingester: {malloc: {dirtyDecay: soon}, storage: {size: 20Gi}},
    querier: {podTemplate: {spec: {nodeSelektor: {disk: nvme}}}},
    auth: {tokenSecrets: [missing]},
    config: {query: {batch_rowz: 7}}}";

const PROBLEMS: [&str; 5] = [
    "ingester.malloc.dirtyDecay: expected a duration",
    "ingester.storage.size: changing the size of existing volumes (10Gi to 20Gi)",
    "querier.podTemplate.spec.nodeSelektor: is no field",
    "auth.tokenSecrets[0]: Secret missing is not there",
    "config.query.batch_rowz: unknown setting; did you mean query.batch_rows?",
];

const FIXED: &str = "{config: {query: {batch_rows: 1024}}}";

#[tokio::test]
async fn a_bad_spec_is_explained_and_leaves_the_running_cluster_alone() -> Result<()> {
    in_namespace("specs", async |namespace| {
        let demo = Product::new(namespace, "demo");
        demo.apply(GOOD).await?;
        demo.wait_until_ready().await?;
        demo.put("default.events", 0, 100).await?;
        let before = versions::owned(namespace, "demo").await?;

        demo.apply(BAD).await?;
        let bad = demo
            .wait_for_condition(ConditionType::ConfigurationValid, "False")
            .await?;
        for problem in PROBLEMS {
            ensure!(
                bad.message.contains(problem),
                "{problem:?} is not in {:?}",
                bad.message
            );
        }
        let stalled = demo
            .wait_for_condition(ConditionType::Stalled, "True")
            .await?;
        assert_eq!(stalled.reason, "InvalidSpec");
        demo.wait_for_condition(ConditionType::Ready, "False")
            .await?;
        demo.wait_for_condition(ConditionType::Available, "True")
            .await?;
        let sql = "SELECT count(*) AS n FROM events";
        assert_eq!(demo.query("default", sql).await?, json!([{"n": 100}]));
        assert_eq!(versions::owned(namespace, "demo").await?, before);

        demo.apply(FIXED).await?;
        demo.wait_until_ready().await?;
        demo.wait_for_condition(ConditionType::ConfigurationValid, "True")
            .await?;
        demo.wait_for_condition(ConditionType::Stalled, "False")
            .await?;
        assert_eq!(demo.query("default", sql).await?, json!([{"n": 100}]));
        // The settings did arrive: pods of another revision run.
        let after = versions::owned(namespace, "demo").await?;
        for pod in ["Pod/demo-querier-0", "Pod/demo-ingester-0"] {
            assert_ne!(after.get(pod), before.get(pod), "{pod}");
        }
        Ok(())
    })
    .await
}

/// S1-17: a crash loop is visible with the last words of the process.
#[tokio::test]
async fn a_pod_that_cannot_run_is_reported_with_the_reason() -> Result<()> {
    in_namespace("degraded", async |namespace| {
        let demo = Product::new(namespace, "demo");
        demo.apply("{image: {tag: never-built, pullPolicy: Never}}")
            .await?;
        let degraded = demo
            .wait_for_condition(ConditionType::Degraded, "True")
            .await?;
        ensure!(
            degraded.message.contains("ErrImageNeverPull")
                && degraded.message.contains("never-built"),
            "{}",
            degraded.message
        );
        demo.apply("{image: {tag: dev}}").await?;
        demo.wait_until_ready().await?;
        demo.wait_for_condition(ConditionType::Degraded, "False")
            .await?;
        Ok(())
    })
    .await
}
