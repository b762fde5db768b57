//! The committed page equals the declarations. `UPDATE_EXPECT=1` rewrites it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use flightcluster_telemetry::metrics::reference_page;

#[test]
fn the_metrics_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, reference_page()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == reference_page(),
        "docs/reference/metrics.md is stale: run with UPDATE_EXPECT=1"
    );
}
