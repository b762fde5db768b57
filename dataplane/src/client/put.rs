//! `flightcluster put`: uploads a file by DoPut and waits until every batch is durable.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail};
use arrow_flight::encode::{DictionaryHandling, FlightDataEncoderBuilder};
use arrow_flight::error::FlightError;
use arrow_flight::{FlightDescriptor, PutResult};
use clap::Args;
use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use super::connection::{ConnectionArgs, call_error};
use super::read;

/// Batches read ahead of the network.
const READ_AHEAD: usize = 4;

/// Arguments of `flightcluster put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// File to upload: Parquet, CSV with a header line, Arrow IPC, or newline-delimited JSON.
    file: PathBuf,

    /// Table to append to; it is created when it does not exist.
    #[arg(long)]
    table: String,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// What the server says of each batch in `app_metadata`.
#[derive(Debug, Deserialize)]
struct Acknowledgement {
    rows: u64,
}

/// Uploads the file; returns when every row is durable.
pub(crate) async fn put(args: PutArgs) -> anyhow::Result<()> {
    let file = args.file.clone();
    let rows = tokio::task::spawn_blocking(move || read::open(&file)).await??;
    let mut client = args.connection.connect().await?;
    let progress = progress_bar(rows.total_rows);
    let began = Instant::now();

    let descriptor =
        FlightDescriptor::new_path(vec![args.connection.database.clone(), args.table.clone()]);
    // A broken file must fail the upload, not just end it: the error is kept and told afterwards.
    let (sender, receiver) = tokio::sync::mpsc::channel(READ_AHEAD);
    let batches = rows.batches;
    let reader = tokio::task::spawn_blocking(move || -> anyhow::Result<u64> {
        let mut rows = 0;
        for batch in batches {
            let batch = batch?;
            rows += batch.num_rows() as u64;
            if sender.blocking_send(batch).is_err() {
                break;
            }
        }
        Ok(rows)
    });
    let batches = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let messages = FlightDataEncoderBuilder::new()
        .with_schema(rows.schema)
        .with_flight_descriptor(Some(descriptor))
        .with_dictionary_handling(DictionaryHandling::Resend)
        .build(batches.map(Ok::<_, FlightError>))
        // A batch that can't be encoded ends the upload; the count below tells.
        .take_while(|message| std::future::ready(message.is_ok()))
        .filter_map(|message| std::future::ready(message.ok()));
    let response = client
        .do_put(messages)
        .await
        .map_err(|status| call_error(&status))?;
    let mut results = response.into_inner().map_err(|status| call_error(&status));
    let mut stored = 0;
    while let Some(result) = results.try_next().await? {
        stored += rows_of(&result)?;
        progress.set_position(stored);
    }
    progress.finish_and_clear();
    let read = reader.await?.with_context(|| {
        format!(
            "can't read {}; its first {stored} rows are stored",
            args.file.display()
        )
    })?;
    if read != stored {
        bail!(
            "only {stored} of {read} rows of {} are stored",
            args.file.display()
        );
    }
    println!(
        "{stored} rows stored in {}.{} in {:.3} s",
        args.connection.database,
        args.table,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn rows_of(result: &PutResult) -> anyhow::Result<u64> {
    let acknowledgement: Acknowledgement = serde_json::from_slice(&result.app_metadata)
        .context("the server acknowledged in an unknown way")?;
    Ok(acknowledgement.rows)
}

fn progress_bar(total_rows: Option<u64>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match total_rows {
        Some(rows) => (
            ProgressBar::new(rows),
            "{bar:40} {human_pos}/{human_len} rows {eta}",
        ),
        None => (
            ProgressBar::new_spinner(),
            "{spinner} {human_pos} rows {elapsed}",
        ),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
