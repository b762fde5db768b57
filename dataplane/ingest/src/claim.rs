//! Exactly once across ingesters: which of them takes the batches of a producer.
//!
//! # Protocol
//! The catalog keeps one owner for each producer of a table. An ingester stores a batch only while
//! it holds the producer: it claimed it in this life, and nobody asked it to let go since. To take a
//! producer over from an active owner, the new one reads the claim's version, asks the owner to let
//! go ([`Peers::release_producer`]), and claims again with the owner's answer, which the catalog
//! takes only if nobody claimed in between. The position is in the catalog before the new owner
//! stores anything.
//!
//! # Guarantees
//! At most one ingester holds a producer, and it knows the newest stored number: its own log has it,
//! or the catalog. A claim whose answer is on its way when the owner lets go is void, and so is a
//! claim of an earlier life. A batch is refused rather than guessed about: while the owner can't be
//! reached, and while the catalog can't, unless the producer is held already.
//!
//! # Window
//! The catalog forgets a producer that was not claimed or flushed for twice
//! `ingest.producer_window`; a holder claims again before half of it is over and must have done so
//! when all of it is. So a repeat within the window is always recognised, later ones may be.
//!
//! A statement of a ticket is a producer of one batch, and there is a new one for each ticket: it is
//! forgotten [`STATEMENT_MARGIN`] after the life of a ticket. Whoever sends its batch sends it within half
//! of that margin.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flightcluster_catalog::{
    self as catalog, ClaimProducer, Epoch, Ingester, ProducerClaim, ProducerExpiry,
    ReleasedProducer, Table, TableId,
};
use tracing::{debug, info};

use crate::error::Error;
use crate::fatal::Fatal;
use crate::flusher::chain;
use crate::ingest::{Core, Ingest};
use crate::table::failed;
use crate::writer::settled;

/// Claims of one batch before it is refused: others want the same producer at the same time.
const CLAIM_ATTEMPTS: usize = 5;

/// Longest pause between times of forgetting, and how many go in one step. Steps follow flushes while
/// there are more.
pub(crate) const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);
const EXPIRY_STEP: u32 = 10_000;

/// For how long a statement is remembered after its ticket has expired. Half of it is for its rows to
/// begin, half for clocks that differ.
pub const STATEMENT_MARGIN: Duration = Duration::from_secs(24 * 3600);

/// Why a peer gave no answer.
pub type PeerError = Box<dyn std::error::Error + Send + Sync>;

/// The way to the other ingesters.
#[async_trait]
pub trait Peers: Send + Sync + fmt::Debug + 'static {
    /// Asks `owner`, in the life it is named with, for [`Ingest::release_producer`].
    ///
    /// - Errors: any, when there is no answer from that life; nothing is assumed then.
    async fn release_producer(
        &self,
        owner: &Ingester,
        table: TableId,
        producer: &str,
    ) -> Result<Option<u64>, PeerError>;
}

/// No other ingester can be reached: a standalone process.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

#[async_trait]
impl Peers for NoPeers {
    async fn release_producer(
        &self,
        _: &Ingester,
        _: TableId,
        _: &str,
    ) -> Result<Option<u64>, PeerError> {
        Err("this process has no way to other ingesters".into())
    }
}

impl Core {
    /// Makes sure that this ingester holds a producer.
    pub(crate) async fn hold_producer(&self, table: &Table, producer: &str) -> Result<(), Error> {
        let window = self.config.producer_window;
        let mut released = None;
        for _ in 0..CLAIM_ATTEMPTS {
            let before = self.producers.hold(table.id, producer);
            let now = self.clock.now();
            let age = before.since.map(|since| now.duration_since(since));
            if age.is_some_and(|age| age < window / 2) {
                return Ok(());
            }
            let request = ClaimProducer {
                ingester: self.ingester.id,
                epoch: self.ingester.epoch,
                table: table.id,
                producer: producer.to_owned(),
                released: released.take(),
            };
            match self.catalog.claim_producer(request).await {
                Ok(ProducerClaim::Held { position }) => {
                    let producers = &self.producers;
                    if producers.held(table.id, producer, position, before, now) {
                        return Ok(());
                    }
                }
                Ok(ProducerClaim::Taken { owner, version }) => {
                    // Another has it although we held it: we had not renewed the claim in time.
                    self.producers.release(table.id, producer);
                    let position = self.ask_owner(&owner, table.id, producer).await?;
                    released = Some(ReleasedProducer { version, position });
                }
                Err(error @ catalog::Error::Unavailable { .. })
                    if age.is_some_and(|age| age < window) =>
                {
                    debug!(producer, error = %chain(&error), "can't renew the claim of a producer");
                    return Ok(());
                }
                Err(error) => return Err(self.claim_failed(table, error)),
            }
        }
        let producer = producer.to_owned();
        Err(Error::ProducerMoved { producer })
    }

    async fn ask_owner(
        &self,
        owner: &Ingester,
        table: TableId,
        producer: &str,
    ) -> Result<Option<u64>, Error> {
        let answer = self.peers.release_producer(owner, table, producer).await;
        let position = answer.map_err(|source| Error::ProducerOwner {
            producer: producer.to_owned(),
            owner: owner.name.clone(),
            source,
        })?;
        info!(producer, from = %owner.name, "taking a producer over");
        Ok(position)
    }

    fn claim_failed(&self, table: &Table, error: catalog::Error) -> Error {
        match error {
            catalog::Error::TableNotFound(_) => Error::TableNotFound(table.name.clone()),
            error @ catalog::Error::Fenced { .. } => {
                let fatal = Fatal::Fenced(Arc::new(error));
                self.fatal.set(fatal.clone());
                Error::OutOfService(fatal)
            }
            error => failed("claiming a producer")(error),
        }
    }

    /// Lets the catalog forget some of the producers that were not used for too long. Returns whether
    /// there may be more of them.
    pub(crate) async fn expire_producers(&self) -> bool {
        let expiry = ProducerExpiry {
            unused_for: self.config.producer_window.saturating_mul(2),
            statements_unused_for: self.ticket_ttl.saturating_add(STATEMENT_MARGIN),
            limit: EXPIRY_STEP,
        };
        match self.catalog.expire_producers(expiry).await {
            Ok(0) => false,
            Ok(forgotten) => {
                debug!(forgotten, "unused producers are forgotten");
                forgotten >= u64::from(EXPIRY_STEP)
            }
            // The next time is as good.
            Err(error) => {
                debug!(error = %chain(&error), "can't forget unused producers");
                false
            }
        }
    }
}

impl Ingest {
    /// Stops taking batches of a producer until it is claimed again, waits for those under way, and
    /// returns the newest number that is stored, as far as this ingester knows: the catalog may
    /// know a newer one.
    ///
    /// - `epoch`: the life that is asked. Another one has other batches.
    /// - Errors: [`Error::OtherLife`]; [`Error::OutOfService`] when the log may hold batches that are
    ///   not known to be stored.
    /// - Cancellation: the producer is let go all the same; it is claimed again when needed.
    pub async fn release_producer(
        &self,
        epoch: Epoch,
        table: TableId,
        producer: &str,
    ) -> Result<Option<u64>, Error> {
        let core = &self.core;
        if core.ingester.epoch != epoch {
            let ingester = core.ingester.name.clone();
            return Err(Error::OtherLife { ingester });
        }
        for attempt in core.producers.release(table, producer) {
            settled(attempt).await;
        }
        match core.fatal.get() {
            Some(fatal) => Err(Error::OutOfService(fatal)),
            None => Ok(core.producers.position(table, producer)),
        }
    }
}
