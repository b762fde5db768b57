//! The reasons after which an ingester must not accept anything any more.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::error;

/// Why the process must end. After a restart it replays its log and goes on.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fatal {
    /// A younger process registered under the same name.
    #[error(
        "another process has taken over this ingester (give each process its own node name), or the \
         catalog lost commits and every ingester has to register anew"
    )]
    Fenced(#[source] Arc<flightcluster_catalog::Error>),
    /// The catalog lost states that this process relied on.
    #[error("the catalog was restored from a backup or exchanged under this ingester")]
    RolledBack(#[source] Arc<flightcluster_catalog::Error>),
    /// The write-ahead log failed.
    #[error("write-ahead log failed, the process must restart to replay it")]
    Wal(#[source] flightcluster_wal::Error),
}

impl Fatal {
    /// A bounded label for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Fenced(_) => "fenced",
            Self::RolledBack(_) => "rolled_back",
            Self::Wal(_) => "wal",
        }
    }
}

/// Keeps the first fatal reason and tells everybody who waits for it.
#[derive(Debug, Clone)]
pub(crate) struct FatalState(watch::Sender<Option<Fatal>>);

impl FatalState {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    pub(crate) fn get(&self) -> Option<Fatal> {
        self.0.borrow().clone()
    }

    pub(crate) fn set(&self, fatal: Fatal) {
        let first = self.0.send_if_modified(|state| {
            let first = state.is_none();
            if first {
                *state = Some(fatal.clone());
            }
            first
        });
        if first {
            error!(error = %fatal, category = fatal.category(), "ingester is out of service");
        }
    }

    pub(crate) async fn wait(&self) -> Fatal {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(fatal) = receiver.borrow_and_update().clone() {
                return fatal;
            }
            // The sender lives in `self`: this ends with a change only.
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
