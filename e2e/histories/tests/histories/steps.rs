//! Carries out the steps of a history and checks every answer.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use flightcluster_catalog::TableId;
use flightcluster_ingest::{Producer, TableWriter};
use futures::future::join_all;
use tokio::sync::Notify;

use crate::client::{Batch, Named, encode, stored_nothing};
use crate::history::{Kind, Violation, name};
use crate::life::Fault;
use crate::reader::Reader;
use crate::shape::Shape;
use crate::step::{Question, Step};
use crate::world::{Process, Start, World, alive};

/// When nothing is in the way any more, everything works at the second attempt: the first one may meet
/// what was under way before.
pub(crate) const ATTEMPTS: usize = 3;

type Carried<'a> = Pin<Box<dyn Future<Output = Result<(), Violation>> + 'a>>;

/// What one attempt to write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Acknowledged,
    Refused,
    Unknown,
}

impl World {
    /// Carries out one step.
    pub(crate) fn carry_out<'a>(&'a self, reader: &'a Reader, step: &'a Step) -> Carried<'a> {
        Box::pin(async move {
            self.note(format!("step {step:?}"));
            match step {
                Step::Write {
                    node,
                    client,
                    table,
                    batches,
                    rows,
                    shape,
                    same_stream,
                    faults,
                } => {
                    let new = self.new_batches(*client, *batches, *rows, *shape);
                    self.write(*node, *client, *table, new, *same_stream, faults)
                        .await;
                }
                Step::Twice(twice) => self.twice(twice).await,
                Step::CatalogAway { meanwhile } => {
                    self.catalog_away(reader, meanwhile).await?;
                }
                Step::Repeat { node, client } => self.repeat(*node, *client).await,
                Step::Flush { node, faults } => {
                    if let Some(process) = self.running(*node) {
                        self.flush(&process, faults).await;
                    }
                }
                Step::SendUpload {
                    node,
                    upload,
                    batches,
                    rows,
                    shape,
                    faults,
                } => {
                    let new = (*batches, *rows, *shape);
                    self.send_upload(*node, *upload, new, faults).await;
                }
                Step::EndUpload {
                    node,
                    upload,
                    end,
                    faults,
                } if *upload < self.uploads.len() => {
                    self.end_upload(*node, *upload, *end, faults).await?;
                }
                Step::EndUpload { .. } => {}
                Step::Tidy {
                    node,
                    chore,
                    faults,
                } => {
                    self.tidy(reader, *node, *chore, faults).await;
                }
                Step::FlushFormer { node } => {
                    if let Some(process) = self.former(*node) {
                        self.flush(&process, &[]).await;
                    }
                }
                Step::Advance { node, seconds } => self.advance(*node, *seconds),
                Step::Crash { node } => self.crash(*node),
                Step::Start {
                    node,
                    power_cut,
                    clock,
                    luck,
                    faults,
                } => {
                    self.start(Start {
                        node: *node,
                        power_cut: *power_cut,
                        clock: *clock,
                        luck: *luck,
                        faults,
                    })
                    .await?;
                }
                Step::Drain { node, faults } => self.drain(*node, faults).await,
                Step::TakeOver { node, luck } => self.take_over(*node, *luck).await?,
                Step::DropTable { table } => {
                    self.settle_uploads().await;
                    let _ = self
                        .truth()
                        .drop_table(&Self::table(*table), true, None)
                        .await;
                }
                Step::Query {
                    table,
                    question,
                    faults,
                } => {
                    self.query(reader, *table, *question, faults).await?;
                    self.look_back(reader, *table).await?;
                }
                Step::During { held, meanwhile } => {
                    self.during(reader, held, meanwhile).await?;
                }
            }
            self.bury();
            Ok(())
        })
    }

    /// No process reaches the catalog while these steps are carried out. Then one is there again that has
    /// everything that was committed, and nothing else of the one before.
    async fn catalog_away(&self, reader: &Reader, meanwhile: &[Step]) -> Result<(), Violation> {
        self.set_away(true);
        for step in meanwhile {
            self.carry_out(reader, step).await?;
        }
        self.restart_catalog(reader).await;
        self.note("the catalog is back");
        self.set_away(false);
        Ok(())
    }

    /// Begins `held`, waits until its call waits (or it is over), does the rest, and lets it go on.
    async fn during(
        &self,
        reader: &Reader,
        held: &Step,
        meanwhile: &[Step],
    ) -> Result<(), Violation> {
        let life = match held {
            Step::Query { .. } => Some(Arc::clone(&self.reading)),
            Step::Flush { node, .. }
            | Step::Write { node, .. }
            | Step::Tidy { node, .. }
            | Step::EndUpload { node, .. } => self.running(*node).map(|process| process.life),
            _ => None,
        };
        let Some(life) = life else { return Ok(()) };
        life.may_hold();
        let over = Notify::new();
        let first = async {
            let result = self.carry_out(reader, held).await;
            over.notify_one();
            result
        };
        let others = async {
            tokio::select! {
                () = life.reached() => (),
                () = over.notified() => (),
            }
            self.note("meanwhile");
            for step in meanwhile {
                let result = self.carry_out(reader, step).await;
                if result.is_err() {
                    life.release();
                    return result;
                }
            }
            self.note("the held call goes on");
            life.release();
            Ok(())
        };
        let (first, others) = tokio::join!(first, others);
        first.and(others)
    }

    async fn flush(&self, process: &Process, faults: &[Fault]) -> bool {
        if !faults.is_empty() {
            process.life.arm(faults);
        }
        let flushed = alive(&process.life, process.ingest.flush()).await;
        if !faults.is_empty() {
            process.life.disarm();
        }
        let well = matches!(flushed, Some(Ok(())));
        self.note(match flushed {
            None => "the process ended".to_owned(),
            Some(Ok(())) => "flushed".to_owned(),
            Some(Err(error)) => format!("not flushed: {error:?}"),
        });
        well
    }

    /// Whatever went wrong before, a process that still runs gets its rows into files. What it tries
    /// first may be a thing that can't be done any more.
    async fn flush_all(&self) -> Result<(), Violation> {
        for node in 0..self.settings.nodes {
            let Some(process) = self.running(node) else {
                continue;
            };
            let mut flushed = false;
            for _ in 0..ATTEMPTS {
                flushed = flushed || self.flush(&process, &[]).await;
            }
            if !flushed && !process.life.is_dead() {
                let text = format!("node {node} can't put its rows into files");
                let (kind, key) = (Kind::Stuck, None);
                return Err(Violation { kind, text, key });
            }
        }
        Ok(())
    }

    pub(crate) fn new_batches(
        &self,
        client: usize,
        batches: u8,
        rows: u8,
        shape: Shape,
    ) -> Vec<Batch> {
        let producer = self.settings.clients[client].is_some();
        let mut held = self.clients[client].lock();
        (0..batches)
            .map(|_| held.new_batch(client, producer, rows, shape))
            .collect()
    }

    /// Sends what a client has to repeat, and then these.
    pub(crate) async fn write(
        &self,
        node: usize,
        client: usize,
        table: usize,
        new: Vec<Batch>,
        same_stream: bool,
        faults: &[Fault],
    ) {
        let Some(process) = self.running(node) else {
            return;
        };
        let mut batches = {
            let mut held = self.clients[client].lock();
            if std::mem::replace(&mut held.busy, true) {
                return;
            }
            std::mem::take(&mut held.pending)
        };
        batches.extend(new);
        if !faults.is_empty() {
            process.life.arm(faults);
        }
        let open = async |shape| {
            let key = (client, table, shape);
            self.stream(&process, key, same_stream).await.ok()
        };
        let (mut back, done) = self.send_groups(&process, client, batches, open).await;
        if !faults.is_empty() {
            process.life.disarm();
        }
        let mut held = self.clients[client].lock();
        held.busy = false;
        held.done.extend(done);
        if self.settings.clients[client].is_none() {
            // Half of those who don't number their batches go on with others.
            let sent_again = |batch: &Batch| batch.rows[0].key % 2 == 0;
            back.retain(sent_again);
        }
        held.pending = back;
    }

    /// Sends batches in order, on as many streams as they have schemas. Returns those without an
    /// acknowledgement, and those with one that have a number.
    pub(crate) async fn send_groups(
        &self,
        process: &Process,
        client: usize,
        batches: Vec<Batch>,
        open: impl AsyncFn(Shape) -> Option<Arc<TableWriter>>,
    ) -> (Vec<Batch>, Vec<Batch>) {
        let mut rest = VecDeque::from(batches);
        let (mut back, mut done) = (Vec::new(), Vec::new());
        // What is of another schema follows when all before it is stored.
        while back.is_empty() && !rest.is_empty() {
            let shape = rest[0].shape;
            let count = rest.iter().take_while(|batch| batch.shape == shape).count();
            let group: Vec<Batch> = rest.drain(..count).collect();
            let opened = alive(&process.life, open(shape)).await;
            let Some(Some(stream)) = opened else {
                self.note(format!("client {client} got no stream"));
                back = group;
                break;
            };
            (back, done) = self.send(process, client, &stream, group, done).await;
        }
        back.extend(rest);
        (back, done)
    }

    /// Sends batches on one stream, all at once; returns those without an acknowledgement, and those
    /// with one added to `done`.
    async fn send(
        &self,
        process: &Process,
        client: usize,
        stream: &Arc<TableWriter>,
        group: Vec<Batch>,
        mut done: Vec<Batch>,
    ) -> (Vec<Batch>, Vec<Batch>) {
        let table = stream.table().id;
        let calls = group
            .iter()
            .map(|batch| async move { self.attempt(process, client, stream, table, batch).await });
        let outcomes = join_all(calls).await;
        let mut back = Vec::new();
        for (mut batch, outcome) in group.into_iter().zip(outcomes) {
            batch.table = Some(table);
            if outcome != Outcome::Acknowledged {
                back.push(batch);
            } else if batch.number.is_some() {
                done.push(batch);
            }
        }
        (back, done)
    }

    pub(crate) async fn attempt(
        &self,
        process: &Process,
        client: usize,
        stream: &TableWriter,
        table: TableId,
        batch: &Batch,
    ) -> Outcome {
        let producer = batch.number.map(|sequence| Producer {
            id: match batch.named {
                Some(Named { stream, .. }) => format!("stream-{}", name(stream)),
                None => format!("producer-{client}"),
            },
            sequence,
            after: batch.named.map(|named| named.before),
        });
        let (first, last) = (batch.rows[0].key, batch.rows[batch.rows.len() - 1].key);
        let span = format!("{} to {} of table {table}", name(first), name(last));
        self.note(format!("sent {span}"));
        let once = producer.is_some();
        self.history
            .lock()
            .send(table, &batch.rows, once, process.node);
        let written = alive(&process.life, stream.write(encode(batch), None, producer)).await;
        let mut history = self.history.lock();
        match written {
            // An acknowledgement of a process that has ended since may not have left it.
            Some(Ok(ack)) if !process.life.is_dead() => {
                history.note(format!(
                    "acknowledged {span} as {} (repeat: {})",
                    ack.sequence, ack.duplicate
                ));
                history.acknowledge(table, &batch.rows);
                Outcome::Acknowledged
            }
            Some(Err(error)) if stored_nothing(&error) => {
                history.note(format!("refused {span}: {}", error.category()));
                history.refuse(table, &batch.rows);
                Outcome::Refused
            }
            _ => {
                history.note(format!("no answer for {span}"));
                Outcome::Unknown
            }
        }
    }

    /// A producer sends an acknowledged batch once more, to the table it is in.
    async fn repeat(&self, node: usize, client: usize) {
        let Some((_, table)) = self.settings.clients[client] else {
            return;
        };
        let Some(process) = self.running(node) else {
            return;
        };
        let batch = {
            let held = self.clients[client].lock();
            let count = held.done.len();
            let at = if count % 2 == 1 { count - 1 } else { count / 2 };
            held.done.get(at).cloned()
        };
        let Some(batch) = batch else { return };
        let key = (client, table, batch.shape);
        let opened = alive(&process.life, self.stream(&process, key, true)).await;
        if let Some(Ok(stream)) = opened
            && Some(stream.table().id) == batch.table
        {
            let table = stream.table().id;
            self.attempt(&process, client, &stream, table, &batch).await;
        }
    }

    /// Mends everything and asks for all rows: as they are, after a power cut, and from files alone.
    pub(crate) async fn finish(&self, reader: &Reader) -> Result<(), Violation> {
        self.note("the end: everything is mended");
        self.end_formers();
        self.start_all(false).await?;
        self.finish_producers().await?;
        self.finish_uploads().await?;
        self.ask_all(reader, "when everything was mended").await?;
        self.flush_all().await?;
        self.start_all(true).await?;
        self.ask_all(reader, "after a power cut").await?;
        self.tidy_all(reader).await?;
        self.ask_all(reader, "after compaction and deletion")
            .await?;
        for node in 0..self.settings.nodes {
            self.drain(node, &[]).await;
            self.commit_postponed().await;
        }
        self.ask_all(reader, "from files alone").await
    }

    pub(crate) async fn start_all(&self, power_cut: bool) -> Result<(), Violation> {
        for node in 0..self.settings.nodes {
            if power_cut {
                self.crash(node);
            }
            let start = Start {
                node,
                power_cut: true,
                clock: 0,
                luck: self.settings.luck.wrapping_add(node as u64),
                faults: &[],
            };
            self.start(start).await?;
        }
        Ok(())
    }

    async fn finish_producers(&self) -> Result<(), Violation> {
        for (client, home) in self.settings.clients.iter().enumerate() {
            let Some((node, table)) = *home else { continue };
            for _ in 0..ATTEMPTS {
                self.start_all(false).await?;
                self.write(node, client, table, vec![], false, &[]).await;
            }
            let left = self.clients[client].lock().pending.len();
            if left > 0 {
                let text = format!("client {client} can't get {left} batches acknowledged");
                let (kind, key) = (Kind::Stuck, None);
                return Err(Violation { kind, text, key });
            }
        }
        Ok(())
    }

    async fn ask_all(&self, reader: &Reader, when: &str) -> Result<(), Violation> {
        self.note(format!("asking {when}"));
        for table in 0..self.settings.tables {
            let mut answered = false;
            for _ in 0..5 {
                answered = answered || self.query(reader, table, Question::Rows, &[]).await?;
            }
            if !answered {
                let text = format!("table {table} gives no answer {when}");
                let (kind, key) = (Kind::Stuck, None);
                return Err(Violation { kind, text, key });
            }
        }
        Ok(())
    }
}
