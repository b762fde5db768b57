//! The processes that make this machine a node: containerd, kubelet, kube-proxy.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::control_plane::flag;
use super::daemon::Daemon;
use super::namespaces::make_folder;
use super::pki::{kubeconfig, path};
use super::{ADDRESS, DNS_ADDRESS, NAME, POD_RANGE};
use crate::command;
use crate::image::catalogue;
use crate::places::NodeFolder;

/// The socket of the container runtime, inside the node's own `/run`.
pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Where distributions put the CNI plugins: Debian first, then the projects' own place.
const CNI_FOLDERS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

const START_LIMIT: Duration = Duration::from_secs(60);

/// Writes the settings of containerd and starts it without waiting.
pub(super) fn start_containerd(tools: &Path, folder: &NodeFolder) -> Result<Daemon> {
    let config = folder.join("etc/containerd.toml");
    fs::write(&config, containerd_config(folder)).context("writing containerd's settings")?;
    let network = serde_json::to_string_pretty(&pod_network()).context("writing CNI settings")?;
    fs::write(folder.join("etc/cni/10-pods.conflist"), network).context("writing CNI settings")?;
    let mut command = Command::new(tools.join("containerd"));
    // The shim is looked up on PATH.
    command
        .arg(flag("config", config.display()))
        .env("PATH", path_with(tools));
    Daemon::start(folder, "containerd", &mut command)
}

/// Waits for containerd and gives it every archive of the node's image folder.
pub(super) async fn import_images(
    tools: &Path,
    folder: &NodeFolder,
    containerd: &mut Daemon,
) -> Result<()> {
    let ctr = tools.join("ctr");
    let answers = || {
        let mut version = Command::new(&ctr);
        command::run(version.args(["--address", CONTAINERD_SOCKET, "version"])).is_ok()
    };
    containerd
        .wait_until("answering", START_LIMIT, answers)
        .await?;
    let images = || {
        let mut images = Command::new(&ctr);
        images.args([
            "--address",
            CONTAINERD_SOCKET,
            "--namespace",
            "k8s.io",
            "images",
        ]);
        images
    };
    for entry in fs::read_dir(folder.images()).context("listing the images")? {
        let archive = entry.context("listing the images")?.path();
        let mut import = images();
        import.args(["import", "--no-unpack=false"]).arg(&archive);
        command::run(&mut import)
            .with_context(|| format!("importing the image {}", archive.display()))?;
        // The runtime has its own copy now.
        fs::remove_file(&archive).context("removing an imported archive")?;
    }
    let listed = command::run(images().args(["list", "--quiet"]))?;
    if listed.lines().any(|name| name == catalogue::PRODUCT) {
        let mut tag = images();
        tag.args(["tag", catalogue::PRODUCT, catalogue::PRODUCT_NEXT]);
        command::run(&mut tag).context("giving the product's image another name")?;
    }
    Ok(())
}

/// Starts the kubelet and kube-proxy without waiting.
pub(super) fn start_agents(tools: &Path, folder: &NodeFolder) -> Result<Vec<Daemon>> {
    make_folder(&folder.join("kubelet"))?;
    let kubelet_config = folder.join("etc/kubelet.yaml");
    write_yaml(&kubelet_config, &kubelet_settings(folder))?;
    let proxy_config = folder.join("etc/kube-proxy.yaml");
    write_yaml(&proxy_config, &proxy_settings(folder))?;
    let mut kubelet = Command::new(tools.join("kubelet"));
    kubelet.args([
        flag("config", kubelet_config.display()),
        flag("kubeconfig", kubeconfig(folder, "kubelet").display()),
        flag("root-dir", folder.join("kubelet").display()),
        flag("cert-dir", folder.join("kubelet/pki").display()),
        flag("hostname-override", NAME),
        flag("node-ip", ADDRESS),
    ]);
    let mut proxy = Command::new(tools.join("kube-proxy"));
    proxy.args([
        flag("config", proxy_config.display()),
        flag("hostname-override", NAME),
    ]);
    Ok(vec![
        Daemon::start(folder, "kubelet", &mut kubelet)?,
        Daemon::start(folder, "kube-proxy", &mut proxy)?,
    ])
}

fn write_yaml(path: &Path, settings: &Value) -> Result<()> {
    let text = serde_yaml::to_string(settings).context("writing a component's settings")?;
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

fn path_with(tools: &Path) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}:/usr/sbin:/sbin", tools.display())
}

fn containerd_config(folder: &NodeFolder) -> String {
    let cni = CNI_FOLDERS
        .iter()
        .find(|f| Path::new(f).is_dir())
        .unwrap_or(&CNI_FOLDERS[0]);
    let root = folder.root().display();
    let pause = catalogue::PAUSE;
    // AppArmor and lowering an OOM score need rights that a container or a small VM lacks.
    format!(
        r#"version = 3
root = "{root}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "{root}/containerd-opt"

[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
disable_apparmor = true
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{cni}"]
conf_dir = "{root}/etc/cni"

[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

/// Every pod gets a veth pair routed by the node. With a bridge, an answer to a cluster IP could
/// take the short way between two pods, past the connection tracking that must rewrite it.
fn pod_network() -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": true,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": POD_RANGE}]],
                         "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kubelet_settings(folder: &NodeFolder) -> Value {
    let file = |name: &str| path(folder, name).display().to_string();
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", folder.cgroup()),
        "failCgroupV1": false,
        "failSwapOn": false,
        "enforceNodeAllocatable": ["pods"],
        // The hard limit of a small machine.
        "maxOpenFiles": 20000,
        "oomScoreAdj": 0,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": file("kubelet-server.crt"),
        "tlsPrivateKeyFile": file("kubelet-server.key"),
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        // Secrets reach running pods in seconds instead of a minute.
        "syncFrequency": "10s",
        // The disk is the developer's: how full it is, is none of the node's business.
        "evictionHard": {"memory.available": "0%", "nodefs.available": "0%",
                         "nodefs.inodesFree": "0%", "imagefs.available": "0%",
                         "imagefs.inodesFree": "0%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "podLogsDir": folder.join("pod-logs").display().to_string(),
        "volumePluginDir": folder.join("volume-plugins").display().to_string(),
    })
}

fn proxy_settings(folder: &NodeFolder) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig(folder, "proxy").display().to_string()},
        "mode": "nftables",
        "clusterCIDR": POD_RANGE,
        "oomScoreAdj": 0,
        // Sizes of the connection table belong to the machine, not to a namespace.
        "conntrack": {"maxPerCore": 0, "min": 0},
        // The default of a second is felt in every test that waits for a Service.
        "nftables": {"minSyncPeriod": "200ms"},
    })
}
