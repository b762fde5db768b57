//! The Python programs of `e2e/clients`, run with a cluster's connection.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::operator::repository;
use crate::product::Product;

/// Names the Python that has the packages of `clients/requirements.txt`.
const PYTHON_VARIABLE: &str = "FLIGHTCLUSTER_PYTHON";

/// No program takes longer, not even with a debug build on a busy machine.
const LIMIT: Duration = Duration::from_secs(300);

/// A program that runs until [`Running::finish`].
pub(crate) struct Running {
    name: String,
    child: Child,
}

impl Running {
    /// Closes the program's standard input, waits for its end, and returns the JSON it printed.
    pub(crate) async fn finish(mut self) -> Result<Value> {
        drop(self.child.stdin.take());
        let output = timeout(LIMIT, self.child.wait_with_output())
            .await
            .with_context(|| format!("{} did not end", self.name))?
            .with_context(|| format!("waiting for {}", self.name))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} failed:\n{errors}", self.name);
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("understanding what {} printed", self.name))
    }

    /// Whether the program has ended already.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        let status = self.child.try_wait().context("looking after a program")?;
        Ok(status.is_some())
    }
}

impl Product<'_> {
    /// Starts a program with the connection's folder as its first argument.
    pub(crate) async fn start(&self, program: &str, words: &[&str]) -> Result<Running> {
        let connection = self.connection().await?;
        let path = repository("e2e/clients").join(program);
        start(&path, &[&[path_text(&connection)?], words].concat())
    }

    /// Runs a program to its end and returns the JSON it printed.
    pub(crate) async fn run(&self, program: &str, words: &[&str]) -> Result<Value> {
        self.start(program, words).await?.finish().await
    }

    /// Puts rows with the ids `first..first + count`; each row is acknowledged.
    pub(crate) async fn put(&self, table: &str, first: u64, count: u64) -> Result<()> {
        self.put_at("", table, first, count).await
    }

    /// The same at one address; an empty one is that of the connection.
    pub(crate) async fn put_at(
        &self,
        uri: &str,
        table: &str,
        first: u64,
        count: u64,
    ) -> Result<()> {
        let (first, rows) = (first.to_string(), count.to_string());
        let words = ["put", table, &first, &rows, uri];
        let stored = self.run("rows.py", &words).await?;
        ensure!(
            stored == count,
            "{stored} of {count} rows were acknowledged"
        );
        Ok(())
    }

    /// The rows that answer a statement, as JSON objects.
    pub(crate) async fn query(&self, database: &str, sql: &str) -> Result<Value> {
        self.query_at("", database, sql).await
    }

    /// The same at one address; an empty one is that of the connection.
    pub(crate) async fn query_at(&self, uri: &str, database: &str, sql: &str) -> Result<Value> {
        self.run("rows.py", &["query", database, sql, uri]).await
    }
}

/// Starts a Python program whose standard output is JSON.
pub(crate) fn start(program: &Path, words: &[&str]) -> Result<Running> {
    let name = program.display().to_string();
    let child = Command::new(python()?)
        .arg("-B")
        .arg(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    Ok(Running { name, child })
}

/// A path as an argument of a program.
pub(crate) fn path_text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is no text")
}

/// The Python of the tests: named by the environment, else the one that `make test` installs.
pub(crate) fn python() -> Result<PathBuf> {
    if let Some(python) = std::env::var_os(PYTHON_VARIABLE) {
        return Ok(python.into());
    }
    let cache = match std::env::var_os("FLIGHTCLUSTER_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?)
            .join(".cache/flightcluster"),
    };
    Ok(cache.join("venv/bin/python"))
}
