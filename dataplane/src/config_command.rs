//! `flightcluster config check` and `config print`: what a server would run with.

use std::process::ExitCode;

use flightcluster_config::{Config, LoadOptions, Loaded, Role, load, process_env, to_yaml_full};
use flightcluster_server::status::chain;

use crate::EXIT_USAGE;
use crate::cli::{ConfigCommand, ServerArgs};

/// Runs the command; the exit code is 2 when the configuration is wrong.
pub(crate) fn run(command: &ConfigCommand) -> ExitCode {
    let (args, print, origin) = match command {
        ConfigCommand::Check(args) => (args, false, false),
        ConfigCommand::Print { args, origin } => (args, true, *origin),
    };
    match read(args.role, &args.server) {
        Ok(loaded) if print && origin => print!("{}", loaded.to_yaml_with_origins()),
        Ok(loaded) if print => print!("{}", to_yaml_full(&loaded.config)),
        Ok(_) => println!("the configuration of role {} is valid", args.role),
        Err(problem) => return refuse(&problem),
    }
    ExitCode::SUCCESS
}

/// Reads the configuration from all its layers and checks it for `role`.
///
/// # Errors
/// One line that names the settings, where they came from, and the cure.
pub(crate) fn read(role: Role, args: &ServerArgs) -> Result<Loaded, String> {
    let loaded = load_layers(role, args)?;
    loaded
        .validate(role)
        .map_err(|problems| problems.to_string())?;
    flightcluster_telemetry::log::check_filter(&loaded.config.log.filter)
        .map_err(|error| format!("log.filter: {}", chain(&error)))?;
    Ok(loaded)
}

/// Reads the configuration for a task that needs little of it: only what can't be read is refused.
///
/// # Errors
/// One line that names the settings, where they came from, and the cure.
pub(crate) fn load_only(args: &ServerArgs) -> Result<Config, String> {
    load_layers(Role::Standalone, args).map(|loaded| loaded.config)
}

fn load_layers(role: Role, args: &ServerArgs) -> Result<Loaded, String> {
    let options = LoadOptions {
        files: args.config.clone(),
        env: process_env().map_err(|error| chain(&error))?,
        flags: args.flags()?,
        role: Some(role),
    };
    load(&options).map_err(|error| chain(&error))
}

/// Tells the user and gives the exit code for it.
pub(crate) fn refuse(problem: &str) -> ExitCode {
    eprintln!("error: {problem}");
    ExitCode::from(EXIT_USAGE)
}
