//! The processes of the control plane: etcd, API server, controller manager, scheduler.

use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::daemon::{Daemon, POLL};
use super::pki::{kubeconfig, path};
use super::{ADDRESS, API_PORT, SERVICE_RANGE};
use crate::places::NodeFolder;

const ETCD_CLIENT: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// How long a component may take on a machine that is busy compiling.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Starts etcd and waits until it accepts connections.
pub(super) async fn start_store(tools: &Path, folder: &NodeFolder) -> Result<Vec<Daemon>> {
    let mut command = Command::new(tools.join("etcd"));
    command
        .arg(flag("data-dir", folder.join("etcd").display()))
        // A node that ends is thrown away: there is nothing to protect from a power loss.
        .arg("--unsafe-no-fsync")
        .arg(flag("listen-client-urls", ETCD_CLIENT))
        .arg(flag("advertise-client-urls", ETCD_CLIENT))
        .arg(flag("listen-peer-urls", ETCD_PEER))
        .arg(flag("initial-advertise-peer-urls", ETCD_PEER))
        .arg(flag("initial-cluster", format!("default={ETCD_PEER}")));
    let mut etcd = Daemon::start(folder, "etcd", &mut command)?;
    let accepts = || TcpStream::connect("127.0.0.1:2379").is_ok();
    etcd.wait_until("listening", START_LIMIT, accepts).await?;
    Ok(vec![etcd])
}

/// Starts the API server, waits until it is ready, and starts the controllers.
pub(super) async fn start_api(tools: &Path, folder: &NodeFolder) -> Result<Vec<Daemon>> {
    let mut api = Daemon::start(folder, "kube-apiserver", &mut api_server(tools, folder))?;
    let accepts = || TcpStream::connect((ADDRESS, API_PORT)).is_ok();
    api.wait_until("listening", START_LIMIT, accepts).await?;
    // The other processes retry by themselves, but their first failure costs them seconds.
    wait_until_ready(folder, &mut api).await?;
    let manager = Daemon::start(
        folder,
        "kube-controller-manager",
        &mut controller_manager(tools, folder),
    )?;
    let scheduler = Daemon::start(folder, "kube-scheduler", &mut scheduler(tools, folder))?;
    Ok(vec![api, manager, scheduler])
}

async fn wait_until_ready(folder: &NodeFolder, api: &mut Daemon) -> Result<()> {
    let client = super::client(folder).await?;
    let deadline = Instant::now() + START_LIMIT;
    let mut interval = tokio::time::interval(POLL);
    loop {
        interval.tick().await;
        let request = http::Request::get("/readyz")
            .body(Vec::new())
            .context("asking /readyz")?;
        let Err(error) = client.request_text(request).await else {
            return Ok(());
        };
        api.check_alive()?;
        if Instant::now() >= deadline {
            return Err(error).context("the API server is not ready after two minutes");
        }
    }
}

fn api_server(tools: &Path, folder: &NodeFolder) -> Command {
    let file = |name: &str| path(folder, name).display().to_string();
    let mut command = Command::new(tools.join("kube-apiserver"));
    command.args([
        flag("etcd-servers", ETCD_CLIENT),
        flag("advertise-address", ADDRESS),
        flag("secure-port", API_PORT),
        flag("service-cluster-ip-range", SERVICE_RANGE),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("allow-privileged", true),
        flag("cert-dir", file("")),
        flag("client-ca-file", file("ca.crt")),
        flag("tls-cert-file", file("apiserver.crt")),
        flag("tls-private-key-file", file("apiserver.key")),
        flag("kubelet-certificate-authority", file("ca.crt")),
        flag(
            "kubelet-client-certificate",
            file("apiserver-kubelet-client.crt"),
        ),
        flag("kubelet-client-key", file("apiserver-kubelet-client.key")),
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag(
            "service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
        ),
        flag("service-account-key-file", file("service-account.pub")),
        flag(
            "service-account-signing-key-file",
            file("service-account.key"),
        ),
        flag("proxy-client-cert-file", file("front-proxy.crt")),
        flag("proxy-client-key-file", file("front-proxy.key")),
        flag("requestheader-client-ca-file", file("ca.crt")),
        flag("requestheader-allowed-names", "front-proxy-client"),
        flag("requestheader-username-headers", "X-Remote-User"),
        flag("requestheader-group-headers", "X-Remote-Group"),
        flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
    ]);
    command
}

fn controller_manager(tools: &Path, folder: &NodeFolder) -> Command {
    let file = |name: &str| path(folder, name).display().to_string();
    let mut command = Command::new(tools.join("kube-controller-manager"));
    command.args([
        flag(
            "kubeconfig",
            kubeconfig(folder, "controller-manager").display(),
        ),
        flag("bind-address", "127.0.0.1"),
        flag("leader-elect", false),
        flag("use-service-account-credentials", true),
        // The defaults make the controllers' start wait several seconds for its own rate limit.
        flag("kube-api-qps", 500),
        flag("kube-api-burst", 1000),
        flag("root-ca-file", file("ca.crt")),
        flag(
            "service-account-private-key-file",
            file("service-account.key"),
        ),
        flag("cluster-signing-cert-file", file("ca.crt")),
        flag("cluster-signing-key-file", file("ca.key")),
        flag(
            "flex-volume-plugin-dir",
            folder.join("volume-plugins").display(),
        ),
    ]);
    command
}

fn scheduler(tools: &Path, folder: &NodeFolder) -> Command {
    let mut command = Command::new(tools.join("kube-scheduler"));
    command.args([
        flag("kubeconfig", kubeconfig(folder, "scheduler").display()),
        flag("bind-address", "127.0.0.1"),
        flag("leader-elect", false),
    ]);
    command
}

/// `--name=value`.
pub(super) fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
