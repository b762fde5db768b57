//! Uploads in parts whose completion is durable.

use std::path::PathBuf;

use async_trait::async_trait;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::Syncer;

/// An upload of `LocalFileSystem` with a sync at its end.
#[derive(Debug)]
pub(super) struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    path: PathBuf,
    syncer: Syncer,
}

impl DurableUpload {
    pub(super) fn new(upload: Box<dyn MultipartUpload>, path: PathBuf, syncer: Syncer) -> Self {
        Self {
            upload,
            path,
            syncer,
        }
    }
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        self.syncer.file(self.path.clone()).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
