//! Small files beside the segments, each read and written whole.
//!
//! Magic (8 bytes), version (2), zeros (2), length of the file (4), content, and the CRC of all bytes before:
//! the same in every version of each of them, so that one of a newer release is told from a damaged one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, replace};
use crate::error::Error;
use crate::format::Reader;

const HEAD_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// A kind of such files.
pub(crate) struct SmallFile {
    pub(crate) name: &'static str,
    pub(crate) magic: [u8; 8],
    /// The newest version this release knows.
    pub(crate) version: u16,
    /// The error for bytes that are not as they were written.
    pub(crate) damaged: fn(PathBuf) -> Error,
}

impl SmallFile {
    /// What `decode` makes of the content, in a directory with these files; `None` when the file is not there.
    /// Content for which `decode` has nothing is damaged.
    pub(crate) fn read<T>(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        names: &[String],
        decode: fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        if !names.iter().any(|name| name == self.name) {
            return Ok(None);
        }
        let file = directory.join(self.name);
        let bytes = disk.read(&file).map_err(|source| Error::Segment {
            doing: "read",
            file: file.clone(),
            source: Arc::new(source),
        })?;
        match self.open(&bytes) {
            Some((found, _)) if found > self.version => Err(Error::UnknownVersion {
                file,
                offset: self.magic.len() as u64,
                what: "format version",
                found: found.into(),
            }),
            Some((_, content)) => match decode(content) {
                Some(content) => Ok(Some(content)),
                None => Err((self.damaged)(file)),
            },
            None => Err((self.damaged)(file)),
        }
    }

    /// Puts this content in the place of the one before, durably. Blocking.
    pub(crate) fn write(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        content: &[u8],
    ) -> io::Result<()> {
        replace(disk, &directory.join(self.name), &self.close(content))
    }

    fn close(&self, content: &[u8]) -> Vec<u8> {
        let length = HEAD_BYTES + content.len() + CRC_BYTES;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(&self.magic);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&0_u16.to_le_bytes());
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(content);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Version and content of a file that is as it was written, also of a version this release does not know.
    fn open<'a>(&self, bytes: &'a [u8]) -> Option<(u16, &'a [u8])> {
        let mut head = Reader(bytes.strip_prefix(&self.magic)?);
        let (version, _, length) = (head.u16()?, head.u16()?, head.u32()?);
        let (covered, crc) = bytes.split_last_chunk()?;
        let whole =
            bytes.len() == length as usize && crc32c::crc32c(covered) == u32::from_le_bytes(*crc);
        whole.then_some((version, covered.get(HEAD_BYTES..)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_reads_back_and_a_changed_byte_is_noticed() {
        let kind = SmallFile {
            name: "small",
            magic: *b"SMALL\0\r\n",
            version: 3,
            damaged: |file| Error::DamagedLabel { file },
        };
        let bytes = kind.close(b"content");
        assert_eq!(kind.open(&bytes), Some((3, b"content".as_slice())));
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            // Only the two zeros, the CRC and what it covers are there.
            assert_eq!(kind.open(&changed), None, "byte {at}");
            assert_eq!(kind.open(&bytes[..at]), None, "{at} bytes");
        }
    }
}
