//! Producers: how far each has come in a table, and which ingester takes its batches.
//!
//! Whether an owner that is active has let go of a producer is known to nobody but the owner: the
//! caller asks it, and hands in its answer with the version of the claim it had read before. Every
//! claim gets a new version, so an answer from before another claim is not taken.

use sqlx::{AssertSqlSafe, Row as _};

use super::clock::{is_settled, now_millis};
use super::dialect::{Connection, Row};
use super::value::{stored, unsigned};
use super::{Failure, history, ingester, snapshot, table};
use crate::{
    ClaimProducer, Error, IngesterId, IngesterState, ProducerClaim, ProducerExpiry,
    ProducerPosition, TableId,
};

/// Producers that are statements, see [`crate::statement_producer`], and all others. Indexes have the
/// first two conditions as well.
const OF_STATEMENTS: &str =
    "producer >= 'statement-' AND producer < 'statement.' AND producer NOT LIKE '%/%'";
const OF_CLIENTS: &str =
    "(producer < 'statement-' OR producer >= 'statement.' OR producer LIKE '%/%')";

/// Who has a claim, and since which version.
struct Owner {
    ingester: IngesterId,
    version: u64,
}

/// Nobody knows whose batches an ingester has: the catalog may lack its claims.
#[derive(Debug, thiserror::Error)]
#[error(
    "it is not known whether the batches of producers that {ingester} took are all there: wait for \
     {ingester}; if it never comes back, retire it"
)]
struct Doubted {
    ingester: String,
}

/// Claims a producer for an ingester, or says who has it.
pub(super) async fn claim(
    c: &mut Connection,
    request: ClaimProducer,
) -> Result<ProducerClaim, Failure> {
    ingester::fence(c, request.ingester, request.epoch).await?;
    if table::find_by_id(c, request.table).await?.is_none() {
        return Err(Error::TableNotFound(format!("id {}", request.table)).into());
    }
    if let Some(ingester) = history::doubted(c, request.ingester).await? {
        return Err(Error::Unavailable {
            place: "the catalog after a takeover or a restore".to_owned(),
            source: Box::new(Doubted { ingester }),
        }
        .into());
    }
    // First of all: the counter's row stays locked, so claims come one after the other.
    let version = snapshot::next_id(c, "producer_claim").await?;
    let owner = owner(c, request.table, &request.producer).await?;
    if let Some(owner) = owner.filter(|owner| owner.ingester != request.ingester) {
        let released = request
            .released
            .filter(|released| released.version == owner.version);
        match (released, ingester::find(c, owner.ingester).await?) {
            (Some(released), _) => {
                if let Some(sequence) = released.position {
                    let position = ProducerPosition {
                        table: request.table,
                        producer: request.producer.clone(),
                        sequence,
                    };
                    move_forward(c, &position).await?;
                }
            }
            (None, Some(ingester)) if ingester.state == IngesterState::Active => {
                return Ok(ProducerClaim::Taken {
                    owner: ingester,
                    version: owner.version,
                });
            }
            // All it had is in files, and their positions are here; or it was retired, and its
            // operator accepted that it had more.
            (None, _) => {}
        }
    }
    take(c, &request, version).await?;
    let position = position(c, request.table, &request.producer).await?;
    Ok(ProducerClaim::Held { position })
}

async fn owner(
    c: &mut Connection,
    table: TableId,
    producer: &str,
) -> Result<Option<Owner>, sqlx::Error> {
    sqlx::query(
        "SELECT ingester_id, version FROM producer_claims WHERE table_id = $1 AND producer = $2",
    )
    .bind(stored(table.0)?)
    .bind(producer)
    .try_map(|row| {
        Ok(Owner {
            ingester: IngesterId(unsigned(&row, "ingester_id")?),
            version: unsigned(&row, "version")?,
        })
    })
    .fetch_optional(c)
    .await
}

async fn take(
    c: &mut Connection,
    request: &ClaimProducer,
    version: i64,
) -> Result<(), sqlx::Error> {
    let used = snapshot::no_earlier_than_newest(c).await?;
    sqlx::query(
        "INSERT INTO producer_claims (table_id, producer, ingester_id, version, changed_at_millis)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (table_id, producer) DO UPDATE
         SET ingester_id = excluded.ingester_id, version = excluded.version,
             changed_at_millis = excluded.changed_at_millis",
    )
    .bind(stored(request.table.0)?)
    .bind(&request.producer)
    .bind(stored(request.ingester.0)?)
    .bind(version)
    .bind(used)
    .execute(c)
    .await?;
    Ok(())
}

async fn position(
    c: &mut Connection,
    table: TableId,
    producer: &str,
) -> Result<Option<u64>, sqlx::Error> {
    sqlx::query("SELECT sequence FROM producers WHERE table_id = $1 AND producer = $2")
        .bind(stored(table.0)?)
        .bind(producer)
        .try_map(|row| sequence(&row))
        .fetch_optional(c)
        .await
}

fn sequence(row: &Row) -> Result<u64, sqlx::Error> {
    let digits: &str = row.try_get("sequence")?;
    digits.parse().map_err(|error| sqlx::Error::ColumnDecode {
        index: "sequence".to_owned(),
        source: Box::new(error),
    })
}

/// Notes how far a producer has come; a lower number changes nothing.
pub(super) async fn move_forward(
    c: &mut Connection,
    position: &ProducerPosition,
) -> Result<(), sqlx::Error> {
    let used = snapshot::no_earlier_than_newest(c).await?;
    sqlx::query(
        "INSERT INTO producers (table_id, producer, sequence, changed_at_millis)
         VALUES ($1, $2, $3, $4)
         ON CONFLICT (table_id, producer) DO UPDATE
         SET sequence = excluded.sequence, changed_at_millis = excluded.changed_at_millis
         WHERE producers.sequence < excluded.sequence",
    )
    .bind(stored(position.table.0)?)
    .bind(&position.producer)
    .bind(format!("{:020}", position.sequence))
    .bind(used)
    .execute(c)
    .await?;
    Ok(())
}

/// Forgets claims and positions, the oldest first. The age is looked at twice: one that is renewed at the
/// same time stays.
pub(super) async fn expire(c: &mut Connection, expiry: ProducerExpiry) -> Result<u64, Failure> {
    if !is_settled() {
        return Ok(0);
    }
    let mut forgotten = 0;
    for (kind, unused_for) in [
        (OF_CLIENTS, expiry.unused_for),
        (OF_STATEMENTS, expiry.statements_unused_for),
    ] {
        let age = i64::try_from(unused_for.as_millis()).unwrap_or(i64::MAX);
        let before = now_millis().saturating_sub(age);
        for table in ["producer_claims", "producers"] {
            let old = format!("changed_at_millis < $1 AND {kind}");
            let statement = format!(
                "DELETE FROM {table} WHERE {old} AND (table_id, producer) IN
                 (SELECT table_id, producer FROM {table} WHERE {old}
                  ORDER BY changed_at_millis LIMIT $2)"
            );
            let deleted = sqlx::query(AssertSqlSafe(statement))
                .bind(before)
                .bind(i64::from(expiry.limit))
                .execute(&mut *c)
                .await?;
            forgotten += deleted.rows_affected();
        }
    }
    Ok(forgotten)
}
