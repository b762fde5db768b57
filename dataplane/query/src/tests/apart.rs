//! Rewriting files of tables with a primary key.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, Int64Array, RecordBatch, TimestampNanosecondArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};
use flightcluster_catalog::Table;
use flightcluster_keys::{Key, with_order};

use super::rewriting::{MIB, Place, table};
use crate::rewrite::RewriteRequest;

/// Of a table with a primary key the newest row of each key is kept, and no two outputs have a time in
/// common, however many rows have the same.
#[tokio::test]
async fn outputs_of_a_table_with_a_key_share_no_time() {
    let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
    let schema = Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("time", time, false),
    ]);
    let names = ["id".to_owned(), "time".to_owned()];
    let (schema, key) = Key::declare(&schema, &names, Some(1)).unwrap();
    let schema = SchemaRef::new(schema);
    let keyed = Table {
        options: key.options(),
        ..table(&schema)
    };
    let place = Place::new(64 * MIB, 20_000);
    let mut files = Vec::new();
    for n in [1, 2] {
        // 5000 ids at each of 8 times, in another order in each file.
        let rows: Vec<(i64, i64)> = (0..40_000)
            .map(|at| (at / 8 * (3 + 4 * n) % 5000, at % 8))
            .collect();
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.0)));
        let times = TimestampNanosecondArray::from_iter_values(rows.iter().map(|r| r.1));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![ids, Arc::new(times)]);
        let numbered = with_order(&batch.unwrap(), n * 100_000);
        files.push(place.file(n as u64, &numbered.unwrap()).await);
    }
    let request = RewriteRequest {
        table: keyed,
        files,
        keep_from_nanos: None,
        remove: None,
    };
    let rewritten = place.rewrite(request).await;
    assert_eq!(
        (rewritten.removed_rows, rewritten.superseded_rows),
        (0, 40_000)
    );
    assert!(rewritten.outputs.len() > 2, "{}", rewritten.outputs.len());
    let ranges = rewritten
        .outputs
        .iter()
        .map(|file| file.time_range_nanos.unwrap());
    let ends: Vec<i64> = ranges.flat_map(|(low, high)| [low, high]).collect();
    assert!(ends.is_sorted());
    assert!(
        ends.chunks(2)
            .map(|ends| ends[1])
            .is_sorted_by(|a, b| a < b)
    );
    for pair in ends[1..ends.len() - 1].chunks(2) {
        assert!(pair[0] < pair[1], "{ends:?}");
    }
    let mut kept = 0;
    for output in &rewritten.outputs {
        let batch = place.read(output).await;
        let orders = batch.column_by_name("__fc_order").unwrap();
        let orders = orders.as_any().downcast_ref::<Int64Array>().unwrap();
        assert!(orders.values().iter().all(|order| *order >= 200_000));
        kept += batch.num_rows();
    }
    assert_eq!(kept, 40_000);
}
