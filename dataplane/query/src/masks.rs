//! Gives lists of a fixed size that were read from files the nulls of the structs they are in.
//!
//! A file has nothing below a struct that is null. In an array there has to be something, and the Parquet
//! reader puts null items there. Where items may not be null, the list must be null there too; but of a
//! list that may not be null itself the reader takes down no nulls. Such an array is not valid: casts of
//! it fail, and so may clients. Arrow allows nulls in what may have none exactly where the parent is null.
//!
//! It is done to the column as it lies in the file, before it is cast to the type of the table. There it is
//! also seen whether this release can read the file at all.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow_array::{Array as _, RecordBatch, make_array};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::arrow::array::ArrayData;
use datafusion::arrow::buffer::NullBuffer;
use datafusion::common::tree_node::{Transformed, TransformedResult as _, TreeNode as _};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr_adapter::{
    DefaultPhysicalExprAdapterFactory, PhysicalExprAdapter, PhysicalExprAdapterFactory,
};
use flightcluster_keys::check_format;

/// How columns of files become columns of a table. Of files without such a column, as ever. Files of a
/// format that came later are refused: it is asked once for each file that is opened, with what the footer says.
///
/// Filters must not be evaluated while a file is read (`pushdown_filters`, off unless it is switched on): the mask hides
/// what they ask of fields of such a column.
///
/// The engine does not ask it for a file with exactly the schema of the table. No file has: each says of
/// itself in the metadata of its schema whose rows it holds.
#[derive(Debug)]
pub(crate) struct Masking;

impl PhysicalExprAdapterFactory for Masking {
    fn create(&self, table: SchemaRef, file: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>> {
        let known = check_format(file.metadata());
        known.map_err(|newer| DataFusionError::External(Box::new(newer)))?;
        let usual = DefaultPhysicalExprAdapterFactory.create(table, Arc::clone(&file))?;
        let needed = file.fields().iter().any(|field| lacks_nulls(field, false));
        Ok(match needed {
            true => Arc::new(MaskingAdapter { usual, file }),
            false => usual,
        })
    }
}

#[derive(Debug)]
struct MaskingAdapter {
    usual: Arc<dyn PhysicalExprAdapter>,
    file: SchemaRef,
}

impl PhysicalExprAdapter for MaskingAdapter {
    fn rewrite(&self, expression: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
        let mask = |part: Arc<dyn PhysicalExpr>| {
            let column = part.downcast_ref::<Column>();
            let field = column.and_then(|column| self.file.field_with_name(column.name()).ok());
            Ok(match field {
                Some(field) if lacks_nulls(field, false) => {
                    let field = Arc::new(field.clone());
                    Transformed::yes(Arc::new(Masked { part, field }) as _)
                }
                _ => Transformed::no(part),
            })
        };
        self.usual.rewrite(expression)?.transform_up(mask).data()
    }
}

/// Whether the reader may leave nulls in a list below this field that is not null there.
fn lacks_nulls(field: &Field, below_null: bool) -> bool {
    let null = below_null || field.is_nullable();
    match field.data_type() {
        DataType::FixedSizeList(item, _) => {
            let here = below_null && !field.is_nullable() && !item.is_nullable();
            here || lacks_nulls(item, null)
        }
        DataType::Struct(fields) => fields.iter().any(|field| lacks_nulls(field, null)),
        // There are no items below a null.
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => lacks_nulls(item, false),
        _ => false,
    }
}

/// A batch of a Parquet file as its reader gave it, with the nulls that its columns lack.
///
/// # Errors
/// When the reader gave what can't be mended this way.
pub fn with_masks(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    if !schema
        .fields()
        .iter()
        .any(|field| lacks_nulls(field, false))
    {
        return Ok(batch);
    }
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns
        .map(|(column, field)| masked(column.to_data(), field, None).map(make_array))
        .collect::<Result<_, _>>()?;
    RecordBatch::try_new(schema, columns)
}

/// A column of a file with the nulls it lacks.
#[derive(Debug, Eq)]
struct Masked {
    part: Arc<dyn PhysicalExpr>,
    field: FieldRef,
}

// Derived code would move the expression out of its pointer.
impl PartialEq for Masked {
    fn eq(&self, other: &Self) -> bool {
        self.part.eq(&other.part) && self.field == other.field
    }
}

impl Hash for Masked {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.part.hash(state);
        self.field.hash(state);
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "masked({})", self.part)
    }
}

impl PhysicalExpr for Masked {
    fn return_field(&self, schema: &Schema) -> Result<FieldRef> {
        self.part.return_field(schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let column = self.part.evaluate(batch)?.into_array(batch.num_rows())?;
        let masked = masked(column.to_data(), &self.field, None)?;
        Ok(ColumnarValue::Array(make_array(masked)))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.part]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>> {
        let part = children.pop().unwrap_or_else(|| Arc::clone(&self.part));
        let field = Arc::clone(&self.field);
        Ok(Arc::new(Self { part, field }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The same values, null also where what they are in is null. Checked anew.
fn masked(
    data: ArrayData,
    field: &Field,
    parents: Option<&NullBuffer>,
) -> Result<ArrayData, ArrowError> {
    if !lacks_nulls(field, parents.is_some()) {
        return Ok(data);
    }
    let nulls = NullBuffer::union(data.nulls(), parents);
    let children = data.child_data().iter().cloned();
    let children: Result<Vec<_>, _> = match field.data_type() {
        DataType::Struct(fields) => children
            .zip(fields)
            .map(|(child, field)| masked(child, field, nulls.as_ref()))
            .collect(),
        DataType::FixedSizeList(item, size) => {
            let size = usize::try_from(*size).unwrap_or_default();
            let nulls = nulls.as_ref().map(|nulls| nulls.expand(size));
            children
                .map(|child| masked(child, item, nulls.as_ref()))
                .collect()
        }
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => children.map(|child| masked(child, item, None)).collect(),
        _ => return Ok(data),
    };
    let data = data.into_builder().nulls(nulls).child_data(children?);
    data.build()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;
    use arrow_array::{ArrayRef, FixedSizeListArray, Int32Array, ListArray, StructArray};
    use bytes::Bytes;
    use datafusion::arrow::buffer::OffsetBuffer;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    /// Two structs over pairs, the first one null.
    pub(crate) fn column() -> ArrayRef {
        let item = Arc::new(Field::new("item", DataType::Int32, false));
        let items = Arc::new(Int32Array::from(vec![0, 0, 3, 4]));
        let pairs: ArrayRef = Arc::new(FixedSizeListArray::new(item, 2, items, None));
        let field = Field::new("pair", pairs.data_type().clone(), false);
        let inner: ArrayRef = Arc::new(StructArray::new(vec![field].into(), vec![pairs], None));
        let field = Field::new("inner", inner.data_type().clone(), false);
        let nulls = Some(NullBuffer::from(vec![false, true]));
        Arc::new(StructArray::new(vec![field].into(), vec![inner], nulls))
    }

    fn from_file(column: &ArrayRef) -> ArrayRef {
        let batch = RecordBatch::try_from_iter_with_nullable([("c", Arc::clone(column), true)]);
        let batch = batch.unwrap();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        let bytes = Bytes::from(writer.into_inner().unwrap());
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let read = reader.build().unwrap().next().unwrap().unwrap();
        Arc::clone(read.column(0))
    }

    #[test]
    fn a_list_of_a_fixed_size_is_null_where_the_struct_it_is_in_is_null() {
        let structs = column();
        let item = Arc::new(Field::new("item", structs.data_type().clone(), true));
        let offsets = OffsetBuffer::from_lengths([0, 2]);
        let list: ArrayRef = Arc::new(ListArray::new(item, offsets, column(), None));
        for column in [structs, list] {
            let found = from_file(&column);
            // Once this holds, the reader does it, and this module can go.
            assert!(found.to_data().validate_full().is_err());
            let field = Field::new("c", column.data_type().clone(), true);
            let masked = masked(found.to_data(), &field, None).unwrap();
            masked.validate_full().unwrap();
            assert_eq!(&make_array(masked), &column);
        }
    }

    #[test]
    fn only_columns_that_may_lack_nulls_are_touched() {
        let pair = |items| {
            let item = Arc::new(Field::new("item", DataType::Int32, items));
            DataType::FixedSizeList(item, 2)
        };
        let lacks = |of: DataType, list, outer| {
            let fields = vec![Field::new("pair", of, list)];
            let outer = Field::new("c", DataType::Struct(fields.into()), outer);
            lacks_nulls(&outer, false)
        };
        assert!(lacks(pair(false), false, true));
        assert!(!lacks(pair(true), false, true));
        assert!(!lacks(pair(false), true, true));
        assert!(!lacks(pair(false), false, false));
        assert!(!lacks(DataType::Int32, false, true));
    }
}
