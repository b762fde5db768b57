//! Objects of another process over mutual TLS.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "../../catalog/tests/mutual_tls/mod.rs"]
mod mutual_tls;

use std::sync::Arc;
use std::time::Duration;

use flightcluster_config::ObjectStoreKind;
use flightcluster_objectstore::{RemoteEndpoint, RemoteStore, check, router};
use flightcluster_tls::client_config;
use mutual_tls::{Ca, Pod, serve};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

fn remote(url: &str, pod: &Pod) -> RemoteStore {
    let tls = Some(client_config(&pod.identity).unwrap());
    let timeout = Duration::from_secs(10);
    RemoteStore::new(RemoteEndpoint {
        url: url.to_owned(),
        tls,
        timeout,
    })
    .unwrap()
}

#[tokio::test]
async fn pods_with_certificates_of_the_same_ca_read_and_write_before_and_after_a_rotation() {
    let ca = Ca::new();
    let (server, client) = (Pod::new(&ca), Pod::new(&ca));
    let (url, task) = serve(&server, router(Arc::new(InMemory::new()))).await;
    let store = remote(&url, &client);
    let data = vec![7; 3_000_000];
    let location = Path::from("db/x");
    let mut upload = store.put_multipart(&location).await.unwrap();
    upload.put_part(data.clone().into()).await.unwrap();
    upload.complete().await.unwrap();
    assert!(store.get(&location).await.unwrap().bytes().await.unwrap() == data);

    let new = Ca::new();
    server.rotate(&new);
    client.rotate(&new);
    check(&remote(&url, &client), ObjectStoreKind::Embedded, &url)
        .await
        .unwrap();
    task.abort();
}

#[tokio::test]
async fn a_client_of_another_ca_is_told_what_to_verify() {
    let server = Pod::new(&Ca::new());
    let inner = Arc::new(InMemory::new());
    let (url, task) = serve(&server, router(Arc::clone(&inner) as _)).await;
    let stranger = remote(&url, &Pod::new(&Ca::new()));
    let error = check(&stranger, ObjectStoreKind::Embedded, &url)
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&url) && text.contains("same CA"), "{text}");
    assert_eq!(inner.list_with_delimiter(None).await.unwrap().objects, []);
    task.abort();
}
