//! `flightcluster catalog COMMAND`: what the operator of a cluster does to a catalog by hand.
//!
//! A catalog is reached as the roles reach it: with `catalog.url` through the internal port of the
//! catalog process, else in Postgres or as the file below the data directory.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use flightcluster_catalog::Catalog;
use flightcluster_catalog::remote::{RemoteCatalog, RemoteOptions};
use flightcluster_catalog::sql::SqlCatalog;
use flightcluster_config::Config;
use flightcluster_wal::{RealDisk, WalDirectory};

use crate::catalog_copies::{self, CopyArgs, RestoreArgs};
use crate::cli::ServerArgs;
use crate::config_command::{load_only, refuse};
use crate::roles::{catalog_file, peer_tls, postgres_options, wal_directory};

/// A task on a catalog.
#[derive(Debug, Subcommand)]
pub(crate) enum CatalogCommand {
    /// Give up an ingester that never comes back, so that queries no longer wait for it.
    Retire(RetireArgs),
    /// Let an ingester go on with its log on a catalog that is older than it: restored, or set back.
    Readmit(ReadmitArgs),
    /// Copy the catalog into the object store now. Running servers are not disturbed.
    Backup(CopyArgs),
    /// Fill an empty catalog from a backup.
    Restore(RestoreArgs),
    /// Compare the catalog with the objects; exit code 1 when rows are lost or wrong.
    Check(CopyArgs),
}

impl CatalogCommand {
    fn server(&self) -> &ServerArgs {
        match self {
            Self::Retire(args) => &args.server,
            Self::Readmit(args) => &args.server,
            Self::Backup(args) | Self::Check(args) => &args.server,
            Self::Restore(args) => &args.server,
        }
    }
}

/// Which ingester, and of which catalog.
#[derive(Debug, Args)]
pub(crate) struct RetireArgs {
    /// Name of the ingester: of its pod in a cluster, `standalone` for a standalone server.
    name: String,

    /// Also when the ingester did not stop in order: rows that it acknowledged and that are only in
    /// its write-ahead log are missing from then on.
    #[arg(long)]
    accept_loss: bool,

    #[command(flatten)]
    server: ServerArgs,
}

/// Which ingester, and of which catalog.
#[derive(Debug, Args)]
pub(crate) struct ReadmitArgs {
    /// Name of the ingester: of its pod in a cluster, `standalone` for a standalone server.
    name: String,

    #[command(flatten)]
    server: ServerArgs,
}

/// Runs a task; the exit code is 2 when the configuration is wrong.
pub(crate) async fn run(command: CatalogCommand) -> anyhow::Result<ExitCode> {
    let config = match load_only(command.server()) {
        Ok(config) => config,
        Err(problem) => return Ok(refuse(&problem)),
    };
    match command {
        CatalogCommand::Retire(args) => {
            let tls = match peer_tls(&config) {
                Ok(tls) => tls,
                Err(problem) => return Ok(refuse(&problem)),
            };
            retire(&args, &config, tls).await?;
            Ok(ExitCode::SUCCESS)
        }
        CatalogCommand::Readmit(args) => {
            let tls = match peer_tls(&config) {
                Ok(tls) => tls,
                Err(problem) => return Ok(refuse(&problem)),
            };
            let catalog = open(&config, tls).await?;
            let readmitted = catalog.readmit_ingester(&args.name).await?;
            println!(
                "ingester {} may go on with its log: start it; until then queries and producers wait for it",
                readmitted.name
            );
            Ok(ExitCode::SUCCESS)
        }
        CatalogCommand::Backup(_) => catalog_copies::back_up(&config).await,
        CatalogCommand::Restore(args) => {
            // A standalone server that runs here would go on with what it remembers.
            let _log = lock_log(&wal_directory(&config))?;
            catalog_copies::restore(&args, &config).await
        }
        CatalogCommand::Check(_) => catalog_copies::check(&config).await,
    }
}

async fn retire(
    args: &RetireArgs,
    config: &Config,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> anyhow::Result<()> {
    // A process that still runs on the log is alive: its rows are not lost, and must not get lost.
    let _log = lock_log(&wal_directory(config))?;
    let catalog = open(config, tls).await?;
    let retired = catalog
        .retire_ingester(&args.name, args.accept_loss)
        .await?;
    println!(
        "ingester {} is retired; queries no longer ask it",
        retired.name
    );
    Ok(())
}

/// The catalog the configuration names.
async fn open(
    config: &Config,
    tls: Option<Arc<rustls::ClientConfig>>,
) -> anyhow::Result<Arc<dyn Catalog>> {
    if let Some(url) = &config.catalog.url {
        let timeout = config.catalog.request_timeout;
        return Ok(Arc::new(RemoteCatalog::new(
            url,
            RemoteOptions { tls, timeout },
        )?));
    }
    if let Some(options) = postgres_options(config) {
        return Ok(Arc::new(SqlCatalog::open_postgres(options).await?));
    }
    let file = catalog_file(config);
    anyhow::ensure!(
        file.exists(),
        "there is no catalog in {}; name the data directory with --data-dir, or the catalog process \
         with --set catalog.url=https://HOST:17002",
        file.display()
    );
    let catalog = SqlCatalog::open_sqlite(&file).await;
    let catalog = catalog.with_context(|| format!("can't open the catalog {}", file.display()))?;
    Ok(Arc::new(catalog))
}

/// Keeps the write-ahead log of this data directory, if there is one, from being used.
fn lock_log(directory: &Path) -> anyhow::Result<Option<WalDirectory>> {
    if !directory.exists() {
        return Ok(None);
    }
    Ok(Some(WalDirectory::lock(directory, Arc::new(RealDisk))?))
}
