//! The history checker inside one process: real ingesters, a real catalog and the real query engine
//! over simulated disks and failing networks, with faults from a seed.
//!
//! A seed decides everything about a history ([`program`]): how many ingesters, tables and writers,
//! the sizes of segments and buffers, and the steps: writes (with and without producer numbers, with
//! new columns and wider types, pipelined, repeated at any ingester), uploads of several streams, flushes, compactions,
//! deletions of objects, crashes with and without a power cut, starts, drains, take-overs by a second
//! life, dropped tables, moved clocks, queries, two attempts to send the same batches, a catalog that is away and
//! comes back as another process, and calls that are held while all of this happens. Any
//! call may get lost before or after its effect, or be the last one of its process ([`troubles`]).
//! Every answer is checked ([`history`]), a partial one by what it names ([`questions`]), and what a snapshot
//! answered once is asked for again ([`past`]); a bad history is made as short as it gets and printed.
//!
//! Histories of keys are others ([`keys`], [`registers`]): of a few rows that are overwritten and deleted all the
//! time, through nodes whose clocks are far apart, it is always the last change that has to be read.
//!
//! # What is deterministic
//! The program of a seed, the place of each fault, and the luck of every power cut. Steps run one at a
//! time, and what is to overlap is held at a port until the rest is done, so nothing depends on how
//! fast anything is. Not deterministic is what goes on inside one step: the log's thread, SQLite's
//! and the engine's are real threads, so batches sent at once may share a sync or not, and a flush
//! that a full buffer starts runs beside the steps. A seed that fails once in a while is run again. Why it is so:
//! docs/decisions/0028-what-a-seed-decides.md; what is decided is held by [`decided`].
//!
//! # Switches
//! `SEED=n SEEDS=count` runs those seeds of both kinds and no others (`make histories`); `BROKEN=name` runs them
//! with a broken build, to see what its report looks like.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod attempts;
mod broken;
mod catalog;
mod changes;
mod client;
mod decided;
mod disk;
mod history;
mod keys;
mod life;
mod past;
mod peers;
mod program;
mod questions;
mod reader;
mod registers;
mod run;
mod shape;
mod step;
mod steps;
mod store;
mod told;
mod troubles;
mod upkeep;
mod uploads;
mod watch;
mod world;

use std::io::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use broken::Broken;
use run::{Sum, report, run_seeds};

/// Seeds that are run every time.
const FIXED: u64 = 400;
/// Seeds after which every kind of trouble must have happened.
const MOST_FIXED: u64 = 2000;
/// Time for them and for fresh ones.
const TIME: Duration = Duration::from_secs(100);
/// Time that fresh ones have in any case: a slow machine must not leave them out.
const FRESH: Duration = Duration::from_secs(15);
/// Seeds after which a broken build must have been caught.
const CAUGHT_WITHIN: u64 = 400;

/// Prints past the capture of the test runner: how much was checked is of interest when all is well.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn tell(what: &str, sum: &Sum, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let troubles: u64 = sum.counts.values().sum();
    say(&format!(
        "histories, {what}: {} seeds in {seconds:.1} s, {} steps, {} rows acknowledged, {} answers \
         checked, {} of them partial, {} queries planned again, {troubles} troubles of {} kinds",
        sum.runs,
        sum.steps,
        sum.acknowledged,
        sum.answers,
        sum.partial,
        sum.planned_again,
        sum.counts.len()
    ));
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap())
}

fn must_be_good(sum: &Sum, broken: Option<Broken>) {
    if let Some(bad) = &sum.bad {
        panic!("{}", report(bad, broken));
    }
}

/// What somebody asked for: seeds, and the broken build they are run with.
struct Asked {
    seeds: Range<u64>,
    broken: Option<Broken>,
}

/// See "Switches"; `None` when nothing was asked for.
fn asked() -> Option<Asked> {
    let first = number("SEED")?;
    let count = number("SEEDS").unwrap_or(1);
    let broken = std::env::var("BROKEN").ok().map(|name| {
        let (rows, keys) = (Broken::OF_ROWS, Broken::OF_KEYS);
        let found = Broken::of(&name);
        found.unwrap_or_else(|| panic!("no broken build {name}; there are {rows:?} and {keys:?}"))
    });
    let seeds = first..first + count;
    Some(Asked { seeds, broken })
}

impl Asked {
    /// Whether histories that catch these broken builds are meant too.
    fn concerns(&self, kind: &str, caught: &[Broken]) -> bool {
        let concerned = self.broken.is_none_or(|broken| caught.contains(&broken));
        if !concerned {
            say(&format!(
                "{kind}, none: they have nothing of {:?}",
                self.broken
            ));
        }
        concerned
    }
}

/// The first of seeds that nobody chose.
fn fresh() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    1_000_000 + (since.unwrap().as_nanos() as u64 % 1_000_000_000)
}

#[test]
fn no_history_breaks_a_promise() {
    let begun = Instant::now();
    if let Some(asked) = asked() {
        if asked.concerns("histories", &Broken::OF_ROWS) {
            let what = format!("from {}", asked.seeds.start);
            let sum = run_seeds(asked.seeds, asked.broken, None);
            tell(&what, &sum, begun);
            must_be_good(&sum, asked.broken);
        }
        return;
    }
    let sum = run_seeds(0..FIXED, None, None);
    tell("fixed", &sum, begun);
    must_be_good(&sum, None);
    assert!(sum.planned_again > 0, "no query met a wider column");
    assert!(sum.partial > 0, "no answer was partial");
    let mut counts = sum.counts;
    for next in (FIXED..).step_by(100) {
        let missing: Vec<_> = troubles::all_troubles()
            .filter(|what| !counts.contains_key(what))
            .collect();
        if missing.is_empty() {
            break;
        }
        assert!(next < MOST_FIXED, "never happened: {missing:?}");
        let more = run_seeds(next..next + 100, None, None);
        must_be_good(&more, None);
        for (what, count) in more.counts {
            *counts.entry(what).or_default() += count;
        }
    }

    let begun_fresh = Instant::now();
    let first = fresh();
    let sum = run_seeds(first.., None, Some((begun + TIME).max(begun_fresh + FRESH)));
    tell(&format!("fresh from {first}"), &sum, begun_fresh);
    must_be_good(&sum, None);
    assert!(sum.runs > 0, "no fresh history was run");
}

/// Seeds of histories of keys that are run every time.
const FIXED_KEYS: u64 = 100;

fn tell_keys(what: &str, sum: &registers::Sum, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    let (done, refused) = sum.deletions_without;
    say(&format!(
        "histories of keys, {what}: {} seeds in {seconds:.1} s, {} writes acknowledged, {} rows deleted, {} answers \
         checked, {} calls held; with a node down {done} deletions succeeded and {refused} were refused",
        sum.runs, sum.acknowledged, sum.deleted, sum.answers, sum.held,
    ));
}

fn keys_must_be_good(sum: &registers::Sum, broken: Option<Broken>) {
    if let Some(bad) = &sum.bad {
        panic!("{}", registers::report(bad, broken));
    }
}

#[test]
fn the_later_write_to_a_key_is_read_in_every_history() {
    let begun = Instant::now();
    if let Some(asked) = asked() {
        if asked.concerns("histories of keys", &Broken::OF_KEYS) {
            let what = format!("from {}", asked.seeds.start);
            let sum = registers::run_seeds(asked.seeds, asked.broken, None);
            tell_keys(&what, &sum, begun);
            keys_must_be_good(&sum, asked.broken);
        }
        return;
    }
    let sum = registers::run_seeds(0..FIXED_KEYS, None, None);
    tell_keys("fixed", &sum, begun);
    keys_must_be_good(&sum, None);
    assert!(sum.held > sum.runs, "writes overlap: {}", sum.held);
    assert!(sum.deleted > sum.runs, "rows go: {}", sum.deleted);
    let (done, refused) = sum.deletions_without;
    assert!(
        done > 0 && refused > 0,
        "some need the lost node: {done}, {refused}"
    );

    let begun_fresh = Instant::now();
    let first = fresh();
    let sum = registers::run_seeds(first.., None, Some(begun_fresh + FRESH));
    tell_keys(&format!("fresh from {first}"), &sum, begun_fresh);
    keys_must_be_good(&sum, None);
    assert!(sum.runs > 0, "no fresh history was run");
}

#[test]
fn every_broken_build_of_keys_is_caught() {
    let mut missed = Vec::new();
    for broken in Broken::OF_KEYS {
        let begun = Instant::now();
        let sum = registers::run_seeds(0..CAUGHT_WITHIN, Some(broken), None);
        let seconds = begun.elapsed().as_secs_f64();
        match sum.bad {
            Some(bad) => say(&format!(
                "histories of keys, {broken:?}: caught by seed {} after {} seeds in {seconds:.1} s: {}",
                bad.seed, sum.runs, bad.what
            )),
            None => missed.push(broken),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

#[test]
fn every_broken_build_is_caught() {
    let mut missed = Vec::new();
    for broken in Broken::OF_ROWS {
        let begun = Instant::now();
        let sum = run_seeds(0..CAUGHT_WITHIN, Some(broken), None);
        let seconds = begun.elapsed().as_secs_f64();
        match sum.bad {
            Some(bad) => say(&format!(
                "histories, {broken:?}: caught by seed {} ({:?}) after {} seeds in {seconds:.1} s",
                bad.seed, bad.violation.kind, sum.runs
            )),
            None => missed.push(broken),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
