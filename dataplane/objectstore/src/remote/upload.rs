//! An upload in parts as one streamed `PUT`.
//!
//! # Guarantees
//! The parts become the body in the order of the calls of `put_part`. The object appears when
//! `complete` returns `Ok`, whole or not at all: when the upload is aborted or dropped, the body ends
//! with an error and the serving side throws away what it has.
//!
//! # Memory
//! The future of a part is done when the part has gone to the network. A caller that awaits some of
//! them before it goes on holds only those in memory.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use futures::{FutureExt as _, Stream, stream};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, PutPayload, PutResult, Result, UploadPart};
use reqwest::{Body, Method};
use tokio::sync::{mpsc, oneshot};

use super::protocol::{STORE, Stored};
use super::transport::Transport;

/// What goes into the body next.
#[derive(Debug)]
enum Item {
    /// A part, and whom to tell when it has gone.
    Part(PutPayload, oneshot::Sender<()>),
    /// The body is complete.
    Complete,
}

/// How the request ended. Shared: parts and completion may all want to tell the error.
type Outcome = Shared<BoxFuture<'static, Result<Stored, SharedError>>>;

/// The error of the request, as each of its parts reports it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the upload failed")]
struct SharedError(#[source] Arc<Error>);

/// Why an upload can't go on although the request did not fail.
#[derive(Debug, thiserror::Error)]
enum UploadError {
    #[error("the upload was completed or aborted before")]
    Ended,
    #[error("the task of the upload ended early")]
    Task(#[from] tokio::task::JoinError),
    #[error("{sent} bytes were sent and {stored} stored")]
    Size { sent: u64, stored: u64 },
}

impl From<UploadError> for Error {
    fn from(error: UploadError) -> Self {
        Self::Generic {
            store: STORE,
            source: Box::new(error),
        }
    }
}

/// A `PUT` whose body is still being written.
#[derive(Debug)]
pub(super) struct RemoteUpload {
    /// None after completion or abort.
    items: Option<mpsc::UnboundedSender<Item>>,
    outcome: Outcome,
    sent_bytes: u64,
}

impl RemoteUpload {
    pub(super) fn start(transport: Transport, location: &Path) -> Self {
        let (items, queue) = mpsc::unbounded_channel();
        let path = location.to_string();
        let request = transport
            .object(Method::PUT, location)
            .body(Body::wrap_stream(body(queue)));
        let task = tokio::spawn(async move {
            let _permit = transport.upload_permit().await?;
            let response = transport.send_streaming(&path, request).await?;
            let stored = response.json::<Stored>().await;
            stored.map_err(|error| Error::from(transport.unreadable(error)))
        });
        let outcome = async move {
            let result = task
                .await
                .map_err(|error| Error::from(UploadError::Task(error)));
            result
                .flatten()
                .map_err(|error| SharedError(Arc::new(error)))
        };
        Self {
            items: Some(items),
            outcome: outcome.boxed().shared(),
            sent_bytes: 0,
        }
    }
}

/// The queue as a body: ends well only after [`Item::Complete`].
fn body(queue: mpsc::UnboundedReceiver<Item>) -> impl Stream<Item = io::Result<Bytes>> {
    let state = (queue, VecDeque::<Bytes>::new(), None::<oneshot::Sender<()>>);
    stream::try_unfold(state, |(mut queue, mut chunks, mut sent)| async move {
        loop {
            if let Some(chunk) = chunks.pop_front() {
                return Ok(Some((chunk, (queue, chunks, sent))));
            }
            if let Some(sent) = sent.take() {
                // Nobody may be waiting: then the part is simply sent.
                let _ = sent.send(());
            }
            match queue.recv().await {
                Some(Item::Part(payload, done)) => {
                    chunks.extend(payload);
                    sent = Some(done);
                }
                Some(Item::Complete) => return Ok(None),
                None => return Err(io::Error::other("the upload was given up")),
            }
        }
    })
}

async fn failure(outcome: Outcome) -> Error {
    match outcome.await {
        Err(error) => Error::Generic {
            store: STORE,
            source: Box::new(error),
        },
        Ok(_) => UploadError::Ended.into(),
    }
}

#[async_trait]
impl MultipartUpload for RemoteUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let Some(items) = &self.items else {
            return async { Err(UploadError::Ended.into()) }.boxed();
        };
        self.sent_bytes += data.content_length() as u64;
        let (done, sent) = oneshot::channel();
        // A closed queue drops `done`, which the part reports as the failure of the request.
        let _ = items.send(Item::Part(data, done));
        let outcome = self.outcome.clone();
        async move {
            match sent.await {
                Ok(()) => Ok(()),
                Err(_) => Err(failure(outcome).await),
            }
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let items = self.items.take().ok_or(UploadError::Ended)?;
        let _ = items.send(Item::Complete);
        let stored = match self.outcome.clone().await {
            Ok(stored) => stored,
            Err(error) => {
                return Err(Error::Generic {
                    store: STORE,
                    source: Box::new(error),
                });
            }
        };
        if stored.size != self.sent_bytes {
            return Err(UploadError::Size {
                sent: self.sent_bytes,
                stored: stored.size,
            }
            .into());
        }
        Ok(PutResult {
            e_tag: stored.e_tag,
            version: stored.version,
        })
    }

    async fn abort(&mut self) -> Result<()> {
        drop(self.items.take().ok_or(UploadError::Ended)?);
        // Ends because the body does, with that error.
        let _ = self.outcome.clone().await;
        Ok(())
    }
}
