//! What only the remote store can get wrong: traversal, cut-off bodies, memory, lost answers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use flightcluster_config::{ObjectStoreConfig, ObjectStoreKind, StorageConfig};
use flightcluster_objectstore::{
    DurableLocal, Error as OpenError, RemoteEndpoint, RemoteStore, open, place, router,
};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const MIB: usize = 1024 * 1024;

/// Serves until the test's runtime ends.
async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

fn remote(address: SocketAddr) -> RemoteStore {
    remote_within(address, Duration::from_secs(10))
}

fn remote_within(address: SocketAddr, timeout: Duration) -> RemoteStore {
    let url = format!("http://{address}/");
    RemoteStore::new(RemoteEndpoint {
        url,
        tls: None,
        timeout,
    })
    .unwrap()
}

/// Sends one HTTP/1.1 request exactly as written and returns the whole answer.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Every file below a directory.
fn files(directory: &FsPath) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn nothing_outside_the_store_can_be_named() {
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("secret"), "do not tell").unwrap();
    let store = DurableLocal::open(&directory.path().join("store")).unwrap();
    store
        .put(&Path::from("db/x"), "known".into())
        .await
        .unwrap();
    let address = serve(router(Arc::new(store))).await;

    let good = "GET /objects/v1/data/db/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(raw(address, good).await.ends_with("known"));
    for location in [
        "../secret",
        "db/../../secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "%2e%2e%2fsecret",
        "db/%2e%2e%2f%2e%2e%2fsecret",
        "db/..%2f..%2fsecret",
        "/secret",
        "%2fsecret",
        "%2fetc%2fpasswd",
        "./secret",
        "db//x",
        "db/x%00",
        "%ff",
        "",
    ] {
        for (method, body) in [("GET", ""), ("HEAD", ""), ("PUT", "evil"), ("DELETE", "")] {
            let request = format!(
                "{method} /objects/v1/data/{location} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            let answer = raw(address, &request).await;
            let refused = ["HTTP/1.1 400", "HTTP/1.1 404"];
            assert!(
                refused.iter().any(|line| answer.starts_with(line)),
                "{request}\n{answer}"
            );
            assert!(
                !answer.contains("do not tell") && !answer.contains("root:"),
                "{answer}"
            );
        }
    }
    for copy in [
        r#""from":"../secret","to":"stolen""#,
        r#""from":"db/x","to":"../../evil""#,
    ] {
        let body = format!(r#"{{{copy},"create":false,"rename":false}}"#);
        let request = format!(
            "POST /objects/v1/copy HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\
             \r\n\r\n{body}",
            body.len()
        );
        assert!(raw(address, &request).await.starts_with("HTTP/1.1 400"));
    }
    let list = "GET /objects/v1/list?prefix=.. HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(raw(address, list).await.starts_with("HTTP/1.1 400"));
    assert_eq!(files(directory.path()).len(), 2);
    assert_eq!(
        std::fs::read(directory.path().join("secret")).unwrap(),
        b"do not tell"
    );
}

#[tokio::test]
async fn a_body_that_is_cut_off_or_of_wrong_length_leaves_nothing() {
    let directory = TempDir::new().unwrap();
    let store = Arc::new(DurableLocal::open(directory.path()).unwrap());
    let address = serve(router(Arc::clone(&store) as _)).await;

    // Announced 9 bytes to HTTP, sent 4, closed.
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = "PUT /objects/v1/data/cut HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf";
    connection.write_all(request.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).await.unwrap();
    assert!(!String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 200"));

    for announced in [3, 5] {
        let request = format!(
            "PUT /objects/v1/data/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4\
             \r\nx-flightcluster-length: {announced}\r\n\r\nfour"
        );
        let answer = raw(address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }

    // Several parts have reached the store's disk when the sender gives up.
    let store_client = remote(address);
    let mut upload = store_client
        .put_multipart(&Path::from("db/x"))
        .await
        .unwrap();
    for _ in 0..5 {
        upload.put_part(vec![1; 8 * MIB].into()).await.unwrap();
    }
    upload.abort().await.unwrap();
    upload.put_part("late".into()).await.unwrap_err();
    upload.complete().await.unwrap_err();
    // The sender does not wait for the receiver to tidy up.
    let tidy = async {
        while !files(directory.path()).is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), tidy)
        .await
        .unwrap();
}

/// Hands calls to a store in memory and counts or holds up what passes.
#[derive(Debug)]
struct Gate {
    inner: InMemory,
    /// One permit lets one part pass.
    parts: Arc<Semaphore>,
    /// Bytes of parts that have been taken.
    taken: Arc<AtomicU64>,
    /// Size of an endless-looking object, made while it is read.
    made_size: u64,
    /// Bytes of it that have been made.
    made: Arc<AtomicU64>,
    /// Whether it ends with an error in the middle.
    breaks: bool,
}

impl Gate {
    fn new() -> Self {
        Self {
            inner: InMemory::new(),
            parts: Arc::new(Semaphore::new(0)),
            taken: Arc::default(),
            made_size: 0,
            made: Arc::default(),
            breaks: false,
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

#[derive(Debug)]
struct GatedUpload {
    inner: Box<dyn MultipartUpload>,
    parts: Arc<Semaphore>,
    taken: Arc<AtomicU64>,
}

#[async_trait]
impl MultipartUpload for GatedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (parts, taken) = (Arc::clone(&self.parts), Arc::clone(&self.taken));
        let length = data.content_length() as u64;
        let part = self.inner.put_part(data);
        async move {
            parts.acquire().await.unwrap().forget();
            taken.fetch_add(length, Ordering::Relaxed);
            part.await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, to: &Path, data: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(to, data, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(GatedUpload {
            inner: self.inner.put_multipart_opts(location, opts).await?,
            parts: Arc::clone(&self.parts),
            taken: Arc::clone(&self.taken),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let mut result = self.inner.get_opts(location, options).await?;
        if self.made_size > 0 {
            let (made, breaks) = (Arc::clone(&self.made), self.breaks);
            let pieces = self.made_size / MIB as u64;
            let content = stream::iter(0..pieces).map(move |piece| {
                if breaks && piece == pieces / 2 {
                    let source = "the disk broke".into();
                    return Err(Error::Generic {
                        store: "Gate",
                        source,
                    });
                }
                made.fetch_add(MIB as u64, Ordering::Relaxed);
                Ok(Bytes::from(vec![7; MIB]))
            });
            result.meta.size = self.made_size;
            result.range = 0..self.made_size;
            result.payload = GetResultPayload::Stream(content.boxed());
        }
        Ok(result)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let objects = self.inner.list(prefix);
        if !self.breaks {
            return objects;
        }
        let error = Error::Generic {
            store: "Gate",
            source: "the directory broke".into(),
        };
        objects.chain(stream::iter([Err(error)])).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_upload_waits_for_the_store_instead_of_filling_memory() {
    const PARTS: usize = 40;
    let gate = Gate::new();
    let (permits, taken) = (Arc::clone(&gate.parts), Arc::clone(&gate.taken));
    let store = remote(serve(router(Arc::new(gate))).await);
    let location = Path::from("large");
    let mut upload = store.put_multipart(&location).await.unwrap();
    let part = Bytes::from(vec![7; 8 * MIB]);

    // The store takes nothing: after what fits on the way, sending stalls.
    let mut sent = 0;
    let stalled = loop {
        assert!(
            sent < PARTS / 2,
            "{sent} parts of 8 MiB were sent, the store took none"
        );
        let mut going = upload.put_part(part.clone().into());
        match tokio::time::timeout(Duration::from_millis(500), &mut going).await {
            Ok(result) => result.unwrap(),
            Err(_) => break going,
        }
        sent += 1;
    };
    assert_eq!(taken.load(Ordering::Relaxed), 0);

    permits.add_permits(10 * PARTS);
    stalled.await.unwrap();
    for _ in sent + 1..PARTS {
        upload.put_part(part.clone().into()).await.unwrap();
    }
    upload.complete().await.unwrap();
    assert_eq!(
        store.head(&location).await.unwrap().size,
        (PARTS * 8 * MIB) as u64
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_read_makes_no_more_than_is_wanted() {
    let gate = Gate {
        made_size: 1024 * MIB as u64,
        ..Gate::new()
    };
    gate.inner
        .put(&Path::from("large"), "x".into())
        .await
        .unwrap();
    let made = Arc::clone(&gate.made);
    let store = remote(serve(router(Arc::new(gate))).await);
    let got = store.get(&Path::from("large")).await.unwrap();
    assert_eq!(got.meta.size, 1024 * MIB as u64);
    let mut content = got.into_stream();
    assert!(!content.next().await.unwrap().unwrap().is_empty());
    // Gives the sender time to run ahead if it could.
    let ahead = async {
        while made.load(Ordering::Relaxed) < 100 * MIB as u64 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_millis(500), ahead)
        .await
        .unwrap_err();
}

#[tokio::test]
async fn content_and_lists_that_break_off_are_errors() {
    let gate = Gate {
        made_size: 16 * MIB as u64,
        breaks: true,
        ..Gate::new()
    };
    gate.inner
        .put(&Path::from("large"), "x".into())
        .await
        .unwrap();
    let store = remote(serve(router(Arc::new(gate))).await);
    let got = store.get(&Path::from("large")).await.unwrap();
    got.bytes().await.unwrap_err();
    let listed: Result<Vec<_>> = store.list(None).try_collect().await;
    let text = listed.unwrap_err().to_string();
    assert!(text.contains("the directory broke"), "{text}");
}

#[tokio::test]
async fn content_of_another_length_than_announced_is_an_error() {
    let info = r#"{"size":10,"modified":[0,0],"range":{"start":0,"end":10}}"#;
    for sent in ["nine byte", "eleven byte"] {
        let pieces = move || stream::iter([Ok::<_, std::io::Error>(Bytes::from(sent))]);
        // A stream has no length that HTTP could check.
        let answer = move || async move {
            (
                [("x-flightcluster-object", info)],
                axum::body::Body::from_stream(pieces()),
            )
        };
        let store = remote(serve(Router::new().fallback(answer)).await);
        let got = store.get(&Path::from("x")).await.unwrap();
        assert_eq!(got.meta.size, 10);
        let error = got.bytes().await.unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
    }
}

#[tokio::test]
async fn a_list_without_its_end_is_an_error() {
    let app = Router::new().fallback(|| async { "" });
    let store = remote(serve(app).await);
    let listed: Result<Vec<_>> = store.list(None).try_collect().await;
    let text = listed.unwrap_err().to_string();
    assert!(text.contains("cut off"), "{text}");
}

/// A read is repeated. A write is not: the first attempt may still be at work, and would replace
/// what the second one had made durable.
#[tokio::test]
async fn reads_survive_a_lost_connection_and_writes_tell_it() {
    for is_write in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = remote(listener.local_addr().unwrap());
        let inner = Arc::new(InMemory::new());
        let location = Path::from("x");
        inner.put(&location, "kept".into()).await.unwrap();
        let app = router(Arc::clone(&inner) as _);
        let server = tokio::spawn(async move {
            drop(listener.accept().await.unwrap());
            axum::serve(listener, app).await.unwrap();
        });
        if is_write {
            store.put(&location, "new".into()).await.unwrap_err();
        }
        let found = store.get(&location).await.unwrap().bytes().await.unwrap();
        assert_eq!(found, "kept");
        server.abort();
    }
}

#[tokio::test]
async fn nobody_listening_is_an_error_that_names_the_place() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = remote(address).get(&Path::from("x")).await.unwrap_err();
    assert!(
        error.to_string().contains(&format!("http://{address}")),
        "{error}"
    );
    let mut upload = remote(address)
        .put_multipart(&Path::from("x"))
        .await
        .unwrap();
    upload.put_part("data".into()).await.unwrap_err();
    upload.complete().await.unwrap_err();
}

#[tokio::test]
async fn a_server_that_never_answers_ends_after_the_timeout() {
    let hang = || async { std::future::pending::<()>().await };
    let address = serve(Router::new().fallback(hang)).await;
    let store = remote_within(address, Duration::from_millis(100));
    let error = store.head(&Path::from("x")).await.unwrap_err();
    assert!(error.to_string().contains("100ms"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_something_else_is_recognised() {
    let address = serve(Router::new()).await;
    let error = remote(address).get(&Path::from("x")).await.unwrap_err();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.contains("is it a catalog process?"), "{text}");
}

#[tokio::test]
async fn a_store_is_opened_and_named_as_configured() {
    let directory = TempDir::new().unwrap();
    let storage = |kind, path: Option<&str>| StorageConfig {
        data_dir: directory.path().join("data"),
        object_store: ObjectStoreConfig {
            kind,
            path: path.map(|path| directory.path().join(path)),
            ..ObjectStoreConfig::default()
        },
    };
    let endpoint = |url: &str| RemoteEndpoint {
        url: url.to_owned(),
        tls: None,
        timeout: Duration::from_secs(1),
    };

    let local = storage(ObjectStoreKind::Local, None);
    open(&local, None)
        .unwrap()
        .put(&Path::from("x"), "1".into())
        .await
        .unwrap();
    assert!(directory.path().join("data/objects/x").is_file());
    assert!(place(&local, None).ends_with("data/objects"));

    let embedded = storage(ObjectStoreKind::Embedded, Some("elsewhere"));
    open(&embedded, None)
        .unwrap()
        .put(&Path::from("x"), "1".into())
        .await
        .unwrap();
    assert!(directory.path().join("elsewhere/x").is_file());
    let catalog = endpoint("http://127.0.0.1:9");
    assert!(place(&embedded, Some(&catalog)).contains("http://127.0.0.1:9"));
    let remote = open(&embedded, Some(catalog)).unwrap();
    assert_eq!(remote.to_string(), "RemoteStore(http://127.0.0.1:9)");
    for url in ["catalog:17002", "https://catalog:17002", "nonsense"] {
        let error = open(&embedded, Some(endpoint(url))).unwrap_err();
        assert!(
            matches!(&error, OpenError::Remote { url: named, .. } if named == url),
            "{error}"
        );
    }

    let memory = open(&storage(ObjectStoreKind::Memory, None), None).unwrap();
    assert_eq!(memory.to_string(), "InMemory");

    std::fs::write(directory.path().join("file"), "in the way").unwrap();
    let error = open(&storage(ObjectStoreKind::Local, Some("file/below")), None).unwrap_err();
    assert!(error.to_string().contains("file/below"), "{error}");
    assert_eq!(error.category(), "directory");
}
