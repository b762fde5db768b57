//! The end of a FlightCluster, and its second life.

use anyhow::Result;
use flightcluster_crds::v1alpha1::FlightCluster;
use flightcluster_e2e::cluster::{Progress, wait_until};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::ResourceExt;
use kube::api::ListParams;
use serde_json::json;

use crate::product::{LIMIT, Product, in_namespace};
use crate::versions;

#[tokio::test]
async fn a_deleted_cluster_leaves_its_volumes_and_nothing_else() -> Result<()> {
    in_namespace("deletion", async |namespace| {
        let demo = Product::new(namespace, "demo");
        demo.apply("{}").await?;
        demo.wait_until_ready().await?;
        demo.put("default.events", 0, 500).await?;
        let token = namespace.secret("demo-connection").await?["token"].clone();

        namespace
            .kubectl(&["delete", "flightcluster", "demo"])
            .await?;
        namespace
            .wait_until_gone::<FlightCluster>("demo", LIMIT)
            .await?;
        wait_until("the end of its objects", LIMIT, async || {
            let left = versions::owned(namespace, "demo").await?;
            Ok(if left.is_empty() {
                Progress::Done(())
            } else {
                Progress::Waiting(format!("{:?}", left.keys()))
            })
        })
        .await?;
        let claims = namespace
            .api::<PersistentVolumeClaim>()
            .list(&ListParams::default())
            .await?;
        let mut claims: Vec<String> = claims.iter().map(ResourceExt::name_any).collect();
        claims.sort();
        assert_eq!(claims, ["data-demo-catalog-0", "data-demo-ingester-0"]);

        // The same manifest finds the rows again; its secrets are new.
        demo.apply("{}").await?;
        demo.wait_until_ready().await?;
        let sql = "SELECT count(*) AS n, count(DISTINCT id) AS ids FROM events";
        assert_eq!(
            demo.query("default", sql).await?,
            json!([{"n": 500, "ids": 500}])
        );
        assert_ne!(namespace.secret("demo-connection").await?["token"], token);
        Ok(())
    })
    .await
}
