//! Replay: reads every segment once, in order, and decides what the end of the last one means.
//!
//! Nothing on disk is changed before everything was read and found right ([`Recovery::finish`]).

use std::collections::HashMap;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tracing::{info, warn};

use crate::directory::WalDirectory;
use crate::disk::{PAGE_BYTES, remove_if_there, replace};
use crate::error::Error;
use crate::format::evidence::{is_of_older, was_synced};
use crate::format::header::{self, Header};
use crate::format::records::{self, Content, Unusable};
use crate::format::{self, MAGIC};
use crate::label::CatalogState;
use crate::record::{Place, Record, SchemaDefinition, SequenceNumber};
use crate::wal::{Observer, SealedSegment, Wal, WalOptions};

/// What is logged when the last segment is removed.
pub(crate) const UNFINISHED: &str = "removing segment without a header";
/// What is logged when the end of the last segment is cut off.
pub(crate) const TORN: &str = "cutting what follows the last whole record: it may hold a group that was \
                               being written when the process ended; nothing of it was acknowledged, unless \
                               the disk damaged it afterwards";

/// Whose log it is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Id of the ingester in the catalog; a log of another one is refused.
    pub ingester_id: u64,
    /// Its name, for people who look at the file.
    pub ingester_name: String,
    /// The life of the ingester that writes from now on.
    pub epoch: u64,
    /// The highest sequence number the catalog was told of: a new log continues after it, a log that
    /// ends before it is refused ([`Error::Behind`]).
    pub known: SequenceNumber,
    /// The newest state of the catalog, to be remembered.
    pub catalog: CatalogState,
}

/// A replay in progress.
#[derive(Debug)]
pub struct Recovery {
    directory: WalDirectory,
    identity: Identity,
    /// Segments of before the oldest that is needed, with a hole behind them.
    came_back: Vec<u64>,
    numbers: VecDeque<u64>,
    open: Option<OpenSegment>,
    /// Segments read to their end.
    sealed: Vec<SealedSegment>,
    /// The next sequence number; unknown before the first header was read.
    expected: Option<SequenceNumber>,
    repair: Option<Repair>,
    last_number: u64,
    records: u64,
}

/// The segment being read.
#[derive(Debug)]
struct OpenSegment {
    number: u64,
    file: PathBuf,
    bytes: Bytes,
    offset: usize,
    salt: u64,
    schemas: HashMap<u32, (u64, Arc<SchemaDefinition>)>,
    is_last: bool,
}

/// What is to be done to the last segment before the log can be used.
#[derive(Debug)]
enum Repair {
    /// Its creation was interrupted before it held anything.
    Remove { number: u64 },
    /// Write it anew, as far as it is right.
    Rewrite { number: u64, content: Bytes },
}

impl Recovery {
    pub(crate) fn new(
        directory: WalDirectory,
        came_back: Vec<u64>,
        numbers: Vec<u64>,
        identity: Identity,
    ) -> Self {
        Self {
            directory,
            identity,
            came_back,
            last_number: numbers.last().copied().unwrap_or(0),
            numbers: numbers.into(),
            open: None,
            sealed: Vec::new(),
            expected: None,
            repair: None,
            records: 0,
        }
    }

    /// The next record in sequence order, `None` after the last. Blocking.
    ///
    /// # Errors
    /// Damage, gaps and unknown versions; see [`Error`]. Nothing was changed; the same error comes
    /// again on the next start.
    pub fn next_record(&mut self) -> Result<Option<Record>, Error> {
        let placed = self.next_placed()?;
        Ok(placed.map(|(record, _)| record))
    }

    /// The next record and where it is, as [`Recovery::next_record`]. Places are of use to the [`Wal`] that
    /// this replay becomes.
    ///
    /// # Errors
    /// Those of [`Recovery::next_record`].
    pub fn next_placed(&mut self) -> Result<Option<(Record, Place)>, Error> {
        loop {
            let Some(mut segment) = self.open.take() else {
                match self.numbers.pop_front() {
                    None => return Ok(None),
                    Some(number) => self.open = self.open_segment(number)?,
                }
                continue;
            };
            let record = self.read_record(&mut segment)?;
            match record {
                Some(record) => {
                    self.open = Some(segment);
                    self.records += 1;
                    return Ok(Some(record));
                }
                None => self.seal(&segment),
            }
        }
    }

    /// Reads what is left, repairs the end of the last segment, and opens a new one to write to.
    /// Blocking.
    ///
    /// # Errors
    /// Those of [`Recovery::next_record`], and failures to cut, sync or create.
    pub fn finish(
        mut self,
        options: WalOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Wal, Error> {
        while self.next_record()?.is_some() {}
        let next = self.next_sequence()?;
        self.repair()?;
        self.remove_what_came_back()?;
        info!(
            directory = %self.directory.path.display(),
            records = self.records,
            segments = self.sealed.len(),
            next_sequence = next.0,
            "write-ahead log replayed"
        );
        let (number, sealed) = (self.last_number + 1, self.sealed);
        Wal::start(
            self.directory,
            self.identity,
            options,
            observer,
            sealed,
            number,
            next,
        )
    }

    /// Durably, before a span is noted that knows nothing of them: where it does not count, nothing tells that they are
    /// not needed.
    fn remove_what_came_back(&self) -> Result<(), Error> {
        for number in &self.came_back {
            let file = self.directory.segment_path(*number);
            warn!(file = %file.display(), "removing segment that was removed before");
            let removed = remove_if_there(self.directory.disk.as_ref(), &file);
            let removed = removed.and_then(|()| self.directory.sync());
            removed.map_err(|source| Error::Segment {
                doing: "remove",
                file,
                source: Arc::new(source),
            })?;
        }
        Ok(())
    }

    fn next_sequence(&self) -> Result<SequenceNumber, Error> {
        let known = self.identity.known;
        match self.expected {
            None => Ok(known.next()),
            Some(next) if next <= known => Err(Error::Behind {
                directory: self.directory.path.clone(),
                last: next.0 - 1,
                known: known.0,
            }),
            Some(next) => Ok(next),
        }
    }

    /// Reads a segment into memory and checks its header. `None` when it is the last one and its
    /// creation was interrupted.
    fn open_segment(&mut self, number: u64) -> Result<Option<OpenSegment>, Error> {
        let file = self.directory.segment_path(number);
        let bytes = self
            .directory
            .disk
            .read(&file)
            .map_err(|source| Error::Segment {
                doing: "read",
                file: file.clone(),
                source: Arc::new(source),
            })?;
        let bytes = Bytes::from(bytes);
        let is_last = self.numbers.is_empty();
        let may_be_unfinished = is_last && !self.directory.is_noted(number);
        if may_be_unfinished && is_unfinished(&bytes, &self.identity.ingester_name) {
            warn!(file = %file.display(), bytes = bytes.len(), "{UNFINISHED}");
            self.repair = Some(Repair::Remove { number });
            return Ok(None);
        }
        let (header, offset) = decode_header(&bytes, &file)?;
        self.check_header(&header, number, &file)?;
        self.expected = Some(header.first_sequence);
        let salt = header.salt;
        let schemas = HashMap::new();
        Ok(Some(OpenSegment {
            number,
            file,
            bytes,
            offset,
            salt,
            schemas,
            is_last,
        }))
    }

    fn check_header(&self, header: &Header, number: u64, file: &Path) -> Result<(), Error> {
        if header.segment != number {
            let problem = "its header names another segment number";
            return Err(Error::Damaged {
                file: file.to_owned(),
                offset: 16,
                problem,
            });
        }
        if header.ingester_id != self.identity.ingester_id {
            return Err(Error::OtherIngester {
                file: file.to_owned(),
                found: header.ingester_id,
                found_name: header.ingester_name.clone(),
                expected: self.identity.ingester_id,
            });
        }
        if let Some((found, _)) = header.log
            && found != self.directory.id
        {
            return Err(Error::OtherLog {
                file: file.to_owned(),
                found,
                expected: self.directory.id,
            });
        }
        match self.expected {
            Some(expected) if expected != header.first_sequence => Err(Error::SequenceGap {
                file: file.to_owned(),
                offset: 24,
                expected: expected.0,
                found: header.first_sequence.0,
            }),
            _ => Ok(()),
        }
    }

    /// The next batch of a segment; `None` at its end.
    fn read_record(&mut self, segment: &mut OpenSegment) -> Result<Option<(Record, Place)>, Error> {
        loop {
            let rest = &segment.bytes[segment.offset..];
            if rest.iter().all(|byte| *byte == 0) {
                self.end_at_zeros(segment);
                return Ok(None);
            }
            let frame = match records::decode(&segment.bytes, segment.offset, segment.salt) {
                Ok(frame) => frame,
                Err(unusable) => {
                    self.judge_end(segment, unusable)?;
                    return Ok(None);
                }
            };
            let offset = segment.offset;
            segment.offset += frame.bytes;
            match frame.content {
                Content::Mark => {}
                Content::Schema {
                    slot,
                    table,
                    version,
                    ipc,
                } => {
                    let schema = SchemaDefinition { version, ipc };
                    segment.schemas.insert(slot, (table, Arc::new(schema)));
                }
                Content::Batch {
                    slot,
                    table,
                    sequence,
                    rows,
                    stamp_nanos,
                    producer,
                    order,
                    messages,
                } => {
                    self.check_sequence(segment, offset, sequence)?;
                    let schema = segment.schema(slot, table, offset)?;
                    let place = Place {
                        segment: segment.number,
                        offset: offset as u64,
                        bytes: u32::try_from(frame.bytes).unwrap_or(u32::MAX),
                    };
                    let record = Record {
                        sequence,
                        table,
                        schema,
                        rows,
                        stamp_nanos,
                        producer,
                        order,
                        messages,
                    };
                    return Ok(Some((record, place)));
                }
            }
        }
    }

    fn check_sequence(
        &mut self,
        segment: &OpenSegment,
        offset: usize,
        found: SequenceNumber,
    ) -> Result<(), Error> {
        let expected = self.expected.unwrap_or(found);
        if expected != found {
            return Err(Error::SequenceGap {
                file: segment.file.clone(),
                offset: offset as u64,
                expected: expected.0,
                found: found.0,
            });
        }
        self.expected = Some(found.next());
        Ok(())
    }

    /// Decides about bytes that are no record: a torn tail is noted for cutting, anything else is
    /// an error.
    fn judge_end(&mut self, segment: &OpenSegment, unusable: Unusable) -> Result<(), Error> {
        let (file, offset) = (segment.file.clone(), segment.offset);
        let problem = match unusable {
            Unusable::Unknown { what, found } => {
                return Err(Error::UnknownVersion {
                    file,
                    offset: offset as u64,
                    what,
                    found,
                });
            }
            Unusable::Broken(problem) => problem,
        };
        if !segment.is_last || was_synced(&segment.bytes, offset, segment.salt) {
            return Err(Error::Damaged {
                file,
                offset: offset as u64,
                problem,
            });
        }
        let dropped_bytes = segment.bytes.len() - offset;
        let file = file.display();
        if is_padding(&segment.bytes, offset, segment.salt) {
            info!(%file, offset, dropped_bytes, "cutting zeros and what an older segment left behind them");
        } else {
            warn!(
                %file,
                offset,
                dropped_bytes,
                problem,
                "{TORN}"
            );
        }
        self.end_segment(segment);
        Ok(())
    }

    /// No space is reserved for records. Zeros up to the end are a group whose bytes did not get to the disk,
    /// or got lost there, or the padding of the last page of an older segment: these can't be told apart.
    ///
    /// In a segment that has a successor nothing can be missing unseen: that names its first record.
    fn end_at_zeros(&mut self, segment: &OpenSegment) {
        let (offset, dropped_bytes) = (segment.offset, segment.bytes.len() - segment.offset);
        if segment.is_last && dropped_bytes > 0 {
            let (file, problem) = (segment.file.display(), "there are only zeros");
            warn!(%file, offset, dropped_bytes, problem, "{TORN}");
        }
        self.end_segment(segment);
    }

    fn end_segment(&mut self, segment: &OpenSegment) {
        if segment.is_last {
            let (number, content) = (segment.number, segment.bytes.slice(..segment.offset));
            self.repair = Some(Repair::Rewrite { number, content });
        }
    }

    fn seal(&mut self, segment: &OpenSegment) {
        let last_sequence = SequenceNumber(self.expected.map_or(0, |next| next.0 - 1));
        let bytes = segment.offset as u64;
        self.sealed.push(SealedSegment {
            number: segment.number,
            salt: segment.salt,
            last_sequence,
            bytes,
        });
    }

    /// Puts the last segment into the state the replay took it for, durably.
    ///
    /// It is written anew, and not only synced: replay may have read pages that are not on the disk, and
    /// after a sync that failed, in this process or one before, a further sync does not write them.
    fn repair(&mut self) -> Result<(), Error> {
        let Some(repair) = self.repair.take() else {
            return Ok(());
        };
        let disk = self.directory.disk.as_ref();
        let (doing, number, result) = match repair {
            Repair::Remove { number } => {
                self.last_number = number - 1;
                let removed = disk.remove(&self.directory.segment_path(number));
                (
                    "remove",
                    number,
                    removed.and_then(|()| self.directory.sync()),
                )
            }
            Repair::Rewrite { number, content } => {
                let file = self.directory.segment_path(number);
                ("rewrite", number, replace(disk, &file, &content))
            }
        };
        result.map_err(|source| Error::Segment {
            doing,
            file: self.directory.segment_path(number),
            source: Arc::new(source),
        })
    }
}

impl OpenSegment {
    fn schema(&self, slot: u32, table: u64, offset: usize) -> Result<Arc<SchemaDefinition>, Error> {
        let known = self.schemas.get(&slot).filter(|(of, _)| *of == table);
        known
            .map(|(_, schema)| Arc::clone(schema))
            .ok_or_else(|| Error::Damaged {
                file: self.file.clone(),
                offset: offset as u64,
                problem: "the record names a schema that the segment does not hold",
            })
    }
}

/// Whether the bytes at `offset` are the zeros with which an append over an older segment fills its last page:
/// no record was begun there. No record begins with zeros, which would be its length.
///
/// A group whose first page was lost begins with zeros as well, so what is behind them must be of an older segment.
fn is_padding(segment: &[u8], offset: usize, salt: u64) -> bool {
    const LENGTH_BYTES: usize = 4;
    let page_end = offset.next_multiple_of(PAGE_BYTES as usize);
    let page_end = page_end.min(segment.len());
    let padding = &segment[offset..page_end];
    padding.len() >= LENGTH_BYTES
        && padding.iter().all(|byte| *byte == 0)
        && is_of_older(segment, page_end, salt)
}

/// A file whose creation was interrupted: no longer than a header, and no whole header.
///
/// The header is synced before a record is written, so nothing can be lost with such a file. Any
/// part of it may be missing, as zeros or by the file being short.
fn is_unfinished(bytes: &[u8], ingester_name: &str) -> bool {
    let newer = format::version(bytes).is_some_and(|found| found > header::VERSION);
    let short = bytes.len() <= Header::encoded_bytes(ingester_name);
    let zeros = bytes.iter().all(|byte| *byte == 0);
    zeros || (short && !newer && Header::decode(bytes).is_none())
}

fn decode_header(bytes: &[u8], file: &Path) -> Result<(Header, usize), Error> {
    let damaged = |problem| Error::Damaged {
        file: file.to_owned(),
        offset: 0,
        problem,
    };
    match format::version(bytes) {
        None => Err(damaged("it does not begin like a segment")),
        Some(1..=header::VERSION) => {
            Header::decode(bytes).ok_or_else(|| damaged("the checksum of its header is wrong"))
        }
        Some(found) => Err(Error::UnknownVersion {
            file: file.to_owned(),
            offset: MAGIC.len() as u64,
            what: "format version",
            found: found.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u64 = 7;

    /// Records that may be the rest of a segment with this salt.
    fn records(salt: u64) -> Vec<u8> {
        let mut records = vec![9; 300];
        for synced in [100, 200] {
            records::encode_mark(&mut records, salt, synced);
        }
        records
    }

    #[test]
    fn only_zeros_up_to_the_end_of_a_page_are_padding() {
        let page = PAGE_BYTES as usize;
        let mut segment = [vec![1; 100], vec![0; page - 100], records(SALT + 1)].concat();
        let is_padding = |segment: &[u8], offset| is_padding(segment, offset, SALT);
        assert!(is_padding(&segment, 100));
        assert!(is_padding(&segment, page - 4));
        assert!(!is_padding(&segment, page - 3), "a length may begin so");
        assert!(!is_padding(&segment, page));
        assert!(!is_padding(&segment, 99));
        segment[page - 1] = 1;
        assert!(!is_padding(&segment, 100));
    }

    /// The group may have been acknowledged.
    #[test]
    fn zeros_in_front_of_what_is_of_no_older_segment_are_no_padding() {
        let page = PAGE_BYTES as usize;
        let behind = |rest: Vec<u8>| {
            let segment = [vec![1; 100], vec![0; page - 100], rest].concat();
            is_padding(&segment, 100, SALT)
        };
        assert!(behind(records(SALT + 1)));
        assert!(!behind(vec![9; 5000]), "the body of a record");
        assert!(!behind(records(SALT)), "later records of the group");
        let both = [records(SALT), records(SALT + 1)].concat();
        assert!(!behind(both), "a group in front of an older segment");
        assert!(!behind(vec![0; 5000]));
    }
}
