//! Files: what can be wrong with them, and replacing them while the process runs.

use super::*;

/// Puts files into a directory of their own and points `..data` at it, as the kubelet does.
fn publish(mount: &Path, version: &str, ca: &Ca, name: &str) {
    let directory = mount.join(version);
    fs::create_dir(&directory).unwrap();
    let (certificate, key) = ca.sign(&Ca::params(name));
    fs::write(directory.join("tls.crt"), certificate).unwrap();
    fs::write(directory.join("tls.key"), key).unwrap();
    fs::write(directory.join("ca.crt"), ca.pem()).unwrap();
    let link = mount.join("..next");
    std::os::unix::fs::symlink(version, &link).unwrap();
    fs::rename(link, mount.join("..data")).unwrap();
}

#[tokio::test]
async fn a_new_certificate_is_used_without_a_restart_on_both_sides() {
    let ca = Ca::new("ca");
    let (server_files, client_files) = (Mount::new(&ca, "server-1"), Mount::new(&ca, "client-1"));
    let (server, client) = (server_files.load(), client_files.load());
    let acceptor = acceptor(&server, ClientAuth::Required, MinVersion::Tls12);
    let connector = connector(client_config(&client).unwrap());
    let first = handshake(Some(&acceptor), connector.clone()).await;
    assert_eq!(first.server_name(), "server-1");
    assert_eq!(first.client_name().as_deref(), Some("client-1"));

    server_files.issue(&ca, "server-2");
    client_files.issue(&ca, "client-2");
    assert_eq!(server.reload().unwrap(), Reload::Changed);
    assert_eq!(client.reload().unwrap(), Reload::Changed);
    let second = handshake(Some(&acceptor), connector).await;
    assert_eq!(second.server_name(), "server-2");
    assert_eq!(second.client_name().as_deref(), Some("client-2"));
}

#[tokio::test]
async fn a_new_ca_is_used_without_a_restart_on_both_sides() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let (server_files, client_files) = (Mount::new(&old, "server"), Mount::new(&old, "client"));
    let stale = Mount::new(&old, "stale").load();
    let (server, client) = (server_files.load(), client_files.load());
    let acceptor = acceptor(&server, ClientAuth::Required, MinVersion::Tls12);
    let connector_of = |identity| connector(client_config(identity).unwrap());
    let (current, outdated) = (connector_of(&client), connector_of(&stale));
    assert!(
        handshake(Some(&acceptor), current.clone())
            .await
            .server
            .is_ok()
    );

    // While both CAs are trusted either certificate will do.
    server_files.write("ca.crt", &format!("{}{}", old.pem(), new.pem()));
    assert_eq!(server.reload().unwrap(), Reload::Changed);
    client_files.issue(&new, "client");
    client_files.write("ca.crt", &format!("{}{}", old.pem(), new.pem()));
    assert_eq!(client.reload().unwrap(), Reload::Changed);
    assert!(
        handshake(Some(&acceptor), current.clone())
            .await
            .server
            .is_ok()
    );
    assert!(
        handshake(Some(&acceptor), outdated.clone())
            .await
            .server
            .is_ok()
    );

    server_files.issue(&new, "server");
    assert_eq!(server.reload().unwrap(), Reload::Changed);
    assert!(handshake(Some(&acceptor), current).await.server.is_ok());
    let refused = handshake(Some(&acceptor), outdated).await;
    assert!(matches!(
        refused.client,
        Err(ConnectError::Handshake { .. })
    ));
    assert!(matches!(refused.server, Err(AcceptError::Handshake(_))));
}

#[test]
fn each_defect_of_the_files_has_its_own_error() {
    let ca = Ca::new("ca");
    let broken = |file: &str, text: Option<&str>| {
        let mount = Mount::new(&ca, "server");
        match text {
            Some(text) => mount.write(file, text),
            None => fs::remove_file(mount.path(file)).unwrap(),
        }
        let error = Identity::load(mount.files()).unwrap_err();
        assert!(error.to_string().contains(file), "{error}");
        error
    };
    assert!(matches!(
        broken("tls.crt", None),
        Error::Read {
            what: "certificate",
            ..
        }
    ));
    assert!(matches!(
        broken("tls.key", None),
        Error::Read {
            what: "private key",
            ..
        }
    ));
    assert!(matches!(
        broken("ca.crt", None),
        Error::Read {
            what: "CA certificate",
            ..
        }
    ));
    assert!(matches!(
        broken("tls.crt", Some("")),
        Error::Empty {
            what: "certificate",
            ..
        }
    ));
    assert!(matches!(
        broken("tls.key", Some("")),
        Error::Empty {
            what: "private key",
            ..
        }
    ));
    assert!(matches!(broken("ca.crt", Some("\n")), Error::Empty { .. }));
    let cut = "-----BEGIN CERTIFICATE-----\nAAAA\n";
    assert!(matches!(broken("tls.crt", Some(cut)), Error::Pem { .. }));
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(
        broken("tls.crt", Some(nonsense)),
        Error::Certificate { .. }
    ));
    let (_, other_key) = ca.sign(&Ca::params("other"));
    let mismatch = broken("tls.key", Some(&other_key));
    assert!(matches!(mismatch, Error::KeyMismatch { .. }), "{mismatch}");
}

#[tokio::test]
async fn broken_files_leave_the_old_certificate_in_use() {
    let ca = Ca::new("ca");
    let mount = Mount::new(&ca, "server-1");
    let identity = mount.load();
    let (_, other_key) = ca.sign(&Ca::params("other"));
    mount.write("tls.key", &other_key);
    assert!(matches!(identity.reload(), Err(Error::KeyMismatch { .. })));
    let acceptor = acceptor(&identity, ClientAuth::None, MinVersion::Tls12);
    let outcome = handshake(
        Some(&acceptor),
        connector(client_config(&identity).unwrap()),
    )
    .await;
    assert_eq!(outcome.server_name(), "server-1");
    assert_eq!(identity.reloads(), 0);
}

#[test]
fn files_that_did_not_change_are_not_taken_over() {
    let identity = Mount::new(&Ca::new("ca"), "server");
    let loaded = identity.load();
    assert_eq!(loaded.reload().unwrap(), Reload::Unchanged);
}

#[tokio::test(start_paused = true)]
async fn watching_follows_the_kubelets_symbolic_link_and_reports_failures() {
    let ca = Ca::new("ca");
    let mount = tempfile::tempdir().unwrap();
    publish(mount.path(), "v1", &ca, "first");
    for file in ["tls.crt", "tls.key", "ca.crt"] {
        let target = Path::new("..data").join(file);
        std::os::unix::fs::symlink(target, mount.path().join(file)).unwrap();
    }
    let identity = Identity::load(files_in(mount.path())).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let interval = Duration::from_secs(5);
    let watcher = Arc::clone(&identity).watch(interval, async { stopped.await.unwrap_or(()) });
    let watcher = tokio::spawn(watcher);

    publish(mount.path(), "v2", &ca, "second");
    tokio::time::sleep(interval * 2).await;
    assert_eq!((identity.reloads(), identity.reload_failures()), (1, 0));

    fs::remove_file(mount.path().join("..data")).unwrap();
    tokio::time::sleep(interval * 3).await;
    assert!(identity.reload_failures() >= 2);
    let error = identity.last_reload_error().unwrap();
    assert!(matches!(*error, Error::Read { .. }), "{error}");

    publish(mount.path(), "v3", &ca, "third");
    tokio::time::sleep(interval * 2).await;
    assert_eq!(identity.reloads(), 2);
    assert!(identity.last_reload_error().is_none());

    stop.send(()).unwrap();
    watcher.await.unwrap();
}

/// Certificate and key are replaced one after the other, and the watch looks between the two.
#[tokio::test(start_paused = true)]
async fn files_that_are_replaced_one_by_one_are_no_failure() {
    let ca = Ca::new("ca");
    let mount = Mount::new(&ca, "first");
    let identity = Identity::load(mount.files()).unwrap();
    let watcher = Arc::clone(&identity).watch(Duration::from_secs(5), std::future::pending());
    let watcher = tokio::spawn(watcher);
    let (certificate, key) = ca.sign(&Ca::params("second"));
    mount.write("tls.crt", &certificate);
    // The first look is at 5 s.
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert_eq!(identity.reloads(), 0);
    mount.write("tls.key", &key);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!((identity.reloads(), identity.reload_failures()), (1, 0));
    assert!(identity.last_reload_error().is_none());

    mount.write("tls.crt", &certificate.replace("CERTIFICATE", "NOTHING"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(identity.reload_failures() >= 1);
    assert!(identity.last_reload_error().is_some());
    watcher.abort();
}

#[test]
fn an_expired_certificate_is_a_warning_and_its_end_is_known() {
    let ca = Ca::new("ca");
    let mount = Mount::new(&ca, "server");
    let mut params = Ca::params("old");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 2);
    let (certificate, key) = ca.sign(&params);
    mount.write("tls.crt", &certificate);
    mount.write("tls.key", &key);
    let identity = mount.load();
    let end = 1_577_923_200;
    assert_eq!(not_after(&identity), end);
    assert_eq!(identity.warnings(end), []);
    assert_eq!(
        identity.warnings(end + 60),
        [Warning::Expired { seconds: 60 }]
    );
    let before = end - 86_400 - 10;
    assert_eq!(
        identity.warnings(before),
        [Warning::NotYetValid { seconds: 10 }]
    );
}

#[test]
fn the_private_key_is_not_in_debug_output() {
    let text = format!("{:?}", Mount::new(&Ca::new("ca"), "server").load());
    assert!(
        !text.contains("PRIVATE") && !text.contains("contents"),
        "{text}"
    );
}
