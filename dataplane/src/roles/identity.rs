//! Who this process is and whom it lets in: tokens, certificates, the key that signs tickets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flightcluster_auth::Authenticator;
use flightcluster_config::{Config, Role};
use flightcluster_server::status::chain;
use flightcluster_telemetry::metrics::{Metrics, NameLabels};
use flightcluster_tls::{
    ALPN_H2, ALPN_HTTP1, ClientAuth, Files, Identity, MinVersion, TlsAcceptor,
};
use flightcluster_wal::{Disk as _, RealDisk};
use flightcluster_wire::SigningKey;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

/// Name of the key file below the data directory of a process that was given none.
const OWN_KEY_FILE: &str = "signing.key";

/// How often the metric of a certificate's end is looked up.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(5);

/// Everything about identity, valid before a port is bound.
pub(crate) struct Identities {
    /// Checks the callers of the public port.
    pub(crate) authenticator: Arc<Authenticator>,
    /// Signs tickets.
    pub(crate) signing_key: SigningKey,
    /// TLS of the public port.
    pub(crate) public_tls: Option<TlsAcceptor>,
    /// Mutual TLS of the internal port.
    pub(crate) internal_tls: Option<TlsAcceptor>,
    /// The same for calling the internal ports of others.
    pub(crate) peer_tls: Option<Arc<rustls::ClientConfig>>,
    watched: Vec<(&'static str, Arc<Identity>)>,
}

impl Identities {
    /// Reads everything the configuration names.
    ///
    /// # Errors
    /// One line that names the setting: the owner's to mend, so nothing is started.
    pub(crate) fn load(role: Role, config: &Config) -> Result<Self, String> {
        let authenticator = Authenticator::new(&config.auth)
            .map_err(|error| format!("auth.token_file: {}", chain(&error)))?;
        let mut watched = Vec::new();
        let public = public_identity(config)?;
        let public_tls = match &public {
            Some(identity) => {
                watched.push(("public", Arc::clone(identity)));
                Some(public_acceptor(config, identity)?)
            }
            None => None,
        };
        let internal = internal_identity(config)?;
        let (internal_tls, peer_tls) = match &internal {
            Some(identity) => {
                watched.push(("internal", Arc::clone(identity)));
                let (acceptor, client) = internal_tls(identity)?;
                (Some(acceptor), Some(client))
            }
            None => (None, None),
        };
        Ok(Self {
            authenticator: Arc::new(authenticator),
            signing_key: signing_key(role, config)?,
            public_tls,
            internal_tls,
            peer_tls,
            watched,
        })
    }

    /// Follows changes of the files until `stop`.
    pub(crate) fn watch(&self, config: &Config, metrics: &Metrics, stop: &CancellationToken) {
        let tokens = Arc::clone(&self.authenticator);
        let stopped = stop.clone();
        let interval = config.auth.reload_interval;
        tokio::spawn(async move { tokens.watch(interval, stopped.cancelled_owned()).await });
        for (name, identity) in &self.watched {
            for warning in identity.warnings(Timestamp::now().as_second()) {
                tracing::warn!(name, warning = %warning, "certificate");
            }
            let watching = Arc::clone(identity)
                .watch(config.tls.reload_interval, stop.clone().cancelled_owned());
            tokio::spawn(watching);
            tokio::spawn(publish_expiry(
                name,
                Arc::clone(identity),
                metrics.clone(),
                stop.clone(),
            ));
        }
    }
}

/// Keeps the metric of a certificate's end true after reloads.
async fn publish_expiry(
    name: &'static str,
    identity: Arc<Identity>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let expiry = metrics
        .connections
        .certificate_not_after
        .get_or_create(&NameLabels { name })
        .clone();
    let mut ticks = tokio::time::interval(EXPIRY_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => expiry.set(identity.not_after()),
            () = stop.cancelled() => return,
        };
    }
}

fn public_identity(config: &Config) -> Result<Option<Arc<Identity>>, String> {
    let tls = &config.tls;
    let (Some(certificate), Some(key)) = (&tls.certificate_file, &tls.key_file) else {
        return Ok(None);
    };
    let files = Files {
        certificate: certificate.clone(),
        key: key.clone(),
        ca: tls.client_ca_file.clone(),
    };
    let identity = Identity::load(files.clone())
        .map_err(|error| unusable("tls", "client_ca_file", &files, &error))?;
    Ok(Some(identity))
}

/// Names the setting whose file can't be used, and why.
fn unusable(
    section: &str,
    ca_setting: &str,
    files: &Files,
    error: &flightcluster_tls::Error,
) -> String {
    let setting = match error.file() {
        Some(file) if *file == files.certificate => "certificate_file",
        Some(file) if *file == files.key => "key_file",
        Some(_) => ca_setting,
        None => return format!("{section}: {}", chain(error)),
    };
    format!("{section}.{setting}: {}", chain(error))
}

fn public_acceptor(config: &Config, identity: &Arc<Identity>) -> Result<TlsAcceptor, String> {
    let client_auth = match config.tls.client_auth {
        flightcluster_config::ClientAuth::None => ClientAuth::None,
        flightcluster_config::ClientAuth::Optional => ClientAuth::Optional,
        flightcluster_config::ClientAuth::Required => ClientAuth::Required,
    };
    let minimum = match config.tls.minimum_version {
        flightcluster_config::TlsVersion::Tls12 => MinVersion::Tls12,
        flightcluster_config::TlsVersion::Tls13 => MinVersion::Tls13,
    };
    let server =
        flightcluster_tls::server_config(identity, client_auth, minimum, &[ALPN_H2, ALPN_HTTP1])
            .map_err(|error| format!("tls: {}", chain(&error)))?;
    Ok(TlsAcceptor::from(server))
}

fn internal_identity(config: &Config) -> Result<Option<Arc<Identity>>, String> {
    let tls = &config.internal.tls;
    let (Some(certificate), Some(key)) = (&tls.certificate_file, &tls.key_file) else {
        return Ok(None);
    };
    let files = Files {
        certificate: certificate.clone(),
        key: key.clone(),
        ca: tls.ca_file.clone(),
    };
    let identity = Identity::load(files.clone())
        .map_err(|error| unusable("internal.tls", "ca_file", &files, &error))?;
    Ok(Some(identity))
}

/// Mutual TLS for calling the internal ports of others, when files for it are configured.
///
/// # Errors
/// One line that names the setting.
pub(crate) fn peer_tls(config: &Config) -> Result<Option<Arc<rustls::ClientConfig>>, String> {
    let Some(identity) = internal_identity(config)? else {
        return Ok(None);
    };
    internal_tls(&identity).map(|(_, client)| Some(client))
}

type InternalTls = (TlsAcceptor, Arc<rustls::ClientConfig>);

fn internal_tls(identity: &Arc<Identity>) -> Result<InternalTls, String> {
    let told = |error: &flightcluster_tls::Error| format!("internal.tls: {}", chain(error));
    let server = flightcluster_tls::server_config(
        identity,
        ClientAuth::Required,
        MinVersion::Tls13,
        &[ALPN_H2],
    )
    .map_err(|error| told(&error))?;
    let client = flightcluster_tls::client_config(identity).map_err(|error| told(&error))?;
    Ok((TlsAcceptor::from(server), client))
}

/// The key of the cluster, or one of this process's own, made once and kept.
fn signing_key(role: Role, config: &Config) -> Result<SigningKey, String> {
    if let Some(path) = &config.server.signing_key_file {
        return read_key(path)
            .map_err(|problem| format!("server.signing_key_file {}: {problem}", path.display()));
    }
    if role != Role::Standalone {
        // Nobody else redeems the tickets of a process that was given no key.
        return Ok(SigningKey::new(rand::random()));
    }
    let path = config.storage.data_dir.join(OWN_KEY_FILE);
    own_key(&path).map_err(|problem| format!("storage.data_dir: {}: {problem}", path.display()))
}

fn read_key(path: &Path) -> Result<SigningKey, String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let bytes: [u8; 32] = bytes
        .try_into()
        .map_err(|bytes: Vec<u8>| format!("expected 32 random bytes, found {}", bytes.len()))?;
    Ok(SigningKey::new(bytes))
}

fn own_key(path: &Path) -> Result<SigningKey, String> {
    if path.exists() {
        return read_key(path);
    }
    let key: [u8; 32] = rand::random();
    write_private(path, &key).map_err(|error| error.to_string())?;
    Ok(SigningKey::new(key))
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    // Durably: whoever finds it there takes that for granted.
    RealDisk.create_directory(folder)?;
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    RealDisk.sync_directory(folder)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn an_own_key_is_made_once_and_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data").join(OWN_KEY_FILE);
        own_key(&path).unwrap();
        let first = std::fs::read(&path).unwrap();
        own_key(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_key_of_the_wrong_length_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, b"short").unwrap();
        assert!(read_key(&path).unwrap_err().contains("32"));
    }
}
