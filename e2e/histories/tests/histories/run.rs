//! Runs histories: one of a program, many of many seeds, and ever shorter ones of a bad one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flightcluster_catalog::sql::SqlCatalog;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::broken::Broken;
use crate::history::{Kind, Violation, name};
use crate::life::Counts;
use crate::program::{Program, Settings};
use crate::reader::Reader;
use crate::step::Step;
use crate::watch::within;
use crate::world::{CATALOG, World};

/// A history takes well under a second; one that is let run for so long waits for something that never
/// happens.
const HANGS: Duration = Duration::from_secs(180);
/// What is said of it.
const STUCK: &str = "the history does not end";
/// An empty catalog.
const TEMPLATE: &str = "template.sqlite";
/// Time to look for a shorter history.
const SHRINKING: Duration = Duration::from_secs(40);

/// How a history went.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) violation: Option<Violation>,
    pub(crate) notes: Vec<String>,
    pub(crate) counts: Counts,
    pub(crate) acknowledged: u64,
    pub(crate) answers: u64,
    pub(crate) partial: u64,
    pub(crate) planned_again: u64,
}

/// What runs the histories of one thread.
pub(crate) struct Bench {
    runtime: Runtime,
    reader: Reader,
    folder: TempDir,
    runs: AtomicU64,
    hangs: Duration,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_limit(HANGS)
    }

    /// Whose histories count as stuck when they could run for so long.
    fn with_limit(hangs: Duration) -> Self {
        let folder = tempfile::tempdir_in(place()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        // Made once and copied: an empty catalog takes longer to make than many a history.
        runtime.block_on(async {
            let template = SqlCatalog::open_sqlite(&folder.path().join(TEMPLATE)).await;
            template.unwrap().close().await;
        });
        let reader = {
            let _inside = runtime.enter();
            Reader::new(&folder.path().join("spill"))
        };
        Self {
            runtime,
            reader,
            folder,
            runs: AtomicU64::new(0),
            hangs,
        }
    }

    /// Runs a program to its end or to the first broken promise.
    pub(crate) fn run(&self, program: &Program, broken: Option<Broken>) -> Run {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(self.folder.path().join(TEMPLATE), folder.join(CATALOG)).unwrap();
        let run = self
            .runtime
            .block_on(self.history(program, broken, &folder));
        std::fs::remove_dir_all(folder).unwrap();
        run
    }

    async fn history(&self, program: &Program, broken: Option<Broken>, folder: &Path) -> Run {
        let settings = program.settings.clone();
        let world = World::new(settings, broken, folder, &self.reader).await;
        let all = async {
            for step in &program.steps {
                world.carry_out(&self.reader, step).await?;
                world.commit_postponed().await;
            }
            world.finish(&self.reader).await
        };
        let ended = within(self.hangs, all).await.unwrap_or_else(|| {
            Err(Violation {
                kind: Kind::Stuck,
                text: STUCK.to_owned(),
                key: None,
            })
        });
        let counts = world.counts();
        let history = std::mem::take(&mut *world.history.lock());
        world.close().await;
        Run {
            violation: ended.err(),
            notes: history.notes,
            counts,
            acknowledged: history.acknowledged,
            answers: history.answers,
            partial: history.partial,
            planned_again: self.reader.planned_again(),
        }
    }

    /// Does something in a fresh world; [`STUCK`] when it does not end.
    pub(crate) fn in_world<T>(
        &self,
        settings: Settings,
        broken: Option<Broken>,
        work: impl AsyncFnOnce(&World, &Reader) -> T,
    ) -> Result<T, &'static str> {
        let number = self.runs.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(self.folder.path().join(TEMPLATE), folder.join(CATALOG)).unwrap();
        let done = self.runtime.block_on(async {
            let world = World::new(settings, broken, &folder, &self.reader).await;
            let done = within(self.hangs, work(&world, &self.reader)).await;
            world.close().await;
            done.ok_or(STUCK)
        });
        std::fs::remove_dir_all(folder).unwrap();
        done
    }

    /// Leaves out steps as long as the same promise is broken without them; with the shortest history,
    /// what happened in it, if it broke a promise again at all.
    fn shrink(&self, program: &Program, broken: Option<Broken>) -> (Program, Option<Run>) {
        let (settings, mut kind) = (&program.settings, None);
        let with = |steps: &[Step]| Program {
            settings: settings.clone(),
            steps: steps.to_vec(),
        };
        let (steps, run) = shortest(&program.steps, |steps| {
            let run = self.run(&with(steps), broken);
            let now = run.violation.as_ref().map(|violation| violation.kind);
            kind = kind.or(now);
            (now.is_some() && now == kind).then_some(run)
        });
        (with(&steps), run)
    }
}

/// The shortest history found in a while that still fails, and what `fails` said of it: `None` when not even
/// all steps fail again.
pub(crate) fn shortest<S: Clone, T>(
    steps: &[S],
    mut fails: impl FnMut(&[S]) -> Option<T>,
) -> (Vec<S>, Option<T>) {
    let begun = Instant::now();
    let mut best = (steps.to_vec(), fails(steps));
    if best.1.is_none() {
        return best;
    }
    let mut size = steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < best.0.len() && begun.elapsed() < SHRINKING {
            let mut shorter = best.0.clone();
            shorter.drain(at..(at + size).min(best.0.len()));
            match fails(&shorter) {
                None => at += size,
                found => best = (shorter, found),
            }
        }
        size /= 2;
    }
    best
}

/// Where catalogs are: in memory when there is such a place, so that no disk is waited for.
fn place() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    }
}

/// A seed that broke a promise, and what happened then.
#[derive(Debug)]
pub(crate) struct Bad {
    pub(crate) seed: u64,
    pub(crate) violation: Violation,
    notes: Vec<String>,
}

/// What many histories came to.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) runs: u64,
    pub(crate) steps: u64,
    pub(crate) acknowledged: u64,
    pub(crate) answers: u64,
    pub(crate) partial: u64,
    pub(crate) planned_again: u64,
    pub(crate) counts: Counts,
    /// The lowest seed that broke a promise.
    pub(crate) bad: Option<Bad>,
}

impl Sum {
    fn add(&mut self, seed: u64, program: &Program, run: Run) {
        self.runs += 1;
        self.steps += program.steps.len() as u64;
        self.acknowledged += run.acknowledged;
        self.answers += run.answers;
        self.partial += run.partial;
        self.planned_again += run.planned_again;
        for (what, count) in run.counts {
            *self.counts.entry(what).or_default() += count;
        }
        if let Some(violation) = run.violation
            && self.bad.as_ref().is_none_or(|other| seed < other.seed)
        {
            let notes = run.notes;
            self.bad = Some(Bad {
                seed,
                violation,
                notes,
            });
        }
    }
}

/// Runs the histories of these seeds on every core until one is bad, none is left, or `until` is
/// over. One of a broken build is bad when it shows what that breaks.
pub(crate) fn run_seeds(
    seeds: impl Iterator<Item = u64> + Send,
    broken: Option<Broken>,
    until: Option<Instant>,
) -> Sum {
    let (seeds, sum) = (Mutex::new(seeds), Mutex::new(Sum::default()));
    let stop = AtomicBool::new(false);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let bench = Bench::new();
        while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            let Some(seed) = seeds.lock().next() else {
                break;
            };
            let program = Program::of(seed);
            let mut run = bench.run(&program, broken);
            let counts = |found: &Violation| {
                broken.is_none_or(|broken| broken.shows_as().contains(&found.kind))
            };
            run.violation = run.violation.filter(counts);
            if run.violation.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
            sum.lock().add(seed, &program, run);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    sum.into_inner()
}

/// A bad seed for people: what was broken, the shortest history that breaks it, what happened in it.
pub(crate) fn report(bad: &Bad, broken: Option<Broken>) -> String {
    let program = Program::of(bad.seed);
    let (shortest, run) = Bench::new().shrink(&program, broken);
    let mut text = String::new();
    let mut line = |more: &str| {
        let _ = writeln!(text, "{more}");
    };
    let Violation {
        kind, text: what, ..
    } = &bad.violation;
    line(&format!("seed {}: {kind:?}: {what}", bad.seed));
    let (violation, notes) = match &run {
        None => {
            line("It did not happen again: run the seed more often.");
            (&bad.violation, &bad.notes)
        }
        Some(run) => {
            let (few, all) = (shortest.steps.len(), program.steps.len());
            let violation = run.violation.as_ref().unwrap_or(&bad.violation);
            let Violation {
                kind, text: what, ..
            } = violation;
            line(&format!(
                "{few} of its {all} steps do it too: {kind:?}: {what}"
            ));
            (violation, &run.notes)
        }
    };
    if let Some(key) = violation.key {
        line(&format!("the row: {}", name(key)));
    }
    line(&format!("{:?}", shortest.settings));
    for step in &shortest.steps {
        line(&format!("  {step:?}"));
    }
    line("what happened:");
    for note in notes {
        line(&format!("  {note}"));
    }
    text
}

#[test]
fn a_history_that_hangs_is_reported() {
    let bench = Bench::with_limit(Duration::from_millis(300));
    let settings = Program::of(0).settings;
    let stuck = bench.in_world(settings.clone(), None, async |_, _| {
        std::future::pending::<()>().await;
    });
    assert_eq!(stuck, Err(STUCK));
    assert_eq!(bench.in_world(settings, None, async |_, _| 7), Ok(7));
}

#[test]
fn a_bad_history_is_made_as_short_as_it_gets() {
    let steps: Vec<u32> = (0..50).collect();
    // Three steps together do it.
    let mut asked = 0;
    let (few, found) = shortest(&steps, |steps| {
        asked += 1;
        [3, 17, 41]
            .iter()
            .all(|each| steps.contains(each))
            .then_some(steps.len())
    });
    assert_eq!((few, found), (vec![3, 17, 41], Some(3)));
    assert!(asked < 100, "{asked} runs");
    let (none_left_out, found) = shortest::<_, ()>(&steps, |_| None);
    assert_eq!((none_left_out, found), (steps, None));
    assert_eq!(shortest(&[1, 2], |_| Some(())), (vec![], Some(())));
}
