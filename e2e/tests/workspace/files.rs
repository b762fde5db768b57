//! What files look like and what they may be called.

use crate::repository::Files;

/// Names that say nothing about what is inside.
const VAGUE: [&str; 4] = ["common", "helpers", "misc", "utils"];

/// Parts of absolute paths that exist on one machine only. Split here, so that this file passes.
const MACHINE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// Lines of a Rust file, its tests aside, beyond which it should be split.
const LONG_LINES: usize = 600;

/// What the module doc of a longer file has to say, followed by the reason.
const LONG_REASON: &str = "Long because";

fn rust_files(files: &Files) -> impl Iterator<Item = (&String, &String)> {
    files.iter().filter(|(path, _)| path.ends_with(".rs"))
}

/// Rust files that do not start with `//!`.
pub(crate) fn without_module_doc(files: &Files) -> Vec<String> {
    rust_files(files)
        .filter(|(_, text)| !text.starts_with("//! "))
        .map(|(path, _)| path.clone())
        .collect()
}

/// Files and folders with a name of [`VAGUE`].
pub(crate) fn vague_names(files: &Files) -> Vec<String> {
    let is_vague = |part: &str| VAGUE.contains(&part.split('.').next().unwrap_or(part));
    files
        .keys()
        .filter(|path| path.split('/').any(is_vague))
        .cloned()
        .collect()
}

/// Lines with an absolute path of one machine.
pub(crate) fn machine_paths(files: &Files) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| !path.ends_with("go.sum")) {
        for (number, line) in text.lines().enumerate() {
            if MACHINE_PATHS
                .iter()
                .any(|needle| starts_a_path(line, needle))
            {
                breaches.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    breaches
}

/// Lines that a merge left behind.
pub(crate) fn conflict_marks(files: &Files) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, text) in files.iter() {
        for (number, line) in text.lines().enumerate() {
            if line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ") {
                breaches.push(format!("{path}:{}: {line}", number + 1));
            }
        }
    }
    breaches
}

/// Whether `needle` is in the line as the beginning of a path, not in the middle of one.
fn starts_a_path(line: &str, needle: &str) -> bool {
    line.match_indices(needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !(c.is_alphanumeric() || "._-}/".contains(c)))
    })
}

/// Rust files over [`LONG_LINES`] that give no reason.
pub(crate) fn too_long(files: &Files) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, text) in rust_files(files) {
        let lines = text
            .lines()
            .take_while(|line| line.trim() != "#[cfg(test)]")
            .count();
        let gives_reason = text
            .lines()
            .any(|line| line.starts_with("//!") && line.contains(LONG_REASON));
        if lines > LONG_LINES && !gives_reason {
            breaches.push(format!(
                "{path} has {lines} lines: split it, or say `{LONG_REASON} …` in its module doc"
            ));
        }
    }
    breaches
}

mod tests {
    use super::*;
    use crate::repository::sample;

    #[test]
    fn a_file_without_a_module_doc_is_found() {
        let files = sample(&[
            ("a/good.rs", "//! Says it.\nfn a() {}\n"),
            ("a/bad.rs", "// Says nothing.\nfn a() {}\n"),
            ("a/empty.rs", ""),
            ("notes.md", "no Rust\n"),
        ]);
        assert_eq!(without_module_doc(&files), ["a/bad.rs", "a/empty.rs"]);
    }

    #[test]
    fn a_vague_folder_or_file_is_found() {
        let files = sample(&[
            ("wal/src/utils.rs", ""),
            ("e2e/common/mod.rs", ""),
            ("docs/uncommon.md", ""),
            ("auth/misc/token.rs", ""),
        ]);
        let expected = [
            "auth/misc/token.rs",
            "e2e/common/mod.rs",
            "wal/src/utils.rs",
        ];
        assert_eq!(vague_names(&files), expected);
    }

    #[test]
    fn a_machine_path_is_found_and_a_path_that_only_contains_one_is_not() {
        let bad = format!("see {}main/x", MACHINE_PATHS[0]);
        let good = format!(
            "https://example.org{}x and frame{}",
            MACHINE_PATHS[0], "work/x"
        );
        let files = sample(&[("bad.md", &bad), ("good.md", &good)]);
        assert_eq!(machine_paths(&files), [format!("bad.md:1: {bad}")]);
    }

    #[test]
    fn what_a_merge_left_behind_is_found() {
        let text = format!("a\n{} HEAD\nb\n{} c\n", "<".repeat(7), ">".repeat(7));
        let files = sample(&[("a.md", &text), ("b.md", "<<<< a\n")]);
        assert_eq!(conflict_marks(&files).len(), 2);
    }

    #[test]
    fn a_long_file_needs_a_reason() {
        let code = "fn a() {}\n".repeat(LONG_LINES);
        let tests = format!(
            "//! Short.\n#[cfg(test)]\n{}",
            "fn a() {}\n".repeat(LONG_LINES)
        );
        let files = sample(&[
            ("long.rs", &format!("//! A file.\n{code}")),
            (
                "reason.rs",
                &format!("//! {LONG_REASON} of one table.\n{code}"),
            ),
            ("tests.rs", &tests),
        ]);
        let found = too_long(&files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("long.rs has 601 lines"), "{found:?}");
    }
}
