//! What a caller asks to read: a statement for the query engine, or Flight SQL metadata. Both
//! GetFlightInfo and DoGet come through here, so that a command means the same in each.

use arrow_array::RecordBatch;
use flightcluster_catalog::SnapshotId;
use flightcluster_query::{AsOf, Past, Plan, QueryRequest};
use flightcluster_wire::command::{QueryLanguage, TextQuery};
use flightcluster_wire::{
    Command, Descriptor, PreparedHandle, TablePath, Ticket, TicketQuery, params,
};

use crate::caller::Caller;
use crate::service::FlightServer;
use crate::status::{ErrorCode, Failure};

/// Rows of parameters of a query. Each is a plan of its own, and all are planned before the first row
/// is sent. Updates run one by one and may have more, see `put`.
const MAX_EXECUTIONS: usize = 1000;

/// SQL with everything it needs.
#[derive(Debug, Clone)]
pub(crate) struct Statement {
    /// Database its names are looked up in.
    pub(crate) database: String,
    /// The text.
    pub(crate) sql: String,
    /// Values for its placeholders; it runs once for each row.
    pub(crate) params: Option<RecordBatch>,
    /// The past its ticket is for.
    pub(crate) past: Option<Past>,
    /// Whether its ticket takes a partial answer; without a ticket the caller says it.
    pub(crate) partial: Option<bool>,
}

/// What is asked for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// The result of a statement.
    Statement(Statement),
    /// Flight SQL metadata, and the database a `ReadInfo` around it named.
    Metadata(Command),
}

impl Statement {
    /// Everything in a table.
    pub(crate) fn of_table(path: &TablePath) -> Self {
        let [database, schema, table] = path.segments().map(quoted);
        Self {
            database: path.database.clone(),
            sql: format!("SELECT * FROM {database}.{schema}.{table}"),
            params: None,
            past: None,
            partial: None,
        }
    }

    /// Whether a partial answer will do.
    pub(crate) fn takes_partial(&self, caller: &Caller) -> bool {
        self.partial.unwrap_or(caller.partial)
    }

    /// The statements that run one after the other: one for each row of parameters.
    pub(crate) fn executions(&self) -> Vec<Statement> {
        let Some(rows) = &self.params else {
            return vec![self.clone()];
        };
        (0..rows.num_rows())
            .map(|row| Self {
                params: Some(rows.slice(row, 1)),
                ..self.clone()
            })
            .collect()
    }

    /// As a signed ticket carries it.
    pub(crate) fn to_ticket_query(&self) -> TicketQuery {
        TicketQuery::Text {
            text: self.sql.clone(),
            language: QueryLanguage::Sql,
        }
    }
}

/// Refuses a query that is to run too often.
pub(crate) fn check_executions(count: usize) -> Result<(), Failure> {
    if count <= MAX_EXECUTIONS {
        return Ok(());
    }
    Err(Failure::new(
        ErrorCode::InvalidArgument,
        format!(
            "a query takes at most {MAX_EXECUTIONS} rows of parameters, {count} were bound; put the \
             values into a table and join it"
        ),
    ))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl FlightServer {
    /// What a descriptor asks for.
    pub(crate) fn asked(&self, caller: &Caller, descriptor: Descriptor) -> Result<Asked, Failure> {
        match descriptor {
            Descriptor::Path(path) => Ok(Asked::Statement(Statement::of_table(&path))),
            Descriptor::Command(command) => self.asked_by_command(caller, command),
        }
    }

    /// What a command asks for.
    pub(crate) fn asked_by_command(
        &self,
        caller: &Caller,
        command: Command,
    ) -> Result<Asked, Failure> {
        let database = caller.database(command.database());
        let command = match command {
            Command::InDatabase { command, .. } => *command,
            command => command,
        };
        match command {
            Command::Text(query) => statement_of_text(query, database).map(Asked::Statement),
            Command::StatementQuery(query) => Ok(Asked::Statement(Statement {
                database,
                sql: query.query,
                params: None,
                past: None,
                partial: None,
            })),
            Command::PreparedStatementQuery(query) => {
                let handle = PreparedHandle::open(&query.prepared_statement_handle, &self.key)?;
                self.statement_of_handle(handle).map(Asked::Statement)
            }
            Command::StatementUpdate(_)
            | Command::StatementIngest(_)
            | Command::PreparedStatementUpdate(_) => Err(Failure::new(
                ErrorCode::InvalidCommand,
                format!("{} changes data: send it with DoPut", command.name()),
            )),
            Command::StatementSubstraitPlan(_) => Err(Failure::new(
                ErrorCode::Unimplemented,
                "Substrait plans are not supported; send SQL",
            )),
            Command::InDatabase { .. } => Err(Failure::new(
                ErrorCode::InvalidCommand,
                "a ReadInfo inside a ReadInfo is not a command",
            )),
            Command::GetCatalogs(_)
            | Command::GetDbSchemas(_)
            | Command::GetTables(_)
            | Command::GetTableTypes(_)
            | Command::GetSqlInfo(_)
            | Command::GetPrimaryKeys(_)
            | Command::GetExportedKeys(_)
            | Command::GetImportedKeys(_)
            | Command::GetCrossReference(_)
            | Command::GetXdbcTypeInfo(_) => Ok(Asked::Metadata(command)),
        }
    }

    /// What an opened ticket asks for.
    pub(crate) fn asked_by_ticket(
        &self,
        caller: &Caller,
        ticket: Ticket,
    ) -> Result<Asked, Failure> {
        let params = match ticket.params {
            Some(bytes) => Some(params::batch_from_bytes(bytes, self.limits())?),
            None => None,
        };
        let past = ticket.past.map(|past| Past {
            snapshot: SnapshotId(past.snapshot),
            at_millis: past.at_millis,
        });
        // One that was made without the wish came with a schema that has no place for the mark.
        let partial = Some(ticket.partial);
        match ticket.query {
            TicketQuery::Text {
                text,
                language: QueryLanguage::Sql,
            } => {
                let database = ticket.database;
                Ok(Asked::Statement(Statement {
                    database,
                    sql: text,
                    params,
                    past,
                    partial,
                }))
            }
            TicketQuery::Text {
                language: QueryLanguage::InfluxQl,
                ..
            } => Err(no_influxql()),
            TicketQuery::Table(path) => Ok(Asked::Statement(Statement {
                past,
                partial,
                ..Statement::of_table(&path)
            })),
            TicketQuery::Metadata(command) => {
                self.asked_by_command(caller, Command::decode(&command)?)
            }
            TicketQuery::Prepared(handle) => {
                let handle = PreparedHandle::open(&handle, &self.key)?;
                let statement = self.statement_of_handle(handle)?;
                Ok(Asked::Statement(Statement {
                    past,
                    partial,
                    ..statement
                }))
            }
        }
    }

    /// The statement of a prepared handle with the parameters bound to it.
    pub(crate) fn statement_of_handle(&self, handle: PreparedHandle) -> Result<Statement, Failure> {
        let PreparedHandle {
            sql,
            database,
            params,
        } = handle;
        let params = match params {
            Some(bytes) => Some(params::batch_from_bytes(bytes, self.limits())?),
            None => None,
        };
        Ok(Statement {
            database,
            sql,
            params,
            past: None,
            partial: None,
        })
    }

    /// Plans a statement with the rights of the caller.
    pub(crate) async fn plan(
        &self,
        caller: &Caller,
        statement: &Statement,
    ) -> Result<Plan, Failure> {
        let request = QueryRequest {
            database: statement.database.clone(),
            sql: statement.sql.clone(),
            parameters: statement.params.clone(),
            named: statement.params.as_ref().is_some_and(params::are_named),
            access: caller.access(),
            read_only: false,
            as_of: statement.past.map(AsOf::Known).or(caller.as_of),
            partial: statement.takes_partial(caller),
        };
        Ok(self.backends()?.engine()?.plan(request).await?)
    }
}

fn statement_of_text(query: TextQuery, database: String) -> Result<Statement, Failure> {
    let TextQuery {
        database: _,
        text,
        language,
        params,
    } = query;
    if language == QueryLanguage::InfluxQl {
        return Err(no_influxql());
    }
    let params = match params.is_empty() {
        true => None,
        false => Some(params::named_to_batch(&params)?),
    };
    Ok(Statement {
        database,
        sql: text,
        params,
        past: None,
        partial: None,
    })
}

fn no_influxql() -> Failure {
    Failure::new(
        ErrorCode::Unimplemented,
        "InfluxQL is not supported; send SQL",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::sync::Arc;

    use arrow_array::Int64Array;

    use super::*;

    #[test]
    fn table_names_are_quoted() {
        let path = TablePath::from_segments(&["my db", "we\"ird"]).unwrap();
        let statement = Statement::of_table(&path);
        assert_eq!(statement.sql, r#"SELECT * FROM "my db"."public"."we""ird""#);
    }

    #[test]
    fn each_row_of_parameters_is_an_execution() {
        let column: arrow_array::ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let rows = RecordBatch::try_from_iter([("$1", column)]).unwrap();
        let statement = Statement {
            database: "d".to_owned(),
            sql: "s".to_owned(),
            params: Some(rows),
            past: None,
            partial: None,
        };
        let executions = statement.executions();
        assert_eq!(executions.len(), 3);
        let last = executions[2].params.as_ref().unwrap();
        assert_eq!(last.column(0).as_ref(), &Int64Array::from(vec![3]));
    }

    #[test]
    fn a_query_with_too_many_rows_of_parameters_is_refused() {
        check_executions(1000).unwrap();
        let failure = check_executions(1001).unwrap_err();
        assert_eq!(failure.code, ErrorCode::InvalidArgument);
    }
}
