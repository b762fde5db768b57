//! PEM files: where they are, reading them, and what can be wrong with them.

use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Where an identity lies on disk. In Kubernetes these are keys of a mounted Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// PEM certificate chain, own certificate first.
    pub certificate: PathBuf,
    /// PEM private key of the first certificate.
    pub key: PathBuf,
    /// PEM certificates of the CAs that peers must be signed by, one or several (two during a CA
    /// rotation).
    pub ca: Option<PathBuf>,
}

/// Why an identity or a configuration could not be made. The operator of the cluster must act.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("reading the {what} from {}", path.display())]
    Read {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file is not PEM.
    #[error("the {what} in {} is not valid PEM", path.display())]
    Pem {
        /// What the file holds.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the parser found.
        source: pem::Error,
    },
    /// A file holds nothing of its kind.
    #[error("{} holds no {what} in PEM form", path.display())]
    Empty {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A certificate is not one.
    #[error("a certificate in {} cannot be parsed", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        source: x509_parser::nom::Err<x509_parser::error::X509Error>,
    },
    /// Key and certificate do not belong together.
    #[error(
        "the key in {} does not match the certificate in {}; take both from the same issue",
        key.display(), certificate.display()
    )]
    KeyMismatch {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
    },
    /// The key is of a kind that is not supported.
    #[error("the key in {} cannot be used; supported are RSA, ECDSA and Ed25519", path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// What the library found.
        source: rustls::Error,
    },
    /// A CA certificate cannot be trusted as one.
    #[error("a CA certificate in {} cannot be used", path.display())]
    Ca {
        /// The CA file.
        path: PathBuf,
        /// What the library found.
        source: rustls::Error,
    },
    /// The verifier cannot be made from the CAs.
    #[error("preparing verification with the CA in {}", path.display())]
    Verifier {
        /// The CA file.
        path: PathBuf,
        /// What the library found.
        source: rustls::client::VerifierBuilderError,
    },
    /// Peers are to be verified but no CA is given.
    #[error("{purpose} needs a CA file; set one, or ask for no verification of clients")]
    NoCa {
        /// What it is needed for.
        purpose: &'static str,
    },
    /// The protocol versions do not suit the cryptography; cannot happen with the built-in one.
    #[error("choosing the TLS versions")]
    Versions(#[source] rustls::Error),
}

impl Error {
    /// Bounded name for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Read { .. } => "tls_file_unreadable",
            Self::Pem { .. } | Self::Empty { .. } | Self::Certificate { .. } => {
                "tls_file_malformed"
            }
            Self::KeyMismatch { .. } => "tls_key_mismatch",
            Self::Key { .. } => "tls_key_unsupported",
            Self::Ca { .. } | Self::Verifier { .. } | Self::NoCa { .. } => "tls_ca",
            Self::Versions(_) => "tls_versions",
        }
    }

    /// The file that can't be used, if it is one; of a pair that does not match, the certificate.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::Pem { path, .. }
            | Self::Empty { path, .. }
            | Self::Certificate { path, .. }
            | Self::KeyMismatch {
                certificate: path, ..
            }
            | Self::Key { path, .. }
            | Self::Ca { path, .. }
            | Self::Verifier { path, .. } => Some(path),
            Self::NoCa { .. } | Self::Versions(_) => None,
        }
    }
}

/// The bytes of an identity, kept to see whether files have changed.
#[derive(PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
    pub(crate) ca: Option<Vec<u8>>,
}

impl Files {
    /// Reads all files such that they belong to one state of the directory: the kubelet swaps a
    /// symbolic link, which may happen between two reads.
    pub(crate) fn read(&self) -> Result<Contents, Error> {
        let mut contents = self.read_once()?;
        // More swaps than this in a row do not happen; a mixed state would be found later.
        for _ in 0..3 {
            let again = self.read_once()?;
            if again == contents {
                break;
            }
            contents = again;
        }
        Ok(contents)
    }

    fn read_once(&self) -> Result<Contents, Error> {
        Ok(Contents {
            certificate: read("certificate", &self.certificate)?,
            key: read("private key", &self.key)?,
            ca: self
                .ca
                .as_deref()
                .map(|path| read("CA certificate", path))
                .transpose()?,
        })
    }
}

pub(crate) fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        what,
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn certificates(
    what: &'static str,
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let path = || path.to_owned();
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| Error::Pem {
            what,
            path: path(),
            source,
        })?;
    if certificates.is_empty() {
        return Err(Error::Empty { what, path: path() });
    }
    Ok(certificates)
}

pub(crate) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    let (what, path) = ("private key", || path.to_owned());
    PrivateKeyDer::from_pem_slice(pem).map_err(|source| match source {
        pem::Error::NoItemsFound => Error::Empty { what, path: path() },
        source => Error::Pem {
            what,
            path: path(),
            source,
        },
    })
}

pub(crate) fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA certificate", path, pem)? {
        let ca = |source| Error::Ca {
            path: path.to_owned(),
            source,
        };
        roots.add(certificate).map_err(ca)?;
    }
    Ok(roots)
}
