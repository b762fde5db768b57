//! A stream that has a name: each of its batches gets a producer and numbers, so that its rows are stored
//! once however often it is sent.
//!
//! The numbers count rows, not batches: batch numbers would take the second batch of a repeat for stored
//! that was cut into larger ones, and lose its rows. Each stream is a producer of its own: with numbers that
//! go on from stream to stream, a stream that broke off would look stored as soon as the next one is. See
//! `docs/decisions/0022-streams-that-are-stored-once.md`.
//!
//! What is known of a batch travels in its `app_metadata`, as a client would write it: an ingester of the
//! release before understands all but where a batch begins.

use arrow_flight::FlightData;
use bytes::Bytes;
use flightcluster_wire::{StreamName, batch_rows};
use futures::StreamExt as _;
use serde::Serialize;

use crate::status::{ErrorCode, Failure};
use crate::writes::{Messages, names_producer};

/// What an ingester is told of a batch.
#[derive(Debug, Serialize)]
struct BatchOfStream<'a> {
    producer: &'a str,
    /// Rows of the stream up to the end of the batch.
    sequence: u64,
    /// Rows of the stream before it.
    rows_before: u64,
}

/// The messages of a stream with the numbers of their rows.
pub(crate) fn numbered(messages: Messages, name: &StreamName) -> Messages {
    let producer = producer_of_stream(name);
    let mut before = 0_u64;
    messages
        .map(move |message| number(message?, &producer, &mut before))
        .boxed()
}

/// The producer that a stream is.
pub(crate) fn producer_of_stream(name: &StreamName) -> String {
    // A producer may be called anything, a number may not: no two names have one text.
    format!("stream:{}:{}", name.sequence, name.producer)
}

fn number(
    mut message: FlightData,
    producer: &str,
    before: &mut u64,
) -> Result<FlightData, Failure> {
    if names_producer(&message.app_metadata) {
        let text = "the stream is named by its headers or options, and a batch of it has a producer in \
                    app_metadata; name the stream or its batches";
        return Err(Failure::new(ErrorCode::InvalidArgument, text));
    }
    let Some(rows) = batch_rows(&message) else {
        return Ok(message);
    };
    let rows_before = *before;
    *before = rows_before.saturating_add(rows);
    let of_stream = BatchOfStream {
        producer,
        sequence: *before,
        rows_before,
    };
    let json = serde_json::to_vec(&of_stream).expect("a text and two numbers have a JSON form");
    message.app_metadata = Bytes::from(json);
    Ok(message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Int64Array, RecordBatch};
    use flightcluster_wire::{BatchEncoder, EncodeLimits};

    use super::*;

    /// A schema, and batches of that many rows.
    fn stream(rows: &[i64]) -> Vec<FlightData> {
        let batch = |rows| {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
            RecordBatch::try_from_iter([("n", column)]).unwrap()
        };
        let mut encoder =
            BatchEncoder::try_new(batch(0).schema(), EncodeLimits::default()).unwrap();
        let mut messages = vec![encoder.schema_message()];
        for rows in rows {
            messages.extend(encoder.encode(batch(*rows)).unwrap());
        }
        messages
    }

    async fn named(messages: Vec<FlightData>) -> Vec<Result<FlightData, Failure>> {
        let messages = futures::stream::iter(messages.into_iter().map(Ok)).boxed();
        let name = StreamName {
            producer: "p:1".to_owned(),
            sequence: 7,
        };
        numbered(messages, &name).collect().await
    }

    #[tokio::test]
    async fn the_rows_of_a_stream_are_counted_from_its_beginning() {
        let told: Vec<_> = named(stream(&[3, 5])).await;
        let metadata = |at: usize| &told[at].as_ref().unwrap().app_metadata;
        assert!(metadata(0).is_empty());
        let expected = [
            r#"{"producer":"stream:7:p:1","sequence":3,"rows_before":0}"#,
            r#"{"producer":"stream:7:p:1","sequence":8,"rows_before":3}"#,
        ];
        assert_eq!([metadata(1), metadata(2)], expected);
    }

    #[tokio::test]
    async fn a_batch_with_a_producer_of_its_own_ends_a_named_stream() {
        let mut messages = stream(&[3]);
        messages[1].app_metadata = r#"{"producer": "q", "sequence": 1}"#.into();
        let refused = named(messages).await.remove(1).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidArgument);
        // Bytes of the application are none of ours, and nobody keeps them.
        let mut messages = stream(&[3]);
        messages[1].app_metadata = "hello".into();
        assert!(named(messages).await.remove(1).is_ok());
    }
}
