//! The configuration of each role, written with the data plane's own types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use flightcluster_config::{
    AuthConfig, AuthMode, CatalogConfig, Config, InternalConfig, InternalTlsConfig,
    ObjectStoreConfig, ObjectStoreKind, Role, ServerConfig, StorageConfig, TlsConfig,
    to_yaml_minimal,
};
use flightcluster_crds::v1alpha1::{AzureSpec, GcsSpec, S3Spec};
use k8s_openapi::api::core::v1::ConfigMap;

use super::labels::role_metadata;
use super::pod::mounts;
use super::pod::ports;
use crate::controller::validate::{
    Auth, BucketSpec, ObjectStore, POSTGRES_URL, Tls, ValidatedCluster, ValidatedRole,
};

/// The key of the ConfigMap, and the name of the file in the pod.
pub const CONFIG_KEY: &str = "config.yaml";

/// The addresses pods listen on: all, or kubelets and other pods would not reach them.
const ALL_ADDRESSES: &str = "0.0.0.0";

/// Builds the ConfigMap of a role: only what differs from the data plane's defaults.
pub(super) fn build_config_map(cluster: &ValidatedCluster, role: &ValidatedRole) -> ConfigMap {
    ConfigMap {
        metadata: role_metadata(cluster, role.role, cluster.names.role(role.role)),
        data: Some(config_files(cluster, role)),
        ..ConfigMap::default()
    }
}

/// Returns the files of a role that hold no secret, by name: its configuration, and the name of an
/// Azure account where its key is a file too.
#[must_use]
pub fn config_files(cluster: &ValidatedCluster, role: &ValidatedRole) -> BTreeMap<String, String> {
    let mut files = BTreeMap::from([(CONFIG_KEY.to_owned(), config_yaml(cluster, role))]);
    if let ObjectStore::Bucket(bucket) = &cluster.object_store
        && let BucketSpec::Azure(azure) = &bucket.spec
        && azure.credentials_secret.is_some()
    {
        files.insert(mounts::ACCOUNT_NAME.to_owned(), azure.account.clone());
    }
    files
}

/// Returns the text of the configuration file of a role.
#[must_use]
pub fn config_yaml(cluster: &ValidatedCluster, role: &ValidatedRole) -> String {
    to_yaml_minimal(&config(cluster, role))
}

/// Returns the configuration as a process of this role will see it: the file, and what each pod
/// gets by its environment, for some pod.
#[must_use]
pub fn effective_config(cluster: &ValidatedCluster, role: &ValidatedRole) -> Config {
    let mut config = config(cluster, role);
    let host = format!(
        "{}-0.{}",
        cluster.names.role(role.role),
        cluster.dns().headless_service(role.role)
    );
    config.internal.advertise_url = Some(format!("https://{host}:{}", ports::INTERNAL));
    config.server.advertise_host = Some(host);
    config
}

fn config(cluster: &ValidatedCluster, role: &ValidatedRole) -> Config {
    let user = role.config.clone();
    let is_public = role.role.is_public();
    Config {
        server: ServerConfig {
            listen_host: ALL_ADDRESSES.to_owned(),
            signing_key_file: is_public.then(mounts::signing_key_file),
            ..user.server
        },
        internal: InternalConfig {
            enabled: true,
            listen_host: ALL_ADDRESSES.to_owned(),
            tls: InternalTlsConfig {
                certificate_file: Some(mounts::internal_tls_file("tls.crt")),
                key_file: Some(mounts::internal_tls_file("tls.key")),
                ca_file: Some(mounts::internal_tls_file("ca.crt")),
            },
            ..user.internal
        },
        admin: flightcluster_config::AdminConfig {
            listen_host: ALL_ADDRESSES.to_owned(),
            ..user.admin
        },
        tls: if is_public {
            tls(cluster, user.tls)
        } else {
            user.tls
        },
        auth: if is_public {
            auth(cluster, user.auth)
        } else {
            user.auth
        },
        storage: StorageConfig {
            data_dir: PathBuf::from(mounts::DATA_DIRECTORY),
            object_store: object_store(cluster, user.storage.object_store),
        },
        catalog: catalog(cluster, role.role, user.catalog),
        ..user
    }
}

fn tls(cluster: &ValidatedCluster, user: TlsConfig) -> TlsConfig {
    let enabled = cluster.tls != Tls::Disabled;
    TlsConfig {
        certificate_file: enabled.then(|| mounts::tls_file("tls.crt")),
        key_file: enabled.then(|| mounts::tls_file("tls.key")),
        ..user
    }
}

fn auth(cluster: &ValidatedCluster, user: AuthConfig) -> AuthConfig {
    let (mode, token_files) = match &cluster.auth {
        Auth::None => (AuthMode::None, Vec::new()),
        Auth::Token { secrets } => {
            let own = cluster.names.admin_token_secret();
            let files = std::iter::once(&own)
                .chain(secrets)
                .map(|name| mounts::token_file(name));
            (AuthMode::Token, files.collect())
        }
    };
    AuthConfig {
        mode,
        token_files,
        allow_insecure: cluster.allow_insecure,
        ..user
    }
}

fn object_store(cluster: &ValidatedCluster, user: ObjectStoreConfig) -> ObjectStoreConfig {
    match &cluster.object_store {
        ObjectStore::Embedded => ObjectStoreConfig {
            kind: ObjectStoreKind::Embedded,
            ..user
        },
        ObjectStore::Bucket(bucket) => {
            let ca = bucket.spec.ca_secret();
            let user = ObjectStoreConfig {
                ca_file: ca.map(|_| mounts::object_store_file("ca/ca.crt")),
                ..user
            };
            match bucket.spec.clone() {
                BucketSpec::S3(spec) => s3(spec, user),
                BucketSpec::Gcs(spec) => gcs(spec, user),
                BucketSpec::Azure(spec) => azure(spec, user),
            }
        }
    }
}

fn s3(spec: S3Spec, rest: ObjectStoreConfig) -> ObjectStoreConfig {
    let has_credentials = spec.credentials_secret.is_some();
    let file = |key| has_credentials.then(|| mounts::object_store_file(key));
    ObjectStoreConfig {
        kind: ObjectStoreKind::S3,
        bucket: Some(spec.bucket),
        prefix: spec.prefix,
        region: spec.region,
        endpoint: spec.endpoint,
        allow_http: spec.allow_http,
        path_style: spec.path_style,
        access_key_id_file: file(mounts::ACCESS_KEY_ID),
        secret_access_key_file: file(mounts::SECRET_ACCESS_KEY),
        ..rest
    }
}

fn gcs(spec: GcsSpec, rest: ObjectStoreConfig) -> ObjectStoreConfig {
    let has_credentials = spec.credentials_secret.is_some();
    let file = |key| has_credentials.then(|| mounts::object_store_file(key));
    ObjectStoreConfig {
        kind: ObjectStoreKind::Gcs,
        bucket: Some(spec.bucket),
        prefix: spec.prefix,
        endpoint: spec.endpoint,
        allow_http: spec.allow_http,
        secret_access_key_file: file(mounts::SERVICE_ACCOUNT_KEY),
        ..rest
    }
}

/// The data plane takes the account from a file beside that of its key, else from the environment.
fn azure(spec: AzureSpec, rest: ObjectStoreConfig) -> ObjectStoreConfig {
    let has_credentials = spec.credentials_secret.is_some();
    let file = |key| has_credentials.then(|| mounts::object_store_file(key));
    ObjectStoreConfig {
        kind: ObjectStoreKind::Azure,
        bucket: Some(spec.container),
        prefix: spec.prefix,
        endpoint: spec.endpoint,
        allow_http: spec.allow_http,
        access_key_id_file: file(mounts::ACCOUNT_NAME),
        secret_access_key_file: file(mounts::ACCOUNT_KEY),
        ..rest
    }
}

/// The catalog's pod is the only one that opens its database; one in Postgres is opened by all.
fn catalog(cluster: &ValidatedCluster, role: Role, user: CatalogConfig) -> CatalogConfig {
    if let Some(postgres) = &cluster.postgres {
        let key = postgres.url_key.as_deref().unwrap_or(POSTGRES_URL);
        let has_ca = postgres.ca_secret.is_some();
        return CatalogConfig {
            postgres_url_file: Some(mounts::postgres_file(key)),
            postgres_ca_file: has_ca.then(|| mounts::postgres_file("ca/ca.crt")),
            postgres_allow_insecure: postgres.allow_insecure,
            ..user
        };
    }
    let host = cluster.dns().client_service(Role::Catalog);
    CatalogConfig {
        url: (role != Role::Catalog).then(|| format!("https://{host}:{}", ports::INTERNAL)),
        ..user
    }
}
