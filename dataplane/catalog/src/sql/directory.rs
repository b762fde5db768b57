//! Directories that are still there after a power failure.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Why the directory of the catalog can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("can't create directory {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("can't sync directory {}", path.display())]
    Sync { path: PathBuf, source: io::Error },
    #[error("the task that prepares directory {} ended early", path.display())]
    Task {
        path: PathBuf,
        source: tokio::task::JoinError,
    },
}

/// Creates `path` and its missing parents, each synced into its own parent.
pub(super) async fn create(path: &Path) -> Result<(), Error> {
    blocking(path, create_blocking).await
}

/// Makes the entries of `path` durable.
pub(super) async fn sync(path: &Path) -> Result<(), Error> {
    blocking(path, sync_blocking).await
}

async fn blocking(path: &Path, work: fn(&Path) -> Result<(), Error>) -> Result<(), Error> {
    let path = path.to_owned();
    let owned = path.clone();
    match tokio::task::spawn_blocking(move || work(&owned)).await {
        Ok(result) => result,
        Err(source) => Err(Error::Task { path, source }),
    }
}

fn create_blocking(path: &Path) -> Result<(), Error> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new(""));
    create_blocking(parent)?;
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(source) => {
            return Err(Error::Create {
                path: path.to_owned(),
                source,
            });
        }
    }
    sync_blocking(if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    })
}

fn sync_blocking(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| Error::Sync {
            path: path.to_owned(),
            source,
        })
}
