//! Sizes of columns: as the plain wire layout would have them, and as an Arrow IPC body has them.
//!
//! Buffer capacities say nothing here: a batch that came from IPC shares one allocation among all
//! of its columns, and a slice shares that of its parent (arrow-rs issue 9388).

use arrow_array::cast::AsArray;
use arrow_array::types::{ByteViewType, Int16Type, Int32Type, Int64Type, RunEndIndexType};
use arrow_array::{
    Array, ArrayRef, GenericByteViewArray, GenericListViewArray, OffsetSizeTrait, RecordBatch,
    RunArray,
};
use arrow_data::ArrayData;
use arrow_schema::DataType;

/// Padding of every buffer in a body, the default of arrow-ipc's writer.
const ALIGNMENT: u64 = 64;

/// Bytes the column takes in the plain layout, about; saturates instead of overflowing.
///
/// Exact where layouts repeat values (dictionaries, views, list views, run ends), because there a
/// small column can become huge.
pub(crate) fn plain_bytes(array: &dyn Array) -> u64 {
    let rows = array.len() as u64;
    let validity = if array.is_nullable() {
        rows.div_ceil(8)
    } else {
        0
    };
    validity.saturating_add(match array.data_type() {
        DataType::Null => 0,
        DataType::Boolean => rows.div_ceil(8),
        DataType::FixedSizeBinary(width) => rows.saturating_mul(*width as u64),
        DataType::Decimal32(_, _) | DataType::Decimal64(_, _) => rows.saturating_mul(16),
        DataType::Utf8 => offset_bytes(array.as_string::<i32>().value_offsets()),
        DataType::LargeUtf8 => offset_bytes(array.as_string::<i64>().value_offsets()),
        DataType::Binary => offset_bytes(array.as_binary::<i32>().value_offsets()),
        DataType::LargeBinary => offset_bytes(array.as_binary::<i64>().value_offsets()),
        DataType::Utf8View => view_bytes(array.as_string_view()),
        DataType::BinaryView => view_bytes(array.as_binary_view()),
        DataType::Dictionary(_, _) => dictionary_bytes(array),
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => run_bytes(array.as_run::<Int16Type>()),
            DataType::Int32 => run_bytes(array.as_run::<Int32Type>()),
            _ => run_bytes(array.as_run::<Int64Type>()),
        },
        DataType::ListView(_) => list_view_bytes(array.as_list_view::<i32>()),
        DataType::LargeListView(_) => list_view_bytes(array.as_list_view::<i64>()),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            list_bytes(list.value_offsets(), list.values())
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            list_bytes(list.value_offsets(), list.values())
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let entries: ArrayRef = std::sync::Arc::new(map.entries().clone());
            list_bytes(map.value_offsets(), &entries)
        }
        DataType::FixedSizeList(_, size) => {
            let list = array.as_fixed_size_list();
            let start = list.value_offset(0) as usize;
            plain_bytes(&list.values().slice(start, array.len() * *size as usize))
        }
        DataType::Struct(_) => sum(array
            .as_struct()
            .columns()
            .iter()
            .map(|child| plain_bytes(child))),
        DataType::Union(fields, _) => {
            let union = array.as_union();
            let children = fields.iter().map(|(id, _)| plain_bytes(union.child(id)));
            sum(children).saturating_add(rows.saturating_mul(5))
        }
        other => rows.saturating_mul(other.primitive_width().unwrap_or(0) as u64),
    })
}

/// Bytes the values of `batch` need without dictionaries, run ends and views: a few kilobytes of keys
/// may stand for terabytes.
pub fn plain_batch_bytes(batch: &RecordBatch) -> u64 {
    sum(batch.columns().iter().map(|column| plain_bytes(column)))
}

/// Bytes of the body arrow-ipc writes for `batch`, dictionaries not counted, padding included.
pub(crate) fn body_bytes(batch: &RecordBatch) -> u64 {
    sum(batch.columns().iter().map(column_body_bytes))
}

/// The part of one column in the body.
pub(crate) fn column_body_bytes(column: &ArrayRef) -> u64 {
    data_bytes(&column.to_data())
}

fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

fn offset_bytes<O: OffsetSizeTrait>(offsets: &[O]) -> u64 {
    let (first, last) = span(offsets);
    (last - first) as u64 + size_of_val(offsets) as u64
}

fn list_bytes<O: OffsetSizeTrait>(offsets: &[O], values: &ArrayRef) -> u64 {
    let (first, last) = span(offsets);
    let items = plain_bytes(&values.slice(first, last - first));
    items.saturating_add(size_of_val(offsets) as u64)
}

fn span<O: OffsetSizeTrait>(offsets: &[O]) -> (usize, usize) {
    match offsets {
        [first, .., last] => (first.as_usize(), last.as_usize()),
        _ => (0, 0),
    }
}

fn view_bytes<T: ByteViewType>(array: &GenericByteViewArray<T>) -> u64 {
    // The low 32 bits of a view are the length of the value.
    let values = sum(array.views().iter().map(|view| u64::from(*view as u32)));
    values.saturating_add(array.len() as u64 * 4)
}

fn dictionary_bytes(array: &dyn Array) -> u64 {
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    let rows = array.len() as u64;
    if values.is_empty() {
        return 0;
    }
    if let Some(width) = values.data_type().primitive_width() {
        return rows.saturating_mul(width.max(16) as u64);
    }
    let keys = dictionary.keys();
    let used = dictionary.normalized_keys().into_iter().enumerate();
    sum(used
        .filter(|(row, _)| keys.is_valid(*row))
        .map(|(_, key)| item_bytes(values, key)))
}

fn run_bytes<R: RunEndIndexType>(array: &RunArray<R>) -> u64 {
    let ends = array.run_ends();
    if array.is_empty() {
        return 0;
    }
    let (first, last) = (
        ends.get_start_physical_index(),
        ends.get_end_physical_index(),
    );
    let offset = ends.offset();
    let mut start = 0usize;
    sum((first..=last).map(|run| {
        let end = arrow_buffer::ArrowNativeType::as_usize(ends.values()[run]);
        let end = end.saturating_sub(offset).min(array.len());
        let rows = (end - start) as u64;
        start = end;
        item_bytes(array.values(), run).saturating_mul(rows)
    }))
}

fn list_view_bytes<O: OffsetSizeTrait>(array: &GenericListViewArray<O>) -> u64 {
    let rows = array.offsets().iter().zip(array.sizes().iter());
    let items = rows.map(|(offset, size)| {
        plain_bytes(&array.values().slice(offset.as_usize(), size.as_usize()))
    });
    sum(items).saturating_add(((array.len() + 1) * size_of::<O>()) as u64)
}

/// Plain size of one value; the common types without making a slice.
fn item_bytes(values: &ArrayRef, index: usize) -> u64 {
    match values.data_type() {
        DataType::Utf8 => values.as_string::<i32>().value_length(index) as u64 + 4,
        DataType::LargeUtf8 => values.as_string::<i64>().value_length(index) as u64 + 8,
        DataType::Utf8View => u64::from(values.as_string_view().views()[index] as u32) + 4,
        _ => plain_bytes(&values.slice(index, 1)),
    }
}

fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(ALIGNMENT).saturating_mul(ALIGNMENT)
}

/// Follows arrow-ipc's writer: what it slices is counted sliced, what it writes whole is counted
/// whole (the data buffers of views, the items of list views).
fn data_bytes(data: &ArrayData) -> u64 {
    let rows = data.len() as u64;
    let validity = match data.data_type() {
        DataType::Null | DataType::Union(_, _) | DataType::RunEndEncoded(_, _) => 0,
        _ if data.null_count() > 0 => padded(rows.div_ceil(8)),
        _ => 0,
    };
    validity.saturating_add(match data.data_type() {
        DataType::Null => 0,
        DataType::Boolean => padded(rows.div_ceil(8)),
        DataType::Utf8 | DataType::Binary => {
            let (first, last) = data_span::<i32>(data);
            padded((rows + 1) * 4) + padded((last - first) as u64)
        }
        DataType::LargeUtf8 | DataType::LargeBinary => {
            let (first, last) = data_span::<i64>(data);
            padded((rows + 1) * 8) + padded((last - first) as u64)
        }
        DataType::Utf8View | DataType::BinaryView => {
            let whole = data
                .buffers()
                .iter()
                .skip(1)
                .map(|buffer| padded(buffer.len() as u64));
            padded(rows * 16).saturating_add(sum(whole))
        }
        DataType::List(_) | DataType::Map(_, _) => list_data_bytes::<i32>(data),
        DataType::LargeList(_) => list_data_bytes::<i64>(data),
        DataType::ListView(_) => 2 * padded(rows * 4) + list_view_items(data),
        DataType::LargeListView(_) => 2 * padded(rows * 8) + list_view_items(data),
        DataType::FixedSizeList(_, size) => {
            let size = *size as usize;
            let child = data.child_data()[0].slice(data.offset() * size, data.len() * size);
            data_bytes(&child)
        }
        DataType::Struct(_) => sum(data.child_data().iter().map(data_bytes)),
        DataType::FixedSizeBinary(width) => padded(rows.saturating_mul(*width as u64)),
        DataType::Dictionary(keys, _) => padded(rows * keys.primitive_width().unwrap_or(8) as u64),
        DataType::Union(_, _) => {
            let own = data
                .buffers()
                .iter()
                .map(|buffer| padded(buffer.len() as u64));
            sum(own).saturating_add(sum(data.child_data().iter().map(data_bytes)))
        }
        // The writer cuts runs to the slice; the whole is an upper bound.
        DataType::RunEndEncoded(_, _) => sum(data.child_data().iter().map(data_bytes)),
        other => padded(rows.saturating_mul(other.primitive_width().unwrap_or(0) as u64)),
    })
}

fn data_span<O: OffsetSizeTrait>(data: &ArrayData) -> (usize, usize) {
    match data.len() {
        0 => (0, 0),
        rows => {
            let offsets = &data.buffers()[0].typed_data::<O>()[data.offset()..];
            (offsets[0].as_usize(), offsets[rows].as_usize())
        }
    }
}

fn list_data_bytes<O: OffsetSizeTrait>(data: &ArrayData) -> u64 {
    let (first, last) = data_span::<O>(data);
    let items = data.child_data()[0].slice(first, last - first);
    padded(((data.len() + 1) * size_of::<O>()) as u64).saturating_add(data_bytes(&items))
}

fn list_view_items(data: &ArrayData) -> u64 {
    match data.len() {
        0 => 0,
        _ => data_bytes(&data.child_data()[0]),
    }
}
