"""A connection is cut, or what comes back on it is lost: what was sent has arrived all the same."""

import asyncio
import socket
import threading

import pytest
from links import Network


@pytest.fixture
def network():
    network = Network()
    yield network
    network.close()


class Echo:
    """Answers what it is sent, and keeps it."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.got, self.answered = threading.Event(), []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            connection, _ = self.listener.accept()
            with connection:
                while data := received(connection):
                    self.answered.append(data)
                    connection.sendall(data)
                    self.got.set()


def received(connection):
    """What came, nothing when the connection ended."""
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""


def test_an_answer_that_is_lost_was_given_and_the_next_connection_is_well(network):
    echo = Echo()
    link = network.link("a link", lambda: echo.port)
    with socket.create_connection(("127.0.0.1", link.port), timeout=10) as client:
        client.sendall(b"first")
        assert client.recv(100) == b"first"
        echo.got.clear()
        link.lose_answers()
        client.sendall(b"second")
        assert echo.got.wait(10)
        # Turns of the loop in which it could be delivered.
        for _ in range(5):
            network.run(asyncio.sleep(0))
        link.cut()
        link.heal()
        assert received(client) == b""
    assert echo.answered == [b"first", b"second"]
    with socket.create_connection(("127.0.0.1", link.port), timeout=10) as client:
        client.sendall(b"third")
        assert client.recv(100) == b"third"
