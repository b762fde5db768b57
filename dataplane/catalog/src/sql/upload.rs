//! Uploads: rows of many streams that appear in one snapshot, or never.
//!
//! An upload is open, then finishing (no stream begins any more, its ingesters flush), then finished;
//! or aborted, or expired. What ended is remembered for a while, so that a repeat gets its answer.

use std::time::Duration;

use sqlx::Row as _;

use super::clock::{is_settled, now_millis};
use super::dialect::{Connection, Row};
use super::value::{stored, unsigned};
use super::{Failure, ingester, open, snapshot, table};
use crate::{
    Error, FinishUpload, Ingester, IngesterId, IngesterState, JoinUpload, Table, TableId,
    TableName, Upload, UploadState, name,
};

/// Time an upload has at least from the beginning of its end.
const FINISHING: Duration = Duration::from_secs(600);

/// Time an ended upload is remembered.
const REMEMBERED_MILLIS: i64 = 24 * 60 * 60 * 1000;

/// Option of a table with what the rows of its files were prepared for.
const KEY_OPTION: &str = "primary_key";

/// Uploads that expire, and that are forgotten, in one step.
const EXPIRY_STEP: i64 = 1000;

/// An upload as it is stored.
struct Stored {
    target: TableName,
    staging: Option<TableId>,
    state: UploadState,
    rows: u64,
    expires_at_millis: i64,
}

/// Begins an upload. A repeat with the same id finds it.
pub(super) async fn start(
    c: &mut Connection,
    id: String,
    target: TableName,
    ttl: Duration,
) -> Result<Upload, Failure> {
    name::check_table(&target)?;
    name::check_unpublished(&id)?;
    sqlx::query(
        "INSERT INTO uploads (id, database_name, schema_name, table_name, state, row_count,
                              expires_at_millis)
         VALUES ($1, $2, $3, $4, $5, 0, $6) ON CONFLICT (id) DO NOTHING",
    )
    .bind(&id)
    .bind(&target.database)
    .bind(&target.schema)
    .bind(&target.table)
    .bind(UploadState::Open.as_str())
    .bind(later(ttl))
    .execute(&mut *c)
    .await?;
    read(c, id).await
}

/// Takes a stream of an ingester into an open upload, and returns the table it goes to, which the
/// first stream makes.
pub(super) async fn join(c: &mut Connection, request: JoinUpload) -> Result<Table, Failure> {
    let JoinUpload {
        id,
        target,
        ingester,
        epoch,
        schema,
        ttl,
    } = request;
    ingester::fence(c, ingester, epoch).await?;
    let upload = find(c, &id).await?;
    if upload.target != target {
        let target = upload.target;
        return Err(Error::UploadTarget { id, target }.into());
    }
    if upload.state != UploadState::Open {
        let state = upload.state;
        return Err(Error::UploadEnded { id, state }.into());
    }
    sqlx::query("UPDATE uploads SET expires_at_millis = $2 WHERE id = $1")
        .bind(&id)
        .bind(later(ttl))
        .execute(&mut *c)
        .await?;
    sqlx::query(
        "INSERT INTO upload_ingesters (upload_id, ingester_id) VALUES ($1, $2)
         ON CONFLICT (upload_id, ingester_id) DO NOTHING",
    )
    .bind(&id)
    .bind(stored(ingester.0)?)
    .execute(&mut *c)
    .await?;
    if let Some(staging) = upload.staging {
        let found = table::find_by_id(c, staging).await?;
        return found.ok_or_else(|| Error::TableNotFound(upload.target.to_string()).into());
    }
    let staging = table::create_staging(c, &upload.target, &id, schema).await?;
    sqlx::query("UPDATE uploads SET staging_id = $2 WHERE id = $1")
        .bind(&id)
        .bind(stored(staging.id.0)?)
        .execute(c)
        .await?;
    Ok(staging)
}

/// Ends the time in which streams may begin; returns what has to be flushed, and where.
pub(super) async fn seal(c: &mut Connection, id: String) -> Result<Upload, Failure> {
    let upload = find(c, &id).await?;
    match upload.state {
        UploadState::Open | UploadState::Finishing => {
            let until = later(FINISHING).max(upload.expires_at_millis);
            sqlx::query("UPDATE uploads SET state = $2, expires_at_millis = $3 WHERE id = $1")
                .bind(&id)
                .bind(UploadState::Finishing.as_str())
                .bind(until)
                .execute(&mut *c)
                .await?;
        }
        UploadState::Finished => {}
        state @ (UploadState::Aborted | UploadState::Expired) => {
            return Err(Error::UploadEnded { id, state }.into());
        }
    }
    read(c, id).await
}

/// Makes the rows of an upload visible, all at once.
pub(super) async fn finish(c: &mut Connection, request: FinishUpload) -> Result<Upload, Failure> {
    let FinishUpload {
        id,
        staging_version,
        target: expected,
        schema,
        forget_times,
    } = request;
    let upload = find(c, &id).await?;
    match upload.state {
        UploadState::Finishing => {}
        UploadState::Finished => return read(c, id).await,
        state @ (UploadState::Open | UploadState::Aborted | UploadState::Expired) => {
            return Err(Error::UploadEnded { id, state }.into());
        }
    }
    let staging = match upload.staging {
        Some(staging) => table::find_by_id(c, staging).await?,
        None => None,
    };
    let Some(staging) = staging else {
        set_state(c, &id, UploadState::Finished).await?;
        return read(c, id).await;
    };
    let target = table::find(c, &upload.target).await?;
    let found = target
        .as_ref()
        .map(|table| (table.id, table.schema_version));
    if found != expected || staging.schema_version != staging_version {
        let (table, expected) = expected.unwrap_or((staging.id, staging_version));
        return Err(Error::SchemaChanged { table, expected }.into());
    }
    if let Some(target) = &target
        && target.options.get(KEY_OPTION) != staging.options.get(KEY_OPTION)
    {
        let target = upload.target;
        return Err(Error::UploadKey { id, target }.into());
    }
    // The columns first: no state has rows of columns that come later.
    let target = match (target, &schema) {
        (Some(target), Some(schema)) => {
            Some(table::evolve(c, target.id, target.schema_version, schema.clone()).await?)
        }
        (target, _) => target,
    };
    let snapshot = snapshot::next(c, "finish_upload").await?;
    let target = match target {
        Some(target) => target,
        None => {
            let schema = schema.unwrap_or_else(|| staging.schema.clone());
            let options = staging.options.clone();
            table::create_target(c, &upload.target, schema, options, snapshot).await?
        }
    };
    if forget_times {
        let forget =
            "UPDATE files SET time_min_nanos = NULL, time_max_nanos = NULL, time_class = NULL
                      WHERE table_id = $1 AND end_snapshot IS NULL";
        let staging = stored(staging.id.0)?;
        sqlx::query(forget).bind(staging).execute(&mut *c).await?;
    }
    let rows = move_files(c, staging.id, &target, snapshot).await?;
    table::end(c, staging.id, snapshot).await?;
    sqlx::query("UPDATE uploads SET row_count = $2 WHERE id = $1")
        .bind(&id)
        .bind(rows)
        .execute(&mut *c)
        .await?;
    set_state(c, &id, UploadState::Finished).await?;
    read(c, id).await
}

/// Ends an upload without its rows.
pub(super) async fn abort(c: &mut Connection, id: String) -> Result<(), Failure> {
    let upload = find(c, &id).await?;
    match upload.state {
        UploadState::Aborted | UploadState::Expired => Ok(()),
        UploadState::Finished => {
            let state = upload.state;
            Err(Error::UploadEnded { id, state }.into())
        }
        UploadState::Open | UploadState::Finishing => {
            discard(c, &id, upload.staging, UploadState::Aborted).await
        }
    }
}

/// Ends uploads that nobody went on with, and forgets some that ended long ago.
pub(super) async fn expire(c: &mut Connection) -> Result<u64, Failure> {
    if !is_settled() {
        return Ok(0);
    }
    let now = now_millis();
    let abandoned: Vec<(String, Option<TableId>)> = sqlx::query(
        "SELECT id, staging_id FROM uploads
         WHERE expires_at_millis < $1 AND state IN ('open', 'finishing')
         ORDER BY expires_at_millis LIMIT $2",
    )
    .bind(now)
    .bind(EXPIRY_STEP)
    .try_map(|row: Row| Ok((row.try_get("id")?, staging_id(&row)?)))
    .fetch_all(&mut *c)
    .await?;
    let expired = abandoned.len() as u64;
    for (id, staging) in abandoned {
        discard(c, &id, staging, UploadState::Expired).await?;
    }
    for statement in [
        "DELETE FROM upload_ingesters WHERE upload_id IN
         (SELECT id FROM uploads
          WHERE expires_at_millis < $1 AND state NOT IN ('open', 'finishing')
          ORDER BY expires_at_millis, id LIMIT $2)",
        "DELETE FROM uploads WHERE id IN
         (SELECT id FROM uploads
          WHERE expires_at_millis < $1 AND state NOT IN ('open', 'finishing')
          ORDER BY expires_at_millis, id LIMIT $2)",
    ] {
        sqlx::query(statement)
            .bind(now.saturating_sub(REMEMBERED_MILLIS))
            .bind(EXPIRY_STEP)
            .execute(&mut *c)
            .await?;
    }
    Ok(expired)
}

async fn discard(
    c: &mut Connection,
    id: &str,
    staging: Option<TableId>,
    state: UploadState,
) -> Result<(), Failure> {
    if let Some(staging) = staging {
        let snapshot = snapshot::next(c, "discard_upload").await?;
        table::end(c, staging, snapshot).await?;
    }
    Ok(set_state(c, id, state).await?)
}

/// The present state of an upload with what its end needs.
pub(super) async fn read(c: &mut Connection, id: String) -> Result<Upload, Failure> {
    let upload = find(c, &id).await?;
    let ingesters = active_ingesters(c, &id, upload.staging).await?;
    let staging = match upload.staging {
        Some(staging) => table::find_by_id(c, staging).await?,
        None => None,
    };
    Ok(Upload {
        id,
        target: upload.target,
        state: upload.state,
        staging,
        ingesters,
        rows: upload.rows,
    })
}

/// Ingesters that may have rows of the upload which are in no file. Whoever took a stream does, and
/// whoever has its table open: that a stream was taken may be lost with a Postgres server.
async fn active_ingesters(
    c: &mut Connection,
    id: &str,
    staging: Option<TableId>,
) -> Result<Vec<Ingester>, Failure> {
    let open = match staging {
        Some(staging) => open::ingesters_of(c, staging).await?,
        None => Vec::new(),
    };
    let ids: Vec<IngesterId> =
        sqlx::query("SELECT ingester_id FROM upload_ingesters WHERE upload_id = $1")
            .bind(id)
            .try_map(|row| Ok(IngesterId(unsigned(&row, "ingester_id")?)))
            .fetch_all(&mut *c)
            .await?;
    let mut ingesters = ingester::list(c).await?;
    ingesters.retain(|each| {
        let took_a_stream = each.state == IngesterState::Active && ids.contains(&each.id);
        took_a_stream || open.iter().any(|open| open.id == each.id)
    });
    Ok(ingesters)
}

async fn find(c: &mut Connection, id: &str) -> Result<Stored, Failure> {
    let found = sqlx::query(
        "SELECT database_name, schema_name, table_name, staging_id, state, row_count,
                expires_at_millis
         FROM uploads WHERE id = $1",
    )
    .bind(id)
    .try_map(|row| upload(&row))
    .fetch_optional(c)
    .await?;
    let mut upload = found.ok_or_else(|| Error::UploadNotFound(id.to_owned()))?;
    // What is late has expired, also before somebody comes to clean up.
    let runs = matches!(upload.state, UploadState::Open | UploadState::Finishing);
    if runs && upload.expires_at_millis < now_millis() && is_settled() {
        upload.state = UploadState::Expired;
    }
    Ok(upload)
}

fn upload(row: &Row) -> Result<Stored, sqlx::Error> {
    let state: &str = row.try_get("state")?;
    Ok(Stored {
        target: TableName {
            database: row.try_get("database_name")?,
            schema: row.try_get("schema_name")?,
            table: row.try_get("table_name")?,
        },
        staging: staging_id(row)?,
        state: UploadState::from_text(state).ok_or_else(|| sqlx::Error::ColumnDecode {
            index: "state".to_owned(),
            source: format!("{state:?} is not a state of an upload").into(),
        })?,
        rows: unsigned(row, "row_count")?,
        expires_at_millis: row.try_get("expires_at_millis")?,
    })
}

fn staging_id(row: &Row) -> Result<Option<TableId>, sqlx::Error> {
    match row.try_get::<Option<i64>, _>("staging_id")? {
        Some(_) => Ok(Some(TableId(unsigned(row, "staging_id")?))),
        None => Ok(None),
    }
}

async fn set_state(c: &mut Connection, id: &str, state: UploadState) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE uploads SET state = $2 WHERE id = $1")
        .bind(id)
        .bind(state.as_str())
        .execute(c)
        .await?;
    Ok(())
}

/// Gives the files of a staging table to the target; returns their rows.
async fn move_files(
    c: &mut Connection,
    staging: TableId,
    target: &Table,
    snapshot: i64,
) -> Result<i64, sqlx::Error> {
    let rows: i64 = sqlx::query_scalar(
        "SELECT CAST(COALESCE(SUM(row_count), 0) AS BIGINT) FROM files
         WHERE table_id = $1 AND end_snapshot IS NULL",
    )
    .bind(stored(staging.0)?)
    .fetch_one(&mut *c)
    .await?;
    sqlx::query(
        "UPDATE files SET table_id = $2, schema_version = $3, begin_snapshot = $4
         WHERE table_id = $1 AND end_snapshot IS NULL",
    )
    .bind(stored(staging.0)?)
    .bind(stored(target.id.0)?)
    .bind(stored(target.schema_version.0)?)
    .bind(snapshot)
    .execute(c)
    .await?;
    Ok(rows)
}

fn later(ttl: Duration) -> i64 {
    now_millis().saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
}
