//! `flightcluster-node`: a real one-node Kubernetes on this machine, in private namespaces.
//!
//! Only the command line is here; what the commands do is in the library's `runner` and `image`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use flightcluster_e2e::image::base::Freshness;
use flightcluster_e2e::image::catalogue;
use flightcluster_e2e::places::{NodeFolder, Places};
use flightcluster_e2e::runner::{self, Purpose, RunOptions, detached, inside};

/// The node of `up`, `down` and `exec` when no name is given.
const DEFAULT_NAME: &str = "cluster";

/// A real one-node Kubernetes on this machine, in private namespaces, for tests and for trying
/// things out. Needs root. Tools come from e2e/tools/build.sh, Debian packages from e2e/setup.sh.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, clap::Args)]
struct Product {
    /// Folder with the binaries flightcluster and flightcluster-operator, of which the image
    /// localhost/flightcluster:dev is made. Default: this program's own folder, if they are there.
    #[arg(long, env = "FLIGHTCLUSTER_BINARIES")]
    binaries: Option<PathBuf>,
}

impl Product {
    fn folder(self) -> Option<PathBuf> {
        self.binaries
            .or_else(catalogue::binaries_beside_this_program)
    }
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Bring a node up, run a command inside, remove everything, return the command's exit code.
    ///
    /// The command finds KUBECONFIG and PATH (kubectl, helm, versitygw) set; cluster IPs and the
    /// cluster's DNS names work for it as they do in a pod.
    Run {
        /// The node's name; the default is another one for every run.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        product: Product,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Start a node in the background and print how to use it.
    Up {
        /// The node's name.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        #[command(flatten)]
        product: Product,
    },
    /// End a node started by `up` and remove every trace of it.
    Down {
        /// The node's name.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
    },
    /// Run a command inside a node started by `up`.
    Exec {
        /// The node's name.
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Write the product's container image as an OCI archive.
    Image {
        #[command(flatten)]
        product: Product,
        /// The archive to write; by default images/flightcluster.tar in the cache folder.
        path: Option<PathBuf>,
    },
    #[command(hide = true)]
    Hold {
        #[arg(long)]
        name: String,
        #[arg(long)]
        binaries: Option<PathBuf>,
    },
    #[command(hide = true)]
    Init {
        folder: PathBuf,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    #[command(hide = true)]
    Serve {
        folder: PathBuf,
        #[arg(last = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("flightcluster-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<u8> {
    let places = Places::from_environment()?;
    match action {
        Action::Run {
            name,
            product,
            command,
        } => {
            let options = RunOptions {
                name: name.unwrap_or_else(run_name),
                binaries: product.folder(),
                purpose: Purpose::Command(command),
            };
            runtime()?.block_on(runner::run(&places, &options))
        }
        Action::Hold { name, binaries } => {
            let options = RunOptions {
                name,
                binaries,
                purpose: Purpose::Hold,
            };
            runtime()?.block_on(runner::run(&places, &options))
        }
        Action::Init { folder, command } => inside::init(&folder, &command),
        Action::Serve { folder, command } => {
            let folder = NodeFolder::new(folder);
            runtime()?.block_on(inside::serve(&places, &folder, &command))
        }
        Action::Up { name, product } => {
            let enter = detached::up(&places, &name, product.folder().as_deref())?;
            let enter = enter.display();
            println!(
                "The node is Ready. Everything after this script runs inside it:\n\n  \
                 {enter} kubectl get nodes\n  {enter} helm list --all-namespaces\n  {enter} bash"
            );
            Ok(0)
        }
        Action::Down { name } => {
            let was = detached::down(&places, &name)?;
            println!(
                "{}",
                if was {
                    "The node is gone."
                } else {
                    "No node was running."
                }
            );
            Ok(0)
        }
        Action::Exec { name, command } => {
            detached::exec(&places, &name, &command)?;
            Ok(0)
        }
        Action::Image { product, path } => {
            let binaries = product.folder().context(
                "the binaries flightcluster and flightcluster-operator are not beside this \
                 program: name their folder with --binaries",
            )?;
            let path = path.unwrap_or_else(|| places.product_image());
            catalogue::write_product(&places, &binaries, &path, Freshness::Newest, true)?;
            println!("{} holds {}", path.display(), catalogue::PRODUCT);
            Ok(0)
        }
    }
}

/// One thread: the kernel's tie between this process and the node is to the thread that started it.
fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")
}

/// A name that no run before had, so that dumps of different runs stay apart.
fn run_name() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("run-{}-{}", now.as_secs(), std::process::id())
}
