//! The time column of a table: which one it is, and what its values say in nanoseconds.
//!
//! Whoever writes files, reads them or rewrites them goes by the same column: the range of times that the
//! catalog keeps of each file is that of this column.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use arrow_array::{Array as _, ArrayRef};
use arrow_schema::{DataType, Field, Schema, TimeUnit};

/// Field metadata that says what a column is, as InfluxDB clients know it.
pub const COLUMN_TYPE_KEY: &str = "iox::column::type";
/// What it says of a time column.
pub(crate) const TIMESTAMP_COLUMN: &str = "iox::column_type::timestamp";
/// The time column of tables that don't say.
const TIME_COLUMN: &str = "time";

/// The column by whose range queries skip files: the first timestamp that is marked as one, else one
/// called `time`.
#[must_use]
pub fn time_column(schema: &Schema) -> Option<usize> {
    let (marked, named) = time_columns(schema);
    marked.or(named)
}

/// The first timestamp that is marked as one, and the one called `time`.
#[must_use]
pub fn time_columns(schema: &Schema) -> (Option<usize>, Option<usize>) {
    let timestamp = |at: &usize| matches!(schema.field(*at).data_type(), DataType::Timestamp(..));
    let mut columns = (0..schema.fields().len()).filter(timestamp);
    let marked = columns.find(|at| is_marked(schema.field(*at)));
    (marked, schema.index_of(TIME_COLUMN).ok().filter(timestamp))
}

/// Whether a column is marked as a timestamp, whatever its type.
pub(crate) fn is_marked(field: &Field) -> bool {
    let mark = field.metadata().get(COLUMN_TYPE_KEY);
    mark.is_some_and(|mark| mark == TIMESTAMP_COLUMN)
}

/// Takes the times of a column into a range of nanoseconds, both ends included; `None` when one is null or
/// out of range, because such a row must not be skipped.
#[must_use]
pub fn widen_range(range: (i64, i64), column: &ArrayRef) -> Option<(i64, i64)> {
    if column.null_count() > 0 {
        return None;
    }
    let (values, nanos) = timestamps(column)?;
    values.iter().try_fold(range, |(low, high), value| {
        let value = value.checked_mul(nanos)?;
        Some((low.min(value), high.max(value)))
    })
}

/// The values of a timestamp column, anything where it is null, and the nanoseconds of one unit; `None` for
/// a column of another type.
#[must_use]
pub fn timestamps(column: &ArrayRef) -> Option<(&[i64], i64)> {
    let DataType::Timestamp(unit, _) = column.data_type() else {
        return None;
    };
    let values = match unit {
        TimeUnit::Second => column.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => column.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => column.as_primitive::<TimestampNanosecondType>().values(),
    };
    Some((values, nanos_of(*unit)))
}

/// The nanoseconds of one unit.
#[must_use]
pub fn nanos_of(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Int64Array, TimestampMillisecondArray};

    use super::*;

    fn column(name: &str, data_type: DataType, mark: Option<&str>) -> Field {
        let mark = mark.map(|mark| (COLUMN_TYPE_KEY.to_owned(), mark.to_owned()));
        Field::new(name, data_type, true).with_metadata(mark.into_iter().collect())
    }

    #[test]
    fn the_time_column_is_the_first_that_is_marked_or_called_so() {
        let time = || DataType::Timestamp(TimeUnit::Second, None);
        let found = |fields: Vec<Field>| time_column(&Schema::new(fields));
        assert_eq!(found(vec![column("at", time(), None)]), None);
        assert_eq!(found(vec![column("time", DataType::Int64, None)]), None);
        let (named, marked) = (
            column("time", time(), None),
            column("at", time(), Some(TIMESTAMP_COLUMN)),
        );
        assert_eq!(found(vec![named.clone()]), Some(0));
        let both = Schema::new(vec![named.clone(), marked.clone(), marked]);
        assert_eq!(time_columns(&both), (Some(1), Some(0)));
        assert_eq!(time_column(&both), Some(1));
        let other = column("n", DataType::Int64, Some(TIMESTAMP_COLUMN));
        assert_eq!(found(vec![other, named]), Some(1));
    }

    #[test]
    fn a_range_has_all_times_in_nanoseconds_or_is_not_known() {
        let times = |values: Vec<Option<i64>>| -> ArrayRef {
            Arc::new(TimestampMillisecondArray::from(values))
        };
        let widened = |column: ArrayRef| widen_range((0, 5), &column);
        assert_eq!(widened(times(vec![])), Some((0, 5)));
        let both = times(vec![Some(-2), Some(3)]);
        assert_eq!(widened(both), Some((-2_000_000, 3_000_000)));
        assert_eq!(widened(times(vec![Some(1), None])), None);
        assert_eq!(widened(times(vec![Some(i64::MAX)])), None);
        assert_eq!(widened(Arc::new(Int64Array::from(vec![1]))), None);
    }
}
