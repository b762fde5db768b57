//! GetFlightInfo, GetSchema, ListFlights and DoGet: what there is to read, and reading it.
//!
//! Planning happens in both GetFlightInfo (for the schema) and DoGet (on the server that redeems
//! the ticket, at a snapshot that holds everything acknowledged before). The ticket carries the
//! fingerprint of the announced schema; should the table have changed in between, the client is
//! told to ask again instead of getting another schema than announced. Partial answers are in
//! [`crate::partial`].

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arrow_array::RecordBatch;
use arrow_flight::sql::CommandGetPrimaryKeys;
use arrow_flight::{
    FlightDescriptor, FlightEndpoint, FlightInfo, IpcMessage, SchemaAsIpc, SchemaResult,
    Ticket as FlightTicket,
};
use arrow_ipc::writer::IpcWriteOptions;
use arrow_schema::{Schema, SchemaRef};
use flightcluster_auth::Action;
use flightcluster_catalog::{Table, TableName};
use flightcluster_keys::Key;
use flightcluster_query::{ExecuteOptions, Plan, QueryRequest};
use flightcluster_telemetry::metrics::QueryMetrics;
use flightcluster_wire::command::TicketForm;
use flightcluster_wire::{
    Command, Descriptor, Encoding, PastState, TablePath, Ticket, TicketQuery, fingerprint, params,
    wire_schema,
};
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use crate::caller::Caller;
use crate::metadata;
use crate::once::Once;
use crate::service::FlightServer;
use crate::statement::{Asked, Statement, check_executions};
use crate::status::{ErrorCode, Failure};
use crate::stream::{Response, respond};

impl FlightServer {
    /// GetFlightInfo: one endpoint, no location, so that the client stays on its connection.
    pub(crate) async fn flight_info(
        &self,
        caller: &Caller,
        descriptor: FlightDescriptor,
    ) -> Result<FlightInfo, Failure> {
        let command = descriptor.cmd.clone();
        let (schema, ticket) = match self.asked(caller, Descriptor::decode(&descriptor)?)? {
            Asked::Statement(statement) => {
                let plan = self.plan(caller, &first_execution(&statement)).await?;
                let schema = schema_of_all(&statement, &plan);
                let schema = wire_schema(&schema, caller.encoding);
                let ticket = self.ticket(caller, &statement, &plan, &schema)?;
                // That of a partial answer tells what is missing, which the answer finds out.
                let is_known = !statement.takes_partial(caller);
                (is_known.then_some(schema), ticket)
            }
            Asked::Metadata(asked) => {
                let answer = self.metadata(caller, asked).await?;
                // The command itself is the ticket: some drivers compare them.
                let schema = answer.schema().as_ref().clone();
                (Some(schema), FlightTicket::new(command))
            }
        };
        let info = match schema {
            Some(schema) => FlightInfo::new()
                .try_with_schema(&schema)
                .map_err(|error| Failure::new(ErrorCode::Internal, format!("schema: {error}")))?,
            None => FlightInfo::new(),
        };
        Ok(info
            .with_descriptor(descriptor)
            .with_endpoint(FlightEndpoint::new().with_ticket(ticket)))
    }

    /// GetSchema: the schema GetFlightInfo announces for the same descriptor.
    pub(crate) async fn schema(
        &self,
        caller: &Caller,
        descriptor: FlightDescriptor,
    ) -> Result<SchemaResult, Failure> {
        let schema = match self.asked(caller, Descriptor::decode(&descriptor)?)? {
            Asked::Statement(statement) => {
                let plan = self.plan(caller, &first_execution(&statement)).await?;
                wire_schema(&plan.schema(), caller.encoding)
            }
            Asked::Metadata(asked) => self
                .metadata(caller, asked)
                .await?
                .schema()
                .as_ref()
                .clone(),
        };
        let message: IpcMessage = SchemaAsIpc::new(&schema, &IpcWriteOptions::default())
            .try_into()
            .map_err(|error| Failure::new(ErrorCode::Internal, format!("schema: {error}")))?;
        Ok(SchemaResult { schema: message.0 })
    }

    /// DoGet: redeems a ticket of ours, or runs the command that a client sent as one.
    pub(crate) async fn get(
        &self,
        caller: &Caller,
        ticket: FlightTicket,
    ) -> Result<Response, Failure> {
        let (asked, announced, once) = match TicketForm::decode(&ticket.ticket)? {
            TicketForm::Sealed(bytes) => {
                let ticket = Ticket::open(&bytes, &self.key, now_millis())?;
                let announced = ticket.schema_fingerprint;
                let once = Once {
                    number: ticket.nonce,
                    expires_at_millis: ticket.expires_at_millis,
                };
                (
                    self.asked_by_ticket(caller, ticket)?,
                    Some(announced),
                    Some(once),
                )
            }
            TicketForm::Command(command) => (self.asked_by_command(caller, command)?, None, None),
        };
        match asked {
            Asked::Statement(statement) => self.run(caller, statement, announced, once).await,
            Asked::Metadata(command) => {
                let answer = self.metadata(caller, command).await?;
                let schema = answer.schema();
                let batches = futures::stream::iter([Ok(answer)]);
                respond(schema, batches, self.settings.stream_keepalive_interval)
            }
        }
    }

    async fn run(
        &self,
        caller: &Caller,
        statement: Statement,
        announced: Option<u64>,
        once: Option<Once>,
    ) -> Result<Response, Failure> {
        let keepalive = self.settings.stream_keepalive_interval;
        let plan = self.plan(caller, &first_execution(&statement)).await?;
        let planned = schema_of_all(&statement, &plan);
        let executions = statement.executions().into_iter().skip(1);
        if plan.is_update() {
            let is_insert = plan.is_insert();
            let number = once.map(|once| once.number);
            let all = Box::pin(async {
                let mut sum = self.execute_update(caller, plan, number).await?;
                // One execution for each further row of parameters, under a number of its own.
                for (row, execution) in (1..).zip(executions) {
                    let plan = self.plan(caller, &execution).await?;
                    let number = number.map(|number| number.wrapping_add(row));
                    sum += self.execute_update(caller, plan, number).await?;
                }
                Ok(sum)
            });
            // A command that a client sent as a ticket has no number: each time is a time of its own.
            match once {
                // The ingesters recognise a repeat.
                Some(Once { number, .. }) if is_insert => self.executed.run(number, all).await?,
                Some(once) => {
                    let all = once.in_cluster(self.backends()?.catalog.as_ref(), all);
                    self.executed.run(once.number, all).await?
                }
                None => all.await?,
            };
            let nothing = futures::stream::empty();
            return respond(Arc::new(Schema::empty()), nothing, keepalive);
        }
        let count = executions.len() + 1;
        check_executions(count)?;
        if statement.takes_partial(caller) {
            return self.run_partial(caller, plan, count, announced).await;
        }
        let schema = announced_schema(&planned, caller.encoding, announced)?;
        let mut plans = vec![plan];
        for execution in executions {
            plans.push(self.plan(caller, &execution).await?);
        }
        let engine = self.backends()?.engine()?.clone();
        let request_id = caller.request_id.clone();
        // One after the other: each begins when the one before has ended.
        let batches = futures::stream::iter(plans).flat_map(move |plan| {
            let options = ExecuteOptions {
                request_id: request_id.clone(),
                ..ExecuteOptions::default()
            };
            engine.execute(plan, options).map_err(Failure::from)
        });
        let batches = measured(batches, Took::to_come(self.metrics.clone()));
        respond(schema, Box::pin(batches), keepalive)
    }

    /// Runs a statement for its effect. `Err` when it is a query.
    pub(crate) async fn update(
        &self,
        caller: &Caller,
        request: QueryRequest,
    ) -> Result<u64, Failure> {
        let plan = self.backends()?.engine()?.plan(request).await?;
        if !plan.is_update() {
            return Err(Failure::new(
                ErrorCode::InvalidSql,
                "the statement returns rows; run it as a query",
            ));
        }
        self.execute_update(caller, plan, None).await
    }

    async fn execute_update(
        &self,
        caller: &Caller,
        plan: Plan,
        number: Option<u128>,
    ) -> Result<u64, Failure> {
        if caller.upload.is_some() {
            let message = "x-fc-upload goes with a stream of rows: DoPut to a path, or ingest; what a \
                           statement writes is visible at once";
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        caller.refuse_stream_name()?;
        let options = ExecuteOptions {
            request_id: caller.request_id.clone(),
            idempotency_key: number,
            ..ExecuteOptions::default()
        };
        Ok(self
            .backends()?
            .engine()?
            .execute_update(plan, options)
            .await?)
    }

    /// Runs a prepared statement for its effect, once for each row of parameters, and returns the
    /// sum of the row counts.
    pub(crate) async fn update_prepared(
        &self,
        caller: &Caller,
        handle: flightcluster_wire::PreparedHandle,
        rows: Option<RecordBatch>,
    ) -> Result<u64, Failure> {
        let mut statement = self.statement_of_handle(handle)?;
        statement.params = rows.or(statement.params);
        let mut total = 0;
        for execution in statement.executions() {
            let request = QueryRequest {
                database: execution.database,
                sql: execution.sql,
                named: execution.params.as_ref().is_some_and(params::are_named),
                parameters: execution.params,
                access: caller.access(),
                read_only: false,
                as_of: caller.as_of,
                partial: caller.partial,
            };
            total += self.update(caller, request).await?;
        }
        Ok(total)
    }

    fn ticket(
        &self,
        caller: &Caller,
        statement: &Statement,
        plan: &Plan,
        schema: &Schema,
    ) -> Result<FlightTicket, Failure> {
        let ticket = Ticket {
            query: statement.to_ticket_query(),
            database: statement.database.clone(),
            params: statement
                .params
                .as_ref()
                .map(params::batch_to_bytes)
                .transpose()?,
            schema_fingerprint: fingerprint(schema),
            snapshot: plan.snapshot_id().map_or(0, |id| id.0),
            nonce: rand::random(),
            expires_at_millis: self.expiry_millis(),
            past: plan.past().map(|past| PastState {
                snapshot: past.snapshot.0,
                at_millis: past.at_millis,
            }),
            partial: statement.takes_partial(caller),
        };
        Ok(FlightTicket::new(ticket.seal(&self.key)))
    }

    fn expiry_millis(&self) -> u64 {
        let ttl = u64::try_from(self.settings.ticket_ttl.as_millis()).unwrap_or(u64::MAX);
        now_millis().saturating_add(ttl)
    }

    /// ListFlights: the tables the caller may read, each with a ticket for its rows. The criteria
    /// are empty or `db=NAME`.
    pub(crate) async fn flights(
        &self,
        caller: &Caller,
        criteria: &[u8],
    ) -> Result<Vec<FlightInfo>, Failure> {
        let database = list_criteria(criteria)?;
        let tables = self.readable_tables(caller, database.as_deref()).await?;
        tables
            .into_iter()
            .map(|(name, schema)| {
                let [database, db_schema, table] = [name.database, name.schema, name.table];
                let path = TablePath {
                    database: database.clone(),
                    schema: db_schema,
                    table,
                };
                let descriptor =
                    FlightDescriptor::new_path(path.segments().map(str::to_owned).to_vec());
                let schema = wire_schema(&schema, caller.encoding);
                let ticket = Ticket {
                    query: TicketQuery::Table(path),
                    database,
                    params: None,
                    schema_fingerprint: fingerprint(&schema),
                    snapshot: 0,
                    nonce: rand::random(),
                    expires_at_millis: self.expiry_millis(),
                    past: None,
                    // Its schema is announced here.
                    partial: false,
                };
                let ticket = FlightTicket::new(ticket.seal(&self.key));
                let info = FlightInfo::new()
                    .try_with_schema(&schema)
                    .map_err(|error| {
                        Failure::new(ErrorCode::Internal, format!("schema: {error}"))
                    })?;
                Ok(info
                    .with_descriptor(descriptor)
                    .with_endpoint(FlightEndpoint::new().with_ticket(ticket)))
            })
            .collect()
    }

    /// The databases the caller may read.
    async fn readable_databases(&self, caller: &Caller) -> Result<Vec<String>, Failure> {
        let databases = self.backends()?.catalog.list_databases().await?;
        Ok(databases
            .into_iter()
            .map(|database| database.name)
            .filter(|name| caller.principal.may(Action::Read, name))
            .collect())
    }

    /// The tables the caller may read, with their schemas.
    async fn readable_tables(
        &self,
        caller: &Caller,
        database: Option<&str>,
    ) -> Result<Vec<(TableName, Schema)>, Failure> {
        let tables = self.backends()?.catalog.list_tables(database).await?;
        tables
            .into_iter()
            .filter(|table| caller.principal.may(Action::Read, &table.name.database))
            .map(|table: Table| {
                let schema = flightcluster_query::decode_schema(&table.schema)?;
                Ok((table.name, schema.as_ref().clone()))
            })
            .collect()
    }

    /// The keys of the tables a command asks for, as far as the caller may read them.
    async fn primary_keys(
        &self,
        caller: &Caller,
        command: &CommandGetPrimaryKeys,
    ) -> Result<Vec<(TableName, Key)>, Failure> {
        let database = command.catalog.as_deref();
        let tables = self.backends()?.catalog.list_tables(database).await?;
        let asked = |name: &TableName| {
            name.table == command.table
                && command
                    .db_schema
                    .as_ref()
                    .is_none_or(|schema| name.schema == *schema)
                && caller.principal.may(Action::Read, &name.database)
        };
        let asked = tables.into_iter().filter(|table| asked(&table.name));
        let keys = asked.map(|table| {
            let key = Key::of(&table.options).map_err(flightcluster_query::Error::Key)?;
            Ok(key.map(|key| (table.name, key)))
        });
        keys.filter_map(Result::transpose).collect()
    }

    /// Answers a Flight SQL metadata command.
    async fn metadata(&self, caller: &Caller, command: Command) -> Result<RecordBatch, Failure> {
        let batch = match command {
            Command::GetCatalogs(_) => metadata::catalogs(&self.readable_databases(caller).await?)?,
            Command::GetDbSchemas(command) => {
                metadata::db_schemas(command, &self.readable_databases(caller).await?)?
            }
            Command::GetTables(command) => {
                let tables = self
                    .readable_tables(caller, command.catalog.as_deref())
                    .await?;
                let tables: Vec<_> = tables
                    .into_iter()
                    .map(|(name, schema)| (name, wire_schema(&schema, caller.encoding)))
                    .collect();
                metadata::tables(command, &tables)?
            }
            Command::GetTableTypes(_) => metadata::table_types()?,
            Command::GetSqlInfo(command) => command.into_builder(&self.sql_info).build()?,
            Command::GetPrimaryKeys(command) => {
                metadata::primary_keys(&self.primary_keys(caller, &command).await?)?
            }
            Command::GetExportedKeys(_)
            | Command::GetImportedKeys(_)
            | Command::GetCrossReference(_) => {
                RecordBatch::new_empty(metadata::foreign_keys_schema())
            }
            Command::GetXdbcTypeInfo(command) => metadata::type_info(&command)?,
            other => {
                return Err(Failure::new(
                    ErrorCode::InvalidCommand,
                    format!("{} is not a metadata command", other.name()),
                ));
            }
        };
        Ok(batch)
    }
}

/// What is planned to learn the schema: all executions of a statement have the same.
fn first_execution(statement: &Statement) -> Statement {
    let first = statement.executions().into_iter().next();
    first.unwrap_or_else(|| statement.clone())
}

/// The schema of all executions of a statement. A parameter that is null in one row of several need
/// not be so in the first.
fn schema_of_all(statement: &Statement, plan: &Plan) -> Schema {
    let schema = plan.schema();
    if statement.executions().len() < 2 {
        return schema.as_ref().clone();
    }
    let fields = schema.fields().iter();
    let fields: Vec<_> = fields
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

/// The schema to stream: the announced one, in whichever encoding that was.
pub(crate) fn announced_schema(
    schema: &Schema,
    encoding: Encoding,
    announced: Option<u64>,
) -> Result<SchemaRef, Failure> {
    let Some(announced) = announced else {
        return Ok(Arc::new(wire_schema(schema, encoding)));
    };
    [Encoding::Plain, Encoding::Native]
        .into_iter()
        .map(|encoding| wire_schema(schema, encoding))
        .find(|schema| fingerprint(schema) == announced)
        .map(Arc::new)
        .ok_or_else(|| {
            let message = "a table changed since the ticket was made; ask for a new ticket";
            Failure::new(ErrorCode::SchemaChanged, message)
        })
}

fn list_criteria(criteria: &[u8]) -> Result<Option<String>, Failure> {
    let unknown = || {
        let message = "the criteria are not understood; send none, or db=NAME";
        Failure::new(ErrorCode::InvalidArgument, message)
    };
    if criteria.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(criteria).map_err(|_| unknown())?;
    match text.split_once('=') {
        Some(("db" | "database", name)) if !name.is_empty() => Ok(Some(name.to_owned())),
        _ => Err(unknown()),
    }
}

/// Measures the time of a query to its end, however it comes.
pub(crate) struct Took {
    began: Option<Instant>,
    metrics: QueryMetrics,
}

impl Took {
    /// Of a query that begins with the first question for rows.
    fn to_come(metrics: QueryMetrics) -> Self {
        let began = None;
        Self { began, metrics }
    }

    /// Of one that begins now.
    pub(crate) fn from_now(metrics: QueryMetrics) -> Self {
        let began = Some(Instant::now());
        Self { began, metrics }
    }
}

impl Drop for Took {
    fn drop(&mut self) {
        if let Some(began) = self.began {
            let took = began.elapsed().as_secs_f64();
            self.metrics.duration.observe(took);
        }
    }
}

/// Counts the rows, and the time from the first question to the end.
pub(crate) fn measured(
    batches: impl Stream<Item = Result<RecordBatch, Failure>> + Send + 'static,
    took: Took,
) -> impl Stream<Item = Result<RecordBatch, Failure>> + Send {
    futures::stream::unfold(
        (Box::pin(batches), took),
        async |(mut batches, mut took)| {
            took.began.get_or_insert_with(Instant::now);
            let batch = batches.next().await?;
            if let Ok(batch) = &batch {
                took.metrics.rows.inc_by(batch.num_rows() as u64);
            }
            Some((batch, (batches, took)))
        },
    )
}

fn now_millis() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use arrow_schema::{DataType, Field};

    use super::*;

    /// The announced schema is the streamed one, or the client is told.
    #[test]
    fn a_schema_that_changed_is_not_streamed() {
        let tags = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let schema = Schema::new(vec![Field::new("host", tags, true)]);
        for encoding in [Encoding::Plain, Encoding::Native] {
            let announced = wire_schema(&schema, encoding);
            // Whatever the header of the second call says, the ticket decides.
            let streamed =
                announced_schema(&schema, Encoding::Plain, Some(fingerprint(&announced))).unwrap();
            assert_eq!(streamed.as_ref(), &announced);
        }
        let failure = announced_schema(&schema, Encoding::Plain, Some(1)).unwrap_err();
        assert_eq!(failure.code, ErrorCode::SchemaChanged);
    }

    /// S2-1
    #[test]
    fn criteria_name_a_database() {
        assert_eq!(list_criteria(b"").unwrap(), None);
        assert_eq!(list_criteria(b"db=demo").unwrap().as_deref(), Some("demo"));
        assert!(list_criteria(b"demo").is_err());
        assert!(list_criteria(b"db=").is_err());
        assert!(list_criteria(&[0xff]).is_err());
    }
}
