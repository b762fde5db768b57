//! Work that the tests of one node share, although each may be a process of its own.

use std::fs::{self, File};

use anyhow::{Context, Result};

use crate::places::NodeFolder;

/// Runs `action` unless it has succeeded in this node before; callers take turns.
pub(super) async fn once(
    node: &NodeFolder,
    what: &str,
    action: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let folder = node.join("once");
    let done = folder.join(format!("{what}.done"));
    let lock = File::create(folder.join(format!("{what}.lock")))
        .with_context(|| format!("making the lock of {what}"))?;
    // The lock is free again when this file is dropped, also by a crash.
    let _lock = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock))
        .await
        .context("waiting for the lock of a shared step")?
        .with_context(|| format!("locking {what}"))?;
    if done.exists() {
        return Ok(());
    }
    action()
        .await
        .with_context(|| format!("doing {what} for all tests"))?;
    fs::write(&done, "").with_context(|| format!("noting that {what} is done"))
}
