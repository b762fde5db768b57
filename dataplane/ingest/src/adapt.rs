//! Bringing an incoming stream into the schema of its table.
//!
//! # Rules
//! Columns are matched by name, in any order. Columns that are missing and nullable are filled with
//! nulls; new columns are added to the table as nullable ones. A column of another type is taken only if
//! every value can be kept exactly ([`widens`]). Where it is the table's values that the other type can
//! keep, the column of the table gets that type ([`grown`]); it never gets a narrower one.

use std::sync::Arc;

use arrow_array::{Array as _, ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow_cast::can_cast_types;
use arrow_schema::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use flightcluster_catalog::TableName;

use crate::error::Error;
use crate::gate::convert;
use crate::schema::nested_fields;

/// How each column of the table is made from an incoming batch.
#[derive(Debug)]
pub(crate) struct Plan {
    table: TableName,
    /// The schema rows are stored in.
    pub(crate) schema: SchemaRef,
    sources: Vec<Source>,
    /// The batch is stored as it comes in.
    pub(crate) unchanged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// This column of the incoming batch, converted when its type differs.
    Column(usize),
    Nulls,
}

/// The table's schema with the columns of `incoming` it lacks, and the types of `incoming` where they are
/// wider; `None` when it stays as it is. `fixed` are columns that keep their type: those of a primary key.
pub(crate) fn evolved(table: &Schema, incoming: &Schema, fixed: &[String]) -> Option<Schema> {
    let kept = table.fields().iter().map(|field| {
        let sent = incoming.field_with_name(field.name());
        let wider = sent.ok().filter(|_| !fixed.contains(field.name()));
        match wider.and_then(|sent| grown(field.data_type(), sent.data_type())) {
            Some(wider) => Arc::new(Field::clone(field).with_data_type(wider)),
            None => Arc::clone(field),
        }
    });
    let new = incoming
        .fields()
        .iter()
        .filter(|field| table.field_with_name(field.name()).is_err());
    let new = new.map(|field| Arc::new(Field::clone(field).with_nullable(true)));
    let fields: Fields = kept.chain(new).collect();
    if fields == *table.fields() {
        return None;
    }
    Some(Schema::new_with_metadata(fields, table.metadata().clone()))
}

impl Plan {
    /// Plans how batches of `incoming` become rows of the table.
    ///
    /// # Errors
    /// [`Error::TypeConflict`], [`Error::MissingColumn`].
    pub(crate) fn new(
        table: &TableName,
        schema: SchemaRef,
        incoming: &Schema,
    ) -> Result<Self, Error> {
        let source = |field: &Arc<Field>| plan_column(table, field, incoming);
        let sources = schema
            .fields()
            .iter()
            .map(source)
            .collect::<Result<Vec<_>, _>>()?;
        let in_place = sources
            .iter()
            .enumerate()
            .all(|(at, source)| *source == Source::Column(at));
        let same_types = schema.fields().iter().zip(incoming.fields());
        let unchanged = in_place
            && schema.fields().len() == incoming.fields().len()
            && same_types
                .into_iter()
                .all(|(to, from)| to.data_type() == from.data_type());
        Ok(Self {
            table: table.clone(),
            schema,
            sources,
            unchanged,
        })
    }

    /// Makes rows of the table from an incoming batch.
    ///
    /// # Errors
    /// [`Error::NullValue`], [`Error::Values`].
    pub(crate) fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let columns = self.sources.iter().zip(self.schema.fields());
        let columns = columns.map(|(source, field)| self.column(batch, *source, field));
        let columns = columns.collect::<Result<Vec<_>, Error>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|source| Error::EncodeBatch { source })
    }

    fn column(
        &self,
        batch: &RecordBatch,
        source: Source,
        field: &Field,
    ) -> Result<ArrayRef, Error> {
        let column = match source {
            Source::Nulls => return Ok(new_null_array(field.data_type(), batch.num_rows())),
            Source::Column(at) => convert(batch.column(at), field.name(), field.data_type())?,
        };
        if !field.is_nullable() && column.logical_null_count() > 0 {
            let (table, column) = (self.table.clone(), field.name().clone());
            return Err(Error::NullValue { table, column });
        }
        Ok(column)
    }
}

fn plan_column(table: &TableName, field: &Field, incoming: &Schema) -> Result<Source, Error> {
    let column = || field.name().clone();
    match incoming.column_with_name(field.name()) {
        None if field.is_nullable() => Ok(Source::Nulls),
        None => Err(Error::MissingColumn {
            table: table.clone(),
            column: column(),
        }),
        Some((at, from)) if widens(from.data_type(), field.data_type()) => Ok(Source::Column(at)),
        Some((_, from)) => Err(Error::TypeConflict {
            table: table.clone(),
            column: column(),
            expected: Box::new(field.data_type().clone()),
            found: Box::new(from.data_type().clone()),
        }),
    }
}

/// The type a column gets when rows of type `sent` come; `None` when it keeps its own.
///
/// Structs of the same fields in the same order, and lists, keep what they are and say of their fields: only
/// the types of what is in them grow. Of others nothing does, nor of what has those inside ([`is_plain`]).
pub(crate) fn grown(table: &DataType, sent: &DataType) -> Option<DataType> {
    use DataType::*;
    match (table, sent) {
        (table, _) if !is_plain(table) => None,
        (List(item), List(sent)) => grown_field(item, sent).map(List),
        (LargeList(item), LargeList(sent)) => grown_field(item, sent).map(LargeList),
        (Struct(fields), Struct(sent)) if fields.len() == sent.len() => {
            let field = |(field, sent): (&Arc<Field>, &Arc<Field>)| {
                let keeps = || widens(sent.data_type(), field.data_type());
                let grown = grown_field(field, sent).or_else(|| keeps().then(|| Arc::clone(field)));
                grown.filter(|_| field.name() == sent.name())
            };
            let grown: Option<Fields> = fields.iter().zip(sent).map(field).collect();
            grown.filter(|grown| grown != fields).map(Struct)
        }
        _ => grows(table, sent).then(|| sent.clone()),
    }
}

/// Whether files' values of a type can be cast to a type of the same shape, whatever lies below a null.
///
/// There the Parquet reader puts nulls, also where a field allows none, and no array can be made of them again. So
/// every field inside has to allow nulls. Maps, dictionaries and other lists were not looked at.
fn is_plain(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(_) | DataType::LargeList(_) | DataType::Struct(_) => {
            let fields = nested_fields(data_type);
            let is_plain = |field: &&Field| field.is_nullable() && is_plain(field.data_type());
            fields.iter().all(is_plain)
        }
        DataType::Dictionary(..) => false,
        other => !other.is_nested(),
    }
}

fn grown_field(field: &Arc<Field>, sent: &Arc<Field>) -> Option<Arc<Field>> {
    let of = grown(field.data_type(), sent.data_type())?;
    // Inside of others the null type stays: the engine makes no list or struct of it there.
    let is_null = *field.data_type() == DataType::Null;
    (!is_null).then(|| Arc::new(Field::clone(field).with_data_type(of)))
}

/// Whether a type without others in it becomes `to` when rows of that type come.
///
/// Integers and floats of more bits, decimals of more digits, and the null type, which has no values yet.
/// Only what files written before can be read as with stored statistics and Bloom filters still true: a part
/// of [`widens`]. Never a timestamp: which column is the time of a table is known by the types, and must not
/// change once files have their ranges of it.
fn grows(from: &DataType, to: &DataType) -> bool {
    let numbers = (from.is_integer() && to.is_integer())
        || (from.is_floating() && to.is_floating())
        || (from.is_decimal() && to.is_decimal());
    let first_values = *from == DataType::Null && !matches!(to, DataType::Timestamp(..));
    from != to && (numbers || first_values) && widens(from, to)
}

/// Whether every value of `from` is a value of `to`.
///
/// Equal types; types that differ only in the names, nullability or metadata of nested fields; wider
/// numbers; decimals with as many digits on each side of the point; the other layouts of
/// strings, binary and lists; dictionaries and their values; finer
/// timestamps and durations (values out of range are refused one by one), the same instants in another
/// time zone; the null type.
#[must_use]
pub fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::*;
    if from == to {
        return true;
    }
    let exact = match (from, to) {
        (Null, _) => true,
        (Dictionary(_, from), Dictionary(_, to)) => return widens(from, to),
        (Dictionary(_, from), to) => return widens(from, to),
        (from, Dictionary(_, to)) => return widens(from, to),
        (Int8, Int16 | Int32 | Int64 | Float16 | Float32 | Float64)
        | (Int16, Int32 | Int64 | Float32 | Float64)
        | (Int32, Int64 | Float64)
        | (UInt8, UInt16 | UInt32 | UInt64 | Int16 | Int32 | Int64)
        | (UInt8, Float16 | Float32 | Float64)
        | (UInt16, UInt32 | UInt64 | Int32 | Int64 | Float32 | Float64)
        | (UInt32, UInt64 | Int64 | Float64)
        | (Float16, Float32 | Float64)
        | (Float32, Float64) => true,
        (from, to) if from.is_decimal() && to.is_decimal() => more_digits(from, to),
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View) => true,
        (Binary | LargeBinary | BinaryView, Binary | LargeBinary | BinaryView) => true,
        (FixedSizeBinary(_), Binary | LargeBinary | BinaryView) => true,
        // A zone says how an instant is shown. Without one a value is no instant.
        (Timestamp(from, zone), Timestamp(to, other)) => {
            zone.is_some() == other.is_some() && finer(*from, *to)
        }
        (Duration(from), Duration(to)) => finer(*from, *to),
        (
            List(_) | LargeList(_) | ListView(_) | LargeListView(_),
            List(_) | LargeList(_) | ListView(_) | LargeListView(_),
        )
        | (Map(_, false), Map(_, false))
        | (Map(_, true), Map(_, true)) => nested_widen(from, to),
        (FixedSizeList(_, from_size), FixedSizeList(_, to_size)) => {
            from_size == to_size && nested_widen(from, to)
        }
        (Struct(from_fields), Struct(to_fields)) => {
            let names = from_fields.iter().zip(to_fields);
            names.into_iter().all(|(from, to)| from.name() == to.name()) && nested_widen(from, to)
        }
        _ => false,
    };
    exact && can_cast_types(from, to)
}

fn nested_widen(from: &DataType, to: &DataType) -> bool {
    let (from, to) = (nested_fields(from), nested_fields(to));
    let pairs = from.iter().zip(&to);
    from.len() == to.len()
        && pairs
            .into_iter()
            .all(|(from, to)| widens(from.data_type(), to.data_type()))
}

/// Whether a decimal type has the digits of another before the point, and those behind it, and as many bits.
///
/// Bits besides digits, so that bringing a value into the type can't overflow, whatever its type promised.
fn more_digits(from: &DataType, to: &DataType) -> bool {
    let (Some(from), Some(to)) = (DecimalShape::of(from), DecimalShape::of(to)) else {
        return false;
    };
    from.bits <= to.bits && from.before_point <= to.before_point && from.scale <= to.scale
}

/// What a decimal type has room for.
struct DecimalShape {
    bits: u16,
    before_point: i16,
    /// Digits behind the point.
    scale: i8,
}

impl DecimalShape {
    fn of(data_type: &DataType) -> Option<Self> {
        use DataType::*;
        let (bits, digits, scale) = match data_type {
            Decimal32(digits, scale) => (32, *digits, *scale),
            Decimal64(digits, scale) => (64, *digits, *scale),
            Decimal128(digits, scale) => (128, *digits, *scale),
            Decimal256(digits, scale) => (256, *digits, *scale),
            _ => return None,
        };
        Some(Self {
            bits,
            before_point: i16::from(digits) - i16::from(scale),
            scale,
        })
    }
}

fn finer(from: TimeUnit, to: TimeUnit) -> bool {
    let rank = |unit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    rank(from) <= rank(to)
}

/// Brings stored rows into a later schema of their table.
///
/// # Errors
/// [`Error::UnknownColumn`] when the table lacks a column of the rows, [`Error::NarrowColumn`] when its type
/// can't hold their values: its catalog was set back.
/// [`Error::EncodeBatch`] when the later schema does not follow from the earlier: our bug.
pub(crate) fn complete(
    table: &TableName,
    batch: &RecordBatch,
    to: &SchemaRef,
) -> Result<RecordBatch, Error> {
    if batch.schema_ref() == to {
        return Ok(batch.clone());
    }
    let fields = batch.schema_ref().fields().iter();
    if let Some(lost) = fields
        .into_iter()
        .find(|field| to.index_of(field.name()).is_err())
    {
        return Err(Error::UnknownColumn {
            table: table.clone(),
            column: lost.name().clone(),
        });
    }
    let plan = Plan::new(table, Arc::clone(to), batch.schema_ref());
    plan.map_err(set_back)?.apply(batch)
}

/// Of stored rows no caller sent a wrong type: the table had it.
fn set_back(error: Error) -> Error {
    match error {
        Error::TypeConflict {
            table,
            column,
            expected,
            found,
        } => Error::NarrowColumn {
            table,
            column,
            expected,
            found,
        },
        other => other,
    }
}
