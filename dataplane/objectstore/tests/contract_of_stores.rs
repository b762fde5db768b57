//! The contract of [`contract`], for stores in this process and over loopback.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod contract;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use contract::Subject;
use flightcluster_objectstore::{DurableLocal, RemoteEndpoint, RemoteStore, router};
use object_store::memory::InMemory;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

struct Fixture {
    store: Subject,
    server: Option<JoinHandle<()>>,
    _directory: Option<TempDir>,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// The reference: what these tests take for granted is what `object_store` does itself.
async fn in_memory() -> Fixture {
    Fixture {
        store: Arc::new(InMemory::new()),
        server: None,
        _directory: None,
    }
}

async fn durable_local() -> Fixture {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(DurableLocal::open(directory.path()).unwrap());
    Fixture {
        store,
        server: None,
        _directory: Some(directory),
    }
}

async fn serve(store: Subject) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = router(store);
    (
        address,
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }),
    )
}

async fn over_loopback(mut inner: Fixture) -> Fixture {
    let (address, server) = serve(Arc::clone(&inner.store)).await;
    let url = format!("http://{address}");
    let endpoint = RemoteEndpoint {
        url,
        tls: None,
        timeout: Duration::from_secs(10),
    };
    inner.store = Arc::new(RemoteStore::new(endpoint).unwrap());
    inner.server = Some(server);
    inner
}

async fn remote_memory() -> Fixture {
    over_loopback(in_memory().await).await
}

async fn remote_local() -> Fixture {
    over_loopback(durable_local().await).await
}

mod memory {
    crate::contract::contract!(crate::in_memory);
}

mod local {
    crate::contract::contract!(crate::durable_local);
}

mod remote_to_memory {
    crate::contract::contract!(crate::remote_memory);
}

mod remote_to_local {
    crate::contract::contract!(crate::remote_local);
}
