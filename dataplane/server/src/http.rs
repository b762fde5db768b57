//! The small HTTP API on the public port, for clients that look for a server's version or a sign of
//! life over HTTP/1.1 before they speak Flight.

use axum::Router;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `/ping` tells the product and its version, `/health` that the port answers.
pub(crate) fn router() -> Router {
    Router::new()
        .route("/ping", get(ping).post(ping))
        .route("/health", get(health))
}

async fn ping() -> Response {
    let body = Json(json!({ "product_name": "FlightCluster", "version": VERSION }));
    // InfluxDB clients read the version from this header.
    (
        [
            ("x-influxdb-version", VERSION),
            ("x-influxdb-build", "FlightCluster"),
        ],
        body,
    )
        .into_response()
}

async fn health() -> &'static str {
    "OK"
}
