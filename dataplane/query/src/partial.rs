//! Partial answers: what an answer lacks, for a caller who would rather have the rows that can be reached
//! than none.
//!
//! # Guarantees
//! - Only where it would else be [`Error::IngesterUnavailable`] or the end of the query's time: an ingester
//!   that can't be reached, or is silent too long, is left out with all its fresh rows of a table, never with
//!   some of them. One that no longer has the rows is asked again with a new snapshot, at least once.
//! - Rows in files are always there.
//! - Never of a table with a primary key: the rows that can be reached would show an older row of a key as
//!   its newest, and nothing in them tells which.

use std::collections::{BTreeMap, BTreeSet};

use flightcluster_catalog::{Ingester, IngesterId, TableName};
use tracing::warn;

use crate::Error;
use crate::past::time_text;
use crate::ports::RecentRowsError;
use crate::sort::Sorter;

/// An ingester whose fresh rows an answer lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub ingester: String,
    /// When the catalog heard of it last, milliseconds since the Unix epoch.
    pub heard_of_at_millis: i64,
    /// The tables of the answer that it may have rows of in no file, by full name.
    pub tables: BTreeSet<TableName>,
}

/// The fresh rows of one table that one ingester did not give.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) table: TableName,
    pub(crate) has_key: bool,
    pub(crate) ingester: Ingester,
    pub(crate) problem: RecentRowsError,
}

impl Lost {
    /// Sorts out what no repeat cures.
    pub(crate) fn retryable(self, sorter: Sorter) -> Result<Self, Error> {
        match self.problem {
            RecentRowsError::BadAnswer { source, .. } => Err(Error::IngesterAnswer {
                ingester: self.ingester.name,
                source,
            }),
            RecentRowsError::MemoryExhausted { source } => {
                Err(sorter.sort("fetching fresh rows", *source))
            }
            RecentRowsError::TooOld { .. } | RecentRowsError::Unreachable { .. } => Ok(self),
        }
    }

    /// Why there is no answer.
    pub(crate) fn into_error(self, partial: bool) -> Error {
        let Self {
            table,
            has_key,
            ingester,
            problem,
        } = self;
        let keyed_table = (partial && has_key).then(|| table.to_string());
        Error::IngesterUnavailable {
            heard_of: time_text(ingester.seen_at_millis),
            ingester: ingester.name,
            url: ingester.url,
            keyed_table,
            source: Box::new(problem),
        }
    }
}

/// What an answer lacks that goes on without these rows; or why it must not.
pub(crate) fn without(mut lost: Vec<Lost>) -> Result<Vec<Missing>, Box<Lost>> {
    // What an ingester that answers has no longer is in a newer file: that can be reached.
    let may_lack =
        |lost: &Lost| !lost.has_key && matches!(lost.problem, RecentRowsError::Unreachable { .. });
    if let Some(place) = lost.iter().position(|lost| !may_lack(lost)) {
        return Err(Box::new(lost.swap_remove(place)));
    }
    let mut missing: BTreeMap<IngesterId, Missing> = BTreeMap::new();
    for lost in lost {
        let Lost {
            table,
            ingester,
            problem,
            ..
        } = lost;
        let known = missing.entry(ingester.id).or_insert_with(|| {
            let name = ingester.name;
            warn!(ingester = name, error = %problem, "answering without its fresh rows, as asked");
            Missing {
                ingester: name,
                heard_of_at_millis: ingester.seen_at_millis,
                tables: BTreeSet::new(),
            }
        });
        known.tables.insert(table);
    }
    Ok(missing.into_values().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use flightcluster_catalog::{Epoch, IngesterState, SequenceNumber};

    use super::*;

    fn lost(id: u64, table: &str, problem: RecentRowsError) -> Lost {
        Lost {
            table: TableName::public("d", table),
            has_key: false,
            ingester: Ingester {
                id: IngesterId(id),
                name: format!("i-{id}"),
                url: String::new(),
                epoch: Epoch(1),
                state: IngesterState::Active,
                changed_at_millis: 1,
                seen_at_millis: 2,
            },
            problem,
        }
    }

    fn unreachable() -> RecentRowsError {
        RecentRowsError::Unreachable {
            ingester: String::new(),
            url: String::new(),
            source: "refused".into(),
        }
    }

    #[test]
    fn an_ingester_is_named_once_with_all_its_tables_and_only_if_it_is_out_of_reach() {
        let away = [(1, "t"), (2, "t"), (1, "a")].map(|(id, table)| lost(id, table, unreachable()));
        let missing = without(away.into()).unwrap();
        let tables = |tables: &[&str]| -> BTreeSet<TableName> {
            tables
                .iter()
                .map(|table| TableName::public("d", *table))
                .collect()
        };
        assert_eq!(missing.len(), 2);
        assert_eq!(missing[0].ingester, "i-1");
        assert_eq!(missing[0].tables, tables(&["a", "t"]));
        assert_eq!(missing[1].tables, tables(&["t"]));
        assert_eq!(missing[1].heard_of_at_millis, 2);

        // It answers: its rows are in a newer file.
        let too_old = RecentRowsError::TooOld {
            ingester: String::new(),
            after: SequenceNumber(7),
        };
        let kept = without(vec![lost(1, "t", unreachable()), lost(2, "t", too_old)]);
        assert_eq!(kept.unwrap_err().ingester.name, "i-2");
    }
}
