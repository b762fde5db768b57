//! The directory of a log: its lock and the names of its segments.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{DirectoryLock, Disk};
use crate::error::{Error, out_of_space};
use crate::format::header::Header;
use crate::label::{CatalogState, Label, LogId};
use crate::recover::{Identity, Recovery};
use crate::span::Span;
use crate::spares::remove_leftovers;

const LOCK_FILE: &str = "lock";
const EXTENSION: &str = ".wal";

/// A log directory that this process alone may use.
pub struct WalDirectory {
    pub(crate) path: PathBuf,
    pub(crate) disk: Arc<dyn Disk>,
    numbers: Vec<u64>,
    /// Never changes: told without waiting for a label that is being written.
    pub(crate) id: LogId,
    label: Mutex<Label>,
    span: Mutex<Noted>,
    /// Released when the log is closed, by the process' end at the latest.
    _lock: DirectoryLock,
}

/// What is noted of the segments.
#[derive(Debug)]
struct Noted {
    /// As far as it counts; always there once the log is written to.
    span: Option<Span>,
    /// There was no room for it: the file is to be written again.
    is_removed: bool,
}

impl std::fmt::Debug for WalDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WalDirectory")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl WalDirectory {
    /// Creates the directory when it is missing, takes its lock, removes the spare segments of the
    /// process before, and reads its span and its label; a directory without a label gets one. Blocking.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it, [`Error::Directory`] when it can't be used,
    /// [`Error::DamagedLabel`], [`Error::DamagedSpan`] and [`Error::UnknownVersion`] when they can't be read.
    pub fn lock(path: impl Into<PathBuf>, disk: Arc<dyn Disk>) -> Result<Self, Error> {
        let path = path.into();
        let failed = |doing| {
            let directory = path.clone();
            move |source| Error::Directory {
                doing,
                directory,
                source: Arc::new(source),
            }
        };
        disk.create_directory(&path).map_err(failed("create"))?;
        let lock = disk.lock(&path.join(LOCK_FILE)).map_err(failed("lock"))?;
        let lock = lock.ok_or_else(|| Error::Locked {
            directory: path.clone(),
        })?;
        let names = disk.list(&path).map_err(failed("list"))?;
        // Before anything is written: on a full volume they are the room that a start needs.
        remove_leftovers(disk.as_ref(), &path, &names);
        let numbers = segment_numbers(&names);
        let span = Span::read(disk.as_ref(), &path, &names)?;
        let label = match Label::read(disk.as_ref(), &path, &names)? {
            Some(label) => label,
            None => {
                let label = told_by_segments(disk.as_ref(), &path, &numbers)?;
                let label = label.unwrap_or_else(Label::new);
                label.write(disk.as_ref(), &path).map_err(failed("label"))?;
                label
            }
        };
        let newest = numbers.last().copied();
        Ok(Self {
            path,
            disk,
            numbers,
            id: label.id,
            label: Mutex::new(label),
            span: Mutex::new(Noted {
                span: span.filter(|span| span.counts_for(&label, newest)),
                is_removed: false,
            }),
            _lock: lock,
        })
    }

    /// What the label says.
    #[must_use]
    pub fn label(&self) -> Label {
        *self.lock_label()
    }

    /// Whether nothing was ever written to this log, as far as the directory tells: a log that was
    /// written to always has a segment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Changes the label, durably. Blocking.
    pub(crate) fn relabel(&self, change: impl FnOnce(&mut Label)) -> io::Result<()> {
        let mut label = self.lock_label();
        let mut changed = *label;
        change(&mut changed);
        if changed != *label {
            changed.write(self.disk.as_ref(), &self.path)?;
            *label = changed;
        }
        Ok(())
    }

    /// Notes the newest state of the catalog, durably. Blocking.
    pub(crate) fn remember(&self, state: CatalogState) -> Result<(), Error> {
        let newer = |label: &mut Label| {
            // Answers may come out of order; the newest counts.
            if label
                .catalog
                .is_none_or(|seen| seen.snapshot < state.snapshot)
            {
                label.catalog = Some(state);
            }
        };
        self.relabel(newer).map_err(|source| Error::Directory {
            doing: "label",
            directory: self.path.clone(),
            source: Arc::new(source),
        })
    }

    fn lock_label(&self) -> MutexGuard<'_, Label> {
        self.label.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which segments are there when a life begins, durably. Blocking.
    pub(crate) fn begin_span(&self, epoch: u64, oldest: u64, newest: u64) -> io::Result<()> {
        let span = Span {
            log: self.id,
            epoch,
            oldest,
            newest,
        };
        span.write(self.disk.as_ref(), &self.path)?;
        *self.lock_span() = Noted {
            span: Some(span),
            is_removed: false,
        };
        Ok(())
    }

    /// Notes that segment `number` is there, durably. Blocking.
    pub(crate) fn note_newest(&self, number: u64) -> io::Result<()> {
        self.change_span(|span| span.newest = span.newest.max(number))
    }

    /// Notes that segments before `number` are not needed any more, durably. Where there is no room for the note it
    /// is removed; [`Self::note_again`] puts it back. Blocking.
    pub(crate) fn note_oldest(&self, number: u64) -> io::Result<()> {
        let changed = self.change_span(|span| span.oldest = span.oldest.max(number));
        match changed {
            Err(error) if out_of_space(&error) => {
                let mut noted = self.lock_span();
                // It may be gone although that fails.
                noted.is_removed = true;
                Span::remove(self.disk.as_ref(), &self.path)?;
                if let Some(span) = &mut noted.span {
                    span.oldest = span.oldest.max(number);
                }
                Ok(())
            }
            changed => changed,
        }
    }

    /// Writes a note that had no room. Blocking.
    pub(crate) fn note_again(&self) -> io::Result<()> {
        let is_removed = self.lock_span().is_removed;
        if is_removed {
            self.change_span(|_| ())?;
        }
        Ok(())
    }

    fn change_span(&self, change: impl FnOnce(&mut Span)) -> io::Result<()> {
        let mut noted = self.lock_span();
        let Some(before) = noted.span else {
            return Err(io::Error::other("the log was not begun"));
        };
        let mut changed = before;
        change(&mut changed);
        if changed != before || noted.is_removed {
            changed.write(self.disk.as_ref(), &self.path)?;
            *noted = Noted {
                span: Some(changed),
                is_removed: false,
            };
        }
        Ok(())
    }

    /// Whether it is noted that segment `number` was there, with a whole header.
    pub(crate) fn is_noted(&self, number: u64) -> bool {
        let span = self.lock_span().span;
        span.is_some_and(|span| number <= span.newest)
    }

    fn lock_span(&self) -> MutexGuard<'_, Noted> {
        self.span.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the segments and prepares replay. Blocking; changes nothing.
    ///
    /// # Errors
    /// [`Error::MissingSegment`], [`Error::MissingEnd`], [`Error::Directory`].
    pub fn recover(self, identity: Identity) -> Result<Recovery, Error> {
        let span = self.lock_span().span;
        // A removal may be undone when the power goes, also where later ones are not. What came back is not needed, and
        // can't be joined to the others.
        let is_hole = |pair: &[u64]| {
            span.is_some_and(|span| pair[1] != pair[0] + 1 && pair[1] <= span.oldest)
        };
        let hole = self.numbers.windows(2).rposition(is_hole);
        let (came_back, numbers) = self.numbers.split_at(hole.map_or(0, |hole| hole + 1));
        let (came_back, numbers) = (came_back.to_vec(), numbers.to_vec());
        for pair in numbers.windows(2) {
            if pair[1] != pair[0] + 1 {
                return Err(Error::MissingSegment {
                    file: self.segment_path(pair[0] + 1),
                });
            }
        }
        if let Some(number) = span.and_then(|span| span.missing(&numbers)) {
            return Err(Error::MissingEnd {
                file: self.segment_path(number),
            });
        }
        Ok(Recovery::new(self, came_back, numbers, identity))
    }

    pub(crate) fn segment_path(&self, number: u64) -> PathBuf {
        segment_path(&self.path, number)
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.disk.sync_directory(&self.path)
    }
}

/// Numbers of the segments, growing. Files with other names are left alone.
fn segment_numbers(names: &[String]) -> Vec<u64> {
    let parse = |name: &String| name.strip_suffix(EXTENSION)?.parse().ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(parse).collect();
    numbers.sort_unstable();
    numbers
}

/// The label that the newest segment which knows its log would have. Needed when the label was deleted,
/// and for logs of releases that had none: `None`.
fn told_by_segments(
    disk: &dyn Disk,
    directory: &Path,
    numbers: &[u64],
) -> Result<Option<Label>, Error> {
    for number in numbers.iter().rev() {
        let file = segment_path(directory, *number);
        let bytes = disk.read(&file).map_err(|source| Error::Segment {
            doing: "read",
            file,
            source: Arc::new(source),
        })?;
        if let Some((header, _)) = Header::decode(&bytes) {
            let label = |(id, epoch): (LogId, u64)| Label {
                id,
                epoch,
                catalog: None,
            };
            return Ok(header.log.map(label));
        }
    }
    Ok(None)
}

/// Twenty digits, so that names sort as numbers.
pub(crate) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:020}{EXTENSION}"))
}
