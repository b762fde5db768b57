//! The bytes of a segment file, of every version ever written; each has a stored sample.

pub(crate) mod evidence;
pub(crate) mod header;
pub(crate) mod records;

/// First bytes of every segment, of every version. The line break catches text-mode copies.
pub(crate) const MAGIC: [u8; 8] = *b"FCWAL\0\r\n";

/// The version in the first bytes of a segment; `None` when it is no segment at all.
pub(crate) fn version(bytes: &[u8]) -> Option<u16> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    Some(u16::from_le_bytes([*rest.first()?, *rest.get(1)?]))
}

/// Takes numbers off the front of a slice; `None` when it is too short.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
