//! `flightcluster catalog backup`, `restore` and `check`: copies of a catalog, and whether it fits the
//! objects.
//!
//! They work on the database itself, so they run where the catalog is kept: in the pod of the catalog
//! process, in any pod when the catalog is in Postgres, beside a standalone server.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use flightcluster_catalog::sql::{Examination, SqlCatalog};
use flightcluster_config::{Config, ObjectStoreKind};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::backup::{self, FOLDER};
use crate::cli::ServerArgs;
use crate::roles::{catalog_file, postgres_options};

/// Most names of objects that are printed of each kind.
const MAX_NAMED: usize = 20;

/// Where the catalog is.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Which backup, and which catalog.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup: `latest` in the object store, the name of one there, or a file.
    #[arg(long, value_name = "PATH", default_value = "latest")]
    from: String,

    #[command(flatten)]
    pub(crate) server: ServerArgs,
}

/// Backs the catalog up now and says where.
pub(crate) async fn back_up(config: &Config) -> anyhow::Result<ExitCode> {
    let (catalog, store) = (open(config, false).await?, open_store(config)?);
    let (path, backup) = backup::take(&catalog, store.as_ref()).await?;
    backup::forget(store.as_ref(), &config.catalog.backup, Timestamp::now()).await?;
    println!(
        "{path}: {} rows, snapshot {}",
        backup.rows, backup.header.snapshot
    );
    Ok(ExitCode::SUCCESS)
}

/// Fills an empty catalog from a backup.
pub(crate) async fn restore(args: &RestoreArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let store = open_store(config)?;
    let (name, bytes) = read(&args.from, store.as_ref()).await?;
    let catalog = open(config, true).await?;
    let restored = catalog.restore(bytes).await?;
    catalog.close().await;
    let made = Timestamp::from_millisecond(restored.header.created_at_millis)
        .map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string());
    println!(
        "restored {name}, made at {made}: {} rows; the catalog goes on at snapshot {}\n\
         next: flightcluster catalog check, and start the cluster again",
        restored.rows, restored.snapshot
    );
    if restored.uploads > 0 {
        println!(
            "{} uploads were not finished then and wait for a week: finish those again whose finish \
             was answered, abort the others",
            restored.uploads
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn read(from: &str, store: &dyn ObjectStore) -> anyhow::Result<(String, Vec<u8>)> {
    let path = if from == "latest" {
        let newest = backup::list(store).await?.into_iter().next();
        let none = || {
            format!("there is no backup in {FOLDER} of the object store; name a file with --from")
        };
        newest.with_context(none)?.path
    } else if from.starts_with(FOLDER) {
        Path::parse(from).with_context(|| format!("{from} is no name of an object"))?
    } else {
        let bytes = std::fs::read(from).with_context(|| format!("can't read the backup {from}"))?;
        return Ok((from.to_owned(), bytes));
    };
    let failed = || format!("can't read the backup {path}");
    let found = store.get(&path).await.with_context(failed)?;
    let bytes = found.bytes().await.with_context(failed)?;
    Ok((path.to_string(), bytes.to_vec()))
}

/// Compares the catalog with the objects; the exit code is 1 when rows are lost or wrong.
pub(crate) async fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let (catalog, store) = (open(config, false).await?, open_store(config)?);
    // The catalog first: an object it names was there before.
    let examination = catalog.examine().await?;
    let objects = compare(&examination, store.as_ref()).await?;
    println!(
        "{} live files with {} bytes, {} files waiting for deletion",
        examination.live.len(),
        examination.live.values().sum::<u64>(),
        examination.leaving.len()
    );
    name_all("missing, the rows in it are lost", &objects.missing);
    name_all("of another size than committed", &objects.resized);
    if !objects.orphans.is_empty() {
        let bytes = objects.orphan_bytes;
        println!(
            "{} objects with {bytes} bytes are in no catalog: uploads under way, or written after \
             the backup that was restored; nothing deletes them before their time",
            objects.orphans.len()
        );
        name_all("in no catalog", &objects.orphans);
    }
    for problem in &examination.problems {
        println!("contradiction: {problem}");
    }
    if objects.missing.is_empty() && objects.resized.is_empty() && examination.problems.is_empty() {
        println!("every live file is there");
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

fn name_all(what: &str, paths: &[String]) {
    for path in paths.iter().take(MAX_NAMED) {
        println!("{what}: {path}");
    }
    if paths.len() > MAX_NAMED {
        println!("{what}: and {} more", paths.len() - MAX_NAMED);
    }
}

/// What the object store has, against what the catalog says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Objects {
    missing: Vec<String>,
    resized: Vec<String>,
    orphans: Vec<String>,
    orphan_bytes: u64,
}

async fn compare(examination: &Examination, store: &dyn ObjectStore) -> anyhow::Result<Objects> {
    let mut absent = examination.live.clone();
    let mut objects = Objects::default();
    let mut listing = store.list(None);
    while let Some(object) = listing
        .try_next()
        .await
        .context("can't list the object store")?
    {
        let path = object.location.to_string();
        match absent.remove(&path) {
            Some(size) if size == object.size => {}
            Some(size) => objects
                .resized
                .push(format!("{path} ({} bytes instead of {size})", object.size)),
            None if examination.leaving.contains(&path) || !path.ends_with(".parquet") => {}
            None => {
                objects.orphan_bytes += object.size;
                objects.orphans.push(path);
            }
        }
    }
    objects.missing = absent.into_keys().collect();
    objects.orphans.sort();
    Ok(objects)
}

/// The database of the catalog. `create`: also when there is none yet, and to be written to.
async fn open(config: &Config, create: bool) -> anyhow::Result<SqlCatalog> {
    if let Some(options) = postgres_options(config) {
        return Ok(SqlCatalog::open_postgres(options).await?);
    }
    if let Some(url) = &config.catalog.url {
        anyhow::bail!(
            "the catalog is kept by the process at {url}: run this there, with its configuration"
        );
    }
    let file = catalog_file(config);
    anyhow::ensure!(
        create || file.exists(),
        "there is no catalog in {}; name the data directory with --data-dir",
        file.display()
    );
    let catalog = match create {
        true => SqlCatalog::open_sqlite(&file).await,
        false => SqlCatalog::open_sqlite_to_read(&file).await,
    };
    catalog.with_context(|| format!("can't open the catalog {}", file.display()))
}

fn open_store(config: &Config) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let embedded = config.storage.object_store.kind == ObjectStoreKind::Embedded;
    if let (true, Some(url)) = (embedded, &config.catalog.url) {
        anyhow::bail!("the objects are kept by the process at {url}: run this there");
    }
    Ok(flightcluster_objectstore::open(&config.storage, None)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use object_store::PutPayload;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn objects_are_missing_resized_leaving_or_in_no_catalog() {
        let store = InMemory::new();
        for (path, content) in [
            ("d/1/fine.parquet", "12345"),
            ("d/1/short.parquet", "123"),
            ("d/1/leaving.parquet", "1"),
            ("d/2/orphan.parquet", "1234567"),
            ("_flightcluster_catalog/x.jsonl.zst", "1"),
        ] {
            let bytes = PutPayload::from(content.as_bytes().to_vec());
            store.put(&Path::from(path), bytes).await.unwrap();
        }
        let live = ["fine", "short", "gone"].map(|name| (format!("d/1/{name}.parquet"), 5));
        let examination = Examination {
            live: live.into(),
            leaving: ["d/1/leaving.parquet".to_owned()].into(),
            problems: Vec::new(),
        };
        let expected = Objects {
            missing: vec!["d/1/gone.parquet".to_owned()],
            resized: vec!["d/1/short.parquet (3 bytes instead of 5)".to_owned()],
            orphans: vec!["d/2/orphan.parquet".to_owned()],
            orphan_bytes: 7,
        };
        assert_eq!(compare(&examination, &store).await.unwrap(), expected);
    }
}
