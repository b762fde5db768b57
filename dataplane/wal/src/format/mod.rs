//! The bytes of a segment file. Every version ever written has a module here and a stored sample.

pub(crate) mod v1;

/// First bytes of every segment, of every version. The line break catches text-mode copies.
pub(crate) const MAGIC: [u8; 8] = *b"FCWAL\0\r\n";

/// The version in the first bytes of a segment; `None` when it is no segment at all.
pub(crate) fn version(bytes: &[u8]) -> Option<u16> {
    let rest = bytes.strip_prefix(&MAGIC)?;
    Some(u16::from_le_bytes([*rest.first()?, *rest.get(1)?]))
}
