//! From the text of a statement to a plan: names looked up in one catalog snapshot, parameters
//! bound, types settled. No row is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{Field, Schema, SchemaRef};
use datafusion::common::Constraint;
use datafusion::common::utils::quote_identifier;
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    CreateMemoryTable, DdlStatement, LogicalPlan, LogicalPlanBuilder, WriteOp,
};
use flightcluster_catalog::{IfExists, SchemaVersion, Seen, SetOptions, SnapshotId, TableName};
use flightcluster_keys::{Key, stored_field, take_declared, time_column};

use crate::Error;
use crate::access::Access;
use crate::delete::Deletion;
use crate::engine::Inner;
use crate::growth::check_growth;
use crate::names::{check_access, check_target, explain_missing, look_up};
use crate::options;
use crate::parameters::Parameters;
use crate::past::{AsOf, Past};
use crate::recent::Views;
use crate::schema::check_storable;
use crate::session::session;
use crate::sort::Sorter;
use crate::statement::{Effect, Statement, parse};
use crate::texts;
use crate::update;

/// One statement to be planned.
#[derive(Debug, Clone)]
pub struct QueryRequest {
    /// The database of names without one.
    pub database: String,
    /// The text: exactly one statement, a trailing semicolon is fine.
    pub sql: String,
    /// Values of the parameters, exactly one row. `?` and `$1` are taken by column position (but see
    /// `named`), `$name` by column name (with or without `$`). Without a row the parameters stay
    /// open: the plan can be described, not run.
    pub parameters: Option<RecordBatch>,
    /// The values were given by name and in no order, as in a JSON object: `?` and `$1` are taken
    /// by column names that are numbers. A single value is taken whatever its name.
    pub named: bool,
    /// What the caller may touch.
    pub access: Access,
    /// Refuse anything that is not a query.
    pub read_only: bool,
    /// The past that tables are read of which do not say it themselves; only for queries.
    pub as_of: Option<AsOf>,
    /// The plan is for [`crate::Engine::execute_partial`]; only for queries.
    pub partial: bool,
}

/// What a statement is, by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatementKind {
    /// It answers rows and changes nothing: `SELECT`, `WITH`, `VALUES`, `EXPLAIN`, `SHOW`,
    /// `DESCRIBE`.
    Query,
    /// It changes what exists: `CREATE`, `DROP`, `ALTER`.
    Ddl,
    /// It adds or takes away rows: `INSERT`, `DELETE`, `TRUNCATE`.
    Dml,
}

/// A statement ready to run, once.
#[derive(Debug)]
pub struct Plan {
    pub(crate) action: Action,
    pub(crate) database: String,
    pub(crate) sql: String,
    schema: SchemaRef,
    parameter_schema: SchemaRef,
    /// The first parameter without a value.
    open: Option<String>,
    snapshot: Option<SnapshotId>,
    past: Option<Past>,
}

impl Plan {
    /// The schema of every batch the plan gives; no fields for a statement that changes something.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn is_update(&self) -> bool {
        self.kind() != StatementKind::Query
    }

    /// Whether it is an `INSERT`, of which each ingester recognises a repeat.
    #[must_use]
    pub fn is_insert(&self) -> bool {
        matches!(self.action, Action::Insert { .. })
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> StatementKind {
        match self.action {
            Action::Query(_) => StatementKind::Query,
            Action::CreateTable { .. }
            | Action::DropTable { .. }
            | Action::CreateDatabase { .. }
            | Action::SetOptions(_) => StatementKind::Ddl,
            Action::Insert { .. } | Action::Delete(_) => StatementKind::Dml,
        }
    }

    /// The parameters of the statement: `$1`, `$2`, … in order, or `$name` by name; type `Null`
    /// where the statement does not tell the type.
    #[must_use]
    pub fn parameter_schema(&self) -> SchemaRef {
        Arc::clone(&self.parameter_schema)
    }

    /// The state of the catalog the names were looked up in; `None` when no table was.
    #[must_use]
    pub fn snapshot_id(&self) -> Option<SnapshotId> {
        self.snapshot
    }

    /// The past that was found for [`QueryRequest::as_of`].
    #[must_use]
    pub fn past(&self) -> Option<Past> {
        self.past
    }

    pub(crate) fn check_bound(&self) -> Result<(), Error> {
        match &self.open {
            Some(name) => Err(Error::ParameterMissing { name: name.clone() }),
            None => Ok(()),
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Action {
    Query(Ready),
    CreateTable {
        name: TableName,
        schema: SchemaRef,
        options: BTreeMap<String, String>,
        if_exists: IfExists,
        seen: Seen,
        rows: Option<Ready>,
    },
    DropTable {
        name: TableName,
        if_exists: bool,
        seen: Seen,
    },
    CreateDatabase {
        name: String,
        if_not_exists: bool,
    },
    Insert {
        table: TableName,
        schema: SchemaRef,
        rows: Ready,
    },
    Delete(Deletion),
    SetOptions(SetOptions),
}

/// A plan that gives rows.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) plan: LogicalPlan,
    pub(crate) schema: SchemaRef,
    pub(crate) state: Arc<SessionState>,
    /// What it sees: the present or past of the statement first, then that of single tables.
    pub(crate) views: Views,
}

/// Plans one statement.
pub(crate) async fn plan(inner: &Inner, request: QueryRequest) -> Result<Plan, Error> {
    let QueryRequest {
        database,
        sql,
        parameters,
        named,
        access,
        read_only,
        as_of,
        partial,
    } = request;
    let sorter = inner.sorter;
    let (text, of) = (sql.clone(), database.clone());
    // The text of an INSERT may be megabytes: parsed on the query threads.
    let statement = inner
        .compute
        .run(async move { parse(&text, &of, sorter) })
        .await?;
    if read_only && statement.effect != Effect::Query {
        return Err(Error::ReadOnly {
            statement: statement.label,
        });
    }
    if as_of.is_some() && statement.effect != Effect::Query {
        return Err(Error::AsOf {
            problem: format!(
                "{} can't be done in the past; take the header x-fc-as-of and the session option as_of \
                 away. Rows of the past are copied by INSERT INTO … SELECT … FROM table FOR SYSTEM_TIME \
                 AS OF '…'",
                statement.label
            ),
        });
    }
    if partial && statement.effect != Effect::Query {
        return Err(Error::Partial {
            statement: statement.label,
        });
    }
    check_access(&statement, &database, &access)?;
    check_target(&statement)?;
    if let Some(action) = update::planned(inner, &statement.effect).await? {
        let schema = SchemaRef::new(Schema::empty());
        let parameter_schema = Arc::clone(&schema);
        let (open, snapshot) = (None, None);
        return Ok(Plan {
            action,
            database,
            sql,
            schema,
            parameter_schema,
            open,
            snapshot,
            past: None,
        });
    }
    let writes = matches!(statement.effect, Effect::Insert(_) | Effect::Delete(_));
    if writes && inner.writer.is_none() {
        return Err(Error::NoWriter);
    }

    let past = match as_of {
        Some(as_of) => Some(as_of.resolve(inner.catalog.as_ref()).await?),
        None => None,
    };
    let found = look_up(inner, &statement, &database, past).await?;
    let missing = found.missing;
    let snapshot = found.looked_up.then(|| found.views.first().snapshot_id());
    let catalogs = Arc::new(found.databases);
    let state = Arc::new(session(&inner.template, &database, catalogs));
    let (views, target, seen) = (found.views, found.target, found.seen);
    let work = Planning {
        statement,
        state,
        views,
        target,
        seen,
        parameters,
        named,
        sorter,
    };
    let planned = inner.compute.run(work.run()).await;
    let (action, parameters, open) = match planned {
        Ok(planned) => planned,
        Err(error) => return Err(explain_missing(inner, &missing, error).await),
    };
    let schema = match &action {
        Action::Query(ready) => Arc::clone(&ready.schema),
        _ => SchemaRef::new(Schema::empty()),
    };
    Ok(Plan {
        action,
        database,
        sql,
        schema,
        parameter_schema: parameters,
        open,
        snapshot,
        past,
    })
}

/// The part of planning that computes; runs on the query threads.
struct Planning {
    statement: Statement,
    state: Arc<SessionState>,
    views: Views,
    target: Option<SchemaRef>,
    /// What has the name of the target.
    seen: Seen,
    parameters: Option<RecordBatch>,
    named: bool,
    sorter: Sorter,
}

/// What is to be done, the parameters, and the first one without a value.
type Planned = (Action, SchemaRef, Option<String>);

impl Planning {
    async fn run(self) -> Result<Planned, Error> {
        let Self {
            statement,
            state,
            views,
            target,
            seen,
            parameters,
            named,
            sorter,
        } = self;
        let plan = state
            .statement_to_plan(statement.parsed)
            .await
            .map_err(|error| sorter.sort("planning", error))?;
        let rows = Rows {
            state,
            views,
            values: parameters,
            named,
            may_have_views: !matches!(statement.effect, Effect::Delete(_)),
            sorter,
        };
        match (statement.effect, plan) {
            (
                Effect::CreateTable { name, options, .. },
                LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(create)),
            ) => create_table((name, seen), options, create, rows, &statement.label),
            (Effect::Insert(table), LogicalPlan::Dml(insert))
                if insert.op == WriteOp::Insert(InsertOp::Append) =>
            {
                let schema = target.unwrap_or_else(|| insert.target.schema());
                let (rows, parameters, open) = rows.ready(Arc::unwrap_or_clone(insert.input))?;
                Ok((
                    Action::Insert {
                        table,
                        schema,
                        rows,
                    },
                    parameters,
                    open,
                ))
            }
            (Effect::Delete(table), LogicalPlan::Dml(delete)) => {
                let input = match delete.op {
                    WriteOp::Delete => Arc::unwrap_or_clone(delete.input),
                    // A truncation is planned without its rows.
                    _ => LogicalPlanBuilder::scan(delete.table_name, delete.target, None)
                        .and_then(LogicalPlanBuilder::build)
                        .map_err(|error| sorter.sort("planning", error))?,
                };
                let (rows, parameters, open) = rows.ready(input)?;
                let deletion = Deletion::of(table, rows, &statement.label, sorter)?;
                Ok((Action::Delete(deletion), parameters, open))
            }
            (Effect::Query, plan) => {
                let (rows, parameters, open) = rows.ready(plan)?;
                Ok((Action::Query(rows), parameters, open))
            }
            _ => Err(Error::Unsupported {
                statement: statement.label,
                cure: "see the SQL reference for what is",
            }),
        }
    }
}

fn create_table(
    (name, seen): (TableName, Seen),
    mut options: BTreeMap<String, String>,
    create: CreateMemoryTable,
    rows: Rows,
    label: &str,
) -> Result<Planned, Error> {
    let refused = |cure| Error::Unsupported {
        statement: label.to_owned(),
        cure,
    };
    let key: Option<Vec<usize>> = match &create.constraints[..] {
        [] => None,
        [Constraint::PrimaryKey(columns)] => Some(columns.clone()),
        [Constraint::PrimaryKey(_), Constraint::PrimaryKey(_), ..] => {
            return Err(refused(
                "name all columns of the key in one PRIMARY KEY (…)",
            ));
        }
        _ => return Err(refused("leave UNIQUE and other constraints out")),
    };
    if !create.column_defaults.is_empty() {
        return Err(refused("leave DEFAULT out"));
    }
    let if_exists = match (create.or_replace, create.if_not_exists) {
        (false, false) => IfExists::Fail,
        (false, true) => IfExists::Keep,
        (true, false) => IfExists::Replace,
        (true, true) => return Err(refused("take either OR REPLACE or IF NOT EXISTS")),
    };
    let input = Arc::unwrap_or_clone(create.input);
    if let LogicalPlan::EmptyRelation(empty) = &input
        && !empty.produce_one_row
    {
        let schema = table_schema(empty.schema.inner(), false)?;
        check_options(&options, &schema)?;
        let schema = declare(schema, key, &mut options)?;
        let action = Action::CreateTable {
            name,
            schema,
            options,
            if_exists,
            seen,
            rows: None,
        };
        return Ok((action, SchemaRef::new(Schema::empty()), None));
    }
    let (rows, parameters, open) = rows.ready(input)?;
    let schema = table_schema(&rows.schema, true)?;
    check_options(&options, &schema)?;
    let schema = declare(schema, key, &mut options)?;
    let action = Action::CreateTable {
        name,
        schema,
        options,
        if_exists,
        seen,
        rows: Some(rows),
    };
    Ok((action, parameters, open))
}

fn check_options(options: &BTreeMap<String, String>, schema: &Schema) -> Result<(), Error> {
    let options = options
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    options::check(options, schema, SchemaVersion(1))
}

/// Makes the columns at these places the key of a table to be created, as one of its options.
fn declare(
    schema: SchemaRef,
    key: Option<Vec<usize>>,
    options: &mut BTreeMap<String, String>,
) -> Result<SchemaRef, Error> {
    // A key is asked for in words; what rows elsewhere said of theirs is no wish.
    let (schema, _) = take_declared(Schema::clone(&schema)).map_err(Error::Key)?;
    let Some(places) = key else {
        return Ok(SchemaRef::new(schema));
    };
    let names = places.iter().map(|at| schema.field(*at).name().clone());
    let names: Vec<String> = names.collect();
    let declared = Key::declare(&schema, &names, time_column(&schema));
    let (schema, key) = declared.map_err(Error::Key)?;
    options.extend(key.options());
    Ok(SchemaRef::new(schema))
}

/// Makes plans that give rows ready.
struct Rows {
    state: Arc<SessionState>,
    views: Views,
    values: Option<RecordBatch>,
    named: bool,
    /// The plan is run as it is; a deletion takes it apart.
    may_have_views: bool,
    sorter: Sorter,
}

impl Rows {
    fn ready(self, plan: LogicalPlan) -> Result<(Ready, SchemaRef, Option<String>), Error> {
        let Self {
            state,
            views,
            values,
            named,
            may_have_views,
            sorter,
        } = self;
        let only_read = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        only_read
            .verify_plan(&plan)
            .map_err(|error| sorter.sort("checking", error))?;
        check_growth(&plan, sorter)?;
        let parameters = Parameters::of(&plan, sorter)?;
        let parameter_schema = parameters.schema();
        let (plan, open) = match values {
            Some(values) => (parameters.bind(plan, &values, named, sorter)?, None),
            None => (plan, parameters.first()),
        };
        let (plan, schema) = match (plan, open.is_some()) {
            // EXPLAIN wants to show this step, so it takes it itself.
            (LogicalPlan::Explain(mut explain), _) => {
                explain.plan = explained(explain.plan, &state);
                let schema = Arc::clone(explain.schema.inner());
                (LogicalPlan::Explain(explain), schema)
            }
            (plan, false) => {
                let settled = settle(plan, may_have_views, &state);
                settled.map_err(|error| sorter.sort("planning", error))?
            }
            // With open parameters types may be unknown: then the plan as it is says enough.
            (plan, true) => {
                let plan = analyze(plan.clone(), &state).unwrap_or(plan);
                let schema = Arc::clone(plan.schema().inner());
                (plan, schema)
            }
        };
        Ok((
            Ready {
                plan,
                schema,
                state,
                views,
            },
            parameter_schema,
            open,
        ))
    }
}

/// The plan to be run, which may give views for texts, and the schema of what it answers.
fn settle(
    plan: LogicalPlan,
    may_have_views: bool,
    state: &SessionState,
) -> Result<(LogicalPlan, SchemaRef), DataFusionError> {
    let with_views = may_have_views.then(|| texts::open(&plan, state)).flatten();
    let settled = analyze(plan, state)?;
    let schema = Arc::clone(settled.schema().inner());
    let with_views = with_views.and_then(|open| texts::settled(open, &settled, state));
    Ok((with_views.unwrap_or(settled), schema))
}

/// The plan that would be run, with open types.
fn explained(plan: Arc<LogicalPlan>, state: &SessionState) -> Arc<LogicalPlan> {
    let with_views = texts::open(&plan, state).filter(|open| {
        let told = analyze(LogicalPlan::clone(&plan), state).ok();
        told.is_some_and(|told| texts::settled(open.clone(), &told, state).is_some())
    });
    with_views.map_or(plan, Arc::new)
}

/// Settles the types; afterwards the plan has its final schema.
pub(crate) fn analyze(
    plan: LogicalPlan,
    state: &SessionState,
) -> Result<LogicalPlan, DataFusionError> {
    state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})
}

/// The schema of a table to be created; the columns of a query become nullable.
fn table_schema(schema: &SchemaRef, nullable: bool) -> Result<SchemaRef, Error> {
    let mut names = BTreeSet::new();
    let mut fields = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        if !names.insert(field.name()) {
            return Err(Error::Plan {
                message: format!(
                    "column {} comes twice; rename one",
                    quote_identifier(field.name())
                ),
                location: None,
            });
        }
        // Rows are stored in these types: a table of others would refuse the rows it was made for.
        let field = Field::clone(&stored_field(field));
        let nullable = nullable || field.is_nullable();
        fields.push(field.with_nullable(nullable));
    }
    if fields.is_empty() {
        return Err(Error::Plan {
            message: "a table needs at least one column".to_owned(),
            location: None,
        });
    }
    let schema = Schema::new_with_metadata(fields, schema.metadata().clone());
    check_storable(&schema)?;
    Ok(SchemaRef::new(schema))
}
