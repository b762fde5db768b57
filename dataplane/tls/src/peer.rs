//! Who a verified peer certificate says the peer is.

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Names in the certificate of a peer that passed verification.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerIdentity {
    /// Common name of the subject.
    pub common_name: Option<String>,
    /// DNS names it is valid for.
    pub dns_names: Vec<String>,
    /// URIs it is valid for, such as SPIFFE ids.
    pub uris: Vec<String>,
}

impl PeerIdentity {
    /// Reads the names; `None` when the certificate cannot be parsed, which verification excludes.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
        let common_name = parsed.subject().iter_common_name().next();
        let mut identity = Self {
            common_name: common_name
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            ..Self::default()
        };
        let names = parsed.subject_alternative_name().ok().flatten();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => identity.dns_names.push((*name).to_owned()),
                GeneralName::URI(uri) => identity.uris.push((*uri).to_owned()),
                _ => {}
            }
        }
        Some(identity)
    }
}
