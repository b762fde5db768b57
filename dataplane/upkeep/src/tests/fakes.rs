//! A rewriter of text files, an object store and a catalog that fail when told, and counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use flightcluster_catalog::{File, NewFile, Table};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{Observer, RewriteFailure, Rewriter, Rewritten};

/// Joins the lines of files.
#[derive(Debug)]
pub(super) struct Lines {
    store: Arc<FaultyStore>,
    next: AtomicU64,
    /// Wait here before the result is given, when there is something to wait for.
    pub(super) held: Mutex<Option<Arc<Notify>>>,
    pub(super) waits: Notify,
    pub(super) broken: AtomicBool,
    /// The table has no time column.
    pub(super) timeless: AtomicBool,
    pub(super) kept_from: Mutex<Option<i64>>,
}

impl Lines {
    pub(super) fn new(store: Arc<FaultyStore>) -> Self {
        Self {
            store,
            next: AtomicU64::new(0),
            held: Mutex::default(),
            waits: Notify::new(),
            broken: AtomicBool::new(false),
            timeless: AtomicBool::new(false),
            kept_from: Mutex::default(),
        }
    }
}

#[async_trait]
impl Rewriter for Lines {
    async fn rewrite(
        &self,
        table: &Table,
        files: &[File],
        keep_from_nanos: Option<i64>,
        stop: &CancellationToken,
    ) -> Result<Rewritten, RewriteFailure> {
        *self.kept_from.lock() = keep_from_nanos;
        if self.broken.load(Ordering::Relaxed) {
            return Err("broken on purpose".into());
        }
        let mut text = Vec::new();
        for file in files {
            let path = Path::parse(&file.file.path)?;
            text.extend_from_slice(&self.store.get(&path).await?.bytes().await?);
        }
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let path = format!("default/{}/compacted-{n}.parquet", table.id);
        let output = NewFile {
            table: table.id,
            path: path.clone(),
            size_bytes: text.len() as u64,
            rows: files.iter().map(|file| file.file.rows).sum(),
            schema_version: table.schema_version,
            first_sequence: files[0].file.first_sequence,
            last_sequence: files[0].file.last_sequence,
            time_range_nanos: None,
            sorted: false,
        };
        let path = Path::parse(path)?;
        self.store.put(&path, text.into()).await?;
        let held = self.held.lock().clone();
        if let Some(held) = held {
            self.waits.notify_one();
            if stop.run_until_cancelled(held.notified()).await.is_none() {
                self.store.delete(&path).await?;
                return Err("stopped".into());
            }
        }
        Ok(Rewritten {
            outputs: vec![output],
            removed_rows: 0,
        })
    }

    fn has_times(&self, _: &Table) -> bool {
        !self.timeless.load(Ordering::Relaxed)
    }
}

/// A store whose deletions fail for some paths.
#[derive(Debug)]
pub(super) struct FaultyStore {
    inner: Arc<InMemory>,
    /// Deleting what has this in its name fails.
    pub(super) stuck: Mutex<Option<String>>,
}

impl std::fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a store for tests")
    }
}

impl FaultyStore {
    pub(super) fn new(inner: Arc<InMemory>) -> Self {
        Self {
            inner,
            stuck: Mutex::default(),
        }
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(
        &self,
        location: &Path,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        let stuck = self.stuck.lock().clone();
        let inner = Arc::clone(&self.inner);
        let deleted = locations.then(move |location| {
            let (stuck, inner) = (stuck.clone(), Arc::clone(&inner));
            async move {
                let location = location?;
                if stuck.is_some_and(|stuck| location.as_ref().contains(&stuck)) {
                    return Err(object_store::Error::Generic {
                        store: "test",
                        source: "on purpose".into(),
                    });
                }
                inner.delete(&location).await?;
                Ok(location)
            }
        });
        deleted.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: CopyOptions,
    ) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// What was reported.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) lost: AtomicU64,
    pub(super) deleted: AtomicU64,
    pub(super) delete_failures: AtomicU64,
    pub(super) orphans: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) input_bytes: AtomicU64,
    pub(super) expired_rows: AtomicU64,
    pub(super) failed: Mutex<Vec<&'static str>>,
}

impl Observer for Counts {
    fn compacted(&self, _: Duration, inputs: (u64, u64), _: (u64, u64), _: u64) {
        self.input_bytes.fetch_add(inputs.1, Ordering::Relaxed);
    }

    fn expired(&self, _files: u64, rows: u64) {
        self.expired_rows.fetch_add(rows, Ordering::Relaxed);
    }

    fn compaction_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn garbage_deleted(&self, deleted: u64, failed: u64) {
        self.deleted.fetch_add(deleted, Ordering::Relaxed);
        self.delete_failures.fetch_add(failed, Ordering::Relaxed);
    }

    fn garbage_waiting(&self, objects: u64) {
        self.waiting.store(objects, Ordering::Relaxed);
    }

    fn orphans(&self, objects: u64, _bytes: u64) {
        self.orphans.store(objects, Ordering::Relaxed);
    }

    fn failed(&self, job: &'static str) {
        self.failed.lock().push(job);
    }
}
