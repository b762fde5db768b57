//! A standalone S3 server for a test: versitygw on the node's address, one folder for each bucket.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::TestCluster;
use super::wait::{Progress, wait_until};
use crate::node;

const ACCESS_KEY: &str = "e2e-access";
const SECRET_KEY: &str = "e2e-secret-key";
const REGION: &str = "us-east-1";

const START_LIMIT: Duration = Duration::from_secs(30);

/// A running server. It ends when this is dropped.
#[derive(Debug)]
pub struct S3Server {
    address: SocketAddr,
    child: Child,
}

impl S3Server {
    /// Starts a server with these buckets, empty, and waits until it accepts connections.
    pub async fn start(cluster: &TestCluster, buckets: &[&str]) -> Result<Self> {
        let address = free_address()?;
        let folder = cluster.folder().join(&format!("s3/{}", address.port()));
        for bucket in buckets {
            let path = folder.join("data").join(bucket);
            fs::create_dir_all(&path).with_context(|| format!("making the bucket {bucket}"))?;
        }
        let log = folder.join("log");
        let output = File::create(&log).context("creating the S3 server's log")?;
        let errors = output.try_clone().context("sharing the S3 server's log")?;
        let child = Command::new("versitygw")
            .args([
                "--access", ACCESS_KEY, "--secret", SECRET_KEY, "--region", REGION,
            ])
            .args(["--port", &address.to_string(), "posix"])
            .arg(folder.join("data"))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context("starting the S3 server")?;
        let mut server = Self { address, child };
        wait_until("the S3 server", START_LIMIT, async || {
            if let Some(status) = server
                .child
                .try_wait()
                .context("looking after the server")?
            {
                let text = fs::read_to_string(&log).unwrap_or_default();
                bail!("the S3 server ended with {status}:\n{text}");
            }
            Ok(match TcpStream::connect(server.address) {
                Ok(_) => Progress::Done(()),
                Err(error) => Progress::Waiting(error.to_string()),
            })
        })
        .await?;
        Ok(server)
    }

    /// The URL for clients on the node and in pods; plain HTTP.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The access key id.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// The secret access key.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// The region that signatures must name.
    pub fn region(&self) -> &'static str {
        REGION
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // It may have ended already; the node's end would take it anyway.
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// A port that nobody uses now. Another process could take it before the server does; the server
/// then fails to start, loudly.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((node::ADDRESS, 0)).context("finding a free port")?;
    listener.local_addr().context("reading the free port")
}
