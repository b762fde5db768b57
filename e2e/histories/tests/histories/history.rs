//! What writers were promised, what readers saw, and whether the two go together.
//!
//! The same promises as in `e2e/chaos/history.py`. For every row of every table is kept how often it
//! was sent, acknowledged and seen. An answer is checked against what was known when its question was
//! asked:
//!
//! - lost: a row that had been acknowledged is missing;
//! - unseen: a row that an earlier answer had, to whomever, is missing;
//! - doubled: a row is there more often than it can have been stored;
//! - invented: a row that nobody had sent, or whose every sending was refused;
//! - altered: a row with other values than the ones sent, also by a type that has become wider since.
//!
//! The rows of an upload are those of a table that nobody can ask for, until it may be finished. As soon
//! as one of them is seen in its target, or it is known to be finished, all its promises are those of
//! the target; the rows of one that is aborted are invented wherever they are seen.
//!
//! How often a row can be there: once for each acknowledgement, and for each attempt of which nobody
//! knows how it ended once or not at all. A producer's row is there at most once, however often it
//! was sent.

use std::collections::BTreeMap;

use arrow_schema::DataType;
use flightcluster_catalog::TableId;

use crate::program::MOST_NODES;
use crate::shape::Shape;

/// A row as readers see it. `extra` is a column that the table gets later, those before it get wider.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) key: i64,
    pub(crate) value: Option<i64>,
    /// The bits of a float.
    pub(crate) measure: Option<u64>,
    /// A decimal without its point.
    pub(crate) amount: Option<i128>,
    /// The number in the only struct of a list.
    pub(crate) nested: Option<i64>,
    pub(crate) extra: Option<i64>,
}

impl Row {
    /// The row with this key: its values follow from the key, so that a mix-up shows.
    pub(crate) fn new(key: i64, shape: Shape) -> Self {
        let mixed = key.wrapping_mul(2_654_435_761) % 1_000_003;
        Self {
            key,
            value: shape.width.value(mixed),
            measure: shape.width.measure(mixed).map(f64::to_bits),
            amount: shape.width.amount(mixed),
            nested: shape.width.value(-mixed),
            extra: shape.extra.then_some(mixed ^ key),
        }
    }
}

/// The rows of a table as one answer has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) rows: Vec<Row>,
    /// The answer has the column that the table gets later.
    pub(crate) has_extra: bool,
    /// The types of the columns that grow; `None` without a row.
    pub(crate) types: Option<[DataType; 4]>,
}

/// Which promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Lost,
    Unseen,
    Doubled,
    Invented,
    Altered,
    /// An upload did not end as its client was told.
    Untrue,
    /// Something that has to work did not: a log that can't be opened, a query without an answer.
    Stuck,
}

/// A promise that was broken.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    /// The row it is about.
    pub(crate) key: Option<i64>,
}

/// What is known of a row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Known {
    row: Row,
    /// The nodes it was sent to.
    sent_to: [bool; MOST_NODES],
    once: bool,
    acknowledged: u32,
    /// Attempts that are under way or that ended without an answer.
    open: u32,
    seen: u32,
}

impl Known {
    fn least(&self) -> u32 {
        self.acknowledged.max(self.seen)
    }

    fn most(&self) -> u32 {
        let all = self.acknowledged + self.open;
        if self.once { all.min(1) } else { all }
    }
}

/// What an answer to a question asked now has to hold.
pub(crate) type Expected = BTreeMap<i64, u32>;

/// All rows of a history.
#[derive(Debug, Default)]
pub(crate) struct History {
    tables: BTreeMap<TableId, BTreeMap<i64, Known>>,
    /// Which of the tables of a history each is.
    numbers: BTreeMap<TableId, usize>,
    /// Uploads that may be finished at any moment: where their rows are, and which table gets them.
    may_finish: BTreeMap<TableId, usize>,
    /// Where the rows of finished uploads are now.
    finished: BTreeMap<TableId, TableId>,
    /// Everything that happened, in order.
    pub(crate) notes: Vec<String>,
    pub(crate) acknowledged: u64,
    pub(crate) answers: u64,
    /// Answers that lacked rows of somebody.
    pub(crate) partial: u64,
}

impl History {
    pub(crate) fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// What is table number `number` at the moment.
    pub(crate) fn number(&mut self, table: TableId, number: usize) {
        self.numbers.insert(table, number);
    }

    /// From now on the rows of this upload may be in its target: all of them or none.
    pub(crate) fn may_finish(&mut self, staging: TableId, target: usize) {
        if !self.finished.contains_key(&staging) {
            self.may_finish.insert(staging, target);
        }
    }

    /// The rows of this upload will never be anywhere.
    pub(crate) fn never_finishes(&mut self, staging: TableId) {
        self.may_finish.remove(&staging);
    }

    /// The rows of this upload are in a table.
    pub(crate) fn finish(&mut self, staging: TableId, target: TableId) {
        self.may_finish.remove(&staging);
        self.finished.insert(staging, target);
        let rows = self.tables.remove(&staging).unwrap_or_default();
        self.tables.entry(target).or_default().extend(rows);
    }

    /// Uploads whose rows an answer has are finished: the promises for them join those of the table.
    fn finish_what_is_seen(
        &mut self,
        table: TableId,
        expected: &mut Expected,
        counts: &BTreeMap<i64, u32>,
    ) {
        let number = self.numbers.get(&table);
        let candidates = self.may_finish.iter();
        let candidates = candidates.filter(|(_, target)| Some(*target) == number);
        let is_seen = |staging: &TableId| {
            let rows = self.tables.get(staging).into_iter().flatten();
            rows.into_iter().any(|(key, _)| counts.contains_key(key))
        };
        let seen: Vec<_> = candidates
            .map(|(staging, _)| *staging)
            .filter(is_seen)
            .collect();
        for staging in seen {
            expected.extend(self.ask(staging));
            self.finish(staging, table);
        }
    }

    fn place(&self, table: TableId) -> TableId {
        self.finished.get(&table).copied().unwrap_or(table)
    }

    /// Rows are sent to a table through a node; `once` says that a producer sends them.
    pub(crate) fn send(&mut self, table: TableId, rows: &[Row], once: bool, node: usize) {
        let known = self.tables.entry(self.place(table)).or_default();
        for row in rows {
            let known = known.entry(row.key).or_default();
            known.row = *row;
            known.sent_to[node] = true;
            known.once = once;
            known.open += 1;
        }
    }

    /// The attempt is acknowledged.
    pub(crate) fn acknowledge(&mut self, table: TableId, rows: &[Row]) {
        self.acknowledged += rows.len() as u64;
        self.settle(table, rows, |known| {
            known.acknowledged = if known.once {
                1
            } else {
                known.acknowledged + 1
            };
        });
    }

    /// The attempt was refused: it stored nothing.
    pub(crate) fn refuse(&mut self, table: TableId, rows: &[Row]) {
        self.settle(table, rows, |_| ());
    }

    fn settle(&mut self, table: TableId, rows: &[Row], change: impl Fn(&mut Known)) {
        let known = self.tables.entry(self.place(table)).or_default();
        for row in rows {
            let known = known.entry(row.key).or_default();
            known.open -= 1;
            change(known);
        }
    }

    /// What is promised now about a table.
    pub(crate) fn ask(&self, table: TableId) -> Expected {
        let known = self.tables.get(&table).into_iter().flatten();
        known
            .map(|(key, known)| (*key, known.least()))
            .filter(|(_, least)| *least > 0)
            .collect()
    }

    /// What of `expected` is promised of an answer that says it lacks rows of these nodes: what never went to
    /// them, and what was in files.
    pub(crate) fn ask_without(
        &self,
        table: TableId,
        expected: &Expected,
        named: &[usize],
        in_files: &Expected,
    ) -> Expected {
        let known = self.tables.get(&table);
        let went_there = |key| {
            let known = known.and_then(|known| known.get(key));
            known.is_some_and(|known| named.iter().any(|node| known.sent_to[*node]))
        };
        let elsewhere = expected.iter().filter(|(key, _)| !went_there(*key));
        let mut least: Expected = elsewhere.map(|(key, count)| (*key, *count)).collect();
        for (key, count) in in_files {
            let least = least.entry(*key).or_default();
            *least = (*least).max(*count);
        }
        least
    }

    /// Checks an answer against what was promised when the question was asked.
    pub(crate) fn check(
        &mut self,
        table: TableId,
        expected: &Expected,
        Answer {
            rows, has_extra, ..
        }: &Answer,
    ) -> Result<(), Violation> {
        let mut counts: BTreeMap<i64, u32> = BTreeMap::new();
        for row in rows {
            *counts.entry(row.key).or_default() += 1;
        }
        let mut expected = expected.clone();
        self.finish_what_is_seen(table, &mut expected, &counts);
        let known = self.tables.entry(table).or_default();
        for (key, least) in &expected {
            if counts.get(key).copied().unwrap_or(0) < *least {
                let acknowledged = { known.get(key) }.is_some_and(|known| known.acknowledged > 0);
                let kind = if acknowledged {
                    Kind::Lost
                } else {
                    Kind::Unseen
                };
                return Err(violation(kind, table, *key, known.get(key), &counts));
            }
        }
        for (key, count) in &counts {
            let found = known.get(key);
            let most = found.map_or(0, Known::most);
            if *count > most {
                let kind = if most == 0 {
                    Kind::Invented
                } else {
                    Kind::Doubled
                };
                return Err(violation(kind, table, *key, found, &counts));
            }
        }
        // A query that was planned before the column was there does not have it. One that was planned
        // after a row with it was acknowledged does.
        let lacks =
            |key: &i64| known[key].row.extra.is_some() && known[key].acknowledged > 0 && !has_extra;
        if let Some(key) = expected.keys().find(|key| lacks(key)) {
            return Err(violation(
                Kind::Altered,
                table,
                *key,
                known.get(key),
                &counts,
            ));
        }
        for row in rows {
            let mut sent = known[&row.key].row;
            sent.extra = sent.extra.filter(|_| *has_extra);
            if *row != sent {
                let found = known.get(&row.key);
                return Err(violation(Kind::Altered, table, row.key, found, &counts));
            }
        }
        for (key, count) in counts {
            let known = known.entry(key).or_default();
            known.seen = known.seen.max(count);
        }
        self.answers += 1;
        Ok(())
    }

    /// Checks a number of rows.
    pub(crate) fn check_count(
        &mut self,
        table: TableId,
        expected: &Expected,
        count: u64,
    ) -> Result<(), Violation> {
        let least: u64 = expected.values().map(|least| u64::from(*least)).sum();
        let number = self.numbers.get(&table);
        let uploads = self.may_finish.iter();
        let uploads = uploads.filter(|(_, target)| Some(*target) == number);
        let tables = uploads.map(|(staging, _)| *staging).chain([table]);
        let known = tables.filter_map(|table| self.tables.get(&table));
        let most = known.flat_map(BTreeMap::values);
        let most: u64 = most.map(|known| u64::from(known.most())).sum();
        self.answers += 1;
        let kind = if count < least {
            Kind::Lost
        } else if count > most {
            Kind::Doubled
        } else {
            return Ok(());
        };
        let text = format!("table {table} counts {count} rows, not {least} to {most}");
        Err(Violation {
            kind,
            text,
            key: None,
        })
    }
}

fn violation(
    kind: Kind,
    table: TableId,
    key: i64,
    known: Option<&Known>,
    counts: &BTreeMap<i64, u32>,
) -> Violation {
    let count = counts.get(&key).copied().unwrap_or(0);
    let name = name(key);
    let text = format!("row {name} of table {table} is there {count} times; known: {known:?}");
    let key = Some(key);
    Violation { kind, text, key }
}

/// `w3:17` for row 17 of writer 3.
pub(crate) fn name(key: i64) -> String {
    format!("w{}:{}", key >> 32, key & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::Width;

    const TABLE: TableId = TableId(1);

    fn rows(keys: &[i64]) -> Vec<Row> {
        let row = |key: &i64| {
            let (extra, width) = (*key > 90, Width::Wide);
            Row::new(*key, Shape { extra, width })
        };
        keys.iter().map(row).collect()
    }

    fn answer(rows: Vec<Row>) -> Answer {
        let (has_extra, types) = (true, None);
        Answer {
            rows,
            has_extra,
            types,
        }
    }

    /// Rows 0 and 1 are acknowledged, 2 was never answered, 3 was refused.
    fn history() -> History {
        let mut history = History::default();
        history.send(TABLE, &rows(&[0, 1, 2, 3]), false, 0);
        history.acknowledge(TABLE, &rows(&[0, 1]));
        history.refuse(TABLE, &rows(&[3]));
        history
    }

    fn verdict(history: &mut History, rows: &[Row]) -> Option<Kind> {
        let expected = history.ask(TABLE);
        let result = history.check(TABLE, &expected, &answer(rows.to_vec()));
        result.err().map(|violation| violation.kind)
    }

    #[test]
    fn a_row_that_was_never_answered_may_be_there_or_not() {
        assert_eq!(verdict(&mut history(), &rows(&[1, 0])), None);
        assert_eq!(verdict(&mut history(), &rows(&[0, 2, 1])), None);
    }

    #[test]
    fn every_kind_of_broken_promise_is_found() {
        let cases: [(&[i64], Kind); 6] = [
            (&[], Kind::Lost),
            (&[0, 2], Kind::Lost),
            (&[0, 1, 1], Kind::Doubled),
            (&[0, 1, 2, 2], Kind::Doubled),
            (&[0, 1, 3], Kind::Invented),
            (&[0, 1, 7], Kind::Invented),
        ];
        for (answer, kind) in cases {
            assert_eq!(
                verdict(&mut history(), &rows(answer)),
                Some(kind),
                "{answer:?}"
            );
        }
        let mut altered = rows(&[0, 1]);
        altered[0].value = altered[0].value.map(|value| value + 1);
        assert_eq!(verdict(&mut history(), &altered), Some(Kind::Altered));
        let mut filled = rows(&[0, 1]);
        filled[1].extra = Some(0);
        assert_eq!(verdict(&mut history(), &filled), Some(Kind::Altered));
    }

    #[test]
    fn a_row_that_is_seen_stays() {
        let mut history = history();
        assert_eq!(verdict(&mut history, &rows(&[0, 1, 2])), None);
        assert_eq!(verdict(&mut history, &rows(&[0, 1])), Some(Kind::Unseen));
    }

    #[test]
    fn a_row_acknowledged_after_the_question_may_be_missing() {
        let mut history = history();
        let expected = history.ask(TABLE);
        history.acknowledge(TABLE, &rows(&[2]));
        let earlier = answer(rows(&[0, 1]));
        assert!(history.check(TABLE, &expected, &earlier).is_ok());
        assert_eq!(verdict(&mut history, &rows(&[0, 1])), Some(Kind::Lost));
    }

    #[test]
    fn a_row_sent_again_is_there_once_for_each_attempt_and_a_producers_only_once() {
        for (once, kind) in [(false, None), (true, Some(Kind::Doubled))] {
            let mut history = History::default();
            history.send(TABLE, &rows(&[5]), once, 0);
            history.send(TABLE, &rows(&[5]), once, 0);
            history.acknowledge(TABLE, &rows(&[5]));
            assert_eq!(verdict(&mut history, &rows(&[5, 5])), kind);
        }
    }

    #[test]
    fn a_column_may_be_missing_only_before_a_row_with_it_is_acknowledged() {
        let mut history = history();
        history.send(TABLE, &rows(&[91]), false, 0);
        let narrow = |keys: &[i64]| Answer {
            rows: keys
                .iter()
                .map(|key| Row::new(*key, Shape::default()))
                .collect(),
            has_extra: false,
            types: None,
        };
        let expected = history.ask(TABLE);
        history.acknowledge(TABLE, &rows(&[91]));
        assert!(
            history
                .check(TABLE, &expected, &narrow(&[0, 1, 91]))
                .is_ok()
        );
        let expected = history.ask(TABLE);
        let result = history.check(TABLE, &expected, &narrow(&[0, 1, 91]));
        assert_eq!(result.unwrap_err().kind, Kind::Altered);
    }

    #[test]
    fn a_partial_answer_lacks_only_fresh_rows_of_who_is_named() {
        let mut history = History::default();
        history.send(TABLE, &rows(&[0, 1]), false, 0);
        history.send(TABLE, &rows(&[2, 3]), false, 1);
        history.acknowledge(TABLE, &rows(&[0, 1, 2, 3]));
        let whole = history.ask(TABLE);
        let in_files = BTreeMap::from([(0, 1), (2, 1)]);
        let mut verdict = |named: &[usize], keys: &[i64]| {
            let least = history.ask_without(TABLE, &whole, named, &in_files);
            let result = history.check(TABLE, &least, &answer(rows(keys)));
            result.err().map(|violation| violation.kind)
        };
        assert_eq!(verdict(&[0], &[0, 2, 3]), None);
        assert_eq!(verdict(&[0, 1], &[0, 2]), None);
        assert_eq!(verdict(&[1], &[0, 2, 3]), Some(Kind::Lost));
        assert_eq!(verdict(&[0], &[2, 3]), Some(Kind::Lost));
        assert_eq!(verdict(&[0], &[0, 2, 2, 3]), Some(Kind::Doubled));
        assert_eq!(verdict(&[0], &[0, 2, 3, 7]), Some(Kind::Invented));
    }

    /// Rows 0 and 1 are acknowledged in a table, 8 and 9 in an upload into it.
    fn uploading() -> (History, TableId) {
        let (mut history, staging) = (history(), TableId(2));
        history.number(TABLE, 0);
        history.send(staging, &rows(&[8, 9]), false, 0);
        history.acknowledge(staging, &rows(&[8, 9]));
        (history, staging)
    }

    #[test]
    fn the_rows_of_an_upload_are_seen_all_or_none_and_stay() {
        let (mut history, staging) = uploading();
        assert_eq!(
            verdict(&mut history, &rows(&[0, 1, 8, 9])),
            Some(Kind::Invented)
        );
        history.may_finish(staging, 1);
        assert_eq!(
            verdict(&mut history, &rows(&[0, 1, 8, 9])),
            Some(Kind::Invented)
        );
        history.may_finish(staging, 0);
        assert_eq!(verdict(&mut history, &rows(&[0, 1])), None);
        assert_eq!(verdict(&mut history, &rows(&[0, 1, 8])), Some(Kind::Lost));
        assert_eq!(verdict(&mut history, &rows(&[0, 1, 8, 9])), None);
        assert_eq!(verdict(&mut history, &rows(&[0, 1])), Some(Kind::Lost));
    }

    #[test]
    fn the_rows_of_an_upload_are_promised_when_it_is_finished_and_never_come_when_aborted() {
        let (mut history, staging) = uploading();
        history.may_finish(staging, 0);
        history.finish(staging, TABLE);
        assert_eq!(verdict(&mut history, &rows(&[0, 1])), Some(Kind::Lost));
        let (mut history, staging) = uploading();
        history.may_finish(staging, 0);
        history.never_finishes(staging);
        assert_eq!(
            verdict(&mut history, &rows(&[0, 1, 8, 9])),
            Some(Kind::Invented)
        );
    }

    #[test]
    fn a_wrong_number_of_rows_is_found() {
        for (count, right) in [(1, false), (2, true), (3, true), (4, false)] {
            let mut history = history();
            let expected = history.ask(TABLE);
            let result = history.check_count(TABLE, &expected, count);
            assert_eq!(result.is_ok(), right, "{count}");
        }
    }
}
