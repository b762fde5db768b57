//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use flightcluster_telemetry::log::Format;

use crate::controller::validate::Defaults;

/// Runs FlightClusters on Kubernetes: makes their objects and keeps them right.
#[derive(Debug, Parser)]
#[command(
    name = "flightcluster-operator",
    version,
    arg_required_else_help = true
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch FlightClusters and carry out their specs, until SIGTERM.
    ///
    /// Uses the kubeconfig that KUBECONFIG names, or ~/.kube/config, or, in a pod, the
    /// ServiceAccount.
    Run(RunArguments),
    /// Print the objects that the operator would make for a FlightCluster, without an API server.
    ///
    /// Values in <placeholder: …> are made by the operator in the cluster: keys, certificates,
    /// tokens. Secrets that the spec names are taken to be there.
    Render(RenderArguments),
    /// Print the CustomResourceDefinition, for `kubectl apply -f -`.
    Crds,
}

/// What a spec leaves open.
#[derive(Debug, Clone, Args)]
pub struct DefaultArguments {
    /// The image of the data plane for new clusters that name none.
    #[arg(
        long,
        env = "FLIGHTCLUSTER_OPERATOR_IMAGE",
        value_name = "REFERENCE",
        default_value = concat!("localhost/flightcluster:", env!("CARGO_PKG_VERSION"))
    )]
    pub image: String,

    /// The DNS suffix of the Kubernetes cluster.
    #[arg(
        long,
        env = "FLIGHTCLUSTER_OPERATOR_CLUSTER_DOMAIN",
        value_name = "DOMAIN",
        default_value = "cluster.local"
    )]
    pub cluster_domain: String,
}

impl From<DefaultArguments> for Defaults {
    fn from(
        DefaultArguments {
            image,
            cluster_domain,
        }: DefaultArguments,
    ) -> Self {
        Self {
            image,
            cluster_domain,
        }
    }
}

/// Arguments of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArguments {
    /// What a spec leaves open.
    #[command(flatten)]
    pub defaults: DefaultArguments,

    /// A namespace to watch; repeat it or separate several by commas. Default: all.
    #[arg(
        long = "watch-namespace",
        env = "FLIGHTCLUSTER_OPERATOR_WATCH_NAMESPACES",
        value_name = "NAMESPACE",
        value_delimiter = ','
    )]
    pub watch_namespaces: Vec<String>,

    /// Where /startup, /ready, /live and /metrics are served; port 0 takes any free one.
    #[arg(
        long,
        env = "FLIGHTCLUSTER_OPERATOR_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:17201"
    )]
    pub listen: SocketAddr,

    /// A file to write {"admin": PORT} into when the port is bound.
    #[arg(long, value_name = "FILE")]
    pub port_file: Option<PathBuf>,

    /// Work without asking whether another operator already does.
    #[arg(long, env = "FLIGHTCLUSTER_OPERATOR_NO_LEADER_ELECTION")]
    pub no_leader_election: bool,

    /// The Lease by which operators agree on who works.
    #[arg(
        long,
        env = "FLIGHTCLUSTER_OPERATOR_LEASE_NAME",
        value_name = "NAME",
        default_value = "flightcluster-operator"
    )]
    pub lease_name: String,

    /// The namespace of the Lease. Default: that of the pod, or of the kubeconfig.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,

    /// The name of this process among operators. Default: the host name.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,

    /// The form of log lines: auto, json or pretty.
    #[arg(
        long,
        env = "FLIGHTCLUSTER_OPERATOR_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto"
    )]
    pub log_format: Format,

    /// Which log lines are written: a level, or levels by module (`info,kube=debug`).
    #[arg(
        long,
        env = "FLIGHTCLUSTER_OPERATOR_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub log: String,
}

/// Arguments of `render`.
#[derive(Debug, Clone, Args)]
pub struct RenderArguments {
    /// What a spec leaves open.
    #[command(flatten)]
    pub defaults: DefaultArguments,

    /// The file with the FlightCluster; `-` reads standard input. Documents of other kinds in it
    /// are passed over.
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub filename: PathBuf,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use clap::CommandFactory;

    use super::*;

    /// Columns of the page, whatever the terminal of the test has.
    const PAGE_WIDTH: usize = 100;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    /// `docs/reference/operator-cli.md` is generated from here.
    #[test]
    fn the_command_reference_of_the_operator_is_up_to_date() {
        let mut page = String::from(
            "# Command line of the operator\n\nGenerated from `operator/src/args.rs`; do not edit.\n",
        );
        let mut root = Arguments::command();
        root.build();
        describe(&mut root, &mut page);
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/reference/operator-cli.md"
        );
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(
            committed, page,
            "run with UPDATE_EXPECT=1 and commit docs/reference/operator-cli.md"
        );
    }

    fn describe(command: &mut clap::Command, page: &mut String) {
        if command.get_name() == "help" {
            return;
        }
        // What the variables hold right now is none of the page's business.
        let hidden = |argument: clap::Arg| argument.hide_env_values(true);
        let mut shown = command.clone().mut_args(hidden).term_width(PAGE_WIDTH);
        let name = command
            .get_bin_name()
            .unwrap_or("flightcluster-operator")
            .to_owned();
        let help = shown.render_long_help().to_string();
        let help: Vec<_> = help.lines().map(str::trim_end).collect();
        page.push_str(&format!(
            "\n## {name}\n\n```text\n{}\n```\n",
            help.join("\n")
        ));
        for subcommand in command.get_subcommands_mut() {
            describe(subcommand, page);
        }
    }

    #[test]
    fn namespaces_can_be_repeated_or_separated_by_commas() {
        let line = [
            "x",
            "run",
            "--watch-namespace",
            "a,b",
            "--watch-namespace",
            "c",
        ];
        let Command::Run(run) = Arguments::try_parse_from(line).unwrap().command else {
            panic!("run");
        };
        assert_eq!(run.watch_namespaces, ["a", "b", "c"]);
    }
}
