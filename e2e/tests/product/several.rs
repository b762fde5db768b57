//! Several ingesters and queriers: every querier sees the rows of every ingester, or says so.

use anyhow::{Result, ensure};
use flightcluster_e2e::cluster::{Progress, Signal, TestNamespace, wait_until};
use serde_json::json;

use crate::product::{CONTAINER, LIMIT, Product, in_noisy_namespace};

/// Two of each; rows stay in the ingesters' logs, where only the internal port gives them.
const SPEC: &str = "{querier: {replicas: 2}, ingester: {replicas: 2}, \
                    config: {ingest: {flush_interval: 1h}}}";

/// What a querier logs while it tries to reach an ingester.
const UNREACHED: &str = "taking a new snapshot";

/// The address of one pod, as the certificate names it.
fn pod_uri(namespace: &TestNamespace, role: &str, number: u32) -> String {
    let pod = format!("demo-{role}-{number}.demo-{role}-pods");
    format!("grpc+tls://{}:17001", namespace.service_name(&pod))
}

/// S0-10, S1-3: fresh rows come from every ingester over mutual TLS; one that does not answer fails
/// the query instead of making it short.
#[tokio::test]
async fn every_querier_sees_every_ingester_or_says_which_is_missing() -> Result<()> {
    in_noisy_namespace("several", &[UNREACHED], async |namespace| {
        let demo = Product::new(namespace, "demo");
        demo.apply(SPEC).await?;
        demo.wait_until_ready().await?;
        let queriers = [0, 1].map(|number| pod_uri(namespace, "querier", number));
        let ingesters = [0, 1].map(|number| pod_uri(namespace, "ingester", number));
        demo.put_at(&ingesters[0], "default.events", 0, 500).await?;
        demo.put_at(&ingesters[1], "default.events", 500, 500)
            .await?;
        // A querier passes an upload on.
        demo.put_at(&queriers[0], "default.events", 1000, 100)
            .await?;

        let sql = "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM events";
        let all = json!([{"n": 1100, "ids": 1100}]);
        for querier in &queriers {
            assert_eq!(demo.query_at(querier, "default", sql).await?, all);
        }

        namespace
            .kill_container_process("demo-ingester-1", CONTAINER, Signal::STOP)
            .await?;
        let answer = demo.query_at(&queriers[0], "default", sql).await;
        namespace
            .kill_container_process("demo-ingester-1", CONTAINER, Signal::CONT)
            .await?;
        let error = match answer {
            Ok(rows) => anyhow::bail!("an answer without an ingester: {rows}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(error.contains("FlightUnavailableError"), "{error}");
        ensure!(error.contains("demo-ingester-1"), "{error}");

        for querier in &queriers {
            wait_until("all rows again", LIMIT, async || {
                Ok(match demo.query_at(querier, "default", sql).await {
                    Ok(rows) if rows == all => Progress::Done(()),
                    Ok(rows) => anyhow::bail!("a short answer: {rows}"),
                    Err(error) => Progress::Waiting(format!("{error:#}")),
                })
            })
            .await?;
        }
        Ok(())
    })
    .await
}
