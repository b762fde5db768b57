//! Outside and inside of a node's namespaces: makes them, waits, and removes everything.
//!
//! - Outside ([`run`]): state folder, images, cgroup, the namespaces; then waiting; then clean-up
//!   and the search for leftovers. It runs as root on the developer's machine.
//! - Inside ([`inside`]): the first process collects the dead; its child is the node with the
//!   command.
//! - [`detached`]: the same node left running for a person.

pub mod detached;
pub mod inside;
mod requirements;
mod state;

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::cgroups;
use crate::image::base::Freshness;
use crate::image::catalogue;
use crate::leftovers::{self, Namespaces};
use crate::places::{NodeFolder, Places};
use state::State;

/// The code of a run that was ended by a signal from outside.
const INTERRUPTED: u8 = 130;

/// What a node is brought up for.
#[derive(Debug, Clone)]
pub enum Purpose {
    /// One command, at whose end the node ends.
    Command(Vec<OsString>),
    /// To stay until a signal arrives.
    Hold,
}

/// How to run a node.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The name of the state folder and of the cgroup.
    pub name: String,
    /// A folder with both product binaries; without it there is no product image in the node.
    pub binaries: Option<PathBuf>,
    /// Why the node is brought up.
    pub purpose: Purpose,
}

/// Brings a node up, runs the command inside, removes everything, and returns the command's code.
///
/// - Errors: a program or tool is missing; the node did not come up; something of it was left. On
///   a failure of any kind the logs are in the folder that was printed.
/// - A signal (interrupt, terminate, hang-up) ends the node at once; the code is then 130.
/// - If this process itself is killed, the kernel kills the node; the next run sweeps up its
///   folders and cgroups.
pub async fn run(places: &Places, options: &RunOptions) -> Result<u8> {
    requirements::check(places)?;
    let state = State::create(places, &options.name)?;
    let outcome = run_in(places, state.folder(), options).await;
    let (code, namespaces) = match outcome {
        Ok((code, namespaces)) => (Ok(code), namespaces),
        Err(error) => (Err(error), Namespaces::default()),
    };
    if !matches!(code, Ok(0 | INTERRUPTED)) {
        keep_logs(places, state.folder());
    } else {
        // A test that checks the dumps may have left their folder: it goes, but only when empty.
        let _kept = fs::remove_dir(places.dumps(&options.name));
    }
    let cleaned = clean_up(state, &namespaces);
    let code = code?;
    cleaned?;
    Ok(code)
}

async fn run_in(
    places: &Places,
    folder: &NodeFolder,
    options: &RunOptions,
) -> Result<(u8, Namespaces)> {
    prepare_images(places, folder, options.binaries.as_deref())?;
    cgroups::create(&folder.cgroup())?;
    let mut child = spawn(folder, &options.purpose)?;
    let init = wait_for_init(&mut child).await?;
    let namespaces = Namespaces::of_process(init)?.without_own()?;
    fs::write(folder.init_pid_file(), init.to_string()).context("noting the node's process")?;
    let code = wait_or_end(&mut child, init).await?;
    Ok((code, namespaces))
}

fn prepare_images(places: &Places, folder: &NodeFolder, binaries: Option<&Path>) -> Result<()> {
    let images = folder.images();
    fs::create_dir_all(&images).with_context(|| format!("making {}", images.display()))?;
    catalogue::write_node_images(places, &images)?;
    if let Some(binaries) = binaries {
        let path = images.join("product.tar");
        catalogue::write_product(places, binaries, &path, Freshness::Cached, false)?;
    }
    Ok(())
}

/// Starts the namespaces with this program as their first process.
fn spawn(folder: &NodeFolder, purpose: &Purpose) -> Result<Child> {
    let program = std::env::current_exe().context("finding this program's file")?;
    // Killing this process must kill the node: setpriv ties unshare to us, unshare the rest to it.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare"])
        .args([
            "--net",
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["--propagation", "private"])
        .arg(program)
        .arg("init")
        .arg(folder.root());
    if let Purpose::Command(words) = purpose {
        command.arg("--").args(words);
    }
    command.spawn().context("starting the node's namespaces")
}

/// The host's id of the first process inside: the only child of `unshare`.
async fn wait_for_init(child: &mut Child) -> Result<u32> {
    let unshare = child.id().context("the namespaces ended at once")?;
    let children = format!("/proc/{unshare}/task/{unshare}/children");
    let mut interval = tokio::time::interval(Duration::from_millis(10));
    loop {
        interval.tick().await;
        if let Some(status) = child.try_wait().context("waiting for the namespaces")? {
            bail!("making the namespaces ended with {status}");
        }
        let text = fs::read_to_string(&children).unwrap_or_default();
        if let Some(pid) = text.split_whitespace().next() {
            return pid.parse().context("reading the node's process id");
        }
    }
}

async fn wait_or_end(child: &mut Child, init: u32) -> Result<u8> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watching for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("watching for signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("watching for signals")?;
    tokio::select! {
        status = child.wait() => return Ok(exit_code(status.context("waiting for the node")?)),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hang_up.recv() => {}
    }
    end(init);
    child.wait().await.context("waiting for the node to end")?;
    Ok(INTERRUPTED)
}

/// Ends a node by killing the first process of its namespace; the kernel kills all the others and
/// lets `unshare` return only when they are gone.
fn end(init: u32) {
    if let Some(pid) = i32::try_from(init).ok().and_then(Pid::from_raw) {
        // The only failure is that it is gone already.
        let _gone = kill_process(pid, Signal::KILL);
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Copies the logs of the node's processes beside the dumps of the failing tests.
fn keep_logs(places: &Places, folder: &NodeFolder) {
    let target = places.dumps(&folder.name()).join("node");
    let copied = fs::create_dir_all(&target).and_then(|()| {
        for entry in fs::read_dir(folder.logs())? {
            let log = entry?;
            fs::copy(log.path(), target.join(log.file_name()))?;
        }
        Ok(())
    });
    match copied {
        Ok(()) => eprintln!(
            "node: logs and dumps are in {}",
            places.dumps(&folder.name()).display()
        ),
        Err(error) => eprintln!("node: keeping the logs in {}: {error}", target.display()),
    }
}

/// Removes cgroups and state, and fails if anything of the node is left.
fn clean_up(state: State, namespaces: &Namespaces) -> Result<()> {
    let removed = cgroups::remove(&state.folder().cgroup());
    let left = leftovers::find(state.folder(), namespaces)?;
    if left.is_empty() {
        removed?;
        return state.remove();
    }
    // The folder stays: deleting through a forgotten mount could delete anything.
    bail!("the node left something behind:\n  {}", left.join("\n  "));
}
