//! What was written and deleted in a history of keys, and whether an answer agrees with it.

use std::collections::BTreeMap;

use crate::keys::Pass;

/// A write of a key.
#[derive(Debug, Clone)]
struct Write {
    value: i64,
    started: usize,
    /// When it was acknowledged.
    ended: Option<usize>,
    refused: bool,
}

/// A deletion of what a condition is true for.
#[derive(Debug, Clone)]
struct Deletion {
    /// Of one key, or of all whose value is not above this.
    key: Option<i64>,
    highest: i64,
    started: usize,
    /// When it had succeeded; one that failed may take effect at any time.
    ended: Option<usize>,
}

impl Deletion {
    fn sql(&self) -> String {
        match self.key {
            Some(key) => format!("id = {key}"),
            None => format!("value <= {}", self.highest),
        }
    }

    fn meets(&self, key: i64, value: i64) -> bool {
        match self.key {
            Some(of) => of == key,
            None => value <= self.highest,
        }
    }
}

/// What was written, and what was read.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Beginnings and ends, counted.
    pub(crate) now: usize,
    next: i64,
    writes: BTreeMap<i64, Vec<Write>>,
    deletions: Vec<Deletion>,
    /// The values of each key as they followed each other, [`ABSENT`] among them.
    seen: BTreeMap<i64, Vec<i64>>,
}

/// The value of a key that is not there.
const ABSENT: i64 = 0;

impl Known {
    /// Values are given out after this one.
    pub(crate) fn after(next: i64) -> Self {
        Self {
            next,
            ..Self::default()
        }
    }

    /// A write of these keys begins; returns the value of each.
    pub(crate) fn begin(&mut self, keys: &[i64]) -> Vec<i64> {
        self.now += 1;
        let started = self.now;
        let begin = |key: &i64| {
            self.next += 1;
            let value = self.next;
            self.writes.entry(*key).or_default().push(Write {
                value,
                started,
                ended: None,
                refused: false,
            });
            value
        };
        keys.iter().map(begin).collect()
    }

    /// The write of these values is over.
    pub(crate) fn end(&mut self, values: &[i64], acknowledged: bool, refused: bool) {
        self.now += 1;
        let writes = self.writes.values_mut().flatten();
        for write in writes.filter(|write| values.contains(&write.value)) {
            write.ended = acknowledged.then_some(self.now);
            write.refused = refused;
        }
    }

    /// A deletion begins; returns its number and its condition.
    pub(crate) fn begin_deletion(&mut self, pass: Pass) -> (usize, String) {
        self.now += 1;
        let (key, beyond) = match pass {
            Pass::Key(key) => (Some(key), 0),
            Pass::UpTo(beyond) => (None, beyond),
        };
        let deletion = Deletion {
            key,
            highest: self.next + beyond,
            started: self.now,
            ended: None,
        };
        let sql = deletion.sql();
        self.deletions.push(deletion);
        (self.deletions.len() - 1, sql)
    }

    /// A deletion is over.
    pub(crate) fn end_deletion(&mut self, number: usize, succeeded: bool) {
        self.now += 1;
        if succeeded {
            self.deletions[number].ended = Some(self.now);
        }
    }

    pub(crate) fn judge(&mut self, asked: usize, found: &[(i64, i64)]) -> Result<(), String> {
        for (key, writes) in &self.writes {
            let values: Vec<i64> = found.iter().filter(|r| r.0 == *key).map(|r| r.1).collect();
            let value = match values[..] {
                [value] => value,
                [] => ABSENT,
                _ => return Err(format!("key {key} is there several times: {values:?}")),
            };
            match value {
                ABSENT if !self.may_be_absent(asked, *key) => {
                    let deletions = &self.deletions;
                    return Err(format!("key {key} is missing: {writes:?} {deletions:?}"));
                }
                ABSENT => {}
                value => self.judge_value(asked, *key, value)?,
            }
            let seen = self.seen.entry(*key).or_default();
            match seen.iter().position(|known| *known == value) {
                _ if value == ABSENT => {
                    if seen.last().is_some_and(|last| *last != ABSENT) {
                        seen.push(ABSENT);
                    }
                }
                Some(at) if at + 1 < seen.len() => {
                    return Err(format!("key {key} is {value} again after {seen:?}"));
                }
                Some(_) => {}
                None => seen.push(value),
            }
        }
        Ok(())
    }

    fn acknowledged(&self, asked: usize, key: i64) -> impl Iterator<Item = &Write> {
        let writes = self.writes.get(&key).into_iter().flatten();
        writes.filter(move |write| write.ended.is_some_and(|ended| ended <= asked))
    }

    fn judge_value(&self, asked: usize, key: i64, value: i64) -> Result<(), String> {
        let mut writes = self.writes.get(&key).into_iter().flatten();
        let Some(write) = writes.find(|write| write.value == value) else {
            return Err(format!("key {key} is {value}, which nobody wrote"));
        };
        if write.refused {
            return Err(format!("key {key} is {value}, which was refused"));
        }
        let later = |started: usize| write.ended.is_some_and(|ended| ended < started);
        if let Some(other) = self
            .acknowledged(asked, key)
            .find(|other| later(other.started))
        {
            let other = other.value;
            return Err(format!("key {key} is {value}, and {other} came later"));
        }
        let mut deletions = self.deletions.iter();
        let gone = |deletion: &&Deletion| {
            let done = deletion.ended.is_some_and(|ended| ended <= asked);
            done && later(deletion.started) && deletion.meets(key, value)
        };
        match deletions.find(gone) {
            Some(deletion) => Err(format!(
                "key {key} is {value}, and was deleted: {deletion:?}"
            )),
            None => Ok(()),
        }
    }

    /// Whether nothing was acknowledged, or a deletion may have met what was the last value.
    fn may_be_absent(&self, asked: usize, key: i64) -> bool {
        if self.acknowledged(asked, key).next().is_none() {
            return true;
        }
        let writes = || self.writes.get(&key).into_iter().flatten();
        self.deletions.iter().any(|deletion| {
            let over = deletion.ended.unwrap_or(usize::MAX);
            let mut met = writes().filter(|write| deletion.meets(key, write.value));
            let written_since = self
                .acknowledged(asked, key)
                .any(|write| write.started > over);
            // The value it met must not have given way before the deletion began.
            !written_since
                && met.any(|write| {
                    let gave_way = |other: &Write| {
                        write.ended.is_some_and(|ended| ended < other.started)
                            && other.ended.is_some_and(|ended| ended < deletion.started)
                    };
                    write.started < over && !self.acknowledged(asked, key).any(gave_way)
                })
        })
    }
}
