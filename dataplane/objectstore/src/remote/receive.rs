//! Takes the body of a `PUT` into the store: whole or not at all.
//!
//! # Memory
//! One part per upload is held at a time, for a limited number of uploads at once; the others wait
//! with their bodies unread, which HTTP/2 turns into back-pressure on the sender.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::HeaderMap;
use http::header::IF_NONE_MATCH;
use object_store::path::Path;
use object_store::{
    MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutPayload, PutResult,
};
use tokio::sync::Semaphore;

use super::protocol::{Kind, LENGTH_HEADER, Refusal, Stored};

/// Size of the parts given to the store. S3 wants at least 5 MiB.
const PART_BYTES: u64 = 8 * 1024 * 1024;

/// Uploads under way at once; times the size of a part this bounds the memory.
const PARALLEL_UPLOADS: usize = 16;

/// Largest object. Parquet files are far below: this only stops a runaway sender.
const MAX_OBJECT_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// Largest object that must not replace another. Stores do that for single puts only, which are
/// held in memory.
const MAX_CREATE_BYTES: u64 = 64 * 1024 * 1024;

/// A sender that is silent for this long is gone, whatever its connection says.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

pub(super) type Chunks = BoxStream<'static, Result<Bytes, axum::Error>>;

/// What a `PUT` says about itself.
#[derive(Debug)]
pub(super) struct Upload {
    location: Path,
    mode: PutMode,
    length: Option<u64>,
}

impl Upload {
    pub(super) fn new(location: Path, headers: &HeaderMap) -> Result<Self, Refusal> {
        let mode = match headers.get(IF_NONE_MATCH) {
            None => PutMode::Overwrite,
            Some(any) if any == "*" => PutMode::Create,
            Some(_) => return Err(Refusal::invalid("only `*` can be given as If-None-Match")),
        };
        let length = match headers
            .get(LENGTH_HEADER)
            .map(|value| value.to_str().map(str::parse))
        {
            None => None,
            Some(Ok(Ok(length))) => Some(length),
            Some(_) => return Err(Refusal::invalid(format!("{LENGTH_HEADER} is not a number"))),
        };
        Ok(Self {
            location,
            mode,
            length,
        })
    }

    /// Refuses more than may come.
    fn check_size(&self, received: u64) -> Result<(), Refusal> {
        let limit = match self.mode {
            PutMode::Create => MAX_CREATE_BYTES,
            PutMode::Overwrite | PutMode::Update(_) => MAX_OBJECT_BYTES,
        };
        if received > self.length.unwrap_or(limit).min(limit) {
            return Err(Refusal::invalid(format!(
                "the object has more than the {} bytes it may have",
                self.length.unwrap_or(limit).min(limit)
            )));
        }
        Ok(())
    }

    /// Refuses less than was announced.
    fn check_end(&self, received: u64) -> Result<(), Refusal> {
        match self.length {
            Some(length) if received != length => Err(Refusal::invalid(format!(
                "{length} bytes were announced and {received} came"
            ))),
            _ => Ok(()),
        }
    }
}

/// Takes uploads into a store.
#[derive(Debug, Clone)]
pub(super) struct Receiver {
    store: Arc<dyn ObjectStore>,
    slots: Arc<Semaphore>,
}

impl Receiver {
    pub(super) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self {
            store,
            slots: Arc::new(Semaphore::new(PARALLEL_UPLOADS)),
        }
    }

    /// Stores the whole body, or nothing when it ends with an error.
    ///
    /// - Cancellation: dropped before the store has been told to complete, nothing is stored.
    pub(super) async fn receive(&self, upload: Upload, chunks: Chunks) -> Result<Stored, Refusal> {
        let _slot = self.slots.acquire().await.map_err(|_| Refusal {
            kind: Kind::Generic,
            message: "the object store is closed".to_owned(),
        })?;
        let mut body = Incoming {
            upload,
            chunks,
            received: 0,
        };
        let create = body.upload.mode == PutMode::Create;
        let wanted = if create { u64::MAX } else { PART_BYTES };
        let (first, ended) = body.part(wanted).await?;
        let result = if ended {
            self.store
                .put_opts(
                    &body.upload.location,
                    first,
                    body.upload.mode.clone().into(),
                )
                .await?
        } else {
            self.receive_parts(&mut body, first).await?
        };
        let PutResult { e_tag, version } = result;
        Ok(Stored {
            size: body.received,
            e_tag,
            version,
        })
    }

    async fn receive_parts(
        &self,
        body: &mut Incoming,
        first: PutPayload,
    ) -> Result<PutResult, Refusal> {
        let mut upload = self.store.put_multipart(&body.upload.location).await?;
        match forward(upload.as_mut(), body, first).await {
            Ok(()) => Ok(upload.complete().await?),
            Err(refusal) => {
                if let Err(error) = upload.abort().await {
                    let location = &body.upload.location;
                    tracing::warn!(%location, %error, "can't clean up an aborted upload");
                }
                Err(refusal)
            }
        }
    }
}

async fn forward(
    upload: &mut dyn MultipartUpload,
    body: &mut Incoming,
    first: PutPayload,
) -> Result<(), Refusal> {
    upload.put_part(first).await?;
    loop {
        let (part, ended) = body.part(PART_BYTES).await?;
        if part.content_length() > 0 {
            upload.put_part(part).await?;
        }
        if ended {
            return Ok(());
        }
    }
}

/// A body that is arriving.
struct Incoming {
    upload: Upload,
    chunks: Chunks,
    received: u64,
}

impl Incoming {
    /// Collects at least `wanted` bytes, or what is left; true when that was the end.
    async fn part(&mut self, wanted: u64) -> Result<(PutPayload, bool), Refusal> {
        let mut part = Vec::new();
        let mut size = 0;
        while size < wanted {
            let next = tokio::time::timeout(IDLE_LIMIT, self.chunks.next()).await;
            match next.map_err(|_| Refusal::invalid("the sender went silent"))? {
                Some(Ok(chunk)) => {
                    size += chunk.len() as u64;
                    self.received += chunk.len() as u64;
                    self.upload.check_size(self.received)?;
                    part.push(chunk);
                }
                Some(Err(error)) => {
                    return Err(Refusal::invalid(format!("the body was cut off: {error}")));
                }
                None => {
                    self.upload.check_end(self.received)?;
                    return Ok((part.into_iter().collect(), true));
                }
            }
        }
        Ok((part.into_iter().collect(), false))
    }
}
