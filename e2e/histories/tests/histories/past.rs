//! The past in a history: what a snapshot answered once it answers always, until it is refused.
//!
//! After each question a reader notes the newest snapshot and what it holds, and asks for one that it noted
//! before, whatever was flushed, compacted, deleted, dropped or restarted meanwhile. No answer is fine:
//! objects are collected at once here, and calls get lost. Another answer is not.

use flightcluster_catalog::SnapshotId;

use crate::history::{Answer, Kind, Violation};
use crate::reader::Reader;
use crate::world::World;

/// How many of the noted states of a history are asked for again.
const KEPT: usize = 4;

/// What a table held in a state.
#[derive(Debug)]
pub(crate) struct Noted {
    table: usize,
    snapshot: SnapshotId,
    answer: Answer,
}

impl World {
    /// Asks for the past once more, and notes the present.
    pub(crate) async fn look_back(&self, reader: &Reader, table: usize) -> Result<(), Violation> {
        // In turn: the one that was asked for longest ago.
        let noted = self.past.lock().pop_front();
        if let Some(noted) = noted {
            self.compare(reader, &noted).await?;
            self.past.lock().push_back(noted);
        }
        let Ok(newest) = self.truth().snapshot(&[]).await else {
            return Ok(());
        };
        if let Ok(answer) = past_of(reader, table, newest.id).await {
            let noted = Noted {
                table,
                snapshot: newest.id,
                answer,
            };
            let mut past = self.past.lock();
            past.push_back(noted);
            if past.len() > KEPT {
                past.pop_front();
            }
        }
        Ok(())
    }

    async fn compare(&self, reader: &Reader, noted: &Noted) -> Result<(), Violation> {
        let Noted {
            table,
            snapshot,
            answer,
        } = noted;
        let Ok(now) = past_of(reader, *table, *snapshot).await else {
            return Ok(());
        };
        let (before, after) = (answer.rows.len(), now.rows.len());
        if now == *answer {
            self.note(format!(
                "snapshot {snapshot} of table {table} has {after} rows as before"
            ));
            return Ok(());
        }
        let kind = if after < before {
            Kind::Lost
        } else {
            Kind::Altered
        };
        Err(Violation {
            kind,
            text: format!(
                "snapshot {snapshot} of table {table} had {before} rows and has {after}, or others"
            ),
            key: None,
        })
    }
}

/// All rows of a table in a state, in an order of their own.
async fn past_of(reader: &Reader, table: usize, at: SnapshotId) -> Result<Answer, String> {
    let mut answer = reader.rows_at(&World::table(table).table, at).await?;
    answer.rows.sort_unstable();
    Ok(answer)
}
