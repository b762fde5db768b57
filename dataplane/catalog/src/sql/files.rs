//! Reading files: those of a query are few rows of much text.
//!
//! A driver hands rows over one by one: it copies each column, and where the database works in a thread
//! of its own it wakes the reader for each row. For a thousand files that costs far more than finding
//! them, most of all on a machine that has other work. So the database joins files into texts, and they
//! are taken apart here. Which files are asked for is left to the callers.

use std::str::FromStr;

use sqlx::any::AnyArguments;
use sqlx::query::Query;
use sqlx::{Any, AssertSqlSafe, Row as _};

use super::dialect::Connection;
use crate::{File, IngesterId, NewFile, SchemaVersion, SequenceNumber, SnapshotId, TableId};

/// Between the fields of a file, and between files. No path has them: see [`may_be_path`].
const FIELD: char = '\t';
const RECORD: char = '\n';

/// The columns of a selection for [`joined`].
pub(super) const COLUMNS: &str = "id, ingester_id, size_bytes, row_count, schema_version, \
     first_sequence, last_sequence, begin_snapshot, sorted, path, time_min_nanos, time_max_nanos";

/// A statement for [`fetch`] of the files that `selection` gives with the [`COLUMNS`]. A text has at
/// most 65,536 of them. Ids of ingesters begin at 1; times that are not known are left out.
pub(super) fn joined(selection: &str) -> String {
    format!(
        "SELECT string_agg(concat_ws('{FIELD}', id, COALESCE(ingester_id, 0), size_bytes, row_count, \
         schema_version, first_sequence, last_sequence, begin_snapshot, sorted, path, time_min_nanos, \
         time_max_nanos), '{RECORD}') AS files \
         FROM ({selection}) AS found GROUP BY id / 65536"
    )
}

/// Begins a statement of [`joined`].
pub(super) fn query(joined: &'static str) -> Query<'static, Any, AnyArguments> {
    sqlx::query(AssertSqlSafe(joined))
}

/// Whether a path can be read again.
pub(super) fn may_be_path(path: &str) -> bool {
    !path.contains([FIELD, RECORD])
}

/// Files of one table by a statement of [`joined`], in the order they were added.
pub(super) async fn fetch(
    c: &mut Connection,
    table: TableId,
    joined: Query<'_, Any, AnyArguments>,
) -> Result<Vec<File>, sqlx::Error> {
    let mut files = Vec::new();
    for row in joined.fetch_all(c).await? {
        let text: &str = row.try_get("files")?;
        for record in text.split(RECORD) {
            files.push(file(table, record).ok_or_else(|| unreadable(record))?);
        }
    }
    files.sort_unstable_by_key(|file| file.id);
    Ok(files)
}

fn file(table: TableId, record: &str) -> Option<File> {
    let mut fields = record.split(FIELD);
    let id = number(&mut fields)?;
    let ingester = number(&mut fields)?;
    let size_bytes = number(&mut fields)?;
    let rows = number(&mut fields)?;
    let schema_version = SchemaVersion(number(&mut fields)?);
    let first_sequence = SequenceNumber(number(&mut fields)?);
    let last_sequence = SequenceNumber(number(&mut fields)?);
    let begin_snapshot = SnapshotId(number(&mut fields)?);
    let sorted = number::<u8>(&mut fields)? == 1;
    let path = fields.next()?.to_owned();
    let time_range_nanos = match fields.next() {
        None => None,
        Some(earliest) => Some((earliest.parse().ok()?, number(&mut fields)?)),
    };
    if fields.next().is_some() {
        return None;
    }
    let file = NewFile {
        table,
        path,
        size_bytes,
        rows,
        schema_version,
        first_sequence,
        last_sequence,
        time_range_nanos,
        sorted,
    };
    Some(File {
        id,
        ingester: (ingester > 0).then_some(IngesterId(ingester)),
        file,
        begin_snapshot,
    })
}

fn number<'a, T: FromStr>(fields: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    fields.next()?.parse().ok()
}

fn unreadable(record: &str) -> sqlx::Error {
    sqlx::Error::ColumnDecode {
        index: "files".to_owned(),
        source: format!("{record:?} is not a file").into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn a_file_is_read_with_and_without_times_and_ingester() {
        let read = |record: &str| file(TableId(7), record).unwrap();
        let whole = read("1\t2\t3\t4\t5\t6\t8\t9\t1\td, é/7/x.parquet\t-10\t11");
        assert_eq!((whole.id, whole.ingester), (1, Some(IngesterId(2))));
        assert_eq!((whole.file.size_bytes, whole.file.rows), (3, 4));
        assert_eq!(whole.file.schema_version, SchemaVersion(5));
        let sequences = (whole.file.first_sequence, whole.file.last_sequence);
        assert_eq!(sequences, (SequenceNumber(6), SequenceNumber(8)));
        assert_eq!(whole.begin_snapshot, SnapshotId(9));
        assert_eq!(whole.file.path, "d, é/7/x.parquet");
        assert_eq!(whole.file.table, TableId(7));
        assert_eq!(whole.file.time_range_nanos, Some((-10, 11)));
        let bare = read("1\t0\t3\t4\t5\t6\t8\t9\t0\tpath");
        assert_eq!((bare.ingester, bare.file.time_range_nanos), (None, None));
        assert_eq!((whole.file.sorted, bare.file.sorted), (true, false));
    }

    #[test]
    fn what_is_not_a_file_is_an_error_and_never_another_file() {
        for record in [
            "",
            "1\t2\t3\t4\t5\t6\t8\t9",
            "1\t2\t3\t4\t5\t6\t8\t9\tpath\t10",
            "1\t2\t3\t4\t5\t6\t8\t9\tpath\t10\t11\t12",
            "1\t2\t-3\t4\t5\t6\t8\t9\tpath\t10\t11",
            "x\t2\t3\t4\t5\t6\t8\t9\tpath",
        ] {
            assert!(file(TableId(7), record).is_none(), "{record:?}");
        }
        assert!(may_be_path("a b/ü.parquet"));
        assert!(!may_be_path("a\tb") && !may_be_path("a\nb"));
    }
}
