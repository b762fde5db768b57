//! Histories of rows that are overwritten and deleted: of each key, the last change is the one that is read.
//!
//! A few keys, several nodes whose clocks are far apart, and clients that write to any of them. A write
//! may be held in the middle while others begin and end, its answer or the process may be lost, and the
//! value may be in a log, a buffer, or a file. The same with deletions. Each answer is checked against what was sent and
//! acknowledged, and when.
//!
//! # The rules
//! An answer has one row of a key at most. Its value was sent, and certainly not refused. No write of the
//! key was acknowledged before the question that began after the write of this value was acknowledged, and
//! no deletion that this value meets. A key that was acknowledged is there, unless a deletion met its last
//! value. A value that gave way never comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use flightcluster_ingest::{Error, TableMode};
use flightcluster_keys::METADATA_KEY;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::Notify;

use crate::broken::Broken;
use crate::changes::{Deletion, Known, Write};
use crate::client::stored_nothing;
use crate::life::{Fault, Port, Trouble};
use crate::program::{Chore, Settings};
use crate::reader::Reader;
use crate::run::Bench;
use crate::world::{Process, Start, World, alive};

const KEYS: i64 = 3;
/// How often a question is asked before a lack of answers counts: a reader does not wait long for one.
const ATTEMPTS: usize = 50;
const STEPS: usize = 40;

/// Where a write may be held: before and after its table is opened, before and after its numbers are taken, and before it is on disk.
const HOLDS: [(Port, Trouble); 5] = [
    (Port::Open, Trouble::HoldBefore),
    (Port::Open, Trouble::HoldAfter),
    (Port::Order, Trouble::HoldBefore),
    (Port::Order, Trouble::HoldAfter),
    (Port::Sync, Trouble::HoldBefore),
];
/// What else may happen to one.
const LOSSES: [(Port, Trouble); 6] = [
    (Port::Open, Trouble::LostAnswer),
    (Port::Open, Trouble::CrashAfter),
    (Port::Order, Trouble::LostRequest),
    (Port::Order, Trouble::LostAnswer),
    (Port::Order, Trouble::CrashAfter),
    (Port::Sync, Trouble::CrashAfter),
];

/// Where a deletion may be held: before and after it learns whom to ask, before one of the ingesters is asked, before and after its snapshot, and
/// before its files take the place of others.
const DELETE_HOLDS: [(Port, u8, Trouble); 10] = [
    (Port::Lookup, 0, Trouble::HoldAfter),
    (Port::Lookup, 1, Trouble::HoldBefore),
    (Port::Lookup, 1, Trouble::HoldAfter),
    (Port::Peer, 0, Trouble::HoldBefore),
    (Port::Peer, 1, Trouble::HoldBefore),
    (Port::Peer, 0, Trouble::HoldAfter),
    (Port::Peer, 1, Trouble::HoldAfter),
    (Port::Snapshot, 1, Trouble::HoldBefore),
    (Port::Snapshot, 1, Trouble::HoldAfter),
    (Port::Replace, 0, Trouble::HoldBefore),
];
/// What else may happen to one.
const DELETE_LOSSES: [(Port, Trouble); 5] = [
    (Port::Peer, Trouble::LostRequest),
    (Port::Peer, Trouble::LostAnswer),
    (Port::Get, Trouble::LostRequest),
    (Port::Replace, Trouble::LostRequest),
    (Port::Replace, Trouble::LostAnswer),
];

/// What histories came to.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) runs: u64,
    pub(crate) acknowledged: u64,
    pub(crate) answers: u64,
    pub(crate) held: u64,
    pub(crate) deleted: u64,
    /// Deletions that succeeded while an ingester was down, and those that did not.
    pub(crate) deletions_without: (u64, u64),
    pub(crate) bad: Option<String>,
}

/// Runs the histories of these seeds on every core until one is bad.
pub(crate) fn run_seeds(seeds: std::ops::Range<u64>, broken: Option<Broken>) -> Sum {
    let (seeds, sum) = (Mutex::new(seeds), Mutex::new(Sum::default()));
    let stop = AtomicBool::new(false);
    let work = || {
        let bench = Bench::new();
        while !stop.load(Ordering::Relaxed) {
            let Some(seed) = seeds.lock().next() else {
                break;
            };
            let run = run(&bench, seed, broken);
            let mut sum = sum.lock();
            sum.runs += 1;
            sum.acknowledged += run.acknowledged;
            sum.answers += run.answers;
            sum.held += run.held;
            sum.deleted += run.deleted;
            sum.deletions_without.0 += run.deletions_without.0;
            sum.deletions_without.1 += run.deletions_without.1;
            if let Some(bad) = run.bad {
                stop.store(true, Ordering::Relaxed);
                sum.bad = Some(format!("seed {seed}: {bad}"));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    sum.into_inner()
}

fn run(bench: &Bench, seed: u64, broken: Option<Broken>) -> Sum {
    let mut chance = StdRng::seed_from_u64(seed);
    let settings = Settings {
        nodes: chance.random_range(2..=3),
        tables: 1,
        clients: vec![],
        uploads: vec![],
        segment_bytes: *[1 << 10, 64 << 20].choose(&mut chance).unwrap(),
        grace_seconds: *[1, 60].choose(&mut chance).unwrap(),
        flush_bytes: 128 << 20,
        buffer_bytes: 512 << 20,
        min_files: 2,
        target_bytes: 256 << 20,
        leases_end: chance.random(),
        luck: chance.random(),
    };
    let ended = bench.in_world(settings, broken, async |world, reader| {
        let mut history = Registers {
            world,
            reader,
            chance,
            writes: Mutex::default(),
            sum: Sum::default(),
        };
        history.sum.bad = history.all().await.err();
        history.sum
    });
    ended.unwrap_or_else(|stuck| Sum {
        bad: Some(stuck.to_owned()),
        ..Sum::default()
    })
}

struct Registers<'a> {
    world: &'a World,
    reader: &'a Reader,
    chance: StdRng,
    writes: Mutex<Known>,
    sum: Sum,
}

impl Registers<'_> {
    async fn all(&mut self) -> Result<(), String> {
        let nodes = self.world.settings.nodes;
        for node in 0..nodes {
            self.start(node, false).await;
        }
        for _ in 0..STEPS {
            let node = self.chance.random_range(0..nodes);
            match self.chance.random_range(0..100) {
                0..33 => self.write(node, None).await,
                33..41 => {
                    let loss = *LOSSES.choose(&mut self.chance).unwrap();
                    self.write(node, Some(loss)).await;
                }
                41..60 => self.during(node).await?,
                60..70 => self.flush(node).await,
                70..76 => {
                    self.world.crash(node);
                    self.start(node, true).await;
                }
                76..79 => {
                    let seconds = self.chance.random_range(0..100);
                    self.world.advance(node, seconds);
                }
                79..84 => {
                    self.world
                        .tidy(self.reader, node, Chore::Compact, &[])
                        .await;
                }
                84..90 => self.delete().await,
                90..95 => self.during_deletion().await?,
                95..98 => self.during_absence(node).await?,
                _ => self.check().await?,
            }
            self.world.bury();
        }
        for node in 0..nodes {
            self.start(node, false).await;
        }
        self.check_at_last().await
    }

    /// As [`Self::check`], when nothing is in the way of an answer any more.
    async fn check_at_last(&mut self) -> Result<(), String> {
        let before = self.sum.answers;
        for _ in 0..ATTEMPTS {
            self.check().await?;
            if self.sum.answers > before {
                return Ok(());
            }
        }
        let table = World::table(0).table;
        match self.reader.values(&table, "true").await {
            // Maybe there is no table.
            _ if self.sum.acknowledged == 0 => Ok(()),
            answer => Err(format!("there is no answer at last: {answer:?}")),
        }
    }

    async fn start(&mut self, node: usize, power_cut: bool) {
        let start = Start {
            node,
            power_cut: power_cut && self.chance.random(),
            clock: *[0, 1000, 5000, 100_000].choose(&mut self.chance).unwrap(),
            luck: self.chance.random(),
            faults: &[],
        };
        assert!(
            self.world.start(start).await.is_ok(),
            "nothing is in the way"
        );
    }

    async fn flush(&mut self, node: usize) {
        if let Some(process) = self.world.running(node) {
            let _ = alive(&process.life, process.ingest.flush()).await;
        }
    }

    /// A process puts its rows into files and has none in memory any more.
    async fn rest(&mut self, node: usize) {
        self.flush(node).await;
        self.world.advance(node, 1000);
        self.flush(node).await;
    }

    /// Deletes, and writes elsewhere, while a node is down that may or may not have rows in its log.
    async fn during_absence(&mut self, node: usize) -> Result<(), String> {
        if self.chance.random() {
            self.rest(node).await;
        }
        if self.chance.random_range(0..3) == 0 {
            self.write(node, None).await;
        }
        self.world.crash(node);
        for _ in 0..self.chance.random_range(1..4) {
            if self.chance.random() {
                let other = self.chance.random_range(0..self.world.settings.nodes);
                self.write(other, None).await;
            }
            let deletion = self.deletion();
            match delete(&self.writes, self.reader, deletion).await {
                Some(deleted) => {
                    self.sum.deleted += deleted;
                    self.sum.deletions_without.0 += 1;
                }
                None => self.sum.deletions_without.1 += 1,
            }
            self.check().await?;
        }
        self.start(node, true).await;
        self.check().await
    }

    /// Writes a key or two through a node.
    async fn write(&mut self, node: usize, trouble: Option<(Port, Trouble)>) {
        let Some(process) = self.world.running(node) else {
            return;
        };
        let keys = self.keys();
        if let Some((port, trouble)) = trouble {
            let nth = 0;
            process.life.arm(&[Fault { port, nth, trouble }]);
        }
        self.sum.acknowledged += send(&self.writes, &process, &keys).await;
        process.life.disarm();
    }

    fn keys(&mut self) -> Vec<i64> {
        let first = self.chance.random_range(0..KEYS);
        match self.chance.random() {
            true => vec![first],
            false => vec![first, (first + 1) % KEYS],
        }
    }

    /// Something to be deleted, most often what was written lately.
    fn deletion(&mut self) -> Deletion {
        let next = self.writes.lock().next;
        let one = self.chance.random_range(0..3) == 0;
        Deletion {
            key: one.then(|| self.chance.random_range(0..KEYS)),
            // Also what is written while the deletion runs.
            highest: next + self.chance.random_range(-4..8),
            started: 0,
            ended: None,
        }
    }

    async fn delete(&mut self) {
        let deletion = self.deletion();
        if self.chance.random() {
            let (port, trouble) = *DELETE_LOSSES.choose(&mut self.chance).unwrap();
            let nth = self.chance.random_range(0..2);
            self.world.reading.arm(&[Fault { port, nth, trouble }]);
        }
        let deleted = delete(&self.writes, self.reader, deletion).await;
        self.sum.deleted += deleted.unwrap_or_default();
        self.world.reading.disarm();
    }

    /// Holds a deletion while writes begin and end.
    async fn during_deletion(&mut self) -> Result<(), String> {
        let (port, nth, trouble) = *DELETE_HOLDS.choose(&mut self.chance).unwrap();
        let deletion = self.deletion();
        let others: Vec<_> = (0..self.chance.random_range(1..4))
            .map(|_| {
                let node = self.chance.random_range(0..self.world.settings.nodes);
                (node, self.keys())
            })
            .collect();
        let life = &self.world.reading;
        life.may_hold();
        life.arm(&[Fault { port, nth, trouble }]);
        let over = Notify::new();
        let held = async {
            let deleted = delete(&self.writes, self.reader, deletion).await;
            over.notify_one();
            deleted
        };
        let meanwhile = async {
            tokio::select! {
                () = life.reached() => (),
                () = over.notified() => { life.disarm(); }
            }
            let acknowledged = send_all(self.world, &self.writes, &others).await;
            let checked = check(&self.writes, self.reader).await;
            life.release();
            (acknowledged, checked)
        };
        let (deleted, (acknowledged, checked)) = tokio::join!(held, meanwhile);
        life.disarm();
        self.sum.deleted += deleted.unwrap_or_default();
        self.sum.acknowledged += acknowledged;
        self.sum.held += 1;
        self.sum.answers += checked?;
        self.check().await
    }

    /// Holds a write while others begin and end.
    async fn during(&mut self, node: usize) -> Result<(), String> {
        let Some(process) = self.world.running(node) else {
            return Ok(());
        };
        let (port, trouble) = *HOLDS.choose(&mut self.chance).unwrap();
        let (nth, keys) = (0, self.keys());
        process.life.may_hold();
        process.life.arm(&[Fault { port, nth, trouble }]);
        let others: Vec<(usize, Vec<i64>)> = (0..self.chance.random_range(1..4))
            .map(|_| {
                (
                    self.chance.random_range(0..self.world.settings.nodes),
                    self.keys(),
                )
            })
            .filter(|(other, _)| *other != node)
            .collect();
        // It waits for the write that is held.
        let deletion = (self.chance.random_range(0..3) == 0).then(|| self.deletion());
        let over = Notify::new();
        let held = async {
            let acknowledged = send(&self.writes, &process, &keys).await;
            over.notify_one();
            acknowledged
        };
        let meanwhile = async {
            tokio::select! {
                () = process.life.reached() => (),
                () = over.notified() => (),
            }
            let acknowledged = send_all(self.world, &self.writes, &others).await;
            let checked = check(&self.writes, self.reader).await;
            process.life.release();
            (acknowledged, checked)
        };
        let deleting = async {
            match deletion {
                Some(deletion) => delete(&self.writes, self.reader, deletion).await,
                None => None,
            }
        };
        let (first, (rest, checked), deleted) = tokio::join!(held, meanwhile, deleting);
        self.sum.deleted += deleted.unwrap_or_default();
        process.life.disarm();
        self.sum.acknowledged += first + rest;
        self.sum.held += 1;
        self.sum.answers += checked?;
        self.check().await
    }

    async fn check(&mut self) -> Result<(), String> {
        self.sum.answers += check(&self.writes, self.reader).await?;
        Ok(())
    }
}

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("time", time, false),
        Field::new("value", DataType::Int64, false),
    ];
    let key = r#"["id", "time"]"#.to_owned();
    let metadata = [(METADATA_KEY.to_owned(), key)];
    Arc::new(Schema::new(fields).with_metadata(metadata.into()))
}

/// Writes the next value of each key in one batch; returns how many were acknowledged.
async fn send(known: &Mutex<Known>, process: &Process, keys: &[i64]) -> u64 {
    let values: Vec<i64> = {
        let mut known = known.lock();
        known.now += 1;
        let started = known.now;
        let begin = |key: &i64| {
            known.next += 1;
            let value = known.next;
            known.writes.entry(*key).or_default().push(Write {
                value,
                started,
                ended: None,
                refused: false,
            });
            value
        };
        keys.iter().map(begin).collect()
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(keys.to_vec())),
        Arc::new(TimestampMicrosecondArray::from(keys.to_vec())),
        Arc::new(Int64Array::from(values.clone())),
    ];
    let batch = RecordBatch::try_new(schema(), columns).unwrap();
    let written = async {
        let (name, mode) = (World::table(0), TableMode::CreateOrAppend);
        let writer = process.ingest.writer(&name, &schema(), mode, true).await?;
        writer.write(batch, None, None).await
    };
    let written: Option<Result<_, Error>> = alive(&process.life, written).await;
    let mut known = known.lock();
    known.now += 1;
    let now = known.now;
    let writes = known.writes.values_mut().flatten();
    for write in writes.filter(|write| values.contains(&write.value)) {
        match &written {
            Some(Ok(_)) => write.ended = Some(now),
            Some(Err(error)) => write.refused = stored_nothing(error),
            None => {}
        }
    }
    u64::from(matches!(written, Some(Ok(_))))
}

/// Writes keys through nodes, one after the other; returns how many writes were acknowledged.
async fn send_all(world: &World, known: &Mutex<Known>, all: &[(usize, Vec<i64>)]) -> u64 {
    let mut acknowledged = 0;
    for (node, keys) in all {
        if let Some(process) = world.running(*node) {
            acknowledged += send(known, &process, keys).await;
        }
    }
    acknowledged
}

/// Deletes; returns how many rows, if it succeeded.
async fn delete(known: &Mutex<Known>, reader: &Reader, mut deletion: Deletion) -> Option<u64> {
    let at = {
        let mut known = known.lock();
        known.now += 1;
        deletion.started = known.now;
        known.deletions.push(deletion.clone());
        known.deletions.len() - 1
    };
    let table = World::table(0).table;
    let deleted = reader.delete(&table, &deletion.sql()).await;
    let mut known = known.lock();
    known.now += 1;
    if deleted.is_ok() {
        known.deletions[at].ended = Some(known.now);
    }
    deleted.ok()
}

/// Asks for all keys; returns how many answers there were.
async fn check(known: &Mutex<Known>, reader: &Reader) -> Result<u64, String> {
    let asked = known.lock().now;
    let table = World::table(0).table;
    let Ok(found) = reader.values(&table, "true").await else {
        return Ok(0);
    };
    known.lock().judge(asked, &found)?;
    // A filter on the value must not bring an older row back.
    if let Some((key, value)) = found.first()
        && let Ok(same) = reader.values(&table, &format!("value <= {value}")).await
        && let Some(other) = same.iter().find(|row| row.0 == *key && row.1 != *value)
    {
        return Err(format!("key {key} is {value}, and by a filter {}", other.1));
    }
    Ok(1)
}
