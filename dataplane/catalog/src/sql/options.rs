//! Options of tables and databases: JSON objects of texts.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use super::clock::now_millis;
use super::dialect::Connection;
use super::value::json;
use super::{Failure, database, snapshot, statement, table};
use crate::{BeginStatement, Error, OptionsOf, Seen, SetOptions, StatementProgress};

/// How long a request is remembered. A repeat of it is not under way for as long.
const REMEMBERED_MILLIS: i64 = 24 * 3600 * 1000;

/// Sets and removes options, once.
pub(super) async fn set(c: &mut Connection, request: SetOptions) -> Result<(), Failure> {
    if let Some(id) = &request.id {
        let begun = BeginStatement {
            id: id.clone(),
            run: "set_options".to_owned(),
            expires_at_millis: now_millis().saturating_add(REMEMBERED_MILLIS),
        };
        if let StatementProgress::Ended { .. } = statement::begin(c, begun).await? {
            return Ok(());
        }
        statement::end(c, id.clone(), 0).await?;
    }
    // Nobody else changes them between the reading and the writing.
    snapshot::next(c, "set_options").await?;
    let (place, id) = match &request.of {
        OptionsOf::Database(name) => match database::id(c, name).await? {
            Some(id) => ("databases", id),
            None => return Err(Error::DatabaseNotFound(name.clone()).into()),
        },
        OptionsOf::Table(name) => match table::find(c, name).await? {
            // Not one to be repeated: the later table is not meant.
            Some(found) if matches!(request.seen, Some(Seen::Table(id)) if id != found.id) => {
                return Err(Error::TableNotFound(name.to_string()).into());
            }
            Some(found) => {
                table::check_seen(name, Some(&found), request.seen)?;
                ("tables", super::value::stored(found.id.0)?)
            }
            None => return table::missing(c, name.clone(), false).await.map(drop),
        },
    };
    let read = format!("SELECT options FROM {place} WHERE id = $1");
    let mut options: BTreeMap<String, String> = sqlx::query(AssertSqlSafe(read))
        .bind(id)
        .try_map(|row| json(&row, "options"))
        .fetch_one(&mut *c)
        .await?;
    for (name, value) in request.changes {
        match value {
            Some(value) => options.insert(name, value),
            None => options.remove(&name),
        };
    }
    let text =
        serde_json::to_string(&options).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    let write = format!("UPDATE {place} SET options = $2 WHERE id = $1");
    sqlx::query(AssertSqlSafe(write))
        .bind(id)
        .bind(text)
        .execute(c)
        .await?;
    Ok(())
}
