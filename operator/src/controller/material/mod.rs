//! What must be made once and kept: keys, certificates, the first token.
//!
//! This stands between `validate` and `build`, because it needs randomness and the time, which both
//! of them must not have. What an earlier pass made is used again as long as it is good; a Secret
//! that was deleted is made anew. The private keys of certificates are renewed with them.

mod certificates;
mod placeholder;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as URL_SAFE_NO_PAD;
use flightcluster_config::Role;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use rand::RngCore;

use super::dereference::KeptSecrets;
use super::validate::{Auth, Tls, ValidatedCluster};

pub use certificates::{Validity, belong_together, certificate_is_readable, validity};
pub use placeholder::placeholders;

/// How long the certificate of the pods' own traffic is valid.
const INTERNAL_CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Bytes of a key that tickets are signed with: those of the HMAC's hash. The data plane takes no
/// other number.
pub const SIGNING_KEY_BYTES: usize = 32;

/// The key of the Secret that holds it.
pub const SIGNING_KEY: &str = "key";

/// What tokens begin with, as those of `flightcluster token create` do: scanners for leaked secrets
/// find them by it.
const TOKEN_PREFIX: &str = "fc_";

/// Bytes of randomness in the first token.
const TOKEN_BYTES: usize = 32;

/// A value that must not get into a log, a status or a ConfigMap.
#[derive(Clone, PartialEq, Eq)]
pub struct Sensitive<T>(T);

impl<T> Sensitive<T> {
    /// Hides `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// Shows the value, to write it into a Secret.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<sensitive>")
    }
}

/// What was made once and is kept, as `build` writes it into Secrets.
#[derive(Clone, Debug)]
pub struct Material {
    /// The CA of the pods' own traffic.
    pub internal_ca: Authority,
    /// The certificate of the pods' own traffic.
    pub internal_tls: Leaf,
    /// The CA and the certificate that clients see, when the operator makes them.
    pub public: Option<(Authority, Leaf)>,
    /// The key that tickets are signed with.
    pub signing_key: Sensitive<Vec<u8>>,
    /// The first token, when tokens are used.
    pub admin_token: Option<Sensitive<String>>,
    /// What this pass made, in words for an event; empty in a steady state.
    pub made: Vec<String>,
}

impl Material {
    /// Returns when the first certificate has to be renewed; `None` for placeholders.
    #[must_use]
    pub fn next_renewal(&self) -> Option<Timestamp> {
        let public = self.public.as_ref().map(|(_, leaf)| leaf);
        let leaves = std::iter::once(&self.internal_tls).chain(public);
        leaves
            .filter_map(|leaf| leaf.validity)
            .map(Validity::renewal)
            .min()
    }
}

/// A certificate authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The certificate that signs, as PEM.
    pub certificate: String,
    /// Its private key, as PEM.
    pub key: Sensitive<String>,
    /// What others trust, as PEM: this certificate, and during a change of authority also the one
    /// before or after it.
    pub bundle: String,
}

/// A certificate for servers and clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The certificate, as PEM.
    pub certificate: String,
    /// Its private key, as PEM.
    pub key: Sensitive<String>,
    /// When it is valid; `None` for placeholders.
    pub validity: Option<Validity>,
}

/// Why something could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A Secret with a CA can't be used; only the user can decide to give it up.
    #[error("Secret {name} holds no usable CA; delete it to have a new one made")]
    UnusableAuthority {
        /// Its name.
        name: String,
    },
    /// Making a certificate failed; nothing was changed.
    #[error("making the certificate {name}")]
    Issue {
        /// What it is for.
        name: String,
        /// What the library said.
        #[source]
        source: rcgen::Error,
    },
}

impl Error {
    /// Returns the bounded name of this error for metrics and events.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::UnusableAuthority { .. } => "unusable_authority",
            Self::Issue { .. } => "issue_certificate",
        }
    }
}

/// Takes what is kept and good, and makes the rest.
///
/// # Errors
/// A kept CA that can't be used is never replaced silently: every client would lose its trust.
pub fn provide(
    cluster: &ValidatedCluster,
    kept: &KeptSecrets,
    now: Timestamp,
) -> Result<Material, Error> {
    let mut made = Vec::new();
    let names = &cluster.names;
    let name = names.cluster();
    let internal_ca = authority(
        kept.internal_ca.as_ref(),
        &names.internal_ca_secret(),
        &format!("{name} internal CA"),
        now,
        &mut made,
    )?;
    let wanted = certificates::Wanted {
        common_name: format!("{name} internal"),
        names: internal_names(cluster),
        for_clients: true,
        life: INTERNAL_CERTIFICATE_LIFE,
    };
    let internal_tls = leaf(
        kept.internal_tls.as_ref(),
        &internal_ca,
        &wanted,
        now,
        &mut made,
    )?;
    let public = match &cluster.tls {
        Tls::SelfSigned { life, extra_names } => {
            let ca = authority(
                kept.public_ca.as_ref(),
                &names.public_ca_secret(),
                &format!("{name} CA"),
                now,
                &mut made,
            )?;
            let wanted = certificates::Wanted {
                common_name: name.to_owned(),
                names: public_names(cluster, extra_names),
                for_clients: false,
                life: *life,
            };
            let leaf = leaf(kept.public_tls.as_ref(), &ca, &wanted, now, &mut made)?;
            Some((ca, leaf))
        }
        Tls::Disabled | Tls::Secret { .. } => None,
    };
    Ok(Material {
        internal_ca,
        internal_tls,
        public,
        signing_key: signing_key(kept.signing_key.as_ref(), &mut made),
        admin_token: match &cluster.auth {
            Auth::None => None,
            Auth::Token { .. } => Some(admin_token(kept.admin_token.as_ref(), &mut made)),
        },
        made,
    })
}

/// The names under which clients reach the pods, each once.
fn public_names(cluster: &ValidatedCluster, extra_names: &[String]) -> Vec<String> {
    let dns = cluster.dns();
    let mut names = dns.public(Role::Querier);
    names.extend(dns.public(Role::Ingester));
    names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    names.extend(extra_names.iter().map(|name| canonical(name)));
    names.sort();
    names.dedup();
    names
}

/// Writes a name as it is read back from a certificate: another spelling of a name that is already
/// there must not ask for a new certificate.
fn canonical(name: &str) -> String {
    match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => name.to_ascii_lowercase(),
    }
}

/// The names under which pods reach each other, each once.
fn internal_names(cluster: &ValidatedCluster) -> Vec<String> {
    let dns = cluster.dns();
    let mut names: Vec<String> = cluster
        .roles()
        .iter()
        .flat_map(|role| dns.internal(role.role))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn authority(
    kept: Option<&Secret>,
    secret: &str,
    common_name: &str,
    now: Timestamp,
    made: &mut Vec<String>,
) -> Result<Authority, Error> {
    let Some(kept) = kept else {
        made.push(common_name.to_owned());
        return certificates::make_authority(common_name, now).map_err(|source| Error::Issue {
            name: common_name.to_owned(),
            source,
        });
    };
    let unusable = || Error::UnusableAuthority {
        name: secret.to_owned(),
    };
    let certificate = text(kept, "tls.crt").ok_or_else(unusable)?;
    let key = text(kept, "tls.key").ok_or_else(unusable)?;
    let bundle = text(kept, "ca.crt").unwrap_or_else(|| certificate.clone());
    let authority = Authority {
        certificate,
        key: Sensitive::new(key),
        bundle,
    };
    let usable = certificates::is_authority(&authority, now);
    if usable {
        Ok(authority)
    } else {
        Err(unusable())
    }
}

fn leaf(
    kept: Option<&Secret>,
    authority: &Authority,
    wanted: &certificates::Wanted,
    now: Timestamp,
    made: &mut Vec<String>,
) -> Result<Leaf, Error> {
    let kept = kept.and_then(|kept| Some((text(kept, "tls.crt")?, text(kept, "tls.key")?)));
    if let Some((certificate, key)) = kept
        && let Some(validity) = certificates::serves(&certificate, &key, authority, wanted, now)
    {
        let key = Sensitive::new(key);
        return Ok(Leaf {
            certificate,
            key,
            validity: Some(validity),
        });
    }
    made.push(format!("certificate {}", wanted.common_name));
    certificates::issue(authority, wanted, now).map_err(|source| Error::Issue {
        name: wanted.common_name.clone(),
        source,
    })
}

fn signing_key(kept: Option<&Secret>, made: &mut Vec<String>) -> Sensitive<Vec<u8>> {
    let kept = kept
        .and_then(|secret| secret.data.as_ref())
        .and_then(|data| data.get(SIGNING_KEY))
        // Validation lets no other pass.
        .filter(|key| key.0.len() == SIGNING_KEY_BYTES);
    if let Some(key) = kept {
        return Sensitive::new(key.0.clone());
    }
    made.push("signing key".to_owned());
    let mut key = vec![0; SIGNING_KEY_BYTES];
    rand::rng().fill_bytes(&mut key);
    Sensitive::new(key)
}

fn admin_token(kept: Option<&Secret>, made: &mut Vec<String>) -> Sensitive<String> {
    if let Some(token) = kept.and_then(|secret| text(secret, "token")) {
        return Sensitive::new(token);
    }
    made.push("admin token".to_owned());
    let mut random = [0; TOKEN_BYTES];
    rand::rng().fill_bytes(&mut random);
    Sensitive::new(format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
}

/// Returns the value of a key that holds text and is not empty.
fn text(secret: &Secret, key: &str) -> Option<String> {
    let value = secret.data.as_ref()?.get(key)?;
    String::from_utf8(value.0.clone())
        .ok()
        .filter(|text| !text.is_empty())
}

/// Converts a length of time; lives of certificates are far from the limit of `jiff`.
fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests;
