//! What an ingester knows of batches: their times, and how they look in another schema.

use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::TimestampNanosecondType;
use arrow_array::{Array as _, RecordBatch, new_null_array};
use arrow_cast::{CastOptions, cast, cast_with_options};
use arrow_schema::{DataType, SchemaRef, TimeUnit};
use flightcluster_catalog::SequenceNumber;

/// The range of column `time` in nanoseconds, if every row has one.
pub(super) fn time_range(rows: &[(SequenceNumber, RecordBatch)]) -> Option<(i64, i64)> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let mut range = (i64::MAX, i64::MIN);
    for (_, batch) in rows {
        let times = batch.column_by_name("time")?;
        let DataType::Timestamp(_, zone) = times.data_type() else {
            return None;
        };
        let nanos = DataType::Timestamp(TimeUnit::Nanosecond, zone.clone());
        let times = cast_with_options(times, &nanos, &options).ok()?;
        let times = times.as_primitive::<TimestampNanosecondType>();
        if times.null_count() > 0 {
            return None;
        }
        for time in times.values() {
            range = (range.0.min(*time), range.1.max(*time));
        }
    }
    Some(range)
}

/// A batch by column names in another schema, of types as wide or wider, missing columns null.
pub(super) fn shape(
    batch: &RecordBatch,
    schema: &SchemaRef,
    projection: Option<&[usize]>,
) -> RecordBatch {
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) => cast(column, field.data_type()).unwrap(),
            None => new_null_array(field.data_type(), batch.num_rows()),
        })
        .collect();
    let whole = RecordBatch::try_new(Arc::clone(schema), columns).unwrap();
    projection.map_or_else(|| whole.clone(), |columns| whole.project(columns).unwrap())
}
