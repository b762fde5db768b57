//! Values without a type of Arrow, and the arrays that hold them: the same values in the type that is
//! sent and in the type that has to come back.

use std::sync::Arc;

use arrow_array::types::*;
use arrow_array::{
    Array as _, ArrayRef, ArrowPrimitiveType, BinaryArray, BinaryViewArray, BooleanArray,
    DictionaryArray, FixedSizeBinaryArray, FixedSizeListArray, GenericListArray,
    GenericListViewArray, LargeBinaryArray, LargeStringArray, MapArray, NullArray, OffsetSizeTrait,
    PrimitiveArray, RunArray, StringArray, StringViewArray, StructArray,
};
use arrow_buffer::{ArrowNativeType, BooleanBuffer, NullBuffer, OffsetBuffer, ScalarBuffer, i256};
use arrow_schema::{DataType, FieldRef, IntervalUnit, TimeUnit};
use rand::Rng as _;
use rand::rngs::StdRng;

/// A value as a person would write it.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// Numbers, times, and decimals without their point. Of days and milliseconds: the days above 32 bits.
    Int(i128),
    Big(i256),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Items of a list, fields of a struct, entries of a map.
    Many(Vec<Value>),
}

/// The same to the bit: 0 is not -0, and NaN is NaN.
impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

/// Which of the many layouts of the same values an array gets.
pub(crate) enum Layout<'a> {
    /// The shortest one.
    Plain,
    /// Items nobody refers to, repeated words, runs cut in two, lists in another order.
    Odd(&'a mut StdRng),
}

impl Layout<'_> {
    fn odd(&mut self, of: u32) -> bool {
        match self {
            Self::Plain => false,
            Self::Odd(luck) => luck.random_ratio(1, of),
        }
    }
}

/// An array of this type with these values.
pub(crate) fn build(of: &DataType, values: &[Value], layout: &mut Layout<'_>) -> ArrayRef {
    use DataType::*;
    match of {
        Null => Arc::new(NullArray::new(values.len())),
        Boolean => {
            let one = |value: &Value| match value {
                Value::Bool(one) => Some(*one),
                _ => None,
            };
            Arc::new(values.iter().map(one).collect::<BooleanArray>())
        }
        Int8 => ints::<Int8Type>(of, values),
        Int16 => ints::<Int16Type>(of, values),
        Int32 => ints::<Int32Type>(of, values),
        Int64 => ints::<Int64Type>(of, values),
        UInt8 => ints::<UInt8Type>(of, values),
        UInt16 => ints::<UInt16Type>(of, values),
        UInt32 => ints::<UInt32Type>(of, values),
        UInt64 => ints::<UInt64Type>(of, values),
        Date32 => ints::<Date32Type>(of, values),
        Date64 => ints::<Date64Type>(of, values),
        Time32(TimeUnit::Second) => ints::<Time32SecondType>(of, values),
        Time32(_) => ints::<Time32MillisecondType>(of, values),
        Time64(TimeUnit::Microsecond) => ints::<Time64MicrosecondType>(of, values),
        Time64(_) => ints::<Time64NanosecondType>(of, values),
        Timestamp(TimeUnit::Second, _) => ints::<TimestampSecondType>(of, values),
        Timestamp(TimeUnit::Millisecond, _) => ints::<TimestampMillisecondType>(of, values),
        Timestamp(TimeUnit::Microsecond, _) => ints::<TimestampMicrosecondType>(of, values),
        Timestamp(TimeUnit::Nanosecond, _) => ints::<TimestampNanosecondType>(of, values),
        Duration(TimeUnit::Second) => ints::<DurationSecondType>(of, values),
        Duration(TimeUnit::Millisecond) => ints::<DurationMillisecondType>(of, values),
        Duration(TimeUnit::Microsecond) => ints::<DurationMicrosecondType>(of, values),
        Duration(TimeUnit::Nanosecond) => ints::<DurationNanosecondType>(of, values),
        Decimal32(..) => ints::<Decimal32Type>(of, values),
        Decimal64(..) => ints::<Decimal64Type>(of, values),
        Decimal128(..) => ints::<Decimal128Type>(of, values),
        Decimal256(..) => primitive::<Decimal256Type>(of, values, |value| match value {
            Value::Big(big) => Some(*big),
            _ => None,
        }),
        Interval(IntervalUnit::YearMonth) => ints::<IntervalYearMonthType>(of, values),
        Interval(IntervalUnit::DayTime) => primitive::<IntervalDayTimeType>(of, values, |value| {
            let both = int(value)?;
            Some(IntervalDayTimeType::make_value(
                (both >> 32) as i32,
                both as i32,
            ))
        }),
        Float16 => {
            type Half = <Float16Type as ArrowPrimitiveType>::Native;
            primitive::<Float16Type>(of, values, |value| float(value).map(Half::from_f64))
        }
        Float32 => primitive::<Float32Type>(of, values, |value| float(value).map(|f| f as f32)),
        Float64 => primitive::<Float64Type>(of, values, float),
        Utf8 => Arc::new(values.iter().map(text).collect::<StringArray>()),
        LargeUtf8 => Arc::new(values.iter().map(text).collect::<LargeStringArray>()),
        Utf8View => Arc::new(values.iter().map(text).collect::<StringViewArray>()),
        Binary => Arc::new(values.iter().map(bytes).collect::<BinaryArray>()),
        LargeBinary => Arc::new(values.iter().map(bytes).collect::<LargeBinaryArray>()),
        BinaryView => Arc::new(values.iter().map(bytes).collect::<BinaryViewArray>()),
        FixedSizeBinary(size) => {
            let values = values.iter().map(bytes);
            Arc::new(FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, *size).unwrap())
        }
        List(item) => list::<i32>(item, values, layout),
        LargeList(item) => list::<i64>(item, values, layout),
        ListView(item) => list_view::<i32>(item, values, layout),
        LargeListView(item) => list_view::<i64>(item, values, layout),
        FixedSizeList(item, size) => {
            let none = nothing(item.data_type(), item.is_nullable());
            let mut items = Vec::new();
            for value in values {
                match value {
                    Value::Many(many) => items.extend(many.iter().cloned()),
                    _ => items.extend((0..*size).map(|_| none.clone())),
                }
            }
            let items = build(item.data_type(), &items, layout);
            let nulls = nulls(values);
            let item = Arc::clone(item);
            let list =
                FixedSizeListArray::try_new_with_length(item, *size, items, nulls, values.len());
            Arc::new(list.unwrap())
        }
        Struct(fields) => {
            let columns = fields.iter().enumerate().map(|(at, field)| {
                let none = nothing(field.data_type(), field.is_nullable());
                let column = values.iter().map(|value| match value {
                    Value::Many(many) => many[at].clone(),
                    _ => none.clone(),
                });
                build(field.data_type(), &column.collect::<Vec<_>>(), layout)
            });
            Arc::new(StructArray::new(
                fields.clone(),
                columns.collect(),
                nulls(values),
            ))
        }
        Map(entries, sorted) => {
            let list = list::<i32>(entries, values, &mut Layout::Plain);
            let list = list
                .as_any()
                .downcast_ref::<GenericListArray<i32>>()
                .unwrap();
            let (_, offsets, entries_array, nulls) = list.clone().into_parts();
            let entries_array = entries_array
                .as_any()
                .downcast_ref::<StructArray>()
                .unwrap();
            let entries_array = entries_array.clone();
            Arc::new(MapArray::new(
                Arc::clone(entries),
                offsets,
                entries_array,
                nulls,
                *sorted,
            ))
        }
        Dictionary(keys, words) => match keys.as_ref() {
            Int8 => dictionary::<Int8Type>(words, values, layout),
            Int16 => dictionary::<Int16Type>(words, values, layout),
            Int32 => dictionary::<Int32Type>(words, values, layout),
            Int64 => dictionary::<Int64Type>(words, values, layout),
            UInt8 => dictionary::<UInt8Type>(words, values, layout),
            UInt16 => dictionary::<UInt16Type>(words, values, layout),
            UInt32 => dictionary::<UInt32Type>(words, values, layout),
            _ => dictionary::<UInt64Type>(words, values, layout),
        },
        RunEndEncoded(ends, items) => match ends.data_type() {
            Int16 => runs::<Int16Type>(items, values, layout),
            Int32 => runs::<Int32Type>(items, values, layout),
            _ => runs::<Int64Type>(items, values, layout),
        },
        other => panic!("no values of {other}"),
    }
}

/// What lies below a value that is null.
fn nothing(of: &DataType, nullable: bool) -> Value {
    use DataType::*;
    match of {
        _ if nullable => Value::Null,
        Null => Value::Null,
        Boolean => Value::Bool(false),
        Float16 | Float32 | Float64 => Value::Float(0.0),
        Utf8 | LargeUtf8 | Utf8View => Value::Text(String::new()),
        Binary | LargeBinary | BinaryView => Value::Bytes(Vec::new()),
        FixedSizeBinary(size) => Value::Bytes(vec![0; *size as usize]),
        Decimal256(..) => Value::Big(i256::ZERO),
        List(_) | LargeList(_) | ListView(_) | LargeListView(_) | Map(..) => Value::Many(vec![]),
        FixedSizeList(item, size) => {
            let one = nothing(item.data_type(), item.is_nullable());
            Value::Many(vec![one; *size as usize])
        }
        Struct(fields) => {
            let fields = fields.iter();
            let one = fields.map(|field| nothing(field.data_type(), field.is_nullable()));
            Value::Many(one.collect())
        }
        Dictionary(_, words) => nothing(words, false),
        RunEndEncoded(_, items) => nothing(items.data_type(), false),
        _ => Value::Int(0),
    }
}

fn nulls(values: &[Value]) -> Option<NullBuffer> {
    let valid: BooleanBuffer = values.iter().map(|value| *value != Value::Null).collect();
    Some(NullBuffer::new(valid)).filter(|nulls| nulls.null_count() > 0)
}

fn int(value: &Value) -> Option<i128> {
    match value {
        Value::Int(int) => Some(*int),
        _ => None,
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(float) => Some(*float),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        _ => None,
    }
}

fn ints<T: ArrowPrimitiveType>(of: &DataType, values: &[Value]) -> ArrayRef
where
    T::Native: TryFrom<i128>,
{
    primitive::<T>(of, values, |value| T::Native::try_from(int(value)?).ok())
}

fn primitive<T: ArrowPrimitiveType>(
    of: &DataType,
    values: &[Value],
    one: impl Fn(&Value) -> Option<T::Native>,
) -> ArrayRef {
    let ones: Vec<_> = values.iter().map(&one).collect();
    for (value, one) in values.iter().zip(&ones) {
        assert_eq!(*value == Value::Null, one.is_none(), "{value:?} as {of}");
    }
    Arc::new(PrimitiveArray::<T>::from_iter(ones).with_data_type(of.clone()))
}

/// The items of all lists one after the other, and how many each list has.
fn items_of(values: &[Value]) -> (Vec<Value>, Vec<usize>) {
    let (mut items, mut lengths) = (Vec::new(), Vec::new());
    for value in values {
        let many: &[Value] = match value {
            Value::Many(many) => many,
            _ => &[],
        };
        items.extend_from_slice(many);
        lengths.push(many.len());
    }
    (items, lengths)
}

fn list<O: OffsetSizeTrait>(
    item: &FieldRef,
    values: &[Value],
    layout: &mut Layout<'_>,
) -> ArrayRef {
    let (mut items, mut lengths) = items_of(values);
    // A list that is null may lie over items.
    let null = values.iter().position(|value| *value == Value::Null);
    if let Some(at) = null
        && layout.odd(2)
    {
        let before: usize = lengths[..at].iter().sum();
        items.insert(before, nothing(item.data_type(), item.is_nullable()));
        lengths[at] = 1;
    }
    let items = build(item.data_type(), &items, layout);
    let offsets = OffsetBuffer::<O>::from_lengths(lengths);
    let list = GenericListArray::new(Arc::clone(item), offsets, items, nulls(values));
    Arc::new(list)
}

fn list_view<O: OffsetSizeTrait>(
    item: &FieldRef,
    values: &[Value],
    layout: &mut Layout<'_>,
) -> ArrayRef {
    let backwards = layout.odd(2);
    let mut order: Vec<usize> = (0..values.len()).collect();
    if backwards {
        order.reverse();
    }
    let (mut items, mut places) = (Vec::new(), vec![(0, 0); values.len()]);
    for at in order {
        let (many, _) = items_of(std::slice::from_ref(&values[at]));
        places[at] = (items.len(), many.len());
        items.extend(many);
        if backwards {
            // Between the lists lies what is in none.
            items.push(nothing(item.data_type(), item.is_nullable()));
        }
    }
    let items = build(item.data_type(), &items, layout);
    let offsets = places.iter().map(|place| O::usize_as(place.0));
    let sizes = places.iter().map(|place| O::usize_as(place.1));
    Arc::new(GenericListViewArray::new(
        Arc::clone(item),
        ScalarBuffer::from_iter(offsets),
        ScalarBuffer::from_iter(sizes),
        items,
        nulls(values),
    ))
}

fn dictionary<K: ArrowDictionaryKeyType>(
    of: &DataType,
    values: &[Value],
    layout: &mut Layout<'_>,
) -> ArrayRef {
    let mut words: Vec<Value> = Vec::new();
    // Keys of 8 bits have no room for it.
    let repeats = size_of::<K::Native>() > 1 && layout.odd(3);
    let key = |value: &Value| {
        if *value == Value::Null {
            return None;
        }
        let known = words.iter().position(|word| word == value && !repeats);
        Some(known.unwrap_or_else(|| {
            words.push(value.clone());
            words.len() - 1
        }))
    };
    let keys: Vec<Option<usize>> = values.iter().map(key).collect();
    if layout.odd(3) {
        words.push(nothing(of, false));
    }
    let keys = keys.into_iter().map(|key| key.map(K::Native::usize_as));
    let keys = PrimitiveArray::<K>::from_iter(keys);
    let words = build(of, &words, &mut Layout::Plain);
    Arc::new(DictionaryArray::<K>::try_new(keys, words).unwrap())
}

fn runs<R: RunEndIndexType>(
    item: &FieldRef,
    values: &[Value],
    layout: &mut Layout<'_>,
) -> ArrayRef {
    let (mut ends, mut items): (Vec<R::Native>, Vec<Value>) = (Vec::new(), Vec::new());
    for (at, value) in values.iter().enumerate() {
        let end = R::Native::usize_as(at + 1);
        match ends.last_mut() {
            Some(last) if items.last() == Some(value) && !layout.odd(3) => *last = end,
            _ => {
                ends.push(end);
                items.push(value.clone());
            }
        }
    }
    let ends = PrimitiveArray::<R>::from_iter_values(ends);
    let items = build(item.data_type(), &items, layout);
    Arc::new(RunArray::<R>::try_new(&ends, &items).unwrap())
}
