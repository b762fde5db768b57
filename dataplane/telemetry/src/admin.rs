//! The admin port's pages: `/startup`, `/ready`, `/live` and `/metrics`.
//!
//! Plain HTTP without authentication, so it only ever answers questions. A probe answers 200 or 503
//! with a JSON [`Report`] that names what fails.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use crate::health::{Health, Report};
use crate::metrics::Exposition;

/// Path of the startup probe.
pub const STARTUP_PATH: &str = "/startup";
/// Path of the readiness probe.
pub const READY_PATH: &str = "/ready";
/// Path of the liveness probe.
pub const LIVE_PATH: &str = "/live";
/// Path of the metrics.
pub const METRICS_PATH: &str = "/metrics";

/// The pages of the admin port.
pub fn router(health: Health, exposition: Exposition) -> Router {
    let probes = Router::new()
        .route(
            STARTUP_PATH,
            get(async |State(health): State<Health>| probe(health.startup())),
        )
        .route(
            READY_PATH,
            get(async |State(health): State<Health>| probe(health.ready())),
        )
        .route(
            LIVE_PATH,
            get(async |State(health): State<Health>| probe(health.live())),
        )
        .with_state(health);
    let metrics = Router::new()
        .route(METRICS_PATH, get(metrics))
        .with_state(exposition);
    probes.merge(metrics)
}

fn probe(report: Report) -> Response {
    let status = if report.ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}

async fn metrics(State(exposition): State<Exposition>) -> Response {
    (
        [(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)],
        exposition.encode(),
    )
        .into_response()
}
