//! Columns as the query engine made them, cast to the wire schema that was announced.
//!
//! Left to others: what the wire schema is ([`crate::schema`]) and how large the result may be
//! split ([`crate::encode`]).

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait, RecordBatch,
    RecordBatchOptions, StructArray, UnionArray,
};
use arrow_buffer::OffsetBuffer;
use arrow_cast::{CastOptions, cast_with_options};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, SchemaRef};
use arrow_select::take::take;

use crate::size;

/// Largest plain column made at once: above it 32-bit offsets overflow.
const MAX_COLUMN_BYTES: u64 = i32::MAX as u64;

/// Why a batch does not fit the schema that was announced for its stream.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another number of columns.
    #[error("the batch has {found} columns, the announced schema {expected}")]
    Columns {
        /// Columns in the batch.
        found: usize,
        /// Columns announced.
        expected: usize,
    },
    /// A column cannot be cast to the announced type.
    #[error("casting column {column:?} from {from} to {to}")]
    Cast {
        /// Name of the column.
        column: String,
        /// Its type in the batch.
        from: Box<DataType>,
        /// The announced type.
        to: Box<DataType>,
        /// What the cast found.
        source: ArrowError,
    },
    /// A column would be too large once its values are written out.
    #[error(
        "column {column:?} takes {bytes} bytes without its dictionary or view encoding, at most \
         {max_bytes} are possible in one batch"
    )]
    TooLarge {
        /// Name of the column.
        column: String,
        /// Bytes it would take.
        bytes: u64,
        /// Bytes possible.
        max_bytes: u64,
    },
    /// The columns do not form a batch of the schema, such as nulls in a column announced without.
    #[error("building a batch of the announced schema")]
    Batch(#[source] ArrowError),
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Columns { .. } => "conform_columns",
            Self::Cast { .. } => "conform_cast",
            Self::TooLarge { .. } => "conform_too_large",
            Self::Batch(_) => "conform_batch",
        }
    }
}

/// Casts the columns of `batch`, by position, to the types of `schema`.
///
/// - Shape: the result has exactly `schema`, so nullability and metadata may differ from the
///   batch's. A batch that already has it is returned without a copy.
/// - Errors: [`Error`]; a column announced as never null that holds a null is one.
pub fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, Error> {
    if Arc::ptr_eq(batch.schema_ref(), schema) {
        return Ok(batch.clone());
    }
    let (found, expected) = (batch.num_columns(), schema.fields().len());
    if found != expected {
        return Err(Error::Columns { found, expected });
    }
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| conform_column(column, field))
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options).map_err(Error::Batch)
}

fn conform_column(column: &ArrayRef, field: &FieldRef) -> Result<ArrayRef, Error> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    let bytes = size::plain_bytes(column);
    if bytes > MAX_COLUMN_BYTES {
        let (column, max_bytes) = (field.name().clone(), MAX_COLUMN_BYTES);
        return Err(Error::TooLarge {
            column,
            bytes,
            max_bytes,
        });
    }
    conform_array(column, field.data_type()).map_err(|source| Error::Cast {
        column: field.name().clone(),
        from: Box::new(column.data_type().clone()),
        to: Box::new(field.data_type().clone()),
        source,
    })
}

/// The general cast kernel does not reach into unions, and drops the field metadata of nested
/// types: containers are rebuilt here around their cast children.
fn conform_array(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    use DataType as T;
    let from = array.data_type();
    if from == to {
        return Ok(Arc::clone(array));
    }
    match (from, to) {
        (T::Dictionary(_, _), T::Dictionary(_, _)) => cast(array, to),
        (T::Dictionary(_, _), _) => {
            let dictionary = array.as_any_dictionary();
            let values = conform_array(dictionary.values(), to)?;
            take(&values, dictionary.keys(), None)
        }
        (T::RunEndEncoded(_, values), to) if !matches!(to, T::RunEndEncoded(_, _)) => {
            conform_array(&cast(array, values.data_type())?, to)
        }
        (T::ListView(item), T::List(_)) => {
            conform_array(&cast(array, &T::List(Arc::clone(item)))?, to)
        }
        (T::LargeListView(item), T::LargeList(_)) => {
            conform_array(&cast(array, &T::LargeList(Arc::clone(item)))?, to)
        }
        (T::Struct(from), T::Struct(to)) if from.len() != to.len() => Err(other_shape(array, to)),
        (T::Union(from, _), T::Union(to, _)) if from.len() != to.len() => {
            Err(other_shape(array, to))
        }
        (T::Struct(_), T::Struct(_))
        | (T::List(_), T::List(_))
        | (T::LargeList(_), T::LargeList(_))
        | (T::FixedSizeList(_, _), T::FixedSizeList(_, _))
        | (T::Map(_, _), T::Map(_, _))
        | (T::Union(_, _), T::Union(_, _)) => rebuild(array, to, &mut |child, field| {
            conform_array(child, field.data_type())
        }),
        _ => cast(array, to),
    }
}

/// Rebuilds a container of the same kind as `to` with every child replaced by `change(child,
/// field)`; children are first cut to what the container refers to.
pub(crate) fn rebuild(
    array: &ArrayRef,
    to: &DataType,
    change: &mut dyn FnMut(&ArrayRef, &Field) -> Result<ArrayRef, ArrowError>,
) -> Result<ArrayRef, ArrowError> {
    match to {
        DataType::Struct(fields) => {
            let from = array.as_struct();
            let columns = from.columns().iter().zip(fields);
            let columns = columns
                .map(|(child, field)| change(child, field))
                .collect::<Result<Vec<_>, _>>()?;
            let nulls = from.nulls().cloned();
            let rebuilt =
                StructArray::try_new_with_length(fields.clone(), columns, nulls, array.len())?;
            Ok(Arc::new(rebuilt))
        }
        DataType::List(item) => rebuild_list(array.as_list::<i32>(), item, change),
        DataType::LargeList(item) => rebuild_list(array.as_list::<i64>(), item, change),
        DataType::FixedSizeList(item, size) => {
            let from = array.as_fixed_size_list();
            let (start, width) = (from.value_offset(0) as usize, *size as usize);
            let child = change(&from.values().slice(start, array.len() * width), item)?;
            let (item, nulls) = (Arc::clone(item), from.nulls().cloned());
            let rebuilt =
                FixedSizeListArray::try_new_with_length(item, *size, child, nulls, array.len())?;
            Ok(Arc::new(rebuilt))
        }
        DataType::Map(entries, sorted) => {
            let from = array.as_map();
            let (offsets, start, length) = cut(from.offsets());
            let child: ArrayRef = Arc::new(from.entries().slice(start, length));
            let DataType::Struct(_) = entries.data_type() else {
                return Err(other_shape(array, entries));
            };
            let child = rebuild(&child, entries.data_type(), change)?;
            let child = child.as_struct().clone();
            let (entries, nulls) = (Arc::clone(entries), from.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(
                entries, offsets, child, nulls, *sorted,
            )?))
        }
        DataType::Union(fields, _) => {
            let from = array.as_union();
            let children = fields
                .iter()
                .map(|(id, field)| change(from.child(id), field));
            let children = children.collect::<Result<Vec<_>, _>>()?;
            let (ids, offsets) = (from.type_ids().clone(), from.offsets().cloned());
            Ok(Arc::new(UnionArray::try_new(
                fields.clone(),
                ids,
                offsets,
                children,
            )?))
        }
        _ => Ok(Arc::clone(array)),
    }
}

fn rebuild_list<O: OffsetSizeTrait>(
    from: &GenericListArray<O>,
    item: &FieldRef,
    change: &mut dyn FnMut(&ArrayRef, &Field) -> Result<ArrayRef, ArrowError>,
) -> Result<ArrayRef, ArrowError> {
    let (offsets, start, length) = cut(from.offsets());
    let child = change(&from.values().slice(start, length), item)?;
    let (item, nulls) = (Arc::clone(item), from.nulls().cloned());
    Ok(Arc::new(GenericListArray::<O>::try_new(
        item, offsets, child, nulls,
    )?))
}

/// Offsets moved to start at zero, and the range of items they referred to.
fn cut<O: OffsetSizeTrait>(offsets: &OffsetBuffer<O>) -> (OffsetBuffer<O>, usize, usize) {
    let (first, last) = (offsets[0], offsets[offsets.len() - 1]);
    let (start, length) = (first.as_usize(), last.as_usize() - first.as_usize());
    if start == 0 {
        return (offsets.clone(), start, length);
    }
    let lengths = offsets
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_usize());
    (OffsetBuffer::from_lengths(lengths), start, length)
}

pub(crate) fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    // A value that does not fit is an error, never a silent null.
    cast_with_options(
        array,
        to,
        &CastOptions {
            safe: false,
            ..CastOptions::default()
        },
    )
}

fn other_shape(array: &ArrayRef, to: &dyn std::fmt::Debug) -> ArrowError {
    ArrowError::CastError(format!(
        "{} does not have the fields of {to:?}",
        array.data_type()
    ))
}

#[cfg(test)]
mod tests;
