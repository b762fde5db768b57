//! Table names as clients write them in path descriptors. Whether the table exists is for others.

use std::fmt;

/// The schema a table is in when the client names none.
pub const DEFAULT_SCHEMA: &str = "public";

/// A table as a path descriptor names it: `[database, table]` or `[database, schema, table]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TablePath {
    /// Database, which is the Flight SQL catalog.
    pub database: String,
    /// Schema inside the database; `public` when the client names none.
    pub schema: String,
    /// Table inside the schema.
    pub table: String,
}

/// Why a path does not name a table.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Neither two nor three segments.
    #[error(
        "the path descriptor has {found} segments; send [database, table] or \
         [database, schema, table]"
    )]
    Length {
        /// Number of segments received.
        found: usize,
    },
    /// A segment is empty.
    #[error("segment {position} of the path descriptor, the {name}, is empty; give it a name")]
    EmptySegment {
        /// Position, counted from 1.
        position: usize,
        /// What the segment names.
        name: &'static str,
    },
}

impl TablePath {
    /// Reads the segments of a path descriptor.
    ///
    /// - Errors: [`Error`] when there are neither two nor three segments, or one is empty.
    pub fn from_segments<S: AsRef<str>>(segments: &[S]) -> Result<Self, Error> {
        let (database, schema, table) = match segments {
            [database, table] => (database.as_ref(), DEFAULT_SCHEMA, table.as_ref()),
            [database, schema, table] => (database.as_ref(), schema.as_ref(), table.as_ref()),
            other => return Err(Error::Length { found: other.len() }),
        };
        let named = [(database, "database"), (schema, "schema"), (table, "table")];
        if let Some((_, name)) = named.into_iter().find(|(text, _)| text.is_empty()) {
            let position = match name {
                "database" => 1,
                "schema" => 2,
                _ => segments.len(),
            };
            return Err(Error::EmptySegment { position, name });
        }
        Ok(Self {
            database: database.into(),
            schema: schema.into(),
            table: table.into(),
        })
    }

    /// The full three-segment form.
    pub fn segments(&self) -> [&str; 3] {
        [&self.database, &self.schema, &self.table]
    }
}

impl fmt::Display for TablePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.database, self.schema, self.table)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn two_segments_name_a_table_of_the_public_schema_s3_1() {
        let path = TablePath::from_segments(&["weather", "hourly"]).unwrap();
        assert_eq!(path.segments(), ["weather", "public", "hourly"]);
        assert_eq!(path.to_string(), "weather.public.hourly");
    }

    #[test]
    fn three_segments_name_the_schema_s3_1() {
        let path = TablePath::from_segments(&["weather", "raw", "hourly"]).unwrap();
        assert_eq!(path.segments(), ["weather", "raw", "hourly"]);
    }

    #[test]
    fn any_other_length_names_both_accepted_forms_s3_1() {
        for segments in [&[][..], &["a"][..], &["a", "b", "c", "d"][..]] {
            let text = TablePath::from_segments(segments).unwrap_err().to_string();
            assert!(text.contains("[database, table]"), "{text}");
            assert!(text.contains("[database, schema, table]"), "{text}");
        }
    }

    #[test]
    fn an_empty_segment_is_named_by_position() {
        let error = TablePath::from_segments(&["d", ""]).unwrap_err();
        assert_eq!(
            error,
            Error::EmptySegment {
                position: 2,
                name: "table"
            }
        );
        let error = TablePath::from_segments(&["d", "", "t"]).unwrap_err();
        assert_eq!(
            error,
            Error::EmptySegment {
                position: 2,
                name: "schema"
            }
        );
    }
}
