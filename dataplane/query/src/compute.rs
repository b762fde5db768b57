//! The threads that plan and run queries: a runtime of their own, so that a query that keeps every
//! core busy delays no connection, probe or acknowledgement.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

use crate::Error;

/// Stack of a query thread. Plans are trees and some of the walks over them recurse, so this bounds
/// how deep a statement may be (see `depth`); only touched pages cost memory.
const THREAD_STACK_BYTES: usize = 32 * 1024 * 1024;

/// How many tasks a thread runs before it looks for what came from other threads (a cancellation, a
/// new query) and from the network. The runtime's default of 61 suits tasks of microseconds; here
/// one turn may take a tenth of a second, and a cancelled query would go on for many of them.
const EVERY_TASK: u32 = 1;

/// The runtime of the queries. May be dropped anywhere, also inside another runtime.
#[derive(Debug)]
pub(crate) struct Compute {
    runtime: Option<Runtime>,
    handle: Handle,
    threads: usize,
    panics: AtomicU64,
}

impl Compute {
    /// Starts `threads` threads; 0 takes one per core.
    pub(crate) fn new(threads: usize) -> Result<Self, Error> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
            threads => threads,
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("query")
            .thread_stack_size(THREAD_STACK_BYTES)
            .global_queue_interval(EVERY_TASK)
            .event_interval(EVERY_TASK)
            .enable_all()
            .build()
            .map_err(|source| Error::Start {
                doing: "starting the query threads",
                source,
            })?;
        let handle = runtime.handle().clone();
        Ok(Self {
            runtime: Some(runtime),
            handle,
            threads,
            panics: AtomicU64::new(0),
        })
    }

    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    pub(crate) fn panics(&self) -> u64 {
        self.panics.load(Ordering::Relaxed)
    }

    /// Starts a task on the query threads that ends when the handle is dropped.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.handle.spawn(work))
    }

    /// Runs `work` on the query threads and waits for it; a panic inside becomes [`Error::Panic`].
    /// Cancellation: dropping the call ends the work at its next await point.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let ended = self.spawn(work).await;
        self.outcome(ended)
    }

    /// What a task came to; counts and logs a panic, also one of a task below it.
    pub(crate) fn outcome<T>(
        &self,
        ended: Result<Result<T, Error>, JoinError>,
    ) -> Result<T, Error> {
        let result = ended.unwrap_or_else(|ended| {
            let Ok(payload) = ended.try_into_panic() else {
                return Err(Error::Cancelled);
            };
            Err(Error::Panic {
                message: panic_message(payload.as_ref()),
            })
        });
        if let Err(Error::Panic { message }) = &result {
            self.panics.fetch_add(1, Ordering::Relaxed);
            error!(message, "a query panicked");
        }
        result
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for running tasks is not allowed in an async context; they are abandoned.
            runtime.shutdown_background();
        }
    }
}

fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
