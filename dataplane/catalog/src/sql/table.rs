//! Tables and their schemas: create, replace, drop, evolve, look up.

use std::collections::BTreeMap;

use sqlx::Row as _;

use super::clock::now_millis;
use super::dialect::{Connection, Row};
use super::value::{json, stored, unsigned};
use super::{Failure, database, snapshot};
use crate::{
    CreateTable, Error, IfExists, SchemaBytes, SchemaVersion, Seen, SmallFiles, Table, TableId,
    TableName, name,
};

/// Time an unpublished table may take to be filled. What is older was left by a process that died.
const UNPUBLISHED_MILLIS: i64 = 24 * 60 * 60 * 1000;

/// Live tables with their database and present schema; the argument goes on after `WHERE … AND`.
macro_rules! select_tables {
    ($rest:literal) => {
        concat!(
            "SELECT t.id, d.name AS database_name, t.schema_name, t.name, t.schema_version,
                    t.options, d.options AS database_options, t.created_at_millis, v.schema_bytes
             FROM tables t
             JOIN databases d ON d.id = t.database_id
             JOIN schema_versions v ON v.table_id = t.id AND v.version = t.schema_version
             WHERE t.end_snapshot IS NULL ",
            $rest
        )
    };
}

/// Creates, keeps or replaces a table.
pub(super) async fn create(c: &mut Connection, request: CreateTable) -> Result<Table, Failure> {
    name::check_table(&request.name)?;
    let existing = find(c, &request.name).await?;
    match (&existing, request.if_exists) {
        (Some(table), IfExists::Keep) => return Ok(table.clone()),
        (Some(_), IfExists::Fail) => {
            return Err(Error::TableExists(request.name.to_string()).into());
        }
        (_, IfExists::Replace) => check_seen(&request.name, existing.as_ref(), request.seen)?,
        (None, _) => {}
    }
    let database = &request.name.database;
    let has_database = database::find(c, database).await?.is_some();
    if !has_database && !request.create_database {
        return Err(Error::DatabaseNotFound(database.clone()).into());
    }
    let cause = match (&request.unpublished, &existing) {
        (Some(_), _) => "create_unpublished_table",
        (None, Some(_)) => "replace_table",
        (None, None) => "create_table",
    };
    let snapshot = snapshot::next(c, cause).await?;
    if !has_database {
        database::insert(c, database.clone(), snapshot).await?;
    }
    if let Some(unpublished) = &request.unpublished {
        name::check_unpublished(unpublished)?;
        end_abandoned(c, snapshot).await?;
    } else if let Some(table) = existing {
        end(c, table.id, snapshot).await?;
    }
    insert(c, request, snapshot).await
}

/// Creates the table the rows of an upload to `target` are collected in: in the schema of the target,
/// with its options, if there is one, else in that of the stream.
pub(super) async fn create_staging(
    c: &mut Connection,
    target: &TableName,
    upload: &str,
    schema: SchemaBytes,
) -> Result<Table, Failure> {
    let (schema, options) = match find(c, target).await? {
        Some(target) => (target.schema, target.options),
        None => (schema, BTreeMap::new()),
    };
    let request = CreateTable {
        name: target.clone(),
        schema,
        options,
        // There may be one of that name; nothing is replaced by an unpublished table.
        if_exists: IfExists::Replace,
        create_database: true,
        unpublished: Some(format!("upload-{upload}")),
        seen: None,
    };
    create(c, request).await
}

/// Creates the table an upload ends in, which is known to be missing, as part of a new snapshot; with
/// the options of the staging table.
pub(super) async fn create_target(
    c: &mut Connection,
    name: &TableName,
    schema: SchemaBytes,
    options: BTreeMap<String, String>,
    snapshot: i64,
) -> Result<Table, Failure> {
    let request = CreateTable {
        name: name.clone(),
        schema,
        options,
        if_exists: IfExists::Fail,
        create_database: true,
        unpublished: None,
        seen: None,
    };
    insert(c, request, snapshot).await
}

/// Ends the unpublished tables nobody fills any more.
async fn end_abandoned(c: &mut Connection, snapshot: i64) -> Result<(), sqlx::Error> {
    let abandoned: Vec<TableId> = sqlx::query(
        "SELECT id FROM tables
         WHERE end_snapshot IS NULL AND schema_name = $1 AND created_at_millis < $2
           AND id NOT IN (SELECT staging_id FROM uploads WHERE staging_id IS NOT NULL)",
    )
    .bind(name::UNPUBLISHED_SCHEMA)
    .bind(now_millis().saturating_sub(UNPUBLISHED_MILLIS))
    .try_map(|row| Ok(TableId(unsigned(&row, "id")?)))
    .fetch_all(&mut *c)
    .await?;
    for table in abandoned {
        end(c, table, snapshot).await?;
    }
    Ok(())
}

/// Gives an unpublished table its name.
pub(super) async fn publish(
    c: &mut Connection,
    id: TableId,
    name: TableName,
    if_exists: IfExists,
    seen: Option<Seen>,
) -> Result<Table, Failure> {
    name::check_table(&name)?;
    let existing = find(c, &name).await?;
    let unpublished = find_by_id(c, id).await?.filter(|table| {
        table.name.schema == name::UNPUBLISHED_SCHEMA && table.name.database == name.database
    });
    match (existing, if_exists, unpublished) {
        // A repeat.
        (Some(table), _, _) if table.id == id => Ok(table),
        (Some(_), IfExists::Fail, _) => Err(Error::TableExists(name.to_string()).into()),
        (Some(kept), IfExists::Keep, unpublished) => {
            if unpublished.is_some() {
                let snapshot = snapshot::next(c, "drop_table").await?;
                end(c, id, snapshot).await?;
            }
            Ok(kept)
        }
        (_, _, None) => Err(Error::TableNotFound(format!("id {id}")).into()),
        (replaced, _, Some(table)) => {
            if if_exists == IfExists::Replace {
                check_seen(&name, replaced.as_ref(), seen)?;
            }
            let snapshot = snapshot::next(c, "publish_table").await?;
            if let Some(replaced) = replaced {
                end(c, replaced.id, snapshot).await?;
            }
            sqlx::query(
                "UPDATE tables SET schema_name = $2, name = $3, begin_snapshot = $4 WHERE id = $1",
            )
            .bind(stored(id.0)?)
            .bind(&name.schema)
            .bind(&name.table)
            .bind(snapshot)
            .execute(c)
            .await?;
            Ok(Table { name, ..table })
        }
    }
}

/// Nothing but what was seen is replaced or gets other options.
pub(super) fn check_seen(
    name: &TableName,
    found: Option<&Table>,
    seen: Option<Seen>,
) -> Result<(), Error> {
    match seen {
        Some(seen) if seen != Seen::of(found) => Err(Error::TableReplaced(name.to_string())),
        _ => Ok(()),
    }
}

async fn insert(c: &mut Connection, request: CreateTable, snapshot: i64) -> Result<Table, Failure> {
    let CreateTable {
        name,
        schema,
        options,
        if_exists: _,
        create_database: _,
        unpublished,
        seen: _,
    } = request;
    let name = match unpublished {
        Some(table) => TableName {
            schema: name::UNPUBLISHED_SCHEMA.to_owned(),
            table,
            ..name
        },
        None => name,
    };
    let id = snapshot::next_id(c, "table").await?;
    let version = SchemaVersion(1);
    let options_json =
        serde_json::to_string(&options).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    sqlx::query(
        "INSERT INTO tables (id, database_id, schema_name, name, schema_version, options,
                             created_at_millis, begin_snapshot)
         SELECT $1, d.id, $2, $3, $4, $5, $6, $7 FROM databases d WHERE d.name = $8",
    )
    .bind(id)
    .bind(&name.schema)
    .bind(&name.table)
    .bind(stored(version.0)?)
    .bind(options_json)
    .bind(now_millis())
    .bind(snapshot)
    .bind(&name.database)
    .execute(&mut *c)
    .await?;
    insert_schema(c, id, version, &schema, snapshot).await?;
    let id = u64::try_from(id).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let inserted = find_by_id(c, TableId(id)).await?;
    Ok(inserted.ok_or(sqlx::Error::RowNotFound)?)
}

async fn insert_schema(
    c: &mut Connection,
    table: i64,
    version: SchemaVersion,
    schema: &SchemaBytes,
    snapshot: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO schema_versions (table_id, version, schema_bytes, begin_snapshot)
         VALUES ($1, $2, $3, $4)",
    )
    .bind(table)
    .bind(stored(version.0)?)
    .bind(schema.0.as_slice())
    .bind(snapshot)
    .execute(c)
    .await?;
    Ok(())
}

/// Drops a table: its files end with the snapshot and wait for deletion.
pub(super) async fn drop(
    c: &mut Connection,
    name: TableName,
    if_exists: bool,
    seen: Option<Seen>,
) -> Result<Option<Table>, Failure> {
    let table = match (find(c, &name).await?, seen) {
        // The table that was to go is gone. One of the same name is not what the caller saw.
        (found, Some(seen @ Seen::Table(_))) if seen != Seen::of(found.as_ref()) => {
            return Ok(None);
        }
        (None, _) | (_, Some(Seen::Nothing)) => return missing(c, name, if_exists).await,
        (Some(table), _) => table,
    };
    let snapshot = snapshot::next(c, "drop_table").await?;
    end(c, table.id, snapshot).await?;
    Ok(Some(table))
}

/// Says what is missing: a table, or the whole database.
pub(super) async fn missing(
    c: &mut Connection,
    name: TableName,
    if_exists: bool,
) -> Result<Option<Table>, Failure> {
    if if_exists {
        return Ok(None);
    }
    match database::find(c, &name.database).await? {
        Some(_) => Err(Error::TableNotFound(name.to_string()).into()),
        None => Err(Error::DatabaseNotFound(name.database).into()),
    }
}

/// Ends a table and its files; what only serves future writes to it is forgotten.
pub(super) async fn end(
    c: &mut Connection,
    table: TableId,
    snapshot: i64,
) -> Result<(), sqlx::Error> {
    let id = stored(table.0)?;
    let queued = snapshot::no_earlier_than_newest(c).await?;
    sqlx::query(
        "INSERT INTO gc_queue (path, queued_at_millis)
         SELECT path, $2 FROM files WHERE table_id = $1 AND end_snapshot IS NULL",
    )
    .bind(id)
    .bind(queued)
    .execute(&mut *c)
    .await?;
    for statement in [
        "UPDATE files SET end_snapshot = $2 WHERE table_id = $1 AND end_snapshot IS NULL",
        "UPDATE tables SET end_snapshot = $2 WHERE id = $1",
    ] {
        sqlx::query(statement)
            .bind(id)
            .bind(snapshot)
            .execute(&mut *c)
            .await?;
    }
    for statement in [
        "DELETE FROM watermarks WHERE table_id = $1",
        "DELETE FROM producers WHERE table_id = $1",
        "DELETE FROM producer_claims WHERE table_id = $1",
    ] {
        sqlx::query(statement).bind(id).execute(&mut *c).await?;
    }
    Ok(())
}

/// Gives a table its next schema if the present one is still `from`.
pub(super) async fn evolve(
    c: &mut Connection,
    id: TableId,
    from: SchemaVersion,
    schema: SchemaBytes,
) -> Result<Table, Failure> {
    let Some(table) = find_by_id(c, id).await? else {
        return Err(Error::TableNotFound(format!("id {id}")).into());
    };
    let next = match from.0.checked_add(1) {
        Some(next) if table.schema_version == from => SchemaVersion(next),
        _ => {
            return Err(Error::SchemaChanged {
                table: id,
                expected: from,
            }
            .into());
        }
    };
    let snapshot = snapshot::next(c, "evolve_table").await?;
    insert_schema(c, stored(id.0)?, next, &schema, snapshot).await?;
    sqlx::query("UPDATE tables SET schema_version = $2 WHERE id = $1")
        .bind(stored(id.0)?)
        .bind(stored(next.0)?)
        .execute(c)
        .await?;
    Ok(Table {
        schema,
        schema_version: next,
        ..table
    })
}

/// Looks a live table up by name.
pub(super) async fn find(
    c: &mut Connection,
    name: &TableName,
) -> Result<Option<Table>, sqlx::Error> {
    sqlx::query(select_tables!(
        "AND d.name = $1 AND t.schema_name = $2 AND t.name = $3"
    ))
    .bind(&name.database)
    .bind(&name.schema)
    .bind(&name.table)
    .try_map(|row| table(&row))
    .fetch_optional(c)
    .await
}

/// Looks a live table up by id.
pub(super) async fn find_by_id(
    c: &mut Connection,
    id: TableId,
) -> Result<Option<Table>, sqlx::Error> {
    sqlx::query(select_tables!("AND t.id = $1"))
        .bind(stored(id.0)?)
        .try_map(|row| table(&row))
        .fetch_optional(c)
        .await
}

/// Looks live tables up by id, in the order given; others are left out.
pub(super) async fn find_by_ids(
    c: &mut Connection,
    ids: Vec<TableId>,
) -> Result<Vec<Table>, Failure> {
    let mut tables = Vec::with_capacity(ids.len());
    for id in ids {
        tables.extend(find_by_id(c, id).await?);
    }
    Ok(tables)
}

/// All live tables, or those of one database, by name. `unpublished` is the schema nobody sees.
pub(super) async fn list(
    c: &mut Connection,
    database: Option<String>,
) -> Result<Vec<Table>, Failure> {
    let query = match database {
        Some(name) => sqlx::query(select_tables!(
            "AND d.name = $1 AND t.schema_name <> 'unpublished' ORDER BY t.schema_name, t.name"
        ))
        .bind(name),
        None => sqlx::query(select_tables!(
            "AND t.schema_name <> 'unpublished' ORDER BY d.name, t.schema_name, t.name"
        )),
    };
    Ok(query.try_map(|row| table(&row)).fetch_all(c).await?)
}

/// Live tables with at least `min_files` live files below a size, most files first.
pub(super) async fn with_small_files(
    c: &mut Connection,
    below_bytes: u64,
    min_files: u32,
) -> Result<Vec<SmallFiles>, Failure> {
    let counts: Vec<(TableId, u64)> = sqlx::query(
        "SELECT table_id, COUNT(*) AS files FROM files
         WHERE end_snapshot IS NULL AND size_bytes < $1
         GROUP BY table_id HAVING COUNT(*) >= $2 ORDER BY COUNT(*) DESC, table_id",
    )
    .bind(stored(below_bytes)?)
    .bind(i64::from(min_files))
    .try_map(|row| {
        let table = TableId(unsigned(&row, "table_id")?);
        Ok((table, unsigned(&row, "files")?))
    })
    .fetch_all(&mut *c)
    .await?;
    let mut found = Vec::with_capacity(counts.len());
    for (id, files) in counts {
        let table = find_by_id(c, id).await?;
        let published = table.filter(|table| table.name.schema != name::UNPUBLISHED_SCHEMA);
        found.extend(published.map(|table| SmallFiles { table, files }));
    }
    Ok(found)
}

pub(super) fn table(row: &Row) -> Result<Table, sqlx::Error> {
    Ok(Table {
        id: TableId(unsigned(row, "id")?),
        name: TableName {
            database: row.try_get("database_name")?,
            schema: row.try_get("schema_name")?,
            table: row.try_get("name")?,
        },
        schema: SchemaBytes(row.try_get("schema_bytes")?),
        schema_version: SchemaVersion(unsigned(row, "schema_version")?),
        options: json(row, "options")?,
        database_options: json(row, "database_options")?,
        created_at_millis: row.try_get("created_at_millis")?,
    })
}
