//! Flight SQL commands: the `Any` by its type URL, and the checks on fields that need no catalog.

use std::collections::HashMap;

use arrow_flight::sql::{self, ProstMessageExt, TableExistsOption, TableNotExistOption};
use bytes::Bytes;
use prost::Message;

use super::{Command, Error, any, shortened};

/// What to do when the table of an ingest exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableExists {
    /// Refuse.
    Fail,
    /// Add the rows.
    Append,
    /// Put the rows in place of all that is there.
    Replace,
}

/// What to do when the table of an ingest does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableMissing {
    /// Create it from the schema of the stream.
    Create,
    /// Refuse.
    Fail,
}

/// A bulk ingest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingest {
    /// The table, not empty.
    pub table: String,
    /// Schema of the table, when named.
    pub schema: Option<String>,
    /// Database of the table, when named.
    pub catalog: Option<String>,
    /// What to do when the table exists.
    pub if_exists: TableExists,
    /// What to do when it does not.
    pub if_missing: TableMissing,
    /// Whether the table ends with the session.
    pub temporary: bool,
    /// Transaction the rows belong to.
    pub transaction_id: Option<Bytes>,
    /// Options of the backend.
    pub options: HashMap<String, String>,
}

/// The handle inside a `TicketStatementQuery`, if the bytes are one.
pub(super) fn statement_handle(bytes: &[u8]) -> Result<Option<Bytes>, Error> {
    match any(bytes) {
        Some(any) if any.is::<sql::TicketStatementQuery>() => {
            let ticket: sql::TicketStatementQuery = unpack("TicketStatementQuery", &any.value)?;
            Ok(Some(ticket.statement_handle))
        }
        _ => Ok(None),
    }
}

pub(super) fn decode(any: sql::Any) -> Result<Command, Error> {
    macro_rules! commands {
        ($($message:ident => $variant:ident),* $(,)?) => {
            match any.type_url.as_str() {
                $(url if url == sql::$message::type_url() => {
                    Command::$variant(unpack(stringify!($message), &any.value)?)
                })*
                url if url == sql::CommandStatementIngest::type_url() => {
                    Command::StatementIngest(ingest(unpack("CommandStatementIngest", &any.value)?)?)
                }
                url => return Err(Error::UnknownType { type_url: shortened(url, 200) }),
            }
        };
    }
    let command = commands! {
        CommandStatementQuery => StatementQuery,
        CommandStatementUpdate => StatementUpdate,
        CommandStatementSubstraitPlan => StatementSubstraitPlan,
        CommandPreparedStatementQuery => PreparedStatementQuery,
        CommandPreparedStatementUpdate => PreparedStatementUpdate,
        CommandGetCatalogs => GetCatalogs,
        CommandGetDbSchemas => GetDbSchemas,
        CommandGetTables => GetTables,
        CommandGetTableTypes => GetTableTypes,
        CommandGetSqlInfo => GetSqlInfo,
        CommandGetPrimaryKeys => GetPrimaryKeys,
        CommandGetExportedKeys => GetExportedKeys,
        CommandGetImportedKeys => GetImportedKeys,
        CommandGetCrossReference => GetCrossReference,
        CommandGetXdbcTypeInfo => GetXdbcTypeInfo,
    };
    check(&command)?;
    Ok(command)
}

fn unpack<M: Message + Default>(message: &'static str, value: &[u8]) -> Result<M, Error> {
    M::decode(value).map_err(|source| Error::Protobuf { message, source })
}

fn check(command: &Command) -> Result<(), Error> {
    let missing = |field| Err(Error::MissingField { field });
    match command {
        Command::StatementQuery(c) if c.query.trim().is_empty() => missing("query"),
        Command::StatementUpdate(c) if c.query.trim().is_empty() => missing("query"),
        Command::PreparedStatementQuery(c) if c.prepared_statement_handle.is_empty() => {
            missing("prepared_statement_handle")
        }
        Command::PreparedStatementUpdate(c) if c.prepared_statement_handle.is_empty() => {
            missing("prepared_statement_handle")
        }
        Command::GetPrimaryKeys(c) if c.table.is_empty() => missing("table"),
        Command::GetExportedKeys(c) if c.table.is_empty() => missing("table"),
        Command::GetImportedKeys(c) if c.table.is_empty() => missing("table"),
        Command::GetCrossReference(c) if c.pk_table.is_empty() => missing("pk_table"),
        Command::GetCrossReference(c) if c.fk_table.is_empty() => missing("fk_table"),
        _ => Ok(()),
    }
}

fn ingest(command: sql::CommandStatementIngest) -> Result<Ingest, Error> {
    let sql::CommandStatementIngest {
        table_definition_options,
        table,
        schema,
        catalog,
        temporary,
        transaction_id,
        options,
    } = command;
    if table.is_empty() {
        return Err(Error::MissingField { field: "table" });
    }
    let modes = table_definition_options.ok_or(Error::MissingField {
        field: "table_definition_options",
    })?;
    let if_missing = match TableNotExistOption::try_from(modes.if_not_exist) {
        Ok(TableNotExistOption::Create) => TableMissing::Create,
        Ok(TableNotExistOption::Fail) => TableMissing::Fail,
        Ok(TableNotExistOption::Unspecified) | Err(_) => {
            return Err(mode_error(
                "if_not_exist",
                "CREATE (1) or FAIL (2)",
                modes.if_not_exist,
            ));
        }
    };
    let if_exists = match TableExistsOption::try_from(modes.if_exists) {
        Ok(TableExistsOption::Fail) => TableExists::Fail,
        Ok(TableExistsOption::Append) => TableExists::Append,
        Ok(TableExistsOption::Replace) => TableExists::Replace,
        Ok(TableExistsOption::Unspecified) | Err(_) => {
            let expected = "FAIL (1), APPEND (2) or REPLACE (3)";
            return Err(mode_error("if_exists", expected, modes.if_exists));
        }
    };
    // Drivers send an empty name for "not given".
    let named = |name: Option<String>| name.filter(|name| !name.is_empty());
    let (schema, catalog) = (named(schema), named(catalog));
    let transaction_id = transaction_id.filter(|id| !id.is_empty());
    Ok(Ingest {
        table,
        schema,
        catalog,
        if_exists,
        if_missing,
        temporary,
        transaction_id,
        options,
    })
}

fn mode_error(field: &str, expected: &'static str, found: i32) -> Error {
    let field = format!("table_definition_options.{field}");
    Error::Field {
        field,
        expected,
        found: found.to_string(),
    }
}
