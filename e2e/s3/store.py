"""A real S3 server, and a way to it on which requests fail as they do at a cloud.

The proxy speaks as much HTTP/1.1 as it needs to know where a request and its body begin and end;
every request has a connection of its own. It looks at nothing but the method, so that a signature
made for the proxy's address is good for the server.
"""

import collections
import contextlib
import pathlib
import random
import socket
import socketserver
import struct
import subprocess
import threading

ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret-key"
REGION = "us-east-1"
CHUNK_BYTES = 1 << 16

THROTTLED = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nContent-Length: 106\r\n"
    b"Connection: close\r\n\r\n"
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>SlowDown</Code>"
    b"<Message>slow down, please</Message></Error>"
)
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

# What can become of a request.
#
# throttled       503 SlowDown, without looking at the body
# broken          500
# cut upload      the connection is reset in the middle of the request's body
# unanswered      the server does what it was asked for; the connection is reset before the answer
# cut answer      the answer's body ends in the middle
# stalled         nothing is answered, until the client gives up
FAULTS = ("throttled", "broken", "cut upload", "unanswered", "cut answer", "stalled")


class Server:
    """versitygw over a folder: a bucket is a folder in it. With `leaf` it speaks TLS."""

    def __init__(self, program, folder, leaf=None):
        self.program, self.folder, self.leaf = program, pathlib.Path(folder), leaf
        self.buckets = self.folder / "buckets"
        self.buckets.mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = None

    def start(self):
        command = [self.program, "--access", ACCESS_KEY, "--secret", SECRET_KEY]
        command += ["--region", REGION, "--port", f"127.0.0.1:{self.port}"]
        if self.leaf:
            command += ["--cert", self.leaf.certificate_file, "--key", self.leaf.key_file]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in [*command, "posix", self.buckets]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def is_up(self):
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "log").read_text())
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def objects(self, bucket):
        """Keys of the bucket; the server's own notes are left out."""
        files = (path for path in (self.buckets / bucket).rglob("*") if path.is_file())
        keys = (str(path.relative_to(self.buckets / bucket)) for path in files)
        return sorted(key for key in keys if not key.startswith(".sgwtmp"))


class Proxy(socketserver.ThreadingTCPServer):
    """The way to a server on the port `target`; `plan` draws a fault or None for each request."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = target
        self.port = self.server_address[1]
        self.plan = lambda method, length: None
        self.done = collections.Counter()
        self.is_down = False
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def fail(self, seed, share):
        """From now on this share of the requests fails, in every way that it can."""
        dice, lock = random.Random(seed), threading.Lock()

        def plan(method, length):
            possible = [
                fault
                for fault in FAULTS
                if (fault != "cut upload" or length) and (fault != "cut answer" or method == "GET")
            ]
            with lock:
                return dice.choice(possible) if dice.random() < share else None

        self.plan = plan

    def heal(self):
        self.plan = lambda method, length: None
        self.is_down = False

    def stop(self):
        self.ends.set()
        self.shutdown()
        self.server_close()


class Handler(socketserver.BaseRequestHandler):
    """One connection, one request."""

    def handle(self):
        # A client that goes away is part of the play.
        with contextlib.suppress(ConnectionError, TimeoutError):
            self.serve()

    def serve(self):
        if self.server.is_down:
            return reset(self.request)
        head = read_head(self.request)
        if head is None:
            return None
        lines = head.split(b"\r\n")
        method = lines[0].split(b" ")[0].decode()
        length = content_length(lines)
        fault = self.server.plan(method, length)
        self.server.done[fault] += 1
        match fault:
            case "throttled":
                return self.request.sendall(THROTTLED)
            case "stalled":
                return self.wait_until_gone()
            case "cut upload":
                take(self.request, length // 2)
                return reset(self.request)
            case "broken":
                take(self.request, length)
                return self.request.sendall(BROKEN)
        lines = [line for line in lines if not line.lower().startswith(b"connection:")]
        lines.insert(1, b"Connection: close")
        with socket.create_connection(("127.0.0.1", self.server.target), 10) as server:
            server.sendall(b"\r\n".join(lines) + b"\r\n\r\n")
            for chunk in body(self.request, length):
                server.sendall(chunk)
            answer = read_head(server)
            if answer is None or fault == "unanswered":
                return reset(self.request)
            self.answer(server, answer, fault == "cut answer")

    def answer(self, server, head, cut):
        lines = [
            line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")
        ]
        self.request.sendall(b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n")
        left = content_length(lines) // 2 if cut else None
        while left is None or left > 0:
            chunk = server.recv(min(CHUNK_BYTES, left or CHUNK_BYTES))
            if not chunk:
                return
            self.request.sendall(chunk)
            left = left and left - len(chunk)
        reset(self.request)

    def wait_until_gone(self):
        self.request.settimeout(0.1)
        while not self.server.ends.is_set():
            with contextlib.suppress(TimeoutError):
                if not self.request.recv(CHUNK_BYTES):
                    return


def read_head(connection):
    """The bytes before the empty line, read one by one so that none of the body is taken."""
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return None
        head += byte
    return bytes(head[:-4])


def content_length(lines):
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def body(connection, length):
    while length > 0:
        chunk = connection.recv(min(CHUNK_BYTES, length))
        if not chunk:
            return
        length -= len(chunk)
        yield chunk


def take(connection, length):
    for _ in body(connection, length):
        pass


def reset(connection):
    """Ends the connection as a crash of the other side would: RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
