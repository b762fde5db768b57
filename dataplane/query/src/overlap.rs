//! Which files of a table with a primary key may hold a key that is elsewhere too.
//!
//! The time is part of every key: rows of one key have one time. A file holds each key once. So a file
//! whose times are those of no other file and of no fresh row shares no key, and is read as it is.
//!
//! Everything here may only err in one direction: a file may be called shared that is not.

use flightcluster_catalog::File;

/// The times of the fresh rows of a table, in nanoseconds since the Unix epoch.
#[derive(Debug)]
pub(crate) enum FreshTimes {
    /// Not all can be told.
    Unknown,
    /// All of them, sorted.
    Sorted(Vec<i64>),
}

impl FreshTimes {
    /// The times of all these rows; `None` when one can't be told.
    pub(crate) fn of(times: Option<Vec<i64>>) -> Self {
        match times {
            Some(mut times) => {
                times.sort_unstable();
                Self::Sorted(times)
            }
            None => Self::Unknown,
        }
    }

    fn any_within(&self, (low, high): (i64, i64)) -> bool {
        match self {
            Self::Unknown => true,
            Self::Sorted(times) => {
                times.partition_point(|time| *time < low)
                    < times.partition_point(|time| *time <= high)
            }
        }
    }
}

/// Files by whether their keys may be elsewhere too.
#[derive(Debug, Default)]
pub(crate) struct Split<'a> {
    /// Their keys are nowhere else.
    pub(crate) clean: Vec<&'a File>,
    /// The others.
    pub(crate) shared: Vec<&'a File>,
}

/// Sorts the files a scan reads; `fresh` are the times of all its fresh rows.
pub(crate) fn split<'a>(files: &[&'a File], fresh: &FreshTimes) -> Split<'a> {
    let mut ranged = Vec::with_capacity(files.len());
    for file in files {
        match file.file.time_range_nanos {
            Some(range) => ranged.push((range, *file)),
            // It may hold any time.
            None => {
                let (clean, shared) = (Vec::new(), files.to_vec());
                return Split { clean, shared };
            }
        }
    }
    ranged.sort_by_key(|(range, _)| *range);
    let mut split = Split::default();
    let mut highest = None;
    for (at, (range, file)) in ranged.iter().enumerate() {
        let after = ranged.get(at + 1).map(|(next, _)| next.0);
        let touches_before = highest.is_some_and(|highest| range.0 <= highest);
        let touches_after = after.is_some_and(|low| low <= range.1);
        match touches_before || touches_after || fresh.any_within(*range) {
            true => split.shared.push(file),
            false => split.clean.push(file),
        }
        highest = highest.max(Some(range.1));
    }
    split
}

#[cfg(test)]
mod tests {
    use flightcluster_catalog::{NewFile, SchemaVersion, SequenceNumber, SnapshotId, TableId};

    use super::*;

    fn file(id: u64, range: Option<(i64, i64)>) -> File {
        File {
            id,
            ingester: None,
            file: NewFile {
                table: TableId(1),
                path: String::new(),
                size_bytes: 1,
                rows: 1,
                schema_version: SchemaVersion(1),
                first_sequence: SequenceNumber(1),
                last_sequence: SequenceNumber(1),
                time_range_nanos: range,
                sorted: false,
            },
            begin_snapshot: SnapshotId(1),
        }
    }

    fn clean(ranges: &[Option<(i64, i64)>], fresh: Option<&[i64]>) -> Vec<u64> {
        let files = ranges.iter().zip(0..).map(|(range, id)| file(id, *range));
        let files: Vec<File> = files.collect();
        let fresh = FreshTimes::of(fresh.map(<[i64]>::to_vec));
        let split = split(&files.iter().collect::<Vec<_>>(), &fresh);
        assert_eq!(split.clean.len() + split.shared.len(), files.len());
        split.clean.iter().map(|file| file.id).collect()
    }

    #[test]
    fn a_file_is_clean_when_no_other_and_no_fresh_row_has_one_of_its_times() {
        let ranges = [Some((30, 40)), Some((0, 9)), Some((10, 20)), Some((20, 25))];
        assert_eq!(clean(&ranges, Some(&[])), [1, 0]);
        assert_eq!(clean(&ranges, Some(&[50, 9])), [0]);
        assert_eq!(clean(&ranges, Some(&[26, 41])), [1, 0]);
        assert_eq!(clean(&ranges, None), [0_u64; 0]);
        assert_eq!(clean(&[Some((0, 9)), None], Some(&[])), [0_u64; 0]);
        // One long file touches many short ones, also those that do not follow it.
        let long = [
            Some((0, 100)),
            Some((10, 11)),
            Some((20, 21)),
            Some((101, 102)),
        ];
        assert_eq!(clean(&long, Some(&[])), [3]);
    }

    #[test]
    fn no_time_of_a_clean_file_is_anywhere_else() {
        let mut state = 7_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let mut found = 0;
        for _ in 0..2000 {
            let range = |low: u64, more: u64| Some((low as i64, (low + more) as i64));
            let ranges: Vec<_> = (0..next(6)).map(|_| range(next(60), next(8))).collect();
            let fresh: Vec<i64> = (0..next(4)).map(|_| next(60) as i64).collect();
            for id in clean(&ranges, Some(&fresh)) {
                found += 1;
                let at = usize::try_from(id).unwrap_or_default();
                let Some((low, high)) = ranges[at] else {
                    continue;
                };
                let mut others = ranges.iter().enumerate().filter(|(other, _)| *other != at);
                assert!(!others.any(|(_, r)| r.is_some_and(|r| r.0 <= high && low <= r.1)));
                assert!(!fresh.iter().any(|time| (low..=high).contains(time)));
            }
        }
        assert!(found > 1000);
    }
}
