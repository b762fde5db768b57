//! The object store as one process of a history reaches it: through calls that get lost.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

use parking_lot::Mutex;

use crate::broken::Broken;
use crate::life::{Life, Port};

/// An object store behind a network, and who calls it.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) inner: Arc<InMemory>,
    pub(crate) life: Arc<Life>,
    pub(crate) broken: Option<Broken>,
}

/// A [`Line`] that can be exchanged for that of the next history.
#[derive(Debug, Default)]
pub(crate) struct LossyStore(Mutex<Option<Line>>);

impl LossyStore {
    pub(crate) fn new(line: Line) -> Self {
        Self(Mutex::new(Some(line)))
    }

    pub(crate) fn set(&self, line: Line) {
        *self.0.lock() = Some(line);
    }

    fn line(&self) -> Line {
        self.0.lock().clone().unwrap()
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "simulation",
        source: "on purpose".into(),
    }
}

impl fmt::Display for LossyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("store behind a network")
    }
}

#[async_trait]
impl ObjectStore for LossyStore {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let line = self.line();
        if line.broken == Some(Broken::FileNotDurable) && line.life.chance(4) == 0 {
            let (e_tag, version) = (None, None);
            return Ok(PutResult { e_tag, version });
        }
        let call = line.inner.put_opts(location, payload, options);
        line.life.pass(Port::Put, lost, call).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let line = self.line();
        let call = line.inner.put_multipart_opts(location, options);
        line.life.pass(Port::Put, lost, call).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let line = self.line();
        let call = line.inner.get_opts(location, options);
        line.life.pass(Port::Get, lost, call).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let line = self.line();
        let delete = move |location: Result<Path>| {
            let line = line.clone();
            async move {
                let location = location?;
                let call = line.inner.delete(&location);
                line.life.pass(Port::Delete, lost, call).await?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let line = self.line();
        line.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let line = self.line();
        line.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let line = self.line();
        line.inner.copy_opts(from, to, options).await
    }
}
