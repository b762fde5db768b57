//! The data plane binary: every role of a cluster, the standalone server, and the client commands.
//!
//! Here: allocator, crypto provider, exit codes. What a role is made of is in [`roles`].

mod backup;
mod catalog_command;
mod catalog_copies;
mod cli;
mod client;
mod config_command;
mod roles;
mod token_command;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};

/// jemalloc gives memory back after bursts without the page faults that a tuned glibc costs.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The command line or configuration is wrong: nothing was started.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    // The cloud clients of the object store look for the provider of the process.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("error: another crypto provider was installed first");
        return ExitCode::FAILURE;
    }
    let command = Cli::parse().command();
    match run(command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!(
                "error: {}",
                flightcluster_server::status::chain(error.as_ref())
            );
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Standalone(args) => roles::start(flightcluster_config::Role::Standalone, &args),
        Command::Querier(args) => roles::start(flightcluster_config::Role::Querier, &args),
        Command::Ingester(args) => roles::start(flightcluster_config::Role::Ingester, &args),
        Command::Catalog(args) => match args.command {
            None => roles::start(flightcluster_config::Role::Catalog, &args.server),
            Some(command) => client_runtime()?.block_on(catalog_command::run(command)),
        },
        Command::Config(command) => Ok(config_command::run(&command)),
        Command::Token(command) => token_command::run(command),
        Command::Query(args) => client_runtime()?.block_on(client::query(args)).map(|()| OK),
        Command::Put(args) => client_runtime()?.block_on(client::put(args)).map(|()| OK),
    }
}

const OK: ExitCode = ExitCode::SUCCESS;

fn client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
