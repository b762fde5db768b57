//! A panic is a log line and a count, like every other failure.

use prometheus_client::metrics::counter::Counter;

/// Makes every panic of this process an ERROR line with its place, and counts it.
///
/// Replaces the hook that prints to standard error, whose lines are no JSON. Catching the panic, or
/// ending the process, is left to whoever runs the task.
pub fn log_panics(panics: Counter) {
    std::panic::set_hook(Box::new(move |info| {
        panics.inc();
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let panic = info.payload_as_str().unwrap_or("a value that is no text");
        tracing::error!(panic, location, "a thread or task panicked");
    }));
}
