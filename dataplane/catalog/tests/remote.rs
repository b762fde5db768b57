//! The catalog of another process over loopback: the contract, lost answers, peers of other releases.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod causes;
mod contract;

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use contract::{Subject, commit, content, create, file, register};
use flightcluster_catalog::remote::{RemoteCatalog, RemoteOptions, router};
use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{Catalog as _, Error};
use http::StatusCode;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

struct Fixture {
    catalog: Subject,
    place: String,
    server: JoinHandle<()>,
    _directory: TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(app: Router) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (
        address,
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }),
    )
}

fn remote(place: &str, timeout: Duration) -> RemoteCatalog {
    RemoteCatalog::new(place, RemoteOptions { tls: None, timeout }).unwrap()
}

async fn open() -> Fixture {
    open_with(|router| router).await
}

/// Opens with something between the network and the catalog.
async fn open_with(wrap: impl FnOnce(Router) -> Router) -> Fixture {
    let directory = TempDir::new().unwrap();
    let inner = SqlCatalog::open_sqlite(&directory.path().join("catalog.sqlite"))
        .await
        .unwrap();
    let (address, server) = serve(wrap(router(Arc::new(inner)))).await;
    let place = format!("http://{address}");
    let catalog = Arc::new(remote(&place, Duration::from_secs(10)));
    Fixture {
        catalog,
        place,
        server,
        _directory: directory,
    }
}

mod remote_catalog {
    crate::contract::contract!(crate::open);
}

/// Lets calls through but loses the first `lost` answers of `method`.
fn losing(method: &'static str, lost: usize) -> impl FnOnce(Router) -> Router {
    let calls = Arc::new(AtomicUsize::new(0));
    move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let calls = Arc::clone(&calls);
            async move {
                let counted = request.uri().path().ends_with(method);
                let response = next.run(request).await;
                if counted && calls.fetch_add(1, Ordering::Relaxed) < lost {
                    return StatusCode::BAD_GATEWAY.into_response();
                }
                response
            }
        }))
    }
}

#[tokio::test]
async fn a_flush_whose_answer_got_lost_is_repeated_and_added_once() {
    let fixture = open_with(losing("commit_flush", 1)).await;
    let table = create(&fixture.catalog, "t").await;
    let ingester = register(&fixture.catalog, "ingester-0").await;
    commit(&fixture.catalog, &ingester, file(table.id, "x", 1, 2)).await;
    assert_eq!(content(&fixture.catalog, &table).await.0, ["x"]);
}

/// A short time for calls that fail in the end.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_read_is_repeated_until_it_is_answered_or_its_time_is_over() {
    let fixture = open_with(losing("list_databases", 3)).await;
    assert_eq!(fixture.catalog.list_databases().await.unwrap().len(), 1);
    let fixture = open_with(losing("list_databases", usize::MAX)).await;
    let error = remote(&fixture.place, SHORT).list_databases().await;
    let error = error.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { place, .. } if *place == fixture.place));
    let text = causes::chain(&error);
    assert!(text.contains("answer") && text.contains("502"), "{text}");
}

/// Nothing of a call is sent without a connection, so every call waits for one.
#[tokio::test]
async fn what_is_not_repeatable_is_sent_when_there_is_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("https://{}", listener.local_addr().unwrap());
    let timeout = Duration::from_secs(60);
    let tls = Some(Arc::new(tls_without_roots()));
    let catalog = RemoteCatalog::new(&place, RemoteOptions { tls, timeout }).unwrap();
    // It ends connections before they are secured.
    let third = async {
        for _ in 0..3 {
            drop(listener.accept().await.unwrap());
        }
    };
    tokio::select! {
        given_up = catalog.create_database("d", false) => panic!("{given_up:?}"),
        () = third => {}
    }
}

#[tokio::test]
async fn a_call_that_is_not_safe_to_repeat_is_not_repeated() {
    let fixture = open_with(losing("create_database", 1)).await;
    let lost = fixture.catalog.create_database("d", false).await;
    assert!(matches!(lost, Err(Error::Unavailable { .. })), "{lost:?}");
    // It had taken effect, and a repeat by the caller says so.
    let again = fixture.catalog.create_database("d", false).await;
    assert!(matches!(again, Err(Error::DatabaseExists(_))), "{again:?}");
}

/// The ingester may have begun another life since, whose rows nobody has accepted to lose.
#[tokio::test]
async fn a_retirement_whose_answer_got_lost_is_not_repeated() {
    let fixture = open_with(losing("retire_ingester", 1)).await;
    register(&fixture.catalog, "ingester-0").await;
    let lost = fixture.catalog.retire_ingester("ingester-0", true).await;
    assert!(matches!(lost, Err(Error::Unavailable { .. })), "{lost:?}");
    let back = register(&fixture.catalog, "ingester-0").await;
    let snapshot = fixture.catalog.snapshot(&[]).await.unwrap();
    assert_eq!(snapshot.ingesters, [back], "it had taken effect, once");
}

#[tokio::test]
async fn nobody_listening_is_unavailable_and_names_the_place() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = remote(&place, SHORT).ping().await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { place: named, .. } if *named == place));
    let text = causes::chain(&error);
    assert!(text.contains(&place) && text.contains("refused"), "{text}");
    // Who waits for a catalog is told at once.
    let patient = remote(&place, Duration::from_secs(24 * 3600));
    let error = patient.reach().await.unwrap_err();
    assert!(causes::chain(&error).contains("refused"));
}

#[tokio::test]
async fn a_server_that_never_answers_is_unavailable_after_the_timeout() {
    let hang = || async { std::future::pending::<Response>().await };
    let (address, server) = serve(Router::new().fallback(hang)).await;
    let start = Instant::now();
    let catalog = remote(&format!("http://{address}"), Duration::from_millis(300));
    let error = catalog.ping().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }));
    assert!(start.elapsed() < Duration::from_secs(3));
    server.abort();
}

#[tokio::test]
async fn the_catalog_is_found_again_after_it_was_restarted() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("catalog.sqlite");
    let inner = Arc::new(SqlCatalog::open_sqlite(&path).await.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let app = router(Arc::clone(&inner) as _);
    let serving = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(async move { serving.await.unwrap() });
    let catalog = remote(&format!("http://{address}"), Duration::from_secs(10));
    catalog.create_database("d", false).await.unwrap();
    drop(stop);
    server.await.unwrap();
    inner.close().await;

    let reopened = Arc::new(SqlCatalog::open_sqlite(&path).await.unwrap());
    let listener = TcpListener::bind(address).await.unwrap();
    let server =
        tokio::spawn(async move { axum::serve(listener, router(reopened)).await.unwrap() });
    assert_eq!(catalog.list_databases().await.unwrap().len(), 2);
    server.abort();
}

#[tokio::test]
async fn a_catalog_that_is_closing_is_unavailable() {
    let directory = TempDir::new().unwrap();
    let inner = SqlCatalog::open_sqlite(&directory.path().join("catalog.sqlite"))
        .await
        .unwrap();
    let (address, server) = serve(router(Arc::new(inner.clone()))).await;
    let catalog = remote(&format!("http://{address}"), SHORT);
    inner.close().await;
    let refused = catalog.list_databases().await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    server.abort();
}

#[tokio::test]
async fn a_call_that_an_older_release_does_not_know_is_a_clear_error() {
    let knows_ping = Router::new().route("/catalog/v1/ping", post(|| async { "null" }));
    let (address, server) = serve(knows_ping).await;
    let catalog = remote(&format!("http://{address}"), Duration::from_secs(10));
    let error = catalog.readmit_ingester("ingester-0").await.unwrap_err();
    let cause = error.source().unwrap().to_string();
    assert!(
        cause.contains("does not know the call readmit_ingester")
            && cause.contains("upgrade it and repeat"),
        "{cause}"
    );
    server.abort();
}

#[tokio::test]
async fn a_server_of_another_release_is_a_clear_error() {
    let other = |_: Request| async { ([("x-flightcluster-catalog-protocol", "7")], "{}") };
    let (address, server) = serve(Router::new().fallback(other)).await;
    let error = remote(&format!("http://{address}"), Duration::from_secs(10))
        .ping()
        .await;
    let error = error.unwrap_err();
    assert!(matches!(error, Error::Store { .. }));
    let cause = error.source().unwrap().to_string();
    assert!(
        cause.contains("protocol 7") && cause.contains("same release"),
        "{cause}"
    );
    server.abort();
}

#[tokio::test]
async fn a_caller_of_another_release_is_a_clear_error() {
    let fixture = open().await;
    let client = reqwest_client();
    let url = format!("{}/catalog/v1/ping", fixture.place);
    let response = client
        .post(url)
        .header("x-flightcluster-catalog-protocol", "7")
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(response.headers()["x-flightcluster-catalog-protocol"], "2");
    let body = response.text().await.unwrap();
    assert!(
        body.contains(r#""code":"protocol""#) && body.contains("protocol 7"),
        "{body}"
    );
}

#[tokio::test]
async fn a_request_that_is_no_call_is_refused_and_named() {
    let fixture = open().await;
    let send = |method: &str, body: &'static str| {
        reqwest_client()
            .post(format!("{}/catalog/v1/{method}", fixture.place))
            .header("x-flightcluster-catalog-protocol", "2")
            .body(body)
            .send()
    };
    let response = send("drop_table", "{\"name\":7}").await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(response.text().await.unwrap().contains("drop_table"));
    // A caller of an older release does not say what it saw.
    let older = r#"{"name":{"database":"default","schema":"public","table":"t"},"if_exists":true}"#;
    let response = send("drop_table", older).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let older = r#"{"request":{"of":{"database":"default"},"changes":{}}}"#;
    let response = send("set_options", older).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        send("no_such_method", "{}").await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
}

fn tls_without_roots() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}

fn reqwest_client() -> reqwest::Client {
    reqwest::Client::builder()
        .use_preconfigured_tls(tls_without_roots())
        .no_proxy()
        .build()
        .unwrap()
}

#[test]
fn urls_that_cannot_work_are_refused_with_the_setting() {
    for (url, word) in [
        ("catalog:17002", "https://"),
        ("not a url", "not a URL"),
        ("https://catalog:17002", "internal.tls"),
    ] {
        let options = RemoteOptions {
            tls: None,
            timeout: Duration::from_secs(1),
        };
        let error = RemoteCatalog::new(url, options).unwrap_err();
        let cause = error.source().unwrap().to_string();
        assert!(
            cause.contains("catalog.url") && cause.contains(word),
            "{cause}"
        );
    }
}
