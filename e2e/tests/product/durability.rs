//! Acknowledged rows outlive every process and every pod.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use flightcluster_e2e::cluster::{Progress, Signal, wait_until};
use serde_json::json;

use crate::product::{CONTAINER, LIMIT, Product, in_namespace, in_noisy_namespace};
use crate::programs::{Running, path_text};

/// So small that the process also dies in the middle of flushes, commits and truncations.
const RESTLESS: &str = "{config: {ingest: {flush_interval: 150ms, flush_bytes: 64KiB, \
                        wal_segment_bytes: 64KiB, flushed_grace: 5s}}}";

/// The kubelet restarts a container at once the first time, and after ten seconds the second.
const KILLS: usize = 2;

/// Batches that have to be acknowledged between two kills.
const BATCHES: usize = 60;

/// What a querier logs when an ingester does not answer, or has lost the rows of a snapshot's tail to
/// files of the next.
const REPLANNED: &str = "taking a new snapshot";

/// What an ingester logs when it was killed in the middle of a write to its log.
const TORN: &str = "cutting what follows the last whole record";

/// The numbers of acknowledged batches of each writer.
fn acknowledged(file: &Path) -> Vec<usize> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let of = |writer: &str| {
        let prefix = format!("{writer} ");
        text.lines()
            .filter(|line| line.starts_with(&prefix))
            .count()
    };
    ["0", "1", "2"].map(of).to_vec()
}

/// Waits until every writer has got on and all together by [`BATCHES`].
async fn wait_for_acknowledgements(writers: &mut Running, file: &Path) -> Result<()> {
    let before = acknowledged(file);
    wait_until("acknowledgements", LIMIT, async || {
        if writers.has_ended()? {
            bail!("the writers ended");
        }
        let now = acknowledged(file);
        let each = before.iter().zip(&now).all(|(before, now)| now > before);
        let all = now.iter().sum::<usize>() >= before.iter().sum::<usize>() + BATCHES;
        Ok(if each && all {
            Progress::Done(())
        } else {
            Progress::Waiting(format!("{before:?} batches before, {now:?} now"))
        })
    })
    .await
}

#[tokio::test]
async fn kill_9_of_the_ingester_loses_no_acknowledged_row_and_doubles_none() -> Result<()> {
    in_noisy_namespace("kill", &[REPLANNED, TORN], async |namespace| {
        let demo = Product::new(namespace, "demo");
        demo.apply(RESTLESS).await?;
        demo.wait_until_ready().await?;
        let file = demo.connection().await?.join("acknowledged");
        let words = ["write", path_text(&file)?];
        let mut writers = demo.start("writers.py", &words).await?;
        let ingester = demo.pod("ingester");
        for _ in 0..KILLS {
            let settled = wait_for_acknowledgements(&mut writers, &file).await;
            if settled.is_err() {
                // What the program says explains more.
                println!("writers: {:?}", writers.finish().await);
                return settled;
            }
            let killed = namespace
                .kill_container_process(&ingester, CONTAINER, Signal::KILL)
                .await?;
            namespace
                .wait_for_restart(&ingester, CONTAINER, &killed, LIMIT)
                .await?;
        }
        let settled = wait_for_acknowledgements(&mut writers, &file).await;
        let told = writers.finish().await?;
        println!("writers: {told}");
        settled?;
        assert_eq!(told["errors"], json!([]));
        assert_eq!(told["hanging"], 0);
        assert!(
            told["broken_streams"].as_u64() >= Some(3),
            "nobody noticed the kills: {told}"
        );
        assert!(told["answers"].as_u64() > Some(0), "{told}");

        let verify = ["verify", path_text(&file)?];
        let found = demo.run("writers.py", &verify).await?;
        println!("rows: {found}");
        assert_eq!(
            (&found["lost"], &found["doubled"]),
            (&json!(0), &json!(0)),
            "{found}"
        );
        assert!(found["acknowledged"].as_u64() > Some(1000), "{found}");
        // The same again with a new pod on the same volume.
        demo.replace_pod("ingester").await?;
        assert_eq!(demo.run("writers.py", &verify).await?, found);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn rows_outlive_the_pod_of_every_role() -> Result<()> {
    in_namespace("pods", async |namespace| {
        let demo = Product::new(namespace, "demo");
        // Nothing is flushed by age: until a pod stops in order, rows are only in its log.
        demo.apply("{config: {ingest: {flush_interval: 1h}}}")
            .await?;
        demo.wait_until_ready().await?;
        let sql = "SELECT count(*) AS n, count(DISTINCT id) AS ids, sum(id) AS total FROM events";
        for (round, role) in ["ingester", "querier", "catalog"].into_iter().enumerate() {
            let round = u64::try_from(round)?;
            demo.put("default.events", round * 1000, 1000).await?;
            let rows = (round + 1) * 1000;
            let expected = json!([{"n": rows, "ids": rows, "total": rows * (rows - 1) / 2}]);
            assert_eq!(demo.query("default", sql).await?, expected, "before {role}");
            demo.replace_pod(role).await?;
            assert_eq!(demo.query("default", sql).await?, expected, "after {role}");
        }
        // A pod that is gone at once, without the time to stop in order.
        demo.put("default.events", 3000, 1000).await?;
        let pod = demo.pod("ingester");
        namespace
            .kubectl(&["delete", "pod", &pod, "--grace-period=0", "--force"])
            .await?;
        namespace
            .wait_until_ready(&demo.selector("ingester"), 1, LIMIT)
            .await?;
        demo.wait_until_ready().await?;
        let expected = json!([{"n": 4000, "ids": 4000, "total": 4000 * 3999 / 2}]);
        wait_until("the rows", Duration::from_secs(60), async || {
            // The old pod's address may be in the resolvers' caches for some seconds.
            Ok(match demo.query("default", sql).await {
                Ok(found) if found == expected => Progress::Done(()),
                Ok(found) => bail!("an answer without all rows: {found}"),
                Err(error) => Progress::Waiting(format!("{error:#}")),
            })
        })
        .await
    })
    .await
}
