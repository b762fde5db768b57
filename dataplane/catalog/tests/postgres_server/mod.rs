//! Postgres servers of tests: a private data directory and socket, stopped when they are dropped.
//!
//! [`shared`] is one server for all tests that only need a database of their own; [`Server::start`]
//! is for a test that kills it or sets it up in its own way. Postgres refuses to run as root, so root
//! runs it as the user `postgres` of Debian's package. A test process that is killed takes its
//! servers along (`--pdeathsig`).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    reason = "tests; each of them uses a part"
)]

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use flightcluster_catalog::sql::PostgresOptions;
use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;

/// Longest time for a start, on a machine that does much else.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The user that owns everything in the database.
const USER: &str = "postgres";

/// A database of its own on a server that other tests use as well. The server runs as long as one
/// test uses it.
pub async fn shared() -> (Arc<Server>, PostgresOptions) {
    static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
    static DATABASES: AtomicU32 = AtomicU32::new(0);
    let server = {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let running = shared
            .upgrade()
            .unwrap_or_else(|| Arc::new(start_for_all()));
        *shared = Arc::downgrade(&running);
        running
    };
    let name = format!("catalog_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
    let options = server.database(&name, "template1").await;
    (server, options)
}

/// Starts a server in a thread that never ends: `--pdeathsig` means the thread, not the process.
fn start_for_all() -> Server {
    let (started, server) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        started.send(Server::start()).unwrap();
        loop {
            std::thread::park();
        }
    });
    server.recv().unwrap()
}

#[derive(Debug)]
pub struct Server {
    /// Data, socket, log and URL file.
    directory: TempDir,
    settings: Vec<String>,
    /// Of the socket, and on the network if it listens there.
    port: u16,
    process: Child,
}

impl Server {
    /// Starts an empty server.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts an empty server with settings such as `fsync=off`.
    pub fn start_with(settings: &[&str]) -> Self {
        Self::start_prepared(settings, 5432, &[])
    }

    /// Starts an empty server that also listens on 127.0.0.1, with these files in its data directory.
    pub fn start_on_network(settings: &[&str], files: &[(&str, &str)]) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let listen = [format!("port={port}"), "listen_addresses=127.0.0.1".into()];
        let all: Vec<&str> = listen
            .iter()
            .map(String::as_str)
            .chain(settings.iter().copied())
            .collect();
        drop(free);
        Self::start_prepared(&all, port, files)
    }

    fn start_prepared(settings: &[&str], port: u16, files: &[(&str, &str)]) -> Self {
        let directory = TempDir::new().unwrap();
        if is_root() {
            give(directory.path());
        }
        let data = directory.path().join("data");
        let made = as_postgres("initdb")
            .args(["--no-sync", "--no-instructions", "--auth=trust"])
            // Not byte by byte, so that a missing collation of ours shows.
            .args(["--encoding=UTF8", "--locale-provider=icu", "--icu-locale=en"])
            .args(["--locale=C.UTF-8", "--username", USER, "--pgdata"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        for (name, content) in files {
            let file = data.join(name);
            std::fs::write(&file, content).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            if is_root() {
                give(&file);
            }
        }
        let settings: Vec<_> = settings.iter().map(|text| (*text).to_owned()).collect();
        let process = launch(directory.path(), &settings);
        let mut server = Self {
            directory,
            settings,
            port,
            process,
        };
        server.wait_until_ready();
        let host = server.socket();
        let url = format!("postgres:///postgres?host={host}&port={port}&user={USER}");
        std::fs::write(server.url_file(), format!("{url}\n")).unwrap();
        server
    }

    /// Where the socket is.
    pub fn socket(&self) -> String {
        self.directory.path().display().to_string()
    }

    /// Where it listens on 127.0.0.1, if it was started so.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// The file with the URL.
    pub fn url_file(&self) -> PathBuf {
        self.directory.path().join("url")
    }

    /// How a catalog reaches it.
    pub fn options(&self) -> PostgresOptions {
        PostgresOptions {
            url_file: self.url_file(),
            password_file: None,
            ca_file: None,
            allow_insecure: false,
            max_connections: 5,
            timeout: Duration::from_secs(30),
        }
    }

    /// Makes another database as a copy of one that nobody is connected to.
    pub async fn database(&self, name: &str, copy_of: &str) -> PostgresOptions {
        let create = format!("CREATE DATABASE {name} TEMPLATE {copy_of}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(create))
            .execute(&mut self.connect().await)
            .await
            .unwrap();
        let url = format!("postgres:///{name}?host={}&user={USER}", self.socket());
        let url_file = self.directory.path().join(name);
        std::fs::write(&url_file, url).unwrap();
        PostgresOptions {
            url_file,
            ..self.options()
        }
    }

    /// A connection beside those of the catalog.
    pub async fn connect(&self) -> PgConnection {
        let url = std::fs::read_to_string(self.url_file()).unwrap();
        PgConnection::connect(url.trim()).await.unwrap()
    }

    /// Kills the server as a power failure would: no shutdown of any kind.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the server again after [`Server::kill`], with the data it left.
    pub fn restart(&mut self) {
        // The children of a killed server notice within a moment; until then a new one refuses.
        let started = Instant::now();
        loop {
            self.process = launch(self.directory.path(), &self.settings);
            if self.is_ready_in_time() {
                return;
            }
            assert!(started.elapsed() < START_LIMIT, "{}", self.log());
        }
    }

    /// Keeps a copy of the data of a server that was killed.
    pub fn copy(&self) {
        self.copy_folder("data", "copy");
    }

    /// Puts the copy in the place of the data of a server that was killed.
    pub fn set_back(&self) {
        std::fs::remove_dir_all(self.data()).unwrap();
        self.copy_folder("copy", "data");
    }

    fn copy_folder(&self, from: &str, to: &str) {
        let folder = |name| self.directory.path().join(name);
        let copied = Command::new("cp")
            .arg("--archive")
            .args([folder(from), folder(to)])
            .status()
            .unwrap();
        assert!(copied.success());
    }

    /// Starts an asynchronous standby of this server, which has what is committed by now.
    pub async fn standby(&self) -> Self {
        let directory = TempDir::new().unwrap();
        if is_root() {
            give(directory.path());
        }
        let copied = as_postgres("pg_basebackup")
            .args(["--no-sync", "--write-recovery-conf", "--checkpoint=fast"])
            .args(["--host", &self.socket(), "--username", USER, "--pgdata"])
            .arg(directory.path().join("data"))
            .output()
            .unwrap();
        assert!(copied.status.success(), "{copied:?}");
        let mut standby = Self {
            process: launch(directory.path(), &[]),
            directory,
            settings: Vec::new(),
            port: self.port,
        };
        standby.wait_until_ready();
        let url = format!("postgres:///postgres?host={}&user={USER}", standby.socket());
        std::fs::write(standby.url_file(), url).unwrap();
        let position = "SELECT CAST(pg_current_wal_lsn() AS TEXT)";
        let position: String = sqlx::query_scalar(position)
            .fetch_one(&mut self.connect().await)
            .await
            .unwrap();
        let reached = "SELECT pg_last_wal_replay_lsn() >= CAST($1 AS pg_lsn)";
        standby.wait_for(reached, Some(&position)).await;
        standby
    }

    /// Ends what a standby hears of its primary.
    pub async fn cut_off(&self) {
        let deaf = [
            "ALTER SYSTEM SET primary_conninfo = ''",
            "SELECT pg_reload_conf()",
        ];
        for statement in deaf {
            sqlx::raw_sql(statement)
                .execute(&mut self.connect().await)
                .await
                .unwrap();
        }
        let is_deaf = "SELECT NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver)";
        self.wait_for(is_deaf, None).await;
    }

    /// Kills this server and lets a standby take its place.
    pub async fn give_way_to(&mut self, standby: &Self) {
        self.kill();
        self.be_replaced_by(standby).await;
    }

    /// Lets a standby take over at the address of this server, which goes on with the connections it has.
    pub async fn be_replaced_by(&self, standby: &Self) {
        sqlx::raw_sql("SELECT pg_promote()")
            .execute(&mut standby.connect().await)
            .await
            .unwrap();
        let socket = |server: &Self| {
            let name = format!(".s.PGSQL.{}", server.port);
            server.directory.path().join(name)
        };
        std::fs::remove_file(socket(self)).unwrap();
        std::os::unix::fs::symlink(socket(standby), socket(self)).unwrap();
    }

    async fn wait_for(&self, question: &'static str, with: Option<&str>) {
        let started = Instant::now();
        let mut connection = self.connect().await;
        loop {
            let asked = sqlx::query_scalar(question);
            let asked = with.iter().fold(asked, |asked, with| asked.bind(*with));
            if asked.fetch_one(&mut connection).await.unwrap() {
                return;
            }
            assert!(started.elapsed() < START_LIMIT, "{question}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes the server a standby at its next start, or no longer one.
    pub fn be_standby(&self, standby: bool) {
        let signal = self.data().join("standby.signal");
        if standby {
            std::fs::write(signal, "").unwrap();
        } else {
            std::fs::remove_file(signal).unwrap();
        }
    }

    fn wait_until_ready(&mut self) {
        assert!(self.is_ready_in_time(), "{}", self.log());
    }

    /// Waits for the server; false when it ended.
    fn is_ready_in_time(&mut self) -> bool {
        let started = Instant::now();
        loop {
            let asked = as_postgres("pg_isready")
                .args(["--quiet", "--host", &self.socket()])
                .args(["--port", &self.port.to_string()])
                .status()
                .unwrap();
            if asked.success() {
                return true;
            }
            if self.process.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(started.elapsed() < START_LIMIT, "{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(self.directory.path().join("log"))
            .and_then(|mut file| file.read_to_string(&mut text))
            .unwrap();
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            // SIGQUIT ends the server with all its processes at once.
            let pid = self.process.id().to_string();
            Command::new("kill").args(["-QUIT", &pid]).status().unwrap();
            self.process.wait().unwrap();
        }
    }
}

fn launch(directory: &Path, settings: &[String]) -> Child {
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("log"))
        .unwrap();
    let mut command = as_postgres("postgres");
    command
        .arg("-D")
        .arg(directory.join("data"))
        .arg("-k")
        .arg(directory)
        .args(["-c", "listen_addresses=", "-c", "shared_buffers=8MB"]);
    for setting in settings {
        command.args(["-c", setting]);
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// A program of the newest installed Postgres, as a user it accepts.
fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    if is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    command.args(["--pdeathsig", "QUIT"]);
    command.arg(binaries().join(program)).current_dir("/");
    command
}

fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .unwrap_or_else(|error| panic!("install Debian's package postgresql: {error}"));
    let newest = versions
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<u32>().ok())
        .max();
    let newest = newest.unwrap_or_else(|| panic!("install Debian's package postgresql"));
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin"))
}

fn is_root() -> bool {
    id("-u", &[]) == 0
}

fn give(directory: &Path) {
    let (user, group) = (id("-u", &["postgres"]), id("-g", &["postgres"]));
    std::os::unix::fs::chown(directory, Some(user), Some(group)).unwrap();
}

fn id(what: &str, of: &[&str]) -> u32 {
    let output = Command::new("id").arg(what).args(of).output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}
