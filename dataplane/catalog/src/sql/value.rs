//! Numbers between Rust and SQL: SQL integers are signed 64 bit, ours are not.

use sqlx::Row as _;

use super::dialect::Row;

/// A number as SQL keeps it. Fails above `i64::MAX`.
pub(super) fn stored(value: impl Into<u64>) -> Result<i64, sqlx::Error> {
    i64::try_from(value.into()).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// Reads an unsigned column. Fails when the database holds a negative or too large number.
pub(super) fn unsigned<T: TryFrom<i64>>(row: &Row, column: &str) -> Result<T, sqlx::Error>
where
    T::Error: std::error::Error + Send + Sync + 'static,
{
    let value: i64 = row.try_get(column)?;
    T::try_from(value).map_err(|error| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(error),
    })
}

/// Reads a column that holds JSON.
pub(super) fn json<T: serde::de::DeserializeOwned>(
    row: &Row,
    column: &str,
) -> Result<T, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|error| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(error),
    })
}
