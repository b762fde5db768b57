//! Another image: role after role, and back from one that does not work.

use anyhow::{Context, Result, ensure};
use flightcluster_crds::v1alpha1::ConditionType;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::product::{Product, in_noisy_namespace};

/// What pods say while the catalog is replaced.
const AWAY: &str = "catalog";

const COUNT: &str = "SELECT count(*) AS n FROM events";

/// What matters of the first pod of a role.
#[derive(Debug)]
struct Seen {
    uid: Option<String>,
    image: Option<String>,
    made: Time,
    ready_since: Time,
}

async fn see(demo: &Product<'_>, role: &str) -> Result<Seen> {
    let api = demo.namespace.api::<Pod>();
    let pod = api.get(&demo.pod(role)).await.context("reading a pod")?;
    let status = pod.status.unwrap_or_default();
    let mut conditions = status.conditions.into_iter().flatten();
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    Ok(Seen {
        uid: pod.metadata.uid,
        image: pod.spec.and_then(|spec| spec.containers[0].image.clone()),
        made: pod.metadata.creation_timestamp.context("it was made")?,
        ready_since: ready
            .and_then(|ready| ready.last_transition_time)
            .context("it is ready")?,
    })
}

#[tokio::test]
async fn an_upgrade_goes_from_role_to_role_and_a_stuck_one_is_taken_back() -> Result<()> {
    in_noisy_namespace("upgrade", &[AWAY], async |namespace| {
        let demo = Product::new(namespace, "demo");
        demo.apply("{image: {tag: dev}}").await?;
        demo.wait_until_ready().await?;
        demo.put("default.events", 0, 100).await?;
        Box::pin(upgrade(&demo)).await?;
        assert_eq!(demo.query("default", COUNT).await?, json!([{"n": 100}]));
        Box::pin(get_stuck_and_go_back(&demo)).await?;
        assert_eq!(demo.query("default", COUNT).await?, json!([{"n": 100}]));
        Ok(())
    })
    .await
}

async fn upgrade(demo: &Product<'_>) -> Result<()> {
    demo.apply("{image: {tag: next}}").await?;
    demo.wait_for_condition(ConditionType::Ready, "True")
        .await?;
    let mut before: Option<Seen> = None;
    for role in ["catalog", "querier", "ingester"] {
        let pod = see(demo, role).await?;
        let image = pod.image.as_deref().unwrap_or_default();
        ensure!(image.ends_with(":next"), "{role} runs {image}");
        if let Some(before) = before {
            ensure!(before.ready_since <= pod.made, "{before:?} {pod:?}");
        }
        before = Some(pod);
    }
    Ok(())
}

async fn get_stuck_and_go_back(demo: &Product<'_>) -> Result<()> {
    let before = [see(demo, "querier").await?, see(demo, "ingester").await?];
    demo.apply("{image: {tag: never-built, pullPolicy: Never}}")
        .await?;
    demo.wait_for_condition(ConditionType::Degraded, "True")
        .await?;
    let waiting = demo
        .wait_for_condition(ConditionType::Reconciling, "True")
        .await?;
    let message = waiting.message;
    let stays = "ingester: stays at localhost/flightcluster:next";
    ensure!(message.contains(stays), "{message}");
    demo.apply("{image: {tag: next}}").await?;
    demo.wait_for_condition(ConditionType::Ready, "True")
        .await?;
    let after = [see(demo, "querier").await?, see(demo, "ingester").await?];
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.uid, after.uid);
    }
    Ok(())
}
