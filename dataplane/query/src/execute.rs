//! Runs a plan: admission, fresh rows, and the batches on their way from the query threads to the
//! caller.
//!
//! # Flow
//! first poll -> place in the queue -> optimise -> fetch fresh rows -> task on the query threads ->
//! bounded channel -> caller
//!
//! # Cancellation
//! Everything hangs on the stream: dropping it ends the task and with it all reads, memory and
//! scratch files, and frees the place. The deadline and a cancel by request id do the same.

use std::sync::Arc;
use std::time::Instant;

use arrow_array::{RecordBatch, RecordBatchOptions};
use arrow_cast::cast;
use arrow_schema::{ArrowError, SchemaRef};
use arrow_select::concat::concat_batches;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{ExecuteOptions, Inner};
use crate::partial::Missing;
use crate::past::Past;
use crate::plan::{Action, Plan, Ready};
use crate::recent::{Filled, needs};
use crate::running::RunningGuard;
use crate::sort::{Sorter, is_lost_object};
use crate::{BatchStream, Error, session, update, width};

/// Batches that wait between the query threads and the caller: enough to keep both busy.
const CHANNEL_BATCHES: usize = 4;

/// The stream of a plan; nothing happens before it is polled.
pub(crate) fn execute(inner: Arc<Inner>, plan: Plan, options: ExecuteOptions) -> BatchStream {
    Box::pin(stream::once(begin(inner, plan, options)).try_flatten())
}

async fn begin(
    inner: Arc<Inner>,
    plan: Plan,
    options: ExecuteOptions,
) -> Result<BatchStream, Error> {
    plan.check_bound()?;
    let control = Control::new(&inner, &plan, &options);
    match plan.action {
        Action::Query(ready) => rows(inner, ready, control).await,
        change => {
            Box::pin(update::apply(inner, change, control, options)).await?;
            Ok(Box::pin(stream::empty()))
        }
    }
}

/// Runs a query, up to its first batch, without the fresh rows of ingesters that can't be reached.
pub(crate) async fn execute_partial(
    inner: Arc<Inner>,
    plan: Plan,
    options: ExecuteOptions,
) -> Result<(BatchStream, Vec<Missing>), Error> {
    plan.check_bound()?;
    let control = Control::new(&inner, &plan, &options);
    match plan.action {
        Action::Query(ready) => started(inner, ready, control, true).await,
        _ => Err(Error::Partial {
            statement: plan.sql,
        }),
    }
}

/// What can end a query from outside. Clones control the same query.
#[derive(Debug, Clone)]
pub(crate) struct Control {
    guard: Arc<RunningGuard>,
    deadline: Option<Instant>,
}

impl Control {
    pub(crate) fn new(inner: &Inner, plan: &Plan, options: &ExecuteOptions) -> Self {
        let guard = inner
            .running
            .enter(&options.request_id, &plan.database, &plan.sql);
        let own = inner
            .timeout
            .and_then(|timeout| Instant::now().checked_add(timeout));
        let deadline = match (options.deadline, own) {
            (Some(asked), Some(own)) => Some(asked.min(own)),
            (asked, own) => asked.or(own),
        };
        Self {
            guard: Arc::new(guard),
            deadline,
        }
    }

    /// Runs `work` until it ends, is cancelled or takes too long.
    pub(crate) async fn limit<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let late = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.guard.token().cancelled() => Err(Error::Cancelled),
            () = late => Err(Error::DeadlineExceeded),
            result = work => result,
        }
    }

    /// Notes that the query has left the queue.
    pub(crate) fn admitted(&self) {
        self.guard.admitted();
    }

    /// Notes how the query ended; a query that is only dropped counts as cancelled.
    pub(crate) fn ended<T>(&self, result: &Result<T, Error>) {
        if !matches!(result, Err(Error::Cancelled)) {
            self.guard.finish();
        }
    }
}

/// Runs a plan that gives rows.
pub(crate) async fn rows(
    inner: Arc<Inner>,
    ready: Ready,
    control: Control,
) -> Result<BatchStream, Error> {
    let (rows, _none) = started(inner, ready, control, false).await?;
    Ok(rows)
}

async fn started(
    inner: Arc<Inner>,
    ready: Ready,
    control: Control,
    partial: bool,
) -> Result<(BatchStream, Vec<Missing>), Error> {
    let started = start(inner, ready, &control.guard, partial);
    match control.limit(started).await {
        Ok((rows, missing)) => {
            let rows = stream::unfold(Some((rows, control)), next);
            Ok((Box::pin(rows), missing))
        }
        Err(error) => {
            let result = Err(error);
            control.ended(&result);
            result
        }
    }
}

type Next = Option<(Rows, Control)>;

async fn next(state: Next) -> Option<(Result<RecordBatch, Error>, Next)> {
    let (mut rows, control) = state?;
    let item = control.limit(rows.next()).await;
    match item {
        Ok(Some(batch)) => Some((Ok(batch), Some((rows, control)))),
        Ok(None) => {
            control.ended(&Ok(()));
            None
        }
        Err(error) => {
            let result = Err(error);
            control.ended(&result);
            Some((result, None))
        }
    }
}

async fn start(
    inner: Arc<Inner>,
    ready: Ready,
    guard: &RunningGuard,
    partial: bool,
) -> Result<(Rows, Vec<Missing>), Error> {
    let permit = inner.admission.admit().await?;
    guard.admitted();
    let Ready {
        plan,
        schema,
        state,
        views,
    } = ready;
    let sorter = inner.sorter;
    let planner = Arc::clone(&state);
    let (plan, needs) = inner
        .compute
        .run(async move {
            let plan = optimize(plan, &planner).map_err(|error| sorter.sort("planning", error))?;
            let needs = needs(&plan).map_err(|error| sorter.sort("planning", error))?;
            Ok((plan, needs))
        })
        .await?;
    let batch_bytes = width::of_batch(&*state.runtime_env().memory_pool);
    let mut row_bytes = 0;
    let mut all_missing = Vec::new();
    for view in views.iter() {
        if let Some(needs) = needs.get(&view.past()) {
            let Filled { replans, missing } = inner.fetch.fill(view, needs, partial).await?;
            inner.count_replans(replans);
            all_missing.extend(missing);
            row_bytes = row_bytes.max(view.row_bytes(needs, batch_bytes));
        }
    }
    let state = session::fitted(&state, row_bytes).map_or(state, Arc::new);
    let (sender, batches) = mpsc::channel(CHANNEL_BATCHES);
    let batch_rows = state.config().batch_size();
    let work = Work {
        plan,
        state,
        schema,
        batch_rows,
        sender,
        permit,
        sorter,
        past: views.iter().find_map(|view| view.past()),
    };
    let task = inner.compute.spawn(work.run());
    let rows = Rows {
        batches,
        task,
        inner,
    };
    Ok((rows, all_missing))
}

fn optimize(
    plan: LogicalPlan,
    state: &SessionState,
) -> Result<LogicalPlan, datafusion::error::DataFusionError> {
    match plan {
        LogicalPlan::Explain(_) => state.optimize(&plan),
        plan => state.optimizer().optimize(plan, state, |_, _| {}),
    }
}

/// The task on the query threads.
struct Work {
    plan: LogicalPlan,
    state: Arc<SessionState>,
    schema: SchemaRef,
    batch_rows: usize,
    sender: mpsc::Sender<RecordBatch>,
    /// The place among the running queries; free again when the task is gone.
    permit: OwnedSemaphorePermit,
    sorter: Sorter,
    /// A past that is read.
    past: Option<Past>,
}

impl Work {
    async fn run(self) -> Result<(), Error> {
        let past = self.past;
        let ended = self.send_all().await;
        match (past, ended) {
            (Some(past), Err(Error::ObjectStore { source })) if is_lost_object(&source) => {
                Err(Error::AsOf {
                    problem: format!(
                        "objects of snapshot {} were deleted while they were read; they stay for \
                         upkeep.gc_grace after a file was replaced or deleted",
                        past.snapshot
                    ),
                })
            }
            (_, ended) => ended,
        }
    }

    async fn send_all(self) -> Result<(), Error> {
        let Self {
            plan,
            state,
            schema,
            batch_rows,
            sender,
            permit,
            sorter,
            past: _,
        } = self;
        let _place = permit;
        let plan = state
            .query_planner()
            .create_physical_plan(&plan, state.as_ref())
            .await
            .map_err(|error| sorter.sort("planning", error))?;
        let mut batches = execute_stream(plan, state.task_ctx())
            .map_err(|error| sorter.sort("running", error))?;
        let mut joined = Joined::new(schema, batch_rows);
        while let Some(batch) = joined.next(&mut batches, sorter).await? {
            if sender.send(batch).await.is_err() {
                // The caller left.
                break;
            }
        }
        Ok(())
    }
}

/// Joins small batches with those that are ready, so that many small ones do not become as many
/// messages; waits for none. Gives exactly the announced schema.
struct Joined {
    schema: SchemaRef,
    wanted: usize,
    small: Vec<RecordBatch>,
    rows: usize,
    large: Option<RecordBatch>,
}

impl Joined {
    fn new(schema: SchemaRef, wanted: usize) -> Self {
        Self {
            schema,
            wanted,
            small: Vec::new(),
            rows: 0,
            large: None,
        }
    }

    async fn next(
        &mut self,
        batches: &mut SendableRecordBatchStream,
        sorter: Sorter,
    ) -> Result<Option<RecordBatch>, Error> {
        if let Some(large) = self.large.take() {
            return Ok(Some(large));
        }
        loop {
            let next = if self.small.is_empty() {
                batches.next().await
            } else {
                match batches.next().now_or_never() {
                    Some(next) => next,
                    None => return self.take_small().map(Some),
                }
            };
            let Some(batch) = next else {
                return if self.small.is_empty() {
                    Ok(None)
                } else {
                    self.take_small().map(Some)
                };
            };
            let batch = batch.map_err(|error| sorter.sort("running", error))?;
            let batch =
                conform(batch, &self.schema).map_err(|source| Error::WrongSchema { source })?;
            let rows = batch.num_rows();
            if rows == 0 {
                continue;
            }
            if rows * 2 > self.wanted {
                if self.small.is_empty() {
                    return Ok(Some(batch));
                }
                self.large = Some(batch);
                return self.take_small().map(Some);
            }
            self.rows += rows;
            self.small.push(batch);
            if self.rows >= self.wanted {
                return self.take_small().map(Some);
            }
        }
    }

    fn take_small(&mut self) -> Result<RecordBatch, Error> {
        self.rows = 0;
        let small = std::mem::take(&mut self.small);
        match small.as_slice() {
            [only] => Ok(only.clone()),
            small => {
                concat_batches(&self.schema, small).map_err(|source| Error::WrongSchema { source })
            }
        }
    }
}

/// The caller's end of a running query.
struct Rows {
    batches: mpsc::Receiver<RecordBatch>,
    task: AbortOnDropHandle<Result<(), Error>>,
    inner: Arc<Inner>,
}

impl Rows {
    async fn next(&mut self) -> Result<Option<RecordBatch>, Error> {
        if let Some(batch) = self.batches.recv().await {
            return Ok(Some(batch));
        }
        let ended = (&mut self.task).await;
        self.inner.compute.outcome(ended).map(|()| None)
    }
}

/// The same rows in exactly `schema`: operators may leave out metadata, widen nullability or
/// choose another layout of the same values.
pub(crate) fn conform(batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if Arc::ptr_eq(batch.schema_ref(), schema) || batch.schema_ref() == schema {
        return Ok(batch);
    }
    if batch.num_columns() != schema.fields().len() {
        return Err(ArrowError::SchemaError(format!(
            "expected {} columns, found {}",
            schema.fields().len(),
            batch.num_columns()
        )));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(
            |(column, field)| match column.data_type() == field.data_type() {
                true => Ok(Arc::clone(column)),
                false => cast(column, field.data_type()),
            },
        )
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}
