"""The real `flightcluster` binary as a test sees it: started, asked, killed, its log read.

Nothing here knows a test. Everything listens on 127.0.0.1 with a free port, and every wait is for a
condition with a limit, never for a time.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.request

import pyarrow.flight as flight
import yaml

BINARY = os.environ.get("FLIGHTCLUSTER_BIN", "flightcluster")
START_SECONDS = 30
STOP_SECONDS = 30


def wait_until(condition, what, seconds=20, pause=0.02):
    """Asks `condition` until it gives something true, which is returned."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds} s in vain until {what}")
        time.sleep(pause)


class Server:
    """One `flightcluster` server with its own folder: standalone, or a role of a cluster.

    A log line with level WARN or ERROR that the test did not announce by `expect_log` fails the
    test that stops the server.
    """

    def __init__(self, folder, config=None, tls=None, role="standalone"):
        self.role = role
        self.folder = pathlib.Path(folder)
        self.data = self.folder / "data"
        self.port_file = self.folder / "ports.json"
        self.log_path = self.folder / "server.log"
        self.config_file = self.folder / "config.yaml"
        self.config = config or {}
        self.tls = tls
        self.process = None
        self.ports = {}
        self.announced = []
        # Words before the command, such as those of a namespace to run it in.
        self.prefix = []
        # Variables of its environment.
        self.environment = {}
        self.folder.mkdir(parents=True, exist_ok=True)

    def start(self):
        self.launch()
        wait_until(self.has_ports, "the server wrote its port file", START_SECONDS)
        return self

    def launch(self):
        """Starts the process and waits for nothing."""
        self.config_file.write_text(yaml.safe_dump(self.config))
        self.port_file.unlink(missing_ok=True)
        command = [*self.prefix, BINARY, self.role, "--config", self.config_file]
        command += ["--data-dir", self.data]
        command += ["--port-file", self.port_file]
        command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]
        if self.role != "standalone":
            command += ["--internal-listen", "127.0.0.1:0"]
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_environment() | {"FLIGHTCLUSTER_LOG__FORMAT": "json"} | self.environment,
            )

    def has_ports(self):
        """Whether a launched server listens; its ports are known from then on."""
        if self.process.poll() is not None:
            raise AssertionError(
                f"the server exited with {self.process.returncode}:\n{self.log_text()[-3000:]}"
            )
        if not self.port_file.exists() or self.port_file.stat().st_size == 0:
            return False
        self.ports = json.loads(self.port_file.read_text())
        return True

    @property
    def proc(self):
        """What the kernel says about the process."""
        return pathlib.Path("/proc") / str(self.process.pid)

    def memory_bytes(self, kind):
        """VmRSS is resident now, VmHWM the most of that so far, RssAnon what is no file's."""
        status = (self.proc / "status").read_text()
        return int(re.search(rf"{kind}:\s+(\d+) kB", status)[1]) << 10

    @property
    def port(self):
        return self.ports["port"]

    @property
    def uri(self):
        return f"grpc{'+tls' if self.tls else ''}://127.0.0.1:{self.port}"

    def client(self, **options):
        if self.tls and "tls_root_certs" not in options:
            options["tls_root_certs"] = self.tls.authority_pem
        return flight.connect(self.uri, **options)

    def admin(self, path):
        """(status, body) of a GET on the admin port."""
        url = f"http://127.0.0.1:{self.ports['admin_port']}{path}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name, **labels):
        """Sum of the samples whose name ends with `name` and that carry all `labels`."""
        total, seen = 0.0, False
        for line in self.admin("/metrics")[1].splitlines():
            sample = re.match(r"([A-Za-z0-9_:]+)(?:\{(.*)\})? (\S+)", line)
            if not sample or not sample[1].endswith(name):
                continue
            found = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', sample[2] or ""))
            if labels.items() <= found.items():
                total, seen = total + float(sample[3]), True
        assert seen, f"no metric {name} with {labels}"
        return total

    def kill(self):
        """SIGKILL: nothing is flushed. A group may be torn by it, which the next start says."""
        self.expect_log("cutting what follows the last whole record")
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self):
        return self.process.wait(STOP_SECONDS)

    def stop(self):
        """SIGTERM and a look at exit code and log."""
        if self.process is None or self.process.poll() is not None:
            return
        self.terminate()
        try:
            code = self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running {STOP_SECONDS} s after SIGTERM") from None
        assert code == 0, f"exit code {code} after SIGTERM:\n{self.log_text()[-3000:]}"
        self.check_log()

    def log_text(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_lines(self):
        """The log as JSON objects; a line that is none fails the test."""
        lines = []
        for line in self.log_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                raise AssertionError(f"log line is no JSON: {line}") from None
        return lines

    def expect_log(self, pattern):
        """Announces a WARN or ERROR line that this test provokes."""
        self.announced.append(re.compile(pattern, re.IGNORECASE))

    def check_log(self):
        for line in self.log_lines():
            if line.get("level") in ("WARN", "ERROR"):
                text = json.dumps(line)
                assert any(pattern.search(text) for pattern in self.announced), (
                    f"a log line that no test announced: {text}"
                )


@contextlib.contextmanager
def running(server):
    """Starts the server for a block and stops it even when the block fails."""
    try:
        server.start()
        yield server
        server.stop()
    finally:
        if server.process is not None and server.process.poll() is None:
            server.kill()


def clean_environment():
    """The environment without settings that would change the server under test."""
    return {k: v for k, v in os.environ.items() if not k.startswith("FLIGHTCLUSTER_")}


def run_cli(*arguments, timeout=60, **environment):
    """Runs a command of the binary to its end; returns the completed process with text output."""
    return subprocess.run(
        [BINARY, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=clean_environment() | environment,
    )


def bearer(token, *more):
    """Call options with a token and further (name, value) headers."""
    headers = [(b"authorization", b"Bearer " + token.encode())]
    return flight.FlightCallOptions(headers=headers + [encode(pair) for pair in more])


def headers(*pairs, timeout=None):
    return flight.FlightCallOptions(headers=[encode(pair) for pair in pairs], timeout=timeout)


def encode(pair):
    return pair[0].encode(), pair[1].encode()


def put(client, database, table, data, options=None):
    """Writes a table or batches by path DoPut, one acknowledgement awaited per batch."""
    descriptor = flight.FlightDescriptor.for_path(database, table)
    batches = data.to_batches() if hasattr(data, "to_batches") else list(data)
    writer, reader = client.do_put(descriptor, batches[0].schema, options)
    acknowledged = []
    with writer:
        for batch in batches:
            writer.write_batch(batch)
            acknowledged.append(json.loads(reader.read().to_pybytes()))
        writer.done_writing()
        assert reader.read() is None, "more acknowledgements than batches"
    return acknowledged


def select(client, database, sql, options=None, **ticket):
    """The answer to `sql` by one DoGet with a JSON ticket."""
    return client.do_get(json_ticket(database, sql, **ticket), options).read_all()


def json_ticket(database, sql, **more):
    fields = {"database": database, "sql_query": sql, "query_type": "sql"} | more
    return flight.Ticket(json.dumps(fields).encode())


def read_info(client, info, options=None):
    """All endpoints of a FlightInfo as one table."""
    import pyarrow as pa

    return pa.concat_tables(
        client.do_get(endpoint.ticket, options).read_all() for endpoint in info.endpoints
    )


class Trailers(flight.ClientMiddlewareFactory):
    """Keeps the headers and trailers the server sent on the last call."""

    def __init__(self):
        super().__init__()
        self.last = {}

    def start_call(self, info):
        self.last = {}
        return _KeepHeaders(self)


class _KeepHeaders(flight.ClientMiddleware):
    def __init__(self, factory):
        super().__init__()
        self.factory = factory

    def received_headers(self, headers):
        for name, values in headers.items():
            self.factory.last[name.lower()] = values[0]


def retry_delay(trailers):
    """Seconds after which the last failed call may be repeated, by its google.rpc.RetryInfo.

    As a client without the generated classes reads it; None when the failure does not say.
    """
    details = trailers.last["grpc-status-details-bin"]
    details = details if isinstance(details, bytes) else details.encode("latin-1")
    for number, detail in _fields(details):
        if number != 3:  # google.rpc.Status.details
            continue
        of_any = dict(_fields(detail))
        if of_any[1] == b"type.googleapis.com/google.rpc.RetryInfo":
            delay = dict(_fields(dict(_fields(of_any[2]))[1]))
            return delay.get(1, 0) + delay.get(2, 0) / 1e9
    return None


def _fields(message):
    """Number and value of each field of a protobuf message that holds numbers and bytes only."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, kind = divmod(varint(), 8)
        value = varint()
        if kind == 2:
            at, value = at + value, message[at : at + value]
        yield number, value
