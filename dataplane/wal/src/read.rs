//! Reading single records again, by their places, while the log is written to.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Error;
use crate::format::records::{self, Content, Unusable};
use crate::record::{Contents, Stored};
use crate::wal::Wal;

impl Wal {
    /// Reads a record that was appended or replayed by this process. Blocking; takes no lock that an append
    /// waits for. Every byte is checked.
    ///
    /// The caller sees to it that the record is not truncated meanwhile.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::UnknownVersion`]: the bytes are not what was written.
    /// [`Error::Segment`]: they could not be read, or the segment is no longer part of the log.
    pub fn read(&self, stored: Stored) -> Result<Contents, Error> {
        let Stored { sequence, place } = stored;
        let directory = &self.shared.directory;
        let file = directory.segment_path(place.segment);
        let failed = |source: io::Error| Error::Segment {
            doing: "read",
            file: file.clone(),
            source: Arc::new(source),
        };
        let salt = self.shared.salt(place.segment);
        let salt = salt.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let bytes = directory
            .disk
            .read_at(&file, place.offset, place.bytes as usize)
            .map_err(failed)?;
        let damaged = |problem| Error::Damaged {
            file: file.clone(),
            offset: place.offset,
            problem,
        };
        let frame = records::decode(&Bytes::from(bytes), 0, salt);
        let frame = frame.map_err(|unusable| match unusable {
            Unusable::Broken(problem) => damaged(problem),
            Unusable::Unknown { what, found } => Error::UnknownVersion {
                file: file.clone(),
                offset: place.offset,
                what,
                found,
            },
        })?;
        match frame.content {
            Content::Batch {
                sequence: found,
                table,
                producer,
                order,
                messages,
                ..
            } if found == sequence => Ok(Contents {
                table,
                producer,
                order,
                messages,
            }),
            _ => Err(damaged("another record is there")),
        }
    }
}
