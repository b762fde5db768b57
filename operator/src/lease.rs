//! Leader election by a `Lease`: of several operators only one works.
//!
//! # Flow
//! Whoever finds the Lease without a holder, or with a holder that has not renewed it for the time
//! it promised, writes its own name into it. The holder renews it. Writes carry the resourceVersion
//! that was read, so that of two writers only one gets through.
//!
//! # Guarantees
//! A holder that can't renew in time says so ([`Election::hold`] returns) before others may take
//! over. Clocks of different machines are never compared: how long a Lease has not changed is
//! measured by the own clock from the moment it was seen.
//!
//! # Assumptions
//! Clocks run at about the same speed.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::observed::chain;

/// How long a holder may be silent before others take over.
const DURATION: Duration = Duration::from_secs(15);

/// How long a holder tries to renew before it gives up; shorter than [`DURATION`], so that it stops
/// before another begins.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// The time between two tries, for holders and for those who wait.
const RETRY: Duration = Duration::from_secs(2);

/// The longest time a single request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached; somebody else may have been faster.
    #[error("reading or writing Lease {name}")]
    Request {
        /// The Lease.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server didn't answer in time.
    #[error("Lease {name}: no answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout {
        /// The Lease.
        name: String,
    },
}

impl Error {
    /// Returns the bounded name of this error for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Request { .. } => "lease_request",
            Self::Timeout { .. } => "lease_timeout",
        }
    }
}

/// One candidate.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
    seen: Option<Seen>,
}

/// A Lease as it was last seen, and when it began to look like this.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

/// What to do with a Lease.
#[derive(Clone, Debug, PartialEq)]
enum Decision {
    /// Somebody else holds it.
    Wait,
    /// Write this into it.
    Write(Box<LeaseSpec>),
}

impl Election {
    /// A candidate for the Lease `name` in `namespace`; `identity` must be its own.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            seen: None,
        }
    }

    /// Waits until this candidate holds the Lease.
    ///
    /// - Cancellation: the Lease may have been taken; it is then free again after 15 seconds.
    pub async fn acquire(&mut self) {
        loop {
            match self.try_once().await {
                Ok(true) => return,
                Ok(false) => debug!(lease = self.name, "somebody else is the leader"),
                Err(error) => {
                    warn!(lease = self.name, error = %chain(&error), "lease not acquired")
                }
            }
            sleep(RETRY).await;
        }
    }

    /// Renews the Lease for as long as that works; returns when this process must stop working.
    pub async fn hold(&mut self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_DEADLINE {
            sleep(RETRY).await;
            match self.try_once().await {
                Ok(true) => renewed = Instant::now(),
                Ok(false) => return,
                Err(error) => warn!(lease = self.name, error = %chain(&error), "lease not renewed"),
            }
        }
    }

    /// Gives the Lease back, so that another candidate need not wait.
    ///
    /// # Errors
    /// See [`Error`]; the Lease is then free after 15 seconds.
    pub async fn release(mut self) -> Result<(), Error> {
        let Some(mut lease) = self.read().await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(self.identity.as_str()) {
            return Ok(());
        }
        spec.holder_identity = None;
        self.seen = None;
        self.request(self.api.replace(&self.name, &PostParams::default(), &lease))
            .await
            .map(|_| ())
    }

    /// Takes or renews the Lease if that is allowed, and returns whether it is held.
    async fn try_once(&mut self) -> Result<bool, Error> {
        let lease = self.read().await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.clone());
        let now = Instant::now();
        self.seen = spec.clone().map(|spec| match self.seen.take() {
            Some(seen) if seen.spec == spec => seen,
            _ => Seen { spec, since: now },
        });
        let wall = MicroTime(Timestamp::now());
        let spec = match decide(self.seen.as_ref(), &self.identity, now, wall) {
            Decision::Wait => return Ok(false),
            Decision::Write(spec) => Some(*spec),
        };
        let parameters = PostParams::default();
        let written = match lease {
            Some(lease) => {
                let lease = Lease { spec, ..lease };
                self.request(self.api.replace(&self.name, &parameters, &lease))
                    .await
            }
            None => {
                let metadata = ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                };
                self.request(self.api.create(&parameters, &Lease { metadata, spec }))
                    .await
            }
        };
        match written {
            Ok(_) => Ok(true),
            // Somebody wrote between our reading and writing: look again.
            Err(Error::Request { source, .. }) if is_conflict(&source) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read(&self) -> Result<Option<Lease>, Error> {
        self.request(self.api.get_opt(&self.name)).await
    }

    async fn request<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        match timeout(REQUEST_TIMEOUT, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(source)) => Err(Error::Request {
                name: self.name.clone(),
                source: Box::new(source),
            }),
            Err(_) => Err(Error::Timeout {
                name: self.name.clone(),
            }),
        }
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || status.is_already_exists())
}

/// Decides what `identity` may do with a Lease. Pure: `now` is the own clock, `wall` is what others
/// get to read.
fn decide(seen: Option<&Seen>, identity: &str, now: Instant, wall: MicroTime) -> Decision {
    let spec = seen.map(|seen| seen.spec.clone()).unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let is_mine = holder == identity;
    if !holder.is_empty() && !is_mine {
        let promised = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let promised = promised.map_or(DURATION, Duration::from_secs);
        let silent = seen.map_or(Duration::ZERO, |seen| now.duration_since(seen.since));
        if silent <= promised {
            return Decision::Wait;
        }
    }
    let transitions = spec.lease_transitions.unwrap_or(0);
    Decision::Write(Box::new(LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if is_mine {
            spec.acquire_time
        } else {
            Some(wall.clone())
        },
        renew_time: Some(wall),
        lease_transitions: Some(if is_mine {
            transitions
        } else {
            transitions.saturating_add(1)
        }),
        ..spec
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn held_by(holder: &str, since: Instant) -> Seen {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(4),
            ..LeaseSpec::default()
        };
        Seen { spec, since }
    }

    fn wall() -> MicroTime {
        MicroTime("2026-03-01T12:00:00Z".parse().unwrap())
    }

    fn written(decision: Decision) -> LeaseSpec {
        match decision {
            Decision::Write(spec) => *spec,
            Decision::Wait => panic!("waits"),
        }
    }

    #[test]
    fn a_lease_nobody_holds_is_taken() {
        let now = Instant::now();
        let spec = written(decide(None, "a", now, wall()));
        assert_eq!(spec.holder_identity.as_deref(), Some("a"));
        assert_eq!(spec.lease_transitions, Some(1));
        let spec = written(decide(Some(&held_by("", now)), "a", now, wall()));
        assert_eq!(spec.lease_transitions, Some(5));
    }

    #[test]
    fn a_lease_that_is_held_is_waited_for_until_its_holder_was_silent_for_too_long() {
        let since = Instant::now();
        let seen = held_by("b", since);
        let after = |seconds| since + Duration::from_secs(seconds);
        assert_eq!(decide(Some(&seen), "a", after(15), wall()), Decision::Wait);
        let spec = written(decide(Some(&seen), "a", after(16), wall()));
        assert_eq!(spec.holder_identity.as_deref(), Some("a"));
        assert_eq!(spec.acquire_time, Some(wall()));
    }

    #[test]
    fn the_holder_renews_without_counting_a_transition() {
        let now = Instant::now();
        let mut seen = held_by("a", now);
        seen.spec.acquire_time = Some(MicroTime("2026-01-01T00:00:00Z".parse().unwrap()));
        let spec = written(decide(Some(&seen), "a", now, wall()));
        assert_eq!(spec.lease_transitions, Some(4));
        assert_eq!(spec.acquire_time, seen.spec.acquire_time);
        assert_eq!(spec.renew_time, Some(wall()));
    }
}
