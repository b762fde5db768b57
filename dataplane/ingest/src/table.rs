//! Finding, creating and evolving the table a stream is written to.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_schema::Schema;
use flightcluster_catalog::{
    self as catalog, Catalog, CreateTable, IfExists, Seen, Table, TableName,
};
use flightcluster_keys::{Key, time_column};
use tracing::info;

use crate::adapt::{Plan, evolved};
use crate::error::Error;
use crate::schema::{decode_schema, encode_schema};

/// Attempts to evolve a table that others evolve at the same time.
const EVOLVE_ATTEMPTS: usize = 16;

/// What to do when the table is or is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableMode {
    /// Create it when it is missing, else append: `DoPut` by path.
    CreateOrAppend,
    /// Create it; fail when it is there.
    Create,
    /// Append; fail when it is missing.
    Append,
    /// Drop it when it is there, and create it.
    Replace,
}

/// The table for a stream of (normalised) schema `incoming`, and how its batches become rows.
/// `declared` is the primary key the stream asks for.
pub(crate) async fn resolve(
    catalog: &dyn Catalog,
    name: &TableName,
    (incoming, declared): (&Schema, Option<&[String]>),
    mode: TableMode,
    create_database: bool,
) -> Result<(Table, Plan), Error> {
    let found = match mode {
        TableMode::CreateOrAppend | TableMode::Append | TableMode::Replace => catalog
            .table(name)
            .await
            .map_err(failed("looking the table up"))?,
        TableMode::Create => None,
    };
    let seen = Seen::of(found.as_ref());
    let create = |if_exists| {
        create_table(
            catalog,
            name,
            (incoming, declared),
            (if_exists, seen),
            create_database,
        )
    };
    let table = match (found, mode) {
        (_, TableMode::Replace) => create(IfExists::Replace).await?,
        (Some(table), _) => table,
        (None, TableMode::Append) => return Err(Error::TableNotFound(name.clone())),
        (None, TableMode::CreateOrAppend) => create(IfExists::Keep).await?,
        (None, TableMode::Create) => create(IfExists::Fail).await?,
    };
    check_key(&table, name, declared)?;
    evolve(catalog, table, name, incoming).await
}

/// Refuses a stream that asks for another primary key than the table has. `shown` is the table's name
/// in messages.
pub(crate) fn check_key(
    table: &Table,
    shown: &TableName,
    declared: Option<&[String]>,
) -> Result<(), Error> {
    let Some(declared) = declared else {
        return Ok(());
    };
    let key = Key::of(&table.options).map_err(Error::Key)?;
    let found = key.as_ref().map(Key::columns);
    if found == Some(declared) {
        return Ok(());
    }
    Err(Error::KeyMismatch {
        table: shown.clone(),
        declared: declared.join(", "),
        found: found.map(|columns| columns.join(", ")),
    })
}

async fn create_table(
    catalog: &dyn Catalog,
    name: &TableName,
    (schema, declared): (&Schema, Option<&[String]>),
    (if_exists, seen): (IfExists, Seen),
    create_database: bool,
) -> Result<Table, Error> {
    let (schema, options) = match declared {
        None => (encode_schema(schema), BTreeMap::new()),
        Some(names) => {
            let declared = Key::declare(schema, names, time_column(schema));
            let (schema, key) = declared.map_err(Error::Key)?;
            (encode_schema(&schema), key.options())
        }
    };
    let request = CreateTable {
        name: name.clone(),
        schema,
        options,
        if_exists,
        create_database,
        unpublished: None,
        seen: Some(seen),
    };
    match catalog.create_table(request).await {
        Err(catalog::Error::TableExists(_)) => Err(Error::TableExists(name.clone())),
        other => other.map_err(failed("creating the table")),
    }
}

/// Adds the columns the table lacks, and widens those whose type is narrower, but for those of a primary
/// key, by which files are sorted. Everything else is checked first, so that a stream that is
/// refused leaves the table as it was. `shown` is the table's name in messages.
pub(crate) async fn evolve(
    catalog: &dyn Catalog,
    mut table: Table,
    shown: &TableName,
    incoming: &Schema,
) -> Result<(Table, Plan), Error> {
    for _ in 0..EVOLVE_ATTEMPTS {
        let current = decode_schema(&table.schema)?;
        let key = Key::of(&table.options).map_err(Error::Key)?;
        let key = key.as_ref().map_or(&[][..], Key::columns);
        let Some(schema) = evolved(&current, incoming, key) else {
            let plan = Plan::new(shown, current, incoming)?;
            return Ok((table, plan));
        };
        Plan::new(shown, Arc::new(schema.clone()), incoming)?;
        let bytes = encode_schema(&schema);
        match catalog
            .evolve_table(table.id, table.schema_version, bytes)
            .await
        {
            Ok(evolved) => {
                info!(
                    table = %evolved.name,
                    schema_version = evolved.schema_version.0,
                    columns = schema.fields().len(),
                    "table has new columns or types"
                );
                table = evolved;
            }
            Err(catalog::Error::SchemaChanged { .. }) => {
                let again = catalog.table(&table.name).await;
                let again = again.map_err(failed("looking the table up"))?;
                table = again.ok_or_else(|| Error::TableNotFound(table.name.clone()))?;
            }
            Err(catalog::Error::TableNotFound(_)) => {
                return Err(Error::TableNotFound(table.name.clone()));
            }
            Err(error) => return Err(failed("changing the columns of the table")(error)),
        }
    }
    // Others changed the table each time: it will calm down.
    let (table, expected) = (table.id, table.schema_version);
    Err(failed("changing the columns of the table")(
        catalog::Error::SchemaChanged { table, expected },
    ))
}

pub(crate) fn failed<E: Into<Arc<catalog::Error>>>(doing: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::Catalog {
        doing,
        source: source.into(),
    }
}
