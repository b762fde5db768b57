//! Several ingesters on one catalog: a batch with a producer's number is stored once, whichever of
//! them it is sent to, and whatever breaks in between.

use std::collections::HashMap;
use std::sync::Weak;

use async_trait::async_trait;
use flightcluster_catalog::{Ingester, ProducerExpiry, TableId};
use parking_lot::Mutex;

use super::faults::{Fault as Wrong, Hold};
use super::*;

/// The way between ingesters of one process.
#[derive(Debug, Default)]
struct Ways {
    running: Mutex<HashMap<String, Weak<Ingest>>>,
    /// Answers that get lost.
    lost: Mutex<u32>,
}

#[async_trait]
impl Peers for Ways {
    async fn release_producer(
        &self,
        owner: &Ingester,
        table: TableId,
        producer: &str,
    ) -> Result<Option<u64>, PeerError> {
        let running = self.running.lock().get(&owner.name).and_then(Weak::upgrade);
        let ingest = running.ok_or("connection refused")?;
        let answer = ingest
            .release_producer(owner.epoch, table, producer)
            .await?;
        let mut lost = self.lost.lock();
        if *lost > 0 {
            *lost -= 1;
            return Err("the answer was lost".into());
        }
        Ok(answer)
    }
}

pub(super) struct Cluster {
    pub(super) world: World,
    ways: Arc<Ways>,
}

impl Cluster {
    pub(super) async fn new() -> Self {
        Self {
            world: World::new().await,
            ways: Arc::default(),
        }
    }

    pub(super) async fn start(&self, name: &str) -> Arc<Ingest> {
        let options = IngestOptions {
            node_name: name.to_owned(),
            internal_url: format!("http://{name}:17002"),
            wal_dir: self.world.directory.path().join(name),
            peers: Arc::clone(&self.ways) as Arc<dyn Peers>,
            ..self.world.options()
        };
        let ingest = Ingest::open(options).await.unwrap();
        let running = Arc::downgrade(&ingest);
        self.ways.running.lock().insert(name.to_owned(), running);
        ingest
    }

    /// All values in the table: those in files and those in the ingesters.
    pub(super) async fn numbers(&self, ingests: &[&Arc<Ingest>]) -> Vec<i64> {
        let name = readings();
        let snapshot = self.world.catalog.snapshot(&[name]).await.unwrap();
        let table = &snapshot.tables[0];
        let mut batches = Vec::new();
        for file in &table.files {
            batches.extend(self.world.read_file(&file.file.path).await);
        }
        for ingest in ingests {
            let after = table.watermark(ingest.ingester().id);
            let recent = ingest
                .recent(table.table.id, after)
                .unwrap()
                .read_all()
                .unwrap();
            batches.extend(recent.into_iter().map(|(_, batch)| batch));
        }
        let values = batches.iter().flat_map(|batch| {
            let column = batch.column_by_name("n").unwrap();
            column.as_primitive::<Int64Type>().values().to_vec()
        });
        let mut values: Vec<i64> = values.collect();
        values.sort_unstable();
        values
    }
}

/// Batch `n` of the producer, which holds the number `n`.
async fn send(ingest: &Ingest, n: u64) -> Result<Ack, Error> {
    let table = writer(ingest, &readings()).await;
    let producer = Producer {
        id: "pump-7".to_owned(),
        sequence: n,
        after: None,
    };
    table.write(numbers([n as i64]), None, Some(producer)).await
}

async fn is_new(ingest: &Ingest, n: u64) -> bool {
    !send(ingest, n).await.unwrap().duplicate
}

#[tokio::test]
async fn a_repeat_at_another_ingester_is_recognised() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    for n in [1, 2] {
        assert!(is_new(&a, n).await);
    }
    // There and back, with rows in the log of one and in files of the other.
    assert!(!is_new(&b, 1).await);
    assert!(!is_new(&b, 2).await);
    assert!(is_new(&b, 3).await);
    b.flush().await.unwrap();
    assert!(!is_new(&a, 3).await);
    assert!(is_new(&a, 4).await);
    a.flush().await.unwrap();
    assert!(!is_new(&b, 4).await);
    assert_eq!(cluster.numbers(&[&a, &b]).await, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_producer_that_stays_asks_the_catalog_once() {
    let cluster = Cluster::new().await;
    let (a, catalog) = (cluster.start("a").await, &cluster.world.catalog);
    let table = writer(&a, &readings()).await;
    for n in 1..=5 {
        if n == 3 {
            // From now on it goes on without.
            catalog.set_away(true);
        }
        let producer = Some(Producer {
            id: "pump-7".to_owned(),
            sequence: n,
            after: None,
        });
        let ack = table.write(numbers([n as i64]), None, producer).await;
        assert!(!ack.unwrap().duplicate);
    }
    assert_eq!(catalog.claim_log.lock().len(), 1);
    let other = Producer {
        id: "new".to_owned(),
        sequence: 1,
        after: None,
    };
    let refused = table.write(numbers([9]), None, Some(other)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.fault(), Fault::Unavailable, "{refused}");
    assert!(refused.retry_after().is_some());
}

/// The first attempt reached the log of an ingester that died before its answer: nobody knows
/// whether it was stored until that ingester is back.
#[tokio::test]
async fn a_repeat_waits_for_an_owner_that_is_down() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    assert!(is_new(&a, 1).await);
    drop(a);
    let refused = send(&b, 1).await.unwrap_err();
    assert_eq!(refused.category(), "producer_owner");
    assert_eq!(refused.fault(), Fault::Unavailable);
    assert!(refused.retry_after().is_some());
    assert!(refused.to_string().contains("ingester a "), "{refused}");
    let a = cluster.start("a").await;
    assert!(!is_new(&b, 1).await);
    assert!(is_new(&b, 2).await);
    assert!(!is_new(&a, 2).await);
    assert_eq!(cluster.numbers(&[&a, &b]).await, [1, 2]);
}

#[tokio::test]
async fn lost_answers_change_nothing() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let catalog = &cluster.world.catalog;
    catalog.fail_claim(Wrong::Answer);
    assert!(send(&a, 1).await.is_err());
    catalog.fail_claim(Wrong::Request);
    assert!(send(&a, 1).await.is_err());
    assert!(is_new(&a, 1).await);
    // Of the owner, which has let go and takes it again.
    *cluster.ways.lost.lock() = 1;
    assert!(send(&b, 1).await.is_err());
    assert!(is_new(&a, 2).await);
    // Of the catalog, which has handed it over.
    send(&b, 2).await.unwrap();
    assert!(is_new(&b, 3).await);
    catalog.fail_claim(Wrong::Answer);
    assert!(send(&a, 4).await.is_err());
    for (ingest, n) in [(&b, 3), (&a, 3), (&b, 2)] {
        assert!(!is_new(ingest, n).await, "batch {n}");
    }
    assert!(is_new(&a, 4).await);
    assert_eq!(cluster.numbers(&[&a, &b]).await, [1, 2, 3, 4]);
}

/// The new owner dies at each step; the old one, or the next life of the new one, goes on.
#[tokio::test]
async fn a_crash_while_a_producer_moves_loses_and_doubles_nothing() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    assert!(is_new(&a, 1).await);
    // After the owner let go.
    *cluster.ways.lost.lock() = 1;
    assert!(send(&b, 1).await.is_err());
    drop(b);
    let b = cluster.start("b").await;
    assert!(!is_new(&b, 1).await);
    // After it was handed over and before anything was stored: the old owner died as well, and
    // the catalog alone knows.
    drop((a, b));
    let b = cluster.start("b").await;
    assert!(!is_new(&b, 1).await);
    assert!(is_new(&b, 2).await);
    let a = cluster.start("a").await;
    assert!(!is_new(&a, 2).await);
    assert_eq!(cluster.numbers(&[&a, &b]).await, [1, 2]);
}

#[tokio::test]
async fn a_drained_ingester_is_not_asked() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    assert!(is_new(&a, 1).await);
    a.drain().await.unwrap();
    drop(a);
    assert!(!is_new(&b, 1).await);
    assert!(is_new(&b, 2).await);
    assert_eq!(cluster.numbers(&[&b]).await, [1, 2]);
}

/// The owner's claim was answered while it let go: it must not go on with that answer.
#[tokio::test]
async fn a_claim_on_its_way_is_void_when_the_producer_moves() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    let catalog = &cluster.world.catalog;
    assert!(is_new(&b, 1).await);
    assert!(!is_new(&a, 1).await);
    // The catalog says that it is a's; before that is heard, b takes it over.
    a.release_producer(a.ingester().epoch, table_id(&cluster).await, "pump-7")
        .await
        .unwrap();
    let hold = Arc::new(Hold::default());
    catalog.hold_claim_answers(Some(Arc::clone(&hold)));
    let late = {
        let a = Arc::clone(&a);
        tokio::spawn(async move { send(&a, 2).await })
    };
    hold.arrived.notified().await;
    catalog.hold_claim_answers(None);
    assert!(is_new(&b, 2).await);
    hold.go_on.notify_one();
    let late = late.await.unwrap().unwrap();
    assert!(late.duplicate);
    assert_eq!(cluster.numbers(&[&a, &b]).await, [1, 2]);
}

async fn table_id(cluster: &Cluster) -> TableId {
    let table = cluster.world.catalog.table(&readings()).await.unwrap();
    table.unwrap().id
}

#[tokio::test]
async fn an_earlier_life_is_not_asked_and_lets_nothing_go() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    assert!(is_new(&a, 1).await);
    // Another process with the name of a, on another volume: a is fenced and does not know.
    let catalog = &cluster.world.catalog;
    catalog.retire_ingester("a", true).await.unwrap();
    let younger = catalog.register_ingester(life_with_a_new_log("a")).await;
    let younger = younger.unwrap().ingester;
    assert_eq!(send(&b, 1).await.unwrap_err().category(), "producer_owner");
    let asked = a
        .release_producer(younger.epoch, table_id(&cluster).await, "pump-7")
        .await;
    assert_eq!(asked.unwrap_err().category(), "other_life");
    // With the next claim it learns.
    let other = writer(&a, &readings()).await;
    let producer = Some(Producer {
        id: "other".to_owned(),
        sequence: 1,
        after: None,
    });
    let error = other.write(numbers([1]), None, producer).await.unwrap_err();
    assert_eq!(error.category(), "out_of_service");
}

#[tokio::test]
async fn producers_of_a_dropped_table_begin_anew() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    assert!(is_new(&a, 1).await);
    let old = writer(&b, &readings()).await;
    let catalog = &cluster.world.catalog;
    catalog.drop_table(&readings(), false, None).await.unwrap();
    let producer = Some(Producer {
        id: "pump-7".to_owned(),
        sequence: 1,
        after: None,
    });
    let error = old.write(numbers([1]), None, producer).await.unwrap_err();
    assert_eq!(error.fault(), Fault::NotFound);
    assert!(is_new(&b, 1).await);
}

/// Both take batches of one producer at the same time, as a client does that gave up a connection
/// the other end of which still works.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_at_once_store_each_batch_once() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.start("a").await, cluster.start("b").await);
    drop(writer(&a, &readings()).await);
    let all = |ingest: &Arc<Ingest>| {
        let ingest = Arc::clone(ingest);
        tokio::spawn(async move {
            for n in 1..=100 {
                while let Err(error) = send(&ingest, n).await {
                    assert_eq!(error.category(), "producer_moved", "{error}");
                }
                if n % 10 == 0 {
                    ingest.flush().await.unwrap();
                }
            }
        })
    };
    let (first, second) = (all(&a), all(&b));
    first.await.unwrap();
    second.await.unwrap();
    let expected: Vec<i64> = (1..=100).collect();
    assert_eq!(cluster.numbers(&[&a, &b]).await, expected);
}

#[tokio::test]
async fn a_claim_is_renewed_within_the_window() {
    let mut cluster = Cluster::new().await;
    cluster.world.config.producer_window = Duration::from_secs(100);
    let a = cluster.start("a").await;
    let (catalog, hand) = (&cluster.world.catalog, &cluster.world.hand);
    assert!(is_new(&a, 1).await);
    let table = writer(&a, &readings()).await;
    let write = |n: u64| {
        let id = "pump-7".to_owned();
        table.write(
            numbers([n as i64]),
            None,
            Some(Producer {
                id,
                sequence: n,
                after: None,
            }),
        )
    };
    hand.advance(Duration::from_millis(49_500));
    write(2).await.unwrap();
    assert_eq!(catalog.claim_log.lock().len(), 1);
    hand.advance(Duration::from_millis(600));
    write(3).await.unwrap();
    assert_eq!(catalog.claim_log.lock().len(), 2);
    // Without the catalog it goes on to the end of the window and no longer.
    catalog.set_away(true);
    cluster.world.time_passes_without_catalog(&a, 55).await;
    write(4).await.unwrap();
    cluster.world.time_passes_without_catalog(&a, 46).await;
    assert_eq!(write(5).await.unwrap_err().category(), "catalog");
    catalog.set_away(false);
    write(5).await.unwrap();
}

/// What has to be forgotten comes in steps: they follow each other until a step is not full.
#[tokio::test]
async fn forgetting_goes_on_while_there_is_more() {
    let mut cluster = Cluster::new().await;
    cluster.world.config.flush_interval = Duration::from_millis(40);
    let (catalog, hand) = (&cluster.world.catalog, &cluster.world.hand);
    catalog.expiries.lock().extend([10_000, 25_000, 9_999]);
    let _a = cluster.start("a").await;
    hand.advance(Duration::from_secs(60));
    let called = async |times| {
        while catalog.expiry_log.lock().len() < times {
            catalog.expired.notified().await;
        }
    };
    called(3).await;
    // The last one was not full: the next is a minute later.
    hand.advance(Duration::from_secs(60));
    called(4).await;
    let days = |days: u64| Duration::from_secs(days * 24 * 3600);
    let expiry = ProducerExpiry {
        unused_for: days(14),
        statements_unused_for: days(1) + Duration::from_secs(900),
        limit: 10_000,
    };
    assert_eq!(*catalog.expiry_log.lock(), [expiry; 4]);
}
