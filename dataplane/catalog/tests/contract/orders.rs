//! Order numbers: which write is the later one, decided in one place.

use std::sync::Arc;

use flightcluster_catalog::{Epoch, Error, IngesterId};
use tokio::task::JoinSet;

use super::{Subject, register};

pub async fn orders_grow_over_all_ingesters_and_are_never_given_twice(catalog: Subject) {
    let first = register(&catalog, "ingester-0").await;
    let second = register(&catalog, "ingester-1").await;
    let mut above = 0;
    for turn in 0..10_u64 {
        let who = if turn % 2 == 0 { &first } else { &second };
        let from = catalog.take_orders(who.id, who.epoch, turn + 1).await;
        let from = from.unwrap();
        assert!(from > above, "{from} after {above}");
        above = from + turn as i64;
    }
    let mut calls = JoinSet::new();
    for call in 0..20_u64 {
        let who = if call % 2 == 0 { &first } else { &second };
        let (catalog, id, epoch) = (Arc::clone(&catalog), who.id, who.epoch);
        calls.spawn(async move {
            let from = catalog.take_orders(id, epoch, call + 1).await.unwrap();
            (from, from + call as i64)
        });
    }
    let mut ranges = calls.join_all().await;
    ranges.sort_unstable();
    for (from, last) in ranges {
        assert!(from > above, "{from} was given before");
        above = last;
    }
}

pub async fn the_last_order_is_above_all_given_before_and_below_all_given_later(catalog: Subject) {
    let who = register(&catalog, "ingester-0").await;
    assert_eq!(catalog.last_order().await.unwrap(), 0);
    for rows in [3, 1, 70] {
        let before = catalog.last_order().await.unwrap();
        let first = catalog.take_orders(who.id, who.epoch, rows).await.unwrap();
        assert!(before < first, "{before} {first}");
        let last = catalog.last_order().await.unwrap();
        assert_eq!(last, first + rows as i64 - 1);
    }
}

pub async fn an_older_life_gets_no_orders(catalog: Subject) {
    let stale = register(&catalog, "ingester-0").await;
    let current = register(&catalog, "ingester-0").await;
    let refused = catalog.take_orders(stale.id, stale.epoch, 1).await;
    assert!(
        matches!(
            refused,
            Err(Error::Fenced {
                current: Epoch(2),
                ..
            })
        ),
        "{refused:?}"
    );
    let unknown = catalog.take_orders(IngesterId(99), Epoch(1), 1).await;
    assert!(matches!(unknown, Err(Error::Fenced { .. })), "{unknown:?}");
    for wrong in [0, u64::MAX] {
        let refused = catalog.take_orders(current.id, current.epoch, wrong).await;
        assert!(matches!(refused, Err(Error::Store { .. })), "{refused:?}");
    }
    assert_eq!(
        catalog
            .take_orders(current.id, current.epoch, 5)
            .await
            .unwrap(),
        1
    );
    assert_eq!(
        catalog
            .take_orders(current.id, current.epoch, 1)
            .await
            .unwrap(),
        6
    );
}
