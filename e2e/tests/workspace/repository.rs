//! The repository as data: what `cargo metadata` says, and the text of every file git knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Text of each file by its path from the root, with `/` on every system.
pub(crate) type Files = BTreeMap<String, String>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Needs no network: the build before has fetched what the lock file names for this platform.
pub(crate) fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let version = String::from_utf8(output(Command::new(&cargo).arg("-vV"))).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version=1", "--offline", "--locked"]);
    command.args(["--filter-platform", host]);
    serde_json::from_slice(&output(&mut command)).unwrap()
}

/// Files that are tracked or would be; binary ones are left out.
pub(crate) fn text_files() -> Files {
    let mut command = Command::new("git");
    command.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listing = String::from_utf8(output(&mut command)).unwrap();
    let mut files = Files::new();
    for path in listing.split('\0').filter(|path| !path.is_empty()) {
        // A file that is deleted but not yet committed is still listed.
        let Ok(bytes) = std::fs::read(root().join(path)) else {
            continue;
        };
        if let Ok(text) = String::from_utf8(bytes) {
            files.insert(path.to_owned(), text);
        }
    }
    assert!(
        files.len() > 50,
        "git listed only {} text files",
        files.len()
    );
    files
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.current_dir(root()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {error}");
    output.stdout
}

/// Files for the unit tests of a rule.
#[cfg(test)]
pub(crate) fn sample(files: &[(&str, &str)]) -> Files {
    files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
        .collect()
}
