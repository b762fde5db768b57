//! The columns of a batch and their types. A table begins with narrow columns, and gets more and wider ones.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};

/// Digits behind the point of an amount of the widest type.
pub(crate) const AMOUNT_SCALE: i8 = 6;

/// Types of the columns that grow, each wider than the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Width {
    /// No value yet: what a data frame makes of a column of nothing.
    Nulls,
    /// `Int16`, `Float32`, and decimals of few digits.
    Narrow,
    /// `Int32`, `Float32`, and decimals with more digits before the point.
    Middle,
    /// `Int64`, `Float64`, and decimals with more digits behind the point too.
    #[default]
    Wide,
}

impl Width {
    /// The narrowest first.
    pub(crate) const ALL: [Self; 4] = [Self::Nulls, Self::Narrow, Self::Middle, Self::Wide];

    /// The next wider one; the widest is its own.
    pub(crate) fn next(self) -> Self {
        let wider = Self::ALL.into_iter().find(|other| *other > self);
        wider.unwrap_or(self)
    }

    pub(crate) fn value_type(self) -> DataType {
        match self {
            Self::Nulls => DataType::Null,
            Self::Narrow => DataType::Int16,
            Self::Middle => DataType::Int32,
            Self::Wide => DataType::Int64,
        }
    }

    pub(crate) fn measure_type(self) -> DataType {
        match self {
            Self::Nulls => DataType::Null,
            Self::Narrow | Self::Middle => DataType::Float32,
            Self::Wide => DataType::Float64,
        }
    }

    pub(crate) fn amount_type(self) -> DataType {
        match self {
            Self::Nulls => DataType::Null,
            Self::Narrow => DataType::Decimal64(8, 2),
            Self::Middle => DataType::Decimal128(20, 2),
            Self::Wide => DataType::Decimal256(44, AMOUNT_SCALE),
        }
    }

    /// Lists of structs with a whole number, which grows where it is.
    pub(crate) fn nest_type(self) -> DataType {
        match self {
            Self::Nulls => DataType::Null,
            _ => nest_of(self.value_type()),
        }
    }

    /// A whole number of this type and of none before.
    pub(crate) fn value(self, mixed: i64) -> Option<i64> {
        match self {
            Self::Nulls => None,
            Self::Narrow => Some(mixed % (1 << 15)),
            Self::Middle => Some((1 << 20) + mixed % (1 << 19)),
            Self::Wide => Some((1 << 40) + mixed),
        }
    }

    /// A number with a fraction of this type and of none before.
    pub(crate) fn measure(self, mixed: i64) -> Option<f64> {
        let mixed = mixed as f64;
        match self {
            Self::Nulls => None,
            Self::Narrow | Self::Middle => Some(mixed + 0.25),
            Self::Wide => Some(mixed + 0.1),
        }
    }

    /// A decimal of this type and of none before, with [`AMOUNT_SCALE`] digits behind the point.
    pub(crate) fn amount(self, mixed: i64) -> Option<i128> {
        let cents = |whole: i128| (whole + i128::from(mixed)) * 10_000;
        match self {
            Self::Nulls => None,
            Self::Narrow => Some(cents(0)),
            Self::Middle => Some(cents(1 << 40)),
            Self::Wide => Some(cents(1 << 60) + 1),
        }
    }
}

/// Lists of structs with one field of a type.
pub(crate) fn nest_of(data_type: DataType) -> DataType {
    let number = Field::new("n", data_type, true);
    let item = Field::new("item", DataType::Struct(vec![number].into()), true);
    DataType::List(Arc::new(item))
}

/// What a batch has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    /// A column that the table may not have yet.
    pub(crate) extra: bool,
    pub(crate) width: Width,
}

pub(crate) fn schema(shape: Shape) -> SchemaRef {
    let mut fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("value", shape.width.value_type(), true),
        Field::new("measure", shape.width.measure_type(), true),
        Field::new("amount", shape.width.amount_type(), true),
        Field::new("nest", shape.width.nest_type(), true),
        Field::new("text", DataType::Utf8, true),
    ];
    if shape.extra {
        fields.push(Field::new("extra", DataType::Int64, true));
    }
    Arc::new(Schema::new(fields))
}

#[test]
fn no_value_of_a_type_fits_the_one_before() {
    for mixed in [0, 1, -1, 65_535, 1_000_002, -1_000_002] {
        let values = Width::ALL.map(|width| width.value(mixed));
        let [None, Some(narrow), Some(middle), Some(wide)] = values else {
            panic!("{values:?}");
        };
        let is_right = i16::try_from(narrow).is_ok()
            && i16::try_from(middle).is_err()
            && i32::try_from(middle).is_ok()
            && i32::try_from(wide).is_err();
        assert!(is_right, "{mixed}: {values:?}");
        let exact = |width: Width| {
            let measure = width.measure(mixed).unwrap();
            f64::from(measure as f32) == measure
        };
        assert!(exact(Width::Middle) && !exact(Width::Wide), "{mixed}");
        let amount = |width: Width| width.amount(mixed).unwrap();
        assert!(amount(Width::Narrow).abs() < 10_i128.pow(12), "{mixed}");
        assert!(amount(Width::Middle).abs() >= 10_i128.pow(12), "{mixed}");
        let behind_cents = [Width::Middle, Width::Wide].map(|width| amount(width) % 10_000);
        assert_eq!(behind_cents, [0, 1], "{mixed}");
    }
}
