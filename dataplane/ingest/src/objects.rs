//! The objects of flushes.

use flightcluster_catalog::{NewFile, Table};
use object_store::{MultipartUpload as _, ObjectStoreExt as _, PutPayload};
use tracing::debug;

use crate::error::Error;
use crate::ingest::Core;
use crate::parquet_file::{self, EncodedFile};

impl Core {
    /// Stores a file under a name that no other has.
    pub(crate) async fn store_file(
        &self,
        table: &Table,
        file: EncodedFile,
    ) -> Result<NewFile, Error> {
        let path = parquet_file::path(&table.name.database, table.id);
        let size_bytes = file.pieces.iter().map(|piece| piece.len() as u64).sum();
        let stored = if file.pieces.len() <= 1 {
            let whole = PutPayload::from_iter(file.pieces);
            self.store.put(&path, whole).await.map(drop)
        } else {
            self.put_parts(&path, file.pieces).await
        };
        stored.map_err(|source| Error::Store {
            path: path.to_string(),
            source,
        })?;
        Ok(NewFile {
            table: table.id,
            path: path.to_string(),
            size_bytes,
            rows: file.rows,
            schema_version: file.schema_version,
            first_sequence: file.first_sequence,
            last_sequence: file.last_sequence,
            time_range_nanos: file.time_range_nanos,
            sorted: file.sorted,
        })
    }

    async fn put_parts(
        &self,
        path: &object_store::path::Path,
        pieces: Vec<bytes::Bytes>,
    ) -> Result<(), object_store::Error> {
        let mut upload = self.store.put_multipart(path).await?;
        let result = async {
            for piece in pieces {
                upload.put_part(PutPayload::from(piece)).await?;
            }
            upload.complete().await.map(drop)
        }
        .await;
        if result.is_err()
            && let Err(error) = upload.abort().await
        {
            debug!(path = %path, error = %error, "can't abort upload");
        }
        result
    }

    /// Best effort: what stays is found by the scan for orphans.
    pub(crate) async fn remove_files(&self, files: &[NewFile]) {
        for file in files {
            // Encoded already, as `Path::from` would do once more.
            let Ok(path) = object_store::path::Path::parse(&file.path) else {
                continue;
            };
            if let Err(error) = self.store.delete(&path).await {
                debug!(path = %path, error = %error, "can't remove file of a refused flush");
            }
        }
    }
}
