//! What a descriptor or a raw ticket asks for.
//!
//! A command is Flight SQL protobuf, InfluxDB's `ReadInfo` protobuf, JSON, or plain SQL text:
//!
//! | bytes | read as |
//! |---|---|
//! | `Any` of `arrow.flight.protocol.sql.*` | the Flight SQL command |
//! | `Any` of `influxdata.iox.querier.v1.ReadInfo`, or that message bare | [`TextQuery`], or a Flight SQL command in a database |
//! | text beginning with `{` | the JSON form, [`TextQuery`] |
//! | other text | SQL, [`TextQuery`] without a database; not as a ticket |
//!
//! Left to others: which of these are served, authorization, and tickets this product made
//! ([`crate::ticket`]).

mod flight_sql;
mod json;
mod read_info;

use arrow_flight::flight_descriptor::DescriptorType;
use arrow_flight::{FlightDescriptor, sql};
use bytes::Bytes;
use prost::Message;

use crate::params::NamedParams;
use crate::path::{self, TablePath};
use crate::ticket;

pub use flight_sql::{Ingest, TableExists, TableMissing};

/// Language of a query text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueryLanguage {
    /// SQL.
    #[default]
    Sql,
    /// InfluxQL.
    InfluxQl,
}

/// A query as text with its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct TextQuery {
    /// Database the command names; always there in a ticket.
    pub database: Option<String>,
    /// The statement, never blank.
    pub text: String,
    /// Its language.
    pub language: QueryLanguage,
    /// Values for `$name` placeholders; to be bound, never pasted into the text.
    pub params: NamedParams,
}

/// A decoded command.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Query text: JSON, ReadInfo or plain SQL.
    Text(TextQuery),
    /// A Flight SQL command that came inside a ReadInfo, which names the database.
    InDatabase {
        /// The database.
        database: String,
        /// The command; never itself `InDatabase`.
        command: Box<Command>,
    },
    /// SQL to run for its result.
    StatementQuery(sql::CommandStatementQuery),
    /// SQL to run for its row count.
    StatementUpdate(sql::CommandStatementUpdate),
    /// Rows to store.
    StatementIngest(Ingest),
    /// A Substrait plan.
    StatementSubstraitPlan(sql::CommandStatementSubstraitPlan),
    /// Run a prepared statement for its result, or bind parameters to it.
    PreparedStatementQuery(sql::CommandPreparedStatementQuery),
    /// Run a prepared statement for its row count.
    PreparedStatementUpdate(sql::CommandPreparedStatementUpdate),
    /// List catalogs.
    GetCatalogs(sql::CommandGetCatalogs),
    /// List schemas.
    GetDbSchemas(sql::CommandGetDbSchemas),
    /// List tables.
    GetTables(sql::CommandGetTables),
    /// List table types.
    GetTableTypes(sql::CommandGetTableTypes),
    /// Properties of the server.
    GetSqlInfo(sql::CommandGetSqlInfo),
    /// Primary keys of a table.
    GetPrimaryKeys(sql::CommandGetPrimaryKeys),
    /// Foreign keys that refer to a table.
    GetExportedKeys(sql::CommandGetExportedKeys),
    /// Foreign keys of a table.
    GetImportedKeys(sql::CommandGetImportedKeys),
    /// Foreign keys between two tables.
    GetCrossReference(sql::CommandGetCrossReference),
    /// Data types as ODBC describes them.
    GetXdbcTypeInfo(sql::CommandGetXdbcTypeInfo),
}

/// A decoded descriptor.
#[derive(Debug, Clone, PartialEq)]
pub enum Descriptor {
    /// A table by name.
    Path(TablePath),
    /// A command.
    Command(Command),
}

/// A ticket told apart by its first bytes.
#[derive(Debug, Clone, PartialEq)]
pub enum TicketForm {
    /// Made by this product: open it with [`ticket::Ticket::open`].
    Sealed(Bytes),
    /// Made by the client.
    Command(Command),
}

/// Why a command was refused. All variants are the caller's doing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A raw ticket was refused; the source says why.
    #[error("invalid ticket")]
    Ticket(#[source] Box<Error>),
    /// There is nothing.
    #[error("the command is empty; send SQL text, JSON or a Flight SQL command")]
    Empty,
    /// A ticket was plain text or unknown bytes.
    #[error(
        "it is neither a ticket of this product, nor JSON like {{\"database\": …, \"sql_query\": \
         …}}, nor a Flight SQL or ReadInfo message"
    )]
    UnknownTicket,
    /// The bytes are of no known form.
    #[error(
        "the command is neither text nor a protobuf message known here; send SQL text, JSON or a \
         Flight SQL command"
    )]
    UnknownBytes,
    /// The descriptor has no type.
    #[error("the descriptor has type {found}; send type PATH (1) or CMD (2)")]
    DescriptorType {
        /// Type that was sent.
        found: i32,
    },
    /// The path names no table.
    #[error("reading the path descriptor")]
    Path(#[source] path::Error),
    /// The `Any` holds a message that is no command.
    #[error("the command has type {type_url:?}, which is not a command known here")]
    UnknownType {
        /// Type URL, cut to 200 characters.
        type_url: String,
    },
    /// The message inside does not decode.
    #[error("the command says it is {message} but does not decode as one")]
    Protobuf {
        /// Name of the message.
        message: &'static str,
        /// What the decoder found.
        source: prost::DecodeError,
    },
    /// The text begins like JSON but is not.
    #[error("the command begins with {{ but is not valid JSON")]
    Json(#[source] serde_json::Error),
    /// A field has the wrong type or value.
    #[error("field {field} must be {expected}, it is {found}")]
    Field {
        /// Name of the field as sent.
        field: String,
        /// What it takes.
        expected: &'static str,
        /// What was sent, cut short.
        found: String,
    },
    /// A field is required.
    #[error("field {field} is missing or empty")]
    MissingField {
        /// Name of the field.
        field: &'static str,
    },
    /// A field is not known.
    #[error("field {field:?} is not known; known are {known}")]
    UnknownField {
        /// Name as sent, cut to 100 characters.
        field: String,
        /// The names that are known.
        known: &'static str,
    },
    /// Two fields contradict each other.
    #[error("fields {first} and {second} contradict each other; send one of them")]
    ConflictingFields {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Ticket(_) => "command_ticket",
            Self::Empty | Self::UnknownTicket | Self::UnknownBytes => "command_unknown",
            Self::DescriptorType { .. } | Self::Path(_) => "command_descriptor",
            Self::UnknownType { .. } => "command_type",
            Self::Protobuf { .. } => "command_protobuf",
            Self::Json(_) => "command_json",
            Self::Field { .. }
            | Self::MissingField { .. }
            | Self::UnknownField { .. }
            | Self::ConflictingFields { .. } => "command_field",
        }
    }
}

impl Descriptor {
    /// Reads a path or command descriptor.
    ///
    /// - Errors: [`Error`], naming the field or the form that is wrong.
    pub fn decode(descriptor: &FlightDescriptor) -> Result<Self, Error> {
        match DescriptorType::try_from(descriptor.r#type) {
            Ok(DescriptorType::Path) => TablePath::from_segments(&descriptor.path)
                .map(Self::Path)
                .map_err(Error::Path),
            Ok(DescriptorType::Cmd) => Command::decode(&descriptor.cmd).map(Self::Command),
            Ok(DescriptorType::Unknown) | Err(_) => Err(Error::DescriptorType {
                found: descriptor.r#type,
            }),
        }
    }
}

impl TicketForm {
    /// Tells sealed tickets from raw ones and decodes the latter.
    ///
    /// - A raw ticket must name its database, because DoGet has nothing else that does, and so
    ///   plain SQL text is none.
    /// - Errors: [`Error::Ticket`] with the reason as its source.
    pub fn decode(bytes: &Bytes) -> Result<Self, Error> {
        let invalid = |error| Error::Ticket(Box::new(error));
        if ticket::is_sealed(bytes) {
            return Ok(Self::Sealed(bytes.clone()));
        }
        if let Some(handle) = flight_sql::statement_handle(bytes).map_err(invalid)? {
            return Ok(Self::Sealed(handle));
        }
        match read(bytes).map_err(invalid)? {
            Form::Command(Command::Text(query)) if query.database.is_none() => {
                Err(invalid(Error::MissingField { field: "database" }))
            }
            Form::Command(command) => Ok(Self::Command(command)),
            Form::Text(_) | Form::Unknown => Err(invalid(Error::UnknownTicket)),
        }
    }
}

impl Command {
    /// Reads the command of a descriptor.
    ///
    /// - Errors: [`Error`], naming the field or the form that is wrong. Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        match read(bytes)? {
            Form::Command(command) => Ok(command),
            Form::Text(text) => Ok(Self::Text(TextQuery {
                database: None,
                text: text.to_owned(),
                language: QueryLanguage::Sql,
                params: NamedParams::new(),
            })),
            Form::Unknown => Err(Error::UnknownBytes),
        }
    }

    /// The name of the command as the Flight SQL specification writes it; for error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text query",
            Self::InDatabase { command, .. } => command.name(),
            Self::StatementQuery(_) => "CommandStatementQuery",
            Self::StatementUpdate(_) => "CommandStatementUpdate",
            Self::StatementIngest(_) => "CommandStatementIngest",
            Self::StatementSubstraitPlan(_) => "CommandStatementSubstraitPlan",
            Self::PreparedStatementQuery(_) => "CommandPreparedStatementQuery",
            Self::PreparedStatementUpdate(_) => "CommandPreparedStatementUpdate",
            Self::GetCatalogs(_) => "CommandGetCatalogs",
            Self::GetDbSchemas(_) => "CommandGetDbSchemas",
            Self::GetTables(_) => "CommandGetTables",
            Self::GetTableTypes(_) => "CommandGetTableTypes",
            Self::GetSqlInfo(_) => "CommandGetSqlInfo",
            Self::GetPrimaryKeys(_) => "CommandGetPrimaryKeys",
            Self::GetExportedKeys(_) => "CommandGetExportedKeys",
            Self::GetImportedKeys(_) => "CommandGetImportedKeys",
            Self::GetCrossReference(_) => "CommandGetCrossReference",
            Self::GetXdbcTypeInfo(_) => "CommandGetXdbcTypeInfo",
        }
    }

    /// The database the command itself names.
    pub fn database(&self) -> Option<&str> {
        match self {
            Self::Text(query) => query.database.as_deref(),
            Self::InDatabase { database, .. } => Some(database),
            Self::StatementIngest(ingest) => ingest.catalog.as_deref(),
            _ => None,
        }
    }
}

enum Form<'a> {
    Command(Command),
    Text(&'a str),
    Unknown,
}

/// The order matters: a Flight SQL `Any` without content is printable text, and SQL text may by
/// chance decode as protobuf, but never as an `Any` with a URL.
fn read(bytes: &[u8]) -> Result<Form<'_>, Error> {
    let text = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| is_printable(text));
    if bytes.is_empty() || text.is_some_and(|text| text.trim().is_empty()) {
        return Err(Error::Empty);
    }
    if let Some(any) = any(bytes) {
        if any.type_url == read_info::TYPE_URL {
            return read_info::decode(&any.value).map(Form::Command);
        }
        return flight_sql::decode(any).map(Form::Command);
    }
    match text {
        Some(text) if text.trim_start().starts_with('{') => {
            json::decode(text).map(|query| Form::Command(Command::Text(query)))
        }
        Some(text) => Ok(Form::Text(text)),
        None => match read_info::decode_bare(bytes) {
            Some(result) => result.map(Form::Command),
            None => Ok(Form::Unknown),
        },
    }
}

/// The bytes as an `Any`, if they are one: a type URL always has a slash.
fn any(bytes: &[u8]) -> Option<sql::Any> {
    sql::Any::decode(bytes)
        .ok()
        .filter(|any| any.type_url.contains('/'))
}

fn is_printable(text: &str) -> bool {
    text.chars()
        .all(|c| !c.is_control() || c.is_ascii_whitespace())
}

/// Text for an error message, cut by characters.
fn shortened(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests;
