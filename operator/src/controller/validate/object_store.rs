//! The object store: what a spec says about it, and the Secrets with its credentials.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flightcluster_crds::v1alpha1::{
    AzureSpec, FlightClusterSpec, GcsSpec, ObjectStoreSpec, S3Spec,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::secrets::values;
use super::{Problem, Problems};
use crate::controller::build::pod::mounts::{
    ACCESS_KEY_ID, ACCOUNT_KEY, CA, SECRET_ACCESS_KEY, SERVICE_ACCOUNT_KEY,
};
use crate::controller::dereference::Referenced;

/// What a key of a service account must have for the data plane to use it.
const SERVICE_ACCOUNT_FIELDS: [&str; 3] = ["client_email", "private_key", "private_key_id"];

/// Where Parquet files are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectStore {
    /// On the catalog pod's volume.
    Embedded,
    /// In a bucket.
    Bucket(Box<Bucket>),
}

/// A bucket, as S3 and GCS name it, or container, as Azure does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// What the spec says.
    pub spec: BucketSpec,
    /// A digest of credentials and authorities: pods read them at start, so that a change restarts
    /// them.
    pub files_digest: Option<Vec<u8>>,
}

/// What a spec says about a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketSpec {
    /// Of S3.
    S3(S3Spec),
    /// Of GCS.
    Gcs(GcsSpec),
    /// Of Azure.
    Azure(AzureSpec),
}

impl BucketSpec {
    /// The buckets that a spec names: more than one is a mistake.
    #[must_use]
    pub fn named(store: &ObjectStoreSpec) -> Vec<Self> {
        let s3 = store.s3.clone().map(Self::S3);
        let gcs = store.gcs.clone().map(Self::Gcs);
        let azure = store.azure.clone().map(Self::Azure);
        [s3, gcs, azure].into_iter().flatten().collect()
    }

    /// The field of `objectStore`.
    fn field(&self) -> &'static str {
        match self {
            Self::S3(_) => "s3",
            Self::Gcs(_) => "gcs",
            Self::Azure(_) => "azure",
        }
    }

    /// The Secret with the credentials; `None` leaves them to the environment of the pods.
    #[must_use]
    pub fn credentials_secret(&self) -> Option<&str> {
        match self {
            Self::S3(s3) => s3.credentials_secret.as_deref(),
            Self::Gcs(gcs) => gcs.credentials_secret.as_deref(),
            Self::Azure(azure) => azure.credentials_secret.as_deref(),
        }
    }

    /// The keys of the Secret with the credentials.
    #[must_use]
    pub fn credential_keys(&self) -> &'static [&'static str] {
        match self {
            Self::S3(_) => &[ACCESS_KEY_ID, SECRET_ACCESS_KEY],
            Self::Gcs(_) => &[SERVICE_ACCOUNT_KEY],
            Self::Azure(_) => &[ACCOUNT_KEY],
        }
    }

    /// The Secret with the authorities of the endpoint's certificate.
    #[must_use]
    pub fn ca_secret(&self) -> Option<&str> {
        match self {
            Self::S3(s3) => s3.ca_secret.as_deref(),
            Self::Gcs(gcs) => gcs.ca_secret.as_deref(),
            Self::Azure(azure) => azure.ca_secret.as_deref(),
        }
    }

    /// Says what is wrong with the credentials of the Secret `name`. They are never shown.
    fn check_credentials(&self, name: &str, values: &[Vec<u8>]) -> Option<String> {
        let value = values.first()?.trim_ascii();
        match self {
            Self::S3(_) => None,
            Self::Gcs(_) => (!is_service_account_key(value)).then(|| {
                format!(
                    "the key {SERVICE_ACCOUNT_KEY} of Secret {name} holds no key of a service \
                     account; expected the JSON that gcloud iam service-accounts keys create writes"
                )
            }),
            Self::Azure(_) => (value.is_empty() || STANDARD.decode(value).is_err()).then(|| {
                format!(
                    "the key {ACCOUNT_KEY} of Secret {name} holds no key of a storage account; \
                     expected base64 as az storage account keys list prints it, and no connection \
                     string; a shared access signature goes into the variable AZURE_STORAGE_SAS_KEY \
                     in podTemplate"
                )
            }),
        }
    }
}

/// Checks the object store.
pub(super) fn validate(
    spec: &FlightClusterSpec,
    referenced: &Referenced,
    problems: &mut Problems,
) -> ObjectStore {
    let store = spec.object_store.clone().unwrap_or_default();
    let buckets = BucketSpec::named(&store);
    let embedded = store.embedded.is_some().then_some("embedded");
    let named: Vec<_> = embedded
        .into_iter()
        .chain(buckets.iter().map(BucketSpec::field))
        .collect();
    if named.len() > 1 {
        let message = format!(
            "give one of embedded, s3, gcs and azure; found {}",
            named.join(", ")
        );
        problems.push(Problem::new("objectStore", message));
    }
    let Some(spec) = buckets.into_iter().next() else {
        return ObjectStore::Embedded;
    };
    let mut files = credentials(&spec, referenced, problems);
    if let Some(name) = spec.ca_secret() {
        let field = format!("objectStore.{}.caSecret", spec.field());
        files.extend(values(name, &[CA], referenced, &field, problems).unwrap_or_default());
    }
    let files_digest = (!files.is_empty()).then(|| digest(&files));
    ObjectStore::Bucket(Box::new(Bucket { spec, files_digest }))
}

fn credentials(
    spec: &BucketSpec,
    referenced: &Referenced,
    problems: &mut Problems,
) -> Vec<Vec<u8>> {
    let Some(name) = spec.credentials_secret() else {
        return Vec::new();
    };
    let field = format!("objectStore.{}.credentialsSecret", spec.field());
    let keys = spec.credential_keys();
    let values = values(name, keys, referenced, &field, problems).unwrap_or_default();
    let wrong = spec.check_credentials(name, &values);
    problems.extend(wrong.map(|message| Problem::new(field, message)));
    values
}

fn is_service_account_key(text: &[u8]) -> bool {
    let key: Value = serde_json::from_slice(text).unwrap_or_default();
    SERVICE_ACCOUNT_FIELDS
        .iter()
        .all(|field| key[field].is_string())
}

fn digest(files: &[Vec<u8>]) -> Vec<u8> {
    let mut digest = Sha256::new();
    for file in files {
        // With its length, so that two files can't be taken for one.
        digest.update(file.len().to_be_bytes());
        digest.update(file);
    }
    digest.finalize().to_vec()
}
