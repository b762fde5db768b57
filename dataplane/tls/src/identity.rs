//! The identity of this process: certificate, key and CA, replaced when their files change.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{Error as RustlsError, InconsistentKeys};
use rustls_pki_types::CertificateDer;
use tokio::time::MissedTickBehavior;
use tracing::{info, warn};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::{self, Contents, Error, Files};

/// Certificate and key are two files, and whoever replaces them one after the other leaves a moment in which they
/// do not fit. So a new problem counts, and is told, only when it is still there after a second; this often the
/// files are looked at meanwhile.
const SECOND_LOOKS: u32 = 10;
const SECOND_LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Certificate, key and CA of this process, always the current ones.
///
/// - Reload: [`reload`](Self::reload) reads the files again; new material takes effect as a whole,
///   for handshakes that begin afterwards. When anything in it is wrong the old stays in use.
/// - An expired certificate is used as it is (peers will refuse it): starting with it and saying so
///   helps more than not starting. See [`warnings`](Self::warnings).
pub struct Identity {
    files: Files,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Material>,
    reloads: AtomicU64,
    failures: AtomicU64,
    last_error: ArcSwapOption<Error>,
}

/// What one reading of the files gave.
pub(crate) struct Material {
    contents: Contents,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) servers: Option<Arc<WebPkiServerVerifier>>,
    pub(crate) clients: Option<Arc<dyn ClientCertVerifier>>,
    validity: Validity,
    ca_not_after: Option<i64>,
}

/// Unix seconds, both inclusive.
#[derive(Clone, Copy)]
struct Validity {
    not_before: i64,
    not_after: i64,
}

/// What a reload found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reload {
    /// The files hold what is in use.
    Unchanged,
    /// New material is in use.
    Changed,
}

/// What is wrong with an identity that is in use all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The certificate has ended: peers refuse it.
    #[error("the certificate expired {seconds} s ago; issue a new one")]
    Expired {
        /// Seconds since the end.
        seconds: i64,
    },
    /// The certificate has not begun, or the clock is wrong.
    #[error("the certificate is valid only in {seconds} s; check the clock of this machine")]
    NotYetValid {
        /// Seconds until the beginning.
        seconds: i64,
    },
    /// The CA that ends last has ended: no peer is accepted.
    #[error("the CA certificate expired {seconds} s ago; issue a new one")]
    CaExpired {
        /// Seconds since the end.
        seconds: i64,
    },
}

impl Identity {
    /// Reads the files and checks that they fit together.
    ///
    /// - Errors: [`Error`] says which file and why. Blocks for the reads.
    pub fn load(files: Files) -> Result<Arc<Self>, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let material = Material::build(&files, files.read()?, &provider)?;
        Ok(Arc::new(Self {
            files,
            provider,
            current: ArcSwap::from_pointee(material),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            last_error: ArcSwapOption::empty(),
        }))
    }

    /// Reads the files again and takes them over if they changed and are in order.
    ///
    /// - Errors: [`Error`]; what was in use stays in use. Blocks for the reads.
    pub fn reload(&self) -> Result<Reload, Error> {
        let contents = self.files.read()?;
        if contents == self.current.load().contents {
            return Ok(Reload::Unchanged);
        }
        let material = Material::build(&self.files, contents, &self.provider)?;
        self.current.store(Arc::new(material));
        self.reloads.fetch_add(1, Ordering::Relaxed);
        Ok(Reload::Changed)
    }

    /// Reloads every `interval` until `shutdown` is ready. Changes of the files are found by
    /// content, so it does not matter how they are replaced.
    ///
    /// - A failure that lasts is logged once, not at every look, and kept in
    ///   [`last_reload_error`](Self::last_reload_error) until a reload succeeds. Files that are wrong for a
    ///   moment, while they are being replaced, are no failure: they are looked at again soon.
    /// - Cancellation: may be dropped at any time.
    pub async fn watch(self: Arc<Self>, interval: Duration, shutdown: impl Future<Output = ()>) {
        let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = &mut shutdown => return,
                result = self.look() => if let Some(result) = result { self.report(result) },
            }
        }
    }

    /// Reloads, and does so again for a while when that meets a problem nobody was told of yet; `None` when
    /// it panicked.
    async fn look(self: &Arc<Self>) -> Option<Result<Reload, Error>> {
        let mut looks = 0;
        loop {
            let identity = Arc::clone(self);
            // A file system that hangs must not stall the runtime.
            let result = tokio::task::spawn_blocking(move || identity.reload()).await;
            let result = result.ok()?;
            let is_new = result.as_ref().is_err_and(|error| self.is_new(error));
            if !is_new || looks == SECOND_LOOKS {
                return Some(result);
            }
            looks += 1;
            tokio::time::sleep(SECOND_LOOK_PAUSE).await;
        }
    }

    fn is_new(&self, error: &Error) -> bool {
        let before = self.last_error.load();
        before
            .as_ref()
            .is_none_or(|before| before.to_string() != error.to_string())
    }

    /// Unix seconds after which peers refuse the own certificate.
    pub fn not_after(&self) -> i64 {
        self.current.load().validity.not_after
    }

    /// What is wrong with the identity at this time, given in Unix seconds.
    pub fn warnings(&self, now: i64) -> Vec<Warning> {
        let current = self.current.load();
        let Validity {
            not_before,
            not_after,
        } = current.validity;
        let mut warnings = Vec::new();
        if now > not_after {
            warnings.push(Warning::Expired {
                seconds: now - not_after,
            });
        }
        if now < not_before {
            warnings.push(Warning::NotYetValid {
                seconds: not_before - now,
            });
        }
        if let Some(end) = current.ca_not_after.filter(|end| now > *end) {
            warnings.push(Warning::CaExpired { seconds: now - end });
        }
        warnings
    }

    /// How often new material was taken over.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// How many looks at the files failed while watching.
    pub fn reload_failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Why the last look at the files failed; `None` once one succeeds.
    pub fn last_reload_error(&self) -> Option<Arc<Error>> {
        self.last_error.load_full()
    }

    /// Where the identity comes from.
    pub fn files(&self) -> &Files {
        &self.files
    }

    pub(crate) fn current(&self) -> Arc<Material> {
        self.current.load_full()
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    fn report(&self, result: Result<Reload, Error>) {
        let certificate = self.files.certificate.display();
        match result {
            Ok(reload) => {
                let recovered = self.last_error.swap(None).is_some();
                if reload == Reload::Changed || recovered {
                    info!(%certificate, not_after = self.not_after(), "certificate reloaded");
                }
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                let is_new = self.is_new(&error);
                let error = Arc::new(error);
                self.last_error.store(Some(Arc::clone(&error)));
                if is_new {
                    let cause = std::error::Error::source(&*error).map(ToString::to_string);
                    warn!(
                        %certificate, %error, cause,
                        "certificate reload failed, keeping the one in use"
                    );
                }
            }
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("files", &self.files)
            .field("not_after", &self.not_after())
            .finish_non_exhaustive()
    }
}

/// Unix seconds after which peers refuse the certificate of `identity`, for a metric.
pub fn not_after(identity: &Identity) -> i64 {
    identity.not_after()
}

impl Material {
    fn build(
        files: &Files,
        contents: Contents,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let chain = files::certificates("certificate", &files.certificate, &contents.certificate)?;
        let key = files::private_key(&files.key, &contents.key)?;
        let validity = validity(&files.certificate, &chain[0])?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(|source| match source {
            RustlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => Error::KeyMismatch {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
            },
            source => Error::Key {
                path: files.key.clone(),
                source,
            },
        })?;
        let mut material = Self {
            key: Arc::new(key),
            servers: None,
            clients: None,
            validity,
            ca_not_after: None,
            contents,
        };
        if let (Some(path), Some(pem)) = (&files.ca, &material.contents.ca) {
            let roots = Arc::new(files::roots(path, pem)?);
            let broken = |source| Error::Verifier {
                path: path.clone(),
                source,
            };
            let provider = || Arc::clone(provider);
            let servers =
                WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider());
            let clients = WebPkiClientVerifier::builder_with_provider(roots, provider());
            material.ca_not_after = latest_end(path, pem)?;
            material.servers = Some(servers.build().map_err(broken)?);
            material.clients = Some(clients.build().map_err(broken)?);
        }
        Ok(material)
    }
}

fn latest_end(path: &Path, pem: &[u8]) -> Result<Option<i64>, Error> {
    let certificates = files::certificates("CA certificate", path, pem)?;
    let ends = certificates
        .iter()
        .map(|der| validity(path, der).map(|validity| validity.not_after));
    Ok(ends.collect::<Result<Vec<_>, _>>()?.into_iter().max())
}

fn validity(path: &Path, certificate: &CertificateDer<'_>) -> Result<Validity, Error> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|source| Error::Certificate {
            path: path.to_owned(),
            source,
        })?;
    let validity = parsed.validity();
    Ok(Validity {
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}
