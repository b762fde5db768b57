//! What happens in a history: settings and steps, decided by a seed before anything runs.
//!
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::attempts::Twice;
use crate::life::{Fault, Port, Trouble};
use crate::shape::{Shape, Width};
use crate::step::{Chore, End, Question, Step};
use crate::troubles::{
    COLLECT_FAULTS, COMPACT_FAULTS, DRAIN_FAULTS, FLUSH_FAULTS, HOLDS, QUERY_FAULTS, START_FAULTS,
    UPLOAD_FAULTS, WRITE_FAULTS,
};

/// Sizes of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) nodes: usize,
    pub(crate) tables: usize,
    /// For each client: where a producer writes, the same table always and the same node mostly.
    pub(crate) clients: Vec<Option<(usize, usize)>>,
    /// For each upload the table it is for.
    pub(crate) uploads: Vec<usize>,
    pub(crate) segment_bytes: u64,
    pub(crate) grace_seconds: u64,
    pub(crate) flush_bytes: u64,
    pub(crate) buffer_bytes: u64,
    /// Files that make a compaction.
    pub(crate) min_files: u32,
    pub(crate) target_bytes: u64,
    pub(crate) leases_end: bool,
    pub(crate) luck: u64,
}

/// A history to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) settings: Settings,
    pub(crate) steps: Vec<Step>,
}

/// Nodes of the largest history.
pub(crate) const MOST_NODES: usize = 3;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

impl Program {
    /// The history of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let nodes = chance.random_range(1..=MOST_NODES);
        let tables = chance.random_range(1..=2);
        let clients = (0..chance.random_range(2..=4))
            .map(|client| {
                let home = (
                    chance.random_range(0..nodes),
                    chance.random_range(0..tables),
                );
                (client % 2 == 1).then_some(home)
            })
            .collect();
        let uploads = (0..chance.random_range(0..=3))
            .map(|_| chance.random_range(0..tables))
            .collect();
        let settings = Settings {
            nodes,
            tables,
            clients,
            uploads,
            segment_bytes: pick(&mut chance, &[KIB, KIB, 8 * KIB, 64 * MIB]),
            grace_seconds: pick(&mut chance, &[1, 60]),
            flush_bytes: pick(&mut chance, &[3 * KIB, 128 * MIB, 128 * MIB]),
            // A write that finds it full waits, for real time.
            buffer_bytes: match chance.random_bool(0.05) {
                true => 96 * KIB,
                false => 512 * MIB,
            },
            min_files: [2, 2, 4].choose(&mut chance).copied().unwrap_or(2),
            target_bytes: pick(&mut chance, &[8 * KIB, 256 * MIB]),
            leases_end: chance.random_bool(0.5),
            luck: chance.random(),
        };
        // Of half of the histories no column grows.
        let widest = match chance.random_bool(0.5) {
            true => Width::Wide,
            false => *Width::ALL.choose(&mut chance).unwrap_or(&Width::Wide),
        };
        let mut maker = Maker {
            chance,
            settings,
            widest,
        };
        let mut steps = Vec::new();
        for node in 0..nodes {
            steps.push(maker.start(node, false));
        }
        for _ in 0..maker.chance.random_range(12..=32) {
            maker.add(&mut steps);
        }
        let settings = maker.settings;
        Self { settings, steps }
    }
}

fn pick(chance: &mut StdRng, from: &[u64]) -> u64 {
    from.choose(chance).copied().unwrap_or_default()
}

struct Maker {
    chance: StdRng,
    settings: Settings,
    /// Types that writers know so far.
    widest: Width,
}

impl Maker {
    fn add(&mut self, steps: &mut Vec<Step>) {
        let node = self.node();
        match self.chance.random_range(0..152) {
            0..28 => steps.push(self.write(true)),
            28..47 => steps.push(self.query(true)),
            47..58 => {
                let flush = self.flush(node);
                self.something_to_do(steps, &flush);
                steps.push(flush);
            }
            58..64 => steps.push(self.advance()),
            64..73 => {
                steps.push(Step::Crash { node });
                if self.chance.random_bool(0.7) {
                    steps.push(self.start(node, true));
                }
            }
            73..79 => steps.push(self.start(node, true)),
            79..82 => {
                let faults = self.some(0.15, &DRAIN_FAULTS);
                steps.push(Step::Drain { node, faults });
                if self.chance.random_bool(0.7) {
                    steps.push(self.start(node, false));
                }
            }
            82..86 => {
                let luck = self.chance.random();
                steps.push(Step::TakeOver { node, luck });
                if self.chance.random_bool(0.6) {
                    steps.push(Step::FlushFormer { node });
                }
            }
            86..87 => {
                let table = self.table();
                steps.push(Step::DropTable { table });
            }
            87..93 => {
                let tidy = self.tidy(true);
                self.something_to_do(steps, &tidy);
                steps.push(tidy);
            }
            93..109 => {
                if let Some(step) = self.upload(true) {
                    self.something_to_do(steps, &step);
                    steps.push(step);
                }
            }
            109..117 => steps.push(self.repeat()),
            117..121 => steps.push(self.tidy(true)),
            121..129 => {
                let twice = self.twice();
                steps.push(Step::Twice(twice));
            }
            129..133 => {
                let meanwhile = self.meanwhile();
                steps.push(Step::CatalogAway { meanwhile });
            }
            133..139 => {
                let grown = self.grown_meanwhile();
                steps.push(grown);
            }
            _ => {
                let during = self.during();
                if let Step::During { held, .. } = &during {
                    self.something_to_do(steps, held);
                }
                steps.push(during);
            }
        }
    }

    /// Mostly there are rows to flush, files to compact, objects to delete, when their step comes: what
    /// goes wrong in a step that does nothing teaches nothing.
    fn something_to_do(&mut self, steps: &mut Vec<Step>, step: &Step) {
        let faults = Vec::new;
        if self.chance.random_bool(0.3) {
            return;
        }
        match *step {
            Step::Flush { node, .. } => steps.push(self.write_to(node)),
            Step::EndUpload { upload, .. } if upload < self.settings.uploads.len() => {
                steps.push(self.send_upload(upload, vec![]));
            }
            Step::Tidy { node, chore, .. } => {
                for _ in 0..2 {
                    let flush = Step::Flush {
                        node,
                        faults: faults(),
                    };
                    steps.extend([self.write_to(node), flush]);
                }
                if chore != Chore::Compact {
                    steps.push(Step::Tidy {
                        node,
                        chore: Chore::Compact,
                        faults: faults(),
                    });
                }
            }
            _ => {}
        }
    }

    fn write_to(&mut self, to: usize) -> Step {
        let mut step = self.write(false);
        if let Step::Write { node, .. } = &mut step {
            *node = to;
        }
        step
    }

    fn node(&mut self) -> usize {
        self.chance.random_range(0..self.settings.nodes)
    }

    fn table(&mut self) -> usize {
        self.chance.random_range(0..self.settings.tables)
    }

    /// A few faults of these, with this probability.
    fn some(&mut self, probability: f64, from: &[(Port, &[Trouble])]) -> Vec<Fault> {
        let mut faults = Vec::new();
        while faults.len() < 3 && self.chance.random_bool(probability) {
            faults.extend(self.one(from));
        }
        faults
    }

    fn one(&mut self, from: &[(Port, &[Trouble])]) -> Option<Fault> {
        let (port, troubles) = from.choose(&mut self.chance)?;
        let trouble = *troubles.choose(&mut self.chance)?;
        let nth = [0, 0, 0, 1, 2].choose(&mut self.chance).copied()?;
        let port = *port;
        // Of these a step has few.
        let few = matches!(port, Port::Replace | Port::Peer | Port::Delete | Port::Open);
        let nth = if few { 0 } else { nth };
        Some(Fault { port, nth, trouble })
    }

    fn write(&mut self, may_fail: bool) -> Step {
        let client = self.chance.random_range(0..self.settings.clients.len());
        let (node, table) = match self.settings.clients[client] {
            // Mostly at home; an unanswered batch may be repeated to another ingester.
            Some((_, table)) if self.chance.random_bool(0.3) => (self.node(), table),
            Some(home) => home,
            None => (self.node(), self.table()),
        };
        let faults = if may_fail {
            self.some(0.25, &WRITE_FAULTS)
        } else {
            vec![]
        };
        Step::Write {
            node,
            client,
            table,
            batches: self.chance.random_range(1..=4),
            rows: self.chance.random_range(1..=6),
            shape: self.shape(),
            same_stream: self.chance.random_bool(0.6),
            faults,
        }
    }

    /// Wider types come now and then, and who knows only narrower ones goes on with them.
    fn shape(&mut self) -> Shape {
        let extra = self.chance.random_bool(0.2);
        if self.chance.random_bool(0.15) {
            self.widest = self.widest.next();
        }
        let narrower = self.chance.random_bool(0.3);
        let width = match Width::ALL.choose(&mut self.chance) {
            Some(width) if narrower => self.widest.min(*width),
            _ => self.widest,
        };
        Shape { extra, width }
    }

    fn repeat(&mut self) -> Step {
        let client = self.chance.random_range(0..self.settings.clients.len());
        // Mostly where it is known, sometimes where it is not.
        let node = match self.settings.clients[client] {
            Some((home, _)) if self.chance.random_bool(0.4) => home,
            _ => self.node(),
        };
        Step::Repeat { node, client }
    }

    fn twice(&mut self) -> Twice {
        let client = self.chance.random_range(0..self.settings.clients.len());
        let home = self.settings.clients[client];
        let (node, table) = home.unwrap_or((self.node(), self.table()));
        let other = match self.chance.random_bool(0.7) {
            true => node,
            false => self.node(),
        };
        Twice {
            nodes: [node, other],
            client,
            table,
            // Only a producer has numbers.
            named: home.is_none() || self.chance.random_bool(0.3),
            batches: self.chance.random_range(3..=6),
            rows: self.chance.random_range(1..=6),
            shape: self.shape(),
            luck: self.chance.random(),
        }
    }

    /// What is done while the catalog is away.
    fn meanwhile(&mut self) -> Vec<Step> {
        let count = self.chance.random_range(1..=4);
        let step = |maker: &mut Self| match maker.chance.random_range(0..14) {
            0..4 => maker.write(true),
            4..6 => maker.query(false),
            6..8 => {
                let node = maker.node();
                maker.flush(node)
            }
            8..10 => maker.advance(),
            10 => maker.tidy(false),
            11 => Step::Crash { node: maker.node() },
            12 => {
                let node = maker.node();
                maker.start(node, false)
            }
            _ => maker.repeat(),
        };
        (0..count).map(|_| step(self)).collect()
    }

    /// A step of an upload, if there is any.
    fn upload(&mut self, may_fail: bool) -> Option<Step> {
        let count = self.settings.uploads.len();
        let upload = (count > 0).then(|| self.chance.random_range(0..count))?;
        if self.chance.random_bool(0.35) {
            let faults = if may_fail {
                self.some(0.6, &UPLOAD_FAULTS)
            } else {
                vec![]
            };
            return Some(self.end_upload(upload, faults));
        }
        let faults = if may_fail {
            self.some(0.2, &WRITE_FAULTS)
        } else {
            vec![]
        };
        Some(self.send_upload(upload, faults))
    }

    fn send_upload(&mut self, upload: usize, faults: Vec<Fault>) -> Step {
        Step::SendUpload {
            node: self.node(),
            upload,
            batches: self.chance.random_range(1..=3),
            rows: self.chance.random_range(1..=6),
            shape: self.shape(),
            faults,
        }
    }

    fn end_upload(&mut self, upload: usize, faults: Vec<Fault>) -> Step {
        let ends = [
            End::Finish,
            End::FinishElsewhere,
            End::FinishElsewhere,
            End::Abort,
        ];
        Step::EndUpload {
            node: self.node(),
            upload,
            end: *ends.choose(&mut self.chance).unwrap_or(&End::Finish),
            faults,
        }
    }

    fn tidy(&mut self, may_fail: bool) -> Step {
        use Chore::{Collect, Compact, Orphans};
        let chores = [Compact, Compact, Compact, Collect, Collect, Orphans];
        let chore = *chores.choose(&mut self.chance).unwrap_or(&Compact);
        let faults = match chore {
            _ if !may_fail => vec![],
            Compact => self.some(0.4, &COMPACT_FAULTS),
            Collect | Orphans => self.some(0.4, &COLLECT_FAULTS),
        };
        let node = self.node();
        Step::Tidy {
            node,
            chore,
            faults,
        }
    }

    fn query(&mut self, may_fail: bool) -> Step {
        let faults = if may_fail {
            self.some(0.15, &QUERY_FAULTS)
        } else {
            vec![]
        };
        Step::Query {
            table: self.table(),
            question: self.question(),
            faults,
        }
    }

    fn whole_or_partial(&mut self) -> Question {
        match self.chance.random_bool(0.7) {
            true => Question::Rows,
            false => Question::Partial,
        }
    }

    fn question(&mut self) -> Question {
        match self.chance.random_range(0..100) {
            0..15 => Question::Count,
            15..35 => Question::Partial,
            _ => Question::Rows,
        }
    }

    fn flush(&mut self, node: usize) -> Step {
        let faults = self.some(0.3, &FLUSH_FAULTS);
        Step::Flush { node, faults }
    }

    fn advance(&mut self) -> Step {
        let seconds = pick(&mut self.chance, &[1, 2, 61, 3600, 100_000]);
        let node = self.node();
        Step::Advance { node, seconds }
    }

    fn start(&mut self, node: usize, may_fail: bool) -> Step {
        let faults = if may_fail {
            self.some(0.2, &START_FAULTS)
        } else {
            vec![]
        };
        Step::Start {
            node,
            power_cut: self.chance.random_bool(0.6),
            clock: pick(&mut self.chance, &[0, 1000, 5000, 100_000]),
            luck: self.chance.random(),
            faults,
        }
    }

    /// A query whose columns become wider between its plan and its rows.
    fn grown_meanwhile(&mut self) -> Step {
        self.widest = self.widest.next();
        let mut write = self.write(false);
        let mut queried = self.table();
        let mut to = 0;
        if let Step::Write {
            table, node, shape, ..
        } = &mut write
        {
            shape.width = self.widest;
            (queried, to) = (*table, *node);
        }
        let mut meanwhile = vec![write];
        if self.chance.random_bool(0.3) {
            let (node, faults) = (to, vec![]);
            meanwhile.push(Step::Flush { node, faults });
        }
        let (port, nth, trouble) = (Port::Recent, 0, Trouble::HoldBefore);
        let held = Box::new(Step::Query {
            table: queried,
            question: self.whole_or_partial(),
            faults: vec![Fault { port, nth, trouble }],
        });
        Step::During { held, meanwhile }
    }

    fn during(&mut self) -> Step {
        let node = self.node();
        let mut hold = |from: &[(Port, &[Trouble])]| self.one(from).into_iter().collect::<Vec<_>>();
        let faults = hold(&HOLDS);
        let of_port = |port| faults.iter().any(|fault| fault.port == port);
        // Files are stored, and read, for two reasons.
        let other = self.chance.random_bool(0.5);
        let (held, writes, flushes) = match faults {
            faults if of_port(Port::Upload) || of_port(Port::Peer) => {
                let count = self.settings.uploads.len().max(1);
                let upload = self.chance.random_range(0..count);
                (self.end_upload(upload, faults), true, true)
            }
            faults
                if of_port(Port::Replace)
                    || other && (of_port(Port::Put) || of_port(Port::Get)) =>
            {
                let chore = Chore::Compact;
                (
                    Step::Tidy {
                        node,
                        chore,
                        faults,
                    },
                    true,
                    true,
                )
            }
            faults if of_port(Port::Recent) || of_port(Port::Get) => {
                let (table, question) = (self.table(), self.whole_or_partial());
                let held = Step::Query {
                    table,
                    question,
                    faults,
                };
                (held, true, true)
            }
            faults if of_port(Port::Sync) => {
                let mut held = self.write(false);
                if let Step::Write { faults: of, .. } = &mut held {
                    *of = faults;
                }
                (held, false, true)
            }
            faults => (Step::Flush { node, faults }, true, false),
        };
        // Of uploads at all, and most of all while one ends.
        let uploads = matches!(held, Step::EndUpload { .. }) || self.chance.random_bool(0.3);
        let busy = match &held {
            Step::Write { node, client, .. } => (Some(*node), Some(*client)),
            Step::Flush { node, .. } => (Some(*node), None),
            _ => (None, None),
        };
        let mut meanwhile = Vec::new();
        if matches!(held, Step::Tidy { .. }) && self.chance.random_bool(0.6) {
            let (node, chore, faults) = (self.node(), Chore::Compact, vec![]);
            meanwhile.push(Step::Tidy {
                node,
                chore,
                faults,
            });
        }
        for _ in 0..self.chance.random_range(1..=4) {
            let upload = self.upload(false);
            let step = match self.chance.random_range(0..16) {
                0..5 if upload.is_some() && uploads => upload.unwrap(),
                0..3 => self.query(false),
                3..5 => self.write(false),
                5..7 => {
                    let (node, faults) = (self.node(), vec![]);
                    Step::Flush { node, faults }
                }
                7..9 => self.advance(),
                9 => Step::Crash { node: self.node() },
                10 => {
                    let (node, luck) = (self.node(), self.chance.random());
                    Step::TakeOver { node, luck }
                }
                11..15 => self.tidy(false),
                _ => {
                    let node = self.node();
                    self.start(node, false)
                }
            };
            // The held call keeps what these would wait for.
            let waits = match &step {
                Step::Write { node, client, .. } => {
                    (Some(*node) == busy.0 && !writes) || Some(*client) == busy.1
                }
                // What is sent waits for a sync, and what is ended for a flush of any ingester.
                Step::SendUpload { .. } => !writes,
                Step::EndUpload { .. } => !writes || !flushes,
                Step::Flush { node, .. } => Some(*node) == busy.0 && !flushes,
                _ => false,
            };
            if !waits {
                meanwhile.push(step);
            }
        }
        let held = Box::new(held);
        Step::During { held, meanwhile }
    }
}
