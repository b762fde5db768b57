//! Finding the files of a time range without looking at the others.
//!
//! A file holds an interval of times, and an index is sorted by one end of it: asked for a range in the
//! middle, the index alone gives everything after it as well. So each file has a class by the length of
//! its interval. Within a class no interval is longer than the class allows, so those that touch a range
//! end in it or shortly after it: one stretch of the index for each class.

/// Classes: lengths up to 16^class nanoseconds; the last one has no limit.
const CLASSES: u32 = 16;

/// The class of a file by the first and the last time in it.
pub(super) fn class((first, last): (i64, i64)) -> i64 {
    // As unsigned, for the distance of two times may not fit a signed number.
    let bits = u64::BITS - last.wrapping_sub(first).cast_unsigned().leading_zeros();
    i64::from(bits.div_ceil(4))
}

/// For each class the last time at which a file can end that touches a range up to `to`.
pub(super) fn latest_ends(to: i64) -> impl Iterator<Item = i64> {
    (0..=CLASSES).map(move |class| {
        let longest = 1_u64.checked_shl(4 * class).map_or(u64::MAX, |one| one - 1);
        to.saturating_add_unsigned(longest)
    })
}

/// Files with the times `$2` to `$3`: `select`, which ends in a condition, once for each class. The ends
/// of [`latest_ends`] are bound from `$4` on.
pub(super) fn touching(select: &str) -> String {
    let classes = (0..=CLASSES).map(|class| {
        let latest = class + 4;
        format!(
            "{select} AND time_class = {class} AND time_max_nanos BETWEEN $2 AND ${latest} \
             AND time_min_nanos <= $3"
        )
    });
    classes.collect::<Vec<_>>().join(" UNION ALL ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    /// Whether a file is in the stretch of its class, as the statement asks for it.
    fn is_looked_at(file: (i64, i64), from: i64, to: i64) -> bool {
        let class = usize::try_from(class(file)).unwrap();
        let latest = latest_ends(to).nth(class).unwrap();
        file.1 >= from && file.1 <= latest
    }

    #[test]
    fn every_file_that_touches_a_range_is_in_the_stretch_of_its_class() {
        let edges = [
            i64::MIN,
            i64::MIN + 1,
            -5,
            -1,
            0,
            1,
            2,
            3,
            4,
            5,
            16,
            17,
            1 << 40,
        ];
        let edges = edges.into_iter().chain([i64::MAX - 1, i64::MAX]);
        let edges: Vec<i64> = edges.collect();
        let mut touched = 0;
        for first in &edges {
            for last in edges.iter().filter(|last| *last >= first) {
                for from in &edges {
                    for to in edges.iter().filter(|to| *to >= from) {
                        if first <= to && last >= from {
                            let file = (*first, *last);
                            assert!(is_looked_at(file, *from, *to), "{file:?} {from} {to}");
                            touched += 1;
                        }
                    }
                }
            }
        }
        assert!(touched > 9_000, "{touched}");
    }

    #[test]
    fn files_that_end_later_than_their_class_allows_are_not_looked_at() {
        let second = 1_000_000_000;
        let file = |start: i64| (start * second, (start + 1) * second - 1);
        assert!(is_looked_at(file(100), 100 * second, 101 * second));
        assert!(is_looked_at(file(101), 100 * second, 101 * second));
        // 16^8 nanoseconds are 4.3 seconds.
        assert!(is_looked_at(file(104), 100 * second, 101 * second));
        assert!(!is_looked_at(file(105), 100 * second, 101 * second));
        assert!(!is_looked_at(file(98), 100 * second, 101 * second));
    }
}
