//! The writer thread: group commit.
//!
//! # When a group is closed
//! A group takes everything that is queued. It then waits until it holds as many records as the last
//! group did: after a group of *n* was acknowledged, *n* writers are about to send their next record,
//! so waiting for fewer saves nothing and waiting for more is in vain. It waits no longer than the last
//! sync took, because a record that comes later than that is better off with a sync of its own, and no
//! longer than the window. A lone writer therefore never waits and pays one `fdatasync` per record;
//! under load the groups grow by themselves, because everything that arrives during a sync is in the
//! next group. A group also closes at `group_commit_max_bytes`. Decision 0027 has the measurements.
//!
//! # Segments
//! Before the first record of a segment it is noted that the segment is there ([`crate::span`]): an acknowledged
//! row is never in one whose loss nobody would notice.
//!
//! # Marks
//! A record says that everything before its group was on disk, so the last group of a killed process has
//! nothing that says it of itself. When no record comes for a while, and at an orderly end, a mark does.
//! A mark that fails is as bad as a record that fails: the next group would be in the same page or behind it.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{error, warn};

use crate::active::{ActiveSegment, create_segment};
use crate::budget::Budget;
use crate::disk::remove_if_there;
use crate::error::{Error, out_of_space};
use crate::format::records;
use crate::record::{Append, Place, SchemaDefinition, SequenceNumber, Stored};
use crate::spares::remove_spare;
use crate::wal::{NOTING, SealedSegment, Shared, WalOptions};

/// Called on the writer thread, in sequence order, with number and place of the durable record or the
/// reason of its refusal, before the caller's future completes. Must be quick and must not block.
pub type Completion = Box<dyn FnOnce(Result<Stored, &Error>) + Send>;

/// An append on its way to the writer thread.
pub(crate) struct Request {
    pub(crate) append: Append,
    pub(crate) completion: Completion,
    pub(crate) reply: oneshot::Sender<Result<SequenceNumber, Error>>,
    /// Gives the bytes back to the queue when dropped.
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// A request whose completion was called; the caller is still waiting.
struct Settled {
    reply: oneshot::Sender<Result<SequenceNumber, Error>>,
    _permit: OwnedSemaphorePermit,
}

impl Request {
    fn settle(self, result: Result<Stored, &Error>) -> Settled {
        (self.completion)(result);
        Settled {
            reply: self.reply,
            _permit: self._permit,
        }
    }
}

impl Settled {
    fn reply(self, result: Result<SequenceNumber, Error>) {
        // The caller may have gone: that changes nothing.
        let _ = self.reply.send(result);
    }
}

/// The state of the writer thread.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    options: WalOptions,
    active: ActiveSegment,
    next: SequenceNumber,
    /// Records of the last group, and how long it took to be written and synced.
    last_group: usize,
    last_sync: Duration,
    /// The last group found no room.
    refusing: bool,
}

/// Part of a group's bytes: our own, or a message as it came in.
enum Part {
    Own(std::ops::Range<usize>),
    Theirs(Bytes),
}

/// A group as bytes.
#[derive(Default)]
struct Encoded {
    own: Vec<u8>,
    parts: Vec<Part>,
    bytes: u64,
    new_slots: Vec<((u64, Arc<SchemaDefinition>), u32)>,
    /// Of its batches.
    places: Vec<Place>,
}

impl Writer {
    /// Creates segment `number` and the state to write to it.
    pub(crate) fn new(
        shared: Arc<Shared>,
        options: WalOptions,
        number: u64,
        next: SequenceNumber,
    ) -> Result<Self, Error> {
        let active = create_segment(&shared, number, next).map_err(|source| {
            let file = shared.directory.segment_path(number);
            Error::Segment {
                doing: "create",
                file,
                source: Arc::new(source),
            }
        })?;
        shared.begin_active(active.number, active.salt);
        shared.set_active(active.bytes());
        let mut writer = Self {
            shared,
            options,
            active,
            next,
            last_group: 1,
            last_sync: Duration::ZERO,
            refusing: false,
        };
        // Here, so that the first record does not pay for it.
        writer.note_active().map_err(|source| Error::Directory {
            doing: NOTING,
            directory: writer.shared.directory.path.clone(),
            source: Arc::new(source),
        })?;
        Ok(writer)
    }

    /// Runs until every sender is gone.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        let _guard = PoisonOnPanic(Arc::clone(&self.shared), self.active.path.clone());
        while let Some(first) = self.next_request(requests) {
            let group = self.collect(first, requests);
            self.last_group = group.len();
            match self.write(&group) {
                Ok(places) => self.acknowledge(group, places),
                Err(error) => refuse(group, requests, &error),
            }
        }
        self.close();
    }

    /// The next request; when it takes long to come, the group before is marked meanwhile. `None` when every
    /// sender is gone.
    fn next_request(&mut self, requests: &Receiver<Request>) -> Option<Request> {
        if self.active.is_unmarked {
            match requests.recv_timeout(self.options.mark_after) {
                Ok(request) => return Some(request),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.mark(),
            }
        }
        requests.recv().ok()
    }

    fn collect(&self, first: Request, requests: &Receiver<Request>) -> VecDeque<Request> {
        let longest = self.options.group_commit_window.min(self.last_sync);
        let deadline = Instant::now() + longest;
        let mut bytes = first.append.body_bytes as u64;
        let mut group = VecDeque::from([first]);
        while bytes < self.options.group_commit_max_bytes {
            let wait = if group.len() < self.last_group {
                deadline.saturating_duration_since(Instant::now())
            } else {
                Duration::ZERO
            };
            match requests.recv_timeout(wait) {
                Ok(request) => {
                    bytes += request.append.body_bytes as u64;
                    group.push_back(request);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        group
    }

    fn acknowledge(&mut self, group: VecDeque<Request>, places: Vec<Place>) {
        for (request, place) in group.into_iter().zip(places) {
            let sequence = self.next;
            self.next = sequence.next();
            let stored = Stored { sequence, place };
            request.settle(Ok(stored)).reply(Ok(sequence));
        }
    }

    /// Makes a group durable, whole or not at all; says where each record is.
    fn write(&mut self, group: &VecDeque<Request>) -> Result<Vec<Place>, Error> {
        if let Some(error) = self.shared.poison() {
            return Err(error);
        }
        let bytes: u64 = group
            .iter()
            .map(|request| request.append.body_bytes as u64)
            .sum();
        self.check_space(bytes)?;
        if self.active.holds_batches && self.active.length + bytes > self.options.segment_bytes {
            self.rotate()?;
        }
        self.note_active().map_err(|source| {
            if out_of_space(&source) {
                // The segment stays, without records; the next group tries again.
                self.full(source)
            } else {
                self.poison("note", source)
            }
        })?;
        let encoded = self.encode(group);
        let started = Instant::now();
        self.append(&encoded)?;
        self.active.length += encoded.bytes;
        self.active.holds_batches = true;
        self.active.is_unmarked = true;
        self.active.slots.extend(encoded.new_slots);
        self.shared.set_active(self.active.bytes());
        self.last_sync = started.elapsed();
        self.shared
            .observer
            .synced(self.last_sync, encoded.bytes, group.len() as u64);
        Ok(encoded.places)
    }

    fn note_active(&mut self) -> io::Result<()> {
        if !self.active.is_noted {
            self.shared.directory.note_newest(self.active.number)?;
            self.active.is_noted = true;
        }
        Ok(())
    }

    /// Refuses a group for which there is no room, before anything of it is written.
    fn check_space(&mut self, bytes: u64) -> Result<(), Error> {
        let mut room = self.room_for(bytes);
        while room.is_err()
            && let Some(spare) = self.shared.take_spare()
        {
            if remove_spare(self.shared.directory.disk.as_ref(), &spare.path) {
                room = self.room_for(bytes);
            }
        }
        if let Err(error) = &room {
            if !self.refusing {
                warn!(error = %error, "refusing writes until there is room for the log");
            }
            // Only a closed segment can be freed when its rows are in files.
            if self.active.holds_batches {
                self.rotate()?;
            }
        }
        self.refusing = room.is_err();
        room
    }

    fn room_for(&self, bytes: u64) -> Result<(), Error> {
        let directory = &self.shared.directory;
        let (segments, used) = self.shared.size();
        // A group larger than the limit is let in alone.
        if segments > 1 || self.active.holds_batches {
            let used = used + self.shared.spare_bytes();
            self.shared.budget.check_log(used, bytes, &directory.path)?;
        }
        Budget::check_volume(directory.disk.as_ref(), bytes, &directory.path)
    }

    fn encode(&self, group: &VecDeque<Request>) -> Encoded {
        let mut encoded = Encoded::default();
        let (salt, synced) = (self.active.salt, self.active.length);
        let mut sequence = self.next;
        let mut fresh: HashMap<(u64, Arc<SchemaDefinition>), u32> = HashMap::new();
        for Request { append, .. } in group {
            let key = (append.table, Arc::clone(&append.schema));
            let known = self
                .active
                .slots
                .get(&key)
                .or_else(|| fresh.get(&key))
                .copied();
            let slot = known.unwrap_or_else(|| {
                let slot = (self.active.slots.len() + fresh.len()) as u32;
                let (table, schema) = (append.table, &append.schema);
                encoded.own(|own| records::encode_schema(own, salt, synced, slot, table, schema));
                encoded.theirs(&schema.ipc);
                fresh.insert(key, slot);
                slot
            });
            let start = encoded.bytes;
            encoded.own(|own| records::encode_batch(own, salt, synced, slot, sequence, append));
            for message in &append.messages {
                encoded.theirs(&message.header);
                encoded.theirs(&message.body);
            }
            encoded.places.push(Place {
                segment: self.active.number,
                offset: self.active.length + start,
                // Records are far smaller.
                bytes: u32::try_from(encoded.bytes - start).unwrap_or(u32::MAX),
            });
            sequence = sequence.next();
        }
        encoded.new_slots.extend(fresh);
        encoded
    }

    /// Writes and syncs; on a full disk puts the segment back as it was.
    fn append(&mut self, encoded: &Encoded) -> Result<(), Error> {
        match self.active.file.append(&mut encoded.slices()) {
            Ok(()) => {}
            Err(source) if out_of_space(&source) => return Err(self.back_out(source)),
            Err(source) => return Err(self.poison("write", source)),
        }
        self.active
            .file
            .sync()
            .map_err(|source| self.poison("sync", source))
    }

    /// After a write that ran out of space: cuts off what it left.
    fn back_out(&mut self, full: io::Error) -> Error {
        match self.active.cut() {
            Ok(()) => self.full(full),
            Err(source) => self.poison("cut after running out of space", source),
        }
    }

    fn full(&self, source: io::Error) -> Error {
        let directory = self.shared.directory.path.clone();
        warn!(directory = %directory.display(), "no space left for the write-ahead log");
        Error::Full {
            directory,
            source: Arc::new(source),
        }
    }

    fn poison(&mut self, doing: &'static str, source: io::Error) -> Error {
        let file = self.active.path.clone();
        error!(file = %file.display(), doing, error = %source, "write-ahead log is out of service");
        // The refused records must not come back as durable ones after a restart. This is the best
        // that can be done, and not relied upon: replay may still find them.
        if let Err(error) = self.active.file.truncate(self.active.length) {
            warn!(file = %file.display(), error = %error, "can't cut off refused records");
        }
        self.shared.set_poison(Error::Poisoned {
            doing,
            file,
            source: Arc::new(source),
        })
    }

    /// Starts the next segment. The old one is synced already, and is cut to what it holds before there
    /// is another behind it: then it must be whole.
    fn rotate(&mut self) -> Result<(), Error> {
        let cut = self.active.cut_rest();
        cut.map_err(|source| self.poison("cut at the end", source))?;
        let number = self.active.number + 1;
        match create_segment(&self.shared, number, self.next) {
            Ok(created) => {
                let old = std::mem::replace(&mut self.active, created);
                self.shared.seal(SealedSegment {
                    number: old.number,
                    salt: old.salt,
                    last_sequence: SequenceNumber(self.next.0 - 1),
                    bytes: old.length,
                });
                self.shared
                    .begin_active(self.active.number, self.active.salt);
                self.shared.set_active(self.active.bytes());
                Ok(())
            }
            Err(source) if out_of_space(&source) => {
                let directory = &self.shared.directory;
                let path = directory.segment_path(number);
                let removed = remove_if_there(directory.disk.as_ref(), &path);
                match removed.and_then(|()| directory.sync()) {
                    Ok(()) => Err(self.full(source)),
                    Err(source) => Err(self.poison("removal of the successor", source)),
                }
            }
            Err(source) => Err(self.poison("creation of the successor", source)),
        }
    }

    /// Says behind the last group that it was synced, so that damage of it is not taken for a torn tail.
    ///
    /// Tried once for each group: what finds no space is cut off again and does not matter, any other
    /// failure poisons the log as that of a group does.
    fn mark(&mut self) {
        self.active.is_unmarked = false;
        if self.shared.poison().is_some() {
            return;
        }
        let mut encoded = Encoded::default();
        let (salt, synced) = (self.active.salt, self.active.length);
        encoded.own(|own| records::encode_mark(own, salt, synced));
        match self.append(&encoded) {
            Ok(()) => {
                self.active.length += encoded.bytes;
                self.shared.set_active(self.active.bytes());
            }
            Err(error) => warn!(error = %error, "can't mark the end of the write-ahead log"),
        }
    }

    /// Leaves a segment that ends with a mark and holds nothing else.
    fn close(&mut self) {
        if self.active.is_unmarked {
            self.mark();
        }
        if self.shared.poison().is_some() || !self.active.holds_batches {
            return;
        }
        let cut = self.active.cut_rest();
        if let Err(error) = cut.map_err(|source| self.poison("cut at the end", source)) {
            warn!(error = %error, "can't cut the end of the write-ahead log");
        }
    }
}

impl Encoded {
    fn own(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.own.len();
        write(&mut self.own);
        let end = self.own.len();
        self.bytes += (end - start) as u64;
        match self.parts.last_mut() {
            Some(Part::Own(range)) => range.end = end,
            _ => self.parts.push(Part::Own(start..end)),
        }
    }

    /// Small messages are copied: one large write beats many small slices.
    fn theirs(&mut self, bytes: &Bytes) {
        const COPY_BYTES: usize = 4096;
        if bytes.len() <= COPY_BYTES {
            self.own(|own| own.extend_from_slice(bytes));
        } else {
            self.bytes += bytes.len() as u64;
            self.parts.push(Part::Theirs(bytes.clone()));
        }
    }

    fn slices(&self) -> Vec<IoSlice<'_>> {
        let slices = self.parts.iter().map(|part| match part {
            Part::Own(range) => IoSlice::new(&self.own[range.clone()]),
            Part::Theirs(bytes) => IoSlice::new(bytes),
        });
        slices.collect()
    }
}

/// Refuses a group and everything queued behind it, so that a writer that sends several records
/// ahead never has a later one stored without an earlier one.
///
/// All completions run before the queue is emptied, and the queue is emptied before anybody is told:
/// what is enqueued by somebody who knows of the refusal is a new attempt.
fn refuse(group: VecDeque<Request>, requests: &Receiver<Request>, error: &Error) {
    let mut settled: Vec<_> = group
        .into_iter()
        .map(|request| request.settle(Err(error)))
        .collect();
    settled.extend(
        requests
            .try_iter()
            .map(|request| request.settle(Err(error))),
    );
    for request in settled {
        request.reply(Err(error.clone()));
    }
}

/// A panic in a completion must not leave writers waiting for a thread that is gone.
struct PoisonOnPanic(Arc<Shared>, PathBuf);

impl Drop for PoisonOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let source = Arc::new(io::Error::other("the writer thread panicked"));
            let file = self.1.clone();
            self.0.set_poison(Error::Poisoned {
                doing: "completion",
                file,
                source,
            });
        }
    }
}
