//! A small cluster CA, identities of pods, and a listener that does mutual TLS as the internal port.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests")]

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::serve::Listener;
use flightcluster_tls::{
    ALPN_H2, ClientAuth, Files, Identity, MinVersion, Stream, TlsAcceptor, accept, server_config,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }
}

/// The files of one pod and the identity loaded from them.
pub struct Pod {
    pub identity: Arc<Identity>,
    directory: TempDir,
}

impl Pod {
    pub fn new(ca: &Ca) -> Self {
        let directory = TempDir::new().unwrap();
        write(&directory, ca);
        let file = |name| directory.path().join(name);
        let files = Files {
            certificate: file("tls.crt"),
            key: file("tls.key"),
            ca: Some(file("ca.crt")),
        };
        Self {
            identity: Identity::load(files).unwrap(),
            directory,
        }
    }

    /// Replaces certificate, key and CA, as a rotation does.
    pub fn rotate(&self, ca: &Ca) {
        write(&self.directory, ca);
        self.identity.reload().unwrap();
    }
}

fn write(directory: &TempDir, ca: &Ca) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca.0).unwrap();
    for (name, text) in [
        ("tls.crt", certificate.pem()),
        ("tls.key", key.serialize_pem()),
        ("ca.crt", ca.0.pem()),
    ] {
        fs::write(directory.path().join(name), text).unwrap();
    }
}

/// Accepts connections that pass mutual TLS and drops the others.
struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = Stream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (connection, peer) = self.tcp.accept().await.unwrap();
            if let Ok(stream) = accept(connection, Some(&self.acceptor)).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.tcp.local_addr()
    }
}

/// Serves `app` as the internal port of a pod does; gives its URL.
pub async fn serve(pod: &Pod, app: Router) -> (String, JoinHandle<()>) {
    let config = server_config(
        &pod.identity,
        ClientAuth::Required,
        MinVersion::Tls13,
        &[ALPN_H2],
    )
    .unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", tcp.local_addr().unwrap());
    let listener = TlsListener {
        tcp,
        acceptor: TlsAcceptor::from(config),
    };
    (
        url,
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }),
    )
}
