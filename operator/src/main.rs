//! The operator's binary: command line, logger, crypto provider, exit code.

use std::io::{Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use flightcluster_operator::args::{Arguments, Command, RenderArguments, RunArguments};
use flightcluster_operator::{render, run};
use flightcluster_telemetry::log;

/// The exit code for what the user has to put right.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => start(arguments),
        Command::Render(arguments) => print_rendered(arguments),
        Command::Crds => print_definition(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where there is no more logger than this; the chain in one line.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            let is_users = error.downcast_ref::<render::Error>().is_some()
                || error.downcast_ref::<log::Error>().is_some();
            if is_users {
                ExitCode::from(USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn start(arguments: RunArguments) -> anyhow::Result<()> {
    log::init(arguments.log_format, &arguments.log)?;
    // The only provider in this binary; it fails only when one is already set.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    runtime.block_on(Box::pin(run::run(arguments)))
}

fn print_rendered(arguments: RenderArguments) -> anyhow::Result<()> {
    let RenderArguments { defaults, filename } = arguments;
    let text = if filename == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("reading standard input")?;
        text
    } else {
        std::fs::read_to_string(&filename)
            .with_context(|| format!("reading {}", filename.display()))?
    };
    let rendered = render::render(&text, &defaults.into())?;
    print(&rendered)
}

fn print_definition() -> anyhow::Result<()> {
    print(&flightcluster_crds::definition_yaml()?)
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("writing to standard output")
}
