"""A cluster of real processes: a catalog, two ingesters, a querier."""

import contextlib
import json
import pathlib
import sys

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import select, wait_until

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from links import Network
from processes import cluster as processes_of_cluster

# Rows stay in the logs unless a test says otherwise.
SETTINGS = {"ingest": {"flush_interval": "1h"}, "server": {"drain_window": "100ms"}}
DATABASE = "d"
NUMBERS = pa.schema([("n", pa.int64())])


class Cluster:
    def __init__(self, processes):
        self.processes = processes
        self.first, self.second = processes.of("ingester")
        (self.querier,) = processes.of("querier")

    def numbers(self, table):
        with self.querier.connect() as client:
            answer = select(client, DATABASE, f"SELECT n FROM {table} ORDER BY n")
        return answer["n"].to_pylist()

    def restart(self, process):
        process.start()
        process.wait_until_ready()


@pytest.fixture
def cluster(tmp_path):
    """Nobody starts a process again but the test."""
    network = Network()
    processes = processes_of_cluster(tmp_path, SETTINGS, network, ingesters=2, queriers=1)
    try:
        for process in processes.all:
            process.start()
        for process in processes.all:
            process.wait_until_ready()
        yield Cluster(processes)
        processes.stop()
    finally:
        processes.abandon()
        network.close()


def numbers(*values):
    return pa.record_batch([pa.array(values, pa.int64())], schema=NUMBERS)


def begin(client, table):
    return client.do_put(flight.FlightDescriptor.for_path(DATABASE, table), NUMBERS)


def identity(sequence, producer="pump-7"):
    return json.dumps({"producer": producer, "sequence": sequence}).encode()


def send(process, table, sequence, *values):
    """Sends one batch of a producer; returns its acknowledgement."""
    with process.connect() as client:
        writer, reader = begin(client, table)
        with writer:
            writer.write_with_metadata(numbers(*values), identity(sequence))
            writer.done_writing()
            return json.loads(reader.read().to_pybytes())


def test_a_repeat_at_another_ingester_is_stored_once_whatever_became_of_the_first(cluster):
    """A batch is in the log of an ingester that dies before its answer is read."""
    send(cluster.first, "t", 1, 1)
    with cluster.first.connect() as client:
        writer, _ = begin(client, "t")
        writer.write_with_metadata(numbers(2), identity(2))
        wait_until(lambda: cluster.numbers("t") == [1, 2], "the batch is stored")
        cluster.first.kill()
        with contextlib.suppress(pa.ArrowException):
            writer.close()
    # Nobody else knows whether it was stored.
    for elsewhere in (cluster.second, cluster.querier):
        with pytest.raises(flight.FlightUnavailableError, match="ingester-0.*INGESTER_UNAVAILABLE"):
            send(elsewhere, "t", 2, 2)
    cluster.restart(cluster.first)

    def repeat():
        with contextlib.suppress(flight.FlightUnavailableError):
            return send(cluster.second, "t", 2, 2)

    answer = wait_until(repeat, "the former ingester answers")
    assert answer["duplicate"] is True
    assert cluster.numbers("t") == [1, 2]
    # There and back, and through a querier.
    assert "duplicate" not in send(cluster.second, "t", 3, 3)
    assert send(cluster.first, "t", 3, 3)["duplicate"] is True
    assert send(cluster.querier, "t", 3, 3)["duplicate"] is True
    assert "duplicate" not in send(cluster.querier, "t", 4, 4)
    for process in (cluster.first, cluster.second, cluster.querier):
        assert send(process, "t", 4, 4)["duplicate"] is True
    assert cluster.numbers("t") == [1, 2, 3, 4]


def test_queriers_pass_a_producer_on_to_the_same_ingester(cluster):
    """Otherwise it would move with every stream, and with every move somebody has to be asked."""
    for sequence in range(1, 7):
        assert "duplicate" not in send(cluster.querier, "sticky", sequence, sequence)
    moves = [
        line
        for process in (cluster.first, cluster.second)
        for line in process.log_path.read_text().splitlines()
        if "taking a producer over" in line
    ]
    assert not moves
    assert cluster.numbers("sticky") == [1, 2, 3, 4, 5, 6]


def test_a_producer_goes_on_elsewhere_when_its_ingester_is_drained(cluster):
    send(cluster.first, "t", 1, 1)
    cluster.first.stop()
    assert send(cluster.second, "t", 1, 1)["duplicate"] is True
    assert "duplicate" not in send(cluster.second, "t", 2, 2)
    assert cluster.numbers("t") == [1, 2]
