//! What is particular to Postgres: how to connect, how to begin a transaction, which errors pass.
//!
//! # Order of commits
//! Every transaction that writes locks the row of the snapshot counter first and then reads what is
//! committed (`READ COMMITTED`), so writers of all processes run one after the other and see each
//! other's work; the lock is given up when the commit is visible. Reads see one state (`REPEATABLE
//! READ`), on the server that takes the writes: a connection to a standby is refused.
//!
//! # Frozen processes
//! A process that stops in the middle of a transaction would hold the lock for ever. The server ends
//! such a transaction by itself, after ten seconds in which nothing is said. So does one whose connection was
//! lost without a word. Before the lock that all writers need, a transaction takes the row of its own process in
//! the table `writers`: so what a process has left behind there is waited for by nobody but itself.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, Connection as _};

use super::dialect::{Dialect, Pool, Verdict};
use super::watch::{Unusable, Watch};

/// The limits end what a frozen process or a lost network left behind; the locks of others are
/// waited for within the time a caller waits. A commit is on disk when it returns, whatever the
/// server's default is.
macro_rules! begin {
    ($kind:literal, $then:literal) => {
        concat!(
            "BEGIN ISOLATION LEVEL ",
            $kind,
            "; SET LOCAL idle_in_transaction_session_timeout = '10s'; \
               SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '8s'",
            $then
        )
    };
}

pub(super) const DIALECT: Dialect = Dialect {
    bytes_type: "BYTEA",
    text_type: "TEXT COLLATE \"C\"",
    begin_write: begin!("READ COMMITTED", "; SET LOCAL synchronous_commit = 'on'"),
    lock_writers: "; SELECT value FROM counters WHERE kind = 'snapshot' FOR UPDATE",
    begin_number: begin!("READ COMMITTED", "; SET LOCAL synchronous_commit = 'on'"),
    begin_read: begin!("REPEATABLE READ READ ONLY", ""),
    // The number is ours alone: the first letters of this project in ASCII.
    begin_layout: begin!(
        "READ COMMITTED",
        "; SET LOCAL synchronous_commit = 'on'; \
           SELECT pg_advisory_xact_lock(7236833097206292)"
    ),
    time: Some("SELECT CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000) AS BIGINT)"),
    count_tables: "SELECT COUNT(*) FROM pg_catalog.pg_tables
                   WHERE schemaname = current_schema() AND tablename = $1",
    list_columns: "SELECT CAST(column_name AS TEXT) AS name, CAST(data_type AS TEXT) AS kind
                   FROM information_schema.columns
                   WHERE table_schema = current_schema() AND table_name = $1
                   ORDER BY ordinal_position",
    unhurried: "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0;
                SET LOCAL idle_in_transaction_session_timeout = '60s'",
    judge,
    explained,
};

/// How to reach a Postgres database.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// File with a URL, `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, in the form of libpq. It is
    /// read again when the server refuses the password.
    pub url_file: PathBuf,
    /// File with the password, when it is not in the URL.
    pub password_file: Option<PathBuf>,
    /// File with the certificates (PEM) of the authorities the server's certificate may be from.
    pub ca_file: Option<PathBuf>,
    /// Accept a connection over the network that is in plaintext or whose server is not verified.
    pub allow_insecure: bool,
    /// Most connections of this process: one that writes, the others read. At least 2.
    pub max_connections: u32,
    /// Longest time of one call, with its repeats.
    pub timeout: Duration,
}

/// Why Postgres can't be used as it is set up. Never holds a part of the URL but host and database.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("can't read {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "{} does not hold a URL of the form postgres://USER:PASSWORD@HOST:PORT/DATABASE",
        path.display()
    )]
    Url { path: PathBuf },
    #[error(
        "sslmode {mode} to {host} lets everyone on the way read or answer; use sslmode=verify-full \
         (the default) with the CA of the server, or accept it with catalog.postgres_allow_insecure"
    )]
    Insecure { mode: String, host: String },
    #[error(
        "the server runs with fsync = off: commits would not survive a power failure; switch it on"
    )]
    NotDurable,
    #[error("the server is a standby that takes no writes; name the primary")]
    Standby,
    #[error("the certificate of the server {cure}")]
    Certificate {
        cure: &'static str,
        source: sqlx::Error,
    },
    #[error(
        "the server refuses our certificate: `sslcert` and `sslkey` in the URL must name one of an \
         authority in its ssl_ca_file"
    )]
    OurCertificate(#[source] sqlx::Error),
    #[error(
        "the server does not offer TLS: switch `ssl` on there, or accept plaintext with \
         sslmode=disable in the URL and catalog.postgres_allow_insecure"
    )]
    NoTls(#[source] sqlx::Error),
    #[error(
        "the server does not let this user in this way: compare user, database and sslmode of the URL, \
         and `sslcert` if it asks for a certificate, with its pg_hba.conf"
    )]
    NotLetIn(#[source] sqlx::Error),
    #[error(
        "the database holds no catalog: an empty one was put in its place; bring the former one back, or \
         restore the newest backup with `flightcluster catalog restore`"
    )]
    NoCatalog,
    #[error(
        "the database was replaced by a copy from an older release, which can't be brought to the layout of \
         this one; if its user lacks the right CREATE in the schema, grant it"
    )]
    OlderCopy(#[source] super::migrations::Error),
    #[error("can't connect")]
    Connect(#[source] sqlx::Error),
}

impl Error {
    /// Whether waiting may help.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Standby | Self::NoCatalog => true,
            Self::Connect(error) => passes(error),
            Self::Read { .. }
            | Self::Url { .. }
            | Self::Insecure { .. }
            | Self::NotDurable
            | Self::Certificate { .. }
            | Self::OurCertificate(_)
            | Self::NoTls(_)
            | Self::NotLetIn(_)
            | Self::OlderCopy(_) => false,
        }
    }
}

/// Host, port and database: what messages may say of a URL.
#[derive(Debug, Clone)]
pub(super) struct Place(String);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl PostgresOptions {
    /// Reads the files and checks what can be checked without the server.
    pub(super) fn read(&self) -> Result<(AnyConnectOptions, Place), Error> {
        let bad = || Error::Url {
            path: self.url_file.clone(),
        };
        let text = read_secret(&self.url_file)?;
        let mut options: AnyConnectOptions = text.parse().map_err(|_| bad())?;
        let url = &mut options.database_url;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(bad());
        }
        let mut host = url.host_str().unwrap_or_default().replace("%2F", "/");
        let mut mode = None;
        for (key, value) in url.query_pairs() {
            match &*key {
                "host" | "hostaddr" => host = value.into_owned(),
                "sslmode" | "ssl-mode" => mode = Some(value.into_owned()),
                _ => {}
            }
        }
        if host.is_empty() {
            return Err(bad());
        }
        let place = Place(format!(
            "postgres {host}:{}{}",
            url.port().unwrap_or(5432),
            url.path()
        ));
        let local = host.starts_with('/') || is_loopback(&host);
        match mode {
            // The driver's own default falls back to plaintext.
            None if !local => {
                url.query_pairs_mut().append_pair("sslmode", "verify-full");
            }
            Some(mode) if !local && mode != "verify-full" && !self.allow_insecure => {
                return Err(Error::Insecure { mode, host });
            }
            _ => {}
        }
        if let Some(file) = &self.ca_file {
            let file = file.display().to_string();
            url.query_pairs_mut().append_pair("sslrootcert", &file);
        }
        if let Some(file) = &self.password_file {
            let password = read_secret(file)?;
            url.set_password(Some(&password)).map_err(|()| bad())?;
        }
        Ok((options, place))
    }
}

fn read_secret(path: &std::path::Path) -> Result<String, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(Error::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// Connects once, to learn what is wrong in its own words, and checks the server.
pub(super) async fn connect(
    options: &AnyConnectOptions,
    timeout: Duration,
) -> Result<AnyConnection, Error> {
    let mut connection = tokio::time::timeout(timeout, AnyConnection::connect_with(options))
        .await
        .map_err(|_| Error::Connect(timed_out()))?
        .map_err(explain)?;
    let fsync: String = sqlx::query_scalar("SHOW fsync")
        .fetch_one(&mut connection)
        .await
        .map_err(Error::Connect)?;
    if fsync == "off" {
        return Err(Error::NotDurable);
    }
    if is_standby(&mut connection).await.map_err(Error::Connect)? {
        return Err(Error::Standby);
    }
    Ok(connection)
}

/// The cause and the cure of a refused connection, where the driver has only the cause.
pub(super) fn explain(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Io(io) => match io.get_ref().and_then(|cause| cause.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(problem)) => Error::Certificate {
                cure: cure(problem),
                source: error,
            },
            Some(rustls::Error::AlertReceived(_)) => Error::OurCertificate(error),
            _ => Error::Connect(error),
        },
        // What the driver says of a server that answers the question for TLS with no.
        sqlx::Error::Tls(cause) if cause.to_string().contains("does not support TLS") => {
            Error::NoTls(error)
        }
        sqlx::Error::Database(database) if database.code().as_deref() == Some("28000") => {
            Error::NotLetIn(error)
        }
        _ => Error::Connect(error),
    }
}

/// The same as the cause of a call that failed.
fn explained(error: sqlx::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match explain(error) {
        Error::Connect(error) => Box::new(error),
        explained => Box::new(explained),
    }
}

fn cure(problem: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError as Problem;
    match problem {
        // The second: of one with the same name, as is left when an authority is made anew.
        Problem::UnknownIssuer | Problem::BadSignature => {
            "is of an authority that is not known here: name the file with the authority's \
             certificate in catalog.postgres_ca_file (in a FlightCluster the Secret with `ca.crt` in \
             catalog.postgres.caSecret)"
        }
        Problem::NotValidForName | Problem::NotValidForNameContext { .. } => {
            "is for other names than the host in the URL: use one of these names in the URL, or give \
             the server a certificate for this one"
        }
        Problem::Expired | Problem::ExpiredContext { .. } => {
            "has expired: renew it, and let the server read it again"
        }
        Problem::NotValidYet | Problem::NotValidYetContext { .. } => {
            "is not valid yet: compare the clocks of both machines"
        }
        _ => "is not acceptable: give the server another one",
    }
}

pub(super) async fn is_standby(connection: &mut AnyConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_is_in_recovery()")
        .fetch_one(connection)
        .await
}

/// One connection that writes and some that read. They connect when they are needed.
pub(super) fn pools(
    connect: &AnyConnectOptions,
    options: &PostgresOptions,
    watch: &Arc<Watch>,
) -> (Pool, Pool) {
    let pool = |connections| {
        let (new, used) = (Arc::clone(watch), Arc::clone(watch));
        AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(options.timeout)
            // The watch asks in its own way.
            .test_before_acquire(false)
            .after_connect(move |connection, _| {
                let watch = Arc::clone(&new);
                Box::pin(async move {
                    match watch.look(connection).await? {
                        Some(unusable) => {
                            let error = Error::from(unusable);
                            Err(sqlx::Error::Configuration(Box::new(error)))
                        }
                        None => Ok(()),
                    }
                })
            })
            .before_acquire(move |connection, of| {
                let watch = Arc::clone(&used);
                Box::pin(async move {
                    Ok(watch.is_usable(connection, of.age, of.idle_for).await)
                })
            })
            .connect_lazy_with(connect.clone())
    };
    let readers = options.max_connections.saturating_sub(1).max(1);
    (pool(1), pool(readers))
}

impl From<Unusable> for Error {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Standby => Self::Standby,
            Unusable::NoCatalog => Self::NoCatalog,
        }
    }
}

/// Whether a table or column of the present layout is missing.
pub(super) fn lacks_a_table(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(database) => {
            matches!(database.code().as_deref(), Some("42P01" | "42703"))
        }
        _ => false,
    }
}

/// A call that took too long.
pub(super) fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::TimedOut))
}

/// Whether the server is gone or no longer the one to ask: other connections to it are as useless.
pub(super) fn is_gone(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::BeginFailed | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(database) => match database.code().as_deref() {
            Some("57P01" | "57P02" | "57P03" | "25006") => true,
            Some(code) => code.starts_with("08"),
            None => false,
        },
        _ => false,
    }
}

/// Whether the same may succeed later without anybody repairing the database.
pub(super) fn passes(error: &sqlx::Error) -> bool {
    matches!(judge(error), Verdict::Repeat | Verdict::Passes)
}

/// Error codes: <https://www.postgresql.org/docs/current/errcodes-appendix.html>
fn judge(error: &sqlx::Error) -> Verdict {
    match error {
        // The last: a proxy without a server behind it accepts and closes, which the driver takes for
        // an answer.
        sqlx::Error::Io(_) | sqlx::Error::BeginFailed | sqlx::Error::Protocol(_) => Verdict::Repeat,
        sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => Verdict::Passes,
        sqlx::Error::Database(database) => match database.code().as_deref() {
            // Another writer was first, or a deadlock with somebody who is not us.
            Some("40001" | "40P01") => Verdict::Repeat,
            // The server stops, crashed, starts, or gave its place to another one.
            Some("57P01" | "57P02" | "57P03" | "25006" | "25P03") => Verdict::Repeat,
            Some(code) if code.starts_with("08") => Verdict::Repeat,
            Some("28P01" | "28000") => Verdict::Reconnect,
            // A lock, a statement or the disk; too many connections; an administrator cancelled.
            Some("55P03" | "57014" | "58030") => Verdict::Passes,
            Some(code) if code.starts_with("53") => Verdict::Passes,
            _ => Verdict::Broken,
        },
        _ => Verdict::Broken,
    }
}
