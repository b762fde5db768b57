//! What the SQL of this engine knows by name, for clients that ask before they write a statement.

use datafusion::execution::session_state::SessionState;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;

/// Names of functions, each list sorted and without repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Functions {
    /// One value per row.
    pub scalar: Vec<String>,
    /// One value per group.
    pub aggregate: Vec<String>,
    /// One value per row of a window.
    pub window: Vec<String>,
    /// Used in `FROM`.
    pub table: Vec<String>,
}

impl Functions {
    pub(crate) fn of(state: &SessionState) -> Self {
        Self {
            scalar: sorted(state.scalar_functions().keys()),
            aggregate: sorted(state.aggregate_functions().keys()),
            window: sorted(state.window_functions().keys()),
            table: sorted(state.table_functions().keys()),
        }
    }
}

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = names.cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The words the SQL parser knows, sorted. Most of them may still be used as names.
#[must_use]
pub fn sql_keywords() -> Vec<&'static str> {
    ALL_KEYWORDS.to_vec()
}
