//! One ingester at a time takes the batches of a producer, and its position is never lost.

use std::time::Duration;

use flightcluster_catalog::{
    ClaimProducer, Epoch, Error, IfExists, Ingester, ProducerClaim, ProducerExpiry,
    ProducerPosition, ReleasedProducer, Table, TableId, statement_producer,
};

use super::{Subject, commit, create, file, flush_of, register, request};

pub const PRODUCER: &str = "pump-7";

pub fn claim_of(ingester: &Ingester, table: TableId) -> ClaimProducer {
    ClaimProducer {
        ingester: ingester.id,
        epoch: ingester.epoch,
        table,
        producer: PRODUCER.to_owned(),
        released: None,
    }
}

pub async fn claim(catalog: &Subject, ingester: &Ingester, table: &Table) -> ProducerClaim {
    catalog
        .claim_producer(claim_of(ingester, table.id))
        .await
        .unwrap()
}

async fn take_over(
    catalog: &Subject,
    ingester: &Ingester,
    table: &Table,
    version: u64,
    position: Option<u64>,
) -> ProducerClaim {
    let released = Some(ReleasedProducer { version, position });
    let request = ClaimProducer {
        released,
        ..claim_of(ingester, table.id)
    };
    catalog.claim_producer(request).await.unwrap()
}

fn held(position: Option<u64>) -> ProducerClaim {
    ProducerClaim::Held { position }
}

/// The version of a claim that `owner` is expected to have.
fn taken_from(claim: ProducerClaim, owner: &Ingester) -> u64 {
    match claim {
        ProducerClaim::Taken {
            owner: found,
            version,
        } if found == *owner => version,
        other => panic!("{other:?}"),
    }
}

async fn flush_position(catalog: &Subject, ingester: &Ingester, table: &Table, sequence: u64) {
    let path = format!("{}-{sequence}", ingester.name);
    let mut flush = flush_of(
        ingester,
        vec![file(table.id, &path, sequence, sequence + 1)],
    );
    flush.producers = vec![ProducerPosition {
        table: table.id,
        producer: PRODUCER.to_owned(),
        sequence,
    }];
    catalog.commit_flush(flush).await.unwrap();
}

pub async fn a_producer_is_held_by_the_first_who_claims_it(catalog: Subject) {
    let (table, other) = (create(&catalog, "a").await, create(&catalog, "b").await);
    let (first, second) = (
        register(&catalog, "i-0").await,
        register(&catalog, "i-1").await,
    );
    assert_eq!(claim(&catalog, &first, &table).await, held(None));
    let version = taken_from(claim(&catalog, &second, &table).await, &first);
    // Asking changes nothing, and each table is a matter of its own.
    assert_eq!(
        taken_from(claim(&catalog, &second, &table).await, &first),
        version
    );
    assert_eq!(claim(&catalog, &second, &other).await, held(None));
    flush_position(&catalog, &first, &table, 7).await;
    assert_eq!(claim(&catalog, &first, &table).await, held(Some(7)));
}

/// The position is in the catalog before the new owner stores anything.
pub async fn a_released_producer_is_handed_over_with_its_position(catalog: Subject) {
    let table = create(&catalog, "a").await;
    let (first, second) = (
        register(&catalog, "i-0").await,
        register(&catalog, "i-1").await,
    );
    claim(&catalog, &first, &table).await;
    let version = taken_from(claim(&catalog, &second, &table).await, &first);
    let largest = Some(u64::MAX);
    let taken = take_over(&catalog, &second, &table, version, largest).await;
    assert_eq!(taken, held(largest));
    // A repeat of the call, its answer lost, and the flush of the old owner change nothing.
    let again = take_over(&catalog, &second, &table, version, largest).await;
    assert_eq!(again, held(largest));
    flush_position(&catalog, &first, &table, 5).await;
    assert_eq!(claim(&catalog, &second, &table).await, held(largest));
    taken_from(claim(&catalog, &first, &table).await, &second);
}

pub async fn a_release_from_before_another_claim_is_not_taken(catalog: Subject) {
    let table = create(&catalog, "a").await;
    let (first, second) = (
        register(&catalog, "i-0").await,
        register(&catalog, "i-1").await,
    );
    claim(&catalog, &first, &table).await;
    let version = taken_from(claim(&catalog, &second, &table).await, &first);
    // The owner let go, and needed it again before the other came: it may have stored more.
    claim(&catalog, &first, &table).await;
    let late = take_over(&catalog, &second, &table, version, Some(1)).await;
    let newer = taken_from(late, &first);
    assert!(newer > version);
    // What a third one has been told is void once the second has it.
    let taken = take_over(&catalog, &second, &table, newer, None).await;
    assert_eq!(taken, held(None));
    let third = register(&catalog, "i-2").await;
    taken_from(
        take_over(&catalog, &third, &table, newer, Some(9)).await,
        &second,
    );
    assert_eq!(claim(&catalog, &second, &table).await, held(None));
}

pub async fn two_who_claim_at_once_do_not_both_hold(catalog: Subject) {
    let table = create(&catalog, "a").await;
    let (first, second) = (
        register(&catalog, "i-0").await,
        register(&catalog, "i-1").await,
    );
    let (a, b) = tokio::join!(
        claim(&catalog, &first, &table),
        claim(&catalog, &second, &table)
    );
    let holders = [a, b].iter().filter(|claim| **claim == held(None)).count();
    assert_eq!(holders, 1);
}

pub async fn a_drained_ingester_holds_no_producer(catalog: Subject) {
    let table = create(&catalog, "a").await;
    let (first, second) = (
        register(&catalog, "i-0").await,
        register(&catalog, "i-1").await,
    );
    claim(&catalog, &first, &table).await;
    flush_position(&catalog, &first, &table, 3).await;
    catalog.drain_ingester(first.id, first.epoch).await.unwrap();
    assert_eq!(claim(&catalog, &second, &table).await, held(Some(3)));
    let back = register(&catalog, "i-0").await;
    taken_from(claim(&catalog, &back, &table).await, &second);
}

pub async fn an_owner_that_started_again_is_asked_in_its_new_life(catalog: Subject) {
    let table = create(&catalog, "a").await;
    let (first, second) = (
        register(&catalog, "i-0").await,
        register(&catalog, "i-1").await,
    );
    claim(&catalog, &first, &table).await;
    let back = register(&catalog, "i-0").await;
    taken_from(claim(&catalog, &second, &table).await, &back);
    let stale = catalog.claim_producer(claim_of(&first, table.id)).await;
    assert!(
        matches!(
            stale,
            Err(Error::Fenced {
                current: Epoch(2),
                ..
            })
        ),
        "{stale:?}"
    );
    assert_eq!(claim(&catalog, &back, &table).await, held(None));
}

pub async fn a_dropped_table_has_no_producers(catalog: Subject) {
    let table = create(&catalog, "a").await;
    let ingester = register(&catalog, "i-0").await;
    claim(&catalog, &ingester, &table).await;
    flush_position(&catalog, &ingester, &table, 3).await;
    let replaced = request(table.name.clone(), IfExists::Replace);
    let new = catalog.create_table(replaced).await.unwrap();
    let gone = catalog.claim_producer(claim_of(&ingester, table.id)).await;
    assert!(matches!(gone, Err(Error::TableNotFound(_))), "{gone:?}");
    assert_eq!(claim(&catalog, &ingester, &new).await, held(None));
}

async fn expire(catalog: &Subject, clients: Duration, statements: Duration, limit: u32) -> u64 {
    let expiry = ProducerExpiry {
        unused_for: clients,
        statements_unused_for: statements,
        limit,
    };
    catalog.expire_producers(expiry).await.unwrap()
}

/// A statement is known by its ticket, which lives for minutes; a client may be named like one.
pub async fn statements_are_forgotten_before_producers(catalog: Subject) {
    let table = create(&catalog, "a").await;
    let (first, second) = (
        register(&catalog, "i-0").await,
        register(&catalog, "i-1").await,
    );
    let claim = async |ingester: &Ingester, producer: &str| {
        let producer = producer.to_owned();
        let request = ClaimProducer {
            producer,
            ..claim_of(ingester, table.id)
        };
        catalog.claim_producer(request).await.unwrap()
    };
    let statements = [statement_producer(0), statement_producer(u128::MAX)];
    let clients = [
        format!("{}/x", statement_producer(7)),
        "statement".to_owned(),
        "statement.".to_owned(),
        "a/b".to_owned(),
    ];
    let mut flush = flush_of(&first, vec![]);
    for producer in statements.iter().chain(&clients) {
        assert_eq!(claim(&first, producer).await, held(None));
        flush.producers.push(ProducerPosition {
            table: table.id,
            producer: producer.clone(),
            sequence: 1,
        });
    }
    catalog.commit_flush(flush).await.unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(expire(&catalog, hour, hour, 10).await, 0);
    taken_from(claim(&second, &statements[0]).await, &first);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(expire(&catalog, hour, Duration::ZERO, 1).await, 2);
    assert_eq!(expire(&catalog, hour, Duration::ZERO, 10).await, 2);
    for producer in &statements {
        assert_eq!(claim(&second, producer).await, held(None));
    }
    for producer in &clients {
        taken_from(claim(&second, producer).await, &first);
    }
    tokio::time::sleep(Duration::from_millis(5)).await;
    // And the other way round: a ticket may live long.
    assert_eq!(expire(&catalog, Duration::ZERO, hour, 10).await, 8);
    taken_from(claim(&first, &statements[0]).await, &second);
}

pub async fn unused_producers_are_forgotten_in_steps(catalog: Subject) {
    let table = create(&catalog, "a").await;
    let (first, second) = (
        register(&catalog, "i-0").await,
        register(&catalog, "i-1").await,
    );
    for producer in ["a", "b", "c"] {
        let producer = producer.to_owned();
        let request = ClaimProducer {
            producer,
            ..claim_of(&first, table.id)
        };
        catalog.claim_producer(request).await.unwrap();
    }
    claim(&catalog, &first, &table).await;
    flush_position(&catalog, &first, &table, 3).await;
    let hour = Duration::from_secs(3600);
    assert_eq!(expire(&catalog, hour, hour, 10).await, 0);
    taken_from(claim(&catalog, &second, &table).await, &first);
    tokio::time::sleep(Duration::from_millis(5)).await;
    // Two claims and the position, then the two other claims.
    assert_eq!(expire(&catalog, Duration::ZERO, hour, 2).await, 3);
    assert_eq!(expire(&catalog, Duration::ZERO, hour, 2).await, 2);
    assert_eq!(claim(&catalog, &second, &table).await, held(None));
    // The files are another matter.
    commit(&catalog, &first, file(table.id, "x", 9, 9)).await;
}
