//! Rows of `INSERT` and `CREATE TABLE … AS` as an upload.
//!
//! The first batch carries the number of the statement: a repeat, wherever it comes to, finds it stored
//! and goes no further.

use arrow_array::RecordBatch;
use arrow_flight::FlightData;
use async_trait::async_trait;
use flightcluster_catalog::{TableId, TableName, statement_producer};
use flightcluster_ingest::STATEMENT_MARGIN;
use flightcluster_query::{BatchStream, StatementKey};
use flightcluster_wire::decode::is_before_batches;
use flightcluster_wire::{BatchEncoder, EncodeLimits};
use futures::StreamExt as _;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::oneshot;

use crate::ingesters::Ingesters;
use crate::status::{ErrorCode, Failure};
use crate::writes::{Messages, PutMode, PutTarget, Writes};

/// `INSERT` and `CREATE TABLE … AS`: rows of a query as an upload.
#[derive(Debug)]
pub struct InsertedRows {
    /// Where they go.
    pub writes: Arc<dyn Writes>,
    /// Who has them then.
    pub ingesters: Arc<Ingesters>,
}

#[async_trait]
impl flightcluster_query::ports::TableWriter for InsertedRows {
    async fn append(
        &self,
        table: &TableName,
        key: Option<StatementKey>,
        rows: BatchStream,
    ) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
        if let Some(key) = key {
            check_age(key.begun)?;
        }
        let target = PutTarget {
            table: table.clone(),
            mode: PutMode::Append,
            create_database: false,
            idempotency_key: key.map(|key| statement_producer(key.number)),
            owner: String::new(),
            upload: None,
        };
        let (proceed, gate) = oneshot::channel();
        let mut proceed = Some(proceed);
        let messages = behind_gate(batches_to_messages(rows), gate);
        let mut acks = self.writes.put(target, messages).await?;
        let mut stored = 0;
        while let Some(ack) = acks.next().await {
            let ack = ack?;
            if ack.duplicate && key.is_some_and(|key| !key.is_one_batch) {
                return Err(begun_before().into());
            }
            stored += ack.rows;
            if let Some(proceed) = proceed.take() {
                // Nobody waits when there is no second message.
                let _ = proceed.send(!ack.duplicate);
            }
        }
        Ok(stored)
    }

    async fn flush(&self, table: TableId) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.ingesters.flush_table(table).await?)
    }
}

/// Holds what follows the first batch back until its acknowledgement says that the statement did not
/// run before. If it did, it may have stored only some.
fn behind_gate(messages: Messages, gate: oneshot::Receiver<bool>) -> Messages {
    let mut gate = Some(gate);
    let mut is_behind_batch = false;
    messages
        .then(move |message| {
            // The schema and dictionaries come before the first batch, and pass.
            let gate = is_behind_batch.then(|| gate.take()).flatten();
            is_behind_batch |= message.as_ref().is_ok_and(|next| !is_before_batches(next));
            async move {
                let proceed = match gate {
                    Some(gate) => gate.await == Ok(true),
                    None => true,
                };
                if proceed {
                    message
                } else {
                    Err(begun_before())
                }
            }
        })
        .boxed()
}

fn begun_before() -> Failure {
    Failure::new(
        ErrorCode::InvalidTicket,
        "the statement of this ticket was begun before: see what it has done, and ask for a new \
         ticket if it is to run again",
    )
}

/// Refuses a run whose first rows came so late that another run of the same ticket may be forgotten.
fn check_age(begun: SystemTime) -> Result<(), Failure> {
    // A clock that was set back says nothing.
    let age = begun.elapsed().unwrap_or_default();
    if age <= STATEMENT_MARGIN / 2 {
        return Ok(());
    }
    let message = format!(
        "the statement had its first rows after {} hours: whether its ticket was redeemed before is no \
         longer known; send it as an update, which has no ticket",
        age.as_secs() / 3600
    );
    Err(Failure::new(ErrorCode::InvalidTicket, message))
}

/// Encodes batches as an upload; the schema is that of the first one.
fn batches_to_messages(rows: BatchStream) -> Messages {
    let mut encoder: Option<BatchEncoder> = None;
    rows.map(move |batch| -> Result<Vec<FlightData>, Failure> {
        let batch: RecordBatch = batch?;
        let mut messages = Vec::new();
        let encoder = match &mut encoder {
            Some(encoder) => encoder,
            None => {
                let made = BatchEncoder::try_new(batch.schema(), EncodeLimits::default())?;
                let encoder = encoder.insert(made);
                messages.push(encoder.schema_message());
                encoder
            }
        };
        messages.extend(encoder.encode(batch)?);
        Ok(messages)
    })
    .flat_map(|messages| match messages {
        Ok(messages) => futures::stream::iter(messages.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(failure) => futures::stream::iter(vec![Err(failure)]),
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use arrow_array::types::Int32Type;
    use arrow_array::{ArrayRef, DictionaryArray, Int64Array};
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;

    /// Two batches: of numbers, or of tags with a dictionary.
    fn messages(tags: bool) -> Messages {
        let column = |tag| -> ArrayRef {
            match tags {
                true => Arc::new(DictionaryArray::<Int32Type>::from_iter([tag, "same"])),
                false => Arc::new(Int64Array::from(vec![1, 2])),
            }
        };
        let batch = |tag| Ok(RecordBatch::try_from_iter([("c", column(tag))]).unwrap());
        batches_to_messages(futures::stream::iter([batch("a"), batch("b")]).boxed())
    }

    fn is_batch(message: &Result<FlightData, Failure>) -> bool {
        !is_before_batches(message.as_ref().unwrap())
    }

    #[tokio::test]
    async fn the_gate_lets_dictionaries_and_the_first_batch_pass_and_nothing_after_it() {
        for (tags, before) in [(false, 1), (true, 2)] {
            let (proceed, gate) = oneshot::channel();
            let mut messages = behind_gate(messages(tags), gate);
            for _ in 0..before {
                assert!(!is_batch(&messages.next().now_or_never().unwrap().unwrap()));
            }
            assert!(is_batch(&messages.next().now_or_never().unwrap().unwrap()));
            assert!(messages.next().now_or_never().is_none());
            proceed.send(true).unwrap();
            let rest: Vec<_> = messages.collect().await;
            assert_eq!(rest.iter().filter(|next| is_batch(next)).count(), 1);
        }
    }

    #[test]
    fn a_statement_whose_rows_come_after_the_memory_of_others_is_refused() {
        let ago = |age| check_age(SystemTime::now() - age);
        ago(Duration::from_secs(11 * 3600)).unwrap();
        let refused = ago(STATEMENT_MARGIN / 2 + Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidTicket);
        check_age(SystemTime::now() + Duration::from_secs(60)).unwrap();
    }

    #[tokio::test]
    async fn a_statement_that_was_begun_before_ends_at_the_gate() {
        for answer in [Some(false), None] {
            let (proceed, gate) = oneshot::channel();
            match answer {
                Some(answer) => proceed.send(answer).unwrap(),
                None => drop(proceed),
            }
            let last = behind_gate(messages(true), gate).skip(3).next().await;
            assert_eq!(last.unwrap().unwrap_err().code, ErrorCode::InvalidTicket);
        }
    }
}
