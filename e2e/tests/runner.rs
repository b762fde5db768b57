//! Tests of bringing nodes up and removing them, run on the machine outside of any node.
//!
//! `cargo test -p flightcluster-e2e --features node --test runner`, as root. Every test starts a
//! node of its own, one after the other.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use flightcluster_e2e::cgroups;
use flightcluster_e2e::leftovers::{self, Namespaces};
use flightcluster_e2e::places::{NodeFolder, Places};

const LIMIT: Duration = Duration::from_secs(120);

/// A node's name, its folders, and the right to be the only node of these tests.
struct Fixture {
    folder: NodeFolder,
    dumps: tempfile::TempDir,
    _turn: File,
}

impl Fixture {
    fn new(name: &str) -> Self {
        let places = Places::from_environment().unwrap();
        fs::create_dir_all(places.nodes()).unwrap();
        // Two nodes at once may run out of the kernel's inotify instances.
        let turn = File::create(places.nodes().join(".runner-tests")).unwrap();
        turn.lock().unwrap();
        let name = format!("{name}-{}", std::process::id());
        let dumps = tempfile::tempdir().unwrap();
        Self {
            folder: places.node(&name),
            dumps,
            _turn: turn,
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flightcluster-node"));
        command
            .args(["run", "--name", &self.folder.name(), "--"])
            .args(words)
            .env("FLIGHTCLUSTER_DUMPS", self.dumps.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Starts a node that stays and returns when it is ready, with the id of its first process.
    fn start(&self) -> (Child, u32) {
        let mut child = self.command(&["sleep", "infinity"]).spawn().unwrap();
        wait_until("the node is ready", || {
            assert_eq!(child.try_wait().unwrap(), None, "the node ended");
            self.folder.ready_file().exists()
        });
        let init = fs::read_to_string(self.folder.init_pid_file()).unwrap();
        (child, init.parse().unwrap())
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {LIMIT:?} until {what}");
        // A pause between looks, not a wait for something to have happened.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_run_returns_the_commands_code_leaves_the_logs_of_a_failure_and_nothing_else() {
    let fixture = Fixture::new("code");
    let script = "kubectl get nodes --no-headers; exit 7";
    let output = fixture.command(&["sh", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(
        text(&output).contains("flightcluster-node   Ready"),
        "{}",
        text(&output)
    );
    let logs = fixture
        .dumps
        .path()
        .join(fixture.folder.name())
        .join("node");
    assert!(text(&output).contains(logs.parent().unwrap().to_str().unwrap()));
    assert!(
        fs::read_to_string(logs.join("kubelet.log"))
            .unwrap()
            .contains("Kubelet version")
    );
    assert!(!fixture.folder.root().exists());
    let left = leftovers::find(&fixture.folder, &Namespaces::default()).unwrap();
    assert_eq!(left, Vec::<String>::new());
}

#[test]
fn a_process_that_outlives_the_node_fails_the_run() {
    let fixture = Fixture::new("outlives");
    let (node, init) = fixture.start();
    // In the node's network, but not among its processes: the kernel does not end it.
    let mut stowaway = Command::new("nsenter")
        .arg(format!("--net=/proc/{init}/ns/net"))
        .args(["sleep", "infinity"])
        .spawn()
        .unwrap();
    let network = fs::read_link(format!("/proc/{init}/ns/net")).unwrap();
    wait_until("the stowaway is inside", || {
        fs::read_link(format!("/proc/{}/ns/net", stowaway.id())).unwrap() == network
    });
    let signalled = Command::new("kill")
        .args(["-TERM", &node.id().to_string()])
        .status()
        .unwrap();
    assert!(signalled.success());
    let output = node.wait_with_output().unwrap();
    let complaint = format!("process {} (sleep) holds the namespace net:", stowaway.id());
    stowaway.kill().unwrap();
    stowaway.wait().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(
        text(&output).contains("left something behind"),
        "{}",
        text(&output)
    );
    assert!(text(&output).contains(&complaint), "{}", text(&output));
    fs::remove_dir_all(fixture.folder.root()).unwrap();
}

#[test]
fn a_node_dies_with_its_runner_and_the_next_run_sweeps_up_after_it() {
    let fixture = Fixture::new("killed");
    let (mut node, init) = fixture.start();
    let namespaces = Namespaces::of_process(init).unwrap().without_own().unwrap();
    node.kill().unwrap();
    node.wait().unwrap();
    wait_until("the node's processes are gone", || {
        let left = leftovers::find(&fixture.folder, &namespaces).unwrap();
        !left.iter().any(|line| line.starts_with("process"))
    });
    assert!(fixture.folder.root().exists());
    assert!(!cgroup_folders(&fixture.folder).is_empty());
    // The sweep comes before the check that refuses a name in use.
    let next = fixture.command(&["true"]).output().unwrap();
    assert!(next.status.success(), "{}", text(&next));
    assert!(!fixture.folder.root().exists());
    assert_eq!(cgroup_folders(&fixture.folder), Vec::<PathBuf>::new());
}

fn cgroup_folders(folder: &NodeFolder) -> Vec<PathBuf> {
    cgroups::existing(&folder.cgroup())
}
