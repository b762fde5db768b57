//! The JSON form of a query, which InfluxDB 3 clients send as the ticket of DoGet.
//!
//! Read field by field, so that an error names the field; a name not known is an error too, since
//! a parameter lost to a typing error gives a wrong answer.

use serde_json::{Map, Value};

use super::{Error, QueryLanguage, TextQuery, shortened};
use crate::params::{NamedParams, ParamValue};

const DATABASE_NAMES: [&str; 4] = ["database", "namespace_name", "bucket", "bucket-name"];
const KNOWN: &str = "database (or namespace_name, bucket, bucket-name), sql_query, query_type, \
                     params, is_debug";

pub(super) fn decode(text: &str) -> Result<TextQuery, Error> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(Error::Json)?;
    for field in fields.keys() {
        let known = ["sql_query", "query_type", "params", "is_debug"].contains(&field.as_str())
            || DATABASE_NAMES.contains(&field.as_str());
        if !known {
            return Err(Error::UnknownField {
                field: shortened(field, 100),
                known: KNOWN,
            });
        }
    }
    if let Some(value) = fields.get("is_debug")
        && !matches!(value, Value::Bool(_) | Value::Null)
    {
        return Err(wrong("is_debug", "true or false", value));
    }
    Ok(TextQuery {
        database: database(&fields)?,
        text: statement(&fields)?,
        language: language(&fields)?,
        params: params(&fields)?,
    })
}

fn database(fields: &Map<String, Value>) -> Result<Option<String>, Error> {
    let mut found: Option<(&'static str, &str)> = None;
    for name in DATABASE_NAMES {
        let value = match fields.get(name) {
            None | Some(Value::Null) => continue,
            Some(Value::String(value)) if value.is_empty() => continue,
            Some(Value::String(value)) => value.as_str(),
            Some(other) => return Err(wrong(name, "a string", other)),
        };
        match found {
            None => found = Some((name, value)),
            Some((_, first)) if first == value => {}
            Some((first, _)) => {
                return Err(Error::ConflictingFields {
                    first,
                    second: name,
                });
            }
        }
    }
    Ok(found.map(|(_, value)| value.to_owned()))
}

fn statement(fields: &Map<String, Value>) -> Result<String, Error> {
    match fields.get("sql_query") {
        None | Some(Value::Null) => Err(Error::MissingField { field: "sql_query" }),
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(Error::MissingField { field: "sql_query" })
        }
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong("sql_query", "a string", other)),
    }
}

fn language(fields: &Map<String, Value>) -> Result<QueryLanguage, Error> {
    const EXPECTED: &str = "\"sql\" or \"influxql\"";
    match fields.get("query_type") {
        None | Some(Value::Null) => Ok(QueryLanguage::Sql),
        Some(Value::String(name)) => match name.to_ascii_lowercase().as_str() {
            "sql" => Ok(QueryLanguage::Sql),
            "influxql" => Ok(QueryLanguage::InfluxQl),
            _ => Err(wrong("query_type", EXPECTED, &Value::String(name.clone()))),
        },
        Some(other) => Err(wrong("query_type", EXPECTED, other)),
    }
}

fn params(fields: &Map<String, Value>) -> Result<NamedParams, Error> {
    match fields.get("params") {
        None | Some(Value::Null) => Ok(NamedParams::new()),
        Some(Value::Object(params)) => params
            .iter()
            .map(|(name, value)| Ok((name.clone(), param(name, value)?)))
            .collect(),
        Some(other) => Err(wrong("params", "an object of names and values", other)),
    }
}

fn param(name: &str, value: &Value) -> Result<ParamValue, Error> {
    const EXPECTED: &str = "null, a boolean, a number or a string";
    let wrong = || wrong(&format!("params.{}", shortened(name, 100)), EXPECTED, value);
    match value {
        Value::Null => Ok(ParamValue::Null),
        Value::Bool(value) => Ok(ParamValue::Bool(*value)),
        Value::String(value) => Ok(ParamValue::Text(value.clone())),
        Value::Number(number) => number
            .as_i64()
            .map(ParamValue::Int)
            .or_else(|| number.as_u64().map(ParamValue::UInt))
            .or_else(|| number.as_f64().map(ParamValue::Float))
            .ok_or_else(wrong),
        Value::Array(_) | Value::Object(_) => Err(wrong()),
    }
}

fn wrong(field: &str, expected: &'static str, found: &Value) -> Error {
    Error::Field {
        field: field.to_owned(),
        expected,
        found: shortened(&found.to_string(), 60),
    }
}
