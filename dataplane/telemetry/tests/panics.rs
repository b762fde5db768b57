//! The panic hook. Alone in its process, because the hook belongs to the process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use flightcluster_telemetry::log::log_panics;
use flightcluster_telemetry::metrics::{BuildLabels, Metrics};

#[test]
fn a_panic_is_counted() {
    let metrics = Metrics::new(BuildLabels {
        version: "1",
        revision: "a",
    });
    log_panics(metrics.process.panics.clone());
    std::thread::spawn(|| panic!("on purpose"))
        .join()
        .unwrap_err();
    assert!(
        metrics
            .exposition()
            .encode()
            .contains("flightcluster_panics_total 1\n")
    );
}
