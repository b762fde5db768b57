//! One life of a process: what goes wrong in it, and whether it still runs.
//!
//! Every port (disk, catalog, object store, fresh rows) asks its life before it does anything. A life
//! that ended does nothing any more: a real process that is killed stops in all its threads at once.

use std::collections::BTreeMap;
use std::future::Future;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::sync::watch;

/// A kind of call that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Port {
    /// Bytes are added to a segment.
    Append,
    /// A segment is synced.
    Sync,
    /// A segment is created.
    Create,
    /// A label is written beside the one before, or takes its place.
    Label,
    /// A segment is removed.
    Remove,
    /// The log's directory is synced.
    SyncDirectory,
    /// A flush is committed.
    Commit,
    /// An ingester registers or drains.
    Register,
    /// Rows get their order numbers.
    Order,
    /// A producer is claimed.
    Claim,
    /// An ingester opens a table.
    Open,
    /// It closes some.
    Close,
    /// An ingester asks another one to let go of a producer, or to flush an upload.
    Peer,
    /// Any other call of an ingester, or of its upkeep, to the catalog.
    Lookup,
    /// An upload is ended.
    Upload,
    /// A file is stored.
    Put,
    /// Files take the place of others.
    Replace,
    /// An object is deleted.
    Delete,
    /// A reader asks an ingester for its rows.
    Recent,
    /// A reader asks the catalog.
    Snapshot,
    /// A reader, or a compaction, asks the object store.
    Get,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// It fails and has no effect (a disk may do a part of it).
    LostRequest,
    /// It has its effect and fails.
    LostAnswer,
    /// The process ends before it.
    CrashBefore,
    /// The process ends after it, before the answer.
    CrashAfter,
    /// It waits before it has its effect, until the other steps are done.
    HoldBefore,
    /// It has its effect and the answer waits until the other steps are done.
    HoldAfter,
    /// The disk has no space for it, nor for anything later in the same step.
    Full,
}

/// The `nth` call (from 0) of a kind in a step meets trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) port: Port,
    pub(crate) nth: u8,
    pub(crate) trouble: Trouble,
}

/// How often each trouble really happened.
pub(crate) type Counts = BTreeMap<(Port, Trouble), u64>;

#[derive(Debug, Clone, Copy, Default)]
struct State {
    dead: bool,
    /// A call waits at the moment.
    reached: bool,
    /// No call waits any longer.
    released: bool,
}

#[derive(Debug)]
struct Plan {
    armed: Vec<Fault>,
    counts: Counts,
    chance: StdRng,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Life {
    plan: Mutex<Plan>,
    state: watch::Sender<State>,
}

impl Life {
    pub(crate) fn new(luck: u64) -> Self {
        let chance = StdRng::seed_from_u64(luck);
        Self {
            plan: Mutex::new(Plan {
                armed: Vec::new(),
                counts: Counts::new(),
                chance,
            }),
            state: watch::Sender::new(State::default()),
        }
    }

    /// Faults of the step that begins.
    pub(crate) fn arm(&self, faults: &[Fault]) {
        self.plan.lock().armed.extend(faults);
    }

    /// From now on calls can be held.
    pub(crate) fn may_hold(&self) {
        self.state.send_modify(|state| {
            state.reached = false;
            state.released = false;
        });
    }

    /// Ends the faults of a step; returns how many troubles there were so far.
    pub(crate) fn disarm(&self) -> u64 {
        self.release();
        let mut plan = self.plan.lock();
        plan.armed.clear();
        plan.counts.values().sum()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.plan.lock().counts.clone()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state.borrow().dead
    }

    /// Ends the process.
    pub(crate) fn die(&self) {
        self.state.send_modify(|state| state.dead = true);
    }

    /// Lets the waiting calls go on.
    pub(crate) fn release(&self) {
        self.state.send_modify(|state| state.released = true);
    }

    /// Completes when a call waits, or will never wait.
    pub(crate) async fn reached(&self) {
        let mut changes = self.state.subscribe();
        let wanted = |state: &State| state.reached || state.dead;
        let _ = changes.wait_for(wanted).await;
    }

    pub(crate) fn chance(&self, of: u32) -> u32 {
        self.plan.lock().chance.random_range(0..of)
    }

    /// What happens to this call.
    pub(crate) fn meet(&self, port: Port) -> Option<Trouble> {
        let mut plan = self.plan.lock();
        let at = plan
            .armed
            .iter_mut()
            .filter(|fault| fault.port == port)
            .fold(None, |met, fault| match (met, fault.nth) {
                (None, 0) => Some(fault.trouble),
                (None, _) => {
                    fault.nth -= 1;
                    None
                }
                (met, _) => met,
            });
        let trouble = at?;
        // A full disk stays full.
        if trouble != Trouble::Full {
            plan.armed.retain(|fault| {
                !(fault.port == port && fault.nth == 0 && fault.trouble == trouble)
            });
        }
        *plan.counts.entry((port, trouble)).or_default() += 1;
        drop(plan);
        if matches!(trouble, Trouble::CrashBefore) {
            self.die();
        }
        Some(trouble)
    }

    /// A call with whatever happens to it; `failed` makes the error of a call that broke.
    pub(crate) async fn pass<T, E>(
        &self,
        port: Port,
        failed: impl Fn() -> E,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        if self.is_dead() {
            return Err(failed());
        }
        let trouble = self.meet(port);
        match trouble {
            Some(Trouble::LostRequest | Trouble::CrashBefore | Trouble::Full) => {
                return Err(failed());
            }
            Some(Trouble::HoldBefore) => self.hold().await,
            _ => {}
        }
        // A request that was on its way arrives, even when its sender is gone.
        let answer = call.await;
        match trouble {
            Some(Trouble::LostAnswer) => return Err(failed()),
            Some(Trouble::CrashAfter) => self.die(),
            Some(Trouble::HoldAfter) => self.hold().await,
            _ => {}
        }
        if self.is_dead() {
            return Err(failed());
        }
        answer
    }

    /// Waits until the other steps are done, or the process ends.
    pub(crate) async fn hold(&self) {
        let mut changes = self.state.subscribe();
        self.state.send_modify(|state| state.reached = true);
        let _ = changes.wait_for(|state| state.released || state.dead).await;
    }

    /// [`Life::hold`] for threads that may block.
    pub(crate) fn hold_blocking(&self) {
        futures::executor::block_on(self.hold());
    }
}

impl Life {
    /// Completes when the process has ended.
    pub(crate) async fn died(&self) {
        let mut changes = self.state.subscribe();
        let _ = changes.wait_for(|state| state.dead).await;
    }
}
