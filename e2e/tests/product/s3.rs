//! Files in a bucket instead of on the catalog's volume.

use std::fs;

use anyhow::{Context, Result, ensure};
use flightcluster_e2e::cluster::s3::S3Server;
use flightcluster_e2e::cluster::{Progress, TestNamespace, wait_until};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::operator::repository;
use crate::product::{LIMIT, Product, in_namespace};

/// `examples/s3.yaml` as a user would fill it in, and small enough for a node of two cores.
fn filled_in(server: &S3Server) -> Result<Vec<Value>> {
    let text = fs::read_to_string(repository("examples/s3.yaml")).context("reading the example")?;
    let documents = serde_yaml::Deserializer::from_str(&text);
    let documents = documents.map(<Value as serde::Deserialize>::deserialize);
    let mut documents = documents.collect::<Result<Vec<Value>, _>>()?;
    for document in &mut documents {
        if document["kind"] == "Secret" {
            document["stringData"] = json!({
                "access-key-id": server.access_key(),
                "secret-access-key": server.secret_key(),
            });
            continue;
        }
        let spec = &mut document["spec"];
        let s3 = &mut spec["objectStore"]["s3"];
        s3["endpoint"] = json!(server.endpoint());
        s3["region"] = json!(server.region());
        spec["config"] = json!({"ingest": {"flush_interval": "1s"}});
        for role in ["querier", "ingester"] {
            spec[role]["replicas"] = json!(1);
            spec[role]["resources"] = json!({"requests": {"cpu": "50m"}});
        }
    }
    Ok(documents)
}

/// The listing of the bucket, as XML.
async fn listing(server: &S3Server) -> Result<String> {
    let url = format!("{}/lake?list-type=2", server.endpoint());
    let user = format!("{}:{}", server.access_key(), server.secret_key());
    let signing = format!("aws:amz:{}:s3", server.region());
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--user", &user])
        .args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
        .args(["--aws-sigv4", &signing, &url])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

async fn apply_all(namespace: &TestNamespace, documents: &[Value]) -> Result<()> {
    for document in documents {
        namespace.apply_yaml(&document.to_string()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_example_with_s3_keeps_its_files_in_the_bucket() -> Result<()> {
    in_namespace("s3", async |namespace| {
        let server = S3Server::start(namespace.cluster(), &["lake"]).await?;
        apply_all(namespace, &filled_in(&server)?).await?;
        let lake = Product::new(namespace, "lake");
        lake.wait_until_ready().await?;
        lake.put("default.events", 0, 2000).await?;
        let sql = "SELECT sum(rows) AS n FROM system.files WHERE table_name = 'events'";
        wait_until("the flush", LIMIT, async || {
            let found = lake.query("default", sql).await?;
            Ok(if found == json!([{"n": 2000}]) {
                Progress::Done(())
            } else {
                Progress::Waiting(found.to_string())
            })
        })
        .await?;
        let listing = listing(&server).await?;
        ensure!(
            listing.contains("<Key>flightcluster/") && listing.contains(".parquet</Key>"),
            "{listing}"
        );
        // A querier without caches reads them from there.
        lake.replace_pod("querier").await?;
        let sql = "SELECT count(*) AS n, sum(id) AS total FROM events";
        let expected = json!([{"n": 2000, "total": 2000 * 1999 / 2}]);
        assert_eq!(lake.query("default", sql).await?, expected);
        Ok(())
    })
    .await
}
