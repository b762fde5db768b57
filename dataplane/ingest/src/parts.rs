//! Bytes written one after the other, kept in pieces: a file grows without being copied, and its
//! pieces are the parts of an upload.

use std::io;

use bytes::Bytes;

/// Size of every piece but the last. Object stores take parts from 5 MiB.
pub(crate) const PART_BYTES: usize = 8 << 20;

/// See the module documentation.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    full: Vec<Bytes>,
    last: Vec<u8>,
}

impl Parts {
    /// The pieces in order; none is empty.
    pub(crate) fn into_pieces(mut self) -> Vec<Bytes> {
        if !self.last.is_empty() {
            self.full.push(Bytes::from(self.last));
        }
        self.full
    }
}

impl io::Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PART_BYTES - self.last.len());
        self.last.extend_from_slice(&bytes[..taken]);
        if self.last.len() == PART_BYTES {
            self.full.push(Bytes::from(std::mem::take(&mut self.last)));
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use std::io::Write as _;

    use super::*;

    #[test]
    fn pieces_are_full_but_for_the_last_and_hold_what_was_written() {
        let written: Vec<u8> = (0..PART_BYTES * 2 + 5).map(|n| (n % 251) as u8).collect();
        for (length, sizes) in [
            (0, vec![]),
            (5, vec![5]),
            (PART_BYTES, vec![PART_BYTES]),
            (PART_BYTES * 2 + 5, vec![PART_BYTES, PART_BYTES, 5]),
        ] {
            let mut parts = Parts::default();
            for piece in written[..length].chunks(1_000_003) {
                parts.write_all(piece).unwrap();
            }
            let pieces = parts.into_pieces();
            assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), sizes);
            assert_eq!(pieces.concat(), written[..length]);
        }
    }
}
