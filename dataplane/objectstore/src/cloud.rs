//! S3, GCS and Azure from the configuration.
//!
//! Each builder starts from the environment, so that the identity of a pod or machine (web identity,
//! metadata service, the clouds' usual variables) works without settings; settings win.

use std::path::Path;
use std::sync::Arc;

use flightcluster_config::ObjectStoreConfig;
use object_store::aws::AmazonS3Builder;
use object_store::azure::{AzureAccessKey, AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{Certificate, ClientOptions, ObjectStore, RetryConfig};

use crate::signatures::WithoutSignatures;
use crate::{Error, cloud_place};

/// Attempts after the first, with some seconds of pauses in all: a throttled or restarting service
/// is ridden out, and the true cause of an outage is told before [`check`](crate::check) gives up.
const RETRIES: usize = 8;

pub(crate) fn s3(config: &ObjectStoreConfig) -> Result<Arc<dyn ObjectStore>, Error> {
    let bucket = bucket(config, "s3")?;
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_allow_http(config.allow_http)
        .with_client_options(client_options(config)?)
        .with_retry(retry())
        .with_virtual_hosted_style_request(!config.path_style);
    if let Some(region) = &config.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = endpoint(config) {
        builder = builder.with_endpoint(s3_endpoint(endpoint, bucket, config.path_style));
    }
    if let Some(key) = credential("access_key_id_file", config.access_key_id_file.as_deref())? {
        builder = builder.with_access_key_id(key);
    }
    let secret = config.secret_access_key_file.as_deref();
    if let Some(key) = credential("secret_access_key_file", secret)? {
        builder = builder.with_secret_access_key(key);
    }
    let place = cloud_place("S3 bucket", config);
    finish(
        config,
        place,
        builder.build().map(|store| Arc::new(store) as _),
    )
}

/// `object_store` wants the bucket inside the endpoint when it is to be part of the host name.
fn s3_endpoint(endpoint: &str, bucket: &str, path_style: bool) -> String {
    match endpoint.split_once("://") {
        Some((scheme, rest)) if !path_style && !rest.starts_with(&format!("{bucket}.")) => {
            format!("{scheme}://{bucket}.{rest}")
        }
        _ => endpoint.to_owned(),
    }
}

pub(crate) fn gcs(config: &ObjectStoreConfig) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut builder = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name(bucket(config, "gcs")?)
        .with_client_options(client_options(config)?)
        .with_retry(retry());
    if let Some(endpoint) = endpoint(config) {
        builder = builder.with_base_url(endpoint);
    }
    let key = config.secret_access_key_file.as_deref();
    if let Some(json) = credential("secret_access_key_file", key)? {
        builder = builder.with_service_account_key(json);
    }
    let place = cloud_place("GCS bucket", config);
    match (builder.build(), &config.secret_access_key_file) {
        // Google's client says what it can't read, not where it is from.
        (Err(source), Some(path)) => Err(Error::ServiceAccount {
            place,
            path: path.clone(),
            source,
        }),
        (built, _) => finish(config, place, built.map(|store| Arc::new(store) as _)),
    }
}

pub(crate) fn azure(config: &ObjectStoreConfig) -> Result<Arc<dyn ObjectStore>, Error> {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(bucket(config, "azure")?)
        .with_allow_http(config.allow_http)
        .with_client_options(client_options(config)?)
        .with_retry(retry());
    if let Some(endpoint) = endpoint(config) {
        // An emulator that the environment asks for has an address of its own, which would win.
        builder = builder
            .with_endpoint(endpoint.to_owned())
            .with_use_emulator(false);
    }
    // Pods get it with a slash at its end, and the path that is added begins with one.
    if let Some(host) = builder.get_config_value(&AzureConfigKey::AuthorityHost) {
        builder = builder.with_authority_host(host.trim_end_matches('/'));
    }
    if let Some(account) = credential("access_key_id_file", config.access_key_id_file.as_deref())? {
        builder = builder.with_account(account);
    }
    let place = cloud_place("Azure container", config);
    let path = config.secret_access_key_file.as_deref();
    if let (Some(path), Some(key)) = (path, credential("secret_access_key_file", path)?) {
        // The builder says that a key is wrong, not where it is from.
        AzureAccessKey::try_new(&key).map_err(|source| Error::AccountKey {
            place: place.clone(),
            path: path.to_owned(),
            source: source.into(),
        })?;
        builder = builder.with_access_key(key);
    }
    finish(
        config,
        place,
        builder
            .build()
            .map(|store| Arc::new(WithoutSignatures::new(store)) as _),
    )
}

/// The endpoint without the slash at its end that consoles of clouds print: with it some clients
/// ask for `//bucket`.
fn endpoint(config: &ObjectStoreConfig) -> Option<&str> {
    let endpoint = config.endpoint.as_deref()?;
    Some(endpoint.trim_end_matches('/'))
}

fn bucket<'a>(config: &'a ObjectStoreConfig, kind: &'static str) -> Result<&'a str, Error> {
    match config.bucket.as_deref() {
        Some(bucket) if !bucket.is_empty() => Ok(bucket),
        _ => Err(Error::Missing {
            setting: "bucket",
            kind,
        }),
    }
}

fn client_options(config: &ObjectStoreConfig) -> Result<ClientOptions, Error> {
    let mut options = ClientOptions::new()
        .with_allow_http(config.allow_http)
        .with_timeout(config.request_timeout);
    if let Some(path) = &config.ca_file {
        for certificate in authorities(path)? {
            options = options.with_root_certificate(certificate);
        }
    }
    Ok(options)
}

/// Reads a file of certificates. One without any would only be noticed as a refused handshake.
fn authorities(path: &Path) -> Result<Vec<Certificate>, Error> {
    let pem = read("ca_file", path)?;
    match Certificate::from_pem_bundle(pem.as_bytes()) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(Error::Authorities {
            path: path.to_owned(),
        }),
    }
}

fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: RETRIES,
        ..RetryConfig::default()
    }
}

/// Reads a mounted secret. Editors and `kubectl create secret` leave a line end: it is not part of it.
fn credential(setting: &'static str, path: Option<&Path>) -> Result<Option<String>, Error> {
    let Some(path) = path else { return Ok(None) };
    Ok(Some(read(setting, path)?.trim().to_owned()))
}

fn read(setting: &'static str, path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Credential {
        setting,
        path: path.to_owned(),
        source,
    })
}

fn finish(
    config: &ObjectStoreConfig,
    place: String,
    store: Result<Arc<dyn ObjectStore>, object_store::Error>,
) -> Result<Arc<dyn ObjectStore>, Error> {
    let store = match store {
        Ok(store) => store,
        Err(source) => return Err(Error::Build { place, source }),
    };
    match config.prefix.as_deref() {
        None | Some("" | "/") => Ok(store),
        Some(prefix) => match ObjectPath::parse(prefix) {
            Ok(prefix) => Ok(Arc::new(PrefixStore::new(store, prefix))),
            Err(source) => Err(Error::Build {
                place,
                source: source.into(),
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn the_bucket_goes_into_the_host_unless_path_style_is_set() {
        for (endpoint, path_style, expected) in [
            (
                "https://s3.example:9000",
                false,
                "https://photos.s3.example:9000",
            ),
            (
                "https://photos.s3.example",
                false,
                "https://photos.s3.example",
            ),
            ("https://s3.example:9000", true, "https://s3.example:9000"),
        ] {
            assert_eq!(s3_endpoint(endpoint, "photos", path_style), expected);
        }
    }

    #[test]
    fn an_endpoint_may_end_with_a_slash() {
        for (endpoint_setting, expected) in [
            (
                Some("http://azurite:10000/lakefiles/"),
                Some("http://azurite:10000/lakefiles"),
            ),
            (Some("https://s3.example"), Some("https://s3.example")),
            (None, None),
        ] {
            let config = ObjectStoreConfig {
                endpoint: endpoint_setting.map(str::to_owned),
                ..ObjectStoreConfig::default()
            };
            assert_eq!(endpoint(&config), expected);
        }
    }

    #[test]
    fn a_store_without_bucket_names_the_setting() {
        for open in [s3, gcs, azure] {
            let error = open(&ObjectStoreConfig::default()).unwrap_err();
            assert!(
                error.to_string().contains("storage.object_store.bucket"),
                "{error}"
            );
        }
    }

    #[test]
    fn credentials_come_from_files_without_their_line_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        std::fs::write(&path, "AKIA\n").unwrap();
        assert_eq!(
            credential("x", Some(&path)).unwrap().as_deref(),
            Some("AKIA")
        );
        assert_eq!(credential("x", None).unwrap(), None);
        let error = credential("access_key_id_file", Some(&path.join("no"))).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("storage.object_store.access_key_id_file"),
            "{text}"
        );
        assert_eq!(error.category(), "credential");
    }

    #[test]
    fn a_file_without_a_certificate_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.crt");
        let config = ObjectStoreConfig {
            bucket: Some("photos".to_owned()),
            ca_file: Some(path.clone()),
            ..ObjectStoreConfig::default()
        };
        for open in [s3, gcs, azure] {
            assert_eq!(open(&config).unwrap_err().category(), "credential");
        }
        std::fs::write(&path, "not a certificate\n").unwrap();
        for open in [s3, gcs, azure] {
            let error = open(&config).unwrap_err();
            assert_eq!(error.category(), "authorities");
            let text = error.to_string();
            assert!(text.contains("storage.object_store.ca_file"), "{text}");
        }
    }

    #[test]
    fn a_file_that_is_no_key_of_a_service_account_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.json");
        let config = ObjectStoreConfig {
            bucket: Some("photos".to_owned()),
            secret_access_key_file: Some(path.clone()),
            ..ObjectStoreConfig::default()
        };
        for content in [
            "AKIAEXAMPLE",
            r#"{"private_key": "none", "private_key_id": "1", "client_email": "a"}"#,
        ] {
            std::fs::write(&path, content).unwrap();
            let error = gcs(&config).unwrap_err();
            assert_eq!(error.category(), "service_account");
            let text = error.to_string();
            assert!(text.contains(path.to_str().unwrap()), "{text}");
            assert!(!text.contains(content), "the key is in no message: {text}");
        }
    }

    #[test]
    fn a_file_that_is_no_key_of_an_azure_account_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let (account, path) = (
            directory.path().join("account"),
            directory.path().join("key"),
        );
        std::fs::write(&account, "lakefiles").unwrap();
        let config = ObjectStoreConfig {
            bucket: Some("photos".to_owned()),
            access_key_id_file: Some(account),
            secret_access_key_file: Some(path.clone()),
            ..ObjectStoreConfig::default()
        };
        let content = "AccountKey=a2V5";
        std::fs::write(&path, content).unwrap();
        let error = azure(&config).unwrap_err();
        assert_eq!(error.category(), "account_key");
        let text = error.to_string();
        assert!(text.contains(path.to_str().unwrap()), "{text}");
        assert!(!text.contains(content), "the key is in no message: {text}");
        std::fs::write(&path, "a2V5\n").unwrap();
        azure(&config).unwrap();
    }

    #[test]
    fn s3_is_built_with_endpoint_keys_and_prefix() {
        // Building a client wants a process-wide provider or takes the one of its own features.
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        std::fs::write(&key, "secret\n").unwrap();
        let config = ObjectStoreConfig {
            bucket: Some("photos".to_owned()),
            prefix: Some("a/b".to_owned()),
            region: Some("eu-central-1".to_owned()),
            endpoint: Some("http://127.0.0.1:1".to_owned()),
            allow_http: true,
            path_style: true,
            access_key_id_file: Some(key.clone()),
            secret_access_key_file: Some(key),
            ..ObjectStoreConfig::default()
        };
        let store = s3(&config).unwrap();
        assert_eq!(store.to_string(), "PrefixObjectStore(a/b)");
        let traversal = ObjectStoreConfig {
            prefix: Some("a/../b".to_owned()),
            ..config
        };
        assert_eq!(s3(&traversal).unwrap_err().category(), "build");
    }
}
