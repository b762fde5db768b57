//! Whether bytes that are no record had been on disk: what records behind them tell.
//!
//! The tail of a segment may hold anything, also what a client sent to make a start slow. So each byte is
//! looked at a fixed number of times: the checksum of a head, however long it claims to be, is made of sums
//! that are computed once.

use std::cell::LazyCell;
use std::ops::Range;

use super::Reader;
use super::records::{FRAME_BYTES, KINDS};

/// What every head begins with: kind, slot and `synced`.
const LEAST_HEAD_BYTES: usize = 16;

/// Bytes between two sums: at most twice as many are read for one head. Two sums of 4 bytes each are kept
/// for as many, a thirty-second of the segment.
const STEP: usize = 256;

/// The polynomial of CRC-32C, its highest power left out; bit 31 is the power 0.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// Whether any record behind `offset` shows that the byte at `offset` had been on disk.
///
/// Only heads are checked: a head with the right salted checksum was written by us, whether its body is
/// there or not.
pub(crate) fn was_synced(segment: &[u8], offset: usize, salt: u64) -> bool {
    has_head(segment, offset, salt, |synced| synced > offset as u64)
}

/// Whether the bytes behind `offset` are of an older segment that was written over: it ended in a record, and
/// this one left its end and wrote none there itself.
pub(crate) fn is_of_older(segment: &[u8], offset: usize, salt: u64) -> bool {
    let last = segment.len().saturating_sub(FRAME_BYTES + LEAST_HEAD_BYTES);
    let ends = |at: usize| {
        let length = Reader(&segment[at..]).u32()?;
        let end = at.checked_add(FRAME_BYTES)?.checked_add(length as usize)?;
        (end == segment.len()).then_some(read_claim(segment, at)?)
    };
    (offset..=last).any(|at| ends(at).is_some()) && !has_head(segment, offset, salt, |_| true)
}

/// Whether behind `offset` there is a head that was written with this salt and says `synced` of the kind asked for.
fn has_head(segment: &[u8], offset: usize, salt: u64, wanted: impl Fn(u64) -> bool) -> bool {
    let salt_crc = crc32c::crc32c(&salt.to_le_bytes());
    // Most tails have short heads only.
    let sums = LazyCell::new(|| Sums::of(segment, offset));
    let last = segment.len().saturating_sub(FRAME_BYTES + LEAST_HEAD_BYTES);
    (offset..=last).any(|at| {
        let Some(Claim { head, crc, synced }) = read_claim(segment, at) else {
            return false;
        };
        if !wanted(synced) {
            return false;
        }
        let lengths = crc32c::crc32c_append(salt_crc, &segment[at..at + 12]);
        let found = match head.len() <= 2 * STEP {
            true => crc32c::crc32c_append(lengths, &segment[head]),
            false => sums.append(lengths, head),
        };
        found == crc
    })
}

/// What bytes that could be a record say of it.
struct Claim {
    /// Where its head is.
    head: Range<usize>,
    /// The checksum of that.
    crc: u32,
    /// What is before this was on disk.
    synced: u64,
}

/// Reads the record at `at`, if the bytes there could be one. Cheap: this runs for every byte of the tail.
fn read_claim(segment: &[u8], at: usize) -> Option<Claim> {
    let head_start = at + FRAME_BYTES;
    let start = segment.get(head_start..head_start + LEAST_HEAD_BYTES)?;
    if !KINDS.contains(&start[0]) || start[1..4] != [0; 3] {
        return None;
    }
    let mut frame = Reader(&segment[at..head_start]);
    let (length, head_bytes, _, crc) = (frame.u32()?, frame.u32()?, frame.u32()?, frame.u32()?);
    let synced = Reader(&start[8..]).u64()?;
    let head_end = head_start.checked_add(head_bytes as usize)?;
    let right = (LEAST_HEAD_BYTES as u32..=length).contains(&head_bytes)
        && head_end <= segment.len()
        && synced <= at as u64;
    right.then_some(Claim {
        head: head_start..head_end,
        crc,
        synced,
    })
}

/// Sums from which the checksum of any piece of a segment follows, whatever its length.
///
/// The state of a CRC is linear in what it was before and in the bytes: the state after a piece is that of
/// a start with zero, plus the state before, moved on over the piece. To move on by *n* bytes is to
/// multiply by x^(8 *n*).
struct Sums<'a> {
    segment: &'a [u8],
    /// Where they begin, a multiple of [`STEP`].
    base: usize,
    /// State at every step, begun with zero at `base`.
    states: Vec<u32>,
    /// x to the power of 8 for every byte of so many steps.
    powers: Vec<u32>,
}

impl<'a> Sums<'a> {
    /// For pieces that begin behind `offset`.
    fn of(segment: &'a [u8], offset: usize) -> Self {
        let base = offset / STEP * STEP;
        let (mut state, mut power) = (0, 1 << 31);
        let (mut states, mut powers) = (vec![state], vec![power]);
        // Over bytes that are zero a state is only moved on.
        let step = !crc32c::crc32c_append(!(1 << 31), &[0; STEP]);
        for piece in segment[base..].chunks_exact(STEP) {
            state = !crc32c::crc32c_append(!state, piece);
            power = times(power, step);
            states.push(state);
            powers.push(power);
        }
        Self {
            segment,
            base,
            states,
            powers,
        }
    }

    /// [`crc32c::crc32c_append`] of a piece of the segment, of more than two steps.
    fn append(&self, crc: u32, piece: Range<usize>) -> u32 {
        let first = (piece.start - self.base).div_ceil(STEP);
        let last = (piece.end - self.base) / STEP;
        let at = |step: usize| self.base + step * STEP;
        let state = !crc32c::crc32c_append(crc, &self.segment[piece.start..at(first)]);
        let moved = times(state ^ self.states[first], self.powers[last - first]);
        let state = moved ^ self.states[last];
        crc32c::crc32c_append(!state, &self.segment[at(last)..piece.end])
    }
}

/// The product of two polynomials, modulo that of the checksum.
fn times(mut a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    while a != 0 {
        if a >> 31 == 1 {
            product ^= b;
        }
        a <<= 1;
        b = (b >> 1) ^ if b & 1 == 1 { POLYNOMIAL } else { 0 };
    }
    product
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use proptest::prelude::*;

    use super::super::records::encode_mark;
    use super::*;

    const SALT: u64 = 0x1234_5678_9ABC_DEF0;

    proptest! {
        #[test]
        fn the_sums_give_the_checksum_of_any_piece(
            segment in proptest::collection::vec(any::<u8>(), 5 * STEP..20 * STEP),
            offset in 0..STEP * 2,
            (from, to) in (0.0..=1.0, 0.0..=1.0),
            before in any::<u32>(),
        ) {
            let between = |least: usize, most: usize, at: f64| least + ((most - least) as f64 * at) as usize;
            let start = between(offset, segment.len() - 2 * STEP, from);
            let end = between(start + 2 * STEP, segment.len(), to);
            let expected = crc32c::crc32c_append(before, &segment[start..end]);
            let sums = Sums::of(&segment, offset);
            prop_assert_eq!(sums.append(before, start..end), expected);
        }
    }

    /// A head of this many bytes at the end of `out`, which says that what is before `synced` was on disk.
    fn push_head(out: &mut Vec<u8>, head_bytes: usize, synced: u64) {
        let mut mark = Vec::new();
        encode_mark(&mut mark, SALT, synced);
        let mut head = mark.split_off(FRAME_BYTES);
        head.extend((head.len()..head_bytes).map(|byte| byte as u8));
        let mut frame = Vec::new();
        // The body is not there.
        frame.extend_from_slice(&(head_bytes as u32 + 1000).to_le_bytes());
        frame.extend_from_slice(&(head_bytes as u32).to_le_bytes());
        frame.extend_from_slice(&7_u32.to_le_bytes());
        let crc = crc32c::crc32c(&SALT.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &frame), &head);
        frame.extend_from_slice(&crc.to_le_bytes());
        out.extend(frame);
        out.extend(head);
    }

    #[test]
    fn a_head_of_any_length_is_evidence_of_what_is_before_its_group() {
        for head_bytes in [16, 28, 500, 512, 513, 1000, 1 << 20, 3 << 20] {
            let mut segment = vec![0xA5; 5000];
            push_head(&mut segment, head_bytes, 4000);
            for (offset, expected) in [(100, true), (3999, true), (4000, false), (4999, false)] {
                let found = was_synced(&segment, offset, SALT);
                assert_eq!(found, expected, "{head_bytes} bytes, {offset}");
                assert!(!was_synced(&segment, offset, SALT + 1));
            }
            let last = segment.len() - 1;
            segment[last] ^= 1;
            assert!(!was_synced(&segment, 100, SALT), "{head_bytes} bytes");
        }
    }

    /// Every 32 bytes begins what looks like a head, all of them long: to compute the checksum of each
    /// would be to read terabytes.
    #[test]
    fn data_that_looks_like_long_heads_is_read_once_and_hides_no_evidence() {
        let claims = |head_bytes: u32| {
            let numbers = [head_bytes, head_bytes, 0, 0, 1, 0, 200, 0];
            let frame = numbers.iter().flat_map(|number| number.to_le_bytes());
            frame.collect::<Vec<u8>>().repeat((8 << 20) / 32)
        };
        let started = std::time::Instant::now();
        for head_bytes in [1 << 20, 6 << 20] {
            let mut segment = vec![0; 500];
            segment.extend(claims(head_bytes));
            assert!(read_claim(&segment, 500).is_some());
            assert!(!was_synced(&segment, 100, SALT));
            push_head(&mut segment, 2000, 300);
            assert!(was_synced(&segment, 100, SALT));
            assert!(!was_synced(&segment, 300, SALT));
        }
        let took = started.elapsed();
        assert!(took.as_secs() < 120, "{took:?}");
    }
}
