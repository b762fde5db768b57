//! Options of tables, and of databases for tables that do not say: names and texts. The catalog keeps
//! them; [`Table::retention`] is what one of them means.

use std::collections::BTreeMap;
use std::time::Duration;

use flightcluster_config::parse_duration;
use serde::{Deserialize, Serialize};

use crate::{Seen, Table, TableName};

/// The option that says how long rows are kept.
pub const RETENTION: &str = "retention";

/// The value of [`RETENTION`] for rows that are kept for ever.
pub const FOREVER: &str = "forever";

/// The option of a table that names the columns whose values its files have Bloom filters of.
pub const BLOOM_FILTER: &str = "bloom_filter";

/// What has options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptionsOf {
    /// A database: for all of its tables that do not say themselves.
    Database(String),
    /// A table.
    Table(TableName),
}

/// Options to be set, and those (`None`) to be removed; others stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetOptions {
    /// Of what.
    pub of: OptionsOf,
    /// The options by name.
    pub changes: BTreeMap<String, Option<String>>,
    /// With [`OptionsOf::Table`]: what the caller saw under this name. Those of anything else that has the
    /// name by now stay as they are: the table that was seen is not found
    /// ([`Error::TableNotFound`](crate::Error::TableNotFound)), or another came where there was none
    /// ([`Error::TableReplaced`](crate::Error::TableReplaced)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// Names this request, at random: a repeat of one that took effect does nothing, however late it arrives. Without
    /// it a repeat undoes what was set in between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl Table {
    /// An option of the table, or else of its database.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        let own = self.options.get(name);
        own.or_else(|| self.database_options.get(name))
            .map(String::as_str)
    }

    /// The columns whose values its files have Bloom filters of, from when the option was set on.
    pub fn bloom_filters(&self) -> impl Iterator<Item = &str> {
        let text = self.options.get(BLOOM_FILTER).map_or("", String::as_str);
        column_names(text)
    }

    /// How long rows are kept, by their time; `None` for ever.
    #[must_use]
    pub fn retention(&self) -> Option<Duration> {
        // What can't be read was not written by this release, and keeps rows.
        parse_retention(self.option(RETENTION)?).ok().flatten()
    }

    /// Rows with a time before this are expired at `now`, both in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn expired_before(&self, now_nanos: i64) -> Option<i64> {
        let nanos = i64::try_from(self.retention()?.as_nanos()).unwrap_or(i64::MAX);
        Some(now_nanos.saturating_sub(nanos))
    }
}

/// Reads a value of [`RETENTION`]: a time such as `30d`, or [`FOREVER`].
///
/// # Errors
/// What is wrong with it.
pub fn parse_retention(text: &str) -> Result<Option<Duration>, String> {
    if text.eq_ignore_ascii_case(FOREVER) {
        return Ok(None);
    }
    match parse_duration(text) {
        Ok(time) if time.is_zero() => Err(format!(
            "a time of 0 would remove every row; use '{FOREVER}' to keep them, DELETE to remove them"
        )),
        Ok(time) => Ok(Some(time)),
        Err(error) => Err(format!("{error}; or '{FOREVER}'")),
    }
}

/// The names in a value of [`BLOOM_FILTER`]: with commas between them.
pub fn column_names(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::{SchemaBytes, SchemaVersion, TableId};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn table(own: Option<&str>, of_database: Option<&str>) -> Table {
        let options = |value: Option<&str>| {
            let value = value.map(|value| (RETENTION.to_owned(), value.to_owned()));
            value.into_iter().collect::<BTreeMap<_, _>>()
        };
        Table {
            id: TableId(1),
            name: TableName::public("d", "t"),
            schema: SchemaBytes(Vec::new()),
            schema_version: SchemaVersion(1),
            options: options(own),
            database_options: options(of_database),
            created_at_millis: 0,
        }
    }

    #[test]
    fn a_table_says_more_than_its_database() {
        for (own, of_database, kept) in [
            (None, None, None),
            (Some("1d"), None, Some(DAY)),
            (None, Some("2d"), Some(2 * DAY)),
            (Some("1d"), Some("2d"), Some(DAY)),
            (Some("forever"), Some("2d"), None),
            (Some("what"), None, None),
        ] {
            assert_eq!(
                table(own, of_database).retention(),
                kept,
                "{own:?} {of_database:?}"
            );
        }
    }

    #[test]
    fn the_first_moment_that_is_kept_is_so_long_ago() {
        let day = DAY.as_nanos() as i64;
        assert_eq!(
            table(Some("1d"), None).expired_before(3 * day + 7),
            Some(2 * day + 7)
        );
        assert_eq!(
            table(Some("1d"), None).expired_before(i64::MIN),
            Some(i64::MIN)
        );
        assert_eq!(
            table(Some("200000d"), None).expired_before(0),
            Some(-i64::MAX)
        );
        assert_eq!(table(None, None).expired_before(0), None);
    }

    #[test]
    fn columns_are_named_with_commas_between_them() {
        let names = |text| column_names(text).collect::<Vec<_>>();
        assert_eq!(names("trace, user id ,x"), ["trace", "user id", "x"]);
        assert!(names(" , ").is_empty());
        let mut table = table(None, None);
        assert_eq!(table.bloom_filters().count(), 0);
        let value = ("bloom_filter".to_owned(), "trace".to_owned());
        table.database_options.extend([value.clone()]);
        assert_eq!(
            table.bloom_filters().count(),
            0,
            "it is no option of a database"
        );
        table.options.extend([value]);
        assert_eq!(table.bloom_filters().collect::<Vec<_>>(), ["trace"]);
    }

    #[test]
    fn a_time_that_means_nothing_is_refused_with_the_cure() {
        for text in ["", "0", "0s", "30", "x", "-1d"] {
            let problem = parse_retention(text).unwrap_err();
            assert!(problem.contains("'forever'"), "{text}: {problem}");
        }
        assert_eq!(parse_retention("Forever"), Ok(None));
        assert_eq!(parse_retention("36h"), Ok(Some(DAY * 3 / 2)));
    }
}
