//! The open log: a queue in front of the writer thread, and truncation.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use flightcluster_config::IngestConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::warn;

use crate::budget::Budget;
use crate::directory::WalDirectory;
use crate::disk::remove_if_there;
use crate::error::Error;
use crate::label::CatalogState;
use crate::record::{Append, SequenceNumber};
use crate::recover::Identity;
use crate::spares::{Spare, Spares, spare_path};
use crate::writer::{Completion, Request, Writer};

/// The queue is counted in pieces of this many bytes, because a semaphore counts in 32 bits.
const QUEUE_UNIT_BYTES: usize = 1024;

/// For how long no record has to come before the last group is marked. A writer that pauses longer than this
/// after each record pays a second `fdatasync` for each, at most five a second; one that sends more often pays
/// none. A record that comes during that sync waits for it.
const MARK_AFTER: Duration = Duration::from_millis(200);

/// What could not be done when the span could not be written.
pub(crate) const NOTING: &str = "note the segments of";

/// Sizes and times of the log.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Size in bytes at which a segment is closed; a group of records is never split.
    pub segment_bytes: u64,
    /// Bytes all segments together may take; 0 takes half of the volume. Segments are at most a quarter
    /// of it.
    pub budget_bytes: u64,
    /// Longest time a group waits for more records; it never waits longer than the last sync took.
    pub group_commit_window: Duration,
    /// Bytes at which a group stops growing.
    pub group_commit_max_bytes: u64,
    /// Bytes that may wait for the writer thread; appends beyond wait for room.
    pub queue_bytes: usize,
    /// When nothing was appended for so long, the last group is marked as synced, so that damage of it is
    /// never taken for a torn tail.
    pub mark_after: Duration,
}

impl From<&IngestConfig> for WalOptions {
    fn from(config: &IngestConfig) -> Self {
        let group = config.group_commit_max_bytes.as_usize();
        Self {
            segment_bytes: config.wal_segment_bytes.as_u64(),
            budget_bytes: config.wal_bytes.as_u64(),
            group_commit_window: config.group_commit_window,
            group_commit_max_bytes: config.group_commit_max_bytes.as_u64(),
            // One group being written, one being collected, and one full Flight message (64 MiB).
            queue_bytes: group.saturating_mul(2).saturating_add(64 << 20),
            mark_after: MARK_AFTER,
        }
    }
}

/// Events for metrics; called on the writer thread or on that of the caller.
pub trait Observer: Send + Sync + std::fmt::Debug + 'static {
    /// A group of `records` in `bytes` was written and synced in `took`.
    fn synced(&self, took: Duration, bytes: u64, records: u64) {
        let _ = (took, bytes, records);
    }

    /// The log may take this many bytes; told once, before anything else.
    fn limited(&self, bytes: u64) {
        let _ = bytes;
    }

    /// The log now has this many segments and bytes on disk.
    fn sized(&self, segments: u64, bytes: u64) {
        let _ = (segments, bytes);
    }
}

/// Observes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}

/// What a truncation removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Truncated {
    /// Segments removed.
    pub segments: u64,
    /// Bytes they had.
    pub bytes: u64,
}

/// A segment that is no longer written to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SealedSegment {
    pub(crate) number: u64,
    /// See [`ActiveSegment::salt`](crate::active::ActiveSegment).
    pub(crate) salt: u64,
    /// The highest sequence number in this segment and all before it.
    pub(crate) last_sequence: SequenceNumber,
    pub(crate) bytes: u64,
}

/// What the writer thread shares with the rest.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) directory: WalDirectory,
    pub(crate) identity: Identity,
    pub(crate) budget: Budget,
    pub(crate) observer: Arc<dyn Observer>,
    poison: OnceLock<Error>,
    segments: Mutex<Segments>,
}

#[derive(Debug, Default)]
struct Segments {
    sealed: VecDeque<SealedSegment>,
    /// Number and salt of the segment that is written to.
    active: (u64, u64),
    active_bytes: u64,
    spares: Spares,
}

/// An open log. Dropping it waits for what is queued, marks the end and releases the directory.
#[derive(Debug)]
pub struct Wal {
    pub(crate) shared: Arc<Shared>,
    sender: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
    queue: Arc<Semaphore>,
    queue_units: u32,
    /// One truncation at a time.
    truncating: Mutex<()>,
}

/// Room in the queue for one record.
#[derive(Debug)]
pub struct Reservation(OwnedSemaphorePermit);

/// An enqueued append; completes when the record is durable or refused. Dropping it changes
/// nothing: the record may become durable, and its completion runs.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<SequenceNumber, Error>>);

impl Future for Pending {
    type Output = Result<SequenceNumber, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|reply| reply.unwrap_or(Err(Error::Closed)))
    }
}

impl Wal {
    pub(crate) fn start(
        directory: WalDirectory,
        identity: Identity,
        mut options: WalOptions,
        observer: Arc<dyn Observer>,
        sealed: Vec<SealedSegment>,
        number: u64,
        next: SequenceNumber,
    ) -> Result<Self, Error> {
        let failed = |doing| {
            let directory = directory.path.clone();
            move |source| Error::Directory {
                doing,
                directory,
                source: Arc::new(source),
            }
        };
        // Before the label: a span of a life before the last one does not count.
        let oldest = sealed.first().map_or(number, |segment| segment.number);
        let noted = directory.begin_span(identity.epoch, oldest, number - 1);
        noted.map_err(failed(NOTING))?;
        // Before the first segment of this life: nothing is written that the label does not tell of.
        let relabelled = directory.relabel(|label| {
            label.epoch = identity.epoch;
            label.catalog = Some(identity.catalog);
        });
        relabelled.map_err(failed("label"))?;
        let budget = Budget::new(
            options.budget_bytes,
            directory.disk.as_ref(),
            &directory.path,
        );
        options.segment_bytes = budget.segment_bytes(options.segment_bytes);
        observer.limited(budget.limit_bytes);
        let segments = Mutex::new(Segments {
            sealed: sealed.into(),
            active: (0, 0),
            active_bytes: 0,
            spares: Spares::new(budget.limit_bytes, options.segment_bytes),
        });
        let poison = OnceLock::new();
        let shared = Arc::new(Shared {
            directory,
            identity,
            budget,
            observer,
            poison,
            segments,
        });
        let queue_units = units(options.queue_bytes);
        let writer = Writer::new(Arc::clone(&shared), options, number, next)?;
        let (sender, receiver) = mpsc::channel();
        let run = move || writer.run(&receiver);
        let thread = std::thread::Builder::new()
            .name("wal-writer".to_owned())
            .spawn(run);
        let thread = thread.map_err(|source| Error::Directory {
            doing: "start the writer of",
            directory: shared.directory.path.clone(),
            source: Arc::new(source),
        })?;
        Ok(Self {
            shared,
            sender: Some(sender),
            thread: Some(thread),
            queue: Arc::new(Semaphore::new(queue_units as usize)),
            queue_units,
            truncating: Mutex::new(()),
        })
    }

    /// Waits for room for `append` in the queue, first come first served.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when the log is out of service.
    pub async fn reserve(&self, append: &Append) -> Result<Reservation, Error> {
        // A record larger than the queue takes all of it.
        let wanted = units(append.body_bytes).min(self.queue_units);
        let permit = Arc::clone(&self.queue).acquire_many_owned(wanted).await;
        let permit = permit.map_err(|_| Error::Closed)?;
        self.check()?;
        Ok(Reservation(permit))
    }

    /// Hands a record to the writer thread. Never blocks; the order of calls is the order of
    /// sequence numbers.
    ///
    /// # Errors
    /// [`Error::Poisoned`] or [`Error::Closed`]; `completion` was not and will not be called.
    pub fn enqueue(
        &self,
        reservation: Reservation,
        append: Append,
        completion: Completion,
    ) -> Result<Pending, Error> {
        self.check()?;
        let (reply, receiver) = oneshot::channel();
        let request = Request {
            append,
            completion,
            reply,
            _permit: reservation.0,
        };
        let sender = self.sender.as_ref().ok_or(Error::Closed)?;
        sender
            .send(request)
            .map_err(|_| self.shared.poison().unwrap_or(Error::Closed))?;
        Ok(Pending(receiver))
    }

    /// Makes a record durable and returns its number: [`Wal::reserve`], [`Wal::enqueue`], wait.
    ///
    /// - Errors: [`Error::Full`] nothing was written, retry later; [`Error::Poisoned`] the record may
    ///   be there after a restart, retry with the same producer number.
    /// - Cancellation: a dropped call may still become durable.
    pub async fn append(
        &self,
        append: Append,
        completion: Completion,
    ) -> Result<SequenceNumber, Error> {
        let reservation = self.reserve(&append).await?;
        self.enqueue(reservation, append, completion)?.await
    }

    /// Removes the closed segments all of whose records are at or below `up_to`, oldest first; some of
    /// the files are kept to be written over. The segment being written stays, whatever it holds: it is
    /// replayed and found to be in files. Blocking.
    ///
    /// # Errors
    /// [`Error::Segment`] when a file could not be removed; it and the newer ones are still there.
    /// [`Error::Directory`] when it could not be noted that they will be gone; all are still there.
    pub fn truncate_up_to(&self, up_to: SequenceNumber) -> Result<Truncated, Error> {
        let _one = self
            .truncating
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut truncated = Truncated::default();
        let Some(newest) = self.note_removal(up_to)? else {
            return Ok(truncated);
        };
        loop {
            let first = self.shared.segments().sealed.front().copied();
            // Only what was noted: another may have been closed since.
            let Some(first) = first.filter(|first| first.number <= newest) else {
                break;
            };
            let removed = self.shared.remove(&first);
            removed.map_err(|source| Error::Segment {
                doing: "remove",
                file: self.shared.directory.segment_path(first.number),
                source: Arc::new(source),
            })?;
            self.shared.segments().sealed.pop_front();
            truncated.segments += 1;
            truncated.bytes += first.bytes;
        }
        self.shared.report_size();
        if let Err(error) = self.shared.directory.note_again() {
            warn!(error = %error, "can't note the segments of the write-ahead log yet");
        }
        Ok(truncated)
    }

    /// Notes which segment will be the oldest when those up to `up_to` are removed. Returns the last of these.
    fn note_removal(&self, up_to: SequenceNumber) -> Result<Option<u64>, Error> {
        let newest = {
            let segments = self.shared.segments();
            let sealed = segments.sealed.iter();
            let removed = sealed.take_while(|segment| segment.last_sequence <= up_to);
            removed.last().map(|segment| segment.number)
        };
        let directory = &self.shared.directory;
        if let Some(newest) = newest {
            let noted = directory.note_oldest(newest + 1);
            noted.map_err(|source| Error::Directory {
                doing: NOTING,
                directory: directory.path.clone(),
                source: Arc::new(source),
            })?;
        }
        Ok(newest)
    }

    /// Notes the newest state of the catalog that this log relies on, durably: rows it does not hold
    /// any more are in the files of that state. Call it before [`Wal::truncate_up_to`]. Blocking.
    ///
    /// # Errors
    /// [`Error::Directory`] when it could not be written; what was noted before stays.
    pub fn remember(&self, state: CatalogState) -> Result<(), Error> {
        self.shared.directory.remember(state)
    }

    /// Whether [`Wal::truncate_up_to`] with this number would remove something.
    #[must_use]
    pub fn can_truncate(&self, up_to: SequenceNumber) -> bool {
        let segments = self.shared.segments();
        segments
            .sealed
            .front()
            .is_some_and(|first| first.last_sequence <= up_to)
    }

    /// Whether the log comes near its limit and has closed segments, which flushes would free.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        let (segments, bytes) = self.size();
        segments > 1 && bytes > self.limit_bytes() / 4 * 3
    }

    /// Bytes that all segments together may take.
    #[must_use]
    pub fn limit_bytes(&self) -> u64 {
        self.shared.budget.limit_bytes
    }

    /// Segments and bytes on disk.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        self.shared.size()
    }

    /// Why the log is out of service, if it is.
    #[must_use]
    pub fn poisoned(&self) -> Option<Error> {
        self.shared.poison()
    }

    /// The directory of the log.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.shared.directory.path
    }

    fn check(&self) -> Result<(), Error> {
        self.shared.poison().map_or(Ok(()), Err)
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.sender = None;
        let Some(thread) = self.thread.take() else {
            return;
        };
        // A completion may hold the last reference: the writer thread can't wait for itself.
        if thread.thread().id() != std::thread::current().id() {
            // A panic was reported as poison already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    pub(crate) fn poison(&self) -> Option<Error> {
        self.poison.get().cloned()
    }

    /// Keeps the first reason and returns it.
    pub(crate) fn set_poison(&self, error: Error) -> Error {
        self.poison.get_or_init(|| error).clone()
    }

    pub(crate) fn seal(&self, segment: SealedSegment) {
        self.segments().sealed.push_back(segment);
    }

    /// Removes a segment durably, or makes it a spare. Synced one by one: a crash must not leave a hole
    /// between older and newer segments.
    fn remove(&self, segment: &SealedSegment) -> io::Result<()> {
        let directory = &self.directory;
        let file = directory.segment_path(segment.number);
        let spare = Spare {
            path: spare_path(&directory.path, segment.number),
            bytes: segment.bytes,
        };
        let wanted = self.segments().spares.wants(spare.bytes);
        if wanted && directory.disk.rename(&file, &spare.path).is_ok() {
            directory.sync()?;
            // Not before the sync: after a power cut the file may have its old name.
            self.segments().spares.put(spare);
            return Ok(());
        }
        // A name it does not have any more it lost before, when the sync of the directory failed. A later
        // sync that succeeds does not tell which name the disk knows, so it is not written over; and it
        // does not stay either: nobody would count it.
        match directory.disk.remove(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                remove_if_there(directory.disk.as_ref(), &spare.path)?;
            }
            removed => removed?,
        }
        directory.sync()
    }

    pub(crate) fn take_spare(&self) -> Option<Spare> {
        self.segments().spares.take()
    }

    pub(crate) fn spare_bytes(&self) -> u64 {
        self.segments().spares.bytes()
    }

    /// Another segment is written to now; the one before was sealed.
    pub(crate) fn begin_active(&self, number: u64, salt: u64) {
        self.segments().active = (number, salt);
    }

    /// The salt of a segment that is part of the log.
    pub(crate) fn salt(&self, number: u64) -> Option<u64> {
        let segments = self.segments();
        let (active, salt) = segments.active;
        if number == active {
            return Some(salt);
        }
        let at = segments.sealed.partition_point(|each| each.number < number);
        let found = segments.sealed.get(at);
        let found = found.filter(|each| each.number == number);
        found.map(|each| each.salt)
    }

    pub(crate) fn set_active(&self, bytes: u64) {
        self.segments().active_bytes = bytes;
        self.report_size();
    }

    fn report_size(&self) {
        let (segments, bytes) = self.size();
        self.observer.sized(segments, bytes);
    }

    pub(crate) fn size(&self) -> (u64, u64) {
        let segments = self.segments();
        let sealed: u64 = segments.sealed.iter().map(|segment| segment.bytes).sum();
        (
            segments.sealed.len() as u64 + 1,
            sealed + segments.active_bytes,
        )
    }

    fn segments(&self) -> MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(QUEUE_UNIT_BYTES).max(1)).unwrap_or(u32::MAX / 8)
}
