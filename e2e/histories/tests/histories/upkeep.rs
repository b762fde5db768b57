//! Upkeep of a process: the real compaction and deletion, through calls that get lost.
//!
//! A rewriter is expensive to make and cheap to use, so each node has one for all histories of a
//! thread; [`Workshop::enter`] changes the store it works on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flightcluster_catalog::{Catalog, File, Table};
use flightcluster_config::{ByteSize, UpkeepConfig};
use flightcluster_query::rewrite::{RewriteRequest, Rewriter, RewriterOptions};
use flightcluster_upkeep::{Observer, RewriteFailure, Rewritten, Upkeep, UpkeepOptions};
use object_store::ObjectStore;
use tokio_util::sync::CancellationToken;

use crate::broken::Broken;
use crate::history::{Kind, Violation};
use crate::life::Fault;
use crate::reader::Reader;
use crate::step::Chore;
use crate::steps::ATTEMPTS;
use crate::store::{self, LossyStore};
use crate::world::{DAY, Process, World, alive};

const MEMORY_BYTES: u64 = 64 << 20;
const TARGET_BYTES: u64 = 256 << 20;
const ROW_GROUP_ROWS: usize = 100_000;

/// What the processes of one node, one after the other, rewrite files with.
#[derive(Debug, Clone)]
pub(crate) struct Workshop {
    rewriter: Rewriter,
    store: Arc<LossyStore>,
    broken: Option<Broken>,
}

impl Workshop {
    pub(crate) fn new(spill: &Path) -> Self {
        let store = Arc::<LossyStore>::default();
        let rewriter = Rewriter::new(RewriterOptions {
            store: Arc::clone(&store) as Arc<dyn ObjectStore>,
            threads: 1,
            memory_bytes: MEMORY_BYTES,
            spill_dir: spill.to_owned(),
            target_bytes: TARGET_BYTES,
            max_row_group_rows: ROW_GROUP_ROWS,
            properties: flightcluster_ingest::file_properties,
        });
        let rewriter = rewriter.unwrap();
        Self {
            rewriter,
            store,
            broken: None,
        }
    }

    fn enter(&self, store: store::Line) {
        self.store.set(store);
    }
}

#[async_trait]
impl flightcluster_upkeep::Rewriter for Workshop {
    async fn rewrite(
        &self,
        table: &Table,
        files: &[File],
        keep_from_nanos: Option<i64>,
        stop: &CancellationToken,
    ) -> Result<Rewritten, RewriteFailure> {
        let mut files = files.to_vec();
        let mut forgotten = 0;
        if self.broken == Some(Broken::CompactsToOlder) && files.len() > 1 {
            files.sort_by_key(|file| file.id);
            forgotten = files.pop().map_or(0, |file| file.file.rows);
        }
        let request = RewriteRequest {
            table: table.clone(),
            files,
            keep_from_nanos,
            remove: None,
        };
        let done = self.rewriter.rewrite(request, stop.clone()).await?;
        Ok(Rewritten {
            outputs: done.outputs,
            removed_rows: done.removed_rows + done.superseded_rows + forgotten,
        })
    }

    fn has_times(&self, table: &Table) -> bool {
        flightcluster_query::has_times(table)
    }
}

/// Nobody counts.
#[derive(Debug)]
struct Silent;

impl Observer for Silent {
    fn compacted(&self, _: Duration, _: (u64, u64), _: (u64, u64), _: u64) {}
    fn expired(&self, _: u64, _: u64) {}
    fn compaction_lost(&self) {}
    fn garbage_deleted(&self, _: u64, _: u64) {}
    fn garbage_waiting(&self, _: u64) {}
    fn orphans(&self, _: u64, _: u64) {}
    fn failed(&self, _: &'static str) {}
}

impl World {
    fn upkeep(&self, reader: &Reader, node: usize, process: &Process) -> Upkeep {
        let mut workshop = reader.workshop(node).clone();
        workshop.broken = self.broken;
        workshop.enter(self.store_line(&process.life));
        Upkeep::new(UpkeepOptions {
            config: UpkeepConfig {
                compaction_min_files: self.settings.min_files,
                compaction_target_bytes: ByteSize(self.settings.target_bytes),
                // A query that still reads a file fails then; it must not answer without it.
                gc_grace: Duration::ZERO,
                orphan_grace: Duration::ZERO,
                delete_orphans: true,
                ..UpkeepConfig::default()
            },
            catalog: Arc::clone(&process.catalog) as Arc<dyn Catalog>,
            store: Arc::new(LossyStore::new(self.store_line(&process.life))),
            rewriter: Arc::new(workshop),
            observer: Arc::new(Silent),
            holder: format!("node-{node}"),
            commit_within: DAY,
        })
    }

    /// Does a chore of upkeep; whether it was done.
    pub(crate) async fn tidy(
        &self,
        reader: &Reader,
        node: usize,
        chore: Chore,
        faults: &[Fault],
    ) -> bool {
        let Some(process) = self.running(node) else {
            return false;
        };
        let upkeep = self.upkeep(reader, node, &process);
        if !faults.is_empty() {
            process.life.arm(faults);
        }
        let stop = CancellationToken::new();
        let work = async {
            match chore {
                Chore::Compact => upkeep.compact(&stop).await.map(|done| format!("{done:?}")),
                Chore::Collect => {
                    let gone = upkeep.collect_garbage(&stop).await;
                    gone.map(|gone| format!("{gone} objects are gone"))
                }
                Chore::Orphans => upkeep
                    .scan_orphans(&stop)
                    .await
                    .map(|found| format!("{found:?}")),
            }
        };
        let done = alive(&process.life, work).await;
        if !faults.is_empty() {
            process.life.disarm();
        }
        let well = matches!(done, Some(Ok(_)));
        self.note(match done {
            None => "the process ended".to_owned(),
            Some(Ok(done)) => done,
            Some(Err(error)) => format!("not done: {error:?}"),
        });
        well
    }

    /// All chores by all nodes, with nothing in their way.
    pub(crate) async fn tidy_all(&self, reader: &Reader) -> Result<(), Violation> {
        for node in 0..self.settings.nodes {
            for chore in Chore::ALL {
                let mut done = false;
                for _ in 0..ATTEMPTS {
                    self.start_all(false).await?;
                    done = done || self.tidy(reader, node, chore, &[]).await;
                }
                if !done {
                    return Err(Violation {
                        kind: Kind::Stuck,
                        text: format!("node {node} can't {chore:?}"),
                        key: None,
                    });
                }
            }
        }
        Ok(())
    }
}
