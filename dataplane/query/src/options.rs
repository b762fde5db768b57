//! Options in SQL: `CREATE TABLE … WITH (name = value)`, `ALTER TABLE t SET (name = value)` and
//! `ALTER DATABASE d SET (name = value)`.

use std::collections::BTreeMap;

use arrow_schema::{DataType, Schema};
use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::sqlparser::ast::{
    AlterTable, AlterTableOperation, CreateTableOptions, Expr, ObjectName, SqlOption,
    Statement as Sql, Value,
};
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use flightcluster_catalog::{
    BLOOM_FILTER, OptionsOf, RETENTION, SchemaVersion, column_names, parse_retention,
};

use crate::Error;
use crate::times::TimeColumn;

/// Most columns of a table with a Bloom filter: while a row group is written each takes memory of its own.
const MOST_FILTERS: usize = 16;

/// Options by name; `None` removes one.
pub(crate) type Changes = BTreeMap<String, Option<String>>;

/// Makes `ALTER TABLE` of `ALTER DATABASE`, which the parser does not know; the rest is written alike.
pub(crate) fn alter_database_as_table(tokens: &mut [TokenWithSpan]) {
    let mut words = tokens
        .iter_mut()
        .filter_map(|token| match &mut token.token {
            Token::Word(word) => Some(word),
            Token::Whitespace(_) => None,
            _ => None,
        });
    if let (Some(first), Some(second)) = (words.next(), words.next())
        && (first.keyword, second.keyword) == (Keyword::ALTER, Keyword::DATABASE)
    {
        second.keyword = Keyword::TABLE;
        "TABLE".clone_into(&mut second.value);
    }
}

/// Takes the options of a table to be created off its statement: the planner does not know them.
pub(crate) fn take(parsed: &mut ParsedStatement) -> Result<BTreeMap<String, String>, Error> {
    let ParsedStatement::Statement(sql) = parsed else {
        return Ok(BTreeMap::new());
    };
    let Sql::CreateTable(create) = sql.as_mut() else {
        return Ok(BTreeMap::new());
    };
    let options = match std::mem::replace(&mut create.table_options, CreateTableOptions::None) {
        CreateTableOptions::None => Vec::new(),
        CreateTableOptions::With(options) => options,
        CreateTableOptions::Options(_)
        | CreateTableOptions::Plain(_)
        | CreateTableOptions::TableProperties(_) => {
            return Err(Error::Unsupported {
                statement: "CREATE TABLE with such options".to_owned(),
                cure: "write WITH (retention = '30d', bloom_filter = 'column, column')",
            });
        }
    };
    let options = changes(&options)?.into_iter();
    Ok(options
        .filter_map(|(name, value)| Some((name, value?)))
        .collect())
}

/// The name and the options of an `ALTER … SET (…)` that has nothing else.
pub(crate) fn altered(alter: &AlterTable) -> Result<Option<(&ObjectName, Changes)>, Error> {
    let plain = !alter.if_exists && !alter.only && alter.location.is_none();
    match alter.operations.as_slice() {
        [AlterTableOperation::SetOptionsParens { options }] if plain => {
            Ok(Some((&alter.name, changes(options)?)))
        }
        _ => Ok(None),
    }
}

fn changes(options: &[SqlOption]) -> Result<Changes, Error> {
    let mut changes = Changes::new();
    for option in options {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(wrong(&option.to_string(), "write it as name = 'value'"));
        };
        let name = match key.quote_style {
            Some(_) => key.value.clone(),
            None => key.value.to_lowercase(),
        };
        let text = match value {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) => Some(text.clone()),
                Value::Null => None,
                _ => return Err(wrong(&name, "its value is a text in quotes, or NULL")),
            },
            _ => return Err(wrong(&name, "its value is a text in quotes, or NULL")),
        };
        match (name.as_str(), &text) {
            (RETENTION, Some(text)) => {
                parse_retention(text).map_err(|problem| wrong(&name, &problem))?;
            }
            (BLOOM_FILTER, Some(text)) if column_names(text).next().is_none() => {
                return Err(wrong(&name, "it names no column; NULL removes it"));
            }
            (RETENTION | BLOOM_FILTER, _) => {}
            _ => return Err(wrong(&name, "there are only retention and bloom_filter")),
        }
        if changes.insert(name.clone(), text).is_some() {
            return Err(wrong(&name, "it comes twice"));
        }
    }
    Ok(changes)
}

/// Refuses options that mean nothing for a table of this schema.
pub(crate) fn check<'a>(
    options: impl Iterator<Item = (&'a str, &'a str)>,
    schema: &Schema,
    version: SchemaVersion,
) -> Result<(), Error> {
    for (name, value) in options {
        match name {
            RETENTION if TimeColumn::of(schema, version).is_none() => {
                let problem = "the table has no time column; it is a timestamp called time, or one \
                               that is marked as it";
                return Err(wrong(RETENTION, problem));
            }
            BLOOM_FILTER => {
                if column_names(value).count() > MOST_FILTERS {
                    let problem = format!("it names more than {MOST_FILTERS} columns");
                    return Err(wrong(BLOOM_FILTER, &problem));
                }
                for column in column_names(value) {
                    check_filtered(column, schema)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses options of tables for a database.
pub(crate) fn check_owner(of: &OptionsOf, changes: &Changes) -> Result<(), Error> {
    match of {
        OptionsOf::Database(_) if changes.contains_key(BLOOM_FILTER) => Err(wrong(
            BLOOM_FILTER,
            "it names columns, so it is an option of a table: ALTER TABLE t SET (bloom_filter = 'c')",
        )),
        OptionsOf::Database(_) | OptionsOf::Table(_) => Ok(()),
    }
}

/// A column has a Bloom filter only if queries can use it.
fn check_filtered(column: &str, schema: &Schema) -> Result<(), Error> {
    let Ok(field) = schema.field_with_name(column) else {
        let problem = format!("the table has no column {column:?}");
        return Err(wrong(BLOOM_FILTER, &problem));
    };
    match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Ok(()),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => Ok(()),
        DataType::FixedSizeBinary(_) => Ok(()),
        DataType::Int32 | DataType::Int64 | DataType::UInt32 | DataType::UInt64 => Ok(()),
        other => {
            let problem = format!(
                "column {column:?} is {other}; it can be texts, bytes, and integers of 32 or 64 bits"
            );
            Err(wrong(BLOOM_FILTER, &problem))
        }
    }
}

fn wrong(name: &str, problem: &str) -> Error {
    Error::Option {
        name: name.to_owned(),
        problem: problem.to_owned(),
    }
}
