//! Connections: verification, mismatches of TLS and plaintext, versions, the client side.

use super::*;

#[tokio::test]
async fn nodes_verify_each_other_and_know_the_peers_name() {
    let ca = Ca::new("ca");
    let (server, client) = (Mount::new(&ca, "querier-0"), Mount::new(&ca, "ingester-0"));
    let (server, client) = (server.load(), client.load());
    let acceptor = acceptor(&server, ClientAuth::Required, MinVersion::Tls13);
    let outcome = handshake(Some(&acceptor), connector(client_config(&client).unwrap())).await;
    assert_eq!(outcome.server_name(), "querier-0");
    let stream = outcome.server.unwrap();
    assert!(stream.is_tls());
    let peer = stream.peer().unwrap();
    assert_eq!(peer.common_name.as_deref(), Some("ingester-0"));
    assert_eq!(peer.dns_names, ["localhost"]);
}

#[tokio::test]
async fn data_flow_both_ways_after_the_handshake_s2_10() {
    let ca = Ca::new("ca");
    let mount = Mount::new(&ca, "server");
    let identity = mount.load();
    let acceptor = acceptor(&identity, ClientAuth::None, MinVersion::Tls12);
    let trusting = ca_client_config(&mount.path("ca.crt")).unwrap();
    let outcome = handshake(Some(&acceptor), connector(trusting)).await;
    let (mut server, mut client) = (outcome.server.unwrap(), outcome.client.unwrap());
    assert_eq!(server.peer(), None);
    // Larger than any buffer on the way.
    let sent = vec![7u8; 3 << 20];
    let expected = sent.len();
    let ConnectedStream::Tls(client) = &mut client else {
        panic!("no TLS")
    };
    let write = async {
        client.write_all(&sent).await.unwrap();
        client.flush().await.unwrap();
        let mut reply = [0; 2];
        client.read_exact(&mut reply).await.unwrap();
        reply
    };
    let read = async {
        let mut received = vec![0; expected];
        server.read_exact(&mut received).await.unwrap();
        server.write_all(b"ok").await.unwrap();
        server.flush().await.unwrap();
        received
    };
    let (reply, received) = tokio::join!(write, read);
    assert_eq!(&reply, b"ok");
    assert!(received.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn a_server_of_another_ca_is_refused_s2_10() {
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let (server, client) = (
        Mount::new(&theirs, "server").load(),
        Mount::new(&ours, "c").load(),
    );
    let acceptor = acceptor(&server, ClientAuth::None, MinVersion::Tls12);
    let outcome = handshake(Some(&acceptor), connector(client_config(&client).unwrap())).await;
    let Err(ConnectError::Handshake { host, source, .. }) = outcome.client else {
        panic!("accepted: {:?}", outcome.client);
    };
    assert_eq!(host, "localhost");
    assert!(source.to_string().contains("UnknownIssuer"), "{source}");
}

#[tokio::test]
async fn a_name_the_certificate_does_not_have_is_refused() {
    let ca = Ca::new("ca");
    let mount = Mount::new(&ca, "server");
    let other = CertificateParams::new(vec!["elsewhere.example".to_owned()]).unwrap();
    let (certificate, key) = ca.sign(&other);
    mount.write("tls.crt", &certificate);
    mount.write("tls.key", &key);
    let identity = mount.load();
    let acceptor = acceptor(&identity, ClientAuth::None, MinVersion::Tls12);
    let outcome = handshake(
        Some(&acceptor),
        connector(client_config(&identity).unwrap()),
    )
    .await;
    assert!(matches!(
        outcome.client,
        Err(ConnectError::Handshake { .. })
    ));
}

#[tokio::test]
async fn required_client_certificates_refuse_a_client_without_s4_47() {
    let ca = Ca::new("ca");
    let mount = Mount::new(&ca, "server");
    let server = mount.load();
    let without = || connector(ca_client_config(&mount.path("ca.crt")).unwrap());
    let required = acceptor(&server, ClientAuth::Required, MinVersion::Tls12);
    let refused = handshake(Some(&required), without()).await;
    let Err(AcceptError::Handshake(cause)) = refused.server else {
        panic!("accepted")
    };
    assert!(cause.to_string().contains("certificate"), "{cause}");

    let optional = acceptor(&server, ClientAuth::Optional, MinVersion::Tls12);
    let allowed = handshake(Some(&optional), without()).await;
    assert_eq!(allowed.client_name(), None);
    let stranger = Mount::new(&Ca::new("other"), "stranger");
    stranger.write("ca.crt", &ca.pem());
    let stranger = connector(client_config(&stranger.load()).unwrap());
    let refused = handshake(Some(&optional), stranger).await;
    assert!(
        matches!(refused.server, Err(AcceptError::Handshake(_))),
        "a wrong one is refused"
    );
}

#[test]
fn verification_without_a_ca_is_refused_at_start_s4_47() {
    let mount = Mount::new(&Ca::new("ca"), "server");
    let identity = Identity::load(Files {
        ca: None,
        ..mount.files()
    })
    .unwrap();
    for auth in [ClientAuth::Optional, ClientAuth::Required] {
        let error = server_config(&identity, auth, MinVersion::Tls12, &[]).unwrap_err();
        assert!(matches!(error, Error::NoCa { .. }), "{error}");
    }
    assert!(server_config(&identity, ClientAuth::None, MinVersion::Tls12, &[]).is_ok());
    assert!(matches!(client_config(&identity), Err(Error::NoCa { .. })));
}

#[tokio::test]
async fn a_client_below_the_lowest_version_is_refused() {
    let mount = Mount::new(&Ca::new("ca"), "server");
    let identity = mount.load();
    let mut roots = rustls::RootCertStore::empty();
    let ca = fs::read(mount.path("ca.crt")).unwrap();
    for certificate in files::certificates("CA", Path::new("ca"), &ca).unwrap() {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut old = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    old.alpn_protocols = vec![ALPN_H2.to_vec()];
    let old = connector(Arc::new(old));
    let strict = acceptor(&identity, ClientAuth::None, MinVersion::Tls13);
    let refused = handshake(Some(&strict), old.clone()).await;
    assert!(matches!(refused.server, Err(AcceptError::Handshake(_))));
    let lenient = acceptor(&identity, ClientAuth::None, MinVersion::Tls12);
    assert!(handshake(Some(&lenient), old).await.server.is_ok());
}

#[tokio::test]
async fn plaintext_on_a_tls_port_is_recognised_and_explained_s1_10() {
    let identity = Mount::new(&Ca::new("ca"), "server").load();
    let acceptor = acceptor(&identity, ClientAuth::None, MinVersion::Tls12);
    let starts: [&[u8]; 3] = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /write HTTP/1.1\r\n\r\n",
    ];
    for start in starts {
        let error = send(Some(&acceptor), start).await.unwrap_err();
        assert!(matches!(error, AcceptError::PlaintextOnTls), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("grpc+tls://") && text.contains("tls.certificate_file"),
            "{text}"
        );
    }
    let error = send(Some(&acceptor), b"SSH-2.0-OpenSSH").await.unwrap_err();
    assert!(
        matches!(&error, AcceptError::NotTls { first } if first == b"SSH-"),
        "{error}"
    );
}

#[tokio::test]
async fn tls_on_a_plaintext_port_is_recognised_and_explained_s1_10() {
    let client = Mount::new(&Ca::new("ca"), "client").load();
    let outcome = handshake(None, connector(client_config(&client).unwrap())).await;
    let error = outcome.server.unwrap_err();
    assert!(matches!(error, AcceptError::TlsOnPlaintext), "{error}");
    assert_eq!(error.category(), "tls_on_plaintext");
    let text = error.to_string();
    assert!(
        text.contains("grpc://") && text.contains("tls.key_file"),
        "{text}"
    );
    assert!(matches!(
        outcome.client,
        Err(ConnectError::Handshake { .. })
    ));
}

#[tokio::test]
async fn plaintext_on_a_plaintext_port_passes_with_its_first_bytes() {
    let outcome = handshake(None, plain_connector()).await;
    let mut stream = outcome.server.unwrap();
    let mut first = [0; 18];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"PRI * HTTP/2.0\r\n\r\n");
    assert!(!stream.is_tls() && stream.peer().is_none());
    // Fewer bytes than are looked at, then the end.
    let mut stream = send(None, b"ab").await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"ab");
}

#[tokio::test]
async fn a_probe_that_only_opens_a_connection_is_not_worth_a_log_line() {
    let error = send(None, b"").await.unwrap_err();
    assert!(matches!(error, AcceptError::Closed));
    assert!(!error.is_worth_a_log_line());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_dropped_in_time() {
    let (client, server) = tokio::io::duplex(64);
    let error = accept(server, None).await.unwrap_err();
    assert!(matches!(error, AcceptError::Timeout), "{error}");
    drop(client);
}

#[tokio::test]
async fn a_tonic_endpoint_connects_through_the_connector() {
    let ca = Ca::new("ca");
    let identity = Mount::new(&ca, "node").load();
    let acceptor = acceptor(&identity, ClientAuth::Required, MinVersion::Tls13);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = accept(tcp, Some(&acceptor)).await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        preface
    };
    let endpoint = tonic::transport::Endpoint::from_shared(format!("https://localhost:{port}"));
    let endpoint = endpoint.unwrap();
    let connector = connector(client_config(&identity).unwrap());
    let connect = endpoint.connect_with_connector(connector);
    let (preface, channel) = tokio::join!(serve, connect);
    assert!(channel.is_ok(), "{channel:?}");
    assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
}

#[tokio::test]
async fn addresses_that_cannot_be_reached_say_which() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = dial(plain_connector(), "127.0.0.1", port)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
    let error = plain_connector()
        .call("/path".parse().unwrap())
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::NoHost { .. }));
}
