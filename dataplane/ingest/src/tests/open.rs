//! Open tables: what the catalog knows of the rows that are in no file.

use std::sync::Arc;
use std::time::Duration;

use flightcluster_catalog::{Catalog as _, TableId, TableName};

use super::faults::{Fault, Hold};
use super::*;

/// Whether a query or deletion has to ask this ingester for rows of the table.
async fn is_asked(world: &World, ingest: &Ingest, table: TableId) -> bool {
    let asked = world.catalog.ingesters_of(table).await.unwrap();
    asked.iter().any(|each| each.id == ingest.ingester().id)
}

fn other() -> TableName {
    TableName::public("demo", "other")
}

/// Flushes, and lets the grace of flushed rows pass.
async fn flush_and_rest(world: &World, ingest: &Ingest) {
    ingest.flush().await.unwrap();
    world.hand.advance(Duration::from_secs(60));
    ingest.flush().await.unwrap();
}

#[tokio::test]
async fn a_table_is_open_from_before_its_first_row_until_its_rows_have_left_memory() {
    let world = World::new().await;
    let ingest = world.open().await;
    let stream = writer(&ingest, &readings()).await;
    let table = stream.table().id;
    // Before the row: it may be acknowledged at any moment.
    assert!(is_asked(&world, &ingest, table).await);
    write(&stream, [1]).await.unwrap();
    drop(stream);
    ingest.flush().await.unwrap();
    assert!(is_asked(&world, &ingest, table).await, "within the grace");
    world.hand.advance(Duration::from_secs(60));
    ingest.flush().await.unwrap();
    assert!(!is_asked(&world, &ingest, table).await);
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
    // And again.
    let stream = writer(&ingest, &readings()).await;
    assert!(is_asked(&world, &ingest, table).await);
    write(&stream, [2]).await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [1, 2]);
    // A stream may go on at any time, without asking the catalog first.
    flush_and_rest(&world, &ingest).await;
    assert!(is_asked(&world, &ingest, table).await);
    ingest.drain().await.unwrap();
    assert!(!is_asked(&world, &ingest, table).await);
}

#[tokio::test]
async fn what_the_log_brings_back_is_open_and_nothing_else() {
    let world = World::new().await;
    let ingest = world.open().await;
    let (a, b) = (
        writer(&ingest, &readings()).await,
        writer(&ingest, &other()).await,
    );
    let (in_log, in_file) = (a.table().id, b.table().id);
    write(&b, [1]).await.unwrap();
    ingest.flush().await.unwrap();
    write(&a, [2]).await.unwrap();
    drop((a, b, ingest));
    let ingest = world.open().await;
    assert!(is_asked(&world, &ingest, in_log).await);
    assert!(!is_asked(&world, &ingest, in_file).await);
    flush_and_rest(&world, &ingest).await;
    assert!(!is_asked(&world, &ingest, in_log).await);
    assert_eq!(world.numbers(&ingest, &readings()).await, [2]);
    assert_eq!(world.numbers(&ingest, &other()).await, [1]);
}

#[tokio::test]
async fn without_the_word_of_the_catalog_a_table_is_not_written() {
    let world = World::new().await;
    let ingest = world.open().await;
    for fault in [Fault::Request, Fault::Answer] {
        world.catalog.fail_open(fault);
        let (schema, mode) = (numbers_schema(), TableMode::CreateOrAppend);
        let refused = ingest.writer(&readings(), &schema, mode, true).await;
        assert_eq!(refused.unwrap_err().category(), "catalog");
    }
    let table = world.catalog.table(&readings()).await.unwrap().unwrap().id;
    assert!(
        is_asked(&world, &ingest, table).await,
        "to be on the safe side"
    );
    ingest.flush().await.unwrap();
    assert!(!is_asked(&world, &ingest, table).await);
}

#[tokio::test]
async fn a_table_that_could_not_be_closed_is_closed_later() {
    let world = World::new().await;
    let ingest = world.open().await;
    let stream = writer(&ingest, &readings()).await;
    let table = stream.table().id;
    drop(stream);
    world.catalog.fail_close(Fault::Request);
    ingest.flush().await.unwrap();
    assert!(is_asked(&world, &ingest, table).await);
    ingest.flush().await.unwrap();
    assert!(!is_asked(&world, &ingest, table).await);
}

#[tokio::test]
async fn a_table_is_not_closed_while_it_is_being_opened() {
    let world = World::new().await;
    let ingest = world.open().await;
    let table = writer(&ingest, &readings()).await.table().id;
    flush_and_rest(&world, &ingest).await;
    let hold = Arc::new(Hold::default());
    world.catalog.hold_opens(Some(Arc::clone(&hold)));
    let late = Arc::clone(&ingest);
    let late = tokio::spawn(async move {
        let stream = writer(&late, &readings()).await;
        write(&stream, [1]).await.unwrap();
    });
    // The catalog lists it, the answer is on its way.
    hold.arrived.notified().await;
    ingest.flush().await.unwrap();
    assert!(is_asked(&world, &ingest, table).await);
    hold.go_on.notify_one();
    late.await.unwrap();
    assert_eq!(world.numbers(&ingest, &readings()).await, [1]);
}
