//! The state folder of a node: who owns it, and sweeping up after owners that were killed.
//!
//! The owner holds a lock on a file in the folder for as long as it lives, so a folder whose lock
//! is free belongs to nobody.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cgroups;
use crate::places::{NodeFolder, Places};

const LOCK: &str = "lock";
const RUNNER: &str = "runner.pid";

/// An owned state folder.
#[derive(Debug)]
pub(super) struct State {
    folder: NodeFolder,
    /// Held until this process ends or the folder is removed.
    _lock: File,
}

impl State {
    /// Makes the folder `name` and owns it, after removing what dead owners left.
    ///
    /// Errors: another process owns a folder of that name.
    pub(super) fn create(places: &Places, name: &str) -> Result<Self> {
        let nodes = places.nodes();
        fs::create_dir_all(&nodes).with_context(|| format!("making {}", nodes.display()))?;
        // Between making a folder and locking it, it must not look abandoned.
        let all = File::create(nodes.join(".lock")).context("opening the lock of all nodes")?;
        all.lock().context("locking the nodes")?;
        sweep(places)?;
        let folder = places.node(name);
        if folder.root().exists() {
            bail!(
                "a node named {name} is running already (state in {})",
                folder.root().display()
            );
        }
        fs::create_dir(folder.root())
            .with_context(|| format!("making {}", folder.root().display()))?;
        let lock = File::create(folder.join(LOCK)).context("making the node's lock")?;
        lock.lock().context("locking the node")?;
        fs::write(folder.join(RUNNER), std::process::id().to_string())
            .context("noting the owner of the node")?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    pub(super) fn folder(&self) -> &NodeFolder {
        &self.folder
    }

    /// Deletes the folder. Only for a folder below which nothing is mounted.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_dir_all(self.folder.root())
            .with_context(|| format!("removing {}", self.folder.root().display()))
    }
}

/// A node that belongs to another, living process.
#[derive(Debug)]
pub(super) struct Owned {
    lock: File,
    /// The owner's process id.
    pub(super) runner: u32,
}

impl Owned {
    /// Finds the owner of a folder; `None` when there is no folder or its owner is dead.
    pub(super) fn find(folder: &NodeFolder) -> Result<Option<Self>> {
        let Ok(lock) = File::open(folder.join(LOCK)) else {
            return Ok(None);
        };
        if !is_locked(&lock)? {
            return Ok(None);
        }
        let runner = fs::read_to_string(folder.join(RUNNER)).context("reading a node's owner")?;
        let runner = runner
            .trim()
            .parse()
            .context("understanding a node's owner")?;
        Ok(Some(Self { lock, runner }))
    }

    /// Waits until the owner has ended.
    pub(super) fn wait(self) -> Result<()> {
        self.lock.lock().context("waiting for a node's owner")
    }
}

/// Removes the folders and cgroups of owners that no longer live.
///
/// Errors: a folder cannot be read. One that cannot be removed is reported and left.
pub(super) fn sweep(places: &Places) -> Result<()> {
    for entry in fs::read_dir(places.nodes()).context("listing the nodes")? {
        let path = entry.context("listing the nodes")?.path();
        if !path.is_dir() {
            continue;
        }
        if let Err(error) = sweep_one(&path) {
            eprintln!("node: sweeping up {}: {error:#}", path.display());
        }
    }
    Ok(())
}

fn sweep_one(path: &Path) -> Result<()> {
    let folder = NodeFolder::new(path.to_owned());
    if let Ok(lock) = File::open(folder.join(LOCK))
        && is_locked(&lock)?
    {
        return Ok(());
    }
    cgroups::remove(&folder.cgroup())?;
    let left = crate::leftovers::find(&folder, &Default::default())?;
    if !left.is_empty() {
        bail!("still in use: {}", left.join("; "));
    }
    fs::remove_dir_all(path).context("removing an abandoned node")
}

fn is_locked(lock: &File) -> Result<bool> {
    match lock.try_lock() {
        Ok(()) => {
            lock.unlock().context("releasing a node's lock")?;
            Ok(false)
        }
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).context("trying a node's lock"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn places(folder: &Path) -> Places {
        Places::below(folder.to_owned())
    }

    #[test]
    fn the_folder_of_a_dead_owner_is_swept_up() {
        let cache = tempfile::tempdir().unwrap();
        let places = places(cache.path());
        let dead = places.node("dead");
        fs::create_dir_all(dead.join("deep")).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();
        sweep(&places).unwrap();
        assert!(!dead.root().exists());
    }

    #[test]
    fn the_folder_of_a_living_owner_stays_and_its_name_is_taken() {
        let cache = tempfile::tempdir().unwrap();
        let places = places(cache.path());
        let state = State::create(&places, "alive").unwrap();
        let error = State::create(&places, "alive").unwrap_err().to_string();
        assert!(error.contains("running already"), "{error}");
        let owner = Owned::find(state.folder()).unwrap().unwrap();
        assert_eq!(owner.runner, std::process::id());
        let folder = state.folder().clone();
        state.remove().unwrap();
        assert!(!folder.root().exists());
    }
}
