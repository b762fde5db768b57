//! A directory as an object store that keeps what it said it stored.
//!
//! `object_store`'s `LocalFileSystem` names files atomically but never syncs: after a power failure
//! an object it stored may be empty or gone, while the write-ahead log that held its rows has been
//! truncated. [`DurableLocal`] lets it do the work and then syncs the file, its directory, and every
//! directory above up to the root of the store (any of them may be new).
//!
//! # Guarantees
//! When `put`, the completion of an upload, `copy`, `rename` or `delete` returns `Ok`, its effect
//! survives a power failure. When it returns an error, it may or may not have taken effect.
//!
//! # Caveats
//! The new name is visible before the sync is done: a power failure in the middle of *overwriting* an
//! object may leave neither the old nor the new content. Objects here have unique names and are
//! written once.
//!
//! Copies are hard links, as `LocalFileSystem` makes them: renaming an object onto its own copy does
//! nothing, by the rules of POSIX, and leaves both names.

mod leftovers;
mod sync;
mod upload;

use std::fmt;
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::Error;
pub use leftovers::Leftover;
use sync::{Disk, RealDisk};
use upload::DurableUpload;

/// Name of this store in errors of `object_store`.
const STORE: &str = "DurableLocal";

/// A directory whose objects survive a power failure. See the [module](self).
#[derive(Debug, Clone)]
pub struct DurableLocal {
    files: LocalFileSystem,
    syncer: Syncer,
}

/// Syncs what an operation touched.
#[derive(Debug, Clone)]
struct Syncer {
    /// Absolute, without symbolic links.
    root: Arc<PathBuf>,
    disk: Arc<dyn Disk>,
}

impl DurableLocal {
    /// Opens the store in `directory`, which is created when missing.
    ///
    /// Blocks the thread for some file system calls.
    pub fn open(directory: &FsPath) -> std::result::Result<Self, Error> {
        Self::open_on(directory, Arc::new(RealDisk))
    }

    fn open_on(directory: &FsPath, disk: Arc<dyn Disk>) -> std::result::Result<Self, Error> {
        let failed = |source| Error::Directory {
            path: directory.to_owned(),
            source,
        };
        sync::create_directories(directory, disk.as_ref()).map_err(failed)?;
        let root = directory.canonicalize().map_err(failed)?;
        let files = LocalFileSystem::new_with_prefix(&root)
            .map_err(|source| failed(std::io::Error::other(source)))?;
        Ok(Self {
            files,
            syncer: Syncer {
                root: Arc::new(root),
                disk,
            },
        })
    }

    /// The directory of the store, absolute.
    #[must_use]
    pub fn root(&self) -> &FsPath {
        &self.syncer.root
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.syncer.root.display())
    }
}

impl Syncer {
    /// Makes a new or changed file durable: content, then its name, then the directories above.
    async fn file(&self, path: PathBuf) -> Result<()> {
        self.run(move |disk, root| {
            disk.sync_file(&path)?;
            sync_directories(disk, &path, root)
        })
        .await
    }

    /// Makes the absence of a file durable.
    async fn absence(&self, path: PathBuf) -> Result<()> {
        self.run(move |disk, _| match path.parent() {
            Some(parent) => disk.sync_directory(parent),
            None => Ok(()),
        })
        .await
    }

    async fn run<F>(&self, work: F) -> Result<()>
    where
        F: FnOnce(&dyn Disk, &FsPath) -> std::io::Result<()> + Send + 'static,
    {
        let (disk, root) = (Arc::clone(&self.disk), Arc::clone(&self.root));
        tokio::task::spawn_blocking(move || work(disk.as_ref(), &root))
            .await?
            .map_err(|source| object_store::Error::Generic {
                store: STORE,
                source: source.into(),
            })
    }
}

/// Syncs the directories from that of `path` up to `root`, deepest first.
fn sync_directories(disk: &dyn Disk, path: &FsPath, root: &FsPath) -> std::io::Result<()> {
    for directory in path
        .ancestors()
        .skip(1)
        .take_while(|ancestor| ancestor.starts_with(root))
    {
        disk.sync_directory(directory)?;
    }
    Ok(())
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let result = self.files.put_opts(location, payload, opts).await?;
        self.syncer
            .file(self.files.path_to_filesystem(location)?)
            .await?;
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.files.put_multipart_opts(location, opts).await?;
        let path = self.files.path_to_filesystem(location)?;
        Ok(Box::new(DurableUpload::new(
            upload,
            path,
            self.syncer.clone(),
        )))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        self.files
            .delete_stream(locations)
            .then(move |deleted| {
                let store = store.clone();
                async move {
                    let location = deleted?;
                    store
                        .syncer
                        .absence(store.files.path_to_filesystem(&location)?)
                        .await?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await?;
        self.syncer.file(self.files.path_to_filesystem(to)?).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.files.rename_opts(from, to, options).await?;
        // The new name first: for a moment both may be on disk, never neither.
        self.syncer.file(self.files.path_to_filesystem(to)?).await?;
        self.syncer
            .absence(self.files.path_to_filesystem(from)?)
            .await
    }
}

#[cfg(test)]
mod tests;
