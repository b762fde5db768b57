//! The object store as one process of a history reaches it: through calls that get lost.

use std::fmt;
use std::sync::Arc;

use arrow_array::{RecordBatch, UInt64Array};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use async_trait::async_trait;
use bytes::Bytes;
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
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::arrow::arrow_writer::ArrowWriterOptions;

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
        let payload = match line.broken {
            Some(Broken::FilesUnsorted) => upside_down(payload),
            _ => payload,
        };
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

/// The same file, as long as it was, with its last row first.
fn upside_down(payload: PutPayload) -> PutPayload {
    let size = payload.content_length();
    let bytes = Bytes::from(payload.clone());
    let Ok(reader) = ParquetRecordBatchReaderBuilder::try_new(bytes) else {
        return payload;
    };
    let schema = Arc::clone(reader.schema());
    let rows: Vec<RecordBatch> = reader.build().unwrap().map(|rows| rows.unwrap()).collect();
    let rows = concat_batches(&schema, &rows).unwrap();
    let places = UInt64Array::from_iter_values((0..rows.num_rows() as u64).rev());
    let rows = take_record_batch(&rows, &places).unwrap();
    // Without what a file says of itself there is room to fill.
    let options = ArrowWriterOptions::new().with_skip_arrow_metadata(true);
    let mut turned = Vec::new();
    let mut writer = ArrowWriter::try_new_with_options(&mut turned, schema, options).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
    let footer = u32::from_le_bytes(turned[turned.len() - 8..][..4].try_into().unwrap());
    let data = turned.len() - 8 - footer as usize;
    assert!(turned.len() <= size, "{} of {size} bytes", turned.len());
    let filling = vec![0; size - turned.len()];
    turned.splice(data..data, filling);
    PutPayload::from(turned)
}
