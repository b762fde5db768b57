//! Log lines as they are written.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use flightcluster_telemetry::log::{FilterHandle, Format, build, check_filter};
use serde_json::{Value, json};
use tracing::{debug, info, info_span, warn};
use tracing_subscriber::fmt::writer::BoxMakeWriter;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn logged(format: Format, terminal: bool, work: impl FnOnce(&FilterHandle)) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let writer = BoxMakeWriter::new(move || writer.clone());
    let (subscriber, handle) = build(format, "info", writer, terminal).unwrap();
    tracing::subscriber::with_default(subscriber, || work(&handle));
    String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
}

fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[derive(Debug, thiserror::Error)]
#[error("can't commit")]
struct Outer(#[source] Inner);

#[derive(Debug, thiserror::Error)]
#[error("disk full")]
struct Inner;

#[test]
fn a_json_line_carries_the_fields_of_the_event_and_of_its_spans() {
    let text = logged(Format::Json, false, |_| {
        let request = info_span!("request", request_id = "r-1", peer = tracing::field::Empty);
        let _request = request.enter();
        request.record("peer", "10.0.0.1");
        let query = info_span!("query", table = "outer", rows = 1);
        let _query = query.enter();
        info!(table = "inner", bytes = 12_u64, ok = true, "two\nlines");
        let failure = Outer(Inner);
        warn!(error = &failure as &dyn std::error::Error, "retrying");
    });
    let lines = objects(&text);
    assert_eq!(lines.len(), 2, "{text}");
    let line = &lines[0];
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["target"], "log");
    assert_eq!(line["message"], "two\nlines");
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
    assert_eq!(line["request_id"], "r-1");
    assert_eq!(line["peer"], "10.0.0.1");
    assert_eq!(line["table"], "inner");
    assert_eq!(line["rows"], 1);
    assert_eq!(line["bytes"], json!(12));
    assert_eq!(line["ok"], json!(true));
    assert_eq!(lines[1]["error"], "can't commit: disk full");
    assert_eq!(lines[1]["request_id"], "r-1");
}

#[test]
fn a_field_can_not_replace_the_head_of_a_line() {
    let text = logged(Format::Json, false, |_| {
        info!(level = "fake", target = "fake", "real")
    });
    let line = &objects(&text)[0];
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["message"], "real");
    assert_eq!(text.matches("\"level\"").count(), 1, "{text}");
}

/// S4-27.
#[test]
fn the_filter_changes_while_the_process_runs() {
    let text = logged(Format::Json, false, |handle| {
        debug!("hidden");
        handle.set_filter("debug").unwrap();
        assert_eq!(handle.filter(), "debug");
        debug!("shown");
        handle.set_filter("verbose").unwrap_err();
        debug!("still shown");
        handle.set_filter("error").unwrap();
        info!("hidden again");
    });
    let messages: Vec<_> = objects(&text)
        .iter()
        .map(|line| line["message"].clone())
        .collect();
    assert_eq!(messages, ["shown", "still shown"]);
}

#[test]
fn auto_is_pretty_on_a_terminal_and_json_elsewhere() {
    let write = |_: &FilterHandle| info!(rows = 3, "flushed");
    assert_eq!(objects(&logged(Format::Auto, false, write))[0]["rows"], 3);
    let pretty = logged(Format::Auto, true, write);
    assert!(
        pretty.contains("flushed") && !pretty.starts_with('{'),
        "{pretty}"
    );
    assert!(pretty.contains('\u{1b}'), "colours on a terminal: {pretty}");
    let plain = logged(Format::Pretty, false, write);
    assert!(!plain.contains('\u{1b}'), "no colours in a file: {plain}");
}

#[test]
fn a_filter_that_can_not_be_understood_is_refused() {
    assert_eq!(
        check_filter("info,x=loud").unwrap_err().category(),
        "filter"
    );
    for silent in ["verbose", "", "info,", "info,flightcluster_wal"] {
        assert_eq!(
            check_filter(silent).unwrap_err().category(),
            "unknown_level",
            "{silent}"
        );
    }
    for fine in [
        "info,flightcluster_wal=debug",
        "WARN",
        "off",
        "info,[request]=trace",
        "info,[a{b=2}]=trace",
    ] {
        check_filter(fine).unwrap();
    }
    assert_eq!(
        "xml".parse::<Format>().unwrap_err().category(),
        "unknown_format"
    );
}
