//! The two processes at the root of a node's process namespace.
//!
//! The first ([`init`]) starts the second and collects dead orphans, as the first process of a
//! namespace must; the second ([`serve`]) is the node, and runs the command.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use super::exit_code;
use crate::node::Node;
use crate::places::{KUBECONFIG_VARIABLE, NODE_VARIABLE, NodeFolder, Places, RUN_DUMPS_VARIABLE};
use crate::provisioner;

/// How often a held node is looked after.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Runs as the first process: starts this program again as `serve` and waits for it.
///
/// Returns the code of that process. Everything still running is killed when the caller ends.
pub fn init(folder: &Path, command: &[OsString]) -> Result<u8> {
    let program = std::env::current_exe().context("finding this program's file")?;
    let mut serve = Command::new(program);
    serve.arg("serve").arg(folder);
    if !command.is_empty() {
        serve.arg("--").args(command);
    }
    let child = serve.spawn().context("starting the node's process")?;
    let child = Pid::from_child(&child);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => return Ok(code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the node's processes"),
        }
    }
}

fn code(status: WaitStatus) -> u8 {
    let code = status
        .exit_status()
        .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Runs as the second process: brings the node up and runs `command`, or stays if there is none.
///
/// - Errors: the node did not come up, or one of its processes ended while the command ran.
pub async fn serve(places: &Places, folder: &NodeFolder, command: &[OsString]) -> Result<u8> {
    let mut node = Node::start(places, folder).await?;
    let provisioner = tokio::spawn(provisioner::run(node.client(), folder.volumes()));
    let Some((program, words)) = command.split_first() else {
        return hold(node).await;
    };
    let mut command = tokio::process::Command::new(program);
    command.args(words).envs(environment(places, folder)?);
    let status = command
        .status()
        .await
        .with_context(|| format!("starting {}", program.to_string_lossy()))?;
    node.check_alive()
        .context("a process of the node ended during the run")?;
    provisioner.abort();
    Ok(exit_code(status))
}

async fn hold(mut node: Node) -> Result<u8> {
    let mut interval = tokio::time::interval(WATCH_INTERVAL);
    loop {
        interval.tick().await;
        node.check_alive().context("a process of the node ended")?;
    }
}

/// What a command inside the node finds in its environment beyond the caller's own.
pub(super) fn environment(
    places: &Places,
    folder: &NodeFolder,
) -> Result<Vec<(&'static str, OsString)>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(places.tools())
        .chain(std::env::split_paths(&path))
        .chain(["/usr/sbin".into(), "/sbin".into()]);
    Ok(vec![
        (
            "PATH",
            std::env::join_paths(folders).context("joining PATH")?,
        ),
        (KUBECONFIG_VARIABLE, folder.kubeconfig().into()),
        (NODE_VARIABLE, folder.root().into()),
        (RUN_DUMPS_VARIABLE, places.dumps(&folder.name()).into()),
        // An error that a test returns says what happened; a backtrace would bury it.
        ("RUST_LIB_BACKTRACE", "0".into()),
        // What the tools cache about this cluster must not outlive it.
        ("KUBECACHEDIR", folder.join("kube-cache").into()),
        ("HELM_CACHE_HOME", folder.join("helm/cache").into()),
        ("HELM_CONFIG_HOME", folder.join("helm/config").into()),
        ("HELM_DATA_HOME", folder.join("helm/data").into()),
    ])
}
