//! The tables a statement names: all of them, and those it reads.
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
    ObjectName, Query, ShowCreateObject, Statement as Sql, Visit as _, Visitor,
};

use crate::Error;
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
    }
}

/// Why a walk ended early.
enum Stop {
    /// A name has too many parts.
    Name(Box<DataFusionError>),
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
    /// Common table expressions that were walked over.
    defined: Vec<String>,
    /// Those that come: where their query is, and their name.
    to_come: VecDeque<(usize, String)>,
    /// Those to come may name themselves.
    with_recursive: bool,
}

/// What a name in `FROM` stands for.
enum Meaning {
    Table,
    Defined,
    Itself,
}

impl Walk {
    fn meaning(&self, name: &str) -> Meaning {
        for scope in self.queries.iter().rev() {
            if scope.defined.iter().any(|defined| defined == name) {
                return Meaning::Defined;
            }
            if scope.recursive && scope.defines.as_deref() == Some(name) {
                return Meaning::Itself;
            }
        }
        Meaning::Table
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
        if let (Some(name), Some(outer)) = (ended.defines, self.queries.last_mut()) {
            outer.defined.push(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<Stop> {
        let name = named(name.clone())?;
        match self.meaning(&name.to_string()) {
            Meaning::Defined => {}
            Meaning::Itself => {
                self.found.recursive.insert(name);
            }
            Meaning::Table => {
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
            let described = DESCRIBED_IN.map(|table| TableReference::partial(INFORMATION_SCHEMA, table));
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
