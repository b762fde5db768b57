//! A long-running process of the node with its log file.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::places::NodeFolder;

/// How often a condition is looked at again.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// How much of a log an error message holds.
const LOG_TAIL_LINES: usize = 25;

/// A started process. It is not killed on drop: it ends with the process namespace.
#[derive(Debug)]
pub(super) struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` with its output in `logs/NAME.log`.
    pub(super) fn start(folder: &NodeFolder, name: &str, command: &mut Command) -> Result<Self> {
        let log = folder.logs().join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let errors = output.try_clone().context("sharing a log file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Errors: the process has ended; the error holds the end of its log.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait().context("looking after a process")? else {
            return Ok(());
        };
        bail!(
            "{} ended with {status}; the end of its log:\n{}",
            self.name,
            self.log_tail()
        )
    }

    /// Waits until `probe` says yes.
    ///
    /// Errors: the process ended, or the answer was no for `limit`.
    pub(super) async fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        let mut interval = tokio::time::interval(POLL);
        while !probe() {
            self.check_alive()?;
            if Instant::now() >= deadline {
                let (name, tail) = (&self.name, self.log_tail());
                bail!("{name}: not {what} after {limit:?}; the end of its log:\n{tail}");
            }
            interval.tick().await;
        }
        Ok(())
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}
