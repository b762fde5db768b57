//! Databases: rows with a name.

use sqlx::Row as _;

use super::clock::now_millis;
use super::dialect::{Connection, Row};
use super::{Failure, snapshot};
use crate::{Database, Error, name};

/// The database that is there from the start.
pub(super) const DEFAULT: &str = "default";

/// Creates a database, or returns the existing one when `if_not_exists`.
pub(super) async fn create(
    c: &mut Connection,
    name: String,
    if_not_exists: bool,
) -> Result<Database, Failure> {
    name::check_database(&name)?;
    match find(c, &name).await? {
        Some(existing) if if_not_exists => Ok(existing),
        Some(_) => Err(Error::DatabaseExists(name).into()),
        None => {
            let snapshot = snapshot::next(c, "create_database").await?;
            Ok(insert(c, name, snapshot).await?)
        }
    }
}

/// Adds a database that is known to be missing, as part of a new snapshot.
pub(super) async fn insert(
    c: &mut Connection,
    name: String,
    snapshot: i64,
) -> Result<Database, sqlx::Error> {
    let id = snapshot::next_id(c, "database").await?;
    let created_at_millis = now_millis();
    sqlx::query(
        "INSERT INTO databases (id, name, created_at_millis, begin_snapshot)
         VALUES ($1, $2, $3, $4)",
    )
    .bind(id)
    .bind(&name)
    .bind(created_at_millis)
    .bind(snapshot)
    .execute(c)
    .await?;
    Ok(Database {
        name,
        created_at_millis,
    })
}

/// Looks a database up.
pub(super) async fn find(c: &mut Connection, name: &str) -> Result<Option<Database>, sqlx::Error> {
    sqlx::query("SELECT name, created_at_millis FROM databases WHERE name = $1")
        .bind(name)
        .try_map(|row| database(&row))
        .fetch_optional(c)
        .await
}

/// The id of a database.
pub(super) async fn id(c: &mut Connection, name: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT id FROM databases WHERE name = $1")
        .bind(name)
        .fetch_optional(c)
        .await
}

/// All databases, by name.
pub(super) async fn list(c: &mut Connection) -> Result<Vec<Database>, Failure> {
    Ok(
        sqlx::query("SELECT name, created_at_millis FROM databases ORDER BY name")
            .try_map(|row| database(&row))
            .fetch_all(c)
            .await?,
    )
}

fn database(row: &Row) -> Result<Database, sqlx::Error> {
    Ok(Database {
        name: row.try_get("name")?,
        created_at_millis: row.try_get("created_at_millis")?,
    })
}
