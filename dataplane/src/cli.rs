//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use flightcluster_config::{FlagValue, Role};

use crate::catalog_command::CatalogCommand;
use crate::client::{PutArgs, QueryArgs};
use crate::token_command::TokenCommand;

/// Arrow Flight SQL service: durable ingest by DoPut, SQL over fresh and stored rows.
///
/// Without a command it starts `standalone`: everything in one process on 127.0.0.1:17001, without
/// any configuration.
#[derive(Debug, Parser)]
#[command(name = "flightcluster", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// The command to run.
    pub(crate) fn command(self) -> Command {
        self.command
            .unwrap_or_else(|| Command::Standalone(ServerArgs::default()))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process; the default.
    Standalone(ServerArgs),
    /// Answer SQL queries in a cluster.
    Querier(ServerArgs),
    /// Accept and store rows in a cluster.
    Ingester(ServerArgs),
    /// Serve the embedded catalog and object store to the other pods of a cluster, or mend a catalog.
    Catalog(Box<CatalogArgs>),
    /// Check or print the configuration a server would run with.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make access tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Run a SQL statement and print its result.
    Query(QueryArgs),
    /// Upload a file and wait until every row is durable.
    Put(PutArgs),
}

/// Flags of a server. Every setting can also be given by file or by an environment variable; see
/// `flightcluster config print`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServerArgs {
    /// YAML configuration file; later ones override earlier ones.
    #[arg(long = "config", value_name = "FILE")]
    pub(crate) config: Vec<PathBuf>,

    /// Directory for everything kept on disk [setting storage.data_dir].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,

    /// Address of the Flight port; port 0 takes a free one [settings server.listen_host, listen_port].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,

    /// Address of the port for health and metrics [settings admin.listen_host, listen_port].
    #[arg(long, value_name = "HOST:PORT")]
    admin_listen: Option<String>,

    /// Address of the port for the other pods [settings internal.listen_host, listen_port].
    #[arg(long, value_name = "HOST:PORT")]
    internal_listen: Option<String>,

    /// Format of the log: auto, json or pretty [setting log.format].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,

    /// What is logged, such as info or info,flightcluster_wal=debug [setting log.filter].
    #[arg(long, value_name = "FILTER")]
    log_filter: Option<String>,

    /// Any setting by its name, such as ingest.flush_interval=10s; may be repeated.
    #[arg(long = "set", value_name = "SETTING=VALUE")]
    set: Vec<String>,

    /// Write the ports that were bound to this file, as JSON, when the server is ready.
    #[arg(long, value_name = "FILE")]
    pub(crate) port_file: Option<PathBuf>,
}

impl ServerArgs {
    /// The settings given by flags.
    ///
    /// # Errors
    /// A line that names the flag.
    pub(crate) fn flags(&self) -> Result<Vec<FlagValue>, String> {
        let mut flags = Vec::new();
        let plain = [
            ("--data-dir", "storage.data_dir", &self.data_dir),
            ("--log-format", "log.format", &self.log_format),
            ("--log-filter", "log.filter", &self.log_filter),
        ];
        for (flag, setting, value) in plain {
            if let Some(value) = value {
                flags.push(FlagValue::new(flag, setting, value));
            }
        }
        let addresses = [
            ("--listen", "server", &self.listen),
            ("--admin-listen", "admin", &self.admin_listen),
            ("--internal-listen", "internal", &self.internal_listen),
        ];
        for (flag, section, value) in addresses {
            let Some(value) = value else { continue };
            let (host, port) = value
                .rsplit_once(':')
                .filter(|(host, _)| !host.is_empty())
                .ok_or_else(|| format!("{flag} {value:?} is not HOST:PORT"))?;
            // An IPv6 address is written in brackets here and without them in the setting.
            let host = host.trim_start_matches('[').trim_end_matches(']');
            flags.push(FlagValue::new(flag, format!("{section}.listen_host"), host));
            flags.push(FlagValue::new(flag, format!("{section}.listen_port"), port));
        }
        if self.internal_listen.is_some() {
            flags.push(FlagValue::new(
                "--internal-listen",
                "internal.enabled",
                "true",
            ));
        }
        for assignment in &self.set {
            let (setting, value) = assignment
                .split_once('=')
                .ok_or_else(|| format!("--set {assignment:?} is not SETTING=VALUE"))?;
            flags.push(FlagValue::new("--set", setting, value));
        }
        Ok(flags)
    }
}

/// The role without a command, a task on a catalog with one.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct CatalogArgs {
    /// What to do; without it the catalog is served.
    #[command(subcommand)]
    pub(crate) command: Option<CatalogCommand>,

    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check it; exit code 2 and one line for each problem when it is wrong.
    Check(ConfigArgs),
    /// Print it with everything filled in.
    Print {
        #[command(flatten)]
        args: ConfigArgs,
        /// Say for each value where it comes from.
        #[arg(long)]
        origin: bool,
    },
}

/// Which configuration.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Role it is for: standalone, querier, ingester or catalog.
    #[arg(long, default_value = "standalone")]
    pub(crate) role: Role,

    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn no_command_means_standalone() {
        assert!(matches!(
            Cli::parse_from(["flightcluster"]).command(),
            Command::Standalone(_)
        ));
    }

    #[test]
    fn catalog_serves_unless_it_is_told_otherwise() {
        let parse = |args: &[&str]| Cli::try_parse_from(args).map(Cli::command);
        let served = parse(&["flightcluster", "catalog", "--data-dir", "/d"]).unwrap();
        let Command::Catalog(served) = served else {
            panic!()
        };
        assert!(served.command.is_none() && served.server.flags().unwrap().len() == 1);
        let task = parse(&["flightcluster", "catalog", "retire", "ingester-0"]).unwrap();
        assert!(matches!(task, Command::Catalog(args) if args.command.is_some()));
        let task = parse(&["flightcluster", "catalog", "readmit", "ingester-0"]).unwrap();
        assert!(matches!(task, Command::Catalog(args) if args.command.is_some()));
    }

    fn flags(args: &[&str]) -> Result<Vec<FlagValue>, String> {
        let args = ["flightcluster", "standalone"].iter().chain(args);
        let Command::Standalone(server) = Cli::parse_from(args).command() else {
            panic!()
        };
        server.flags()
    }

    #[test]
    fn addresses_become_host_and_port() {
        let flags = flags(&["--listen", "[::1]:0"]).unwrap();
        assert_eq!(
            flags[0],
            FlagValue::new("--listen", "server.listen_host", "::1")
        );
        assert_eq!(
            flags[1],
            FlagValue::new("--listen", "server.listen_port", "0")
        );
    }

    #[test]
    fn a_malformed_flag_is_named() {
        assert!(
            flags(&["--listen", "17001"])
                .unwrap_err()
                .contains("--listen")
        );
        assert!(
            flags(&["--set", "x"])
                .unwrap_err()
                .contains("SETTING=VALUE")
        );
    }

    /// `docs/reference/cli.md` is generated from here.
    #[test]
    fn the_command_reference_is_up_to_date() {
        let mut page =
            String::from("# Command line\n\nGenerated from `dataplane/src/cli.rs`; do not edit.\n");
        let mut root = <Cli as CommandFactory>::command();
        root.build();
        describe(&mut root, &mut page);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/cli.md");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            committed, page,
            "run with UPDATE_EXPECT=1 and commit docs/reference/cli.md"
        );
    }

    fn describe(command: &mut clap::Command, page: &mut String) {
        if command.get_name() == "help" {
            return;
        }
        let name = command.get_bin_name().unwrap_or("flightcluster").to_owned();
        let help = command.render_long_help().to_string();
        let help: Vec<_> = help.lines().map(str::trim_end).collect();
        page.push_str(&format!(
            "\n## {name}\n\n```text\n{}\n```\n",
            help.join("\n")
        ));
        for subcommand in command.get_subcommands_mut() {
            describe(subcommand, page);
        }
    }
}
