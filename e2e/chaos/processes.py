"""The processes under test, kept running as a supervisor would, and what can be done to them."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import threading
import time

import pyarrow.flight as flight
import yaml
from disk import Switches
from links import Network
from servers import CatalogServer, ObjectServer

BINARY = os.environ.get("FLIGHTCLUSTER_BIN", "flightcluster")
# The release before. Every process begins with it, if it is given.
OLDER_BINARY = os.environ.get("FLIGHTCLUSTER_OLDER_BIN")
START_SECONDS = 60
STOP_SECONDS = 60
# What a process says that could not put everything into files within `server.shutdown_timeout`.
NO_TIME = "no time to flush; rows stay in the wal"
# A supervisor waits before it starts a process again.
RESTART_SECONDS = 0.2


class Process:
    """One `flightcluster` process. It is started again whenever it ends."""

    def __init__(self, folder, name, role, config):
        self.name, self.role, self.config = name, role, config
        self.folder = pathlib.Path(folder) / name
        self.folder.mkdir(parents=True)
        self.data = self.folder / "data"
        self.port_file = self.folder / "ports.json"
        self.log_path = self.folder / "log.json"
        self.switches = Switches(self.folder / "switches")
        # The links that writers and readers reach its public port by.
        self.ways = {}
        self.lock = threading.RLock()
        self.child = None
        self.ports = {}
        self.wanted = False
        self.paused = False
        self.starts = 0
        # Where its log has the lines of this start.
        self.log_begins = 0
        # What its next start runs.
        self.binary = OLDER_BINARY or BINARY

    # The ports of the running process, or None while there is none.

    def port(self):
        return self._port("port")

    def internal_port(self):
        return self._port("internal_port")

    def _port(self, name):
        with self.lock:
            if not self.ports and self.port_file.exists():
                text = self.port_file.read_text()
                self.ports = json.loads(text) if text else {}
            return self.ports.get(name)

    def connect(self, who=None):
        """A client of the public port; FlightUnavailableError while the process does not run.

        That of `writers` or `readers` goes by their link, where its connection can be cut.
        """
        port = self.port()
        if port is None:
            raise flight.FlightUnavailableError(f"{self.name} does not run")
        if who in self.ways:
            port = self.ways[who].port
        # Its own connection: one that is cut is not waited for by the next client.
        options = [("grpc.use_local_subchannel_pool", 1)]
        return flight.connect(f"grpc://127.0.0.1:{port}", generic_options=options)

    def start(self):
        with self.lock:
            self.wanted = True
            self._spawn()

    def _spawn(self):
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))
        self.port_file.unlink(missing_ok=True)
        self.ports = {}
        self.starts += 1
        environment = {k: v for k, v in os.environ.items() if not k.startswith("FLIGHTCLUSTER_")}
        with self.log_path.open("ab") as log:
            self.log_begins = log.tell()
            self.child = subprocess.Popen(
                [
                    self.binary, self.role, "--config", self.folder / "config.yaml",
                    "--data-dir", self.data, "--port-file", self.port_file,
                    "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment
                | {"FLIGHTCLUSTER_LOG__FORMAT": "json"}
                | self.switches.environment(),
            )  # fmt: skip

    def supervise(self):
        """Starts the process again if it has ended; returns whether it had."""
        with self.lock:
            if not self.wanted or self.child.poll() is None:
                return False
            self.ports = {}
            time.sleep(RESTART_SECONDS)
            self._spawn()
            return True

    def wait_until_ready(self):
        end = time.monotonic() + START_SECONDS
        # Every role writes its port file when it is ready.
        while not (self.port() or self.internal_port()):
            if time.monotonic() > end:
                raise AssertionError(f"{self.name} is not ready: {self.log_tail()}")
            self.supervise()
            time.sleep(0.02)

    def kill(self):
        """SIGKILL; the supervisor starts it again."""
        with self.lock:
            self.ports = {}
            self.child.send_signal(signal.SIGKILL)
            self.child.wait()
            self.switches.forget_unsynced()
            self.port_file.unlink(missing_ok=True)
            self.paused = False

    def pause(self):
        self.child.send_signal(signal.SIGSTOP)
        self.paused = True

    def resume(self):
        if self.paused:
            self.child.send_signal(signal.SIGCONT)
            self.paused = False

    def terminate(self):
        """SIGTERM; the supervisor starts it again when it has ended."""
        self.child.send_signal(signal.SIGTERM)

    def stop(self):
        """Ends it in order; raises when it does not end well."""
        with self.lock:
            self.wanted = False
            self.resume()
            if self.child is None or self.child.poll() is not None:
                return
            self.terminate()
        # Links ask for its port in the meantime, and those of all others would wait for the answer.
        try:
            code = self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end: {self.log_tail()}") from None
        # On a busy machine; nothing is lost by it, which the run looks at.
        said = self.log_path.read_bytes()[self.log_begins :].decode(errors="replace")
        if code and not (code == 1 and NO_TIME in said):
            raise AssertionError(f"{self.name} ended with {code}: {self.log_tail()}")

    def abandon(self):
        """Ends it at once and for good."""
        with self.lock:
            self.wanted = False
            if self.child is not None and self.child.poll() is None:
                self.kill()

    def log_tail(self):
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n" + "\n".join(text.splitlines()[-15:])

    def panics(self):
        """Log lines of our own mistakes: panics, and calls that ended with Internal."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return [line for line in lines if "panicked" in line or '"code":"Internal"' in line]


class Processes:
    """All processes of a topology, and the supervisor's thread."""

    def __init__(self):
        self.all = []
        # Not of the product: Postgres and an object store, where there are some.
        self.servers = []
        # Between processes, and from writers and readers to them.
        self.links = []
        self.ways = {"writers": [], "readers": []}
        self.stop_supervising = threading.Event()
        self.supervisor = None

    def add(self, process):
        self.all.append(process)
        return process

    def add_ways(self, network):
        """Gives each process links for its clients: writers go to any, readers to queriers."""
        roles = {"writers": ("standalone", "ingester", "querier")}
        roles["readers"] = ("standalone", "querier")
        for who, ways in self.ways.items():
            for process in self.of(*roles[who]):
                process.ways[who] = network.link(f"{who}-{process.name}", process.port)
                ways.append(process.ways[who])

    def all_links(self):
        return self.links + sum(self.ways.values(), [])

    def start(self):
        for server in self.servers:
            server.heal()
        for process in self.all:
            process.start()
        for process in self.all:
            process.wait_until_ready()
            if not process.switches.loaded():
                raise AssertionError(f"{process.name} runs without the faults of disk.c")
        self.begin_supervising()

    def begin_supervising(self):
        """From now on whatever ends is started again."""
        self.stop_supervising.clear()
        self.supervisor = threading.Thread(target=self._supervise, daemon=True)
        self.supervisor.start()

    def _supervise(self):
        while not self.stop_supervising.wait(0.05):
            for process in self.all:
                process.supervise()

    def of(self, *roles):
        return [process for process in self.all if process.role in roles]

    def next_to_upgrade(self):
        """The processes of the next role that gets the new release; none when all have it."""
        for role in ("catalog", "querier", "ingester", "standalone"):
            older = [process for process in self.of(role) if process.binary != BINARY]
            if older:
                return older
        return []

    def heal(self):
        """Ends every fault and waits until all processes serve."""
        for link in self.all_links():
            link.heal()
        for server in self.servers:
            server.heal()
        for process in self.all:
            process.switches.off()
            process.resume()
        for process in self.all:
            process.wait_until_ready()

    def stop(self):
        """Ends all in the order in which they need each other."""
        self._end_supervisor()
        for roles in (("querier",), ("ingester", "standalone"), ("catalog",)):
            for process in self.of(*roles):
                process.stop()

    def restart(self):
        self.stop()
        self.start()

    def abandon(self):
        self._end_supervisor()
        for process in self.all:
            process.abandon()
        for server in self.servers:
            server.end()

    def _end_supervisor(self):
        self.stop_supervising.set()
        if self.supervisor is not None:
            self.supervisor.join(10)


def standalone(folder, settings, network):
    """One process with all roles."""
    processes = Processes()
    processes.add(Process(folder, "standalone", "standalone", settings))
    processes.add_ways(network)
    return processes


def cluster(folder, settings, network, ingesters=3, queriers=2):
    """A catalog, ingesters and queriers; each way between two of them is a link."""
    processes = Processes()
    base = with_signing_key(folder, settings)
    base["storage"] = {"object_store": {"kind": "embedded"}}
    internal = {"enabled": True, "listen_port": 0}
    catalog = processes.add(Process(folder, "catalog", "catalog", base | {"internal": internal}))

    def member(name, role, **more):
        to_catalog = network.link(f"{name}-catalog", catalog.internal_port)
        processes.links.append(to_catalog)
        more["catalog"] = {"url": f"http://127.0.0.1:{to_catalog.port}"}
        return processes.add(Process(folder, name, role, named(base | more, name)))

    add_members(processes, network, member, ingesters, queriers)
    return processes


def on_postgres(folder, settings, network):
    """A cluster without a catalog process: all use a Postgres and an S3 server, each by links."""
    processes = Processes()
    base = with_signing_key(folder, settings)
    for server in (CatalogServer, ObjectServer):
        processes.servers.append(server(folder))

    def member(name, role, **more):
        own = pathlib.Path(folder) / f"{name}-secrets"
        own.mkdir()
        links = [network.link(f"{name}-{each.name}", each.port) for each in processes.servers]
        processes.links += links
        servers = zip(processes.servers, links, strict=True)
        catalog, store = (server.settings(own, link.port) for server, link in servers)
        more["catalog"] = settings.get("catalog", {}) | catalog
        more["storage"] = {"object_store": store}
        return processes.add(Process(folder, name, role, named(base | more, name)))

    add_members(processes, network, member, ingesters=3, queriers=2)
    return processes


def with_signing_key(folder, settings):
    key = pathlib.Path(folder) / "signing.key"
    key.parent.mkdir(parents=True, exist_ok=True)
    key.write_bytes(os.urandom(32))
    return settings | {"server": settings.get("server", {}) | {"signing_key_file": str(key)}}


def named(config, name):
    return config | {"server": config["server"] | {"node_name": name}}


def add_members(processes, network, member, ingesters, queriers):
    """Ingesters, whom others ask for fresh rows by a link, and queriers; `member` makes one."""
    internal = {"enabled": True, "listen_port": 0}
    for number in range(ingesters):
        name = f"ingester-{number}"
        holder = []
        to_me = network.link(f"{name}-tails", lambda holder=holder: holder[0].internal_port())
        processes.links.append(to_me)
        url = f"http://127.0.0.1:{to_me.port}"
        holder.append(member(name, "ingester", internal=internal | {"advertise_url": url}))
    for number in range(queriers):
        member(f"querier-{number}", "querier", internal=internal)
    processes.add_ways(network)


TOPOLOGIES = {"standalone": standalone, "cluster": cluster, "postgres": on_postgres}


@contextlib.contextmanager
def started_cluster(folder, settings, ingesters, queriers):
    """A cluster whose processes are ready; whoever ends one starts it again."""
    network = Network()
    processes = cluster(folder, settings, network, ingesters, queriers)
    try:
        for process in processes.all:
            process.start()
        for process in processes.all:
            process.wait_until_ready()
        yield processes
    finally:
        processes.abandon()
        network.close()
