//! Calls: what is counted, what ends them, and who is let in.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
use flightcluster_telemetry::metrics::{BuildLabels, MethodCodeLabels, Metrics};
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use tower::service_fn;

use super::*;

const DO_GET: &str = "/arrow.flight.protocol.FlightService/DoGet";

fn metrics() -> Metrics {
    Metrics::new(BuildLabels {
        version: "0",
        revision: "0",
    })
}

fn layer(metrics: &Metrics, idle_timeout: Duration) -> CallLayer {
    CallLayer {
        metrics: metrics.rpc.clone(),
        idle_timeout,
        admission: None,
        receive: ReceiveBudget::new(64 << 20, 64 << 20),
    }
}

fn finished(metrics: &Metrics, code: &'static str) -> u64 {
    let labels = MethodCodeLabels {
        method: "DoGet",
        code,
    };
    metrics.rpc.finished.get_or_create(&labels).get()
}

fn grpc(body: Body) -> Response<Body> {
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body)
        .unwrap()
}

fn request(headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().uri(DO_GET);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::empty()).unwrap()
}

/// An endless body: a frame at once, and again each time it is asked.
fn endless() -> Body {
    let frames = futures::stream::repeat_with(|| {
        Ok::<_, axum::Error>(Frame::data(Bytes::from_static(b"data")))
    });
    Body::new(StreamBody::new(frames))
}

async fn last_trailers(body: Body) -> HeaderMap {
    let mut body = body;
    while let Some(frame) = body.frame().await {
        if let Ok(trailers) = frame.unwrap().into_trailers() {
            return trailers;
        }
    }
    panic!("no trailers");
}

/// S1-2: the client's request id is taken over when it is usable, else one is made.
#[tokio::test]
async fn the_response_names_the_request() {
    let metrics = metrics();
    let mut service = layer(&metrics, Duration::from_secs(60))
        .layer(service_fn(async |_| Ok(grpc(Body::empty()))));
    let given = service
        .call(request(&[("x-request-id", "abc-1")]))
        .await
        .unwrap();
    assert_eq!(given.headers()["x-request-id"], "abc-1");
    let made = service
        .call(request(&[("x-request-id", "a b")]))
        .await
        .unwrap();
    assert_eq!(made.headers()["x-request-id"].len(), 32);
}

/// S0-21: a stranger is answered although the body never comes.
#[tokio::test]
async fn a_call_is_refused_before_its_body_is_read() {
    let metrics = metrics();
    let layer = CallLayer {
        admission: Some(Arc::new(|headers: &HeaderMap| {
            if headers.contains_key("authorization") {
                return Ok(());
            }
            Err(Failure::new(ErrorCode::Unauthenticated, "who is it?"))
        })),
        ..layer(&metrics, Duration::from_secs(60))
    };
    let mut service = layer.layer(service_fn(async |request: Request<Body>| {
        request.into_body().collect().await.unwrap();
        Ok(grpc(Body::empty()))
    }));
    let never = futures::stream::pending::<Result<Bytes, axum::Error>>();
    let mut stranger = request(&[]);
    *stranger.body_mut() = Body::from_stream(never);
    let refused = service.call(stranger).await.unwrap();
    assert_eq!(refused.headers()["x-fc-code"], "UNAUTHENTICATED");
    assert_eq!(finished(&metrics, "Unauthenticated"), 1);

    let known = request(&[("authorization", "Bearer x")]);
    let answered = service.call(known).await.unwrap();
    assert!(!answered.headers().contains_key("x-fc-code"));
}

/// S0-20, S1-16: a panic ends the call with code 13 and nothing else.
#[tokio::test]
async fn a_panic_becomes_an_internal_status() {
    let metrics = metrics();
    let mut service =
        layer(&metrics, Duration::from_secs(60)).layer(service_fn(async |_: Request<Body>| {
            if true {
                panic!("boom");
            }
            Ok(grpc(Body::empty()))
        }));
    let response = service.call(request(&[])).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "13");
    assert_eq!(finished(&metrics, "Internal"), 1);
}

/// S1-16
#[tokio::test]
async fn a_panic_in_the_middle_of_a_stream_becomes_trailers() {
    let metrics = metrics();
    let mut service =
        layer(&metrics, Duration::from_secs(60)).layer(service_fn(async |_: Request<Body>| {
            let frames = futures::stream::iter(0..3).map(|n| {
                assert!(n < 2, "boom");
                Ok::<_, axum::Error>(Frame::data(Bytes::from_static(b"data")))
            });
            Ok(grpc(Body::new(StreamBody::new(frames))))
        }));
    let response = service.call(request(&[])).await.unwrap();
    let trailers = last_trailers(response.into_body()).await;
    assert_eq!(trailers["grpc-status"], "13");
    assert_eq!(trailers["x-fc-code"], "INTERNAL");
}

/// S2-7: the client's time limit ends the whole stream, not just its beginning.
#[tokio::test]
async fn the_time_limit_ends_a_stream() {
    let metrics = metrics();
    let mut service =
        layer(&metrics, Duration::from_secs(60)).layer(service_fn(async |_: Request<Body>| {
            Ok(grpc(Body::new(StreamBody::new(
                futures::stream::pending::<Result<Frame<Bytes>, axum::Error>>(),
            ))))
        }));
    let response = service
        .call(request(&[("grpc-timeout", "200m")]))
        .await
        .unwrap();
    let trailers = last_trailers(response.into_body()).await;
    assert_eq!(trailers["grpc-status"], "4");
    assert_eq!(finished(&metrics, "DeadlineExceeded"), 1);
}

/// S2-34: what an unread response holds is freed, and the client learns why.
#[tokio::test]
async fn a_client_that_stops_reading_is_ended() {
    let metrics = metrics();
    let mut service = layer(&metrics, Duration::from_millis(20))
        .layer(service_fn(async |_: Request<Body>| Ok(grpc(endless()))));
    let response = service.call(request(&[])).await.unwrap();
    let mut body = response.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    tokio::time::sleep(Duration::from_millis(200)).await;
    let trailers = last_trailers(body).await;
    assert_eq!(trailers["x-fc-code"], "STALLED");
}

/// S2-9: a client that leaves is counted as cancelled.
#[tokio::test]
async fn a_dropped_response_counts_as_cancelled() {
    let metrics = metrics();
    let mut service = layer(&metrics, Duration::from_secs(60))
        .layer(service_fn(async |_: Request<Body>| Ok(grpc(endless()))));
    let response = service.call(request(&[])).await.unwrap();
    drop(response);
    assert_eq!(finished(&metrics, "Cancelled"), 1);
}
