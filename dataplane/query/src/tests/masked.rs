//! Columns with nulls that the Parquet reader leaves out, in queries that filter by what is in them.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, Int64Array, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Schema};
use datafusion::arrow::buffer::NullBuffer;

use super::fixture::Cluster;

/// Rows of `id` and a struct that is null in every other row: a number, and a list of a fixed size that may not be
/// null itself.
fn rows() -> RecordBatch {
    const ROWS: usize = 100;
    let items = arrow_array::Int32Array::from_iter_values(0..2 * ROWS as i32);
    let item = Arc::new(Field::new("item", DataType::Int32, false));
    let pairs = arrow_array::FixedSizeListArray::new(item, 2, Arc::new(items), None);
    let ids = Int64Array::from_iter_values(0..ROWS as i64);
    let fields = vec![
        Field::new("n", DataType::Int64, true),
        Field::new("pair", pairs.data_type().clone(), false),
    ];
    let columns: Vec<ArrayRef> = vec![Arc::new(ids.clone()), Arc::new(pairs)];
    let nulls: NullBuffer = (0..ROWS).map(|row| row % 2 == 1).collect::<Vec<_>>().into();
    let structs = StructArray::new(fields.into(), columns, Some(nulls));
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("c", structs.data_type().clone(), true),
    ]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(structs)]).unwrap()
}

/// With `pushdown_filters` on, most of these answers have every row: the mask hides from the reader which fields of
/// the column a filter asks for.
#[tokio::test]
async fn rows_are_found_by_what_is_in_a_column_with_a_mask() {
    let cluster = Cluster::start().await;
    let table = cluster.create("t", &rows().schema()).await;
    cluster.ingesters.write("a", &table, rows());
    cluster.ingesters.flush("a", &table.name).await;
    cluster.ingesters.forget("a", table.id);
    for (pass, expected) in [
        ("c['n'] = 41", 1),
        ("c['n'] > 90", 5),
        ("c['pair'] IS NULL", 50),
        ("c IS NULL", 50),
        ("c['pair'][1] = 82", 1),
    ] {
        let sql = format!("SELECT count(id) FROM t WHERE {pass}");
        assert_eq!(cluster.number(&sql).await, expected, "{pass}");
    }
}
