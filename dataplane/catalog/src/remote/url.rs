//! Where the methods of a served catalog are.

use reqwest::Url;

use super::protocol::PATH_PREFIX;

/// A URL that can't be that of a catalog.
#[derive(Debug, thiserror::Error)]
pub(super) enum UrlError {
    #[error("catalog.url {url:?} is not a URL")]
    Parse {
        url: String,
        source: url_parse::Error,
    },
    #[error("catalog.url {url:?} must begin with https:// (or http:// for tests on one machine)")]
    Scheme { url: String },
    #[error("catalog.url {url:?} is https, but no certificates are configured (internal.tls)")]
    NoTls { url: String },
}

/// The error type of URLs, which `reqwest` uses but does not name.
mod url_parse {
    pub(super) type Error = <reqwest::Url as std::str::FromStr>::Err;
}

/// The base of the paths of the methods.
pub(super) fn methods_url(base_url: &str, has_tls: bool) -> Result<Url, UrlError> {
    let parsed = Url::parse(base_url).map_err(|source| UrlError::Parse {
        url: base_url.to_owned(),
        source,
    })?;
    match parsed.scheme() {
        "http" => {}
        "https" if has_tls => {}
        "https" => {
            return Err(UrlError::NoTls {
                url: base_url.to_owned(),
            });
        }
        _ => {
            return Err(UrlError::Scheme {
                url: base_url.to_owned(),
            });
        }
    }
    let methods = format!("{}{PATH_PREFIX}", base_url.trim_end_matches('/'));
    Url::parse(&methods).map_err(|source| UrlError::Parse {
        url: methods,
        source,
    })
}
