//! How the files that may share keys are read, so that little of them is sorted.
//!
//! Files made from other files are sorted by key, and so are those of a flush. Sorted files, in lanes in
//! which one follows the other in time, only need to be merged. Others, which an older release wrote,
//! have their rows in the order they came in. Pure.

use std::cmp::Reverse;

use flightcluster_catalog::File;

use crate::times::TimeRange;

/// Most lanes: each has a file open.
const MAX_LANES: usize = 16;

/// Most files in lanes: each is a node of the plan.
const MAX_FILES: usize = 256;

/// Fewest bytes worth a part of their own.
const PART_BYTES: u64 = if cfg!(test) { 200 } else { 4 << 20 };

/// Files by how they are read.
#[derive(Debug, Default)]
pub(super) struct Lanes<'a> {
    /// Sorted by key, each lane in order of time and without a time in two of its files.
    pub(super) sorted: Vec<Vec<&'a File>>,
    /// What is sorted when it is read.
    pub(super) loose: Vec<&'a File>,
}

impl<'a> Lanes<'a> {
    /// Of the files a scan reads.
    pub(super) fn of(files: Vec<&'a File>) -> Self {
        let mut ranged = Vec::new();
        let mut lanes = Self::default();
        for file in files {
            match file.file.time_range_nanos {
                Some(range) if file.is_sorted() => ranged.push((range, file)),
                _ => lanes.loose.push(file),
            }
        }
        // What was rewritten goes first: it is most of the rows, and lies one after the other. Small files of
        // flushes, which may have all times, must not take the lanes from it.
        ranged.sort_by_key(|(range, file)| match file.ingester {
            None => (false, Reverse(0), *range),
            Some(_) => (true, Reverse(file.file.size_bytes), *range),
        });
        for (number, (range, file)) in ranged.into_iter().enumerate() {
            let free = lanes.sorted.iter().position(|lane| is_free(lane, range));
            match free {
                _ if number >= MAX_FILES => lanes.loose.push(file),
                Some(at) => lanes.sorted[at].push(file),
                None if lanes.sorted.len() < MAX_LANES => lanes.sorted.push(vec![file]),
                None => lanes.loose.push(file),
            }
        }
        for lane in &mut lanes.sorted {
            lane.sort_by_key(|file| file.file.time_range_nanos);
        }
        // Many threads sort faster than one merges.
        if bytes(lanes.sorted.iter().flatten()) < bytes(&lanes.loose) {
            lanes.loose.extend(lanes.sorted.drain(..).flatten());
        }
        lanes
    }

    /// Of files whose times say nothing about their order.
    pub(super) fn loose(files: Vec<&'a File>) -> Self {
        Self {
            sorted: Vec::new(),
            loose: files,
        }
    }

    /// Times that can be merged at once, at most `most` parts of about as many bytes of the lanes. All
    /// loose files are looked at in each part.
    pub(super) fn parts(&self, times: TimeRange, most: usize) -> Vec<TimeRange> {
        let clipped = |file: &&File| {
            let (low, high) = file.file.time_range_nanos?;
            Some((
                low.max(times.from),
                high.min(times.to),
                file.file.size_bytes,
            ))
        };
        let files: Vec<_> = self.sorted.iter().flatten().filter_map(clipped).collect();
        let least = bytes(&self.loose).max(PART_BYTES);
        let all = bytes(self.sorted.iter().flatten());
        let count = (all / least).clamp(1, most.max(1) as u64);
        let mut parts = vec![TimeRange::ALL];
        for part in 1..count {
            let cut = cut(&files, part as f64 / count as f64);
            if let Some(last) = parts.last_mut()
                && last.from < cut
            {
                last.to = cut - 1;
                parts.push(TimeRange::since(cut));
            }
        }
        parts
    }
}

/// Whether no file of a lane has one of these times.
fn is_free(lane: &[&File], (low, high): (i64, i64)) -> bool {
    let mut ranges = lane.iter().filter_map(|file| file.file.time_range_nanos);
    ranges.all(|range| range.1 < low || high < range.0)
}

fn bytes<'a>(files: impl IntoIterator<Item = &'a &'a File>) -> u64 {
    files.into_iter().map(|file| file.file.size_bytes).sum()
}

/// The time before which this share of the bytes lies, as if each file were as dense everywhere.
fn cut(files: &[(i64, i64, u64)], share: f64) -> i64 {
    let before = |time: i64| -> f64 {
        let of_file = |(low, high, bytes): &(i64, i64, u64)| {
            let width = (i128::from(*high) - i128::from(*low) + 1) as f64;
            let passed = (i128::from(time) - i128::from(*low)) as f64;
            (passed / width).clamp(0.0, 1.0) * *bytes as f64
        };
        files.iter().map(of_file).sum()
    };
    let wanted = before(i64::MAX) * share;
    let (mut from, mut to) = (i64::MIN, i64::MAX);
    while from < to {
        let middle = from.saturating_add_unsigned(to.abs_diff(from) / 2);
        match before(middle) < wanted {
            true => from = middle + 1,
            false => to = middle,
        }
    }
    from
}

#[cfg(test)]
mod tests {
    use flightcluster_catalog::{
        IngesterId, NewFile, SchemaVersion, SequenceNumber, SnapshotId, TableId,
    };

    use super::*;

    const ALL: TimeRange = TimeRange::ALL;

    fn file(id: u64, ingester: Option<u64>, range: Option<(i64, i64)>, size_bytes: u64) -> File {
        File {
            id,
            ingester: ingester.map(IngesterId),
            file: NewFile {
                table: TableId(1),
                path: String::new(),
                size_bytes,
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

    /// A file of a flush that sorted it.
    fn flushed(id: u64, range: (i64, i64), size_bytes: u64) -> File {
        let mut file = file(id, Some(1), Some(range), size_bytes);
        file.file.sorted = true;
        file
    }

    fn ids(files: &[&File]) -> Vec<u64> {
        files.iter().map(|file| file.id).collect()
    }

    #[test]
    fn sorted_files_are_in_lanes_one_after_the_other_and_the_rest_is_loose() {
        let files = [
            file(1, None, Some((20, 30)), 900),
            file(2, None, Some((0, 10)), 900),
            file(3, None, Some((10, 19)), 900),
            file(4, None, Some((5, 40)), 900),
            file(5, Some(1), Some((50, 60)), 900),
            file(6, None, None, 900),
        ];
        let lanes = Lanes::of(files.iter().collect());
        let sorted: Vec<_> = lanes.sorted.iter().map(|lane| ids(lane)).collect();
        // Files 2 and 3 have a time in common.
        assert_eq!(sorted, [vec![2, 1], vec![4], vec![3]]);
        assert_eq!(ids(&lanes.loose), [5, 6]);
    }

    #[test]
    fn files_of_flushes_take_what_rewritten_ones_leave_the_largest_first() {
        let mut files = vec![
            file(1, None, Some((10, 19)), 9000),
            file(2, None, Some((30, 39)), 9000),
        ];
        files.push(flushed(3, (20, 29), 10));
        files.push(flushed(4, (0, 99), 20));
        files.push(flushed(5, (25, 26), 5));
        let lanes = Lanes::of(files.iter().collect());
        let sorted: Vec<_> = lanes.sorted.iter().map(|lane| ids(lane)).collect();
        assert_eq!(sorted, [vec![1, 3, 2], vec![4], vec![5]]);
        assert!(lanes.loose.is_empty());
        // However many there are, and though they begin before it.
        let mut files: Vec<File> = (2..40).map(|id| flushed(id, (0, 99), id)).collect();
        files.push(file(1, None, Some((10, 19)), 9000));
        let lanes = Lanes::of(files.iter().collect());
        assert_eq!(ids(&lanes.sorted[0]), [1]);
        let others = lanes.sorted[1..].iter().map(|lane| ids(lane)[0]);
        assert_eq!(
            others.collect::<Vec<_>>(),
            (25..40).rev().collect::<Vec<_>>()
        );
        assert_eq!(lanes.loose.len(), 23);
    }

    #[test]
    fn where_most_is_to_be_sorted_all_is() {
        let files = [
            file(1, None, Some((0, 9)), 900),
            file(2, Some(1), Some((0, 9)), 901),
        ];
        let lanes = Lanes::of(files.iter().collect());
        assert!(lanes.sorted.is_empty());
        assert_eq!(ids(&lanes.loose), [2, 1]);
    }

    #[test]
    fn more_files_than_can_be_open_are_loose() {
        let files: Vec<File> = (0..40).map(|id| file(id, None, Some((0, 9)), 9)).collect();
        assert!(Lanes::of(files.iter().collect()).sorted.is_empty());
        let files: Vec<File> = (0..20).map(|id| file(id, None, Some((0, 9)), 9)).collect();
        let lanes = Lanes::of(files.iter().collect());
        assert_eq!((lanes.sorted.len(), lanes.loose.len()), (16, 4));
        let follow = |id: u64| file(id, None, Some((id as i64, id as i64)), 9);
        let files: Vec<File> = (0..300).map(follow).collect();
        let lanes = Lanes::of(files.iter().collect());
        assert_eq!((lanes.sorted.len(), lanes.loose.len()), (1, 44));
    }

    #[test]
    fn parts_are_all_times_once_and_of_about_as_many_bytes() {
        let parts = |files: &[File], times, most| {
            let lanes = Lanes::of(files.iter().collect());
            let parts = lanes.parts(times, most);
            parts
                .iter()
                .map(|part| (part.from, part.to))
                .collect::<Vec<_>>()
        };
        let all = (i64::MIN, i64::MAX);
        let long = file(1, None, Some((0, 999)), 1 << 20);
        let short = file(2, None, Some((900, 999)), 1 << 20);
        let (one, both) = (vec![long.clone()], vec![long.clone(), short]);
        assert_eq!(parts(&one, ALL, 1), [all]);
        assert_eq!(parts(&one, ALL, 2), [(all.0, 499), (500, all.1)]);
        assert_eq!(parts(&one, TimeRange { from: 0, to: 99 }, 2)[1].0, 50);
        let three = parts(&both, ALL, 3);
        assert_eq!(three.len(), 3);
        assert_eq!((three[0].1 + 1, three[1].1 + 1), (three[1].0, three[2].0));
        assert!((600..=700).contains(&three[1].0), "{three:?}");
        // All of one time.
        let moment = [file(1, None, Some((7, 7)), 1 << 20)];
        let found = parts(&moment, ALL, 4);
        assert!(found.len() <= 2, "{found:?}");
        // Nothing but ends.
        let wide = [file(1, None, Some((i64::MIN, i64::MAX)), 1 << 20)];
        let found = parts(&wide, ALL, 2);
        assert!(found[1].0.abs() < 1 << 12, "{found:?}");
        // Looking at the loose rows twice would not pay.
        let loose = file(3, Some(1), Some((0, 9)), 1 << 19);
        assert_eq!(parts(&[long, loose], ALL, 8).len(), 2);
        assert_eq!(parts(&[], ALL, 8), [all]);
    }
}
