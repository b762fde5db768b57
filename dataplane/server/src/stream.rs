//! Batches to the messages of a DoGet response: schema first and at once, pieces of bounded size,
//! and something to say while the query is silent.
//!
//! Proxies reset streams they think idle, and HTTP/2 pings do not pass them; an empty batch does.
//! It is sent also while a query waits in the queue. The time limit of the call, and clients that
//! do not read, are the business of [`crate::call`].

use std::pin::Pin;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_flight::FlightData;
use arrow_schema::SchemaRef;
use flightcluster_wire::{BatchEncoder, EncodeLimits};
use futures::{Stream, StreamExt as _};

use crate::status::Failure;

/// The messages of one response.
pub(crate) type Response = Pin<Box<dyn Stream<Item = Result<FlightData, Failure>> + Send>>;

/// Where a response stands.
struct State<S> {
    batches: S,
    encoder: BatchEncoder,
    keepalive: Duration,
    /// Messages ready to go, last first.
    ready: Vec<FlightData>,
    ended: bool,
}

/// Encodes `batches` as a response in `schema`.
///
/// - Shape: the schema message, then every batch in pieces of at most the target size; an empty
///   batch whenever nothing came for `keepalive`.
/// - Errors: the first failure of `batches` ends the response after what came before it.
/// - Cancellation: dropping the response drops `batches`.
pub(crate) fn respond<S>(
    schema: SchemaRef,
    batches: S,
    keepalive: Duration,
) -> Result<Response, Failure>
where
    S: Stream<Item = Result<RecordBatch, Failure>> + Send + Unpin + 'static,
{
    let mut encoder = BatchEncoder::try_new(schema, EncodeLimits::default())?;
    let schema_message = encoder.schema_message();
    let state = State {
        batches,
        encoder,
        keepalive,
        ready: vec![schema_message],
        ended: false,
    };
    Ok(futures::stream::unfold(state, next_message).boxed())
}

async fn next_message<S>(mut state: State<S>) -> Option<(Result<FlightData, Failure>, State<S>)>
where
    S: Stream<Item = Result<RecordBatch, Failure>> + Send + Unpin,
{
    loop {
        if let Some(message) = state.ready.pop() {
            return Some((Ok(message), state));
        }
        match state.encoder.next_message() {
            Ok(Some(message)) => return Some((Ok(message), state)),
            Ok(None) => {}
            Err(error) => {
                state.ended = true;
                return Some((Err(error.into()), state));
            }
        }
        if state.ended {
            return None;
        }
        match tokio::time::timeout(state.keepalive, state.batches.next()).await {
            Ok(Some(Ok(batch))) => state.encoder.push(batch),
            Ok(Some(Err(failure))) => {
                state.ended = true;
                return Some((Err(failure), state));
            }
            Ok(None) => state.ended = true,
            Err(_silence) => match state.encoder.keepalive() {
                Ok(messages) => state.ready = messages.into_iter().rev().collect(),
                Err(error) => {
                    state.ended = true;
                    return Some((Err(error.into()), state));
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::sync::Arc;

    use arrow_array::Int64Array;
    use arrow_flight::decode::FlightRecordBatchStream;
    use arrow_flight::error::FlightError;
    use arrow_schema::{DataType, Field, Schema};
    use futures::TryStreamExt as _;

    use super::*;
    use crate::status::ErrorCode;

    fn batch() -> RecordBatch {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
        let column = Arc::new(Int64Array::from_iter_values(0..10));
        RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap()
    }

    /// S0-9, S0-14: an empty result still tells its schema.
    #[tokio::test]
    async fn the_schema_comes_first_and_always() {
        let schema = batch().schema();
        let none = futures::stream::empty();
        let messages: Vec<_> = respond(Arc::clone(&schema), none, Duration::from_secs(5))
            .unwrap()
            .collect()
            .await;
        assert_eq!(messages.len(), 1);
        let stream = futures::stream::iter(messages).map_err(|_| unreachable_error());
        let mut decoded = FlightRecordBatchStream::new_from_flight_data(stream);
        assert!(decoded.next().await.is_none());
        assert_eq!(decoded.schema(), Some(&schema));
    }

    fn unreachable_error() -> FlightError {
        FlightError::ProtocolError("no error is in there".to_owned())
    }

    /// Silence is filled with empty batches, so that a proxy does not reset the stream.
    #[tokio::test(start_paused = true)]
    async fn a_silent_query_sends_empty_batches() {
        let silent = futures::stream::once(async {
            tokio::time::sleep(Duration::from_secs(12)).await;
            Ok(batch())
        });
        let messages: Vec<_> = respond(batch().schema(), Box::pin(silent), Duration::from_secs(5))
            .unwrap()
            .collect()
            .await;
        let stream = futures::stream::iter(messages).map_err(|_| unreachable_error());
        let rows: Vec<usize> = FlightRecordBatchStream::new_from_flight_data(stream)
            .map_ok(|batch| batch.num_rows())
            .try_collect()
            .await
            .unwrap();
        assert_eq!(rows, [0, 0, 10]);
    }

    /// S0-7, S2-6: what came before a failure is delivered, then the failure.
    #[tokio::test]
    async fn a_failure_ends_the_stream_after_the_rows_before_it() {
        let failing = futures::stream::iter([
            Ok(batch()),
            Err(Failure::new(ErrorCode::Internal, "x")),
            Ok(batch()),
        ]);
        let messages: Vec<_> = respond(batch().schema(), failing, Duration::from_secs(5))
            .unwrap()
            .collect()
            .await;
        assert_eq!(messages.len(), 3);
        assert!(messages[1].is_ok());
        assert_eq!(messages[2].as_ref().unwrap_err().code, ErrorCode::Internal);
    }
}
