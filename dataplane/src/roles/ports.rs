//! The sockets of a process, bound before anything else is done, so that a port in use is told at
//! once and calls in the meantime get an answer.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use axum::Router;
use flightcluster_config::{Config, Role};
use serde::Serialize;
use tokio::net::TcpListener;

/// The bound sockets of a role.
pub(crate) struct Ports {
    /// Flight for clients.
    pub(crate) public: Option<TcpListener>,
    /// For the other pods.
    pub(crate) internal: Option<TcpListener>,
    /// Health and metrics.
    pub(crate) admin: TcpListener,
}

/// The addresses that were really bound.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Addresses {
    /// Flight for clients.
    pub(crate) public: Option<SocketAddr>,
    /// For the other pods.
    pub(crate) internal: Option<SocketAddr>,
    /// Health and metrics.
    pub(crate) admin: SocketAddr,
}

impl Ports {
    /// Binds what the role needs.
    pub(crate) async fn bind(role: Role, config: &Config) -> anyhow::Result<Self> {
        let server = &config.server;
        let internal = &config.internal;
        let has_internal = match role {
            Role::Ingester | Role::Catalog => true,
            // Nobody asks these; a querier only asks others.
            Role::Standalone | Role::Querier => false,
        };
        Ok(Self {
            public: match role.is_public() {
                true => Some(bind("server", &server.listen_host, server.listen_port).await?),
                false => None,
            },
            internal: match has_internal {
                true => Some(bind("internal", &internal.listen_host, internal.listen_port).await?),
                false => None,
            },
            admin: bind("admin", &config.admin.listen_host, config.admin.listen_port).await?,
        })
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> anyhow::Result<Addresses> {
        Ok(Addresses {
            public: self
                .public
                .as_ref()
                .map(TcpListener::local_addr)
                .transpose()?,
            internal: self
                .internal
                .as_ref()
                .map(TcpListener::local_addr)
                .transpose()?,
            admin: self.admin.local_addr()?,
        })
    }
}

async fn bind(section: &str, host: &str, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((host, port)).await.with_context(|| {
        format!("can't listen on {host}:{port} (settings {section}.listen_host, listen_port)")
    })
}

impl Addresses {
    /// The location clients reach the public port by, where the settings say which host that is.
    pub(crate) fn public_location(&self, config: &Config) -> Option<String> {
        let server = &config.server;
        let host = server.advertise_host.as_ref()?;
        let port = server.advertise_port.or(self.public.map(|at| at.port()))?;
        let scheme = match config.tls.certificate_file {
            Some(_) => "grpc+tls",
            None => "grpc+tcp",
        };
        Some(url(scheme, host, port))
    }

    /// The URL queriers call an ingester by; empty where the role has no internal port.
    pub(crate) fn internal_url(&self, config: &Config) -> String {
        if let Some(url) = &config.internal.advertise_url {
            return url.clone();
        }
        let Some(bound) = self.internal else {
            return String::new();
        };
        // The certificate names the configured host, which may be a name.
        let scheme = match config.internal.tls.certificate_file {
            Some(_) => "https",
            None => "http",
        };
        url(scheme, &config.internal.listen_host, bound.port())
    }

    /// Writes the ports as JSON, complete or not at all.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct PortFile {
            port: Option<u16>,
            internal_port: Option<u16>,
            admin_port: u16,
        }
        let ports = PortFile {
            port: self.public.map(|address| address.port()),
            internal_port: self.internal.map(|address| address.port()),
            admin_port: self.admin.port(),
        };
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, serde_json::to_vec(&ports)?)
            .and_then(|()| std::fs::rename(&temporary, path))
            .with_context(|| format!("can't write --port-file {}", path.display()))
    }
}

fn url(scheme: &str, host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("{scheme}://[{host}]:{port}"),
        false => format!("{scheme}://{host}:{port}"),
    }
}

/// Serves health and metrics for as long as the process lives, also while it stops.
pub(crate) async fn serve_admin(socket: TcpListener, router: Router) {
    if let Err(error) = axum::serve(socket, router).await {
        tracing::error!(error = %error, "the admin port failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S3-24
    #[test]
    fn a_location_is_what_the_settings_advertise_and_says_whether_there_is_tls() {
        let addresses = Addresses {
            public: Some(([0, 0, 0, 0], 5).into()),
            internal: None,
            admin: ([0, 0, 0, 0], 7).into(),
        };
        let mut config = Config::default();
        assert_eq!(addresses.public_location(&config), None);
        let location = |config: &Config| addresses.public_location(config).unwrap_or_default();
        config.server.advertise_host = Some("pod-0.pods".to_owned());
        assert_eq!(location(&config), "grpc+tcp://pod-0.pods:5");
        config.server.advertise_port = Some(443);
        config.tls.certificate_file = Some("tls.crt".into());
        assert_eq!(location(&config), "grpc+tls://pod-0.pods:443");
        config.server.advertise_host = Some("fd00::7".to_owned());
        assert_eq!(location(&config), "grpc+tls://[fd00::7]:443");
    }
}
