"""An acknowledgement comes after the disk has the rows: `fdatasync` is held back, and fails."""

import json
import pathlib
import sys
import threading

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import put, run_cli, running, select, wait_until

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from disk import Switches

WRITERS = 3
# Looks at what is visible while nothing may be: enough for an acknowledgement to come if one did.
LOOKS = 30


@pytest.fixture
def server(new_server, tmp_path):
    """A server whose syncs of the log obey switches."""
    server = new_server({"ingest": {"flush_interval": "1h"}})
    server.switches = Switches(tmp_path / "switches")
    server.environment = server.switches.environment()
    return server


def batch(*numbers):
    return pa.record_batch({"n": pa.array(numbers, pa.int64())})


def numbers(client):
    return select(client, "d", "SELECT n FROM t ORDER BY n")["n"].to_pylist()


class Writer(threading.Thread):
    """Writes one batch on a connection of its own and waits for its acknowledgement."""

    def __init__(self, server, number):
        super().__init__(daemon=True)
        self.server, self.number = server, number
        self.answer = self.error = None
        self.start()

    def run(self):
        try:
            with self.server.client() as client:
                (self.answer,) = put(client, "d", "t", [batch(self.number)])
        except pa.ArrowException as error:
            self.error = error


def test_nothing_is_acknowledged_or_visible_while_the_disk_holds_the_sync_back(server):
    """Style invariant 1, at the system call."""
    with running(server), server.client() as client:
        assert server.switches.loaded(), "the server runs without disk.c"
        put(client, "d", "t", [batch(0)])
        server.switches.set("held sync", 1)
        writers = [Writer(server, number + 1) for number in range(WRITERS)]
        wait_until(lambda: server.switches.count("held sync"), "a sync is held back")
        for _ in range(LOOKS):
            assert numbers(client) == [0]
            assert not any(writer.answer for writer in writers)
        assert all(writer.is_alive() for writer in writers)
        server.switches.set("held sync", 0)
        for writer in writers:
            writer.join(20)
            assert writer.error is None and writer.answer["durable"] is True
        assert numbers(client) == [0, *range(1, WRITERS + 1)]
        server.kill()
        server.start()
        with server.client() as again:
            assert numbers(again) == [0, *range(1, WRITERS + 1)]


def test_what_a_failed_sync_was_for_is_not_acknowledged_and_the_process_ends(server):
    """A second fsync may claim success for what the first one lost: only a restart can tell."""
    server.expect_log("out of service|write-ahead log|must restart|can't flush|drain")
    server.start()
    with server.client() as client:
        put(client, "d", "t", [batch(0)])
        server.switches.set("sync error", 1)
        with pytest.raises(pa.ArrowException) as refused:
            put(client, "d", "t", [batch(1)])
        assert "durable" in str(refused.value), refused.value
        assert server.switches.count("sync error") == 1
        # The disk claims to be well again; the process does not believe it.
        with pytest.raises(pa.ArrowException):
            put(client, "d", "t", [batch(2)])
    assert server.wait() == 1
    server.check_log()
    with running(server), server.client() as client:
        found = numbers(client)
        # The one whose sync failed had been written; nobody was told that it is there.
        assert found in ([0], [0, 1])
        put(client, "d", "t", [batch(3)])
        assert numbers(client) == [*found, 3]


def test_one_stream_is_acknowledged_batch_by_batch_and_never_ahead_of_the_disk(server):
    with running(server), server.client() as client:
        descriptor = flight.FlightDescriptor.for_path("d", "t")
        writer, reader = client.do_put(descriptor, batch(0).schema)
        answers = []

        def read():
            while (answer := reader.read()) is not None:
                answers.append(json.loads(answer.to_pybytes()))

        with writer:
            writer.write_batch(batch(0))
            reading = threading.Thread(target=read, daemon=True)
            reading.start()
            wait_until(lambda: len(answers) == 1, "the first batch is acknowledged")
            server.switches.set("held sync", 1)
            for number in range(1, 6):
                writer.write_batch(batch(number))
            wait_until(lambda: server.switches.count("held sync"), "a sync is held back")
            with server.client() as other:
                for _ in range(LOOKS):
                    assert numbers(other) == [0]
            assert len(answers) == 1
            server.switches.set("held sync", 0)
            wait_until(lambda: len(answers) == 6, "all are acknowledged")
            writer.done_writing()
            reading.join(20)
        assert [answer["rows"] for answer in answers] == [1] * 6
        assert numbers(client) == list(range(6))


def test_a_catalog_whose_volume_fails_is_unavailable_and_goes_on_when_it_works_again(new_server):
    """A commit whose sync failed may have taken effect or not: whoever repeats it finds out."""
    server = new_server({"ingest": {"flush_interval": "200ms"}, "upkeep": {"interval": "1h"}})
    server.switches = Switches(server.folder / "switches")
    server.environment = server.switches.environment()
    server.expect_log("volume of the catalog fails|flush failed|catalog")
    with running(server), server.client() as client:
        put(client, "d", "t", [batch(0)])
        wait_until(lambda: server.metric("ingest_buffer_rows") == 0, "the first row is in a file")
        server.switches.set("catalog sync error", 1)
        # Rows go to the log; only their flush has to wait.
        put(client, "d", "t", [batch(1)])
        wait_until(lambda: server.metric("flush_failures_total"), "a flush failed")
        with pytest.raises(flight.FlightUnavailableError, match="volume of the catalog fails"):
            put(client, "d", "other", [batch(2)])
        assert numbers(client) == [0, 1]
        # The way to another volume leads over a backup.
        # The server counts on its own page.
        switches = Switches(server.folder / "switches-of-the-backup")
        switches.set("catalog sync error", 1)
        backup = run_cli("catalog", "backup", "--data-dir", server.data, **switches.environment())
        assert backup.returncode == 0, backup.stderr
        assert switches.count("catalog sync error") > 0
        server.switches.set("catalog sync error", 0)
        wait_until(lambda: server.metric("ingest_buffer_rows") == 0, "the flush is repeated")
        put(client, "d", "other", [batch(2)])
        # The log of the database is what a next process has to make sense of.
        server.kill()
        server.start()
        with server.client() as again:
            assert numbers(again) == [0, 1]
            assert select(again, "d", "SELECT n FROM other")["n"].to_pylist() == [2]
