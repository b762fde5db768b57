//! Relative links of Markdown files.

use std::path::{Component, Path, PathBuf};

use crate::repository::Files;

/// Links to files that are not there. Links to the web and inside a page are not followed.
pub(crate) fn broken(files: &Files) -> Vec<String> {
    let mut breaches = Vec::new();
    for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".md")) {
        let folder = Path::new(path).parent().unwrap_or(Path::new(""));
        for link in targets(text) {
            let target = resolve(&folder.join(&link));
            if !exists(&target, files) {
                breaches.push(format!("{path}: {link}"));
            }
        }
    }
    breaches
}

/// The files that `[text](target)` names.
fn targets(text: &str) -> Vec<String> {
    let ends = text.match_indices("](").map(|(at, _)| &text[at + 2..]);
    let links = ends.filter_map(|rest| rest.split([')', '\n']).next());
    links
        .filter(|link| {
            !link.contains("://") && !link.starts_with('#') && !link.starts_with("mailto:")
        })
        .map(|link| link.split('#').next().unwrap_or(link).to_owned())
        .collect()
}

fn resolve(path: &Path) -> String {
    let mut resolved = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                resolved.pop();
            }
            Component::CurDir => {}
            other => resolved.push(other),
        }
    }
    resolved.to_string_lossy().into_owned()
}

/// A file, a folder with files, or a file that is not text (which the listing leaves out).
fn exists(target: &str, files: &Files) -> bool {
    let folder = format!("{}/", target.trim_end_matches('/'));
    files.contains_key(target)
        || files.keys().any(|path| path.starts_with(&folder))
        || Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(target)
            .exists()
}

mod tests {
    use super::*;
    use crate::repository::sample;

    #[test]
    fn a_link_to_nothing_is_found() {
        let files = sample(&[
            (
                "docs/a.md",
                "[b](b.md) [up](../README.md#top) [code](decisions/) [no](gone.md)",
            ),
            ("docs/b.md", "[self](#x) [web](https://example.org/gone.md)"),
            ("docs/decisions/one.md", ""),
            ("README.md", ""),
        ]);
        assert_eq!(broken(&files), ["docs/a.md: gone.md"]);
    }
}
