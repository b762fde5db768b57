//! A primary key: declared once, kept in the options of its table, fixed for the table's life.
//!
//! The time column is always part of it. So all rows of a key have one time: a file that holds no row
//! of that time holds none of the key, and what ends by time ends with all its rows.

use std::collections::BTreeMap;

use arrow_schema::{DataType, Field, Schema};
use serde::{Deserialize, Serialize};

use crate::is_reserved;
use crate::times::{COLUMN_TYPE_KEY, TIMESTAMP_COLUMN, is_marked};

/// Option of a table that holds its key.
const OPTION: &str = "primary_key";
/// Option of a table that says what a reader must know to read it.
const REQUIRES: &str = "requires";

/// The primary key of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    columns: Vec<String>,
    time: String,
}

/// Why a table can't have, or does not have, such a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No column (the caller's mistake).
    #[error("the primary key has no columns; name at least the table's TIMESTAMP column")]
    NoColumns,
    /// A column the table does not have (the caller's mistake).
    #[error("column {column:?} of the primary key is not a column of the table")]
    UnknownColumn {
        /// The name.
        column: String,
    },
    /// A column that is named twice (the caller's mistake).
    #[error("column {column:?} is in the primary key twice; name it once")]
    Twice {
        /// The name.
        column: String,
    },
    /// The table has a time, and the key does not (the caller's mistake).
    #[error(
        "the primary key lacks the table's time column; add {column:?} to it (rows of one key have \
         one time)"
    )]
    LacksTime {
        /// The time column.
        column: String,
    },
    /// The key has no time (the caller's mistake).
    #[error("the primary key needs one TIMESTAMP column, as the time of its rows; add one to it")]
    NoTime,
    /// A type whose values are not simply equal or not (the caller's mistake).
    #[error(
        "column {column:?} of the primary key has type {data_type}, which can't be part of a key; \
         store it as text or as an integer"
    )]
    Type {
        /// The column.
        column: String,
        /// Its type.
        data_type: DataType,
    },
    /// A column named like one of ours (the caller's mistake).
    #[error("column names that begin with \"__fc_\" are reserved; rename column {column:?}")]
    Reserved {
        /// The name.
        column: String,
    },
    /// The key a stream asks for can't be read (the caller's mistake).
    #[error(
        "the schema's metadata \"flightcluster.primary_key\" must be a JSON array of column names, \
         not {found:?}"
    )]
    Metadata {
        /// What it is.
        found: String,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// The table needs a newer program.
    #[error("the table needs {what:?}, which this release does not know; run a newer one")]
    Requires {
        /// What it needs.
        what: String,
    },
    /// The key in the catalog can't be read.
    #[error("the primary key in the catalog can't be read")]
    Stored {
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

impl KeyError {
    /// Whether it is the caller's mistake; else the catalog holds what this program does not know.
    #[must_use]
    pub fn is_callers(&self) -> bool {
        !matches!(self, Self::Requires { .. } | Self::Stored { .. })
    }
}

impl Key {
    /// The key of a table with these options, if it has one.
    ///
    /// # Errors
    /// [`KeyError::Requires`], [`KeyError::Stored`].
    pub fn of(options: &BTreeMap<String, String>) -> Result<Option<Self>, KeyError> {
        match options.get(REQUIRES) {
            Some(what) if what != OPTION => return Err(KeyError::Requires { what: what.clone() }),
            Some(_) | None => {}
        }
        let stored = options.get(OPTION);
        let read = stored.map(|text| serde_json::from_str(text));
        read.transpose()
            .map_err(|source| KeyError::Stored { source })
    }

    /// The options of a table with this key. A release that does not know keys must not read it: it
    /// would show every row.
    #[must_use]
    pub fn options(&self) -> BTreeMap<String, String> {
        let text = serde_json::to_string(self).expect("texts have a JSON form");
        BTreeMap::from([
            (OPTION.to_owned(), text),
            (REQUIRES.to_owned(), OPTION.to_owned()),
        ])
    }

    /// Makes a key of columns of a table to be created, and what the table's schema becomes by it: the
    /// columns of the key allow no nulls, and its time column is marked as the table's, for good.
    ///
    /// `time` is the time column the table has without the key.
    ///
    /// # Errors
    /// Those that are the caller's mistake.
    pub fn declare(
        schema: &Schema,
        names: &[String],
        time: Option<usize>,
    ) -> Result<(Schema, Self), KeyError> {
        if names.is_empty() {
            return Err(KeyError::NoColumns);
        }
        let mut places = Vec::with_capacity(names.len());
        for name in names {
            let unknown = |_| KeyError::UnknownColumn {
                column: name.clone(),
            };
            let place = schema.index_of(name).map_err(unknown)?;
            if places.contains(&place) {
                let column = name.clone();
                return Err(KeyError::Twice { column });
            }
            let data_type = schema.field(place).data_type();
            if !keyable(data_type) {
                return Err(KeyError::Type {
                    column: name.clone(),
                    data_type: data_type.clone(),
                });
            }
            places.push(place);
        }
        let time = time_of(schema, &places, time)?;
        let key = Self {
            columns: names.to_vec(),
            time: schema.field(time).name().clone(),
        };
        Ok((keyed(schema, &places, time), key))
    }

    /// Places of the key's columns in `schema`, the time column first.
    ///
    /// # Errors
    /// [`KeyError::UnknownColumn`].
    pub fn places(&self, schema: &Schema) -> Result<Vec<usize>, KeyError> {
        let others = self.columns.iter().filter(|name| **name != self.time);
        let place = |name: &String| {
            let unknown = |_| KeyError::UnknownColumn {
                column: name.clone(),
            };
            schema.index_of(name).map_err(unknown)
        };
        std::iter::once(&self.time)
            .chain(others)
            .map(place)
            .collect()
    }

    /// The columns of the key, in the order they were declared.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }
}

/// Refuses a column name that is ours.
///
/// # Errors
/// [`KeyError::Reserved`].
pub fn check_names(schema: &Schema) -> Result<(), KeyError> {
    match schema
        .fields()
        .iter()
        .find(|field| is_reserved(field.name()))
    {
        Some(field) => Err(KeyError::Reserved {
            column: field.name().clone(),
        }),
        None => Ok(()),
    }
}

fn time_of(schema: &Schema, key: &[usize], time: Option<usize>) -> Result<usize, KeyError> {
    if let Some(time) = time {
        return match key.contains(&time) {
            true => Ok(time),
            false => Err(KeyError::LacksTime {
                column: schema.field(time).name().clone(),
            }),
        };
    }
    let is_time = |at: &&usize| matches!(schema.field(**at).data_type(), DataType::Timestamp(..));
    let mut times = key.iter().filter(is_time);
    match (times.next(), times.next()) {
        (Some(only), None) => Ok(*only),
        _ => Err(KeyError::NoTime),
    }
}

fn keyed(schema: &Schema, key: &[usize], time: usize) -> Schema {
    let unmarked = !schema.fields().iter().any(|field| is_marked(field));
    let field = |(at, field): (usize, &std::sync::Arc<Field>)| {
        let mut field = Field::clone(field);
        if key.contains(&at) {
            field.set_nullable(false);
        }
        if at == time && unmarked {
            let mut metadata = field.metadata().clone();
            metadata.insert(COLUMN_TYPE_KEY.to_owned(), TIMESTAMP_COLUMN.to_owned());
            field.set_metadata(metadata);
        }
        field
    };
    let fields: Vec<Field> = schema.fields().iter().enumerate().map(field).collect();
    Schema::new_with_metadata(fields, schema.metadata().clone())
}

/// Whether two values of a type are the same for everybody. Floats have two zeros and a NaN that is
/// not itself; nobody gains from lists as keys.
fn keyable(data_type: &DataType) -> bool {
    use DataType::*;
    match data_type {
        Dictionary(_, values) => {
            values.is_integer() || matches!(**values, Utf8 | LargeUtf8 | Binary | LargeBinary)
        }
        Boolean | Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(..) | Duration(_)
        | Decimal32(..) | Decimal64(..) | Decimal128(..) | Decimal256(..) | Utf8 | LargeUtf8
        | Utf8View | Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => true,
        other => other.is_integer(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use arrow_schema::{IntervalUnit, TimeUnit};

    use super::*;

    fn timestamp() -> DataType {
        DataType::Timestamp(TimeUnit::Microsecond, None)
    }

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("v", DataType::Float64, true),
            Field::new("host", DataType::Utf8, true),
            Field::new("time", timestamp(), true),
            Field::new("seen", timestamp(), true),
        ])
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_key_comes_back_from_the_options_of_its_table() {
        let (declared, key) = Key::declare(&schema(), &names(&["host", "time"]), Some(2)).unwrap();
        assert_eq!(Key::of(&key.options()).unwrap(), Some(key.clone()));
        assert_eq!(key.places(&declared).unwrap(), [2, 1]);
        let nulls: Vec<bool> = declared.fields().iter().map(|f| f.is_nullable()).collect();
        assert_eq!(nulls, [true, false, false, true]);
        let marks: Vec<bool> = (0..4)
            .map(|at| !declared.field(at).metadata().is_empty())
            .collect();
        assert_eq!(marks, [false, false, true, false]);
        assert_eq!(Key::of(&BTreeMap::new()).unwrap(), None);
    }

    #[test]
    fn a_table_that_needs_more_than_this_release_knows_is_refused() {
        let (_, key) = Key::declare(&schema(), &names(&["time"]), Some(2)).unwrap();
        let mut options = key.options();
        options.insert("requires".to_owned(), "teleportation".to_owned());
        let refused = Key::of(&options).unwrap_err();
        assert!(refused.to_string().contains("teleportation"), "{refused}");
        assert!(!refused.is_callers());
    }

    #[test]
    fn the_only_timestamp_of_a_key_becomes_the_time_of_a_table_that_has_none() {
        let (declared, key) = Key::declare(&schema(), &names(&["host", "seen"]), None).unwrap();
        assert_eq!(key.places(&declared).unwrap(), [3, 1]);
        assert!(!declared.field(3).metadata().is_empty());
    }

    #[test]
    fn a_key_that_can_not_be_is_refused_with_the_column() {
        let refused = |columns: &[&str], time: Option<usize>| {
            let error = Key::declare(&schema(), &names(columns), time).unwrap_err();
            assert!(error.is_callers());
            error.to_string()
        };
        assert!(refused(&[], Some(2)).contains("no columns"));
        assert!(refused(&["hosts", "time"], Some(2)).contains("\"hosts\""));
        assert!(refused(&["time", "host", "time"], Some(2)).contains("\"time\" is in"));
        assert!(refused(&["host"], Some(2)).contains("add \"time\""));
        assert!(refused(&["host"], None).contains("TIMESTAMP"));
        assert!(refused(&["time", "seen"], None).contains("one TIMESTAMP"));
        assert!(refused(&["v", "time"], Some(2)).contains("Float64"));
    }

    #[test]
    fn only_types_with_one_equality_are_part_of_keys() {
        let dictionary = |of: DataType| DataType::Dictionary(DataType::Int32.into(), of.into());
        for fits in [
            DataType::Boolean,
            DataType::UInt64,
            DataType::Decimal128(10, 2),
            DataType::Utf8View,
            DataType::FixedSizeBinary(16),
            dictionary(DataType::Utf8),
            dictionary(DataType::Int64),
            timestamp(),
        ] {
            assert!(keyable(&fits), "{fits}");
        }
        for refused in [
            DataType::Null,
            DataType::Float16,
            dictionary(DataType::Float64),
            DataType::Interval(IntervalUnit::YearMonth),
            DataType::List(Field::new("item", DataType::Int64, true).into()),
            DataType::Struct(vec![Field::new("a", DataType::Int64, true)].into()),
        ] {
            assert!(!keyable(&refused), "{refused}");
        }
    }

    #[test]
    fn names_of_our_own_columns_are_refused() {
        let ours = Schema::new(vec![Field::new("__fc_order", DataType::Int64, true)]);
        assert!(
            check_names(&ours)
                .unwrap_err()
                .to_string()
                .contains("__fc_order")
        );
        assert!(check_names(&schema()).is_ok());
    }
}
