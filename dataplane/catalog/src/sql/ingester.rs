//! Ingesters: who they are, which life they are in, whether they may hold rows not yet in files.

use sqlx::Row as _;

use super::dialect::{Connection, Row};
use super::value::{now_millis, stored, unsigned};
use super::{Failure, snapshot};
use crate::{
    Epoch, Error, Ingester, IngesterId, IngesterState, Registration, SequenceNumber, TableId, name,
};

const ACTIVE: &str = "active";
const DRAINED: &str = "drained";
const RETIRED: &str = "retired";

/// Begins a new life of an ingester and tells it what is in files.
pub(super) async fn register(
    c: &mut Connection,
    name: String,
    url: String,
) -> Result<Registration, Failure> {
    name::check_ingester(&name)?;
    snapshot::next(c, "register_ingester").await?;
    let now = now_millis();
    let known = sqlx::query(
        "UPDATE ingesters SET epoch = epoch + 1, url = $2, state = 'active', changed_at_millis = $3
         WHERE name = $1 RETURNING id, name, url, epoch, state, changed_at_millis",
    )
    .bind(&name)
    .bind(&url)
    .bind(now)
    .try_map(|row| ingester(&row))
    .fetch_optional(&mut *c)
    .await?;
    let ingester = match known {
        Some(ingester) => ingester,
        None => insert(c, name, url, now).await?,
    };
    let watermarks = watermarks(c, ingester.id).await?;
    Ok(Registration {
        ingester,
        watermarks,
    })
}

async fn insert(
    c: &mut Connection,
    name: String,
    url: String,
    now: i64,
) -> Result<Ingester, sqlx::Error> {
    let id = snapshot::next_id(c, "ingester").await?;
    sqlx::query(
        "INSERT INTO ingesters (id, name, url, epoch, state, changed_at_millis)
         VALUES ($1, $2, $3, 1, 'active', $4)
         RETURNING id, name, url, epoch, state, changed_at_millis",
    )
    .bind(id)
    .bind(name)
    .bind(url)
    .bind(now)
    .try_map(|row| ingester(&row))
    .fetch_one(c)
    .await
}

async fn watermarks(
    c: &mut Connection,
    id: IngesterId,
) -> Result<Vec<(TableId, SequenceNumber)>, sqlx::Error> {
    sqlx::query(
        "SELECT table_id, sequence FROM watermarks WHERE ingester_id = $1 ORDER BY table_id",
    )
    .bind(stored(id.0)?)
    .try_map(|row| {
        let table = TableId(unsigned(&row, "table_id")?);
        Ok((table, SequenceNumber(unsigned(&row, "sequence")?)))
    })
    .fetch_all(c)
    .await
}

/// Records that an ingester holds nothing that is not in files.
pub(super) async fn drain(c: &mut Connection, id: IngesterId, epoch: Epoch) -> Result<(), Failure> {
    let state = fence(c, id, epoch).await?;
    if state != IngesterState::Active {
        return Ok(());
    }
    snapshot::next(c, "drain_ingester").await?;
    sqlx::query("UPDATE ingesters SET state = 'drained', changed_at_millis = $2 WHERE id = $1")
        .bind(stored(id.0)?)
        .bind(now_millis())
        .execute(c)
        .await?;
    Ok(())
}

/// Records that an ingester never comes back, and fences a process of it that is still running.
pub(super) async fn retire(
    c: &mut Connection,
    name: String,
    accept_loss: bool,
) -> Result<Ingester, Failure> {
    let known = sqlx::query(
        "SELECT id, name, url, epoch, state, changed_at_millis FROM ingesters WHERE name = $1",
    )
    .bind(&name)
    .try_map(|row| ingester(&row))
    .fetch_optional(&mut *c)
    .await?;
    match known {
        None => return Err(Error::IngesterNotFound(name).into()),
        Some(known) => match known.state {
            IngesterState::Retired => return Ok(known),
            IngesterState::Active if !accept_loss => return Err(Error::NotDrained(name).into()),
            IngesterState::Active | IngesterState::Drained => {}
        },
    }
    snapshot::next(c, "retire_ingester").await?;
    Ok(sqlx::query(
        "UPDATE ingesters SET epoch = epoch + 1, state = 'retired', changed_at_millis = $2
         WHERE name = $1 RETURNING id, name, url, epoch, state, changed_at_millis",
    )
    .bind(&name)
    .bind(now_millis())
    .try_map(|row| ingester(&row))
    .fetch_one(c)
    .await?)
}

/// Refuses every life of an ingester but the present one. An unknown ingester has present epoch 0.
pub(super) async fn fence(
    c: &mut Connection,
    ingester: IngesterId,
    epoch: Epoch,
) -> Result<IngesterState, Failure> {
    let known = sqlx::query("SELECT epoch, state FROM ingesters WHERE id = $1")
        .bind(stored(ingester.0)?)
        .try_map(|row| Ok((Epoch(unsigned(&row, "epoch")?), state(&row)?)))
        .fetch_optional(c)
        .await?;
    match known {
        Some((current, state)) if current == epoch => Ok(state),
        other => {
            let current = other.map_or(Epoch(0), |(current, _)| current);
            Err(Error::Fenced {
                ingester,
                epoch,
                current,
            }
            .into())
        }
    }
}

/// Looks an ingester up.
pub(super) async fn find(
    c: &mut Connection,
    id: IngesterId,
) -> Result<Option<Ingester>, sqlx::Error> {
    sqlx::query(
        "SELECT id, name, url, epoch, state, changed_at_millis FROM ingesters WHERE id = $1",
    )
    .bind(stored(id.0)?)
    .try_map(|row| ingester(&row))
    .fetch_optional(c)
    .await
}

/// All ingesters, by name.
pub(super) async fn list(c: &mut Connection) -> Result<Vec<Ingester>, sqlx::Error> {
    sqlx::query(
        "SELECT id, name, url, epoch, state, changed_at_millis FROM ingesters ORDER BY name",
    )
    .try_map(|row| ingester(&row))
    .fetch_all(c)
    .await
}

/// The ingesters a query must ask, by name.
pub(super) async fn list_active(c: &mut Connection) -> Result<Vec<Ingester>, sqlx::Error> {
    let mut ingesters = list(c).await?;
    ingesters.retain(|ingester| ingester.state == IngesterState::Active);
    Ok(ingesters)
}

fn ingester(row: &Row) -> Result<Ingester, sqlx::Error> {
    Ok(Ingester {
        id: IngesterId(unsigned(row, "id")?),
        name: row.try_get("name")?,
        url: row.try_get("url")?,
        epoch: Epoch(unsigned(row, "epoch")?),
        state: state(row)?,
        changed_at_millis: row.try_get("changed_at_millis")?,
    })
}

fn state(row: &Row) -> Result<IngesterState, sqlx::Error> {
    match row.try_get("state")? {
        ACTIVE => Ok(IngesterState::Active),
        DRAINED => Ok(IngesterState::Drained),
        RETIRED => Ok(IngesterState::Retired),
        other => Err(sqlx::Error::ColumnDecode {
            index: "state".to_owned(),
            source: format!("{other:?} is not a state of an ingester").into(),
        }),
    }
}
