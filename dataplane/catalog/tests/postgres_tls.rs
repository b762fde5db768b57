//! The way to Postgres over TLS: what is accepted, and what a refused connection says.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod causes;
mod postgres_server;

use std::path::PathBuf;

use causes::chain;
use flightcluster_catalog::sql::{PostgresOptions, SqlCatalog};
use flightcluster_catalog::{Catalog as _, Error};
use postgres_server::Server;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use tempfile::TempDir;

/// Who may come in, and how.
const RULES: &str = "local all all trust\n\
                     hostssl all worker 127.0.0.1/32 trust clientcert=verify-ca\n\
                     hostssl all all 127.0.0.1/32 trust\n";

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for `localhost`, or one that has expired, and its key.
    fn issue(&self, expired: bool) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "worker");
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// A server with a certificate, and a folder with the files of its clients.
struct Fixture {
    server: Server,
    files: TempDir,
    authority: Authority,
}

impl Fixture {
    fn start(expired: bool) -> Self {
        // As the program does; another test of this process may have been first.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let authority = Authority::new("authority");
        let (certificate, key) = authority.issue(expired);
        let ca = authority.0.pem();
        let server = Server::start_on_network(
            &["ssl=on", "ssl_ca_file=ca.crt"],
            &[
                ("server.crt", &certificate),
                ("server.key", &key),
                ("ca.crt", &ca),
                ("pg_hba.conf", RULES),
            ],
        );
        let files = TempDir::new().unwrap();
        let fixture = Self {
            server,
            files,
            authority,
        };
        fixture.write("ca.crt", &ca);
        fixture
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let file = self.files.path().join(name);
        std::fs::write(&file, content).unwrap();
        file
    }

    /// A certificate of a client as the parameters of a URL.
    fn client(&self, authority: &Authority) -> String {
        let (certificate, key) = authority.issue(false);
        let (certificate, key) = (
            self.write("tls.crt", &certificate),
            self.write("tls.key", &key),
        );
        format!("sslcert={}&sslkey={}", certificate.display(), key.display())
    }

    /// How to reach `user@host?more` with the right authority.
    fn options(&self, user: &str, host: &str, more: &str) -> PostgresOptions {
        let port = self.server.port();
        let url = format!("postgres://{user}@{host}:{port}/postgres?{more}");
        PostgresOptions {
            url_file: self.write("url", &url),
            ca_file: Some(self.files.path().join("ca.crt")),
            ..self.server.options()
        }
    }
}

/// What a start that can't succeed says, with all causes.
async fn refusal(options: PostgresOptions) -> String {
    let error = SqlCatalog::open_postgres(options).await.unwrap_err();
    assert!(matches!(error, Error::Store { .. }), "{error:?}");
    chain(&error)
}

#[tokio::test]
async fn a_server_whose_certificate_is_right_is_used_encrypted() {
    let fixture = Fixture::start(false);
    for mode in ["verify-full", "verify-ca", "require"] {
        let options = fixture.options("postgres", "localhost", &format!("sslmode={mode}"));
        let catalog = SqlCatalog::open_postgres(options).await.unwrap();
        catalog.list_databases().await.unwrap();
        let encrypted = "SELECT COUNT(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                         WHERE ssl AND usename = 'postgres'";
        let encrypted: i64 = sqlx::query_scalar(encrypted)
            .fetch_one(&mut fixture.server.connect().await)
            .await
            .unwrap();
        assert!(encrypted > 0, "{mode}");
        catalog.close().await;
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_accepted_is_refused_with_the_cure() {
    let fixture = Fixture::start(false);
    let right = fixture.options("postgres", "localhost", "sslmode=verify-full");
    let nobody = PostgresOptions {
        ca_file: None,
        ..right.clone()
    };
    let other = |name| {
        let file = fixture.write(name, &Authority::new(name).0.pem());
        PostgresOptions {
            ca_file: Some(file),
            ..right.clone()
        }
    };
    // One of them has the name of the right one: what is left of an authority that was made anew.
    for options in [nobody, other("another"), other("authority")] {
        let text = refusal(options).await;
        assert!(text.contains("an authority that is not known"), "{text}");
        assert!(text.contains("catalog.postgres_ca_file"), "{text}");
    }
    let by_number = fixture.options("postgres", "127.0.0.1", "sslmode=verify-full");
    let text = refusal(by_number).await;
    assert!(
        text.contains("for other names than the host in the URL"),
        "{text}"
    );
    assert!(
        text.contains("127.0.0.1") && text.contains("localhost"),
        "{text}"
    );
    let expired = Fixture::start(true);
    let text = refusal(expired.options("postgres", "localhost", "sslmode=verify-full")).await;
    assert!(text.contains("has expired: renew it"), "{text}");
}

#[tokio::test]
async fn a_server_that_wants_tls_or_has_none_is_named_with_the_cure() {
    let fixture = Fixture::start(false);
    let text = refusal(fixture.options("postgres", "localhost", "sslmode=disable")).await;
    assert!(text.contains("sslmode of the URL"), "{text}");
    assert!(text.contains("no encryption"), "{text}");
    let plain = Server::start_on_network(&[], &[]);
    let url = format!(
        "postgres://postgres@localhost:{}/postgres?sslmode=require",
        plain.port()
    );
    std::fs::write(plain.url_file(), url).unwrap();
    let text = refusal(plain.options()).await;
    assert!(
        text.contains("does not offer TLS: switch `ssl` on"),
        "{text}"
    );
}

#[tokio::test]
async fn a_client_can_have_a_certificate() {
    let fixture = Fixture::start(false);
    let create = "CREATE ROLE worker LOGIN SUPERUSER";
    sqlx::raw_sql(create)
        .execute(&mut fixture.server.connect().await)
        .await
        .unwrap();
    let own = fixture.client(&fixture.authority);
    let options = fixture.options("worker", "localhost", &format!("sslmode=verify-full&{own}"));
    let catalog = SqlCatalog::open_postgres(options).await.unwrap();
    catalog.create_database("d", false).await.unwrap();

    let text = refusal(fixture.options("worker", "localhost", "sslmode=verify-full")).await;
    assert!(text.contains("`sslcert`"), "{text}");
    let foreign = fixture.client(&Authority::new("another"));
    let more = format!("sslmode=verify-full&{foreign}");
    let text = refusal(fixture.options("worker", "localhost", &more)).await;
    assert!(text.contains("refuses our certificate"), "{text}");
}
