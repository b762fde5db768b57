//! A disk in memory that tells the order of operations, fails when told, holds a sync back, and
//! loses what was not synced when it crashes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::disk::{DirectoryLock, Disk, SegmentFile, Space};

/// Bytes that reach the disk together when the machine stops in the middle of a write.
const PAGE_BYTES: usize = 16;

#[derive(Debug, Clone, Default)]
pub(crate) struct FakeDisk(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<PathBuf, FakeFile>,
    log: Vec<String>,
    failures: VecDeque<Failure>,
    /// Operations that begin so wait.
    held: Option<&'static str>,
    /// Of an append that fails: so many bytes at its end are not written.
    missing_bytes: usize,
    /// The names of open files: they go with the file.
    open: Vec<PathBuf>,
    /// Bytes of the volume; unlimited when 0.
    volume_bytes: u64,
    locked: bool,
}

#[derive(Debug)]
struct Failure {
    operation: &'static str,
    /// What has to be done directly before.
    after: &'static str,
    kind: io::ErrorKind,
}

impl Failure {
    fn is_due(&self, operation: &str, name: &str, before: Option<&String>) -> bool {
        let named = format!("{operation} {name}");
        let matches = match self.operation.contains(' ') {
            true => named.starts_with(self.operation),
            false => self.operation == operation,
        };
        matches && before.map_or("", |entry| entry).starts_with(self.after)
    }
}

#[derive(Debug, Clone, Default)]
struct FakeFile {
    data: Vec<u8>,
    /// What the disk holds for sure; `None` before the first sync of file and directory.
    synced: Option<Vec<u8>>,
    data_synced: Vec<u8>,
    /// It took the place of another file, and the directory was not synced since: the disk has all of the one or
    /// all of the other.
    replaced: bool,
    /// Bytes written, but a sync of them failed: no later sync writes them, although they can be read.
    lost: BTreeSet<usize>,
}

impl FakeFile {
    /// What a sync puts on the disk.
    fn written(&self) -> Vec<u8> {
        let mut written = self.data.clone();
        for (at, byte) in written.iter_mut().enumerate() {
            if self.lost.contains(&at) {
                *byte = self.data_synced.get(at).copied().unwrap_or(0);
            }
        }
        written
    }

    fn lose_what_is_not_synced(&mut self) {
        let changed = |at: &usize| self.data_synced.get(*at) != Some(&self.data[*at]);
        self.lost.extend((0..self.data.len()).filter(changed));
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.data.resize(self.data.len().max(end), 0);
        self.data[at..end].copy_from_slice(bytes);
        self.lost.retain(|lost| !(at..end).contains(lost));
    }
}

impl FakeDisk {
    /// The next operation called `operation` fails with `kind`, or the next on a file whose name begins as
    /// told: `"sync spare-"`.
    pub(crate) fn fail(&self, operation: &'static str, kind: io::ErrorKind) {
        self.fail_after("", operation, kind);
    }

    /// As [`Self::fail`], for an operation that comes directly after one that begins like `after`.
    pub(crate) fn fail_after(
        &self,
        after: &'static str,
        operation: &'static str,
        kind: io::ErrorKind,
    ) {
        let failure = Failure {
            operation,
            after,
            kind,
        };
        self.0.state.lock().unwrap().failures.push_back(failure);
    }

    /// Gives the volume a size.
    pub(crate) fn set_volume(&self, bytes: u64) {
        self.0.state.lock().unwrap().volume_bytes = bytes;
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.0.state.lock().unwrap().log.clone()
    }

    pub(crate) fn hold_syncs(&self, held: bool) {
        self.hold(held.then_some("sync "));
    }

    /// Operations that begin so wait, such as `"rename 0"`.
    pub(crate) fn hold(&self, operations: Option<&'static str>) {
        self.0.state.lock().unwrap().held = operations;
        self.0.changed.notify_all();
    }

    /// Waits until the log satisfies `wanted`; fails when that takes far too long.
    pub(crate) fn wait_for(&self, wanted: impl Fn(&[String]) -> bool) {
        let state = self.0.state.lock().unwrap();
        let limit = Duration::from_secs(20);
        let waiting = |state: &mut State| !wanted(&state.log);
        let (state, waited) = self
            .0
            .changed
            .wait_timeout_while(state, limit, waiting)
            .unwrap();
        let log = state.log.clone();
        drop(state);
        assert!(
            !waited.timed_out(),
            "the disk was not used as expected: {log:?}"
        );
    }

    /// Bytes of all files.
    pub(crate) fn used_bytes(&self) -> u64 {
        let state = self.0.state.lock().unwrap();
        state
            .files
            .values()
            .map(|file| file.data.len() as u64)
            .sum()
    }

    pub(crate) fn content(&self, file: &Path) -> Vec<u8> {
        self.0.state.lock().unwrap().files[file].data.clone()
    }

    /// The segments.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let state = self.0.state.lock().unwrap();
        let mut files: Vec<_> = state.files.keys().cloned().collect();
        files.retain(|file| file.extension().is_some_and(|kind| kind == "wal"));
        files
    }

    /// A disk with the same files, one of them replaced.
    pub(crate) fn with(&self, file: &Path, data: Vec<u8>) -> Self {
        let copy = self.copy();
        copy.0
            .state
            .lock()
            .unwrap()
            .files
            .get_mut(file)
            .unwrap()
            .data = data;
        copy
    }

    /// Replaces what is in a file, behind the back of who has it open.
    pub(crate) fn overwrite(&self, file: &Path, data: Vec<u8>) {
        let mut state = self.0.state.lock().unwrap();
        state.files.get_mut(file).unwrap().data = data;
    }

    pub(crate) fn without(&self, file: &Path) -> Self {
        let copy = self.copy();
        copy.0.state.lock().unwrap().files.remove(file);
        copy
    }

    /// What a fresh process finds: everything written, synced or not.
    pub(crate) fn copy(&self) -> Self {
        let files = self.0.state.lock().unwrap().files.clone();
        let copy = Self::default();
        copy.0.state.lock().unwrap().files = files;
        copy
    }

    /// What is left after a power cut: synced bytes for sure, of the others those pages for which
    /// `kept` says so.
    pub(crate) fn after_power_cut(&self, mut kept: impl FnMut() -> bool) -> Self {
        let state = self.0.state.lock().unwrap();
        let after = Self::default();
        let mut files = BTreeMap::new();
        for (path, file) in &state.files {
            let is_old = file.replaced && !kept();
            let known = match file.replaced && !is_old {
                true => Some(file.data_synced.clone()),
                false => file.synced.clone(),
            };
            let Some(synced) = known.or_else(|| kept().then(Vec::new)) else {
                continue;
            };
            let mut data = synced.clone();
            let written = if is_old { &synced } else { &file.data };
            for (index, page) in written.chunks(PAGE_BYTES).enumerate() {
                let start = index * PAGE_BYTES;
                let end = start + page.len();
                if synced.get(start..end) != Some(page) && kept() {
                    data.resize(data.len().max(end), 0);
                    data[start..end].copy_from_slice(page);
                }
            }
            if written.len() < synced.len() && kept() {
                data.truncate(written.len());
            }
            let (copy, data_synced) = (data.clone(), data.clone());
            files.insert(
                path.clone(),
                FakeFile {
                    data,
                    synced: Some(copy),
                    data_synced,
                    replaced: false,
                    lost: BTreeSet::new(),
                },
            );
        }
        after.0.state.lock().unwrap().files = files;
        after
    }

    fn open(&self, file: &Path) -> Box<dyn SegmentFile> {
        let mut state = self.0.state.lock().unwrap();
        state.open.push(file.to_owned());
        Box::new(OpenFake {
            disk: self.clone(),
            number: state.open.len() - 1,
            written: 0,
        })
    }

    fn run<T>(
        &self,
        operation: &'static str,
        path: &Path,
        action: impl FnOnce(&mut State) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut state = self.0.state.lock().unwrap();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        state.log.push(format!("{operation} {name}"));
        self.0.changed.notify_all();
        let named = format!("{operation} {name}");
        while state.held.is_some_and(|held| named.starts_with(held)) {
            state = self.0.changed.wait(state).unwrap();
        }
        let before = state.log.len().checked_sub(2).map(|at| &state.log[at]);
        let due = |failure: &Failure| failure.is_due(operation, &name, before);
        if state.failures.front().is_some_and(due) {
            let Failure { kind, .. } = state.failures.pop_front().unwrap();
            if operation == "sync" {
                let file = state.files.get_mut(path).unwrap();
                file.lose_what_is_not_synced();
            }
            if operation == "append" {
                // Most of it is written all the same.
                state.missing_bytes = 3;
                let _ = action(&mut state);
                state.missing_bytes = 0;
            }
            return Err(kind.into());
        }
        let result = action(&mut state);
        state.log.push(format!("{operation} {name} done"));
        self.0.changed.notify_all();
        result
    }
}

struct Lock(Arc<Inner>);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().locked = false;
    }
}

impl Disk for FakeDisk {
    fn create_directory(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<DirectoryLock>> {
        let mut state = self.0.state.lock().unwrap();
        if std::mem::replace(&mut state.locked, true) {
            return Ok(None);
        }
        Ok(Some(Box::new(Lock(Arc::clone(&self.0)))))
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        let state = self.0.state.lock().unwrap();
        let here = state
            .files
            .keys()
            .filter(|path| path.parent() == Some(directory));
        Ok(here
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect())
    }

    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        Ok(self.content(file))
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        self.run("create", file, |state| {
            assert!(
                state
                    .files
                    .insert(file.to_owned(), FakeFile::default())
                    .is_none()
            );
            Ok(())
        })?;
        Ok(self.open(file))
    }

    fn reopen(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        self.run("reopen", file, |state| {
            assert!(state.files.contains_key(file));
            Ok(())
        })?;
        Ok(self.open(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.run("rename", from, |state| {
            let mut file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            // Until the directory is synced the name may give the file it had before, if any.
            file.synced = state.files.get(to).and_then(|old| old.synced.clone());
            file.replaced = file.synced.is_some();
            state.files.insert(to.to_owned(), file);
            let open = state.open.iter_mut().filter(|name| *name == from);
            open.for_each(|name| to.clone_into(name));
            Ok(())
        })
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.run("remove", file, |state| {
            let removed = state.files.remove(file);
            removed
                .map(drop)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let state = self.0.state.lock().unwrap();
        let used: usize = state.files.values().map(|file| file.data.len()).sum();
        let total_bytes = match state.volume_bytes {
            0 => u64::MAX / 2,
            bytes => bytes,
        };
        Ok(Space {
            total_bytes,
            free_bytes: total_bytes.saturating_sub(used as u64),
        })
    }

    fn sync_directory(&self, directory: &Path) -> io::Result<()> {
        self.run("sync_directory", directory, |state| {
            for file in state.files.values_mut() {
                file.synced = Some(file.data_synced.clone());
                file.replaced = false;
            }
            Ok(())
        })
    }
}

struct OpenFake {
    disk: FakeDisk,
    number: usize,
    written: usize,
}

impl OpenFake {
    fn run(
        &self,
        operation: &'static str,
        action: impl FnOnce(&mut FakeFile, usize),
    ) -> io::Result<()> {
        let path = self.disk.0.state.lock().unwrap().open[self.number].clone();
        self.disk.run(operation, &path, |state| {
            let missing = state.missing_bytes;
            action(state.files.get_mut(&path).unwrap(), missing);
            Ok(())
        })
    }
}

impl OpenFake {
    /// Whether the volume takes so many more bytes, where the file has none yet.
    fn check_room(&self, bytes: usize) -> io::Result<()> {
        let used = self.disk.used_bytes();
        let state = self.disk.0.state.lock().unwrap();
        let length = state.files[&state.open[self.number]].data.len();
        let more = (self.written + bytes).saturating_sub(length) as u64;
        match state.volume_bytes {
            0 => Ok(()),
            volume if used + more <= volume || more == 0 => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

impl SegmentFile for OpenFake {
    fn append(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_vec()).collect();
        self.check_room(bytes.len())?;
        self.run("append", |file, missing| {
            file.write(self.written, &bytes[..bytes.len() - missing]);
        })?;
        self.written += bytes.len();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.run("sync", |file, _| {
            file.data_synced = file.written();
            if let Some(synced) = &mut file.synced {
                synced.clone_from(&file.data_synced);
            }
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.run("truncate", |file, _| file.data.resize(length as usize, 0))?;
        self.written = length as usize;
        Ok(())
    }
}
