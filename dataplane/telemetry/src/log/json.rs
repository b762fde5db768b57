//! One JSON object per line, flat: the fields of the event and of all spans around it side by side.
//!
//! The formatter that comes with `tracing-subscriber` nests span fields below a list of spans, which
//! log stores can't filter by. Where names clash the inner one wins: event over span, inner span
//! over outer span, and the four head fields over everything.

use std::error::Error;
use std::fmt;
use std::io::Write as _;

use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

const HEAD: [&str; 4] = ["timestamp", "level", "target", "message"];

/// Writes every event as a line of JSON.
pub(super) struct JsonLayer {
    writer: BoxMakeWriter,
}

impl JsonLayer {
    pub(super) fn new(writer: BoxMakeWriter) -> Self {
        Self { writer }
    }
}

impl<S> Layer<S> for JsonLayer
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.extend(outer);
            }
        }
        let mut own = Fields::default();
        event.record(&mut own);
        // Events of the `log` crate carry their real target as a field.
        let target = match own.take("log.target") {
            Some(Value::String(target)) => target,
            _ => event.metadata().target().to_owned(),
        };
        own.0.retain(|(name, _)| !name.starts_with("log."));
        let message = own.take("message").unwrap_or_default();
        fields.extend(&own);

        let mut timestamp = String::new();
        // A clock that can't be formatted leaves the field empty; the line is still worth having.
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        let level = event.metadata().level();
        let head = [
            timestamp.into(),
            level.as_str().into(),
            target.into(),
            message,
        ];
        if let Some(line) = line(head, &fields) {
            // Nowhere is left to report that standard error can't be written to.
            let _ = self
                .writer
                .make_writer_for(event.metadata())
                .write_all(&line);
        }
    }
}

fn line(head: [Value; 4], fields: &Fields) -> Option<Vec<u8>> {
    let mut line = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut map = serializer.serialize_map(None).ok()?;
    for (name, value) in HEAD.into_iter().zip(&head) {
        map.serialize_entry(name, value).ok()?;
    }
    for (name, value) in fields.0.iter().filter(|(name, _)| !HEAD.contains(name)) {
        map.serialize_entry(name, value).ok()?;
    }
    map.end().ok()?;
    line.push(b'\n');
    Some(line)
}

/// Fields in the order they were recorded, each name once.
#[derive(Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn put(&mut self, name: &'static str, value: Value) {
        let name = name.strip_prefix("r#").unwrap_or(name);
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    fn extend(&mut self, other: &Self) {
        for (name, value) in &other.0 {
            self.put(name, value.clone());
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let index = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(index).1)
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field.name(), Value::String(error_chain(value)));
    }
}

/// An error and its causes in one line, leaving out a cause whose text is there already.
fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
