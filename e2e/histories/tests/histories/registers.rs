//! Histories of rows that are overwritten and deleted: of each key, the last change is the one that is read.
//!
//! A few keys, several nodes whose clocks are far apart, and clients that write to any of them. A write
//! may be held in the middle while others begin and end, its answer or the process may be lost, and the
//! value may be in a log, a buffer, or a file. The same with deletions. Each answer is checked against what was sent and
//! acknowledged, and when. The values grow out of their type: the column becomes wider on the way.
//!
//! # The rules
//! An answer has one row of a key at most. Its value was sent, and certainly not refused. No write of the
//! key was acknowledged before the question that began after the write of this value was acknowledged, and
//! no deletion that this value meets. A key that was acknowledged is there, unless a deletion met its last
//! value. A value that gave way never comes back.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_cast::cast;
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use flightcluster_ingest::{Error, TableMode};
use flightcluster_keys::METADATA_KEY;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::broken::Broken;
use crate::changes::Known;
use crate::client::stored_nothing;
use crate::keys::{Batch, Pass, Program, Restart, Step};
use crate::life::Fault;
use crate::reader::Reader;
use crate::run::{Bench, shortest};
use crate::step::Chore;
use crate::world::{Process, Start, World, alive};

/// How often a question is asked before a lack of answers counts: a reader does not wait long for one.
const ATTEMPTS: usize = 50;

/// The value before the first one: a few later they don't fit `Int8` any more.
const BEFORE_FIRST: i64 = 115;

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
    /// The lowest seed that broke a promise.
    pub(crate) bad: Option<Bad>,
}

/// A seed that broke a promise, and what happened then.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) seed: u64,
    pub(crate) what: String,
    notes: Vec<String>,
}

impl Sum {
    fn add(&mut self, seed: u64, run: Run) {
        self.runs += 1;
        self.acknowledged += run.acknowledged;
        self.answers += run.answers;
        self.held += run.held;
        self.deleted += run.deleted;
        self.deletions_without.0 += run.deletions_without.0;
        self.deletions_without.1 += run.deletions_without.1;
        if let Some(what) = run.bad
            && self.bad.as_ref().is_none_or(|other| seed < other.seed)
        {
            let notes = run.notes;
            self.bad = Some(Bad { seed, what, notes });
        }
    }
}

/// Runs the histories of these seeds on every core until one is bad, none is left, or `until` is over.
pub(crate) fn run_seeds(
    seeds: impl Iterator<Item = u64> + Send,
    broken: Option<Broken>,
    until: Option<Instant>,
) -> Sum {
    let (seeds, sum) = (Mutex::new(seeds), Mutex::new(Sum::default()));
    let stop = AtomicBool::new(false);
    let work = || {
        let bench = Bench::new();
        while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            let Some(seed) = seeds.lock().next() else {
                break;
            };
            let run = run(&bench, &Program::of(seed), broken);
            if run.bad.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
            sum.lock().add(seed, run);
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

/// A bad seed for people: what was broken, the shortest history that breaks a promise, what happened in it.
pub(crate) fn report(bad: &Bad, broken: Option<Broken>) -> String {
    let program = Program::of(bad.seed);
    let bench = Bench::new();
    let with = |steps: &[Step]| {
        let steps = steps.to_vec();
        Program {
            steps,
            ..program.clone()
        }
    };
    let (steps, again) = shortest(&program.steps, |steps| {
        let run = run(&bench, &with(steps), broken);
        Some((run.bad?, run.notes))
    });
    let mut text = format!("seed {} of keys: {}\n", bad.seed, bad.what);
    let mut line = |more: &str| {
        let _ = writeln!(text, "{more}");
    };
    let notes = match &again {
        None => {
            line("It did not happen again: run the seed more often.");
            &bad.notes
        }
        Some((what, notes)) => {
            let (few, all) = (steps.len(), program.steps.len());
            line(&format!("{few} of its {all} steps do it too: {what}"));
            notes
        }
    };
    line(&format!("{:?}", program.settings));
    let [first, last] = &program.starts;
    line(&format!("starts: {first:?}"));
    for step in &steps {
        line(&format!("  {step:?}"));
    }
    line(&format!("starts before the last questions: {last:?}"));
    line("what happened:");
    for note in notes {
        line(&format!("  {note}"));
    }
    text
}

/// How a history went.
#[derive(Debug, Default)]
struct Run {
    acknowledged: u64,
    answers: u64,
    held: u64,
    deleted: u64,
    deletions_without: (u64, u64),
    bad: Option<String>,
    notes: Vec<String>,
}

fn run(bench: &Bench, program: &Program, broken: Option<Broken>) -> Run {
    let settings = program.settings.clone();
    let ended = bench.in_world(settings, broken, async |world, reader| {
        let mut history = Registers {
            world,
            reader,
            known: Mutex::new(Known::after(BEFORE_FIRST)),
            sum: Run::default(),
        };
        history.sum.bad = history.all(program).await.err();
        history.sum.notes = std::mem::take(&mut world.history.lock().notes);
        history.sum
    });
    ended.unwrap_or_else(|stuck| Run {
        bad: Some(stuck.to_owned()),
        ..Run::default()
    })
}

struct Registers<'a> {
    world: &'a World,
    reader: &'a Reader,
    known: Mutex<Known>,
    sum: Run,
}

impl Registers<'_> {
    async fn all(&mut self, program: &Program) -> Result<(), String> {
        let [first, last] = &program.starts;
        for start in first {
            self.start(start).await;
        }
        for step in &program.steps {
            self.carry_out(step).await?;
            self.world.bury();
        }
        for start in last {
            self.start(start).await;
        }
        self.check_at_last().await
    }

    async fn carry_out(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Write { batch, fault } => {
                self.write(batch, *fault).await;
                Ok(())
            }
            Step::HeldWrite {
                batch,
                fault,
                others,
                deletion,
            } => self.held_write(batch, *fault, others, *deletion).await,
            Step::Flush { node } => {
                self.flush(*node).await;
                Ok(())
            }
            Step::Crash(restart) => {
                self.crash(restart.node);
                self.start(restart).await;
                Ok(())
            }
            Step::Advance { node, seconds } => {
                self.world.advance(*node, *seconds);
                Ok(())
            }
            Step::Compact { node } => {
                let done = { self.world.tidy(self.reader, *node, Chore::Compact, &[]) }.await;
                self.world.note(format!("node {node} compacted: {done}"));
                Ok(())
            }
            Step::Delete { pass, fault } => {
                self.world.reading.arm(fault.as_slice());
                self.delete(*pass).await;
                self.world.reading.disarm();
                Ok(())
            }
            Step::HeldDelete {
                pass,
                fault,
                others,
            } => self.held_delete(*pass, *fault, others).await,
            Step::Absence {
                rests,
                last,
                deletions,
                restart,
            } => {
                let node = restart.node;
                if *rests {
                    self.rest(node).await;
                }
                if let Some(batch) = last {
                    self.write(batch, None).await;
                }
                self.crash(node);
                self.deletions_without(deletions).await?;
                self.start(restart).await;
                self.check().await
            }
            Step::Read => self.check().await,
        }
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

    async fn start(&mut self, restart: &Restart) {
        let start = Start {
            node: restart.node,
            power_cut: restart.power_cut,
            clock: restart.clock,
            luck: restart.luck,
            faults: &[],
        };
        assert!(
            self.world.start(start).await.is_ok(),
            "nothing is in the way"
        );
    }

    fn crash(&self, node: usize) {
        self.world.note(format!("node {node} is killed"));
        self.world.crash(node);
    }

    async fn flush(&mut self, node: usize) {
        if let Some(process) = self.world.running(node) {
            let flushed = alive(&process.life, process.ingest.flush()).await;
            let done = matches!(flushed, Some(Ok(_)));
            self.world.note(format!("node {node} flushed: {done}"));
        }
    }

    /// A process puts its rows into files and has none in memory any more.
    async fn rest(&mut self, node: usize) {
        self.flush(node).await;
        self.world.advance(node, 1000);
        self.flush(node).await;
    }

    async fn deletions_without(&mut self, all: &[(Option<Batch>, Pass)]) -> Result<(), String> {
        for (batch, pass) in all {
            if let Some(batch) = batch {
                self.write(batch, None).await;
            }
            match self.delete(*pass).await {
                true => self.sum.deletions_without.0 += 1,
                false => self.sum.deletions_without.1 += 1,
            }
            self.check().await?;
        }
        Ok(())
    }

    async fn write(&mut self, batch: &Batch, fault: Option<Fault>) {
        let Some(process) = self.world.running(batch.node) else {
            return;
        };
        process.life.arm(fault.as_slice());
        self.sum.acknowledged += self.send(&process, batch).await;
        process.life.disarm();
    }

    /// Deletes; returns whether it succeeded.
    async fn delete(&mut self, pass: Pass) -> bool {
        let deleted = self.remove(pass).await;
        self.sum.deleted += deleted.unwrap_or_default();
        deleted.is_some()
    }

    async fn held_delete(
        &mut self,
        pass: Pass,
        fault: Fault,
        others: &[Batch],
    ) -> Result<(), String> {
        let life = &self.world.reading;
        life.may_hold();
        life.arm(&[fault]);
        let over = Notify::new();
        let held = async {
            let deleted = self.remove(pass).await;
            over.notify_one();
            deleted
        };
        let meanwhile = async {
            tokio::select! {
                () = life.reached() => (),
                () = over.notified() => { life.disarm(); }
            }
            let acknowledged = self.send_all(others).await;
            let checked = self.ask().await;
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

    async fn held_write(
        &mut self,
        batch: &Batch,
        fault: Fault,
        others: &[Batch],
        deletion: Option<Pass>,
    ) -> Result<(), String> {
        let Some(process) = self.world.running(batch.node) else {
            return Ok(());
        };
        process.life.may_hold();
        process.life.arm(&[fault]);
        let over = Notify::new();
        let held = async {
            let acknowledged = self.send(&process, batch).await;
            over.notify_one();
            acknowledged
        };
        let meanwhile = async {
            tokio::select! {
                () = process.life.reached() => (),
                () = over.notified() => (),
            }
            let acknowledged = self.send_all(others).await;
            let checked = self.ask().await;
            process.life.release();
            (acknowledged, checked)
        };
        let deleting = async {
            // It waits for the write that is held.
            match deletion {
                Some(pass) => self.remove(pass).await,
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
        self.sum.answers += self.ask().await?;
        Ok(())
    }

    /// Writes the next value of each key in one batch; returns how many batches were acknowledged.
    async fn send(&self, process: &Process, batch: &Batch) -> u64 {
        let keys = &batch.keys;
        let values = self.known.lock().begin(keys);
        let (node, pairs) = (batch.node, keys.iter().zip(&values).collect::<Vec<_>>());
        self.world.note(format!("node {node} is sent {pairs:?}"));
        let fits = values.iter().all(|value| i8::try_from(*value).is_ok());
        let value_type = match fits {
            true => DataType::Int8,
            false => DataType::Int16,
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(keys.clone())),
            Arc::new(TimestampMicrosecondArray::from(keys.clone())),
            cast(&Int64Array::from(values.clone()), &value_type).unwrap(),
        ];
        let batch = RecordBatch::try_new(schema(&value_type), columns).unwrap();
        let written = async {
            let (name, mode) = (World::table(0), TableMode::CreateOrAppend);
            let schema = schema(&value_type);
            let writer = process.ingest.writer(&name, &schema, mode, true).await?;
            writer.write(batch, None, None).await
        };
        let written: Option<Result<_, Error>> = alive(&process.life, written).await;
        let (acknowledged, refused) = match &written {
            Some(Ok(_)) => (true, false),
            Some(Err(error)) => (false, stored_nothing(error)),
            None => (false, false),
        };
        self.known.lock().end(&values, acknowledged, refused);
        self.world.note(match (acknowledged, refused) {
            (true, _) => format!("node {node} acknowledged {pairs:?}"),
            (_, true) => format!("node {node} refused {pairs:?}"),
            _ => format!(
                "node {node} may have {pairs:?}: {:?}",
                written.map(|w| w.err())
            ),
        });
        u64::from(acknowledged)
    }

    /// Writes batches, one after the other; returns how many were acknowledged.
    async fn send_all(&self, batches: &[Batch]) -> u64 {
        let mut acknowledged = 0;
        for batch in batches {
            if let Some(process) = self.world.running(batch.node) {
                acknowledged += self.send(&process, batch).await;
            }
        }
        acknowledged
    }

    /// Deletes; returns how many rows, if it succeeded.
    async fn remove(&self, pass: Pass) -> Option<u64> {
        let (at, sql) = self.known.lock().begin_deletion(pass);
        self.world.note(format!("deletion of {sql} begins"));
        let deleted = self.reader.delete(&World::table(0).table, &sql).await;
        self.known.lock().end_deletion(at, deleted.is_ok());
        self.world.note(format!("deletion of {sql}: {deleted:?}"));
        deleted.ok()
    }

    /// Asks for all keys; returns how many answers there were.
    async fn ask(&self) -> Result<u64, String> {
        let asked = self.known.lock().now;
        let table = World::table(0).table;
        let Ok(found) = self.reader.values(&table, "true").await else {
            self.world.note("a question has no answer");
            return Ok(0);
        };
        self.world.note(format!("read {found:?}"));
        self.known.lock().judge(asked, &found)?;
        // A filter on the value must not bring an older row back.
        if let Some((key, value)) = found.first()
            && let Ok(same) = self
                .reader
                .values(&table, &format!("value <= {value}"))
                .await
            && let Some(other) = same.iter().find(|row| row.0 == *key && row.1 != *value)
        {
            return Err(format!("key {key} is {value}, and by a filter {}", other.1));
        }
        Ok(1)
    }
}

fn schema(value_type: &DataType) -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("time", time, false),
        Field::new("value", value_type.clone(), false),
    ];
    let key = r#"["id", "time"]"#.to_owned();
    let metadata = [(METADATA_KEY.to_owned(), key)];
    Arc::new(Schema::new(fields).with_metadata(metadata.into()))
}
