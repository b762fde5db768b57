//! Step 4: writes the objects, then deletes those of ours that are no longer wanted.
//!
//! # Flow
//! Kind by kind in a fixed order: list the metadata of what is there, write what changed, and after
//! all kinds are written delete what is left over.
//!
//! # Guarantees
//! - Server-side apply with force, and only on objects that have this cluster as their owner: an
//!   object of the same name that somebody else made is an error, never overwritten.
//! - Nothing is written when nothing changed. What we rendered and what the API server then held
//!   are remembered by digest; as long as neither moves, no request is made. The remembered digests
//!   are lost with the process; the API server then sees each object once more, finds no
//!   difference, and keeps the object and its resourceVersion as they are.
//! - What is live is never compared with what is wanted: defaults that the API server fills in
//!   can't cause a loop.
//!
//! # Caveats
//! Between the check for somebody else's object and the first write somebody may still make one.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};

use flightcluster_crds::v1alpha1::reason;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::build::labels::selector;
use super::resources::{Applied, Desired, Resources};

/// The field manager of everything that is applied here.
pub const FIELD_MANAGER: &str = "flightcluster-operator";

/// A kind of object that clusters consist of.
pub trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// What a pass changed, as `Kind/name`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Objects that the API server changed or made.
    pub written: Vec<String>,
    /// Objects that were deleted.
    pub deleted: Vec<String>,
}

/// Why objects could not be written. What was written before stays; a retry is safe.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The objects of a kind could not be listed.
    #[error("listing objects of kind {kind}")]
    List {
        /// The kind.
        kind: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object could not be written as JSON: a bug.
    #[error("writing {object} as JSON")]
    Serialize {
        /// The object, as `Kind/name`.
        object: String,
        /// What the library said.
        #[source]
        source: serde_json::Error,
    },
    /// An object could not be applied.
    #[error("applying {object}")]
    Apply {
        /// The object, as `Kind/name`.
        object: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object could not be deleted.
    #[error("deleting {object}")]
    Delete {
        /// The object, as `Kind/name`.
        object: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// An object of this name belongs to somebody else.
    #[error("{object} already exists and doesn't belong to this cluster; rename or delete it")]
    NotOurs {
        /// The object, as `Kind/name`.
        object: String,
    },
    /// An object is on its way out and has to be gone before it can be made again.
    #[error("{object} is being deleted; it is made again when it is gone")]
    BeingDeleted {
        /// The object, as `Kind/name`.
        object: String,
    },
}

impl Error {
    /// Returns the bounded name of this error for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::List { .. } => "list",
            Self::Serialize { .. } => "serialize",
            Self::Apply { .. } => "apply",
            Self::Delete { .. } => "delete",
            Self::NotOurs { .. } => "not_ours",
            Self::BeingDeleted { .. } => "being_deleted",
        }
    }

    /// Returns the reason when somebody has to act before a retry can succeed.
    #[must_use]
    pub fn stall(&self) -> Option<&'static str> {
        match self {
            Self::NotOurs { .. } => Some(reason::FOREIGN_OBJECT),
            Self::Apply { source, .. } | Self::Delete { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if REFUSALS.contains(&status.code) => {
                    Some(reason::REFUSED)
                }
                _ => None,
            },
            Self::List { .. } | Self::Serialize { .. } | Self::BeingDeleted { .. } => None,
        }
    }
}

/// Answers of an API server that another try doesn't change: what was asked for is malformed, not
/// allowed (by rights, quota or a policy), or not valid.
const REFUSALS: [u16; 3] = [400, 403, 422];

/// The cluster whose objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What the API server knows it by.
    pub uid: &'a str,
}

/// Writes objects, and remembers what it wrote.
pub struct Applier {
    client: Client,
    remembered: Mutex<HashMap<(String, String), HashMap<String, Remembered>>>,
}

impl Debug for Applier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Applier").finish_non_exhaustive()
    }
}

/// A SHA-256.
type Fingerprint = [u8; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remembered {
    /// Of what we rendered.
    rendered: Fingerprint,
    /// Of what the API server held after that.
    live: Fingerprint,
}

impl Applier {
    /// An applier that remembers nothing yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self {
            client,
            remembered: Mutex::default(),
        }
    }

    /// Writes `resources` and deletes what is no longer among them.
    ///
    /// - Errors: see [`Error`]; the first one ends the pass.
    /// - Cancellation: some objects may have been written; the next pass goes on.
    pub async fn apply(
        &self,
        owner: Owner<'_>,
        resources: Resources<Desired>,
    ) -> Result<(Resources<Applied>, Changes), Error> {
        let mut changes = Changes::default();
        // Without `..`, so that a new kind can't be forgotten.
        let Resources {
            service_accounts,
            secrets,
            config_maps,
            services,
            pod_disruption_budgets,
            stateful_sets,
            state: _,
        } = &resources;
        let service_accounts = self
            .apply_kind(owner, service_accounts, &mut changes)
            .await?;
        let secrets = self.apply_kind(owner, secrets, &mut changes).await?;
        let config_maps = self.apply_kind(owner, config_maps, &mut changes).await?;
        let services = self.apply_kind(owner, services, &mut changes).await?;
        let budgets = self
            .apply_kind(owner, pod_disruption_budgets, &mut changes)
            .await?;
        let stateful_sets = self.apply_kind(owner, stateful_sets, &mut changes).await?;
        // In reverse, so that nothing is taken from a pod that still runs.
        self.delete_all(owner, stateful_sets, &mut changes).await?;
        self.delete_all(owner, budgets, &mut changes).await?;
        self.delete_all(owner, services, &mut changes).await?;
        self.delete_all(owner, config_maps, &mut changes).await?;
        self.delete_all(owner, secrets, &mut changes).await?;
        self.delete_all(owner, service_accounts, &mut changes)
            .await?;
        Ok((resources.into_applied(), changes))
    }

    /// Forgets what was written for a cluster that is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.lock().remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// Writes the objects of a kind and returns what else of ours is there.
    async fn apply_kind<K: Object>(
        &self,
        owner: Owner<'_>,
        objects: &[K],
        changes: &mut Changes,
    ) -> Result<Leftover<K>, Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), owner.namespace);
        let labelled = ListParams::default().labels(&selector(owner.name));
        let list = api
            .list_metadata(&labelled)
            .await
            .map_err(|source| Error::List {
                kind: K::kind(&()).into_owned(),
                source: Box::new(source),
            })?;
        let mut present: BTreeMap<String, ObjectMeta> = list
            .items
            .into_iter()
            .map(|item| (item.name_any(), item.metadata))
            .collect();
        for object in objects {
            let name = object.name_any();
            let live = match present.remove(&name) {
                Some(live) => Some(live),
                // Without our labels, or somebody else's.
                None => self.look_up(&api, &name).await?,
            };
            self.apply_object(owner, &api, object, live.as_ref(), changes)
                .await?;
        }
        present.retain(|_, live| is_owned(live, owner.uid));
        Ok(Leftover {
            api,
            objects: present,
        })
    }

    async fn look_up<K: Object>(
        &self,
        api: &Api<K>,
        name: &str,
    ) -> Result<Option<ObjectMeta>, Error> {
        let found = api.get_metadata_opt(name).await;
        let found = found.map_err(|source| Error::List {
            kind: K::kind(&()).into_owned(),
            source: Box::new(source),
        })?;
        Ok(found.map(|found| found.metadata))
    }

    async fn apply_object<K: Object>(
        &self,
        owner: Owner<'_>,
        api: &Api<K>,
        object: &K,
        live: Option<&ObjectMeta>,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let name = object.name_any();
        let key = label::<K>(&name);
        if let Some(live) = live {
            if !is_owned(live, owner.uid) {
                return Err(Error::NotOurs { object: key });
            }
            if live.deletion_timestamp.is_some() {
                return Err(Error::BeingDeleted { object: key });
            }
        }
        let rendered = serde_json::to_vec(object)
            .map(|bytes| Sha256::digest(bytes).into())
            .map_err(|source| Error::Serialize {
                object: key.clone(),
                source,
            })?;
        let before = live.map(fingerprint);
        let cluster = (owner.namespace.to_owned(), owner.name.to_owned());
        let unchanged = before.is_some_and(|live| {
            let known = self
                .lock()
                .get(&cluster)
                .and_then(|known| known.get(&key))
                .copied();
            known == Some(Remembered { rendered, live })
        });
        if unchanged {
            return Ok(());
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = api
            .patch(&name, &params, &Patch::Apply(object))
            .await
            .map_err(|source| Error::Apply {
                object: key.clone(),
                source: Box::new(source),
            })?;
        let live = fingerprint(written.meta());
        if before != Some(live) {
            changes.written.push(key.clone());
        }
        self.lock()
            .entry(cluster)
            .or_default()
            .insert(key, Remembered { rendered, live });
        Ok(())
    }

    async fn delete_all<K: Object>(
        &self,
        owner: Owner<'_>,
        leftover: Leftover<K>,
        changes: &mut Changes,
    ) -> Result<(), Error> {
        let Leftover { api, objects } = leftover;
        for (name, live) in objects {
            let object = label::<K>(&name);
            if live.deletion_timestamp.is_some() {
                continue;
            }
            // Only the object that was looked at, not one made since under the same name.
            let preconditions = Preconditions {
                uid: live.uid,
                resource_version: None,
            };
            let params = DeleteParams::default().preconditions(preconditions);
            match api.delete(&name, &params).await {
                Ok(_) => changes.deleted.push(object.clone()),
                Err(kube::Error::Api(status)) if status.is_not_found() => {}
                Err(source) => {
                    return Err(Error::Delete {
                        object,
                        source: Box::new(source),
                    });
                }
            }
            let cluster = (owner.namespace.to_owned(), owner.name.to_owned());
            self.lock().entry(cluster).or_default().remove(&object);
        }
        Ok(())
    }

    fn lock(
        &self,
    ) -> std::sync::MutexGuard<'_, HashMap<(String, String), HashMap<String, Remembered>>> {
        // Every change is one insert or remove, so a panic in between leaves nothing half done.
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Objects of ours that are no longer wanted.
struct Leftover<K> {
    api: Api<K>,
    objects: BTreeMap<String, ObjectMeta>,
}

fn label<K: Object>(name: &str) -> String {
    format!("{}/{name}", K::kind(&()))
}

fn is_owned(live: &ObjectMeta, uid: &str) -> bool {
    live.owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == uid && owner.controller == Some(true))
}

/// Digests what says whether somebody changed an object since.
///
/// Kinds with a status count the changes of their spec in `generation`; their resourceVersion also
/// moves with the status, which is none of our business.
fn fingerprint(live: &ObjectMeta) -> Fingerprint {
    let version = match live.generation {
        Some(generation) => generation.to_string(),
        None => live.resource_version.clone().unwrap_or_default(),
    };
    let parts = (
        &live.uid,
        live.generation.is_some(),
        version,
        &live.labels,
        &live.annotations,
        &live.owner_references,
    );
    let bytes = serde_json::to_vec(&parts).expect("metadata is text, numbers and maps of them");
    Sha256::digest(bytes).into()
}
