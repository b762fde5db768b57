"""A way to an object store on which requests fail as they do at a cloud.

The proxy speaks as much HTTP/1.1 as it needs to know where a request and its body begin and end;
every request has a connection of its own. It looks at nothing but method and target, and changes
neither, so that a signature made for the proxy's address is good for the server.
"""

import collections
import contextlib
import random
import socket
import socketserver
import struct
import threading

CHUNK_BYTES = 1 << 16


def failure(status, code, message):
    """An answer with an error as S3, GCS and Azure write it."""
    content = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code>"
    content += f"<Message>{message}</Message></Error>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n{content}".encode()


SLOW_DOWN = failure("503 Slow Down", "SlowDown", "slow down, please")
SERVER_BUSY = failure("503 The server is busy.", "ServerBusy", "slow down, please")
TOO_MANY = failure("429 Too Many Requests", "TooManyRequests", "slow down, please")
REFUSED = failure("412 Precondition Failed", "PreconditionFailed", "a condition did not hold")
BROKEN = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

# What can become of a request.
#
# throttled       503 or 429, without looking at the body
# broken          500
# refused         412, which a client takes as said and does not try again
# cut upload      the connection is reset in the middle of the request's body
# unanswered      the server does what it was asked for; the connection is reset before the answer
# cut answer      the answer's body ends in the middle
# stalled         nothing is answered, until the client gives up
FAULTS = (
    "throttled",
    "broken",
    "refused",
    "cut upload",
    "unanswered",
    "cut answer",
    "stalled",
)
# Some need a body to end in the middle of; a condition is one of a write.
NEEDS = {
    "cut upload": lambda method, length: length > 0,
    "cut answer": lambda method, length: method == "GET",
    "refused": lambda method, length: method in ("PUT", "POST"),
}


class Proxy(socketserver.ThreadingTCPServer):
    """The way to a server on the port `server_port`.

    `plan` draws a fault or None for each request; `throttled` is what a throttled one is answered,
    one after the other.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, server_port, throttled=(SLOW_DOWN,)):
        super().__init__(("127.0.0.1", 0), Handler)
        self.server_port = server_port
        self.throttled = throttled
        self.port = self.server_address[1]
        self.plan = nothing_fails
        self.done = collections.Counter()
        # None, or how every request ends: "reset", or "stalled".
        self.outage = None
        self.ends = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def fail(self, seed, share):
        """From now on this share of the requests fails, in the way that was the rarest so far."""
        dice, lock = random.Random(seed), threading.Lock()

        def plan(method, target, length):
            possible = [f for f in FAULTS if f not in NEEDS or NEEDS[f](method, length)]
            with lock:
                rarest = min(self.done[fault] for fault in possible)
                possible = [fault for fault in possible if self.done[fault] == rarest]
                return dice.choice(possible) if dice.random() < share else None

        self.plan = plan

    def fail_next(self, fault, method, word):
        """The next request of this method with `word` in its target fails, and no other one."""
        armed, lock = [fault], threading.Lock()

        def plan(this_method, target, length):
            with lock:
                return armed.pop() if armed and this_method == method and word in target else None

        self.plan = plan

    def heal(self):
        self.plan = nothing_fails
        self.outage = None

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
        if self.server.outage == "reset":
            return reset(self.request)
        if self.server.outage == "stalled":
            return self.wait_until_gone()
        head = read_head(self.request)
        if head is None:
            return None
        lines = head.split(b"\r\n")
        method, target, _ = lines[0].decode().split(" ")
        length = content_length(lines)
        fault = self.server.plan(method, target, length)
        self.server.done[fault] += 1
        match fault:
            case "throttled":
                answers = self.server.throttled
                return self.request.sendall(answers[self.server.done[fault] % len(answers)])
            case "stalled":
                return self.wait_until_gone()
            case "cut upload":
                take(self.request, length // 2)
                return reset(self.request)
            case "broken":
                take(self.request, length)
                return self.request.sendall(BROKEN)
            case "refused":
                take(self.request, length)
                return self.request.sendall(REFUSED)
        lines = [line for line in lines if not line.lower().startswith(b"connection:")]
        lines.insert(1, b"Connection: close")
        with socket.create_connection(("127.0.0.1", self.server.server_port), 10) as server:
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


def nothing_fails(method, target, length):
    return None


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
