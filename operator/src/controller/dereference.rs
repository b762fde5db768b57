//! Step 1: reads what a spec names and what earlier passes made. Reads only.
//!
//! Judging what was read belongs to `validate`; making what is missing belongs to `material`.

use std::collections::BTreeMap;

use flightcluster_config::Role;
use flightcluster_crds::v1alpha1::{FlightCluster, FlightClusterSpec, TlsSpec};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::build::names::Names;
use super::rollout::RunningRole;
use super::validate::BucketSpec;

/// The roles of a cluster in the order in which their objects are written: the catalog first,
/// because the others wait for it.
pub const ROLES: [Role; 3] = [Role::Catalog, Role::Ingester, Role::Querier];

/// The roles that `spec` asks for: a catalog in Postgres has no pod.
#[must_use]
pub fn wanted_roles(spec: &FlightClusterSpec) -> Vec<Role> {
    let catalog = spec.catalog.as_ref();
    let has_pod = catalog.is_none_or(|catalog| catalog.postgres.is_none());
    let wanted = |role: &Role| *role != Role::Catalog || has_pod;
    ROLES.into_iter().filter(wanted).collect()
}

/// What a spec names and what earlier passes made.
#[derive(Clone, Debug, Default)]
pub struct Referenced {
    /// The user's Secrets that the spec names.
    pub named: NamedSecrets,
    /// The Secrets that hold what was made once and is kept.
    pub kept: KeptSecrets,
    /// What can't be changed, or not in every direction, in StatefulSets that exist.
    pub existing: BTreeMap<Role, ExistingRole>,
    /// What runs of the roles that have a StatefulSet.
    pub running: BTreeMap<Role, RunningRole>,
    /// The volume claims of each role, in the order of their pods. They outlive StatefulSets.
    pub claims: BTreeMap<Role, Vec<ExistingClaim>>,
}

/// The user's Secrets that a spec names.
#[derive(Clone, Debug)]
pub enum NamedSecrets {
    /// They were looked for: a name without a Secret is a Secret that isn't there.
    Read(BTreeMap<String, Option<Secret>>),
    /// There is no API server: they are taken to be as they should.
    Assumed,
}

impl Default for NamedSecrets {
    fn default() -> Self {
        Self::Read(BTreeMap::new())
    }
}

/// The Secrets with keys and certificates that an earlier pass made, as far as there are any.
#[derive(Clone, Debug, Default)]
pub struct KeptSecrets {
    /// The CA of the pods' own traffic.
    pub internal_ca: Option<Secret>,
    /// The certificate of the pods' own traffic.
    pub internal_tls: Option<Secret>,
    /// The CA of the certificate that clients see.
    pub public_ca: Option<Secret>,
    /// The certificate that clients see.
    pub public_tls: Option<Secret>,
    /// The key that tickets are signed with.
    pub signing_key: Option<Secret>,
    /// The first token.
    pub admin_token: Option<Secret>,
}

/// What can't be changed, or not in every direction, in a StatefulSet that exists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExistingRole {
    /// Pods asked for so far.
    pub replicas: i32,
    /// The size of the volume of each pod, as a quantity.
    pub volume_size: Option<String>,
    /// The class of the volume of each pod; `None` is the default class of the cluster.
    pub storage_class_name: Option<String>,
}

/// A volume claim that the pod with its number takes as its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExistingClaim {
    /// The number of the pod.
    pub ordinal: i32,
    /// The name of the claim.
    pub name: String,
    /// Its size, as a quantity.
    pub size: Option<String>,
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A Secret could not be read; nothing was changed, a retry is safe.
    #[error("reading Secret {name}")]
    ReadSecret {
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A StatefulSet could not be read; nothing was changed, a retry is safe.
    #[error("reading StatefulSet {name}")]
    ReadStatefulSet {
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// A ConfigMap could not be read; nothing was changed, a retry is safe.
    #[error("reading ConfigMap {name}")]
    ReadConfigMap {
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
    /// The volume claims could not be listed; nothing was changed, a retry is safe.
    #[error("listing PersistentVolumeClaims")]
    ListClaims(#[source] Box<kube::Error>),
}

impl Error {
    /// Returns the bounded name of this error for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::ReadSecret { .. } => "read_secret",
            Self::ReadStatefulSet { .. } => "read_stateful_set",
            Self::ReadConfigMap { .. } => "read_config_map",
            Self::ListClaims(_) => "list_claims",
        }
    }
}

/// Returns the names of the user's Secrets that `cluster` depends on, each once.
#[must_use]
pub fn named_secrets(cluster: &FlightCluster) -> Vec<String> {
    let spec = &cluster.spec;
    let mut names: Vec<String> = spec
        .auth
        .iter()
        .flat_map(|auth| auth.token_secrets.iter().cloned())
        .collect();
    names.extend(
        spec.tls
            .iter()
            .filter_map(|TlsSpec { secret_name, .. }| secret_name.clone()),
    );
    let buckets = spec.object_store.as_ref().map(BucketSpec::named);
    for bucket in buckets.unwrap_or_default() {
        names.extend(bucket.credentials_secret().map(str::to_owned));
        names.extend(bucket.ca_secret().map(str::to_owned));
    }
    let postgres = spec
        .catalog
        .as_ref()
        .and_then(|catalog| catalog.postgres.as_ref());
    names.extend(postgres.map(|postgres| postgres.secret_name.clone()));
    names.extend(postgres.and_then(|postgres| postgres.ca_secret.clone()));
    names.sort();
    names.dedup();
    names
}

/// Reads what `cluster` names and what earlier passes made for it.
///
/// # Errors
/// The first object that can't be read. An object that isn't there is no error.
pub async fn dereference(client: &Client, cluster: &FlightCluster) -> Result<Referenced, Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let stateful_sets: Api<StatefulSet> = Api::namespaced(client.clone(), &namespace);
    let names = Names::new(&cluster.name_any());

    let mut named = BTreeMap::new();
    for name in named_secrets(cluster) {
        let secret = read_secret(&secrets, &name).await?;
        named.insert(name, secret);
    }
    let kept = KeptSecrets {
        internal_ca: read_secret(&secrets, &names.internal_ca_secret()).await?,
        internal_tls: read_secret(&secrets, &names.internal_tls_secret()).await?,
        public_ca: read_secret(&secrets, &names.public_ca_secret()).await?,
        public_tls: read_secret(&secrets, &names.public_tls_secret()).await?,
        signing_key: read_secret(&secrets, &names.signing_key_secret()).await?,
        admin_token: read_secret(&secrets, &names.admin_token_secret()).await?,
    };
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
    let mut existing = BTreeMap::new();
    let mut running = BTreeMap::new();
    for role in ROLES {
        let name = names.role(role);
        let found = stateful_sets.get_opt(&name).await;
        let found = found.map_err(|source| Error::ReadStatefulSet {
            name: name.clone(),
            source: Box::new(source),
        })?;
        let Some(stateful_set) = found else { continue };
        existing.insert(role, existing_role(&stateful_set));
        let config = config_maps.get_opt(&name).await;
        let config = config.map_err(|source| Error::ReadConfigMap {
            name,
            source: Box::new(source),
        })?;
        running.insert(role, RunningRole::of(&stateful_set, config));
    }
    Ok(Referenced {
        named: NamedSecrets::Read(named),
        kept,
        existing,
        running,
        claims: read_claims(client, &namespace, &names).await?,
    })
}

/// All claims of the namespace are listed: a StatefulSet takes a claim for its name, whatever labels
/// it carries, for example after it was restored from a backup.
async fn read_claims(
    client: &Client,
    namespace: &str,
    names: &Names,
) -> Result<BTreeMap<Role, Vec<ExistingClaim>>, Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claims = api.list(&ListParams::default()).await;
    let claims = claims.map_err(|source| Error::ListClaims(Box::new(source)))?;
    let mut by_role: BTreeMap<Role, Vec<ExistingClaim>> = BTreeMap::new();
    for (role, claim) in claims
        .iter()
        .filter_map(|claim| existing_claim(names, claim))
    {
        by_role.entry(role).or_default().push(claim);
    }
    for claims in by_role.values_mut() {
        claims.sort();
    }
    Ok(by_role)
}

/// Returns the role whose pod takes `claim`, and what is known of the claim. One that is being
/// deleted is given up and counts no more.
#[must_use]
pub fn existing_claim(
    names: &Names,
    claim: &PersistentVolumeClaim,
) -> Option<(Role, ExistingClaim)> {
    if claim.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = claim.name_any();
    let (role, ordinal) = ROLES.into_iter().find_map(|role| {
        let ordinal = name.strip_prefix(&names.claim_prefix(role))?;
        let number: i32 = ordinal.parse().ok()?;
        (number.to_string() == ordinal).then_some((role, number))
    })?;
    let size = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.resources.as_ref())
        .and_then(|resources| resources.requests.as_ref())
        .and_then(|requests| requests.get("storage"))
        .map(|quantity| quantity.0.clone());
    let claim = ExistingClaim {
        ordinal,
        name,
        size,
    };
    Some((role, claim))
}

async fn read_secret(api: &Api<Secret>, name: &str) -> Result<Option<Secret>, Error> {
    api.get_opt(name).await.map_err(|source| Error::ReadSecret {
        name: name.to_owned(),
        source: Box::new(source),
    })
}

/// Returns what can't be changed, or not in every direction, in a StatefulSet.
#[must_use]
pub fn existing_role(stateful_set: &StatefulSet) -> ExistingRole {
    let spec = stateful_set.spec.as_ref();
    let claim = spec
        .and_then(|spec| spec.volume_claim_templates.as_ref())
        .and_then(|templates| templates.first())
        .and_then(|template| template.spec.as_ref());
    ExistingRole {
        replicas: spec.and_then(|spec| spec.replicas).unwrap_or_default(),
        volume_size: claim
            .and_then(|claim| claim.resources.as_ref())
            .and_then(|resources| resources.requests.as_ref())
            .and_then(|requests| requests.get("storage"))
            .map(|quantity| quantity.0.clone()),
        storage_class_name: claim.and_then(|claim| claim.storage_class_name.clone()),
    }
}
