//! Questions of readers, and what is to be held of the answers.
//!
//! An answer that says nothing is missing has to be whole. One that names ingesters may lack rows of theirs
//! that were in no file when the question was asked, and nothing else: no row of whose sending none went to
//! them, and no row of a file. Whatever it has, it has as a whole answer does. An ingester that was there all
//! the time is not named.

use std::collections::BTreeMap;
use std::sync::Arc;

use flightcluster_catalog::{TableId, TableName};

use crate::history::{Answer, Expected, Kind, Violation};
use crate::life::{Fault, Life};
use crate::reader::Reader;
use crate::step::Question;
use crate::world::World;

/// What a reader got: rows, and the names of the ingesters whose fresh rows are missing; or a number.
enum Got {
    Rows(Answer, Vec<String>),
    Count(u64),
}

impl World {
    /// Asks and checks; returns whether there was an answer.
    pub(crate) async fn query(
        &self,
        reader: &Reader,
        table: usize,
        question: Question,
        faults: &[Fault],
    ) -> Result<bool, Violation> {
        let name = Self::table(table);
        let id = || async {
            let table = self.truth().table(&name).await;
            table.ok().flatten().map(|table| table.id)
        };
        let Some(before) = id().await else {
            return Ok(true);
        };
        let expected = {
            let mut history = self.history.lock();
            history.number(before, table);
            history.ask(before)
        };
        let (mut in_files, mut there) = (Expected::new(), BTreeMap::new());
        if question == Question::Partial {
            in_files = self.in_files(reader, &name).await;
            if faults.is_empty() {
                there = self.there();
            }
        }
        if !faults.is_empty() {
            self.reading.arm(faults);
        }
        let answer = match question {
            Question::Count => reader.count(&name.table).await.map(Got::Count),
            Question::Rows => {
                { reader.rows(&name.table).await }.map(|answer| Got::Rows(answer, vec![]))
            }
            Question::Partial => { reader.rows_that_are_there(&name).await }
                .map(|(answer, missing)| Got::Rows(answer, missing)),
        };
        if !faults.is_empty() {
            self.reading.disarm();
        }
        // A table that was exchanged meanwhile: the answer may be that of either.
        if id().await != Some(before) {
            return Ok(true);
        }
        match answer {
            Ok(Got::Rows(answer, missing)) => {
                let lacking = missing.iter().map(|name| format!(" without {name}"));
                self.note(format!(
                    "answer of {} rows of table {before}{}",
                    answer.rows.len(),
                    lacking.collect::<String>()
                ));
                let named = self.named(before, &missing, &there)?;
                let mut history = self.history.lock();
                let expected = match named[..] {
                    [] => expected,
                    _ => history.ask_without(before, &expected, &named, &in_files),
                };
                history.check(before, &expected, &answer)?;
                history.partial += u64::from(!named.is_empty());
            }
            Ok(Got::Count(count)) => {
                let mut history = self.history.lock();
                history.check_count(before, &expected, count)?;
            }
            Err(error) => {
                let error = error.chars().take(300).collect::<String>();
                self.note(format!("no answer: {error}"));
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How often each row of a table is in files: what the newest snapshot has when nobody is asked for more.
    async fn in_files(&self, reader: &Reader, name: &TableName) -> Expected {
        let mut counts = Expected::new();
        let Ok(newest) = self.truth().snapshot(&[]).await else {
            return counts;
        };
        // A file may be gone by now: then nothing is known.
        if let Ok(answer) = reader.rows_at(&name.table, newest.id).await {
            for row in answer.rows {
                *counts.entry(row.key).or_default() += 1;
            }
        }
        counts
    }

    /// The nodes whose only process runs.
    fn there(&self) -> BTreeMap<usize, Arc<Life>> {
        { 0..self.settings.nodes }
            .filter(|node| self.former(*node).is_none())
            .filter_map(|node| Some((node, self.running(node)?.life)))
            .collect()
    }

    /// The nodes with these names; none of them may have been `there` all the time.
    fn named(
        &self,
        table: TableId,
        missing: &[String],
        there: &BTreeMap<usize, Arc<Life>>,
    ) -> Result<Vec<usize>, Violation> {
        let all = 0..self.settings.nodes;
        let named = all.filter(|node| missing.contains(&World::node_name(*node)));
        let named: Vec<usize> = named.collect();
        let wrong = |text: &str| Violation {
            kind: Kind::Unseen,
            text: format!("an answer of table {table} lacks rows of {missing:?}, {text}"),
            key: None,
        };
        if named.len() != missing.len() {
            return Err(wrong("which are not all ingesters"));
        }
        let now = self.there();
        let stayed = |node: &usize| match (there.get(node), now.get(node)) {
            (Some(before), Some(after)) => Arc::ptr_eq(before, after),
            _ => false,
        };
        match named.iter().any(stayed) {
            true => Err(wrong("and one of them was there")),
            false => Ok(named),
        }
    }
}
