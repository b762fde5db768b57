"""An outage of the object store in a cluster: queries of rows that left memory for the log."""

import pathlib
import re
import sys
import urllib.request

import numpy
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from harness import Trailers, put, select, wait_until

sys.path.append(str(pathlib.Path(__file__).parents[2] / "e2e" / "chaos"))

from processes import started_cluster

SETTINGS = {
    "ingest": {"buffer_bytes": "8MiB", "flush_bytes": "2MiB", "flush_interval": "1s"},
    "server": {"drain_window": "100ms", "max_message_bytes": "2MiB"},
}
DATABASE = "d"
ROWS = 512
# So many batches of half a MiB are four times the buffer.
BATCHES = 64
SPILLED_BYTES = 20 << 20
# What each row has beside its number; it can't be compressed.
NOISE_BYTES = 1024


def batch(number):
    ids = numpy.arange(number * ROWS, (number + 1) * ROWS)
    chance = numpy.random.default_rng(number)
    noise = pa.array([chance.bytes(NOISE_BYTES) for _ in ids], pa.binary())
    words = pa.array([f"word {at % 7}" for at in ids]).dictionary_encode()
    return pa.record_batch({"id": ids, "word": words, "noise": noise})


class Outage:
    """A catalog with an embedded store, an ingester, a querier; only the test starts one again."""

    def __init__(self, processes):
        (self.catalog,) = processes.of("catalog")
        (self.ingester,) = processes.of("ingester")
        (self.querier,) = processes.of("querier")
        self.store = self.catalog.data / "objects"
        self.away = self.store.with_name("away")

    def begin(self):
        self.store.rename(self.away)
        self.store.touch()

    def end(self):
        self.store.unlink()
        self.away.rename(self.store)

    def metric(self, name):
        url = f"http://127.0.0.1:{self.ingester.ports['admin_port']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        return float(re.search(rf"^flightcluster_{name}(?:\{{.*\}})? (\S+)", text, re.MULTILINE)[1])

    def write(self, first, last):
        with self.ingester.connect() as client:
            for number in range(first, last):
                put(client, DATABASE, "t", [batch(number)])

    def rows(self, sql):
        with self.querier.connect() as client:
            return select(client, DATABASE, sql)

    def assert_whole(self, batches):
        expected = pa.Table.from_batches([batch(number) for number in range(batches)])
        found = self.rows("SELECT id, word FROM t ORDER BY id")
        assert found["id"].to_pylist() == expected["id"].to_pylist()
        assert found["word"].to_pylist() == expected["word"].to_pylist()
        [one] = self.rows(f"SELECT noise FROM t WHERE id = {ROWS + 1}")["noise"].to_pylist()
        assert one == expected["noise"][ROWS + 1].as_py()


@pytest.fixture
def outage(tmp_path):
    with started_cluster(tmp_path, SETTINGS, ingesters=1, queriers=1) as processes:
        yield Outage(processes)
        processes.stop()


def test_a_querier_has_the_rows_that_left_memory_also_after_a_crash(outage):
    """Over the internal port, from an ingester that read them from its log."""
    outage.begin()
    outage.write(0, BATCHES)
    wait_until(lambda: outage.metric("ingest_spilled_bytes") > SPILLED_BYTES, "rows left memory")
    outage.assert_whole(BATCHES)
    outage.ingester.kill()
    # It starts only with a store.
    outage.end()
    outage.ingester.start()
    outage.ingester.wait_until_ready()
    outage.assert_whole(BATCHES)
    wait_until(lambda: outage.metric("ingest_buffer_rows") == 0, "all rows are in files", 60)
    outage.assert_whole(BATCHES)


def test_damage_to_the_log_is_an_error_that_names_the_segment(outage):
    """Never a gap; and when the disk gives the bytes again after all, nothing was lost."""
    outage.begin()
    outage.write(0, BATCHES)
    wait_until(lambda: outage.metric("ingest_spilled_bytes") > SPILLED_BYTES, "rows left memory")
    needle = batch(1).column("noise")[7].as_py()
    segments = sorted(outage.ingester.data.rglob("*.wal"))
    [(segment, at)] = [
        (segment, at) for segment in segments if (at := segment.read_bytes().find(needle)) >= 0
    ]

    def flip():
        with segment.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))

    flip()
    trailers = Trailers()
    with flight.connect(
        f"grpc://127.0.0.1:{outage.querier.port()}", middleware=[trailers]
    ) as client:
        with pytest.raises(flight.FlightUnavailableError) as refused:
            select(client, DATABASE, "SELECT COUNT(noise) FROM t")
    assert trailers.last["x-fc-code"] == "INGESTER_UNAVAILABLE"
    message = str(refused.value)
    assert segment.name in message and "offset" in message, message
    flip()
    outage.assert_whole(BATCHES)
    outage.end()
    wait_until(lambda: outage.metric("ingest_buffer_rows") == 0, "all rows are in files", 60)
    outage.assert_whole(BATCHES)
