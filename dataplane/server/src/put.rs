//! DoPut: uploads by path, Flight SQL ingest, updates, and parameters of prepared statements.
//!
//! An upload by path is answered batch by batch, each answer a JSON object
//! `{"sequence":…,"rows":…,"durable":true}` in `app_metadata`. The Flight SQL commands are answered
//! once, at the end: their clients take the first answer as the final one.

use std::pin::Pin;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_flight::sql::{DoPutPreparedStatementResult, DoPutUpdateResult};
use arrow_flight::{FlightData, PutResult};
use bytes::Bytes;
use flightcluster_auth::Action;
use flightcluster_catalog::{TableName, UNPUBLISHED_SCHEMA};
use flightcluster_query::QueryRequest;
use flightcluster_wire::command::{Ingest, TableExists, TableMissing};
use flightcluster_wire::{
    Command, DecodeLimits, Decoded, Descriptor, PreparedHandle, StreamDecoder, StreamName,
    TablePath, params,
};
use futures::{Stream, StreamExt as _};
use prost::Message as _;
use tonic::{Status, Streaming};

use crate::caller::Caller;
use crate::named::numbered;
use crate::receive::Inbox;
use crate::service::FlightServer;
use crate::status::{ErrorCode, Failure};
use crate::writes::{Ack, Messages, PutMode, PutTarget};

/// The answers of one DoPut.
pub(crate) type PutResults = Pin<Box<dyn Stream<Item = Result<PutResult, Failure>> + Send>>;

/// Largest set of parameters bound to a statement, in rows. Each row is one execution.
const MAX_PARAMETER_ROWS: usize = 100_000;

/// The JSON with which a batch is acknowledged.
pub(crate) fn ack_metadata(ack: &Ack) -> Bytes {
    serde_json::to_vec(ack)
        .expect("an acknowledgement is plain numbers and flags")
        .into()
}

/// The messages of an upload as they come, from the `inbox` they were put into.
pub(crate) fn read_inbox(
    stream: Streaming<FlightData>,
    inbox: Option<Inbox>,
) -> impl Stream<Item = Result<FlightData, Status>> + Send + Unpin {
    stream.map(move |message| {
        let received = inbox.as_ref().and_then(Inbox::take);
        message.map(|message| received.unwrap_or(message))
    })
}

/// A client's messages as they come; ends with `STALLED` when none comes for `idle_timeout`.
fn read_within(
    stream: impl Stream<Item = Result<FlightData, Status>> + Send + Unpin + 'static,
    idle_timeout: Duration,
) -> Messages {
    futures::stream::unfold(Some(stream), move |stream| async move {
        let mut stream = stream?;
        match tokio::time::timeout(idle_timeout, stream.next()).await {
            Ok(Some(Ok(message))) => Some((Ok(message), Some(stream))),
            Ok(Some(Err(status))) => Some((Err(Failure::of_client_stream(status)), None)),
            Ok(None) => None,
            Err(_) => {
                let text = format!("the client sent nothing for {idle_timeout:?}; upload ended");
                Some((Err(Failure::new(ErrorCode::Stalled, text)), None))
            }
        }
    })
    .boxed()
}

impl FlightServer {
    /// Serves one DoPut, whatever its descriptor asks for.
    pub(crate) async fn put(
        &self,
        caller: Caller,
        stream: Streaming<FlightData>,
        inbox: Option<Inbox>,
    ) -> Result<PutResults, Failure> {
        let stream = read_inbox(stream, inbox);
        let mut messages = read_within(stream, self.settings.stream_idle_timeout);
        let first = match messages.next().await {
            Some(first) => first?,
            None => return Err(Failure::new(ErrorCode::InvalidData, "the upload is empty")),
        };
        let descriptor = first.flight_descriptor.clone().ok_or_else(|| {
            let message = "the first message of an upload needs a descriptor: \
                           a path [database, table] or a Flight SQL command";
            Failure::new(ErrorCode::InvalidCommand, message)
        })?;
        let messages = futures::stream::once(std::future::ready(Ok(first)))
            .chain(messages)
            .boxed();
        match Descriptor::decode(&descriptor)? {
            Descriptor::Path(path) if path.schema == UNPUBLISHED_SCHEMA => Err(unpublished()),
            Descriptor::Path(path) => self.put_path(&caller, path, messages).await,
            Descriptor::Command(command) => self.put_command(caller, command, messages).await,
        }
    }

    async fn put_path(
        &self,
        caller: &Caller,
        path: TablePath,
        messages: Messages,
    ) -> Result<PutResults, Failure> {
        caller.authorize(Action::Write, &path.database)?;
        caller.refuse_reading_options()?;
        let target = PutTarget {
            table: TableName {
                database: path.database,
                schema: path.schema,
                table: path.table,
            },
            mode: PutMode::CreateOrAppend,
            create_database: true,
            idempotency_key: None,
            owner: caller.principal.name().to_owned(),
            upload: caller.upload.clone(),
        };
        let messages = match &caller.stream {
            Some(name) => numbered(messages, name),
            None => messages,
        };
        let acks = self.backends()?.writes()?.put(target, messages).await?;
        Ok(acks
            .map(|ack| {
                Ok(PutResult {
                    app_metadata: ack_metadata(&ack?),
                })
            })
            .boxed())
    }

    async fn put_command(
        &self,
        caller: Caller,
        command: Command,
        messages: Messages,
    ) -> Result<PutResults, Failure> {
        let result = match command {
            Command::StatementIngest(ingest) => self.ingest(&caller, ingest, messages).await?,
            Command::StatementUpdate(update) => {
                let request = QueryRequest {
                    database: caller.database(None),
                    sql: update.query,
                    parameters: None,
                    named: false,
                    access: caller.access(),
                    read_only: false,
                    as_of: caller.as_of,
                    partial: caller.partial,
                };
                update_result(self.update(&caller, request).await?)
            }
            Command::PreparedStatementQuery(query) => {
                let handle = PreparedHandle::open(&query.prepared_statement_handle, &self.key)?;
                let rows = self.read_parameters(messages).await?;
                let bound = self.bind(handle, rows)?;
                DoPutPreparedStatementResult {
                    prepared_statement_handle: Some(bound.seal(&self.key)),
                }
                .encode_to_vec()
            }
            Command::PreparedStatementUpdate(update) => {
                let handle = PreparedHandle::open(&update.prepared_statement_handle, &self.key)?;
                let rows = self.read_parameters(messages).await?;
                update_result(self.update_prepared(&caller, handle, rows).await?)
            }
            other => {
                return Err(Failure::new(
                    ErrorCode::InvalidCommand,
                    format!("{} can't be used with DoPut", other.name()),
                ));
            }
        };
        let result = PutResult {
            app_metadata: result.into(),
        };
        Ok(futures::stream::once(std::future::ready(Ok(result))).boxed())
    }

    /// `CommandStatementIngest`: returns when every row is durable.
    async fn ingest(
        &self,
        caller: &Caller,
        command: Ingest,
        messages: Messages,
    ) -> Result<Vec<u8>, Failure> {
        let table = ingest_table(caller, &command);
        caller.authorize(Action::Write, &table.database)?;
        caller.refuse_reading_options()?;
        refuse_unsupported(&command)?;
        let by_options = StreamName::from_options(&command.options)?;
        let stream = StreamName::agreed(caller.stream.clone(), by_options)?;
        let (mode, must_exist) = put_mode(command.if_missing, command.if_exists)?;
        if must_exist && self.backends()?.catalog.table(&table).await?.is_none() {
            return Err(Failure::new(
                ErrorCode::TableNotFound,
                format!("table not found: {table}"),
            ));
        }
        if caller.upload.is_some() && matches!(mode, PutMode::Create | PutMode::Replace) {
            let message = "an upload of several streams appends; use mode append or create_append";
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        if mode == PutMode::Replace {
            caller.authorize(Action::Admin, &table.database)?;
        }
        let target = PutTarget {
            table,
            mode,
            create_database: true,
            idempotency_key: None,
            owner: caller.principal.name().to_owned(),
            upload: caller.upload.clone(),
        };
        let messages = match &stream {
            Some(name) => numbered(messages, name),
            None => messages,
        };
        let mut acks = self.backends()?.writes()?.put(target, messages).await?;
        let mut rows = 0;
        while let Some(ack) = acks.next().await {
            rows += ack?.rows;
        }
        Ok(update_result(rows))
    }

    /// Reads the parameter rows of a prepared statement; none when the client binds nothing.
    async fn read_parameters(
        &self,
        mut messages: Messages,
    ) -> Result<Option<RecordBatch>, Failure> {
        let mut decoder = StreamDecoder::new(self.limits());
        let mut batches = Vec::new();
        let mut rows = 0;
        while let Some(message) = messages.next().await {
            if let Decoded::Batch(batch) = decoder.push(message?)? {
                rows += batch.batch.num_rows();
                if rows > MAX_PARAMETER_ROWS {
                    return Err(Failure::new(
                        ErrorCode::InvalidArgument,
                        format!("more than {MAX_PARAMETER_ROWS} rows of parameters; use ingest"),
                    ));
                }
                batches.push(batch.batch);
            }
        }
        let Some(schema) = decoder
            .schema()
            .filter(|schema| !schema.fields().is_empty())
        else {
            return Ok(None);
        };
        let rows = arrow_select::concat::concat_batches(schema, &batches).map_err(|error| {
            Failure::new(
                ErrorCode::InvalidData,
                format!("parameter batches: {error}"),
            )
        })?;
        Ok((rows.num_rows() > 0).then_some(rows))
    }

    fn bind(
        &self,
        handle: PreparedHandle,
        rows: Option<RecordBatch>,
    ) -> Result<PreparedHandle, Failure> {
        let params = rows.as_ref().map(params::batch_to_bytes).transpose()?;
        Ok(PreparedHandle { params, ..handle })
    }

    /// Limits of what one uploaded message may cost.
    pub(crate) fn limits(&self) -> DecodeLimits {
        decode_limits(self.settings.max_message_bytes.as_usize())
    }
}

/// What decoding may cost when messages may have `max_message_bytes`.
#[must_use]
pub fn decode_limits(max_message_bytes: usize) -> DecodeLimits {
    DecodeLimits {
        max_message_bytes,
        ..DecodeLimits::default()
    }
}

fn update_result(rows: u64) -> Vec<u8> {
    let record_count = i64::try_from(rows).unwrap_or(i64::MAX);
    DoPutUpdateResult { record_count }.encode_to_vec()
}

/// The table that a Flight SQL ingest is for.
pub(crate) fn ingest_table(caller: &Caller, command: &Ingest) -> TableName {
    let schema = command
        .schema
        .as_deref()
        .filter(|schema| !schema.is_empty());
    TableName {
        database: caller.database(command.catalog.as_deref()),
        schema: schema.unwrap_or("public").to_owned(),
        table: command.table.clone(),
    }
}

/// Tables that are being filled get no rows from others.
pub(crate) fn unpublished() -> Failure {
    let message = "tables are kept in schema `public` only";
    Failure::new(ErrorCode::InvalidArgument, message)
}

fn refuse_unsupported(command: &Ingest) -> Result<(), Failure> {
    if command.schema.as_deref() == Some(UNPUBLISHED_SCHEMA) {
        return Err(unpublished());
    }
    if command.temporary {
        let message = "temporary tables are not supported; ingest into a normal table";
        return Err(Failure::new(ErrorCode::Unimplemented, message));
    }
    if command
        .transaction_id
        .as_ref()
        .is_some_and(|id| !id.is_empty())
    {
        let message = "transactions are not supported; ingest without a transaction";
        return Err(Failure::new(ErrorCode::Unimplemented, message));
    }
    Ok(())
}

/// The mode of an ingest, and whether the table must be there already.
fn put_mode(missing: TableMissing, exists: TableExists) -> Result<(PutMode, bool), Failure> {
    match (missing, exists) {
        (TableMissing::Create, TableExists::Fail) => Ok((PutMode::Create, false)),
        (TableMissing::Create, TableExists::Append) => Ok((PutMode::CreateOrAppend, false)),
        (TableMissing::Create, TableExists::Replace) => Ok((PutMode::Replace, false)),
        (TableMissing::Fail, TableExists::Append) => Ok((PutMode::Append, false)),
        (TableMissing::Fail, TableExists::Replace) => Ok((PutMode::Replace, true)),
        (TableMissing::Fail, TableExists::Fail) => Err(Failure::new(
            ErrorCode::InvalidArgument,
            "table_definition_options fail/fail can't succeed whether the table exists or not; \
             use create/fail, fail/append, create/append or create/replace",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    /// S3-20: the four pairs that ADBC sends, and those that make little sense.
    #[test]
    fn the_ingest_modes_are_those_of_the_specification() {
        use {TableExists as E, TableMissing as M};
        let mode = |missing, exists| put_mode(missing, exists).ok();
        assert_eq!(mode(M::Create, E::Fail), Some((PutMode::Create, false)));
        assert_eq!(mode(M::Fail, E::Append), Some((PutMode::Append, false)));
        assert_eq!(
            mode(M::Create, E::Append),
            Some((PutMode::CreateOrAppend, false))
        );
        assert_eq!(mode(M::Create, E::Replace), Some((PutMode::Replace, false)));
        assert_eq!(mode(M::Fail, E::Replace), Some((PutMode::Replace, true)));
        assert_eq!(mode(M::Fail, E::Fail), None);
    }

    /// S3-19
    #[test]
    fn an_acknowledgement_is_json() {
        let ack = Ack {
            sequence: 7,
            rows: 3,
            durable: true,
            duplicate: false,
        };
        assert_eq!(
            ack_metadata(&ack),
            r#"{"sequence":7,"rows":3,"durable":true}"#
        );
    }
}
