//! How much memory the process uses and how much it may use, read from `/proc` and `/sys/fs/cgroup`.
//!
//! Control groups of version 1 and 2 are understood, with and without a namespace of their own, and
//! limits set on any group above, also those at which the kernel slows the process down. A file that
//! is missing or unreadable counts as no limit: the figures are for budgets and metrics, never a
//! reason not to start.

use std::path::{Component, Path, PathBuf};

/// Version 1 writes "no limit" as the largest page-aligned number; nothing real is near it.
const NO_LIMIT: u64 = 1 << 62;

/// The smallest memory limit in force, in bytes: that of a control group or the machine's memory.
/// `None` when neither can be read.
#[must_use]
pub fn memory_limit_bytes() -> Option<u64> {
    memory_limit_bytes_at(Path::new("/"))
}

/// Resident memory of this process, in bytes; `None` when `/proc` can't be read.
#[must_use]
pub fn rss_bytes() -> Option<u64> {
    rss_bytes_at(Path::new("/"))
}

/// [`memory_limit_bytes`] of the file system tree below `root`.
fn memory_limit_bytes_at(root: &Path) -> Option<u64> {
    let machine = read(&root.join("proc/meminfo")).and_then(|text| kib_line(&text, "MemTotal:"));
    cgroup_limits(root).into_iter().chain(machine).min()
}

/// `/proc/self/status` has the figure of `statm` in KiB instead of pages, whose size differs
/// between machines.
fn rss_bytes_at(root: &Path) -> Option<u64> {
    kib_line(&read(&root.join("proc/self/status"))?, "VmRSS:")
}

fn cgroup_limits(root: &Path) -> Vec<u64> {
    let membership = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let mut limits = Vec::new();
    for line in membership.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let mounts: &[(&str, &str)] = if controllers.is_empty() {
            &[
                ("sys/fs/cgroup", "memory.max"),
                ("sys/fs/cgroup", "memory.high"),
                ("sys/fs/cgroup/unified", "memory.max"),
                ("sys/fs/cgroup/unified", "memory.high"),
            ]
        } else if controllers.split(',').any(|name| name == "memory") {
            &[("sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        } else {
            &[]
        };
        for (mount, file) in mounts {
            limits.extend(limits_upwards(&root.join(mount), group, file));
        }
    }
    limits
}

/// The limits of a group and of every group above it.
///
/// Inside a container the path may be that of the host, which does not exist below the mount; the
/// walk then ends at the mount itself, which is the container's own group.
fn limits_upwards(mount: &Path, group: &str, file: &str) -> Vec<u64> {
    let inside: PathBuf = Path::new(group)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect();
    inside
        .ancestors()
        .filter_map(|group| read(&mount.join(group).join(file)))
        .filter_map(|text| text.trim().parse::<u64>().ok())
        .filter(|limit| *limit < NO_LIMIT)
        .collect()
}

fn kib_line(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use tempfile::TempDir;

    const MACHINE: &str = "MemTotal:       16384 kB\nMemFree:         1 kB\n";

    fn tree(files: &[(&str, &str)]) -> TempDir {
        let root = TempDir::new().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn limit(files: &[(&str, &str)]) -> Option<u64> {
        let mut files = files.to_vec();
        files.push(("proc/meminfo", MACHINE));
        memory_limit_bytes_at(tree(&files).path())
    }

    #[test]
    fn version_2_in_a_namespace_reads_the_mount_itself() {
        let files = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1048576\n"),
        ];
        assert_eq!(limit(&files), Some(1_048_576));
    }

    #[test]
    fn version_2_takes_the_smallest_limit_on_the_way_up() {
        let files = [
            ("proc/self/cgroup", "0::/kubepods/pod7/box\n"),
            ("sys/fs/cgroup/kubepods/pod7/box/memory.max", "max\n"),
            ("sys/fs/cgroup/kubepods/pod7/memory.max", "700000\n"),
            ("sys/fs/cgroup/kubepods/memory.max", "900000\n"),
        ];
        assert_eq!(limit(&files), Some(700_000));
    }

    #[test]
    fn version_2_above_a_limit_that_slows_down_counts_too() {
        let files = [
            ("proc/self/cgroup", "0::/system.slice/box\n"),
            ("sys/fs/cgroup/system.slice/box/memory.max", "900000\n"),
            ("sys/fs/cgroup/system.slice/box/memory.high", "700000\n"),
            ("sys/fs/cgroup/system.slice/memory.high", "max\n"),
        ];
        assert_eq!(limit(&files), Some(700_000));
    }

    #[test]
    fn version_1_reads_the_memory_controller() {
        let files = [
            (
                "proc/self/cgroup",
                "11:cpu,cpuacct:/a\n4:memory:/docker/b\n1:name=systemd:/c\n",
            ),
            (
                "sys/fs/cgroup/memory/docker/b/memory.limit_in_bytes",
                "300000\n",
            ),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ];
        assert_eq!(limit(&files), Some(300_000));
    }

    #[test]
    fn version_1_in_a_container_with_the_path_of_the_host_reads_the_mount() {
        let files = [
            (
                "proc/self/cgroup",
                "4:memory:/kubepods/elsewhere\n0::/kubepods/elsewhere\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "400000\n"),
        ];
        assert_eq!(limit(&files), Some(400_000));
    }

    #[test]
    fn a_path_out_of_the_namespace_does_not_leave_the_mount() {
        let files = [
            ("proc/self/cgroup", "0::/../../other\n"),
            ("sys/fs/cgroup/memory.max", "500000\n"),
            ("sys/memory.max", "1\n"),
            ("sys/fs/memory.max", "1\n"),
        ];
        assert_eq!(limit(&files), Some(500_000));
    }

    #[test]
    fn without_a_limit_the_memory_of_the_machine_counts() {
        let unlimited = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
        ];
        assert_eq!(limit(&unlimited), Some(16_384 * 1024));
        assert_eq!(limit(&[]), Some(16_384 * 1024));
        let generous = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "99999999\n"),
        ];
        assert_eq!(limit(&generous), Some(16_384 * 1024));
    }

    #[test]
    fn a_limit_is_known_even_if_the_machine_is_not() {
        let files = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "500000\n"),
        ];
        assert_eq!(memory_limit_bytes_at(tree(&files).path()), Some(500_000));
        assert_eq!(memory_limit_bytes_at(tree(&[]).path()), None);
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        let status = [(
            "proc/self/status",
            "Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n",
        )];
        assert_eq!(rss_bytes_at(tree(&status).path()), Some(2048 * 1024));
        assert_eq!(
            rss_bytes_at(tree(&[("proc/self/status", "VmRSS: lots")]).path()),
            None
        );
        assert!(rss_bytes().unwrap() > 0);
    }
}
