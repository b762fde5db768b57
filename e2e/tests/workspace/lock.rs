//! The lock file of the Python packages: every package that is asked for, with a version and hashes.

/// Packages of `asked` that `locked` does not pin, and pins without a hash.
pub(crate) fn unlocked(asked: &str, locked: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    for line in asked
        .lines()
        .map(str::trim)
        .filter(|line| is_requirement(line))
    {
        let (name, version) = line.split_once("==").unwrap_or((line, ""));
        let pin = format!("{name}=={version}");
        let is_pinned = |each: &str| each.starts_with(&pin) && ends_after(each, &pin, version);
        if !locked.lines().any(is_pinned) {
            breaches.push(format!("{line} is not locked: run `make lock-clients`"));
        }
    }
    let mut lines = locked.lines().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().map_or("", |next| next.trim());
        if is_requirement(line) && !next.starts_with("--hash=") {
            breaches.push(format!("{line} has no hash"));
        }
    }
    breaches
}

fn is_requirement(line: &str) -> bool {
    line.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Without a version any will do; with one, the pin ends where the version ends.
fn ends_after(line: &str, pin: &str, version: &str) -> bool {
    version.is_empty() || line[pin.len()..].starts_with([' ', ';']) || line.len() == pin.len()
}

mod tests {
    use super::*;

    const LOCKED: &str =
        "pyarrow==26.0.1 \\\n    --hash=sha256:1\npytest==9.2.0 \\\n    --hash=sha256:2\n";

    #[test]
    fn a_locked_package_passes() {
        assert!(unlocked("# why\npyarrow==26.0.1\npytest\n", LOCKED).is_empty());
    }

    #[test]
    fn a_package_that_is_missing_or_has_another_version_is_found() {
        let found = unlocked("pyarrow==26.0\nduckdb\n", LOCKED);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_pin_without_a_hash_is_found() {
        let found = unlocked(
            "",
            "pyarrow==26.0.1\npytest==9.2.0 \\\n    --hash=sha256:2\n",
        );
        assert_eq!(found, ["pyarrow==26.0.1 has no hash"]);
    }
}
