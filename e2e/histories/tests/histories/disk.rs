//! A disk in memory that keeps apart what is written and what is synced.
//!
//! - A process that is killed leaves everything it has written: the page cache outlives it.
//! - A power cut leaves what was synced, and of the rest any pages, any lengths and any directory
//!   entries, as chance has it.
//! - A sync that fails may have written any of the pages, and the next one does not write them again
//!   (as Linux does it). This process and the next ones see them all until the power is cut.
//! - A full disk takes a part of an append.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use flightcluster_wal::{DirectoryLock, Disk, SegmentFile, Space};
use parking_lot::Mutex;
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::broken::Broken;
use crate::life::{Life, Port, Trouble};

/// Bytes that reach the disk together. Small, because the records of a history are.
const PAGE_BYTES: usize = 64;

/// The disk of one node; it outlives the processes on it.
#[derive(Debug, Default)]
pub(crate) struct Volume(Mutex<Content>);

#[derive(Debug, Default, Clone)]
struct Content {
    files: BTreeMap<u64, File>,
    names: BTreeMap<String, u64>,
    /// What the directory says after a power cut.
    synced_names: BTreeMap<String, u64>,
    next: u64,
    locked: bool,
    /// It was taken away from the process that uses it.
    detached: bool,
}

#[derive(Debug, Default, Clone)]
struct File {
    data: Vec<u8>,
    synced: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl File {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = at + bytes.len();
        self.data.resize(self.data.len().max(end), 0);
        self.data[at..end].copy_from_slice(bytes);
        self.dirty.extend(at / PAGE_BYTES..=(end - 1) / PAGE_BYTES);
    }

    fn truncate(&mut self, length: usize) {
        self.data.truncate(length);
        self.dirty.insert(length / PAGE_BYTES);
    }

    /// Writes those dirty pages that `kept` says. All count as written then, as after a failed sync,
    /// unless they `stay_dirty`, as when the process ended in the middle.
    fn write_back(&mut self, stay_dirty: bool, mut kept: impl FnMut() -> bool) {
        let length = if self.dirty.is_empty() || kept() {
            self.data.len()
        } else {
            self.synced.len()
        };
        self.synced.resize(length, 0);
        for page in std::mem::take(&mut self.dirty) {
            let start = page * PAGE_BYTES;
            let end = (start + PAGE_BYTES).min(self.data.len()).min(length);
            if start < end && kept() {
                self.synced[start..end].copy_from_slice(&self.data[start..end]);
            }
            if stay_dirty {
                self.dirty.insert(page);
            }
        }
    }
}

impl Volume {
    /// Takes the disk away: whoever uses it gets errors from now on.
    pub(crate) fn detach(&self) {
        self.0.lock().detached = true;
    }

    /// What a process finds that starts after the one before was killed.
    pub(crate) fn after_kill(&self) -> Self {
        let mut content = self.0.lock().clone();
        content.locked = false;
        Self(Mutex::new(content))
    }

    /// What is left after a power cut.
    pub(crate) fn after_power_cut(&self, chance: &mut StdRng) -> Self {
        let mut content = self.0.lock().clone();
        // Mostly all or nothing: those are the common cases. Sometimes a mixture.
        let share = [0.0, 0.0, 0.5, 0.9, 1.0][chance.random_range(0..5)];
        let all: BTreeSet<String> = content
            .names
            .keys()
            .chain(content.synced_names.keys())
            .cloned()
            .collect();
        let mut names = BTreeMap::new();
        for name in all {
            let from = if chance.random_bool(share) {
                &content.names
            } else {
                &content.synced_names
            };
            if let Some(file) = from.get(&name) {
                names.insert(name, *file);
            }
        }
        for file in content.files.values_mut() {
            file.write_back(false, || chance.random_bool(share));
            file.data = file.synced.clone();
        }
        content.synced_names = names.clone();
        content.names = names;
        content.locked = false;
        Self(Mutex::new(content))
    }
}

/// The disk as one process sees it.
#[derive(Debug)]
pub(crate) struct SimulatedDisk {
    pub(crate) volume: Arc<Volume>,
    pub(crate) life: Arc<Life>,
    pub(crate) broken: Option<Broken>,
}

fn broken_disk() -> io::Error {
    io::Error::other("simulated disk error")
}

impl SimulatedDisk {
    fn open(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let number = self.content(|content| content.names.get(&name_of(file)).copied())?;
        let number = number.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let (volume, life) = (Arc::clone(&self.volume), Arc::clone(&self.life));
        let disk = Self {
            volume,
            life,
            broken: self.broken,
        };
        Ok(Box::new(OpenFile {
            disk,
            number,
            written: 0,
            is_label: port_of(file, Port::Append) == Port::Label,
            is_span: name_of(file).starts_with("span"),
        }))
    }

    fn content<T>(&self, action: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let mut content = self.volume.0.lock();
        if self.life.is_dead() || content.detached {
            return Err(broken_disk());
        }
        Ok(action(&mut content))
    }

    /// An operation and what happens to it; `partly` is what a failing one does all the same.
    fn run<T>(
        &self,
        port: Port,
        partly: impl FnOnce(&mut Content, Trouble),
        action: impl FnOnce(&mut Content) -> io::Result<T>,
    ) -> io::Result<T> {
        let trouble = if self.life.is_dead() {
            return Err(broken_disk());
        } else {
            self.life.meet(port)
        };
        let content = || self.volume.0.lock();
        match trouble {
            Some(trouble @ (Trouble::CrashBefore | Trouble::LostRequest)) => {
                partly(&mut content(), trouble);
                return Err(broken_disk());
            }
            Some(Trouble::Full) => {
                partly(&mut content(), Trouble::Full);
                return Err(io::ErrorKind::StorageFull.into());
            }
            Some(Trouble::HoldBefore) => self.life.hold_blocking(),
            _ => {}
        }
        let result = self.content(action)?;
        match trouble {
            Some(Trouble::LostAnswer) => return Err(broken_disk()),
            Some(Trouble::CrashAfter) => {
                self.life.die();
                return Err(broken_disk());
            }
            Some(Trouble::HoldAfter) => self.life.hold_blocking(),
            _ => {}
        }
        if self.life.is_dead() {
            return Err(broken_disk());
        }
        result
    }
}

fn name_of(file: &Path) -> String {
    file.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

struct Lock(Arc<Volume>);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.0.lock().locked = false;
    }
}

impl Disk for SimulatedDisk {
    fn create_directory(&self, _: &Path) -> io::Result<()> {
        self.content(|_| ())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<DirectoryLock>> {
        let taken = self.content(|content| std::mem::replace(&mut content.locked, true))?;
        let lock = || Box::new(Lock(Arc::clone(&self.volume))) as DirectoryLock;
        Ok((!taken).then(lock))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<String>> {
        self.content(|content| content.names.keys().cloned().collect())
    }

    fn read(&self, file: &Path) -> io::Result<Vec<u8>> {
        self.content(|content| {
            let file = content.names.get(&name_of(file));
            let file = file.and_then(|file| content.files.get(file));
            file.map(|file| file.data.clone())
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        })?
    }

    fn create(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let create = |content: &mut Content| {
            if content.names.contains_key(&name_of(file)) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            content.next += 1;
            content.files.insert(content.next, File::default());
            content.names.insert(name_of(file), content.next);
            Ok(())
        };
        let leaves_a_file = self.life.chance(2) == 0;
        let partly = |content: &mut Content, _| {
            if leaves_a_file {
                let _ = create(content);
            }
        };
        self.run(port_of(file, Port::Create), partly, create)?;
        self.open(file)
    }

    fn reopen(&self, file: &Path) -> io::Result<Box<dyn SegmentFile>> {
        self.run(port_of(file, Port::Create), |_, _| (), |_| Ok(()))?;
        self.open(file)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        let remove = |content: &mut Content| {
            let removed = content.names.remove(&name_of(file));
            removed
                .map(drop)
                .ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        self.run(port_of(file, Port::Remove), |_, _| (), remove)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = |content: &mut Content| {
            let file = content.names.remove(&name_of(from));
            let file = file.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            content.names.insert(name_of(to), file);
            Ok(())
        };
        // A segment that gets another name is removed as a segment.
        let port = match name_of(to).starts_with("spare-") {
            true => Port::Remove,
            false => Port::Create,
        };
        self.run(port_of(to, port), |_, _| (), rename)
    }

    fn space(&self, _: &Path) -> io::Result<Space> {
        let plenty = u64::MAX;
        let (total_bytes, free_bytes) = (plenty, plenty);
        Ok(Space {
            total_bytes,
            free_bytes,
        })
    }

    fn sync_directory(&self, _: &Path) -> io::Result<()> {
        self.run(
            Port::SyncDirectory,
            |_, _| (),
            |content| {
                content.synced_names = content.names.clone();
                Ok(())
            },
        )
    }
}

/// What is done to a label is a matter of its own.
fn port_of(file: &Path, port: Port) -> Port {
    if name_of(file).starts_with("label") {
        Port::Label
    } else {
        port
    }
}

struct OpenFile {
    disk: SimulatedDisk,
    number: u64,
    written: usize,
    is_label: bool,
    is_span: bool,
}

impl OpenFile {
    fn port(&self, port: Port) -> Port {
        if self.is_label { Port::Label } else { port }
    }

    fn file<T>(&self, content: &mut Content, action: impl FnOnce(&mut File) -> T) -> T {
        action(content.files.entry(self.number).or_default())
    }
}

impl SegmentFile for OpenFile {
    fn append(&mut self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let part = self.disk.life.chance(bytes.len() as u32 + 1) as usize;
        let at = self.written;
        self.disk.run(
            self.port(Port::Append),
            |content, _| self.file(content, |file| file.write(at, &bytes[..part])),
            |content| {
                self.file(content, |file| file.write(at, &bytes));
                Ok(())
            },
        )?;
        self.written += bytes.len();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let life = &self.disk.life;
        // A flush waits for the sync of a span, so that one is never held until a flush is done.
        let port = match self.is_span {
            true => Port::Label,
            false => self.port(Port::Sync),
        };
        self.disk.run(
            port,
            |content, trouble| {
                let crashed = trouble == Trouble::CrashBefore;
                let kept = || life.chance(2) == 0;
                self.file(content, |file| file.write_back(crashed, kept));
            },
            |content| {
                if self.disk.broken != Some(Broken::AcknowledgesBeforeSync) {
                    self.file(content, |file| file.write_back(false, || true));
                }
                Ok(())
            },
        )
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        let cut = |content: &mut Content| {
            self.file(content, |file| file.truncate(length as usize));
        };
        self.disk.content(cut)?;
        self.written = length as usize;
        Ok(())
    }
}
