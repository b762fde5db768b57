//! The catalog of another process over mutual TLS.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod mutual_tls;

use std::sync::Arc;
use std::time::Duration;

use flightcluster_catalog::remote::{RemoteCatalog, RemoteOptions, router};
use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_catalog::{Catalog as _, Error};
use flightcluster_tls::{ca_client_config, client_config};
use mutual_tls::{Ca, Pod, serve};
use tempfile::TempDir;

const TIMEOUT: Duration = Duration::from_secs(10);

fn remote(url: &str, pod: &Pod) -> RemoteCatalog {
    let tls = Some(client_config(&pod.identity).unwrap());
    RemoteCatalog::new(
        url,
        RemoteOptions {
            tls,
            timeout: TIMEOUT,
        },
    )
    .unwrap()
}

async fn catalog(directory: &TempDir) -> Arc<SqlCatalog> {
    Arc::new(
        SqlCatalog::open_sqlite(&directory.path().join("catalog.sqlite"))
            .await
            .unwrap(),
    )
}

#[tokio::test]
async fn pods_with_certificates_of_the_same_ca_reach_the_catalog() {
    let directory = TempDir::new().unwrap();
    let ca = Ca::new();
    let (server, client) = (Pod::new(&ca), Pod::new(&ca));
    let (url, task) = serve(&server, router(catalog(&directory).await)).await;
    let catalog = remote(&url, &client);
    catalog.create_database("d", false).await.unwrap();
    assert_eq!(catalog.list_databases().await.unwrap().len(), 2);
    task.abort();
}

#[tokio::test]
async fn a_client_without_a_certificate_and_one_of_another_ca_are_unavailable() {
    let directory = TempDir::new().unwrap();
    let ca = Ca::new();
    let server = Pod::new(&ca);
    let (url, task) = serve(&server, router(catalog(&directory).await)).await;

    let stranger = remote(&url, &Pod::new(&Ca::new()));
    let refused = stranger.ping().await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );

    let tls = Some(ca_client_config(&server.identity.files().ca.clone().unwrap()).unwrap());
    let anonymous = RemoteCatalog::new(
        &url,
        RemoteOptions {
            tls,
            timeout: TIMEOUT,
        },
    )
    .unwrap();
    let refused = anonymous.ping().await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    task.abort();
}

#[tokio::test]
async fn a_client_goes_on_after_both_sides_moved_to_another_ca() {
    let directory = TempDir::new().unwrap();
    let (old, new) = (Ca::new(), Ca::new());
    let (server, client) = (Pod::new(&old), Pod::new(&old));
    let app = router(catalog(&directory).await);
    let (url, task) = serve(&server, app.clone()).await;
    let catalog = remote(&url, &client);
    catalog.ping().await.unwrap();
    server.rotate(&new);
    client.rotate(&new);
    // The open connection goes on; one made now uses the new certificates.
    catalog.ping().await.unwrap();
    let fresh = remote(&url, &client);
    fresh.ping().await.unwrap();
    let late = remote(&url, &Pod::new(&old));
    assert!(matches!(late.ping().await, Err(Error::Unavailable { .. })));
    task.abort();
}
