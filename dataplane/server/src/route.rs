//! Which ingester an upload is passed on to, and which one a client is told to send rows to.
//!
//! Uploads go to the ingesters in turn. Those of a producer go to the same one as long as it is
//! there, from whatever querier: each move of a producer costs the ingesters a conversation. A client that
//! asks gets an order of its table, in the same way (rendezvous hashing).

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

use arrow_flight::FlightData;
use flightcluster_catalog::{Ingester, IngesterState, TableName};
use flightcluster_wire::decode::is_before_batches;
use futures::StreamExt as _;
use futures::stream::Fuse;

use crate::status::{ErrorCode, Failure};
use crate::writes::{Messages, PutTarget, producer_of};

/// Messages held back while looking for the first batch: a schema and dictionaries. What comes later
/// is not looked at, which is only slower.
const MAX_HELD: usize = 64;
const MAX_HELD_BYTES: usize = 4 << 20;

/// The producer of an upload, if it has one, and the messages that were read to find out: all of
/// them, when there is no batch.
pub(crate) async fn producer(
    target: &PutTarget,
    messages: &mut Fuse<Messages>,
) -> Result<(Vec<FlightData>, Option<String>), Failure> {
    let mut held = Vec::new();
    let mut bytes = 0;
    while let Some(message) = messages.next().await {
        let message = message?;
        bytes += message.data_body.len();
        let goes_on = is_before_batches(&message);
        let producer = match goes_on {
            // A key belongs to the first batch, whatever that says.
            false => producer_of(&message.app_metadata, target, 1)?,
            true => None,
        };
        held.push(message);
        if !goes_on || held.len() >= MAX_HELD || bytes >= MAX_HELD_BYTES {
            return Ok((held, producer.map(|producer| producer.id)));
        }
    }
    Ok((held, None))
}

/// Those that rows can be sent to; at least one.
pub(crate) fn active(mut ingesters: Vec<Ingester>) -> Result<Vec<Ingester>, Failure> {
    ingesters.retain(|ingester| ingester.state == IngesterState::Active);
    if ingesters.is_empty() {
        let message = "no ingester is running, so nothing can be written";
        return Err(Failure::new(ErrorCode::IngesterUnavailable, message));
    }
    Ok(ingesters)
}

/// Brings ingesters into the order in which a producer, or else a table, prefers them: each has its own,
/// and keeps it while ingesters come and go.
pub(crate) fn prefer(ingesters: &mut [Ingester], table: &TableName, producer: Option<&str>) {
    ingesters.sort_by_cached_key(|ingester| {
        let mut hasher = DefaultHasher::new();
        match producer {
            Some(producer) => (table, producer, &ingester.name).hash(&mut hasher),
            None => (table, &ingester.name).hash(&mut hasher),
        }
        hasher.finish()
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use flightcluster_catalog::{Epoch, IngesterId};

    use super::*;

    fn ingesters(names: &[&str]) -> Vec<Ingester> {
        let ingester = |name: &&str| Ingester {
            id: IngesterId(1),
            name: (*name).to_owned(),
            url: String::new(),
            epoch: Epoch(1),
            state: IngesterState::Active,
            changed_at_millis: 0,
            seen_at_millis: 0,
        };
        names.iter().map(ingester).collect()
    }

    fn preferred(names: &[&str], table: &str, producer: Option<&str>) -> Vec<String> {
        let mut ingesters = ingesters(names);
        let table = TableName::public("d", table);
        prefer(&mut ingesters, &table, producer);
        ingesters.into_iter().map(|i| i.name).collect()
    }

    /// Each of 100 has an order of its own, keeps it, and is as likely as others to begin with a name.
    fn check(preferred: impl Fn(&[&str], &str) -> Vec<String>) {
        let mut first = Vec::new();
        for number in 0..100 {
            let who = format!("number-{number}");
            let all = preferred(&["a", "b", "c"], &who);
            assert_eq!(preferred(&["c", "a", "b"], &who), all);
            // Only those move whose first one went.
            for gone in 0..3 {
                let mut left: Vec<&str> = all.iter().map(String::as_str).collect();
                left.remove(gone);
                let others: Vec<&str> = left.iter().rev().copied().collect();
                assert_eq!(preferred(&others, &who), left);
            }
            first.push(all[0].clone());
        }
        for name in ["a", "b", "c"] {
            let share = first.iter().filter(|first| *first == name).count();
            assert!((15..=55).contains(&share), "{name} has {share} of 100");
        }
    }

    #[test]
    fn a_producer_keeps_its_ingester_while_others_come_and_go() {
        check(|names, producer| preferred(names, "t", Some(producer)));
    }

    #[test]
    fn rows_are_sent_to_none_that_has_left() {
        let mut all = ingesters(&["a", "b", "c"]);
        all[0].state = IngesterState::Drained;
        all[2].state = IngesterState::Retired;
        let left = active(all.clone()).unwrap();
        assert_eq!(left, all[1..2]);
        all.remove(1);
        let refused = active(all).unwrap_err();
        assert_eq!(refused.code, ErrorCode::IngesterUnavailable);
    }

    /// S3-24
    #[test]
    fn a_table_keeps_its_ingester_while_others_come_and_go() {
        check(|names, table| preferred(names, table, None));
    }
}
