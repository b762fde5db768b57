//! Says what is missing on this machine, all at once and with the cure, before anything is made.

use anyhow::{Result, bail};

use crate::command;
use crate::places::Places;

/// Programs from the distribution.
const PROGRAMS: [&str; 12] = [
    "busybox",
    "cc",
    "conntrack",
    "gzip",
    "hostname",
    "ip",
    "iptables",
    "nft",
    "nsenter",
    "runc",
    "setpriv",
    "unshare",
];

/// Programs that `e2e/tools/build.sh` compiles.
const TOOLS: [&str; 13] = [
    "containerd",
    "containerd-shim-runc-v2",
    "coredns",
    "ctr",
    "etcd",
    "helm",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "versitygw",
];

/// Errors: the user is not root, or something is missing; the text says how to get it.
pub(super) fn check(places: &Places) -> Result<()> {
    check_root()?;
    let absent: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|program| command::find(program).is_none())
        .collect();
    if !absent.is_empty() {
        bail!(
            "these programs are missing: {}; run e2e/setup.sh",
            absent.join(", ")
        );
    }
    let tools = places.tools();
    let absent: Vec<&str> = TOOLS
        .into_iter()
        .filter(|tool| !tools.join(tool).exists())
        .collect();
    if !absent.is_empty() {
        bail!(
            "these tools are missing in {}: {}; run e2e/tools/build.sh",
            tools.display(),
            absent.join(", ")
        );
    }
    Ok(())
}

/// Errors: the user is not root.
pub(super) fn check_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("a node needs namespaces and cgroups: run this as root");
    }
    Ok(())
}
