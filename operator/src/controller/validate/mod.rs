//! Step 2: a spec and what it names become a cluster that makes sense, or every problem at once.
//!
//! Pure. Rules that an API server can enforce by itself stand on the types in `crds`; they are
//! repeated here only where `render` would otherwise print nonsense.

mod amounts;
mod image;
mod object_store;
mod pod_template;
mod secrets;
mod settings;
mod tokens;
mod unknown;
mod volumes;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use flightcluster_config::{ByteSize, Config, Role};
use flightcluster_crds::v1alpha1::{
    AuthMode, FlightCluster, FlightClusterSpec, ImagePullPolicy, MAX_NAME_LENGTH, MallocSpec,
    PodTemplate, PostgresSpec, StorageSpec,
};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ResourceRequirements};
use kube::ResourceExt;

use super::build::names::{DnsNames, Names};
use super::dereference::Referenced;
use super::material::{SIGNING_KEY, SIGNING_KEY_BYTES};

pub use object_store::{Bucket, BucketSpec, ObjectStore};
pub use secrets::POSTGRES_URL;
pub use unknown::unknown_fields;

/// The size of a volume or of scratch space when the spec names none.
const DEFAULT_SIZE: &str = "10Gi";

/// How long a self-signed certificate is valid when the spec doesn't say.
const DEFAULT_CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Shorter lives would end before a new certificate has reached every pod: a kubelet takes up to
/// a minute and a half to bring a changed Secret into a running pod.
const MINIMUM_CERTIFICATE_LIFE: Duration = Duration::from_secs(30);

/// The longest DNS name (RFC 1035).
const MAX_DNS_NAME: usize = 253;

/// What the operator was installed with, for what a spec leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The image of the data plane: the operator's own.
    pub image: String,
    /// The DNS suffix of the Kubernetes cluster.
    pub cluster_domain: String,
}

/// One thing that is wrong with a spec, with the way to put it right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field of the spec, for example `config.query.batch_rows`.
    pub field: String,
    /// What is wrong and how to put it right.
    pub message: String,
}

impl Problem {
    /// A problem of `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A cluster that makes sense: every default resolved, every reference found.
#[derive(Clone, Debug)]
pub struct ValidatedCluster {
    /// The names of its objects.
    pub names: Names,
    /// Its namespace.
    pub namespace: String,
    /// What the API server knows it by; `None` when it was never there (`render`).
    pub uid: Option<String>,
    /// The DNS suffix of the Kubernetes cluster.
    pub cluster_domain: String,
    /// The image of all roles.
    pub image: Image,
    /// The revision of the pod templates to render.
    pub template_revision: i32,
    /// The certificate that clients see.
    pub tls: Tls,
    /// Who may call.
    pub auth: Auth,
    /// Whether running without tokens or TLS was accepted.
    pub allow_insecure: bool,
    /// Where Parquet files are kept.
    pub object_store: ObjectStore,
    /// The annotations of the pods' ServiceAccount, by which a cloud knows whom they act for.
    pub identity: BTreeMap<String, String>,
    /// The catalog's pod; without one the catalog is in Postgres.
    pub catalog: Option<ValidatedRole>,
    /// The database of the catalog, when it has no pod.
    pub postgres: Option<PostgresSpec>,
    /// The ingesters.
    pub ingester: ValidatedRole,
    /// The queriers.
    pub querier: ValidatedRole,
}

impl ValidatedCluster {
    /// The roles in the order in which their objects are written.
    #[must_use]
    pub fn roles(&self) -> Vec<&ValidatedRole> {
        let catalog = self.catalog.iter();
        catalog.chain([&self.ingester, &self.querier]).collect()
    }

    /// The DNS names of this cluster.
    #[must_use]
    pub fn dns(&self) -> DnsNames<'_> {
        DnsNames {
            names: &self.names,
            namespace: &self.namespace,
            cluster_domain: &self.cluster_domain,
        }
    }
}

/// The image of all roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The full reference.
    pub reference: String,
    /// When nodes pull it.
    pub pull_policy: ImagePullPolicy,
    /// Secrets with registry credentials.
    pub pull_secrets: Vec<String>,
}

/// The certificate that clients see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Clients use no TLS.
    Disabled,
    /// The operator makes it.
    SelfSigned {
        /// How long it is valid.
        life: Duration,
        /// Names and addresses besides those of the Services.
        extra_names: Vec<String>,
    },
    /// It comes from the user's Secret.
    Secret {
        /// The Secret.
        name: String,
        /// The CA for clients that don't know the issuer, as PEM.
        ca: Option<String>,
        /// The certificate chain, as PEM; `None` when there was no API server to ask.
        certificate: Option<String>,
    },
}

/// Who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    None,
    /// Who shows a token: the operator's first one, or one from these Secrets.
    Token {
        /// The user's Secrets with tokens.
        secrets: Vec<String>,
    },
}

/// The pods of one role.
#[derive(Clone, Debug)]
pub struct ValidatedRole {
    /// Which role.
    pub role: Role,
    /// How many pods.
    pub replicas: i32,
    /// CPU and memory of the container.
    pub resources: Option<ResourceRequirements>,
    /// The volume at the data directory.
    pub volume: Volume,
    /// The user's settings, the allocator's among them; those of the operator come over them.
    pub config: Config,
    /// What is merged over the operator's pod template.
    pub pod_template: Option<Box<PodTemplateSpec>>,
}

/// The volume at the data directory of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Volume {
    /// A persistent volume of each pod.
    Claim {
        /// Its size as a quantity.
        size: String,
        /// Its class; `None` is the default class of the Kubernetes cluster.
        storage_class_name: Option<String>,
    },
    /// Space on the node that is lost with the pod.
    Scratch {
        /// Its largest size as a quantity.
        size: String,
    },
}

/// Collects problems while the parts are checked.
type Problems = Vec<Problem>;

/// Turns a spec and what it names into a cluster that makes sense.
///
/// # Errors
/// Every problem, never an empty list. Nothing was changed; a retry helps only after the spec or a
/// Secret it names has changed.
pub fn validate(
    cluster: &FlightCluster,
    referenced: &Referenced,
    defaults: &Defaults,
) -> Result<ValidatedCluster, Vec<Problem>> {
    let mut problems = Problems::new();
    let spec = &cluster.spec;
    let name = cluster.name_any();
    if name.is_empty() || name.len() > MAX_NAME_LENGTH {
        let message = format!("must have 1 to {MAX_NAME_LENGTH} characters");
        problems.push(Problem::new("metadata.name", message));
    }
    let allow_insecure = spec.auth.as_ref().is_some_and(|auth| auth.allow_insecure);
    let tls = validate_tls(spec, referenced, allow_insecure, &mut problems);
    let names = Names::new(&name);
    let auth = validate_auth(spec, &names, referenced, allow_insecure, &mut problems);
    let object_store = object_store::validate(spec, referenced, &mut problems);
    let postgres = secrets::validate_postgres(spec, &object_store, referenced, &mut problems);
    let config = settings::validate(&spec.config, &mut problems);
    let asked = asked_roles(spec);
    let mut roles = asked.map(|asked| validate_role(asked, &config, referenced, &mut problems));
    let [catalog, ingester, querier] = &mut roles;
    let validated = ValidatedCluster {
        names,
        namespace: cluster.namespace().unwrap_or_else(|| "default".to_owned()),
        uid: cluster.uid(),
        cluster_domain: cluster_domain(spec, defaults),
        image: image::validate(
            spec.image.as_ref(),
            cluster
                .status
                .as_ref()
                .and_then(|status| status.image.as_deref()),
            defaults,
            &mut problems,
        ),
        template_revision: super::build::template_revision(cluster.status.as_ref()),
        tls,
        auth,
        allow_insecure,
        object_store,
        identity: spec.service_account.clone().unwrap_or_default().annotations,
        catalog: postgres.is_none().then(|| catalog.clone()),
        postgres,
        ingester: ingester.clone(),
        querier: querier.clone(),
    };
    check_dns_names(&validated, &mut problems);
    check_signing_key(&validated.names, referenced, &mut problems);
    if problems.is_empty() {
        // Only now: what the settings mean together is of no interest while one of them is wrong.
        settings::check_together(&validated, &mut problems);
    }
    if problems.is_empty() {
        Ok(validated)
    } else {
        Err(problems)
    }
}

/// What a spec asks of a role, in the same shape for each of them.
struct AskedRole<'a> {
    role: Role,
    replicas: Option<i32>,
    resources: Option<&'a ResourceRequirements>,
    volume: AskedVolume<'a>,
    malloc: Option<&'a MallocSpec>,
    pod_template: Option<&'a PodTemplate>,
    field: &'static str,
}

enum AskedVolume<'a> {
    Claim(Option<&'a StorageSpec>),
    Scratch(Option<&'a String>),
}

fn asked_roles(spec: &FlightClusterSpec) -> [AskedRole<'_>; 3] {
    let catalog = spec
        .catalog
        .as_ref()
        .and_then(|catalog| catalog.embedded.as_ref());
    let ingester = spec.ingester.as_ref();
    let querier = spec.querier.as_ref();
    [
        AskedRole {
            role: Role::Catalog,
            replicas: None,
            resources: catalog.and_then(|role| role.resources.as_ref()),
            volume: AskedVolume::Claim(catalog.and_then(|role| role.storage.as_ref())),
            malloc: catalog.and_then(|role| role.malloc.as_ref()),
            pod_template: catalog.and_then(|role| role.pod_template.as_ref()),
            field: "catalog.embedded",
        },
        AskedRole {
            role: Role::Ingester,
            replicas: ingester.and_then(|role| role.replicas),
            resources: ingester.and_then(|role| role.resources.as_ref()),
            volume: AskedVolume::Claim(ingester.and_then(|role| role.storage.as_ref())),
            malloc: ingester.and_then(|role| role.malloc.as_ref()),
            pod_template: ingester.and_then(|role| role.pod_template.as_ref()),
            field: "ingester",
        },
        AskedRole {
            role: Role::Querier,
            replicas: querier.and_then(|role| role.replicas),
            resources: querier.and_then(|role| role.resources.as_ref()),
            volume: AskedVolume::Scratch(
                querier
                    .and_then(|role| role.scratch.as_ref())
                    .and_then(|s| s.size.as_ref()),
            ),
            malloc: querier.and_then(|role| role.malloc.as_ref()),
            pod_template: querier.and_then(|role| role.pod_template.as_ref()),
            field: "querier",
        },
    ]
}

fn validate_role(
    asked: AskedRole<'_>,
    config: &Config,
    referenced: &Referenced,
    problems: &mut Problems,
) -> ValidatedRole {
    let AskedRole {
        role,
        replicas,
        resources,
        volume,
        malloc,
        pod_template,
        field,
    } = asked;
    let existing = referenced.existing.get(&role);
    let claims = referenced.claims.get(&role).map_or(&[][..], Vec::as_slice);
    let replicas = replicas.unwrap_or(1);
    if role == Role::Ingester && existing.is_some_and(|existing| existing.replicas > replicas) {
        let before = existing.map_or(0, |existing| existing.replicas);
        let message = format!(
            "can't be lowered from {before} to {replicas}: rows that only the removed pods hold \
             would not be found; set it back to {before}"
        );
        problems.push(Problem::new("ingester.replicas", message));
    } else if role == Role::Ingester {
        volumes::check_no_log_is_left_out(replicas, claims, problems);
    }
    amounts::check_resources(resources, &format!("{field}.resources"), problems);
    let volume = match volume {
        AskedVolume::Claim(storage) => {
            volumes::validate_claim(storage, existing, claims, field, problems)
        }
        AskedVolume::Scratch(size) => {
            let size = size.map_or(DEFAULT_SIZE, String::as_str);
            volumes::check_size(size, &format!("{field}.scratch.size"), problems);
            Volume::Scratch {
                size: size.to_owned(),
            }
        }
    };
    let mut config = Config {
        malloc: settings::validate_malloc(malloc, field, problems),
        ..config.clone()
    };
    if role == Role::Ingester && config.ingest.wal_bytes == ByteSize(0) {
        config.ingest.wal_bytes = volumes::log_bytes(replicas, &volume, claims);
    }
    ValidatedRole {
        role,
        replicas,
        resources: resources.cloned(),
        volume,
        config,
        pod_template: pod_template::validate(pod_template, field, problems),
    }
}

fn validate_tls(
    spec: &FlightClusterSpec,
    referenced: &Referenced,
    allow_insecure: bool,
    problems: &mut Problems,
) -> Tls {
    let Some(tls) = &spec.tls else {
        return Tls::SelfSigned {
            life: DEFAULT_CERTIFICATE_LIFE,
            extra_names: Vec::new(),
        };
    };
    if tls.enabled == Some(false) {
        if !allow_insecure {
            let message = "tokens and rows would travel in clear text; set auth.allowInsecure: \
                           true to accept that";
            problems.push(Problem::new("tls.enabled", message));
        }
        return Tls::Disabled;
    }
    if let Some(name) = &tls.secret_name {
        if tls.self_signed.is_some() {
            problems.push(Problem::new(
                "tls",
                "give selfSigned or secretName, not both",
            ));
        }
        return secrets::validate_certificate(name, referenced, problems);
    }
    let self_signed = tls.self_signed.clone().unwrap_or_default();
    let life = match self_signed
        .duration
        .as_deref()
        .map(flightcluster_config::parse_duration)
    {
        None => DEFAULT_CERTIFICATE_LIFE,
        Some(Ok(life)) => life,
        Some(Err(error)) => {
            problems.push(Problem::new("tls.selfSigned.duration", error.to_string()));
            DEFAULT_CERTIFICATE_LIFE
        }
    };
    if life < MINIMUM_CERTIFICATE_LIFE {
        let message = format!("must be at least {}s", MINIMUM_CERTIFICATE_LIFE.as_secs());
        problems.push(Problem::new("tls.selfSigned.duration", message));
    }
    Tls::SelfSigned {
        life,
        extra_names: self_signed.extra_dns_names,
    }
}

fn validate_auth(
    spec: &FlightClusterSpec,
    names: &Names,
    referenced: &Referenced,
    allow_insecure: bool,
    problems: &mut Problems,
) -> Auth {
    let auth = spec.auth.clone().unwrap_or_default();
    match auth.mode.unwrap_or_default() {
        AuthMode::None => {
            if !allow_insecure {
                let message = "None lets everybody read and write; set auth.allowInsecure: true \
                               to accept that";
                problems.push(Problem::new("auth.mode", message));
            }
            Auth::None
        }
        AuthMode::Token => {
            tokens::validate(&auth.token_secrets, names, referenced, problems);
            Auth::Token {
                secrets: auth.token_secrets,
            }
        }
    }
}

fn cluster_domain(spec: &FlightClusterSpec, defaults: &Defaults) -> String {
    spec.advertise
        .as_ref()
        .and_then(|advertise| advertise.cluster_domain.clone())
        .unwrap_or_else(|| defaults.cluster_domain.clone())
}

/// Checks that the longest name of a pod is still a DNS name.
fn check_dns_names(cluster: &ValidatedCluster, problems: &mut Problems) {
    for role in cluster.roles() {
        let pod = format!("{}-{}", cluster.names.role(role.role), role.replicas);
        let full = format!("{pod}.{}", cluster.dns().headless_service(role.role));
        if full.len() > MAX_DNS_NAME {
            let message = format!(
                "the pod name {full} would have {} characters, and DNS allows {MAX_DNS_NAME}; \
                 choose shorter names",
                full.len()
            );
            problems.push(Problem::new("metadata.name", message));
            return;
        }
    }
}

/// Checks the kept key that tickets are signed with: with any other no pod would start, and one that
/// somebody put there on purpose is not replaced silently.
fn check_signing_key(names: &Names, referenced: &Referenced, problems: &mut Problems) {
    let Some(secret) = &referenced.kept.signing_key else {
        return;
    };
    let value = secret.data.as_ref().and_then(|data| data.get(SIGNING_KEY));
    let bytes = value.map_or(0, |value| value.0.len());
    if bytes != SIGNING_KEY_BYTES {
        let message = format!(
            "the value of its key {SIGNING_KEY:?} has {bytes} bytes, not {SIGNING_KEY_BYTES}; put \
             {SIGNING_KEY_BYTES} random bytes there, or delete the Secret to have a new one made"
        );
        let secret = format!("Secret {}", names.signing_key_secret());
        problems.push(Problem::new(secret, message));
    }
}
