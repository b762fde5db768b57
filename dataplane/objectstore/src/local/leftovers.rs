//! What a killed process leaves behind: files of uploads that never got their name.
//!
//! `LocalFileSystem` writes to `<name>#<number>` and renames at the end. Such files are never listed
//! as objects; after a crash they only take space.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::DurableLocal;

/// Uploads take seconds: one that was not written to for a day belongs to nobody.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// A file of an upload that has not been finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Where it is.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Time since it was last written to; zero when the clock went back.
    pub age: Duration,
}

impl DurableLocal {
    /// Lists unfinished uploads, those under way included. Walks the whole directory and blocks the
    /// thread meanwhile.
    ///
    /// - Errors: a directory can't be read. One that vanishes meanwhile is skipped.
    pub fn leftovers(&self) -> io::Result<Vec<Leftover>> {
        let mut found = Vec::new();
        walk(self.root(), SystemTime::now(), &mut found)?;
        Ok(found)
    }

    /// Reports abandoned uploads in the log, from a thread of its own: the walk may be long and
    /// nothing waits for it.
    pub(crate) fn log_leftovers(&self) {
        let store = self.clone();
        let walk = move || match store.leftovers() {
            Ok(leftovers) => report(store.root(), &leftovers),
            Err(error) => tracing::warn!(
                directory = %store.root().display(), %error, "can't look for abandoned uploads"
            ),
        };
        let spawned = std::thread::Builder::new()
            .name("leftovers".to_owned())
            .spawn(walk);
        if let Err(error) = spawned {
            tracing::warn!(%error, "can't start the search for abandoned uploads");
        }
    }
}

fn report(root: &Path, leftovers: &[Leftover]) {
    let abandoned: Vec<_> = leftovers
        .iter()
        .filter(|leftover| leftover.age >= ABANDONED_AFTER)
        .collect();
    if let Some(example) = abandoned.first() {
        tracing::warn!(
            directory = %root.display(),
            files = abandoned.len(),
            bytes = abandoned.iter().map(|leftover| leftover.size_bytes).sum::<u64>(),
            example = %example.path.display(),
            "abandoned uploads take space and may be deleted"
        );
    }
}

fn walk(directory: &Path, now: SystemTime, found: &mut Vec<Leftover>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // Neither follows symbolic links: they are not ours.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), now, found)?;
        } else if kind.is_file() && is_staged(&entry.file_name().to_string_lossy()) {
            let metadata = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            let age = now.duration_since(metadata.modified()?).unwrap_or_default();
            found.push(Leftover {
                path: entry.path(),
                size_bytes: metadata.len(),
                age,
            });
        }
    }
    Ok(())
}

/// The rule of `LocalFileSystem` for names of uploads: `#` and digits at the end.
fn is_staged(name: &str) -> bool {
    name.split_once('#').is_some_and(|(_, number)| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}
