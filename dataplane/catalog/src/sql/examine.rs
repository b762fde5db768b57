//! Looks for what must not be in a catalog, and lists the objects it knows.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt as _;
use sqlx::Row as _;

use super::dialect::{Connection, Row};
use super::value::unsigned;

/// What a catalog says about its objects, and what is wrong with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Examination {
    /// The live files with their sizes in bytes, by path.
    pub live: BTreeMap<String, u64>,
    /// Objects that no new query reads and that the catalog still knows: they are deleted in time.
    pub leaving: BTreeSet<String>,
    /// What contradicts itself, a sentence each.
    pub problems: Vec<String>,
}

/// A count that must be 0, and what it says.
const RULES: &[(&str, &str)] = &[
    (
        "SELECT COUNT(*) FROM files f JOIN tables t ON t.id = f.table_id
         WHERE f.end_snapshot IS NULL AND t.end_snapshot IS NOT NULL",
        "live files belong to tables that were dropped",
    ),
    (
        // Files that an upload brought are of another table's sequence numbers.
        "SELECT COUNT(*) FROM files f
         JOIN snapshots s ON s.id = f.begin_snapshot AND s.cause = 'flush'
         LEFT JOIN watermarks w ON w.table_id = f.table_id AND w.ingester_id = f.ingester_id
         WHERE f.end_snapshot IS NULL AND f.ingester_id IS NOT NULL
           AND (w.sequence IS NULL OR w.sequence < f.last_sequence)",
        "live files have rows above the watermark of their ingester: queries may see them twice",
    ),
    (
        "SELECT COUNT(*) FROM watermarks w JOIN tables t ON t.id = w.table_id
         WHERE t.end_snapshot IS NOT NULL",
        "watermarks belong to tables that were dropped",
    ),
    (
        "SELECT COUNT(*) FROM files WHERE first_sequence > last_sequence",
        "files begin after their end",
    ),
    (
        "SELECT COUNT(*) FROM files f JOIN gc_queue q ON q.path = f.path
         WHERE f.end_snapshot IS NULL",
        "live files are queued for deletion",
    ),
    (
        "SELECT COUNT(*) FROM files WHERE id > (SELECT value FROM counters WHERE kind = 'file')",
        "files have numbers that were not given yet",
    ),
    (
        "SELECT COUNT(*) FROM tables WHERE id > (SELECT value FROM counters WHERE kind = 'table')",
        "tables have numbers that were not given yet",
    ),
    (
        "SELECT COUNT(*) FROM files
         WHERE begin_snapshot > (SELECT value FROM counters WHERE kind = 'snapshot')",
        "files are from states of the catalog that are still to come",
    ),
    (
        // Flushes never share rows. Files that took the place of others may span those of
        // a flush.
        "SELECT COUNT(*) FROM (
            SELECT f.begin_snapshot,
                   LAG(f.last_sequence) OVER w AS last_before,
                   LAG(f.begin_snapshot) OVER w AS snapshot_before,
                   f.first_sequence
            FROM files f JOIN snapshots s ON s.id = f.begin_snapshot AND s.cause = 'flush'
            WHERE f.end_snapshot IS NULL AND f.ingester_id IS NOT NULL
            WINDOW w AS (PARTITION BY f.table_id, f.ingester_id ORDER BY f.first_sequence, f.id)
         ) AS neighbours
         WHERE last_before >= first_sequence AND snapshot_before <> begin_snapshot",
        "files of different flushes hold the same sequence numbers: rows may be doubled",
    ),
];

/// Reads the whole catalog. The transaction makes it one state.
pub(super) async fn read(c: &mut Connection) -> Result<Examination, sqlx::Error> {
    let mut found = Examination::default();
    for (rule, sentence) in RULES {
        let count: i64 = sqlx::query_scalar(*rule).fetch_one(&mut *c).await?;
        if count > 0 {
            found.problems.push(format!("{count} {sentence}"));
        }
    }
    let mut files = sqlx::query("SELECT path, size_bytes, end_snapshot FROM files").fetch(&mut *c);
    while let Some(row) = files.try_next().await? {
        let path: String = row.try_get("path")?;
        if row.try_get::<Option<i64>, _>("end_snapshot")?.is_none() {
            found.live.insert(path, unsigned(&row, "size_bytes")?);
        } else {
            found.leaving.insert(path);
        }
    }
    drop(files);
    let queued: Vec<String> = sqlx::query("SELECT path FROM gc_queue")
        .try_map(|row: Row| row.try_get("path"))
        .fetch_all(c)
        .await?;
    found.leaving.extend(queued);
    Ok(found)
}
