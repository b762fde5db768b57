//! Another Postgres server takes over, and processes that lost nothing themselves come first.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod causes;
#[allow(dead_code, reason = "the contract itself is run elsewhere")]
mod contract;
mod postgres_server;

use std::sync::Arc;

use causes::chain;
use contract::{Subject, create, life, ready};
use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{
    ClaimProducer, Error, IngesterCheck, IngesterId, JoinUpload, OpenTables, ProducerClaim,
    ProducerPosition, Registration, TableId,
};
use postgres_server::Server;

async fn open(server: &Server) -> Subject {
    Arc::new(SqlCatalog::open_postgres(server.options()).await.unwrap())
}

async fn begin(catalog: &Subject, name: &str) -> Registration {
    let registered = catalog.register_ingester(life(name, "u")).await.unwrap();
    ready(catalog, &registered).await;
    let nothing = OpenTables {
        tables: Vec::new(),
        are_all: true,
        ..opening(&registered, TableId(0), 1)
    };
    catalog.open_tables(nothing).await.unwrap();
    registered
}

async fn check(catalog: &Subject, of: &Registration) -> Result<(), Error> {
    let check = IngesterCheck {
        ingester: of.ingester.id,
        epoch: of.ingester.epoch,
        seen: of.newest,
    };
    catalog.check_ingester(check).await.map(drop)
}

fn opening(of: &Registration, table: TableId, number: u64) -> OpenTables {
    OpenTables {
        ingester: of.ingester.id,
        epoch: of.ingester.epoch,
        tables: vec![table],
        number,
        are_all: false,
        producers: Vec::new(),
    }
}

fn claim(of: &Registration, table: TableId, producer: &str) -> ClaimProducer {
    ClaimProducer {
        ingester: of.ingester.id,
        epoch: of.ingester.epoch,
        table,
        producer: producer.to_owned(),
        released: None,
    }
}

async fn asked(catalog: &Subject, table: TableId) -> Vec<IngesterId> {
    let ingesters = catalog.ingesters_of(table).await.unwrap();
    ingesters.into_iter().map(|ingester| ingester.id).collect()
}

/// None of what is lost makes a new state; whoever asks first lost nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_process_relies_on_what_a_standby_that_took_over_lacks() {
    let mut server = Server::start();
    let (loser, other) = (open(&server).await, open(&server).await);
    let table = create(&loser, "t").await;
    let (first, second) = (begin(&loser, "i-0").await, begin(&other, "i-1").await);
    let (id, epoch) = (second.ingester.id, second.ingester.epoch);
    let target = flightcluster_catalog::TableName::public("default", "uploaded");
    let ttl = std::time::Duration::from_secs(600);
    other.start_upload("upload", &target, ttl).await.unwrap();
    let join = |of: &Registration| JoinUpload {
        id: "upload".to_owned(),
        ingester: of.ingester.id,
        epoch: of.ingester.epoch,
        schema: contract::schema("s"),
        target: target.clone(),
        ttl,
    };
    other.join_upload(join(&second)).await.unwrap();
    let standby = server.standby().await;
    standby.cut_off().await;

    loser
        .open_tables(opening(&first, table.id, 2))
        .await
        .unwrap();
    let (of, life) = (first.ingester.id, first.ingester.epoch);
    assert_eq!(loser.take_orders(of, life, 10).await.unwrap(), 1);
    let held = loser.claim_producer(claim(&first, table.id, "p")).await;
    assert!(matches!(held, Ok(ProducerClaim::Held { .. })), "{held:?}");
    loser.join_upload(join(&first)).await.unwrap();
    server.give_way_to(&standby).await;

    // A query asks whoever may have rows, those of the upload as well.
    assert_eq!(asked(&other, table.id).await, [of, id]);
    assert_eq!(other.upload("upload").await.unwrap().ingesters.len(), 2);
    // A later row of a key has a higher number.
    let next = other.take_orders(id, epoch, 1).await.unwrap();
    assert!(next > 10, "{next} was given before");
    // A batch that may be stored is not taken by another.
    check(&other, &second).await.unwrap();
    let refused = other.claim_producer(claim(&second, table.id, "p")).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused}");
    assert!(
        chain(&refused).contains("wait for i-0"),
        "{}",
        chain(&refused)
    );
    // Nor is a number of a table or a state given twice.
    let new = create(&other, "new").await;
    assert!(new.id.0 > table.id.0 + 1000, "{}", new.id);

    // The process that lost something notices, and its ingester says what its log has.
    assert!(matches!(
        check(&loser, &first).await,
        Err(Error::Fenced { .. })
    ));
    let mut again = life_after(&first);
    again.log.epoch = life;
    let again = loser.register_ingester(again).await.unwrap();
    ready(&loser, &again).await;
    let second = {
        let mut again = life_after(&second);
        again.log.epoch = epoch;
        let again = other.register_ingester(again).await.unwrap();
        ready(&other, &again).await;
        again
    };
    for (catalog, of, table, producers) in [
        (&loser, &again, table.id, vec![("p", 7)]),
        (&other, &second, new.id, vec![]),
    ] {
        let list = OpenTables {
            are_all: true,
            producers: producers
                .into_iter()
                .map(|(producer, sequence)| ProducerPosition {
                    table,
                    producer: producer.to_owned(),
                    sequence,
                })
                .collect(),
            ..opening(of, table, 1)
        };
        catalog.open_tables(list).await.unwrap();
    }
    assert_eq!(asked(&other, table.id).await, [of]);
    assert_eq!(asked(&other, new.id).await, [id]);
    let held = other.claim_producer(claim(&second, table.id, "p")).await;
    let position = Some(7);
    assert_eq!(held.unwrap(), ProducerClaim::Held { position });
}

fn life_after(before: &Registration) -> flightcluster_catalog::RegisterIngester {
    let mut next = life(&before.ingester.name, "u");
    next.log.epoch = before.ingester.epoch;
    next.log.seen = Some(before.newest);
    next
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_has_everything_fences_nobody_and_lists_are_right_again() {
    let mut servers = vec![Server::start()];
    let (mine, other) = (open(&servers[0]).await, open(&servers[0]).await);
    let table = create(&mine, "t").await;
    let (first, second) = (begin(&mine, "i-0").await, begin(&other, "i-1").await);
    mine.open_tables(opening(&first, table.id, 2))
        .await
        .unwrap();
    for round in 0..2 {
        let standby = servers[round].standby().await;
        servers[round].give_way_to(&standby).await;
        servers.push(standby);
        let everybody = [first.ingester.id, second.ingester.id];
        assert_eq!(asked(&other, table.id).await, everybody, "{round}");
        // Each process says so for its own ingester.
        check(&other, &second).await.unwrap();
        let blocked = other.claim_producer(claim(&second, table.id, "p")).await;
        assert!(blocked.is_err(), "{blocked:?}");
        check(&mine, &first).await.unwrap();
        assert_eq!(asked(&other, table.id).await, [first.ingester.id]);
        let held = other.claim_producer(claim(&second, table.id, "p")).await;
        assert!(matches!(held, Ok(ProducerClaim::Held { .. })), "{held:?}");
    }
}

/// The process that wrote for an ingester ended with the server; nobody knows what it was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_came_later_does_not_vouch_for_an_ingester() {
    let mut server = Server::start();
    let before = open(&server).await;
    let table = create(&before, "t").await;
    let first = begin(&before, "i-0").await;
    let standby = server.standby().await;
    standby.cut_off().await;
    before
        .open_tables(opening(&first, table.id, 2))
        .await
        .unwrap();
    drop(before);
    server.give_way_to(&standby).await;
    let after = open(&server).await;
    assert_eq!(asked(&after, table.id).await, [first.ingester.id]);
    // The call that finds it may still be answered.
    let _ = check(&after, &first).await;
    let fenced = check(&after, &first).await;
    assert!(matches!(fenced, Err(Error::Fenced { .. })), "{fenced:?}");
    assert_eq!(asked(&after, table.id).await, [first.ingester.id]);
}

/// Counts what was done about lost commits.
async fn fences(server: &Server) -> i64 {
    sqlx::query_scalar("SELECT COUNT(*) FROM restores WHERE fenced = 1")
        .fetch_one(&mut server.connect().await)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_commits_of_many_processes_are_dealt_with_once() {
    let mut server = Server::start();
    let (one, other) = (open(&server).await, open(&server).await);
    let standby = server.standby().await;
    standby.cut_off().await;
    one.create_database("a", false).await.unwrap();
    other.create_database("b", false).await.unwrap();
    server.give_way_to(&standby).await;
    assert_eq!(one.list_databases().await.unwrap().len(), 1);
    let first = begin(&one, "i-0").await;
    // It hears of it much later, and lost something as well.
    assert_eq!(other.list_databases().await.unwrap().len(), 1);
    check(&other, &first).await.unwrap();
    assert_eq!(fences(&standby).await, 1);
    // What it is answered from now on is watched as before.
    let next = standby.standby().await;
    next.cut_off().await;
    other.create_database("b", false).await.unwrap();
    let mut standby = standby;
    standby.give_way_to(&next).await;
    assert_eq!(other.list_databases().await.unwrap().len(), 1);
    assert_eq!(fences(&next).await, 2);
}

/// Connections of before lead to the server of before, which may still be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_commits_are_dealt_with_on_the_server_that_lacks_them() {
    let server = Server::start();
    let catalog = open(&server).await;
    let standby = server.standby().await;
    standby.cut_off().await;
    catalog.create_database("a", false).await.unwrap();
    server.be_replaced_by(&standby).await;
    // More at once than there are connections.
    let reads = (0..3).map(|_| catalog.list_databases());
    for read in futures::future::join_all(reads).await {
        read.unwrap();
    }
    assert_eq!(fences(&standby).await, 1);
}
