//! Whether the process has started, is ready and is alive, from the states of its components.
//!
//! # State machine
//! A component is `starting`, then `ok` or `not_ok`, and may go back and forth between those two.
//! - **started**: every component has been `ok` once; never taken back.
//! - **ready**: every component is `ok` and the process is not draining.
//! - **live**: no component that is critical for life is `not_ok`. Starting is alive, and so is
//!   draining: neither is mended by a restart.
//!
//! # Caveat
//! Components are registered one by one, so all of them should be registered before the first is
//! set `ok`. A process without any component is not started and not ready.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

/// State of a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not usable yet.
    Starting,
    /// Works.
    Ok,
    /// Does not work; may recover.
    NotOk,
}

/// Whether a restart can mend a component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// `/live` fails while the component is not ok: only a restart helps.
    Critical,
    /// `/live` ignores the component: it recovers by itself, or a restart would not help.
    Ignored,
}

/// One component in a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentReport {
    /// The component.
    pub name: &'static str,
    /// Its state.
    pub state: State,
    /// Why it is not ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether the probe succeeds.
    pub ok: bool,
    /// Whether the process is on its way out.
    pub draining: bool,
    /// The components that make it fail; empty when it succeeds or fails only because of draining.
    pub failing: Vec<ComponentReport>,
}

/// The health of this process; clones share it.
#[derive(Debug, Clone)]
pub struct Health {
    inner: Arc<Mutex<Inner>>,
    ready: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    components: Vec<Entry>,
    draining: bool,
    started: bool,
}

#[derive(Debug)]
struct Entry {
    name: &'static str,
    liveness: Liveness,
    state: State,
    reason: Option<String>,
    was_ok: bool,
}

impl Entry {
    fn report(&self) -> ComponentReport {
        ComponentReport {
            name: self.name,
            state: self.state,
            reason: self.reason.clone(),
        }
    }
}

impl Default for Health {
    fn default() -> Self {
        Self {
            inner: Arc::default(),
            ready: watch::Sender::new(false),
        }
    }
}

impl Health {
    /// A process without components: alive, but neither started nor ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a component in state `starting`. The same name gives the same component.
    #[must_use]
    pub fn component(&self, name: &'static str, liveness: Liveness) -> Component {
        let mut inner = self.lock();
        let known = inner.components.iter().position(|entry| entry.name == name);
        let index = known.unwrap_or_else(|| {
            let state = State::Starting;
            inner.components.push(Entry {
                name,
                liveness,
                state,
                reason: None,
                was_ok: false,
            });
            inner.components.len() - 1
        });
        self.publish(&mut inner);
        Component {
            health: self.clone(),
            index,
        }
    }

    /// Makes the process not ready for good. `/live` stays as it is.
    pub fn set_draining(&self) {
        let mut inner = self.lock();
        inner.draining = true;
        self.publish(&mut inner);
    }

    /// Whether every component has been ok once.
    #[must_use]
    pub fn startup(&self) -> Report {
        let inner = self.lock();
        let failing = |entry: &&Entry| !inner.started && !entry.was_ok;
        inner.report(inner.started, inner.components.iter().filter(failing))
    }

    /// Whether new work may be sent here.
    #[must_use]
    pub fn ready(&self) -> Report {
        let inner = self.lock();
        let failing = |entry: &&Entry| entry.state != State::Ok;
        inner.report(inner.is_ready(), inner.components.iter().filter(failing))
    }

    /// Whether the process should be left running.
    #[must_use]
    pub fn live(&self) -> Report {
        let inner = self.lock();
        let failing =
            |entry: &&Entry| entry.state == State::NotOk && entry.liveness == Liveness::Critical;
        let ok = !inner.components.iter().any(|entry| failing(&entry));
        inner.report(ok, inner.components.iter().filter(failing))
    }

    /// Follows readiness, for example to set the gRPC health service.
    #[must_use]
    pub fn watch_ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is a single assignment, so a panic in between leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, inner: &mut Inner) {
        let all_were_ok = inner.components.iter().all(|entry| entry.was_ok);
        inner.started |= all_were_ok && !inner.components.is_empty();
        let ready = inner.is_ready();
        self.ready
            .send_if_modified(|value| std::mem::replace(value, ready) != ready);
    }
}

impl Inner {
    fn is_ready(&self) -> bool {
        let all_ok = self.components.iter().all(|entry| entry.state == State::Ok);
        all_ok && !self.components.is_empty() && !self.draining
    }

    fn report<'a>(&self, ok: bool, failing: impl Iterator<Item = &'a Entry>) -> Report {
        let failing = if ok {
            Vec::new()
        } else {
            failing.map(Entry::report).collect()
        };
        Report {
            ok,
            draining: self.draining,
            failing,
        }
    }
}

/// The handle by which a component reports its state; clones share it.
#[derive(Debug, Clone)]
pub struct Component {
    health: Health,
    index: usize,
}

impl Component {
    /// The component works.
    pub fn set_ok(&self) {
        self.set(State::Ok, None);
    }

    /// The component does not work; `reason` is shown to whoever asks the admin port, so it holds no
    /// secret.
    pub fn set_not_ok(&self, reason: impl Into<String>) {
        self.set(State::NotOk, Some(reason.into()));
    }

    /// The component is not usable yet, or again.
    pub fn set_starting(&self) {
        self.set(State::Starting, None);
    }

    fn set(&self, state: State, reason: Option<String>) {
        let mut inner = self.health.lock();
        if let Some(entry) = inner.components.get_mut(self.index) {
            entry.state = state;
            entry.reason = reason;
            entry.was_ok |= state == State::Ok;
        }
        self.health.publish(&mut inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(report: &Report) -> Vec<&'static str> {
        report
            .failing
            .iter()
            .map(|component| component.name)
            .collect()
    }

    #[test]
    fn nothing_registered_is_not_ready() {
        let health = Health::new();
        assert!(!health.startup().ok);
        assert!(!health.ready().ok);
        assert!(health.live().ok);
    }

    /// S4-37.
    #[test]
    fn ready_needs_every_component_and_startup_every_one_once() {
        let health = Health::new();
        let wal = health.component("wal", Liveness::Critical);
        let catalog = health.component("catalog", Liveness::Ignored);
        wal.set_ok();
        assert_eq!(failing(&health.ready()), ["catalog"]);
        assert_eq!(failing(&health.startup()), ["catalog"]);
        catalog.set_ok();
        assert!(health.ready().ok && health.startup().ok);

        catalog.set_not_ok("connection refused");
        let report = health.ready();
        assert_eq!(
            report.failing[0].reason.as_deref(),
            Some("connection refused")
        );
        assert!(health.startup().ok, "startup is never taken back");
        catalog.set_ok();
        assert!(health.ready().ok);
    }

    /// S4-38.
    #[test]
    fn only_critical_components_end_a_life() {
        let health = Health::new();
        let wal = health.component("wal", Liveness::Critical);
        let catalog = health.component("catalog", Liveness::Ignored);
        assert!(health.live().ok, "starting is alive");
        catalog.set_not_ok("gone");
        assert!(health.live().ok);
        wal.set_not_ok("disk error");
        assert_eq!(failing(&health.live()), ["wal"]);
        wal.set_ok();
        assert!(health.live().ok, "a component may recover");
    }

    #[test]
    fn draining_ends_readiness_and_nothing_else() {
        let health = Health::new();
        let component = health.component("server", Liveness::Critical);
        component.set_ok();
        let ready = health.watch_ready();
        assert!(*ready.borrow());
        health.set_draining();
        assert!(!*ready.borrow());
        let report = health.ready();
        assert!(!report.ok && report.draining && report.failing.is_empty());
        assert!(health.live().ok && health.startup().ok);
        component.set_ok();
        assert!(!health.ready().ok, "draining is for good");
    }

    #[test]
    fn a_component_registered_twice_is_one_component() {
        let health = Health::new();
        let first = health.component("wal", Liveness::Critical);
        let again = health.component("wal", Liveness::Critical);
        again.set_ok();
        assert!(health.ready().ok);
        first.set_not_ok("x");
        assert_eq!(failing(&health.ready()), ["wal"]);
    }
}
