//! Certificates made for each test, and handshakes between real sockets with them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ClientConfig;
use rustls::version::TLS12;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use super::*;

mod handshakes;
mod identities;

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn params(name: &str) -> CertificateParams {
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    /// Certificate and key in PEM.
    fn sign(&self, params: &CertificateParams) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        (
            params.signed_by(&key, &self.0).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    fn pem(&self) -> String {
        self.0.pem()
    }
}

/// Files of one identity, as a Secret mount has them.
struct Mount(TempDir);

impl Mount {
    fn new(ca: &Ca, name: &str) -> Self {
        let mount = Self(tempfile::tempdir().unwrap());
        mount.issue(ca, name);
        mount
    }

    fn issue(&self, ca: &Ca, name: &str) {
        let (certificate, key) = ca.sign(&Ca::params(name));
        self.write("tls.crt", &certificate);
        self.write("tls.key", &key);
        self.write("ca.crt", &ca.pem());
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.path(file), text).unwrap();
    }

    fn files(&self) -> Files {
        files_in(self.0.path())
    }

    fn load(&self) -> Arc<Identity> {
        Identity::load(self.files()).unwrap()
    }
}

fn files_in(directory: &Path) -> Files {
    Files {
        certificate: directory.join("tls.crt"),
        key: directory.join("tls.key"),
        ca: Some(directory.join("ca.crt")),
    }
}

fn acceptor(identity: &Arc<Identity>, auth: ClientAuth, min: MinVersion) -> TlsAcceptor {
    TlsAcceptor::from(server_config(identity, auth, min, &[ALPN_H2]).unwrap())
}

struct Outcome {
    server: Result<Stream<TcpStream>, AcceptError>,
    client: Result<ConnectedStream, ConnectError>,
}

impl Outcome {
    /// Name in the certificate the client was shown.
    fn server_name(&self) -> String {
        let Ok(ConnectedStream::Tls(stream)) = &self.client else {
            panic!("not connected: {:?}", self.client);
        };
        let certificates = stream.get_ref().1.peer_certificates().unwrap();
        PeerIdentity::read(&certificates[0])
            .unwrap()
            .common_name
            .unwrap()
    }

    fn client_name(&self) -> Option<String> {
        self.server
            .as_ref()
            .unwrap()
            .peer()
            .and_then(|peer| peer.common_name)
    }
}

async fn dial(
    mut connector: Connector,
    host: &str,
    port: u16,
) -> Result<ConnectedStream, ConnectError> {
    let uri: Uri = format!("https://{host}:{port}").parse().unwrap();
    connector
        .call(uri)
        .await
        .map(hyper_util::rt::TokioIo::into_inner)
}

async fn handshake(acceptor: Option<&TlsAcceptor>, connector: Connector) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        accept(tcp, acceptor).await
    };
    let call = async {
        let mut client = dial(connector, "localhost", port).await;
        if let Ok(ConnectedStream::Plain(stream)) = &mut client {
            stream.write_all(b"PRI * HTTP/2.0\r\n\r\n").await.unwrap();
        }
        client
    };
    let (server, client) = tokio::join!(serve, call);
    Outcome { server, client }
}

/// Sends raw bytes to a port and says what the server made of them.
async fn send(
    acceptor: Option<&TlsAcceptor>,
    bytes: &[u8],
) -> Result<Stream<TcpStream>, AcceptError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap())
        .await
        .unwrap();
    client.write_all(bytes).await.unwrap();
    client.shutdown().await.unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    accept(tcp, acceptor).await
}
