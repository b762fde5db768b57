//! One round of flushing: rows → objects → catalog commit → log truncated, in this order.
//!
//! # Crash
//! - Before the commit: the objects are named nowhere, the rows are in the log.
//! - After the commit: the next registration tells the watermarks, replay skips the rows.
//! - An answer that was lost: the commit is kept and repeated as it was before anything else is
//!   flushed; the catalog recognises it. The rows count as unflushed until then. One that comes so late
//!   that its objects may have been deleted as orphans is refused, and its rows are written anew.
//!
//! # Cancellation
//! A commit is noted before it is sent, so a dropped round is taken up by the next one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use flightcluster_catalog::{
    self as catalog, FlushCommit, FlushCommitted, NewFile, ProducerPosition, SequenceNumber, Table,
    TableId,
};
use flightcluster_keys::Key;
use flightcluster_wal as wal;
use futures::StreamExt as _;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use crate::buffer::{Due, Kept, Round, Row, Unflushed};
use crate::current::catalog_state;
use crate::error::Error;
use crate::flusher::{Backoff, chain};
use crate::ingest::Core;
use crate::parquet_file::{self, EncodedFile};
use crate::schema::decode_schema;
use crate::table::failed;

/// Tables that are encoded and stored at the same time: one computes while another uploads.
const TABLES_AT_ONCE: usize = 2;
/// Most bytes of rows that are sorted at once: together, the texts of a column are counted in 31 bits.
const SORTED_BYTES: u64 = 1 << 30;

/// What a round is to flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Every table.
    All,
    /// Tables that are large or old enough and did not fail just now.
    Due,
    /// This table.
    Table(TableId),
}

/// What the rounds remember; the lock around it makes them one at a time.
#[derive(Debug, Default)]
pub(crate) struct FlushState {
    /// A commit that was sent, or is about to be, and not answered.
    unanswered: Option<Prepared>,
    /// Tables that failed: when to try again.
    failing: HashMap<TableId, (Backoff, Instant)>,
}

#[derive(Debug)]
struct Prepared {
    commit: FlushCommit,
    /// Time spent on encoding and storing.
    took: Duration,
}

/// The part of a commit that concerns one table.
#[derive(Debug)]
struct PreparedTable {
    files: Vec<NewFile>,
    watermark: SequenceNumber,
    producers: Vec<ProducerPosition>,
}

/// What a round left undone.
#[derive(Debug, Default)]
struct Left {
    /// There is more of what it was to flush.
    has_more: bool,
    /// Why the first of the tables that failed did.
    failure: Option<Error>,
}

impl Core {
    /// Flushes what `scope` says, in as many rounds as all that is durable by now takes: a round takes a limited part.
    /// The first failure is returned after everything was tried.
    pub(crate) async fn flush_all(&self, scope: Scope) -> Result<(), Error> {
        let goal = self.buffer.held().durable;
        let (mut first, mut failed) = (None, HashSet::new());
        loop {
            let Left { has_more, failure } = self.flush_round(scope, goal, &mut failed).await?;
            first = first.or(failure);
            if !has_more {
                return first.map_or(Ok(()), Err);
            }
        }
    }

    /// One round for the flusher, which comes again; whether it should at once.
    pub(crate) async fn flush_some(&self, scope: Scope) -> Result<bool, Error> {
        let goal = self.buffer.held().durable;
        let left = self.flush_round(scope, goal, &mut HashSet::new()).await?;
        left.failure.map_or(Ok(left.has_more), Err)
    }

    /// One round of what is durable up to `goal`, or somewhat more, but for the tables that `failed`, which grow. Rounds
    /// of others may come between those of one call, so nobody waits for all that a long outage left.
    async fn flush_round(
        &self,
        scope: Scope,
        goal: SequenceNumber,
        failed: &mut HashSet<TableId>,
    ) -> Result<Left, Error> {
        let mut state = self.flush.lock().await;
        let result = self.flush_tables(&mut state, scope, goal, failed).await;
        let failure = match &result {
            Ok(left) => left.failure.as_ref(),
            Err(error) => Some(error),
        };
        if failure.is_none() {
            self.close_unused().await;
        }
        self.lag.judge(&self.buffer, failure, self.clock.now());
        // What failed and is not due again yet has not succeeded.
        state
            .failing
            .retain(|table, _| self.buffer.has_unflushed(*table));
        let mut counters = self.counters.lock();
        if state.failing.is_empty() || failure.is_some() {
            counters.last_error = failure.map(chain);
        }
        if let Some(error) = failure {
            counters.flush_failures += 1;
            self.observer.flush_failed(error.category());
        }
        result
    }

    async fn flush_tables(
        &self,
        state: &mut FlushState,
        scope: Scope,
        goal: SequenceNumber,
        failed_before: &mut HashSet<TableId>,
    ) -> Result<Left, Error> {
        if let Some(fatal) = self.fatal.get() {
            return Err(Error::OutOfService(fatal));
        }
        self.settle(state).await?;
        self.buffer.evict(self.clock.now());
        let Round {
            tables: work,
            has_more,
        } = self.select(state, scope, goal, failed_before);
        if work.is_empty() {
            // Segments may have been closed after everything in them was flushed.
            if self.can_truncate() {
                self.truncate().await;
            }
            return Ok(Left::default());
        }
        let started = Instant::now();
        let ids: Vec<TableId> = work.iter().map(|unflushed| unflushed.table).collect();
        let tables = self
            .catalog
            .tables_by_id(&ids)
            .await
            .map_err(failed("reading tables"))?;
        let tables: HashMap<TableId, Table> = tables.into_iter().map(|t| (t.id, t)).collect();
        // Before the first object is stored.
        let valid_until_millis = self.valid_until().await?;
        let (live, gone): (Vec<_>, Vec<_>) = work
            .into_iter()
            .partition(|unflushed| tables.contains_key(&unflushed.table));

        let prepare = |unflushed: Unflushed| async {
            let id = unflushed.table;
            let table = tables.get(&id).ok_or(Error::Cancelled);
            (
                id,
                match table {
                    Ok(table) => self.prepare(table, unflushed).await,
                    Err(error) => Err(error),
                },
            )
        };
        let prepared = futures::stream::iter(live)
            .map(prepare)
            .buffer_unordered(TABLES_AT_ONCE);
        let prepared: Vec<_> = prepared.collect().await;
        let (prepared, failure) = self.sort_out(state, prepared, failed_before);
        if !prepared.is_empty() {
            let commit = FlushCommit {
                valid_until_millis: Some(valid_until_millis),
                ..self.commit_of(prepared)
            };
            state.unanswered = Some(Prepared {
                commit,
                took: started.elapsed(),
            });
            self.settle(state).await?;
        }
        let ids: Vec<TableId> = gone.iter().map(|unflushed| unflushed.table).collect();
        let forgotten = self.forget_dropped(state, gone).await;
        forgotten.inspect_err(|error| ids.iter().for_each(|id| self.lag.failed(*id, error)))?;
        Ok(Left { has_more, failure })
    }

    /// Until when what is stored from now on may be committed, by the time of the catalog: before it can be
    /// taken for an orphan.
    async fn valid_until(&self) -> Result<i64, Error> {
        let time = self.catalog.time().await;
        let now = time.map_err(failed("reading the time of the catalog"))?;
        Ok(now.millis_after(self.commit_within))
    }

    fn select(
        &self,
        state: &FlushState,
        scope: Scope,
        goal: SequenceNumber,
        failed: &HashSet<TableId>,
    ) -> Round {
        let due = (scope == Scope::Due).then(|| {
            let interval = i64::try_from(self.config.flush_interval.as_nanos()).unwrap_or(i64::MAX);
            let now_nanos = self.clock.unix_nanos();
            Due {
                bytes: self.config.flush_bytes.as_u64(),
                before_nanos: now_nanos.saturating_sub(interval),
                now_nanos,
            }
        });
        let now = self.clock.now();
        let waits = |id: &TableId| state.failing.get(id).is_some_and(|(_, until)| *until > now);
        self.buffer.unflushed(due, goal, |table| {
            let wanted = match scope {
                Scope::All => true,
                Scope::Due => !waits(&table),
                Scope::Table(asked) => table == asked,
            };
            wanted && !failed.contains(&table)
        })
    }

    /// Keeps the tables that could be prepared and notes the others; the first of their errors.
    fn sort_out(
        &self,
        state: &mut FlushState,
        prepared: Vec<(TableId, Result<PreparedTable, Error>)>,
        failed: &mut HashSet<TableId>,
    ) -> (Vec<(TableId, PreparedTable)>, Option<Error>) {
        let (mut done, mut first) = (Vec::new(), None);
        for (table, result) in prepared {
            match result {
                Ok(prepared) => {
                    state.failing.remove(&table);
                    self.lag.prepared(table);
                    done.push((table, prepared));
                }
                Err(error) => {
                    warn!(table = table.0, error = %chain(&error), "can't flush table, will retry");
                    self.lag.failed(table, &error);
                    let failing = state.failing.entry(table);
                    let (backoff, until) =
                        failing.or_insert_with(|| (Backoff::default(), self.clock.now()));
                    *until = self.clock.now() + backoff.next();
                    failed.insert(table);
                    first.get_or_insert(error);
                }
            }
        }
        (done, first)
    }

    /// Encodes and stores the rows of one table.
    async fn prepare(&self, table: &Table, unflushed: Unflushed) -> Result<PreparedTable, Error> {
        let watermark = last(&unflushed);
        let mut producers = BTreeMap::new();
        let mut bytes = self.config.flush_bytes.as_u64();
        if Key::of(&table.options).map_err(Error::Key)?.is_some() {
            bytes = bytes.min(SORTED_BYTES);
        }
        let mut files = Vec::new();
        for (numbers, bytes) in split(unflushed.batches, bytes) {
            // Rows that are read from the log are not in the buffer's memory.
            let read = match self.buffer.held().spilled_bytes {
                0 => bytes,
                _ => bytes.saturating_add(bytes / 3),
            };
            let _memory = self.persist.take(read).await;
            let rows = self.read_rows(table.id, numbers).await?;
            note_positions(&mut producers, &rows);
            let encoded = self.encode(table, rows).await?;
            files.push(self.store_file(table, encoded).await?);
        }
        Ok(PreparedTable {
            files,
            watermark,
            producers: positions(table.id, producers),
        })
    }

    /// The rows with these numbers, from memory or from the log.
    async fn read_rows(
        &self,
        table: TableId,
        numbers: Vec<SequenceNumber>,
    ) -> Result<Vec<Row>, Error> {
        let kept = self.buffer.take_unflushed(table, &numbers);
        let found = kept.iter().map(Kept::sequence);
        if !found.eq(numbers.iter().copied()) {
            // Its rows went with the table, or are in files: another round knows.
            return Err(Error::Cancelled);
        }
        let wal = self.wal()?;
        let read = move || {
            let rows = kept.into_iter().map(|kept| kept.read(&wal, table));
            rows.collect()
        };
        spawn_blocking(read).await.map_err(|_| Error::Cancelled)?
    }

    async fn encode(&self, table: &Table, rows: Vec<Row>) -> Result<EncodedFile, Error> {
        let schema = decode_schema(&table.schema)?;
        let key = Key::of(&table.options).map_err(Error::Key)?;
        let (of, ingester) = (table.clone(), self.ingester.id);
        let group = usize::try_from(self.config.max_row_group_rows).unwrap_or(usize::MAX);
        // Off the runtime's threads; and a panic of the encoder ends the task, not the process.
        let task =
            move || parquet_file::encode(&of, (&schema, key.as_ref()), ingester, &rows, group);
        spawn_blocking(task).await.unwrap_or_else(|error| {
            let Ok(panic) = error.try_into_panic() else {
                return Err(Error::Cancelled);
            };
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let message = text.unwrap_or("no message").to_owned();
            Err(Error::EncoderPanicked {
                table: table.name.clone(),
                message,
            })
        })
    }

    fn commit_of(&self, tables: Vec<(TableId, PreparedTable)>) -> FlushCommit {
        let mut commit = FlushCommit {
            ingester: self.ingester.id,
            epoch: self.ingester.epoch,
            seen: Some(self.current.newest()),
            durable: self.buffer.held().durable,
            files: vec![],
            watermarks: vec![],
            producers: vec![],
            valid_until_millis: None,
            without_files: vec![],
        };
        for (table, prepared) in tables {
            let PreparedTable {
                files,
                watermark,
                producers,
            } = prepared;
            commit.files.extend(files);
            commit.watermarks.push((table, watermark));
            commit.producers.extend(producers);
        }
        commit
    }

    /// Asks the catalog about tables it no longer lists. Only its word that they were dropped lets
    /// their rows go; a table it never had, or that it has after all, is an error, and keeps them.
    async fn forget_dropped(
        &self,
        state: &mut FlushState,
        gone: Vec<Unflushed>,
    ) -> Result<(), Error> {
        if gone.is_empty() {
            return Ok(());
        }
        let watermarks = gone
            .iter()
            .map(|unflushed| (unflushed.table, last(unflushed)));
        let commit = FlushCommit {
            watermarks: watermarks.collect(),
            without_files: gone.iter().map(|unflushed| unflushed.table).collect(),
            ..self.commit_of(vec![])
        };
        state.unanswered = Some(Prepared {
            commit,
            took: Duration::ZERO,
        });
        self.settle(state).await
    }

    /// Sends the noted commit, if there is one, and draws the consequences of the answer.
    async fn settle(&self, state: &mut FlushState) -> Result<(), Error> {
        let Some(prepared) = &state.unanswered else {
            return Ok(());
        };
        let answer = self.catalog.commit_flush(prepared.commit.clone()).await;
        match answer {
            Ok(committed) => {
                if let Some(prepared) = state.unanswered.take() {
                    self.committed(prepared, committed).await;
                }
                Ok(())
            }
            Err(error @ (catalog::Error::Fenced { .. } | catalog::Error::RolledBack { .. })) => {
                Err(self.catalog_failed("committing a flush", error))
            }
            // It may have taken effect: keep it and send the very same again.
            Err(error @ (catalog::Error::Unavailable { .. } | catalog::Error::Store { .. })) => {
                Err(failed("committing a flush")(error))
            }
            // It certainly has not, so its rows are written anew by the next round.
            Err(error) => {
                if let Some(refused) = state.unanswered.take() {
                    self.remove_files(&refused.commit.files).await;
                }
                Err(failed("committing a flush")(error))
            }
        }
    }

    async fn committed(&self, prepared: Prepared, committed: FlushCommitted) {
        let Prepared { commit, took } = prepared;
        self.current.saw(committed.stamp());
        let now = self.clock.now();
        for (table, watermark) in &commit.watermarks {
            if committed.dropped_tables.contains(table) {
                info!(table = table.0, "forgetting rows of a dropped table");
                self.buffer.drop_table(*table);
                self.producers.forget(*table);
            } else {
                self.buffer.mark_flushed(*table, *watermark, now);
            }
        }
        self.producers.in_catalog(&commit.producers);
        self.buffer.evict(now);
        self.freed.notify_waiters();
        if !commit.files.is_empty() {
            self.lag.stored(now);
            self.count(&commit, took);
        }
        self.truncate().await;
    }

    fn count(&self, commit: &FlushCommit, took: Duration) {
        let rows = commit.files.iter().map(|file| file.rows).sum();
        let bytes = commit.files.iter().map(|file| file.size_bytes).sum();
        let mut counters = self.counters.lock();
        counters.flushes += 1;
        counters.flushed_rows += rows;
        counters.flushed_file_bytes += bytes;
        counters.flush_time += took;
        drop(counters);
        self.observer
            .flushed(took, rows, bytes, commit.files.len() as u64);
        debug!(
            rows,
            bytes,
            files = commit.files.len(),
            seconds = took.as_secs_f64(),
            "flushed"
        );
    }

    fn can_truncate(&self) -> bool {
        let up_to = wal::SequenceNumber(self.buffer.flushed_up_to().0);
        self.wal().is_ok_and(|wal| wal.can_truncate(up_to))
    }

    /// Lets the log forget what every table has in files. What can't be removed now is removed after
    /// the next flush.
    async fn truncate(&self) {
        let Ok(wal) = self.wal() else { return };
        let up_to = wal::SequenceNumber(self.buffer.flushed_up_to().0);
        let state = catalog_state(self.current.newest());
        let truncated = spawn_blocking(move || forget(&wal, up_to, state)).await;
        if let Ok(Err(error)) = truncated {
            warn!(error = %chain(&error), "can't truncate write-ahead log");
        }
    }
}

/// Truncates the log, after it noted which state of the catalog has the rows.
fn forget(
    wal: &wal::Wal,
    up_to: wal::SequenceNumber,
    state: wal::CatalogState,
) -> Result<(), wal::Error> {
    let noted = wal.remember(state);
    if let Err(error) = &noted
        && !wal::is_full(error)
    {
        return noted;
    }
    let truncated = wal.truncate_up_to(up_to);
    // On a full disk there is room for the note only now, also when not all could be removed.
    let noted = noted.or_else(|_| wal.remember(state));
    truncated.and(noted)
}

/// The last number a round takes of a table.
fn last(unflushed: &Unflushed) -> SequenceNumber {
    let last = unflushed.batches.last();
    last.map_or(SequenceNumber(0), |(last, _)| *last)
}

/// Notes the newest batch of each producer.
fn note_positions(newest: &mut BTreeMap<String, u64>, rows: &[Row]) {
    for producer in rows.iter().filter_map(|row| row.producer.as_ref()) {
        match newest.get_mut(&producer.id) {
            Some(known) => *known = (*known).max(producer.sequence),
            None => {
                newest.insert(producer.id.clone(), producer.sequence);
            }
        }
    }
}

fn positions(table: TableId, newest: BTreeMap<String, u64>) -> Vec<ProducerPosition> {
    let position = |(producer, sequence)| ProducerPosition {
        table,
        producer,
        sequence,
    };
    newest.into_iter().map(position).collect()
}

/// Cuts rows into files of about `bytes` of memory each: their numbers, and their bytes.
fn split(batches: Vec<(SequenceNumber, u64)>, bytes: u64) -> Vec<(Vec<SequenceNumber>, u64)> {
    let mut files: Vec<(Vec<SequenceNumber>, u64)> = Vec::new();
    for (sequence, size) in batches {
        match files.last_mut() {
            Some((numbers, used)) if *used < bytes => {
                numbers.push(sequence);
                *used = used.saturating_add(size);
            }
            _ => files.push((vec![sequence], size)),
        }
    }
    files
}
