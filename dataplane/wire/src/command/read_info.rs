//! InfluxDB's `ReadInfo` message (`influxdata.iox.querier.v1`), packed in an `Any` or bare.

use bytes::Bytes;
use prost::Message;

use super::{Command, Error, QueryLanguage, TextQuery, any, flight_sql, read_info};
use crate::params::{NamedParams, ParamValue};

pub(super) const TYPE_URL: &str = "type.googleapis.com/influxdata.iox.querier.v1.ReadInfo";

#[derive(Clone, PartialEq, Message)]
struct ReadInfo {
    #[prost(string, tag = "1")]
    database: String,
    #[prost(string, tag = "2")]
    sql_query: String,
    #[prost(enumeration = "QueryType", tag = "3")]
    query_type: i32,
    #[prost(bytes = "bytes", tag = "4")]
    flightsql_command: Bytes,
    #[prost(bool, tag = "5")]
    is_debug: bool,
    #[prost(message, repeated, tag = "6")]
    params: Vec<QueryParam>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum QueryType {
    Unspecified = 0,
    Sql = 1,
    InfluxQl = 2,
    FlightSqlMessage = 3,
}

#[derive(Clone, PartialEq, Message)]
struct QueryParam {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(oneof = "QueryParamValue", tags = "2, 3, 4, 5, 6, 7")]
    value: Option<QueryParamValue>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum QueryParamValue {
    /// An enum of one value.
    #[prost(int32, tag = "2")]
    Null(i32),
    #[prost(bool, tag = "3")]
    Boolean(bool),
    #[prost(uint64, tag = "4")]
    UInt64(u64),
    #[prost(int64, tag = "5")]
    Int64(i64),
    #[prost(double, tag = "6")]
    Float64(f64),
    #[prost(string, tag = "7")]
    String(String),
}

/// Decodes the message out of its `Any`.
pub(super) fn decode(value: &[u8]) -> Result<Command, Error> {
    let message = ReadInfo::decode(value).map_err(|source| Error::Protobuf {
        message: "ReadInfo",
        source,
    })?;
    command(message)
}

/// Decodes a message that has no `Any` around it; `None` when the bytes are none.
pub(super) fn decode_bare(bytes: &[u8]) -> Option<Result<Command, Error>> {
    let message = ReadInfo::decode(bytes).ok()?;
    let has_content = !message.sql_query.is_empty() || !message.flightsql_command.is_empty();
    has_content.then(|| command(message))
}

fn command(message: ReadInfo) -> Result<Command, Error> {
    let ReadInfo {
        database,
        sql_query,
        query_type,
        flightsql_command,
        is_debug: _,
        params,
    } = message;
    if database.is_empty() {
        return Err(Error::MissingField { field: "database" });
    }
    let language = match QueryType::try_from(query_type) {
        Ok(QueryType::Unspecified | QueryType::Sql) => QueryLanguage::Sql,
        Ok(QueryType::InfluxQl) => QueryLanguage::InfluxQl,
        Ok(QueryType::FlightSqlMessage) => {
            if !sql_query.is_empty() {
                let (first, second) = ("sql_query", "flightsql_command");
                return Err(Error::ConflictingFields { first, second });
            }
            return in_database(database, &flightsql_command);
        }
        Err(_) => {
            let expected = "0 or 1 (SQL), 2 (InfluxQL) or 3 (Flight SQL message)";
            let (field, found) = ("query_type".to_owned(), query_type.to_string());
            return Err(Error::Field {
                field,
                expected,
                found,
            });
        }
    };
    if !flightsql_command.is_empty() {
        let (first, second) = ("flightsql_command", "query_type");
        return Err(Error::ConflictingFields { first, second });
    }
    if sql_query.trim().is_empty() {
        return Err(Error::MissingField { field: "sql_query" });
    }
    let params = params
        .into_iter()
        .map(param)
        .collect::<Result<NamedParams, Error>>()?;
    Ok(Command::Text(TextQuery {
        database: Some(database),
        text: sql_query,
        language,
        params,
    }))
}

fn in_database(database: String, bytes: &[u8]) -> Result<Command, Error> {
    let inner = any(bytes).ok_or(Error::MissingField {
        field: "flightsql_command",
    })?;
    if inner.type_url == read_info::TYPE_URL {
        return Err(Error::UnknownType {
            type_url: inner.type_url,
        });
    }
    Ok(Command::InDatabase {
        database,
        command: Box::new(flight_sql::decode(inner)?),
    })
}

fn param(param: QueryParam) -> Result<(String, ParamValue), Error> {
    if param.name.is_empty() {
        return Err(Error::MissingField {
            field: "params.name",
        });
    }
    let value = match param.value {
        None => {
            return Err(Error::MissingField {
                field: "params.value",
            });
        }
        Some(QueryParamValue::Null(_)) => ParamValue::Null,
        Some(QueryParamValue::Boolean(value)) => ParamValue::Bool(value),
        Some(QueryParamValue::UInt64(value)) => ParamValue::UInt(value),
        Some(QueryParamValue::Int64(value)) => ParamValue::Int(value),
        Some(QueryParamValue::Float64(value)) => ParamValue::Float(value),
        Some(QueryParamValue::String(value)) => ParamValue::Text(value),
    };
    Ok((param.name, value))
}

#[cfg(test)]
pub(super) mod fixtures {
    //! Messages as a client library would send them.
    use super::*;

    pub(crate) fn message(database: &str, sql: &str, kind: i32, command: Bytes) -> Vec<u8> {
        let param = |name: &str, value| QueryParam {
            name: name.into(),
            value: Some(value),
        };
        let params = vec![
            param("a", QueryParamValue::Null(0)),
            param("b", QueryParamValue::UInt64(u64::MAX)),
            param("c", QueryParamValue::String("x".into())),
        ];
        ReadInfo {
            database: database.into(),
            sql_query: sql.into(),
            query_type: kind,
            flightsql_command: command,
            is_debug: true,
            params,
        }
        .encode_to_vec()
    }
}
