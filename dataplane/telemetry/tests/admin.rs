//! The admin pages over real HTTP.
#![allow(clippy::unwrap_used, reason = "tests")]

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode, header};
use flightcluster_telemetry::admin::router;
use flightcluster_telemetry::health::{Health, Liveness};
use flightcluster_telemetry::metrics::{BuildLabels, MethodLabels, Metrics, ReasonLabels};
use serde_json::{Value, json};
use tower::ServiceExt;

fn metrics() -> Metrics {
    Metrics::new(BuildLabels {
        version: "1.2.3",
        revision: "abc",
    })
}

async fn get(health: &Health, metrics: &Metrics, path: &str) -> (StatusCode, String, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = router(health.clone(), metrics.exposition())
        .oneshot(request)
        .await
        .unwrap();
    let status = response.status();
    let kind = response.headers()[header::CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, kind, String::from_utf8(body.to_vec()).unwrap())
}

async fn probe(health: &Health, path: &str) -> (StatusCode, Value) {
    let (status, kind, body) = get(health, &metrics(), path).await;
    assert_eq!(kind, "application/json");
    (status, serde_json::from_str(&body).unwrap())
}

/// S4-36, S4-37, S4-38.
#[tokio::test]
async fn probes_answer_200_or_503_and_name_the_component() {
    let health = Health::new();
    let wal = health.component("wal", Liveness::Critical);
    let catalog = health.component("catalog", Liveness::Ignored);
    wal.set_ok();
    let failing = json!([{"name": "catalog", "state": "starting"}]);
    for path in ["/startup", "/ready"] {
        let (status, body) = probe(&health, path).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert_eq!(
            body,
            json!({"ok": false, "draining": false, "failing": failing}),
            "{path}"
        );
    }
    assert_eq!(probe(&health, "/live").await.0, StatusCode::OK);

    catalog.set_ok();
    for path in ["/startup", "/ready", "/live"] {
        let (status, body) = probe(&health, path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert_eq!(
            body,
            json!({"ok": true, "draining": false, "failing": []}),
            "{path}"
        );
    }

    wal.set_not_ok("disk error");
    let (status, body) = probe(&health, "/live").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        body["failing"],
        json!([{"name": "wal", "state": "not_ok", "reason": "disk error"}])
    );

    wal.set_ok();
    health.set_draining();
    let (status, body) = probe(&health, "/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(body, json!({"ok": false, "draining": true, "failing": []}));
    assert_eq!(probe(&health, "/live").await.0, StatusCode::OK);
}

#[tokio::test]
async fn metrics_are_served_as_open_metrics_text() {
    let metrics = metrics();
    metrics.rpc.start("DoGet").finish("Ok");
    let running = metrics.rpc.start("DoPut");
    metrics.rpc.add_received("DoPut", 7);
    metrics
        .connections
        .auth_failures
        .get_or_create(&ReasonLabels {
            reason: "missing_token",
        })
        .inc();
    metrics
        .catalog
        .calls
        .get_or_create(&MethodLabels { method: "snapshot" })
        .observe(0.02);
    metrics
        .process
        .memory
        .add("jemalloc_resident", || Some(4711));
    metrics.process.memory.add("unknown", || None);

    let (status, kind, body) = get(&Health::new(), &metrics, "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    for line in [
        "flightcluster_build_info{version=\"1.2.3\",revision=\"abc\"} 1",
        "flightcluster_rpc_started_total{method=\"DoGet\"} 1",
        "flightcluster_rpc_finished_total{method=\"DoGet\",code=\"Ok\"} 1",
        "flightcluster_rpc_duration_seconds_count{method=\"DoGet\",code=\"Ok\"} 1",
        "flightcluster_rpc_open{method=\"DoGet\"} 0",
        "flightcluster_rpc_open{method=\"DoPut\"} 1",
        "flightcluster_rpc_received_bytes_total{method=\"DoPut\"} 7",
        "flightcluster_auth_failures_total{reason=\"missing_token\"} 1",
        "flightcluster_catalog_call_duration_seconds_bucket{le=\"0.025\",method=\"snapshot\"} 1",
        "flightcluster_memory_bytes{kind=\"jemalloc_resident\"} 4711",
        "flightcluster_panics_total 0",
    ] {
        assert!(
            body.lines().any(|known| known == line),
            "{line} is missing in\n{body}"
        );
    }
    assert!(
        body.contains("flightcluster_memory_bytes{kind=\"rss\"} "),
        "{body}"
    );
    assert!(body.contains("flightcluster_memory_limit_bytes "), "{body}");
    assert!(!body.contains("kind=\"unknown\""), "{body}");
    assert!(body.ends_with("# EOF\n"), "{body}");

    drop(running);
    let body = metrics.exposition().encode();
    let cancelled = "flightcluster_rpc_finished_total{method=\"DoPut\",code=\"Cancelled\"} 1";
    assert!(body.contains(cancelled), "{body}");
    assert!(
        body.contains("flightcluster_rpc_open{method=\"DoPut\"} 0"),
        "{body}"
    );
}
