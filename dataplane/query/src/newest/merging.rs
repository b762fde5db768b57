//! Runs a merge: each lane is read ahead by a task of its own, one file after the other.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_select::coalesce::BatchCoalescer;
use arrow_select::filter::filter_record_batch;
use datafusion::common::cast::as_boolean_array;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::common::spawn_buffered;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, SendableRecordBatchStream};
use flightcluster_keys::{Merge, Repeats};
use futures::{StreamExt as _, future, stream};

use super::NewestExec;

/// The rows of all lanes and of the input in no lane.
pub(super) fn start(
    node: &NewestExec,
    context: &Arc<TaskContext>,
) -> Result<SendableRecordBatchStream> {
    let mut inputs = node.inputs.iter().cloned();
    let lane = |inputs, filter| Lane {
        waiting: inputs,
        open: None,
        filter,
        context: Arc::clone(context),
    };
    let counts = node.lanes.iter();
    let mut lanes: Vec<Lane> = counts
        .map(|count| lane(inputs.by_ref().take(*count).collect(), node.filter.clone()))
        .collect();
    let loose: VecDeque<_> = inputs.collect();
    let mut repeats = vec![Repeats::Never; lanes.len()];
    if !loose.is_empty() {
        lanes.push(lane(loose, None));
        repeats.push(Repeats::Maybe);
    }
    let schema = node.schema();
    let ready = BatchCoalescer::new(Arc::clone(&schema), node.rows);
    let merging = Merging {
        merge: Merge::new(&schema, node.keys.clone(), node.order, repeats)?,
        lanes,
        // Small batches cost more than copying their rows; others pass as they are.
        ready: ready.with_biggest_coalesce_batch_size(Some(node.rows / 8)),
        ended: false,
        memory: MemoryConsumer::new("NewestExec").register(context.memory_pool()),
    };
    let batches = stream::try_unfold(merging, |mut merging| async move {
        let batch = merging.next().await?;
        Ok(batch.map(|batch| (batch, merging)))
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
}

struct Merging {
    merge: Merge,
    lanes: Vec<Lane>,
    ready: BatchCoalescer,
    ended: bool,
    memory: MemoryReservation,
}

impl Merging {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.ready.next_completed_batch() {
                return Ok(Some(batch));
            }
            if self.ended {
                return Ok(None);
            }
            self.fill().await?;
            match self.merge.step()? {
                Some(rows) => self.ready.push_batch(rows)?,
                None => {
                    self.ready.finish_buffered_batch()?;
                    self.ended = true;
                }
            }
        }
    }

    /// Reads lanes whose rows are used up, all at once.
    async fn fill(&mut self) -> Result<()> {
        let wanting: Vec<usize> = self.merge.wants().collect();
        if wanting.is_empty() {
            return Ok(());
        }
        let lanes = self.lanes.iter_mut().enumerate();
        let lanes = lanes.filter(|(at, _)| wanting.contains(at));
        let reads = lanes.map(|(at, lane)| async move { (at, lane.next().await) });
        for (at, rows) in future::join_all(reads).await {
            match rows? {
                Some(rows) => self.merge.give(at, rows)?,
                None => self.merge.end(at),
            }
        }
        self.memory.try_resize(self.merge.bytes())
    }
}

/// Inputs that are read one after the other.
struct Lane {
    waiting: VecDeque<Arc<dyn ExecutionPlan>>,
    open: Option<SendableRecordBatchStream>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    context: Arc<TaskContext>,
}

impl Lane {
    /// The next rows, at least one; `None` at the end.
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(input) = self.waiting.pop_front() else {
                    return Ok(None);
                };
                let rows = input.execute(0, Arc::clone(&self.context))?;
                self.open = Some(spawn_buffered(rows, 1));
                continue;
            };
            match open.next().await {
                Some(batch) => {
                    let batch = self.passing(batch?)?;
                    if batch.num_rows() > 0 {
                        return Ok(Some(batch));
                    }
                }
                None => self.open = None,
            }
        }
    }

    fn passing(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let Some(filter) = &self.filter else {
            return Ok(batch);
        };
        let passed = filter.evaluate(&batch)?.into_array(batch.num_rows())?;
        let passed = as_boolean_array(&passed)?;
        match passed.true_count() == batch.num_rows() {
            true => Ok(batch),
            false => Ok(filter_record_batch(&batch, passed)?),
        }
    }
}
