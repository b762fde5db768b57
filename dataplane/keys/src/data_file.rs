//! The version of data files: which Parquet files of tables this release can read.
//!
//! Each file has it in the key-value metadata of its footer, with the rest that it says of itself
//! (`docs/reference/data-files.md`).

use std::collections::HashMap;

/// The key of the version, among the metadata of a footer.
pub const FORMAT_KEY: &str = "flightcluster.format";

/// The version that is written, and the newest that is read.
pub const FORMAT: u32 = 1;

/// The key of the number of the table.
pub const TABLE_KEY: &str = "flightcluster.table_id";

/// A file was written by a newer release, in a way that this one does not know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a data file of the table with number {table} has format {found:?}, and this release reads formats up to \
     {FORMAT}: a newer release wrote it; start that release again"
)]
pub struct NewerFormat {
    /// What the file says of its format.
    pub found: String,
    /// What it says of its table.
    pub table: String,
}

/// Whether this release can read a file that says this of itself. One that does not say its format is
/// read as one of the first: no release has written such a file.
///
/// # Errors
/// [`NewerFormat`].
pub fn check_format(said: &HashMap<String, String>) -> Result<(), NewerFormat> {
    let Some(found) = said.get(FORMAT_KEY) else {
        return Ok(());
    };
    if found.parse().is_ok_and(|format: u32| format <= FORMAT) {
        return Ok(());
    }
    let table = said.get(TABLE_KEY);
    Err(NewerFormat {
        found: found.clone(),
        table: table.cloned().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn formats_up_to_the_present_one_are_read_and_no_others() {
        let of = |format: &str| {
            let pairs = [(FORMAT_KEY, format), (TABLE_KEY, "7")];
            check_format(&pairs.map(|(key, value)| (key.into(), value.into())).into())
        };
        assert_eq!(check_format(&HashMap::new()), Ok(()));
        assert_eq!(of(&FORMAT.to_string()), Ok(()));
        for later in [&*(FORMAT + 1).to_string(), "10", "1b", "", "-1"] {
            let error = of(later).unwrap_err().to_string();
            assert!(error.contains("number 7 has format"), "{later}: {error}");
            assert!(error.contains("newer release"), "{later}: {error}");
        }
    }
}
