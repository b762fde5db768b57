//! The tables a statement names: all of them, and those it reads. Refuses a statement that is short
//! and becomes a huge plan: the planner puts a copy of a common table expression wherever its name
//! stands, so a chain of them that each name the one before twice doubles with each link.
//!
//! Every query is walked once, however common table expressions are nested. Names are resolved as the
//! planner does it: a name in `FROM` is a common table expression when one of that name was defined
//! before it, in the same query or one around it.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::planner::object_name_to_table_reference;
use datafusion::sql::sqlparser::ast::{
    ObjectName, Query, Select, ShowCreateObject, Statement as Sql, Visit as _, Visitor,
};

use crate::Error;
use crate::depth::MAX_EXPANDED_TABLES;
use crate::sort::Sorter;
use crate::statement::INFORMATION_SCHEMA;

/// What `SHOW` is rewritten to by the planner reads these.
const DESCRIBED_IN: [&str; 7] = [
    "tables",
    "views",
    "columns",
    "df_settings",
    "schemata",
    "routines",
    "parameters",
];

/// The tables of a statement, without common table expressions.
#[derive(Debug, Default)]
pub(crate) struct References {
    /// All of them.
    pub(crate) all: BTreeSet<TableReference>,
    /// Those that stand in a query, or in a statement that describes them.
    pub(crate) read: BTreeSet<TableReference>,
    /// Names of recursive common table expressions inside of themselves. The planner takes the first
    /// for a table.
    pub(crate) recursive: BTreeSet<TableReference>,
}

/// Finds the tables a statement names.
pub(crate) fn references(parsed: &ParsedStatement, sorter: Sorter) -> Result<References, Error> {
    let sql = match parsed {
        ParsedStatement::Statement(sql) => sql,
        ParsedStatement::Explain(explain) => return references(&explain.statement, sorter),
        // Refused before.
        ParsedStatement::CreateExternalTable(_)
        | ParsedStatement::CopyTo(_)
        | ParsedStatement::Reset(_) => return Ok(References::default()),
    };
    let mut walk = Walk::default();
    match sql.visit(&mut walk) {
        ControlFlow::Continue(()) => Ok(walk.found),
        ControlFlow::Break(Stop::Name(error)) => Err(sorter.sort("resolving names", *error)),
        ControlFlow::Break(Stop::TooLarge) => Err(Error::Syntax {
            message: format!(
                "more than {MAX_EXPANDED_TABLES} tables, counting those of a common table expression \
                 each time it is named; write a step of them into a table"
            ),
            location: None,
        }),
    }
}

/// Why a walk ended early.
enum Stop {
    /// A name has too many parts.
    Name(Box<DataFusionError>),
    /// The plan would have too many tables.
    TooLarge,
}

#[derive(Default)]
struct Walk {
    found: References,
    /// The queries around the present place.
    queries: Vec<Scope>,
}

/// What a query defines.
#[derive(Default)]
struct Scope {
    /// The common table expression this query is the definition of.
    defines: Option<String>,
    /// It may name itself.
    recursive: bool,
    /// Common table expressions that were walked over, and the tables they become.
    defined: Vec<(String, usize)>,
    /// Those that come: where their query is, and their name.
    to_come: VecDeque<(usize, String)>,
    /// Those to come may name themselves.
    with_recursive: bool,
    /// Tables the query becomes; a `SELECT` without any counts as one.
    tables: usize,
}

/// What a name in `FROM` stands for.
enum Meaning {
    Table,
    /// A common table expression of so many tables.
    Defined(usize),
    Itself,
}

impl Walk {
    fn meaning(&self, name: &str) -> Meaning {
        for scope in self.queries.iter().rev() {
            let defined = scope.defined.iter().find(|(defined, _)| defined == name);
            if let Some((_, tables)) = defined {
                return Meaning::Defined(*tables);
            }
            if scope.recursive && scope.defines.as_deref() == Some(name) {
                return Meaning::Itself;
            }
        }
        Meaning::Table
    }

    fn count(&mut self, tables: usize) -> ControlFlow<Stop> {
        if let Some(query) = self.queries.last_mut() {
            query.tables = query.tables.saturating_add(tables);
            if query.tables > MAX_EXPANDED_TABLES {
                return ControlFlow::Break(Stop::TooLarge);
            }
        }
        ControlFlow::Continue(())
    }
}

impl Visitor for Walk {
    type Break = Stop;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Stop> {
        let mut scope = Scope::default();
        if let Some(outer) = self.queries.last_mut()
            && let Some((_, name)) = outer.to_come.pop_front_if(|(place, _)| *place == at(query))
        {
            scope.defines = Some(name);
            scope.recursive = outer.with_recursive;
        }
        if let Some(with) = &query.with {
            scope.with_recursive = with.recursive;
            for table in &with.cte_tables {
                let name = named(ObjectName::from(vec![table.alias.name.clone()]))?.to_string();
                scope.to_come.push_back((at(&table.query), name));
            }
        }
        self.queries.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<Stop> {
        let ended = self.queries.pop().unwrap_or_default();
        match (ended.defines, self.queries.last_mut()) {
            (Some(name), Some(outer)) => {
                outer.defined.push((name, ended.tables.max(1)));
                ControlFlow::Continue(())
            }
            _ => self.count(ended.tables),
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Stop> {
        self.count(usize::from(select.from.is_empty()))
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<Stop> {
        let name = named(name.clone())?;
        match self.meaning(&name.to_string()) {
            Meaning::Defined(tables) => self.count(tables)?,
            Meaning::Itself => {
                self.count(1)?;
                self.found.recursive.insert(name);
            }
            Meaning::Table => {
                self.count(1)?;
                if !self.queries.is_empty() {
                    self.found.read.insert(name.clone());
                }
                self.found.all.insert(name);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Sql) -> ControlFlow<Stop> {
        let shows = match statement {
            Sql::ShowCreate {
                obj_type: ShowCreateObject::Table | ShowCreateObject::View,
                obj_name,
            } => {
                self.pre_visit_relation(obj_name)?;
                true
            }
            Sql::ShowFunctions { .. }
            | Sql::ShowVariable { .. }
            | Sql::ShowStatus { .. }
            | Sql::ShowVariables { .. }
            | Sql::ShowCreate { .. }
            | Sql::ShowColumns { .. }
            | Sql::ShowTables { .. }
            | Sql::ShowCollation { .. } => true,
            _ => false,
        };
        if shows {
            let described =
                DESCRIBED_IN.map(|table| TableReference::partial(INFORMATION_SCHEMA, table));
            self.found.all.extend(described);
        }
        ControlFlow::Continue(())
    }
}

/// Tells a query from others while the statement is not moved.
fn at(query: &Query) -> usize {
    std::ptr::from_ref(query).addr()
}

fn named(name: ObjectName) -> ControlFlow<Stop, TableReference> {
    match object_name_to_table_reference(name, true) {
        Ok(name) => ControlFlow::Continue(name),
        Err(error) => ControlFlow::Break(Stop::Name(Box::new(error))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use datafusion::sql::parser::DFParser;

    use super::*;

    fn found(sql: &str) -> Result<References, Error> {
        let parsed = DFParser::parse_sql(sql).unwrap().pop_back().unwrap();
        references(&parsed, Sorter { memory_bytes: 1 })
    }

    fn text(names: &BTreeSet<TableReference>) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        names.join(" ")
    }

    /// `c0`, and `count` more that each name the one before twice.
    fn doubling(count: usize) -> String {
        let next = |n: usize| format!(", c{n} AS (SELECT a.x FROM c{0} a, c{0} b)", n - 1);
        let links: String = (1..=count).map(next).collect();
        format!("WITH c0 AS (SELECT 1 AS x){links} SELECT x FROM c{count}")
    }

    #[test]
    fn common_table_expressions_are_resolved_where_they_are_in_scope() {
        for (sql, tables) in [
            ("WITH t AS (SELECT * FROM t) SELECT * FROM t", "t"),
            (
                "(WITH t AS (SELECT 1) SELECT * FROM t) UNION (SELECT * FROM t)",
                "t",
            ),
            (
                "(WITH t AS (WITH u AS (SELECT 1) SELECT * FROM u) SELECT * FROM u CROSS JOIN t)",
                "u",
            ),
            (
                "WITH a AS (SELECT * FROM b), b AS (SELECT * FROM c) SELECT * FROM a, b",
                "b c",
            ),
            (
                "WITH t AS (SELECT 1) SELECT (SELECT count(*) FROM t) FROM s.t",
                "s.t",
            ),
            ("WITH T AS (SELECT 1) SELECT * FROM t, \"T\"", "T"),
        ] {
            let found = found(sql).unwrap();
            assert_eq!(text(&found.all), tables, "{sql}");
            assert_eq!(text(&found.read), tables, "{sql}");
        }
        let sql = "WITH RECURSIVE n AS (SELECT 1 AS x UNION ALL SELECT x FROM n) SELECT * FROM n";
        let found = found(sql).unwrap();
        assert_eq!(
            (text(&found.all), text(&found.recursive)),
            (String::new(), "n".to_owned())
        );
    }

    #[test]
    fn common_table_expressions_that_double_are_refused_before_they_are_planned() {
        assert!(found(&doubling(13)).is_ok());
        for sql in [
            doubling(14),
            doubling(400),
            format!("INSERT INTO t {}", doubling(40)),
            format!("CREATE TABLE u AS {}", doubling(40)),
            format!(
                "SELECT * FROM ({}) AS a WHERE x IN ({})",
                doubling(13),
                doubling(13)
            ),
            // Also where nothing takes the rows.
            doubling(40).replace("FROM c40", "FROM c0"),
        ] {
            let error = found(&sql).unwrap_err();
            assert!(
                error.to_string().contains("more than 10000 tables"),
                "{error}"
            );
        }
    }

    #[test]
    fn nested_definitions_are_walked_once() {
        let nested = (0..15).fold("SELECT 1 AS x".to_owned(), |sql, n| {
            format!("WITH c{n} AS ({sql}) SELECT x FROM c{n}")
        });
        assert!(found(&nested).unwrap().all.is_empty());
    }
}
