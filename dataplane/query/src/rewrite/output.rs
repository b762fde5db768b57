//! The files a rewrite writes: encoded as its caller says, sent to the object store in parts while
//! they grow.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow_schema::SchemaRef;
use arrow_select::filter::filter_record_batch;
use bytes::Bytes;
use datafusion::physical_expr::PhysicalExpr;
use flightcluster_catalog::{NewFile, SequenceNumber, Table};
use flightcluster_keys::{FORMAT, FORMAT_KEY, TABLE_KEY, time_column, timestamps, widen_range};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use tracing::debug;

use super::{Inner, RewriteError, RewriteRequest};
use crate::times::rows_from;

/// Size of a part: object stores take parts from 5 MiB, and want them all of one size.
const PART_BYTES: usize = 8 << 20;

/// The outputs of one rewrite.
pub(super) struct Outputs<'a> {
    inner: &'a Inner,
    table: &'a Table,
    keep_from: Option<i64>,
    remove: Option<&'a Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    time_column: Option<usize>,
    /// Each time in one output only.
    apart: bool,
    sequences: (SequenceNumber, SequenceNumber),
    open: Option<Output>,
    /// The open output is full: it gets the rows of this time, and no others.
    closing: Option<i64>,
    done: Vec<NewFile>,
}

/// A file that is being written.
struct Output {
    path: Path,
    writer: ArrowWriter<Vec<u8>>,
    upload: Option<Box<dyn MultipartUpload>>,
    sent: u64,
    rows: u64,
    /// `None` once a row has no time.
    time_range: Option<(i64, i64)>,
}

impl<'a> Outputs<'a> {
    /// With `apart` no two outputs have a time in common; rows must come sorted by time then.
    pub(super) fn new(
        inner: &'a Inner,
        request: &'a RewriteRequest,
        schema: SchemaRef,
        apart: bool,
    ) -> Self {
        let files = request.files.iter().map(|file| &file.file);
        let first = files.clone().map(|file| file.first_sequence).min();
        let last = files.map(|file| file.last_sequence).max();
        Self {
            inner,
            table: &request.table,
            keep_from: request.keep_from_nanos,
            remove: request.remove.as_ref(),
            time_column: time_column(&schema),
            schema,
            apart,
            sequences: (first.unwrap_or_default(), last.unwrap_or_default()),
            open: None,
            closing: None,
            done: Vec::new(),
        }
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Writes the rows of a batch that are to stay; returns how many are not.
    pub(super) async fn write(&mut self, batch: RecordBatch) -> Result<u64, RewriteError> {
        let rows = batch.num_rows();
        let batch = self.young(self.fitting(batch)?)?;
        let batch = self.wanted(batch)?;
        let removed = (rows - batch.num_rows()) as u64;
        if batch.num_rows() > 0 {
            self.write_rows(&batch).await?;
        }
        Ok(removed)
    }

    async fn write_rows(&mut self, batch: &RecordBatch) -> Result<(), RewriteError> {
        let Some(last) = self.closing else {
            return self.append(batch).await;
        };
        let same = self.rows_at(batch, last);
        if same > 0 {
            self.append(&batch.slice(0, same)).await?;
        }
        if same == batch.num_rows() {
            return Ok(());
        }
        self.closing = None;
        self.finish().await?;
        self.append(&batch.slice(same, batch.num_rows() - same))
            .await
    }

    /// How many rows at the beginning of a batch have this time, in units of the column.
    fn rows_at(&self, batch: &RecordBatch, time: i64) -> usize {
        let times = self.time_column.map(|at| batch.column(at));
        let values = times.and_then(|times| timestamps(times));
        values.map_or(0, |(values, _)| {
            values.iter().take_while(|value| **value == time).count()
        })
    }

    async fn append(&mut self, batch: &RecordBatch) -> Result<(), RewriteError> {
        if self.open.is_none() {
            self.open = Some(self.begin()?);
        }
        let (time_column, row_group_bytes) = (self.time_column, self.inner.row_group_bytes);
        let output = self.open.as_mut().expect("was begun above");
        let written = output.add(batch, time_column, row_group_bytes);
        let full = output.size() >= self.inner.target_bytes;
        written.map_err(|source| encode_error(self.table, source))?;
        output.send(self.inner.store.as_ref(), PART_BYTES).await?;
        let last = self.time_column.filter(|_| self.apart);
        let last = last.and_then(|at| Some(*timestamps(batch.column(at))?.0.last()?));
        match (full, last) {
            (true, Some(last)) => self.closing = Some(last),
            (true, None) => self.finish().await?,
            (false, _) => {}
        }
        Ok(())
    }

    fn begin(&self) -> Result<Output, RewriteError> {
        // `<database>/<table id>/<uuid>.parquet`, as flushes name their files.
        let name = format!("{}.parquet", uuid::Uuid::now_v7());
        let path = Path::from_iter([
            self.table.name.database.as_str(),
            &self.table.id.to_string(),
            &name,
        ]);
        let (first, last) = self.sequences;
        // As flushes write them; which ingester they came from is not known of all.
        let metadata = [
            (FORMAT_KEY, FORMAT.to_string()),
            (TABLE_KEY, self.table.id.to_string()),
            (
                "flightcluster.schema_version",
                self.table.schema_version.to_string(),
            ),
            ("flightcluster.first_sequence", first.to_string()),
            ("flightcluster.last_sequence", last.to_string()),
        ];
        let pairs = metadata.map(|(key, value)| KeyValue::new(key.to_owned(), value));
        let properties = (self.inner.properties)(
            self.table,
            &self.schema,
            pairs.to_vec(),
            self.inner.max_row_group_rows,
        );
        let writer = properties.and_then(|properties| {
            ArrowWriter::try_new(Vec::new(), Arc::clone(&self.schema), Some(properties))
        });
        Ok(Output {
            path,
            writer: writer.map_err(|source| encode_error(self.table, source))?,
            upload: None,
            sent: 0,
            rows: 0,
            time_range: self.time_column.map(|_| (i64::MAX, i64::MIN)),
        })
    }

    /// Completes the file that is being written, if any.
    pub(super) async fn finish(&mut self) -> Result<(), RewriteError> {
        let Some(output) = &mut self.open else {
            return Ok(());
        };
        // Whatever fails here, the file stays in `open`, to be removed.
        let finished = output.writer.finish();
        finished.map_err(|source| encode_error(self.table, source))?;
        output.complete(self.inner.store.as_ref()).await?;
        let Some(output) = self.open.take() else {
            return Ok(());
        };
        self.done.push(NewFile {
            table: self.table.id,
            path: output.path.to_string(),
            size_bytes: output.sent,
            rows: output.rows,
            schema_version: self.table.schema_version,
            first_sequence: self.sequences.0,
            last_sequence: self.sequences.1,
            time_range_nanos: output.time_range.filter(|(low, high)| low <= high),
            sorted: self.apart,
        });
        Ok(())
    }

    /// The completed files.
    pub(super) fn into_files(self) -> Vec<NewFile> {
        self.done
    }

    /// Takes everything back, as far as the store lets it.
    pub(super) async fn remove(self) {
        let mut paths: Vec<Path> = Vec::new();
        if let Some(output) = self.open {
            if let Some(mut upload) = output.upload
                && let Err(error) = upload.abort().await
            {
                debug!(path = %output.path, %error, "can't abort an upload");
            }
            paths.push(output.path);
        }
        let done = self.done.iter().map(|file| Path::parse(&file.path));
        paths.extend(done.filter_map(Result::ok));
        for path in paths {
            match self.inner.store.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => debug!(%path, %error, "can't remove a file of a failed rewrite"),
            }
        }
    }

    /// The batch in exactly the schema of the table; the reader may have its own metadata.
    fn fitting(&self, batch: RecordBatch) -> Result<RecordBatch, RewriteError> {
        if batch.schema_ref() == &self.schema {
            return Ok(batch);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        let columns = batch.columns().to_vec();
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|source| self.fit_error(source))
    }

    /// The rows that are not before `keep_from`.
    fn young(&self, batch: RecordBatch) -> Result<RecordBatch, RewriteError> {
        let (Some(from), Some(at)) = (self.keep_from, self.time_column) else {
            return Ok(batch);
        };
        rows_from(batch, at, from).map_err(|source| self.fit_error(source))
    }

    /// The rows that nobody asked to be removed: where the condition is null, they stay.
    fn wanted(&self, batch: RecordBatch) -> Result<RecordBatch, RewriteError> {
        let Some(condition) = self.remove else {
            return Ok(batch);
        };
        let found = condition
            .evaluate(&batch)
            .and_then(|found| found.into_array(batch.num_rows()))
            .map_err(|source| RewriteError::Read {
                table: self.table.name.to_string(),
                source: Box::new(source),
            })?;
        let found = found.as_boolean().iter();
        let keep: BooleanArray = found.map(|found| Some(found != Some(true))).collect();
        self.only(batch, &keep)
    }

    fn only(&self, batch: RecordBatch, keep: &BooleanArray) -> Result<RecordBatch, RewriteError> {
        if keep.true_count() == batch.num_rows() {
            return Ok(batch);
        }
        filter_record_batch(&batch, keep).map_err(|source| self.fit_error(source))
    }

    fn fit_error(&self, source: arrow_schema::ArrowError) -> RewriteError {
        RewriteError::Fit {
            table: self.table.name.to_string(),
            source,
        }
    }
}

impl Output {
    fn add(
        &mut self,
        batch: &RecordBatch,
        time_column: Option<usize>,
        row_group_bytes: usize,
    ) -> Result<(), ParquetError> {
        self.writer.write(batch)?;
        self.rows += batch.num_rows() as u64;
        self.time_range = time_column.and_then(|at| {
            let range = self.time_range?;
            widen_range(range, batch.column(at))
        });
        if self.writer.in_progress_size() >= row_group_bytes {
            self.writer.flush()?;
        }
        Ok(())
    }

    /// Bytes encoded so far, nearly.
    fn size(&self) -> u64 {
        let waiting = self.writer.inner().len() + self.writer.in_progress_size();
        self.sent + waiting as u64
    }

    /// Sends what is encoded in parts, while there is at least one part.
    async fn send(&mut self, store: &dyn ObjectStore, part: usize) -> Result<(), RewriteError> {
        while self.writer.inner().len() >= part {
            let encoded = self.writer.inner_mut();
            let rest = encoded.split_off(part);
            let bytes = std::mem::replace(encoded, rest);
            self.put(store, bytes)
                .await
                .map_err(self::store_error(&self.path))?;
        }
        Ok(())
    }

    async fn put(
        &mut self,
        store: &dyn ObjectStore,
        bytes: Vec<u8>,
    ) -> Result<(), object_store::Error> {
        let upload = match &mut self.upload {
            Some(upload) => upload,
            upload @ None => upload.insert(store.put_multipart(&self.path).await?),
        };
        let length = bytes.len() as u64;
        upload
            .put_part(PutPayload::from(Bytes::from(bytes)))
            .await?;
        self.sent += length;
        Ok(())
    }

    /// Sends the rest; the object is there when this returns.
    async fn complete(&mut self, store: &dyn ObjectStore) -> Result<(), RewriteError> {
        self.send(store, PART_BYTES).await?;
        let rest = std::mem::take(self.writer.inner_mut());
        let completed = async {
            if self.upload.is_none() {
                self.sent = rest.len() as u64;
                store
                    .put(&self.path, PutPayload::from(Bytes::from(rest)))
                    .await?;
                return Ok(());
            }
            if !rest.is_empty() {
                self.put(store, rest).await?;
            }
            match &mut self.upload {
                Some(upload) => upload.complete().await.map(drop),
                None => Ok(()),
            }
        };
        let completed: Result<(), object_store::Error> = completed.await;
        completed.map_err(self::store_error(&self.path))
    }
}

fn store_error(path: &Path) -> impl FnOnce(object_store::Error) -> RewriteError + use<> {
    let path = path.to_string();
    move |source| RewriteError::Store { path, source }
}

fn encode_error(table: &Table, source: ParquetError) -> RewriteError {
    RewriteError::Encode {
        table: table.name.to_string(),
        source,
    }
}
