//! The world of one history: a catalog, a store, nodes with disks, and the processes on them.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{Catalog, TableName};
use flightcluster_config::{ByteSize, IngestConfig};
use flightcluster_ingest::{
    Clock, Fault as IngestFault, Ingest, IngestOptions, ManualClock, NoObserver, TableMode,
    TableWriter,
};
use object_store::memory::InMemory;
use parking_lot::Mutex;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::broken::Broken;
use crate::catalog::{self, LossyCatalog, Postponed};
use crate::client::Client;
use crate::disk::{SimulatedDisk, Volume};
use crate::history::{History, Kind, Violation};
use crate::life::{Counts, Fault, Life};
use crate::past::Noted;
use crate::peers::OtherIngesters;
use crate::program::Settings;
use crate::reader::{DATABASE, Reader, Running, Surroundings};
use crate::shape::{Shape, schema};
use crate::store::{self, LossyStore};
use crate::uploads::Upload;

/// Longer than any history: commits are late by what is lost, not by the clock on the wall.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The file of the catalog.
pub(crate) const CATALOG: &str = "catalog.sqlite";

/// Whose stream, to which table, with which columns.
type StreamKey = (usize, usize, Shape);

/// A process on a node.
#[derive(Clone)]
pub(crate) struct Process {
    pub(crate) node: usize,
    pub(crate) life: Arc<Life>,
    pub(crate) ingest: Arc<Ingest>,
    pub(crate) catalog: Arc<LossyCatalog>,
    hand: ManualClock,
    /// Streams that stay open.
    streams: Arc<Mutex<BTreeMap<StreamKey, Arc<TableWriter>>>>,
}

/// A machine: its disk outlives the processes.
#[derive(Default)]
struct Node {
    volume: Arc<Volume>,
    running: Option<Process>,
    /// A process that was replaced and does not know it yet.
    former: Option<Process>,
}

/// See the module.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) broken: Option<Broken>,
    pub(crate) history: Mutex<History>,
    pub(crate) clients: Vec<Mutex<Client>>,
    pub(crate) uploads: Vec<Mutex<Upload>>,
    /// States that were noted, the one to be asked for next first.
    pub(crate) past: Mutex<VecDeque<Noted>>,
    /// The catalog without a network: the process of it that runs.
    truth: Mutex<Arc<dyn Catalog>>,
    /// Nobody reaches it.
    away: Arc<AtomicBool>,
    store: Arc<InMemory>,
    postponed: Postponed,
    nodes: Vec<Mutex<Node>>,
    processes: Arc<Mutex<Vec<Running>>>,
    /// Trouble of readers.
    pub(crate) reading: Arc<Life>,
    lives: Mutex<Vec<Arc<Life>>>,
    directory: PathBuf,
}

/// A process waits some seconds for an answer of the catalog, which takes longer on a busy machine: so
/// often it is started again before that counts.
const STARTS_AGAIN: usize = 5;

/// How to start a process.
pub(crate) struct Start<'a> {
    pub(crate) node: usize,
    pub(crate) power_cut: bool,
    pub(crate) clock: u64,
    pub(crate) luck: u64,
    pub(crate) faults: &'a [Fault],
}

impl World {
    /// A new world whose catalog file is in `directory`.
    pub(crate) async fn new(
        settings: Settings,
        broken: Option<Broken>,
        directory: &Path,
        reader: &Reader,
    ) -> Self {
        let sqlite = SqlCatalog::open_sqlite(&directory.join(CATALOG)).await;
        let truth: Arc<dyn Catalog> = Arc::new(sqlite.unwrap());
        let (store, reading) = (
            Arc::new(InMemory::new()),
            Arc::new(Life::new(settings.luck)),
        );
        let (postponed, away) = (Postponed::default(), Arc::<AtomicBool>::default());
        let processes = Arc::<Mutex<_>>::default();
        reader.enter(Surroundings {
            spills: settings.luck.is_multiple_of(2),
            catalog: catalog::Line {
                inner: Arc::clone(&truth),
                life: Arc::clone(&reading),
                broken,
                away: Arc::clone(&away),
                postponed: Arc::clone(&postponed),
                // A deletion does not wait for a compaction: which of them is first must not matter.
                leases_end: true,
                block: Arc::default(),
                clock: 0,
            },
            store: store::Line {
                inner: Arc::clone(&store),
                life: Arc::clone(&reading),
                broken: None,
            },
            running: Arc::clone(&processes),
            life: Arc::clone(&reading),
            broken,
        });
        Self {
            nodes: (0..settings.nodes).map(|_| Mutex::default()).collect(),
            clients: settings.clients.iter().map(|_| Mutex::default()).collect(),
            uploads: settings.uploads.iter().map(|_| Mutex::default()).collect(),
            lives: Mutex::new(vec![Arc::clone(&reading)]),
            directory: directory.to_owned(),
            history: Mutex::default(),
            past: Mutex::default(),
            settings,
            broken,
            truth: Mutex::new(truth),
            away,
            store,
            postponed,
            processes,
            reading,
        }
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        self.history.lock().note(text.into());
    }

    pub(crate) fn truth(&self) -> Arc<dyn Catalog> {
        Arc::clone(&self.truth.lock())
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// A new process takes the place of the catalog's, on the same file.
    pub(crate) async fn restart_catalog(&self, reader: &Reader) {
        let mut file = self.directory.join(CATALOG);
        if self.broken == Some(Broken::CatalogForgets) {
            // Without the log of the database.
            let left = self.directory.join("left.sqlite");
            std::fs::copy(&file, &left).unwrap();
            file = left;
        }
        let opened = SqlCatalog::open_sqlite(&file).await;
        let opened: Arc<dyn Catalog> = Arc::new(opened.unwrap());
        *self.truth.lock() = Arc::clone(&opened);
        for node in &self.nodes {
            let node = node.lock();
            for process in node.running.iter().chain(&node.former) {
                process.catalog.reach(&opened);
            }
        }
        reader.reach(&opened);
    }

    /// The name of a table.
    pub(crate) fn table(number: usize) -> TableName {
        TableName::public(DATABASE, format!("t{number}"))
    }

    pub(crate) fn node_name(node: usize) -> String {
        format!("node-{node}")
    }

    /// Which troubles really happened.
    pub(crate) fn counts(&self) -> Counts {
        let mut all = Counts::new();
        for life in self.lives.lock().iter() {
            for (what, count) in life.counts() {
                *all.entry(what).or_default() += count;
            }
        }
        all
    }

    pub(crate) fn running(&self, node: usize) -> Option<Process> {
        let process = self.nodes[node].lock().running.clone();
        process.filter(|process| !process.life.is_dead())
    }

    pub(crate) fn former(&self, node: usize) -> Option<Process> {
        let process = self.nodes[node].lock().former.clone();
        process.filter(|process| !process.life.is_dead())
    }

    /// Starts a process on a node where none runs.
    pub(crate) async fn start(&self, start: Start<'_>) -> Result<(), Violation> {
        let mut again = STARTS_AGAIN;
        loop {
            match self.started(&start).await {
                Err((_, IngestFault::Unavailable)) if again > 0 => {
                    self.note(format!("node {} starts again", start.node));
                    again -= 1;
                }
                ended => return ended.map_err(|(stuck, _)| stuck),
            }
        }
    }

    /// Starts a process once; says why it can't though nothing is in its way.
    async fn started(&self, start: &Start<'_>) -> Result<(), (Violation, IngestFault)> {
        self.bury();
        let node = &self.nodes[start.node];
        if node.lock().running.is_some() {
            return Ok(());
        }
        let volume = {
            let mut node = node.lock();
            let left = if start.power_cut {
                let mut chance = StdRng::seed_from_u64(start.luck);
                node.volume.after_power_cut(&mut chance)
            } else {
                node.volume.after_kill()
            };
            node.volume = Arc::new(left);
            Arc::clone(&node.volume)
        };
        let life = Arc::new(Life::new(start.luck));
        self.lives.lock().push(Arc::clone(&life));
        life.arm(start.faults);
        let (clock, hand) = Clock::manual();
        hand.advance(Duration::from_secs(start.clock));
        let catalog = Arc::new(LossyCatalog::new(self.catalog_line(&life, start.clock)));
        let options = self.options(start.node, volume, &life, &catalog, clock);
        let opened = alive(&life, Ingest::open(options)).await;
        let troubles = life.disarm();
        match opened {
            Some(Ok(ingest)) if !life.is_dead() => {
                self.note(format!(
                    "node {} runs, epoch {}",
                    start.node,
                    ingest.ingester().epoch
                ));
                let entry = (Arc::clone(&life), Arc::clone(&ingest));
                self.processes.lock().push(entry);
                let streams = Arc::default();
                node.lock().running = Some(Process {
                    node: start.node,
                    life,
                    ingest,
                    catalog,
                    hand,
                    streams,
                });
                Ok(())
            }
            Some(Err(error)) if troubles == 0 && !self.away.load(Ordering::Relaxed) => {
                life.die();
                let stuck = Violation {
                    kind: Kind::Stuck,
                    text: format!("node {} can't start: {error:?}", start.node),
                    key: None,
                };
                Err((stuck, error.fault()))
            }
            _ => {
                life.die();
                self.note(format!("node {} failed to start", start.node));
                Ok(())
            }
        }
    }

    fn options(
        &self,
        node: usize,
        volume: Arc<Volume>,
        life: &Arc<Life>,
        catalog: &Arc<LossyCatalog>,
        clock: Clock,
    ) -> IngestOptions {
        let config = IngestConfig {
            wal_segment_bytes: ByteSize(self.settings.segment_bytes),
            group_commit_window: Duration::ZERO,
            flush_bytes: ByteSize(self.settings.flush_bytes),
            // Only steps, and sizes, make a flush.
            flush_interval: Duration::from_secs(1_000_000_000),
            buffer_bytes: ByteSize(self.settings.buffer_bytes),
            flushed_grace: Duration::from_secs(self.settings.grace_seconds),
            ..IngestConfig::default()
        };
        let disk = SimulatedDisk {
            volume,
            life: Arc::clone(life),
            broken: self.broken,
        };
        IngestOptions {
            config,
            catalog: Arc::clone(catalog) as Arc<dyn Catalog>,
            store: Arc::new(LossyStore::new(self.store_line(life))),
            node_name: Self::node_name(node),
            internal_url: format!("http://node-{node}"),
            wal_dir: self.directory.join("log"),
            disk: Arc::new(disk),
            peers: Arc::new(self.other_ingesters(life)),
            commit_within: DAY,
            ticket_ttl: Duration::from_secs(900),
            observer: Arc::new(NoObserver),
            clock,
        }
    }

    fn catalog_line(&self, life: &Arc<Life>, clock: u64) -> catalog::Line {
        catalog::Line {
            inner: self.truth(),
            away: Arc::clone(&self.away),
            life: Arc::clone(life),
            broken: self.broken,
            postponed: Arc::clone(&self.postponed),
            leases_end: self.settings.leases_end,
            block: Arc::default(),
            clock,
        }
    }

    pub(crate) fn store_line(&self, life: &Arc<Life>) -> store::Line {
        store::Line {
            inner: Arc::clone(&self.store),
            life: Arc::clone(life),
            broken: self.broken,
        }
    }

    pub(crate) fn other_ingesters(&self, life: &Arc<Life>) -> OtherIngesters {
        OtherIngesters {
            running: Arc::clone(&self.processes),
            life: Arc::clone(life),
            broken: self.broken,
        }
    }

    /// Ends a process without warning.
    pub(crate) fn crash(&self, node: usize) {
        if let Some(process) = &self.nodes[node].lock().running {
            process.life.die();
        }
        self.bury();
    }

    /// Gives the disk to a new process while the old one still runs; it can't write any more.
    pub(crate) async fn take_over(&self, node: usize, luck: u64) -> Result<(), Violation> {
        {
            let mut held = self.nodes[node].lock();
            let Some(old) = held.running.take() else {
                return Ok(());
            };
            if let Some(older) = held.former.replace(old) {
                older.life.die();
            }
            let left = held.volume.after_kill();
            std::mem::replace(&mut held.volume, Arc::new(left)).detach();
        }
        self.start(Start {
            node,
            power_cut: luck.is_multiple_of(2),
            clock: 0,
            luck,
            faults: &[],
        })
        .await
    }

    /// Flushes, says good-bye and ends.
    pub(crate) async fn drain(&self, node: usize, faults: &[Fault]) {
        let Some(process) = self.running(node) else {
            return;
        };
        process.life.arm(faults);
        let drained = alive(&process.life, process.ingest.drain()).await;
        process.life.disarm();
        self.note(format!(
            "node {node} drained: {}",
            matches!(drained, Some(Ok(())))
        ));
        process.life.die();
        self.bury();
    }

    pub(crate) fn advance(&self, node: usize, seconds: u64) {
        if let Some(process) = self.running(node) {
            process.hand.advance(Duration::from_secs(seconds));
        }
    }

    pub(crate) fn end_formers(&self) {
        for node in &self.nodes {
            if let Some(former) = &node.lock().former {
                former.life.die();
            }
        }
        self.bury();
    }

    /// A process that can't go on ends, as the binary does; what ended is put away.
    pub(crate) fn bury(&self) {
        for node in &self.nodes {
            let mut node = node.lock();
            let Node {
                running, former, ..
            } = &mut *node;
            for slot in [running, former] {
                let ended = slot
                    .take_if(|process| process.life.is_dead() || process.ingest.statistics().fatal);
                if let Some(ended) = ended {
                    ended.life.die();
                    ended.streams.lock().clear();
                    self.processes.lock().retain(|(life, _)| !life.is_dead());
                }
            }
        }
    }

    /// In a [`Broken::TruncatesBeforeCommit`] world: the commits of those who still live arrive.
    pub(crate) async fn commit_postponed(&self) {
        let postponed = std::mem::take(&mut *self.postponed.lock());
        for (life, commit) in postponed {
            if !life.is_dead() {
                let _ = self.truth().commit_flush(commit).await;
            }
        }
    }

    /// A stream of a client to a table.
    pub(crate) async fn stream(
        &self,
        process: &Process,
        (client, table, shape): StreamKey,
        same: bool,
    ) -> Result<Arc<TableWriter>, flightcluster_ingest::Error> {
        let open = process.streams.lock().get(&(client, table, shape)).cloned();
        if let Some(open) = open.filter(|_| same) {
            return Ok(open);
        }
        let (name, mode) = (Self::table(table), TableMode::CreateOrAppend);
        let writer = process
            .ingest
            .writer(&name, &schema(shape), mode, true)
            .await?;
        let writer = Arc::new(writer);
        let held = Arc::clone(&writer);
        process.streams.lock().insert((client, table, shape), held);
        Ok(writer)
    }

    pub(crate) async fn close(self) {
        for life in self.lives.lock().iter() {
            life.die();
        }
        self.bury();
    }
}

/// What a process does, until it ends; `None` when it ended first.
pub(crate) async fn alive<T>(life: &Life, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = life.died() => None,
        result = work => Some(result),
    }
}
