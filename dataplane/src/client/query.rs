//! `flightcluster query`: runs one statement over Flight SQL and prints the result.

use std::io::{IsTerminal as _, Write};
use std::time::{Duration, Instant};

use arrow::csv;
use arrow::json::{LineDelimitedWriter, writer::LineDelimited};
use arrow::util::pretty::pretty_format_batches_with_schema;
use arrow_array::RecordBatch;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt as _};
use arrow_flight::{FlightDescriptor, FlightInfo};
use arrow_schema::SchemaRef;
use clap::{Args, ValueEnum};
use futures::{StreamExt as _, TryStreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};

use super::connection::{Client, ConnectionArgs, call_error};

/// Arguments of `flightcluster query`.
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// The SQL statement.
    sql: String,

    /// How to print the result.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,

    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Output formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people; holds the whole result in memory.
    Table,
    /// CSV with a header line.
    Csv,
    /// One JSON object a line.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

/// Runs the statement and prints its result to standard output.
pub(crate) async fn query(args: QueryArgs) -> anyhow::Result<()> {
    let mut client = args.connection.connect().await?;
    let progress = progress_bar(args.format);
    let began = Instant::now();
    let command = CommandStatementQuery {
        query: args.sql,
        transaction_id: None,
    };
    let descriptor = FlightDescriptor::new_cmd(prost::Message::encode_to_vec(&command.as_any()));
    let info = client
        .get_flight_info(descriptor)
        .await
        .map_err(|status| call_error(&status))?
        .into_inner();
    let mut printer = Printer::new(args.format, std::io::stdout().lock());
    let rows = read_all(&mut client, info, &progress, &mut printer).await?;
    progress.finish_and_clear();
    printer.finish()?;
    if args.format == Format::Table {
        println!("{rows} rows in {:.3} s", began.elapsed().as_secs_f64());
    }
    Ok(())
}

async fn read_all<W: Write>(
    client: &mut Client,
    info: FlightInfo,
    progress: &ProgressBar,
    printer: &mut Printer<W>,
) -> anyhow::Result<usize> {
    let mut rows = 0;
    for endpoint in info.endpoint {
        let Some(ticket) = endpoint.ticket else {
            continue;
        };
        let response = client
            .do_get(ticket)
            .await
            .map_err(|status| call_error(&status))?;
        let messages = response.into_inner().map_err(FlightError::from);
        let mut batches = FlightRecordBatchStream::new_from_flight_data(messages);
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(flight_error)?;
            rows += batch.num_rows();
            progress.set_message(format!("{rows} rows"));
            printer.print(batch)?;
        }
        if let Some(schema) = batches.schema() {
            printer.schema(schema);
        }
    }
    Ok(rows)
}

/// The error of a broken result stream.
fn flight_error(error: FlightError) -> anyhow::Error {
    match error {
        FlightError::Tonic(status) => call_error(&status),
        other => anyhow::Error::new(other).context("the result can't be read"),
    }
}

/// A spinner on standard error, only for a person who waits. Rows that are printed as they come show
/// the progress themselves.
fn progress_bar(format: Format) -> ProgressBar {
    let prints_rows = format != Format::Table && std::io::stdout().is_terminal();
    if prints_rows || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Writes batches in one format.
struct Printer<W: Write> {
    format: Format,
    out: Option<W>,
    schema: Option<SchemaRef>,
    held: Vec<RecordBatch>,
    csv: Option<csv::Writer<W>>,
    json: Option<arrow::json::Writer<W, LineDelimited>>,
    arrow: Option<arrow::ipc::writer::StreamWriter<W>>,
}

impl<W: Write> Printer<W> {
    fn new(format: Format, out: W) -> Self {
        let mut printer = Self {
            format,
            out: Some(out),
            schema: None,
            held: Vec::new(),
            csv: None,
            json: None,
            arrow: None,
        };
        match format {
            Format::Csv => printer.csv = printer.out.take().map(csv::Writer::new),
            Format::Json => printer.json = printer.out.take().map(LineDelimitedWriter::new),
            Format::Table | Format::Arrow => {}
        }
        printer
    }

    /// Tells the schema of a result that may have no rows.
    fn schema(&mut self, schema: &SchemaRef) {
        self.schema.get_or_insert_with(|| SchemaRef::clone(schema));
    }

    fn print(&mut self, batch: RecordBatch) -> anyhow::Result<()> {
        self.schema(&batch.schema());
        match self.format {
            Format::Table => self.held.push(batch),
            Format::Csv => {
                if let Some(csv) = &mut self.csv {
                    csv.write(&batch)?;
                }
            }
            Format::Json => {
                if let Some(json) = &mut self.json {
                    json.write(&batch)?;
                }
            }
            Format::Arrow => {
                self.open_arrow()?;
                if let Some(arrow) = &mut self.arrow {
                    arrow.write(&batch)?;
                }
            }
        }
        Ok(())
    }

    fn open_arrow(&mut self) -> anyhow::Result<()> {
        if let (Some(schema), Some(out)) = (&self.schema, self.out.take()) {
            self.arrow = Some(arrow::ipc::writer::StreamWriter::try_new(out, schema)?);
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<()> {
        match self.format {
            Format::Table => {
                if let (Some(schema), Some(mut out)) = (self.schema, self.out)
                    && !schema.fields().is_empty()
                {
                    writeln!(
                        out,
                        "{}",
                        pretty_format_batches_with_schema(schema, &self.held)?
                    )?;
                }
            }
            Format::Csv => {
                // The header of an empty result, then what is buffered.
                if let (Some(csv), Some(schema)) = (&mut self.csv, self.schema)
                    && !schema.fields().is_empty()
                {
                    csv.write(&RecordBatch::new_empty(schema))?;
                }
            }
            Format::Json => {
                if let Some(json) = &mut self.json {
                    json.finish()?;
                }
            }
            Format::Arrow => {
                self.open_arrow()?;
                if let Some(arrow) = &mut self.arrow {
                    arrow.finish()?;
                }
            }
        }
        Ok(())
    }
}
