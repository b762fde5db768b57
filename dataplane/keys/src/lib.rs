//! Primary keys of tables: what one is, how rows are numbered, and which row of a key is the newest;
//! which column is the time, which is part of every key; in which types columns are stored, and the version of
//! the files they are in.
//!
//! A table with a primary key shows one row of each key, the newest. Newest is the one with the
//! highest *order*, a number that every row of such a table gets before it becomes durable. Buffers
//! and files hold it in a last column of its own, [`ORDER_COLUMN`]; the table's schema, which is what
//! users see, does not have it.
//!
//! Pure: batches in, batches out. Who gives the numbers is `catalog`, who asks for them `ingest`, who
//! reads by them `query`.

mod data_file;
mod key;
mod merge;
mod newest;
mod stored;
mod times;

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Schema};

pub use data_file::{FORMAT, FORMAT_KEY, NewerFormat, TABLE_KEY, check_format};
pub use key::{Key, KeyError, check_names};
pub use merge::{Merge, Repeats};
pub use newest::{KeySet, Newest, NewestSorted};
pub use stored::{stored_field, stored_type};
pub use times::{COLUMN_TYPE_KEY, nanos_of, time_column, time_columns, timestamps, widen_range};

/// The column of the orders in buffers and files.
pub const ORDER_COLUMN: &str = "__fc_order";

/// Metadata of the schema of a stream that asks for a primary key: a JSON array of column names.
pub const METADATA_KEY: &str = "flightcluster.primary_key";

/// How names begin that no column of a table may have.
const RESERVED: &str = "__fc_";

/// Whether no column of a table may have this name.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED)
}

/// What buffers and files of a table with a key hold: its columns, then the order.
#[must_use]
pub fn storage_schema(table: &Schema) -> Schema {
    let order = Arc::new(Field::new(ORDER_COLUMN, DataType::Int64, false));
    let fields = table.fields().iter().cloned().chain([order]);
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), table.metadata().clone())
}

/// The rows with their orders: `first` for the first, counting on.
///
/// # Errors
/// None for a batch of a table; the library checks.
pub fn with_order(batch: &RecordBatch, first: i64) -> Result<RecordBatch, ArrowError> {
    let schema = storage_schema(batch.schema_ref());
    let orders = Int64Array::from_iter_values((first..).take(batch.num_rows()));
    let orders: ArrayRef = Arc::new(orders);
    let columns = batch.columns().iter().cloned().chain([orders]);
    RecordBatch::try_new(Arc::new(schema), columns.collect())
}

/// Takes the key that a stream asks for out of its schema: a table that is read and written elsewhere
/// does not get a key unasked.
///
/// # Errors
/// [`KeyError::Metadata`].
pub fn take_declared(schema: Schema) -> Result<(Schema, Option<Vec<String>>), KeyError> {
    let Some(text) = schema.metadata().get(METADATA_KEY) else {
        return Ok((schema, None));
    };
    let names = serde_json::from_str(text).map_err(|source| KeyError::Metadata {
        found: text.clone(),
        source,
    })?;
    let mut metadata = schema.metadata().clone();
    metadata.remove(METADATA_KEY);
    Ok((schema.with_metadata(metadata), Some(names)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::collections::HashMap;

    use super::*;

    #[test]
    fn rows_are_numbered_in_a_last_column_that_allows_no_nulls() {
        let field = Field::new("v", DataType::Int64, false);
        let schema = Schema::new_with_metadata(vec![field], HashMap::from([(s("a"), s("b"))]));
        let values: ArrayRef = Arc::new(Int64Array::from(vec![5, 6, 7]));
        let batch = RecordBatch::try_new(Arc::new(schema.clone()), vec![values]).unwrap();
        let numbered = with_order(&batch, 40).unwrap();
        assert_eq!(**numbered.schema_ref(), storage_schema(&schema));
        assert_eq!(
            numbered.column(1).as_ref(),
            &Int64Array::from(vec![40, 41, 42])
        );
        assert!(is_reserved(ORDER_COLUMN) && !is_reserved("__f"));
    }

    #[test]
    fn the_key_a_stream_asks_for_is_taken_out_of_its_schema() {
        let metadata =
            |value: &str| HashMap::from([(s("kept"), s("1")), (s(METADATA_KEY), s(value))]);
        let schema = |value: &str| Schema::empty().with_metadata(metadata(value));
        let (plain, asked) = take_declared(schema(r#"["host","time"]"#)).unwrap();
        assert_eq!(asked, Some(vec![s("host"), s("time")]));
        assert_eq!(*plain.metadata(), HashMap::from([(s("kept"), s("1"))]));
        assert_eq!(take_declared(plain).unwrap().1, None);
        let refused = take_declared(schema("host,time")).unwrap_err().to_string();
        assert!(
            refused.contains("host,time") && refused.contains("JSON"),
            "{refused}"
        );
    }

    fn s(text: &str) -> String {
        text.to_owned()
    }
}
