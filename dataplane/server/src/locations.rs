//! The action `put-location`: where to send the rows of a table, so that they go to an ingester without a
//! querier in between.
//!
//! # Guarantees
//! - The ingesters are in the order in which a table, or the stream a caller names, prefers them: the same for
//!   every pod that is asked, and a pod that comes or goes changes nothing about the others.
//! - One that is stopping, or does not answer, is left out.
//! - The answer tells nothing about a table, not even whether it is there: it is made of names alone.
//!
//! It is advice. Every querier passes rows on, and every ingester takes rows of every table.

use std::sync::Arc;

use arrow_flight::FlightDescriptor;
use bytes::Bytes;
use flightcluster_auth::Action;
use flightcluster_catalog::{Catalog, Ingester, IngesterId, TableName, UNPUBLISHED_SCHEMA};
use flightcluster_wire::{Command, Descriptor, StreamName};
use futures::future::join_all;
use serde::Serialize;

use crate::asked::PeerIngesters;
use crate::caller::Caller;
use crate::named::producer_of_stream;
use crate::put::{ingest_table, unpublished};
use crate::route;
use crate::service::FlightServer;
use crate::status::{ErrorCode, Failure};
use crate::writes::of_owner;

/// The location that means the connection a client has: `Flight.proto`, `FlightEndpoint`.
const THIS_CONNECTION: &str = "arrow-flight-reuse-connection://?";

/// Where clients reach the ingesters.
#[derive(Debug)]
pub struct PutLocations {
    /// Where they are listed.
    pub catalog: Arc<dyn Catalog>,
    /// The one of this process, if there is one, and the location of its public port.
    pub local: Option<(IngesterId, Option<String>)>,
    /// The way to all others.
    pub peers: Arc<PeerIngesters>,
}

#[derive(Debug, Serialize)]
struct Answer {
    locations: Vec<String>,
}

impl PutLocations {
    /// The locations of the ingesters that take rows, beginning with the one to be tried first. Not empty.
    ///
    /// - Errors: no ingester can be reached.
    async fn of(&self, table: &TableName, producer: Option<&str>) -> Result<Vec<String>, Failure> {
        let mut ingesters = route::active(self.catalog.list_ingesters().await?)?;
        route::prefer(&mut ingesters, table, producer);
        located(join_all(ingesters.iter().map(|ingester| self.location(ingester))).await)
    }

    async fn location(&self, ingester: &Ingester) -> Result<Option<String>, Failure> {
        match &self.local {
            Some((id, location)) if *id == ingester.id => Ok(location.clone()),
            _ => self.peers.location(ingester).await,
        }
    }
}

/// The locations among the answers of ingesters, in their order.
fn located(answers: Vec<Result<Option<String>, Failure>>) -> Result<Vec<String>, Failure> {
    let (mut locations, mut any_is_there, mut refused) = (Vec::new(), false, None);
    for answer in answers {
        match answer {
            Ok(location) => {
                any_is_there = true;
                locations.extend(location);
            }
            Err(failure) => refused = refused.or(Some(failure)),
        }
    }
    match refused {
        Some(failure) if !any_is_there => return Err(failure),
        // It is reached through whoever was asked.
        _ if locations.is_empty() => locations.push(THIS_CONNECTION.to_owned()),
        _ => {}
    }
    Ok(locations)
}

impl FlightServer {
    /// Tells where the rows of a table are best sent to.
    pub(crate) async fn put_location(
        &self,
        caller: &Caller,
        descriptor: &FlightDescriptor,
    ) -> Result<Bytes, Failure> {
        let (table, by_options) = match Descriptor::decode(descriptor)? {
            Descriptor::Path(path) => {
                let table = TableName {
                    database: path.database,
                    schema: path.schema,
                    table: path.table,
                };
                (table, None)
            }
            Descriptor::Command(Command::StatementIngest(ingest)) => {
                let by_options = StreamName::from_options(&ingest.options)?;
                (ingest_table(caller, &ingest), by_options)
            }
            Descriptor::Command(other) => {
                let message = format!(
                    "put-location takes the descriptor of a DoPut of rows, a path [database, table] or \
                     CommandStatementIngest; {} is sent to any querier",
                    other.name()
                );
                return Err(Failure::new(ErrorCode::InvalidCommand, message));
            }
        };
        caller.authorize(Action::Write, &table.database)?;
        if table.schema == UNPUBLISHED_SCHEMA {
            return Err(unpublished());
        }
        let stream = StreamName::agreed(caller.stream.clone(), by_options)?;
        let producer =
            stream.map(|name| of_owner(caller.principal.name(), &producer_of_stream(&name)));
        let locations = &self.backends()?.put_locations;
        let locations = locations.of(&table, producer.as_deref()).await?;
        serde_json::to_vec(&Answer { locations })
            .map(Bytes::from)
            .map_err(|error| Failure::new(ErrorCode::Internal, format!("answer: {error}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    fn silent(name: &str) -> Result<Option<String>, Failure> {
        let message = format!("{name} is silent");
        Err(Failure::new(ErrorCode::IngesterUnavailable, message))
    }

    /// S3-24
    #[test]
    fn ingesters_that_do_not_answer_are_left_out_and_the_others_keep_their_order() {
        let named = |name: &str| Ok(Some(format!("grpc+tls://{name}:1")));
        let answers = vec![silent("a"), named("c"), Ok(None), silent("d"), named("b")];
        assert_eq!(
            located(answers).unwrap(),
            ["grpc+tls://c:1", "grpc+tls://b:1"]
        );
    }

    #[test]
    fn where_no_ingester_has_a_location_rows_go_to_whoever_was_asked() {
        let here = located(vec![silent("a"), Ok(None)]).unwrap();
        assert_eq!(here, ["arrow-flight-reuse-connection://?"]);
    }

    #[test]
    fn where_no_ingester_answers_the_first_says_why() {
        let failure = located(vec![silent("a"), silent("b")]).unwrap_err();
        assert_eq!(failure.message, "a is silent");
    }
}
