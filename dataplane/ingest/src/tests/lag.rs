//! Persist lag: rows that can't be written to files for too long.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn others() -> TableName {
    TableName::public("demo", "others")
}

/// Rows are due after an hour, and may be overdue for a day. Nothing flushes by itself.
async fn world() -> World {
    let mut world = World::new().await;
    world.config.flush_interval = HOUR;
    world.config.persist_lag = 24 * HOUR;
    world
}

/// An ingester that acknowledged a row 26 hours ago, which it could not store.
async fn late() -> (World, Arc<Ingest>) {
    let world = world().await;
    let ingest = world.open().await;
    write(&writer(&ingest, &readings()).await, [1])
        .await
        .unwrap();
    world.store.refuse_puts(true);
    pass(&world, &ingest, 26).await;
    ingest.flush().await.unwrap_err();
    (world, ingest)
}

/// Hours in which the process runs and asks the catalog.
async fn pass(world: &World, ingest: &Ingest, hours: u32) {
    world.hand.advance(hours * HOUR);
    ingest.core_for_tests().ask().await.unwrap();
}

async fn category(ingest: &Ingest, name: &TableName) -> &'static str {
    match write(&writer(ingest, name).await, [2]).await {
        Ok(_) => "taken",
        Err(error) => error.category(),
    }
}

#[tokio::test]
async fn past_the_lag_writes_are_refused_with_the_cause_until_a_flush_succeeds() {
    let world = world().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    world.store.refuse_puts(true);
    write(&table, [1]).await.unwrap();
    pass(&world, &ingest, 25).await;
    ingest.flush().await.unwrap_err();
    write(&table, [2]).await.unwrap();

    pass(&world, &ingest, 1).await;
    ingest.flush().await.unwrap_err();
    let error = write(&table, [3]).await.unwrap_err();
    assert_eq!(
        (error.category(), error.fault()),
        ("persist_lag", Fault::Unavailable)
    );
    assert!(error.retry_after().is_some());
    let text = error.to_string();
    for part in [
        "acknowledged 1d2h ago",
        "flushing fails: can't store file",
        "refused",
        "limit 1d",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2]);
    assert_eq!(ingest.statistics().oldest_age, Some(26 * HOUR));

    world.store.refuse_puts(false);
    ingest.flush().await.unwrap();
    write(&table, [4]).await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2, 4]);
}

/// Nobody calls `flush`.
#[tokio::test]
async fn writes_go_on_by_themselves_when_the_store_is_back() {
    let mut world = world().await;
    world.config.flush_interval = Duration::from_millis(40);
    let (ingest, flushed) = flushing::open_observed(&world).await;
    let table = writer(&ingest, &readings()).await;
    world.store.refuse_puts(true);
    write(&table, [1]).await.unwrap();
    pass(&world, &ingest, 25).await;
    ingest.flush().await.unwrap_err();
    assert_eq!(
        write(&table, [2]).await.unwrap_err().category(),
        "persist_lag"
    );
    world.store.refuse_puts(false);
    // Longer than a table that failed waits.
    world.hand.advance(Duration::from_secs(60));
    ingest.core_for_tests().ask().await.unwrap();
    flushed.0.notified().await;
    // The round that flushed is over when another has the lock.
    ingest.flush().await.unwrap();
    write(&table, [2]).await.unwrap();
}

#[tokio::test]
async fn without_a_limit_nothing_is_refused() {
    let mut world = world().await;
    world.config.persist_lag = Duration::ZERO;
    let ingest = world.open().await;
    world.store.refuse_puts(true);
    let table = writer(&ingest, &readings()).await;
    write(&table, [1]).await.unwrap();
    pass(&world, &ingest, 1000).await;
    ingest.flush().await.unwrap_err();
    write(&table, [2]).await.unwrap();
}

#[tokio::test]
async fn rows_of_a_former_life_keep_their_age() {
    let (world, ingest) = late().await;
    drop(ingest);
    let ingest = world.open().await;
    assert_eq!(ingest.statistics().oldest_age, Some(26 * HOUR));
    ingest.flush().await.unwrap_err();
    assert_eq!(category(&ingest, &readings()).await, "persist_lag");
    // This process has not tried to store anything for long.
    assert_eq!(category(&ingest, &others()).await, "taken");
}

#[tokio::test]
async fn while_the_store_is_away_other_tables_are_refused_too() {
    let (world, ingest) = late().await;
    assert_eq!(category(&ingest, &others()).await, "persist_lag");
    // A round that has nothing to do but to wait is no success.
    ingest
        .core_for_tests()
        .flush_all(crate::flush::Scope::Due)
        .await
        .unwrap();
    assert_eq!(category(&ingest, &others()).await, "persist_lag");
    world.store.refuse_puts(false);
    ingest.flush().await.unwrap();
    assert_eq!(category(&ingest, &others()).await, "taken");
}

/// Its rows may stay for ever, as those of a table that a restored catalog lacks: the others must go on.
#[tokio::test]
async fn a_table_that_alone_can_not_be_flushed_stops_no_other() {
    let world = world().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    write(&table, [1]).await.unwrap();
    world.catalog.spoil(Some(table.table().id));
    pass(&world, &ingest, 26).await;
    let error = ingest.flush().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Internal);
    assert_eq!(category(&ingest, &readings()).await, "persist_lag");
    assert_eq!(category(&ingest, &others()).await, "taken");
}

#[tokio::test]
async fn nor_does_it_when_the_store_fails_once_after_a_day_without_writes() {
    let world = world().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await;
    write(&table, [1]).await.unwrap();
    world.catalog.spoil(Some(table.table().id));
    ingest.flush().await.unwrap_err();
    pass(&world, &ingest, 26).await;
    assert_eq!(category(&ingest, &others()).await, "taken");
    world.store.refuse_puts(true);
    let other = writer(&ingest, &others()).await.table().id;
    let round = crate::flush::Scope::Table(other);
    let error = ingest.core_for_tests().flush_all(round).await;
    let error = error.unwrap_err();
    assert_eq!(error.fault(), Fault::Unavailable);
    assert_eq!(category(&ingest, &others()).await, "taken");
}

#[tokio::test]
async fn a_repeat_of_what_is_stored_is_acknowledged_past_the_lag() {
    let world = world().await;
    let ingest = world.open().await;
    world.store.refuse_puts(true);
    let table = writer(&ingest, &readings()).await;
    let producer = |sequence| {
        Some(Producer {
            id: "p".to_owned(),
            sequence,
            after: None,
        })
    };
    let first = table.write(numbers([1]), None, producer(1)).await.unwrap();
    pass(&world, &ingest, 26).await;
    ingest.flush().await.unwrap_err();
    let refused = table.write(numbers([2]), None, producer(2)).await;
    assert_eq!(refused.unwrap_err().category(), "persist_lag");
    let repeat = table.write(numbers([1]), None, producer(1)).await.unwrap();
    assert_eq!((repeat.duplicate, repeat.sequence), (true, first.sequence));
    world.store.refuse_puts(false);
    ingest.flush().await.unwrap();
    table.write(numbers([2]), None, producer(2)).await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2]);
}
