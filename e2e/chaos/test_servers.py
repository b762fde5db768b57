"""A server is killed and paused with all of its processes; requests to a store fail."""

import pathlib
import socket
import subprocess
import time

import pytest
from servers import ObjectServer, Server

# As Postgres: one process with children that have none.
FAMILY = "sleep 600 & sleep 600 & echo ready; wait"


class Shell(Server):
    def __init__(self):
        super().__init__()
        self.child = subprocess.Popen(["sh", "-c", FAMILY], stdout=subprocess.PIPE, text=True)
        assert self.child.stdout.readline() == "ready\n"

    def main(self):
        return self.child


@pytest.fixture
def shell():
    shell = Shell()
    yield shell
    if shell.running():
        shell.kill()
    shell.child.stdout.close()


def states(pids):
    """The letter of each process's state; none of one that is gone."""
    found = []
    for pid in pids:
        try:
            stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
            found.append(stat.rpartition(")")[2].split()[0])
        except OSError:
            found.append("gone")
    return found


def until(condition):
    """The kernel does what a signal says a moment after it was sent."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def test_all_processes_of_a_server_are_paused_and_go_on(shell):
    family = shell.family()
    assert len(family) == 3
    shell.pause()
    until(lambda: states(family) == ["T"] * 3)
    shell.resume()
    until(lambda: "T" not in states(family))
    assert shell.running()


def test_all_processes_of_a_server_are_killed_also_when_it_is_paused(shell):
    family = shell.family()
    shell.pause()
    shell.kill()
    assert not shell.running()
    until(lambda: set(states(family)) <= {"gone", "Z"})


def test_connections_go_by_the_proxy_while_requests_are_to_fail(tmp_path):
    server = ObjectServer(tmp_path)
    try:
        straight = server.port()
        server.fail_requests(1, 1.0)
        assert server.port() != straight
        with socket.create_connection(("127.0.0.1", server.port()), 60) as client:
            client.sendall(b"GET /chaos HTTP/1.1\r\n\r\n")
            # Whatever is the fault, nothing is there to answer.
            server.proxy.ends.set()
            assert b"200 OK" not in client.recv(100)
        assert sum(server.end_failures().values()) == 1
        assert server.port() == straight
    finally:
        server.end()
