//! The text of one statement, parsed and sorted by what it does, with the tables it names.
//!
//! Nothing is looked up here. What is not on the list of supported statements is refused by name.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::sql::parser::{DFParserBuilder, Statement as ParsedStatement};
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast::{
    Delete, FromTable, ObjectName, ObjectType, Statement as Sql, TableFactor, TableObject,
    Visit as _, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use flightcluster_catalog::{OptionsOf, SetOptions, TableName};

use crate::depth::{MAX_TABLES, check_depth};
use crate::options;
use crate::past;
use crate::references::references;
use crate::sort::{Sorter, syntax};
use crate::{AccessKind, Error, Location};

/// The schema of all user tables.
pub(crate) const PUBLIC: &str = "public";
/// The schema of the engine's own tables.
pub(crate) const SYSTEM: &str = "system";
/// The schema SQL describes itself in.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";

/// Longest text of a statement. Tokens and syntax tree take about a hundred times as much memory, so
/// this is below what a message may have.
const MAX_SQL_BYTES: usize = 4 * 1024 * 1024;

/// The label of a statement that sets options of a database.
const ALTER_DATABASE: &str = "ALTER DATABASE";

/// One statement.
#[derive(Debug)]
pub(crate) struct Statement {
    /// The syntax tree, with `?` numbered.
    pub(crate) parsed: ParsedStatement,
    /// Its first words, for messages.
    pub(crate) label: String,
    /// What it does.
    pub(crate) effect: Effect,
    /// The tables it names, without common table expressions; the target of an effect is among them.
    pub(crate) tables: Vec<TableName>,
    /// Those of them whose rows or columns it looks at. The target is one when it also stands in the
    /// query that gives the rows.
    pub(crate) read: Vec<TableName>,
}

/// What a statement does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing but answer.
    Query,
    /// Creates a table, maybe with rows and maybe in place of another.
    CreateTable {
        name: TableName,
        replace: bool,
        options: BTreeMap<String, String>,
    },
    /// Drops a table.
    DropTable { name: TableName, if_exists: bool },
    /// Creates a database.
    CreateDatabase { name: String, if_not_exists: bool },
    /// Adds rows to a table.
    Insert(TableName),
    /// Takes rows out of a table: all, or those a condition is true for.
    Delete(TableName),
    /// Sets options of a table or database.
    SetOptions(SetOptions),
}

impl Effect {
    /// The right it needs besides reading, and on which database. Whatever may take rows away needs
    /// more than adding some.
    pub(crate) fn needs(&self) -> Option<(AccessKind, &str)> {
        match self {
            Self::Query => None,
            Self::CreateTable {
                name,
                replace: false,
                ..
            }
            | Self::Insert(name) => Some((AccessKind::Write, &name.database)),
            Self::CreateTable {
                name,
                replace: true,
                ..
            }
            | Self::Delete(name)
            | Self::DropTable { name, .. } => Some((AccessKind::Admin, &name.database)),
            Self::CreateDatabase { name, .. } => Some((AccessKind::Admin, name)),
            Self::SetOptions(set) => Some((AccessKind::Admin, database_of(set))),
        }
    }

    /// The table that is written to.
    pub(crate) fn target(&self) -> Option<&TableName> {
        match self {
            Self::CreateTable { name, .. }
            | Self::Insert(name)
            | Self::Delete(name)
            | Self::DropTable { name, .. } => Some(name),
            Self::SetOptions(SetOptions {
                of: OptionsOf::Table(name),
                ..
            }) => Some(name),
            Self::Query | Self::CreateDatabase { .. } | Self::SetOptions(_) => None,
        }
    }
}

fn database_of(set: &SetOptions) -> &str {
    match &set.of {
        OptionsOf::Database(name) => name,
        OptionsOf::Table(name) => &name.database,
    }
}

/// Parses the one statement of `sql`; names without a database are of `database`.
pub(crate) fn parse(sql: &str, database: &str, sorter: Sorter) -> Result<Statement, Error> {
    if sql.len() > MAX_SQL_BYTES {
        return Err(Error::Syntax {
            message: format!(
                "the statement has {} bytes, more than {MAX_SQL_BYTES}; write rows with DoPut and \
                 pass values as parameters",
                sql.len()
            ),
            location: None,
        });
    }
    let mut tokens = tokenize(sql)?;
    check_depth(&tokens)?;
    let label = label(&tokens);
    options::alter_database_as_table(&mut tokens);
    let past = past::into_names(&mut tokens)?;
    let mut statements = DFParserBuilder::new(tokens)
        .with_dialect(&GenericDialect {})
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|error| at_the_end(sorter.sort("parsing", error), sql))?;
    let mut parsed = match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => statement,
        (first, more) => {
            return Err(Error::StatementCount {
                found: usize::from(first.is_some()) + more,
            });
        }
    };
    let given = options::take(&mut parsed)?;
    let mut effect = effect(&parsed, &label, database, sorter)?;
    if let Effect::CreateTable { options, .. } = &mut effect {
        *options = given;
    }
    past::check_target(effect.target(), &label)?;
    past::name_tables(&mut parsed, past)?;
    refuse_ignored(&parsed)?;
    let found = references(&parsed, sorter)?;
    let full = |name| full_name(name, database);
    let tables: Vec<TableName> = match effect {
        // Nothing is read.
        Effect::SetOptions(_) => Vec::new(),
        _ => found.all.into_iter().map(full).collect(),
    };
    let read = match effect.target() {
        None => tables.clone(),
        Some(target) => {
            let read = found.read.into_iter().map(full);
            let recursive = found.recursive.into_iter().map(full);
            read.chain(recursive.filter(|name| name == target))
                .collect()
        }
    };
    Ok(Statement {
        parsed,
        label,
        effect,
        tables,
        read,
    })
}

/// The parser gives no place for what it misses at the end of the text.
fn at_the_end(error: Error, sql: &str) -> Error {
    match error {
        Error::Syntax {
            message,
            location: None,
        } if message.ends_with("found: EOF") => {
            let last = sql.lines().next_back().unwrap_or_default();
            let line = sql.lines().count().max(1) as u64;
            let location = Some(Location {
                line,
                column: last.chars().count() as u64 + 1,
            });
            Error::Syntax { message, location }
        }
        error => error,
    }
}

/// Splits the text into tokens and numbers `?`, `?`, … as `$1`, `$2`, …: only placeholders are
/// touched, never a question mark inside a string, a name or a comment.
fn tokenize(sql: &str) -> Result<Vec<TokenWithSpan>, Error> {
    let mut tokens = Vec::new();
    let mut questions = 0_usize;
    let mut numbered = false;
    Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location_into_buf_with_mapper(&mut tokens, |mut token| {
            if let Token::Placeholder(name) = &mut token.token {
                if name == "?" {
                    questions += 1;
                    *name = format!("${questions}");
                } else {
                    if let Some(number) = name.strip_prefix('?') {
                        *name = format!("${number}");
                    }
                    numbered = true;
                }
            }
            token
        })
        .map_err(|error| syntax(&ParserError::from(error)))?;
    if questions > 0 && numbered {
        return Err(Error::Parameter {
            name: "?".to_owned(),
            problem: "use either ? or $1, $2 or $name in one statement, not a mixture".to_owned(),
        });
    }
    Ok(tokens)
}

/// The first word of a statement, or the first two where one says too little.
fn label(tokens: &[TokenWithSpan]) -> String {
    let mut words = tokens.iter().filter_map(|token| match &token.token {
        Token::Word(word) => Some(word.value.to_uppercase()),
        _ => None,
    });
    let Some(first) = words.next() else {
        return "the statement".to_owned();
    };
    match (first.as_str(), words.next()) {
        ("CREATE" | "DROP" | "ALTER" | "SHOW" | "START" | "BEGIN", Some(second)) => {
            format!("{first} {second}")
        }
        _ => first,
    }
}

fn effect(
    parsed: &ParsedStatement,
    label: &str,
    database: &str,
    sorter: Sorter,
) -> Result<Effect, Error> {
    let refused = |cure| {
        Err(Error::Unsupported {
            statement: label.to_owned(),
            cure,
        })
    };
    let sql = match parsed {
        ParsedStatement::Statement(sql) => sql.as_ref(),
        ParsedStatement::Explain(explain) => {
            return match effect(&explain.statement, label, database, sorter)? {
                Effect::Query => Ok(Effect::Query),
                _ => refused("only queries can be explained"),
            };
        }
        ParsedStatement::CreateExternalTable(_) => {
            return refused("create a table and write the rows with DoPut or INSERT");
        }
        ParsedStatement::CopyTo(_) => return refused("write with DoPut, read with a query"),
        ParsedStatement::Reset(_) => return refused("settings are made in the configuration"),
    };
    let name = |name: &ObjectName| table_name(name, database, sorter);
    match sql {
        Sql::Query(_)
        | Sql::ExplainTable { .. }
        | Sql::ShowTables { .. }
        | Sql::ShowColumns { .. }
        | Sql::ShowVariable { .. }
        | Sql::ShowFunctions { .. }
        | Sql::ShowCreate { .. } => Ok(Effect::Query),
        Sql::Explain { statement, .. } => match statement.as_ref() {
            Sql::Query(_) => Ok(Effect::Query),
            _ => refused("only queries can be explained"),
        },
        Sql::CreateTable(create) => Ok(Effect::CreateTable {
            name: name(&create.name)?,
            replace: create.or_replace,
            options: BTreeMap::new(),
        }),
        Sql::AlterTable(alter) => match options::altered(alter)? {
            Some((of, changes)) => {
                let of = match label == ALTER_DATABASE {
                    true => OptionsOf::Database(database_name(of, label, sorter)?),
                    false => OptionsOf::Table(name(of)?),
                };
                // What has the name is looked up when the statement is planned.
                let seen = None;
                Ok(Effect::SetOptions(SetOptions {
                    of,
                    changes,
                    seen,
                    id: None,
                }))
            }
            None => refused(
                "write ALTER TABLE t SET (retention = '30d'); columns are added by writing them",
            ),
        },
        Sql::Drop {
            object_type: ObjectType::Table,
            if_exists,
            names,
            ..
        } => match names.as_slice() {
            [one] => Ok(Effect::DropTable {
                name: name(one)?,
                if_exists: *if_exists,
            }),
            _ => refused("drop one table at a time"),
        },
        Sql::CreateDatabase {
            db_name,
            if_not_exists,
            location: None,
            managed_location: None,
            or_replace: false,
            ..
        } => Ok(Effect::CreateDatabase {
            name: database_name(db_name, label, sorter)?,
            if_not_exists: *if_not_exists,
        }),
        Sql::Insert(insert) if insert.overwrite || insert.replace_into => {
            refused("rows are only added; use CREATE OR REPLACE TABLE … AS")
        }
        Sql::Insert(insert) => match &insert.table {
            TableObject::TableName(table) => Ok(Effect::Insert(name(table)?)),
            _ => refused("insert into a table by its name"),
        },
        Sql::Delete(delete) => match deleted_from(delete) {
            Some(table) => Ok(Effect::Delete(name(table)?)),
            None => refused("write DELETE FROM table WHERE condition, without anything else"),
        },
        Sql::Truncate(truncate) => match truncate.table_names.as_slice() {
            [one] if !truncate.if_exists => Ok(Effect::Delete(name(&one.name)?)),
            _ => refused("write TRUNCATE TABLE table, without anything else"),
        },
        Sql::Update(_) | Sql::Merge(_) => {
            refused("DELETE the rows and INSERT them anew, or use CREATE OR REPLACE TABLE … AS")
        }
        Sql::Set(_) => refused("settings are made in the configuration or the call's options"),
        Sql::CreateView(_) => refused("use a common table expression (WITH … AS)"),
        Sql::CreateSchema { .. } => refused("all tables are in schema public; use CREATE DATABASE"),
        Sql::Prepare { .. } | Sql::Execute { .. } | Sql::Deallocate { .. } => {
            refused("use prepared statements of the client")
        }
        Sql::StartTransaction { .. } | Sql::Commit { .. } | Sql::Rollback { .. } => {
            refused("each statement is a transaction of its own")
        }
        _ => refused("see the SQL reference for what is"),
    }
}

fn database_name(name: &ObjectName, label: &str, sorter: Sorter) -> Result<String, Error> {
    match table_reference(name, sorter)? {
        TableReference::Bare { table } => Ok(table.to_string()),
        _ => Err(Error::Unsupported {
            statement: label.to_owned(),
            cure: "the name of a database has one part",
        }),
    }
}

/// The table of a `DELETE` that has nothing but a condition.
fn deleted_from(delete: &Delete) -> Option<&ObjectName> {
    let (FromTable::WithFromKeyword(from) | FromTable::WithoutKeyword(from)) = &delete.from;
    let plain = delete.tables.is_empty()
        && delete.using.is_none()
        && delete.returning.is_none()
        && delete.order_by.is_empty()
        && delete.limit.is_none();
    match from.as_slice() {
        [only] if plain && only.joins.is_empty() => match &only.relation {
            TableFactor::Table {
                name, alias: None, ..
            } => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// The planner passes over some additions to a table in `FROM`; the answer would be another than
/// the one that was asked for.
fn refuse_ignored(parsed: &ParsedStatement) -> Result<(), Error> {
    let sql = match parsed {
        ParsedStatement::Statement(sql) => sql,
        ParsedStatement::Explain(explain) => return refuse_ignored(&explain.statement),
        ParsedStatement::CreateExternalTable(_)
        | ParsedStatement::CopyTo(_)
        | ParsedStatement::Reset(_) => return Ok(()),
    };
    match sql.visit(&mut FromVisitor { tables: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(addition) => Err(Error::Unsupported {
            statement: addition.to_owned(),
            cure: "leave it out; LIMIT or a filter may do what you want",
        }),
    }
}

/// Looks at all that stands in `FROM`.
struct FromVisitor {
    tables: usize,
}

impl Visitor for FromVisitor {
    type Break = &'static str;

    fn pre_visit_table_factor(&mut self, table: &TableFactor) -> ControlFlow<Self::Break> {
        self.tables += 1;
        if self.tables > MAX_TABLES {
            return ControlFlow::Break("a statement with more than 500 tables in FROM");
        }
        match table {
            TableFactor::Table {
                sample: Some(_), ..
            }
            | TableFactor::Derived {
                sample: Some(_), ..
            } => ControlFlow::Break("TABLESAMPLE"),
            TableFactor::Table {
                version: Some(_), ..
            } => ControlFlow::Break("a table as of another time"),
            TableFactor::Table {
                with_ordinality: true,
                ..
            } => ControlFlow::Break("WITH ORDINALITY"),
            TableFactor::Table { partitions, .. } if !partitions.is_empty() => {
                ControlFlow::Break("PARTITION in FROM")
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

fn table_reference(name: &ObjectName, sorter: Sorter) -> Result<TableReference, Error> {
    object_name_to_table_reference(name.clone(), true)
        .map_err(|error: DataFusionError| sorter.sort("resolving names", error))
}

fn table_name(name: &ObjectName, database: &str, sorter: Sorter) -> Result<TableName, Error> {
    Ok(full_name(table_reference(name, sorter)?, database))
}

/// Completes a name with the database of the request and schema `public`.
pub(crate) fn full_name(reference: TableReference, database: &str) -> TableName {
    let name = reference.resolve(database, PUBLIC);
    TableName {
        database: name.catalog.to_string(),
        schema: name.schema.to_string(),
        table: name.table.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    fn parsed(sql: &str) -> Result<Statement, Error> {
        parse(sql, "demo", Sorter { memory_bytes: 1 })
    }

    #[test]
    fn only_placeholders_are_numbered() {
        let statement =
            parsed("SELECT '?', \"a?\", /* ? */ b FROM t WHERE a = ? AND c = ? -- ?").unwrap();
        let text = statement.parsed.to_string();
        assert!(text.contains("'?'") && text.contains("\"a?\""), "{text}");
        assert!(text.ends_with("a = $1 AND c = $2"), "{text}");
    }

    #[test]
    fn question_marks_and_names_do_not_mix() {
        let error = parsed("SELECT ?, $1").unwrap_err();
        assert!(error.to_string().contains("mixture"), "{error}");
    }

    #[test]
    fn zero_or_several_statements_are_counted() {
        for (sql, count) in [("", 0), (" ; -- nothing", 0), ("SELECT 1; SELECT 2", 2)] {
            match parsed(sql) {
                Err(Error::StatementCount { found }) => assert_eq!(found, count, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
        assert!(parsed("SELECT 1;").is_ok());
    }

    #[test]
    fn names_are_completed_and_common_table_expressions_are_none() {
        let statement = parsed(
            "WITH c AS (SELECT * FROM A) SELECT * FROM c, \"B\", other.public.d, s.e \
             WHERE x IN (SELECT y FROM f)",
        )
        .unwrap();
        let names: Vec<String> = statement.tables.iter().map(ToString::to_string).collect();
        for name in [
            "demo.public.a",
            "demo.public.B",
            "other.public.d",
            "demo.s.e",
            "demo.public.f",
        ] {
            assert!(names.contains(&name.to_owned()), "{name} in {names:?}");
        }
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn what_changes_rows_or_reaches_files_is_refused_by_name() {
        for (sql, name) in [
            ("DELETE FROM t USING s WHERE t.a = s.a", "DELETE"),
            ("UPDATE t SET a = 1", "UPDATE"),
            ("TRUNCATE TABLE t, s", "TRUNCATE"),
            ("COPY t TO 'x.parquet'", "COPY"),
            ("COPY (SELECT 1) TO '/tmp/x.csv' STORED AS CSV", "COPY"),
            (
                "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
                "CREATE EXTERNAL",
            ),
            ("CREATE VIEW v AS SELECT 1", "CREATE VIEW"),
            ("CREATE SCHEMA s", "CREATE SCHEMA"),
            ("SET datafusion.execution.batch_size = 1", "SET"),
            ("DROP DATABASE d", "DROP DATABASE"),
            ("DROP VIEW v", "DROP VIEW"),
            ("INSERT OVERWRITE t SELECT 1", "INSERT"),
            ("EXPLAIN INSERT INTO t VALUES (1)", "EXPLAIN"),
            ("EXPLAIN ANALYZE INSERT INTO t VALUES (1)", "EXPLAIN"),
            (
                "SELECT * FROM (SELECT * FROM t TABLESAMPLE (10)) AS x",
                "TABLESAMPLE",
            ),
            ("EXPLAIN SELECT * FROM t TABLESAMPLE (10)", "TABLESAMPLE"),
            ("PREPARE p AS SELECT 1", "PREPARE"),
            (
                "CREATE FUNCTION f() RETURNS INT RETURN 1",
                "CREATE FUNCTION",
            ),
        ] {
            match parsed(sql) {
                Err(Error::Unsupported { statement, .. }) => assert_eq!(statement, name, "{sql}"),
                other => panic!("{sql}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_text_that_is_too_long_is_refused_before_it_is_read() {
        let padded = |bytes: usize| format!("SELECT 1{}", " ".repeat(bytes - 8));
        assert!(parsed(&padded(4 * 1024 * 1024)).is_ok());
        let error = parsed(&padded(4 * 1024 * 1024 + 1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("more than 4194304; write rows with DoPut"),
            "{error}"
        );
        // Not even split into tokens: the quote is not missed.
        let error = parsed(&format!("'{}", padded(4 * 1024 * 1024))).unwrap_err();
        assert!(error.to_string().contains("4194304"), "{error}");
    }

    #[test]
    fn a_syntax_error_says_where() {
        let error = parsed("SELECT a\nFROM t WHERE").unwrap_err();
        let end = Some(Location {
            line: 2,
            column: 13,
        });
        assert!(
            matches!(error, Error::Syntax { location, .. } if location == end),
            "{error:?}"
        );
        let error = parsed("SELEC 1").unwrap_err();
        assert!(error.to_string().contains("line 1, column 1"), "{error}");
    }
}
