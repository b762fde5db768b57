#!/usr/bin/env python3
"""Runs every check and test of the project, stage by stage: this is `make test`.

    .ci/stages.py            all stages
    .ci/stages.py NAME…      only these, in the order of the table below
    .ci/stages.py --list     names and what each does

Each stage is timed and writes $FLIGHTCLUSTER_CACHE/logs/NAME.log; the end of that log is shown when
the stage fails. Stages that mostly wait run beside the others, one of them at a time. A failing
stage does not stop the others, except those that need what it makes. The
last line is "N passed, N failed"; the exit code is 0 only when nothing failed and every stage that
was asked for ran at least one test or check.

Only the standard library is used, so that a fresh machine needs nothing but Python to get here.
"""

import argparse
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(
    os.environ.get("FLIGHTCLUSTER_CACHE") or pathlib.Path.home() / ".cache" / "flightcluster"
)
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or CACHE / "target")
LOGS = CACHE / "logs"
VENV = CACHE / "venv"
VENV_PYTHON = VENV / "bin" / "python"

# One selection of packages means one set of features: what `make run`, `make build` and the tests
# compile is then the same, and DataFusion (most of the build time) is compiled once.
WORKSPACE = ["--locked", "--workspace"]
# The tests that need a Kubernetes node are compiled only for the stage that starts one.
NODE_TESTS = ["--features", "flightcluster-e2e/node"]
# Of the tests in e2e, the one that starts nodes itself, and those that need none.
NODE_OUTSIDE = "runner"
WITHOUT_NODE = ("workspace", "histories", "types")

# Small, and with a feature that only tests of the CRD's rules need.
COMPILED_TWICE = ("kube", "kube-core")

# Compiled once into the cache, without optimisation: 60 seconds of one core instead of 165.
CARGO_DENY = "0.20.2"
CARGO_TOOLS = CACHE / "cargo-tools"

# What Azurite's packages want.
NODE_MAJOR = 20

# A stage that is still running after this long hangs; without a limit no summary would be printed.
STAGE_LIMIT_SECONDS = 45 * 60
# For what is asked to end, before it is made to.
END_SECONDS = 10
TAIL_LINES = 60


@dataclasses.dataclass
class Outcome:
    """What a stage found: counts of tests or checks, and the names of the first that failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    failures: list = dataclasses.field(default_factory=list)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.failures += other.failures
        return self


class StageFailed(Exception):
    """A command of the stage failed; the log says why."""


class Commands:
    """The commands that run now, of all threads: an interrupt ends them."""

    def __init__(self):
        self.lock = threading.Lock()
        self.running = set()
        self.ended = False

    def start(self, command, **how):
        with self.lock:
            if self.ended:
                raise StageFailed("interrupted")
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, **how)
            self.running.add(child)
        return child

    def forget(self, child):
        with self.lock:
            self.running.discard(child)

    def end(self):
        """Ends what runs, with everything it started, and lets nothing start any more."""
        with self.lock:
            self.ended = True
            left = list(self.running)
        for child in left:
            end_group(child)


COMMANDS = Commands()


class Log:
    """The log file of a stage, and the way a stage starts commands."""

    def __init__(self, name):
        LOGS.mkdir(parents=True, exist_ok=True)
        self.path = LOGS / f"{name}.log"
        self.file = self.path.open("w", encoding="utf-8", errors="replace")
        self.deadline = time.monotonic() + STAGE_LIMIT_SECONDS

    def run(self, command, check=True, stdout=None, **environment):
        """Runs `command` from the repository root; returns its exit code.

        Its output goes to the log, or its standard output to the open file `stdout`. A command that
        outlives the limit of its stage is ended with everything it started.
        """
        command = [str(word) for word in command]
        self.file.write(f"$ {' '.join(command)}\n")
        self.file.flush()
        child = COMMANDS.start(
            command,
            cwd=ROOT,
            env=base_environment() | {name: str(value) for name, value in environment.items()},
            stdout=stdout or self.file,
            stderr=self.file,
            start_new_session=True,
        )
        try:
            code = child.wait(timeout=max(1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            end_group(child)
            self.say(f"ended: still running after {STAGE_LIMIT_SECONDS} s")
            raise StageFailed(f"{command[0]} hangs") from None
        except KeyboardInterrupt:
            end_group(child)
            raise
        finally:
            COMMANDS.forget(child)
        if code != 0:
            # What it started may still run.
            end_group(child)
        if check and code != 0:
            raise StageFailed(f"{command[0]} exited with {code}")
        return code

    def close(self):
        self.file.close()

    def say(self, text):
        self.file.write(text + "\n")
        self.file.flush()

    def text(self):
        self.file.flush()
        return self.path.read_text(encoding="utf-8", errors="replace")


def base_environment():
    return os.environ | {
        "FLIGHTCLUSTER_CACHE": str(CACHE),
        "CARGO_TARGET_DIR": str(TARGET),
        "CARGO_TERM_COLOR": "never",
        "CARGO_TERM_PROGRESS_WHEN": "never",
        "CARGO_NET_RETRY": "5",
        "RUST_BACKTRACE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def end_group(child):
    """Ends a command and whatever it started: it leads a session of its own."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        end = time.monotonic() + END_SECONDS
        try:
            os.killpg(child.pid, number)
            # Who is stopped does not notice before it goes on.
            os.killpg(child.pid, signal.SIGCONT)
            while time.monotonic() < end:
                child.poll()
                os.killpg(child.pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            return


def tree_status():
    """The files git calls changed or new, as lines of `git status`; none outside a git clone."""
    status = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return set(status.stdout.splitlines())


TREE_BEFORE = tree_status()


# --- the stages -----------------------------------------------------------------------------------


def setup(log):
    """Debian and Python packages, cargo-deny, and the crates of the lock file."""
    for program, advice in (
        ("cargo", "install Rust 1.95 or newer with rustup"),
        ("go", "install Go 1.26 or newer"),
    ):
        if shutil.which(program) is None:
            raise StageFailed(f"{program} is missing: {advice}")
    # Crates compile C, and so does the history checker.
    if shutil.which("cc") is None:
        install_debian_packages(log, "gcc", "libc6-dev")
    if not has_module("ensurepip"):
        install_debian_packages(log, "python3-venv")
    # The tests start servers of their own; a package that starts one as well does no harm.
    if not pathlib.Path("/usr/lib/postgresql").is_dir():
        install_debian_packages(log, "postgresql")
    log.run(["bash", "e2e/setup.sh"])
    install_python_packages(log)
    log.run(["cargo", "fetch", "--locked", "--target", host_platform()])
    install_cargo_deny(log)
    return Outcome(passed=1)


def has_module(name):
    return subprocess.run([sys.executable, "-c", f"import {name}"], check=False).returncode == 0


def install_debian_packages(log, *names):
    if shutil.which("apt-get") is None:
        raise StageFailed(f"install these packages yourself: {' '.join(names)}")
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    log.run([*prefix, "apt-get", "update"])
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *names]
    log.run([*prefix, *install], DEBIAN_FRONTEND="noninteractive")


def host_platform():
    version = subprocess.run(["cargo", "-vV"], capture_output=True, text=True, check=True).stdout
    return re.search(r"^host: (\S+)", version, re.M)[1]


def install_cargo_deny(log):
    program = CARGO_TOOLS / "bin" / "cargo-deny"
    if program.exists():
        found = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        if found.stdout.split()[-1:] == [CARGO_DENY]:
            return
    install = ["cargo", "install", "cargo-deny", "--debug", "--locked", "--version", CARGO_DENY]
    log.run([*install, "--root", CARGO_TOOLS], CARGO_TARGET_DIR=CACHE / "cargo-tools-target")
    shutil.rmtree(CACHE / "cargo-tools-target", ignore_errors=True)


def install_python_packages(log):
    lock = ROOT / "clients" / "requirements.txt"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    stamp = VENV / "installed-lock"
    if stamp.exists() and stamp.read_text() == wanted:
        log.say("python environment: up to date")
        return
    log.run([sys.executable, "-m", "venv", "--clear", VENV])
    pip = [VENV_PYTHON, "-m", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    log.run([*pip, "--requirement", lock])
    stamp.write_text(wanted)


def runner(log):
    """The runner itself: a failure or a stage without tests never counts as a success."""
    code = log.run([sys.executable, "-m", "unittest", "discover", "-s", ".ci"], check=False)
    ran = re.search(r"^Ran (\d+) tests? in", log.text(), re.M)
    bad = sum(int(n) for n in re.findall(r"(?:failures|errors)=(\d+)", log.text()))
    failed = max(bad, 1) if code else 0
    return Outcome(passed=int(ran[1]) - failed if ran else 0, failed=failed)


def formatting(log):
    """Rust code is formatted."""
    log.run(["cargo", "fmt", "--all", "--check"])
    return Outcome(passed=1)


def python_code(log):
    """Python code is formatted and has no lint."""
    ruff = [VENV / "bin" / "ruff"]
    files = ["--no-cache", "--config", "clients/ruff.toml", "clients", "e2e", "examples", ".ci"]
    log.run([*ruff, "format", "--check", *files])
    log.run([*ruff, "check", *files])
    return Outcome(passed=2)


def build(log):
    """The binaries, as `make run` and `make build` make them."""
    log.run(["cargo", "build", *WORKSPACE, "--bins"])
    return Outcome(passed=1)


def build_tests(log):
    """Every Rust test, with the dependencies of the build before."""
    log.run(["cargo", "test", *WORKSPACE, "--no-run"])
    return Outcome(passed=1)


def clippy(log):
    """The workspace lints, as errors, on every target."""
    log.run(["cargo", "clippy", *WORKSPACE, "--all-targets", *NODE_TESTS, "--", "-D", "warnings"])
    return Outcome(passed=1)


def rust_tests(log):
    """Unit, property, golden and documentation tests of every crate."""
    code = log.run(["cargo", "test", *WORKSPACE, "--no-fail-fast"], check=False)
    # How much was checked in process, which differs from run to run.
    for line in HISTORIES_RESULT.findall(log.text()):
        print(f"    {line}", flush=True)
    return read_cargo_tests(log.text(), code)


def docs(log):
    """The API documentation builds without a warning."""
    log.run(["cargo", "doc", *WORKSPACE, "--no-deps"], RUSTDOCFLAGS="-D warnings")
    return Outcome(passed=1)


def licences(log):
    """Licences, banned libraries and sources of every dependency, by cargo-deny."""
    deny = CARGO_TOOLS / "bin" / "cargo-deny"
    log.run([deny, "--offline", "check", "licenses", "bans", "sources"])
    return Outcome(passed=3)


def clients(log):
    """Real client libraries against the real binary."""
    report = LOGS / "clients.xml"
    report.unlink(missing_ok=True)
    pytest = [VENV_PYTHON, "-m", "pytest", "clients/tests", f"--junitxml={report}"]
    code = log.run(pytest, check=False, FLIGHTCLUSTER_BIN=TARGET / "debug" / "flightcluster")
    return read_junit(report, code)


def one_build(log):
    """Binaries and tests share one build: no library has other features in the tests."""
    normal, tests = features_of(log, "normal,build"), features_of(log, "normal,build,dev")
    if len(normal) < 100:
        raise StageFailed(f"cargo tree names only {len(normal)} packages")
    twice = [each for each in normal if normal[each] != tests.get(each, normal[each])]
    twice = [each for each in twice if each.split()[0] not in COMPILED_TWICE]
    if twice:
        log.say(
            "compiled twice, because a dev-dependency switches on a feature that the binaries do "
            f"not have (name it in [workspace.dependencies] instead): {' '.join(twice)}"
        )
        return Outcome(failed=1, failures=["binaries and tests do not share one build"])
    return Outcome(passed=1)


def features_of(log, edges):
    """The features of every package when these kinds of dependencies are followed."""
    path = LOGS / "one-build.txt"
    with path.open("w", encoding="utf-8") as out:
        tree = ["cargo", "tree", *WORKSPACE, "--edges", edges, "--prefix", "none"]
        log.run([*tree, "--format", "{p}|{f}"], stdout=out)
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        package, _, features = line.removesuffix(" (*)").partition("|")
        found.setdefault(package, set()).add(features)
    return found


def chaos(log):
    """The history checker finds what is broken, and nothing is: fixed seeds and a fresh one."""
    report = LOGS / "chaos.xml"
    report.unlink(missing_ok=True)
    pytest = [VENV_PYTHON, "-m", "pytest", "e2e/chaos"]
    outcome = read_junit(report, log.run([*pytest, f"--junitxml={report}"], check=False))
    if not outcome.passed:
        outcome.add(Outcome(failed=1, failures=["no test of the checker ran"]))
    fresh = time.time_ns() // 1000 % 10**6
    # Of the fixed ones, 2 begins with a catalog of an earlier layout, 3 finds batches that are
    # stored twice or forgotten too early around a restart, 4 begins with a catalog that is lost
    # and restored, in the cluster from an older backup, 11 finds rows that are asked for too late.
    late = ["--seed", 11, "--topology", "cluster"]
    # Broken builds: they have to be found. A catalog that is lost under a standalone server costs a
    # minute more, because that refuses to start. The first seed that finds it is the last.
    lies = ["--lies", "log", "--seed", 1, "--seeds", 8, "--topology", "standalone"]
    of_catalog = ["--lies", "catalog", "--seed", 1, "--seeds", 8, "--topology", "cluster"]
    # 2 kills Postgres and the S3 server, 8 kills Postgres when files are recorded in it, and has
    # requests to the S3 server fail.
    servers = [["--seed", seed, "--topology", "postgres"] for seed in (2, 8)]
    broken = (lies, of_catalog)
    for seeds in (*broken, ["--seed", 1, "--seeds", 4], late, *servers, ["--seed", fresh]):
        begun = len(log.text())
        program = [VENV_PYTHON, "e2e/chaos/chaos.py", *seeds, "--seconds", 8]
        code = log.run(
            program,
            check=False,
            FLIGHTCLUSTER_BIN=TARGET / "debug" / "flightcluster",
            VERSITYGW=CACHE / "tools" / "bin" / "versitygw",
        )
        outcome.add(read_chaos(log.text()[begun:], code))
    return outcome


def node_tools(log):
    """Kubernetes, etcd, containerd, CoreDNS, Helm and an S3 server, from their Go modules."""
    log.run(["bash", "e2e/tools/build.sh"])
    return Outcome(passed=1)


def install_azurite(log):
    """The packages of its lock file, whose scripts are not run; they are all JavaScript."""
    source, place = ROOT / "e2e" / "tools" / "azurite", CACHE / "tools" / "azurite"
    lock = source / "package-lock.json"
    stamp = place / "installed-lock"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    program = place / "node_modules" / ".bin" / "azurite-blob"
    if shutil.which("npm") is None:
        install_debian_packages(log, "nodejs", "npm")
    version = subprocess.run(
        ["node", "--version"], capture_output=True, text=True, check=True
    ).stdout
    if int(version.strip().lstrip("v").split(".")[0]) < NODE_MAJOR:
        raise StageFailed(f"node is {version.strip()}; install Node.js {NODE_MAJOR} or newer")
    if program.exists() and stamp.exists() and stamp.read_text() == wanted:
        log.say("azurite: up to date")
        return program
    begun = time.monotonic()
    place.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    for name in ("package.json", lock.name):
        shutil.copy(source / name, place)
    npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", CACHE / "npm"]
    log.run([*npm, "--prefix", place])
    stamp.write_text(wanted)
    log.say(f"azurite: installed in {time.monotonic() - begun:.0f} s")
    return program


def stores(log):
    """The binary with real S3 and Azure servers, also as GCS, behind a proxy that fails."""
    azurite = install_azurite(log)
    report = LOGS / "stores.xml"
    report.unlink(missing_ok=True)
    # The benchmark borrows the S3 server.
    pytest = [VENV_PYTHON, "-m", "pytest", "e2e/stores", "e2e/bench"]
    code = log.run(
        [*pytest, f"--junitxml={report}"],
        check=False,
        FLIGHTCLUSTER_BIN=TARGET / "debug" / "flightcluster",
        AZURITE=azurite,
        VERSITYGW=CACHE / "tools" / "bin" / "versitygw",
    )
    return read_junit(report, code)


def charts(log):
    """The charts have no lint, and install.yaml is what they render."""
    log.run(["sh", "charts/install-yaml.sh", "--check"])
    return Outcome(passed=2)


def node_runner(log):
    """A node comes up, goes away, and leaves nothing on this machine."""
    (executable,) = node_executables(log, lambda name: name == NODE_OUTSIDE)
    code = log.run([executable], check=False)
    return read_cargo_tests(log.text(), code)


def node_tests(log):
    """The operator, the charts and the data plane on a real one-node Kubernetes."""
    inside = node_executables(log, lambda name: name not in (NODE_OUTSIDE, *WITHOUT_NODE))
    # One node for all of them; each test has a Kubernetes namespace of its own.
    each = 'failed=0; for test in "$@"; do "$test" || failed=1; done; exit $failed'
    binaries = TARGET / "debug"
    run = [binaries / "flightcluster-node", "run", "--binaries", binaries, "--"]
    run += ["bash", "-c", each, "bash", *inside]
    code = log.run(run, check=False, FLIGHTCLUSTER_PYTHON=VENV_PYTHON)
    return read_cargo_tests(log.text(), code)


def cluster(log):
    """`make cluster` leaves a cluster that works as it says, `make cluster-down` no trace of it."""
    begun = len(log.text())
    try:
        log.run(["make", "cluster"])
        printed = log.text()[begun:]
        blocks = re.findall(r"^(?:The command line|Python) .*?:\n(.*?)\n\n", printed, re.M | re.S)
        if len(blocks) != 2:
            raise StageFailed("make cluster did not print how to use it")
        for block in blocks:
            # The Python in the path need not have the packages.
            log.run(["bash", "-e", "-c", block.replace("python3", str(VENV_PYTHON), 1)])
    finally:
        log.run(["make", "cluster-down"])
    if "8703" not in log.text() or "origin: string" not in log.text():
        raise StageFailed("the printed commands did not show the rows")
    return Outcome(passed=3)


def clean_tree(log):
    """The run changed no tracked file and left no file in the clone."""
    new = sorted(tree_status() - TREE_BEFORE)
    if new:
        log.say("changed by this run:\n" + "\n".join(new))
        return Outcome(failed=1, failures=new)
    return Outcome(passed=1)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage, what it runs, and the stages it cannot run without.

    One that mostly `waits` runs beside those that follow it, unless they are to be `alone`: then it
    is waited for.
    """

    name: str
    function: object
    needs: tuple = ()
    waits: bool = False
    alone: bool = False


# Clients and stores use a quarter of two cores. Chaos takes what there is, and what is to leave
# nothing on a node's machine must not find what others have there.
STAGES = (
    Stage("setup", setup),
    Stage("runner", runner),
    Stage("format", formatting),
    Stage("python", python_code, ("setup",)),
    Stage("build", build),
    Stage("node-tools", node_tools, ("setup",)),
    Stage("build-tests", build_tests),
    Stage("clients", clients, ("setup", "build"), waits=True),
    Stage("stores", stores, ("setup", "build", "node-tools"), waits=True),
    Stage("clippy", clippy),
    Stage("docs", docs),
    Stage("licences", licences, ("setup",)),
    Stage("rust-tests", rust_tests, ("build-tests",)),
    Stage("one-build", one_build, ("build", "build-tests")),
    Stage("charts", charts, ("node-tools",)),
    Stage("chaos", chaos, ("setup", "build", "node-tools"), alone=True),
    Stage("node-runner", node_runner, ("build", "node-tools"), alone=True),
    Stage("node-tests", node_tests, ("build", "node-tools"), alone=True),
    Stage("cluster", cluster, ("setup", "build", "node-tools"), alone=True),
    Stage("clean-tree", clean_tree, alone=True),
)


# --- reading results ------------------------------------------------------------------------------

CARGO_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", re.M)
CARGO_FAILURE = re.compile(r"^test (.+?) \.\.\. FAILED", re.M)


def read_cargo_tests(text, code):
    """Sums the result lines of every test binary; a failed run without a failed test counts one."""
    outcome = Outcome(failures=CARGO_FAILURE.findall(text))
    for passed, failed, ignored in CARGO_RESULT.findall(text):
        outcome.add(Outcome(int(passed), int(failed), int(ignored)))
    if code != 0 and outcome.failed == 0:
        outcome.add(Outcome(failed=1, failures=[f"the test command exited with {code}"]))
    return outcome


def read_junit(report, code):
    """The counts of a JUnit file; a run that broke off before writing one counts one failure."""
    outcome = Outcome()
    if report.exists():
        for case in ElementTree.parse(report).iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}"
            if case.find("failure") is not None or case.find("error") is not None:
                outcome.add(Outcome(failed=1, failures=[name]))
            elif case.find("skipped") is not None:
                outcome.add(Outcome(skipped=1))
            else:
                outcome.add(Outcome(passed=1))
    if code != 0 and outcome.failed == 0:
        outcome.add(Outcome(failed=1, failures=[f"the test command exited with {code}"]))
    return outcome


# Histories of rows, and of keys.
HISTORIES_RESULT = re.compile(r"histories(?: of keys)?, .*")

CHAOS_RESULT = re.compile(r"^(\d+) passed, (\d+) failed$", re.M)
CHAOS_FAILURE = re.compile(r"^(seed \d+ \w+): FAILED", re.M)


def read_chaos(text, code):
    """The counts of seeds; a run that broke off before its last line counts one failure."""
    outcome = Outcome(failures=CHAOS_FAILURE.findall(text))
    for passed, failed in CHAOS_RESULT.findall(text):
        outcome.add(Outcome(int(passed), int(failed)))
    if code != 0 and outcome.failed == 0:
        outcome.add(Outcome(failed=1, failures=[f"the checker exited with {code}"]))
    return outcome


def node_executables(log, wanted):
    """Builds the tests of e2e/tests; the files of those whose name is wanted."""
    messages = LOGS / "node-build.json"
    with messages.open("w", encoding="utf-8") as out:
        select = ["--no-run", "--message-format=json"]
        log.run(["cargo", "test", *WORKSPACE, *NODE_TESTS, *select], stdout=out)
    found = []
    for line in messages.read_text(encoding="utf-8").splitlines():
        message = json.loads(line)
        if message["reason"] != "compiler-artifact" or not message["executable"]:
            continue
        target = message["target"]
        of_e2e = pathlib.Path(target["src_path"]).is_relative_to(ROOT / "e2e")
        if of_e2e and target["kind"] == ["test"] and wanted(target["name"]):
            found.append(message["executable"])
    if not found:
        raise StageFailed("cargo built no such test in e2e/tests")
    return found


# --- running and summing up -----------------------------------------------------------------------


def run_stage(stage, earlier):
    """Runs one stage; returns its outcome and how long it took.

    `earlier` has what the stages before it come to, as futures by name: those it needs are waited
    for.
    """
    needed = {name: earlier[name] for name in stage.needs if name in earlier}
    missing = [name for name, future in needed.items() if future.result()[0].failed]
    if missing:
        reason = f"not run: needs {', '.join(missing)}"
        print(f"==> {stage.name}: {reason}", flush=True)
        return Outcome(failed=1, failures=[reason]), 0.0
    print(f"==> {stage.name}: {stage.function.__doc__.splitlines()[0]}", flush=True)
    begun = time.monotonic()
    with contextlib.closing(Log(stage.name)) as log:
        try:
            outcome = stage.function(log)
            if outcome.passed + outcome.failed == 0:
                outcome.add(Outcome(failed=1, failures=["ran no test at all"]))
        except (StageFailed, OSError, subprocess.CalledProcessError) as error:
            log.say(str(error))
            outcome = Outcome(failed=1, failures=[str(error)])
        took = time.monotonic() - begun
        if outcome.failed:
            show_tail(log)
    print(f"    {stage.name}: {describe(outcome)} in {took:.1f} s", flush=True)
    return outcome, took


def show_tail(log):
    for line in log.text().splitlines()[-TAIL_LINES:]:
        print(f"    | {line}")
    print(f"    whole log: {log.path}")


def describe(outcome):
    text = f"{outcome.passed} passed, {outcome.failed} failed"
    return text + (f", {outcome.skipped} skipped" if outcome.skipped else "")


def run_all(stages):
    """Runs the stages and prints the summary; returns the exit code.

    They begin in order. Of those that wait one runs at a time.
    """
    begun = time.monotonic()
    futures = {}
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as beside:
        try:
            for stage in stages:
                earlier = dict(futures)
                if stage.waits:
                    futures[stage.name] = beside.submit(run_stage, stage, earlier)
                    continue
                if stage.alone:
                    concurrent.futures.wait(earlier.values())
                futures[stage.name] = concurrent.futures.Future()
                futures[stage.name].set_result(run_stage(stage, earlier))
            results = [(stage, *futures[stage.name].result()) for stage in stages]
        except BaseException:
            # Nobody waits for the others then, and what they run ends.
            beside.shutdown(wait=False, cancel_futures=True)
            COMMANDS.end()
            raise
    return summarize(results, time.monotonic() - begun)


def summarize(results, took):
    width = max(len(stage.name) for stage, _, _ in results)
    print(f"\n{'stage':<{width}}  {'seconds':>8}  {'passed':>7}  {'failed':>7}  {'skipped':>7}")
    total = Outcome()
    for stage, outcome, seconds in results:
        total.add(outcome)
        counts = f"{outcome.passed:>7}  {outcome.failed:>7}  {outcome.skipped:>7}"
        print(f"{stage.name:<{width}}  {seconds:>8.1f}  {counts}")
        for failure in outcome.failures[:10]:
            print(f"{'':<{width}}  {'':>8}  FAILED {failure}")
    print(f"{'all':<{width}}  {took:>8.1f}\n")
    print(f"{total.passed} passed, {total.failed} failed", flush=True)
    return 1 if total.failed else 0


def main():
    parser = argparse.ArgumentParser(description="Runs the checks and tests of the project.")
    parser.add_argument("stage", nargs="*", help="run only these stages")
    parser.add_argument("--list", action="store_true", help="print the stages and stop")
    arguments = parser.parse_args()
    if arguments.list:
        for stage in STAGES:
            print(f"{stage.name:<12} {stage.function.__doc__.splitlines()[0]}")
        return 0
    names = {stage.name for stage in STAGES}
    if unknown := [name for name in arguments.stage if name not in names]:
        parser.error(f"unknown stage {unknown[0]}; there are: {' '.join(s.name for s in STAGES)}")
    return run_all([stage for stage in STAGES if stage.name in (arguments.stage or names)])


def stop(_number, _frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
