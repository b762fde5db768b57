//! The tables of the catalog as rows and columns, for what treats them all alike: backup and restore.

use sqlx::{AssertSqlSafe, Row as _};

use super::dialect::{Connection, Dialect};

/// The tables of every layout but `migrations`, each after those it refers to; a layout need not have
/// them all. A test compares it with a database.
pub(super) const TABLES: &[&str] = &[
    "counters",
    "snapshots",
    "databases",
    "tables",
    "schema_versions",
    "ingesters",
    "files",
    "watermarks",
    "producers",
    "producer_claims",
    "flushes",
    "gc_queue",
    "replacements",
    "leases",
    "uploads",
    "upload_ingesters",
    "restores",
    "open_tables",
    "statements",
    "writers",
    "layouts",
    "histories",
];

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Number,
    Text,
    Bytes,
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// Whether the database has the table.
pub(super) async fn exists(
    c: &mut Connection,
    dialect: &Dialect,
    table: &str,
) -> Result<bool, sqlx::Error> {
    let count: i64 = sqlx::query_scalar(dialect.count_tables)
        .bind(table)
        .fetch_one(c)
        .await?;
    Ok(count > 0)
}

/// The columns of a table, in the order they were made.
pub(super) async fn columns(
    c: &mut Connection,
    dialect: &Dialect,
    table: &str,
) -> Result<Vec<Column>, sqlx::Error> {
    sqlx::query(dialect.list_columns)
        .bind(table)
        .try_map(|row: super::dialect::Row| {
            let name: String = row.try_get("name")?;
            let kind = match row.try_get::<String, _>("kind")?.to_lowercase().as_str() {
                "bigint" => Kind::Number,
                "text" => Kind::Text,
                "blob" | "bytea" => Kind::Bytes,
                other => {
                    return Err(sqlx::Error::ColumnDecode {
                        index: name,
                        source: format!("type {other} has no place in a backup").into(),
                    });
                }
            };
            Ok(Column { name, kind })
        })
        .fetch_all(c)
        .await
}

/// How many rows a table has.
pub(super) async fn count(c: &mut Connection, table: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}")))
        .fetch_one(c)
        .await
}
