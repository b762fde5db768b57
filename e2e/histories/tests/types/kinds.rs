//! Random types, what becomes of them by the documented rules, and random values of them.
//!
//! The rules are written here once more, from the table in the documentation of the schema gate
//! (`dataplane/ingest/src/gate.rs`) and of evolution (`docs/decisions/0026`): what is tested must not
//! say itself what is right.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_buffer::i256;
use arrow_schema::{
    DataType, Field, FieldRef, Fields, IntervalUnit, TimeUnit, UnionFields, UnionMode,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::values::Value;
use DataType::*;

/// Types a column can be sent in one after the other: each holds the values of those before it.
pub(crate) const CHAINS: [&[DataType]; 9] = [
    &[Int8, Int16, Int32, Int64],
    &[UInt8, UInt16, UInt32, UInt64],
    &[UInt8, Int16, Int32, Int64],
    &[UInt16, UInt32, Int64],
    &[Float16, Float32, Float64],
    &[Null, Int8, Int64],
    &[Null, Float64],
    &[Null, Utf8],
    &[Null, Boolean],
];

/// Types of decimals a column can be sent in one after the other: no fewer bits, digits before the point, and
/// digits behind it.
pub(crate) fn decimals(luck: &mut StdRng) -> Vec<DataType> {
    // One of 32 bits with one digit is stored in another type.
    let mut layout = luck.random_range(0..MOST_DIGITS.len());
    let digits = luck.random_range(2..=MOST_DIGITS[layout]);
    let mut scale = luck.random_range(0..=digits);
    let mut before = digits - scale;
    let mut chain = vec![decimal(layout, before + scale, scale)];
    for _ in 0..luck.random_range(1..4) {
        layout = luck.random_range(layout..MOST_DIGITS.len());
        let mut room = MOST_DIGITS[layout] - before - scale;
        for digits in [&mut scale, &mut before] {
            let more = luck.random_range(0..=room);
            *digits += more;
            room -= more;
        }
        chain.push(decimal(layout, before + scale, scale));
    }
    chain.dedup();
    chain
}

/// Types a column can be sent in one after the other, with the things inside it growing.
pub(crate) fn nested(luck: &mut StdRng, chain: &[DataType], depth: u32) -> Vec<DataType> {
    let name = name(luck, 0);
    let metadata = metadata(luck);
    // What allows no nulls inside does not grow.
    let field = |of: &DataType| {
        Arc::new(Field::new(&name, of.clone(), true).with_metadata(metadata.clone()))
    };
    let wrap: Box<dyn Fn(&DataType) -> DataType> = match luck.random_range(0..3) {
        0 => Box::new(|of| List(field(of))),
        1 => Box::new(|of| LargeList(field(of))),
        _ => {
            let other = Arc::new(Field::new("other", word(luck), true));
            let first = luck.random();
            let field = &field;
            Box::new(move |of| {
                let mut pair = vec![field(of), Arc::clone(&other)];
                if first {
                    pair.reverse();
                }
                Struct(Fields::from(pair))
            })
        }
    };
    let chain: Vec<DataType> = chain.iter().map(wrap).collect();
    match depth {
        0 => chain,
        _ => nested(luck, &chain, depth - 1),
    }
}

/// Most digits of decimals of 32, 64, 128 and 256 bits.
const MOST_DIGITS: [u8; 4] = [9, 18, 38, 76];

fn decimal(layout: usize, digits: u8, scale: u8) -> DataType {
    let make = [Decimal32, Decimal64, Decimal128, Decimal256][layout];
    make(digits, scale as i8)
}

/// A value whose decimals have their points where another type has them: as many digits behind, or more.
pub(crate) fn moved_point(value: Value, from: &DataType, to: &DataType) -> Value {
    let inside = |value, (from, to): (&FieldRef, &FieldRef)| {
        moved_point(value, from.data_type(), to.data_type())
    };
    match (value, from, to) {
        (Value::Many(items), List(from), List(to))
        | (Value::Many(items), LargeList(from), LargeList(to)) => {
            let items = items.into_iter().map(|item| inside(item, (from, to)));
            Value::Many(items.collect())
        }
        (Value::Many(values), Struct(from), Struct(to)) => {
            let fields = from.iter().zip(to);
            let values = values.into_iter().zip(fields);
            Value::Many(values.map(|(value, pair)| inside(value, pair)).collect())
        }
        (value, from, to) => moved_number(value, from, to),
    }
}

fn moved_number(value: Value, from: &DataType, to: &DataType) -> Value {
    let scale = |of: &DataType| match of {
        Decimal32(_, scale) | Decimal64(_, scale) => Some(*scale),
        Decimal128(_, scale) | Decimal256(_, scale) => Some(*scale),
        _ => None,
    };
    let (Some(before), Some(after)) = (scale(from), scale(to)) else {
        return value;
    };
    let of = match value {
        Value::Int(of) => i256::from_i128(of),
        Value::Big(of) => of,
        other => return other,
    };
    let factor = i256::from_i128(10).wrapping_pow((after - before) as u32);
    let of = of.checked_mul(factor).unwrap();
    match to {
        Decimal256(..) => Value::Big(of),
        _ => Value::Int(of.to_i128().unwrap()),
    }
}

const UNITS: [TimeUnit; 4] = [
    TimeUnit::Second,
    TimeUnit::Millisecond,
    TimeUnit::Microsecond,
    TimeUnit::Nanosecond,
];

/// A name no other column has.
pub(crate) fn name(luck: &mut StdRng, at: usize) -> String {
    let names = [
        "a",
        "B",
        "Väl ue",
        "x.y",
        "select",
        "time",
        "_",
        "\"quoted\"",
        "ключ",
        "tab\tnew\nline",
    ];
    match luck.random_range(0..3) {
        0 => format!("{}{at}", names.choose(luck).unwrap()),
        _ => format!("c{at}"),
    }
}

/// Metadata of a field, some of which somebody may take for his own.
pub(crate) fn metadata(luck: &mut StdRng) -> HashMap<String, String> {
    let known = [
        ("iox::column::type", "iox::column_type::tag"),
        ("iox::column::type", "iox::column_type::timestamp"),
        ("iox::column::type", "iox::column_type::field::float"),
        ("ARROW:extension:name", "example.custom"),
        ("ARROW:extension:metadata", "{\"a\": 1}"),
        ("PARQUET:field_id", "7"),
        ("unit", "°C"),
        ("", "empty key"),
        ("empty value", ""),
    ];
    let count = [0, 0, 0, 1, 2][luck.random_range(0..5)];
    let some = (0..count).map(|_| *known.choose(luck).unwrap());
    some.map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn field(luck: &mut StdRng, name: &str, of: DataType) -> FieldRef {
    // Nothing but null has the null type.
    let nullable = of == Null || luck.random_ratio(3, 4);
    Arc::new(Field::new(name, of, nullable).with_metadata(metadata(luck)))
}

fn decimal_parts(luck: &mut StdRng, most: u8) -> (u8, i8) {
    let precision = if luck.random_ratio(1, 3) {
        most
    } else {
        luck.random_range(1..=most)
    };
    let scale = luck.random_range(0..=precision.min(38));
    (precision, scale as i8)
}

/// A type without others in it.
fn leaf(luck: &mut StdRng) -> DataType {
    let unit = *UNITS.choose(luck).unwrap();
    let zone = [
        None,
        Some("UTC"),
        Some("Europe/Prague"),
        Some("+02:00"),
        Some("-11:30"),
    ];
    let zone = zone.choose(luck).unwrap().map(Into::into);
    match luck.random_range(0..38) {
        0 => Null,
        1 => Boolean,
        2 => Int8,
        3 => Int16,
        4 => Int32,
        5 => Int64,
        6 => UInt8,
        7 => UInt16,
        8 => UInt32,
        9 => UInt64,
        10 => Float16,
        11 => Float32,
        12 => Float64,
        13 => Date32,
        14 => Date64,
        15 => Time32(TimeUnit::Second),
        16 => Time32(TimeUnit::Millisecond),
        17 => Time64(TimeUnit::Microsecond),
        18 => Time64(TimeUnit::Nanosecond),
        19..22 => Timestamp(unit, zone),
        22 => Duration(unit),
        23 => Interval(IntervalUnit::YearMonth),
        24 => Interval(IntervalUnit::DayTime),
        25 => Utf8,
        26 => LargeUtf8,
        27 => Utf8View,
        28 => Binary,
        29 => LargeBinary,
        30 => BinaryView,
        31 => FixedSizeBinary(luck.random_range(1..20)),
        32 => {
            let (precision, scale) = decimal_parts(luck, 9);
            Decimal32(precision, scale)
        }
        33 => {
            let (precision, scale) = decimal_parts(luck, 18);
            Decimal64(precision, scale)
        }
        34..36 => {
            let (precision, scale) = decimal_parts(luck, 38);
            Decimal128(precision, scale)
        }
        _ => {
            let (precision, scale) = decimal_parts(luck, 76);
            Decimal256(precision, scale)
        }
    }
}

/// The same, but not the null type.
fn word(luck: &mut StdRng) -> DataType {
    loop {
        match leaf(luck) {
            Null => {}
            word => return word,
        }
    }
}

/// A type that can be stored, in a way.
pub(crate) fn kind(luck: &mut StdRng, depth: u32) -> DataType {
    if depth == 0 || luck.random_ratio(1, 2) {
        return leaf(luck);
    }
    match luck.random_range(0..10) {
        0..3 => {
            let keys = [Int8, Int16, Int32, Int64, UInt8, UInt16, UInt32, UInt64];
            let keys = keys.choose(luck).unwrap().clone();
            let words = word(luck);
            Dictionary(Box::new(keys), Box::new(words))
        }
        3 => {
            let ends = [Int16, Int32, Int64].choose(luck).unwrap().clone();
            let ends = Arc::new(Field::new("run_ends", ends, false));
            let items = Arc::new(Field::new("values", word(luck), true));
            RunEndEncoded(ends, items)
        }
        4 => {
            let count = luck.random_range(1..4);
            let fields = (0..count).map(|at| {
                let of = kind(luck, depth - 1);
                let name = name(luck, at);
                field(luck, &name, of)
            });
            Struct(fields.collect())
        }
        5 => {
            let keys = word(luck);
            let keys = Arc::new(Field::new("key", keys, false));
            let of = kind(luck, depth - 1);
            let values = field(luck, "value", of);
            let entries = Field::new("entries", Struct(Fields::from(vec![keys, values])), false);
            Map(Arc::new(entries), luck.random_ratio(1, 4))
        }
        wrapped => {
            let of = kind(luck, depth - 1);
            let name = *["item", "element", "Väl"].choose(luck).unwrap();
            let item = field(luck, name, of);
            match wrapped {
                6 => List(item),
                7 => LargeList(item),
                8 if luck.random_ratio(1, 2) => ListView(item),
                8 => LargeListView(item),
                _ => FixedSizeList(item, luck.random_range(1..4)),
            }
        }
    }
}

/// A type that can't be stored, maybe deep inside another.
pub(crate) fn refused(luck: &mut StdRng) -> DataType {
    let bad = match luck.random_range(0..7) {
        0 => {
            let fields = [(0, Arc::new(Field::new("a", leaf(luck), true)))];
            let fields: UnionFields = fields.into_iter().collect();
            let mode = if luck.random() {
                UnionMode::Dense
            } else {
                UnionMode::Sparse
            };
            Union(fields, mode)
        }
        1 => Interval(IntervalUnit::MonthDayNano),
        2 => Decimal32(9, -1),
        3 => Decimal128(20, -(luck.random_range(1..5))),
        4 => Decimal256(50, -3),
        5 => Decimal64(5, 6),
        _ => Struct(Fields::empty()),
    };
    let mut of = bad;
    for _ in 0..luck.random_range(0..3) {
        let item = Arc::new(Field::new("item", of, true));
        of = match luck.random_range(0..4) {
            0 => List(item),
            1 => LargeListView(item),
            2 => Struct(Fields::from(vec![
                Field::new("good", Int8, true),
                Field::clone(&item),
            ])),
            _ => FixedSizeList(item, 2),
        };
    }
    of
}

/// The type a column comes back in.
pub(crate) fn stored(of: &DataType) -> DataType {
    let inner = |field: &FieldRef| -> FieldRef {
        Arc::new(Field::clone(field).with_data_type(stored(field.data_type())))
    };
    match of {
        RunEndEncoded(_, items) => stored(items.data_type()),
        Dictionary(keys, words) => {
            let words = match words.as_ref() {
                Utf8View => Utf8,
                BinaryView => Binary,
                other => stored(other),
            };
            let keys = match keys.as_ref() {
                Int8 | Int16 | UInt8 | UInt16 => Int32,
                wide => wide.clone(),
            };
            match &words {
                Utf8 | LargeUtf8 | Binary | LargeBinary | Float32 | Float64 | Int8 | Int16
                | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 => {
                    Dictionary(Box::new(keys), Box::new(words))
                }
                _ => words,
            }
        }
        List(item) => List(inner(item)),
        LargeList(item) => LargeList(inner(item)),
        ListView(item) => ListView(inner(item)),
        LargeListView(item) => LargeListView(inner(item)),
        FixedSizeList(item, size) => FixedSizeList(inner(item), *size),
        Map(entries, sorted) => Map(inner(entries), *sorted),
        Struct(fields) => Struct(fields.iter().map(inner).collect()),
        Decimal32(1, scale) => Decimal64(1, *scale),
        kept => kept.clone(),
    }
}

/// A value of a type; nulls only where they are allowed.
pub(crate) fn value(luck: &mut StdRng, of: &DataType, nullable: bool) -> Value {
    if *of == Null || (nullable && luck.random_ratio(1, 4)) {
        return Value::Null;
    }
    let size = [0, 1, 1, 2, 5][luck.random_range(0..5)];
    match of {
        Boolean => Value::Bool(luck.random()),
        // Each has a half of its own.
        Float16 => Value::Float(
            *[0.0, -0.0, 1.5, 65504.0, -0.25, f64::INFINITY, f64::NAN]
                .choose(luck)
                .unwrap(),
        ),
        Float32 => Value::Float(f64::from(
            *[
                0.0_f32,
                -0.0,
                0.1,
                f32::MAX,
                f32::MIN_POSITIVE,
                f32::NEG_INFINITY,
                f32::NAN,
            ]
            .choose(luck)
            .unwrap(),
        )),
        Float64 => Value::Float(
            *[
                0.0,
                -0.0,
                0.1,
                f64::MAX,
                f64::MIN_POSITIVE,
                f64::NEG_INFINITY,
                f64::NAN,
            ]
            .choose(luck)
            .unwrap(),
        ),
        Utf8 | LargeUtf8 | Utf8View => {
            let texts = [
                "",
                "a",
                "žluťoučký 🐎",
                "longer than twelve bytes",
                "\0",
                "a",
            ];
            Value::Text((*texts.choose(luck).unwrap()).to_owned())
        }
        Binary | LargeBinary | BinaryView => {
            Value::Bytes((0..size * 4).map(|_| luck.random()).collect())
        }
        FixedSizeBinary(size) => Value::Bytes((0..*size).map(|_| luck.random()).collect()),
        Decimal256(precision, _) => {
            let most = i256::from_i128(10).wrapping_pow(u32::from(*precision)) - i256::ONE;
            let few = i256::from_i128(i128::from(luck.random_range(0..10_u8)));
            Value::Big(*[most, -most, i256::ZERO, few].choose(luck).unwrap())
        }
        Interval(IntervalUnit::DayTime) => {
            let mut part = || i64::from(*[0, 1, -1, i32::MAX, i32::MIN].choose(luck).unwrap());
            let both = (part() << 32) | (part() & 0xffff_ffff);
            Value::Int(i128::from(both))
        }
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) => {
            many(luck, item, size)
        }
        FixedSizeList(item, size) => many(luck, item, *size as usize),
        Map(entries, _) => many(luck, entries, size),
        Struct(fields) => Value::Many(
            fields
                .iter()
                .map(|field| value(luck, field.data_type(), field.is_nullable()))
                .collect(),
        ),
        // Few words: 8 bits count them.
        Dictionary(_, words) => {
            let word = luck.random_range(0..20);
            value(&mut StdRng::seed_from_u64(word), words, false)
        }
        RunEndEncoded(_, items) => value(luck, items.data_type(), nullable),
        _ => {
            let (least, most) = range(of);
            let near = luck.random_range(least.max(-100)..=most.min(100));
            Value::Int(*[least, most, near, near, near].choose(luck).unwrap())
        }
    }
}

fn many(luck: &mut StdRng, item: &Field, count: usize) -> Value {
    let one = |_| value(luck, item.data_type(), item.is_nullable());
    Value::Many((0..count).map(one).collect())
}

/// The smallest and the largest value of a type that is stored as an integer.
fn range(of: &DataType) -> (i128, i128) {
    let decimal = |precision: u8| 10_i128.pow(u32::from(precision)) - 1;
    match of {
        Int8 => (i8::MIN.into(), i8::MAX.into()),
        Int16 => (i16::MIN.into(), i16::MAX.into()),
        UInt8 => (0, u8::MAX.into()),
        UInt16 => (0, u16::MAX.into()),
        UInt32 => (0, u32::MAX.into()),
        UInt64 => (0, u64::MAX.into()),
        Int32 | Date32 | Interval(IntervalUnit::YearMonth) => (i32::MIN.into(), i32::MAX.into()),
        Time32(TimeUnit::Second) => (0, 86_399),
        Time32(_) => (0, 86_399_999),
        Time64(TimeUnit::Microsecond) => (0, 86_399_999_999),
        Time64(_) => (0, 86_399_999_999_999),
        Decimal32(precision, _) | Decimal64(precision, _) | Decimal128(precision, _) => {
            (-decimal(*precision), decimal(*precision))
        }
        _ => (i64::MIN.into(), i64::MAX.into()),
    }
}
