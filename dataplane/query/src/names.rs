//! What the names of a statement stand for: whether the caller may touch them, and the tables, looked
//! up in one catalog snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arrow_schema::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::utils::datafusion_strsim::normalized_levenshtein;
use datafusion::common::utils::quote_identifier;
use flightcluster_catalog::{
    FileChoice, Seen, Snapshot, SnapshotId, SnapshotRequest, TableName, UNPUBLISHED_SCHEMA,
};

use crate::Error;
use crate::access::{Access, AccessKind};
use crate::catalogs::Databases;
use crate::engine::Inner;
use crate::past::{self, Past};
use crate::provider::StoredTable;
use crate::recent::{View, Views, read};
use crate::schema::decode_schema;
use crate::statement::{Effect, INFORMATION_SCHEMA, PUBLIC, SYSTEM, Statement};
use crate::system::SystemTable;

/// Files of a table that are listed while planning. With more, the plan is made first, because its
/// filters may leave few of them; listing this many costs about as much as asking twice.
const FILES_WHILE_PLANNING: u32 = 256;

/// How alike an existing name must be to be offered for an unknown one (1 is equal).
const SIMILAR: f64 = 0.6;

pub(crate) fn check_access(
    statement: &Statement,
    database: &str,
    access: &Access,
) -> Result<(), Error> {
    if let Some((kind, database)) = statement.effect.needs() {
        access.check(kind, database)?;
    }
    let read = statement.read.iter();
    let mut read: BTreeSet<&str> = read.map(|table| table.database.as_str()).collect();
    if read.is_empty() && statement.effect == Effect::Query {
        read.insert(database);
    }
    read.into_iter()
        .try_for_each(|database| access.check(AccessKind::Read, database))
}

/// User tables are in schema `public`; the others are the engine's.
pub(crate) fn check_target(statement: &Statement) -> Result<(), Error> {
    match statement.effect.target() {
        Some(name) if name.schema != PUBLIC => Err(Error::InvalidName {
            name: name.to_string(),
            problem: format!("only tables of schema {PUBLIC} can be changed"),
        }),
        _ => Ok(()),
    }
}

/// What the names of a statement stand for.
pub(crate) struct Found {
    pub(crate) databases: Databases,
    pub(crate) views: Views,
    pub(crate) looked_up: bool,
    /// The schema of the table rows are inserted into.
    pub(crate) target: Option<SchemaRef>,
    /// What has the name of the table that is written to.
    pub(crate) seen: Seen,
    /// Names that stand for nothing, and the past they were looked up in.
    pub(crate) missing: Vec<(TableName, Option<Past>)>,
}

/// Looks up all names of a statement in one snapshot: the present one, or that of `past`. A table that
/// says of which past it is comes from that.
pub(crate) async fn look_up(
    inner: &Inner,
    statement: &Statement,
    database: &str,
    past: Option<Past>,
) -> Result<Found, Error> {
    let mut stored = Vec::new();
    // By the past they are of: the name in the statement, and the one it stands for.
    let mut of_past: BTreeMap<Past, Vec<(TableName, TableName)>> = BTreeMap::new();
    let mut system = Vec::new();
    let mut describes = BTreeSet::new();
    let mut missing = Vec::new();
    for name in &statement.tables {
        if let Some((table, as_of)) = past::of_name(name) {
            check_past(&table)?;
            let past = as_of.resolve(inner.catalog.as_ref()).await?;
            of_past.entry(past).or_default().push((name.clone(), table));
            continue;
        }
        match name.schema.as_str() {
            INFORMATION_SCHEMA => {
                describes.insert(name.database.clone());
            }
            SYSTEM => match SystemTable::named(&name.table) {
                Some(table) => system.push((name.clone(), table)),
                None => missing.push((name.clone(), None)),
            },
            // A name nobody can know, but nobody has to try.
            UNPUBLISHED_SCHEMA => missing.push((name.clone(), None)),
            _ => stored.push(name.clone()),
        }
    }
    // One view of each past, also when the statement and a table of it ask for the same.
    let mut asked = stored.clone();
    let same = past.and_then(|past| of_past.get(&past));
    asked.extend(same.into_iter().flatten().map(|(_, table)| table.clone()));
    let looked_up = !asked.is_empty();
    let snapshot = match looked_up {
        true => first_snapshot(inner, past, &asked).await?,
        false => Snapshot {
            id: SnapshotId(0),
            tables: Vec::new(),
            ingesters: Vec::new(),
        },
    };
    let present: BTreeSet<&TableName> = snapshot
        .tables
        .iter()
        .map(|held| &held.table.name)
        .collect();
    // A table to be created need not exist; it does when it is replaced by a part of itself.
    let created = |name: &TableName| matches!(&statement.effect, Effect::CreateTable { name: new, .. } if new == name);
    missing.extend(
        stored
            .into_iter()
            .filter(|name| !present.contains(name) && !created(name))
            .map(|name| (name, past)),
    );

    let view = Arc::new(match past {
        None => View::new(snapshot, unix_nanos()),
        Some(past) => View::of_past(snapshot, past),
    });
    let mut views = Views::of(Arc::clone(&view));
    let mut tables: Vec<(TableName, Arc<dyn TableProvider>)> = Vec::new();
    for described in &describes {
        describe(inner, described, &view, &mut tables).await?;
    }
    let (mut target, mut seen) = (None, Seen::Nothing);
    for held in &view.snapshot().tables {
        if statement.effect.target() == Some(&held.table.name) {
            seen = Seen::of(Some(&held.table));
        }
        let mut schema = decode_schema(&held.table.schema)?;
        if statement.effect == Effect::Insert(held.table.name.clone()) {
            target = Some(Arc::clone(&schema));
            schema = all_nullable(&schema);
        }
        tables.push((
            held.table.name.clone(),
            stored_table(&held.table, schema, &view)?,
        ));
    }
    for (of, names) in of_past {
        let view = if past == Some(of) {
            Arc::clone(&view)
        } else {
            let asked: Vec<TableName> = names.iter().map(|(_, table)| table.clone()).collect();
            let snapshot = first_snapshot(inner, Some(of), &asked).await?;
            let view = Arc::new(View::of_past(snapshot, of));
            views.add(Arc::clone(&view));
            view
        };
        for (name, table) in names {
            let snapshot = view.snapshot();
            let mut held = snapshot.tables.iter();
            match held.find(|held| held.table.name == table) {
                None => missing.push((table, Some(of))),
                Some(held) => {
                    let schema = decode_schema(&held.table.schema)?;
                    tables.push((name, stored_table(&held.table, schema, &view)?));
                }
            }
        }
    }
    for (name, table) in system {
        let rows = table
            .read(inner.catalog.as_ref(), &inner.running, &name.database)
            .await?;
        tables.push((name, rows));
    }
    describes.insert(database.to_owned());
    Ok(Found {
        databases: Databases::new(describes, tables),
        views,
        looked_up,
        target,
        seen,
        missing,
    })
}

/// What planning needs; the files too, where there are few.
async fn first_snapshot(
    inner: &Inner,
    past: Option<Past>,
    tables: &[TableName],
) -> Result<Snapshot, Error> {
    let few = FileChoice::AtMost(FILES_WHILE_PLANNING);
    let tables = tables.iter().map(|name| (name.clone(), few)).collect();
    read(inner.catalog.as_ref(), past, SnapshotRequest { tables }).await
}

/// What the server knows about itself it knows of today.
fn check_past(table: &TableName) -> Result<(), Error> {
    if table.schema == PUBLIC {
        return Ok(());
    }
    Err(Error::AsOf {
        problem: format!("{table} has no past; only tables of schema {PUBLIC} have"),
    })
}

fn unix_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

fn stored_table(
    table: &flightcluster_catalog::Table,
    schema: SchemaRef,
    view: &Arc<View>,
) -> Result<Arc<dyn TableProvider>, Error> {
    let table = StoredTable::new(table, schema, Arc::clone(view))?;
    Ok(Arc::new(table))
}

/// How the target of an `INSERT` is shown to the planner: a null where none may be is then found
/// when the rows are written, and told with the name of the column.
fn all_nullable(schema: &Schema) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .map(|field| Field::clone(field).with_nullable(true));
    let fields: Vec<Field> = fields.collect();
    SchemaRef::new(Schema::new_with_metadata(fields, schema.metadata().clone()))
}

/// Adds all tables of a database, for `information_schema`; they are described, not read.
async fn describe(
    inner: &Inner,
    database: &str,
    view: &Arc<View>,
    tables: &mut Vec<(TableName, Arc<dyn TableProvider>)>,
) -> Result<(), Error> {
    let listed = match inner.catalog.list_tables(Some(database)).await {
        Ok(listed) => listed,
        // Nothing was written yet: there is nothing to describe.
        Err(flightcluster_catalog::Error::DatabaseNotFound(_)) => Vec::new(),
        Err(source) => return Err(Error::from_catalog("listing tables", source)),
    };
    for table in listed {
        let schema = decode_schema(&table.schema)?;
        tables.push((table.name.clone(), stored_table(&table, schema, view)?));
    }
    for table in SystemTable::ALL {
        let name = TableName {
            database: database.to_owned(),
            schema: SYSTEM.to_owned(),
            table: table.name().to_owned(),
        };
        tables.push((name, table.described()?));
    }
    Ok(())
}

/// When planning failed and a named table does not exist, that is what the caller wants to know.
pub(crate) async fn explain_missing(
    inner: &Inner,
    missing: &[(TableName, Option<Past>)],
    error: Error,
) -> Error {
    let user_mistake = matches!(error, Error::Plan { .. } | Error::NotImplemented { .. });
    let functions = inner.template.table_functions();
    let name = missing
        .iter()
        .find(|(name, _)| !functions.contains_key(&name.table));
    let (true, Some((name, past))) = (user_mistake, name) else {
        return error;
    };
    if let Some(past) = past {
        return Error::NotInSnapshot {
            table: name.to_string(),
            snapshot: past.snapshot,
        };
    }
    match inner.catalog.list_databases().await {
        Ok(databases)
            if databases
                .iter()
                .any(|database| database.name == name.database) => {}
        Ok(_) => {
            return Error::DatabaseNotFound {
                database: name.database.clone(),
            };
        }
        Err(source) => return Error::from_catalog("listing databases", source),
    }
    let tables = match inner.catalog.list_tables(Some(&name.database)).await {
        Ok(tables) => tables,
        Err(source) => return Error::from_catalog("listing tables", source),
    };
    let wanted = name.table.to_lowercase();
    let likeness = |known: &str| normalized_levenshtein(&wanted, &known.to_lowercase());
    let similar = tables
        .iter()
        .filter(|table| table.name.schema == name.schema)
        .map(|table| (likeness(&table.name.table), &table.name.table))
        .filter(|(likeness, _)| *likeness >= SIMILAR)
        .max_by(|(left, _), (right, _)| left.total_cmp(right))
        .map(|(_, table)| quote_identifier(table).into_owned());
    Error::TableNotFound {
        table: name.to_string(),
        similar,
    }
}
