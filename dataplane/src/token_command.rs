//! `flightcluster token create`: makes a token and its entry for a token file.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use flightcluster_auth::{Permission, generate_token};
use jiff::Timestamp;

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token; it is shown once and kept nowhere.
    Create(CreateArgs),
}

/// The token to make.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Name by which the token is known in logs.
    #[arg(long)]
    name: String,

    /// Right it gives, as read:DATABASE, write:DATABASE or admin:DATABASE, where DATABASE may be *
    /// or end with *; may be repeated.
    #[arg(long = "permission", value_name = "RIGHT:DATABASE", required = true)]
    permissions: Vec<Permission>,

    /// When it stops to be valid, such as 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

/// Prints the token on standard output and the entry for the token file after it.
pub(crate) fn run(command: TokenCommand) -> anyhow::Result<ExitCode> {
    let TokenCommand::Create(CreateArgs {
        name,
        permissions,
        expires,
    }) = command;
    let expires = expires
        .map(|text| text.parse::<Timestamp>())
        .transpose()
        .context("--expires is not a time such as 2027-01-31T00:00:00Z")?;
    let (token, entry) = generate_token(&name, &permissions, expires)?;
    println!("Token, shown only now:\n\n  {}\n", token.expose());
    println!(
        "Entry for the token file (setting auth.token_file):\n\n{}",
        entry.to_yaml()
    );
    Ok(ExitCode::SUCCESS)
}
