//! Open tables: those of which an ingester may have rows that are in no file.
//!
//! # Guarantees
//! A table is listed for an ingester before a row of it is acknowledged there, and until all of them are in
//! files. So whoever reads the list later than a row was acknowledged finds the ingester, or the row in a
//! file.
//!
//! # Calls that come late
//! Each call of a life has a higher number than the one before. One that closes a table does nothing
//! when the table was opened again since; one that opens a table for longer than needed costs a question.
//!
//! # Lives
//! The list is right for the life that wrote it, and for the next one until that has read its log: it has the
//! same rows. A life that does not keep a list (an older release, a catalog that was restored) may have rows of
//! any table. So may one whose openings may be lost, see [`history`](super::history); when the next life has listed
//! its tables, the catalog also has how far producers came by its log.

use std::collections::BTreeSet;

use super::dialect::{Connection, Row};
use super::ingester::{fence, list_active};
use super::value::{stored, unsigned};
use super::{Failure, producer, table};
use crate::{CloseTables, Ingester, IngesterId, OpenTables, TableId};

/// Opens tables.
pub(super) async fn open(c: &mut Connection, request: OpenTables) -> Result<(), Failure> {
    let OpenTables {
        ingester,
        epoch,
        tables,
        number,
        are_all,
        producers,
    } = request;
    fence(c, ingester, epoch).await?;
    for position in producers {
        if table::find_by_id(c, position.table).await?.is_some() {
            producer::move_forward(c, &position).await?;
        }
    }
    let (id, life) = (stored(ingester.0)?, stored(epoch.0)?);
    for table in tables.into_iter().collect::<BTreeSet<_>>() {
        sqlx::query(
            "INSERT INTO open_tables (table_id, ingester_id, epoch, number) VALUES ($1, $2, $3, $4)
             ON CONFLICT (table_id, ingester_id)
             DO UPDATE SET epoch = excluded.epoch, number = excluded.number
             WHERE open_tables.epoch < excluded.epoch
                OR (open_tables.epoch = excluded.epoch AND open_tables.number < excluded.number)",
        )
        .bind(stored(table.0)?)
        .bind(id)
        .bind(life)
        .bind(stored(number)?)
        .execute(&mut *c)
        .await?;
    }
    if are_all {
        // Never those of this life: the call may come late.
        sqlx::query("DELETE FROM open_tables WHERE ingester_id = $1 AND epoch < $2")
            .bind(id)
            .bind(life)
            .execute(&mut *c)
            .await?;
        sqlx::query("UPDATE ingesters SET opens_epoch = $2 WHERE id = $1")
            .bind(id)
            .bind(life)
            .execute(c)
            .await?;
    }
    Ok(())
}

/// Closes tables that were not opened again since.
pub(super) async fn close(c: &mut Connection, request: CloseTables) -> Result<(), Failure> {
    let CloseTables {
        ingester,
        epoch,
        tables,
    } = request;
    fence(c, ingester, epoch).await?;
    for (table, number) in tables {
        sqlx::query(
            "DELETE FROM open_tables
             WHERE table_id = $1 AND ingester_id = $2 AND epoch = $3 AND number <= $4",
        )
        .bind(stored(table.0)?)
        .bind(stored(ingester.0)?)
        .bind(stored(epoch.0)?)
        .bind(stored(number)?)
        .execute(&mut *c)
        .await?;
    }
    Ok(())
}

/// Closes all tables of an ingester that has no rows outside files, or is not asked for them.
pub(super) async fn close_all(c: &mut Connection, id: IngesterId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM open_tables WHERE ingester_id = $1")
        .bind(stored(id.0)?)
        .execute(c)
        .await?;
    Ok(())
}

/// The active ingesters that may have rows of a table that are in no file, by name.
pub(super) async fn ingesters_of(
    c: &mut Connection,
    table: TableId,
) -> Result<Vec<Ingester>, Failure> {
    let mut active = list_active(c).await?;
    let listed = listed(c).await?;
    let closed = closed(c, table, &active, &listed).await?;
    active.retain(|ingester| !closed.contains(&ingester.id));
    Ok(active)
}

/// The ingesters of which all open tables are listed.
pub(super) async fn listed(c: &mut Connection) -> Result<BTreeSet<IngesterId>, sqlx::Error> {
    let listed = sqlx::query("SELECT id FROM ingesters WHERE opens_epoch = epoch")
        .try_map(|row: Row| Ok(IngesterId(unsigned(&row, "id")?)))
        .fetch_all(c)
        .await?;
    Ok(listed.into_iter().collect())
}

/// Those of the ingesters that have no row of the table outside files.
pub(super) async fn closed(
    c: &mut Connection,
    table: TableId,
    ingesters: &[Ingester],
    listed: &BTreeSet<IngesterId>,
) -> Result<Vec<IngesterId>, sqlx::Error> {
    let open = sqlx::query("SELECT ingester_id FROM open_tables WHERE table_id = $1")
        .bind(stored(table.0)?)
        .try_map(|row: Row| Ok(IngesterId(unsigned(&row, "ingester_id")?)))
        .fetch_all(c)
        .await?;
    let ids = ingesters.iter().map(|ingester| ingester.id);
    Ok(ids
        .filter(|id| listed.contains(id) && !open.contains(id))
        .collect())
}
