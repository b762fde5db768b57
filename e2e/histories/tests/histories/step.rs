//! The steps of histories.
//!
//! Every step makes sense in every state (an ingester that is down refuses, a second start does
//! nothing), so that any step can be left out to find the shortest history that still goes wrong.

use crate::attempts::Twice;
use crate::life::Fault;
use crate::shape::Shape;

/// One thing that happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A client sends batches, several on their way at once, after those it has to repeat.
    Write {
        node: usize,
        client: usize,
        table: usize,
        batches: u8,
        rows: u8,
        /// It may have a column, and wider types, than the table has yet.
        shape: Shape,
        /// On a stream that may be open since long.
        same_stream: bool,
        faults: Vec<Fault>,
    },
    /// A producer sends a batch again that was acknowledged, just now or some time ago, to whatever
    /// ingester.
    Repeat { node: usize, client: usize },
    /// The same batches are sent in two attempts at the same time.
    Twice(Twice),
    /// The catalog can't be reached while this happens, and was started again then.
    CatalogAway { meanwhile: Vec<Step> },
    /// Batches of an upload are sent.
    SendUpload {
        node: usize,
        upload: usize,
        batches: u8,
        rows: u8,
        shape: Shape,
        faults: Vec<Fault>,
    },
    /// An upload is finished or aborted.
    EndUpload {
        node: usize,
        upload: usize,
        end: End,
        faults: Vec<Fault>,
    },
    /// Everything is put into files.
    Flush { node: usize, faults: Vec<Fault> },
    /// A process does a chore of upkeep.
    Tidy {
        node: usize,
        chore: Chore,
        faults: Vec<Fault>,
    },
    /// Time passes for one node.
    Advance { node: usize, seconds: u64 },
    /// The process ends without warning.
    Crash { node: usize },
    /// The process starts, after a power cut or not, with its clock somewhere.
    Start {
        node: usize,
        power_cut: bool,
        clock: u64,
        luck: u64,
        faults: Vec<Fault>,
    },
    /// The process is told to end.
    Drain { node: usize, faults: Vec<Fault> },
    /// The disk goes to a new process of the same name while the old one still runs.
    TakeOver { node: usize, luck: u64 },
    /// The old process of a node flushes what it holds.
    FlushFormer { node: usize },
    /// Somebody drops a table.
    DropTable { table: usize },
    /// A reader asks.
    Query {
        table: usize,
        question: Question,
        faults: Vec<Fault>,
    },
    /// A step with a call that waits while other things happen.
    During {
        held: Box<Step>,
        meanwhile: Vec<Step>,
    },
}

/// What a reader asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// All rows.
    Rows,
    /// How many there are.
    Count,
    /// All rows, if need be without the fresh ones of ingesters that can't be reached.
    Partial,
}

/// How an upload ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its rows appear, says an ingester.
    Finish,
    /// Its rows appear, says a process that asks even the ingester beside it.
    FinishElsewhere,
    /// Its rows never appear.
    Abort,
}

/// What upkeep does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chore {
    /// Small files become few.
    Compact,
    /// Objects of files that ended are deleted, without any grace.
    Collect,
    /// Objects that no file has, and be it for a moment, are given up for deletion.
    Orphans,
}

impl Chore {
    pub(crate) const ALL: [Self; 3] = [Self::Compact, Self::Collect, Self::Orphans];
}
