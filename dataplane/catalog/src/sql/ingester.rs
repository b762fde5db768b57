//! Ingesters: who they are, which life they are in, whether they may hold rows not yet in files.

use sqlx::Row as _;

use super::clock::now_millis;
use super::dialect::{Connection, Row};
use super::value::{stored, unsigned};
use super::{Failure, open, snapshot};
use crate::{
    Epoch, Error, Ingester, IngesterCheck, IngesterId, IngesterState, LogProblem, LogState,
    RegisterIngester, Registration, SequenceNumber, SnapshotStamp, TableId, name,
};

const ACTIVE: &str = "active";
const DRAINED: &str = "drained";
const RETIRED: &str = "retired";

/// How old the note may get when an ingester was heard of last: it asks more often, and each note is a
/// commit.
const NOTED_EVERY_MILLIS: i64 = 10_000;

/// What the catalog knows of the log of an ingester.
struct KnownLog {
    id: IngesterId,
    state: IngesterState,
    log: Option<String>,
    /// The last life that was ready to write.
    epoch: Epoch,
    durable: SequenceNumber,
    /// Its operator accepted that its log relied on a newer catalog.
    readmitted: bool,
}

/// Begins a new life of an ingester and tells it what is in files.
pub(super) async fn register(
    c: &mut Connection,
    request: RegisterIngester,
) -> Result<Registration, Failure> {
    let RegisterIngester {
        name,
        url,
        log,
        opens_tables,
    } = request;
    name::check_ingester(&name)?;
    let known = known_log(c, &name).await?;
    check_log(c, &name, known.as_ref(), &log).await?;
    let now = now_millis();
    snapshot::next(c, "register_ingester").await?;
    let (ingester, durable) = match known {
        Some(known) => {
            let renewed = renew(c, known.id, url, &log, now).await?;
            (renewed, known.durable)
        }
        None => (insert(c, name, url, &log, now).await?, SequenceNumber(0)),
    };
    if opens_tables {
        keep_open_tables(c, ingester.id, &log).await?;
    }
    let watermarks = watermarks(c, ingester.id).await?;
    let in_files = watermarks.iter().map(|(_, sequence)| *sequence).max();
    Ok(Registration {
        known: in_files.unwrap_or_default().max(durable),
        newest: snapshot::newest_stamp(c).await?,
        ingester,
        watermarks,
    })
}

/// Refuses an ingester whose acknowledged rows may be in another log than the one it has, and a log
/// that relied on a catalog newer than this one.
async fn check_log(
    c: &mut Connection,
    name: &str,
    known: Option<&KnownLog>,
    log: &LogState,
) -> Result<(), Failure> {
    let durable = known.map_or(SequenceNumber(0), |known| known.durable);
    let wrong = |problem| {
        let ingester = name.to_owned();
        let known = durable;
        Failure::from(Error::WrongLog {
            ingester,
            problem,
            known,
        })
    };
    // Its operator accepted what is lost.
    let accepted =
        known.is_some_and(|known| known.readmitted || known.state == IngesterState::Retired);
    if let Some(seen) = log.seen.filter(|_| !accepted) {
        snapshot::check(c, seen).await?;
    }
    let others: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM ingesters WHERE log_id = $1 AND name <> $2")
            .bind(log.id.to_string())
            .bind(name)
            .fetch_one(c)
            .await?;
    if others > 0 {
        return Err(wrong(LogProblem::OfAnother));
    }
    let Some(known) = known.filter(|known| known.state == IngesterState::Active) else {
        return Ok(());
    };
    let same = known.log.as_ref().map(|id| *id == log.id.to_string());
    match same {
        // Nothing was acknowledged before a log was ready: whatever it has now will do.
        Some(_) if known.epoch == Epoch(0) => Ok(()),
        Some(true) | None if log.empty => Err(wrong(LogProblem::Missing)),
        Some(true) if log.epoch < known.epoch => Err(wrong(LogProblem::Stale)),
        // Without a known log it was registered by an older release.
        Some(true) | None => Ok(()),
        Some(false) if log.empty => Err(wrong(LogProblem::Missing)),
        Some(false) => Err(wrong(LogProblem::Exchanged)),
    }
}

async fn known_log(c: &mut Connection, name: &str) -> Result<Option<KnownLog>, sqlx::Error> {
    sqlx::query(
        "SELECT id, state, log_id, log_epoch, durable_sequence, readmitted
         FROM ingesters WHERE name = $1",
    )
    .bind(name)
    .try_map(|row| {
        Ok(KnownLog {
            id: IngesterId(unsigned(&row, "id")?),
            state: state(&row)?,
            log: row.try_get("log_id")?,
            epoch: Epoch(unsigned(&row, "log_epoch")?),
            durable: SequenceNumber(unsigned(&row, "durable_sequence")?),
            readmitted: unsigned::<u64>(&row, "readmitted")? != 0,
        })
    })
    .fetch_optional(c)
    .await
}

async fn renew(
    c: &mut Connection,
    id: IngesterId,
    url: String,
    log: &LogState,
    now: i64,
) -> Result<Ingester, sqlx::Error> {
    // Another log was not ready for any life yet.
    sqlx::query(
        "UPDATE ingesters
         SET epoch = epoch + 1, url = $2, state = 'active', changed_at_millis = $3, log_id = $4,
             log_epoch = CASE WHEN log_id = $4 THEN log_epoch ELSE 0 END
         WHERE id = $1 RETURNING id, name, url, epoch, state, changed_at_millis, seen_at_millis",
    )
    .bind(stored(id.0)?)
    .bind(url)
    .bind(now)
    .bind(log.id.to_string())
    .try_map(|row| ingester(&row))
    .fetch_one(c)
    .await
}

async fn insert(
    c: &mut Connection,
    name: String,
    url: String,
    log: &LogState,
    now: i64,
) -> Result<Ingester, sqlx::Error> {
    let id = snapshot::next_id(c, "ingester").await?;
    sqlx::query(
        "INSERT INTO ingesters (id, name, url, epoch, state, changed_at_millis, log_id)
         VALUES ($1, $2, $3, 1, 'active', $4, $5)
         RETURNING id, name, url, epoch, state, changed_at_millis, seen_at_millis",
    )
    .bind(id)
    .bind(name)
    .bind(url)
    .bind(now)
    .bind(log.id.to_string())
    .try_map(|row| ingester(&row))
    .fetch_one(c)
    .await
}

/// The open tables of the former life are those of the new one: it has the same rows until it takes more.
/// A new ingester has none.
async fn keep_open_tables(
    c: &mut Connection,
    id: IngesterId,
    log: &LogState,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE ingesters SET opens_epoch = epoch
         WHERE id = $1 AND opens_epoch = epoch - 1 AND (epoch > 1 OR $2 = 1)",
    )
    .bind(stored(id.0)?)
    .bind(i64::from(log.empty))
    .execute(c)
    .await?;
    Ok(())
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

/// Whether an ingester may go on: the newest state, and whether [`note`] is due.
pub(super) async fn check(
    c: &mut Connection,
    check: IngesterCheck,
) -> Result<(SnapshotStamp, bool), Failure> {
    fence(c, check.ingester, check.epoch).await?;
    snapshot::check(c, check.seen).await?;
    let behind: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM ingesters
         WHERE id = $1 AND (log_epoch < epoch OR seen_at_millis < $2 OR opens_epoch = -epoch)",
    )
    .bind(stored(check.ingester.0)?)
    .bind(now_millis().saturating_sub(NOTED_EVERY_MILLIS))
    .fetch_one(&mut *c)
    .await?;
    Ok((snapshot::newest_stamp(c).await?, behind > 0))
}

/// Notes that an ingester was heard of now, and that its log is ready for its present life: it relies on this
/// catalog from now on.
pub(super) async fn note(c: &mut Connection, check: IngesterCheck) -> Result<(), Failure> {
    fence(c, check.ingester, check.epoch).await?;
    sqlx::query(
        "UPDATE ingesters SET log_epoch = epoch, seen_at_millis = $2, readmitted = 0 WHERE id = $1",
    )
    .bind(stored(check.ingester.0)?)
    .bind(now_millis())
    .execute(c)
    .await?;
    Ok(())
}

/// Notes up to which number the log of an ingester reaches.
pub(super) async fn note_durable(
    c: &mut Connection,
    ingester: IngesterId,
    durable: SequenceNumber,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE ingesters SET durable_sequence = $2 WHERE id = $1 AND durable_sequence < $2",
    )
    .bind(stored(ingester.0)?)
    .bind(stored(durable.0)?)
    .execute(c)
    .await?;
    Ok(())
}

/// Records that an ingester holds nothing that is not in files.
pub(super) async fn drain(c: &mut Connection, id: IngesterId, epoch: Epoch) -> Result<(), Failure> {
    let state = fence(c, id, epoch).await?;
    if state != IngesterState::Active {
        return Ok(());
    }
    snapshot::next(c, "drain_ingester").await?;
    open::close_all(c, id).await?;
    sqlx::query("UPDATE ingesters SET state = 'drained', changed_at_millis = $2, readmitted = 0 WHERE id = $1")
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
        "SELECT id, name, url, epoch, state, changed_at_millis, seen_at_millis
         FROM ingesters WHERE name = $1",
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
        "UPDATE ingesters SET epoch = epoch + 1, state = 'retired', changed_at_millis = $2,
                              readmitted = 0
         WHERE name = $1 RETURNING id, name, url, epoch, state, changed_at_millis, seen_at_millis",
    )
    .bind(&name)
    .bind(now_millis())
    .try_map(|row| ingester(&row))
    .fetch_one(c)
    .await?)
}

/// Lets the next life of an ingester begin with a log that relied on a newer catalog. Until then it stays what it
/// is: its tables and producers wait for it.
pub(super) async fn readmit(c: &mut Connection, name: String) -> Result<Ingester, Failure> {
    let readmitted = sqlx::query(
        "UPDATE ingesters SET readmitted = 1 WHERE name = $1
         RETURNING id, name, url, epoch, state, changed_at_millis, seen_at_millis",
    )
    .bind(&name)
    .try_map(|row| ingester(&row))
    .fetch_optional(c)
    .await?;
    readmitted.ok_or_else(|| Error::IngesterNotFound(name).into())
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
        "SELECT id, name, url, epoch, state, changed_at_millis, seen_at_millis
         FROM ingesters WHERE id = $1",
    )
    .bind(stored(id.0)?)
    .try_map(|row| ingester(&row))
    .fetch_optional(c)
    .await
}

/// All ingesters, by name.
pub(super) async fn list(c: &mut Connection) -> Result<Vec<Ingester>, sqlx::Error> {
    sqlx::query(
        "SELECT id, name, url, epoch, state, changed_at_millis, seen_at_millis
         FROM ingesters ORDER BY name",
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
    let changed: i64 = row.try_get("changed_at_millis")?;
    let seen: i64 = row.try_get("seen_at_millis")?;
    Ok(Ingester {
        id: IngesterId(unsigned(row, "id")?),
        name: row.try_get("name")?,
        url: row.try_get("url")?,
        epoch: Epoch(unsigned(row, "epoch")?),
        state: state(row)?,
        changed_at_millis: changed,
        // Registering is a sign of life as well.
        seen_at_millis: seen.max(changed),
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
