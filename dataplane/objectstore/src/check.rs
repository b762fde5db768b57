//! Proves at start that a store can be used: writes, reads and deletes one small object.

use std::time::Duration;

use flightcluster_config::ObjectStoreKind;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use uuid::Uuid;

/// Folder of the probe objects. Each has its own name, so that processes don't meet.
const FOLDER: &str = "_flightcluster_probe";

/// What a probe holds: enough to see that it came back as written.
const CONTENT: &[u8] = b"flightcluster probe: may be deleted";

/// A store that answers more slowly is not usable; without a limit, clients of clouds try for minutes.
const TIME_LIMIT: Duration = Duration::from_secs(15);

/// What went wrong with the probe, where, and what to look at.
#[derive(Debug, thiserror::Error)]
#[error("can't {doing} in the object store ({place}): {advice}")]
pub struct CheckError {
    /// `write`, `read back` or `delete a probe object`.
    pub doing: &'static str,
    /// The store, as [`place`](crate::place) says it.
    pub place: String,
    /// What to verify.
    pub advice: &'static str,
    /// The cause.
    pub source: Cause,
}

/// Why one step of the check failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The store refused or could not be reached.
    #[error(transparent)]
    Store(#[from] object_store::Error),
    /// No answer.
    #[error("no answer within {} s", TIME_LIMIT.as_secs())]
    Timeout,
    /// What came back is not what was written.
    #[error("the object came back with other content")]
    Content,
}

impl CheckError {
    /// Whether it may work later without anybody's doing: no answer came, or none that names a reason.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        use object_store::Error::Generic;
        matches!(self.source, Cause::Timeout | Cause::Store(Generic { .. }))
    }

    /// A bounded label for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match &self.source {
            Cause::Store(object_store::Error::PermissionDenied { .. }) => "permission_denied",
            Cause::Store(object_store::Error::Unauthenticated { .. }) => "unauthenticated",
            Cause::Store(object_store::Error::NotFound { .. }) => "not_found",
            Cause::Store(_) => "store",
            Cause::Timeout => "timeout",
            Cause::Content => "content",
        }
    }
}

/// Writes, reads and deletes a small object.
///
/// `place` names the store in errors (see [`place`](crate::place)); `kind` decides what the error
/// advises. A failed check may leave one probe object below `_flightcluster_probe`.
///
/// - Retry: safe. At the start of a cluster the catalog process that serves an `embedded` store may
///   not be there yet.
pub async fn check(
    store: &dyn ObjectStore,
    kind: ObjectStoreKind,
    place: &str,
) -> Result<(), CheckError> {
    let failed = |doing, source: Cause| CheckError {
        doing,
        place: place.to_owned(),
        advice: advice(kind, &source),
        source,
    };
    let probe = Path::from_iter([FOLDER, &Uuid::now_v7().to_string()]);
    within(store.put(&probe, CONTENT.into()))
        .await
        .map_err(|cause| failed("write a probe object", cause))?;
    let read = within(async { store.get(&probe).await?.bytes().await })
        .await
        .and_then(|bytes| {
            if bytes == CONTENT {
                Ok(())
            } else {
                Err(Cause::Content)
            }
        });
    let deleted = within(store.delete(&probe)).await;
    read.map_err(|cause| failed("read back a probe object", cause))?;
    deleted.map_err(|cause| failed("delete a probe object", cause))
}

async fn within<T>(call: impl Future<Output = Result<T, object_store::Error>>) -> Result<T, Cause> {
    match tokio::time::timeout(TIME_LIMIT, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Cause::Timeout),
    }
}

fn advice(kind: ObjectStoreKind, cause: &Cause) -> &'static str {
    use object_store::Error::{NotFound, PermissionDenied, Unauthenticated};
    match kind {
        ObjectStoreKind::Local => {
            "verify that the directory exists, is writable for this user and has space left"
        }
        ObjectStoreKind::Embedded => {
            "verify that the catalog process runs, that catalog.url is its address, and that both \
             sides have certificates of the same CA"
        }
        ObjectStoreKind::Memory => "memory of this process is exhausted",
        ObjectStoreKind::S3 | ObjectStoreKind::Gcs | ObjectStoreKind::Azure => match cause {
            Cause::Store(NotFound { .. }) => {
                "verify that the bucket exists and that bucket, region, endpoint and path_style name it"
            }
            Cause::Store(PermissionDenied { .. } | Unauthenticated { .. }) => {
                "verify the credentials and that they may put, get, list and delete objects there"
            }
            _ => {
                "verify endpoint, region, allow_http, ca_file, the name resolution and network policy of this \
                 machine or pod, and the credentials"
            }
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use futures::TryStreamExt as _;
    use object_store::memory::InMemory;

    use super::*;
    use crate::DurableLocal;

    #[tokio::test]
    async fn a_usable_store_passes_and_keeps_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let local = DurableLocal::open(directory.path()).unwrap();
        let memory = InMemory::new();
        for store in [&local as &dyn ObjectStore, &memory] {
            check(store, ObjectStoreKind::Local, "here").await.unwrap();
            let left: Vec<_> = store.list(None).try_collect().await.unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    #[tokio::test]
    async fn an_unusable_store_is_named_with_what_to_verify() {
        let directory = tempfile::tempdir().unwrap();
        let local = DurableLocal::open(directory.path()).unwrap();
        // A file where the folder should be.
        std::fs::write(directory.path().join(FOLDER), "in the way").unwrap();
        let error = check(&local, ObjectStoreKind::Local, "directory /data")
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("directory /data") && text.contains("writable"),
            "{text}"
        );
        assert_eq!(error.category(), "store");
    }

    #[tokio::test]
    async fn only_what_may_be_there_later_may_pass() {
        let error = |source| CheckError {
            doing: "write a probe object",
            place: "here".to_owned(),
            advice: "look",
            source,
        };
        let source = || Box::from("reason");
        let path = String::new;
        assert!(error(Cause::Timeout).may_pass());
        let away = object_store::Error::Generic {
            store: "S3",
            source: source(),
        };
        assert!(error(Cause::Store(away)).may_pass());
        let refused = [
            object_store::Error::PermissionDenied {
                path: path(),
                source: source(),
            },
            object_store::Error::Unauthenticated {
                path: path(),
                source: source(),
            },
            object_store::Error::NotFound {
                path: path(),
                source: source(),
            },
        ];
        for refused in refused {
            assert!(!error(Cause::Store(refused)).may_pass());
        }
        assert!(!error(Cause::Content).may_pass());
    }
}
