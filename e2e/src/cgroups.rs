//! The node's own cgroup: made before the node starts, removed after its last process is gone.
//!
//! Works on the separate hierarchies of cgroup v1 and on the single one of v2. What is put into the
//! groups is the kubelet's business.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

const ROOT: &str = "/sys/fs/cgroup";

/// The v1 hierarchies in which the kubelet and runc want the group to exist.
const HIERARCHIES: [&str; 9] = [
    "cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd",
];

/// How long the kernel may take to let go of a group whose processes were killed.
const REMOVAL_LIMIT: Duration = Duration::from_secs(10);

/// Makes the group `name` in every hierarchy.
pub fn create(name: &str) -> Result<()> {
    if Path::new(ROOT).join("cgroup.controllers").exists() {
        return create_unified(name);
    }
    for hierarchy in HIERARCHIES {
        let parent = Path::new(ROOT).join(hierarchy);
        let group = parent.join(name);
        if !parent.is_dir() {
            continue;
        }
        create_folder(&group)?;
        if hierarchy == "cpuset" {
            // A new cpuset is empty, and a process cannot be put into an empty one.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read(parent.join(file)).context("reading the parent's cpuset")?;
                fs::write(group.join(file), value).context("filling the node's cpuset")?;
            }
        }
    }
    Ok(())
}

fn create_unified(name: &str) -> Result<()> {
    let group = Path::new(ROOT).join(name);
    create_folder(&group)?;
    let controllers = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"))
        .context("reading the available cgroup controllers")?;
    let enable: Vec<String> = controllers
        .split_whitespace()
        .map(|c| format!("+{c}"))
        .collect();
    for parent in [Path::new(ROOT), &group] {
        fs::write(parent.join("cgroup.subtree_control"), enable.join(" "))
            .with_context(|| format!("enabling cgroup controllers in {}", parent.display()))?;
    }
    Ok(())
}

fn create_folder(group: &Path) -> Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("making the cgroup {}", group.display()))
        }
        _ => Ok(()),
    }
}

/// Every group of that name: also the one the runtime makes in a hierarchy we did not ask for.
pub fn existing(name: &str) -> Vec<PathBuf> {
    let direct = Path::new(ROOT).join(name);
    let below = fs::read_dir(ROOT)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join(name));
    // Joined controllers are links to one folder, so a group may be listed twice: harmless.
    std::iter::once(direct)
        .chain(below)
        .filter(|group| group.is_dir())
        .collect()
}

/// Removes the group `name` with everything below it.
///
/// Errors: a group still holds a process after 10 seconds.
pub fn remove(name: &str) -> Result<()> {
    let deadline = Instant::now() + REMOVAL_LIMIT;
    for group in existing(name) {
        loop {
            match remove_tree(&group) {
                Ok(()) => break,
                Err(error) if Instant::now() >= deadline => {
                    return Err(error)
                        .with_context(|| format!("removing the cgroup {}", group.display()));
                }
                // The kernel gives no event for "the last dead process has left this group".
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }
    Ok(())
}

fn remove_tree(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
