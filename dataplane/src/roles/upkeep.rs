//! Joins upkeep to the query engine's rewriter and to the metrics.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flightcluster_catalog::{Catalog, File, Table};
use flightcluster_config::Config;
use flightcluster_query::rewrite::{RewriteRequest, Rewriter, RewriterOptions};
use flightcluster_telemetry::metrics::{JobLabels, UpkeepMetrics};
use flightcluster_upkeep::{Observer, RewriteFailure, Rewritten, Upkeep, UpkeepOptions};
use object_store::ObjectStore;
use tokio_util::sync::CancellationToken;

/// Threads that rewrite: one, so that most of the processor stays with writers and queries.
const THREADS: usize = 1;

/// Makes what rewrites files in this process, for upkeep and for `DELETE`.
pub(crate) fn rewriter(config: &Config, store: &Arc<dyn ObjectStore>) -> anyhow::Result<Rewriter> {
    let settings = &config.upkeep;
    Ok(Rewriter::new(RewriterOptions {
        store: Arc::clone(store),
        threads: THREADS,
        memory_bytes: settings.compaction_memory_bytes.as_u64(),
        spill_dir: config.storage.data_dir.join("scratch-upkeep"),
        target_bytes: settings.compaction_target_bytes.as_u64(),
        max_row_group_rows: config.ingest.max_row_group_rows as usize,
        properties: flightcluster_ingest::file_properties,
    })?)
}

/// Makes the upkeep of this process; nothing happens before it is run.
pub(crate) fn open(
    config: &Config,
    node_name: &str,
    catalog: &Arc<dyn Catalog>,
    store: &Arc<dyn ObjectStore>,
    rewriter: Rewriter,
    metrics: UpkeepMetrics,
) -> Upkeep {
    Upkeep::new(UpkeepOptions {
        config: config.upkeep.clone(),
        catalog: Arc::clone(catalog),
        store: Arc::clone(store),
        rewriter: Arc::new(EngineRewriter(rewriter)),
        observer: Arc::new(UpkeepObserver(metrics)),
        holder: node_name.to_owned(),
        commit_within: config.upkeep.commit_within(),
    })
}

/// Upkeep that runs.
#[derive(Debug)]
pub(crate) struct Running {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Begins the rounds.
    pub(crate) fn start(upkeep: Upkeep) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move { upkeep.run(stopped).await });
        Self { stop, task }
    }

    /// Ends the rounds: what is under way takes back what it wrote. Waits for at most `limit`.
    pub(crate) async fn stop(self, limit: Duration) {
        self.stop.cancel();
        if tokio::time::timeout(limit, self.task).await.is_err() {
            tracing::warn!("upkeep did not stop in time; what it wrote last may be an orphan");
        }
    }
}

/// The query engine's rewriter behind the port of upkeep.
#[derive(Debug)]
struct EngineRewriter(Rewriter);

#[async_trait]
impl flightcluster_upkeep::Rewriter for EngineRewriter {
    async fn rewrite(
        &self,
        table: &Table,
        files: &[File],
        keep_from_nanos: Option<i64>,
        stop: &CancellationToken,
    ) -> Result<Rewritten, RewriteFailure> {
        let request = RewriteRequest {
            table: table.clone(),
            files: files.to_vec(),
            keep_from_nanos,
            remove: None,
        };
        let done = self.0.rewrite(request, stop.clone()).await?;
        Ok(Rewritten {
            outputs: done.outputs,
            removed_rows: done.removed_rows + done.superseded_rows,
        })
    }

    fn has_times(&self, table: &Table) -> bool {
        flightcluster_query::has_times(table)
    }
}

/// Writes what upkeep reports into the metrics.
#[derive(Debug)]
struct UpkeepObserver(UpkeepMetrics);

impl Observer for UpkeepObserver {
    fn compacted(
        &self,
        took: Duration,
        inputs: (u64, u64),
        outputs: (u64, u64),
        expired_rows: u64,
    ) {
        self.0.expired_rows.inc_by(expired_rows);
        self.0.compaction.observe(took.as_secs_f64());
        self.0.input_files.inc_by(inputs.0);
        self.0.input_bytes.inc_by(inputs.1);
        self.0.output_files.inc_by(outputs.0);
        self.0.output_bytes.inc_by(outputs.1);
    }

    fn expired(&self, files: u64, rows: u64) {
        self.0.expired_files.inc_by(files);
        self.0.expired_rows.inc_by(rows);
    }

    fn compaction_lost(&self) {
        self.0.lost.inc();
    }

    fn garbage_deleted(&self, deleted: u64, failed: u64) {
        self.0.deleted.inc_by(deleted);
        self.0.delete_failures.inc_by(failed);
    }

    fn garbage_waiting(&self, objects: u64) {
        self.0.waiting.set(gauge(objects));
    }

    fn orphans(&self, objects: u64, bytes: u64) {
        self.0.orphan_objects.set(gauge(objects));
        self.0.orphan_bytes.set(gauge(bytes));
    }

    fn failed(&self, job: &'static str) {
        self.0.failures.get_or_create(&JobLabels { job }).inc();
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
