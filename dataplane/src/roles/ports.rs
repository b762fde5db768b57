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

/// Serves health and metrics for as long as the process lives, also while it stops.
pub(crate) async fn serve_admin(socket: TcpListener, router: Router) {
    if let Err(error) = axum::serve(socket, router).await {
        tracing::error!(error = %error, "the admin port failed");
    }
}
