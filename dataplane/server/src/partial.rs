//! Partial answers: rows without those of ingesters that can't be reached, for callers who asked.
//!
//! The mark is in the metadata of the answer's schema, under [`PARTIAL_MARK`]: the one place that every
//! client shows, that comes before the first row, and that goes with a table wherever it is taken. So
//! - the answer begins when it is known what is missing: until then there is nothing to send, no keep-alive
//!   either;
//! - FlightInfo has no schema: drivers show that one in place of the answer's, and it would lack the mark.

use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use flightcluster_query::{ExecuteOptions, Missing, Plan, time_text};
use flightcluster_wire::PARTIAL_MARK;
use futures::TryStreamExt as _;
use serde::Serialize;

use crate::caller::Caller;
use crate::get::{Took, announced_schema, measured};
use crate::service::FlightServer;
use crate::status::{ErrorCode, Failure};
use crate::stream::{Response, respond};

/// What an answer lacks, as its mark says it.
#[derive(Debug, Serialize)]
struct Mark<'a> {
    ingesters: Vec<MissingIngester<'a>>,
}

#[derive(Debug, Serialize)]
struct MissingIngester<'a> {
    name: &'a str,
    /// When the catalog heard of it last.
    heard_of_at: String,
    /// The tables it may have rows of in no file.
    tables: Vec<String>,
}

/// The schema of an answer that lacks rows; the same if it lacks none.
fn marked(schema: SchemaRef, missing: &[Missing]) -> Result<SchemaRef, Failure> {
    if missing.is_empty() {
        return Ok(schema);
    }
    let ingesters = missing.iter().map(|missing| MissingIngester {
        name: &missing.ingester,
        heard_of_at: time_text(missing.heard_of_at_millis),
        tables: missing.tables.iter().map(ToString::to_string).collect(),
    });
    let mark = serde_json::to_string(&Mark {
        ingesters: ingesters.collect(),
    });
    let mark = mark.map_err(|error| Failure::new(ErrorCode::Internal, format!("mark: {error}")))?;
    let mut metadata = schema.metadata().clone();
    metadata.insert(PARTIAL_MARK.to_owned(), mark);
    let fields = schema.fields().clone();
    Ok(Arc::new(Schema::new_with_metadata(fields, metadata)))
}

impl FlightServer {
    /// The answer to a query of which one that lacks rows will do.
    pub(crate) async fn run_partial(
        &self,
        caller: &Caller,
        plan: Plan,
        executions: usize,
        announced: Option<u64>,
    ) -> Result<Response, Failure> {
        if executions > 1 {
            let message = "a query with several rows of parameters has no partial answer: the later ones run \
                           when the first rows are sent, and the mark comes before those. Bind one row, or \
                           take the header x-fc-partial and the session option partial away";
            return Err(Failure::new(ErrorCode::InvalidArgument, message));
        }
        let schema = announced_schema(&plan.schema(), caller.encoding, announced)?;
        let options = ExecuteOptions {
            request_id: caller.request_id.clone(),
            ..ExecuteOptions::default()
        };
        let engine = self.backends()?.engine()?;
        let took = Took::from_now(self.metrics.clone());
        let (batches, missing) = engine.execute_partial(plan, options).await?;
        if !missing.is_empty() {
            self.metrics.partial.inc();
        }
        let schema = marked(schema, &missing)?;
        let batches = measured(batches.map_err(Failure::from), took);
        respond(
            schema,
            Box::pin(batches),
            self.settings.stream_keepalive_interval,
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use arrow_schema::{DataType, Field};
    use flightcluster_catalog::TableName;

    use super::*;

    #[test]
    fn the_mark_names_ingesters_and_tables_and_is_there_only_if_rows_are_missing() {
        let fields = vec![Field::new("n", DataType::Int64, true)];
        let metadata = [("source".to_owned(), "sensor".to_owned())];
        let schema = Arc::new(Schema::new_with_metadata(fields, metadata.into()));
        assert_eq!(marked(Arc::clone(&schema), &[]).unwrap(), schema);

        let tables = ["a", "\"b\""].map(|table| TableName::public("d", table));
        let missing = Missing {
            ingester: "ingester-2".to_owned(),
            heard_of_at_millis: 1_000,
            tables: tables.into(),
        };
        let found = marked(Arc::clone(&schema), &[missing]).unwrap();
        assert_eq!(found.fields(), schema.fields());
        assert_eq!(found.metadata()["source"], "sensor");
        assert_eq!(
            found.metadata()[PARTIAL_MARK],
            r#"{"ingesters":[{"name":"ingester-2","heard_of_at":"1970-01-01T00:00:01Z","tables":["d.public.\"b\"","d.public.a"]}]}"#
        );
    }
}
