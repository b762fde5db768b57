//! How much memory a batch really holds, and making it hold no more than it needs.

use std::collections::HashMap;

use arrow_array::cast::AsArray as _;
use arrow_array::{Array as _, ArrayRef, RecordBatch, UInt32Array};
use arrow_schema::{ArrowError, DataType};
use arrow_select::take::take;

/// A batch may hold twice what its rows need plus this, before it is copied.
const SLACK_BYTES: usize = 64 << 10;

/// Bytes the rows of a batch need.
pub(crate) fn needed_bytes(batch: &RecordBatch) -> usize {
    let of = |column: &ArrayRef| {
        let data = column.to_data();
        data.get_slice_memory_size()
            .unwrap_or_else(|_| column.get_array_memory_size())
    };
    batch.columns().iter().map(of).sum()
}

/// Bytes of all allocations a batch keeps alive, each counted once.
pub(crate) fn held_bytes(batch: &RecordBatch) -> usize {
    let mut seen = HashMap::new();
    let mut pending: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| column.to_data())
        .collect();
    while let Some(data) = pending.pop() {
        let buffers = data
            .buffers()
            .iter()
            .chain(data.nulls().map(|nulls| nulls.buffer()));
        seen.extend(buffers.map(|buffer| (buffer.data_ptr(), buffer.capacity())));
        pending.extend(data.child_data().iter().cloned());
    }
    seen.values().sum()
}

/// Copies a small piece of something large, such as one row of a large batch, so that the buffer's
/// limit counts what is really held.
pub(crate) fn compact(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    compact_beyond(batch, SLACK_BYTES)
}

/// The same without slack, for batches there may be very many of.
pub(crate) fn compact_all(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    compact_beyond(batch, 0)
}

fn compact_beyond(batch: RecordBatch, slack_bytes: usize) -> Result<RecordBatch, ArrowError> {
    if held_bytes(&batch) <= 2 * needed_bytes(&batch) + slack_bytes {
        return Ok(batch);
    }
    let rows = u32::try_from(batch.num_rows()).map_err(|_| {
        ArrowError::InvalidArgumentError("a batch has more than 4 billion rows".to_owned())
    })?;
    let all = UInt32Array::from_iter_values(0..rows);
    let columns = batch.columns().iter().map(|column| {
        let copy = take(column.as_ref(), &all, None)?;
        Ok(match copy.data_type() {
            DataType::Utf8View => std::sync::Arc::new(copy.as_string_view().gc()) as ArrayRef,
            DataType::BinaryView => std::sync::Arc::new(copy.as_binary_view().gc()) as ArrayRef,
            _ => copy,
        })
    });
    let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
    RecordBatch::try_new(batch.schema(), columns)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::sync::Arc;

    use arrow_array::{Int64Array, StringViewArray};

    use super::*;

    #[test]
    fn a_small_slice_of_a_large_batch_lets_go_of_the_rest() {
        let words = (0..100_000).map(|n| format!("a word longer than twelve bytes {n}"));
        let batch = RecordBatch::try_from_iter([
            (
                "n",
                Arc::new(Int64Array::from_iter_values(0..100_000)) as ArrayRef,
            ),
            ("word", Arc::new(StringViewArray::from_iter_values(words))),
        ])
        .unwrap();
        let slice = batch.slice(500, 3);
        let compacted = compact(slice.clone()).unwrap();
        assert_eq!(compacted, slice);
        assert!(held_bytes(&slice) > 1_000_000);
        assert!(
            held_bytes(&compacted) < 10_000,
            "{}",
            held_bytes(&compacted)
        );
    }
}
