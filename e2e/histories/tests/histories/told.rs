//! Histories that are told, not decided by a seed: ways to go wrong that are rare, or were found once.

use crate::life::{Fault, Port, Trouble};
use crate::program::{Program, Settings};
use crate::run::Bench;
use crate::shape::Shape;
use crate::step::{Chore, Step};

/// One ingester, one table, one client.
fn settings() -> Settings {
    Settings {
        nodes: 1,
        tables: 1,
        clients: vec![None],
        uploads: vec![],
        segment_bytes: 64 << 20,
        grace_seconds: 60,
        flush_bytes: 128 << 20,
        buffer_bytes: 512 << 20,
        min_files: 2,
        target_bytes: 256 << 20,
        leases_end: false,
        luck: 0,
    }
}

fn start(faults: Vec<Fault>) -> Step {
    Step::Start {
        node: 0,
        power_cut: false,
        clock: 0,
        luck: 0,
        faults,
    }
}

fn write() -> Step {
    Step::Write {
        node: 0,
        client: 0,
        table: 0,
        batches: 2,
        rows: 2,
        shape: Shape::default(),
        same_stream: true,
        faults: vec![],
    }
}

fn fault(port: Port, trouble: Trouble) -> Vec<Fault> {
    let nth = 0;
    vec![Fault { port, nth, trouble }]
}

fn is_good(steps: Vec<Step>) {
    let settings = settings();
    let run = Bench::new().run(&Program { settings, steps }, None);
    let notes = run.notes.join("\n");
    assert!(run.violation.is_none(), "{:?}\n{notes}", run.violation);
}

#[test]
fn a_flush_whose_file_was_taken_for_an_orphan_is_done_again() {
    is_good(vec![
        start(vec![]),
        write(),
        Step::Flush {
            node: 0,
            faults: fault(Port::Commit, Trouble::LostRequest),
        },
        Step::Tidy {
            node: 0,
            chore: Chore::Orphans,
            faults: vec![],
        },
    ]);
}
