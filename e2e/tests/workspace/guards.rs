//! The invariants of docs/ARCHITECTURE.md name the tests that guard them: those have to exist.
//!
//! A guard is written as `Guarded by` with the names of tests in backticks in the same line.

use crate::repository::Files;

const MARK: &str = "Guarded by";

/// Names of the tests that a page names.
pub(crate) fn named(page: &str) -> Vec<String> {
    let lines = page.lines().filter_map(|line| line.split_once(MARK));
    lines
        .flat_map(|(_, rest)| rest.split('`').skip(1).step_by(2))
        .map(last_part)
        .collect()
}

/// `crate::module::test` and `file.py::test` are both about `test`.
fn last_part(name: &str) -> String {
    name.rsplit("::").next().unwrap_or(name).to_owned()
}

/// The named tests that no file defines.
pub(crate) fn missing(page: &str, files: &Files) -> Vec<String> {
    let is_defined = |name: &String| {
        let (rust, python) = (format!("fn {name}("), format!("def {name}("));
        files
            .values()
            .any(|text| text.contains(&rust) || text.contains(&python))
    };
    named(page)
        .into_iter()
        .filter(|name| !is_defined(name))
        .collect()
}

mod tests {
    use super::*;
    use crate::repository::sample;

    const PAGE: &str = "\
1. Durable first. Guarded by `wal::tests::acknowledged_is_durable`, `test_x.py::test_kill_9`.
2. Something else with `code` in it.
3. Another. Guarded by `gone`.
";

    #[test]
    fn the_names_of_tests_are_read() {
        assert_eq!(
            named(PAGE),
            ["acknowledged_is_durable", "test_kill_9", "gone"]
        );
    }

    #[test]
    fn a_test_that_does_not_exist_is_found() {
        let files = sample(&[
            ("wal.rs", "    async fn acknowledged_is_durable() {}"),
            ("test_x.py", "def test_kill_9(server):"),
        ]);
        assert_eq!(missing(PAGE, &files), ["gone"]);
    }
}
