//! Certificates: making them, and judging whether one that is kept still serves.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::X509Certificate;

use super::{Authority, Leaf, Sensitive, signed};

/// How long a CA is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// How far back a certificate is dated, for clocks that are a little behind.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// What a certificate is wanted for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// What people see in it.
    pub(super) common_name: String,
    /// DNS names, with wildcards in the first label, and IP addresses.
    pub(super) names: Vec<String>,
    /// Whether it also identifies whoever calls.
    pub(super) for_clients: bool,
    /// How long it is to be valid.
    pub(super) life: Duration,
}

/// When a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// From when.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

impl Validity {
    /// Returns when the certificate has to be renewed: with a third of its life left, in whole
    /// seconds.
    #[must_use]
    pub fn renewal(self) -> Timestamp {
        let life = self.not_after.duration_since(self.not_before);
        let third = SignedDuration::from_secs(life.as_secs() / 3);
        self.not_after.checked_sub(third).unwrap_or(self.not_after)
    }
}

/// Returns whether `pem` begins with a certificate.
#[must_use]
pub fn certificate_is_readable(pem: &str) -> bool {
    inspect(pem, |_| Some(())).is_some()
}

/// Returns when the first certificate of `pem` is valid, or `None` when there is none.
#[must_use]
pub fn validity(pem: &str) -> Option<Validity> {
    inspect(pem, |certificate| {
        let validity = certificate.validity();
        Some(Validity {
            not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        })
    })
}

/// Makes a CA with a key of its own.
pub(super) fn make_authority(common_name: &str, now: Timestamp) -> Result<Authority, rcgen::Error> {
    let mut params = parameters(common_name, now, AUTHORITY_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(Authority {
        bundle: certificate.clone(),
        certificate,
        key: Sensitive::new(key.serialize_pem()),
    })
}

/// Makes a certificate with a key of its own.
pub(super) fn issue(
    authority: &Authority,
    wanted: &Wanted,
    now: Timestamp,
) -> Result<Leaf, rcgen::Error> {
    let mut params = CertificateParams::new(wanted.names.clone())?;
    let dated = parameters(&wanted.common_name, now, wanted.life);
    params.not_before = dated.not_before;
    params.not_after = dated.not_after;
    params.distinguished_name = dated.distinguished_name;
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if wanted.for_clients {
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    let signer = KeyPair::from_pem(authority.key.expose())?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, signer)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?.pem();
    let validity = validity(&certificate);
    Ok(Leaf {
        certificate,
        key: Sensitive::new(key.serialize_pem()),
        validity,
    })
}

/// Returns whether a kept CA can still sign: certificate and key belong together and it is in time.
pub(super) fn is_authority(authority: &Authority, now: Timestamp) -> bool {
    let in_time = validity(&authority.certificate).is_some_and(|v| now < v.not_after);
    in_time && belong_together(&authority.certificate, authority.key.expose())
}

/// Returns when a kept certificate is valid, if it still serves: it belongs to its key and to the
/// CA, has every wanted name, and needs no renewal yet.
pub(super) fn serves(
    certificate: &str,
    key: &str,
    authority: &Authority,
    wanted: &Wanted,
    now: Timestamp,
) -> Option<Validity> {
    let validity = validity(certificate)?;
    let names = inspect(certificate, |certificate| {
        Some(alternative_names(certificate))
    })?;
    let serves = now < validity.renewal()
        && wanted.names.iter().all(|name| names.contains(name))
        && belong_together(certificate, key)
        && is_signed_by(certificate, &authority.certificate);
    serves.then_some(validity)
}

fn parameters(common_name: &str, now: Timestamp, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    // A short life must not be dated back so far that it is over at once.
    let skew = CLOCK_SKEW.min(signed(life) / 10);
    params.not_before = SystemTime::from(now.checked_sub(skew).unwrap_or(now)).into();
    let not_after = now.checked_add(signed(life)).unwrap_or(Timestamp::MAX);
    params.not_after = SystemTime::from(not_after).into();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    params
}

/// Returns whether the first certificate of `certificate` was made for the private key `key`, both as
/// PEM.
#[must_use]
pub fn belong_together(certificate: &str, key: &str) -> bool {
    // Read with what the data plane reads it with: the same forms of keys are good.
    let Ok(key) = PrivateKeyDer::from_pem_slice(key.as_bytes()) else {
        return false;
    };
    let Ok(key) = any_supported_type(&key) else {
        return false;
    };
    let public_key = inspect(certificate, |c| Some(c.public_key().raw.to_vec()));
    public_key.is_some_and(|of_certificate| {
        key.public_key()
            .is_none_or(|of_key| of_key.as_ref() == of_certificate)
    })
}

/// Compares key identifiers: an authority with the same name but another key has another one.
fn is_signed_by(certificate: &str, authority: &str) -> bool {
    let claimed = inspect(certificate, |certificate| {
        certificate
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    id.key_identifier.as_ref().map(|id| id.0.to_vec())
                }
                _ => None,
            })
    });
    let own = inspect(authority, |certificate| {
        certificate
            .extensions()
            .iter()
            .find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            })
    });
    claimed.is_some() && claimed == own
}

fn alternative_names(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else {
        return BTreeSet::new();
    };
    let names = extension
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        });
    names.collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn inspect<T>(pem: &str, look: impl FnOnce(&X509Certificate<'_>) -> Option<T>) -> Option<T> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    look(&certificate)
}
