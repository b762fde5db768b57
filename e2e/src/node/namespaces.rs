//! Makes fresh namespaces look like a machine of their own: mounts, host name, network.
//!
//! Nothing here touches the machine outside: mounts are private, sysctls that have no namespace are
//! covered by files instead of written, addresses exist only in the node's network.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::{ADDRESS, DNS_ADDRESS, NAME};
use crate::command;
use crate::places::NodeFolder;

/// Sysctls that the kubelet insists on and that exist once for the whole machine.
const COVERED_SYSCTLS: [(&str, &str); 3] = [
    ("vm/overcommit_memory", "1"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
];

/// Prepares the calling process's namespaces for a node.
pub(super) fn prepare(folder: &NodeFolder) -> Result<()> {
    for name in ["etc/cni", "log", "logs", "sysctl", "volumes", "once"] {
        make_folder(&folder.join(name))?;
    }
    let resolver = fs::canonicalize("/etc/resolv.conf").unwrap_or("/etc/resolv.conf".into());
    mount_run()?;
    cover_state_folders(folder)?;
    cover_resolver(folder, &resolver)?;
    cover_hosts(folder)?;
    for (name, value) in COVERED_SYSCTLS {
        let file = folder.join("sysctl").join(name.replace('/', "."));
        fs::write(&file, format!("{value}\n")).context("writing a sysctl's stand-in")?;
        bind(&file, &Path::new("/proc/sys").join(name))?;
    }
    // The kubelet hands mounts on to containers, so they must propagate, inside these namespaces.
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )
    .context("making the mounts shared")?;
    command::run_words("hostname", &[NAME]).context("setting the host name")?;
    prepare_network()
}

/// An empty `/run`: sockets and network namespaces of this machine's own services stay out of reach.
fn mount_run() -> Result<()> {
    rustix::mount::mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID, c"mode=755")
        .context("mounting an empty /run")?;
    make_folder(Path::new("/run/netns"))?;
    make_folder(Path::new("/run/lock"))
}

/// Folders whose place is fixed in the kubelet and in the CNI library.
fn cover_state_folders(folder: &NodeFolder) -> Result<()> {
    bind(&folder.join("log"), Path::new("/var/log"))?;
    let (upper, work) = (folder.join("var-lib/upper"), folder.join("var-lib/work"));
    make_folder(&upper)?;
    make_folder(&work)?;
    let options = format!(
        "lowerdir=/var/lib,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    let options = std::ffi::CString::new(options).context("a path with a zero byte")?;
    rustix::mount::mount(
        "overlay",
        "/var/lib",
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .context("mounting an overlay over /var/lib")
}

/// The cluster's DNS for the node's processes: tests use the names that pods use.
fn cover_resolver(folder: &NodeFolder, target: &Path) -> Result<()> {
    let text = format!("nameserver {DNS_ADDRESS}\nsearch svc.cluster.local cluster.local\n");
    if target.starts_with("/run") {
        // The target of the link is behind the new, empty /run: put a plain file there.
        make_folder(target.parent().context("a resolver file in a folder")?)?;
        return fs::write(target, text).context("writing the resolver's settings");
    }
    let file = folder.join("etc/resolv.conf");
    fs::write(&file, text).context("writing the resolver's settings")?;
    bind(&file, target)
}

fn cover_hosts(folder: &NodeFolder) -> Result<()> {
    let file = folder.join("etc/hosts");
    let text = format!("127.0.0.1 localhost\n::1 localhost\n{ADDRESS} {NAME}\n");
    fs::write(&file, text).context("writing the hosts file")?;
    bind(&file, Path::new("/etc/hosts"))
}

/// A veth pair whose ends are both here gives the node an address that is not loopback.
fn prepare_network() -> Result<()> {
    let address = format!("{ADDRESS}/24");
    let steps: [&[&str]; 6] = [
        &["link", "set", "lo", "up"],
        &[
            "link", "add", "node0", "type", "veth", "peer", "name", "node1",
        ],
        &["addr", "add", &address, "dev", "node0"],
        &["link", "set", "node0", "up"],
        &["link", "set", "node1", "up"],
        // Cluster IPs need a route before the packet filter can rewrite them.
        &["route", "add", "default", "dev", "node0"],
    ];
    for step in steps {
        command::run_words("ip", step)?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("turning on forwarding")
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    rustix::mount::mount_bind(source, target)
        .with_context(|| format!("binding {} over {}", source.display(), target.display()))
}

pub(super) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))
}
