//! A node that stays: for trying the product by hand (`make cluster`).

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::inside::environment;
use super::requirements;
use super::state::{self, Owned};
use crate::leftovers::{self, Namespaces};
use crate::places::{NodeFolder, Places};

/// Starts a node in the background and returns when it is ready.
///
/// - Returns the path of a script that runs its arguments inside the node.
/// - Errors: a node of that name runs already, or it did not come up; the log is in the text.
pub fn up(places: &Places, name: &str, binaries: Option<&Path>) -> Result<PathBuf> {
    requirements::check(places)?;
    let folder = places.node(name);
    if Owned::find(&folder)?.is_some() {
        bail!("a node named {name} is running already: end it with `flightcluster-node down`");
    }
    fs::create_dir_all(places.nodes()).context("making the folder of the nodes")?;
    let program = std::env::current_exe().context("finding this program's file")?;
    let log_path = log(places, name);
    let output = File::create(&log_path).context("creating the node's log")?;
    let errors = output.try_clone().context("sharing the node's log")?;
    let mut hold = Command::new("setsid");
    hold.arg(&program).args(["hold", "--name", name]);
    if let Some(binaries) = binaries {
        hold.arg("--binaries").arg(binaries);
    }
    let mut child = hold
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .context("starting the node in the background")?;
    while !folder.ready_file().exists() {
        if let Some(status) = child.try_wait().context("waiting for the node")? {
            let text = fs::read_to_string(&log_path).unwrap_or_default();
            bail!("the node ended with {status}:\n{text}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    write_script(&folder, &program, name)
}

/// Ends a node and returns when nothing of it is left.
///
/// - Returns whether there was one.
/// - Errors: something of it was left.
pub fn down(places: &Places, name: &str) -> Result<bool> {
    requirements::check_root()?;
    let folder = places.node(name);
    let Some(owner) = Owned::find(&folder)? else {
        let existed = folder.root().exists();
        if existed {
            state::sweep(places)?;
        }
        return Ok(existed);
    };
    let namespaces = match init_pid(&folder) {
        Ok(init) => Namespaces::of_process(init)?.without_own()?,
        Err(_) => Namespaces::default(), // It has not come so far.
    };
    let runner = i32::try_from(owner.runner).ok().and_then(Pid::from_raw);
    kill_process(
        runner.context("the owner of the node has no valid id")?,
        Signal::TERM,
    )
    .context("telling the node to end")?;
    owner.wait()?;
    let left = leftovers::find(&folder, &namespaces)?;
    if !left.is_empty() || folder.root().exists() {
        let text = fs::read_to_string(log(places, name)).unwrap_or_default();
        bail!(
            "the node left something behind:\n  {}\n{text}",
            left.join("\n  ")
        );
    }
    fs::remove_file(log(places, name)).context("removing the node's log")?;
    Ok(true)
}

/// Replaces this process by `command` inside a running node, in the same working folder.
///
/// Errors: no such node, or the command cannot be started. It returns only with an error.
pub fn exec(places: &Places, name: &str, command: &[OsString]) -> Result<()> {
    requirements::check_root()?;
    let folder = places.node(name);
    if !folder.ready_file().exists() {
        bail!("no node named {name} is running: start it with `flightcluster-node up`");
    }
    let init = init_pid(&folder)?;
    let here = std::env::current_dir().context("finding the working folder")?;
    let mut working_folder = OsString::from("--wdns=");
    working_folder.push(here);
    let mut enter = Command::new("nsenter");
    enter
        .args([
            "--target",
            &init.to_string(),
            "--net",
            "--mount",
            "--uts",
            "--pid",
        ])
        .arg(working_folder)
        .arg("--")
        .args(command)
        .envs(environment(places, &folder)?);
    Err(enter.exec()).context("entering the node's namespaces")
}

fn init_pid(folder: &NodeFolder) -> Result<u32> {
    let text = fs::read_to_string(folder.init_pid_file()).context("reading the node's process")?;
    text.trim()
        .parse()
        .context("understanding the node's process")
}

/// The log of a node in the background is beside its folder: it must outlive a failed start.
fn log(places: &Places, name: &str) -> PathBuf {
    places.nodes().join(format!("{name}.log"))
}

fn write_script(folder: &NodeFolder, program: &Path, name: &str) -> Result<PathBuf> {
    let script = folder.join("enter");
    let text = format!(
        "#!/bin/sh\n# Runs its arguments inside the node.\nexec '{}' exec --name {name} -- \"$@\"\n",
        program.display()
    );
    fs::write(&script, text).context("writing the script that enters the node")?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))
        .context("making the script executable")?;
    Ok(script)
}
