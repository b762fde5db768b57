//! Footers kept in memory: found there by later queries, counted, within their limit.

use flightcluster_config::{ByteSize, QueryConfig};

use super::fixture::{Cluster, config};
use crate::FooterStats;

const SUM: &str = "SELECT sum(id) FROM t";

#[tokio::test]
async fn a_footer_is_read_once_and_found_after_that() {
    let cluster = Cluster::start().await;
    cluster.spread().await;
    let stats = || cluster.engine.stats().footers;
    assert_eq!(stats(), FooterStats::default());
    cluster.number(SUM).await;
    let first = stats();
    // There are three files.
    assert_eq!((first.hits, first.misses), (0, 3));
    assert!(first.bytes > 0, "{first:?}");
    cluster.number(SUM).await;
    let second = FooterStats { hits: 3, ..first };
    assert_eq!(stats(), second);
}

#[tokio::test]
async fn without_room_no_footer_is_kept() {
    let none = QueryConfig {
        footer_cache_bytes: ByteSize(0),
        ..config()
    };
    let cluster = Cluster::with(none, 256 << 20).await;
    cluster.spread().await;
    for queries in 1..=2 {
        cluster.number(SUM).await;
        let (hits, misses, bytes) = (0, 3 * queries, 0);
        let expected = FooterStats {
            hits,
            misses,
            bytes,
        };
        assert_eq!(cluster.engine.stats().footers, expected);
    }
}
