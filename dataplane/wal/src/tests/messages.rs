//! Every message of the log has its row with a cause and an action.

use std::io;
use std::path::PathBuf;

use super::*;
use crate::recover::{TORN, UNFINISHED};

/// The pages with rows for the operator.
const PAGES: [&str; 2] = [
    include_str!("../../../../docs/reference/wal-format.md"),
    include_str!("../../../../docs/operations.md"),
];

/// A number that stands for any; in a row it is `…`.
const ANY: u64 = 987_654;

/// What stands in the message column of the rows that have a cause and an action.
fn documented() -> Vec<&'static str> {
    let lines = PAGES.iter().flat_map(|page| page.lines());
    let rows = lines.filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").collect::<Vec<_>>());
    let complete =
        cells.filter(|cells| cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()));
    let messages = complete.flat_map(|cells| cells[0].split('`').skip(1).step_by(2));
    // A word alone would be found in any message.
    messages.filter(|message| message.len() >= 15).collect()
}

fn has_row(message: &str) -> bool {
    documented().iter().any(|row| message.contains(row))
}

/// One of each error, and its place in this list.
fn examples() -> Vec<Error> {
    let any = || PathBuf::from("…");
    let source = || Arc::new(io::Error::other("…"));
    let log = || LogId(uuid::Uuid::nil());
    vec![
        Error::Locked { directory: any() },
        Error::Directory {
            doing: "…",
            directory: any(),
            source: source(),
        },
        Error::Segment {
            doing: "…",
            file: any(),
            source: source(),
        },
        Error::Damaged {
            file: any(),
            offset: ANY,
            problem: "…",
        },
        Error::DamagedLabel { file: any() },
        Error::MissingSegment { file: any() },
        Error::SequenceGap {
            file: any(),
            offset: ANY,
            expected: ANY,
            found: ANY,
        },
        Error::UnknownVersion {
            file: any(),
            offset: ANY,
            what: "format version",
            found: ANY as u32,
        },
        Error::OtherLog {
            file: any(),
            found: log(),
            expected: log(),
        },
        Error::OtherIngester {
            file: any(),
            found: ANY,
            found_name: "…".to_owned(),
            expected: ANY,
        },
        Error::Behind {
            directory: any(),
            last: ANY,
            known: ANY,
        },
        Error::RecordTooLarge {
            bytes: ANY as usize,
        },
        Error::Full {
            directory: any(),
            source: source(),
        },
        Error::OverBudget {
            directory: any(),
            used_bytes: ANY,
            limit_bytes: ANY,
        },
        Error::Poisoned {
            doing: "…",
            file: any(),
            source: source(),
        },
        Error::Closed,
        Error::DamagedSpan { file: any() },
        Error::MissingEnd { file: any() },
    ]
}

/// Where an error is in [`examples`]: a new one has to be put there.
fn place(error: &Error) -> usize {
    match error {
        Error::Locked { .. } => 0,
        Error::Directory { .. } => 1,
        Error::Segment { .. } => 2,
        Error::Damaged { .. } => 3,
        Error::DamagedLabel { .. } => 4,
        Error::MissingSegment { .. } => 5,
        Error::SequenceGap { .. } => 6,
        Error::UnknownVersion { .. } => 7,
        Error::OtherLog { .. } => 8,
        Error::OtherIngester { .. } => 9,
        Error::Behind { .. } => 10,
        Error::RecordTooLarge { .. } => 11,
        Error::Full { .. } => 12,
        Error::OverBudget { .. } => 13,
        Error::Poisoned { .. } => 14,
        Error::Closed => 15,
        Error::DamagedSpan { .. } => 16,
        Error::MissingEnd { .. } => 17,
    }
}

#[test]
fn every_message_of_the_log_has_a_row_with_an_action() {
    let (number, log) = (ANY.to_string(), uuid::Uuid::nil().to_string());
    for (at, error) in examples().iter().enumerate() {
        assert_eq!(place(error), at);
        let message = error.to_string().replace(&number, "…").replace(&log, "…");
        assert!(has_row(&message), "no row has an action for: {message}");
    }
    for message in [TORN, UNFINISHED] {
        assert!(has_row(message), "no row has an action for: {message}");
    }
    assert!(!has_row("something that nobody documented"));
}
