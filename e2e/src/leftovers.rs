//! Looks for anything of a node that outlived it: processes, mounts, namespaces, cgroups.
//!
//! It only looks. Removing is the job of [`crate::runner`] and [`crate::cgroups`]; what is found
//! here after that is a bug of the harness and fails the run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cgroups;
use crate::places::NodeFolder;

/// The namespaces that a node has for itself, as the links below `/proc/PID/ns` name them.
const NAMESPACES: [&str; 4] = ["net", "mnt", "uts", "pid"];

/// The identities of a node's own namespaces, taken while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Namespaces(BTreeSet<String>);

impl Namespaces {
    /// Reads the namespaces of the process `pid`.
    ///
    /// Errors: the process is gone or belongs to another user.
    pub fn of_process(pid: u32) -> Result<Self> {
        let links = NAMESPACES
            .iter()
            .map(|kind| namespace_link(&pid.to_string(), kind))
            .collect::<Option<BTreeSet<_>>>()
            .with_context(|| format!("reading the namespaces of process {pid}"))?;
        Ok(Self(links))
    }

    /// The same without those of the calling process, which a node may share by mistake.
    pub fn without_own(self) -> Result<Self> {
        let own = Self::of_process(std::process::id())?;
        Ok(Self(self.0.difference(&own.0).cloned().collect()))
    }
}

fn namespace_link(process: &str, kind: &str) -> Option<String> {
    let link = fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

/// Lists what is left of a node, one line for each thing; empty when nothing is.
///
/// - `namespaces` are those the node had; empty when they never existed.
pub fn find(folder: &NodeFolder, namespaces: &Namespaces) -> Result<Vec<String>> {
    let cgroup = folder.cgroup();
    let mut found = Vec::new();
    for process in processes() {
        let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        let name = name.trim();
        let groups = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
        if in_cgroup(&groups, &cgroup) {
            found.push(format!(
                "process {process} ({name}) is in the cgroup {cgroup}"
            ));
        }
        for kind in NAMESPACES {
            if let Some(link) = namespace_link(&process, kind)
                && namespaces.0.contains(&link)
            {
                found.push(format!(
                    "process {process} ({name}) holds the namespace {link}"
                ));
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mount table")?;
    found.extend(mounts_below(&mounts, folder.root()).map(|at| format!("mount at {at}")));
    found.extend(
        cgroups::existing(&cgroup)
            .iter()
            .map(|group| format!("cgroup {}", group.display())),
    );
    Ok(found)
}

fn processes() -> impl Iterator<Item = String> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Whether a `/proc/PID/cgroup` text names the group itself or one below it.
fn in_cgroup(groups: &str, name: &str) -> bool {
    groups
        .lines()
        .filter_map(|line| line.splitn(3, ':').nth(2))
        .any(|path| {
            path.strip_prefix('/')
                .and_then(|path| path.strip_prefix(name))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
}

/// The mount points of a `mountinfo` text at or below `folder`.
fn mounts_below<'a>(mountinfo: &'a str, folder: &'a Path) -> impl Iterator<Item = &'a str> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(move |point| Path::new(point).starts_with(folder))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_process_in_a_group_below_the_nodes_is_found() {
        let groups = "9:name=systemd:/\n4:memory:/flightcluster-run-1/kubepods/pod7\n";
        assert!(in_cgroup(groups, "flightcluster-run-1"));
    }

    #[test]
    fn a_group_whose_name_only_begins_alike_is_another_node() {
        assert!(!in_cgroup(
            "4:memory:/flightcluster-run-12/kubepods\n",
            "flightcluster-run-1"
        ));
    }

    #[test]
    fn a_mount_below_the_state_folder_is_found_and_a_neighbour_is_not() {
        let table = "36 35 98:0 / /cache/nodes/a/volumes/1 rw,noatime - ext4 /dev/root rw\n\
                     37 35 98:0 / /cache/nodes/ab rw,noatime - ext4 /dev/root rw\n";
        let found: Vec<_> = mounts_below(table, Path::new("/cache/nodes/a")).collect();
        assert_eq!(found, ["/cache/nodes/a/volumes/1"]);
    }

    #[test]
    fn a_process_that_still_holds_a_namespace_is_found() {
        let folder = NodeFolder::new(PathBuf::from("/nonexistent/never-started"));
        let mine = Namespaces::of_process(std::process::id()).unwrap();
        let found = find(&folder, &mine).unwrap();
        let me = format!("process {} ", std::process::id());
        assert!(found.iter().any(|line| line.starts_with(&me)), "{found:?}");
        assert_eq!(
            find(&folder, &Namespaces::default()).unwrap(),
            Vec::<String>::new()
        );
    }
}
