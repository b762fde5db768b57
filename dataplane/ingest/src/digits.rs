//! Refuses decimals that have more digits than their type says.
//!
//! Nothing else does: Arrow takes any number that fits the bits, and the Parquet library cuts off the bits that
//! a decimal of so many digits does not need. Such a value would be another one in the file than in the log.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{
    Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type, DecimalType,
};
use arrow_array::{Array, OffsetSizeTrait, RecordBatch};
use arrow_buffer::{BooleanBufferBuilder, NullBuffer};
use arrow_schema::{ArrowError, DataType};

use crate::error::Error;
use crate::schema::nested_fields;

/// Looks at every value of a normalised batch, at any depth, that a reader would see.
///
/// # Errors
/// [`Error::Values`] with the column and the first such value.
pub(crate) fn check_digits(batch: &RecordBatch) -> Result<(), Error> {
    for (column, field) in batch.columns().iter().zip(batch.schema_ref().fields()) {
        check(column.as_ref(), None).map_err(|source| Error::Values {
            column: field.name().clone(),
            expected: field.data_type().clone(),
            source,
        })?;
    }
    Ok(())
}

fn has_decimals(data_type: &DataType) -> bool {
    let nested = nested_fields(data_type);
    data_type.is_decimal() || nested.iter().any(|field| has_decimals(field.data_type()))
}

/// `seen` are the slots that are not hidden by what the array is in: below a null anything may lie.
fn check(array: &dyn Array, seen: Option<&NullBuffer>) -> Result<(), ArrowError> {
    let data_type = array.data_type();
    if !has_decimals(data_type) {
        return Ok(());
    }
    let seen = NullBuffer::union(seen, array.nulls());
    let seen = seen.as_ref();
    match data_type {
        DataType::Decimal32(..) => check_values::<Decimal32Type>(array, seen),
        DataType::Decimal64(..) => check_values::<Decimal64Type>(array, seen),
        DataType::Decimal128(..) => check_values::<Decimal128Type>(array, seen),
        DataType::Decimal256(..) => check_values::<Decimal256Type>(array, seen),
        DataType::Struct(_) => {
            let columns = array.as_struct().columns().iter();
            columns
                .into_iter()
                .try_for_each(|column| check(column.as_ref(), seen))
        }
        DataType::List(_) => check_list::<i32>(array, seen),
        DataType::LargeList(_) => check_list::<i64>(array, seen),
        DataType::ListView(_) => check_list_view::<i32>(array, seen),
        DataType::LargeListView(_) => check_list_view::<i64>(array, seen),
        DataType::FixedSizeList(..) => {
            let list = array.as_fixed_size_list();
            let size = list.value_length() as usize;
            let items = (0..list.len()).map(|at| (at * size, size));
            check_items(list.values().as_ref(), items, seen)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            check_items(map.entries(), pieces(map.value_offsets()), seen)
        }
        // Dictionaries and runs of decimals were made decimals.
        _ => Ok(()),
    }
}

fn check_values<T: DecimalType>(
    array: &dyn Array,
    seen: Option<&NullBuffer>,
) -> Result<(), ArrowError> {
    let array = array.as_primitive::<T>();
    let (digits, scale) = (array.precision(), array.scale());
    let too_long = |(at, value): &(usize, &T::Native)| {
        !T::is_valid_decimal_precision(**value, digits)
            && seen.is_none_or(|seen| seen.is_valid(*at))
    };
    match array.values().iter().enumerate().find(too_long) {
        Some((_, value)) => T::validate_decimal_precision(*value, digits, scale),
        None => Ok(()),
    }
}

/// Where each list begins, and how many items it has.
fn pieces<O: OffsetSizeTrait>(offsets: &[O]) -> impl Iterator<Item = (usize, usize)> {
    offsets.windows(2).map(|ends| {
        let (from, to) = (ends[0].as_usize(), ends[1].as_usize());
        (from, to - from)
    })
}

fn check_list<O: OffsetSizeTrait>(
    array: &dyn Array,
    seen: Option<&NullBuffer>,
) -> Result<(), ArrowError> {
    let list = array.as_list::<O>();
    check_items(list.values().as_ref(), pieces(list.value_offsets()), seen)
}

fn check_list_view<O: OffsetSizeTrait>(
    array: &dyn Array,
    seen: Option<&NullBuffer>,
) -> Result<(), ArrowError> {
    let list = array.as_list_view::<O>();
    let offsets = list.value_offsets().iter().zip(list.value_sizes());
    let pieces = offsets.map(|(from, size)| (from.as_usize(), size.as_usize()));
    check_items(list.values().as_ref(), pieces, seen)
}

/// The items that lie in a list which is seen. Views may overlap: each item is marked once, however many have it.
fn check_items(
    items: &dyn Array,
    lists: impl Iterator<Item = (usize, usize)>,
    seen: Option<&NullBuffer>,
) -> Result<(), ArrowError> {
    let lists = lists.enumerate();
    let lists = lists.filter(|(at, _)| seen.is_none_or(|seen| seen.is_valid(*at)));
    let mut lists: Vec<_> = lists.map(|(_, list)| list).collect();
    lists.sort_unstable();
    let mut listed = BooleanBufferBuilder::new(items.len());
    for (from, count) in lists {
        let end = from + count;
        if end > listed.len() {
            listed.append_n(from.saturating_sub(listed.len()), false);
            listed.append_n(end - listed.len(), true);
        }
    }
    listed.append_n(items.len() - listed.len(), false);
    check(items, Some(&NullBuffer::new(listed.finish())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, Decimal32Array, Decimal128Array, FixedSizeListArray, Int32Array, ListArray,
        ListViewArray, StructArray,
    };
    use arrow_buffer::{OffsetBuffer, ScalarBuffer};
    use arrow_schema::Field;

    use super::*;

    /// Of at most 999.99; the second slot is no such value.
    fn decimals(nulls: Option<NullBuffer>) -> ArrayRef {
        let values = vec![99_999, 100_000, -99_999, 0].into();
        let array = Decimal128Array::new(values, nulls);
        Arc::new(array.with_precision_and_scale(5, 2).unwrap())
    }

    fn hidden() -> Option<NullBuffer> {
        Some(vec![true, false, true, true].into())
    }

    fn checked(column: ArrayRef) -> Result<(), String> {
        let batch = RecordBatch::try_from_iter_with_nullable([("Väl ue", column, true)]).unwrap();
        check_digits(&batch).map_err(|error| {
            assert_eq!(error.category(), "values");
            let source = std::error::Error::source(&error).unwrap();
            format!("{error}: {source}")
        })
    }

    #[test]
    fn a_value_with_more_digits_than_its_type_is_refused_with_its_column() {
        checked(decimals(hidden())).unwrap();
        let error = checked(decimals(None)).unwrap_err();
        let text = "values of column \"Väl ue\" can't be stored as Decimal128(5, 2): Invalid argument \
                    error: 1000.00 is too large to store in a Decimal128 of precision 5. Max is 999.99";
        assert_eq!(error, text);
        let small = Decimal32Array::from(vec![Some(-100), None, Some(99)]);
        let small = small.with_precision_and_scale(2, 0).unwrap();
        assert!(checked(Arc::new(small.clone())).is_err());
        checked(Arc::new(small.slice(1, 2))).unwrap();
    }

    #[test]
    fn a_value_inside_another_is_looked_at_only_where_it_is_seen() {
        let item = || Arc::new(Field::new("item", DataType::Decimal128(5, 2), true));
        let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1; 4]));
        let of_struct = |nulls| {
            let fields = vec![Arc::new(Field::new("n", DataType::Int32, true)), item()];
            let columns = vec![Arc::clone(&numbers), decimals(None)];
            Arc::new(StructArray::new(fields.into(), columns, nulls)) as ArrayRef
        };
        // Lists of the first slot, the second, and the others.
        let of_list = |nulls| {
            let offsets = OffsetBuffer::<i32>::from_lengths([1, 1, 2]);
            Arc::new(ListArray::new(item(), offsets, decimals(None), nulls)) as ArrayRef
        };
        let of_view = |from: Vec<i32>| {
            let sizes = ScalarBuffer::from(vec![1; from.len()]);
            let view = ListViewArray::new(item(), from.into(), sizes, decimals(None), None);
            Arc::new(view) as ArrayRef
        };
        let of_pairs = |nulls| {
            let pairs = FixedSizeListArray::new(item(), 2, decimals(None), nulls);
            Arc::new(pairs) as ArrayRef
        };
        for bad in [
            of_struct(None),
            of_list(None),
            of_view(vec![3, 1]),
            of_pairs(None),
        ] {
            let error = checked(Arc::clone(&bad)).unwrap_err();
            assert!(error.contains("1000.00 is too large"), "{error}");
        }
        checked(of_struct(hidden())).unwrap();
        checked(of_list(Some(vec![true, false, true].into()))).unwrap();
        checked(of_list(None).slice(2, 1)).unwrap();
        checked(of_view(vec![3, 0])).unwrap();
        checked(of_pairs(Some(vec![false, true].into()))).unwrap();
        checked(of_pairs(None).slice(1, 1)).unwrap();
        let of_lists = |nulls| {
            let list = of_list(None);
            let fields = vec![Arc::new(Field::new("l", list.data_type().clone(), true))];
            Arc::new(StructArray::new(fields.into(), vec![list], nulls)) as ArrayRef
        };
        assert!(checked(of_lists(None)).is_err());
        checked(of_lists(Some(vec![true, false, true].into()))).unwrap();
    }

    /// Walked view by view, these would be 10^12 items and the test would not end.
    #[test]
    fn items_of_many_views_are_looked_at_once() {
        const MANY: usize = 1 << 20;
        let item = Arc::new(Field::new("item", DataType::Decimal32(2, 0), true));
        let of_views = |values: Vec<i32>, items: usize| {
            let values = Decimal32Array::from(values);
            let values = values.with_precision_and_scale(2, 0).unwrap();
            // From every second one to the same end, the widest ones last.
            let from: Vec<i32> = (0..MANY / 2).rev().map(|at| at as i32 * 2).collect();
            let sizes: Vec<i32> = from.iter().map(|from| items as i32 - from).collect();
            let item = Arc::clone(&item);
            let views = ListViewArray::new(item, from.into(), sizes.into(), Arc::new(values), None);
            Arc::new(views) as ArrayRef
        };
        let mut values = vec![99; MANY + 1];
        values[MANY] = 100;
        checked(of_views(values.clone(), MANY)).unwrap();
        assert!(checked(of_views(values, MANY + 1)).is_err());
        let mut values = vec![99; MANY];
        values[1] = 100;
        // Only the last, widest view has it.
        let views = of_views(values, MANY);
        assert!(checked(Arc::clone(&views)).is_err());
        checked(views.slice(0, MANY / 2 - 1)).unwrap();
    }

    #[test]
    fn items_between_views_and_of_null_ones_may_be_anything() {
        let item = Arc::new(Field::new("item", DataType::Decimal128(5, 2), true));
        // The second item is bad: beside the views, in none, in a null one, in two.
        let cases = [
            (vec![2, 0, 2], vec![2, 1, 1], vec![true; 3], true),
            (vec![1, 1, 4], vec![0, 0, 0], vec![true; 3], true),
            (vec![0, 2, 2], vec![4, 2, 1], vec![false, true, true], true),
            (vec![3, 1, 0], vec![1, 2, 2], vec![true; 3], false),
        ];
        for (from, sizes, valid, fine) in cases {
            let (nulls, item) = (Some(valid.into()), Arc::clone(&item));
            let values = decimals(None);
            let views = ListViewArray::new(item, from.into(), sizes.into(), values, nulls);
            assert_eq!(checked(Arc::new(views)).is_ok(), fine);
        }
    }
}
